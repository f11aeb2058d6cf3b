"""Reading up to an end: markers count, a transaction that stays open is not waited for without end."""

from __future__ import annotations

import pytest

from crossdock_eventing.broker.failure import BrokerUnavailable
from crossdock_eventing.broker.interface import Producer, TopicPartition, TopicSpec
from crossdock_eventing.broker.memory import MemoryBroker
from crossdock_eventing.reading import batches_up_to

ENDS = [TopicPartition("t", 0), TopicPartition("t", 1)]


@pytest.fixture
def broker() -> MemoryBroker:
    broker = MemoryBroker(lambda: 1_000_000)
    broker.admin().create_topics([TopicSpec("t", 2)])
    return broker


def begun(broker: MemoryBroker, name: str) -> Producer:
    producer = broker.producer(name)
    producer.init_transactions()
    producer.begin()
    for partition in (0, 1):
        producer.produce("t", key=b"k", value=name.encode(), partition=partition)
    return producer


def read(broker: MemoryBroker) -> list[bytes | None]:
    reader = broker.reader()
    reader.assign(dict.fromkeys(ENDS, 0))
    ends = {each: reader.watermarks(each).high for each in ENDS}
    return [record.value for batch in batches_up_to(reader, ends) for record in batch]


def test_it_reads_every_partition_past_markers_and_aborted_records_to_its_end(broker: MemoryBroker) -> None:
    begun(broker, "1").commit()
    begun(broker, "lost").abort()
    begun(broker, "2").commit()
    begun(broker, "lost too").abort()
    assert read(broker) == [b"1", b"2"] * 2


def test_it_does_not_poll_an_empty_log(broker: MemoryBroker) -> None:
    assert read(broker) == []


def test_it_gives_up_when_nothing_moves_for_long_and_says_where(broker: MemoryBroker) -> None:
    begun(broker, "1").commit()
    pending = begun(broker, "pending")
    begun(broker, "2").commit()
    with pytest.raises(BrokerUnavailable, match="partition=1"):
        read(broker)
    pending.abort()
    assert read(broker) == [b"1", b"2"] * 2
