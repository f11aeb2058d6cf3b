"""What holds for every settlement file, however its batches and its declaration arrive: a cent is never lost."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from crossdock_canonical.decider import TimerFired
from crossdock_canonical.identity import LineId, OrderId, Sku
from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    LinesMatched,
    MatchLines,
    OrderLine,
    OrderReceived,
    SettlementDeclared,
    SettlementLine,
    SettlementProved,
)
from crossdock_canonical.specification import T0
from crossdock_settlement_reconciler.decide import decide, evolve, state_key
from crossdock_settlement_reconciler.model import Policy

SETTLEMENT = "amazon/A1SELLER/7001"
SHA = "a" * 64
POLICY = Policy()

kinds = st.sampled_from(
    ["Order", "Refund", "ServiceFee", "Chargeback Refund", "other-transaction", "Mystery"]
)
amount_types = st.sampled_from(["ItemPrice", "ItemFees", "ItemWithheldTax", "Promotion", "Mystery"])
descriptions = st.sampled_from(["Principal", "Tax", "Shipping", "Current Reserve Amount", "Mystery"])
amounts = st.none() | st.integers(min_value=-99999, max_value=99999)
# Four orders: two are known from the start, one comes late, one never does. None: no order.
owners = st.sampled_from([None, "order-1", "order-2", "order-late", "order-never"])


@st.composite
def settlement_lines(draw: st.DrawFn, number: int) -> SettlementLine:
    amount = draw(amounts)
    return SettlementLine(
        line_no=number,
        transaction_type=draw(kinds),
        amount_type=draw(amount_types),
        description=draw(descriptions),
        item_ref=draw(st.sampled_from(["", "1", "2", "77"])),
        seller_sku=draw(st.sampled_from(["", "SKU-1", "SKU-77"])),
        amount_minor=amount,
        raw_amount="1.005" if amount is None else f"{amount / 100:.2f}",
        currency="EUR",
    )


@st.composite
def files(draw: st.DrawFn) -> list[MatchLines]:
    """One batch an order, as the gateway sends them."""
    by_owner: dict[str | None, list[SettlementLine]] = {}
    for number in range(1, draw(st.integers(min_value=1, max_value=12)) + 1):
        by_owner.setdefault(draw(owners), []).append(draw(settlement_lines(number)))
    return [
        MatchLines(
            subject=owner or SETTLEMENT,
            settlement_id=SETTLEMENT,
            sha256=SHA,
            batch=lines[0].line_no,
            channel="amazon",
            shop="A1SELLER",
            order_id=None if owner is None else OrderId(owner),
            lines=tuple(lines),
        )
        for owner, lines in by_owner.items()
    ]


def an_order(order_id: str) -> OrderReceived:
    return OrderReceived(
        order_id=OrderId(order_id),
        version=1,
        channel="amazon",
        shop="A1SELLER",
        external_id=order_id,
        currency="EUR",
        total=Money(minor=3000, currency="EUR"),
        lines=tuple(
            OrderLine(
                line_id=LineId(number),
                sku=Sku(f"SKU-{number}"),
                units=1,
                amounts=Amounts(currency="EUR", goods=1000 * int(number)),
            )
            for number in ("1", "2")
        ),
        placed_at=T0,
    )


class Reconciler:
    """Both stages over one dictionary of states: what the shell does, without Kafka."""

    def __init__(self) -> None:
        self.states: dict[str, Any] = {}
        self.published: list[Any] = []

    def send(self, command: Any) -> list[LinesMatched]:
        """Decide one message; answers what has to travel on to stage two."""
        return self._apply(state_key(command), command, T0)

    def fire_until(self, until: Any) -> list[LinesMatched]:
        """Fire every timer that is due by then, in order."""
        matched = []
        while True:
            due = [
                (due, key, name)
                for key, state in self.states.items()
                for name, due in state.timers.items()
                if due <= until
            ]
            if not due:
                return matched
            when, key, name = min(due)
            matched += self._apply(key, TimerFired(name=name, due=when), when)

    def _apply(self, key: str, command: Any, now: Any) -> list[LinesMatched]:
        events = decide(command, self.states.get(key), now=now, policy=POLICY)
        assert events, "a duplicate is a value, never nothing"
        state = self.states.get(key)
        for event in events:
            state = evolve(state, event)
        if state is None:
            self.states.pop(key, None)
        else:
            assert type(state).from_avro(state.to_avro()) == state
            self.states[key] = state
        self.published += [event for event in events if hasattr(event, "TOPIC")]
        return [event for event in events if isinstance(event, LinesMatched)]


def a_declaration(file: list[MatchLines], *, difference: int) -> SettlementDeclared:
    lines = [line for batch in file for line in batch.lines]
    control = sum(line.amount_minor or 0 for line in lines)
    return SettlementDeclared(
        settlement_id=SETTLEMENT,
        channel="amazon",
        shop="A1SELLER",
        external_id="7001",
        sha256=SHA,
        line_count=len(lines),
        control_sum_minor=control,
        declared_total=Money(minor=control + difference, currency="EUR"),
    )


def reconcile(data: st.DataObject, messages: list[Any], *, shuffle: bool) -> SettlementProved:
    """Deliver all messages and whatever they cause; shuffled, also twice and with the hops in any order."""
    reconciler = Reconciler()
    for known in ("order-1", "order-2"):
        reconciler.send(an_order(known))
    pending = [*messages, an_order("order-late")]
    if shuffle:
        pending += data.draw(st.lists(st.sampled_from(messages), max_size=4))
        pending = data.draw(st.permutations(pending))
    while pending:
        index = data.draw(st.integers(0, len(pending) - 1)) if shuffle else 0
        pending += reconciler.send(pending.pop(index))
    late = reconciler.fire_until(T0 + POLICY.unknown_order)
    if shuffle:
        late = data.draw(st.permutations(late + late))
    for matched in late:
        reconciler.send(matched)
    proofs = [event for event in reconciler.published if isinstance(event, SettlementProved)]
    answered = [event.batch for event in reconciler.published if isinstance(event, LinesMatched)]
    assert len(answered) == len(set(answered)), "a batch is answered once"
    assert len(proofs) == 1
    return proofs[0]


@given(st.data(), files(), st.integers(min_value=-50, max_value=50))
def test_any_arrival_gives_the_same_proof(
    data: st.DataObject, file: list[MatchLines], difference: int
) -> None:
    messages = [*file, a_declaration(file, difference=difference)]

    in_order = reconcile(data, messages, shuffle=False)

    assert reconcile(data, messages, shuffle=True) == in_order


@given(st.data(), files(), st.integers(min_value=-50, max_value=50))
def test_every_cent_and_every_line_is_in_one_class_or_one_residual(
    data: st.DataObject, file: list[MatchLines], difference: int
) -> None:
    proved = reconcile(data, [*file, a_declaration(file, difference=difference)], shuffle=False)

    lines = [line for batch in file for line in batch.lines]
    classed = sum(total.amount_minor for total in proved.classes)
    unexplained = [residual for residual in proved.residuals if residual.name != "amount_differs"]
    assert proved.lines_minor == sum(line.amount_minor or 0 for line in lines)
    assert proved.declared_minor == proved.lines_minor + proved.residual_minor
    assert proved.declared_minor == classed + sum(residual.amount_minor for residual in unexplained)
    of_lines = [residual.line_no for residual in unexplained if residual.line_no]
    assert len(of_lines) == len(set(of_lines))
    assert sum(total.lines for total in proved.classes) + len(of_lines) == len(lines)
    assert sum(entry.amount_minor for entry in proved.journal) == 0
    reserves = sum(entry.amount_minor for entry in proved.journal if entry.account == "reserves")
    assert reserves == -sum(t.amount_minor for t in proved.classes if t.line_class == "reserve")


@given(st.data(), files())
def test_every_order_and_settlement_ends_by_its_deadlines(
    data: st.DataObject, file: list[MatchLines]
) -> None:
    """Whatever part of the file arrives, firing the timers answers every batch and forgets every state."""
    messages = data.draw(st.permutations([*file, a_declaration(file, difference=0), an_order("order-1")]))
    reconciler = Reconciler()
    for message in messages[: data.draw(st.integers(1, len(messages)))]:
        for matched in reconciler.send(message):
            reconciler.send(matched)
    reconciler.fire_until(T0 + 3 * POLICY.retention + timedelta(days=30))
    assert reconciler.states == {}
