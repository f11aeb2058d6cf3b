"""Find a location for waiting units, ask for the stock, and go on from inventory's answer. `decide` calls it.

The broadcast tables are advice and may lag; inventory's answer decides, and what a turned-down request says
to be free replaces the table for that attempt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from crossdock_canonical.decider import Ignored, Lookup, Rejected
from crossdock_canonical.identity import LocationId, Sku
from crossdock_canonical.records import (
    AllocateStock,
    AllocationFailed,
    DeliveryMethod,
    FulfillmentLine,
    FulfillmentRequested,
    LinesUnfillable,
    LocationDefined,
    OrderReleased,
    ReleaseScope,
    SlipLine,
    StockAllocated,
    StockPosition,
    WarehouseLine,
)
from crossdock_fulfillment_router.cancelling import apply_awaited, settle_ask
from crossdock_fulfillment_router.decision import Decision
from crossdock_fulfillment_router.events import (
    AllocationHeld,
    AllocationTurnedDown,
    FulfillmentOrderOpened,
    ReleaseAccepted,
    RoutingGivenUp,
    RoutingPostponed,
)
from crossdock_fulfillment_router.model import (
    Lines,
    Policy,
    find_order,
    find_release,
    fulfillment_order_id,
    is_excluded,
    is_held,
    merged,
    parse_number,
    waiting,
)
from crossdock_fulfillment_router.source import Parcel, Site, source
from crossdock_fulfillment_router.state_records import (
    FulfillmentOrder,
    FulfillmentStatus,
    Release,
    RoutedLine,
    RoutingState,
)

FreeBySku = Mapping[Sku, Mapping[LocationId, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """What every instance knows of stock and locations."""

    positions: Lookup[StockPosition]
    locations: Lookup[LocationDefined]


def accept_release(
    decision: Decision, command: OrderReleased, *, now: datetime, policy: Policy, tables: Tables
) -> None:
    """Take a release in: what was cancelled before it came goes first, the rest is routed."""
    if any(line.units <= 0 for line in command.lines) or not command.lines:
        raise Rejected("fulfillment.invalid_quantity", "a release needs lines of one unit or more")
    if len({line.line_id for line in command.lines}) < len(command.lines):
        raise Rejected("fulfillment.duplicate_line", f"release {command.release} names a line twice")
    if command.method is DeliveryMethod.CARRIED_OUT:
        raise Rejected("fulfillment.not_routed", "goods that were carried out have no fulfilment")
    if command.method is DeliveryMethod.PICKUP and not command.pickup_location:
        raise Rejected("fulfillment.no_pickup_location", "a pickup needs the location to collect at")
    release = Release(
        release=command.release,
        channel=command.channel,
        method=command.method,
        pickup_location=command.pickup_location,
        promise_by=command.promise_by,
        ship_to=command.ship_to,
        route_until=now + policy.sourcing_deadline,
        lines=tuple(
            RoutedLine(line_id=line.line_id, sku=line.sku, units=line.units, waiting=line.units)
            for line in command.lines
        ),
    )
    decision.emit(ReleaseAccepted(order_id=command.order_id, release=release))
    apply_awaited(decision, release)
    route(decision, release.release, now=now, policy=policy, tables=tables)


def route(
    decision: Decision,
    number: int,
    *,
    now: datetime,
    policy: Policy,
    tables: Tables,
    told: FreeBySku | None = None,
) -> None:
    """Place what waits of a release, now or by a later attempt, or give it up.

    The first attempt only takes a plan that places everything in `parcels_max` parcels: the tables often
    lag by a moment. Later ones take the fewest parcels possible and whatever can go. `told` is what
    inventory just said to be free of a sku; it replaces the table's word.
    """
    release = find_release(decision.state, number)
    if hopeless := _hopeless(decision.state, release):
        _give_up(decision, release, hopeless, "pickup_location_rejected")
        release = find_release(decision.state, number)
    wanted = waiting(release)
    if not wanted:
        return
    overdue = now >= release.route_until
    parcels = source(wanted, _sites(decision.state, release, wanted, tables, told or {}))
    placed = sum(line.units for parcel in parcels for line in parcel.lines)
    good = placed == sum(line.units for line in wanted) and len(parcels) <= policy.parcels_max
    if good or overdue or release.attempts:
        for parcel in parcels:
            _ask(decision, release, parcel)
    release = find_release(decision.state, number)
    if not (left := waiting(release)):
        return
    if overdue:
        _give_up(decision, release, left, "no_location")
    else:
        postpone(decision, release, now=now, policy=policy)


def postpone(decision: Decision, release: Release, *, now: datetime, policy: Policy) -> None:
    """Source the waiting units again after the back-off, at the latest when they are given up."""
    due = min(now + policy.backoff(release.attempts), max(release.route_until, now))
    decision.emit(RoutingPostponed(release=release.release, due=due))


def allocated(decision: Decision, command: StockAllocated) -> None:
    """The location holds the stock: tell it, but for what was cancelled meanwhile."""
    order = _answered_order(decision, command.fulfillment_order_id, command.location)
    if order is None:
        return
    if merged(FulfillmentLine(line_id=ln.line_id, sku=ln.sku, units=ln.units) for ln in command.lines) != (
        order.lines
    ):
        raise Rejected("fulfillment.allocation_mismatch", f"{command.fulfillment_order_id} asked otherwise")
    decision.emit(AllocationHeld(number=order.number))
    for ask in order.asks:
        slip = f"{command.fulfillment_order_id}/answered/{ask.cancel_id}"
        decision.release_hard(order, ask.lines, slip=slip, scope=ReleaseScope.HARD_TO_FREE)
        settle_ask(decision, order, ask)
    held = find_order(decision.state, order.number)
    if held is None:
        return
    release = find_release(decision.state, order.release)
    decision.emit(
        FulfillmentRequested(
            order_id=decision.state.order_id,
            fulfillment_order_id=command.fulfillment_order_id,
            location=order.location,
            method=release.method,
            lines=tuple(
                WarehouseLine(line_id=line.line_id, sku=line.sku, units=line.units) for line in held.lines
            ),
            ship_to=release.ship_to,
            promise_by=release.promise_by,
            channel=release.channel,
        )
    )


def turned_down(
    decision: Decision, command: AllocationFailed, *, now: datetime, policy: Policy, tables: Tables
) -> None:
    """The location does not hold the stock: let go of what was cancelled meanwhile, source the rest again."""
    order = _answered_order(decision, command.fulfillment_order_id, command.location)
    if order is None:
        return
    for ask in order.asks:
        slip = f"{command.fulfillment_order_id}/answered/{ask.cancel_id}"
        decision.release_soft(ask.lines, slip=slip)
        settle_ask(decision, order, ask)
    if find_order(decision.state, order.number) is None:
        return
    decision.emit(AllocationTurnedDown(number=order.number))
    release = find_release(decision.state, order.release)
    if release.attempts > policy.immediate_attempts:
        # Tables that lag could send it round in circles: slower while there is time, then no more.
        if now < release.route_until:
            postpone(decision, release, now=now, policy=policy)
        else:
            _give_up(decision, release, waiting(release), "no_location")
        return
    failure = command.failure
    free = {row.location: row.free for row in command.free}
    # A location that has enough and still said no has another reason: it is not asked again in this attempt.
    free[order.location] = failure.available if failure.available < failure.requested else 0
    route(decision, order.release, now=now, policy=policy, tables=tables, told={failure.sku: free})


def _answered_order(decision: Decision, order_id: str, location: str) -> FulfillmentOrder | None:
    """The fulfilment order that inventory answers, None when it was answered before."""
    number = parse_number(decision.state, order_id)
    order = find_order(decision.state, number)
    if order is None or is_held(order):
        decision.emit(Ignored("fulfillment.allocation_answered", order_id))
        return None
    if order.location != location:
        raise Rejected("fulfillment.allocation_mismatch", f"{order_id} did not ask {location}")
    return order


def _ask(decision: Decision, release: Release, parcel: Parcel) -> None:
    number = decision.state.last_number + 1
    decision.emit(
        FulfillmentOrderOpened(
            number=number, release=release.release, location=parcel.location, lines=parcel.lines
        )
    )
    lines = tuple(SlipLine(line_id=line.line_id, sku=line.sku, units=line.units) for line in parcel.lines)
    decision.emit(
        AllocateStock(
            sku=lines[0].sku,
            order_id=decision.state.order_id,
            fulfillment_order_id=fulfillment_order_id(decision.state.order_id, number),
            location=parcel.location,
            lines=lines,
        )
    )


def _give_up(decision: Decision, release: Release, lines: Lines, reason: str) -> None:
    attempt_id = f"{decision.state.order_id}/unfillable/{release.release}/{release.attempts}"
    decision.emit(RoutingGivenUp(release=release.release, lines=lines))
    decision.release_soft(lines, slip=attempt_id)
    decision.emit(
        LinesUnfillable(order_id=decision.state.order_id, attempt_id=attempt_id, lines=lines, reason=reason)
    )


def _hopeless(state: RoutingState, release: Release) -> Lines:
    """Waiting units that only an excluded location could hand over."""
    if release.method is not DeliveryMethod.PICKUP:
        return ()
    counter = release.pickup_location or ""
    return tuple(line for line in waiting(release) if is_excluded(state.excluded, counter, line.sku))


def _sites(
    state: RoutingState, release: Release, wanted: Lines, tables: Tables, told: FreeBySku
) -> tuple[Site, ...]:
    """Every location that may serve the release, with what it has free of the wanted skus."""
    asked: dict[tuple[str, str], int] = {}  # our own requests under way, which the tables cannot know yet
    for order in state.fulfillment_orders:
        if order.status is FulfillmentStatus.ASKED:
            for line in order.lines:
                asked[order.location, line.sku] = asked.get((order.location, line.sku), 0) + line.units
    excluded = {(gone.location, gone.sku) for gone in state.excluded}
    free: dict[LocationId, dict[Sku, int]] = {}
    # A chain has hundreds of stores and most orders need a look at each: this loop is most of a release's cost.
    for sku in dict.fromkeys(line.sku for line in wanted):
        rows = tables.positions(sku)
        if sku in told:
            held = {row.location for row in rows if row.held}
            known = {where: units for where, units in told[sku].items() if where not in held}
        else:
            known = {row.location: row.free for row in rows if not row.held}
        for location, units in known.items():
            if asked:
                units -= asked.get((location, sku), 0)
            if units <= 0 or (excluded and {(location, None), (location, sku)} & excluded):
                continue
            free.setdefault(location, {})[sku] = units
    sites = []
    for location, units_of in free.items():
        # A location without master data is a warehouse that ships at no cost.
        defined = next(iter(tables.locations(location)), None)
        if release.method is DeliveryMethod.PICKUP:
            eligible = location == release.pickup_location and (defined is None or defined.pickup)
        else:
            eligible = defined is None or defined.ships
        if eligible:
            cost = 0 if defined is None else defined.shipping_cost_minor
            sites.append(Site(location=location, cost_minor=cost, free=units_of))
    return tuple(sites)
