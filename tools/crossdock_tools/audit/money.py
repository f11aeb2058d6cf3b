"""Invariant 3: every order's ledger closes, and its parts sum to the whole. One of the audit's subjects.

Amounts are minor units of the order's currency. What an order owes and what moved is summed from its events, from what the
payment provider and the channel reported, and from the documents; the services' own sums are only compared with it.
Settlements: `settlement`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from crossdock_canonical.money import Amounts
from crossdock_canonical.records import (
    CapturePayment,
    ChannelOrderReceived,
    CreditCause,
    CreditGranted,
    DocumentType,
    ErpDocumentPosted,
    OrderReceived,
    Origin,
    PaymentCaptured,
    PaymentKind,
    PaymentRecorded,
    PaymentRefunded,
    PaymentVoided,
    RefundPayment,
    RefundRecorded,
    TenderState,
    VoidPayment,
)
from crossdock_tools.audit.books import Books
from crossdock_tools.audit.evidence import Evidence
from crossdock_tools.audit.finding import Finding, closed
from crossdock_tools.audit.narration import Narration, narrations
from crossdock_tools.audit.report import Check
from crossdock_tools.audit.taken import why_not

ORCHESTRATOR = "order-orchestrator"
Orders = Mapping[str, Narration]
_MONEY_MOVED = (PaymentKind.CAPTURED, PaymentKind.VOIDED)
# Why an order waits for somebody to decide on a credit that could not be paid out.
_REFUND_REFUSED = "order.refund_failed"
_NOTHING_LEFT = "order.credit_exceeds_captured"


def money(evidence: Evidence, books: Books) -> tuple[Check, ...]:
    """Every check of the orders' money."""
    note = why_not(evidence, OrderReceived, CapturePayment, PaymentCaptured, ErpDocumentPosted)
    orders = {} if note else narrations(evidence)
    promised = promised_by_marketplaces(evidence)
    return (
        *closed(_order_totals(orders, promised), note),
        *closed(_payments(orders, promised, evidence), note),
        *closed(_credits(orders), note),
        *_invoices(orders, evidence, books, note),
    )


def _order_totals(orders: Orders, promised: Mapping[str, int]) -> tuple[Finding, ...]:
    """Totals and their parts, order by order, from the order's events alone."""
    totals = Finding(3, "an order's total is its lines, less discounts, with taxes and charges")
    parts = Finding(3, "what shipped of a line sums to the line, and charges ship once")
    completion = Finding(3, "a completed order says what its events sum to, and has its money")
    for order in orders.values():
        _check_totals(order, totals)
        _check_parts(order, parts)
        if order.completed is not None:
            _check_completion(order, promised.get(order.order_id, 0), completion)
    return totals, parts, completion


def _check_totals(order: Narration, finding: Finding) -> None:
    for entry in order.entries:
        event = entry.body
        if not isinstance(event, OrderReceived) or event.total is None:
            continue
        charges = (event.shipping.due if event.shipping is not None else 0) + event.other_minor
        total = sum(line.amounts.due for line in event.lines) + charges
        what = f"order {order.order_id} version {event.version}: total"
        finding.same(what, (total, event.currency), (event.total.minor, event.total.currency))


def _check_parts(order: Narration, finding: Finding) -> None:
    """A line all of whose live units have left is worth exactly what its shipments say, in every component."""
    for line_id, line in order.lines.items():
        shipped = order.shipped[line_id]
        if shipped and shipped == order.live(line_id):
            finding.same(
                f"order {order.order_id} line {line_id}: its shipments",
                line.amounts,
                order.shipped_amounts(line_id),
            )
    if order.shipments and order.received is not None:
        billed = [each for each in order.shipments if each.shipping is not None or each.other_minor]
        said = _sum(each.shipping for each in billed), sum(each.other_minor for each in billed)
        owed = _sum((order.received.shipping,)), order.received.other_minor
        finding.same(f"order {order.order_id}: charges on its shipments", owed, said)


def _sum(charges: Iterable[Amounts | None]) -> tuple[int, int, int, int]:
    """Goods, discount, tax, facilitator tax; a charge of nothing and no charge are the same."""
    found = [each for each in charges if each is not None]
    return (
        sum(each.goods for each in found),
        sum(each.discount for each in found),
        sum(each.tax for each in found),
        sum(each.facilitator_tax for each in found),
    )


def _check_completion(order: Narration, promised: int, finding: Finding) -> None:
    """The completing event against the events before it. What a marketplace collects is not captured by anybody here."""
    before = Narration(order.order_id)
    for entry in order.entries:
        if entry.body is order.completed:
            break
        before.take(entry)
    said = order.completed
    assert said is not None
    what = f"order {order.order_id} completed"
    finding.same(f"{what}: captured", before.recorded(PaymentKind.CAPTURED), said.captured.minor)
    finding.same(f"{what}: refunded", sum(each.amount.minor for each in before.refunds), said.refunded.minor)
    finding.same(f"{what}: shipped units", before.shipped.total(), said.shipped_units)
    finding.same(f"{what}: cancelled units", before.cancelled.total(), said.cancelled_units)
    if not promised:
        owed = before.shipped_value() - before.recorded(PaymentKind.CAPTURED)
        finding.expect(owed <= 0, f"{what}: {owed} of what shipped was never captured")


def promised_by_marketplaces(evidence: Evidence) -> Mapping[str, int]:
    """What marketplaces will settle themselves, by order: the largest report of each payment."""
    largest: dict[tuple[str, str], int] = {}
    for entry in evidence.of(ChannelOrderReceived):
        for tender in entry.body.tenders:
            if tender.state is TenderState.MARKETPLACE:
                key = entry.body.order_id, tender.reference
                largest[key] = max(largest.get(key, 0), tender.amount.minor)
    promised: Counter[str] = Counter()
    for (order_id, _), minor in largest.items():
        promised[order_id] += minor
    return promised


def _payments(orders: Orders, promised: Mapping[str, int], evidence: Evidence) -> tuple[Finding, ...]:
    """What moved, payment by payment: our request, the provider's word and the ledger say the same, once."""
    moved = Finding(3, "money moves as asked and as answered, and is recorded once")
    ledger = Finding(3, "authorised = captured + voided + expired + live, payment by payment")
    balance = Finding(3, "captured - refunded = shipped - credited, once all money has moved")
    commands = {_reference(entry.body): entry.body for entry in evidence.of(*_COMMANDS)}
    answers = {_reference(entry.body): entry.body for entry in evidence.of(*_ANSWERS)}
    states = orders_in_state(evidence)
    for order in orders.values():
        recorded: set[tuple[str, str]] = set()
        movements: tuple[PaymentRecorded | RefundRecorded, ...] = (*order.payments, *order.refunds)
        for event in movements:
            _check_movement(event, commands, answers, recorded, moved)
        state = states.get(order.order_id)
        if state is not None:
            _check_tenders(order, commands, state, ledger)
        if order.is_ended and not promised.get(order.order_id) and _is_settled(order, state):
            ours = order.shipped_value() - order.credited_value()
            cash = order.recorded(PaymentKind.CAPTURED) - sum(each.amount.minor for each in order.refunds)
            # What was not paid of our own credits is still here, as somebody was told.
            balance.same(f"order {order.order_id}: captured less refunded", ours + _unpaid(order, cash), cash)
    return moved, ledger, balance


_COMMANDS = (CapturePayment, VoidPayment, RefundPayment)
_ANSWERS = (PaymentCaptured, PaymentVoided, PaymentRefunded)


def _reference(body: Any) -> tuple[str, str]:
    """Direction and our own id of a movement."""
    match body:
        case CapturePayment() | PaymentCaptured():
            return PaymentKind.CAPTURED, body.capture_id
        case VoidPayment() | PaymentVoided():
            return PaymentKind.VOIDED, body.void_id
        case RefundPayment() | PaymentRefunded():
            return "REFUNDED", body.refund_id
        case PaymentRecorded():
            return body.kind, body.payment_id
        case _:
            return "REFUNDED", body.refund_id


def _check_movement(
    event: PaymentRecorded | RefundRecorded,
    commands: Mapping[tuple[str, str], Any],
    answers: Mapping[tuple[str, str], Any],
    recorded: set[tuple[str, str]],
    finding: Finding,
) -> None:
    reference = _reference(event)
    what = f"order {event.order_id}: {' '.join(reference)}"
    finding.expect(reference not in recorded, f"{what} is recorded twice")
    recorded.add(reference)
    if event.origin is Origin.US and (isinstance(event, RefundRecorded) or event.kind in _MONEY_MOVED):
        asked, answered = commands.get(reference), answers.get(reference)
        amounts = [None if each is None else each.amount for each in (asked, answered)]
        finding.expect(
            amounts == [event.amount, event.amount],
            f"{what} of {event.amount} is recorded; asked for was {amounts[0]}, answered {amounts[1]}",
        )


def orders_in_state(evidence: Evidence) -> dict[str, dict[str, Any]]:
    """The orchestrator's orders as plain values: the only place that tells what of an authorisation lapsed."""
    changelog = evidence.changelogs.get(ORCHESTRATOR)
    return {} if changelog is None else {key: s for key, s in changelog.latest() if "tenders" in s}


def _check_tenders(
    order: Narration, commands: Mapping[tuple[str, str], Any], state: Mapping[str, Any], finding: Finding
) -> None:
    """A capture may be for more than was known to be authorised: then it tells of the authorisation as well."""
    facts: dict[str, Counter[str]] = defaultdict(Counter)
    for event in order.payments:
        command = commands.get(_reference(event))
        tender = event.reference if command is None else command.tender_reference
        facts[tender][event.kind] += event.amount.minor
    for books in state["tenders"]:
        reference = books["reference"]
        mine = facts[reference]
        what = f"order {order.order_id} payment {reference}"
        finding.same(
            f"{what}: captured and voided",
            (mine[PaymentKind.CAPTURED], mine[PaymentKind.VOIDED]),
            (books["captured"], books["voided"]),
        )
        live = books["authorized"] - books["captured"] - books["voided"] - books["expired"]
        finding.expect(live >= 0, f"{what}: {-live} more is captured, voided and expired than authorised")
        unknown = books["authorized"] - mine[PaymentKind.AUTHORIZED]
        finding.expect(
            0 <= unknown <= mine[PaymentKind.CAPTURED] + mine[PaymentKind.VOIDED],
            f"{what}: authorised are {books['authorized']}, recorded {mine[PaymentKind.AUTHORIZED]}",
        )


def _is_settled(order: Narration, state: Mapping[str, Any] | None) -> bool:
    """Whether all money has moved, and moved as the ledger foresees: not out of a drawer, to a bank, or beyond what was there.

    Those are exceptions which are recorded as such. Once the state is forgotten, nothing is under way any more.
    """
    if (
        any(each.over_refund_minor or each.origin is Origin.STORE for each in order.refunds)
        or any(each.origin is Origin.STORE for each in order.credits)
        or order.recorded(PaymentKind.CHARGED_BACK)
    ):
        return False
    if state is None:
        return True
    is_moving = any(each["status"] in ("PENDING", "FAILED") for each in state["movements"])
    return not (is_moving or state["owed"] or "refund" in state["timers"])


def _unpaid(order: Narration, cash: int) -> int:
    """What of our own credits was never paid out although all is over, as an exception that its owner was told of.

    Either the provider refused the refund to the last, or there was nothing left to pay it with: `cash`, captured less
    refunded, is used up. Anything else that is not paid out was forgotten, and is no exception.
    """
    told = {hold.reason_code for hold in order.holds}
    if not (_REFUND_REFUSED in told or (_NOTHING_LEFT in told and cash <= 0)):
        return 0
    credited = sum(each.total.minor for each in order.credits if each.origin is Origin.US)
    return credited - sum(each.amount.minor for each in order.refunds if each.origin is Origin.US)


def _credits(orders: Orders) -> tuple[Finding, ...]:
    """Credits against what they credit, and refunds against their credits."""
    granted = Finding(3, "a credit is the sum of its lines, and never more than what its line shipped for")
    paid = Finding(3, "what we pay out for a credit is at most the credit")
    for order in orders.values():
        returned: dict[str, int] = defaultdict(int)
        by_id: dict[str, CreditGranted] = {}
        for credit in order.credits:
            what = f"order {order.order_id} credit {credit.credit_id}"
            granted.expect(credit.credit_id not in by_id, f"{what} is granted twice")
            by_id[credit.credit_id] = credit
            total = sum(line.amounts.due for line in credit.lines) + credit.adjustment_minor
            granted.same(
                f"{what}: total", (total, credit.currency), (credit.total.minor, credit.total.currency)
            )
            if credit.cause is CreditCause.RETURN:
                for line in credit.lines:
                    returned[line.line_id] += line.amounts.due
        for line_id, minor in returned.items():
            shipped = order.shipped_amounts(line_id)
            worth = 0 if shipped is None else shipped.due
            granted.expect(
                minor <= worth, f"order {order.order_id} line {line_id}: {minor} credited, {worth} shipped"
            )
        paid_out: Counter[str] = Counter()
        for refund in order.refunds:
            if refund.origin is Origin.US:
                paid_out[refund.credit_id or ""] += refund.amount.minor
        for credit_id, minor in paid_out.items():
            found = by_id.get(credit_id)
            total = 0 if found is None else found.total.minor
            paid.expect(
                minor <= total,
                f"order {order.order_id}: {minor} paid out for credit {credit_id!r} of {total}",
            )
    return granted, paid


def _invoices(orders: Orders, evidence: Evidence, books: Books, note: str) -> tuple[Check, ...]:
    """Σ invoices - Σ credit memos = shipped value - credited value, without any facilitator's tax: in our words and the ERP's."""
    ours = Finding(3, "Σ invoices - Σ credit memos = shipped - credited, as posted")
    theirs = Finding(3, "Σ invoices - Σ credit memos = shipped - credited, in the ERP's books")
    posted: dict[str, list[tuple[str, int]]] = defaultdict(list)
    booked: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for entry in evidence.of(ErpDocumentPosted):
        if entry.body.order_id is not None and entry.body.amount is not None:
            posted[entry.body.order_id].append((entry.body.document_type, entry.body.amount.minor))
    for document in () if books.erps is None else books.erps.documents:
        if document.order_id is not None and document.amount is not None:
            booked[document.order_id].append((document.document_type, document.amount.minor))
    for order in orders.values():
        _check_documents(order, posted[order.order_id], ours)
        if books.erps is not None:
            _check_documents(order, booked[order.order_id], theirs)
    return ours.check(note), theirs.check(note or ("no ERP books given" if books.erps is None else ""))


def _check_documents(order: Narration, documents: list[tuple[str, int]], finding: Finding) -> None:
    """As far as every shipment and credit has its document; which ones are missing is another check's."""
    invoices = [minor for kind, minor in documents if kind == DocumentType.INVOICE]
    memos = [minor for kind, minor in documents if kind == DocumentType.CREDIT_MEMO]
    due = [
        sum(line.amounts.receivable for line in each.lines)
        + (each.shipping.receivable if each.shipping is not None else 0)
        + each.other_minor
        for each in order.shipments
    ]
    owed = [
        sum(line.amounts.receivable for line in each.lines) + each.adjustment_minor
        for each in order.credits
        if each.invoiced
    ]
    if len(invoices) == len(due) and len(memos) == len(owed) and due:
        finding.same(
            f"order {order.order_id}: invoices, credit memos",
            (sum(due), sum(owed)),
            (sum(invoices), sum(memos)),
        )


CHECKS = (money,)
