"""`evolve(state, event) -> state`: how every event, published or private, changes an order. Called by the shell and by decisions.

Never refuses: an event is a fact. The asserts repeat what the decisions have checked.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, assert_never

from crossdock_canonical.decider import Ignored
from crossdock_canonical.records import (
    CancelFulfillment,
    CapturePayment,
    ConsumeStock,
    CreditGranted,
    LineUnits,
    OrderAmended,
    OrderCancelled,
    OrderCompleted,
    OrderHeld,
    OrderReceived,
    OrderRejected,
    OrderReleased,
    OrderShipped,
    Origin,
    PaymentKind,
    PaymentRecorded,
    RefundPayment,
    RefundRecorded,
    ReleaseStock,
    ReserveStock,
    TenderState,
    VoidPayment,
)
from crossdock_order_orchestrator.ledger import refundable_minor
from crossdock_order_orchestrator.model import (
    ANSWER_TIMER,
    AUTHORIZATION_TIMER,
    AWAIT_TIMER,
    CANCEL_REFUSED,
    CREDIT_SHORT,
    FORGET_TIMER,
    FRAUD_REVIEW,
    HOLD,
    PAYMENT_UNANSWERED,
    REFUND_FAILED,
    REFUND_TIMER,
    SEEN_MAX,
    UNKNOWN_ORDER,
    VOID_FAILED,
    AskedAgain,
    CancelAnswered,
    CancelRecorded,
    CreditMatched,
    DeadlineMoved,
    Event,
    Forgotten,
    FraudCleared,
    InputKept,
    MovementStarted,
    OrderClosed,
    OrderRevised,
    OrderTaken,
    PaymentFailed,
    RefundClaimed,
    RefundDeferred,
    RefundedUnitsShipped,
    RefundOwed,
    Remembered,
    State,
    StockAnswered,
    TenderLapsed,
    TenderNoted,
    UnitsCancelled,
    UnitsReturned,
    live_minor,
    open_units,
    refunded_units_left,
)
from crossdock_order_orchestrator.state_records import (
    AwaitedOrderState,
    FraudState,
    Line,
    Movement,
    MovementKind,
    MovementStatus,
    OrderState,
    OwedRefund,
    PendingCancel,
    TenderBooks,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from crossdock_canonical.identity import LineId

# How far a payment has come; a late report never takes it back.
TENDER_RANK = {
    TenderState.PENDING: 0,
    TenderState.AUTHORIZED: 1,
    TenderState.MARKETPLACE: 2,
    TenderState.CAPTURED: 2,
    TenderState.VOIDED: 3,
    TenderState.REFUNDED: 3,
}
# What may still be due when an order has closed.
_TIMERS_AFTER_CLOSING = (
    HOLD + REFUND_FAILED,
    HOLD + VOID_FAILED,
    HOLD + PAYMENT_UNANSWERED,
    HOLD + CREDIT_SHORT,
    HOLD + CANCEL_REFUSED,
    REFUND_TIMER,
)


def evolve(state: State | None, event: Event) -> State | None:
    """The state after the event; None when nothing is to be remembered."""
    match event:
        case Ignored():
            return state
        case Forgotten():
            return None
        case OrderTaken():
            return event.order
        case InputKept():
            return _keep_input(state, event)
        case _:
            pass
    if isinstance(state, AwaitedOrderState):
        return _evolve_awaited(state, event)
    assert state is not None, f"{type(event).__name__} without an order"
    return _evolve_order(state, event)


def _keep_input(state: State | None, event: InputKept) -> State:
    assert not isinstance(state, OrderState)
    inputs = state.inputs if state is not None else ()
    timers = state.timers if state is not None else {AWAIT_TIMER: event.deadline}
    return AwaitedOrderState(order_id=event.order_id, inputs=(*inputs, event.input), timers=timers)


def _evolve_awaited(state: AwaitedOrderState, event: Event) -> AwaitedOrderState:
    assert isinstance(event, OrderHeld), event
    assert event.reason_code == UNKNOWN_ORDER
    return replace(state, timers={FORGET_TIMER: event.deadline})


def _evolve_order(order: OrderState, event: Event) -> OrderState:
    match event:
        case OrderReceived() | OrderAmended():
            return replace(order, version=event.version)
        case OrderRevised():
            return event.order
        case OrderReleased():
            released = {line.line_id: line.units for line in event.lines}
            return replace(order, releases=event.release, lines=_each(order.lines, released, _release))
        case OrderShipped():
            return _ship(order, event)
        case OrderHeld():
            held = _with_timer(order, HOLD + event.reason_code, event.deadline)
            if event.reason_code == FRAUD_REVIEW:
                return replace(held, fraud=FraudState.REVIEW)
            return held
        case PaymentRecorded():
            return _record_payment(order, event)
        case RefundRecorded():
            return _record_refund(order, event)
        case CreditGranted():
            return _credit(order, event)
        case ReserveStock():
            asked = {line.line_id: line.units for line in event.lines}
            return replace(
                order,
                slip_id=event.slip_id,
                slips=order.slips + 1,
                lines=_each(order.lines, asked, lambda line, units: replace(line, asked=units)),
            )
        case CancelFulfillment():
            return order
        case CancelRecorded():
            return replace(
                order, cancels=(*order.cancels, event.cancel), seen=_seen(order, event.cancel.cancel_id)
            )
        case ReleaseStock() | ConsumeStock() | CapturePayment() | VoidPayment() | RefundPayment():
            return order
        case OrderRejected() | OrderCancelled() | OrderCompleted():
            return order
        case TenderNoted():
            return _note_tender(order, event)
        case TenderLapsed():
            return _with_tender(order, event.reference, lambda t: replace(t, expired=t.expired + event.minor))
        case MovementStarted():
            return _start_movement(order, event)
        case PaymentFailed():
            return _with_movement_status(order, event.movement_id, MovementStatus.FAILED)
        case AskedAgain():
            return _ask_again(order, event)
        case RefundOwed():
            return replace(order, owed=(*order.owed, event.owed), seen=_seen(order, event.owed.credit_id))
        case RefundDeferred():
            return _with_timer(order, REFUND_TIMER, event.until)
        case StockAnswered():
            return _answer_stock(order, event)
        case UnitsReturned():
            return _return_units(order, event)
        case UnitsCancelled():
            return _cancel_units(order, event)
        case CancelAnswered():
            answered = dict(event.lines)
            lines = order.lines
            if event.refused:
                lines = _each(lines, answered, lambda line, u: replace(line, refused=line.refused + u))
            return replace(order, lines=lines, cancels=_without(order.cancels, event.cancel_id, answered))
        case FraudCleared():
            verdict = FraudState.REJECTED if event.rejected else FraudState.CLEARED
            cleared = _with_timer(order, HOLD + FRAUD_REVIEW, None)
            return replace(cleared, fraud=verdict, seen=_seen(order, event.decision_id))
        case CreditMatched():
            return _match_credit(order, event)
        case RefundClaimed():
            claims = {event.line_id: event.released}
            return replace(order, lines=_each(order.lines, claims, partial(_claim_refund, event)))
        case RefundedUnitsShipped():
            remains = {line_id: (units, amounts) for line_id, units, amounts in event.lines}
            return replace(
                order,
                lines=tuple(
                    replace(
                        line,
                        refunded=line.refunded - remains[line.line_id][0],
                        refunded_amounts=remains[line.line_id][1],
                    )
                    if line.line_id in remains
                    else line
                    for line in order.lines
                ),
                cancel_refunded_minor=order.cancel_refunded_minor - event.minor,
            )
        case Remembered():
            return replace(order, seen=_seen(order, event.subject_id))
        case DeadlineMoved():
            return _with_timer(order, event.name, event.due)
        case OrderClosed():
            kept = {
                name: due
                for name, due in order.timers.items()
                if name in _TIMERS_AFTER_CLOSING or name.startswith(ANSWER_TIMER)
            }
            # The recipient is personal data: gone with the last reason to keep it.
            return replace(
                order,
                stage=event.stage,
                delivery=None,
                # What the channel wanted cancelled and shipped is answered for after closing too.
                cancels=tuple(cancel for cancel in order.cancels if cancel.origin is Origin.CHANNEL),
                timers={**kept, FORGET_TIMER: event.forget_at},
            )
        case Ignored() | Forgotten() | OrderTaken() | InputKept():
            raise AssertionError(event)
        case _:
            assert_never(event)


def _each(
    lines: tuple[Line, ...], units: Mapping[LineId, int], change: Callable[[Line, int], Line]
) -> tuple[Line, ...]:
    """The lines with `change` applied to those that `units` names."""
    return tuple(change(line, units[line.line_id]) if line.line_id in units else line for line in lines)


def _seen(order: OrderState, subject_id: str) -> tuple[str, ...]:
    if subject_id in order.seen:
        return order.seen
    return (*order.seen, subject_id)[-SEEN_MAX:]


def _with_timer(order: OrderState, name: str, due: datetime | None) -> OrderState:
    timers = {other: time for other, time in order.timers.items() if other != name}
    if due is not None:
        timers[name] = due
    return replace(order, timers=timers)


def _release(line: Line, units: int) -> Line:
    assert units <= line.soft
    return replace(line, soft=line.soft - units, released=line.released + units)


def _ship(order: OrderState, event: OrderShipped) -> OrderState:
    shipped = {line.line_id: line for line in event.lines}

    def ship(line: Line) -> Line:
        part = shipped.get(line.line_id)
        if part is None:
            return line
        from_release = part.units if line.routed else 0
        from_soft = part.units - from_release
        assert from_release <= line.released
        assert from_soft <= line.soft
        return replace(
            line,
            released=line.released - from_release,
            soft=line.soft - from_soft,
            shipped=line.shipped + part.units,
            open_amounts=line.open_amounts - part.amounts,
            shipped_amounts=line.shipped_amounts + part.amounts,
        )

    return replace(
        order,
        lines=tuple(ship(line) for line in order.lines),
        charges_billed=True,
        seen=_seen(order, event.shipment_id),
    )


def _answer_stock(order: OrderState, event: StockAnswered) -> OrderState:
    answers = {line_id: (promised, queued) for line_id, promised, queued in event.lines}

    def answer(line: Line) -> Line:
        if line.line_id not in answers:
            return line
        promised, queued = answers[line.line_id]
        assert promised <= line.waiting
        waiting = line.waiting - promised
        if event.slip_id is None:  # the sku's queue was served
            known = min(promised, line.queued)
            early = promised - known if line.asked else 0
            return replace(
                line,
                waiting=waiting,
                soft=line.soft + promised,
                queued=line.queued - known,
                early=line.early + early,
            )
        return replace(
            line,
            waiting=waiting,
            soft=line.soft + promised,
            queued=queued,
            asked=0,
            early=0,
        )

    slip_id = order.slip_id if event.slip_id is None else None
    return replace(order, slip_id=slip_id, lines=tuple(answer(line) for line in order.lines))


def _return_units(order: OrderState, event: UnitsReturned) -> OrderState:
    def give_back(line: Line, units: int) -> Line:
        if event.from_fulfillment:
            return replace(line, released=line.released - units, waiting=line.waiting + units)
        return replace(line, soft=line.soft - units, waiting=line.waiting + units)

    return replace(
        order,
        lines=_each(order.lines, dict(event.lines), give_back),
        reroutes=order.reroutes + int(event.from_fulfillment),
        seen=_seen(order, event.attempt_id),
    )


def _match_credit(order: OrderState, event: CreditMatched) -> OrderState:
    def match(line: Line, units: int) -> Line:
        withdrawn = line.withdrawn - units if event.withdrawn else line.withdrawn
        return replace(line, unclaimed=line.unclaimed - units, withdrawn=withdrawn)

    return replace(
        order,
        lines=_each(order.lines, dict(event.lines), match),
        cancel_refunded_minor=order.cancel_refunded_minor + event.unshipped_minor,
        seen=_seen(order, event.credit_id),
    )


def _claim_refund(event: RefundClaimed, line: Line, units: int) -> Line:
    line = replace(line, withdrawn=line.withdrawn - event.withdrawn)
    if units == 0:
        return line
    worth = event.amounts if line.refunded_amounts is None else line.refunded_amounts + event.amounts
    return replace(line, refunded=line.refunded + units, refunded_amounts=worth)


def _cancel_units(order: OrderState, event: UnitsCancelled) -> OrderState:
    cancelled = {line.line_id: line for line in event.lines}

    def cancel(line: Line) -> Line:
        part = cancelled.get(line.line_id)
        if part is None:
            return line
        assert part.units <= open_units(line)
        refunded = refunded_units_left(line, part.released, withdrawn=event.withdrawn)
        paid_back = line.refunded - refunded
        worth = line.refunded_amounts
        if worth is not None and paid_back:
            worth = worth.split([refunded, paid_back])[0]
        unpaid = part.released - paid_back + (0 if event.refunded else part.units - part.released)
        return replace(
            line,
            cancelled=line.cancelled + part.units,
            withdrawn=line.withdrawn + (unpaid if event.withdrawn else 0),
            refunded=refunded,
            refunded_amounts=worth,
            waiting=line.waiting - part.unasked - part.queued,
            queued=line.queued - part.queued,
            soft=line.soft - part.soft,
            released=line.released - part.released,
            open_amounts=part.open_amounts,
        )

    return replace(
        order, lines=tuple(cancel(line) for line in order.lines), seen=_seen(order, event.cancel_id)
    )


def _without(
    cancels: Iterable[PendingCancel], cancel_id: str, answered: Mapping[LineId, int]
) -> tuple[PendingCancel, ...]:
    kept = []
    for cancel in cancels:
        if cancel.cancel_id == cancel_id:
            lines = tuple(
                LineUnits(line_id=line.line_id, units=line.units - answered.get(line.line_id, 0))
                for line in cancel.lines
                if line.units > answered.get(line.line_id, 0)
            )
            if not lines:
                continue
            cancel = replace(cancel, lines=lines)
        kept.append(cancel)
    return tuple(kept)


def _with_tender(
    order: OrderState, reference: str, change: Callable[[TenderBooks], TenderBooks]
) -> OrderState:
    tenders = tuple(change(tender) if tender.reference == reference else tender for tender in order.tenders)
    return replace(order, tenders=tenders)


def _note_tender(order: OrderState, event: TenderNoted) -> OrderState:
    if all(tender.reference != event.reference for tender in order.tenders):
        tender = TenderBooks(reference=event.reference, state=event.state, promised=event.promised_minor)
        order = replace(order, tenders=(*order.tenders, tender))
    else:

        def advance(tender: TenderBooks) -> TenderBooks:
            later = TENDER_RANK[event.state] > TENDER_RANK[tender.state]
            return replace(
                tender,
                state=event.state if later else tender.state,
                promised=max(tender.promised, event.promised_minor),
            )

        order = _with_tender(order, event.reference, advance)
    if event.expires_at is None:
        return order
    return _with_timer(order, AUTHORIZATION_TIMER + event.reference, event.expires_at)


def _start_movement(order: OrderState, event: MovementStarted) -> OrderState:
    if event.replaces is not None:
        order = _with_movement_status(order, event.replaces, MovementStatus.REPLACED)
        owed = order.owed
    else:
        owed = _less_owed(order.owed, event.movement)
    order = replace(order, movements=(*order.movements, event.movement), owed=owed)
    return _with_timer(order, ANSWER_TIMER + event.movement.movement_id, event.answer_by)


def _ask_again(order: OrderState, event: AskedAgain) -> OrderState:
    movements = tuple(
        replace(movement, asked=movement.asked + 1) if movement.movement_id == event.movement_id else movement
        for movement in order.movements
    )
    return _with_timer(replace(order, movements=movements), ANSWER_TIMER + event.movement_id, event.answer_by)


def _less_owed(owed: tuple[OwedRefund, ...], movement: Movement) -> tuple[OwedRefund, ...]:
    if movement.kind is not MovementKind.REFUND:
        return owed
    rest = (
        replace(each, minor=each.minor - movement.minor) if each.credit_id == movement.credit_id else each
        for each in owed
    )
    return tuple(each for each in rest if each.minor > 0)


def _with_movement_status(order: OrderState, movement_id: str, status: MovementStatus) -> OrderState:
    def change(movement: Movement) -> Movement:
        return replace(movement, status=status) if movement.movement_id == movement_id else movement

    answered = replace(order, movements=tuple(change(movement) for movement in order.movements))
    if ANSWER_TIMER + movement_id not in order.timers:
        return answered
    return _with_timer(answered, ANSWER_TIMER + movement_id, None)


def _record_payment(order: OrderState, event: PaymentRecorded) -> OrderState:
    minor = event.amount.minor
    if event.kind is PaymentKind.CHARGED_BACK:
        return replace(
            order,
            charged_back_minor=order.charged_back_minor + minor,
            seen=_seen(order, event.payment_id),
        )
    movement = next((m for m in order.movements if m.movement_id == event.payment_id), None)
    reference = movement.tender_reference if movement is not None else event.reference

    def record(tender: TenderBooks) -> TenderBooks:
        if event.kind is PaymentKind.AUTHORIZED:
            return replace(tender, authorized=tender.authorized + minor)
        # A provider may take more than we knew to be authorised; the ledger then learns of the authorisation from it.
        unknown = max(0, minor - live_minor(tender))
        tender = replace(tender, authorized=tender.authorized + unknown)
        if event.kind is PaymentKind.CAPTURED:
            return replace(tender, captured=tender.captured + minor)
        return replace(tender, voided=tender.voided + minor)

    order = _with_tender(order, reference, record)
    if movement is None:
        return order
    return _with_movement_status(order, movement.movement_id, MovementStatus.DONE)


def _record_refund(order: OrderState, event: RefundRecorded) -> OrderState:
    """Money of ours goes to the payment it was asked of; anybody else's to whatever is still refundable, in order."""
    movement = next((m for m in order.movements if m.movement_id == event.refund_id), None)
    if movement is not None:
        refunded = _with_movement_status(order, movement.movement_id, MovementStatus.DONE)
        return _with_tender(
            refunded,
            movement.tender_reference,
            lambda tender: replace(tender, refunded=tender.refunded + event.amount.minor),
        )
    left = event.amount.minor - event.over_refund_minor
    tenders = []
    for tender in order.tenders:
        part = min(left, refundable_minor(order, tender))
        left -= part
        tenders.append(replace(tender, refunded=tender.refunded + part))
    return replace(
        order,
        tenders=tuple(tenders),
        over_refunded_minor=order.over_refunded_minor + event.over_refund_minor + left,
        seen=_seen(order, event.refund_id),
    )


def _credit(order: OrderState, event: CreditGranted) -> OrderState:
    seen = _seen(order, event.credit_id)
    if not event.invoiced:
        refunded = order.cancel_refunded_minor + event.total.minor
        return replace(order, cancel_refunded_minor=refunded, seen=seen)
    credited = {line.line_id: line.units for line in event.lines}
    by_channel = event.origin is Origin.CHANNEL

    def credit(line: Line, units: int) -> Line:
        return replace(
            line,
            credited=line.credited + units,
            unclaimed=line.unclaimed + (units if by_channel else 0),
        )

    return replace(
        order,
        lines=_each(order.lines, credited, credit),
        credited_minor=order.credited_minor + event.total.minor,
        seen=seen,
    )
