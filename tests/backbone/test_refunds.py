"""Money that goes back while goods are under way, across all six services: whoever is faster, the books end the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from test_paths import items, order

from crossdock_canonical.identity import LineId
from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    CancelRequested,
    CapturePayment,
    ChannelOrderReceived,
    ChannelRefundReceived,
    DocumentType,
    ErpDocumentPosted,
    FulfillmentRejected,
    FulfillmentRequested,
    Grade,
    InspectedLine,
    OrderCompleted,
    OrderHeld,
    OrderShipped,
    Origin,
    PaymentDeclined,
    RefundDisposition,
    RefundLine,
    RefundRecorded,
    ReturnInspected,
    TenderState,
)
from crossdock_canonical.specification import T0
from crossdock_order_orchestrator.state_records import OrderState, Stage
from crossdock_simulation.backbone import Backbone


def a_channel_refund(
    of: ChannelOrderReceived, units: int, goods: int, refund_id: str = "77", **fields: Any
) -> ChannelRefundReceived:
    """The shop refunds units of the first line of an order, their tax of a tenth included."""
    amounts = Amounts(currency="EUR", goods=goods, tax=goods // 10)
    base: dict[str, Any] = {
        "order_id": of.order_id,
        "channel": "shopify",
        "shop": "shop",
        "external_id": of.external_id,
        "refund_id": refund_id,
        "lines": (RefundLine(line_id=LineId("L0"), units=units, amounts=amounts),),
        "amount": Money(minor=amounts.due, currency="EUR"),
        "refunded_at": T0 + timedelta(minutes=1),
    }
    return ChannelRefundReceived(**{**base, **fields})


def an_inspection(backbone: Backbone, of: ChannelOrderReceived, **fields: Any) -> ReturnInspected:
    """One unit of the first line comes back as new."""
    base: dict[str, Any] = {
        "order_id": of.order_id,
        "rma_id": "RMA",
        "inspection_id": "I1",
        "location": "WH",
        "lines": (InspectedLine(line_id=LineId("L0"), units=1, grade=Grade.SELLABLE),),
        "inspected_at": backbone.clock.now(),
    }
    return ReturnInspected(**{**base, **fields})


def the_order(backbone: Backbone, of: ChannelOrderReceived) -> OrderState:
    state = backbone.workers["order-orchestrator"].states()[of.order_id]
    assert isinstance(state, OrderState)
    return state


def booked(backbone: Backbone, kind: DocumentType) -> int:
    """Sum of the ERP's documents of a type, minor units."""
    documents: Iterable[ErpDocumentPosted] = backbone.published(ErpDocumentPosted)
    return sum(each.amount.minor for each in documents if each.document_type is kind and each.amount)


def ship_one_unit_of_each_line(backbone: Backbone) -> None:
    """From now on the warehouse ships one unit of what it is asked for, and keeps the rest open."""
    everything = backbone.outside.warehouse

    def one(command: Any) -> list[Any]:
        if isinstance(command, FulfillmentRequested):
            command = replace(command, lines=tuple(replace(line, units=1) for line in command.lines))
        return everything(command)

    backbone.outside.warehouse = one


@pytest.mark.parametrize("refund_first", [False, True])
@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("at_once", [False, True])
def test_an_edit_and_its_refund_cancel_the_unit_once(
    backbone: Backbone, *, refund_first: bool, released: bool, at_once: bool
) -> None:
    items(backbone, "A")
    backbone.stock("A", WH=5 if released else 0)
    if released:
        ship_one_unit_of_each_line(backbone)
    placed = order(1, ("A", 2, 2000), state=TenderState.CAPTURED)
    backbone.send(placed)
    backbone.run()
    later = T0 + timedelta(minutes=1)
    edited = order(1, ("A", 1, 1000), state=TenderState.CAPTURED, revision_at=later, revision_id="r2")
    messages = [edited, a_channel_refund(placed, 1, 1000)]
    for message in reversed(messages) if refund_first else messages:
        backbone.send(message)
        if not at_once:
            backbone.run()
    backbone.run()
    backbone.clock.advance(3600)
    backbone.stock("A", WH=5)
    backbone.run()
    backbone.pass_time(hours=1)
    assert backbone.dead_letters() == []
    assert sum(line.units for each in backbone.published(OrderShipped) for line in each.lines) == 1
    (line,) = the_order(backbone, placed).lines
    assert (line.cancelled, line.shipped, line.withdrawn, line.refunded) == (1, 1, 0, 0)
    assert len(backbone.published(OrderCompleted)) == 1
    assert backbone.outside.refunded == 0
    assert booked(backbone, DocumentType.INVOICE) == booked(backbone, DocumentType.PAYMENT) == 1100


def test_a_refund_of_shipped_and_unshipped_units_counts_each_once(backbone: Backbone) -> None:
    items(backbone, "A")
    backbone.stock("A", WH=5)
    ship_one_unit_of_each_line(backbone)
    placed = order(1, ("A", 2, 2000), state=TenderState.CAPTURED)
    backbone.send(placed)
    backbone.run()
    backbone.send(a_channel_refund(placed, 2, 2000))
    backbone.run()
    assert the_order(backbone, placed).cancel_refunded_minor == 1100
    backbone.send(an_inspection(backbone, placed))
    backbone.run()
    assert backbone.dead_letters() == []
    assert backbone.outside.refunded == 0
    assert booked(backbone, DocumentType.INVOICE) == booked(backbone, DocumentType.CREDIT_MEMO) == 1100


def test_a_unit_that_ships_although_it_was_refunded_is_credited_and_shown_to_somebody(
    backbone: Backbone,
) -> None:
    items(backbone, "A")
    backbone.stock("A", WH=5)
    everything = backbone.outside.warehouse
    on_its_way: list[Any] = []

    def crossing(command: Any) -> list[Any]:
        if isinstance(command, FulfillmentRequested):
            on_its_way.extend(everything(command))
            return []
        return [on_its_way.pop()] if on_its_way else []

    backbone.outside.warehouse = crossing
    placed = order(1, ("A", 1, 1000), state=TenderState.CAPTURED)
    backbone.send(placed)
    backbone.run()
    backbone.send(a_channel_refund(placed, 1, 1000))
    backbone.run()
    assert [held.reason_code for held in backbone.published(OrderHeld)] == ["order.cancel_refused"]
    backbone.pass_time(days=30)
    assert booked(backbone, DocumentType.INVOICE) == booked(backbone, DocumentType.CREDIT_MEMO) == 1100
    assert booked(backbone, DocumentType.PAYMENT) == 0
    backbone.send(an_inspection(backbone, placed))
    backbone.run()
    assert backbone.dead_letters() == []
    assert backbone.outside.refunded == 0
    assert the_order(backbone, placed).stage is Stage.COMPLETED


@pytest.mark.parametrize(
    ("disposition", "cancelled", "credited"),
    [
        (RefundDisposition.CANCELLED, 1, 0),
        (RefundDisposition.RETURNED, 0, 1),
        (RefundDisposition.KEPT, 0, 1),
    ],
)
def test_a_refund_of_a_line_that_shipped_in_part_is_for_the_units_it_names(
    backbone: Backbone, disposition: RefundDisposition, cancelled: int, credited: int
) -> None:
    items(backbone, "A")
    backbone.stock("A", WH=5)
    ship_one_unit_of_each_line(backbone)
    placed = order(1, ("A", 2, 2000), state=TenderState.CAPTURED)
    backbone.send(placed)
    backbone.run()
    refund = a_channel_refund(placed, 1, 1000, restock=True)
    (part,) = refund.lines
    backbone.send(replace(refund, lines=(replace(part, disposition=disposition),)))
    backbone.run()
    (line,) = the_order(backbone, placed).lines
    assert (line.cancelled, line.credited) == (cancelled, credited)


def test_the_echo_of_a_stores_refund_is_no_second_refund(backbone: Backbone) -> None:
    items(backbone, "A")
    backbone.stock("A", WH=5)
    placed = order(1, ("A", 1, 1000))
    backbone.send(placed)
    backbone.run()
    paid = Money(minor=1100, currency="EUR")
    backbone.send(an_inspection(backbone, placed, location="STORE", tender_refunded=paid))
    backbone.run()
    (refund,) = backbone.published(RefundRecorded)
    echo = a_channel_refund(placed, 1, 1000, our_refund_id=refund.refund_id, lines=(), adjustment_minor=1100)
    backbone.send(echo)
    backbone.run()
    (only,) = backbone.published(RefundRecorded)
    assert (only.origin, only.over_refund_minor) == (Origin.STORE, 0)


def test_goods_that_come_back_before_their_capture_is_answered_are_refunded_after_it(
    backbone: Backbone,
) -> None:
    items(backbone, "A")
    backbone.stock("A", WH=5)
    pay = backbone.outside.payment
    asked: list[Any] = []

    def slow(command: Any) -> list[Any]:
        asked.append(command)
        return []

    backbone.outside.payment = slow
    placed = order(1, ("A", 1, 1000))
    backbone.send(placed)
    backbone.run()
    backbone.send(an_inspection(backbone, placed))
    backbone.run()
    assert [type(command) for command in asked] == [CapturePayment]
    assert [each.minor for each in the_order(backbone, placed).owed] == [1100]
    backbone.outside.payment = pay
    backbone.send(*pay(asked[0]))
    backbone.run()
    assert backbone.outside.captured == backbone.outside.refunded == 1100
    assert the_order(backbone, placed).owed == ()
    assert len(backbone.published(OrderCompleted)) == 1
    assert backbone.published(OrderHeld) == []


def test_a_void_that_nobody_answers_is_asked_for_again_and_then_shown_to_somebody(backbone: Backbone) -> None:
    items(backbone, "A")
    backbone.stock("A", WH=0)
    asked: list[Any] = []

    def silent(command: Any) -> list[Any]:
        asked.append(command)
        return []

    pay = backbone.outside.payment
    backbone.outside.payment = silent
    placed = order(1, ("A", 1, 1000))
    backbone.send(placed, CancelRequested(order_id=placed.order_id, request_id="c1", actor="support"))
    backbone.run()
    for _ in range(3):
        backbone.pass_time(hours=7)
    assert len(asked) == 3
    assert {command.void_id for command in asked} == {f"{placed.order_id}/void/T1"}
    held = backbone.published(OrderHeld)[-1]
    assert (held.reason_code, held.owner) == ("order.payment_unanswered", "payments")
    backbone.outside.payment = pay
    backbone.pass_time(days=8)
    assert len(asked) == 3
    (tender,) = the_order(backbone, placed).tenders
    assert tender.voided == 1100
    assert [name for name in the_order(backbone, placed).timers if name != "forget"] == []


def test_a_refused_void_is_shown_to_somebody(backbone: Backbone) -> None:
    items(backbone, "A")
    backbone.stock("A", WH=0)
    backbone.outside.payment = lambda command: [
        PaymentDeclined(
            order_id=command.order_id,
            reference=command.void_id,
            reason="void_unavailable",
        )
    ]
    placed = order(1, ("A", 1, 1000))
    backbone.send(placed, CancelRequested(order_id=placed.order_id, request_id="c1", actor="support"))
    backbone.run()
    assert "order.void_failed" in [held.reason_code for held in backbone.published(OrderHeld)]


def test_a_refund_that_rounds_otherwise_than_we_do_leaves_nothing_open(backbone: Backbone) -> None:
    items(backbone, "A")
    backbone.stock("A", WH=5)
    ship_one_unit_of_each_line(backbone)
    placed = order(1, ("A", 2, 2000), state=TenderState.CAPTURED)
    backbone.send(placed)
    backbone.run()
    backbone.send(a_channel_refund(placed, 1, 1001, amount=Money(minor=1102, currency="EUR")))
    backbone.run()
    assert len(backbone.published(OrderCompleted)) == 1
    books = the_order(backbone, placed)
    assert (books.cancel_refunded_minor, books.credited_minor) == (1100, 2)
    invoiced = booked(backbone, DocumentType.INVOICE) - booked(backbone, DocumentType.CREDIT_MEMO)
    assert invoiced == 1098 == 2200 - 1102


def test_units_that_are_released_a_second_time_are_in_one_sales_order(backbone: Backbone) -> None:
    items(backbone, "A")
    backbone.stock("A", WH=2)
    everything = backbone.outside.warehouse

    def refuse(command: Any) -> list[Any]:
        return [
            FulfillmentRejected(
                order_id=command.order_id,
                fulfillment_order_id=command.fulfillment_order_id,
                event_id="rejected",
                location=command.location,
                reason="closed",
            )
        ]

    backbone.outside.warehouse = refuse
    backbone.send(order(1, ("A", 2, 2000)))
    backbone.run()
    backbone.outside.warehouse = everything
    backbone.pass_time(days=3)
    backbone.stock("A", SOUTH=5)
    backbone.run()
    backbone.pass_time(days=3)
    documents = backbone.published(ErpDocumentPosted)
    orders = {
        (each.document_type, each.amount.minor)
        for each in documents
        if each.document_type in (DocumentType.SALES_ORDER, DocumentType.SALES_ORDER_CHANGE)
    }
    assert len([each for each in documents if each.document_type is DocumentType.SALES_ORDER]) == 2
    assert orders == {(DocumentType.SALES_ORDER, 2200), (DocumentType.SALES_ORDER_CHANGE, 0)}
    assert booked(backbone, DocumentType.INVOICE) == 2200
