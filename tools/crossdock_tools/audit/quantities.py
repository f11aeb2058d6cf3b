"""Invariant 7: refunds we start ≤ captured; returned ≤ shipped ≤ ordered. By line and by order. One of the audit's subjects."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from crossdock_canonical.money import Amounts
from crossdock_canonical.records import (
    CapturePayment,
    CreditProposed,
    FulfillmentRequested,
    OrderReceived,
    PaymentCaptured,
    PaymentDeclined,
    PaymentKind,
    PaymentRefunded,
    PickupCollected,
    RefundFailed,
    RefundPayment,
    ReturnAuthorized,
    ReturnClosed,
    ShipmentConfirmed,
    ShipmentDispatched,
)
from crossdock_tools.audit.books import Books
from crossdock_tools.audit.evidence import Evidence
from crossdock_tools.audit.finding import Finding, closed
from crossdock_tools.audit.money import Orders, orders_in_state, promised_by_marketplaces
from crossdock_tools.audit.narration import Narration, narrations
from crossdock_tools.audit.report import Check
from crossdock_tools.audit.taken import accepted, why_not

ROUTER = "fulfillment-router"


def quantities(evidence: Evidence, _books: Books) -> tuple[Check, ...]:
    """Units of every line from ordered to returned, and money from captured to refunded."""
    ordered = Finding(7, "live = ordered - cancelled, shipped ≤ live, and all of it once the order has ended")
    shipped = Finding(7, "shipped ≤ asked of the location ≤ released")
    returned = Finding(7, "credited ≤ shipped, and no more is authorised to come back than shipped")
    refunded = Finding(7, "refunds that we start never exceed what was captured")
    states = Finding(
        7, "ordered = cancelled + waiting + soft + released + shipped, of the worth that was told"
    )
    captured = Finding(7, "captures that we start never exceed what has shipped")
    findings = (ordered, shipped, returned, refunded, captured, states)
    note = why_not(evidence, OrderReceived, FulfillmentRequested, RefundPayment, CreditProposed)
    if note:
        return closed(findings, note)
    orders = narrations(evidence)
    for order in orders.values():
        _check_ordered(order, ordered)
    _check_shipped(orders, evidence, shipped)
    _check_returned(orders, evidence, returned)
    _check_refunded(orders, evidence, refunded)
    _check_captured(orders, evidence, captured)
    for order_id, state in orders_in_state(evidence).items():
        if order_id in orders:
            _check_state(orders[order_id], state, states)
    return closed(findings)


def _check_ordered(order: Narration, finding: Finding) -> None:
    for line_id in {*order.ordered, *order.lines, *order.shipped}:
        what = f"order {order.order_id} line {line_id}"
        shipped, live = order.shipped[line_id], order.live(line_id)
        if not order.is_rejected:
            finding.same(f"{what}: live units", order.ordered[line_id] - order.cancelled[line_id], live)
        finding.expect(shipped <= live, f"{what}: {shipped} units shipped of {live}")
        if order.is_ended:
            finding.expect(shipped == live, f"{what}: the order has ended, {shipped} of {live} units shipped")


def _check_shipped(orders: Orders, evidence: Evidence, finding: Finding) -> None:
    """A location's own report counts once a shipment; what the router refused does not count."""
    requested: Counter[tuple[str, str]] = Counter()
    for entry in evidence.of(FulfillmentRequested):
        requested.update(
            {(entry.body.fulfillment_order_id, each.line_id): each.units for each in entry.body.lines}
        )
    left: Counter[tuple[str, str]] = Counter()
    seen: set[tuple[str, str]] = set()
    for entry in accepted(evidence, ROUTER, ShipmentConfirmed, PickupCollected):
        key = entry.body.fulfillment_order_id, entry.body.shipment_id
        if key not in seen:
            seen.add(key)
            for each in entry.body.lines:
                left[entry.body.fulfillment_order_id, each.line_id] += each.units
    for (number, line_id), units in left.items():
        asked = requested[number, line_id]
        finding.expect(units <= asked, f"{number} line {line_id}: {units} units left of {asked} asked for")
    dispatched: Counter[tuple[str, str]] = Counter()
    for entry in evidence.of(ShipmentDispatched):
        for each in entry.body.lines:
            dispatched[entry.body.order_id, each.line_id] += each.units
    for (order_id, line_id), units in dispatched.items():
        releases = orders[order_id].releases if order_id in orders else []
        released = sum(
            each.units for release in releases for each in release.lines if each.line_id == line_id
        )
        finding.expect(
            units <= released, f"order {order_id} line {line_id}: {units} dispatched of {released} released"
        )


def _check_returned(orders: Orders, evidence: Evidence, finding: Finding) -> None:
    units: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for entry in evidence.of(CreditProposed):
        for line in entry.body.lines:
            units["proposed for credit"][entry.body.order_id, line.line_id] += line.units
    for order in orders.values():
        for credit in order.credits:
            for line in credit.lines if credit.invoiced else ():
                units["credited"][order.order_id, line.line_id] += line.units
    for what, lines in units.items():
        for (order_id, line_id), count in lines.items():
            shipped = orders[order_id].shipped[line_id] if order_id in orders else 0
            finding.expect(
                count <= shipped,
                f"order {order_id} line {line_id}: {count} units {what} of {shipped} shipped",
            )
    _check_authorized(orders, evidence, finding)


def _check_authorized(orders: Orders, evidence: Evidence, finding: Finding) -> None:
    """Whenever a return is authorised: all that are open then, in the order in which their topic tells of them."""
    open_now: dict[str, dict[str, ReturnAuthorized]] = defaultdict(dict)
    for entry in evidence.entries:
        match entry.body:
            case ReturnClosed() as closing:
                open_now[closing.order_id].pop(closing.rma_id, None)
            case ReturnAuthorized() as returning:
                order_id = returning.order_id
                open_now[order_id][returning.rma_id] = returning
                for line_id in {line.line_id for line in returning.lines}:
                    count = sum(
                        line.units
                        for each in open_now[order_id].values()
                        for line in each.lines
                        if line.line_id == line_id
                    )
                    shipped = orders[order_id].shipped[line_id] if order_id in orders else 0
                    finding.expect(
                        count <= shipped,
                        f"order {order_id} line {line_id}: {count} units authorised to come back of {shipped} shipped",
                    )


def _check_refunded(orders: Orders, evidence: Evidence, finding: Finding) -> None:
    """After each of our requests: all that went back, and what is asked for, is covered by what was captured till then.

    What a marketplace settles counts as captured. What others refunded beyond it is recorded as their exception.
    """
    failed = {each.body.refund_id for each in evidence.of(RefundFailed)}
    failed -= {each.body.refund_id for each in evidence.of(PaymentRefunded)}
    requests: dict[str, dict[str, _Request]] = defaultdict(dict)
    for entry in evidence.of(RefundPayment):
        body = entry.body
        if body.refund_id not in failed:
            requests[body.order_id].setdefault(body.refund_id, (entry.meta.causation_id, body.amount.minor))
    promised = promised_by_marketplaces(evidence)
    for order_id, asked in requests.items():
        for reference, under_way, so_far in _as_asked(orders.get(order_id) or Narration(order_id), asked):
            done = {each.refund_id for each in so_far.refunds}
            gone = sum(each.amount.minor - each.over_refund_minor for each in so_far.refunds)
            gone += sum(minor for refund_id, minor in under_way.items() if refund_id not in done)
            there = so_far.recorded(PaymentKind.CAPTURED) + promised.get(order_id, 0)
            finding.expect(
                gone <= there, f"order {order_id}: with {reference} {gone} goes back of {there} captured"
            )


def _check_captured(orders: Orders, evidence: Evidence, finding: Finding) -> None:
    """After each of our requests: what we took of the customer's money is owed for goods that have left.

    Of an order that nobody tells of, the missing cause is another check's.
    """
    declined = {each.body.reference for each in evidence.of(PaymentDeclined)}
    declined -= {each.body.capture_id for each in evidence.of(PaymentCaptured)}
    requests: dict[str, dict[str, _Request]] = defaultdict(dict)
    for entry in evidence.of(CapturePayment):
        body = entry.body
        if body.capture_id not in declined and body.order_id in orders:
            requests[body.order_id].setdefault(body.capture_id, (entry.meta.causation_id, body.amount.minor))
    for order_id, asked in requests.items():
        for reference, under_way, so_far in _as_asked(orders[order_id], asked):
            taken, shipped = sum(under_way.values()), so_far.shipped_value()
            finding.expect(
                taken <= shipped, f"order {order_id}: with {reference} {taken} is taken for {shipped} shipped"
            )


#: What asked for money to move, and how much.
_Request = tuple[str, int]


def _as_asked(
    order: Narration, requests: Mapping[str, _Request]
) -> Iterator[tuple[str, Mapping[str, int], Narration]]:
    """Each request with all up to it, and the order as told by then.

    A request stands in the order's log where the other effects of its cause stand; without any, at the end.
    """
    so_far = Narration(order.order_id)
    if not order.entries:
        yield ", ".join(requests), {reference: minor for reference, (_, minor) in requests.items()}, so_far
        return
    last = {entry.meta.causation_id: index for index, entry in enumerate(order.entries)}
    due: dict[int, list[str]] = defaultdict(list)
    for reference, (cause, _) in requests.items():
        due[last.get(cause, len(order.entries) - 1)].append(reference)
    under_way: dict[str, int] = {}
    for index, entry in enumerate(order.entries):
        so_far.take(entry)
        if index in due:
            under_way |= {reference: requests[reference][1] for reference in due[index]}
            yield ", ".join(due[index]), under_way, so_far


def _check_state(order: Narration, state: Mapping[str, Any], finding: Finding) -> None:
    """The orchestrator's own columns, as plain values. An order that came to nothing is worth nothing, told or not."""
    is_nothing = order.is_cancelled or order.is_rejected
    for line in state["lines"]:
        line_id = line["line_id"]
        what = f"order {order.order_id} line {line_id}"
        parts = (line["cancelled"], line["waiting"], line["soft"], line["released"], line["shipped"])
        finding.same(f"{what}: units", sum(parts), line["units"])
        finding.same(f"{what}: shipped units", order.shipped[line_id], line["shipped"])
        if not is_nothing:
            finding.same(f"{what}: cancelled units", order.cancelled[line_id], line["cancelled"])
        told = None if is_nothing else order.lines.get(line_id)
        worth = Amounts.from_avro(line["open_amounts"]) + Amounts.from_avro(line["shipped_amounts"])
        finding.same(f"{what}: worth", Amounts.zero(worth.currency) if told is None else told.amounts, worth)


CHECKS = (quantities,)
