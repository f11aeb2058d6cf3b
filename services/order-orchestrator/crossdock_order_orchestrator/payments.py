"""The money of an order: what its payments are, what is taken for shipments, let go or sent back. Called by `decide` and its parts.

`settle` derives every movement from the ledger; handlers only record what the provider and the channel say.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from crossdock_canonical.decider import Ignored, Rejected
from crossdock_canonical.money import Money
from crossdock_canonical.records import (
    CapturePayment,
    CreditCause,
    CreditGranted,
    Origin,
    PaymentKind,
    PaymentRecorded,
    RefundPayment,
    RefundRecorded,
    Tender,
    TenderState,
    VoidPayment,
)
from crossdock_order_orchestrator.evolve import TENDER_RANK
from crossdock_order_orchestrator.ledger import (
    capturable_minor,
    overpaid_minor,
    refundable_minor,
    refundable_total_minor,
    uncaptured_minor,
    unsettled_minor,
)
from crossdock_order_orchestrator.model import (
    ANSWER_TIMER,
    AUTHORIZATION_TIMER,
    CAPTURE_DECLINED,
    CHARGED_BACK,
    CREDIT_SHORT,
    PAYMENT_SHORT,
    PAYMENT_UNANSWERED,
    REFUND_FAILED,
    REFUND_TIMER,
    VOID_FAILED,
    AskedAgain,
    MovementStarted,
    PaymentFailed,
    TenderLapsed,
    TenderNoted,
    is_till_sale,
    nothing_open,
)
from crossdock_order_orchestrator.state_records import (
    Movement,
    MovementKind,
    MovementStatus,
    Stage,
    TenderBooks,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crossdock_canonical.records import (
        ChargedBack,
        PaymentAuthorized,
        PaymentCaptured,
        PaymentDeclined,
        PaymentRefunded,
        PaymentVoided,
        RefundFailed,
    )
    from crossdock_order_orchestrator.decision import Decision
    from crossdock_order_orchestrator.state_records import OrderState

# The hold that stands while a movement of a kind waits for its next attempt.
FAILURE_HOLD = {
    MovementKind.CAPTURE: CAPTURE_DECLINED,
    MovementKind.VOID: VOID_FAILED,
    MovementKind.REFUND: REFUND_FAILED,
}


def merge_tenders(decision: Decision, tenders: Iterable[Tender]) -> None:
    """Record what a snapshot says about payments. Reports only ever add, so their order does not matter."""
    for tender in tenders:
        known = _tender(decision.order, tender.reference)
        minor = tender.amount.minor
        promised = minor if tender.state is TenderState.MARKETPLACE else 0
        advances = known is None or TENDER_RANK[tender.state] > TENDER_RANK[known.state]
        if advances or (known is not None and promised > known.promised):
            lapses = tender.state is TenderState.AUTHORIZED
            decision.emit(
                TenderNoted(
                    reference=tender.reference,
                    state=tender.state,
                    promised_minor=promised,
                    expires_at=decision.now + decision.policy.authorization_lifetime if lapses else None,
                )
            )
        _record_reported(decision, tender.reference, tender.state, minor)


def _record_reported(decision: Decision, reference: str, state: TenderState, minor: int) -> None:
    """Book the part of a reported payment that the ledger does not know yet."""
    tender = _tender(decision.order, reference)
    assert tender is not None
    match state:
        case TenderState.AUTHORIZED:
            # A late report of an authorisation that was let go since is history, not a new guarantee.
            gone = tender.state in (TenderState.VOIDED, TenderState.REFUNDED)
            if not gone and minor > tender.authorized:
                _record_from_channel(
                    decision, reference, PaymentKind.AUTHORIZED, minor - tender.authorized, tender.authorized
                )
        case TenderState.CAPTURED | TenderState.REFUNDED:
            # Once we capture it ourselves, the channel's word that it is captured is our own echo.
            ours = any(
                movement.kind is MovementKind.CAPTURE and movement.tender_reference == reference
                for movement in decision.order.movements
            )
            if not ours and not tender.promised and minor > tender.captured:
                _record_from_channel(
                    decision, reference, PaymentKind.CAPTURED, minor - tender.captured, tender.captured
                )
        case TenderState.VOIDED:
            # What we let go ourselves is answered by the provider; the channel's own doing is a fact.
            left = capturable_minor(decision.order, tender)
            if left > 0:
                _record_from_channel(decision, reference, PaymentKind.VOIDED, left, tender.voided)
        case TenderState.PENDING | TenderState.MARKETPLACE:
            pass
        case _:
            assert_never(state)


def _record_from_channel(
    decision: Decision, reference: str, kind: PaymentKind, minor: int, before: int
) -> None:
    # A payment that grows is recorded in parts, and each part needs an id of its own.
    payment_id = f"{reference}/{before + minor}" if before else reference
    by = Origin.STORE if is_till_sale(decision.order) else Origin.CHANNEL
    _record(decision, payment_id, kind, minor, origin=by, reference=reference)


def _record(
    decision: Decision, payment_id: str, kind: PaymentKind, minor: int, *, origin: Origin, reference: str
) -> None:
    order = decision.order
    decision.emit(
        PaymentRecorded(
            order_id=order.order_id,
            payment_id=payment_id,
            kind=kind,
            amount=Money(minor=minor, currency=order.source.currency),
            origin=origin,
            reference=reference,
            channel=order.source.channel,
            shop=order.source.shop,
        )
    )


def _tender(order: OrderState, reference: str) -> TenderBooks | None:
    return next((tender for tender in order.tenders if tender.reference == reference), None)


def settle(decision: Decision, *, capture_id: str | None = None) -> None:
    """Start what the ledger calls for: captures for what shipped, refunds of what was overpaid, voids of what is left."""
    _capture(decision, capture_id or f"{decision.order.order_id}/capture")
    _pay_owed(decision)
    if not any(_is_unanswered(decision, movement) for movement in decision.order.movements):
        decision.unhold(PAYMENT_UNANSWERED)
    if REFUND_TIMER not in decision.order.timers:
        overpaid = overpaid_minor(decision.order)
        if overpaid > 0:
            _refund_overpaid(decision, overpaid)
    order = decision.order
    if order.tenders and (order.stage is not Stage.OPEN or nothing_open(order)):
        if unsettled_minor(order, MovementKind.CAPTURE) or uncaptured_minor(order):
            return
        for tender in order.tenders:
            left = capturable_minor(order, tender)
            if left > 0:
                void_id = _free_id(order, f"{order.order_id}/void/{tender.reference}")
                _start(
                    decision,
                    Movement(
                        movement_id=void_id,
                        kind=MovementKind.VOID,
                        status=MovementStatus.PENDING,
                        tender_reference=tender.reference,
                        minor=left,
                    ),
                )


def _capture(decision: Decision, base_id: str) -> None:
    needed = uncaptured_minor(decision.order)
    if needed == 0:
        decision.unhold(PAYMENT_SHORT)
        return
    for tender in decision.order.tenders:
        part = min(needed, capturable_minor(decision.order, tender))
        if part > 0:
            needed -= part
            _start(
                decision,
                Movement(
                    movement_id=_free_id(decision.order, base_id),
                    kind=MovementKind.CAPTURE,
                    status=MovementStatus.PENDING,
                    tender_reference=tender.reference,
                    minor=part,
                ),
            )
    if needed > 0:
        decision.hold(PAYMENT_SHORT, decision.policy.exception_deadline)
    else:
        decision.unhold(PAYMENT_SHORT)


def _pay_owed(decision: Decision) -> None:
    """Pay out what was credited, as far as money came in. What no capture under way can cover is somebody's decision."""
    for owed in decision.order.owed:
        refund(decision, credit_id=owed.credit_id, rma_id=owed.rma_id, minor=owed.minor)
    order = decision.order
    if not order.owed:
        decision.unhold(CREDIT_SHORT)
    elif not unsettled_minor(order, MovementKind.CAPTURE):
        decision.hold(CREDIT_SHORT, decision.policy.exception_deadline)


def _refund_overpaid(decision: Decision, minor: int) -> None:
    order = decision.order
    number = sum(movement.kind is MovementKind.REFUND for movement in order.movements) + 1
    credit_id = f"{order.order_id}/cancelled/{number}"
    amount = Money(minor=minor, currency=order.source.currency)
    decision.emit(
        CreditGranted(
            order_id=order.order_id,
            credit_id=credit_id,
            cause=CreditCause.CANCEL,
            lines=(),
            adjustment_minor=minor,
            currency=amount.currency,
            total=amount,
            origin=Origin.US,
            invoiced=False,
        )
    )
    refund(decision, credit_id=credit_id, rma_id=None, minor=minor)


def refund(decision: Decision, *, credit_id: str, rma_id: str | None, minor: int) -> None:
    """Send money back for a credit, from the payments in their order, at most what they may give."""
    left = min(minor, refundable_total_minor(decision.order))
    for tender in decision.order.tenders:
        part = min(left, refundable_minor(decision.order, tender))
        if part > 0:
            left -= part
            _start(
                decision,
                Movement(
                    movement_id=_free_id(decision.order, f"{credit_id}/refund"),
                    kind=MovementKind.REFUND,
                    status=MovementStatus.PENDING,
                    tender_reference=tender.reference,
                    minor=part,
                    credit_id=credit_id,
                    rma_id=rma_id,
                ),
            )


def _free_id(order: OrderState, base_id: str) -> str:
    """The id itself, or with a number when the order has used it: a second payment, a second attempt."""
    used = {movement.movement_id for movement in order.movements}
    candidate, number = base_id, 1
    while candidate in used:
        number += 1
        candidate = f"{base_id}/{number}"
    return candidate


def _start(decision: Decision, movement: Movement, *, replaces: str | None = None) -> None:
    answer_by = decision.now + decision.policy.payment_answer_within
    decision.emit(MovementStarted(movement=movement, answer_by=answer_by, replaces=replaces))
    _ask(decision, movement)


def _ask(decision: Decision, movement: Movement) -> None:
    order_id = decision.order.order_id
    amount = Money(minor=movement.minor, currency=decision.order.source.currency)
    reference = movement.tender_reference
    match movement.kind:
        case MovementKind.CAPTURE:
            decision.emit(
                CapturePayment(
                    order_id=order_id,
                    capture_id=movement.movement_id,
                    tender_reference=reference,
                    amount=amount,
                )
            )
        case MovementKind.VOID:
            decision.emit(
                VoidPayment(
                    order_id=order_id, void_id=movement.movement_id, tender_reference=reference, amount=amount
                )
            )
        case MovementKind.REFUND:
            decision.emit(
                RefundPayment(
                    order_id=order_id,
                    refund_id=movement.movement_id,
                    tender_reference=reference,
                    amount=amount,
                )
            )


def ask_again(decision: Decision, movement_id: str) -> None:
    """The provider has not answered in time: ask again under the same id, or show it to somebody after the last time.

    A provider answers a known id with what became of it, so that asking again moves nothing twice.
    """
    policy = decision.policy
    movement = next(each for each in decision.order.movements if each.movement_id == movement_id)
    if movement.asked < policy.payment_attempts_max:
        decision.emit(
            AskedAgain(movement_id=movement_id, answer_by=decision.now + policy.payment_answer_within)
        )
        _ask(decision, movement)
        return
    decision.drop_timer(ANSWER_TIMER + movement_id)
    decision.hold(PAYMENT_UNANSWERED, policy.exception_deadline)


def ask_all_again(decision: Decision) -> None:
    """Nobody has found out what became of the unanswered movements: ask for each once more, and keep it shown."""
    for movement in decision.order.movements:
        if _is_unanswered(decision, movement):
            decision.emit(AskedAgain(movement_id=movement.movement_id, answer_by=None))
            _ask(decision, movement)
    decision.hold_again(PAYMENT_UNANSWERED, decision.policy.exception_deadline)


def _is_unanswered(decision: Decision, movement: Movement) -> bool:
    """True when the provider was asked as often as it is by itself, and has not answered."""
    overdue = ANSWER_TIMER + movement.movement_id not in decision.order.timers
    return overdue and movement.status is MovementStatus.PENDING


def retry(decision: Decision, kind: MovementKind) -> None:
    """The hold of failed movements has run out: try again under new ids, or leave them to their owner."""
    policy = decision.policy
    failed = [m for m in decision.order.movements if m.kind is kind and m.status is MovementStatus.FAILED]
    if not failed:
        decision.unhold(FAILURE_HOLD[kind])
        return
    exhausted = False
    for movement in failed:
        if movement.attempt >= policy.payment_attempts_max:
            exhausted = True
            continue
        again = replace(
            movement,
            # A definite refusal moved nothing. A provider answers a known id with its old answer, so this one is new.
            movement_id=_free_id(decision.order, movement.movement_id),
            status=MovementStatus.PENDING,
            attempt=movement.attempt + 1,
        )
        _start(decision, again, replaces=movement.movement_id)
    if exhausted:
        decision.hold_again(FAILURE_HOLD[kind], policy.exception_deadline)
    else:
        decision.unhold(FAILURE_HOLD[kind])


def _movement(order: OrderState, movement_id: str, kind: MovementKind) -> Movement:
    """Raises Rejected: money moved under an id that is not ours, and the ledger cannot know what for."""
    for movement in order.movements:
        if movement.movement_id == movement_id and movement.kind is kind:
            return movement
    raise Rejected("payment.unknown_movement", f"{kind.lower()} {movement_id} is not one of ours")


def _check_currency(order: OrderState, amount: Money) -> None:
    if amount.currency != order.source.currency:
        raise Rejected(
            "order.currency_mismatch",
            f"{amount.minor} minor units of {amount.currency or 'no currency'} moved on an order in {order.source.currency}",
        )


def on_authorized(decision: Decision, event: PaymentAuthorized) -> None:
    _check_currency(decision.order, event.amount)
    before = len(decision.events)
    tender = Tender(reference=event.tender_reference, state=TenderState.AUTHORIZED, amount=event.amount)
    merge_tenders(decision, (tender,))
    if len(decision.events) == before:
        decision.emit(Ignored("order.duplicate", f"authorisation {event.tender_reference}"))


def on_captured(decision: Decision, event: PaymentCaptured) -> None:
    _check_currency(decision.order, event.amount)
    movement = _movement(decision.order, event.capture_id, MovementKind.CAPTURE)
    if movement.status is MovementStatus.DONE:
        decision.emit(Ignored("order.duplicate", f"capture {event.capture_id}"))
        return
    _record(
        decision,
        event.capture_id,
        PaymentKind.CAPTURED,
        event.amount.minor,
        origin=Origin.US,
        reference=event.psp_reference,
    )
    _lift_hold(decision, MovementKind.CAPTURE)


def on_voided(decision: Decision, event: PaymentVoided) -> None:
    _check_currency(decision.order, event.amount)
    movement = _movement(decision.order, event.void_id, MovementKind.VOID)
    if movement.status is MovementStatus.DONE:
        decision.emit(Ignored("order.duplicate", f"void {event.void_id}"))
        return
    _record(
        decision,
        event.void_id,
        PaymentKind.VOIDED,
        event.amount.minor,
        origin=Origin.US,
        reference=event.psp_reference,
    )
    _lift_hold(decision, MovementKind.VOID)


def on_refunded(decision: Decision, event: PaymentRefunded) -> None:
    _check_currency(decision.order, event.amount)
    movement = _movement(decision.order, event.refund_id, MovementKind.REFUND)
    if movement.status is MovementStatus.DONE:
        decision.emit(Ignored("order.duplicate", f"refund {event.refund_id}"))
        return
    order = decision.order
    decision.emit(
        RefundRecorded(
            order_id=order.order_id,
            refund_id=event.refund_id,
            credit_id=movement.credit_id,
            rma_id=movement.rma_id,
            amount=event.amount,
            origin=Origin.US,
            channel=order.source.channel,
            shop=order.source.shop,
            external_id=order.source.external_id,
            reference=event.psp_reference,
        )
    )
    _lift_hold(decision, MovementKind.REFUND)


def _lift_hold(decision: Decision, kind: MovementKind) -> None:
    if not any(m.kind is kind and m.status is MovementStatus.FAILED for m in decision.order.movements):
        decision.unhold(FAILURE_HOLD[kind])


def on_declined(decision: Decision, event: PaymentDeclined) -> None:
    """The provider refused one of our movements, or an authorisation, which simply leaves the order unpaid."""
    movement = next((m for m in decision.order.movements if m.movement_id == event.reference), None)
    if movement is None:
        decision.emit(Ignored("payment.not_authorized", f"{event.reference}: {event.reason}"))
        return
    _fail(decision, movement)


def on_refund_failed(decision: Decision, event: RefundFailed) -> None:
    _fail(decision, _movement(decision.order, event.refund_id, MovementKind.REFUND))


def _fail(decision: Decision, movement: Movement) -> None:
    if movement.status is not MovementStatus.PENDING:
        decision.emit(
            Ignored("order.duplicate", f"{movement.kind.lower()} {movement.movement_id} is answered")
        )
        return
    policy = decision.policy
    last = movement.attempt >= policy.payment_attempts_max
    decision.emit(PaymentFailed(movement_id=movement.movement_id))
    decision.hold(
        FAILURE_HOLD[movement.kind], policy.exception_deadline if last else policy.payment_retry_after
    )


def on_charged_back(decision: Decision, event: ChargedBack) -> None:
    """The bank took money back: a fact for the books, and for units that have not left a reason to stop and think."""
    _check_currency(decision.order, event.amount)
    if event.chargeback_id in decision.order.seen:
        decision.emit(Ignored("order.duplicate", f"chargeback {event.chargeback_id}"))
        return
    _record(
        decision,
        event.chargeback_id,
        PaymentKind.CHARGED_BACK,
        event.amount.minor,
        origin=Origin.CHANNEL,
        reference=event.reason,
    )
    if decision.order.stage is Stage.OPEN:
        decision.hold(CHARGED_BACK, decision.policy.exception_deadline)


def on_authorization_lapsed(decision: Decision, reference: str) -> None:
    """The provider's guarantee has run out: what is neither taken nor being moved cannot be taken any more."""
    tender = _tender(decision.order, reference)
    lapsed = capturable_minor(decision.order, tender) if tender is not None else 0
    if lapsed > 0:
        decision.emit(TenderLapsed(reference=reference, minor=lapsed))
    decision.drop_timer(AUTHORIZATION_TIMER + reference)


def money_is_settled(order: OrderState) -> bool:
    """True when everything that shipped is taken, or settled by others."""
    return uncaptured_minor(order) == 0 and unsettled_minor(order, MovementKind.CAPTURE) == 0
