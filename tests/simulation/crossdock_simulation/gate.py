"""The gate that every call of a simulated process to broker or disk passes, and the broker's clients behind it.

A trap set at a gate acts when a chosen call comes by for the n-th time: it can end the process there, hold it while the rest
of the world goes on, or do something to the world at just that moment. That one mechanism places every fault inside a step:
between two records, before the offsets are sent, between commit and flush, in the middle of a restore.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from crossdock_eventing.broker.failure import TransactionOutcomeUnknown
from crossdock_eventing.broker.interface import (
    Admin,
    Consumer,
    GroupMetadata,
    Headers,
    OnDelivery,
    OnPartitions,
    Producer,
    Reader,
    Record,
    TopicPartition,
    Watermarks,
)
from crossdock_eventing.broker.memory import MemoryBroker
from crossdock_eventing.broker.memory.clients import MemoryConsumer

Call = Literal[
    "init", "poll", "committed", "begin", "produce", "send_offsets", "commit", "abort", "read", "write"
]
Moment = Literal["before", "after"]


class Died(BaseException):
    """The process ended here, as by `kill -9`: not an Exception, so that nothing on the way up handles it."""


class Gate:
    """One process's passage to the outside.

    watch: called with each call before and after it is made. wait: called with the seconds that a call blocks, in which the
    rest of the world goes on.
    """

    def __init__(self, watch: Callable[[Call, Moment], None], wait: Callable[[float], None]) -> None:
        self._watch = watch
        self.wait = wait
        self.stirred = False  # something was begun anew: there may be work although nothing was settled
        self.doom: Died | None = (
            None  # raised instead of a commit's time-out: the process ends while it waits for the answer
        )

    def before(self, call: Call) -> None:
        self.stirred = self.stirred or call in ("init", "committed", "abort")
        self._watch(call, "before")

    def after(self, call: Call) -> None:
        self._watch(call, "after")


class GatedBroker:
    """`interface.Broker` of one process. `consumers` are those it has opened."""

    def __init__(self, broker: MemoryBroker, gate: Gate) -> None:
        self._broker = broker
        self._gate = gate
        self.consumers: list[MemoryConsumer] = []

    def consumer(self, group: str, *, instance_id: str | None) -> Consumer:
        made = self._broker.consumer(group, instance_id=instance_id)
        self.consumers.append(made)
        return _GatedConsumer(made, self._gate)

    def reader(self) -> Reader:
        return _GatedReader(self._broker.reader(), self._gate)

    def producer(self, transactional_id: str) -> Producer:
        return _GatedProducer(self._broker.producer(transactional_id), self._gate)

    def admin(self) -> Admin:
        return self._broker.admin()


class _GatedConsumer:
    def __init__(self, inner: Consumer, gate: Gate) -> None:
        self._inner = inner
        self._gate = gate
        # What is asked often and cannot fail in an interesting way goes straight through.
        self.position = inner.position
        self.assignment = inner.assignment
        self.group_metadata = inner.group_metadata
        self.pause, self.resume, self.seek = inner.pause, inner.resume, inner.seek
        self.watermarks = inner.watermarks
        self.close = inner.close

    def subscribe(
        self,
        topics: Sequence[str],
        *,
        on_assign: OnPartitions,
        on_revoke: OnPartitions,
        on_lost: OnPartitions,
    ) -> None:
        self._inner.subscribe(topics, on_assign=on_assign, on_revoke=on_revoke, on_lost=on_lost)

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        found = self._inner.poll(max_records, timeout_s)
        if found:
            self._gate.after("poll")
        return found

    def committed(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int | None]:
        self._gate.before("committed")
        return self._inner.committed(partitions)


class _GatedReader:
    def __init__(self, inner: Reader, gate: Gate) -> None:
        self._inner = inner
        self._gate = gate
        self.assign = inner.assign
        self.position = inner.position
        self.close = inner.close

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        found = self._inner.poll(max_records, timeout_s)
        if found:
            self._gate.after("read")
        elif timeout_s:
            self._gate.wait(timeout_s)
        return found

    def watermarks(self, partition: TopicPartition) -> Watermarks:
        return self._inner.watermarks(partition)


class _GatedProducer:
    def __init__(self, inner: Producer, gate: Gate) -> None:
        self._inner = inner
        self._gate = gate
        self.poll = inner.poll
        self.close = inner.close

    def init_transactions(self) -> None:
        self._gate.before("init")
        self._inner.init_transactions()
        self._gate.after("init")

    def begin(self) -> None:
        self._inner.begin()
        self._gate.after("begin")

    def produce(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        partition: int | None = None,
        headers: Headers = (),
        timestamp_ms: int | None = None,
        on_delivery: OnDelivery | None = None,
    ) -> None:
        self._inner.produce(
            topic,
            key=key,
            value=value,
            partition=partition,
            headers=headers,
            timestamp_ms=timestamp_ms,
            on_delivery=on_delivery,
        )
        self._gate.after("produce")

    def send_offsets(self, offsets: Mapping[TopicPartition, int], group: GroupMetadata) -> None:
        self._gate.before("send_offsets")
        self._inner.send_offsets(offsets, group)
        self._gate.after("send_offsets")

    def commit(self) -> None:
        self._gate.before("commit")
        try:
            self._inner.commit()
        except TransactionOutcomeUnknown:
            if self._gate.doom is None:
                raise
            raise self._gate.doom from None
        self._gate.after("commit")

    def abort(self) -> None:
        self._gate.before("abort")
        self._inner.abort()
