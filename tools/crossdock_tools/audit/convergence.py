"""Invariant 11: what a channel sent in any order, and twice, comes to one order. One of the audit's subjects.

The channel's messages of an order are merged here by revision, and the order as told must agree, as far as it may:
what shipped stays shipped, what was released grows no more, units that we, the channel's refund or its cancellation took
away are gone, and units that fulfilment would not give back stay.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Any

from crossdock_canonical.money import Amounts
from crossdock_canonical.records import (
    CancelFulfillment,
    CancelRefused,
    CapturePayment,
    ChannelLine,
    ChannelOrderReceived,
    ChannelRefundReceived,
    ChannelStatus,
    FulfillmentCancelled,
    IntakeKind,
    ItemMapped,
    OrderAmended,
    OrderCancelled,
    OrderHeld,
    OrderReceived,
    Origin,
    PaymentAuthorized,
    PaymentKind,
    RefundPayment,
    TenderState,
)
from crossdock_tools.audit.books import Books
from crossdock_tools.audit.evidence import Evidence
from crossdock_tools.audit.finding import Finding, closed
from crossdock_tools.audit.money import ORCHESTRATOR
from crossdock_tools.audit.narration import Narration, narrations
from crossdock_tools.audit.report import Check
from crossdock_tools.audit.taken import accepted, why_not
from crossdock_tools.topic_reader import Entry

_CHANGED_TOO_LATE = "order.change_after_release"
_TAKEN = (TenderState.CAPTURED, TenderState.REFUNDED)
_GONE = (TenderState.VOIDED, TenderState.REFUNDED)


def convergence(evidence: Evidence, _books: Books) -> tuple[Check, ...]:
    """Each order's lines, charges, payments and refunds against all that its channel said of it."""
    units = Finding(11, "an order's units are those of the channel's latest revision")
    worth = Finding(11, "an order's amounts are those of the channel's latest revision")
    tenders = Finding(11, "a payment that the channel reports is recorded once, at its largest")
    refunds = Finding(11, "a refund that the channel reports is recorded once, and our own echo not at all")
    stale = Finding(11, "a revision that is not newer changes no line")
    findings = (units, worth, stale, tenders, refunds)
    note = why_not(evidence, ChannelOrderReceived, OrderReceived, CancelFulfillment, PaymentAuthorized)
    if note:
        return closed(findings, note)
    messages: dict[str, list[Entry]] = defaultdict(list)
    for entry in accepted(evidence, ORCHESTRATOR, ChannelOrderReceived):
        messages[entry.body.order_id].append(entry)
    orders = narrations(evidence)
    parts = _Parts(evidence)
    taken_back = _TakenBack(evidence)
    asked_back = {entry.meta.causation_id for entry in evidence.of(CancelFulfillment)}
    for order_id, entries in messages.items():
        order = orders.get(order_id)
        snapshots = [each for each in entries if each.body.kind is not IntakeKind.CANCEL]
        if order is None or not snapshots:
            continue
        _check_stale(order, snapshots, asked_back, stale)
        latest = max(snapshots, key=lambda each: (each.body.revision_at, each.body.revision_id))
        # A message after the end changes no line any more, whatever it says.
        is_late = order.is_ended and latest.meta.event_id not in order.causes_until_end()
        _check_units(order, entries, latest.body, parts, taken_back, units, is_late=is_late)
        if not is_late:
            _check_worth(order, [each.body for each in snapshots], latest.body, parts, worth)
    _check_tenders(orders, messages, evidence, tenders)
    _check_refunds(orders, evidence, refunds)
    return closed(findings)


class _Parts:
    """Our lines of one line of a channel, and their base units in one unit of it: by master data as it is now."""

    def __init__(self, evidence: Evidence) -> None:
        self._items = {entry.body.reference: entry.body for entry in evidence.of(ItemMapped)}

    def of(self, line: ChannelLine) -> dict[str, int]:
        """Base units by our line id. A kit's components are numbered from 1 under the channel's line id."""
        for each in line.items:
            item = self._items.get(f"{each.scheme}:{each.value}")
            if item is not None and item.components:
                return {
                    f"{line.line_id}/{number}": item.units_per * component.units
                    for number, component in enumerate(item.components, start=1)
                }
            if item is not None:
                return {line.line_id: item.units_per}
        return {line.line_id: 1}


class _TakenBack:
    """What was asked back from fulfilment, and what came of it, by order and line."""

    def __init__(self, evidence: Evidence) -> None:
        self.refused: Counter[tuple[str, str]] = Counter()
        self.unanswered: Counter[tuple[str, str]] = Counter()
        self._asked_by = {
            each.body.cancel_id: each.meta.causation_id for each in evidence.of(CancelFulfillment)
        }
        self._evidence = evidence
        asked: dict[tuple[str, str, str], int] = {}
        for entry in evidence.of(CancelFulfillment):
            for line in entry.body.lines:
                asked[entry.body.order_id, line.line_id, entry.body.cancel_id] = line.units
        for entry in accepted(evidence, ORCHESTRATOR, FulfillmentCancelled, CancelRefused):
            body = entry.body
            for line in body.lines:
                if isinstance(body, CancelRefused):
                    self.refused[body.order_id, line.line_id] += line.units
                key = body.order_id, line.line_id, body.cancel_id
                if key in asked:
                    asked[key] -= line.units
        for (order_id, line_id, _), units in asked.items():
            self.unanswered[order_id, line_id] += max(0, units)

    def was_edit(self, order: Narration, cancelled: Entry) -> bool:
        """Whether units were cancelled because a revision of the order has fewer of them.

        With the first revision come cancellations and refunds that were there before the order.
        """
        cause = cancelled.meta.causation_id
        if cause == order.entries[0].meta.causation_id:
            return False
        for entry in self._evidence.by_id(cause):
            if isinstance(entry.body, FulfillmentCancelled):
                cause = self._asked_by.get(entry.body.cancel_id, "")
        return any(
            isinstance(entry.body, ChannelOrderReceived)
            and entry.body.kind is not IntakeKind.CANCEL
            and entry.body.status is not ChannelStatus.CANCELLED
            for entry in self._evidence.by_id(cause)
        )


def _check_units(
    order: Narration,
    entries: Iterable[Entry],
    latest: ChannelOrderReceived,
    parts: _Parts,
    taken_back: _TakenBack,
    finding: Finding,
    *,
    is_late: bool,
) -> None:
    """Units at least the revision's less what others cancelled; at most the revision's, but for what could not be stopped."""
    if order.is_rejected:
        return
    cancelled: Counter[str] = Counter()
    for entry in order.entries:
        if isinstance(entry.body, OrderCancelled) and not taken_back.was_edit(order, entry):
            for each in entry.body.lines:
                cancelled[each.line_id] += each.units
    is_withdrawn = any(
        each.body.kind is IntakeKind.CANCEL or each.body.status is ChannelStatus.CANCELLED for each in entries
    )
    may_be_less = (
        is_late or is_withdrawn or any(each.reason_code == _CHANGED_TOO_LATE for each in order.holds)
    )
    wanted: dict[str, int] = {}
    for line in latest.lines:
        wanted |= {line_id: line.units * per_unit for line_id, per_unit in parts.of(line).items()}
    for line_id in {*wanted, *order.lines}:
        units, live = wanted.get(line_id, 0), order.live(line_id)
        stays = taken_back.refused[order.order_id, line_id] + taken_back.unanswered[order.order_id, line_id]
        most = max(0 if is_withdrawn else units, order.shipped[line_id]) + stays
        least = 0 if may_be_less else units - cancelled[line_id]
        finding.expect(
            least <= live <= most,
            f"order {order.order_id} line {line_id}: {live} units, the channel's latest revision has {units}: "
            f"{least} to {most} are possible",
        )


def _check_stale(
    order: Narration, snapshots: Iterable[Entry], asked_back: AbstractSet[str], finding: Finding
) -> None:
    """Messages of one order are taken in the order of their topic; an older one may still bring payments or a cancellation."""
    changes = {
        entry.meta.causation_id
        for entry in order.entries
        if isinstance(entry.body, OrderAmended)
        or (isinstance(entry.body, OrderReceived) and entry.body.version > 1)
        or (isinstance(entry.body, OrderHeld) and entry.body.reason_code == _CHANGED_TOO_LATE)
    }
    seen: set[str] = set()
    newest: tuple[datetime, str] | None = None
    for entry in snapshots:
        revision = entry.body.revision_at, entry.body.revision_id
        identity = entry.meta.event_id
        if newest is None or revision > newest:
            newest = revision
        elif identity not in seen and entry.body.status is not ChannelStatus.CANCELLED:
            finding.expect(
                identity not in changes and identity not in asked_back,
                f"order {order.order_id}: revision {entry.body.revision_id} changed it after {newest[1]}",
            )
        seen.add(identity)


def _check_worth(
    order: Narration,
    snapshots: Iterable[ChannelOrderReceived],
    latest: ChannelOrderReceived,
    parts: _Parts,
    finding: Finding,
) -> None:
    """Where the order has the revision's units it has their worth; what has shipped keeps that of when it shipped."""
    if order.is_cancelled or order.is_rejected or order.received is None:
        return
    for line in latest.lines:
        ours = {line_id: order.lines.get(line_id) for line_id in parts.of(line)}
        if line.amounts is None or not line.units:
            continue
        if any(told is None or told.units != line.units * parts.of(line)[at] for at, told in ours.items()):
            continue
        total = Amounts.zero(line.amounts.currency)
        for told in ours.values():
            if told is not None and told.amounts.currency == total.currency:
                total += told.amounts
        possible = [line.amounts]
        if any(order.shipped[line_id] for line_id in ours):
            possible += [
                other.amounts
                for each in snapshots
                for other in each.lines
                if other.line_id == line.line_id and other.units == line.units and other.amounts is not None
            ]
        finding.expect(
            total in possible,
            f"order {order.order_id} line {line.line_id}: worth {total}, the channel says {line.amounts}",
        )
    charges = order.received.shipping, order.received.other_minor
    reported = [(each.shipping, each.other_minor) for each in snapshots]
    is_open = not order.releases and not order.shipments
    finding.expect(
        charges in ([(latest.shipping, latest.other_minor)] if is_open else reported),
        f"order {order.order_id}: charges {charges}, the channel says {(latest.shipping, latest.other_minor)}",
    )
    if is_open and latest.total is not None and not order.cancelled and order.received.total is not None:
        finding.same(f"order {order.order_id}: total", latest.total, order.received.total)


def _check_tenders(
    orders: Mapping[str, Narration],
    messages: Mapping[str, list[Entry]],
    evidence: Evidence,
    finding: Finding,
) -> None:
    """Reports only ever add: the largest counts, an authorisation that was let go is history, our own capture no news."""
    largest: dict[tuple[str, str], Counter[TenderState]] = defaultdict(Counter)
    for entries in messages.values():
        for entry in entries:
            for tender in entry.body.tenders:
                found = largest[entry.body.order_id, tender.reference]
                found[tender.state] = max(found[tender.state], tender.amount.minor)
    for entry in accepted(evidence, ORCHESTRATOR, PaymentAuthorized):
        found = largest[entry.body.order_id, entry.body.tender_reference]
        found[TenderState.AUTHORIZED] = max(found[TenderState.AUTHORIZED], entry.body.amount.minor)
    ours = {(each.body.order_id, each.body.tender_reference) for each in evidence.of(CapturePayment)}
    for (order_id, reference), states in largest.items():
        order = orders.get(order_id)
        if order is None or order.received is None:
            continue
        recorded: Counter[PaymentKind] = Counter()
        for event in order.payments:
            if event.reference == reference and event.origin is not Origin.US:
                recorded[event.kind] += event.amount.minor
        what = f"order {order_id} payment {reference}"
        taken = max(states[state] for state in _TAKEN)
        captured = recorded[PaymentKind.CAPTURED]
        is_ours = (order_id, reference) in ours or TenderState.MARKETPLACE in states
        finding.expect(
            captured <= taken if is_ours else captured == taken,
            f"{what}: {captured} recorded as captured, the channel says {taken}",
        )
        guaranteed = states[TenderState.AUTHORIZED]
        authorized = recorded[PaymentKind.AUTHORIZED]
        is_history = captured or (order_id, reference) in ours or any(state in states for state in _GONE)
        finding.expect(
            authorized <= guaranteed if is_history else authorized == guaranteed,
            f"{what}: {authorized} recorded as authorised, the channel says {guaranteed}",
        )


def _check_refunds(orders: Mapping[str, Narration], evidence: Evidence, finding: Finding) -> None:
    """A refund that came before its order waits for it. If it then contradicts the order, that is held for somebody instead."""
    ours = {(each.body.order_id, each.body.refund_id) for each in evidence.of(RefundPayment)}
    reported: dict[tuple[str, str], Any] = {}
    for entry in accepted(evidence, ORCHESTRATOR, ChannelRefundReceived):
        reported[entry.body.order_id, entry.body.refund_id] = entry.body
    for (order_id, refund_id), body in reported.items():
        order = orders.get(order_id)
        if order is None or order.received is None:
            continue
        by_store = {each.refund_id for each in order.refunds if each.origin is Origin.STORE}
        is_echo = (order_id, body.our_refund_id) in ours or body.our_refund_id in by_store
        times = sum(each.refund_id == refund_id and each.origin is Origin.CHANNEL for each in order.refunds)
        is_shown = any(hold.reason_code in _CONTRADICTIONS for hold in order.holds)
        finding.expect(
            times == int(not is_echo) or (times == 0 and is_shown),
            f"order {order_id}: the channel's refund {refund_id} is recorded {times} times"
            + (", it is an echo of ours" if is_echo else ""),
        )


_CONTRADICTIONS = frozenset(("order.currency_mismatch", "order.unknown_line"))

CHECKS = (convergence,)
