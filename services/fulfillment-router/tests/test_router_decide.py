"""The router as a specification: what each message of inventory, the order and the locations leads to."""

from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest

from crossdock_canonical.decider import Ignored, TimerFired
from crossdock_canonical.money import Amounts
from crossdock_canonical.records import (
    Address,
    AllocateStock,
    AllocationFailed,
    CancelConfirmed,
    CancelDeclined,
    CancelFulfillment,
    CancelRefused,
    ConsumeStock,
    DeliveryMethod,
    FulfillmentCancelled,
    FulfillmentCancelRequested,
    FulfillmentLine,
    FulfillmentRejected,
    FulfillmentRequested,
    LinesUnfillable,
    LocationDefined,
    LocationFree,
    LocationKind,
    OrderReleased,
    PickupCollected,
    PickupReady,
    PickupStaged,
    ReleasedLine,
    ReleaseScope,
    ReleaseStock,
    ShipmentConfirmed,
    ShipmentDispatched,
    ShortPicked,
    SlipLine,
    StockAllocated,
    StockPosition,
    StopFailure,
    WarehouseLine,
)
from crossdock_canonical.specification import T0, Specification
from crossdock_fulfillment_router.decide import decide
from crossdock_fulfillment_router.events import AskAnswered, Closed
from crossdock_fulfillment_router.evolve import evolve
from crossdock_fulfillment_router.model import Policy, is_closed

ORDER = "order-1"
FIRST, SECOND, THIRD = (f"{ORDER}/{n}" for n in (1, 2, 3))
POLICY = Policy()
RECIPIENT = Address(name="A. Buyer", city="Lyon", country="FR")


def network(stock, *locations, held=()):
    """A router that sees this stock, `{sku: {location: free}}`."""

    def positions(sku):
        return tuple(
            StockPosition(
                sku=sku,
                location=location,
                on_hand=free,
                allocated=0,
                free=free,
                held=location in held,
                version=1,
                as_of=T0,
            )
            for location, free in sorted(stock.get(sku, {}).items())
        )

    def defined(location):
        return tuple(row for row in locations if row.location == location)

    arguments = {"positions": positions, "locations": defined}
    return Specification(decide=partial(decide, policy=POLICY), evolve=evolve, arguments=arguments)


def restocked(specification, stock, *locations):
    return replace(specification, arguments=network(stock, *locations).arguments)


def store(location, *, ships=True, pickup=True, cost=0):
    return LocationDefined(
        location=location, kind=LocationKind.STORE, ships=ships, pickup=pickup, shipping_cost_minor=cost
    )


def released(*lines, release=1, pickup_at=None):
    """Lines as `(line id, sku, units)`."""
    return OrderReleased(
        order_id=ORDER,
        release=release,
        channel="shopify",
        shop="shop-1",
        external_id="1001",
        lines=tuple(
            ReleasedLine(line_id=line, sku=sku, units=units, amounts=Amounts(currency="EUR", goods=100))
            for line, sku, units in lines
        ),
        currency="EUR",
        method=DeliveryMethod.PICKUP if pickup_at else DeliveryMethod.SHIP,
        pickup_location=pickup_at,
        ship_to=RECIPIENT,
    )


def of(kind, *lines):
    return tuple(kind(line_id=line, sku=sku, units=units) for line, sku, units in lines)


def allocated(order_id, location, *lines):
    return StockAllocated(
        order_id=ORDER, fulfillment_order_id=order_id, location=location, lines=of(SlipLine, *lines)
    )


def turned_down(order_id, location, line, sku, *, requested, available, free=()):
    return AllocationFailed(
        order_id=ORDER,
        fulfillment_order_id=order_id,
        location=location,
        failure=StopFailure(line_id=line, sku=sku, requested=requested, available=available),
        free=tuple(LocationFree(location=where, free=units) for where, units in free),
    )


def confirmed(order_id, location, *lines, shipment="S1"):
    return ShipmentConfirmed(
        order_id=ORDER,
        fulfillment_order_id=order_id,
        shipment_id=shipment,
        location=location,
        lines=of(WarehouseLine, *lines),
        carrier="PostParcel",
        tracking="T1",
        shipped_at=T0,
    )


def collected(order_id, location, *lines, shipment="C1"):
    return PickupCollected(
        order_id=ORDER,
        fulfillment_order_id=order_id,
        shipment_id=shipment,
        location=location,
        lines=of(WarehouseLine, *lines),
        collected_at=T0,
    )


def short(order_id, location, *lines, event="E1"):
    return ShortPicked(
        order_id=ORDER,
        fulfillment_order_id=order_id,
        event_id=event,
        location=location,
        lines=of(WarehouseLine, *lines),
    )


def turned_away(order_id, location, event="E1"):
    return FulfillmentRejected(
        order_id=ORDER, fulfillment_order_id=order_id, event_id=event, location=location
    )


def cancel(*lines, cancel_id="X1"):
    return CancelFulfillment(
        order_id=ORDER, cancel_id=cancel_id, lines=of(FulfillmentLine, *lines), reason="customer"
    )


def stopped(order_id, location, *lines, cancel_id="X1"):
    return CancelConfirmed(
        order_id=ORDER,
        fulfillment_order_id=order_id,
        cancel_id=cancel_id,
        location=location,
        lines=of(WarehouseLine, *lines),
    )


def not_stopped(order_id, location, *lines, cancel_id="X1"):
    return CancelDeclined(
        order_id=ORDER,
        fulfillment_order_id=order_id,
        cancel_id=cancel_id,
        location=location,
        lines=of(WarehouseLine, *lines),
    )


def staged(order_id, location):
    return PickupStaged(order_id=ORDER, fulfillment_order_id=order_id, location=location, staged_at=T0)


def fire(specification, name):
    """What happens when the timer is due."""
    due = specification.state.timers[name]
    return specification.when(TimerFired(name, due), now=due)


TWO_LINES = (("L1", "A", 1), ("L2", "B", 2))
ONE_LINE = (("L1", "A", 2),)


def held_at(location, *lines, stock=None, method=None, locations=()):
    """An order whose first fulfilment order is held at a location."""
    stock = stock or {sku: {location: units} for _, sku, units in lines}
    return network(stock, *locations).after(
        released(*lines, pickup_at=method), allocated(FIRST, location, *lines)
    )


# --- the straight way ---------------------------------------------------------------------------------------------------


def test_an_order_goes_from_its_release_to_its_parcel():
    spec = network({"A": {"WH": 5}, "B": {"WH": 5}})
    asked = spec.when(released(("L2", "B", 2), ("L1", "A", 1)))
    assert asked.all(AllocateStock) == (
        AllocateStock(
            sku="A",
            order_id=ORDER,
            fulfillment_order_id=FIRST,
            location="WH",
            lines=of(SlipLine, *TWO_LINES),
        ),
    )
    requested = asked.specification.when(allocated(FIRST, "WH", *TWO_LINES))
    assert requested.one(FulfillmentRequested) == FulfillmentRequested(
        order_id=ORDER,
        fulfillment_order_id=FIRST,
        location="WH",
        method=DeliveryMethod.SHIP,
        lines=of(WarehouseLine, *TWO_LINES),
        ship_to=RECIPIENT,
        channel="shopify",
    )
    gone = requested.specification.when(confirmed(FIRST, "WH", *TWO_LINES))
    assert gone.one(ShipmentDispatched) == ShipmentDispatched(
        order_id=ORDER,
        fulfillment_order_id=FIRST,
        shipment_id="S1",
        release=1,
        location="WH",
        lines=of(FulfillmentLine, *TWO_LINES),
        carrier="PostParcel",
        tracking="T1",
        dispatched_at=T0,
    )
    assert [(eaten.line_id, eaten.units, eaten.ref) for eaten in gone.all(ConsumeStock)] == [
        ("L1", 1, "S1/L1"),
        ("L2", 2, "S1/L2"),
    ]
    assert all(eaten.allocated and eaten.location == "WH" for eaten in gone.all(ConsumeStock))


def test_a_closed_order_is_a_stub_until_it_is_forgotten():
    spec = held_at("WH", *ONE_LINE)
    outcome = spec.when(confirmed(FIRST, "WH", *ONE_LINE))
    assert outcome.one(Closed).forget_at == T0 + POLICY.retention
    stub = outcome.state
    assert is_closed(stub)
    assert stub.releases[0].ship_to is None
    assert not stub.fulfillment_orders
    assert stub.timers == {"forget": T0 + POLICY.retention}
    outcome.specification.when(confirmed(FIRST, "WH", *ONE_LINE)).then_types(Ignored)
    outcome.specification.when(released(*ONE_LINE)).then_types(Ignored)
    assert fire(outcome.specification, "forget").state is None


def test_several_shipments_of_one_fulfillment_order():
    spec = held_at("WH", ("L1", "A", 3))
    first = spec.when(confirmed(FIRST, "WH", ("L1", "A", 1), shipment="S1"))
    assert first.one(ShipmentDispatched).lines == of(FulfillmentLine, ("L1", "A", 1))
    assert not is_closed(first.state)
    second = first.specification.when(confirmed(FIRST, "WH", ("L1", "A", 1), ("L1", "A", 1), shipment="S2"))
    assert second.one(ShipmentDispatched).lines == of(FulfillmentLine, ("L1", "A", 2))
    assert second.one(ConsumeStock).units == 2
    assert is_closed(second.state)


# --- choosing locations -------------------------------------------------------------------------------------------------


def test_one_parcel_before_a_cheaper_pair():
    stock = {"A": {"NEAR": 1, "FAR": 1}, "B": {"CLOSE": 2, "FAR": 2}}
    spec = network(stock, store("NEAR"), store("CLOSE"), store("FAR", cost=900))
    assert spec.when(released(*TWO_LINES)).one(AllocateStock).location == "FAR"


def test_a_line_is_split_over_locations_when_no_location_has_all_of_it():
    outcome = network({"A": {"WH1": 2, "WH2": 3}}).when(released(("L1", "A", 4)))
    asks = outcome.all(AllocateStock)
    assert [(ask.fulfillment_order_id, ask.location, ask.lines[0].units) for ask in asks] == [
        (FIRST, "WH1", 1),
        (SECOND, "WH2", 3),
    ]


def test_only_locations_that_ship_and_are_not_held_are_asked():
    stock = {"A": {"SHOP": 9, "HELD": 9, "WH": 9}}
    spec = network(stock, store("SHOP", ships=False), store("WH", cost=500), held={"HELD"})
    assert spec.when(released(*ONE_LINE)).one(AllocateStock).location == "WH"


def test_a_store_that_ships_is_as_good_as_a_warehouse():
    spec = network({"A": {"SHOP": 9, "WH": 9}}, store("SHOP", cost=100), store("WH", cost=500))
    assert spec.when(released(*ONE_LINE)).one(AllocateStock).location == "SHOP"


def test_too_many_parcels_wait_once_for_a_better_plan_then_go():
    stock = {"A": {f"WH{n}": 1 for n in range(4)}}
    outcome = network(stock).when(released(("L1", "A", 4)))
    assert outcome.all(AllocateStock) == ()
    assert outcome.state.timers == {"route/1": T0 + POLICY.retry_first}
    retried = fire(outcome.specification, "route/1")
    assert len(retried.all(AllocateStock)) == 4
    assert "route/1" not in retried.state.timers


def test_requests_under_way_are_not_offered_twice():
    spec = network({"A": {"WH1": 2, "WH2": 2}}).after(released(("L1", "A", 2)))
    assert spec.when(released(("L1", "A", 2), release=2)).one(AllocateStock).location == "WH2"


# --- inventory says no --------------------------------------------------------------------------------------------------


def test_a_request_turned_down_is_sourced_from_what_inventory_says_is_free():
    spec = network({"A": {"WH1": 9, "WH2": 9, "WH3": 9}}).after(released(("L1", "A", 5)))
    no = turned_down(FIRST, "WH1", "L1", "A", requested=5, available=1, free=(("WH2", 0), ("WH3", 4)))
    asks = spec.when(no).all(AllocateStock)
    assert [(ask.fulfillment_order_id, ask.location, ask.lines[0].units) for ask in asks] == [
        (SECOND, "WH1", 1),
        (THIRD, "WH3", 4),
    ]
    spec.after(no).when(no).then_types(Ignored)


def test_repeated_refusals_back_off():
    spec = network({"A": {"WH1": 9}}).after(released(*ONE_LINE))

    def refuse(n):
        free = ((f"WH{n + 1}", 9),)
        return turned_down(f"{ORDER}/{n}", f"WH{n}", "L1", "A", requested=2, available=0, free=free)

    for n in range(1, POLICY.immediate_attempts + 1):
        outcome = spec.when(refuse(n))
        assert outcome.one(AllocateStock).fulfillment_order_id == f"{ORDER}/{n + 1}"
        spec = outcome.specification
    outcome = spec.when(refuse(POLICY.immediate_attempts + 1))
    assert outcome.all(AllocateStock) == ()
    assert outcome.state.timers["route/1"] > T0


def test_no_location_waits_then_is_given_up():
    spec = network({}).after(released(*TWO_LINES))
    pauses = []
    now = T0
    while True:
        pauses.append(spec.state.timers["route/1"] - now)
        now = spec.state.timers["route/1"]
        outcome = fire(spec, "route/1")
        spec = outcome.specification
        if "route/1" not in spec.state.timers:
            break
    assert pauses[:3] == [POLICY.retry_first, 2 * POLICY.retry_first, 4 * POLICY.retry_first]
    assert max(pauses) == POLICY.retry_max
    assert now == T0 + POLICY.sourcing_deadline
    assert outcome.one(LinesUnfillable).lines == of(FulfillmentLine, *TWO_LINES)
    assert [(let.sku, let.scope, let.lines) for let in outcome.all(ReleaseStock)] == [
        ("A", ReleaseScope.SOFT, of(SlipLine, ("L1", "A", 1))),
        ("B", ReleaseScope.SOFT, of(SlipLine, ("L2", "B", 2))),
    ]
    assert is_closed(spec.state)


def test_a_refusal_after_the_deadline_is_the_last():
    spec = network({}).after(released(*ONE_LINE))
    for _ in range(POLICY.immediate_attempts):
        spec = fire(spec, "route/1").specification
    spec = fire(restocked(spec, {"A": {"WH": 2}}), "route/1").specification
    no = turned_down(FIRST, "WH", "L1", "A", requested=2, available=0, free=(("WH2", 9),))
    outcome = spec.when(no, now=T0 + POLICY.sourcing_deadline)
    assert outcome.all(AllocateStock) == ()
    assert outcome.one(LinesUnfillable).lines == of(FulfillmentLine, *ONE_LINE)
    assert is_closed(outcome.state)


def test_stock_that_comes_is_found_by_the_retry_and_what_there_is_goes():
    spec = network({}).after(released(*TWO_LINES))
    outcome = fire(restocked(spec, {"B": {"WH": 1}}), "route/1")
    assert outcome.one(AllocateStock).lines == of(SlipLine, ("L2", "B", 1))
    assert "route/1" in outcome.state.timers


# --- the location says no -----------------------------------------------------------------------------------------------


def test_a_rejected_fulfillment_order_goes_elsewhere():
    spec = held_at("WH1", *TWO_LINES, stock={"A": {"WH1": 9, "WH2": 9}, "B": {"WH1": 9, "WH2": 9}})
    outcome = spec.when(turned_away(FIRST, "WH1"))
    assert [(let.sku, let.scope, let.location, let.hold_location) for let in outcome.all(ReleaseStock)] == [
        ("A", ReleaseScope.HARD_TO_SOFT, "WH1", False),
        ("B", ReleaseScope.HARD_TO_SOFT, "WH1", False),
    ]
    assert outcome.one(AllocateStock).location == "WH2"
    outcome.specification.when(turned_away(FIRST, "WH1")).then_types(Ignored)


def test_a_short_pick_ships_what_is_there_and_sources_the_rest_elsewhere():
    spec = held_at("WH1", ("L1", "A", 3), stock={"A": {"WH1": 9, "WH2": 9}})
    outcome = spec.when(short(FIRST, "WH1", ("L1", "A", 2)))
    let_go = outcome.one(ReleaseStock)
    assert (let_go.scope, let_go.hold_location, let_go.location, let_go.fulfillment_order_id) == (
        ReleaseScope.HARD_TO_SOFT,
        True,
        "WH1",
        FIRST,
    )
    assert let_go.lines == of(SlipLine, ("L1", "A", 2))
    ask = outcome.one(AllocateStock)
    assert (ask.location, ask.fulfillment_order_id, ask.lines) == (
        "WH2",
        SECOND,
        of(SlipLine, ("L1", "A", 2)),
    )
    after = outcome.specification
    after.when(short(FIRST, "WH1", ("L1", "A", 2))).then_types(Ignored)
    after.when(short(FIRST, "WH1", ("L1", "A", 2), event="E2")).then_rejected("fulfillment.more_than_held")
    after.when(confirmed(FIRST, "WH1", ("L1", "A", 2))).then_rejected("fulfillment.more_than_ordered")
    assert after.when(confirmed(FIRST, "WH1", ("L1", "A", 1))).one(ShipmentDispatched)


def test_a_short_pick_that_nobody_can_fill_is_given_up_in_time():
    spec = held_at("WH1", ("L1", "A", 2)).after(short(FIRST, "WH1", ("L1", "A", 1)))
    spec = spec.after(confirmed(FIRST, "WH1", ("L1", "A", 1)))
    while not is_closed(spec.state):
        outcome = fire(spec, "route/1")
        spec = outcome.specification
    assert outcome.one(LinesUnfillable).lines == of(FulfillmentLine, ("L1", "A", 1))
    assert outcome.one(ReleaseStock).scope is ReleaseScope.SOFT


# --- messages that cannot be true ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (confirmed(FIRST, "WH", ("L1", "A", 3)), "fulfillment.more_than_ordered"),
        (confirmed(FIRST, "WH", ("L9", "A", 1)), "fulfillment.more_than_ordered"),
        (confirmed(FIRST, "WH", ("L1", "Z", 1)), "fulfillment.wrong_sku"),
        (confirmed(FIRST, "OTHER", ("L1", "A", 1)), "fulfillment.wrong_location"),
        (confirmed(FIRST, "WH", ("L1", "A", 0)), "fulfillment.invalid_quantity"),
        (confirmed(FIRST, "WH"), "fulfillment.invalid_quantity"),
        (confirmed(SECOND, "WH", ("L1", "A", 1)), "fulfillment.unknown_order"),
        (confirmed("order-1/01", "WH", ("L1", "A", 1)), "fulfillment.unknown_order"),
        (confirmed("order-2/1", "WH", ("L1", "A", 1)), "fulfillment.unknown_order"),
        (collected(FIRST, "WH", ("L1", "A", 1)), "fulfillment.wrong_method"),
        (staged(FIRST, "WH"), "fulfillment.wrong_method"),
        (stopped(FIRST, "WH", ("L1", "A", 1)), "fulfillment.unknown_cancel"),
        (allocated(FIRST, "WH", ("L1", "A", 9)), None),
    ],
)
def test_what_contradicts_the_books_is_rejected(message, code):
    outcome = held_at("WH", *ONE_LINE).when(message)
    if code is None:
        outcome.then_types(Ignored)
    else:
        outcome.then_rejected(code)


def test_an_order_that_was_never_routed_is_unknown():
    network({}).when(confirmed(FIRST, "WH", *ONE_LINE)).then_rejected("fulfillment.unknown_order")
    network({}).when(allocated(FIRST, "WH", *ONE_LINE)).then_rejected("fulfillment.unknown_order")


def test_a_location_cannot_report_before_it_was_asked():
    spec = network({"A": {"WH": 9}}).after(released(*ONE_LINE))
    spec.when(confirmed(FIRST, "WH", *ONE_LINE)).then_rejected("fulfillment.not_requested")
    spec.when(allocated(FIRST, "WH", ("L1", "A", 1))).then_rejected("fulfillment.allocation_mismatch")
    spec.when(allocated(FIRST, "WH2", *ONE_LINE)).then_rejected("fulfillment.allocation_mismatch")


def test_a_release_must_be_routable():
    spec = network({})
    spec.when(released()).then_rejected("fulfillment.invalid_quantity")
    spec.when(released(("L1", "A", 0))).then_rejected("fulfillment.invalid_quantity")
    spec.when(released(("L1", "A", 1), ("L1", "A", 1))).then_rejected("fulfillment.duplicate_line")
    carried = replace(released(*ONE_LINE), method=DeliveryMethod.CARRIED_OUT)
    spec.when(carried).then_rejected("fulfillment.not_routed")
    nowhere = replace(released(*ONE_LINE), method=DeliveryMethod.PICKUP)
    spec.when(nowhere).then_rejected("fulfillment.no_pickup_location")


def test_two_locations_may_use_the_same_shipment_id():
    spec = network({"A": {"WH1": 1, "WH2": 1}}).after(
        released(*ONE_LINE), allocated(FIRST, "WH1", ("L1", "A", 1)), allocated(SECOND, "WH2", ("L1", "A", 1))
    )
    first = spec.when(confirmed(FIRST, "WH1", ("L1", "A", 1), shipment="77"))
    second = first.specification.when(confirmed(SECOND, "WH2", ("L1", "A", 1), shipment="77"))
    assert first.one(ShipmentDispatched).shipment_id == "77"
    assert second.one(ShipmentDispatched).shipment_id == "77/2"
    second.specification.when(confirmed(SECOND, "WH2", ("L1", "A", 1), shipment="77")).then_types(Ignored)


# --- cancelling ---------------------------------------------------------------------------------------------------------


def test_waiting_units_are_taken_back_at_once():
    outcome = network({}).after(released(*TWO_LINES)).when(cancel(("L2", "B", 1)))
    assert outcome.one(FulfillmentCancelled) == FulfillmentCancelled(
        order_id=ORDER, cancel_id="X1", lines=of(FulfillmentLine, ("L2", "B", 1)), reason="customer"
    )
    assert outcome.one(ReleaseStock).scope is ReleaseScope.SOFT
    assert outcome.one(ReleaseStock).lines == of(SlipLine, ("L2", "B", 1))
    assert list(outcome.state.timers) == ["route/1"]
    outcome.specification.when(cancel(("L2", "B", 1))).then_types(Ignored)


def test_cancelling_all_that_waits_closes_the_order():
    outcome = network({}).after(released(*TWO_LINES)).when(cancel(*TWO_LINES))
    assert is_closed(outcome.state)
    assert list(outcome.state.timers) == ["forget"]


def test_a_cancel_waits_for_inventory_then_frees_what_it_holds():
    spec = network({"A": {"WH": 9}, "B": {"WH": 9}}).after(released(*TWO_LINES))
    asked = spec.when(cancel(("L2", "B", 1)))
    assert asked.all(FulfillmentCancelRequested) == ()
    assert asked.all(ReleaseStock) == ()
    outcome = asked.specification.when(allocated(FIRST, "WH", *TWO_LINES))
    assert outcome.one(ReleaseStock).scope is ReleaseScope.HARD_TO_FREE
    assert outcome.one(ReleaseStock).location == "WH"
    assert outcome.one(FulfillmentRequested).lines == of(WarehouseLine, ("L1", "A", 1), ("L2", "B", 1))
    assert outcome.one(FulfillmentCancelled).lines == of(FulfillmentLine, ("L2", "B", 1))


def test_a_cancel_waits_for_inventory_and_lets_go_of_what_it_does_not_hold():
    spec = network({"A": {"WH": 9}, "B": {"WH": 9}}).after(released(*TWO_LINES), cancel(*TWO_LINES))
    outcome = spec.when(turned_down(FIRST, "WH", "L1", "A", requested=1, available=0))
    assert {let.scope for let in outcome.all(ReleaseStock)} == {ReleaseScope.SOFT}
    assert outcome.one(FulfillmentCancelled).lines == of(FulfillmentLine, *TWO_LINES)
    assert outcome.all(AllocateStock) == ()
    assert is_closed(outcome.state)


def test_held_units_are_asked_back_and_freed_when_confirmed():
    spec = held_at("WH", *TWO_LINES)
    asked = spec.when(cancel(("L1", "A", 1), ("L2", "B", 1)))
    assert asked.one(FulfillmentCancelRequested) == FulfillmentCancelRequested(
        order_id=ORDER,
        fulfillment_order_id=FIRST,
        cancel_id="X1",
        location="WH",
        lines=of(WarehouseLine, ("L1", "A", 1), ("L2", "B", 1)),
    )
    assert asked.state.timers == {"cancel/X1": T0 + POLICY.cancel_deadline}
    answer = stopped(FIRST, "WH", ("L1", "A", 1))
    outcome = asked.specification.when(answer)
    assert outcome.one(ReleaseStock).scope is ReleaseScope.HARD_TO_FREE
    assert outcome.one(FulfillmentCancelled).lines == of(FulfillmentLine, ("L1", "A", 1))
    assert outcome.one(CancelRefused).lines == of(FulfillmentLine, ("L2", "B", 1))
    assert outcome.state.timers == {}
    outcome.specification.when(answer).then_types(Ignored)
    outcome.specification.when(not_stopped(FIRST, "WH")).then_types(Ignored)
    assert outcome.specification.when(confirmed(FIRST, "WH", ("L2", "B", 2))).one(Closed)


def test_the_answers_of_several_locations_are_combined():
    spec = network({"A": {"WH1": 1, "WH2": 1}}).after(
        released(*ONE_LINE), allocated(FIRST, "WH1", ("L1", "A", 1)), allocated(SECOND, "WH2", ("L1", "A", 1))
    )
    asked = spec.when(cancel(*ONE_LINE))
    assert len(asked.all(FulfillmentCancelRequested)) == 2
    half = asked.specification.when(not_stopped(FIRST, "WH1"))
    assert half.all(CancelRefused) == ()
    outcome = half.specification.when(stopped(SECOND, "WH2", ("L1", "A", 1)))
    assert outcome.one(FulfillmentCancelled).lines == of(FulfillmentLine, ("L1", "A", 1))
    assert outcome.one(CancelRefused).lines == of(FulfillmentLine, ("L1", "A", 1))
    assert outcome.one(CancelRefused).reason == "location_declined"


def test_a_location_that_does_not_answer_ships():
    spec = held_at("WH", *ONE_LINE).after(cancel(*ONE_LINE))
    outcome = fire(spec, "cancel/X1")
    assert outcome.one(CancelRefused).lines == of(FulfillmentLine, *ONE_LINE)
    assert outcome.one(CancelRefused).reason == "no_answer"
    assert outcome.state.timers == {}

    late = outcome.specification.when(stopped(FIRST, "WH", ("L1", "A", 1)))
    assert late.one(FulfillmentCancelled).cancel_id == "X1/late/1"
    assert late.one(FulfillmentCancelled).lines == of(FulfillmentLine, ("L1", "A", 1))
    assert late.one(ReleaseStock).scope is ReleaseScope.HARD_TO_FREE
    assert late.specification.when(confirmed(FIRST, "WH", ("L1", "A", 1))).one(Closed)
    declined = outcome.specification.when(not_stopped(FIRST, "WH")).then_types(AskAnswered)
    declined.when(not_stopped(FIRST, "WH")).then_types(Ignored)


def test_a_location_may_decline_part_and_confirm_the_rest():
    spec = held_at("WH", *ONE_LINE).after(cancel(*ONE_LINE))
    part = spec.when(not_stopped(FIRST, "WH", ("L1", "A", 1)))
    assert part.all(CancelRefused) == ()
    part.specification.when(not_stopped(FIRST, "WH", ("L1", "A", 1))).then_types(Ignored)
    outcome = part.specification.when(stopped(FIRST, "WH", ("L1", "A", 1)))
    assert outcome.one(FulfillmentCancelled).lines == of(FulfillmentLine, ("L1", "A", 1))
    assert outcome.one(CancelRefused).lines == of(FulfillmentLine, ("L1", "A", 1))


def test_a_stopped_unit_serves_whoever_still_waits_for_one():
    spec = held_at("WH", *ONE_LINE).after(
        cancel(("L1", "A", 1)), cancel(("L1", "A", 1), cancel_id="X2"), short(FIRST, "WH", ("L1", "A", 1))
    )
    # The missing unit served X2; what the location stops for X2 is the one that X1 waits for.
    outcome = spec.when(stopped(FIRST, "WH", ("L1", "A", 1), cancel_id="X2"))
    assert outcome.one(FulfillmentCancelled).cancel_id == "X1"
    assert is_closed(outcome.state)


def test_a_late_confirmation_of_what_has_shipped_is_rejected_or_overtaken():
    spec = fire(held_at("WH", *ONE_LINE).after(cancel(*ONE_LINE)), "cancel/X1").specification
    part = spec.after(confirmed(FIRST, "WH", ("L1", "A", 1)))
    part.when(stopped(FIRST, "WH", *ONE_LINE)).then_rejected("fulfillment.more_than_held")
    spec.after(confirmed(FIRST, "WH", *ONE_LINE)).when(stopped(FIRST, "WH", *ONE_LINE)).then_types(Ignored)


def test_what_ships_while_the_cancel_is_asked_is_refused():
    spec = held_at("WH", *ONE_LINE).after(cancel(*ONE_LINE))
    partly = spec.when(confirmed(FIRST, "WH", ("L1", "A", 1)))
    assert partly.all(CancelRefused) == ()
    outcome = partly.specification.when(stopped(FIRST, "WH", ("L1", "A", 1)))
    assert outcome.one(CancelRefused).lines == of(FulfillmentLine, ("L1", "A", 1))
    assert outcome.one(CancelRefused).reason == "already_shipped"
    assert outcome.one(FulfillmentCancelled).lines == of(FulfillmentLine, ("L1", "A", 1))
    wholly = spec.when(confirmed(FIRST, "WH", *ONE_LINE))
    assert wholly.one(CancelRefused).lines == of(FulfillmentLine, *ONE_LINE)


def test_what_has_shipped_cannot_be_taken_back():
    spec = held_at("WH", *ONE_LINE).after(confirmed(FIRST, "WH", *ONE_LINE))
    outcome = spec.when(cancel(*ONE_LINE))
    assert outcome.one(CancelRefused).reason == "already_shipped"
    assert outcome.one(CancelRefused).lines == of(FulfillmentLine, *ONE_LINE)
    assert list(outcome.state.timers) == ["forget"]


def test_missing_or_rejected_units_serve_the_cancel_first():
    spec = held_at("WH", *ONE_LINE).after(cancel(*ONE_LINE))
    outcome = spec.when(short(FIRST, "WH", ("L1", "A", 1)))
    let_go = outcome.one(ReleaseStock)
    assert (let_go.scope, let_go.hold_location) == (ReleaseScope.HARD_TO_FREE, True)
    assert outcome.all(AllocateStock) == ()
    done = outcome.specification.when(turned_away(FIRST, "WH", event="E2"))
    assert done.one(FulfillmentCancelled).lines == of(FulfillmentLine, *ONE_LINE)
    assert is_closed(done.state)


def test_a_cancel_may_overtake_its_release():
    spec = network({"A": {"WH": 9}, "B": {"WH": 9}})
    early = spec.when(cancel(("L2", "B", 1)))
    assert early.all(FulfillmentCancelled) == ()
    assert early.state.timers == {"cancel/X1": T0 + POLICY.release_deadline}
    outcome = early.specification.when(released(*TWO_LINES))
    assert outcome.one(FulfillmentCancelled).lines == of(FulfillmentLine, ("L2", "B", 1))
    assert outcome.one(AllocateStock).lines == of(SlipLine, ("L1", "A", 1), ("L2", "B", 1))


def test_a_cancel_whose_release_never_comes_is_refused():
    early = network({}).after(cancel(*ONE_LINE))
    outcome = fire(early, "cancel/X1")
    assert outcome.one(CancelRefused).reason == "not_released"
    assert list(outcome.state.timers) == ["forget"]


def test_a_cancel_of_more_than_there_is_is_refused_for_the_rest():
    outcome = network({}).after(released(*ONE_LINE)).when(cancel(("L1", "A", 5)))
    assert outcome.one(FulfillmentCancelled).lines == of(FulfillmentLine, ("L1", "A", 2))
    assert outcome.one(CancelRefused).lines == of(FulfillmentLine, ("L1", "A", 3))


def test_two_cancels_never_share_a_unit():
    spec = held_at("WH", *ONE_LINE).after(cancel(("L1", "A", 1)))
    second = spec.when(cancel(("L1", "A", 2), cancel_id="X2"))
    assert second.one(FulfillmentCancelRequested).lines == of(WarehouseLine, ("L1", "A", 1))
    outcome = second.specification.when(stopped(FIRST, "WH", ("L1", "A", 1), cancel_id="X2"))
    assert outcome.one(CancelRefused).cancel_id == "X2"
    assert outcome.one(CancelRefused).lines == of(FulfillmentLine, ("L1", "A", 1))


# --- pickup -------------------------------------------------------------------------------------------------------------


def test_a_pickup_is_only_held_at_its_location_and_may_be_collected():
    stock = {"A": {"SHOP": 2, "WH": 9}}
    spec = network(stock, store("SHOP", ships=False)).after(
        released(*ONE_LINE, pickup_at="SHOP"), allocated(FIRST, "SHOP", *ONE_LINE)
    )
    ready = spec.when(staged(FIRST, "SHOP"))
    assert ready.one(PickupReady) == PickupReady(
        order_id=ORDER, fulfillment_order_id=FIRST, location="SHOP", expires_at=T0 + POLICY.pickup_window
    )
    ready.specification.when(staged(FIRST, "SHOP")).then_types(Ignored)
    ready.specification.when(confirmed(FIRST, "SHOP", *ONE_LINE)).then_rejected("fulfillment.wrong_method")
    gone = ready.specification.when(collected(FIRST, "SHOP", *ONE_LINE))
    assert gone.one(ShipmentDispatched).collected
    assert gone.one(ShipmentDispatched).carrier == ""
    assert list(gone.state.timers) == ["forget"]
    gone.specification.when(staged(FIRST, "SHOP")).then_types(Ignored)


def test_a_pickup_waits_for_its_own_location():
    spec = network({"A": {"WH": 9}}).after(released(*ONE_LINE, pickup_at="SHOP"))
    assert spec.state.fulfillment_orders == ()
    assert "route/1" in spec.state.timers
    assert fire(restocked(spec, {"A": {"SHOP": 2}}), "route/1").one(AllocateStock).location == "SHOP"
    closed_counter = network({"A": {"SHOP": 9}}, store("SHOP", pickup=False))
    assert closed_counter.after(released(*ONE_LINE, pickup_at="SHOP")).state.fulfillment_orders == ()


def test_a_pickup_that_its_location_rejects_is_given_up_at_once():
    spec = held_at("SHOP", *ONE_LINE, method="SHOP")
    outcome = spec.when(turned_away(FIRST, "SHOP"))
    assert [let.scope for let in outcome.all(ReleaseStock)] == [ReleaseScope.HARD_TO_SOFT, ReleaseScope.SOFT]
    assert outcome.one(LinesUnfillable).reason == "pickup_location_rejected"
    assert is_closed(outcome.state)


def test_an_expired_pickup_goes_back_to_stock():
    spec = held_at("SHOP", *ONE_LINE, method="SHOP").after(staged(FIRST, "SHOP"))
    recalled = fire(spec, "pickup/1")
    recall = recalled.one(FulfillmentCancelRequested)
    assert recall.lines == of(WarehouseLine, *ONE_LINE)
    outcome = recalled.specification.when(stopped(FIRST, "SHOP", *ONE_LINE, cancel_id=recall.cancel_id))
    assert outcome.one(ReleaseStock).scope is ReleaseScope.HARD_TO_FREE
    assert outcome.one(FulfillmentCancelled) == FulfillmentCancelled(
        order_id=ORDER,
        cancel_id=recall.cancel_id,
        lines=of(FulfillmentLine, *ONE_LINE),
        reason="pickup_expired",
    )
    assert is_closed(outcome.state)
    outcome.specification.when(stopped(FIRST, "SHOP", *ONE_LINE, cancel_id=recall.cancel_id)).then_types(
        Ignored
    )


def test_a_recall_that_the_store_declines_is_repeated_later():
    spec = held_at("SHOP", *ONE_LINE, method="SHOP").after(staged(FIRST, "SHOP"))
    recalled = fire(spec, "pickup/1")
    first = recalled.one(FulfillmentCancelRequested).cancel_id
    declined = recalled.specification.when(not_stopped(FIRST, "SHOP", cancel_id=first))
    assert declined.all(CancelRefused) == ()
    assert declined.state.timers == {"pickup/1": T0 + POLICY.recall_interval}
    again = fire(declined.specification, "pickup/1")
    assert again.one(FulfillmentCancelRequested).cancel_id != first
    assert again.specification.when(collected(FIRST, "SHOP", *ONE_LINE)).one(ShipmentDispatched)


def test_a_recall_that_the_store_does_not_answer_is_sent_again():
    spec = held_at("SHOP", *ONE_LINE, method="SHOP").after(staged(FIRST, "SHOP"))
    recalled = fire(spec, "pickup/1")
    first = recalled.one(FulfillmentCancelRequested)
    again = fire(recalled.specification, f"cancel/{first.cancel_id}")
    assert again.one(FulfillmentCancelRequested) == first
    assert again.all(FulfillmentCancelled) == ()
    (name,) = again.state.timers
    assert again.state.timers[name] - recalled.state.timers[name] == POLICY.recall_interval


def test_a_customer_may_cancel_what_waits_at_the_counter():
    spec = held_at("SHOP", *ONE_LINE, method="SHOP").after(staged(FIRST, "SHOP"), cancel(("L1", "A", 1)))
    outcome = spec.when(stopped(FIRST, "SHOP", ("L1", "A", 1)))
    assert outcome.one(FulfillmentCancelled).lines == of(FulfillmentLine, ("L1", "A", 1))
    assert fire(outcome.specification, "pickup/1").one(FulfillmentCancelRequested).lines == of(
        WarehouseLine, ("L1", "A", 1)
    )


def test_a_second_release_is_routed_beside_the_first():
    spec = held_at("WH", *ONE_LINE, stock={"A": {"WH": 9}}).after(confirmed(FIRST, "WH", *ONE_LINE))
    outcome = spec.when(released(("L5", "A", 1), release=2), now=T0 + timedelta(days=1))
    assert outcome.one(AllocateStock).fulfillment_order_id == SECOND
    assert "forget" not in outcome.state.timers
    done = outcome.specification.after(allocated(SECOND, "WH", ("L5", "A", 1)))
    assert (
        done.when(confirmed(SECOND, "WH", ("L5", "A", 1), shipment="S2")).one(ShipmentDispatched).release == 2
    )
