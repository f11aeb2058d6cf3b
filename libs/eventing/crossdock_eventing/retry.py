"""Back-off for a message that asks for time: exponential, with jitter, bounded by attempts and by time. Used by `holding`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from zlib import crc32

from crossdock_eventing.broker.interface import Record
from crossdock_eventing.limits import Limits

_JITTER: Final = 0.25


@dataclass(slots=True)
class Retry:
    """The message that a task waits for: where it lies, how often it was tried, and since when (monotonic seconds)."""

    topic: str
    offset: int
    since_s: float
    attempts: int = 0


def next_wait_s(
    retry: Retry | None, record: Record, after_s: float, *, now_s: float, limits: Limits
) -> tuple[Retry, float | None]:
    """The message asked to be tried again `after_s` later: how long to wait now; None when it was tried enough.

    The wait doubles with each try and is up to a quarter longer, by the message's place: those that failed together do not
    come back together. Counts anew after a restart.
    """
    if retry is None or (retry.topic, retry.offset) != (record.topic, record.offset):
        retry = Retry(record.topic, record.offset, now_s)
    retry.attempts += 1
    if retry.attempts >= limits.retry_attempts_max or now_s - retry.since_s >= limits.retry_s_max:
        return retry, None
    wait_s = min(limits.retry_wait_s_max, after_s * 2 ** (retry.attempts - 1))
    place = f"{record.topic}/{record.partition}/{record.offset}/{retry.attempts}"
    return retry, wait_s * (1 + _JITTER * crc32(place.encode()) / 2**32)
