"""The outside of the simulated world: warehouse, payment provider and channels, each with books of its own.

The simulated gateway (`gateway`) carries commands to them and reports their events. What each of them does with a reference
follows from the seed and that reference alone, so taking an order out of a schedule changes nothing for the others. Requests
may come again: each acts once per reference, and objects in its books to a reference that comes with another request.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any, Protocol
from urllib.parse import unquote

from crossdock_canonical.identity import LineId, OrderId
from crossdock_canonical.records import (
    CancelConfirmed,
    CancelDeclined,
    CapturePayment,
    ChannelRefundReceived,
    DeliveryMethod,
    FulfillmentCancelRequested,
    FulfillmentRejected,
    FulfillmentRequested,
    PaymentCaptured,
    PaymentRefunded,
    PaymentVoided,
    PickupCollected,
    PickupStaged,
    RefundPayment,
    RefundRecorded,
    ReturnExpected,
    ShipmentConfirmed,
    ShortPicked,
    VoidPayment,
    WarehouseLine,
)
from crossdock_channel_gateway.effects import Effect
from crossdock_tools.audit.books import (
    BookLine,
    CancellationBook,
    ChannelBooks,
    ExpectedReturnBook,
    FulfillmentOrderBook,
    MoneyBook,
    PaymentBooks,
    ShipmentBook,
    ToldBook,
    WarehouseBooks,
)

#: An event for the backbone: the delivery's id and its record.
Report = Callable[[str, Any], None]
Moment = Callable[[], datetime]


class Declined(Exception):
    """The system will never do this; the text says why."""


class System(Protocol):
    """What the gateway's courier needs of a system: carry out one command, once per reference."""

    def carry_out(self, command: Any, effect: Effect) -> None:
        """Raises Declined."""


@dataclass(slots=True)
class _Order:
    """A fulfilment order in the warehouse. `left` is what has not left, stopped or gone missing, by line."""

    request: FulfillmentRequested
    left: dict[str, int]
    sku: dict[str, str]
    status: str = "accepted"
    parts: int = 0
    rejects: bool = False
    missing: int = 0
    splits: bool = False
    collected: bool = True
    cancels: dict[str, tuple[BookLine, ...]] = field(default_factory=dict)


class Warehouse:
    """Every location's warehouse system. Work is done when `work` is called at or after its time."""

    def __init__(self, seed: int, now: Moment, now_s: Callable[[], float], report: Report) -> None:
        self._seed = seed
        self._now, self._now_s, self._report = now, now_s, report
        self._orders: dict[str, _Order] = {}
        self._shipments: list[ShipmentBook] = []
        self._cancellations: list[CancellationBook] = []
        self._returns: dict[str, ReturnExpected] = {}
        self._jobs: list[tuple[float, str]] = []
        self._objections: list[str] = []

    def carry_out(self, command: Any, effect: Effect) -> None:
        match command:
            case FulfillmentRequested(fulfillment_order_id=number):
                known = self._orders.get(number)
                if known is None:
                    self._accept(command)
                elif known.request != command:
                    self._objections.append(f"fulfilment order {number} came with another request")
            case FulfillmentCancelRequested():
                self._cancel(command)
            case ReturnExpected():
                if self._returns.setdefault(command.rma_id, command) != command:
                    self._objections.append(f"expected return {command.rma_id} came with another request")

    def next_s(self) -> float | None:
        """When there is work next."""
        return self._jobs[0][0] if self._jobs else None

    def work(self) -> bool:
        """Do what is due; whether there was any."""
        worked = False
        while self._jobs and self._jobs[0][0] <= self._now_s():
            _, number = heapq.heappop(self._jobs)
            self._process(number, self._orders[number])
            worked = True
        return worked

    def books(self) -> WarehouseBooks:
        return WarehouseBooks(
            fulfillment_orders={
                number: FulfillmentOrderBook(
                    number=number,
                    order_id=order.request.order_id,
                    location=order.request.location,
                    requested=_book_lines(order.request.lines),
                    accepted_times=1,
                    status=order.status,
                )
                for number, order in self._orders.items()
            },
            shipments=tuple(self._shipments),
            cancellations=tuple(self._cancellations),
            expected_returns=tuple(
                ExpectedReturnBook(
                    rma_id=each.rma_id,
                    order_id=each.order_id,
                    location=each.location or "",
                    lines=_book_lines(each.lines),
                )
                for each in self._returns.values()
            ),
            objections=tuple(self._objections),
        )

    def _accept(self, command: FulfillmentRequested) -> None:
        number = command.fulfillment_order_id
        chance = Random(f"{self._seed}/warehouse/{number}")
        order = _Order(
            request=command,
            left={line.line_id: line.units for line in command.lines},
            sku={line.line_id: line.sku for line in command.lines},
        )
        roll = chance.random()
        order.rejects = roll < 0.06
        order.missing = chance.randint(1, 2) if 0.06 <= roll < 0.16 else 0
        order.splits = 0.16 <= roll < 0.26
        order.collected = chance.random() > 0.15
        self._orders[number] = order
        delay_s = chance.choice([0.0, 0.02, 0.3, 5.0, 1800.0])
        heapq.heappush(self._jobs, (self._now_s() + delay_s, number))

    def _process(self, number: str, order: _Order) -> None:
        if order.status in ("done", "rejected"):
            return
        request = order.request
        common: dict[str, Any] = {
            "order_id": request.order_id,
            "fulfillment_order_id": number,
            "location": request.location,
        }
        if order.rejects:
            order.status = "rejected"
            self._report(
                f"{number}/rejected",
                FulfillmentRejected(**common, event_id=f"{number}/rejected", reason="closed"),
            )
            return
        missed = self._miss(order)
        if missed:
            self._report(
                f"{number}/short",
                ShortPicked(**common, event_id=f"{number}/short", lines=missed, reason="not at its place"),
            )
        if request.method is DeliveryMethod.PICKUP and order.status == "accepted":
            order.status = "staged"
            self._report(f"{number}/staged", PickupStaged(**common, staged_at=self._now()))
            if order.collected:
                heapq.heappush(self._jobs, (self._now_s() + 2.0, number))
            return
        self._ship(number, order)

    def _miss(self, order: _Order) -> tuple[WarehouseLine, ...]:
        missed = []
        for line_id, left in order.left.items():
            units = min(order.missing, left)
            if units:
                order.left[line_id] -= units
                order.missing -= units
                missed.append(_line(order, line_id, units))
        return tuple(missed)

    def _ship(self, number: str, order: _Order) -> None:
        """Let what is still here leave: all of it, or the first unit alone when the order is split."""
        leaving = {line_id: left for line_id, left in order.left.items() if left}
        if order.splits and order.parts == 0 and sum(leaving.values()) > 1:
            first = next(iter(leaving))
            leaving = {first: 1}
            heapq.heappush(self._jobs, (self._now_s() + 1.0, number))
        else:
            order.status = "done"
        if not leaving:
            return
        order.parts += 1
        for line_id, units in leaving.items():
            order.left[line_id] -= units
        request, lines = (
            order.request,
            tuple(_line(order, line_id, units) for line_id, units in leaving.items()),
        )
        common: dict[str, Any] = {
            "order_id": request.order_id,
            "fulfillment_order_id": number,
            "location": request.location,
            "lines": lines,
        }
        record: Any
        if request.method is DeliveryMethod.PICKUP:
            shipment_id = f"{number}/C{order.parts}"
            record = PickupCollected(**common, shipment_id=shipment_id, collected_at=self._now())
        else:
            shipment_id = f"{number}/S{order.parts}"
            record = ShipmentConfirmed(
                **common,
                shipment_id=shipment_id,
                carrier="Parcel",
                tracking=f"T{len(self._shipments)}",
                shipped_at=self._now(),
            )
        self._shipments.append(
            ShipmentBook(
                shipment_id=shipment_id,
                number=number,
                order_id=request.order_id,
                location=request.location,
                lines=_book_lines(lines),
            )
        )
        self._report(shipment_id, record)

    def _cancel(self, command: FulfillmentCancelRequested) -> None:
        order = self._orders.get(command.fulfillment_order_id)
        if order is None:
            raise Declined("no such fulfilment order")
        if command.cancel_id in order.cancels:
            return
        stopped = []
        for line in command.lines:
            units = min(line.units, order.left.get(line.line_id, 0))
            if units:
                order.left[line.line_id] -= units
                stopped.append(_line(order, line.line_id, units))
        order.cancels[command.cancel_id] = _book_lines(tuple(stopped))
        self._cancellations.append(
            CancellationBook(
                cancel_id=command.cancel_id,
                number=command.fulfillment_order_id,
                stopped=order.cancels[command.cancel_id],
            )
        )
        common: dict[str, Any] = {
            "order_id": command.order_id,
            "fulfillment_order_id": command.fulfillment_order_id,
            "cancel_id": command.cancel_id,
            "location": command.location,
        }
        delivery = f"{command.fulfillment_order_id}/cancel/{command.cancel_id}"
        if stopped:
            self._report(delivery, CancelConfirmed(**common, lines=tuple(stopped)))
        else:
            self._report(delivery, CancelDeclined(**common, lines=command.lines, reason="already shipped"))


def _line(order: _Order, line_id: str, units: int) -> WarehouseLine:
    sku = next(line.sku for line in order.request.lines if line.line_id == line_id)
    return WarehouseLine(line_id=LineId(line_id), sku=sku, units=units)


def _book_lines(lines: tuple[WarehouseLine, ...]) -> tuple[BookLine, ...]:
    return tuple(BookLine(line_id=line.line_id, sku=line.sku, units=line.units) for line in lines)


class Provider:
    """The payment provider: acts once per reference, and refuses some of them for good."""

    def __init__(self, seed: int, now: Moment, report: Report) -> None:
        self._seed = seed
        self._now, self._report = now, report
        self._done: dict[str, dict[str, MoneyBook]] = {"captures": {}, "voids": {}, "refunds": {}}
        self._declined: set[str] = set()
        self._objections: list[str] = []

    def carry_out(self, command: Any, effect: Effect) -> None:
        reference, kind, record = self._read(command)
        if reference in self._declined:
            raise Declined("insufficient funds")
        known = self._done[kind].get(reference)
        if known is not None:
            if (known.order_id, known.amount) != (command.order_id, command.amount):
                self._objections.append(f"{kind}/{reference} came with another request")
            return
        if Random(f"{self._seed}/provider/{reference}").random() < 0.06:
            self._declined.add(reference)
            raise Declined("insufficient funds")
        self._done[kind][reference] = MoneyBook(
            reference=reference, order_id=command.order_id, amount=command.amount
        )
        self._report(f"payment/{reference}", record)

    def _read(self, command: Any) -> tuple[str, str, Any]:
        order_id: OrderId = command.order_id
        match command:
            case CapturePayment(capture_id=reference, amount=amount):
                captured = PaymentCaptured(
                    order_id=order_id, capture_id=reference, amount=amount, captured_at=self._now()
                )
                return reference, "captures", captured
            case VoidPayment(void_id=reference, amount=amount):
                voided = PaymentVoided(
                    order_id=order_id, void_id=reference, amount=amount, voided_at=self._now()
                )
                return reference, "voids", voided
            case RefundPayment(refund_id=reference, amount=amount):
                refunded = PaymentRefunded(
                    order_id=order_id, refund_id=reference, amount=amount, refunded_at=self._now()
                )
                return reference, "refunds", refunded
        raise AssertionError(f"{type(command).__name__} is no payment command")

    def books(self) -> PaymentBooks:
        return PaymentBooks(
            captures=self._done["captures"],
            voids=self._done["voids"],
            refunds=self._done["refunds"],
            objections=tuple(self._objections),
        )


class Channels:
    """Every selling channel as it is reported to. A refund told to Shopify comes back as the shop's own webhook."""

    def __init__(self, now: Moment, report: Report) -> None:
        self._now, self._report = now, report
        self._told: dict[tuple[str, str, str], ToldBook] = {}
        self._bodies: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._objections: list[str] = []

    def carry_out(self, command: Any, effect: Effect) -> None:
        channel, kind, reference = (unquote(part) for part in effect.path.strip("/").split("/"))
        if (channel, kind, reference) in self._told:
            if self._bodies[channel, kind, reference] != effect.body:
                self._objections.append(f"{channel}/{kind}/{reference} came with another body")
            return
        self._bodies[channel, kind, reference] = effect.body
        self._told[channel, kind, reference] = ToldBook(
            channel=channel, kind=kind, reference=reference, order_id=command.order_id
        )
        if isinstance(command, RefundRecorded) and channel == "shopify":
            echo = ChannelRefundReceived(
                order_id=command.order_id,
                channel=channel,
                shop=command.shop,
                external_id=command.external_id,
                refund_id=f"echo-{reference}",
                our_refund_id=command.refund_id,
                lines=(),
                amount=command.amount,
                refunded_at=self._now(),
            )
            self._report(f"shopify/echo/{reference}", echo)

    def books(self) -> ChannelBooks:
        return ChannelBooks(told=tuple(self._told.values()), objections=tuple(self._objections))
