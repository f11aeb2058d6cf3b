"""The broker on Kafka, over confluent-kafka (librdkafka). The only module that imports `confluent_kafka`.

Built by each service's composition root, by deploy and by the operator tools; used through `interface`.
Everything that librdkafka would print or decide by default is set here once: isolation, assignor,
partitioner, time-outs, logs.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NoReturn, TypeVar

import confluent_kafka as ck
import structlog
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # re-exported without saying so
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
    TopicMetadata,
)

from crossdock_eventing.broker import partitioner
from crossdock_eventing.broker.bounded import Bounded
from crossdock_eventing.broker.failure import (
    AbortRequired,
    BrokerError,
    BrokerRefused,
    BrokerUnavailable,
    Fenced,
    OffsetMissing,
    TransactionOutcomeUnknown,
)
from crossdock_eventing.broker.interface import (
    GroupMetadata,
    Headers,
    OnDelivery,
    OnPartitions,
    Record,
    TopicDescription,
    TopicPartition,
    TopicSpec,
    Watermarks,
)

T = TypeVar("T")
log = structlog.get_logger(__name__)

_SEEK_RETRY_S: Final = 0.001
_METADATA_RETRY_S: Final = 0.02
_NUDGE_S: Final = 0.5
_RETURN_GRACE_S: Final = 1.0

# Error codes by the client's own names.
_FENCED: Final = frozenset(
    {
        "_FATAL",
        "_FENCED",
        "PRODUCER_FENCED",
        "INVALID_PRODUCER_EPOCH",
        "FENCED_INSTANCE_ID",
        "UNRELEASED_INSTANCE_ID",
    }
)
# The client goes on by itself after these; the caller just sees no records for a while.
_TRANSIENT: Final = frozenset(
    {
        "_ALL_BROKERS_DOWN",
        "_TRANSPORT",
        "_RESOLVE",
        "_TIMED_OUT",
        "_MAX_POLL_EXCEEDED",  # on_lost follows, then the client joins again
        "REQUEST_TIMED_OUT",
        "NETWORK_EXCEPTION",
        "LEADER_NOT_AVAILABLE",
        "NOT_LEADER_FOR_PARTITION",
        "COORDINATOR_LOAD_IN_PROGRESS",
        "COORDINATOR_NOT_AVAILABLE",
        "NOT_COORDINATOR",
        "REBALANCE_IN_PROGRESS",
        "UNSTABLE_OFFSET_COMMIT",
    }
)

# A coordinator that has just been chosen reads its log before it answers: every client asks again.
_COORDINATOR_STARTING: Final = frozenset(
    {"COORDINATOR_LOAD_IN_PROGRESS", "COORDINATOR_NOT_AVAILABLE", "NOT_COORDINATOR"}
)
# A broker that has just started tells of no partitions for a moment, and clients believe it.
_STALE_METADATA: Final = frozenset({"NOT_LEADER_FOR_PARTITION", "LEADER_NOT_AVAILABLE", "_UNKNOWN_PARTITION"})


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """What may differ between local, test and production clusters.

    `group_protocol` "consumer" is KIP-848 (Kafka 4.0+): the broker owns the session time-out, a rebalance
    names only what moves, and the twin of a live static member is refused. "classic" is for older brokers: a
    rebalance takes everything and gives it anew, a twin fences the member that was there, and
    `session_timeout_ms` counts.

    `transaction_timeout_ms` stays below the session
    time-out: a dead owner's open transaction hides its successor's output. `query_timeout_s` exceeds it, as
    `committed()` waits for transactions. `extra` goes to every client: security settings.
    """

    group_protocol: Literal["consumer", "classic"] = "consumer"
    transaction_timeout_ms: int = 10_000
    session_timeout_ms: int = 45_000
    max_poll_interval_ms: int = 300_000
    query_timeout_s: float = 15.0
    init_timeout_s: float = 60.0
    extra: Mapping[str, str] = field(default_factory=dict)


class ConfluentBroker:
    """Factory of Kafka clients for one cluster (`interface.Broker`)."""

    def __init__(self, bootstrap_servers: str, settings: ClientSettings | None = None) -> None:
        """Raises BrokerRefused if the native client's murmur2 is not ours: records would land in wrong
        partitions.
        """
        for key, hashed in partitioner.VECTORS:
            if not ck.murmur2(key, 6) == partitioner.partition_for(key, 6) == (hashed & 0x7FFFFFFF) % 6:
                raise BrokerRefused("PARTITIONER", f"clients disagree on the partition of {key!r}")
        self._settings = settings or ClientSettings()
        self._common: dict[str, Any] = {
            "bootstrap.servers": bootstrap_servers,
            "logger": _ClientLog(),
            "error_cb": _log_client_error,
            **self._settings.extra,
        }
        self._probe = _Probe(self._common, self._settings.query_timeout_s)

    def consumer(self, group: str, *, instance_id: str | None) -> "ConfluentConsumer":
        settings = self._settings
        conf: dict[str, Any] = {
            **self._common,
            **_FETCHING,
            "group.id": group,
            "group.protocol": settings.group_protocol,
            "max.poll.interval.ms": settings.max_poll_interval_ms,
        }
        if settings.group_protocol == "consumer":
            conf["group.remote.assignor"] = "range"
        else:
            conf["partition.assignment.strategy"] = "range"
            conf["session.timeout.ms"] = settings.session_timeout_ms
            conf["heartbeat.interval.ms"] = min(3_000, settings.session_timeout_ms // 3)
        if instance_id is not None:
            conf["group.instance.id"] = instance_id
        return ConfluentConsumer(conf, settings, self._probe)

    def reader(self) -> "ConfluentReader":
        # The client insists on a group id; assign() without subscribe() never joins it.
        conf = {**self._common, **_FETCHING, "group.id": "crossdock.reader"}
        return ConfluentReader(conf, self._settings, self._probe)

    def producer(self, transactional_id: str) -> "ConfluentProducer":
        timeout_ms = self._settings.transaction_timeout_ms
        conf: dict[str, Any] = {
            **self._common,
            "transactional.id": transactional_id,
            "transaction.timeout.ms": timeout_ms,
            "socket.timeout.ms": timeout_ms,  # the client wants at most transaction.timeout.ms + 100
            "partitioner": "murmur2_random",
            # By default a client that lost all its connections starts over from the bootstrap servers, and a transaction under way
            # then stands still for 11 s; without, it goes on after 0.5 s. Should every address have changed, its next call times
            # out, and the producer that replaces it begins at the bootstrap servers anyway.
            "metadata.recovery.strategy": "none",
            "retry.backoff.ms": 1,
            "linger.ms": 20,  # the loop's commit flushes; lingering only fills batches
            "batch.size": 262_144,
        }
        return ConfluentProducer(conf, self._settings)

    def admin(self) -> "ConfluentAdmin":
        return ConfluentAdmin(self._common, self._settings, self._probe)


_FETCHING: Final[dict[str, Any]] = {
    "isolation.level": "read_committed",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "enable.partition.eof": False,
    "retry.backoff.ms": 1,
    # A resumed partition waits for the fetch under way: the default keeps it waiting for half a second.
    "fetch.wait.max.ms": 100,
    # Bounds what is prefetched to 16 MiB a process; the defaults allow 64 MiB.
    "queued.min.messages": 10_000,
    "queued.max.messages.kbytes": 16_384,
}


class _Probe:
    """Asks for the ends of partitions, read uncommitted, on behalf of all clients of one factory.

    A client that reads committed would be told the last stable offset instead of the end of the log.
    """

    def __init__(self, common: Mapping[str, Any], timeout_s: float) -> None:
        conf = {**common, "group.id": "crossdock.probe", "isolation.level": "read_uncommitted"}
        self._client = ck.Consumer(conf)
        self._timeout_s = timeout_s

    def watermarks(self, partition: TopicPartition) -> Watermarks:
        self._client.poll(0)  # hands on its log lines; it has no records
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                low, high = _translated(
                    lambda: self._client.get_watermark_offsets(_native(partition), timeout=self._timeout_s),
                    BrokerUnavailable,
                )
            except BrokerError as error:
                # What this client knows of the partition is old: it asks anew, as every client must.
                if error.code not in _STALE_METADATA or time.monotonic() > deadline:
                    raise
                _translated(
                    lambda: self._client.list_topics(partition.topic, timeout=self._timeout_s),
                    BrokerUnavailable,
                )
                time.sleep(_METADATA_RETRY_S)
            else:
                return Watermarks(low, high)


class _Fetching:
    """What the group consumer and the reader share: draining the native client, and questions to the
    broker.
    """

    def __init__(self, conf: dict[str, Any], settings: ClientSettings, probe: _Probe) -> None:
        self._log = _ClientLog()
        self._client = ck.Consumer({**conf, "logger": self._log})
        self._settings = settings
        self._probe = probe

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        # consume(n, t) waits the full t for a full batch: wait for one, then take what is here.
        first = _translated(lambda: self._client.poll(timeout_s), BrokerUnavailable)
        if self._log.fatal is not None:
            # The client reports it once, among the records, and a rebalance can sweep it away; then it is silent for ever.
            raise Fenced("_FATAL", self._log.fatal)
        if first is None:
            return []
        rest: list[ck.Message] = []
        if max_records > 1:
            rest = _translated(lambda: self._client.consume(max_records - 1, 0.0), BrokerUnavailable)
        return [record for message in (first, *rest) if (record := _record(message)) is not None]

    def watermarks(self, partition: TopicPartition) -> Watermarks:
        return self._probe.watermarks(partition)

    def _position(self, partition: TopicPartition) -> int | None:
        offset = self._client.position([_native(partition)])[0].offset
        return offset if offset >= 0 else None

    def close(self) -> None:
        self._client.close()


class ConfluentReader(_Fetching):
    """`interface.Reader` on Kafka."""

    def assign(self, starts: Mapping[TopicPartition, int]) -> None:
        self._starts = dict(starts)
        self._client.assign([_native(partition, offset) for partition, offset in starts.items()])

    def position(self, partition: TopicPartition) -> int:
        position = self._position(partition)
        return self._starts[partition] if position is None else position


class ConfluentConsumer(_Fetching):
    """`interface.Consumer` on Kafka."""

    def __init__(self, conf: dict[str, Any], settings: ClientSettings, probe: _Probe) -> None:
        super().__init__(conf, settings, probe)
        self._incremental = settings.group_protocol == "consumer"
        self._unplaced: set[TopicPartition] = set()  # owned, not yet sought

    def subscribe(
        self,
        topics: Sequence[str],
        *,
        on_assign: OnPartitions,
        on_revoke: OnPartitions,
        on_lost: OnPartitions,
    ) -> None:
        def assigned(client: ck.Consumer, native: list[ck.TopicPartition]) -> None:
            partitions = _ours(native)
            starts = self._ends(partitions)
            if self._incremental:
                client.incremental_assign(starts)
            else:
                client.assign(starts)
            client.pause(starts)
            self._unplaced.update(partitions)
            if partitions:
                on_assign(partitions)

        def gone(tell: OnPartitions) -> Callable[[ck.Consumer, list[ck.TopicPartition]], None]:
            def handler(client: ck.Consumer, native: list[ck.TopicPartition]) -> None:
                partitions = _ours(native)
                if partitions:
                    tell(partitions)
                self._unplaced.difference_update(partitions)
                if self._incremental:
                    client.incremental_unassign(native)
                else:
                    client.unassign()

            return handler

        self._client.subscribe(
            list(topics), on_assign=assigned, on_revoke=gone(on_revoke), on_lost=gone(on_lost)
        )

    def _ends(self, partitions: Sequence[TopicPartition]) -> list[ck.TopicPartition]:
        """Where newly assigned partitions wait, paused, to be sought: at the number their log ends with now.

        Left to itself the client would look up the committed offset, and a partition it finds without one, or
        with one outside the log, can never be sought again. Given a symbolic start (OFFSET_END) it would look
        that up, and an answer that comes after the seek overrides it: 8 of 50 times, records were skipped.
        """
        asked = [_native(partition, ck.OFFSET_END) for partition in partitions]
        if not asked:
            return []
        # Not worth another try: a poll that failed half-way through an assignment cannot be repeated.
        ends = _translated(
            lambda: self._client.offsets_for_times(asked, timeout=self._settings.query_timeout_s),
            BrokerRefused,
        )
        for end in ends:
            if end.error is not None:
                _raise_error(end.error, BrokerRefused)
        return ends

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        self._client.pause([_native(partition) for partition in partitions])

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        nowhere = self._unplaced.intersection(partitions)
        if nowhere:
            raise OffsetMissing("_NO_OFFSET", f"resumed without a start: {sorted(nowhere)}")
        self._client.resume([_native(partition) for partition in partitions])
        # A client that fetches nothing looks only once a second for what it may fetch; an answer from the leaders makes it look
        # now. Restarts, recoveries and rebalances so take a second less. If they do not answer, it will look in its own time.
        if partitions:
            with suppress(ck.KafkaException):
                asked = [_native(partition, ck.OFFSET_END) for partition in partitions]
                self._client.offsets_for_times(asked, timeout=_NUDGE_S)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        deadline = time.monotonic() + self._settings.query_timeout_s
        while True:
            try:
                self._client.seek(_native(partition, offset))
                break
            except ck.KafkaException as error:
                # For about a millisecond after the assignment it cannot seek yet, and offers no event.
                starting = error.args[0].name() == "_STATE" and partition in self.assignment()
                if not starting or time.monotonic() > deadline:
                    _raise(error, BrokerUnavailable)
                time.sleep(_SEEK_RETRY_S)
        self._unplaced.discard(partition)

    def committed(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int | None]:
        if not partitions:
            return {}
        asked = [_native(partition) for partition in partitions]
        answers = _committed(self._client, asked, self._settings.query_timeout_s)
        return {
            TopicPartition(answer.topic, answer.partition): answer.offset if answer.offset >= 0 else None
            for answer in answers
        }

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset(_ours(self._client.assignment()))

    def position(self, partition: TopicPartition) -> int | None:
        return self._position(partition)

    def group_metadata(self) -> GroupMetadata:
        return self._client.consumer_group_metadata()


class ConfluentProducer:
    """`interface.Producer` on Kafka."""

    def __init__(self, conf: dict[str, Any], settings: ClientSettings) -> None:
        self._client = ck.Producer(conf)
        self._settings = settings
        self._timeout_s = settings.transaction_timeout_ms / 1000
        self._bounded = Bounded("send-offsets")

    def init_transactions(self) -> None:
        deadline = time.monotonic() + self._settings.init_timeout_s
        while True:
            try:
                return _translated(lambda: self._client.init_transactions(self._timeout_s), BrokerUnavailable)
            except BrokerUnavailable:
                if time.monotonic() > deadline:
                    raise

    def begin(self) -> None:
        _translated(self._client.begin_transaction, TransactionOutcomeUnknown)

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
        optional: dict[str, Any] = {}
        if partition is not None:
            optional["partition"] = partition
        if timestamp_ms is not None:
            optional["timestamp"] = timestamp_ms
        if on_delivery is not None:
            optional["on_delivery"] = _delivery(on_delivery)
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                return self._client.produce(topic, value, key, headers=list(headers), **optional)
            except BufferError as error:
                if time.monotonic() > deadline:
                    raise AbortRequired("_QUEUE_FULL", str(error)) from error
                self._client.poll(0.01)
            except ck.KafkaException as error:
                # Once the open transaction has failed, the client answers every produce with "erroneous
                # state".
                if error.args[0].name() == "_STATE":
                    raise AbortRequired("_STATE", str(error)) from error
                _raise(error, TransactionOutcomeUnknown)

    def send_offsets(self, offsets: Mapping[TopicPartition, int], group: GroupMetadata) -> None:
        native = [_native(partition, offset) for partition, offset in offsets.items()]
        client, timeout_s = self._client, self._timeout_s

        def send() -> None:
            client.send_offsets_to_transaction(native, group, timeout_s)

        # The call does not keep its time-out by itself, and then nothing is known of it: see `bounded`.
        _translated(
            lambda: self._bounded.run(send, within_s=timeout_s + _RETURN_GRACE_S), TransactionOutcomeUnknown
        )

    def commit(self) -> None:
        _translated(lambda: self._client.commit_transaction(self._timeout_s), TransactionOutcomeUnknown)

    def abort(self) -> None:
        _translated(lambda: self._client.abort_transaction(self._timeout_s), TransactionOutcomeUnknown)

    def poll(self) -> None:
        self._client.poll(0)

    def close(self) -> None:
        # The client's own close() would abort and flush, and so block on a broker that is away.
        self._client.purge()
        self._bounded.close()
        del self._client


class ConfluentAdmin:
    """`interface.Admin` on Kafka."""

    def __init__(self, conf: Mapping[str, Any], settings: ClientSettings, probe: _Probe) -> None:
        self._client = AdminClient({k: v for k, v in conf.items() if k != "logger"}, logger=conf["logger"])
        self._conf = conf
        self._probe = probe
        self._timeout_s = settings.query_timeout_s

    def cluster_id(self) -> str:
        return _translated(lambda: self._client.cluster_id(self._timeout_s), BrokerUnavailable)

    def topics(self) -> frozenset[str]:
        metadata = _translated(lambda: self._client.list_topics(timeout=self._timeout_s), BrokerUnavailable)
        return frozenset(name for name in metadata.topics if not name.startswith("__"))

    def topic_id(self, topic: str) -> str:
        return str(self._native_description(topic).topic_id)

    def partitions(self, topic: str) -> int:
        return len(self._native_description(topic).partitions)

    def describe(self, topic: str) -> TopicDescription:
        native = self._native_description(topic)
        resource = ConfigResource(ResourceType.TOPIC, topic)
        configs = self._answer(self._client.describe_configs([resource])[resource])
        return TopicDescription(
            topic,
            str(native.topic_id),
            len(native.partitions),
            len(native.partitions[0].replicas),
            {name: entry.value for name, entry in configs.items() if entry.value is not None},
        )

    def create_topics(self, specs: Sequence[TopicSpec]) -> frozenset[str]:
        native = [
            NewTopic(
                spec.name,
                num_partitions=spec.partitions,
                replication_factor=spec.replication_factor,
                config=dict(spec.configs),
            )
            for spec in specs
        ]
        created = set()
        for name, future in (self._client.create_topics(native) if native else {}).items():
            try:
                self._answer(future)
                created.add(name)
            except BrokerRefused as error:
                if error.code != "TOPIC_ALREADY_EXISTS":
                    raise
        self._await_metadata(lambda topics: all(_writable(topics.get(spec.name)) for spec in specs))
        return frozenset(created)

    def delete_topics(self, topics: Sequence[str]) -> None:
        for future in (self._client.delete_topics(list(topics)) if topics else {}).values():
            try:
                self._answer(future)
            except BrokerRefused as error:
                if error.code != "UNKNOWN_TOPIC_OR_PART":
                    raise
        self._await_metadata(lambda known: not any(topic in known for topic in topics))

    def delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        native = [_native(partition, offset) for partition, offset in before.items()]
        for future in self._client.delete_records(native).values():
            self._answer(future)

    def watermarks(self, partition: TopicPartition) -> Watermarks:
        return self._probe.watermarks(partition)

    def group_offsets(self, group: str) -> dict[TopicPartition, int]:
        metadata = _translated(lambda: self._client.list_topics(timeout=self._timeout_s), BrokerUnavailable)
        asked = [
            ck.TopicPartition(name, number)
            for name, topic in metadata.topics.items()
            if not name.startswith("__")
            for number in topic.partitions
        ]
        # The admin client's own question for them takes the process down (SIGSEGV in librdkafka 2.16) when a coordinator
        # that has just been chosen answers it; a consumer's does not.
        conf = {**self._conf, "group.id": group, "isolation.level": "read_committed"}
        consumer = ck.Consumer(conf)
        try:
            answers = _committed(consumer, asked, self._timeout_s) if asked else []
        finally:
            consumer.close()
        return {
            TopicPartition(native.topic, native.partition): native.offset
            for native in answers
            if native.offset >= 0
        }

    def initialise_group(self, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        existing = self.group_offsets(group)
        missing = [_native(partition, at) for partition, at in offsets.items() if partition not in existing]
        if not missing:
            return
        request = [ck.ConsumerGroupTopicPartitions(group, missing)]
        _of_coordinator(
            lambda: self._answer(self._client.alter_consumer_group_offsets(request)[group]).topic_partitions,
            self._timeout_s,
        )

    def close(self) -> None:
        del self._client

    def _native_description(self, topic: str) -> Any:
        future = self._client.describe_topics(ck.TopicCollection([topic]))[topic]
        return self._answer(future)

    def _answer(self, future: "Future[Any]") -> Any:
        self._client.poll(0)  # hands on its log lines
        return _translated(lambda: future.result(self._timeout_s), BrokerUnavailable)

    def _await_metadata(self, holds: Callable[[dict[str, TopicMetadata]], bool]) -> None:
        """Creating and deleting are acknowledged before every broker knows of them; wait until they do."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            if holds(
                _translated(
                    lambda: self._client.list_topics(timeout=self._timeout_s), BrokerUnavailable
                ).topics
            ):
                return
            if time.monotonic() > deadline:
                raise BrokerUnavailable("_TIMED_OUT", "topic metadata did not settle")
            time.sleep(_METADATA_RETRY_S)


def _committed(
    consumer: ck.Consumer, asked: Sequence[ck.TopicPartition], timeout_s: float
) -> list[ck.TopicPartition]:
    """The committed offsets of the consumer's group, once no transaction over them is open. Raises BrokerUnavailable."""
    return _of_coordinator(
        lambda: _translated(lambda: consumer.committed(list(asked), timeout=timeout_s), BrokerUnavailable),
        timeout_s,
    )


def _of_coordinator(ask: Callable[[], list[ck.TopicPartition]], timeout_s: float) -> list[ck.TopicPartition]:
    """The answer, partition by partition, of a group's coordinator to a question that can be asked again."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            answers = ask()
            for native in answers:
                if native.error is not None:
                    _raise_error(native.error, BrokerUnavailable)
        except BrokerUnavailable as error:
            if error.code not in _COORDINATOR_STARTING or time.monotonic() > deadline:
                raise
            time.sleep(_METADATA_RETRY_S)
        else:
            return answers


def _writable(topic: TopicMetadata | None) -> bool:
    return topic is not None and topic.error is None and all(p.leader >= 0 for p in topic.partitions.values())


def _native(partition: TopicPartition, offset: int = ck.OFFSET_INVALID) -> ck.TopicPartition:
    return ck.TopicPartition(partition.topic, partition.partition, offset)


def _ours(native: Iterable[ck.TopicPartition]) -> list[TopicPartition]:
    return sorted(TopicPartition(partition.topic, partition.partition) for partition in native)


def _record(message: Any) -> Record | None:
    """A message as a record; None for a passing trouble of the client, which is logged."""
    error = message.error()
    if error is None:
        headers = message.headers()
        return Record(
            message.topic(),
            message.partition(),
            message.offset(),
            message.timestamp()[1],
            message.key(),
            message.value(),
            tuple((name, value if value is not None else b"") for name, value in headers) if headers else (),
        )
    if error.name() == "_AUTO_OFFSET_RESET":
        raise OffsetMissing(error.name(), f"{message.topic()}[{message.partition()}]: {error.str()}")
    if error.name() in _TRANSIENT:
        log.warning("broker.consume_trouble", code=error.name(), reason=error.str())
        return None
    return _raise_error(error, BrokerUnavailable)


def _delivery(on_delivery: OnDelivery) -> Callable[[ck.KafkaError | None, ck.Message], None]:
    def report(error: ck.KafkaError | None, message: Any) -> None:
        if error is None:  # a failed delivery fails the transaction, and so surfaces in commit
            on_delivery(TopicPartition(message.topic(), message.partition()), message.offset())

    return report


def _translated(call: Callable[[], T], when_retriable: type[BrokerError]) -> T:
    """`call()`, its native failure raised as ours; one that could be retried as `when_retriable`."""
    try:
        return call()
    except ck.KafkaException as error:
        _raise(error, when_retriable)
    except TimeoutError as error:
        raise when_retriable("_TIMED_OUT", str(error)) from error


def _raise(error: ck.KafkaException, when_retriable: type[BrokerError]) -> NoReturn:
    _raise_error(error.args[0], when_retriable, error)


def _raise_error(
    error: ck.KafkaError, when_retriable: type[BrokerError], cause: Exception | None = None
) -> NoReturn:
    if error.fatal() or error.name() in _FENCED:
        failure: type[BrokerError] = Fenced
    elif error.txn_requires_abort():
        failure = AbortRequired
    elif error.retriable() or error.name() in _TRANSIENT or error.name() == "_CONFLICT":
        failure = when_retriable
    else:
        failure = BrokerRefused
    raise failure(error.name(), error.str()) from cause


class _ClientLog:
    """Stands in for a `logging.Logger` and passes librdkafka's own lines on to structlog.

    fatal: the line that said that the client has come to its end.
    """

    def __init__(self) -> None:
        self.fatal: str | None = None

    def log(self, level: int, form: str, *args: object) -> None:
        line = form % args
        if line.startswith("FATAL "):
            self.fatal = line
        log.log(level, "broker.client", line=line)


def _log_client_error(error: ck.KafkaError) -> None:
    log.warning("broker.client_error", code=error.name(), reason=error.str())


def native_partition_for(key: bytes, partitions: int) -> int:
    """`partitioner.partition_for` by the client's own code, twenty times as fast; the factory proves that
    they agree.
    """
    partition: int = ck.murmur2(key, partitions)
    return partition
