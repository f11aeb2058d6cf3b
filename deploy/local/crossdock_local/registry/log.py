"""The `_schemas` topic as a log with one writer: what `service` needs from Kafka, and Kafka's way of giving
it.

Tests give `service` an in-memory log of the same form. All calls block; `service` makes them off the event
loop and one at a time.
"""

import time
from collections.abc import Sequence
from typing import Any, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it exports them without saying so
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from crossdock_local.registry.records import Record

TOPIC = "_schemas"
# One id for every registry on a cluster: initialising it fences whoever held it before.
TRANSACTIONAL_ID = "crossdock-schema-registry"
TIMEOUT_S = 5.0


class LogUnavailableError(Exception):
    """The log could not be written or read; whether a write landed is unknown until it is claimed again."""


class FencedError(Exception):
    """The right to write is gone: another writer claimed it, or the broker timed a transaction out."""


class SchemaLog(Protocol):
    """A totally ordered log of records that at most one holder can write."""

    def read_to_end(self) -> list[Record]:
        """Records not read so far, up to the end as it was on calling. Raises LogUnavailableError."""

    def read_available(self) -> list[Record]:
        """Records not read so far that can be had at once."""

    def claim(self) -> None:
        """Take the right to write from whoever has it, and settle what they left open.

        Raises LogUnavailableError.
        """

    def append(self, records: Sequence[Record]) -> list[Record]:
        """Write records all or none, and return every record not read so far up to and with them.

        Returns only once the log has acknowledged them. Raises FencedError or LogUnavailableError.
        """

    def close(self) -> None:
        """Let go of the connections; what is acknowledged stays."""


class KafkaLog:
    """The topic's only partition, written in transactions and read back committed."""

    def __init__(self, bootstrap: str) -> None:
        """Create the topic if it is missing.

        Raises LogUnavailableError when Kafka is away or the topic is unfit.
        """
        self._common: dict[str, Any] = {"bootstrap.servers": bootstrap, "error_cb": lambda _: None}
        self._producer: Producer | None = None
        self._partition = TopicPartition(TOPIC, 0, 0)
        try:
            _ensure_topic(AdminClient(dict(self._common)))
            self._consumer = Consumer(
                self._common
                | {
                    "group.id": TRANSACTIONAL_ID,  # Never joined: partitions are assigned, offsets not kept.
                    "enable.auto.commit": False,
                    "auto.offset.reset": "earliest",
                    "isolation.level": "read_committed",
                    "fetch.wait.max.ms": 100,
                }
            )
            self._consumer.assign([self._partition])
        except KafkaException as error:
            raise LogUnavailableError(str(error.args[0])) from error
        self._next_offset = 0

    def read_to_end(self) -> list[Record]:
        """See SchemaLog."""
        try:
            # The high watermark, not the last stable offset: right after a commit the latter may lag behind.
            _, end = self._consumer.get_watermark_offsets(self._partition, timeout=TIMEOUT_S)
        except KafkaException as error:
            raise LogUnavailableError(str(error.args[0])) from error
        return self._read_until(end)

    def read_available(self) -> list[Record]:
        """See SchemaLog."""
        return self._take(timeout_s=0.0)

    def claim(self) -> None:
        """See SchemaLog."""
        self._producer = None  # Closes the connections of the old one.
        producer = Producer(
            self._common
            | {
                "transactional.id": TRANSACTIONAL_ID,
                "transaction.timeout.ms": 10_000,
                "socket.timeout.ms": 10_000,  # librdkafka wants it within the transaction time-out.
                "linger.ms": 0,
                "retry.backoff.ms": 20,
            }
        )
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                producer.init_transactions(TIMEOUT_S)
                break
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > deadline:
                    raise LogUnavailableError(str(error.args[0])) from error
                time.sleep(0.05)
        self._producer = producer

    def append(self, records: Sequence[Record]) -> list[Record]:
        """See SchemaLog."""
        if self._producer is None:
            raise LogUnavailableError("the right to write is not held: an earlier claim failed")
        offsets: list[int] = []

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is None:
                offsets.append(message.offset() or 0)

        try:
            self._producer.begin_transaction()
            for record in records:
                self._producer.produce(
                    TOPIC, partition=0, key=record.key, value=record.value, on_delivery=delivered
                )
            self._producer.commit_transaction(TIMEOUT_S)
        except KafkaException as error:
            reason = error.args[0]
            self._abandon(reason)
            raise (FencedError if reason.fatal() else LogUnavailableError)(str(reason)) from error
        assert len(offsets) == len(records), "a committed transaction has delivered every record"
        return self._read_until(max(offsets) + 1)

    def close(self) -> None:
        """See SchemaLog."""
        self._producer = None
        self._consumer.close()

    def _abandon(self, reason: KafkaError) -> None:
        if self._producer is not None and reason.txn_requires_abort():
            try:
                self._producer.abort_transaction(TIMEOUT_S)
            except KafkaException:
                self._producer = None  # The next claim settles it.

    def _read_until(self, end: int) -> list[Record]:
        found: list[Record] = []
        deadline = time.monotonic() + TIMEOUT_S
        while self._next_offset < end:
            if time.monotonic() > deadline:
                raise LogUnavailableError(f"offset {end} of {TOPIC} was not reached within {TIMEOUT_S:.0f} s")
            found += self._take(timeout_s=0.1)
        return found

    def _take(self, *, timeout_s: float) -> list[Record]:
        found = []
        # Poll first and then drain: consume(n, t) waits the full t for a full batch.
        first = self._consumer.poll(timeout_s)
        rest = self._consumer.consume(500, 0) if first is not None else []
        for message in [first, *rest] if first is not None else []:
            key = message.key()
            if message.error() is None and key is not None:
                found.append(
                    Record(_bytes(key), None if message.value() is None else _bytes(message.value()))
                )
        # position() passes transaction markers, which are never delivered.
        position = self._consumer.position([self._partition])[0].offset
        self._next_offset = max(self._next_offset, position)
        return found


def _bytes(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value


def _ensure_topic(admin: AdminClient) -> None:
    metadata = admin.list_topics(timeout=TIMEOUT_S)
    topic = metadata.topics.get(TOPIC)
    if topic is None:
        wanted = NewTopic(
            TOPIC,
            num_partitions=1,
            replication_factor=min(3, len(metadata.brokers)),
            config={"cleanup.policy": "compact"},
        )
        try:
            admin.create_topics([wanted], operation_timeout=TIMEOUT_S)[TOPIC].result(TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
        return
    if len(topic.partitions) != 1:
        raise LogUnavailableError(f"topic {TOPIC} has {len(topic.partitions)} partitions, not 1")
    resource = ConfigResource(ResourceType.TOPIC, TOPIC)
    policy = admin.describe_configs([resource])[resource].result(TIMEOUT_S)["cleanup.policy"].value
    if policy != "compact":
        raise LogUnavailableError(f"topic {TOPIC} has cleanup.policy={policy}: set it to compact")
