"""How much trouble a service bears before it acts: read by the worker and its parts, set by composition roots and tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of retrying, parking and of the breaker.

    retry_attempts_max, retry_s_max: a message that asks for time is rejected after so many tries or so long, whichever is first.
    retry_wait_s_max: the longest wait between two tries.
    parked_messages_max, parked_bytes_max: of one key; at either its task takes no input until an operator acts.
    released_max: parked messages that one transaction decides.
    breaker_messages, breaker_share: when this share of the last so many decided messages was rejected, the service stops.
        0 messages: never.
    """

    retry_attempts_max: int = 20
    retry_s_max: float = 900.0
    retry_wait_s_max: float = 60.0
    parked_messages_max: int = 1_000
    parked_bytes_max: int = 8 * 1024 * 1024
    released_max: int = 500
    breaker_messages: int = 400
    breaker_share: float = 0.95
