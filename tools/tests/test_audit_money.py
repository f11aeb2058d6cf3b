"""Invariants 3 and 7: a busy day's books close; totals, parts, movements, credits and payouts that do not add up are found."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    CapturePayment,
    CreditCause,
    CreditGranted,
    CreditProposed,
    DocumentType,
    ErpDocumentPosted,
    FulfillmentRequested,
    LinesMatched,
    MatchLines,
    OrderAmended,
    OrderCompleted,
    OrderHeld,
    OrderReceived,
    OrderReleased,
    OrderShipped,
    Origin,
    PaymentCaptured,
    PaymentKind,
    PaymentRecorded,
    RefundPayment,
    RefundRecorded,
    ReturnAuthorized,
    SettlementDeclared,
    SettlementProved,
)
from crossdock_simulation.backbone import Backbone
from crossdock_simulation.planting import (
    CANCELLED,
    EDITED,
    REFUNDED,
    RETURNED,
    SPLIT,
    a_busy_day,
    evidence_of,
    id_of,
    planted,
    when,
)
from crossdock_tools.audit.books import NO_BOOKS, Books, DocumentBook, ErpBooks
from crossdock_tools.audit.evidence import Evidence
from crossdock_tools.audit.money import ORCHESTRATOR, money
from crossdock_tools.audit.quantities import quantities
from crossdock_tools.audit.report import Check
from crossdock_tools.audit.settlement import RECONCILER, settlements, settlements_end

TOTALS = "an order's total is its lines, less discounts, with taxes and charges"
PARTS = "what shipped of a line sums to the line, and charges ship once"
COMPLETION = "a completed order says what its events sum to, and has its money"
MOVED = "money moves as asked and as answered, and is recorded once"
TENDERS = "authorised = captured + voided + expired + live, payment by payment"
BALANCE = "captured - refunded = shipped - credited, once all money has moved"
CREDITS = "a credit is the sum of its lines, and never more than what its line shipped for"
PAID_OUT = "what we pay out for a credit is at most the credit"
POSTED = "Σ invoices - Σ credit memos = shipped - credited, as posted"
BOOKED = "Σ invoices - Σ credit memos = shipped - credited, in the ERP's books"
CLASSED = "every line of a payout is in one class or one named residual"
PROVED = "a payout's declared total is its lines and its residuals"
JOURNAL = "a payout's journal balances, and holds back what the payout does"
ORDERED = "live = ordered - cancelled, shipped ≤ live, and all of it once the order has ended"
SHIPPED = "shipped ≤ asked of the location ≤ released"
RETURNS = "credited ≤ shipped, and no more is authorised to come back than shipped"
REFUNDS = "refunds that we start never exceed what was captured"
CAPTURES = "captures that we start never exceed what has shipped"
STATES = "ordered = cancelled + waiting + soft + released + shipped, of the worth that was told"


@pytest.fixture(scope="module")
def day() -> Evidence:
    backbone = Backbone()
    a_busy_day(backbone)
    return evidence_of(backbone)


def checks(evidence: Evidence, books: Books = NO_BOOKS) -> dict[str, Check]:
    made = (
        *money(evidence, books),
        *settlements(evidence, books),
        *quantities(evidence, books),
        settlements_end(evidence, books),
    )
    return {check.name: check for check in made}


def found(evidence: Evidence, name: str, books: Books = NO_BOOKS) -> str:
    """What a check found, as one text; it must have found something."""
    violations = checks(evidence, books)[name].violations
    assert violations, f"{name}: nothing found"
    return "\n".join(violations)


def booked(evidence: Evidence) -> Books:
    """An ERP whose own books hold what was posted."""
    posted = [entry.body for entry in evidence.of(ErpDocumentPosted)]
    return Books(
        erps=ErpBooks(
            documents=tuple(
                DocumentBook(
                    erp=each.erp,
                    document_type=each.document_type,
                    business_key=each.business_key,
                    version=each.version,
                    reference=each.business_key,
                    external_ref=each.external_ref,
                    order_id=each.order_id,
                    amount=each.amount,
                )
                for each in posted
            )
        )
    )


def more(amount: Money) -> Money:
    return replace(amount, minor=amount.minor + 1)


def dearer(line: Any) -> Any:
    return replace(line, amounts=line.amounts + Amounts(currency="EUR", goods=1))


def dearer_lines(body: Any) -> Any:
    return replace(body, lines=tuple(dearer(line) for line in body.lines))


def another_unit(body: Any) -> Any:
    return replace(body, lines=tuple(replace(line, units=line.units + 1) for line in body.lines))


def test_a_busy_day_closes(day: Evidence) -> None:
    for check in checks(day, booked(day)).values():
        assert check.checked > 0, check
        assert not check.violations, check


def test_an_order_whose_parts_are_not_its_total_is_found(day: Evidence) -> None:
    wrong = planted(day, change=when(OrderReceived, lambda each: replace(each, total=more(each.total))))
    assert id_of(SPLIT) in found(wrong, TOTALS)


def test_a_cent_that_a_split_loses_is_found(day: Evidence) -> None:
    lost = planted(day, change=when(OrderShipped, dearer_lines, order_id=id_of(SPLIT)))
    assert "its shipments" in found(lost, PARTS)
    shipments = [each.body.shipment_id for each in day.of(OrderShipped) if each.body.order_id == id_of(SPLIT)]
    assert len(shipments) == 2
    twice = when(
        OrderShipped,
        lambda each: replace(each, shipping=Amounts(currency="EUR", goods=500)),
        order_id=id_of(SPLIT),
    )
    assert "charges on its shipments" in found(planted(day, change=twice), PARTS)


def test_a_completion_that_says_something_else_is_found(day: Evidence) -> None:
    for field, change in (
        ("captured", lambda each: replace(each, captured=more(each.captured))),
        ("refunded", lambda each: replace(each, refunded=more(each.refunded))),
        ("shipped units", lambda each: replace(each, shipped_units=each.shipped_units + 1)),
        ("cancelled units", lambda each: replace(each, cancelled_units=each.cancelled_units + 1)),
    ):
        assert field in found(planted(day, change=when(OrderCompleted, change)), COMPLETION)


def test_an_order_that_completes_without_its_money_is_found(day: Evidence) -> None:
    unpaid = planted(
        day, drop=lambda body: isinstance(body, PaymentRecorded) and body.order_id == id_of(SPLIT)
    )
    assert "was never captured" in found(unpaid, COMPLETION)


def test_money_that_moved_otherwise_than_asked_is_found(day: Evidence) -> None:
    asked = planted(day, change=when(CapturePayment, lambda each: replace(each, amount=more(each.amount))))
    assert "asked for was" in found(asked, MOVED)
    answered = planted(day, drop=lambda body: isinstance(body, PaymentCaptured))
    assert "answered None" in found(answered, MOVED)
    twice = planted(day, repeat=lambda body: isinstance(body, PaymentRecorded))
    assert "is recorded twice" in found(twice, MOVED)


def test_a_payment_whose_parts_exceed_it_is_found(day: Evidence) -> None:
    def lapsed(service: str, state: dict[str, Any]) -> dict[str, Any]:
        if service != ORCHESTRATOR or "tenders" not in state:
            return state
        return {**state, "tenders": [{**each, "expired": 1} for each in state["tenders"]]}

    assert "more is captured, voided and expired than authorised" in found(
        planted(day, state=lapsed), TENDERS
    )
    forgotten = planted(day, drop=lambda body: isinstance(body, PaymentRecorded) and body.kind == "CAPTURED")
    assert "captured and voided" in found(forgotten, TENDERS)


def test_money_that_neither_shipments_nor_credits_explain_is_found(day: Evidence) -> None:
    kept = planted(
        day, drop=lambda body: isinstance(body, RefundRecorded) and body.order_id == id_of(RETURNED)
    )
    assert id_of(RETURNED) in found(kept, BALANCE)
    kept = planted(
        day, drop=lambda body: isinstance(body, RefundRecorded) and body.order_id == id_of(CANCELLED)
    )
    assert id_of(CANCELLED) in found(kept, BALANCE)


def held(reason_code: str) -> OrderHeld:
    return OrderHeld(
        order_id=id_of(RETURNED),
        reason_code=reason_code,
        deadline=datetime(2026, 1, 1, tzinfo=UTC),
        owner="finance",
    )


def test_a_refund_that_a_provider_refused_is_an_exception_if_its_owner_was_told(day: Evidence) -> None:
    """It is forgotten with its order one day, and stays unpaid."""

    def instead_of_the_refund(reason_code: str) -> Evidence:
        return planted(
            day, change=when(RefundRecorded, lambda _: held(reason_code), order_id=id_of(RETURNED))
        )

    assert not checks(instead_of_the_refund("order.refund_failed"))[BALANCE].violations
    assert id_of(RETURNED) in found(instead_of_the_refund("order.overdue"), BALANCE)
    # There was enough to pay it with, whatever was said.
    assert id_of(RETURNED) in found(instead_of_the_refund("order.credit_exceeds_captured"), BALANCE)


def test_a_credit_that_nothing_is_left_to_pay_with_is_an_exception_of_just_its_amount(day: Evidence) -> None:
    """The shop itself sent all that was captured back, before the return was credited."""
    order_id = id_of(RETURNED)
    captured = sum(
        each.body.amount.minor
        for each in day.of(PaymentRecorded)
        if each.body.order_id == order_id and each.body.kind is PaymentKind.CAPTURED
    )

    def emptied(reason_code: str, *, credited: int) -> Evidence:
        def change(body: Any) -> Any:
            if getattr(body, "order_id", None) != order_id:
                return body
            match body:
                case PaymentRecorded(kind=PaymentKind.AUTHORIZED):
                    return held(reason_code)
                case OrderReleased():
                    return CreditGranted(
                        order_id=order_id,
                        credit_id="channel",
                        cause=CreditCause.CHANNEL_REFUND,
                        lines=(),
                        adjustment_minor=credited,
                        currency="EUR",
                        total=Money(minor=credited, currency="EUR"),
                        origin=Origin.CHANNEL,
                    )
                case RefundRecorded():
                    return replace(body, origin=Origin.CHANNEL, amount=Money(minor=captured, currency="EUR"))
            return body

        return planted(day, change=change)

    short = "order.credit_exceeds_captured"
    assert not checks(emptied(short, credited=captured))[BALANCE].violations
    assert order_id in found(emptied(short, credited=captured + 1), BALANCE)
    assert order_id in found(emptied("order.overdue", credited=captured), BALANCE)


def test_credits_beyond_their_lines_are_found(day: Evidence) -> None:
    wrong = planted(day, change=when(CreditGranted, lambda each: replace(each, total=more(each.total))))
    assert "total" in found(wrong, CREDITS)
    again = planted(day, repeat=lambda body: isinstance(body, CreditGranted))
    assert "is granted twice" in found(again, CREDITS)
    generous = when(
        CreditGranted,
        lambda each: replace(
            each,
            lines=tuple(replace(line, amounts=Amounts(currency="EUR", goods=99_999)) for line in each.lines),
        ),
        order_id=id_of(RETURNED),
    )
    assert "99999 credited" in found(planted(day, change=generous), CREDITS)


def test_more_paid_out_than_credited_is_found(day: Evidence) -> None:
    rich = planted(
        day,
        change=when(
            RefundRecorded, lambda each: replace(each, amount=more(each.amount)), order_id=id_of(RETURNED)
        ),
    )
    assert "paid out for credit" in found(rich, PAID_OUT)
    nameless = planted(
        day, change=when(RefundRecorded, lambda each: replace(each, credit_id=None), order_id=id_of(RETURNED))
    )
    assert "of 0" in found(nameless, PAID_OUT)


def test_documents_that_sum_to_something_else_are_found(day: Evidence) -> None:
    wrong = planted(
        day,
        change=when(
            ErpDocumentPosted,
            lambda each: replace(each, amount=more(each.amount)),
            document_type=DocumentType.INVOICE,
        ),
    )
    assert id_of(SPLIT) in found(wrong, POSTED)
    books = booked(wrong)
    assert not checks(day, books)[POSTED].violations
    assert id_of(SPLIT) in found(day, BOOKED, books)
    assert checks(day)[BOOKED].note == "no ERP books given"


def test_lines_of_a_payout_in_two_classes_or_none_are_found(day: Evidence) -> None:
    def one_class_less(answer: LinesMatched) -> LinesMatched:
        return replace(answer, classes=answer.classes[1:])

    def counted_twice(answer: LinesMatched) -> LinesMatched:
        return replace(answer, classes=tuple(replace(each, lines=each.lines + 1) for each in answer.classes))

    assert "classes and residuals" in found(planted(day, change=when(LinesMatched, one_class_less)), CLASSED)
    assert "lines in classes" in found(planted(day, change=when(LinesMatched, counted_twice)), CLASSED)
    assert "answered twice" in found(
        planted(day, repeat=lambda each: isinstance(each, LinesMatched)), CLASSED
    )


def test_a_payout_that_does_not_add_up_is_found(day: Evidence) -> None:
    def short(batch: MatchLines) -> MatchLines:
        return replace(batch, lines=batch.lines[1:])

    assert "lines, sum" in found(planted(day, change=when(MatchLines, short)), PROVED)
    for change in (
        lambda proof: replace(proof, residuals=()),
        lambda proof: replace(proof, residual_minor=0),
        lambda proof: replace(proof, classes=proof.classes[1:]),
        lambda proof: replace(proof, residuals=tuple(replace(e, owner="") for e in proof.residuals)),
    ):
        assert "settlement amazon/shop/1" in found(
            planted(day, change=when(SettlementProved, change)), PROVED
        )
    declared = when(SettlementDeclared, lambda each: replace(each, declared_total=more(each.declared_total)))
    assert "declared" in found(planted(day, change=declared), PROVED)
    assert "proved twice" in found(
        planted(day, repeat=lambda each: isinstance(each, SettlementProved)), PROVED
    )


def test_a_journal_out_of_balance_is_found(day: Evidence) -> None:
    def unbalanced(proof: SettlementProved) -> SettlementProved:
        return replace(proof, journal=tuple(each for each in proof.journal if each.account != "reserves"))

    text = found(planted(day, change=when(SettlementProved, unbalanced)), JOURNAL)
    assert "held in reserve" in text
    assert "journal" in text


def test_a_payout_without_an_end_or_a_deadline_is_found(day: Evidence) -> None:
    lost = planted(day, drop=lambda body: isinstance(body, SettlementProved))
    [text] = settlements_end(lost, NO_BOOKS).violations
    assert "neither ended nor a deadline" in text

    def waits(service: str, state: dict[str, Any]) -> dict[str, Any]:
        is_meant = service == RECONCILER and "settlement_id" in state
        return {**state, "timers": {"complete/abc": None}} if is_meant else state

    waiting = planted(lost, state=waits)
    assert not settlements_end(waiting, NO_BOOKS).violations


def test_units_that_nobody_ordered_are_found(day: Evidence) -> None:
    assert "units shipped of" in found(
        planted(day, change=when(OrderShipped, another_unit, order_id=id_of(EDITED))), ORDERED
    )
    lost = planted(day, drop=lambda body: isinstance(body, OrderShipped) and body.order_id == id_of(SPLIT))
    assert "the order has ended" in found(lost, ORDERED)
    silent = planted(
        day,
        drop=lambda body: isinstance(body, OrderAmended | OrderReceived) and body.order_id == id_of(EDITED),
    )
    assert id_of(EDITED) in found(silent, ORDERED)


def test_units_that_nobody_asked_to_ship_are_found(day: Evidence) -> None:
    def fewer(body: Any) -> Any:
        return replace(body, lines=body.lines[:0])

    assert "left of 0 asked for" in found(planted(day, change=when(FulfillmentRequested, fewer)), SHIPPED)
    assert "dispatched of 0 released" in found(planted(day, change=when(OrderReleased, fewer)), SHIPPED)


def test_more_back_than_went_out_is_found(day: Evidence) -> None:
    def ten(body: Any) -> Any:
        return replace(body, lines=tuple(replace(line, units=10) for line in body.lines))

    assert "proposed for credit" in found(planted(day, change=when(CreditProposed, ten)), RETURNS)
    assert "10 units credited of 2 shipped" in found(
        planted(day, change=when(CreditGranted, ten, order_id=id_of(REFUNDED))), RETURNS
    )
    # It was closed later: what counts is how much was open when it was authorised.
    assert "10 units authorised to come back of 3 shipped" in found(
        planted(day, change=when(ReturnAuthorized, ten)), RETURNS
    )


def test_a_refund_beyond_what_was_captured_is_found(day: Evidence) -> None:
    rich = when(
        RefundPayment,
        lambda each: replace(each, amount=Money(minor=99_999, currency="EUR")),
        order_id=id_of(RETURNED),
    )
    assert "99999 goes back" in found(planted(day, change=rich), REFUNDS)
    # Asked for before the money came in: the log of the order says so, whatever came later.
    entries = sorted(
        day.entries, key=lambda e: isinstance(e.body, PaymentRecorded) and e.body.kind == "CAPTURED"
    )
    late = planted(replace(day, entries=entries))
    assert "of 0 captured" in found(late, REFUNDS)


def test_a_refund_of_an_order_that_nobody_tells_of_is_found(day: Evidence) -> None:
    unknown = planted(day, change=when(RefundPayment, lambda each: replace(each, order_id="nobody")))
    assert "order nobody" in found(unknown, REFUNDS)


def test_a_capture_beyond_what_has_shipped_is_found(day: Evidence) -> None:
    whole = when(CapturePayment, lambda each: replace(each, amount=Money(minor=99_999, currency="EUR")))
    assert "99999 is taken" in found(planted(day, change=whole), CAPTURES)
    first = planted(day, drop=lambda body: isinstance(body, OrderShipped) and body.order_id == id_of(SPLIT))
    assert "for 0 shipped" in found(first, CAPTURES)


def test_a_state_that_is_not_what_was_told_is_found(day: Evidence) -> None:
    def other(**fields: int) -> Any:
        def changed(service: str, state: dict[str, Any]) -> dict[str, Any]:
            if service != ORCHESTRATOR or "tenders" not in state:
                return state
            return {**state, "lines": [{**line, **fields} for line in state["lines"]]}

        return changed

    assert "units" in found(planted(day, state=other(waiting=1)), STATES)
    assert "shipped units" in found(planted(day, state=other(shipped=9)), STATES)
    worth = Amounts(currency="EUR", goods=7).to_avro()
    assert "worth" in found(planted(day, state=other(open_amounts=worth)), STATES)
