"""The whole service: shell, core, port and the simulated ERP; only the broker is in memory."""

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import web

from crossdock_canonical.identity import LineId, OrderId, Sku
from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    ErpDocumentPosted,
    OrderReleased,
    OrderShipped,
    Origin,
    PaymentKind,
    PaymentRecorded,
    ReleasedLine,
    ShippedLine,
)
from crossdock_canonical.specification import T0
from crossdock_erp_poster.service import service
from crossdock_erp_poster.settings import Settings
from crossdock_eventing.broker.memory import MemoryBroker, Timeouts
from crossdock_eventing.clock import ManualClock, to_micros
from crossdock_eventing.codec import Codec
from crossdock_eventing.envelope import headers, record_key, wrap
from crossdock_eventing.keyvalue import MemoryKeyValue
from crossdock_eventing.pace import Pace
from crossdock_eventing.registry import MemoryRegistry
from crossdock_eventing.service import Service
from crossdock_eventing.worker import Worker
from crossdock_simulators.erp import Books, Erp, Faults
from crossdock_tools.schemas.contracts import Repository
from crossdock_tools.topic_reader import TopicReader
from crossdock_tools.topics import apply_catalogue

REPOSITORY = Repository(Path(__file__).parents[3] / "schemas")
WORTH = Amounts(currency="EUR", goods=1000, tax=190)
DOCUMENTS_OF_AN_ORDER = 4


class Plant:
    """A cluster in memory, an ERP over HTTP, and workers that come and go on the same disks."""

    def __init__(self) -> None:
        self.clock = ManualClock(T0)
        self.broker = MemoryBroker(lambda: to_micros(self.clock.now()) // 1000, timeouts=Timeouts())
        self.registry = MemoryRegistry()
        apply_catalogue(REPOSITORY, self.broker.admin())
        self.disks: dict[int, MemoryKeyValue] = {}
        self.books = Books()
        self.erp = Erp(self.books)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        assert self._ready.wait(5)
        self.service: Service | None = None

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        runner = web.AppRunner(self.erp.application())
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0).start())
        self.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def fail(self, **faults: object) -> None:
        self.erp.set_faults(Faults(**faults), now_s=self._loop.time())

    def worker(self) -> Worker:
        times = {"answer_timeout_s": 0.3, "settle_s": 0.3, "back_off_max_s": 2}
        self.service = service(Settings(erps={"cloud": self.address}, **times))
        return Worker(
            self.service,
            broker=self.broker,
            registry=self.registry,
            clock=self.clock,
            open_store=lambda partition: self.disks.setdefault(partition, MemoryKeyValue()),
            pace=Pace(commit_interval_s=0.0),
        )

    def send(self, *records: object) -> None:
        producer = self.broker.producer(f"orchestrator-{self.clock.now().isoformat()}")
        producer.init_transactions()
        producer.begin()
        for number, record in enumerate(records):
            kind = type(record)
            codec = Codec(self.registry, written=[(kind, kind.TOPIC)], read=())
            meta = wrap(
                record,
                causation_id=f"test/{number}",
                correlation_id="",
                now=self.clock.now(),
                source="/test",
                attributes={},
            )
            producer.produce(
                kind.TOPIC,
                key=record_key(record).encode(),
                value=codec.encode(record, meta),
                headers=headers(meta, kind.SCHEMA, None),
                timestamp_ms=to_micros(self.clock.now()) // 1000,
            )
        producer.commit()

    def published(self) -> list[ErpDocumentPosted]:
        reader = TopicReader(self.broker, self.registry, [ErpDocumentPosted.TOPIC])
        found = [entry.body for entry in reader.entries()]
        reader.close()
        return found

    def run(self, worker: Worker, *, documents: int, within_s: float = 10) -> list[ErpDocumentPosted]:
        """Step, letting the service's clock run twenty times faster than ours, until so much is published."""
        give_up = time.monotonic() + within_s
        while len(found := self.published()) < documents and time.monotonic() < give_up:
            for _ in range(20):
                worker.step(wait=False)
                self.clock.advance(0.01)
                time.sleep(0.0005)
        return found


@pytest.fixture
def plant() -> Iterator[Plant]:
    built = Plant()
    yield built
    built.close()


def facts(order_id: str) -> tuple[object, ...]:
    common = {"order_id": OrderId(order_id), "channel": "shopify", "shop": "eu"}
    return (
        OrderReleased(
            **common,
            external_id=order_id,
            release=1,
            currency="EUR",
            lines=(ReleasedLine(line_id=LineId("l1"), sku=Sku("tea"), units=1, amounts=WORTH),),
        ),
        OrderShipped(
            **common,
            external_id=order_id,
            release=1,
            shipment_id="s1",
            currency="EUR",
            lines=(ShippedLine(line_id=LineId("l1"), sku=Sku("tea"), units=1, amounts=WORTH),),
            shipped_at=T0,
        ),
        PaymentRecorded(
            **common,
            payment_id=f"{order_id}/capture/s1",
            kind=PaymentKind.CAPTURED,
            amount=Money(minor=1190, currency="EUR"),
            origin=Origin.US,
        ),
    )


def assert_sound(plant: Plant, orders: int) -> None:
    report = plant.books.report()
    assert (report["duplicates"], report["findings"]) == ([], [])
    assert report["documents"] == orders * DOCUMENTS_OF_AN_ORDER
    assert report["totals"]["INVOICE"]["EUR"]["amount_minor"] == orders * 1190
    assert len(plant.published()) == orders * DOCUMENTS_OF_AN_ORDER


def test_orders_reach_the_books_through_lost_answers_errors_and_an_outage(plant):
    plant.fail(lose_answer_every=3, error_rate=0.15)
    worker = plant.worker()
    orders = [f"o-{number}" for number in range(6)]
    plant.send(*(fact for order in orders for fact in facts(order)))
    plant.run(worker, documents=8)
    plant.fail(outage_s=0.3)
    plant.run(worker, documents=len(orders) * DOCUMENTS_OF_AN_ORDER, within_s=30)
    worker.close()
    assert_sound(plant, len(orders))


def test_a_process_that_dies_between_the_posting_and_its_commit_leaves_no_second_document(plant):
    first = plant.worker()
    orders = [f"o-{number}" for number in range(4)]
    plant.send(*(fact for order in orders for fact in facts(order)))
    while len(first.states()) < len(orders):  # committed together, so that no answer can be stepped in
        first.step(wait=False)
        plant.clock.advance(0.01)
    while len(plant.books.documents) < len(orders):
        time.sleep(0.005)
    assert plant.service is not None
    assert plant.service.port is not None
    plant.service.port.close()
    plant.clock.advance(timedelta(minutes=5).total_seconds())  # the dead member's session runs out
    second = plant.worker()
    plant.run(second, documents=len(orders) * DOCUMENTS_OF_AN_ORDER, within_s=30)
    second.close()
    assert_sound(plant, len(orders))
    assert sum(document.existed for document in plant.published()) == len(orders)


def test_inputs_and_outputs_are_those_of_the_catalogue():
    made = service(Settings())
    consumed = {
        record for topic in REPOSITORY.topics.values() for record in topic.consumers.get(made.name, ())
    }
    produced = {
        record
        for topic in REPOSITORY.topics.values()
        if made.name in topic.producers
        for record in topic.records
    }
    assert {record.SCHEMA for record in made.inputs} == consumed
    assert {record.SCHEMA for record in made.outputs} == produced


def test_settings_come_from_the_environment_and_every_rule_needs_an_address(monkeypatch):
    monkeypatch.setenv("CROSSDOCK_ERP_POSTER_ERPS", '{"cloud": "http://c", "legacy": "http://l"}')
    monkeypatch.setenv("CROSSDOCK_ERP_POSTER_ERP_BY_CHANNEL", '{"amazon": "legacy"}')
    monkeypatch.setenv("CROSSDOCK_ERP_POSTER_BACK_OFF_MAX_S", "5")
    policy = Settings().policy()
    assert (policy.erp_of("amazon"), policy.erp_of("shopify")) == ("legacy", "cloud")
    assert policy.back_off_max == timedelta(seconds=5)
    with pytest.raises(ValueError, match="less than answer_timeout_s"):
        service(Settings(settle_s=5))
    with pytest.raises(ValueError, match="no time for a look-up"):
        service(Settings(post_within_s=5))
    monkeypatch.setenv("CROSSDOCK_ERP_POSTER_DEFAULT_ERP", "mainframe")
    with pytest.raises(ValueError, match="mainframe"):
        service(Settings())
