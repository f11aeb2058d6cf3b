"""The state after an event.

Called by the shell for every event, and by `decision` while the next one is being decided.

Only private events move units; published records and `Ignored` leave the state as it is. Whatever moves
units asserts that no line loses or gains any.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from crossdock_canonical.identity import OrderId
from crossdock_fulfillment_router.events import (
    AllocationHeld,
    AllocationTurnedDown,
    AskAnswered,
    AskRefused,
    AwaitedMatched,
    CancelAsked,
    CancellationAnswered,
    CancellationOpened,
    CancellationPostponed,
    Closed,
    Event,
    Forgotten,
    FulfillmentOrderOpened,
    HeldUnitsCancelled,
    LocationExcluded,
    PickupOpened,
    PickupRecalled,
    ReleaseAccepted,
    RoutingGivenUp,
    RoutingPostponed,
    UnitsRefused,
    UnitsReturned,
    UnitsShipped,
    WaitingUnitsCancelled,
)
from crossdock_fulfillment_router.model import (
    FORGET,
    Lines,
    cancel_timer,
    find_order,
    find_release,
    less,
    merged,
    pickup_timer,
    route_timer,
    total,
)
from crossdock_fulfillment_router.state_records import (
    CancelAsk,
    Cancellation,
    FulfillmentOrder,
    FulfillmentStatus,
    Release,
    RoutedLine,
    RoutingState,
    Shipment,
)


def evolve(state: RoutingState | None, event: Event) -> RoutingState | None:
    """Fold one event. None deletes the state."""
    if isinstance(event, ReleaseAccepted):
        state = _without_timer(state or RoutingState(order_id=OrderId(event.order_id), releases=()), FORGET)
        return replace(state, releases=(*state.releases, event.release))
    if isinstance(event, CancellationOpened):
        return _with_cancellation(state or RoutingState(order_id=OrderId(event.order_id), releases=()), event)
    if state is None:
        return None  # a published record or an Ignored about an order that was never seen
    match event:
        case FulfillmentOrderOpened():
            order = FulfillmentOrder(
                number=event.number, release=event.release, location=event.location, lines=event.lines
            )
            state = _move(state, event.release, event.lines, lambda line, units: _waiting(line, -units))
            return replace(
                state, last_number=event.number, fulfillment_orders=(*state.fulfillment_orders, order)
            )
        case AllocationHeld():
            order = replace(_order(state, event.number), status=FulfillmentStatus.REQUESTED)
            return _with_order(state, order)
        case AllocationTurnedDown():
            order = _order(state, event.number)
            assert not order.asks, "cancellations are answered before the other units wait again"
            release = find_release(state, order.release)
            state = _with_release(state, replace(release, attempts=release.attempts + 1))
            return _take(state, order, order.lines, lambda line, units: _waiting(line, units))
        case LocationExcluded():
            order = _order(state, event.number)
            new = tuple(gone for gone in event.exclusions if gone not in state.excluded)
            state = replace(state, excluded=(*state.excluded, *new))
            return _with_order(state, replace(order, reports=(*order.reports, event.report)))
        case UnitsReturned():
            order = _order(state, event.number)
            release = find_release(state, order.release)
            state = _with_release(state, replace(release, route_until=event.route_until))
            return _take(state, order, event.lines, lambda line, units: _waiting(line, units))
        case UnitsShipped():
            shipment = Shipment(number=event.number, shipment_id=event.shipment_id)
            state = replace(state, shipments=(*state.shipments, shipment))
            order = _order(state, event.number)
            return _take(
                state, order, event.lines, lambda line, units: replace(line, shipped=line.shipped + units)
            )
        case WaitingUnitsCancelled():
            state = _move(
                state,
                event.release,
                event.lines,
                lambda line, units: _cancelled(_waiting(line, -units), units),
            )
            return _answered(state, event.cancel_id, taken=event.lines)
        case HeldUnitsCancelled():
            order = _without_ask(_order(state, event.number), event.cancel_id, event.lines)
            state = _take(state, order, event.lines, _cancelled)
            return _answered(state, event.cancel_id, taken=event.lines)
        case CancelAsked():
            order = _order(state, event.number)
            ask = CancelAsk(cancel_id=event.cancel_id, asked=event.lines, lines=event.lines)
            return _with_order(state, replace(order, asks=(*order.asks, ask)))
        case AskRefused():
            order = _without_ask(_order(state, event.number), event.cancel_id, event.lines)
            if event.declined:
                order = replace(
                    order,
                    asks=tuple(
                        replace(ask, declined=True) if ask.cancel_id == event.cancel_id else ask
                        for ask in order.asks
                    ),
                )
            state = _with_order(state, order)
            return _answered(state, event.cancel_id, refused=event.lines, refusal=event.refusal)
        case AskAnswered():
            order = _order(state, event.number)
            asks = tuple(ask for ask in order.asks if ask.cancel_id != event.cancel_id)
            return _with_order(state, replace(order, asks=asks))
        case UnitsRefused():
            return _answered(state, event.cancel_id, refused=event.lines, refusal=event.refusal)
        case AwaitedMatched():
            return _change_cancellation(
                state, event.cancel_id, lambda found: replace(found, awaited=less(found.awaited, event.lines))
            )
        case CancellationPostponed():
            return _with_timer(state, cancel_timer(event.cancel_id), event.due)
        case CancellationAnswered():
            rest = tuple(found for found in state.cancellations if found.cancel_id != event.cancel_id)
            return _without_timer(replace(state, cancellations=rest), cancel_timer(event.cancel_id))
        case RoutingPostponed():
            release = find_release(state, event.release)
            state = _with_release(state, replace(release, attempts=release.attempts + 1))
            return _with_timer(state, route_timer(event.release), event.due)
        case RoutingGivenUp():
            release = find_release(state, event.release)
            state = _with_release(state, replace(release, attempts=release.attempts + 1))
            return _move(
                state,
                event.release,
                event.lines,
                lambda line, units: replace(_waiting(line, -units), unfillable=line.unfillable + units),
            )
        case PickupOpened():
            order = replace(_order(state, event.number), status=FulfillmentStatus.STAGED)
            return _with_timer(_with_order(state, order), pickup_timer(event.number), event.expires_at)
        case PickupRecalled():
            order = _order(state, event.number)
            state = _with_order(state, replace(order, recalls=order.recalls + 1))
            return _without_timer(state, pickup_timer(event.number))
        case Closed():
            bare = tuple(replace(release, ship_to=None) for release in state.releases)
            return replace(state, releases=bare, excluded=(), timers={FORGET: event.forget_at})
        case Forgotten():
            return None
        case _:
            return state


def _waiting(line: RoutedLine, units: int) -> RoutedLine:
    return replace(line, waiting=line.waiting + units)


def _cancelled(line: RoutedLine, units: int) -> RoutedLine:
    return replace(line, cancelled=line.cancelled + units)


def _move(
    state: RoutingState, number: int, lines: Lines, change: Callable[[RoutedLine, int], RoutedLine]
) -> RoutingState:
    """Apply `change` to every line of the release that `lines` names."""
    release = find_release(state, number)
    units = total(lines)
    changed = tuple(
        change(line, units.pop(line.line_id)) if line.line_id in units else line for line in release.lines
    )
    assert not units, f"lines {sorted(units)} are not in release {number}"
    for line in changed:
        assert line.waiting >= 0, f"{line.line_id} has less waiting than was taken"
        assert line.waiting + line.shipped + line.cancelled + line.unfillable <= line.units
    return _with_release(state, replace(release, lines=changed))


def _take(
    state: RoutingState,
    order: FulfillmentOrder,
    lines: Lines,
    change: Callable[[RoutedLine, int], RoutedLine],
) -> RoutingState:
    """Move units out of a fulfilment order."""
    state = _with_order(state, replace(order, lines=less(order.lines, lines)))
    return _move(state, order.release, lines, change)


def _order(state: RoutingState, number: int) -> FulfillmentOrder:
    order = find_order(state, number)
    assert order is not None, f"fulfilment order {number} is closed"
    return order


def _with_order(state: RoutingState, order: FulfillmentOrder) -> RoutingState:
    """The state with this version of the fulfilment order; one that holds nothing goes, and its timer."""
    if order.lines:
        orders = tuple(order if old.number == order.number else old for old in state.fulfillment_orders)
        return replace(state, fulfillment_orders=orders)
    orders = tuple(old for old in state.fulfillment_orders if old.number != order.number)
    return _without_timer(replace(state, fulfillment_orders=orders), pickup_timer(order.number))


def _with_release(state: RoutingState, release: Release) -> RoutingState:
    """The state with this version of the release; its timer goes when nothing waits."""
    releases = tuple(release if old.release == release.release else old for old in state.releases)
    state = replace(state, releases=releases)
    if any(line.waiting for line in release.lines):
        return state
    return _without_timer(state, route_timer(release.release))


def _without_ask(order: FulfillmentOrder, cancel_id: str, lines: Lines) -> FulfillmentOrder:
    """The fulfilment order with these units of a cancellation settled.

    The location may still have to answer it.
    """
    asks = tuple(
        replace(ask, lines=less(ask.lines, lines)) if ask.cancel_id == cancel_id else ask
        for ask in order.asks
    )
    return replace(order, asks=asks)


def _with_cancellation(state: RoutingState, event: CancellationOpened) -> RoutingState:
    opened = Cancellation(
        cancel_id=event.cancel_id,
        reason=event.reason,
        recall=event.recall,
        taken=(),
        refused=(),
        awaited=event.awaited,
    )
    state = replace(state, cancellations=(*state.cancellations, opened))
    if not event.recall:  # the ids of recalls are counted, not kept
        state = replace(state, cancel_ids=(*state.cancel_ids, event.cancel_id))
    return _with_timer(_without_timer(state, FORGET), cancel_timer(event.cancel_id), event.due)


def _change_cancellation(
    state: RoutingState, cancel_id: str, change: Callable[[Cancellation], Cancellation]
) -> RoutingState:
    changed = tuple(change(found) if found.cancel_id == cancel_id else found for found in state.cancellations)
    return replace(state, cancellations=changed)


def _answered(
    state: RoutingState, cancel_id: str, *, taken: Lines = (), refused: Lines = (), refusal: str = ""
) -> RoutingState:
    """The state with part of a cancellation's answer.

    An answer after the deadline finds none and changes nothing here.
    """

    def change(found: Cancellation) -> Cancellation:
        return replace(
            found,
            taken=merged((*found.taken, *taken)),
            refused=merged((*found.refused, *refused)),
            refusal=found.refusal or refusal,
        )

    return _change_cancellation(state, cancel_id, change)


def _with_timer(state: RoutingState, name: str, due: datetime) -> RoutingState:
    return replace(state, timers={**state.timers, name: due})


def _without_timer(state: RoutingState, name: str) -> RoutingState:
    if name not in state.timers:
        return state
    return replace(state, timers={key: due for key, due in state.timers.items() if key != name})
