"""The decider of the fulfilment router: one order, from its release to its last parcel.

The shell calls `decide`.

Routing, cancelling and the locations' reports are modules of their own; this one dispatches to them, and
closes what came
to its end: it answers cancellations of which nothing is open, and shrinks an order of which nothing is open
    to a stub.
"""

from __future__ import annotations

from datetime import datetime
from typing import assert_never

from crossdock_canonical.decider import Ignored, Lookup, Rejected, TimerFired
from crossdock_canonical.records import (
    AllocationFailed,
    CancelConfirmed,
    CancelDeclined,
    CancelFulfillment,
    FulfillmentRejected,
    LocationDefined,
    OrderReleased,
    PickupCollected,
    PickupStaged,
    ShipmentConfirmed,
    ShortPicked,
    StockAllocated,
    StockPosition,
)
from crossdock_fulfillment_router import cancelling, reporting, routing
from crossdock_fulfillment_router.decision import Decision
from crossdock_fulfillment_router.events import Closed, Event, Forgotten
from crossdock_fulfillment_router.model import FORGET, Policy, is_closed
from crossdock_fulfillment_router.state_records import RoutingState

Command = (
    OrderReleased
    | StockAllocated
    | AllocationFailed
    | CancelFulfillment
    | ShipmentConfirmed
    | ShortPicked
    | FulfillmentRejected
    | CancelConfirmed
    | CancelDeclined
    | PickupStaged
    | PickupCollected
    | TimerFired
)


def decide(
    command: Command,
    state: RoutingState | None,
    *,
    now: datetime,
    policy: Policy,
    positions: Lookup[StockPosition],
    locations: Lookup[LocationDefined],
) -> tuple[Event, ...]:
    """Answer one command with what happens. Raises Rejected for a message that contradicts what is known.

    positions: stock by location, group = sku. locations: master data, group = location. Both are advice.
    """
    tables = routing.Tables(positions=positions, locations=locations)
    decision = Decision(state)
    match command:
        case OrderReleased():
            if any(release.release == command.release for release in decision.releases):
                return (Ignored("fulfillment.duplicate_release", f"release {command.release}"),)
            routing.accept_release(decision, command, now=now, policy=policy, tables=tables)
        case CancelFulfillment():
            if state is not None and command.cancel_id in state.cancel_ids:
                return (Ignored("fulfillment.duplicate_cancel", command.cancel_id),)
            cancelling.cancel(decision, command, now=now, policy=policy)
        case TimerFired():
            if state is None or command.name not in state.timers:
                return (Ignored("fulfillment.obsolete_timer", command.name),)
            if command.name == FORGET:
                return (Forgotten(),)
            _on_timer(decision, command.name, now=now, policy=policy, tables=tables)
        case _ if state is None:
            # Both inventory and the locations answer records that were written together with the state.
            raise Rejected("fulfillment.unknown_order", f"{command.fulfillment_order_id} was never routed")
        case StockAllocated():
            routing.allocated(decision, command)
        case AllocationFailed():
            routing.turned_down(decision, command, now=now, policy=policy, tables=tables)
        case ShipmentConfirmed() | PickupCollected():
            reporting.shipped(decision, command)
        case ShortPicked():
            reporting.short_picked(decision, command, now=now, policy=policy, tables=tables)
        case FulfillmentRejected():
            reporting.rejected(decision, command, now=now, policy=policy, tables=tables)
        case PickupStaged():
            reporting.staged(decision, command, now=now, policy=policy)
        case CancelConfirmed():
            cancelling.confirmed(decision, command)
        case CancelDeclined():
            cancelling.declined(decision, command)
        case _:
            assert_never(command)
    cancelling.settle(decision, now=now, policy=policy)
    if is_closed(decision.state) and FORGET not in decision.state.timers:
        decision.emit(Closed(forget_at=now + policy.retention))
    return decision.events


def _on_timer(
    decision: Decision, name: str, *, now: datetime, policy: Policy, tables: routing.Tables
) -> None:
    kind, _, subject = name.partition("/")
    match kind:
        case "route":
            routing.route(decision, int(subject), now=now, policy=policy, tables=tables)
        case "cancel":
            cancelling.overdue(decision, subject, now=now, policy=policy)
        case "pickup":
            cancelling.recall_pickup(decision, int(subject), now=now, policy=policy)
        case _:
            raise AssertionError(f"no such timer: {name}")
