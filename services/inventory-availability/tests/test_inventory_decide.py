"""The books of one sku, as examples: who may say what is there, and what may be promised of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from crossdock_canonical.decider import Ignored, TimerFired
from crossdock_canonical.identity import LineId, LocationId, OrderId, Sku
from crossdock_canonical.records import (
    AllocateStock,
    AllocationFailed,
    Basis,
    Bucket,
    ConsumeStock,
    LocationDefined,
    LocationFree,
    LocationKind,
    MovementCause,
    OnShortage,
    OversellDetected,
    ReleaseScope,
    ReleaseStock,
    ReservationExpired,
    ReservationFailed,
    ReserveStock,
    RestockReturn,
    SalableStock,
    SlipLine,
    SlipResult,
    StockAdjusted,
    StockAllocated,
    StockDriftDetected,
    StockMoved,
    StockMovement,
    StockPosition,
    StockReserved,
    StockSnapshot,
    StopFailure,
)
from crossdock_canonical.specification import T0, Specification
from crossdock_eventing.service import Service
from crossdock_inventory_availability.decide import decide
from crossdock_inventory_availability.evolve import evolve
from crossdock_inventory_availability.model import (
    COUNTED_REFS_REMEMBERED,
    MOVEMENTS_REMEMBERED,
    OPERATIONS_REMEMBERED,
    Policy,
)
from crossdock_inventory_availability.service import service
from crossdock_inventory_availability.settings import Settings
from crossdock_inventory_availability.state_records import InventoryState

MUG = Sku("MUG")
NORTH, SOUTH, STORE = LocationId("WH-NORTH"), LocationId("WH-SOUTH"), LocationId("STORE-7")
ORDER, OTHER = OrderId("order-1"), OrderId("order-2")
LINE = LineId("1")
MINUTE = timedelta(minutes=1)
POLICY = Policy(channel_buffers={"shopify": 0, "amazon": 3})


def locations(group: str) -> tuple[LocationDefined, ...]:
    if group == STORE:
        return (
            LocationDefined(location=STORE, kind=LocationKind.STORE, feed="store-system", safety_stock=2),
        )
    return ()


sku_books = Specification(decide=decide, evolve=evolve, arguments={"policy": POLICY, "locations": locations})


def count(units: int, **changes: Any) -> StockSnapshot:
    arguments = {"location": NORTH, "as_of": T0, "feed": "wms", "ref": f"count-{units}", **changes}
    return StockSnapshot(sku=MUG, units=units, **arguments)


def movement(delta: int, ref: str, **changes: Any) -> StockMovement:
    arguments = {"location": NORTH, "moved_at": T0 + MINUTE, "feed": "wms", **changes}
    return StockMovement(sku=MUG, delta=delta, ref=ref, **arguments)


def reserve(units: int, order: OrderId = ORDER, **changes: Any) -> ReserveStock:
    arguments = {"slip_id": f"{order}/reserve", "channel": "shopify", **changes}
    return ReserveStock(
        sku=MUG, order_id=order, lines=(SlipLine(line_id=LINE, sku=MUG, units=units),), **arguments
    )


def allocate(units: int, order: OrderId = ORDER, **changes: Any) -> AllocateStock:
    arguments = {"location": NORTH, "fulfillment_order_id": f"{order}/1", **changes}
    return AllocateStock(
        sku=MUG, order_id=order, lines=(SlipLine(line_id=LINE, sku=MUG, units=units),), **arguments
    )


def release(
    units: int, scope: ReleaseScope = ReleaseScope.SOFT, order: OrderId = ORDER, **changes: Any
) -> ReleaseStock:
    arguments: dict[str, Any] = {"slip_id": f"{order}/cancel"}
    if scope is not ReleaseScope.SOFT:
        arguments |= {"location": NORTH, "fulfillment_order_id": f"{order}/1"}
    return ReleaseStock(
        sku=MUG,
        order_id=order,
        lines=(SlipLine(line_id=LINE, sku=MUG, units=units),),
        scope=scope,
        **arguments | changes,
    )


def consume(units: int, order: OrderId = ORDER, **changes: Any) -> ConsumeStock:
    arguments = {
        "shipment_id": f"{order}/shipment",
        "location": NORTH,
        "ref": f"{order}/shipment/1",
        "occurred_at": T0 + MINUTE,
        **changes,
    }
    return ConsumeStock(sku=MUG, order_id=order, line_id=LINE, units=units, **arguments)


def sale(units: int, ref: str, **changes: Any) -> ConsumeStock:
    return consume(
        units, OrderId(f"till-{ref}"), **{"location": STORE, "allocated": False, "ref": ref, **changes}
    )


def on_hand(books: Specification, location: LocationId = NORTH) -> int:
    return books.state.on_hand[location]


def salable(books: Specification, channel: str = "shopify") -> int:
    return books.state.published_salable[channel]


# Counts and movements


def test_a_first_count_opens_the_books_and_publishes_what_is_there():
    outcome = sku_books.when(count(10))
    assert outcome.one(StockMoved).cause is MovementCause.SNAPSHOT
    assert outcome.all(StockDriftDetected) == ()
    position = outcome.one(StockPosition)
    assert (position.on_hand, position.allocated, position.free, position.held) == (10, 0, 10, False)
    assert {row.channel: row.units for row in outcome.all(SalableStock)} == {"shopify": 10, "amazon": 7}


def test_a_later_count_that_differs_is_a_drift_and_an_adjustment():
    outcome = sku_books.after(count(10)).when(count(8, as_of=T0 + MINUTE))
    drift = outcome.one(StockDriftDetected)
    assert (drift.expected, drift.reported, drift.authoritative) == (10, 8, True)
    moved = outcome.one(StockMoved)
    assert (moved.delta, moved.on_hand, moved.cause) == (-2, 8, MovementCause.ADJUSTMENT)
    assert outcome.one(StockAdjusted).delta == -2


def test_a_count_that_agrees_says_nothing():
    outcome = sku_books.after(count(10)).when(count(10, as_of=T0 + MINUTE, ref="again"))
    assert outcome.all(StockDriftDetected) == outcome.all(StockMoved) == outcome.all(SalableStock) == ()


def test_an_older_count_is_ignored():
    books = sku_books.after(count(8, as_of=T0 + MINUTE))
    (ignored,) = books.when(count(10)).events
    assert ignored.code == "stock.count_out_of_order"


def test_counts_of_one_moment_follow_the_feeds_sequence():
    books = sku_books.after(count(8, sequence=2), count(9, sequence=1), count(7, sequence=3))
    assert on_hand(books) == 7


def test_a_count_older_than_known_movements_is_rolled_forward():
    books = sku_books.after(
        movement(-1, "before", moved_at=T0 - MINUTE), movement(5, "after"), count(10), movement(-2, "later")
    )
    assert on_hand(books) == 10 + 5 - 2


def test_a_movement_that_the_count_contains_changes_nothing():
    books = sku_books.after(
        count(10), movement(-3, "late", moved_at=T0 - MINUTE), movement(-3, "then", moved_at=T0)
    )
    assert on_hand(books) == 10
    assert on_hand(sku_books.after(movement(-3, "then", moved_at=T0), count(10))) == 10


def test_a_movement_counts_once():
    outcome = sku_books.after(count(10), movement(-3, "m")).when(movement(-3, "m"))
    outcome.then(Ignored("stock.movement_known", "m"))


def test_only_the_authority_moves_the_books():
    books = sku_books.after(count(10))
    (ignored,) = books.when(movement(-3, "m", feed="erp")).events
    assert ignored.code == "stock.feed_not_authoritative"
    outcome = books.when(count(7, feed="erp", as_of=T0 + MINUTE, ref="erp-1"))
    drift = outcome.one(StockDriftDetected)
    assert (drift.expected, drift.reported, drift.authoritative, drift.feed) == (10, 7, False, "erp")
    assert replace(outcome.state, recent=()) == books.state
    books.when(count(10, feed="erp", as_of=T0 + MINUTE)).then(Ignored("stock.count_agrees", "count-10"))


def test_a_reconciling_count_is_compared_with_the_books_of_its_moment():
    books = sku_books.after(count(10), movement(-4, "m", moved_at=T0 + 2 * MINUTE))
    books.when(count(10, feed="erp", as_of=T0 + MINUTE)).then(Ignored("stock.count_agrees", "count-10"))


def test_master_data_names_the_authority_and_the_safety_stock():
    outcome = sku_books.when(count(10, location=STORE, feed="store-system"))
    assert outcome.one(StockPosition).free == 8
    assert outcome.all(SalableStock)[0].units == 8
    foreign = sku_books.when(count(10, location=STORE, feed="wms"))
    assert (foreign.state.on_hand, foreign.all(SalableStock), foreign.all(StockPosition)) == ({}, (), ())


def test_a_salable_count_is_never_subtracted_from_again():
    books = sku_books.after(count(10), reserve(4), allocate(4))
    books.when(count(6, basis=Basis.SALABLE, as_of=T0 + MINUTE)).then(
        Ignored("stock.count_agrees", "count-6")
    )
    outcome = books.when(count(5, basis=Basis.SALABLE, as_of=T0 + MINUTE))
    assert outcome.one(StockDriftDetected).expected == 6
    assert replace(outcome.state, recent=books.state.recent) == books.state


@pytest.mark.parametrize("basis", Basis)
def test_a_reconciling_count_that_comes_again_tells_its_drift_once(basis):
    first = count(7, feed="erp", as_of=T0 + MINUTE, basis=basis, ref="erp-1")
    told = sku_books.after(count(10), first)
    told.when(first).then(Ignored("stock.count_known", "erp-1"))
    # The stock has moved on: the count of that moment is still the same news.
    told.after(movement(5, "m", moved_at=T0 + 2 * MINUTE)).when(first).then(
        Ignored("stock.count_known", "erp-1")
    )
    assert told.when(replace(first, ref="erp-2")).all(StockDriftDetected) != ()


def test_damaged_and_held_goods_are_on_hand_but_not_for_sale():
    books = sku_books.after(
        count(10), count(2, bucket=Bucket.DAMAGED, ref="d"), movement(1, "q", bucket=Bucket.QUALITY_HOLD)
    )
    assert (on_hand(books), salable(books)) == (10, 7)
    assert salable(books.after(movement(-2, "d2", bucket=Bucket.DAMAGED))) == 9


def test_an_old_count_beyond_the_remembered_movements_is_refused():
    books = sku_books.after(count(1000))
    for number in range(MOVEMENTS_REMEMBERED + 1):
        books = books.after(movement(-1, f"m{number}", moved_at=T0 + (number + 10) * MINUTE))
    assert len(books.state.journal[f"{NORTH}|ON_HAND"]) == 4 * MOVEMENTS_REMEMBERED
    (ignored,) = books.when(count(999, as_of=T0 + MINUTE)).events
    assert ignored.code == "stock.count_beyond_memory"
    (late,) = books.when(movement(-1, "late", moved_at=T0 + 9 * MINUTE)).events
    assert late.code == "stock.movement_beyond_memory"
    counted = books.after(count(5, as_of=T0 + timedelta(days=1)))
    assert on_hand(counted) == 5
    assert len(counted.state.journal[f"{NORTH}|ON_HAND"]) == 4 * COUNTED_REFS_REMEMBERED


def test_a_returned_good_is_sold_again_and_a_broken_one_only_counted():
    def restock(bucket: Bucket, ref: str) -> RestockReturn:
        return RestockReturn(
            sku=MUG,
            order_id=ORDER,
            rma_id="rma-1",
            line_id=LINE,
            location=NORTH,
            units=2,
            bucket=bucket,
            ref=ref,
            occurred_at=T0 + MINUTE,
        )

    books = sku_books.after(count(10))
    sellable = books.when(restock(Bucket.ON_HAND, "r1"))
    assert sellable.one(StockMoved).cause is MovementCause.RETURN
    assert (on_hand(sellable.specification), salable(sellable.specification)) == (12, 12)
    broken = books.after(restock(Bucket.DAMAGED, "r2"))
    assert (on_hand(broken), broken.state.damaged[NORTH], salable(broken)) == (12, 2, 10)
    broken.when(restock(Bucket.DAMAGED, "r2")).then(Ignored("stock.movement_known", "r2"))


def test_a_till_sale_and_the_stores_own_movement_are_one_whichever_comes_first():
    books = sku_books.after(count(10, location=STORE, feed="store-system"))
    told_by_till = sale(2, "receipt-1")
    told_by_store = movement(-2, "receipt-1", location=STORE, feed="store-system", reason="sale")
    for first, second in ((told_by_till, told_by_store), (told_by_store, told_by_till)):
        outcome = books.when(first)
        assert outcome.one(StockMoved).cause is MovementCause.SALE
        assert on_hand(outcome.specification.after(second), STORE) == 8


def test_both_stay_one_when_a_count_lies_between_them():
    books = sku_books.after(
        count(10, location=STORE, feed="store-system"),
        movement(-2, "receipt-1", location=STORE, feed="store-system"),
        count(8, location=STORE, feed="store-system", as_of=T0 + 2 * MINUTE),
        sale(2, "receipt-1", occurred_at=T0 + 3 * MINUTE),
    )
    assert on_hand(books, STORE) == 8


def test_two_lines_of_a_shipment_may_share_a_reference():
    books = sku_books.after(
        count(10),
        consume(2, ref="shipment", allocated=False),
        consume(3, OTHER, ref="shipment", allocated=False),
    )
    assert on_hand(books) == 5


# Promises


def test_a_reservation_is_answered_and_lowers_what_is_salable():
    outcome = sku_books.after(count(10)).when(reserve(4))
    assert outcome.one(StockReserved) == StockReserved(
        order_id=ORDER,
        slip_id="order-1/reserve",
        lines=(SlipResult(line_id=LINE, sku=MUG, units=4, reserved=4),),
    )
    assert salable(outcome.specification) == 6


def test_nothing_is_promised_beyond_what_is_free():
    books = sku_books.after(count(10), reserve(8))
    failed = books.when(reserve(3, OTHER)).one(ReservationFailed)
    assert failed.failure == StopFailure(line_id=LINE, sku=MUG, requested=3, available=2)


def test_a_hole_at_one_location_is_not_promised_away_at_another():
    books = sku_books.after(count(5), count(2, location=SOUTH), consume(4, location=SOUTH, allocated=False))
    assert books.when(reserve(4, OTHER)).one(ReservationFailed).failure.available == 3


def test_safety_stock_is_never_promised():
    books = sku_books.after(count(3, location=STORE, feed="store-system"))
    assert books.when(reserve(2)).one(ReservationFailed).failure.available == 1


def test_a_redelivered_reservation_reserves_once():
    books = sku_books.after(count(10), reserve(4))
    books.when(reserve(4)).then(Ignored("stock.duplicate_reserve", "order-1/reserve at 0"))
    gone = books.after(release(4))
    gone.when(reserve(4)).then(Ignored("stock.duplicate_reserve", "order-1/reserve at 0"))


def test_a_second_slip_of_a_line_adds_to_it():
    books = sku_books.after(count(10), reserve(4), reserve(2, slip_id="more"))
    assert books.state.soft == {"order-1/1": 6}


def test_waiting_lines_are_served_in_order_and_whole():
    backorder = {"on_shortage": OnShortage.BACKORDER}
    books = sku_books.after(count(2))
    first = books.when(reserve(5, **backorder))
    assert first.one(StockReserved).lines[0] == SlipResult(
        line_id=LINE, sku=MUG, units=5, reserved=2, backordered=3
    )
    books = first.specification.after(reserve(1, OTHER, **backorder))
    short = books.when(movement(2, "receipt-1"))
    assert short.all(StockReserved) == ()  # OTHER would fit, but it does not overtake
    assert salable(short.specification) == 0
    (served_first, served_second) = short.specification.when(movement(2, "receipt-2")).all(StockReserved)
    assert (served_first.order_id, served_first.slip_id, served_first.backfill) == (
        ORDER,
        "order-1/reserve",
        True,
    )
    assert served_first.lines == (SlipResult(line_id=LINE, sku=MUG, units=5, reserved=3),)
    assert served_second.order_id == OTHER
    assert served_first.sequence < served_second.sequence


def test_a_newcomer_does_not_overtake_the_queue():
    books = sku_books.after(count(1), reserve(3, on_shortage=OnShortage.BACKORDER), movement(1, "receipt"))
    assert books.when(reserve(1, OTHER)).one(ReservationFailed).failure.available == 0


def test_a_release_and_a_return_serve_the_queue():
    waiting = sku_books.after(count(4), reserve(4, OTHER), reserve(2, on_shortage=OnShortage.BACKORDER))
    assert waiting.when(release(4, order=OTHER)).one(StockReserved).order_id == ORDER
    hard = waiting.after(allocate(4, OTHER))
    freed = hard.when(release(4, ReleaseScope.HARD_TO_FREE, OTHER))
    assert freed.one(StockReserved).order_id == ORDER


def test_a_reservation_lapses_at_its_deadline():
    due = T0 + timedelta(hours=1)
    books = sku_books.after(count(10), reserve(4, expires_at=due))
    (name,) = books.state.timers
    outcome = books.when(TimerFired(name, due), now=due)
    assert outcome.one(ReservationExpired) == ReservationExpired(
        order_id=ORDER, line_id=LINE, sku=MUG, units=4
    )
    assert (salable(outcome.specification), outcome.state.timers) == (10, {})
    assert outcome.state.expired_total == 4


@pytest.mark.parametrize("leaving", [release(4), allocate(4)])
def test_a_promise_that_moved_on_does_not_lapse(leaving: Any):
    books = sku_books.after(count(10), reserve(4, expires_at=T0 + MINUTE), leaving)
    assert books.state.timers == {}


def test_a_served_line_keeps_its_deadline():
    books = sku_books.after(
        count(0),
        reserve(4, expires_at=T0 + MINUTE, on_shortage=OnShortage.BACKORDER),
        count(9, as_of=T0 + MINUTE),
    )
    assert books.state.soft == {"order-1/1": 4}
    assert books.state.timers == {"expire:order-1/1": T0 + MINUTE}


def test_an_allocation_turns_the_lines_own_reservation_hard():
    outcome = sku_books.after(count(10), reserve(4)).when(allocate(4))
    assert outcome.one(StockAllocated).location == NORTH
    position = outcome.one(StockPosition)
    assert (position.allocated, position.free) == (4, 6)
    assert outcome.all(SalableStock) == ()  # promised before, promised after


def test_an_allocation_without_a_reservation_or_without_goods_fails_and_says_where_there_are_some():
    books = sku_books.after(count(3), count(9, location=SOUTH), reserve(5))
    failed = books.when(allocate(5)).one(AllocationFailed)
    assert failed.failure == StopFailure(line_id=LINE, sku=MUG, requested=5, available=3)
    assert failed.free == (LocationFree(location=NORTH, free=3), LocationFree(location=SOUTH, free=9))
    assert books.when(allocate(1, OTHER)).one(AllocationFailed).failure.available == 0


def test_a_held_location_promises_nothing_until_its_next_count():
    missing = release(4, ReleaseScope.HARD_TO_SOFT, hold_location=True)
    now = T0 + 10 * MINUTE
    books = sku_books.after(count(10), reserve(4), allocate(4))
    outcome = books.when(missing, now=now)
    position = outcome.one(StockPosition)
    assert (position.held, position.free, position.allocated) == (True, 0, 0)
    held = outcome.specification
    assert salable(held) == 0
    assert (
        held.when(allocate(4, fulfillment_order_id="order-1/2")).one(AllocationFailed).failure.available == 0
    )
    assert held.after(count(9, as_of=now - MINUTE)).state.held_since  # taken before the goods were missed
    counted = held.when(count(6, as_of=now + MINUTE))
    assert (counted.one(StockPosition).held, counted.one(StockPosition).free) == (False, 6)


def test_a_shipment_keeps_the_promise_and_takes_the_goods():
    outcome = sku_books.after(count(10), reserve(4), allocate(4)).when(consume(4))
    moved = outcome.one(StockMoved)
    assert (moved.delta, moved.cause, moved.order_id) == (-4, MovementCause.SALE, ORDER)
    assert outcome.all(OversellDetected) == ()
    assert (outcome.state.hard, outcome.state.allocated, outcome.state.consumed_total) == ({}, {}, 4)
    again = outcome.specification.when(consume(4))
    again.then(Ignored("stock.duplicate_consume", "order-1/shipment/1"))


def test_a_shipment_that_the_count_contains_takes_no_goods_again():
    books = sku_books.after(count(10), reserve(4), allocate(4), count(6, as_of=T0 + 2 * MINUTE), consume(4))
    assert (on_hand(books), books.state.allocated, salable(books)) == (6, {}, 6)


def test_a_fact_beyond_the_promises_is_owned_in_the_same_decision():
    books = sku_books.after(count(5, location=STORE, feed="store-system"), reserve(3))
    outcome = books.when(sale(3, "receipt"))
    oversold = outcome.one(OversellDetected)
    assert (oversold.location, oversold.short, oversold.cause) == (None, 1, "receipt")
    assert oversold.deadline == T0 + POLICY.oversell_deadline
    assert oversold.owner == "inventory-control"


def test_a_count_below_what_a_location_holds_is_oversold_there():
    books = sku_books.after(count(5), count(5, location=SOUTH), reserve(4), allocate(4))
    oversold = books.when(count(3, as_of=T0 + MINUTE)).one(OversellDetected)
    assert (oversold.location, oversold.short) == (NORTH, 1)
    still = books.after(count(3, as_of=T0 + MINUTE)).when(movement(1, "found"))
    assert still.all(OversellDetected) == ()  # not worse: told once


def test_what_does_not_exist_is_not_released():
    books = sku_books.after(count(10), reserve(4), release(4))
    books.when(release(4, slip_id="again")).then(Ignored("stock.nothing_to_release", "order-1/1"))
    assert books.when(release(4)).events[0].code == "stock.duplicate_release"


@pytest.mark.parametrize(
    "command",
    [
        reserve(-1),
        reserve(1, at=1),
        allocate(-1),
        consume(0),
        release(1, ReleaseScope.HARD_TO_FREE, location=None),
    ],
)
def test_a_message_that_contradicts_itself_is_refused(command: Any):
    assert sku_books.after(count(10)).when(command).rejection is not None


@pytest.mark.parametrize("report", [movement(1, "receipt"), count(10, as_of=T0 + MINUTE)])
def test_a_changed_safety_stock_is_published_with_the_skus_next_report(report: Any):
    books = sku_books.after(count(10), count(10, location=SOUTH))
    raised = Specification(
        decide=decide,
        evolve=evolve,
        state=books.state,
        arguments={
            "policy": POLICY,
            "locations": lambda group: (
                LocationDefined(location=group, kind=LocationKind.STORE, safety_stock=1),
            ),
        },
    )
    outcome = raised.when(report)
    assert {row.location: row.free for row in outcome.all(StockPosition)} == {
        NORTH: on_hand(outcome.specification) - 1,
        SOUTH: 9,
    }


def test_memory_is_bounded():
    books = sku_books.after(count(1000))
    for number in range(OPERATIONS_REMEMBERED):
        order = OrderId(f"order-{number}")
        books = books.after(reserve(1, order), allocate(1, order), consume(1, order))
    assert len(books.state.recent) == OPERATIONS_REMEMBERED
    assert books.state.soft == books.state.hard == books.state.timers == {}


def test_the_composition_agrees_with_the_core():
    composed = service(Settings(channel_buffers={"pos": 2}))
    assert isinstance(composed, Service)
    assert composed.states == (InventoryState,)
    events = composed.decide(count(10), None, now=T0, locations=locations)
    published = {type(event) for event in events} & set(composed.outputs)
    assert published == {StockMoved, StockPosition, SalableStock}
