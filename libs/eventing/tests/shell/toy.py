"""A small service: it adds amounts by key, refuses negative ones, and closes after a deadline. On the in-memory broker or Kafka."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, ClassVar

from crossdock_eventing import names
from crossdock_eventing.broker.interface import RECORD_BYTES_MAX, Admin, Record, TopicPartition, TopicSpec
from crossdock_eventing.broker.memory import MemoryBroker, Timeouts
from crossdock_eventing.broker.partitioner import partition_for
from crossdock_eventing.clock import ManualClock, SystemClock
from crossdock_eventing.codec import Codec
from crossdock_eventing.envelope import headers, wrap
from crossdock_eventing.keyvalue import KeyValue, MemoryKeyValue
from crossdock_eventing.limits import Limits
from crossdock_eventing.pace import Pace
from crossdock_eventing.registry import MemoryRegistry
from crossdock_eventing.service import Answer, Service
from crossdock_eventing.worker import Worker

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
                {"name": "asked_by", "type": "string", "default": ""},
                {"name": "timers", "type": _TIMERS},
            ],
        }
    )

    total: int
    asking: str = ""
    asked_by: str = ""
    timers: Mapping[str, datetime] = field(default_factory=dict)


@dataclass(frozen=True)
class Fired:
    name: str
    due: datetime


@dataclass(frozen=True)
class Ask:
    call_id: str
    caused_by: str


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
class Unchanged:
    code: str


@dataclass(frozen=True)
class Asking:
    call_id: str
    caused_by: str


def decide(
    command: Any, state: CounterState | None, *, now: datetime, cause: str, rates: Any = None
) -> tuple[Any, ...]:
    total = 0 if state is None else state.total
    match command:
        case Add(amount=amount, reference="ask") as add:
            return (Asking(f"{add.account}/{amount}", cause),)
        case Add(amount=0, reference="nothing"):
            return (Unchanged("toy.nothing"),)
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
        case Asking(call_id, caused_by):
            return replace(state, asking=call_id, asked_by=caused_by)
    return state


class ManualPort:
    """A port whose answers the test gives."""

    def __init__(self) -> None:
        self.started: list[tuple[str, str, bool]] = []
        self.answers: list[Answer] = []
        self.forgotten: set[str] = set()

    def start(self, state_key: str, call: Any, *, fresh: bool) -> None:
        self.started.append((state_key, call.call_id, fresh))

    def collect(self) -> list[Answer]:
        answers, self.answers = self.answers, []
        return answers

    def forget(self, state_keys: frozenset[str]) -> None:
        self.forgotten |= state_keys

    def close(self) -> None: ...


RECORDS = (Add, Payment, Added, Balance, Rate)


def toy_service(name: str, *, with_rates: bool = False, port: ManualPort | None = None) -> Service:
    """The service; without a port nothing is asked of the outside."""
    return Service(
        name=name,
        decide=decide,
        evolve=evolve,
        inputs=(Add, Payment),
        outputs=(Added, Balance),
        states=(CounterState,),
        timer=Fired,
        rejected=Refused,
        retryable=Later,
        tables={"rates": Rate} if with_rates else {},
        calls=None
        if port is None
        else lambda state: (Ask(state.asking, state.asked_by),) if state.asking else (),
        port=port,
        wants_cause=True,
        answers=(Told,),
        ignored=Unchanged,
    )


def prepare(admin: Admin, name: str) -> None:
    """Every topic and the group of a toy service, as deploy would."""
    compact, large = {"cleanup.policy": "compact"}, {"max.message.bytes": str(RECORD_BYTES_MAX)}
    admin.create_topics(
        [
            *(
                TopicSpec(kind.TOPIC, PARTITIONS, configs=compact if "table" in kind.TOPIC else {})
                for kind in RECORDS
            ),
            TopicSpec(names.changelog_topic(name), PARTITIONS, configs=compact | large),
            TopicSpec(names.dead_letter_topic(name), PARTITIONS, configs=large),
            TopicSpec(names.retry_topic(name), PARTITIONS, configs=large),
            TopicSpec(names.replays_topic(name), PARTITIONS, configs=large),
            TopicSpec(names.journal_topic(name), PARTITIONS, configs=large),
        ]
    )
    admin.initialise_group(
        names.group(name),
        {
            TopicPartition(topic, number): 0
            for topic in (Add.TOPIC, Payment.TOPIC, names.retry_topic(name))
            for number in range(PARTITIONS)
        },
    )


class Bench:
    """One cluster, one clock, disks that outlive workers."""

    def __init__(self, *, with_rates: bool = False, name: str = "toy", broker: Any = None) -> None:
        self.name = name
        # Kafka drops what its time stamp says is older than the retention: there the story plays today.
        self.clock = ManualClock(START if broker is None else SystemClock().now())
        self.broker: Any = broker or MemoryBroker(
            lambda: int(self.clock.now().timestamp() * 1000), timeouts=Timeouts()
        )
        self.registry = MemoryRegistry()
        self.disks: dict[tuple[int, int], MemoryKeyValue] = {}
        self.port = ManualPort()
        self.service = toy_service(name, with_rates=with_rates, port=self.port)
        self.admin = self.broker.admin()
        prepare(self.admin, name)
        self.codec = Codec(
            self.registry,
            written=[(kind, kind.TOPIC) for kind in RECORDS],
            read=[*RECORDS, CounterState],
        )
        self.workers: dict[int, Worker] = {}
        self._senders = 0

    def broker_of(self, ordinal: int) -> Any:
        """What the worker of this number reaches the cluster by."""
        return self.broker

    def open_store(self, ordinal: int, partition: int) -> KeyValue:
        return self.disks.setdefault((ordinal, partition), MemoryKeyValue())

    def worker(self, ordinal: int = 0, *, limits: Limits | None = None, **pace: Any) -> Worker:
        self.workers[ordinal] = Worker(
            self.service,
            broker=self.broker_of(ordinal),
            registry=self.registry,
            clock=self.clock,
            open_store=partial(self.open_store, ordinal),
            ordinal=ordinal,
            pace=Pace(**{"commit_interval_s": 0.0, **pace}),
            limits=limits,
        )
        return self.workers[ordinal]

    def send(self, *records: Any, raw: bytes | None = None, key: bytes | None = None) -> None:
        """Publish records in one transaction, as an edge would; `raw` replaces the encoded value."""
        self._senders += 1
        producer = self.broker.producer(f"{self.name}-edge-{self._senders}")
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
        producer.close()

    def records(self, topic: str) -> list[Record]:
        """Every committed record of a topic, by partition and offset."""
        reader = self.broker.reader()
        ends = {each: reader.watermarks(each).high for each in _partitions(topic)}
        reader.assign(dict.fromkeys(ends, 0))
        found: list[Record] = []
        while any(reader.position(each) < end for each, end in ends.items()):
            found += reader.poll(1000, 0.05)
        reader.close()
        return sorted(found, key=lambda record: (record.partition, record.offset))

    def published(self, kind: type) -> list[Any]:
        return [self.codec.decode(record.value)[1] for record in self.records(kind.TOPIC)]

    def bury(self, ordinal: int) -> None:
        """The worker's process died without a word: let its session run out, so that its identity is free again."""
        self.broker.faults.silence(names.group(self.name), names.instance_id(self.name, ordinal))
        self.clock.advance(100)

    def settle(self, *workers: Worker, steps: int = 20) -> int:
        """Step until nothing happens any more; returns how much was settled."""
        done = 0
        for _ in range(steps):
            moved = sum(worker.step(wait=False) for worker in workers)
            done += moved
            self.clock.advance(0.001)
        return done


class KafkaBench(Bench):
    """The same on Kafka: the clock is still the test's, only waiting takes real time."""

    def bury(self, ordinal: int) -> None:
        """The clients of a process end with it; a static member does not leave, a transaction stays open."""
        dead = self.workers[ordinal]
        dead._consumer.close()
        dead._producer.close()

    def settle(self, *workers: Worker, steps: int = 20) -> int:
        """Step until every worker has been ready and idle for a while."""
        done, quiet, deadline = 0, 0, time.monotonic() + 60
        while quiet < _QUIET_STEPS:
            assert time.monotonic() < deadline, "it never came to rest"
            moved = sum(worker.step() for worker in workers)
            done += moved
            quiet = 0 if moved or not all(worker.ready for worker in workers) else quiet + 1
            self.clock.advance(0.001)
        return done

    def close(self) -> None:
        for worker in self.workers.values():
            with suppress(Exception):  # the test may have killed it
                worker.close()
        self.admin.close()


_QUIET_STEPS = (
    15  # of 0.1 s each: a consumer may wait a whole second before it fetches a partition it was given
)


def _partitions(topic: str) -> list[TopicPartition]:
    return [TopicPartition(topic, number) for number in range(PARTITIONS)]


def partition_of(account: str) -> int:
    return partition_for(account.encode(), PARTITIONS)
