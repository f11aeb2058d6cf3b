"""Decide what the returns service does about one message. Called by the shell; pure.

A return is judged against what shipped. An input that speaks of goods not known to have shipped waits, with a
deadline, since topics are merged in any order. Goods that arrive are facts: they are recorded, inspected and
restocked whatever was authorised, but credited only up to what shipped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import assert_never

from crossdock_canonical.decider import Ignored, Rejected, TimerFired
from crossdock_canonical.identity import LineId, OrderId
from crossdock_canonical.records import (
    Bucket,
    CreditGranted,
    Grade,
    InspectedLine,
    OrderShipped,
    Origin,
    RefundRecorded,
    RestockReturn,
    ReturnAuthorized,
    ReturnClosed,
    ReturnDeclined,
    ReturnExpected,
    ReturnInspected,
    ReturnLine,
    ReturnReceived,
    ReturnRequested,
    WarehouseLine,
)
from crossdock_returns.crediting import channel_credit, propose_credits
from crossdock_returns.evolve import Event, evolve, initial_state, waiting_inputs
from crossdock_returns.model import (
    MORE_THAN_SHIPPED,
    RETIRE,
    UNKNOWN_LINE,
    UNKNOWN_ORDER,
    WINDOW_CLOSED,
    BlindReturnOpened,
    ChannelCredited,
    ChannelRefunded,
    DeadlineSet,
    GoodsInspected,
    GoodsReceived,
    InputDeferred,
    InputResumed,
    OrderForgotten,
    Policy,
    ShipmentLearned,
    WaitingInput,
    base_units,
    components,
    expiry_name,
    find_line,
    find_rma,
    in_channel_units,
    is_settled,
    returnable_units,
    waiting_name,
)
from crossdock_returns.state_records import OrderReturns, Rma, RmaStatus

Command = (
    OrderShipped
    | RefundRecorded
    | CreditGranted
    | ReturnRequested
    | ReturnReceived
    | ReturnInspected
    | TimerFired
)


@dataclass
class _Decision:
    """The events decided so far and the state after them; lives for one call of `decide`."""

    state: OrderReturns
    now: datetime
    policy: Policy
    events: list[Event] = field(default_factory=list)

    def add(self, event: Event) -> OrderReturns:
        self.events.append(event)
        after = evolve(self.state, event)
        assert after is not None
        self.state = after
        return after


def decide(
    command: Command, state: OrderReturns | None, *, now: datetime, policy: Policy
) -> tuple[Event, ...]:
    """Answer one message or timer of one order with its events.

    Raises Rejected: `return.bad_quantity` for a line without a positive quantity, or no line at all.
    """
    match command:
        case TimerFired():
            assert state is not None, "a timer belongs to a state"
            if command.name == RETIRE:
                return _retire(state, now=now, policy=policy)
            decision = _Decision(state, now, policy)
            _expire(decision, command.name)
        case OrderShipped():
            decision = _Decision(state or initial_state(command.order_id), now, policy)
            _ship(decision, command)
        case CreditGranted():
            decision = _Decision(state or initial_state(command.order_id), now, policy)
            _credit_by_channel(decision, command)
        case RefundRecorded():
            decision = _Decision(state or initial_state(command.order_id), now, policy)
            _refund_by_channel(decision, command)
        case ReturnRequested() | ReturnReceived() | ReturnInspected():
            decision = _Decision(state or initial_state(command.order_id), now, policy)
            _check_quantities(command)
            _take(decision, command)
        case _:
            assert_never(command)
    if RETIRE not in decision.state.timers and not all(
        isinstance(event, Ignored) for event in decision.events
    ):
        decision.add(DeadlineSet(name=RETIRE, due=now + policy.retention))
    return tuple(decision.events)


def _check_quantities(command: WaitingInput) -> None:
    if not command.lines or any(line.units <= 0 for line in command.lines):
        raise Rejected("return.bad_quantity", f"return {command.rma_id} needs lines of positive quantities")


def _take(decision: _Decision, command: WaitingInput) -> None:
    """One input of the return itself, new or resumed."""
    if waiting_name(command) in decision.state.timers:
        decision.add(Ignored("return.duplicate", f"{waiting_name(command)} already waits"))
        return
    if not _unknown_lines(decision.state, command.lines):
        command = _taken_apart(decision.state, command)
    match command:
        case ReturnRequested():
            _request(decision, command)
        case ReturnReceived():
            _receive(decision, command)
        case ReturnInspected():
            _inspect(decision, command)


def _taken_apart(state: OrderReturns, command: WaitingInput) -> WaitingInput:
    """The input in our own lines: a kit's channel line is its components that shipped. Every line is known."""
    if isinstance(command, ReturnInspected):
        graded = tuple(
            replace(line, line_id=part.line_id, units=base_units(part, line.line_id, line.units))
            for line in command.lines
            for part in components(state, line.line_id)
        )
        return replace(command, lines=graded)
    lines = tuple(
        replace(line, line_id=part.line_id, units=base_units(part, line.line_id, line.units))
        for line in command.lines
        for part in components(state, line.line_id)
    )
    return replace(command, lines=lines)


def _ship(decision: _Decision, shipment: OrderShipped) -> None:
    if any(lot.shipment_id == shipment.shipment_id for line in decision.state.lines for lot in line.lots):
        decision.add(Ignored("return.duplicate", f"shipment {shipment.shipment_id} is known"))
        return
    decision.add(ShipmentLearned(shipment))
    decision.add(DeadlineSet(name=RETIRE, due=decision.now + decision.policy.retention))
    for waiting in waiting_inputs(decision.state):
        if isinstance(waiting, ReturnRequested) or not _unknown_lines(decision.state, waiting.lines):
            decision.add(InputResumed(waiting_name(waiting)))
            _take(decision, waiting)
    for rma in decision.state.rmas:
        if any(line.owed for line in rma.lines):
            propose_credits(
                decision.state, rma.rma_id, step=shipment.shipment_id, store_refund=None, apply=decision.add
            )


def _request(decision: _Decision, request: ReturnRequested) -> None:
    state, policy = decision.state, decision.policy
    if find_rma(state, request.rma_id) is not None:
        decision.add(Ignored("return.duplicate", f"return {request.rma_id} is known"))
        return
    if not state.lines:
        decision.add(InputDeferred(waiting=request, deadline=decision.now + policy.unknown_order))
        return
    lines = _merged(request.lines)
    refusal = _refusal(state, lines, requested_at=request.requested_at, policy=policy)
    if refusal is not None:
        decision.add(_declined(request.order_id, request.rma_id, refusal))
        return
    decision.add(_authorized(decision, request.rma_id, lines))
    expected = []
    for line in lines:
        known = find_line(state, line.line_id)
        assert known is not None
        expected.append(WarehouseLine(line_id=line.line_id, sku=known.sku, units=line.units))
    decision.add(
        ReturnExpected(
            order_id=request.order_id,
            rma_id=request.rma_id,
            location=request.location,
            lines=tuple(expected),
        )
    )


def _refusal(
    state: OrderReturns, lines: tuple[ReturnLine, ...], *, requested_at: datetime, policy: Policy
) -> str | None:
    """Why the request cannot be granted, None when it can. The window runs from the line's last shipment."""
    for line in lines:
        known = find_line(state, line.line_id)
        if known is None:
            return UNKNOWN_LINE
        if requested_at > max(lot.shipped_at for lot in known.lots) + policy.window:
            return WINDOW_CLOSED
        if line.units > returnable_units(state, line.line_id):
            return MORE_THAN_SHIPPED
    return None


def _receive(decision: _Decision, receipt: ReturnReceived) -> None:
    rma = find_rma(decision.state, receipt.rma_id)
    if rma is not None and receipt.receipt_id in rma.receipt_ids:
        decision.add(Ignored("return.duplicate", f"receipt {receipt.receipt_id} is known"))
        return
    if _unknown_lines(decision.state, receipt.lines):
        deadline = decision.now + decision.policy.unknown_order
        decision.add(InputDeferred(waiting=receipt, deadline=deadline))
        return
    lines = _merged(receipt.lines)
    _admit(decision, receipt.rma_id, lines)
    decision.add(GoodsReceived(rma_id=receipt.rma_id, receipt_id=receipt.receipt_id, lines=lines))
    _await_next_step(decision, receipt.rma_id)
    _close_when_settled(decision, receipt.rma_id)


def _inspect(decision: _Decision, inspection: ReturnInspected) -> None:
    rma = find_rma(decision.state, inspection.rma_id)
    if rma is not None and inspection.inspection_id in rma.inspection_ids:
        decision.add(Ignored("return.duplicate", f"inspection {inspection.inspection_id} is known"))
        return
    if _unknown_lines(decision.state, inspection.lines):
        deadline = decision.now + decision.policy.unknown_order
        decision.add(InputDeferred(waiting=inspection, deadline=deadline))
        return
    units: dict[LineId, int] = {}
    for line in inspection.lines:
        units[line.line_id] = units.get(line.line_id, 0) + line.units
    _admit(
        decision,
        inspection.rma_id,
        tuple(ReturnLine(line_id=line_id, units=count) for line_id, count in units.items()),
    )
    opened = find_rma(decision.state, inspection.rma_id)
    assert opened is not None
    decision.add(
        GoodsInspected(
            rma_id=inspection.rma_id,
            inspection_id=inspection.inspection_id,
            units=tuple(units.items()),
            creditable=opened.status is not RmaStatus.DECLINED,
        )
    )
    _restock(decision, inspection)
    propose_credits(
        decision.state,
        inspection.rma_id,
        step=inspection.inspection_id,
        store_refund=inspection.tender_refunded,
        apply=decision.add,
    )
    _await_next_step(decision, inspection.rma_id)
    _close_when_settled(decision, inspection.rma_id)


def _admit(decision: _Decision, rma_id: str, lines: tuple[ReturnLine, ...]) -> None:
    """Make sure that goods that are here have a return: a blind one is authorised as far as units are left.

    A return that was declined for any other reason than its lateness is authorised now that its goods came; a
    late one stays declined: its goods are restocked, not credited.
    """
    rma = find_rma(decision.state, rma_id)
    if rma is not None and (rma.status is not RmaStatus.DECLINED or rma.reason_code == WINDOW_CLOSED):
        return
    allowed = []
    for line in lines:
        units = min(line.units, returnable_units(decision.state, line.line_id))
        if units > 0:
            allowed.append(replace(line, units=units))
    if allowed:
        decision.add(_authorized(decision, rma_id, tuple(allowed)))
    else:
        decision.add(BlindReturnOpened(rma_id))


def _restock(decision: _Decision, inspection: ReturnInspected) -> None:
    graded: dict[tuple[LineId, Grade], int] = {}
    for line in inspection.lines:
        graded[line.line_id, line.grade] = graded.get((line.line_id, line.grade), 0) + line.units
    for (line_id, grade), units in graded.items():
        known = find_line(decision.state, line_id)
        assert known is not None
        decision.add(
            RestockReturn(
                sku=known.sku,
                order_id=inspection.order_id,
                rma_id=inspection.rma_id,
                line_id=line_id,
                location=inspection.location,
                units=units,
                bucket=Bucket.ON_HAND if grade is Grade.SELLABLE else Bucket.DAMAGED,
                ref=f"{inspection.rma_id}/{inspection.inspection_id}/{line_id}/{grade}",
                occurred_at=inspection.inspected_at,
            )
        )


def _await_next_step(decision: _Decision, rma_id: str) -> None:
    """An open return always has a deadline; goods that are here get at least the time of an inspection."""
    rma = find_rma(decision.state, rma_id)
    assert rma is not None
    if rma.status is not RmaStatus.OPEN:
        return
    name, due = expiry_name(rma_id), decision.now + decision.policy.inspection
    if name not in decision.state.timers or decision.state.timers[name] < due:
        decision.add(DeadlineSet(name=name, due=due))


def _close_when_settled(decision: _Decision, rma_id: str) -> None:
    rma = find_rma(decision.state, rma_id)
    assert rma is not None
    if rma.status is RmaStatus.OPEN and is_settled(rma):
        _close(decision, rma, outcome="completed")


def _close(decision: _Decision, rma: Rma, *, outcome: str) -> None:
    decision.add(
        ReturnClosed(
            order_id=decision.state.order_id,
            rma_id=rma.rma_id,
            outcome=outcome,
            returned_units=sum(max(line.received, line.inspected) for line in rma.lines),
        )
    )
    decision.add(DeadlineSet(name=RETIRE, due=decision.now + decision.policy.retention))


def _credit_by_channel(decision: _Decision, credit: CreditGranted) -> None:
    if (
        credit.origin is not Origin.CHANNEL
        or not credit.invoiced
        or not any(line.units > 0 for line in credit.lines)
    ):
        decision.add(Ignored("return.not_concerned", "not a credit of the channel for shipped units"))
        return
    known = channel_credit(decision.state, credit.credit_id)
    if known is not None and known.lines:
        decision.add(Ignored("return.duplicate", f"credit {credit.credit_id} is known"))
        return
    decision.add(ChannelCredited(credit))


def _refund_by_channel(decision: _Decision, refund: RefundRecorded) -> None:
    if refund.origin is not Origin.CHANNEL or refund.credit_id is None:
        decision.add(Ignored("return.not_concerned", "not a refund of the channel for a credit"))
        return
    known = channel_credit(decision.state, refund.credit_id)
    if known is not None and known.refund_id is not None:
        decision.add(Ignored("return.duplicate", f"credit {refund.credit_id} has its refund"))
        return
    decision.add(
        ChannelRefunded(order_id=refund.order_id, credit_id=refund.credit_id, refund_id=refund.refund_id)
    )


def _expire(decision: _Decision, name: str) -> None:
    """The deadline of an open return, or of a deferred input."""
    waiting = next((w for w in waiting_inputs(decision.state) if waiting_name(w) == name), None)
    if waiting is not None:
        _give_up(decision, waiting)
        return
    rma = next(rma for rma in decision.state.rmas if expiry_name(rma.rma_id) == name)
    _close(decision, rma, outcome="expired")


def _give_up(decision: _Decision, waiting: WaitingInput) -> None:
    """Nothing shipped that the input speaks of: say so, and take what is known of it."""
    decision.add(InputResumed(waiting_name(waiting)))
    state = decision.state
    if not state.lines:
        decision.add(_declined(waiting.order_id, waiting.rma_id, UNKNOWN_ORDER))
        return
    unknown = _unknown_lines(state, waiting.lines)
    if isinstance(waiting, ReturnReceived):
        known = tuple(line for line in waiting.lines if line.line_id not in unknown)
        if known:
            _take(decision, replace(waiting, lines=known))
    elif isinstance(waiting, ReturnInspected):
        found = tuple(line for line in waiting.lines if line.line_id not in unknown)
        if found:
            _take(decision, replace(waiting, lines=found))
    decision.add(_declined(waiting.order_id, waiting.rma_id, UNKNOWN_LINE))


def _retire(state: OrderReturns, *, now: datetime, policy: Policy) -> tuple[Event, ...]:
    if any(name != RETIRE for name in state.timers):
        return (DeadlineSet(name=RETIRE, due=now + policy.retention),)
    return (OrderForgotten(),)


def _authorized(decision: _Decision, rma_id: str, lines: tuple[ReturnLine, ...]) -> ReturnAuthorized:
    return ReturnAuthorized(
        order_id=decision.state.order_id,
        rma_id=rma_id,
        channel=decision.state.channel,
        external_id=decision.state.external_id,
        lines=lines,
        channel_lines=in_channel_units(decision.state, lines),
        expires_at=decision.now + decision.policy.validity,
    )


def _declined(order_id: OrderId, rma_id: str, reason_code: str) -> ReturnDeclined:
    return ReturnDeclined(order_id=order_id, rma_id=rma_id, reason_code=reason_code)


def _unknown_lines(state: OrderReturns, lines: Iterable[ReturnLine | InspectedLine]) -> frozenset[LineId]:
    return frozenset(line.line_id for line in lines if not components(state, line.line_id))


def _merged(lines: tuple[ReturnLine, ...]) -> tuple[ReturnLine, ...]:
    """One entry a line: quantities add up, the first reason stands."""
    merged: dict[LineId, ReturnLine] = {}
    for line in lines:
        known = merged.get(line.line_id)
        merged[line.line_id] = line if known is None else replace(known, units=known.units + line.units)
    return tuple(merged.values())
