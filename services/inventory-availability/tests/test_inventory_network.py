"""Slips that travel sku to sku, and what holds after every step of any interleaving.

`Network` stands for the topic of stock commands: one queue a sku, in order; which sku comes next is the test's choice. It
keeps its own account of supply (from the feeds) and of promises (from the decisions), and compares both with the books.
"""

from __future__ import annotations

import io
import json
from collections import Counter, defaultdict, deque
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import fastavro
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossdock_canonical.decider import Ignored, TimerFired
from crossdock_canonical.identity import LineId, LocationId, OrderId, Sku
from crossdock_canonical.records import (
    AllocateStock,
    AllocationFailed,
    Bucket,
    ConsumeStock,
    LocationDefined,
    LocationKind,
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
    StockAllocated,
    StockMovement,
    StockPosition,
    StockReserved,
    StockSnapshot,
)
from crossdock_canonical.specification import T0
from crossdock_inventory_availability.decide import decide
from crossdock_inventory_availability.evolve import evolve
from crossdock_inventory_availability.model import (
    Allocated,
    Consumed,
    Deallocated,
    Lapsed,
    Policy,
    Refused,
    Released,
    Reserved,
    Served,
    order_and_line,
    usable,
)
from crossdock_inventory_availability.state_records import InventoryState

MUG, TEE = Sku("MUG"), Sku("TEE")
NORTH, STORE = LocationId("WH-NORTH"), LocationId("STORE-7")
SAFETY = {NORTH: 0, STORE: 1}
ORDERS = (OrderId("order-1"), OrderId("order-2"), OrderId("order-3"))
MINUTE = timedelta(minutes=1)
POLICY = Policy(channel_buffers={"shopify": 0, "amazon": 2})
FACTS = (StockSnapshot, StockMovement, ConsumeStock, RestockReturn)

_SCHEMA_FILE = Path(__file__).parents[3] / "schemas/avro/state/inventory-availability/InventoryState.v1.avsc"
SCHEMA = fastavro.parse_schema(json.loads(_SCHEMA_FILE.read_text()))


def locations(group: str) -> tuple[LocationDefined, ...]:
    if group == STORE:
        return (LocationDefined(location=STORE, kind=LocationKind.STORE, safety_stock=SAFETY[STORE]),)
    return ()


class Supply:
    """H by the formula: the latest count and every later movement, each reference once."""

    def __init__(self) -> None:
        self.counts: dict[tuple[Sku, LocationId, Bucket], tuple[datetime, int]] = {}
        self.moves: dict[tuple[Sku, LocationId, Bucket], list[tuple[str, datetime, int, bool]]] = defaultdict(
            list
        )
        self.consumed: set[tuple[str, LineId]] = set()

    def hear(self, fact: Any) -> None:
        match fact:
            case StockSnapshot():
                key = (fact.sku, fact.location, fact.bucket)
                if key not in self.counts or fact.as_of > self.counts[key][0]:
                    self.counts[key] = (fact.as_of, fact.units)
            case StockMovement():
                self._move(
                    (fact.sku, fact.location, fact.bucket), fact.ref, fact.moved_at, fact.delta, feed=True
                )
            case RestockReturn():
                for bucket in {Bucket.ON_HAND, fact.bucket}:
                    key = (fact.sku, fact.location, bucket)
                    if not any(ref == fact.ref for ref, *_ in self.moves[key]):
                        self._move(key, fact.ref, fact.occurred_at, fact.units)
            case ConsumeStock():
                if (fact.shipment_id, fact.line_id) not in self.consumed:
                    self.consumed.add((fact.shipment_id, fact.line_id))
                    key = (fact.sku, fact.location, Bucket.ON_HAND)
                    self._move(key, fact.ref, fact.occurred_at, -fact.units)

    def _move(self, key: Any, ref: str, moved_at: datetime, delta: int, *, feed: bool = False) -> None:
        known = [told_by_feed for other, _, _, told_by_feed in self.moves[key] if other == ref]
        if not known or (not feed and not any(known)):
            self.moves[key].append((ref, moved_at, delta, feed))

    def level(self, sku: Sku, location: LocationId, bucket: Bucket) -> int:
        as_of, units = self.counts.get((sku, location, bucket), (datetime.min.replace(tzinfo=T0.tzinfo), 0))
        return units + sum(
            delta for _, moved_at, delta, _ in self.moves[sku, location, bucket] if moved_at > as_of
        )

    def on_hand_fit(self, sku: Sku, location: LocationId) -> int:
        unfit = (self.level(sku, location, bucket) for bucket in (Bucket.DAMAGED, Bucket.QUALITY_HOLD))
        return self.level(sku, location, Bucket.ON_HAND) - sum(max(0, units) for units in unfit)


class Promises:
    """Where every requested unit of every reservation is, from what was decided."""

    def __init__(self) -> None:
        self.requested: Counter[Sku] = Counter()
        self.ended: Counter[tuple[Sku, str]] = Counter()
        self.soft: Counter[tuple[Sku, str]] = Counter()
        self.waiting: Counter[tuple[Sku, str]] = Counter()
        self.hard: Counter[tuple[Sku, LocationId, str]] = Counter()

    def hear(self, sku: Sku, event: Any) -> None:
        match event:
            case Reserved():
                self.requested[sku] += event.soft + event.waiting + event.early
                self.soft[sku, event.reservation] += event.soft
                self.waiting[sku, event.reservation] += event.waiting
                self.ended[sku, "released"] += event.early
            case Refused():
                self.requested[sku] += event.units
                self.ended[sku, "failed"] += event.units
            case Served():
                self.soft[sku, event.reservation] += self.waiting.pop((sku, event.reservation))
            case Allocated():
                self.soft[sku, event.reservation] -= event.units + event.early
                self.hard[sku, event.location, event.reservation] += event.units
                self.ended[sku, "released"] += event.early
            case Deallocated():
                self.hard[sku, event.location, event.reservation] -= event.units
                if event.to_soft:
                    self.soft[sku, event.reservation] += event.units
                else:
                    self.ended[sku, "released"] += event.units
            case Released() | Lapsed():
                self.soft[sku, event.reservation] -= event.soft
                self.waiting[sku, event.reservation] -= event.waiting
                why = "expired" if isinstance(event, Lapsed) else "failed" if event.failed else "released"
                self.ended[sku, why] += event.soft + event.waiting
            case Consumed():
                self.hard[sku, event.location, event.reservation] -= event.hard
                self.soft[sku, event.reservation] -= event.soft
                self.waiting[sku, event.reservation] -= event.waiting
                self.ended[sku, "consumed"] += event.hard + event.soft + event.waiting

    def total(self, column: Counter[Any], sku: Sku, location: LocationId | None = None) -> int:
        return sum(
            units
            for key, units in column.items()
            if key[0] == sku and (location is None or key[1] == location)
        )


class Network:
    """The skus' books and the commands on their way."""

    def __init__(self) -> None:
        self.states: dict[Sku, InventoryState | None] = {MUG: None, TEE: None}
        self.queues: dict[Sku, deque[Any]] = {MUG: deque(), TEE: deque()}
        self.supply = Supply()
        self.promises = Promises()
        self.answers: list[Any] = []
        self.positions: dict[tuple[Sku, LocationId], StockPosition] = {}
        self.salable: dict[tuple[Sku, str], SalableStock] = {}
        self.now = T0

    def send(self, *commands: Any) -> None:
        for command in commands:
            self.queues[command.sku].append(command)

    def step(self, sku: Sku) -> tuple[Any, ...]:
        """Deliver the next command of one sku."""
        return self.deliver(sku, self.queues[sku].popleft()) if self.queues[sku] else ()

    def settle(self) -> None:
        """Deliver until nothing is on its way."""
        for _ in range(1000):
            waiting = [sku for sku, queue in self.queues.items() if queue]
            if not waiting:
                return
            self.step(waiting[0])
        raise AssertionError("the network does not come to rest")

    def fire_due(self) -> None:
        for sku, state in list(self.states.items()):
            for name, due in list(state.timers.items()) if state else ():
                if due <= self.now:
                    self.deliver(sku, TimerFired(name, due))

    def deliver(self, sku: Sku, command: Any) -> tuple[Any, ...]:
        before = self.states[sku]
        events = decide(command, before, now=self.now, policy=POLICY, locations=locations)
        state = before
        for event in events:
            state = evolve(state, event)
            self.promises.hear(sku, event)
            self._hear_published(sku, event)
        published = [event for event in events if hasattr(event, "IDENTITY")]
        identities = {
            (type(event), *(getattr(event, name) for name in event.IDENTITY)) for event in published
        }
        assert len(identities) == len(published)
        if isinstance(command, FACTS):
            self.supply.hear(command)
        self.states[sku] = state
        self.check(sku, command, before, events)
        return events

    def _hear_published(self, sku: Sku, event: Any) -> None:
        match event:
            case ReserveStock() | AllocateStock() | ReleaseStock():
                self.send(event)
            case (
                StockReserved()
                | ReservationFailed()
                | ReservationExpired()
                | StockAllocated()
                | AllocationFailed()
            ):
                self.answers.append(event)
            case StockPosition():
                known = self.positions.get((sku, event.location))
                assert known is None or known.version < event.version
                self.positions[sku, event.location] = event
            case SalableStock():
                told = self.salable.get((sku, event.channel))
                assert told is None or (told.version < event.version and told.units != event.units)
                self.salable[sku, event.channel] = event

    def check(self, sku: Sku, command: Any, before: InventoryState | None, events: tuple[Any, ...]) -> None:
        """Everything that must hold after every step (FLOW "Invariants, exactly")."""
        state = self.states[sku]
        if state is None:
            return
        supply, promises = self.supply, self.promises
        soft, waiting = promises.total(promises.soft, sku), promises.total(promises.waiting, sku)
        hard = {location: promises.total(promises.hard, sku, location) for location in SAFETY}

        # Supply and promises are what feeds and decisions say.
        for location in SAFETY:
            assert state.on_hand.get(location, 0) == supply.level(sku, location, Bucket.ON_HAND)
            assert state.damaged.get(location, 0) == supply.level(sku, location, Bucket.DAMAGED)
            assert state.allocated.get(location, 0) == hard[location]
        assert state.soft == {
            key[1]: units for key, units in promises.soft.items() if key[0] == sku and units
        }
        assert state.waiting == {
            key[1]: units for key, units in promises.waiting.items() if key[0] == sku and units
        }
        assert set(state.queue) == set(state.waiting)
        assert all(units >= 0 for units in (*state.soft.values(), *state.hard.values()))

        # No unit that was asked for is lost.
        ended = sum(units for key, units in promises.ended.items() if key[0] == sku)
        assert promises.requested[sku] == soft + waiting + sum(hard.values()) + ended

        # Only a fact leaves more promised than there is, and says so in the same decision.
        balance = {location: supply.on_hand_fit(sku, location) - hard[location] for location in SAFETY}
        network = sum(balance.values()) - soft
        assert state.usable_total == sum(balance.values())
        balance_before = {location: usable(before, location) if before else 0 for location in SAFETY}
        network_before = sum(balance_before.values()) - (before.soft_total if before else 0)
        told = {event.location: event.short for event in events if isinstance(event, OversellDetected)}
        for where, after, earlier in (
            (None, network, network_before),
            *((location, balance[location], balance_before[location]) for location in SAFETY),
        ):
            if after < min(0, earlier):
                assert isinstance(command, FACTS), f"{command} promised what is not there"
                assert told.get(where) == -after
            else:
                assert where not in told
        if any(isinstance(event, Served) or (isinstance(event, Reserved) and event.soft) for event in events):
            assert network >= 0

        # The tables say what the books say.
        free = {
            location: 0 if location in state.held_since else max(0, balance[location] - SAFETY[location])
            for location in SAFETY
        }
        for location in SAFETY:
            if (position := self.positions.get((sku, location))) is not None:
                assert (position.on_hand, position.allocated, position.free, position.held) == (
                    state.on_hand.get(location, 0),
                    hard[location],
                    free[location],
                    location in state.held_since,
                )
            else:
                assert location not in state.on_hand
        available = max(0, sum(free.values()) - soft - waiting)
        for channel, buffer in POLICY.channel_buffers.items():
            assert self.salable[sku, channel].units == max(0, available - buffer)

        # The state survives its changelog, and a redelivery changes nothing.
        assert written_and_read(state) == state
        if not isinstance(command, TimerFired):
            again = decide(command, state, now=self.now, policy=POLICY, locations=locations)
            assert all(isinstance(event, Ignored) for event in again)


def written_and_read(state: InventoryState) -> InventoryState:
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, SCHEMA, state.to_avro())
    buffer.seek(0)
    return InventoryState.from_avro(fastavro.schemaless_reader(buffer, SCHEMA, None))  # type: ignore[arg-type]


def slip(*lines: tuple[str, Sku, int]) -> tuple[SlipLine, ...]:
    return tuple(SlipLine(line_id=LineId(line), sku=sku, units=units) for line, sku, units in lines)


def reserve(order: OrderId, lines: tuple[SlipLine, ...], **changes: Any) -> ReserveStock:
    arguments = {"slip_id": f"{order}/reserve", "channel": "shopify", **changes}
    return ReserveStock(sku=lines[0].sku, order_id=order, lines=lines, **arguments)


def allocate(
    order: OrderId, lines: tuple[SlipLine, ...], location: LocationId = NORTH, number: int = 1
) -> AllocateStock:
    return AllocateStock(
        sku=lines[0].sku,
        order_id=order,
        fulfillment_order_id=f"{order}/{number}",
        location=location,
        lines=lines,
    )


def release(
    order: OrderId, lines: tuple[SlipLine, ...], slip_id: str = "cancel", **changes: Any
) -> ReleaseStock:
    return ReleaseStock(
        sku=lines[0].sku, order_id=order, slip_id=f"{order}/{slip_id}", lines=lines, **changes
    )


def counted(sku: Sku, units: int, location: LocationId = NORTH) -> StockSnapshot:
    return StockSnapshot(sku=sku, location=location, units=units, as_of=T0, feed="wms", ref=f"{sku} {units}")


def stocked(**units: int) -> Network:
    network = Network()
    network.send(*(counted(Sku(sku), count) for sku, count in units.items()))
    network.settle()
    return network


ONE = ORDERS[0]
THREE_LINES = slip(("1", MUG, 2), ("2", TEE, 3), ("3", MUG, 1))


def soft_units(network: Network) -> dict[Sku, int]:
    return {sku: state.soft_total for sku, state in network.states.items() if state}


def hard_units(network: Network) -> dict[Sku, int]:
    return {sku: state.hard_total for sku, state in network.states.items() if state}


def test_a_slip_reserves_every_line_and_answers_once():
    network = stocked(MUG=3, TEE=3)
    network.send(reserve(ONE, THREE_LINES))
    network.settle()
    (answer,) = network.answers
    assert [(line.line_id, line.reserved) for line in answer.lines] == [("1", 2), ("2", 3), ("3", 1)]
    assert soft_units(network) == {MUG: 3, TEE: 3}


@pytest.mark.parametrize(
    ("stock", "at"), [({"MUG": 1, "TEE": 9}, "1"), ({"MUG": 9, "TEE": 2}, "2"), ({"MUG": 2, "TEE": 9}, "3")]
)
def test_a_slip_that_fails_anywhere_leaves_nothing_and_answers_once(stock: dict[str, int], at: str):
    network = stocked(**stock)
    network.send(reserve(ONE, THREE_LINES))
    network.settle()
    (answer,) = network.answers
    assert isinstance(answer, ReservationFailed)
    assert answer.failure.line_id == at
    assert soft_units(network) == {MUG: 0, TEE: 0}
    assert all(state.failed_total == state.requested_total for state in network.states.values() if state)
    assert {sku: row.units for (sku, channel), row in network.salable.items() if channel == "shopify"} == {
        MUG: stock["MUG"],
        TEE: stock["TEE"],
    }


def test_an_allocation_that_fails_late_becomes_soft_again_and_says_where_the_missing_sku_is():
    network = stocked(MUG=9, TEE=1)
    network.send(
        counted(TEE, 5, STORE),
        reserve(ONE, THREE_LINES),
    )
    network.settle()
    network.send(allocate(ONE, THREE_LINES))
    network.settle()
    failed = network.answers[-1]
    assert isinstance(failed, AllocationFailed)
    assert (failed.failure.line_id, failed.failure.available) == ("2", 1)
    assert {row.location: row.free for row in failed.free} == {NORTH: 1, STORE: 4}
    assert (soft_units(network), hard_units(network)) == ({MUG: 3, TEE: 3}, {MUG: 0, TEE: 0})


def test_a_whole_slip_is_allocated():
    network = stocked(MUG=3, TEE=3)
    network.send(reserve(ONE, THREE_LINES))
    network.settle()
    network.send(allocate(ONE, THREE_LINES))
    network.settle()
    assert isinstance(network.answers[-1], StockAllocated)
    assert (soft_units(network), hard_units(network)) == ({MUG: 0, TEE: 0}, {MUG: 3, TEE: 3})


@pytest.mark.parametrize("steps_before", range(4))
def test_a_release_that_meets_its_slip_on_the_way_leaves_nothing(steps_before: int):
    network = stocked(MUG=9, TEE=9)
    network.send(reserve(ONE, THREE_LINES))
    for _ in range(steps_before):
        network.step(MUG if network.queues[MUG] else TEE)
    for number, line in enumerate(reversed(THREE_LINES)):  # one slip a line, in no order of travel
        network.queues[line.sku].appendleft(
            release(ONE, (line,), f"cancel-{number}")
        ) if steps_before else None
    if not steps_before:  # the slip's first stop cannot be overtaken
        network.send(*(release(ONE, (line,), f"cancel-{line.line_id}") for line in THREE_LINES))
    network.settle()
    assert soft_units(network) == {MUG: 0, TEE: 0}
    (answer,) = network.answers
    assert [(line.units, line.reserved) for line in answer.lines] == [(2, 2), (3, 3), (1, 1)]
    assert all(not state.released_early and not state.timers for state in network.states.values() if state)


def test_a_partial_release_that_overtakes_its_slip_lets_go_of_its_part_only():
    network = stocked(MUG=9, TEE=9)
    network.send(reserve(ONE, THREE_LINES))
    network.deliver(TEE, release(ONE, slip(("2", TEE, 1))))
    network.settle()
    assert soft_units(network) == {MUG: 3, TEE: 2}


@pytest.mark.parametrize(("scope", "soft"), [(ReleaseScope.HARD_TO_FREE, 0), (ReleaseScope.HARD_TO_SOFT, 3)])
def test_a_release_that_overtakes_an_allocation_leaves_nothing_hard(scope: ReleaseScope, soft: int):
    network = stocked(MUG=9, TEE=9)
    network.send(reserve(ONE, THREE_LINES))
    network.settle()
    network.send(allocate(ONE, THREE_LINES))
    early = release(ONE, slip(("2", TEE, 3)), scope=scope, location=NORTH, fulfillment_order_id=f"{ONE}/1")
    network.deliver(TEE, early)
    network.settle()
    assert (soft_units(network)[TEE], hard_units(network)) == (soft, {MUG: 3, TEE: 0})


def test_a_release_whose_slip_never_comes_is_forgotten():
    network = stocked(MUG=9)
    network.send(release(ONE, slip(("1", MUG, 2))))
    network.settle()
    network.now += POLICY.early_release_kept
    network.fire_due()
    state = network.states[MUG]
    assert state is not None
    assert state.released_early == state.timers == {}


# Random histories

orders = st.sampled_from(ORDERS)
skus = st.sampled_from((MUG, TEE))
places = st.sampled_from((NORTH, STORE))
few = st.integers(1, 4)
minutes = st.integers(-5, 5).map(lambda number: T0 + number * MINUTE)
lines_of = {
    order: st.lists(st.tuples(skus, few), min_size=1, max_size=3).map(
        lambda stops: slip(*((str(number), sku, units) for number, (sku, units) in enumerate(stops)))
    )
    for order in ORDERS
}


@st.composite
def histories(draw: st.DrawFn) -> list[Any]:
    """Commands in the order they are sent, and `(sku, redeliver)` where the sku's next command is delivered."""
    orders_lines = {order: draw(lines_of[order]) for order in ORDERS}
    history: list[Any] = [
        counted(sku, draw(st.integers(0, 8)), place) for sku in (MUG, TEE) for place in SAFETY
    ]
    for number in range(draw(st.integers(5, 30))):
        order, place, sku = draw(orders), draw(places), draw(skus)
        lines = orders_lines[order]
        match draw(st.integers(0, 12)):
            case 0:
                count = counted(sku, draw(st.integers(0, 8)), place)
                as_of = draw(minutes) + timedelta(seconds=number)
                bucket = draw(st.sampled_from((Bucket.ON_HAND, Bucket.ON_HAND, Bucket.DAMAGED)))
                history.append(replace(count, as_of=as_of, bucket=bucket, ref=f"count {number}"))
            case 1:
                history.append(
                    StockMovement(
                        sku=sku,
                        location=place,
                        bucket=draw(st.sampled_from((Bucket.ON_HAND, Bucket.ON_HAND, Bucket.DAMAGED))),
                        delta=draw(st.sampled_from((-2, -1, 1, 3))),
                        moved_at=draw(minutes),
                        feed="wms",
                        ref=f"receipt {draw(st.integers(1, 6))}",
                    )
                )
            case 2 | 3 | 4:
                expires_at = draw(st.none() | st.just(T0 + 8 * MINUTE))
                on_shortage = draw(st.sampled_from(OnShortage))
                history.append(
                    reserve(
                        order,
                        lines,
                        slip_id=f"{order}/reserve/{draw(st.integers(1, 2))}",
                        on_shortage=on_shortage,
                        expires_at=expires_at,
                    )
                )
            case 5:
                line = draw(st.sampled_from(lines))
                history.append(release(order, (line,), f"cancel {number}"))
            case 6:
                history.append(release(order, lines, f"cancel {number}"))
            case 7 | 8:
                history.append(allocate(order, lines, place, draw(st.integers(1, 3))))
            case 9:
                history.append(
                    release(
                        order,
                        (draw(st.sampled_from(lines)),),
                        f"free {number}",
                        scope=draw(st.sampled_from((ReleaseScope.HARD_TO_SOFT, ReleaseScope.HARD_TO_FREE))),
                        location=place,
                        fulfillment_order_id=f"{order}/{draw(st.integers(1, 3))}",
                        hold_location=draw(st.booleans()),
                    )
                )
            case 10 | 11:
                line = draw(st.sampled_from(lines))
                history.append(
                    ConsumeStock(
                        sku=line.sku,
                        order_id=order,
                        line_id=line.line_id,
                        shipment_id=f"{order}/shipment {draw(st.integers(1, 3))}",
                        location=place,
                        units=draw(few),
                        allocated=draw(st.booleans()),
                        ref=f"receipt {draw(st.integers(1, 9))}",
                        occurred_at=draw(minutes),
                    )
                )
            case _:
                history.append(
                    RestockReturn(
                        sku=sku,
                        order_id=order,
                        rma_id="rma",
                        line_id=LineId("0"),
                        location=place,
                        units=draw(few),
                        bucket=draw(st.sampled_from((Bucket.ON_HAND, Bucket.DAMAGED))),
                        ref=f"restock {draw(st.integers(1, 3))}",
                        occurred_at=draw(minutes),
                    )
                )
        history += draw(st.lists(skus, max_size=3))
        if draw(st.integers(0, 4)) == 0:
            history.append(draw(st.sampled_from((MINUTE, 5 * MINUTE))))
    return history


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(histories())
def test_every_history_keeps_the_books(history: list[Any]):
    network = Network()
    asked_to_reserve: set[str] = set()
    asked_to_allocate: set[str] = set()
    for item in history:
        match item:
            case str():
                network.step(Sku(item))
            case timedelta():
                network.now += item
                network.fire_due()
            case _:
                if isinstance(item, ReserveStock):
                    asked_to_reserve.add(item.slip_id)
                elif isinstance(item, AllocateStock):
                    asked_to_allocate.add(item.fulfillment_order_id)
                network.send(item)
    network.settle()

    # Every slip is answered once; a later answer serves a queue.
    first_answers = Counter(
        answer.slip_id
        for answer in network.answers
        if isinstance(answer, ReservationFailed)
        or (isinstance(answer, StockReserved) and not answer.backfill)
    )
    assert first_answers == Counter(asked_to_reserve)
    allocation_answers = Counter(
        answer.fulfillment_order_id
        for answer in network.answers
        if isinstance(answer, StockAllocated | AllocationFailed)
    )
    assert allocation_answers == Counter(asked_to_allocate)

    # Letting every order go leaves no reservation behind.
    for sku, state in network.states.items():
        for reservation, units in [*state.soft.items(), *state.waiting.items()] if state else ():
            order, line = order_and_line(reservation)
            stop = SlipLine(line_id=line, sku=sku, units=units)
            network.send(release(order, (stop,), f"last {line} {units} {reservation in state.waiting}"))
        for key, units in state.hard.items() if state else ():
            reservation, _, location = key.partition("@")
            order, line = order_and_line(reservation)
            stop = SlipLine(line_id=line, sku=sku, units=units)
            network.send(
                release(
                    order,
                    (stop,),
                    f"last {key}",
                    scope=ReleaseScope.HARD_TO_FREE,
                    location=LocationId(location),
                )
            )
    network.settle()
    network.settle()
    for state in network.states.values():
        if state is not None:
            assert state.hard == {}
            assert state.allocated == {}


@settings(deadline=None, max_examples=100)
@given(
    feeds=st.lists(st.tuples(st.booleans(), st.integers(-6, 6), st.integers(1, 5)), min_size=1, max_size=8),
    data=st.data(),
)
def test_feeds_converge_in_every_order_and_with_redelivery(
    feeds: list[tuple[bool, int, int]], data: st.DataObject
):
    reports: list[Any] = []
    for number, (is_count, minute, units) in enumerate(feeds):
        moment = T0 + minute * MINUTE + timedelta(seconds=number)
        if is_count:
            reports.append(replace(counted(MUG, units), as_of=moment, ref=f"count {number}"))
        else:
            reports.append(
                StockMovement(
                    sku=MUG, location=NORTH, delta=units, moved_at=moment, feed="wms", ref=f"move {number}"
                )
            )
    straight, shuffled = Network(), Network()
    straight.send(*reports)
    shuffled.send(*data.draw(st.permutations(reports + reports)))
    straight.settle()
    shuffled.settle()
    one, other = straight.states[MUG], shuffled.states[MUG]
    assert (one and one.on_hand) == (other and other.on_hand)
