"""`decide(command, state, *, now, policy, items)`: the orchestrator's answer to every input. The shell calls it.

Every input first records what it says; then the order takes whatever steps are due (`progress.advance`). So the same facts
lead to the same next steps in whatever order they came. What comes before its order waits in `AwaitedOrderState`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from crossdock_canonical.decider import Ignored, Rejected, TimerFired
from crossdock_canonical.identity import LocationId
from crossdock_canonical.records import (
    CancelRefused,
    CancelRequested,
    ChannelOrderReceived,
    ChannelRefundReceived,
    ChargedBack,
    CreditProposed,
    FraudDecided,
    FraudVerdict,
    FulfillmentCancelled,
    IntakeKind,
    LinesUnfillable,
    OrderHeld,
    Origin,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentDeclined,
    PaymentRefunded,
    PaymentVoided,
    PickupReady,
    RefundFailed,
    ReservationExpired,
    ReservationFailed,
    ShipmentDispatched,
    StockReserved,
)
from crossdock_order_orchestrator.cancelling import (
    cancel,
    everything_open,
    on_cancel_refused,
    on_cancel_requested,
    on_fulfillment_cancelled,
    on_lines_unfillable,
    reject_order,
)
from crossdock_order_orchestrator.credits import (
    credit_refunded_shipment,
    on_channel_refund,
    on_credit_proposed,
)
from crossdock_order_orchestrator.decision import Decision
from crossdock_order_orchestrator.early import Early, keep, recall
from crossdock_order_orchestrator.intake import cancel_by_channel, merge, take
from crossdock_order_orchestrator.model import (
    ANSWER_TIMER,
    AUTHORIZATION_TIMER,
    AWAIT_TIMER,
    BACKORDERED,
    CANCELLED_BY_US,
    CAPTURE_DECLINED,
    EARLY_INPUTS_MAX,
    FORGET_TIMER,
    FRAUD_REJECTED,
    FRAUD_REVIEW,
    HOLD,
    OUT_OF_STOCK,
    OVERDUE,
    OWNERS,
    PAYMENT_UNANSWERED,
    PENDING,
    REFUND_FAILED,
    UNKNOWN_ORDER,
    UNPAID,
    VOID_FAILED,
    Forgotten,
    FraudCleared,
    InputKept,
    is_started,
    is_till_sale,
)
from crossdock_order_orchestrator.payments import (
    ask_again,
    ask_all_again,
    on_authorization_lapsed,
    on_authorized,
    on_captured,
    on_charged_back,
    on_declined,
    on_refund_failed,
    on_refunded,
    on_voided,
    retry,
)
from crossdock_order_orchestrator.progress import (
    advance,
    on_dispatched,
    on_pickup_ready,
    sell_over_the_counter,
)
from crossdock_order_orchestrator.state_records import (
    AwaitedOrderState,
    FraudState,
    MovementKind,
    OrderState,
    Stage,
)
from crossdock_order_orchestrator.stock import (
    on_reservation_expired,
    on_reservation_failed,
    on_stock_reserved,
)

if TYPE_CHECKING:
    from datetime import datetime

    from crossdock_canonical.decider import Lookup
    from crossdock_canonical.records import ItemMapped
    from crossdock_order_orchestrator.model import Event, Policy, State

Command = (
    ChannelOrderReceived
    | ChannelRefundReceived
    | FraudDecided
    | CancelRequested
    | StockReserved
    | ReservationFailed
    | ReservationExpired
    | ShipmentDispatched
    | PickupReady
    | FulfillmentCancelled
    | CancelRefused
    | LinesUnfillable
    | PaymentAuthorized
    | PaymentCaptured
    | PaymentVoided
    | PaymentDeclined
    | PaymentRefunded
    | RefundFailed
    | ChargedBack
    | CreditProposed
    | TimerFired
)


def decide(
    command: Command, state: State | None, *, now: datetime, policy: Policy, items: Lookup[ItemMapped]
) -> tuple[Event, ...]:
    """Events that answer the command. Raises Rejected when the message can never succeed as it is."""
    decision = Decision(state, now=now, policy=policy)
    if isinstance(state, OrderState):
        _on_order(decision, command, items)
    elif isinstance(command, TimerFired):
        assert state is not None, f"timer {command.name} of no order"
        _on_awaited_timer(decision, state, command)
    elif isinstance(command, ChannelOrderReceived) and command.kind is not IntakeKind.CANCEL:
        _on_first_message(decision, command, items)
    elif isinstance(command, Early):
        _keep(decision, command)
    else:
        decision.emit(Ignored("order.unknown", f"{type(command).__name__} of an order that is not here"))
    return tuple(decision.events)


def _on_first_message(decision: Decision, command: ChannelOrderReceived, items: Lookup[ItemMapped]) -> None:
    waiting = decision.state.inputs if isinstance(decision.state, AwaitedOrderState) else ()
    take(decision, command, items)
    if command.kind is IntakeKind.POS_SALE:
        location = LocationId(command.pickup_location or command.shop)
        sell_over_the_counter(decision, command.store_movement_ref, location)
    refused: set[str] = set()
    for kept in waiting:
        try:
            _apply(decision, recall(command.order_id, kept), items)
        except Rejected as rejected:
            refused.add(rejected.code)
    # They were accepted when they came; a person has to look at them now, and the order must not wait for that.
    for code in sorted(refused):
        decision.hold(code, decision.policy.exception_deadline)
    advance(decision)


def _keep(decision: Decision, command: Early) -> None:
    """Nothing is known of the order: let the input wait for it."""
    kept = keep(command)
    waiting = decision.state.inputs if isinstance(decision.state, AwaitedOrderState) else ()
    if any((other.kind, other.input_id) == (kept.kind, kept.input_id) for other in waiting):
        decision.emit(Ignored("order.duplicate", f"{kept.kind} {kept.input_id} waits for its order already"))
        return
    if len(waiting) >= EARLY_INPUTS_MAX:
        raise Rejected(
            "order.too_many_early_inputs", f"{len(waiting)} inputs wait for order {command.order_id}"
        )
    deadline = decision.now + decision.policy.early_deadline
    decision.emit(InputKept(order_id=command.order_id, input=kept, deadline=deadline))


def _on_awaited_timer(decision: Decision, state: AwaitedOrderState, timer: TimerFired) -> None:
    """The order did not come in time: it becomes somebody's exception, and is given up after the retention."""
    if timer.name == AWAIT_TIMER:
        decision.emit(
            OrderHeld(
                order_id=state.order_id,
                reason_code=UNKNOWN_ORDER,
                deadline=decision.now + decision.policy.retention,
                owner=OWNERS[UNKNOWN_ORDER],
            )
        )
    else:
        decision.emit(Forgotten())


def _on_order(decision: Decision, command: Command, items: Lookup[ItemMapped]) -> None:
    shipment_id = _apply(decision, command, items)
    # An input that changed nothing leads to no step; what is due was taken when it became due.
    if decision.state is not None and not all(isinstance(event, Ignored) for event in decision.events):
        advance(decision, shipment_id=shipment_id)


def _apply(decision: Decision, command: Command, items: Lookup[ItemMapped]) -> str | None:
    """Record what the command says on an order that is here. Returns a shipment that was not known before."""
    match command:
        case ChannelOrderReceived():
            if command.kind is IntakeKind.CANCEL:
                cancel_by_channel(decision)
            else:
                merge(decision, command, items)
        case CancelRequested():
            on_cancel_requested(
                decision,
                request_id=command.request_id,
                reason_code=CANCELLED_BY_US,
                origin=Origin.US,
                lines=command.lines,
            )
        case ChannelRefundReceived():
            on_channel_refund(decision, command)
        case CreditProposed():
            on_credit_proposed(decision, command)
        case FraudDecided():
            _on_fraud_decided(decision, command)
        case StockReserved():
            on_stock_reserved(decision, command)
        case ReservationFailed():
            on_reservation_failed(decision, command)
        case ReservationExpired():
            on_reservation_expired(decision, command)
        case ShipmentDispatched():
            shipment_id = on_dispatched(decision, command)
            if shipment_id is not None:
                credit_refunded_shipment(decision, shipment_id)
            return shipment_id
        case PickupReady():
            on_pickup_ready(decision, command)
        case FulfillmentCancelled():
            on_fulfillment_cancelled(decision, command)
        case CancelRefused():
            on_cancel_refused(decision, command)
        case LinesUnfillable():
            on_lines_unfillable(decision, command)
        case PaymentAuthorized():
            on_authorized(decision, command)
        case PaymentCaptured():
            on_captured(decision, command)
        case PaymentVoided():
            on_voided(decision, command)
        case PaymentDeclined():
            on_declined(decision, command)
        case PaymentRefunded():
            on_refunded(decision, command)
        case RefundFailed():
            on_refund_failed(decision, command)
        case ChargedBack():
            on_charged_back(decision, command)
        case TimerFired():
            _on_timer(decision, command)
        case _:
            assert_never(command)
    return None


def _on_fraud_decided(decision: Decision, command: FraudDecided) -> None:
    if command.decision_id in decision.order.seen:
        decision.emit(Ignored("order.duplicate", f"decision {command.decision_id}"))
        return
    rejected = command.verdict is FraudVerdict.REJECT
    if decision.order.fraud is FraudState.REJECTED or is_till_sale(decision.order):
        decision.emit(Ignored("order.already_decided", f"decision {command.decision_id}"))
        return
    decision.emit(FraudCleared(decision_id=command.decision_id, rejected=rejected))
    if rejected:
        _reject_for_fraud(decision, command.reason)


def _reject_for_fraud(decision: Decision, reason: str) -> None:
    """Nothing ships if nothing has started; else what can still be stopped is."""
    order = decision.order
    if order.stage is not Stage.OPEN:
        return
    if not is_started(order):
        reject_order(decision, FRAUD_REJECTED, reason)
        return
    cancel(
        decision,
        cancel_id=f"{order.order_id}/cancel/fraud",
        reason_code=FRAUD_REJECTED,
        origin=Origin.US,
        units=everything_open(order),
    )


def _on_timer(decision: Decision, timer: TimerFired) -> None:
    """A deadline of a known order. Whatever it decides, the timer is gone or moved afterwards."""
    policy = decision.policy
    order = decision.order
    if timer.name == FORGET_TIMER:
        decision.emit(Forgotten())
        return
    if timer.name.startswith(AUTHORIZATION_TIMER):
        on_authorization_lapsed(decision, timer.name.removeprefix(AUTHORIZATION_TIMER))
        return
    if timer.name.startswith(ANSWER_TIMER):
        ask_again(decision, timer.name.removeprefix(ANSWER_TIMER))
        return
    reason_code = timer.name.removeprefix(HOLD)
    match reason_code:
        case _ if reason_code in (CAPTURE_DECLINED, REFUND_FAILED, VOID_FAILED):
            retry(decision, _RETRIED[reason_code])
        case _ if reason_code == PAYMENT_UNANSWERED:
            ask_all_again(decision)
        case _ if reason_code == OVERDUE:
            decision.hold_again(OVERDUE, policy.overdue_after)
        case _ if reason_code in (UNPAID, PENDING):
            decision.drop_timer(timer.name)
            reject_order(decision, UNPAID, f"not paid by {timer.due.isoformat()}")
        case _ if reason_code == FRAUD_REVIEW:
            rejected = policy.fraud_verdict_at_deadline is FraudVerdict.REJECT
            decision.emit(FraudCleared(decision_id=f"deadline/{timer.due.isoformat()}", rejected=rejected))
            if rejected:
                _reject_for_fraud(decision, f"no decision by {timer.due.isoformat()}")
        case _ if reason_code == BACKORDERED:
            decision.drop_timer(timer.name)
            cancel(
                decision,
                cancel_id=f"{order.order_id}/cancel/backorder/{timer.due.isoformat()}",
                reason_code=OUT_OF_STOCK,
                origin=Origin.US,
                units={line.line_id: line.queued for line in order.lines if line.queued},
            )
        case _:
            decision.drop_timer(timer.name)


_RETRIED = {
    CAPTURE_DECLINED: MovementKind.CAPTURE,
    REFUND_FAILED: MovementKind.REFUND,
    VOID_FAILED: MovementKind.VOID,
}
