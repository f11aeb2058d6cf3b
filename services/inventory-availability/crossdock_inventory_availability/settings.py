"""Settings of the service, from the environment: `CROSSDOCK_INVENTORY_AVAILABILITY_<NAME>`. Read by `service.py` only."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field, NonNegativeInt
from pydantic_settings import BaseSettings, SettingsConfigDict

from crossdock_inventory_availability.model import Policy


class Settings(BaseSettings):
    """Production defaults; durations in seconds.

    channel_buffers: channel → units held back from what it is told, as JSON.
    """

    model_config = SettingsConfigDict(env_prefix="CROSSDOCK_INVENTORY_AVAILABILITY_")

    default_feed: str = "wms"
    channel_buffers: dict[str, NonNegativeInt] = Field(default={"shopify": 0, "amazon": 0, "pos": 0})
    oversell_owner: str = "inventory-control"
    oversell_deadline_s: float = Field(default=4 * 3600, gt=0)
    early_release_kept_s: float = Field(default=86_400, gt=0)

    def policy(self) -> Policy:
        """The core's share of the settings."""
        return Policy(
            default_feed=self.default_feed,
            channel_buffers=self.channel_buffers,
            oversell_owner=self.oversell_owner,
            oversell_deadline=timedelta(seconds=self.oversell_deadline_s),
            early_release_kept=timedelta(seconds=self.early_release_kept_s),
        )
