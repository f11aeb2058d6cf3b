"""The broker as the shell sees it: records, a group consumer, a reader, a transactional producer, an admin.

Two implementations exist: `confluent` (Kafka) and `memory` (deterministic, for tests and the simulator).
One suite, `tests/broker/test_broker_contract.py`, runs on both. The transactional loop, the changelog
restore and the broadcast tables are written against these protocols only.

Units: times in milliseconds since the epoch (`_ms`), time-outs in seconds (`_s`), offsets are record
positions and an offset to commit is always the **next** one to read. No object here may be used from two
threads. Errors: see `failure`; each protocol names those it raises beyond `Fenced` and `BrokerRefused`,
which any call may raise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

Headers: TypeAlias = tuple[tuple[str, bytes], ...]

#: The largest record that a producer sends, and that a service's own topics take: the copy of an input that was as large as its
#: topic allows (1 MiB by Kafka's default) has to fit with the reason, and in the changelog a third larger, as text.
RECORD_BYTES_MAX: Final = 8 * 1024 * 1024


class TopicPartition(NamedTuple):
    topic: str
    partition: int


class Record(NamedTuple):
    """One record as read. A `value` of None is a tombstone; header names may repeat, their order is kept."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Watermarks(NamedTuple):
    """The ends of a partition's log, read **un**committed: `high` is the offset the next record will get.

    `high` is at or beyond every committed record, unlike the last stable offset, so it is a safe restore
    target.
    """

    low: int
    high: int


# The consumer's membership (group, generation, member) at one moment; passed to `Producer.send_offsets`
# unopened.
GroupMetadata: TypeAlias = Any
OnPartitions: TypeAlias = Callable[[list[TopicPartition]], None]
OnDelivery: TypeAlias = Callable[[TopicPartition, int], None]


class Consumer(Protocol):
    """A member of a consumer group: read committed, never commits by itself, range-assigned.

    It never chooses where to start: a newly assigned partition is paused and has no position. The owner asks
    `committed()`, restores its store, seeks, resumes.
    """

    def subscribe(
        self,
        topics: Sequence[str],
        *,
        on_assign: OnPartitions,
        on_revoke: OnPartitions,
        on_lost: OnPartitions,
    ) -> None:
        """Join the group for `topics`. Call once.

        The callbacks run inside `poll` (and `close`, for on_revoke) and nowhere else. Each gets the
        partitions that come or go, never an empty list; partitions not named stay as they are.
        `on_assign` runs after the partitions were added, paused: it may query, seek and resume them.
        `on_revoke` runs while they are still ours; in `on_lost` they already belong to another.
        """

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """Wait up to `timeout_s` for a first record, then take what is already here, up to `max_records`.

        Within a partition records come in offset order. Offsets have gaps: markers, aborted and compacted
        records. A record may belong to a partition that was revoked in this same call: filter by
        `assignment()`. Raises OffsetMissing, and whatever a callback raises: then end the process.
        """

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        """Stop returning records of these owned partitions; drops what was prefetched. Ends with the
        ownership.
        """

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        """Return records of these owned partitions, from their position.

        Raises OffsetMissing for one that was not sought since it was assigned.
        """

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Continue an owned partition at `offset`. Raises BrokerUnavailable."""

    def committed(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int | None]:
        """The group's committed offset of each, None where there is none.

        Waits for offsets of a transaction in flight to settle (KIP-447). Raises BrokerUnavailable.
        """

    def assignment(self) -> frozenset[TopicPartition]:
        """The partitions owned now. Changes inside `poll` only."""

    def position(self, partition: TopicPartition) -> int | None:
        """The offset `poll` would continue at, None before the first record read since the seek.

        It runs ahead of processing and stays ahead after an abort: never commit it (`SHELL` rule: own book).
        """

    def group_metadata(self) -> GroupMetadata:
        """The membership as of now. Take it after `begin` and before producing, with no poll in between."""

    def watermarks(self, partition: TopicPartition) -> Watermarks:
        """Both ends of any partition, asked from the broker. Raises BrokerUnavailable."""

    def close(self) -> None:
        """Stop. A static member does not leave: its partitions wait for its return until its session expires.

        A member without an instance id leaves at once. on_revoke runs for what is owned.
        """


class Reader(Protocol):
    """Reads chosen partitions from chosen offsets, read committed, in no group: changelog restore,
    broadcast tables.
    """

    def assign(self, starts: Mapping[TopicPartition, int]) -> None:
        """Read exactly these partitions, each from its offset; replaces the previous set.

        An offset outside the log surfaces in `poll` as OffsetMissing.
        """

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """As `Consumer.poll`. Raises OffsetMissing."""

    def position(self, partition: TopicPartition) -> int:
        """The offset reading would continue at; passes transaction markers and aborted records once polled
        past.

        So `position(p) >= watermarks(p).high` becomes true even where the log ends in a marker.
        """

    def watermarks(self, partition: TopicPartition) -> Watermarks:
        """Both ends of any partition, asked from the broker. Raises BrokerUnavailable."""

    def close(self) -> None: ...


class Producer(Protocol):
    """A transactional producer. Order: init_transactions, then (begin, produce*, send_offsets, commit |
    abort)*.
    """

    def init_transactions(self) -> None:
        """Claim the transactional id: fences older holders, settles their open transaction. Call once.

        After it returned, what older holders wrote is either committed or aborted, and so visible in
        `committed()`. Raises BrokerUnavailable.
        """

    def begin(self) -> None:
        """Open a transaction; the broker learns of it with the first record. Raises
        TransactionOutcomeUnknown.
        """

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
        """Add a record to the open transaction; returns before it is sent.

        `partition` None: by murmur2 of the key. `timestamp_ms` None: the time of this call.
        `on_delivery(partition, offset)` runs inside `poll`, `send_offsets` or `commit`, at the latest
        before `commit` returns; it does not run for a record that failed (then `commit` raises). Raises
        AbortRequired.
        """

    def send_offsets(self, offsets: Mapping[TopicPartition, int], group: GroupMetadata) -> None:
        """Commit these **next** offsets with the transaction, provided `group` is still the current
        membership.

        Every transaction calls it for every task it touched: this, not the producer's epoch, is what stops
        a zombie. Raises AbortRequired (stale membership), TransactionOutcomeUnknown.
        """

    def commit(self) -> None:
        """Flush and commit; all outputs and offsets become visible together. Raises AbortRequired and
        TransactionOutcomeUnknown."""

    def abort(self) -> None:
        """Drop the transaction and what was not yet sent. Raises TransactionOutcomeUnknown."""

    def poll(self) -> None:
        """Run due delivery callbacks without waiting."""

    def close(self) -> None:
        """Stop without settling: an open transaction stays open until its time-out or the next
        `init_transactions`.

        Not a fence: a commit already sent may still land.
        """


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic to create. `configs` are Kafka topic configs by their own names (`cleanup.policy`,
    `retention.ms`).
    """

    name: str
    partitions: int
    replication_factor: int = 1
    configs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TopicDescription:
    """A topic as it is. `topic_id` changes when a topic is deleted and created again; `configs` holds all
    in effect.
    """

    name: str
    topic_id: str
    partitions: int
    replication_factor: int
    configs: Mapping[str, str]


class Admin(Protocol):
    """Questions and orders to the cluster: deploy, start-up checks, operator tools. All raise
    BrokerUnavailable.
    """

    def cluster_id(self) -> str: ...

    def topics(self) -> frozenset[str]:
        """All topics but the broker's own."""

    def topic_id(self, topic: str) -> str:
        """The id the cluster gave the topic when it was created. Raises BrokerRefused for an unknown
        topic.
        """

    def partitions(self, topic: str) -> int:
        """The partition count. Raises BrokerRefused for an unknown topic."""

    def describe(self, topic: str) -> TopicDescription:
        """Raises BrokerRefused for an unknown topic."""

    def create_topics(self, specs: Sequence[TopicSpec]) -> frozenset[str]:
        """Create those that do not exist and return their names, once they can be written to.

        An existing topic is left as it is, however it differs: compare with `describe`.
        """

    def delete_topics(self, topics: Sequence[str]) -> None:
        """Delete; an unknown topic is not an error."""

    def delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        """Drop all records below the given offset of each partition, as retention would."""

    def watermarks(self, partition: TopicPartition) -> Watermarks: ...

    def group_offsets(self, group: str) -> dict[TopicPartition, int]:
        """Every committed offset of the group; empty for an unknown group."""

    def initialise_group(self, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit these offsets where the group has none yet; those it has are left alone, so it can be
        repeated.

        Raises BrokerRefused if an offset is missing while the group has members.
        """

    def close(self) -> None: ...


class Broker(Protocol):
    """The factory of all clients: one cluster, one set of client settings."""

    def consumer(self, group: str, *, instance_id: str | None) -> Consumer:
        """A member of `group`; with an `instance_id` a static one (one live process per id)."""

    def reader(self) -> Reader: ...

    def producer(self, transactional_id: str) -> Producer:
        """A transactional producer; one live process per id."""

    def admin(self) -> Admin: ...
