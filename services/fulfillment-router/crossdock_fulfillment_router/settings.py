"""Configuration of the fulfilment router from the environment, read once by `__main__`."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from crossdock_fulfillment_router.model import Policy


class Settings(BaseSettings):
    """Every value is `CROSSDOCK_FULFILLMENT_ROUTER_<NAME>`.

    Durations are in seconds. `Policy` says what each means.
    """

    model_config = SettingsConfigDict(env_prefix="CROSSDOCK_FULFILLMENT_ROUTER_")

    sourcing_deadline_s: float = Field(default=3 * 86_400, ge=0)
    retry_first_s: float = Field(default=5, gt=0)
    retry_max_s: float = Field(default=600, gt=0)
    immediate_attempts: int = Field(default=3, ge=0)
    parcels_max: int = Field(default=3, ge=1)
    cancel_deadline_s: float = Field(default=4 * 3_600, gt=0)
    release_deadline_s: float = Field(default=900, gt=0)
    pickup_window_s: float = Field(default=7 * 86_400, gt=0)
    recall_interval_s: float = Field(default=86_400, gt=0)
    retention_s: float = Field(default=120 * 86_400, gt=0)

    def policy(self) -> Policy:
        """The same as the core reads it."""
        return Policy(
            sourcing_deadline=timedelta(seconds=self.sourcing_deadline_s),
            retry_first=timedelta(seconds=self.retry_first_s),
            retry_max=timedelta(seconds=self.retry_max_s),
            immediate_attempts=self.immediate_attempts,
            parcels_max=self.parcels_max,
            cancel_deadline=timedelta(seconds=self.cancel_deadline_s),
            release_deadline=timedelta(seconds=self.release_deadline_s),
            pickup_window=timedelta(seconds=self.pickup_window_s),
            recall_interval=timedelta(seconds=self.recall_interval_s),
            retention=timedelta(seconds=self.retention_s),
        )
