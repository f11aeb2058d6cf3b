"""Stage one: the lines that settlements have for one order, against what the order is worth. Called by `decide` and `evolve`.

Lines of an order that is not known yet wait, each batch with its own deadline. Every batch is answered once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import assert_never

from crossdock_canonical.decider import Ignored, TimerFired
from crossdock_canonical.identity import OrderId
from crossdock_canonical.records import (
    LinesMatched,
    MatchLines,
    OrderAmended,
    OrderCancelled,
    OrderReceived,
    PaymentKind,
    PaymentRecorded,
    RefundRecorded,
)
from crossdock_settlement_reconciler.matching import match_order, match_unknown_order
from crossdock_settlement_reconciler.model import (
    ANSWERED_MAX,
    RETIRE,
    WAITING_BATCHES_MAX,
    BatchDeferred,
    DeadlineSet,
    ExpectationChanged,
    ExpectationSettled,
    Forgotten,
    MovementRecorded,
    OrderExpected,
    Policy,
    batch_name,
)
from crossdock_settlement_reconciler.state_records import (
    ExpectedLine,
    Movement,
    OrderExpectation,
    WaitingBatch,
)

OrderCommand = (
    OrderReceived | OrderAmended | OrderCancelled | PaymentRecorded | RefundRecorded | MatchLines | TimerFired
)
OrderEvent = (
    OrderExpected
    | ExpectationChanged
    | MovementRecorded
    | BatchDeferred
    | ExpectationSettled
    | LinesMatched
    | DeadlineSet
    | Forgotten
    | Ignored
)


@dataclass
class _Decision:
    """The events decided so far and the state after them; lives for one call of `decide_order`."""

    state: OrderExpectation
    now: datetime
    policy: Policy
    events: list[OrderEvent] = field(default_factory=list)

    def add(self, event: OrderEvent) -> None:
        self.events.append(event)
        after = evolve_order(self.state, event)
        assert after is not None
        self.state = after


def decide_order(
    command: OrderCommand, state: OrderExpectation | None, *, now: datetime, policy: Policy
) -> tuple[OrderEvent, ...]:
    """Answer one message or timer of one order."""
    if isinstance(command, TimerFired):
        assert state is not None, "a timer belongs to a state"
        return _expire(_Decision(state, now, policy), command.name)
    order_id = command.order_id
    assert order_id is not None, "lines of no order belong to stage two"
    decision = _Decision(state or OrderExpectation(order_id=order_id), now, policy)
    match command:
        case OrderReceived():
            _receive(decision, command)
        case OrderAmended():
            _amend(decision, command)
        case OrderCancelled():
            _cancel(decision, command)
        case PaymentRecorded():
            _record_payment(decision, command)
        case RefundRecorded():
            refund = Movement(movement_id=f"REFUNDED/{command.refund_id}", amount_minor=-command.amount.minor)
            _record(decision, refund)
        case MatchLines():
            _match(decision, command)
        case _:
            assert_never(command)
    if RETIRE not in decision.state.timers and not isinstance(decision.events[0], Ignored):
        decision.add(DeadlineSet(name=RETIRE, due=now + policy.retention))
    return tuple(decision.events)


def _receive(decision: _Decision, order: OrderReceived) -> None:
    if order.version <= decision.state.version:
        decision.add(Ignored("settlement.stale", f"version {order.version} of the order is known"))
        return
    lines = tuple(
        ExpectedLine(
            line_id=line.line_id,
            item_id=line.parent_line_id or line.line_id,
            sku=line.sku,
            expected_minor=line.amounts.goods + line.amounts.tax + line.amounts.facilitator_tax,
        )
        for line in order.lines
    )
    decision.add(
        OrderExpected(
            order_id=order.order_id,
            version=order.version,
            currency=order.currency,
            priced=order.total is not None,
            lines=lines,
        )
    )
    for waiting in decision.state.waiting:
        _answer(decision, _batch(decision.state, waiting))


def _amend(decision: _Decision, amendment: OrderAmended) -> None:
    if not decision.state.version:
        # Its first message was discarded: lines find no order to be compared with, and become residuals for a person.
        decision.add(Ignored("settlement.unknown_order", f"amendment {amendment.version} of no order"))
        return
    if amendment.version <= decision.state.amendment:
        decision.add(Ignored("settlement.stale", f"amendment {amendment.version} is known"))
        return
    worth = {
        line.line_id: line.amounts.goods + line.amounts.tax + line.amounts.facilitator_tax
        for line in amendment.lines
    }
    decision.add(ExpectationChanged(amendment=amendment.version, expected_minor=worth))


def _cancel(decision: _Decision, cancel: OrderCancelled) -> None:
    if not cancel.complete or not any(line.expected_minor for line in decision.state.lines):
        decision.add(Ignored("settlement.not_concerned", "amendments say what remains of the order"))
        return
    nothing = {line.line_id: 0 for line in decision.state.lines}
    decision.add(ExpectationChanged(amendment=decision.state.amendment, expected_minor=nothing))


def _record_payment(decision: _Decision, payment: PaymentRecorded) -> None:
    match payment.kind:
        case PaymentKind.CAPTURED:
            sign = 1
        case PaymentKind.CHARGED_BACK:
            sign = -1
        case PaymentKind.AUTHORIZED | PaymentKind.VOIDED:
            decision.add(Ignored("settlement.not_concerned", "no money moved"))
            return
        case _:
            assert_never(payment.kind)
    movement_id = f"{payment.kind}/{payment.payment_id}"
    _record(decision, Movement(movement_id=movement_id, amount_minor=sign * payment.amount.minor))


def _record(decision: _Decision, movement: Movement) -> None:
    if any(known.movement_id == movement.movement_id for known in decision.state.movements):
        decision.add(Ignored("settlement.duplicate", f"{movement.movement_id} is recorded"))
    else:
        decision.add(MovementRecorded(order_id=decision.state.order_id, movement=movement))


def _match(decision: _Decision, batch: MatchLines) -> None:
    name = batch_name(batch.sha256, batch.batch)
    if name in decision.state.answered or name in decision.state.timers:
        decision.add(Ignored("settlement.duplicate", f"batch {name} is answered or waits"))
    elif decision.state.version > 0:
        _answer(decision, batch)
    elif len(decision.state.waiting) < WAITING_BATCHES_MAX:
        decision.add(BatchDeferred(batch=batch, deadline=decision.now + decision.policy.unknown_order))
    else:
        decision.add(match_unknown_order(batch))


def _answer(decision: _Decision, batch: MatchLines) -> None:
    matching = match_order(batch, decision.state)
    decision.add(matching.matched)
    decision.add(ExpectationSettled(items=matching.items, movements=matching.movements))


def _expire(decision: _Decision, name: str) -> tuple[OrderEvent, ...]:
    state = decision.state
    if name == RETIRE:
        if state.waiting:
            return (DeadlineSet(name=RETIRE, due=decision.now + decision.policy.retention),)
        return (Forgotten(),)
    waiting = next(entry for entry in state.waiting if batch_name(entry.sha256, entry.batch) == name)
    return (match_unknown_order(_batch(state, waiting)),)


def _batch(state: OrderExpectation, waiting: WaitingBatch) -> MatchLines:
    return MatchLines(
        subject=state.order_id,
        settlement_id=waiting.settlement_id,
        sha256=waiting.sha256,
        batch=waiting.batch,
        channel=waiting.channel,
        shop=waiting.shop,
        order_id=state.order_id,
        lines=waiting.lines,
    )


def evolve_order(state: OrderExpectation | None, event: OrderEvent) -> OrderExpectation | None:
    """Apply one event of stage one."""
    match event:
        case Ignored():
            return state
        case Forgotten():
            return None
        case OrderExpected():
            return replace(
                state or OrderExpectation(order_id=event.order_id),
                version=event.version,
                currency=event.currency,
                priced=event.priced,
                lines=event.lines,
            )
        case MovementRecorded():
            state = state or OrderExpectation(order_id=event.order_id)
            return replace(state, movements=(*state.movements, event.movement))
        case BatchDeferred():
            assert event.batch.order_id is not None
            return _defer(state or OrderExpectation(order_id=event.batch.order_id), event)
        case LinesMatched():
            state = state or OrderExpectation(order_id=OrderId(event.subject))
            name = batch_name(event.sha256, event.batch)
            return replace(
                state,
                answered=(*state.answered, name)[-ANSWERED_MAX:],
                waiting=tuple(w for w in state.waiting if batch_name(w.sha256, w.batch) != name),
                timers={key: due for key, due in state.timers.items() if key != name},
            )
    assert state is not None, f"{type(event).__name__} needs an order"
    match event:
        case ExpectationChanged():
            changed = event.expected_minor
            lines = tuple(
                replace(line, expected_minor=changed.get(line.line_id, line.expected_minor))
                for line in state.lines
            )
            return replace(state, amendment=event.amendment, lines=lines)
        case ExpectationSettled():
            movements = tuple(
                replace(movement, settled=movement.settled or movement.movement_id in event.movements)
                for movement in state.movements
            )
            return replace(state, settled=event.items, movements=movements)
        case DeadlineSet():
            return replace(state, timers={**state.timers, event.name: event.due})
        case _:
            assert_never(event)


def _defer(state: OrderExpectation, event: BatchDeferred) -> OrderExpectation:
    batch = event.batch
    waiting = WaitingBatch(
        settlement_id=batch.settlement_id,
        sha256=batch.sha256,
        batch=batch.batch,
        channel=batch.channel,
        shop=batch.shop,
        lines=batch.lines,
    )
    return replace(
        state,
        waiting=(*state.waiting, waiting),
        timers={**state.timers, batch_name(batch.sha256, batch.batch): event.deadline},
    )
