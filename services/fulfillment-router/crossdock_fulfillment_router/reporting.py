"""What locations report of fulfilment orders: shipped, missing, turned down, staged, collected.

`decide` calls it.

A report that contradicts what the router knows (more than the fulfilment order holds, another location,
stock that the location was never asked to touch) is rejected: it would break our books or theirs, and a
person has to look.
"""

from __future__ import annotations

from datetime import datetime

from crossdock_canonical.decider import Ignored, Rejected
from crossdock_canonical.records import (
    ConsumeStock,
    DeliveryMethod,
    FulfillmentLine,
    FulfillmentRejected,
    PickupCollected,
    PickupReady,
    PickupStaged,
    ReleaseScope,
    ShipmentConfirmed,
    ShipmentDispatched,
    ShortPicked,
    WarehouseLine,
)
from crossdock_fulfillment_router.cancelling import refuse_shipped, take_excess
from crossdock_fulfillment_router.decision import Decision
from crossdock_fulfillment_router.events import LocationExcluded, PickupOpened, UnitsReturned, UnitsShipped
from crossdock_fulfillment_router.model import (
    Lines,
    Policy,
    find_order,
    find_release,
    is_held,
    merged,
    parse_number,
)
from crossdock_fulfillment_router.routing import Tables, route
from crossdock_fulfillment_router.state_records import Exclusion, FulfillmentOrder, FulfillmentStatus


def shipped(decision: Decision, command: ShipmentConfirmed | PickupCollected) -> None:
    """Goods left or were collected.

    Tell the order and inventory. A shipment beyond what is held is rejected.
    """
    collected = isinstance(command, PickupCollected)
    number = parse_number(decision.state, command.fulfillment_order_id)
    if any(
        known.number == number and known.shipment_id == command.shipment_id
        for known in decision.state.shipments
    ):
        decision.emit(Ignored("fulfillment.duplicate_shipment", command.shipment_id))
        return
    lines = _reported(command.lines)
    order = find_order(decision.state, number)
    if order is None:
        raise Rejected(
            "fulfillment.more_than_ordered", f"{command.fulfillment_order_id} has nothing left to ship"
        )
    _check_place(order, command.fulfillment_order_id, command.location)
    _check_held(order, lines, "fulfillment.more_than_ordered")
    release = find_release(decision.state, order.release)
    if collected != (release.method is DeliveryMethod.PICKUP):
        raise Rejected("fulfillment.wrong_method", f"{command.fulfillment_order_id} is for {release.method}")

    # A location's id is unique there only; within the order each shipment needs its own.
    taken = any(known.shipment_id == command.shipment_id for known in decision.state.shipments)
    shipment_id = f"{command.shipment_id}/{number}" if taken else command.shipment_id
    left_at = command.collected_at if isinstance(command, PickupCollected) else command.shipped_at
    refuse_shipped(decision, order, lines)
    decision.emit(UnitsShipped(number=number, shipment_id=command.shipment_id, lines=lines))
    decision.emit(
        ShipmentDispatched(
            order_id=decision.state.order_id,
            fulfillment_order_id=command.fulfillment_order_id,
            shipment_id=shipment_id,
            release=order.release,
            location=order.location,
            lines=lines,
            carrier="" if isinstance(command, PickupCollected) else command.carrier,
            tracking="" if isinstance(command, PickupCollected) else command.tracking,
            collected=collected,
            dispatched_at=left_at,
        )
    )
    for line in lines:
        decision.emit(
            ConsumeStock(
                sku=line.sku,
                order_id=decision.state.order_id,
                line_id=line.line_id,
                shipment_id=shipment_id,
                location=order.location,
                units=line.units,
                allocated=True,
                ref=f"{shipment_id}/{line.line_id}",
                occurred_at=left_at,
            )
        )


def short_picked(
    decision: Decision, command: ShortPicked, *, now: datetime, policy: Policy, tables: Tables
) -> None:
    """Goods are missing: inventory holds the location until it counts, the units are sourced elsewhere."""
    missing = _reported(command.lines)
    order = _reporting_order(decision, command)
    if order is None:
        return
    if command.event_id in order.reports:
        decision.emit(Ignored("fulfillment.duplicate_report", command.event_id))
        return
    _check_held(order, missing, "fulfillment.more_than_held")
    exclusions = tuple(
        Exclusion(location=order.location, sku=sku) for sku in sorted({line.sku for line in missing})
    )
    _return_units(
        decision,
        order,
        missing,
        slip=f"{command.fulfillment_order_id}/missing/{command.event_id}",
        report=command.event_id,
        exclusions=exclusions,
        hold_location=True,
        now=now,
        policy=policy,
        tables=tables,
    )


def rejected(
    decision: Decision, command: FulfillmentRejected, *, now: datetime, policy: Policy, tables: Tables
) -> None:
    """The location does not take what it has not shipped: everything is sourced elsewhere."""
    order = _reporting_order(decision, command)
    if order is None:
        return
    _return_units(
        decision,
        order,
        order.lines,
        slip=f"{command.fulfillment_order_id}/rejected",
        report=command.event_id,
        exclusions=(Exclusion(location=order.location),),
        hold_location=False,
        now=now,
        policy=policy,
        tables=tables,
    )


def staged(decision: Decision, command: PickupStaged, *, now: datetime, policy: Policy) -> None:
    """The goods wait at the counter: the customer's time runs from this notice."""
    order = _reporting_order(decision, command)
    if order is None:
        return
    if order.status is FulfillmentStatus.STAGED:
        decision.emit(Ignored("fulfillment.duplicate_report", command.fulfillment_order_id))
        return
    if find_release(decision.state, order.release).method is not DeliveryMethod.PICKUP:
        raise Rejected("fulfillment.wrong_method", f"{command.fulfillment_order_id} is not for pickup")
    expires_at = now + policy.pickup_window
    decision.emit(PickupOpened(number=order.number, expires_at=expires_at))
    decision.emit(
        PickupReady(
            order_id=decision.state.order_id,
            fulfillment_order_id=command.fulfillment_order_id,
            location=order.location,
            expires_at=expires_at,
        )
    )


def _return_units(
    decision: Decision,
    order: FulfillmentOrder,
    lines: Lines,
    *,
    slip: str,
    report: str,
    exclusions: tuple[Exclusion, ...],
    hold_location: bool,
    now: datetime,
    policy: Policy,
    tables: Tables,
) -> None:
    """Units do not ship from here.

    Those that somebody wants back are taken back, the others are sourced elsewhere.
    """
    decision.emit(LocationExcluded(number=order.number, report=report, exclusions=exclusions))
    others = take_excess(decision, order, lines, slip=slip, hold_location=hold_location)
    if not others:
        return
    decision.release_hard(
        order, others, slip=slip, scope=ReleaseScope.HARD_TO_SOFT, hold_location=hold_location
    )
    until = now + policy.sourcing_deadline
    decision.emit(UnitsReturned(number=order.number, lines=others, route_until=until))
    route(decision, order.release, now=now, policy=policy, tables=tables)


def _reporting_order(
    decision: Decision, command: ShortPicked | FulfillmentRejected | PickupStaged
) -> FulfillmentOrder | None:
    """The fulfilment order of a report, None when nothing of it is open any more."""
    order = find_order(decision.state, parse_number(decision.state, command.fulfillment_order_id))
    if order is None:
        decision.emit(Ignored("fulfillment.nothing_open", command.fulfillment_order_id))
        return None
    _check_place(order, command.fulfillment_order_id, command.location)
    return order


def _check_place(order: FulfillmentOrder, order_id: str, location: str) -> None:
    if not is_held(order):
        # The location is told in the transaction that notes the allocation, so it cannot be earlier than we
        # are.
        raise Rejected("fulfillment.not_requested", f"no location was asked to fulfil {order_id}")
    if order.location != location:
        raise Rejected("fulfillment.wrong_location", f"{order_id} is at {order.location}, not {location}")


def _check_held(order: FulfillmentOrder, lines: Lines, code: str) -> None:
    held = {line.line_id: line for line in order.lines}
    for line in lines:
        ours = held.get(line.line_id)
        if ours is None or line.units > ours.units:
            have = 0 if ours is None else ours.units
            raise Rejected(code, f"{line.units} of line {line.line_id}, but {have} are held")
        if line.sku != ours.sku:
            raise Rejected("fulfillment.wrong_sku", f"line {line.line_id} is {ours.sku}, not {line.sku}")


def _reported(lines: tuple[WarehouseLine, ...]) -> Lines:
    if not lines or any(line.units <= 0 for line in lines):
        raise Rejected("fulfillment.invalid_quantity", "a report needs lines of one unit or more")
    return merged(FulfillmentLine(line_id=line.line_id, sku=line.sku, units=line.units) for line in lines)
