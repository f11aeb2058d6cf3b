"""A cluster in memory with the catalogue's topics, the command line on it, and worlds put together by hand for the auditor."""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import pytest
import structlog

from crossdock_canonical.records import (
    BY_NAME,
    ChannelOrderReceived,
    ItemMapped,
    LocationKind,
    TenderState,
)
from crossdock_canonical.specification import T0
from crossdock_eventing import names
from crossdock_eventing.broker.interface import Headers, Record, TopicPartition, TopicSpec
from crossdock_eventing.broker.memory import MemoryBroker
from crossdock_eventing.broker.partitioner import partition_for
from crossdock_eventing.clock import ManualClock, to_micros
from crossdock_eventing.codec import Codec
from crossdock_eventing.deadletter import dead_letter_headers
from crossdock_eventing.envelope import Meta, headers, record_key, wrap
from crossdock_eventing.parking.formats import (
    Instruction,
    Park,
    Queued,
    ReplayEntry,
    key_text,
    park_name,
    queue_name,
)
from crossdock_eventing.registry import MemoryRegistry
from crossdock_local.addresses import bootstrap_servers
from crossdock_simulation.backbone import Backbone
from crossdock_simulation.planting import an_order
from crossdock_tools import auditing, documents, main, trace
from crossdock_tools.audit.auditor import Auditor
from crossdock_tools.audit.books import NO_BOOKS, Books
from crossdock_tools.audit.report import Check, Report
from crossdock_tools.dead_letters import command as dead_letters
from crossdock_tools.dead_letters import plan_command, replay_command
from crossdock_tools.dead_letters.changelog import read_changelog
from crossdock_tools.dead_letters.replays import ReplayReader, Said
from crossdock_tools.schemas.contracts import Repository
from crossdock_tools.topic_reader import TopicReader
from crossdock_tools.topics import apply_catalogue, group_inputs

REPOSITORY = Repository(Path(__file__).parents[2] / "schemas")


class MemoryCluster:
    """`crossdock_tools.cluster.Cluster`, in memory: where this environment's cluster would be."""

    bootstrap_servers = bootstrap_servers()

    def __init__(self) -> None:
        self.clock = ManualClock(T0)
        self._broker = MemoryBroker(lambda: to_micros(self.clock.now()) // 1000)
        self._registry = MemoryRegistry()
        apply_catalogue(REPOSITORY, self._broker.admin())
        self.codec = Codec(
            self._registry, written=[(kind, kind.TOPIC) for kind in BY_NAME.values()], read=BY_NAME.values()
        )
        self._producers = 0

    def broker(self) -> MemoryBroker:
        return self._broker

    def registry(self) -> MemoryRegistry:
        return self._registry

    def put(
        self,
        topic: str,
        *,
        key: bytes | None = b"k",
        value: bytes | None,
        headers: Headers = (),
        partition: int | None = None,
        after_s: float = 0.0,
    ) -> None:
        """One committed record, stamped `after_s` after the beginning."""
        self._producers += 1
        producer = self._broker.producer(f"test-{self._producers}")
        producer.init_transactions()
        producer.begin()
        producer.produce(
            topic,
            key=key,
            value=value,
            headers=headers,
            partition=partition,
            timestamp_ms=to_micros(T0 + timedelta(seconds=after_s)) // 1000,
        )
        producer.commit()

    def publish(self, record: Any, meta: Meta) -> None:
        """A record as a service writes it."""
        self.put(
            record.TOPIC,
            key=record_key(record).encode(),
            value=self.codec.encode(record, meta),
            headers=headers(meta, record.SCHEMA, None),
        )


#: A state with nothing but timers, as a changelog holds it.
_STATE = json.dumps(
    {
        "type": "record",
        "name": "AnyState",
        "namespace": "retail.state.test",
        "fields": [
            {
                "name": "timers",
                "type": {"type": "map", "values": {"type": "long", "logicalType": "timestamp-micros"}},
            }
        ],
    }
)
_DAY_S = 86_400.0


class World:
    """Topics, states, journals and offsets as six services might have left them, put together by hand to plant a defect."""

    def __init__(self, cluster: MemoryCluster) -> None:
        self.cluster = cluster
        self.broker, self.registry = cluster.broker(), cluster.registry()
        self.inputs = {
            service: [topic.name for topic in topics] for service, topics in group_inputs(REPOSITORY).items()
        }
        self._auditor = Auditor(REPOSITORY, self.registry)
        self._parks: dict[tuple[str, bytes], Park] = {}
        self._deliveries = 0

    def deliver(self, record: Any, *, delivery: str | None = None, day: float = 0.0) -> str:
        """A message of the outside; the same delivery again is a repetition. Returns its event id."""
        self._deliveries += 1
        cause = delivery or f"delivery/{self._deliveries}"
        return self._publish(record, "channel-gateway", cause, day)

    def emit(self, service: str, record: Any, cause: str, *, day: float = 0.0) -> str:
        """What a service published because of an event id or a timer. Returns its event id."""
        return self._publish(record, f"/crossdock/{service}", cause, day)

    def _publish(self, record: Any, source: str, cause: str, day: float) -> str:
        now = T0 + timedelta(days=day)
        meta = wrap(record, causation_id=cause, correlation_id="", now=now, source=source, attributes={})
        self.publish(record, meta, day=day)
        return meta.event_id

    def publish(self, record: Any, meta: Meta, *, day: float = 0.0) -> None:
        """A record under an envelope of the test's own."""
        self.cluster.put(
            record.TOPIC,
            key=record_key(record).encode(),
            value=self.cluster.codec.encode(record, meta),
            headers=headers(meta, record.SCHEMA, None),
            after_s=day * _DAY_S,
        )

    def partition(self, record: Any) -> int:
        """Where a record lies."""
        return partition_for(record_key(record).encode(), self.broker.admin().partitions(record.TOPIC))

    def state(self, service: str, key: str, *, partition: int, day: float = 0.0, **due: datetime) -> None:
        """A version of a state with these timers."""
        schema_id = self.registry.id_of("any", _STATE)
        body = BytesIO()
        fastavro.schemaless_writer(body, fastavro.parse_schema(json.loads(_STATE)), {"timers": due})
        value = struct.pack(">bI", 0, schema_id) + body.getvalue()
        self._changelog(service, key, value, partition, day)

    def forget(self, service: str, key: str, *, partition: int, day: float) -> None:
        """The end of a state."""
        self._changelog(service, key, None, partition, day)

    def book(self, service: str, partition: int, **offsets: int) -> None:
        """The book of input offsets in a changelog; topics by their name without `retail.` and `.v1`, dots as underscores."""
        found = {f"retail.{topic.replace('_', '.')}.v1": offset for topic, offset in offsets.items()}
        self._changelog(service, "\x00offsets", json.dumps(found).encode(), partition, 0.0)

    def _changelog(self, service: str, key: str, value: bytes | None, partition: int, day: float) -> None:
        topic = names.changelog_topic(service)
        self.cluster.put(topic, key=key.encode(), value=value, partition=partition, after_s=day * _DAY_S)

    def journal(self, service: str, partition: int, **parts: Any) -> None:
        """One transaction in a service's journal."""
        topic = names.journal_topic(service)
        self.broker.admin().create_topics([TopicSpec(topic, 4)])
        value = json.dumps({"v": 1, "now": to_micros(T0), **parts}).encode()
        self.cluster.put(topic, key=str(partition).encode(), value=value, partition=partition)

    def dead_letter(
        self,
        service: str,
        topic: str,
        partition: int,
        offset: int,
        *,
        code: str = "test.code",
        key: bytes = b"k",
    ) -> None:
        """A copy of a message that a service gave up on, and what it keeps of it; the gateway keeps nothing."""
        original = Record(topic, partition, offset, 0, key, b"", ())
        if service != "channel-gateway" and key:
            park = self._parks.get((service, key)) or Park(f"{topic}[{partition}]@{offset}", 0, code)
            self._parks[service, key] = replace(park, tail=park.tail + 1)
            queued = json.dumps(Queued(original, 1, code).to_json()).encode()
            name = key_text(key)
            self._changelog(service, queue_name(name, park.tail), queued, partition, 0.0)
            parked = json.dumps(self._parks[service, key].to_json()).encode()
            self._changelog(service, park_name(name), parked, partition, 0.0)
        found = dead_letter_headers(original, code=code, detail="", error=None, group=names.group(service))
        self.cluster.put(
            names.dead_letter_topic(service), key=key, value=b"", headers=found, partition=partition
        )

    def commit(self, service: str, **next_offsets: int) -> None:
        """What a service's group has taken: everything, but of these topics (named as in `book`) so much of each partition."""
        admin = self.broker.admin()
        offsets = {
            each: admin.watermarks(each).high
            for topic in self.inputs[service]
            for each in (TopicPartition(topic, number) for number in range(admin.partitions(topic)))
        }
        for topic, offset in next_offsets.items():
            name = f"retail.{topic.replace('_', '.')}.v1"
            offsets |= {each: min(offset, end) for each, end in offsets.items() if each.topic == name}
        consumer = self.broker.consumer(names.group(service), instance_id=None)
        consumer.subscribe(
            self.inputs[service],
            on_assign=lambda _: None,
            on_revoke=lambda _: None,
            on_lost=lambda _: None,
        )
        while consumer.assignment() != offsets.keys():
            consumer.poll(1, 0.0)
        producer = self.broker.producer(f"commit-{service}")
        producer.init_transactions()
        producer.begin()
        producer.send_offsets(offsets, consumer.group_metadata())
        producer.commit()
        consumer.close()

    def commit_all(self) -> None:
        """Every group has taken everything."""
        for service in self.inputs:
            self.commit(service)

    def audit(
        self, books: Books = NO_BOOKS, *, drained: bool = False, supplied: Sequence[Check] = ()
    ) -> Report:
        return self._auditor.audit(self.broker, books, expect_drained=drained, supplied=supplied)

    def check(self, name: str, books: Books = NO_BOOKS, *, drained: bool = False) -> Check:
        """The check of this name."""
        [found] = [each for each in self.audit(books, drained=drained).checks if each.name == name]
        return found


@pytest.fixture
def world(cluster: MemoryCluster) -> World:
    return World(cluster)


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    exit_code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def cluster() -> MemoryCluster:
    return MemoryCluster()


@pytest.fixture
def crossdock(
    cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Run `crossdock ...` against the cluster in memory."""
    return command_line(cluster, monkeypatch, capsys)


def command_line(
    cluster: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """`crossdock ...` where every command reaches this cluster."""

    @contextmanager
    def reachable(**_: object) -> Iterator[Any]:
        yield cluster

    for module in (auditing, dead_letters, documents, plan_command, replay_command, trace):
        monkeypatch.setattr(module, "reachable_cluster", reachable)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr("sys.argv", ["crossdock", *arguments])
        with pytest.raises(SystemExit) as ended:
            main.main()
        said = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), said.out, said.err)

    return run


SHOP = "order-orchestrator"


class Shop:
    """Six services at work in memory, and the command line on their cluster: orders of items that nobody mapped are parked."""

    bootstrap_servers = bootstrap_servers()

    def __init__(self) -> None:
        self.backbone = Backbone()
        self.backbone.location("WH", kind=LocationKind.WAREHOUSE)
        self.backbone.stock("A", WH=1_000)
        self.at_work = True

    def broker(self) -> MemoryBroker:
        return self.backbone.broker

    def registry(self) -> MemoryRegistry:
        return self.backbone.registry

    def order(self, number: int, *, sku: str = "A", **fields: Any) -> ChannelOrderReceived:
        """A paid order; it is parked for as long as its item is not mapped. Another revision of it queues behind."""
        placed = an_order(number, (sku, 1, 1000 * number), state=TenderState.CAPTURED, **fields)
        self.backbone.send(placed)
        self.backbone.run()
        return placed

    def map(self, sku: str = "A") -> None:
        """What was the matter is put right."""
        self.backbone.send(ItemMapped(reference=f"sku:{sku}", scheme="sku", value=sku, sku="A"))
        self.backbone.run()

    def parked(self) -> dict[str, int]:
        """Parked keys of the orchestrator, with how many messages each holds."""
        return {key: len(each) for key, each in read_changelog(self.broker(), SHOP).parked.items()}

    def instructions(self) -> list[Instruction]:
        """What was ever sent to the orchestrator."""
        reader = TopicReader(self.broker(), self.registry(), [names.retry_topic(SHOP)])
        return [Instruction.from_bytes(record.value) for record in reader.records()]

    def entries(self) -> list[ReplayEntry]:
        """What it said to that."""
        reader = TopicReader(self.broker(), self.registry(), [names.replays_topic(SHOP)])
        return [ReplayEntry.from_bytes(record.value) for record in reader.records()]


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """Whoever reads the replays gives the services time to work first, unless they stand still."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL), cache_logger_on_first_use=False
    )
    made = Shop()
    for module in (dead_letters, plan_command, replay_command):
        monkeypatch.setattr(module, "SystemClock", lambda: made.backbone.clock)
    entries = ReplayReader.entries

    def after_work(reader: ReplayReader) -> Iterator[Said]:
        if made.at_work:
            made.backbone.run()
        else:
            made.backbone.clock.advance(1.0)
        return entries(reader)

    monkeypatch.setattr(ReplayReader, "entries", after_work)
    yield made
    structlog.reset_defaults()


@pytest.fixture
def dlt(
    shop: Shop,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Callable[..., Outcome]:
    """`crossdock dlt ...` on the shop's cluster, in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    run = command_line(shop, monkeypatch, capsys)
    return lambda *arguments: run("dlt", *arguments)
