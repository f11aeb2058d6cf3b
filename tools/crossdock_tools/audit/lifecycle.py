"""Invariant 10: orders and returns end, or have a next step with a deadline and an owner. One of the audit's subjects.

What ended says so on its topic. The deadline of what did not is a timer in its state, read as a plain value: no topic tells
of it. Payouts: `settlement`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from crossdock_canonical.records import (
    ChannelOrderReceived,
    IntakeKind,
    OrderHeld,
    OrderReceived,
    ReturnAuthorized,
    ReturnClosed,
    ReturnDeclined,
    ReturnInspected,
    ReturnReceived,
    ReturnRequested,
)
from crossdock_tools.audit.books import Books
from crossdock_tools.audit.evidence import Evidence, place
from crossdock_tools.audit.finding import Finding, closed
from crossdock_tools.audit.money import ORCHESTRATOR, orders_in_state
from crossdock_tools.audit.narration import narrations
from crossdock_tools.audit.quantities import ROUTER
from crossdock_tools.audit.report import Check
from crossdock_tools.audit.stock_replay import INVENTORY
from crossdock_tools.audit.taken import UNREST, accepted, pending, why_not

RETURNS = "returns"
_HOLD = "hold:"
#: The hold that every open order has from its first day: that nothing else happened. It names no next step.
_OVERDUE = "hold:order.overdue"
#: A timer that is due fires with the next look of its task.
_LATE_AFTER = timedelta(minutes=1)


def orders_end(evidence: Evidence, _books: Books) -> tuple[Check, ...]:
    """No accepted order is lost, none waits for nothing, and nobody is asked to decide without a deadline."""
    known = Finding(10, "every accepted order is told of, or its state has a deadline")
    waiting = Finding(10, "every order that has not ended has a deadline")
    held = Finding(10, "every hold names an owner and a deadline")
    note = why_not(evidence, ChannelOrderReceived, OrderReceived)
    if note:
        return closed((known, waiting, held), note)
    orders = narrations(evidence)
    timers = {key: state["timers"] for key, state in _states(evidence, ORCHESTRATOR)}
    for order_id in {
        entry.body.order_id
        for entry in accepted(evidence, ORCHESTRATOR, ChannelOrderReceived)
        if entry.body.kind is not IntakeKind.CANCEL
    }:
        known.expect(
            order_id in orders or bool(timers.get(order_id)), f"order {order_id} was accepted and is gone"
        )
    for order in orders.values():
        if order.received is not None:
            has_next = order.is_ended or bool(timers.get(order.order_id))
            waiting.expect(has_next, f"order {order.order_id} has neither ended nor a deadline")
    for entry in evidence.of(OrderHeld):
        is_owned = bool(entry.body.owner) and entry.body.deadline > entry.meta.recorded_at
        held.expect(is_owned, f"{place(entry.record)}: {entry.body} has no owner or no deadline")
    return closed((known, waiting, held))


def returns_end(evidence: Evidence, _books: Books) -> Check:
    """Every return that was asked for, or whose goods came, was closed or declined, or has a deadline."""
    finding = Finding(10, "every return ends, or has a deadline")
    note = why_not(evidence, ReturnRequested, ReturnAuthorized)
    ended = {(each.body.order_id, each.body.rma_id) for each in evidence.of(ReturnClosed, ReturnDeclined)}
    timers = {key: set(state["timers"]) for key, state in _states(evidence, RETURNS)}
    asked = accepted(evidence, RETURNS, ReturnRequested, ReturnReceived, ReturnInspected)
    told = evidence.of(ReturnAuthorized)
    for order_id, rma_id in (
        () if note else {(each.body.order_id, each.body.rma_id) for each in (*asked, *told)}
    ):
        has_next = any(
            name in (f"expire/{rma_id}", f"request/{rma_id}")
            or name.startswith((f"receipt/{rma_id}/", f"inspection/{rma_id}/"))
            for name in timers.get(order_id, ())
        )
        finding.expect(
            (order_id, rma_id) in ended or has_next, f"return {rma_id} of order {order_id} has no deadline"
        )
    return finding.check(note)


def nothing_outlives(evidence: Evidence, _books: Books) -> tuple[Check, ...]:
    """For an order that has ended nothing is promised, allocated, queued or still to be routed, once all messages are taken."""
    promises = Finding(10, "no reservation outlives its order")
    routing = Finding(10, "no fulfilment order outlives its order")
    note = why_not(evidence, OrderReceived)
    under_way = pending(evidence, ORCHESTRATOR, INVENTORY, ROUTER)
    if under_way and not note:
        note = f"{under_way} messages are still to take"
    if note:
        return closed((promises, routing), note)
    ended = {order.order_id for order in narrations(evidence).values() if order.is_ended}
    for sku, state in _states(evidence, INVENTORY):
        for column in ("soft", "hard", "waiting"):
            for reservation, units in state.get(column, {}).items():
                is_over = reservation.partition("/")[0] in ended
                promises.expect(not is_over, f"{sku}: {units} {column} of {reservation}, which has ended")
    for order_id, state in _states(evidence, ROUTER):
        if order_id in ended:
            numbers = [each["number"] for each in state.get("fulfillment_orders", ())]
            routing.expect(
                not numbers, f"order {order_id} has ended, its fulfilment orders {numbers} are open"
            )
            units = sum(line["waiting"] for release in state.get("releases", ()) for line in release["lines"])
            routing.expect(not units, f"order {order_id} has ended, {units} of its units wait for a location")
    # Every order that has ended and holds nothing was checked as well.
    promises.checked += len(ended)
    return closed((promises, routing))


def all_ended(evidence: Evidence, _books: Books) -> tuple[Check, ...]:
    """When all time was let pass: what could end has ended, what was due has fired.

    An order may still wait for a person, whose hold is renewed until somebody decides.
    """
    orders = Finding(10, "every order has ended, or waits for a person")
    returned = Finding(10, "every return has ended")
    moving = Finding(10, "every movement of money was answered")
    timers = Finding(10, "no deadline has passed unnoticed")
    note = "" if evidence.quiet else UNREST
    if note:
        return closed((orders, returned, moving, timers), note)
    states = orders_in_state(evidence)
    for order in narrations(evidence).values():
        if order.received is not None:
            standing = [name for name in _timers(states, order.order_id) if name.startswith(_HOLD)]
            waits = any(name != _OVERDUE for name in standing)
            orders.expect(
                order.is_ended or waits, f"order {order.order_id} has not ended, and nobody is asked"
            )
    for order_id, state in states.items():
        unanswered = [each["movement_id"] for each in state["movements"] if each["status"] == "PENDING"]
        is_shown = "hold:order.payment_unanswered" in state["timers"]
        moving.expect(not unanswered or is_shown, f"order {order_id}: {', '.join(unanswered)} not answered")
    for order_id, state in _states(evidence, RETURNS):
        for rma in state.get("rmas", ()):
            returned.expect(rma["status"] != "OPEN", f"return {rma['rma_id']} of order {order_id} is open")
        for kind in ("waiting_requests", "waiting_receipts", "waiting_inspections"):
            names = [each["rma_id"] for each in state.get(kind, ())]
            returned.expect(not names, f"order {order_id}: {kind} of returns {names}")
    now = datetime.fromtimestamp(evidence.now_ms / 1000, UTC)
    for service in evidence.changelogs:
        for key, state in _states(evidence, service):
            for name, due in state.get("timers", {}).items():
                timers.expect(due > now - _LATE_AFTER, f"{service} {key}: {name} was due {due.isoformat()}")
    return closed((orders, returned, moving, timers))


def _states(evidence: Evidence, service: str) -> Iterator[tuple[str, dict[str, Any]]]:
    changelog = evidence.changelogs.get(service)
    return iter(()) if changelog is None else changelog.latest()


def _timers(states: Mapping[str, Mapping[str, Any]], order_id: str) -> Mapping[str, datetime]:
    state = states.get(order_id)
    return {} if state is None else state["timers"]


CHECKS = (orders_end, returns_end, nothing_outlives)
CHECKS_OF_DRAINED = (all_ended,)
