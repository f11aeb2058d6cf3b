"""A client that has lost its way to the broker for good, without an error: it is found out, and reading goes on."""

import time
from collections.abc import Iterator

import confluent_kafka as ck
import pytest

from crossdock_eventing.broker.confluent import ClientSettings, ConfluentBroker
from crossdock_eventing.broker.confluent.consumer import ConfluentReader
from crossdock_eventing.broker.failure import BrokerUnavailable
from crossdock_eventing.broker.interface import Consumer, TopicPartition, TopicSpec

pytestmark = pytest.mark.kafka

TOPIC = TopicPartition("silence", 0)
_NOBODY = {"bootstrap.servers": "127.0.0.1:9", "group.id": "crossdock.test"}
_DEADLINE_S = 30.0


@pytest.fixture
def broker(kafka_bootstrap: str) -> Iterator[ConfluentBroker]:
    settings = ClientSettings(silence_max_s=0.2, query_timeout_s=1.0)
    made = ConfluentBroker(kafka_bootstrap, settings)
    admin = made.admin()
    admin.create_topics([TopicSpec(TOPIC.topic, 1)])
    yield made
    admin.delete_topics([TOPIC.topic])
    admin.close()


def write(broker: ConfluentBroker, value: bytes) -> None:
    producer = broker.producer("silence")
    producer.init_transactions()
    producer.begin()
    producer.produce(TOPIC.topic, key=b"k", value=value, partition=0)
    producer.commit()
    producer.close()


def next_value(reader: ConfluentReader) -> bytes | None:
    deadline = time.monotonic() + _DEADLINE_S
    while time.monotonic() < deadline:
        if records := reader.poll(1, 0.1):
            return records[0].value
    return None


def poll_for(consumer: Consumer, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        consumer.poll(1, 0.1)


def cut_off(reader: ConfluentReader) -> None:
    """Put a client in its place that knows no broker, at the same position."""
    at = reader.position(TOPIC)
    reader._client.close()
    reader._client = ck.Consumer(_NOBODY)
    reader._client.assign([ck.TopicPartition(*TOPIC, at)])
    reader._starts = {TOPIC: at}


def test_a_reader_that_is_cut_off_goes_on_where_it_was(broker: ConfluentBroker) -> None:
    reader = broker.reader()
    reader.assign({TOPIC: 0})
    write(broker, b"before")
    assert next_value(reader) == b"before"
    cut_off(reader)
    write(broker, b"after")
    assert next_value(reader) == b"after"
    reader.close()


def test_silence_alone_costs_a_reader_nothing(broker: ConfluentBroker) -> None:
    reader = broker.reader()
    reader.assign({TOPIC: 0})
    client = reader._client
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        assert reader.poll(1, 0.1) == []
    assert reader._client is client
    reader.close()


def test_who_asks_for_the_ends_of_a_partition_may_be_cut_off_too(broker: ConfluentBroker) -> None:
    write(broker, b"one")
    broker._probe._client = ck.Consumer(_NOBODY)
    assert broker.reader().watermarks(TOPIC).high == 2  # with the transaction's marker


def test_a_group_consumer_that_is_cut_off_ends_its_process(broker: ConfluentBroker) -> None:
    consumer = broker.consumer("retail.silence", instance_id=None)
    consumer._client.close()
    consumer._client = ck.Consumer(_NOBODY)
    consumer._client.assign([ck.TopicPartition(*TOPIC, 0)])
    with pytest.raises(BrokerUnavailable):
        poll_for(consumer, _DEADLINE_S)
    consumer.close()
