"""Invariant 12: effects that happened twice, unasked, differently, or never, and news told wrongly, are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from crossdock_canonical.money import Money
from crossdock_canonical.records import (
    Bucket,
    CancelDeclined,
    CapturePayment,
    FulfilledBy,
    FulfillmentCancelRequested,
    FulfillmentRejected,
    FulfillmentRequested,
    LineUnits,
    OrderCancelled,
    OrderRejected,
    OrderShipped,
    Origin,
    PaymentCaptured,
    PaymentDeclined,
    RefundFailed,
    RefundPayment,
    RefundRecorded,
    RestockReturn,
    ReturnAuthorized,
    ReturnDeclined,
    ReturnExpected,
    ShipmentConfirmed,
    ShipmentDispatched,
    WarehouseLine,
)
from crossdock_canonical.records import FulfillmentLine as DispatchedLine
from crossdock_canonical.specification import T0
from crossdock_tools.audit.books import (
    BookLine,
    Books,
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
from crossdock_tools.audit.effects import news_of

EUR = Money(minor=1999, currency="EUR")
ROUTER, OO = "fulfillment-router", "order-orchestrator"
LINES = (WarehouseLine(line_id="L1", sku="A", units=2),)
BOOK_LINES = (BookLine(line_id="L1", sku="A", units=2),)
ORDER = {"order_id": "O-1", "channel": "shopify", "shop": "shop", "external_id": "1"}

REQUESTED = FulfillmentRequested(order_id="O-1", fulfillment_order_id="O-1/1", location="WH", lines=LINES)
CANCEL = FulfillmentCancelRequested(
    order_id="O-1", fulfillment_order_id="O-1/1", cancel_id="X1", location="WH", lines=LINES
)
EXPECTED = ReturnExpected(order_id="O-1", rma_id="R1", location="WH", lines=LINES)
CONFIRMED = ShipmentConfirmed(
    order_id="O-1",
    fulfillment_order_id="O-1/1",
    shipment_id="O-1/1/S1",
    location="WH",
    lines=LINES,
    shipped_at=T0,
)
DISPATCHED = ShipmentDispatched(
    order_id="O-1",
    fulfillment_order_id="O-1/1",
    shipment_id="O-1/1/S1",
    release=1,
    location="WH",
    lines=(DispatchedLine(line_id="L1", sku="A", units=2),),
    dispatched_at=T0,
)
SHIPPED = OrderShipped(
    **ORDER,
    shipment_id="O-1/1/S1",
    release=1,
    lines=(),
    channel_lines=(LineUnits(line_id="L1", units=2),),
    currency="EUR",
    shipped_at=T0,
)
CAPTURE = CapturePayment(order_id="O-1", capture_id="C1", tender_reference="T1", amount=EUR)
CAPTURED = PaymentCaptured(order_id="O-1", capture_id="C1", amount=EUR, captured_at=T0)
REFUND = RefundPayment(order_id="O-1", refund_id="F1", tender_reference="T1", amount=EUR)

TAKEN = FulfillmentOrderBook(number="O-1/1", order_id="O-1", location="WH", requested=BOOK_LINES)
LEFT = ShipmentBook(shipment_id="O-1/1/S1", number="O-1/1", order_id="O-1", location="WH", lines=BOOK_LINES)
STOPPED = CancellationBook(cancel_id="X1", number="O-1/1", stopped=())
AWAITED = ExpectedReturnBook(rma_id="R1", order_id="O-1", location="WH", lines=BOOK_LINES)
PAID = MoneyBook(reference="C1", order_id="O-1", amount=EUR)
TOLD = ToldBook(channel="shopify", kind="fulfillments", reference="O-1/1/S1", order_id="O-1")


def warehouse(*orders: FulfillmentOrderBook, **others: Any) -> Books:
    return Books(
        warehouse=WarehouseBooks(fulfillment_orders={each.number: each for each in orders}, **others)
    )


def captures(*found: MoneyBook) -> Books:
    return Books(payments=PaymentBooks(captures={each.reference: each for each in found}))


def told(*found: ToldBook) -> Books:
    return Books(channels=ChannelBooks(told=found))


def everything(world: Any) -> Books:
    """A shipment, a cancellation, an expected return, a capture and the news of the shipment, in topics and books alike."""
    world.emit(ROUTER, REQUESTED, "cause")
    world.emit(ROUTER, CANCEL, "cause")
    world.emit("returns", EXPECTED, "cause")
    world.deliver(CONFIRMED)
    world.emit(ROUTER, DISPATCHED, "cause")
    world.emit(OO, SHIPPED, "cause")
    world.emit(OO, CAPTURE, "cause")
    world.deliver(CAPTURED)
    return Books(
        warehouse=WarehouseBooks(
            fulfillment_orders={"O-1/1": TAKEN},
            shipments=(LEFT,),
            cancellations=(STOPPED,),
            expected_returns=(AWAITED,),
        ),
        payments=PaymentBooks(captures={"C1": PAID}),
        channels=ChannelBooks(told=(TOLD,)),
    )


def test_effects_that_topics_and_books_agree_on_pass(world: Any) -> None:
    books = everything(world)
    found = {check.name: check for check in world.audit(books, drained=True).checks if check.invariant == 12}
    assert not [check for check in found.values() if check.violations]
    idle = {name for name, check in found.items() if not check.checked}
    assert idle == {"voids are as commanded", "refunds are as commanded"}
    assert len(found) == 14


def test_without_books_it_says_so(world: Any) -> None:
    everything(world)
    found = [check for check in world.audit(drained=True).checks if check.note == "no books given"]
    assert len([check for check in found if check.invariant == 12]) == 12
    assert not [check for check in found if check.checked]


WRONG_WAREHOUSE: list[tuple[str, Callable[[], Books], str]] = [
    ("warehouse orders were requested", lambda: warehouse(replace(TAKEN, number="O-1/9")), "never requested"),
    (
        "warehouse orders were requested",
        lambda: warehouse(replace(TAKEN, accepted_times=2)),
        "taken on 2 times",
    ),
    (
        "warehouse orders were requested",
        lambda: warehouse(replace(TAKEN, location="EAST")),
        "location='EAST'",
    ),
    ("warehouse orders were requested", lambda: warehouse(replace(TAKEN, requested=())), "requested=()"),
    ("shipments are as the warehouse shipped", lambda: warehouse(TAKEN), "never left the warehouse"),
    (
        "shipments are as the warehouse shipped",
        lambda: warehouse(TAKEN, shipments=(LEFT, LEFT)),
        "left 2 times",
    ),
    (
        "shipments are as the warehouse shipped",
        lambda: warehouse(TAKEN, shipments=(replace(LEFT, lines=(replace(BOOK_LINES[0], units=1),)),)),
        "left as ShipmentBook",
    ),
    (
        "cancellations and returns were announced",
        lambda: warehouse(cancellations=(replace(STOPPED, cancel_id="X9"),)),
        "cancellation X9 of O-1/1 was never requested",
    ),
    (
        "cancellations and returns were announced",
        lambda: warehouse(cancellations=(STOPPED, STOPPED)),
        "O-1/1/X1 was taken 2 times",
    ),
    (
        "cancellations and returns were announced",
        lambda: warehouse(expected_returns=(replace(AWAITED, rma_id="R9"),)),
        "return R9 is expected and was never announced",
    ),
    (
        "cancellations and returns were announced",
        lambda: warehouse(expected_returns=(AWAITED, AWAITED)),
        "return R1 is expected 2 times",
    ),
]


@pytest.mark.parametrize(("name", "books", "words"), WRONG_WAREHOUSE)
def test_what_the_warehouse_did_otherwise_is_found(
    world: Any, name: str, books: Callable[[], Books], words: str
) -> None:
    everything(world)
    [found] = world.check(name, books()).violations
    assert words in found


def test_a_dispatch_that_no_warehouse_reported_or_in_other_units_is_found(world: Any) -> None:
    books = everything(world)
    world.emit(ROUTER, replace(DISPATCHED, shipment_id="O-1/1/S2"), "other")
    world.emit(ROUTER, replace(DISPATCHED, lines=()), "another")
    unreported, differing = world.check("shipments are as the warehouse shipped", books).violations
    assert "no warehouse reported it" in unreported
    assert "dispatched as ()" in differing


def test_what_never_reached_the_warehouse_is_found_once_all_is_done(world: Any) -> None:
    everything(world)
    found = world.check("warehouse requests are carried out", warehouse(), drained=True).violations
    assert [each.split()[0] for each in found] == [
        "FulfillmentRequested",
        "FulfillmentCancelRequested",
        "ReturnExpected",
    ]


def test_what_was_refused_or_given_up_need_not_be_carried_out(world: Any) -> None:
    world.emit(ROUTER, REQUESTED, "cause")
    world.emit(ROUTER, CANCEL, "cause")
    world.emit("returns", EXPECTED, "cause")
    world.deliver(
        FulfillmentRejected(
            order_id="O-1", fulfillment_order_id="O-1/1", event_id="r", location="WH", reason="closed"
        )
    )
    world.deliver(CancelDeclined(order_id="O-1", fulfillment_order_id="O-1/1", cancel_id="X1", location="WH"))
    world.dead_letter("channel-gateway", EXPECTED.TOPIC, world.partition(EXPECTED), 4)
    check = world.check("warehouse requests are carried out", warehouse(), drained=True)
    assert (check.checked, check.violations) == (3, ())


def test_a_shipment_that_got_lost_on_its_way_to_the_order_is_found(world: Any) -> None:
    name, books = "shipments reached the order", warehouse(TAKEN, shipments=(LEFT,))
    world.emit(ROUTER, REQUESTED, "cause")
    for step, words in (
        (None, "never reported"),
        (lambda: world.deliver(CONFIRMED), "never dispatched"),
        (lambda: world.emit(ROUTER, DISPATCHED, "cause"), "its order never said so"),
    ):
        if step is not None:
            step()
        [found] = world.check(name, books, drained=True).violations
        assert words in found
    world.emit(OO, SHIPPED, "cause")
    assert not world.check(name, books, drained=True).violations


@pytest.mark.parametrize(
    ("booked", "words"),
    [
        ((replace(PAID, reference="C9"), PAID), "C9 over 19.99 EUR happened and was never commanded"),
        ((replace(PAID, times=2),), "C1 happened 2 times"),
        ((replace(PAID, order_id="O-9"),), "19.99 EUR of O-9 there"),
        ((), "is reported and never happened"),
    ],
)
def test_money_that_moved_otherwise_is_found(world: Any, booked: tuple[MoneyBook, ...], words: str) -> None:
    everything(world)
    [found] = world.check("captures are as commanded", captures(*booked)).violations
    assert words in found


def test_money_of_another_amount_is_found_on_both_sides(world: Any) -> None:
    everything(world)
    less = replace(PAID, amount=Money(minor=1, currency="EUR"))
    commanded, reported = world.check("captures are as commanded", captures(less)).violations
    assert "0.01 EUR of O-1 there" in commanded
    assert "is reported as 19.99 EUR, it was 0.01 EUR" in reported


def test_a_capture_that_nobody_here_commanded_is_the_channels_own(world: Any) -> None:
    world.deliver(CAPTURED)
    assert world.check("captures are as commanded", captures()).checked == 0


def test_a_command_that_neither_happened_nor_was_refused_is_found_once_all_is_done(world: Any) -> None:
    name = "payment commands are carried out and reported"
    world.emit(OO, CAPTURE, "cause")
    world.emit(OO, REFUND, "cause")
    assert len(world.check(name, captures(), drained=True).violations) == 2
    [unreported, _] = world.check(name, captures(PAID), drained=True).violations
    assert "happened and was never reported" in unreported
    world.deliver(PaymentDeclined(order_id="O-1", reference="C1", reason="no"))
    world.deliver(RefundFailed(order_id="O-1", refund_id="F1", reason="no"))
    assert not world.check(name, captures(), drained=True).violations


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ((TOLD, replace(TOLD, reference="S9")), "shopify/fulfillments/S9 was told and is no news"),
        ((replace(TOLD, times=2),), "was told 2 times"),
        ((TOLD, TOLD), "was told 2 times"),
        ((replace(TOLD, order_id="O-9"),), "was told of order O-9, it is of O-1"),
    ],
)
def test_news_told_wrongly_is_found(world: Any, found: tuple[ToldBook, ...], words: str) -> None:
    everything(world)
    [violation] = world.check("channels are told what happened, once", told(*found)).violations
    assert words in violation


def test_news_that_was_never_told_is_found_unless_the_gateway_gave_it_up(world: Any) -> None:
    name = "channels have heard all their news"
    world.emit(OO, SHIPPED, "cause")
    [found] = world.check(name, told(), drained=True).violations
    assert "shopify/fulfillments/O-1/1/S1" in found
    world.dead_letter("channel-gateway", SHIPPED.TOPIC, world.partition(SHIPPED), 0)
    assert not world.check(name, told(), drained=True).violations


def test_what_a_system_itself_holds_against_us_is_a_violation(world: Any) -> None:
    given = Books(
        warehouse=WarehouseBooks(objections=("wms: x",)), channels=ChannelBooks(objections=("channels: y",))
    )
    check = world.check("no system outside objects", given)
    assert (check.checked, check.violations) == (2, ("wms: x", "channels: y"))


def test_a_request_may_be_repeated_and_not_changed(world: Any) -> None:
    name = "a reference stands for one request"
    world.emit(OO, CAPTURE, "cause")
    world.emit(OO, CAPTURE, "asked again")
    assert (world.check(name).violations, world.check(name).note) == ((), "1 asked for again")
    world.emit(OO, replace(CAPTURE, amount=Money(minor=1, currency="EUR")), "changed")
    [found] = world.check(name).violations
    assert "CapturePayment C1 asks for one thing" in found


def test_two_findings_under_one_restock_reference_are_found(world: Any) -> None:
    restocked = RestockReturn(
        sku="A",
        order_id="O-1",
        rma_id="R1",
        line_id="L1",
        location="WH",
        units=1,
        bucket=Bucket.ON_HAND,
        ref="R1/QC/L1/SELLABLE",
        occurred_at=T0,
    )
    world.emit("returns", restocked, "first inspection")
    world.emit("returns", replace(restocked, order_id="O-2"), "of another order")
    assert not world.check("a reference stands for one request").violations
    world.emit("returns", replace(restocked, units=2), "second inspection")
    [found] = world.check("a reference stands for one request").violations
    assert "RestockReturn O-1 R1/QC/L1/SELLABLE asks for one thing" in found


def test_a_fact_that_is_told_twice_is_found(world: Any) -> None:
    world.emit(OO, SHIPPED, "cause")
    world.emit(OO, SHIPPED, "another cause")
    [found] = world.check("a fact is told once per reference").violations
    assert "OrderShipped O-1 O-1/1/S1 is told at" in found


CANCELLED = OrderCancelled(
    **ORDER, cancel_id="X1", reason_code="r.c", lines=(), complete=True, origin=Origin.US
)
REFUNDED = RefundRecorded(**ORDER, refund_id="F1", amount=EUR, origin=Origin.US)
AUTHORIZED = ReturnAuthorized(
    order_id="O-1", rma_id="R1", channel="amazon", external_id="1", lines=(), expires_at=T0
)


@pytest.mark.parametrize(
    ("fact", "news"),
    [
        (SHIPPED, ("shopify", "fulfillments", "O-1/1/S1")),
        (replace(SHIPPED, release=0), None),
        (replace(SHIPPED, fulfilled_by=FulfilledBy.MARKETPLACE), None),
        (replace(SHIPPED, channel_lines=()), None),
        (OrderRejected(**ORDER, reason_code="r.c"), ("shopify", "rejections", "O-1")),
        (CANCELLED, ("shopify", "cancellations", "X1")),
        (replace(CANCELLED, origin=Origin.CHANNEL), None),
        (replace(CANCELLED, complete=False), None),
        (
            replace(CANCELLED, complete=False, channel_lines=(LineUnits(line_id="L1", units=1),)),
            ("shopify", "cancellations", "X1"),
        ),
        (REFUNDED, ("shopify", "refunds", "F1")),
        (replace(REFUNDED, origin=Origin.CHANNEL), None),
        (replace(REFUNDED, origin=Origin.STORE), ("shopify", "refunds", "F1")),
        (replace(REFUNDED, origin=Origin.STORE, channel="pos"), None),
        (AUTHORIZED, ("amazon", "returns", "R1")),
        (replace(AUTHORIZED, channel=""), ("any", "returns", "R1")),
        (ReturnDeclined(order_id="O-1", rma_id="R1", reason_code="r.c"), ("any", "returns", "R1")),
        (CAPTURE, None),
    ],
)
def test_what_is_news_to_a_channel(fact: Any, news: tuple[str, str, str] | None) -> None:
    assert news_of(fact) == news
