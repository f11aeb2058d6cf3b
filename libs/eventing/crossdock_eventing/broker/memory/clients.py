"""The clients of the in-memory broker: consumer, reader, producer (`interface` says what each call means).

Built by `broker.MemoryBroker`; all state they share is the `Cluster`.
"""

from collections.abc import Mapping, Sequence

from crossdock_eventing.broker.failure import (
    AbortRequired,
    BrokerError,
    BrokerRefused,
    BrokerUnavailable,
    OffsetMissing,
    TransactionOutcomeUnknown,
)
from crossdock_eventing.broker.interface import (
    GroupMetadata,
    Headers,
    OnDelivery,
    OnPartitions,
    Record,
    TopicPartition,
    Watermarks,
)
from crossdock_eventing.broker.memory.cluster import Cluster
from crossdock_eventing.broker.memory.groups import Member, Membership
from crossdock_eventing.broker.memory.log import Fate
from crossdock_eventing.broker.partitioner import partition_for


def _fetch(
    cluster: Cluster,
    positions: dict[TopicPartition, int],
    readable: Sequence[TopicPartition],
    max_records: int,
) -> list[Record]:
    """Records of `readable` in that order, moving their positions. Raises OffsetMissing."""
    records: list[Record] = []
    for partition in readable:
        log = cluster.log(partition)
        start = positions[partition]
        if start == log.last_stable_offset == log.high:
            continue  # at the end, as most are most of the time
        if not log.watermarks.low <= start <= log.watermarks.high:
            raise OffsetMissing("OFFSET_OUT_OF_RANGE", f"{partition} at {start}, log is {log.watermarks}")
        found, positions[partition] = log.read(start, max_records - len(records))
        records += found
    return records


class MemoryReader:
    """`interface.Reader` in memory."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._positions: dict[TopicPartition, int] = {}

    def assign(self, starts: Mapping[TopicPartition, int]) -> None:
        self._positions = dict(starts)

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:  # noqa: ARG002 - no time passes here
        if self._cluster.is_away:
            return []
        self._cluster.tick()
        return _fetch(self._cluster, self._positions, list(self._positions), max_records)

    def position(self, partition: TopicPartition) -> int:
        return self._positions[partition]

    def watermarks(self, partition: TopicPartition) -> Watermarks:
        self._cluster.ask()
        return self._cluster.log(partition).watermarks

    def close(self) -> None:
        self._positions.clear()


class MemoryConsumer:
    """`interface.Consumer` in memory."""

    def __init__(self, cluster: Cluster, group: str, instance_id: str | None) -> None:
        self._cluster = cluster
        self._group = cluster.group(group)
        self._instance_id = instance_id
        self._topics: frozenset[str] = frozenset()
        self._member: Member | None = None
        self._owned: set[TopicPartition] = set()
        self._paused: set[TopicPartition] = set()
        self._positions: dict[TopicPartition, int] = {}
        self._turn = 0

    def subscribe(
        self,
        topics: Sequence[str],
        *,
        on_assign: OnPartitions,
        on_revoke: OnPartitions,
        on_lost: OnPartitions,
    ) -> None:
        self._topics = frozenset(topics)
        self._on_assign, self._on_revoke, self._on_lost = on_assign, on_revoke, on_lost

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:  # noqa: ARG002 - no time passes here
        if self._cluster.is_away:
            return []
        self._follow_group(self._cluster.tick())
        readable = sorted(self._owned - self._paused)
        if not readable:
            return []
        # Another partition comes first at each poll, so that a busy one cannot starve the rest.
        self._turn = (self._turn + 1) % len(readable)
        ordered = readable[self._turn :] + readable[: self._turn]
        return _fetch(self._cluster, self._positions, ordered, max_records)

    def _follow_group(self, now_ms: int) -> None:
        """Run this member's part of the group protocol, and the callbacks it calls for."""
        for topic in self._topics:
            self._cluster.topic(topic)
        if self._member is not None and self._member.member_id not in self._group.members:
            self._member = None
            lost = self._drop(set(self._owned))
            if lost:
                self._on_lost(lost)
        if self._member is None:
            self._member = self._group.join(self._instance_id, self._topics, self._cluster.counts(), now_ms)
        member = self._member
        member.last_poll_ms = now_ms
        member.silent_since_ms = None
        unwanted = self._owned - member.target
        if unwanted:
            self._on_revoke(sorted(unwanted))
            self._drop(unwanted)
            member.owned -= unwanted
        self._group.advance(member)
        gained = self._group.available(member)
        if gained:
            member.owned |= gained
            self._owned |= gained
            self._paused |= gained
            self._on_assign(sorted(gained))

    def _drop(self, partitions: set[TopicPartition]) -> list[TopicPartition]:
        self._owned -= partitions
        self._paused -= partitions
        for partition in partitions:
            self._positions.pop(partition, None)
        return sorted(partitions)

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        self._check_owned(partitions)
        self._paused.update(partitions)

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        self._check_owned(partitions)
        nowhere = set(partitions) - self._positions.keys()
        if nowhere:
            raise OffsetMissing("_NO_OFFSET", f"resumed without a start: {sorted(nowhere)}")
        self._paused.difference_update(partitions)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._check_owned([partition])
        self._positions[partition] = offset

    def _check_owned(self, partitions: Sequence[TopicPartition]) -> None:
        if not self._owned.issuperset(partitions):
            raise BrokerRefused("_STATE", f"not assigned: {sorted(set(partitions) - self._owned)}")

    def committed(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int | None]:
        self._cluster.ask()
        if self._cluster.transactions.unsettled(self._group, frozenset(partitions)):
            raise BrokerUnavailable("UNSTABLE_OFFSET_COMMIT", "a transaction over these partitions is open")
        return {partition: self._group.offsets.get(partition) for partition in partitions}

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset(self._owned)

    def position(self, partition: TopicPartition) -> int | None:
        return self._positions.get(partition)

    def group_metadata(self) -> GroupMetadata:
        member = self._member
        return Membership(
            self._group.name, member.member_id if member else "", member.epoch if member else -1
        )

    def watermarks(self, partition: TopicPartition) -> Watermarks:
        self._cluster.ask()
        return self._cluster.log(partition).watermarks

    def close(self) -> None:
        now_ms = self._cluster.tick()
        if self._owned:
            self._on_revoke(sorted(self._owned))
            self._drop(set(self._owned))
        if self._member is not None and self._member.member_id in self._group.members:
            if self._cluster.is_away:
                self._member.silent_since_ms = now_ms  # nobody hears of it: as if its process had died
            else:
                self._group.leave(self._member, self._cluster.counts(), now_ms)
        self._member = None

    @property
    def at_rest(self) -> bool:
        """It is a member that holds all it shall hold, and nothing else."""
        member = self._member
        return member is not None and member.member_id in self._group.members and self._owned == member.target

    def vanish(self) -> None:
        """The process of this consumer died or stands still: its session runs from now."""
        if self._member is not None and self._member.member_id in self._group.members:
            self._member.silent_since_ms = self._cluster.now_ms()

    def expel(self) -> None:
        """The coordinator drops this member, which does not know it until its next poll."""
        if self._member is not None:
            self._group.remove(self._member, self._cluster.counts())


class MemoryProducer:
    """`interface.Producer` in memory. Records enter the log at once, undecided; reports wait for the next
    call.
    """

    def __init__(self, cluster: Cluster, transactional_id: str) -> None:
        self._cluster = cluster
        self._id = transactional_id
        self._epoch = -1
        self._is_open = False
        self._failure: BrokerError | None = (
            None  # why the open transaction cannot commit, or this producer go on
        )
        self._reports: list[tuple[OnDelivery, TopicPartition, int]] = []

    def init_transactions(self) -> None:
        now_ms = self._cluster.ask()
        timeout_ms = self._cluster.timeouts.transaction_timeout_ms
        self._epoch = self._cluster.transactions.claim(self._id, timeout_ms, now_ms)

    def begin(self) -> None:
        self._check(is_open=False)
        self._is_open = True

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
        self._check(is_open=True)
        if partition is None:
            partition = partition_for(key or b"", len(self._cluster.topic(topic).logs))
        target = TopicPartition(topic, partition)
        log = self._cluster.log(target)
        if self._cluster.is_away or self._id in self._cluster.lost_deliveries:
            self._cluster.lost_deliveries.discard(self._id)
            self._failure = AbortRequired("_MSG_TIMED_OUT", f"{topic}[{partition}]")
            return
        now_ms = self._cluster.tick()
        transaction = self._cluster.transactions.current(self._id, self._epoch, now_ms)
        offset = transaction.append(
            log,
            target,
            timestamp_ms=now_ms if timestamp_ms is None else timestamp_ms,
            key=key,
            value=value,
            headers=headers,
        )
        if on_delivery is not None:
            self._reports.append((on_delivery, target, offset))

    def send_offsets(self, offsets: Mapping[TopicPartition, int], group: GroupMetadata) -> None:
        self._check(is_open=True)
        if not offsets:
            return  # as the native client does: it asks nobody, and so is refused by nobody
        self._check_reachable()
        self.poll()
        transaction = self._cluster.transactions.current(self._id, self._epoch, self._cluster.tick())
        membership: Membership = group
        target = self._cluster.group(membership.group)
        try:
            target.validate(membership)
        except AbortRequired as failure:
            self._failure = failure
            raise
        transaction.offsets.append((target, dict(offsets)))

    def commit(self) -> None:
        self._check(is_open=True)
        self._check_reachable()
        self.poll()
        now_ms = self._cluster.tick()
        landed = self._cluster.slow_commits.pop(self._id, None)
        if landed is False:
            self._cluster.in_flight.append((self._id, self._epoch))
        else:
            self._cluster.transactions.end(self._id, self._epoch, Fate.COMMITTED, now_ms)
        if landed is not None:
            self._stuck("commit timed out")
        self._is_open = False

    def abort(self) -> None:
        if isinstance(self._failure, AbortRequired):
            self._failure = None
        self._check(is_open=True)
        self._check_reachable()
        self._reports.clear()
        self._cluster.transactions.end(self._id, self._epoch, Fate.ABORTED, self._cluster.tick())
        if self._id in self._cluster.slow_aborts:
            self._cluster.slow_aborts.remove(self._id)
            self._stuck("abort timed out")
        self._is_open = False

    def poll(self) -> None:
        reports, self._reports = self._reports, []
        for on_delivery, partition, offset in reports:
            on_delivery(partition, offset)

    def close(self) -> None:
        self._failure = BrokerRefused("_DESTROY", "closed")

    def _check(self, *, is_open: bool) -> None:
        if self._failure is not None:
            raise self._failure
        if self._epoch < 0 or self._is_open is not is_open:
            raise BrokerRefused("_STATE", "transaction calls out of order")

    def _check_reachable(self) -> None:
        if self._cluster.is_away:
            self._stuck("the cluster does not answer")

    def _stuck(self, reason: str) -> None:
        """Time out for good: every later call meets the one still pending."""
        self._failure = TransactionOutcomeUnknown("_CONFLICT", "an earlier call is still pending")
        raise TransactionOutcomeUnknown("_TIMED_OUT", reason)
