"""The one place that reads a clock. The loop, the edges and the operator tools get a Clock; tests give one they control."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Time as a dependency."""

    def now(self) -> datetime:
        """Current time, UTC, aware."""

    def monotonic_s(self) -> float:
        """Seconds of a clock that never goes back; only differences mean anything."""


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)  # noqa: TID251 - the one place

    def monotonic_s(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that moves only when told to: tests and the simulator."""

    def __init__(self, start: datetime) -> None:
        self._now = start
        self._now_ms: int | None = None
        self._elapsed_s = 0.0

    def now(self) -> datetime:
        return self._now

    def now_ms(self) -> int:
        """`now` in milliseconds since the epoch: the in-memory broker asks at every call."""
        if self._now_ms is None:
            self._now_ms = to_micros(self._now) // 1000
        return self._now_ms

    def monotonic_s(self) -> float:
        return self._elapsed_s

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        assert seconds >= 0
        self._now += timedelta(seconds=seconds)
        self._now_ms = None
        self._elapsed_s += seconds


def to_micros(moment: datetime) -> int:
    """Microseconds since the epoch of an aware time, exactly."""
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
