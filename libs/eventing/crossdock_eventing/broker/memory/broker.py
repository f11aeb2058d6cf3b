"""The entrance to the in-memory broker: the factory of its clients, and its admin."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from crossdock_eventing.broker.failure import BrokerRefused
from crossdock_eventing.broker.interface import TopicDescription, TopicPartition, TopicSpec, Watermarks
from crossdock_eventing.broker.memory.clients import MemoryConsumer, MemoryProducer, MemoryReader
from crossdock_eventing.broker.memory.cluster import Cluster, Faults, Timeouts


class MemoryBroker:
    """`interface.Broker` in memory, plus `faults` and `compact`.

    `now_ms` is the only time there is: sessions, poll intervals and transactions expire by it.
    """

    def __init__(
        self, now_ms: Callable[[], int], *, cluster_id: str = "memory", timeouts: Timeouts | None = None
    ) -> None:
        self._cluster = Cluster(now_ms, cluster_id, timeouts or Timeouts())
        self.faults = Faults(self._cluster)

    def consumer(self, group: str, *, instance_id: str | None) -> MemoryConsumer:
        return MemoryConsumer(self._cluster, group, instance_id)

    def reader(self) -> MemoryReader:
        return MemoryReader(self._cluster)

    def producer(self, transactional_id: str) -> MemoryProducer:
        return MemoryProducer(self._cluster, transactional_id)

    def admin(self) -> "MemoryAdmin":
        return MemoryAdmin(self._cluster)

    def readable(self, topics: Iterable[str]) -> Callable[[], int]:
        """A function that tells how much of these topics committed readers have before them: it grows with every commit."""
        logs = [log for topic in topics for log in self._cluster.topic(topic).logs]
        return lambda: sum([log.last_stable_offset for log in logs])

    def compact(self, topic: str, *, tombstones_before_ms: int | None = None) -> None:
        """Compact every partition now; tombstones stamped before the given time go too."""
        for log in self._cluster.topic(topic).logs:
            log.compact(tombstones_before_ms=tombstones_before_ms)


class MemoryAdmin:
    """`interface.Admin` in memory."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def cluster_id(self) -> str:
        self._cluster.ask()
        return self._cluster.cluster_id

    def topics(self) -> frozenset[str]:
        self._cluster.ask()
        return frozenset(self._cluster.topics)

    def topic_id(self, topic: str) -> str:
        return self.describe(topic).topic_id

    def partitions(self, topic: str) -> int:
        return self.describe(topic).partitions

    def describe(self, topic: str) -> TopicDescription:
        self._cluster.ask()
        known = self._cluster.topic(topic)
        return TopicDescription(
            topic, known.topic_id, len(known.logs), known.replication_factor, known.configs
        )

    def create_topics(self, specs: Sequence[TopicSpec]) -> frozenset[str]:
        self._cluster.ask()
        created = frozenset(spec.name for spec in specs if self._cluster.create(spec))
        self._rebalance(created)
        return created

    def delete_topics(self, topics: Sequence[str]) -> None:
        self._cluster.ask()
        for topic in topics:
            self._cluster.delete(topic)
        self._rebalance(frozenset(topics))

    def _rebalance(self, changed: frozenset[str]) -> None:
        for group in self._cluster.groups.values():
            if any(not changed.isdisjoint(member.topics) for member in group.members.values()):
                group.rebalance(self._cluster.counts())

    def delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        self._cluster.ask()
        for partition, offset in before.items():
            self._cluster.log(partition).truncate(offset)

    def watermarks(self, partition: TopicPartition) -> Watermarks:
        self._cluster.ask()
        return self._cluster.log(partition).watermarks

    def group_offsets(self, group: str) -> dict[TopicPartition, int]:
        self._cluster.ask()
        return dict(self._cluster.group(group).offsets)

    def initialise_group(self, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        self._cluster.ask()
        known = self._cluster.group(group)
        missing = {partition: at for partition, at in offsets.items() if partition not in known.offsets}
        if missing and known.members:
            raise BrokerRefused("UNKNOWN_MEMBER_ID", f"group {group} has members")
        known.offsets.update(missing)

    def close(self) -> None:
        """Nothing to release."""
