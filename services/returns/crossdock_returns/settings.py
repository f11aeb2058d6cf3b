"""What a deployment may set: environment variables `CROSSDOCK_RETURNS_…`. Read by `__main__` only."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from crossdock_returns.model import Policy

_DAY_S = 24 * 3600


class Settings(BaseSettings):
    """Deadlines in seconds; the defaults are those of production."""

    model_config = SettingsConfigDict(env_prefix="CROSSDOCK_RETURNS_", frozen=True)

    return_window_s: float = Field(default=30 * _DAY_S, gt=0)
    rma_validity_s: float = Field(default=30 * _DAY_S, gt=0)
    inspection_deadline_s: float = Field(default=14 * _DAY_S, gt=0)
    unknown_order_deadline_s: float = Field(default=3 * _DAY_S, gt=0)
    retention_s: float = Field(default=180 * _DAY_S, gt=0)

    def policy(self) -> Policy:
        """The policy of the core."""
        return Policy(
            window=timedelta(seconds=self.return_window_s),
            validity=timedelta(seconds=self.rma_validity_s),
            inspection=timedelta(seconds=self.inspection_deadline_s),
            unknown_order=timedelta(seconds=self.unknown_order_deadline_s),
            retention=timedelta(seconds=self.retention_s),
        )
