"""Invariant 5: outputs and dead letters out of order are found, and only where one key's order is broken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from crossdock_canonical.money import Money
from crossdock_canonical.records import (
    CapturePayment,
    DocumentType,
    ErpDocumentPosted,
    OrderShipped,
    Origin,
    PaymentAuthorized,
    PaymentKind,
    PaymentRecorded,
    ReleaseStock,
)
from crossdock_canonical.specification import T0

EUR = Money(minor=1999, currency="EUR")
OO = "order-orchestrator"
NAME = "outputs keep the order of their causes"
DOCUMENTS = "documents come after those that they stand on"
LETTERS = "dead letters keep the order of their messages"


def authorized(number: int, order: str = "O-1") -> PaymentAuthorized:
    return PaymentAuthorized(order_id=order, tender_reference=f"T{number}", amount=EUR, authorized_at=T0)


def capture(number: int, order: str = "O-1") -> CapturePayment:
    return CapturePayment(order_id=order, capture_id=f"C{number}", tender_reference="T1", amount=EUR)


def release(order: str) -> ReleaseStock:
    return ReleaseStock(sku="A", order_id=order, slip_id=f"{order}/1", lines=())


def test_outputs_in_the_order_of_their_causes_pass(world: Any) -> None:
    first, second = (world.deliver(authorized(number)) for number in (1, 2))
    world.emit(OO, capture(1), first)
    world.emit(OO, capture(2), first)
    world.emit(OO, capture(3), second)
    check = world.check(NAME)
    assert (check.checked, check.violations) == (3, ())


def test_an_output_that_was_overtaken_is_found(world: Any) -> None:
    first, second = (world.deliver(authorized(number)) for number in (1, 2))
    world.emit(OO, capture(2), second)
    world.emit(OO, capture(1), first)
    [found] = world.check(NAME).violations
    assert "stands after" in found
    assert "a later message caused" in found


def test_keys_and_topics_are_independent(world: Any) -> None:
    first, second = world.deliver(authorized(1)), world.deliver(authorized(2))
    other = world.deliver(authorized(1, "O-2"))
    assert world.partition(authorized(1)) == world.partition(authorized(1, "O-2"))
    recorded = PaymentRecorded(
        order_id="O-1",
        payment_id="P1",
        kind=PaymentKind.AUTHORIZED,
        amount=EUR,
        origin=Origin.CHANNEL,
        channel="shopify",
        shop="shop",
    )
    world.emit(OO, capture(2), second)
    world.emit(OO, recorded, first)
    world.emit(OO, capture(9, "O-2"), other)
    assert not world.check(NAME).violations


def test_two_keys_that_act_on_a_third_owe_each_other_no_order(world: Any) -> None:
    first, other = world.deliver(authorized(1)), world.deliver(authorized(2, "O-2"))
    world.emit(OO, release("O-2"), other)
    world.emit(OO, release("O-1"), first)
    check = world.check(NAME)
    assert (check.checked, check.violations) == (2, ())
    later = world.deliver(authorized(3))
    world.emit(OO, replace(release("O-1"), slip_id="later"), later)
    world.emit(OO, replace(release("O-1"), slip_id="earlier"), first)
    assert len(world.check(NAME).violations) == 1


def test_a_repeated_delivery_may_act_at_either_place(world: Any) -> None:
    first = world.deliver(authorized(1), delivery="psp/1")
    second = world.deliver(authorized(2))
    assert world.deliver(authorized(1), delivery="psp/1") == first
    world.emit(OO, capture(2), second)
    world.emit(OO, capture(1), first)
    assert not world.check(NAME).violations


def posted(number: int) -> ErpDocumentPosted:
    return ErpDocumentPosted(
        chain="stock:A",
        document_type=DocumentType.STOCK_ADJUSTMENT,
        business_key=f"K{number}",
        erp="cloud",
        external_ref=f"E{number}",
        posted_at=T0,
    )


def test_answers_of_an_outside_system_come_when_they_come(world: Any) -> None:
    first, second = (world.deliver(authorized(number)) for number in (1, 2))
    world.emit("erp-poster", posted(2), second)
    world.emit("erp-poster", posted(1), first)
    assert not world.check(NAME).violations
    world.journal("erp-poster", 0)
    assert len(world.check(NAME).violations) == 1
    answer = {"outcome": "posted"}
    world.journal(
        "erp-poster", 0, answers=[["stock:A", "1", second, answer], ["stock:A", "2", first, answer]]
    )
    assert not world.check(NAME).violations


def test_dead_letters_of_one_key_out_of_order_are_found(world: Any) -> None:
    topic = PaymentAuthorized.TOPIC
    world.dead_letter(OO, topic, 1, 4, key=b"a")
    world.dead_letter(OO, topic, 1, 2, key=b"b")
    assert not world.check(LETTERS).violations
    world.dead_letter(OO, topic, 1, 3, key=b"a")
    check = world.check(LETTERS)
    [found] = check.violations
    assert "copies @3" in found
    assert "after @4" in found
    assert check.checked == 3


def document(kind: DocumentType, key: str) -> ErpDocumentPosted:
    return ErpDocumentPosted(
        chain="order:O-1",
        document_type=kind,
        business_key=key,
        erp="cloud",
        external_ref=key,
        order_id="O-1",
        posted_at=T0,
    )


def test_a_document_before_the_one_that_it_stands_on_is_found(world: Any) -> None:
    shipped = OrderShipped(
        order_id="O-1",
        shipment_id="S/1",
        release=1,
        channel="shopify",
        shop="shop",
        external_id="1",
        lines=(),
        currency="EUR",
        shipped_at=T0,
    )
    cause = world.emit(OO, shipped, world.deliver(authorized(1)))
    chain = (
        document(DocumentType.SALES_ORDER, "sales_order/O-1/1"),
        document(DocumentType.DELIVERY, "delivery/O-1/S/1"),
        document(DocumentType.INVOICE, "invoice/O-1/S/1"),
        document(DocumentType.CREDIT_MEMO, "credit_memo/O-1/C"),
        document(DocumentType.SALES_ORDER_CHANGE, "sales_order_change/O-1/C"),
        document(DocumentType.PAYMENT, "payment/O-1/P"),
    )
    for each in chain[2:]:
        world.emit("erp-poster", each, cause)
    assert [text.partition(" (")[0] for text in world.check(DOCUMENTS).violations] == [
        "invoice/O-1/S/1",
        "sales_order_change/O-1/C",
    ]
    for each in chain[:2]:
        world.emit("erp-poster", each, cause)
    check = world.check(DOCUMENTS)
    assert (check.checked, len(check.violations)) == (4, 2)


def test_documents_in_order_pass(world: Any) -> None:
    cause = world.deliver(authorized(1))
    for kind, key in (
        (DocumentType.DELIVERY, "delivery/O-1/till"),
        (DocumentType.INVOICE, "invoice/O-1/till"),
        (DocumentType.CREDIT_MEMO, "credit_memo/O-1/C"),
    ):
        world.emit("erp-poster", document(kind, key), cause)
    check = world.check(DOCUMENTS)
    assert (check.checked, check.violations) == (2, ())
