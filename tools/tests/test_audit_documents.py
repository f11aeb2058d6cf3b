"""Invariant 4: documents that are doubled, unasked for, missing, or not what an ERP's own books hold are found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    Bucket,
    CreditCause,
    CreditGranted,
    DocumentType,
    ErpDocumentFailed,
    ErpDocumentPosted,
    OrderAmended,
    OrderCancelled,
    OrderReleased,
    OrderShipped,
    Origin,
    PaymentKind,
    PaymentRecorded,
    RefundRecorded,
    ReleasedLine,
    SettlementProved,
    StockAdjusted,
)
from crossdock_canonical.specification import T0
from crossdock_tools.audit.books import Books, DocumentBook, ErpBooks
from crossdock_tools.audit.documents import documents_of

EUR = Money(minor=1999, currency="EUR")
ORDER = {"order_id": "O-1", "channel": "shopify", "shop": "shop", "external_id": "1"}
RELEASED = OrderReleased(
    **ORDER,
    release=1,
    lines=(ReleasedLine(line_id="L1", sku="A", units=1, amounts=Amounts(currency="EUR", goods=1999)),),
    currency="EUR",
)
KEY = "sales_order/O-1/1"
POSTED = ErpDocumentPosted(
    chain="order:O-1",
    document_type=DocumentType.SALES_ORDER,
    business_key=KEY,
    erp="cloud",
    external_ref="E-1",
    amount=EUR,
    order_id="O-1",
    posted_at=T0,
)
BOOKED = DocumentBook(
    erp="cloud",
    document_type="SALES_ORDER",
    business_key=KEY,
    version=1,
    reference=f"{KEY}/v1",
    external_ref="E-1",
    order_id="O-1",
    amount=EUR,
)
FAILED = ErpDocumentFailed(
    chain="order:O-1",
    document_type=DocumentType.SALES_ORDER,
    business_key=KEY,
    erp="cloud",
    code="erp.rejected",
)


def books(*documents: DocumentBook, objections: tuple[str, ...] = ()) -> Books:
    return Books(erps=ErpBooks(documents=documents, objections=objections))


def released_and_posted(world: Any) -> str:
    fact: str = world.emit("order-orchestrator", RELEASED, "cause")
    world.emit("erp-poster", POSTED, fact)
    return fact


def of_documents(world: Any, given: Books) -> dict[str, Any]:
    return {check.name: check for check in world.audit(given, drained=True).checks if check.invariant == 4}


def test_a_document_in_topics_and_books_passes(world: Any) -> None:
    released_and_posted(world)
    found = of_documents(world, books(BOOKED))
    assert all(check.checked == 1 and not check.violations for check in found.values()), found
    assert set(found) == {
        "one document per business key and version",
        "every document has its fact",
        "ERPs hold no document twice",
        "posted documents are booked",
        "ERPs have no objection of their own",
        "every fact has its document",
        "every booking is known",
    }


def test_a_document_in_two_erps_is_found(world: Any) -> None:
    fact = released_and_posted(world)
    world.emit("erp-poster", replace(POSTED, erp="legacy", external_ref="X-9"), fact)
    found = of_documents(world, books(BOOKED, replace(BOOKED, erp="legacy", external_ref="X-9")))
    [on_topics] = found["one document per business key and version"].violations
    assert "in legacy as X-9" in on_topics
    [in_books] = found["ERPs hold no document twice"].violations
    assert "cloud E-1, legacy X-9" in in_books


def test_a_document_both_posted_and_given_up_is_found(world: Any) -> None:
    fact = released_and_posted(world)
    world.emit("erp-poster", FAILED, fact)
    [found] = world.check("one document per business key and version").violations
    assert "is posted" in found


def test_a_reference_used_for_two_documents_is_found(world: Any) -> None:
    other = replace(BOOKED, business_key="invoice/O-1/S1", external_ref="E-2")
    [found] = world.check("ERPs hold no document twice", books(BOOKED, other)).violations
    assert f"reference {BOOKED.reference} 2 times" in found


def test_a_document_that_no_fact_asks_for_is_found(world: Any) -> None:
    fact = world.emit("order-orchestrator", RELEASED, "cause")
    world.emit("erp-poster", replace(POSTED, business_key="sales_order/O-1/2"), fact)
    [found] = world.check("every document has its fact").violations
    assert "sales_order/O-1/2" in found


def test_a_document_whose_cause_is_another_fact_is_found(world: Any) -> None:
    world.emit("order-orchestrator", RELEASED, "cause")
    other = world.emit("order-orchestrator", replace(RELEASED, release=2), "cause")
    world.emit("erp-poster", POSTED, other)
    assert len(world.check("every document has its fact").violations) == 1


def test_a_fact_without_a_document_is_found_once_all_is_done(world: Any) -> None:
    fact = world.emit("order-orchestrator", RELEASED, "cause")
    assert all(check.name != "every fact has its document" for check in world.audit().checks)
    [found] = world.check("every fact has its document", drained=True).violations
    assert f"SALES_ORDER {KEY}, which OrderReleased" in found
    world.emit("erp-poster", FAILED, fact)
    assert not world.check("every fact has its document", drained=True).violations


def test_a_document_that_is_not_booked_or_booked_otherwise_is_found(world: Any) -> None:
    released_and_posted(world)
    name = "posted documents are booked"
    for given, words in (
        ((), "not booked"),
        ((replace(BOOKED, external_ref="E-2"),), "cloud E-2"),
        ((replace(BOOKED, document_type="INVOICE"),), "booked as INVOICE"),
        ((replace(BOOKED, amount=Money(minor=1, currency="EUR")),), "booked as 0.01 EUR"),
    ):
        [found] = world.check(name, books(*given)).violations
        assert words in found


def test_a_document_that_was_given_up_and_is_booked_is_found(world: Any) -> None:
    fact = world.emit("order-orchestrator", RELEASED, "cause")
    world.emit("erp-poster", FAILED, fact)
    [found] = world.check("posted documents are booked", books(BOOKED)).violations
    assert "given up, and is booked" in found


def test_a_booking_that_no_topic_knows_is_found_once_all_is_done(world: Any) -> None:
    [found] = world.check("every booking is known", books(BOOKED), drained=True).violations
    assert "of which no topic speaks" in found


def test_an_erps_own_objection_is_a_violation(world: Any) -> None:
    given = books(BOOKED, objections=("cloud: amount_differs",))
    assert world.check("ERPs have no objection of their own", given).violations == ("cloud: amount_differs",)


def test_without_books_it_says_so(world: Any) -> None:
    released_and_posted(world)
    check = world.check("posted documents are booked")
    assert (check.checked, check.note) == (0, "no books given")


SHIPPED = OrderShipped(**ORDER, shipment_id="S1", release=1, lines=(), currency="EUR", shipped_at=T0)
PAID = PaymentRecorded(
    order_id="O-1",
    payment_id="C1",
    kind=PaymentKind.CAPTURED,
    amount=EUR,
    origin=Origin.US,
    channel="shopify",
    shop="shop",
)
CANCELLED = OrderCancelled(
    **ORDER, cancel_id="X1", reason_code="r.c", lines=(), complete=True, origin=Origin.US
)
CREDIT = CreditGranted(
    order_id="O-1",
    credit_id="K1",
    cause=CreditCause.RETURN,
    lines=(),
    currency="EUR",
    total=EUR,
    origin=Origin.US,
)
ADJUSTED = StockAdjusted(
    sku="A", location="WH", bucket=Bucket.ON_HAND, delta=-1, version=3, ref="count/7", adjusted_at=T0
)
AMENDED = OrderAmended(order_id="O-1", amendment_id="M1", version=2, released=True, lines=())
REFUNDED = RefundRecorded(**ORDER, refund_id="R1", amount=EUR, origin=Origin.US)
PROVED = SettlementProved(
    settlement_id="SET",
    channel="amazon",
    shop="shop",
    external_id="1",
    currency="EUR",
    line_count=0,
    declared_minor=0,
    lines_minor=0,
    residual_minor=0,
    classes=(),
    journal=(),
    sha256="ab",
)


@pytest.mark.parametrize(
    ("fact", "asked"),
    [
        (RELEASED, {"SALES_ORDER": KEY}),
        (SHIPPED, {"DELIVERY": "delivery/O-1/S1", "INVOICE": "invoice/O-1/S1"}),
        (PAID, {"PAYMENT": "payment/O-1/C1"}),
        (replace(PAID, kind=PaymentKind.AUTHORIZED), {}),
        (replace(PAID, kind=PaymentKind.CHARGED_BACK), {}),
        (REFUNDED, {"PAYMENT": "refund/O-1/R1"}),
        (CREDIT, {"CREDIT_MEMO": "credit_memo/O-1/K1"}),
        (replace(CREDIT, invoiced=False), {}),
        (AMENDED, {"SALES_ORDER_CHANGE": "sales_order_change/O-1/M1"}),
        (replace(AMENDED, released=False), {}),
        (CANCELLED, {"SALES_ORDER_CHANGE": "sales_order_change/O-1/X1"}),
        (replace(CANCELLED, complete=False), {}),
        (replace(CANCELLED, order_id="O-2"), {}),
        (ADJUSTED, {"STOCK_ADJUSTMENT": "stock_adjustment/A/WH/ON_HAND/count/7"}),
        (PROVED, {"SETTLEMENT_JOURNAL": "settlement_journal/SET/ab"}),
    ],
)
def test_what_a_fact_asks_for(fact: Any, asked: dict[str, str]) -> None:
    found = documents_of(fact, released={"O-1"})
    assert {kind.value: key for kind, key in found} == asked
