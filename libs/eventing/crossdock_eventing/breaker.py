"""The breaker: when nearly every message is rejected, the fault is not the messages'. Used by the worker."""

from __future__ import annotations

from collections import deque

import structlog

from crossdock_eventing.limits import Limits

log = structlog.get_logger(__name__)


class BreakerOpen(Exception):
    """Nearly everything is rejected; nothing of the running transaction may be committed."""


class Breaker:
    """Watches the share of rejections among the last decided messages. A parked key is decided once, so each counts once."""

    def __init__(self, limits: Limits) -> None:
        self._share = limits.breaker_share
        self._verdicts: deque[bool] = deque(maxlen=limits.breaker_messages)
        self._rejected = 0
        self.open = False

    def saw(self, *, rejected: bool) -> None:
        """A message was decided. Raises BreakerOpen when it opens."""
        size = self._verdicts.maxlen
        if not size:
            return
        if len(self._verdicts) == size:
            self._rejected -= self._verdicts[0]
        self._verdicts.append(rejected)
        self._rejected += rejected
        if rejected and len(self._verdicts) == size and self._rejected >= self._share * size:
            self.open = True
            log.error(
                "breaker.open",
                detail=f"{self._rejected} of the last {size} messages were rejected",
                next_step="nothing more is processed: mend or roll back what rejects them, then restart this service",
            )
            raise BreakerOpen

    def forget(self) -> None:
        """What was seen last did not commit, and will be seen again."""
        self._verdicts.clear()
        self._rejected = 0
