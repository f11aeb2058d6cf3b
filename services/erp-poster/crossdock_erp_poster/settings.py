"""Settings of the service, from the environment: `CROSSDOCK_ERP_POSTER_<NAME>`. Read by `service.py` only."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from crossdock_erp_poster.model import Policy


class Settings(BaseSettings):
    """Production defaults; durations in seconds.

    erps: name → base address of every ERP, as JSON. A path of the address is kept.
    default_erp, erp_by_channel: see `Policy`; every name must be one of `erps`.
    requests_per_s, requests_in_flight: what one ERP allows one instance.
    batch_max: documents of one request; 1 posts each on its own, for an ERP without a batch form.
    answer_timeout_s: how long one answer may take.
    settle_s: how long after its leaving the ERP may still book a posting, whatever became of the answer. Not
        less than the time-out. An ERP (with what stands before it) that takes longer may book twice.
    post_within_s: how long after a commit of this instance a posting may leave. Less than the consumer's
        session time-out by a heartbeat, so that an instance which lost its chains unawares has stopped.
    """

    model_config = SettingsConfigDict(env_prefix="CROSSDOCK_ERP_POSTER_")

    erps: dict[str, str] = Field(default={"cloud": "http://127.0.0.1:9103"}, min_length=1)
    default_erp: str = "cloud"
    erp_by_channel: dict[str, str] = {}

    requests_per_s: float = Field(default=200, gt=0)
    requests_in_flight: int = Field(default=8, ge=1)
    batch_max: int = Field(default=1, ge=1)
    answer_timeout_s: float = Field(default=10, gt=0)

    back_off_first_s: float = Field(default=1, gt=0)
    back_off_max_s: float = Field(default=60, gt=0)
    settle_s: float = Field(default=20, gt=0)
    post_within_s: float = Field(default=20, gt=0)
    predecessor_deadline_s: float = Field(default=86_400, gt=0)
    on_account_after_s: float = Field(default=7 * 86_400, gt=0)
    retention_s: float = Field(default=120 * 86_400, gt=0)
    adjustments_remembered: int = Field(default=32, ge=1)

    def policy(self) -> Policy:
        """The core's share of the settings.

        Raises ValueError when a rule names an ERP without an address, or when times contradict one another.
        """
        if self.settle_s < self.answer_timeout_s:
            raise ValueError(
                f"settle_s ({self.settle_s}) is less than answer_timeout_s ({self.answer_timeout_s})"
            )
        turn_s = self.answer_timeout_s + 2 / self.requests_per_s
        if self.post_within_s < turn_s:
            raise ValueError(
                f"post_within_s ({self.post_within_s}) leaves no time for a look-up and a posting ({turn_s})"
            )
        unknown = {self.default_erp, *self.erp_by_channel.values()} - set(self.erps)
        if unknown:
            raise ValueError(f"no address in CROSSDOCK_ERP_POSTER_ERPS for {', '.join(sorted(unknown))}")
        return Policy(
            default_erp=self.default_erp,
            erp_by_channel=self.erp_by_channel,
            back_off_first=timedelta(seconds=self.back_off_first_s),
            back_off_max=timedelta(seconds=self.back_off_max_s),
            settle=timedelta(seconds=self.settle_s),
            predecessor_deadline=timedelta(seconds=self.predecessor_deadline_s),
            on_account_after=timedelta(seconds=self.on_account_after_s),
            retention=timedelta(seconds=self.retention_s),
            adjustments_remembered=self.adjustments_remembered,
        )
