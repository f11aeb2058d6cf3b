"""Taking units off an order: what is still ours at once, what fulfilment holds by asking for it. Called by `decide` and its parts.

A cancellation of released units is refused or granted by fulfilment; refused units ship.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from crossdock_canonical.decider import Ignored, Rejected
from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    AmendedLine,
    CancelFulfillment,
    CancelRefused,
    ChannelStatus,
    CreditCause,
    CreditGranted,
    DeliveryMethod,
    FulfillmentCancelled,
    FulfillmentLine,
    LinesUnfillable,
    LineUnits,
    OrderAmended,
    OrderCancelled,
    OrderRejected,
    Origin,
    ReleaseStock,
    SlipLine,
)
from crossdock_order_orchestrator.ledger import overpaid_minor, refunded_by_us_minor, refunded_minor
from crossdock_order_orchestrator.model import (
    BACKORDERED,
    CANCEL_REFUSED,
    CANCELLED_BY_CHANNEL,
    CANCELLED_BY_US,
    OUT_OF_STOCK,
    PICKUP_EXPIRED,
    REFUND_TIMER,
    CancelAnswered,
    CancelledUnits,
    CancelRecorded,
    CreditMatched,
    OrderClosed,
    RefundDeferred,
    Remembered,
    UnitsCancelled,
    UnitsReturned,
    being_cancelled,
    cancellable_units,
    cancelled_for_channel,
    components,
    is_started,
    is_till_sale,
    live_units,
    nothing_open,
    open_units,
    refunded_units_left,
    shipped_units,
)
from crossdock_order_orchestrator.state_records import FraudState, PendingCancel, Stage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from crossdock_canonical.identity import LineId
    from crossdock_order_orchestrator.decision import Decision
    from crossdock_order_orchestrator.state_records import Line, OrderState


def everything_open(order: OrderState) -> dict[LineId, int]:
    """Every unit that can still be cancelled, by line."""
    return {
        line.line_id: cancellable_units(order, line) for line in order.lines if cancellable_units(order, line)
    }


def units_named(order: OrderState, lines: Iterable[LineUnits]) -> dict[LineId, int]:
    """The named quantities by our own lines; a kit's quantity counts kits. Raises Rejected for a line that is not there."""
    named: dict[LineId, int] = {}
    for wanted in lines:
        found = components(order, wanted.line_id)
        if not found:
            raise Rejected("order.unknown_line", f"line {wanted.line_id} of order {order.order_id}")
        for line in found:
            per_unit = line.per_unit if line.line_id != wanted.line_id else 1
            named[line.line_id] = named.get(line.line_id, 0) + wanted.units * per_unit
    return named


def worth_left(line: Line, cancelled: int) -> Amounts:
    """Worth of the open units once `cancelled` more are gone, so that the line's worth ends where the channel's does.

    Down to the quantity that the channel reports, the channel's own amounts decide; elsewhere the line is apportioned.
    """
    left = open_units(line) - cancelled
    zero = Amounts.zero(line.open_amounts.currency)
    if left == 0:
        return zero
    live = live_units(line) - cancelled
    if live <= line.reported:
        at_channel = line.reported_amounts.split([live, line.reported - live])[0]
        remainder = at_channel - line.shipped_amounts
        if min(remainder.goods, remainder.discount, remainder.tax, remainder.facilitator_tax) >= 0:
            return remainder
    return line.open_amounts.split([left, cancelled])[0]


def cancel(
    decision: Decision,
    *,
    cancel_id: str,
    reason_code: str,
    origin: Origin,
    units: Mapping[LineId, int],
    refunded: bool = False,
) -> None:
    """Cancel up to these units: what is not released now, the rest by asking fulfilment. More than there is, is left out.

    refunded: a refund of the channel is what cancels them, so that no other refund is expected for them.
    """
    order = decision.order
    now: list[CancelledUnits] = []
    later: list[FulfillmentLine] = []
    for line in order.lines:
        wanted = min(units.get(line.line_id, 0), cancellable_units(order, line))
        if wanted <= 0:
            continue
        # Newest promises go first, in the order in which inventory lets go: what was never asked, the queue, the promise.
        unasked = min(wanted, line.waiting - line.queued)
        queued = min(wanted - unasked, line.queued)
        soft = min(wanted - unasked - queued, line.soft)
        at_once = unasked + queued + soft
        if at_once:
            now.append(
                CancelledUnits(
                    line_id=line.line_id,
                    sku=line.sku,
                    unasked=unasked,
                    queued=queued,
                    soft=soft,
                    open_amounts=worth_left(line, at_once),
                )
            )
        if wanted > at_once:
            later.append(FulfillmentLine(line_id=line.line_id, sku=line.sku, units=wanted - at_once))
    if now:
        _announce(decision, cancel_id, reason_code, origin, tuple(now), refunded=refunded)
    if later:
        asked = tuple(LineUnits(line_id=line.line_id, units=line.units) for line in later)
        pending = PendingCancel(cancel_id=cancel_id, reason_code=reason_code, origin=origin, lines=asked)
        decision.emit(
            CancelRecorded(cancel=pending),
            CancelFulfillment(
                order_id=order.order_id, cancel_id=cancel_id, lines=tuple(later), reason=reason_code
            ),
        )


def _announce(
    decision: Decision,
    cancel_id: str,
    reason_code: str,
    origin: Origin,
    lines: tuple[CancelledUnits, ...],
    *,
    refunded: bool = False,
) -> None:
    """Take the units off, free their stock, tell everybody, and close an order of which nothing is left."""
    withdrawn = origin is Origin.CHANNEL
    matched = _matched_refund(decision.order, cancel_id, lines) if withdrawn and not refunded else None
    for_channel = cancelled_for_channel(decision.order, {line.line_id: line.units for line in lines})
    decision.emit(
        UnitsCancelled(cancel_id=cancel_id, lines=lines, withdrawn=withdrawn, refunded=refunded),
    )
    if matched is not None:
        _take_over_refund(decision, matched)
    order = decision.order
    _free_stock(decision, f"{order.order_id}/release/{cancel_id}", lines)
    complete = nothing_open(order) and shipped_units(order) == 0
    if not complete:
        # Before the cancellation: who books a change once per id takes the one that carries amounts.
        amend(decision, cancel_id, {line.line_id: line.units for line in lines}, reason_code)
    decision.emit(
        OrderCancelled(
            order_id=order.order_id,
            cancel_id=cancel_id,
            reason_code=reason_code,
            lines=tuple(LineUnits(line_id=line.line_id, units=line.units) for line in lines),
            channel_lines=for_channel,
            complete=complete,
            channel=order.source.channel,
            shop=order.source.shop,
            external_id=order.source.external_id,
            origin=origin,
        )
    )
    if origin is Origin.CHANNEL and REFUND_TIMER not in order.timers:
        decision.emit(RefundDeferred(until=decision.now + decision.policy.channel_refund_grace))
    if complete:
        decision.emit(OrderClosed(stage=Stage.CANCELLED, forget_at=decision.now + decision.policy.retention))


def _matched_refund(
    order: OrderState, cancel_id: str, lines: tuple[CancelledUnits, ...]
) -> CreditMatched | None:
    """A refund that the channel sent ahead of its cancellation was for the cancelled units, and is not due again.

    Units that it refunded as unshipped are paid back already, and need no match.
    """
    matched = []
    minor = 0
    for line, part in _with_parts(order, lines):
        paid_back = line.refunded - refunded_units_left(line, part.released, withdrawn=True)
        units = min(line.unclaimed, part.units - paid_back)
        if units:
            matched.append((line.line_id, units))
            minor += (line.open_amounts - part.open_amounts).split([units, part.units - units])[0].due
    if not matched:
        return None
    return CreditMatched(credit_id=cancel_id, lines=tuple(matched), unshipped_minor=minor, withdrawn=True)


def _take_over_refund(decision: Decision, matched: CreditMatched) -> None:
    """Money of the channel that was credited for shipped units is the cancelled units' instead, and that credit is taken back.

    Only money that went back can be taken over, and only for units that were paid: an exchange sends nothing back, and
    what is captured per shipment was never taken for units that stayed.
    """
    order = decision.order
    minor = min(
        matched.unshipped_minor,
        overpaid_minor(order),
        order.credited_minor,
        refunded_minor(order) - refunded_by_us_minor(order),
    )
    if minor <= 0:
        return
    taken_back = Money(minor=-minor, currency=order.source.currency)
    decision.emit(
        replace(matched, unshipped_minor=minor),
        CreditGranted(
            order_id=order.order_id,
            credit_id=f"{matched.credit_id}/matched",
            cause=CreditCause.CHANNEL_REFUND,
            lines=(),
            adjustment_minor=taken_back.minor,
            currency=taken_back.currency,
            total=taken_back,
            origin=Origin.CHANNEL,
            invoiced=True,
        ),
    )


def _with_parts(
    order: OrderState, parts: tuple[CancelledUnits, ...]
) -> tuple[tuple[Line, CancelledUnits], ...]:
    by_id = {part.line_id: part for part in parts}
    return tuple((line, by_id[line.line_id]) for line in order.lines if line.line_id in by_id)


def amend(decision: Decision, amendment_id: str, changed: Mapping[LineId, int], reason_code: str) -> None:
    """Publish what these lines have become; `changed` holds the units that each lost, which may be none."""
    order = decision.order
    version = order.version + 1
    decision.emit(
        OrderAmended(
            order_id=order.order_id,
            amendment_id=amendment_id,
            version=version,
            released=order.releases > 0,
            lines=tuple(
                AmendedLine(
                    line_id=line.line_id,
                    sku=line.sku,
                    units=live_units(line),
                    cancelled_units=changed[line.line_id],
                    amounts=line.open_amounts + line.shipped_amounts,
                    unreleased_units=line.waiting + line.soft,
                    unreleased=line.open_amounts.split([line.waiting + line.soft, line.released])[0]
                    if line.waiting + line.soft
                    else None,
                )
                for line in order.lines
                if line.line_id in changed
            ),
            reason=reason_code,
        )
    )


def _free_stock(decision: Decision, slip_id: str, lines: Iterable[CancelledUnits]) -> None:
    """Let go of promises and places in queues. Units of a slip in flight are let go when its answer comes."""
    routed = {line.line_id for line in decision.order.lines if line.routed}
    stops = tuple(
        SlipLine(line_id=line.line_id, sku=line.sku, units=line.queued + line.soft)
        for line in lines
        if line.queued + line.soft and line.line_id in routed
    )
    if stops:
        release_stock(decision, slip_id, stops)


def release_stock(decision: Decision, slip_id: str, stops: tuple[SlipLine, ...]) -> None:
    decision.emit(
        ReleaseStock(sku=stops[0].sku, order_id=decision.order.order_id, slip_id=slip_id, lines=stops)
    )


def reject_order(decision: Decision, reason_code: str, detail: str) -> None:
    """Give up an order of which nothing was released or has shipped: free its stock and close it. Money is settled afterwards."""
    order = decision.order
    assert not is_started(order)
    lines = tuple(
        CancelledUnits(
            line_id=line.line_id,
            sku=line.sku,
            unasked=line.waiting - line.queued,
            queued=line.queued,
            soft=line.soft,
            open_amounts=Amounts.zero(order.source.currency),
        )
        for line in order.lines
        if open_units(line)
    )
    cancel_id = f"{order.order_id}/reject"
    decision.emit(UnitsCancelled(cancel_id=cancel_id, lines=lines))
    _free_stock(decision, f"{order.order_id}/release/reject", lines)
    decision.emit(
        OrderRejected(
            order_id=order.order_id,
            reason_code=reason_code,
            channel=order.source.channel,
            shop=order.source.shop,
            external_id=order.source.external_id,
            detail=detail,
        ),
        OrderClosed(stage=Stage.REJECTED, forget_at=decision.now + decision.policy.retention),
    )


def on_cancel_requested(
    decision: Decision, *, request_id: str, reason_code: str, origin: Origin, lines: tuple[LineUnits, ...]
) -> None:
    """Somebody asks to cancel all (no lines named) or a part."""
    order = decision.order
    cancel_id = f"{order.order_id}/cancel/{request_id}"
    if cancel_id in order.seen:
        decision.emit(Ignored("order.duplicate", f"cancellation {request_id}"))
        return
    if is_till_sale(order) or order.stage is not Stage.OPEN:
        decision.emit(Ignored("order.cancel_too_late", f"order is {order.stage.lower()}"))
        return
    wanted = units_named(order, lines) if lines else everything_open(order)
    before = len(decision.events)
    cancel(decision, cancel_id=cancel_id, reason_code=reason_code, origin=origin, units=wanted)
    if len(decision.events) == before:
        decision.emit(Remembered(subject_id=cancel_id))


def on_fulfillment_cancelled(decision: Decision, event: FulfillmentCancelled) -> None:
    """Fulfilment took units back, because we asked or because a pickup lapsed; their stock is free already."""
    order = decision.order
    answer_id = f"{event.cancel_id}/taken"
    if answer_id in order.seen:
        decision.emit(Ignored("order.duplicate", f"cancellation {event.cancel_id}"))
        return
    lines = _taken_back(order, event.lines)
    pending = next((asked for asked in order.cancels if asked.cancel_id == event.cancel_id), None)
    if pending is not None:
        reason_code, origin = pending.reason_code, pending.origin
        decision.emit(CancelAnswered(cancel_id=event.cancel_id, lines=_units(event.lines)))
    elif order.delivery is not None and order.delivery.method is DeliveryMethod.PICKUP:
        reason_code, origin = PICKUP_EXPIRED, Origin.US
    elif order.status is ChannelStatus.CANCELLED:
        reason_code, origin = CANCELLED_BY_CHANNEL, Origin.CHANNEL
    else:  # A location stopped units after its refusal had been reported.
        reason_code, origin = CANCELLED_BY_US, Origin.US
    if lines:
        _announce(decision, answer_id, reason_code, origin, lines)
    else:
        decision.emit(Remembered(subject_id=answer_id))


def on_cancel_refused(decision: Decision, event: CancelRefused) -> None:
    """Units ship after all. When the channel wanted them cancelled, somebody has to tell it."""
    order = decision.order
    answer_id = f"{event.cancel_id}/refused"
    if answer_id in order.seen:
        decision.emit(Ignored("order.duplicate", f"refusal of {event.cancel_id}"))
        return
    pending = next((asked for asked in order.cancels if asked.cancel_id == event.cancel_id), None)
    for_channel = pending is not None and pending.origin is Origin.CHANNEL
    decision.emit(
        Remembered(subject_id=answer_id),
        CancelAnswered(cancel_id=event.cancel_id, lines=_units(event.lines), refused=for_channel),
    )
    if for_channel:
        decision.hold(CANCEL_REFUSED, decision.policy.exception_deadline)


def _units(lines: Iterable[FulfillmentLine]) -> tuple[tuple[LineId, int], ...]:
    return tuple((line.line_id, line.units) for line in lines)


def on_lines_unfillable(decision: Decision, event: LinesUnfillable) -> None:
    """No location has the goods: reserve again where the channel allows to wait, else cancel."""
    order = decision.order
    if event.attempt_id in order.seen:
        decision.emit(Ignored("order.duplicate", f"routing attempt {event.attempt_id}"))
        return
    lines = _taken_back(order, event.lines)
    if not lines:
        decision.emit(Remembered(subject_id=event.attempt_id))
        return
    paid_back = {line.line_id for line in order.lines if line.refunded}
    asked_back = {
        line.line_id
        for line in lines
        if line.line_id in paid_back or being_cancelled(order.cancels, line.line_id)
    }
    # Somebody wanted it cancelled and fulfilment refused: now that the goods are not there, nobody waits for them.
    unwanted = order.status is ChannelStatus.CANCELLED or order.fraud is FraudState.REJECTED
    may_wait = order.source.channel in decision.policy.backorder_channels and not unwanted
    if may_wait and not asked_back and order.reroutes < decision.policy.reroutes_max:
        decision.emit(
            UnitsReturned(
                attempt_id=event.attempt_id,
                lines=tuple((line.line_id, line.released) for line in lines),
                from_fulfillment=True,
            )
        )
        # The release that named these units holds them no more; the next one names them again.
        amend(decision, event.attempt_id, {line.line_id: 0 for line in lines}, BACKORDERED)
        return
    _announce(decision, event.attempt_id, OUT_OF_STOCK, Origin.US, lines)


def _taken_back(order: OrderState, lines: Iterable[FulfillmentLine]) -> tuple[CancelledUnits, ...]:
    """Released units that are with fulfilment no more. Raises Rejected when it names more than it was given."""
    by_id = {line.line_id: line for line in order.lines}
    taken: dict[LineId, int] = {}
    for part in lines:
        taken[part.line_id] = taken.get(part.line_id, 0) + part.units
    result = []
    for line_id, units in taken.items():
        line = by_id.get(line_id)
        if line is None or units > line.released:
            released = line.released if line is not None else 0
            raise Rejected(
                "order.more_than_released", f"line {line_id}: {units} units named, {released} are released"
            )
        if units:
            result.append(
                CancelledUnits(
                    line_id=line.line_id, sku=line.sku, released=units, open_amounts=worth_left(line, units)
                )
            )
    return tuple(result)
