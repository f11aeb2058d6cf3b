"""The state of the in-memory cluster: topics, groups, transactions, and the faults ordered by a test.

Shared by all clients of one `MemoryBroker`. Time-outs of sessions and transactions are noticed in `tick`,
which every client call makes first: so nothing happens between calls, and the same calls give the same
history.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from crossdock_eventing.broker.failure import BrokerRefused, BrokerUnavailable
from crossdock_eventing.broker.interface import TopicPartition, TopicSpec
from crossdock_eventing.broker.memory.groups import Group, Member
from crossdock_eventing.broker.memory.log import Fate, PartitionLog
from crossdock_eventing.broker.memory.transactions import TransactionCoordinator


@dataclass(frozen=True, slots=True)
class Topic:
    topic_id: str
    logs: tuple[PartitionLog, ...]
    replication_factor: int
    configs: Mapping[str, str]


@dataclass(slots=True)
class Timeouts:
    """Broker-side and client-side time-outs, as Kafka's settings of the same names."""

    session_timeout_ms: int = 45_000
    max_poll_interval_ms: int = 300_000
    transaction_timeout_ms: int = 10_000


@dataclass
class Cluster:
    """What the brokers of a real cluster would hold between them."""

    now_ms: Callable[[], int]
    cluster_id: str
    timeouts: Timeouts
    topics: dict[str, Topic] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    transactions: TransactionCoordinator = field(default_factory=TransactionCoordinator)
    topics_created: int = 0
    is_away: bool = False
    lost_deliveries: set[str] = field(default_factory=set)
    slow_commits: dict[str, bool] = field(default_factory=dict)  # transactional id: did it land
    slow_aborts: set[str] = field(default_factory=set)
    in_flight: list[tuple[str, int]] = field(
        default_factory=list
    )  # (transactional id, epoch) of unlanded commits
    _ticked_ms: int = -1
    _counts: dict[str, int] = field(default_factory=dict)

    def tick(self) -> int:
        """Let time do its work; returns now."""
        now = self.now_ms()
        if now == self._ticked_ms:
            return now  # nothing can have run out since
        self._ticked_ms = now
        self.transactions.expire(now)
        for group in self.groups.values():
            group.expire(self.counts(), now)
        return now

    def ask(self) -> int:
        """As `tick`, for a call that needs an answer. Raises BrokerUnavailable during an outage."""
        if self.is_away:
            raise BrokerUnavailable("_TIMED_OUT", "the cluster does not answer")
        return self.tick()

    def create(self, spec: TopicSpec) -> bool:
        if spec.name in self.topics:
            return False
        self.topics_created += 1
        self._counts = {}
        logs = tuple(PartitionLog(TopicPartition(spec.name, number)) for number in range(spec.partitions))
        topic_id = f"topic-{self.topics_created}"
        self.topics[spec.name] = Topic(topic_id, logs, spec.replication_factor, dict(spec.configs))
        return True

    def delete(self, name: str) -> None:
        self.topics.pop(name, None)
        self._counts = {}

    def topic(self, name: str) -> Topic:
        """Raises BrokerRefused for an unknown topic."""
        if name not in self.topics:
            raise BrokerRefused("UNKNOWN_TOPIC_OR_PART", name)
        return self.topics[name]

    def log(self, partition: TopicPartition) -> PartitionLog:
        """Raises BrokerRefused for an unknown topic or partition."""
        logs = self.topic(partition.topic).logs
        if not 0 <= partition.partition < len(logs):
            raise BrokerRefused("_UNKNOWN_PARTITION", f"{partition.topic}[{partition.partition}]")
        return logs[partition.partition]

    def counts(self) -> Mapping[str, int]:
        """Partitions of every topic."""
        if not self._counts:
            self._counts = {name: len(topic.logs) for name, topic in self.topics.items()}
        return self._counts

    def group(self, name: str) -> Group:
        if name not in self.groups:
            self.groups[name] = Group(
                name,
                session_timeout_ms=self.timeouts.session_timeout_ms,
                max_poll_interval_ms=self.timeouts.max_poll_interval_ms,
            )
        return self.groups[name]


class Faults:
    """Troubles a test or the simulator can order. Each names the situation it stages."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def slow_commit(self, transactional_id: str, *, landed: bool) -> None:
        """The next commit of this id times out: having landed, or still under way (see `land_commits`)."""
        self._cluster.slow_commits[transactional_id] = landed

    def slow_abort(self, transactional_id: str) -> None:
        """The next abort of this id times out, having landed."""
        self._cluster.slow_aborts.add(transactional_id)

    def land_commits(self) -> None:
        """Commits still under way arrive, except those whose id was claimed anew or timed out meanwhile."""
        now = self._cluster.tick()
        for transactional_id, epoch in self._cluster.in_flight:
            if self._cluster.transactions.holds(transactional_id, epoch):
                self._cluster.transactions.end(transactional_id, epoch, Fate.COMMITTED, now)
        self._cluster.in_flight.clear()

    def lose_delivery(self, transactional_id: str) -> None:
        """The next record produced under this id is not delivered, which fails its transaction."""
        self._cluster.lost_deliveries.add(transactional_id)

    def hold_markers(self) -> None:
        """From now on a commit is acknowledged before its markers are written: readers do not see it yet."""
        self._cluster.transactions.hold_markers = True

    def release_markers(self) -> None:
        """Write the held markers, and hold none any more."""
        self._cluster.transactions.hold_markers = False
        self._cluster.transactions.write_markers(self._cluster.now_ms())

    def expel(self, group: str, instance_id: str) -> None:
        """The coordinator drops a member that does not know it yet: a zombie, until its next poll."""
        self._cluster.group(group).remove(self._member(group, instance_id), self._cluster.counts())

    def silence(self, group: str, instance_id: str) -> None:
        """The member's process died: its session runs from now."""
        self._member(group, instance_id).silent_since_ms = self._cluster.now_ms()

    def keep_alive(self) -> None:
        """Time leapt, and every living member polled all the while."""
        now = self._cluster.now_ms()
        for group in self._cluster.groups.values():
            for member in group.members.values():
                member.last_poll_ms = now

    def set_away(self, away: bool) -> None:
        """Start or end an outage: queries raise BrokerUnavailable, polls are empty, commits stay unknown."""
        self._cluster.is_away = away

    @property
    def away(self) -> bool:
        """Whether an outage is on."""
        return self._cluster.is_away

    def _member(self, group: str, instance_id: str) -> Member:
        return next(m for m in self._cluster.group(group).members.values() if m.instance_id == instance_id)
