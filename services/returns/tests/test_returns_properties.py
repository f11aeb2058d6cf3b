"""What holds for every sequence of messages about one order's returns."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from crossdock_canonical.decider import TimerFired
from crossdock_canonical.identity import LineId, LocationId, OrderId, Sku
from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    CreditCause,
    CreditGranted,
    CreditLine,
    CreditProposed,
    Grade,
    InspectedLine,
    OrderShipped,
    Origin,
    RefundRecorded,
    RestockReturn,
    ReturnInspected,
    ReturnLine,
    ReturnReceived,
    ReturnRequested,
    ShippedLine,
)
from crossdock_canonical.specification import T0
from crossdock_returns.decide import decide
from crossdock_returns.evolve import evolve
from crossdock_returns.model import Policy, shipped_units
from crossdock_returns.state_records import OrderReturns

ORDER = OrderId("order-1")
LINES = (LineId("1"), LineId("2"))
POLICY = Policy()

units = st.integers(min_value=1, max_value=3)
quantities = st.lists(st.tuples(st.sampled_from(LINES), units), min_size=1, max_size=2)
cents = st.integers(min_value=0, max_value=9999)
rma_ids = st.sampled_from(["rma-1", "rma-2"])


@st.composite
def order_narratives(draw: st.DrawFn) -> list[Any]:
    """Shipments of both lines as the orchestrator tells them, then perhaps a credit of the channel."""
    story: list[Any] = [
        OrderShipped(
            order_id=ORDER,
            shipment_id=f"s{number}",
            release=1,
            channel="shopify",
            shop="harbour-outfitters.example",
            external_id="1001",
            lines=tuple(
                ShippedLine(
                    line_id=line_id,
                    sku=Sku(f"SKU-{line_id}"),
                    units=draw(units),
                    amounts=Amounts(currency="EUR", goods=draw(cents), discount=draw(cents), tax=draw(cents)),
                )
                for line_id in LINES
            ),
            currency="EUR",
            shipped_at=T0,
        )
        for number in range(draw(st.integers(min_value=1, max_value=3)))
    ]
    if draw(st.booleans()):
        worth = Amounts(currency="EUR", goods=draw(cents))
        credited = CreditLine(line_id=LINES[0], sku=Sku("SKU-1"), units=draw(units), amounts=worth)
        total = Money(minor=worth.due, currency="EUR")
        story.append(
            CreditGranted(
                order_id=ORDER,
                credit_id="c1",
                cause=CreditCause.CHANNEL_REFUND,
                lines=(credited,),
                currency="EUR",
                total=total,
                origin=Origin.CHANNEL,
            )
        )
        story.append(
            RefundRecorded(
                order_id=ORDER,
                refund_id="channel-9",
                credit_id="c1",
                amount=total,
                origin=Origin.CHANNEL,
                channel="shopify",
                shop="harbour-outfitters.example",
                external_id="1001",
            )
        )
    return story


@st.composite
def intakes(draw: st.DrawFn) -> list[Any]:
    """Requests, receipts and inspections of two returns."""
    found: list[Any] = []
    for number in range(draw(st.integers(min_value=1, max_value=5))):
        rma_id, lines = draw(rma_ids), draw(quantities)
        match draw(st.sampled_from(["request", "receipt", "inspection"])):
            case "request":
                found.append(
                    ReturnRequested(
                        order_id=ORDER,
                        rma_id=rma_id,
                        lines=tuple(ReturnLine(line_id=line, units=count) for line, count in lines),
                        requested_at=T0 + draw(st.sampled_from([timedelta(), timedelta(days=1)])),
                    )
                )
            case "receipt":
                found.append(
                    ReturnReceived(
                        order_id=ORDER,
                        rma_id=rma_id,
                        receipt_id=f"r{number}",
                        location=LocationId("store-7"),
                        lines=tuple(ReturnLine(line_id=line, units=count) for line, count in lines),
                        received_at=T0,
                    )
                )
            case _:
                found.append(
                    ReturnInspected(
                        order_id=ORDER,
                        rma_id=rma_id,
                        inspection_id=f"i{number}",
                        location=LocationId("store-7"),
                        lines=tuple(
                            InspectedLine(line_id=line, units=count, grade=draw(st.sampled_from(Grade)))
                            for line, count in lines
                        ),
                        inspected_at=T0,
                    )
                )
    return found


@st.composite
def interleavings(draw: st.DrawFn, narrative: list[Any], intake: list[Any]) -> list[Any]:
    """The narrative in its order, the intake in any, both repeated here and there."""
    marks = draw(st.permutations([None] * len(narrative) + intake))
    told = iter(narrative)
    merged = [next(told) if mark is None else mark for mark in marks]
    repeats = draw(st.lists(st.sampled_from(merged), max_size=4))
    return merged + repeats


def run(commands: list[Any]) -> tuple[OrderReturns | None, list[Any]]:
    """Decide all, holding every step to the invariants; answers the state and every event."""
    state: OrderReturns | None = None
    told: list[Any] = []
    for command in commands:
        events = decide(command, state, now=T0, policy=POLICY)
        assert events, "a duplicate is a value, never nothing"
        for event in events:
            state = evolve(state, event)
        told += events
        if state is not None:
            check(state, told)
            assert OrderReturns.from_avro(state.to_avro()) == state
    return state, told


def check(state: OrderReturns, told: list[Any]) -> None:
    for line in state.lines:
        proposed = [
            part
            for event in told
            if isinstance(event, CreditProposed)
            for part in event.lines
            if part.line_id == line.line_id
        ]
        assert sum(part.units for part in proposed) == line.credited_units <= shipped_units(line)
        for part in proposed:
            assert min(part.amounts.goods, part.amounts.discount, part.amounts.tax) >= 0
        if line.credited_units == shipped_units(line):
            whole = sum((lot.amounts for lot in line.lots), Amounts.zero("EUR"))
            assert sum((part.amounts for part in proposed), Amounts.zero("EUR")) == whole
    references = [event.ref for event in told if isinstance(event, RestockReturn)]
    credits_ = [event.credit_id for event in told if isinstance(event, CreditProposed)]
    assert len(set(references)) == len(references), "restocked twice"
    assert len(set(credits_)) == len(credits_), "credited twice"
    waits = state.waiting_requests or state.waiting_receipts or state.waiting_inspections
    opened = [rma.rma_id for rma in state.rmas if rma.status.value == "OPEN"]
    assert all(f"expire/{rma_id}" in state.timers for rma_id in opened), "open without a next step"
    assert not waits or len(state.timers) > 1, "waiting without a deadline"


def books(state: OrderReturns, told: list[Any]) -> tuple[Any, ...]:
    """What stock and ledger were told in all."""
    worth: dict[str, Amounts] = {}
    restocked: Counter[tuple[str, str]] = Counter()
    for event in told:
        if isinstance(event, CreditProposed):
            for part in event.lines:
                worth[part.line_id] = worth.get(part.line_id, Amounts.zero("EUR")) + part.amounts
        elif isinstance(event, RestockReturn):
            restocked[event.sku, event.bucket] += event.units
    return worth, restocked, {line.line_id: line.credited_units for line in state.lines}


@given(st.data())
def test_any_merge_of_topics_with_duplicates_leads_to_the_same_books(data: st.DataObject) -> None:
    narrative, intake = data.draw(order_narratives()), data.draw(intakes())

    in_order = run(narrative + intake)
    merged = run(data.draw(interleavings(narrative, intake)))

    assert in_order[0] is not None
    assert merged[0] is not None
    assert books(*merged) == books(*in_order)


@given(st.data())
def test_every_return_ends_by_its_deadlines(data: st.DataObject) -> None:
    """Firing every timer as it comes due ends every return and at last forgets the order."""
    commands = data.draw(interleavings(data.draw(order_narratives()), data.draw(intakes())))
    commands = commands[: data.draw(st.integers(min_value=1, max_value=len(commands)))]
    state, _ = run(commands)
    fired = 0
    while state is not None:
        name, due = min(state.timers.items(), key=lambda timer: (timer[1], timer[0]))
        before = state.timers
        for event in decide(TimerFired(name=name, due=due), state, now=due, policy=POLICY):
            state = evolve(state, event)
        assert state is None or state.timers.get(name) != before[name], f"{name} would fire for ever"
        fired += 1
        assert fired < 50
