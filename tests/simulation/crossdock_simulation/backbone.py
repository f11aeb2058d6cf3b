"""All six services in one process on the in-memory broker, with stand-ins for what lies outside.

The services, their shells and their deciders are the production ones; only broker, registry, disks, clock and the outside are
replaced. `Outside` plays gateway, warehouse, payment provider and ERP; a test tells it what to do differently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from crossdock_canonical.identity import LocationId, Sku
from crossdock_canonical.records import (
    CancelConfirmed,
    CapturePayment,
    DeliveryMethod,
    FulfillmentCancelRequested,
    FulfillmentRequested,
    LocationDefined,
    PaymentCaptured,
    PaymentRefunded,
    PaymentVoided,
    PickupCollected,
    PickupStaged,
    RefundPayment,
    ShipmentConfirmed,
    StockSnapshot,
    VoidPayment,
)
from crossdock_canonical.specification import T0
from crossdock_erp_poster.model import ErpAnswered, Posted
from crossdock_erp_poster.service import service as erp_poster
from crossdock_erp_poster.settings import Settings as ErpSettings
from crossdock_eventing import names
from crossdock_eventing.broker.memory import MemoryBroker, Timeouts
from crossdock_eventing.clock import ManualClock, to_micros
from crossdock_eventing.codec import Codec
from crossdock_eventing.envelope import headers, record_key, wrap
from crossdock_eventing.keyvalue import MemoryKeyValue
from crossdock_eventing.pace import Pace
from crossdock_eventing.registry import MemoryRegistry
from crossdock_eventing.service import Answer, Service
from crossdock_eventing.worker import Worker
from crossdock_fulfillment_router.service import service as fulfillment_router
from crossdock_fulfillment_router.settings import Settings as RouterSettings
from crossdock_inventory_availability.service import service as inventory_availability
from crossdock_inventory_availability.settings import Settings as InventorySettings
from crossdock_order_orchestrator.service import service as order_orchestrator
from crossdock_order_orchestrator.settings import Settings as OrchestratorSettings
from crossdock_returns.service import service as returns
from crossdock_returns.settings import Settings as ReturnsSettings
from crossdock_settlement_reconciler.service import service as settlement_reconciler
from crossdock_settlement_reconciler.settings import Settings as SettlementSettings
from crossdock_tools.schemas.contracts import Repository
from crossdock_tools.topic_reader import Entry, TopicReader
from crossdock_tools.topics import apply_catalogue

REPOSITORY = Repository(Path(__file__).parents[3] / "schemas")


#: A member that finds its session over takes a few polls to be back at work, during which nothing moves either.
_QUIET_ROUNDS = 10


class BooksErp:
    """An ERP as a port: it books at once and answers at the next collect."""

    def __init__(self) -> None:
        self.documents: Counter[str] = Counter()
        self.order: list[str] = []
        self.away = False
        self._asked: list[tuple[str, Any]] = []

    def start(self, state_key: str, call: Any, *, fresh: bool) -> None:
        self._asked.append((state_key, call))

    def collect(self) -> list[Answer]:
        if self.away:
            return []
        answers = []
        for state_key, call in self._asked:
            reference = call.reference
            existed = self.documents[reference] > 0
            if not existed:
                self.documents[reference] += 1
                self.order.append(reference)
            number = f"ERP-{self.order.index(reference) + 1}"
            answer = ErpAnswered(call_id=call.call_id, outcome=Posted(external_ref=number, existed=existed))
            answers.append(Answer(state_key, call.call_id, answer))
        self._asked.clear()
        return answers

    def forget(self, state_keys: frozenset[str]) -> None:
        self._asked = [each for each in self._asked if each[0] not in state_keys]

    def close(self) -> None: ...


class Outside:
    """Gateway, warehouse and payment provider. `warehouse` and `payment` answer one command with intake records."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._commands = TopicReader(
            backbone.broker, backbone.registry, [FulfillmentRequested.TOPIC, CapturePayment.TOPIC]
        )
        self.shipped: Counter[str] = Counter()
        self.captured = 0
        self.refunded = 0
        self.warehouse: Callable[[Any], list[Any]] = self.ship_everything
        self.payment: Callable[[Any], list[Any]] = self.pay_everything

    def step(self) -> int:
        done = 0
        for entry in self._commands.entries():
            answers = self.warehouse if entry.record.topic == FulfillmentRequested.TOPIC else self.payment
            for record in answers(entry.body):
                self._backbone.send(record, cause=entry.meta.event_id)
            done += 1
        return done

    def ship_everything(self, command: Any) -> list[Any]:
        now = self._backbone.clock.now()
        match command:
            case FulfillmentRequested(order_id=order_id, fulfillment_order_id=number, location=location):
                self.shipped.update({line.sku: line.units for line in command.lines})
                if command.method is DeliveryMethod.PICKUP:
                    return [
                        PickupStaged(
                            order_id=order_id, fulfillment_order_id=number, location=location, staged_at=now
                        ),
                        PickupCollected(
                            order_id=order_id,
                            fulfillment_order_id=number,
                            shipment_id=f"{number}/C",
                            location=location,
                            lines=command.lines,
                            collected_at=now,
                        ),
                    ]
                return [
                    ShipmentConfirmed(
                        order_id=order_id,
                        fulfillment_order_id=number,
                        shipment_id=f"{number}/S",
                        location=location,
                        lines=command.lines,
                        carrier="PostParcel",
                        tracking=f"T{len(self.shipped)}",
                        shipped_at=now,
                    )
                ]
            case FulfillmentCancelRequested():
                return [
                    CancelConfirmed(
                        order_id=command.order_id,
                        fulfillment_order_id=command.fulfillment_order_id,
                        cancel_id=command.cancel_id,
                        location=command.location,
                        lines=command.lines,
                    )
                ]
        return []

    def pay_everything(self, command: Any) -> list[Any]:
        now = self._backbone.clock.now()
        match command:
            case CapturePayment(order_id=order_id, capture_id=reference, amount=amount):
                self.captured += amount.minor
                return [
                    PaymentCaptured(order_id=order_id, capture_id=reference, amount=amount, captured_at=now)
                ]
            case VoidPayment(order_id=order_id, void_id=reference, amount=amount):
                return [PaymentVoided(order_id=order_id, void_id=reference, amount=amount, voided_at=now)]
            case RefundPayment(order_id=order_id, refund_id=reference, amount=amount):
                self.refunded += amount.minor
                return [
                    PaymentRefunded(order_id=order_id, refund_id=reference, amount=amount, refunded_at=now)
                ]
        return []


class Backbone:
    """The six services, provisioned from the catalogue. `run` steps everything until nothing moves any more."""

    def __init__(self, start: datetime = T0) -> None:
        self.clock = ManualClock(start)
        self.broker = MemoryBroker(self.clock.now_ms, timeouts=Timeouts())
        self.registry = MemoryRegistry()
        admin = self.broker.admin()
        apply_catalogue(REPOSITORY, admin)
        self.erp = BooksErp()
        self.services: dict[str, Service] = {
            made.name: made
            for made in (
                order_orchestrator(OrchestratorSettings(backorder_channels=frozenset({"shopify"}))),
                inventory_availability(InventorySettings()),
                fulfillment_router(RouterSettings()),
                returns(ReturnsSettings()),
                settlement_reconciler(SettlementSettings()),
                erp_poster(ErpSettings(), port=self.erp),
            )
        }
        self.disks: dict[tuple[str, int], MemoryKeyValue] = {}
        self.workers = {name: self.worker(name) for name in self.services}
        self.outside = Outside(self)
        self._sent = 0
        self._edges: dict[type, Codec] = {}

    def worker(self, name: str) -> Worker:
        """A worker of a service, on the disks of its predecessor."""

        def open_store(partition: int) -> MemoryKeyValue:
            return self.disks.setdefault((name, partition), MemoryKeyValue())

        return Worker(
            self.services[name],
            broker=self.broker,
            registry=self.registry,
            clock=self.clock,
            open_store=open_store,
            pace=Pace(commit_interval_s=0.0),
        )

    def send(self, *records: Any, cause: str | None = None) -> None:
        """Publish as the gateway does; `cause` makes the event ids repeatable."""
        self._sent += 1
        producer = self.broker.producer(f"gateway-{self._sent}")
        producer.init_transactions()
        producer.begin()
        for number, record in enumerate(records):
            kind = type(record)
            codec = self._edges.setdefault(kind, Codec(self.registry, written=[(kind, kind.TOPIC)], read=()))
            meta = wrap(
                record,
                causation_id=cause or f"delivery/{self._sent}/{number}",
                correlation_id="",
                now=self.clock.now(),
                source="/crossdock/channel-gateway",
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

    def stock(self, sku: str, **units_by_location: int) -> None:
        """The warehouse counts a sku."""
        for location, units in units_by_location.items():
            self.send(
                StockSnapshot(
                    sku=Sku(sku),
                    location=LocationId(location),
                    units=units,
                    as_of=self.clock.now(),
                    feed="wms",
                    ref=f"count/{sku}/{location}/{self._sent}",
                )
            )

    def location(self, name: str, **fields: Any) -> None:
        """Define a location."""
        self.send(LocationDefined(location=LocationId(name), **fields))

    def run(self, *, steps_max: int = 500) -> None:
        """Step every worker and the outside until nothing moves. Time moves a millisecond a round."""
        quiet = 0
        for _ in range(steps_max):
            moved = sum(worker.step(wait=False) for worker in self.workers.values()) + self.outside.step()
            self.clock.advance(0.001)
            # A jump of the clock past the session time-out costs every worker its partitions: they come back first.
            at_work = all(worker.ready for worker in self.workers.values())
            quiet = quiet + 1 if at_work and not moved else 0
            if quiet == _QUIET_ROUNDS:
                return
        raise AssertionError(f"still moving after {steps_max} rounds")

    def pass_time(self, **duration: float) -> None:
        """Let time go by, then run."""
        self.clock.advance(timedelta(**duration).total_seconds())
        self.run()

    def entries(self, *kinds: Any) -> list[Entry]:
        """Every committed record of these types, in log order of each partition."""
        reader = TopicReader(self.broker, self.registry, sorted({kind.TOPIC for kind in kinds}))
        found = [entry for entry in reader.entries() if type(entry.body) in kinds]
        reader.close()
        return found

    def published(self, kind: type) -> list[Any]:
        """Every committed record of a type."""
        return [entry.body for entry in self.entries(kind)]

    def dead_letters(self) -> list[str]:
        """Service and code of every dead letter."""
        found = []
        for name in self.services:
            reader = TopicReader(self.broker, self.registry, [names.dead_letter_topic(name)])
            found += [
                f"{name}: {dict(record.headers)['crossdock-error-code'].decode()}"
                for record in reader.records()
            ]
            reader.close()
        return found
