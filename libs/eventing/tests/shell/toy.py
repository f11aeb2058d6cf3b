"""A small service on the in-memory broker: it adds amounts by key, refuses negative ones, and closes after a deadline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from crossdock_eventing import names
from crossdock_eventing.broker.interface import Record, TopicPartition, TopicSpec
from crossdock_eventing.broker.memory import MemoryBroker, Timeouts
from crossdock_eventing.broker.partitioner import partition_for
from crossdock_eventing.clock import ManualClock
from crossdock_eventing.codec import Codec
from crossdock_eventing.envelope import headers, wrap
from crossdock_eventing.keyvalue import MemoryKeyValue
from crossdock_eventing.registry import MemoryRegistry
from crossdock_eventing.service import Answer, Service
from crossdock_eventing.worker import Pace, Worker

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
PARTITIONS = 2
_META = {
    "type": "record",
    "name": "Meta",
    "namespace": "retail.common",
    "fields": [
        {"name": "event_id", "type": "string"},
        {"name": "correlation_id", "type": "string"},
        {"name": "causation_id", "type": "string", "default": ""},
        {"name": "occurred_at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "recorded_at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "source", "type": "string"},
        {"name": "attributes", "type": {"type": "map", "values": "string"}, "default": {}},
    ],
}


def avsc(name: str, *fields: dict[str, Any], meta: bool = True) -> str:
    envelope = [{"name": "meta", "type": _META}] if meta else []
    return json.dumps({"type": "record", "name": name, "namespace": "toy", "fields": [*envelope, *fields]})


_TEXT, _NUMBER = {"type": "string"}, {"type": "long"}
_TIMERS = {"type": "map", "values": {"type": "long", "logicalType": "timestamp-micros"}}


class Flat:
    """Conversion for records without nesting."""

    def to_avro(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in (each.name for each in fields(self))}

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> Any:
        return cls(**{name: value[name] for name in (each.name for each in fields(cls))})


@dataclass(frozen=True, kw_only=True)
class Add(Flat):
    SCHEMA: ClassVar[str] = "toy.Add"
    TOPIC: ClassVar[str] = "toy.commands.v1"
    KEY: ClassVar[tuple[str, ...]] = ("account",)
    IDENTITY: ClassVar[tuple[str, ...]] = ("reference",)
    CORRELATION: ClassVar[str | None] = None
    AVSC: ClassVar[str] = avsc(
        "Add", {"name": "account", **_TEXT}, {"name": "reference", **_TEXT}, {"name": "amount", **_NUMBER}
    )

    account: str
    reference: str
    amount: int


@dataclass(frozen=True, kw_only=True)
class Payment(Flat):
    SCHEMA: ClassVar[str] = "toy.Payment"
    TOPIC: ClassVar[str] = "toy.payments.v1"
    KEY: ClassVar[tuple[str, ...]] = ("account",)
    IDENTITY: ClassVar[tuple[str, ...]] = ("account",)
    CORRELATION: ClassVar[str | None] = None
    AVSC: ClassVar[str] = avsc("Payment", {"name": "account", **_TEXT})

    account: str


@dataclass(frozen=True, kw_only=True)
class Added(Flat):
    SCHEMA: ClassVar[str] = "toy.Added"
    TOPIC: ClassVar[str] = "toy.events.v1"
    KEY: ClassVar[tuple[str, ...]] = ("account",)
    IDENTITY: ClassVar[tuple[str, ...]] = ("reference",)
    CORRELATION: ClassVar[str | None] = None
    AVSC: ClassVar[str] = avsc(
        "Added", {"name": "account", **_TEXT}, {"name": "reference", **_TEXT}, {"name": "total", **_NUMBER}
    )

    account: str
    reference: str
    total: int


@dataclass(frozen=True, kw_only=True)
class Balance(Flat):
    SCHEMA: ClassVar[str] = "toy.Balance"
    TOPIC: ClassVar[str] = "toy.balance.table.v1"
    KEY: ClassVar[tuple[str, ...]] = ("account",)
    IDENTITY: ClassVar[tuple[str, ...]] = ("total",)
    CORRELATION: ClassVar[str | None] = None
    AVSC: ClassVar[str] = avsc("Balance", {"name": "account", **_TEXT}, {"name": "total", **_NUMBER})

    account: str
    total: int


@dataclass(frozen=True, kw_only=True)
class Rate(Flat):
    SCHEMA: ClassVar[str] = "toy.Rate"
    TOPIC: ClassVar[str] = "toy.rates.table.v1"
    KEY: ClassVar[tuple[str, ...]] = ("account",)
    IDENTITY: ClassVar[tuple[str, ...]] = ("factor",)
    CORRELATION: ClassVar[str | None] = None
    AVSC: ClassVar[str] = avsc("Rate", {"name": "account", **_TEXT}, {"name": "factor", **_NUMBER})

    account: str
    factor: int


@dataclass(frozen=True, kw_only=True)
class CounterState(Flat):
    SCHEMA: ClassVar[str] = "toy.state.CounterState"
    AVSC: ClassVar[str] = json.dumps(
        {
            "type": "record",
            "name": "CounterState",
            "namespace": "toy.state",
            "fields": [
                {"name": "total", "type": "long"},
                {"name": "asking", "type": "string", "default": ""},
                {"name": "timers", "type": _TIMERS},
            ],
        }
    )

    total: int
    asking: str = ""
    timers: Mapping[str, datetime] = field(default_factory=dict)


@dataclass(frozen=True)
class Fired:
    name: str
    due: datetime


@dataclass(frozen=True)
class Ask:
    call_id: str


@dataclass(frozen=True)
class Told:
    amount: int


class Refused(Exception):
    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


class Later(Refused):
    after_s = 5.0


DEADLINE = timedelta(seconds=60)


@dataclass(frozen=True)
class Armed:
    due: datetime


@dataclass(frozen=True)
class Disarmed:
    pass


@dataclass(frozen=True)
class Asking:
    call_id: str


def decide(command: Any, state: CounterState | None, *, now: datetime, rates: Any = None) -> tuple[Any, ...]:
    total = 0 if state is None else state.total
    match command:
        case Add(amount=amount, reference="ask") as add:
            return (Asking(f"{add.account}/{amount}"),)
        case Add(amount=amount, reference="deadline"):
            return (Armed(now + DEADLINE),)
        case Add(amount=amount) if amount < 0:
            raise Refused("toy.negative", f"{amount} is negative")
        case Add(reference="later"):
            raise Later("toy.later", "come back")
        case Add(account=account, reference=reference, amount=amount):
            rows = rates(account) if rates is not None else ()
            if rates is not None and not rows:
                raise Refused("toy.no_rate", account)
            total += amount * (rows[0].factor if rows else 1)
            return (
                Added(account=account, reference=reference, total=total),
                Balance(account=account, total=total),
            )
        case Payment():
            return (Disarmed(),)
        case Told(amount=amount):
            return (Added(account="told", reference=str(total), total=total + amount),)
        case Fired():
            return (Added(account="deadline", reference=command.name, total=-1),)
    raise AssertionError(command)


def evolve(state: CounterState | None, event: Any) -> CounterState | None:
    state = state or CounterState(total=0)
    match event:
        case Added(total=-1):
            return None
        case Added(total=total):
            return replace(state, total=total, asking="")
        case Armed(due):
            return replace(state, timers={"deadline": due})
        case Disarmed():
            return replace(state, timers={})
        case Asking(call_id):
            return replace(state, asking=call_id)
    return state


class ManualPort:
    """A port whose answers the test gives."""

    def __init__(self) -> None:
        self.started: list[tuple[str, str, bool]] = []
        self.answers: list[Answer] = []

    def start(self, state_key: str, call: Any, *, fresh: bool) -> None:
        self.started.append((state_key, call.call_id, fresh))

    def collect(self) -> list[Answer]:
        answers, self.answers = self.answers, []
        return answers

    def forget(self, state_keys: frozenset[str]) -> None: ...

    def close(self) -> None: ...


class Bench:
    """One cluster, one clock, disks that outlive workers."""

    def __init__(self, *, with_rates: bool = False) -> None:
        self.clock = ManualClock(START)
        self.broker = MemoryBroker(lambda: int(self.clock.now().timestamp() * 1000), timeouts=Timeouts())
        self.registry = MemoryRegistry()
        self.disks: dict[tuple[int, int], MemoryKeyValue] = {}
        self.port = ManualPort()
        self.service = Service(
            name="toy",
            decide=decide,
            evolve=evolve,
            inputs=(Add, Payment),
            outputs=(Added, Balance),
            states=(CounterState,),
            timer=Fired,
            rejected=Refused,
            retryable=Later,
            tables={"rates": Rate} if with_rates else {},
            calls=lambda state: (Ask(state.asking),) if state.asking else (),
            port=self.port,
        )
        self.admin = self.broker.admin()
        compact = {"cleanup.policy": "compact"}
        self.admin.create_topics(
            [
                *(
                    TopicSpec(kind.TOPIC, PARTITIONS, configs=compact if "table" in kind.TOPIC else {})
                    for kind in (Add, Payment, Added, Balance, Rate)
                ),
                TopicSpec(names.changelog_topic("toy"), PARTITIONS, configs=compact),
                TopicSpec(names.dead_letter_topic("toy"), PARTITIONS),
            ]
        )
        self.admin.initialise_group(
            names.group("toy"),
            {TopicPartition(kind.TOPIC, p): 0 for kind in (Add, Payment) for p in range(PARTITIONS)},
        )
        self.codec = Codec(
            self.registry,
            written=[(kind, kind.TOPIC) for kind in (Add, Payment, Added, Balance, Rate)],
            read=[Add, Payment, Added, Balance, Rate, CounterState],
        )
        self._senders = 0

    def worker(self, ordinal: int = 0, **pace: Any) -> Worker:
        def open_store(partition: int) -> MemoryKeyValue:
            return self.disks.setdefault((ordinal, partition), MemoryKeyValue())

        return Worker(
            self.service,
            broker=self.broker,
            registry=self.registry,
            clock=self.clock,
            open_store=open_store,
            ordinal=ordinal,
            pace=Pace(commit_interval_s=0.0, **pace),
        )

    def send(self, *records: Any, raw: bytes | None = None, key: bytes | None = None) -> None:
        """Publish records in one transaction, as an edge would; `raw` replaces the encoded value."""
        self._senders += 1
        producer = self.broker.producer(f"edge-{self._senders}")
        producer.init_transactions()
        producer.begin()
        for number, record in enumerate(records):
            meta = wrap(
                record,
                causation_id=f"delivery-{self._senders}-{number}",
                correlation_id=f"thread-{record.account}",
                now=self.clock.now(),
                source="/edge",
                attributes={"channel.note": "gift"},
            )
            producer.produce(
                record.TOPIC,
                key=record.account.encode() if key is None else key,
                value=self.codec.encode(record, meta) if raw is None else raw,
                headers=headers(meta, record.SCHEMA, None),
                timestamp_ms=int(self.clock.now().timestamp() * 1000),
            )
        producer.commit()

    def records(self, topic: str) -> list[Record]:
        """Every committed record of a topic, by partition and offset."""
        reader = self.broker.reader()
        reader.assign({TopicPartition(topic, p): 0 for p in range(PARTITIONS)})
        found: list[Record] = []
        while batch := reader.poll(1000, 0):
            found += batch
        return sorted(found, key=lambda record: (record.partition, record.offset))

    def published(self, kind: type) -> list[Any]:
        return [self.codec.decode(record.value)[1] for record in self.records(kind.TOPIC)]

    def bury(self, ordinal: int) -> None:
        """The worker's process died without a word: let its session run out, so that its identity is free again."""
        self.broker.faults.silence(names.group("toy"), names.instance_id("toy", ordinal))
        self.clock.advance(100)

    def settle(self, *workers: Worker, steps: int = 20) -> int:
        """Step until nothing happens any more; returns how much was settled."""
        done = 0
        for _ in range(steps):
            moved = sum(worker.step(wait=False) for worker in workers)
            done += moved
            self.clock.advance(0.001)
        return done


def partition_of(account: str) -> int:
    return partition_for(account.encode(), PARTITIONS)
