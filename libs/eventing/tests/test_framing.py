"""Our bytes and Confluent's are the same: both framings, through a real broker and a real registry, in both directions."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
from confluent_kafka.schema_registry import (
    Schema,
    SchemaRegistryClient,
    header_schema_id_serializer,
    topic_record_subject_name_strategy,
)
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from crossdock_eventing.broker.confluent import ConfluentBroker
from crossdock_eventing.broker.interface import Headers, Record, TopicPartition, TopicSpec
from crossdock_eventing.codec import Codec, Undecodable
from crossdock_eventing.envelope import Meta
from crossdock_eventing.registry import ConfluentRegistry

pytestmark = [
    pytest.mark.kafka,
    # Confluent's client imports a module of authlib that warns about its own dependency.
    pytest.mark.filterwarnings("ignore:.*httpx.*:DeprecationWarning"),
]

TOPIC = f"framing-{os.getpid()}"
MICROS = {"type": "long", "logicalType": "timestamp-micros"}
META_SCHEMA = {
    "type": "record",
    "name": "Meta",
    "namespace": "retail.common",
    "fields": [
        {"name": "event_id", "type": "string"},
        {"name": "correlation_id", "type": "string"},
        {"name": "causation_id", "type": "string", "default": ""},
        {"name": "occurred_at", "type": MICROS},
        {"name": "recorded_at", "type": MICROS},
        {"name": "source", "type": "string"},
        {"name": "attributes", "type": {"type": "map", "values": "string"}, "default": {}},
    ],
}
META = Meta(
    event_id="e1",
    correlation_id="order-1",
    causation_id="c1",
    occurred_at=datetime(2026, 3, 2, 9, 0, 0, 123456, tzinfo=UTC),
    recorded_at=datetime(2026, 3, 2, 9, 0, 1, tzinfo=UTC),
    source="/crossdock/framing",
    attributes={"channel.note": "für später"},
)


@dataclass(frozen=True)
class Counted:
    SCHEMA: ClassVar[str] = "framing.Counted"
    AVSC: ClassVar[str] = json.dumps(
        {
            "type": "record",
            "name": "Counted",
            "namespace": "framing",
            "fields": [
                {"name": "meta", "type": META_SCHEMA},
                {"name": "sku", "type": "string"},
                {"name": "on_hand", "type": "long"},
            ],
        }
    )

    sku: str
    on_hand: int

    def to_avro(self) -> dict[str, Any]:
        return {"sku": self.sku, "on_hand": self.on_hand}

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> Counted:
        return cls(value["sku"], value["on_hand"])


PLAIN = {"meta": META.to_avro(), "sku": "TEE-M", "on_hand": -3}


@pytest.fixture(scope="module")
def confluent(schema_registry_url: str) -> SchemaRegistryClient:
    client = SchemaRegistryClient({"url": schema_registry_url})
    client.register_schema(f"{TOPIC}-{Counted.SCHEMA}", Schema(Counted.AVSC, "AVRO"))
    return client


@pytest.fixture
def codec(confluent: SchemaRegistryClient, schema_registry_url: str) -> Codec:
    return Codec(ConfluentRegistry(schema_registry_url), written=[(Counted, TOPIC)], read=[Counted])


@pytest.fixture(scope="module")
def broker(kafka_bootstrap: str) -> Iterator[ConfluentBroker]:
    broker = ConfluentBroker(kafka_bootstrap)
    admin = broker.admin()
    admin.create_topics([TopicSpec(TOPIC, 1)])
    yield broker
    admin.close()


def through_kafka(broker: ConfluentBroker, value: bytes, headers: Headers = ()) -> Record:
    """The record as a reader of the topic finds it."""
    producer = broker.producer(f"{TOPIC}-producer")
    producer.init_transactions()
    producer.begin()
    offsets: list[int] = []
    producer.produce(
        TOPIC, key=b"k", value=value, headers=headers, on_delivery=lambda _, offset: offsets.append(offset)
    )
    producer.commit()
    producer.close()
    reader = broker.reader()
    reader.assign({TopicPartition(TOPIC, 0): offsets[0]})
    deadline = time.monotonic() + 20
    while not (found := reader.poll(1, 0.1)):
        assert time.monotonic() < deadline
    reader.close()
    return found[0]


def serializer(confluent: SchemaRegistryClient, **conf: Any) -> AvroSerializer:
    settings = {
        "auto.register.schemas": False,
        "subject.name.strategy": topic_record_subject_name_strategy,
        **conf,
    }
    return AvroSerializer(confluent, Counted.AVSC, conf=settings)


def test_a_record_with_its_schemas_guid_in_a_header_is_decoded(
    broker: ConfluentBroker, confluent: SchemaRegistryClient, codec: Codec
) -> None:
    headers: list[tuple[str, bytes]] = []
    write = serializer(confluent, **{"schema.id.serializer": header_schema_id_serializer})
    value = write(PLAIN, SerializationContext(TOPIC, MessageField.VALUE, headers))
    record = through_kafka(broker, value, tuple(headers))
    [(name, framed)] = record.headers
    assert (name, framed[0], len(framed)) == ("__value_schema_id", 1, 17)
    assert codec.decode(record.value, record.headers) == (META, Counted("TEE-M", -3))


def test_a_record_with_its_schemas_id_before_the_body_is_decoded(
    broker: ConfluentBroker, confluent: SchemaRegistryClient, codec: Codec
) -> None:
    value = serializer(confluent)(PLAIN, SerializationContext(TOPIC, MessageField.VALUE))
    record = through_kafka(broker, value)
    assert codec.decode(record.value, record.headers) == (META, Counted("TEE-M", -3))


def test_what_we_write_is_read_by_confluents_deserializer(
    broker: ConfluentBroker, schema_registry_url: str, codec: Codec
) -> None:
    record = through_kafka(broker, codec.encode(Counted("TEE-M", -3), META))
    read = AvroDeserializer(SchemaRegistryClient({"url": schema_registry_url}))
    context = SerializationContext(TOPIC, MessageField.VALUE, list(record.headers))
    assert read(record.value, context) == PLAIN


def test_our_bytes_are_theirs(confluent: SchemaRegistryClient, codec: Codec) -> None:
    theirs = serializer(confluent)(PLAIN, SerializationContext(TOPIC, MessageField.VALUE))
    assert codec.encode(Counted("TEE-M", -3), META) == theirs


def test_a_guid_that_the_registry_does_not_know_is_undecodable(codec: Codec) -> None:
    with pytest.raises(Undecodable) as refused:
        codec.decode(b"", (("__value_schema_id", b"\x01" + bytes(16)),))
    assert refused.value.code == "contract.unknown_schema"
