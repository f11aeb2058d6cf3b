"""One bench for both brokers: the contract suite runs on the in-memory broker and on Kafka."""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from crossdock_eventing.broker.confluent import ClientSettings, ConfluentBroker
from crossdock_eventing.broker.interface import Broker, Consumer, Producer, Record, TopicPartition, TopicSpec
from crossdock_eventing.broker.memory import MemoryBroker, Timeouts

TRANSACTION_TIMEOUT_MS = 2_000


class Member:
    """A consumer that starts what it is assigned at the committed offset, and notes what happens to it."""

    def __init__(self, consumer: Consumer, topics: list[str]) -> None:
        self.consumer = consumer
        self.records: list[Record] = []
        self.events: list[tuple[str, list[TopicPartition]]] = []
        self.is_polling = False
        consumer.subscribe(
            topics,
            on_assign=lambda partitions: self._note("assign", partitions),
            on_revoke=lambda partitions: self._note("revoke", partitions),
            on_lost=lambda partitions: self._note("lost", partitions),
        )

    def _note(self, event: str, partitions: list[TopicPartition]) -> None:
        assert self.is_polling, f"on_{event} outside poll"
        assert partitions
        self.events.append((event, partitions))
        if event == "assign":
            for partition, offset in self.consumer.committed(partitions).items():
                if offset is not None:
                    self.consumer.seek(partition, offset)
                    self.consumer.resume([partition])

    def poll(self) -> None:
        self.is_polling = True
        self.records += self.consumer.poll(500, 0.05)
        self.is_polling = False

    def close(self) -> None:
        self.is_polling = True
        self.consumer.close()

    def owned(self) -> set[TopicPartition]:
        return set(self.consumer.assignment())

    def values(self) -> list[bytes | None]:
        return [record.value for record in self.records]


class Bench:
    """A broker, names no other test uses, and waiting: real time on Kafka, counted steps in memory."""

    def __init__(self, broker: Broker, label: str, pass_time: Callable[[], bool]) -> None:
        self.broker = broker
        self.admin = broker.admin()
        self._label = label
        self._pass_time = pass_time
        self._names = 0
        self._open: list[Any] = [self.admin]

    def name(self, kind: str) -> str:
        self._names += 1
        return f"{self._label}-{kind}-{self._names}"

    def topic(self, partitions: int = 1, **configs: str) -> str:
        name = self.name("topic")
        settings = {key.replace("_", "."): value for key, value in configs.items()}
        self.admin.create_topics([TopicSpec(name, partitions, configs=settings)])
        return name

    def group(self, *topics: str) -> str:
        """A group that starts at 0 in every partition of these topics."""
        group = self.name("group")
        starts = {TopicPartition(t, p): 0 for t in topics for p in range(self.admin.partitions(t))}
        self.admin.initialise_group(group, starts)
        return group

    def member(self, group: str, *topics: str, instance_id: str | None = None) -> Member:
        member = Member(self.broker.consumer(group, instance_id=instance_id), list(topics))
        self._open.append(member)
        return member

    def producer(self, transactional_id: str | None = None) -> Producer:
        producer = self.broker.producer(transactional_id or self.name("producer"))
        producer.init_transactions()
        self._open.append(producer)
        return producer

    def publish(self, topic: str, *values: bytes | None, partition: int = 0) -> None:
        """Committed records by a producer of their own."""
        producer = self.producer()
        producer.begin()
        for value in values:
            producer.produce(topic, key=b"k", value=value, partition=partition)
        producer.commit()

    def read(self, topic: str, *, start: int = 0, count: int, partition: int = 0) -> list[Record]:
        """Exactly `count` committed records, or fail."""
        reader = self.broker.reader()
        reader.assign({TopicPartition(topic, partition): start})
        records: list[Record] = []
        self.until(lambda: len(records) >= count, lambda: records.extend(reader.poll(500, 0.05)))
        reader.close()
        assert len(records) == count
        return records

    def settle(self, *members: Member, owned: int) -> None:
        """Poll the members until each owns this many partitions."""
        self.until(
            lambda: all(len(member.owned()) == owned for member in members),
            lambda: [member.poll() for member in members],
        )

    def until(self, holds: Callable[[], bool], step: Callable[[], object] = lambda: None) -> None:
        while not holds():
            assert self._pass_time(), "condition never held"
            step()

    def close(self) -> None:
        for client in self._open:
            client.close()


class ManualClock:
    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def manual_clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def memory_broker(manual_clock: ManualClock) -> MemoryBroker:
    return MemoryBroker(manual_clock, timeouts=Timeouts(transaction_timeout_ms=TRANSACTION_TIMEOUT_MS))


@pytest.fixture
def memory_bench(memory_broker: MemoryBroker, manual_clock: ManualClock) -> Iterator[Bench]:
    limit_ms = manual_clock.ms + 60_000

    def pass_time() -> bool:
        manual_clock.ms += 50
        return manual_clock.ms < limit_ms

    bench = Bench(memory_broker, "memory", pass_time)
    yield bench
    bench.close()


@pytest.fixture
def kafka_bench(kafka_bootstrap: str) -> Iterator[Bench]:
    settings = ClientSettings(
        transaction_timeout_ms=TRANSACTION_TIMEOUT_MS, answer_timeout_ms=TRANSACTION_TIMEOUT_MS
    )
    deadline = time.monotonic() + 45
    bench = Bench(
        ConfluentBroker(kafka_bootstrap, settings),
        f"contract-{os.getpid()}-{time.monotonic_ns()}",
        lambda: time.monotonic() < deadline,
    )
    yield bench
    bench.close()


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def bench(request: pytest.FixtureRequest) -> Bench:
    bench: Bench = request.getfixturevalue(f"{request.param}_bench")
    return bench
