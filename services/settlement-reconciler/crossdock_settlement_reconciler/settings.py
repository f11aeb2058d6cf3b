"""What a deployment may set: environment variables `CROSSDOCK_SETTLEMENT_RECONCILER_…`. Read by `__main__` only."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from crossdock_settlement_reconciler.model import Policy

_DAY_S = 24 * 3600


class Settings(BaseSettings):
    """Deadlines in seconds; the defaults are those of production."""

    model_config = SettingsConfigDict(env_prefix="CROSSDOCK_SETTLEMENT_RECONCILER_", frozen=True)

    unknown_order_deadline_s: float = Field(default=2 * _DAY_S, gt=0)
    incomplete_deadline_s: float = Field(default=4 * _DAY_S, gt=0)
    retention_s: float = Field(default=200 * _DAY_S, gt=0)

    def policy(self) -> Policy:
        """The policy of the core."""
        return Policy(
            unknown_order=timedelta(seconds=self.unknown_order_deadline_s),
            incomplete=timedelta(seconds=self.incomplete_deadline_s),
            retention=timedelta(seconds=self.retention_s),
        )
