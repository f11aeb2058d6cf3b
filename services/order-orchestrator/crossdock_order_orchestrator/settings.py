"""What a deployment may set: environment variables `CROSSDOCK_ORDER_ORCHESTRATOR_…`. Read by `__main__` and the tests only."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from crossdock_canonical.records import FraudVerdict
from crossdock_order_orchestrator.model import Policy

_MINUTE_S = 60
_HOUR_S = 60 * _MINUTE_S
_DAY_S = 24 * _HOUR_S


class Settings(BaseSettings):
    """Deadlines in seconds, amounts in minor units; the defaults are those of production."""

    model_config = SettingsConfigDict(env_prefix="CROSSDOCK_ORDER_ORCHESTRATOR_", frozen=True)

    unpaid_deadline_s: float = Field(default=2 * _DAY_S, gt=0)
    pending_deadline_s: float = Field(default=7 * _DAY_S, gt=0)
    fraud_deadline_s: float = Field(default=1 * _DAY_S, gt=0)
    fraud_verdict_at_deadline: FraudVerdict = FraudVerdict.REJECT
    fraud_threshold_minor: dict[str, int] = Field(default={"JPY": 300_000, "KRW": 2_500_000})
    fraud_threshold_major: int = Field(default=2000, ge=0)
    backorder_channels: frozenset[str] = frozenset()
    backorder_deadline_s: float = Field(default=14 * _DAY_S, gt=0)
    early_deadline_s: float = Field(default=3 * _DAY_S, gt=0)
    authorization_lifetime_s: float = Field(default=30 * _DAY_S, gt=0)
    payment_retry_after_s: float = Field(default=6 * _HOUR_S, gt=0)
    payment_attempts_max: int = Field(default=3, ge=1)
    payment_answer_within_s: float = Field(default=6 * _HOUR_S, gt=0)
    exception_deadline_s: float = Field(default=7 * _DAY_S, gt=0)
    channel_refund_grace_s: float = Field(default=15 * _MINUTE_S, ge=0)
    overdue_after_s: float = Field(default=2 * _DAY_S, gt=0)
    reroutes_max: int = Field(default=1, ge=0)
    retention_s: float = Field(default=180 * _DAY_S, gt=0)

    def policy(self) -> Policy:
        """The policy of the core."""
        return Policy(
            unpaid_deadline=timedelta(seconds=self.unpaid_deadline_s),
            pending_deadline=timedelta(seconds=self.pending_deadline_s),
            fraud_deadline=timedelta(seconds=self.fraud_deadline_s),
            fraud_verdict_at_deadline=self.fraud_verdict_at_deadline,
            fraud_threshold_minor=self.fraud_threshold_minor,
            fraud_threshold_major=self.fraud_threshold_major,
            backorder_channels=self.backorder_channels,
            backorder_deadline=timedelta(seconds=self.backorder_deadline_s),
            early_deadline=timedelta(seconds=self.early_deadline_s),
            authorization_lifetime=timedelta(seconds=self.authorization_lifetime_s),
            payment_retry_after=timedelta(seconds=self.payment_retry_after_s),
            payment_attempts_max=self.payment_attempts_max,
            payment_answer_within=timedelta(seconds=self.payment_answer_within_s),
            exception_deadline=timedelta(seconds=self.exception_deadline_s),
            channel_refund_grace=timedelta(seconds=self.channel_refund_grace_s),
            overdue_after=timedelta(seconds=self.overdue_after_s),
            reroutes_max=self.reroutes_max,
            retention=timedelta(seconds=self.retention_s),
        )
