"""What a cluster may be told otherwise. Made by composition roots and tests, read by `broker` and its clients."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """What may differ between local, test and production clusters.

    `group_protocol` "consumer" is KIP-848 (Kafka 4.0+): the broker owns the session time-out, a rebalance
    names only what moves, and the twin of a live static member is refused. "classic" is for older brokers: a
    rebalance takes everything and gives it anew, a twin fences the member that was there, and
    `session_timeout_ms` counts.

    `transaction_timeout_ms` stays below the session
    time-out: a dead owner's open transaction hides its successor's output. `answer_timeout_ms`, the producer's own
    patience with a record or a call, stays well below that: who gave up last would find the coordinator had aborted for
    it, which looks like a twin and ends the process. `query_timeout_s` exceeds both, as
    `committed()` waits for transactions. A consumer or reader that heard nothing for `silence_max_s` asks whether it still
    has a way to the broker. `extra` goes to every client: security settings.
    """

    group_protocol: Literal["consumer", "classic"] = "consumer"
    transaction_timeout_ms: int = 10_000
    answer_timeout_ms: int = 6_000
    session_timeout_ms: int = 45_000
    max_poll_interval_ms: int = 300_000
    query_timeout_s: float = 15.0
    init_timeout_s: float = 60.0
    silence_max_s: float = 20.0
    extra: Mapping[str, str] = field(default_factory=dict)
