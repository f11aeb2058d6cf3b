"""The transaction coordinator of the in-memory broker: epochs, fencing, time-outs, atomic settlement.

Used by `cluster` and by the producer in `clients`. Offsets of a transaction go to `groups` when it commits.
"""

from dataclasses import dataclass, field

from crossdock_eventing.broker.failure import Fenced
from crossdock_eventing.broker.interface import Headers, TopicPartition
from crossdock_eventing.broker.memory.groups import Group
from crossdock_eventing.broker.memory.log import Fate, PartitionLog, Span


@dataclass(slots=True)
class Transaction:
    """One transaction as the coordinator knows it, from its first record or offset on."""

    started_ms: int
    spans: dict[TopicPartition, tuple[PartitionLog, Span]] = field(default_factory=dict)
    offsets: list[tuple[Group, dict[TopicPartition, int]]] = field(default_factory=list)

    def append(
        self,
        log: PartitionLog,
        partition: TopicPartition,
        *,
        timestamp_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
    ) -> int:
        if partition not in self.spans:
            self.spans[partition] = (log, log.open_span())
        _, span = self.spans[partition]
        return log.append(span, timestamp_ms=timestamp_ms, key=key, value=value, headers=headers)


@dataclass(slots=True)
class _Identity:
    """One transactional id: the epoch of its current holder, and what that holder has open."""

    epoch: int = -1
    timeout_ms: int = 0
    open: Transaction | None = None
    unmarked: Transaction | None = None  # committed, its markers not yet written


class TransactionCoordinator:
    """Owns every transactional id of the cluster."""

    def __init__(self) -> None:
        self._identities: dict[str, _Identity] = {}
        self.hold_markers = False

    def claim(self, transactional_id: str, timeout_ms: int, now_ms: int) -> int:
        """A new epoch for the id, which fences older holders; their open transaction is aborted."""
        identity = self._identities.setdefault(transactional_id, _Identity())
        identity.timeout_ms = timeout_ms
        self._retire(identity, now_ms)
        return identity.epoch

    def current(self, transactional_id: str, epoch: int, now_ms: int) -> Transaction:
        """The holder's open transaction, begun if there is none. Raises Fenced."""
        identity = self._held(transactional_id, epoch)
        # A coordinator starts no transaction before the markers of the last one are out.
        self._write_markers(identity, now_ms)
        if identity.open is None:
            identity.open = Transaction(now_ms)
        return identity.open

    def end(self, transactional_id: str, epoch: int, fate: Fate, now_ms: int) -> None:
        """Settle the holder's open transaction, if the broker ever heard of one. Raises Fenced."""
        identity = self._held(transactional_id, epoch)
        transaction, identity.open = identity.open, None
        if transaction is None:
            return
        if fate is Fate.ABORTED:
            _settle(transaction, fate, now_ms)
            return
        for group, offsets in transaction.offsets:
            group.offsets.update(offsets)
        identity.unmarked = transaction
        if not self.hold_markers:
            self._write_markers(identity, now_ms)

    def write_markers(self, now_ms: int) -> None:
        """Write the markers held back, which makes those commits visible to readers."""
        for identity in self._identities.values():
            self._write_markers(identity, now_ms)

    def expire(self, now_ms: int) -> None:
        """Abort what has been open beyond its time-out; its producer finds itself fenced."""
        for identity in self._identities.values():
            if identity.open is not None and now_ms - identity.open.started_ms >= identity.timeout_ms:
                self._retire(identity, now_ms)

    def unsettled(self, group: Group, partitions: frozenset[TopicPartition]) -> bool:
        """Whether an open transaction is about to commit offsets for any of these partitions."""
        return any(
            pending is group and not partitions.isdisjoint(offsets)
            for identity in self._identities.values()
            if identity.open is not None
            for pending, offsets in identity.open.offsets
        )

    def holds(self, transactional_id: str, epoch: int) -> bool:
        """Whether this epoch is still the id's current one."""
        return self._identities[transactional_id].epoch == epoch

    def _held(self, transactional_id: str, epoch: int) -> _Identity:
        identity = self._identities[transactional_id]
        if identity.epoch != epoch:
            raise Fenced("_FENCED", f"{transactional_id} epoch {epoch}, current {identity.epoch}")
        return identity

    def _retire(self, identity: _Identity, now_ms: int) -> None:
        identity.epoch += 1
        self._write_markers(identity, now_ms)
        if identity.open is not None:
            _settle(identity.open, Fate.ABORTED, now_ms)
            identity.open = None

    def _write_markers(self, identity: _Identity, now_ms: int) -> None:
        if identity.unmarked is not None:
            _settle(identity.unmarked, Fate.COMMITTED, now_ms)
            identity.unmarked = None


def _settle(transaction: Transaction, fate: Fate, now_ms: int) -> None:
    for log, span in transaction.spans.values():
        log.settle(span, fate, timestamp_ms=now_ms)
