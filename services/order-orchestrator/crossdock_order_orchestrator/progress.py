"""The next steps of an order, read off what it has become: reserve, hold, release, ship what nobody routes, settle, close.

`decide` calls `advance` once after every input, whatever it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossdock_canonical.decider import Ignored, Rejected
from crossdock_canonical.identity import LineId
from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    ChannelStatus,
    ConsumeStock,
    OrderCancelled,
    OrderCompleted,
    OrderReleased,
    OrderShipped,
    Origin,
    ReleasedLine,
    ShippedLine,
)
from crossdock_order_orchestrator.credits import credit_excess
from crossdock_order_orchestrator.ledger import captured_minor, is_paid, promised_minor, refunded_minor, total
from crossdock_order_orchestrator.model import (
    BACKORDERED,
    CANCELLED_BY_CHANNEL,
    FRAUD_REVIEW,
    FULFILLED_ELSEWHERE,
    HOLD,
    OVERDUE,
    PENDING,
    UNPAID,
    DeadlineMoved,
    OrderClosed,
    completed_for_channel,
    is_ours_to_ship,
    is_started,
    is_till_sale,
    nothing_open,
    open_units,
    shipped_units,
)
from crossdock_order_orchestrator.payments import money_is_settled, settle
from crossdock_order_orchestrator.state_records import FraudState, Stage
from crossdock_order_orchestrator.stock import reserve

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from crossdock_canonical.identity import LocationId
    from crossdock_canonical.records import PickupReady, ShipmentDispatched
    from crossdock_order_orchestrator.decision import Decision
    from crossdock_order_orchestrator.state_records import Line


def advance(decision: Decision, *, shipment_id: str | None = None) -> None:
    """Take every step that is due. `shipment_id` names the captures when a shipment is what has just happened."""
    order = decision.order
    if order.stage is Stage.OPEN:
        if is_till_sale(order):
            pass
        elif not is_ours_to_ship(order):
            _ship_by_marketplace(decision)
        elif order.status is ChannelStatus.SHIPPED and not is_started(order):
            # Somebody fulfilled it in the channel: shipping it again would be worse than asking.
            decision.hold(FULFILLED_ELSEWHERE, decision.policy.exception_deadline)
        else:
            reserve(decision)
            _hold(decision)
            shipment_id = _release(decision) or shipment_id
    capture_id = f"{order.order_id}/capture/{shipment_id}" if shipment_id is not None else None
    settle(decision, capture_id=capture_id)
    if decision.order.stage is Stage.OPEN:
        _close(decision)
    elif decision.order.stage is Stage.COMPLETED:
        credit_excess(decision)


def _hold(decision: Decision) -> None:
    """Wait visibly, with a deadline, for payment, for a risk decision, for stock; stop waiting when it came."""
    order, policy = decision.order, decision.policy
    if not is_started(order):
        if order.status is ChannelStatus.PENDING or not order.priced:
            decision.hold(PENDING, policy.pending_deadline)
        else:
            decision.unhold(PENDING)
            if is_paid(order):
                decision.unhold(UNPAID)
            else:
                decision.hold(UNPAID, policy.unpaid_deadline)
            # A marketplace assesses the risk itself and carries it.
            by_us = promised_minor(order) == 0
            if order.fraud is FraudState.UNCHECKED and by_us and policy.needs_review(total(order)):
                decision.hold(FRAUD_REVIEW, policy.fraud_deadline)
    if any(line.queued for line in order.lines):
        decision.hold(BACKORDERED, policy.backorder_deadline)
    else:
        decision.unhold(BACKORDERED)


def _release(decision: Decision) -> str | None:
    """Release every promised unit once all gates are open. Returns the shipment of services when only these are left."""
    order = decision.order
    ready = (
        order.status is not ChannelStatus.PENDING
        and order.priced
        and order.fraud in (FraudState.UNCHECKED, FraudState.CLEARED)
        and (order.releases > 0 or is_paid(order))
        and order.slip_id is None
        and not any(line.waiting for line in order.lines)
    )
    if not ready:
        return None
    goods = tuple(line for line in order.lines if line.routed and line.soft)
    if goods:
        first = order.releases == 0
        assert order.delivery is not None
        decision.emit(
            OrderReleased(
                order_id=order.order_id,
                release=order.releases + 1,
                channel=order.source.channel,
                shop=order.source.shop,
                external_id=order.source.external_id,
                lines=tuple(
                    ReleasedLine(
                        line_id=line.line_id,
                        sku=line.sku,
                        units=line.soft,
                        uom=line.uom,
                        amounts=_worth(line, line.soft),
                    )
                    for line in goods
                ),
                shipping=order.shipping if first else None,
                other_minor=order.other_minor if first else 0,
                currency=order.source.currency,
                method=order.delivery.method,
                pickup_location=order.delivery.pickup_location,
                promise_by=order.delivery.promise_by,
                ship_to=order.delivery.ship_to,
            )
        )
        return None
    services = {line.line_id: line.soft for line in order.lines if not line.routed and line.soft}
    if services and all(open_units(line) == 0 for line in order.lines if line.routed):
        shipment_id = f"{order.order_id}/services"
        _ship(decision, shipment_id=shipment_id, release=0, units=services, shipped_at=decision.now)
        return shipment_id
    return None


def _worth(line: Line, units: int) -> Amounts:
    """Worth of these open units, so that the parts of a line always sum to the line."""
    return line.open_amounts.split([units, open_units(line) - units])[0]


def _ship(
    decision: Decision,
    *,
    shipment_id: str,
    release: int,
    units: Mapping[LineId, int],
    shipped_at: datetime,
    location: LocationId | None = None,
    carrier: str = "",
    tracking: str = "",
) -> None:
    order = decision.order
    charged = order.charges_billed
    decision.emit(
        OrderShipped(
            order_id=order.order_id,
            shipment_id=shipment_id,
            release=release,
            channel=order.source.channel,
            shop=order.source.shop,
            external_id=order.source.external_id,
            lines=tuple(
                ShippedLine(
                    line_id=line.line_id,
                    sku=line.sku,
                    units=units[line.line_id],
                    amounts=_worth(line, units[line.line_id]),
                    parent_line_id=line.parent_line_id,
                    per_unit=line.per_unit,
                )
                for line in order.lines
                if units.get(line.line_id, 0) > 0
            ),
            channel_lines=completed_for_channel(order, units),
            shipping=None if charged else order.shipping,
            other_minor=0 if charged else order.other_minor,
            currency=order.source.currency,
            fulfilled_by=order.source.fulfilled_by,
            location=location,
            carrier=carrier,
            tracking=tracking,
            shipped_at=shipped_at,
        )
    )


def on_dispatched(decision: Decision, event: ShipmentDispatched) -> str | None:
    """Goods left: revenue is recognised. Returns the shipment when it was not known. Raises Rejected for what was not released."""
    order = decision.order
    if event.shipment_id in order.seen:
        decision.emit(Ignored("order.duplicate", f"shipment {event.shipment_id}"))
        return None
    units: dict[LineId, int] = {}
    for part in event.lines:
        units[part.line_id] = units.get(part.line_id, 0) + part.units
    released = {line.line_id: line.released for line in order.lines if line.routed}
    for line_id, shipped in units.items():
        if shipped > released.get(LineId(line_id), 0):
            raise Rejected(
                "order.more_than_released",
                f"shipment {event.shipment_id}: {shipped} units of line {line_id}, "
                f"{released.get(LineId(line_id), 0)} are released",
            )
    if not order.charges_billed:
        units |= {line.line_id: line.soft for line in order.lines if not line.routed and line.soft}
    _ship(
        decision,
        shipment_id=event.shipment_id,
        release=event.release,
        units=units,
        shipped_at=event.dispatched_at,
        location=event.location,
        carrier=event.carrier,
        tracking=event.tracking,
    )
    return event.shipment_id


def on_pickup_ready(decision: Decision, event: PickupReady) -> None:
    """The goods wait for the customer: nobody need look at the order before that time is over."""
    if decision.order.stage is not Stage.OPEN:
        decision.emit(Ignored("order.closed", f"pickup {event.fulfillment_order_id}"))
        return
    decision.emit(DeadlineMoved(name=HOLD + OVERDUE, due=event.expires_at + decision.policy.overdue_after))


def sell_over_the_counter(decision: Decision, store_movement_ref: str, location: LocationId) -> None:
    """A till sale is a fact: the goods are gone and paid for; stock learns of it under the till's own reference."""
    order = decision.order
    shipment_id = f"{order.order_id}/sale"
    units = {line.line_id: line.soft for line in order.lines if line.soft}
    _ship(
        decision,
        shipment_id=shipment_id,
        release=0,
        units=units,
        shipped_at=order.source.placed_at,
        location=location,
    )
    # The store's feed counts a sku once under the receipt's reference, however many lines sold it.
    grouped: dict[tuple[str, str], tuple[Line, int]] = {}
    for line in order.lines:
        if units.get(line.line_id):
            ref = store_movement_ref or f"{order.order_id}/{line.line_id}"
            first, before = grouped.get((ref, line.sku), (line, 0))
            grouped[ref, line.sku] = (first, before + units[line.line_id])
    for (ref, _), (line, sold) in grouped.items():
        decision.emit(
            ConsumeStock(
                sku=line.sku,
                order_id=order.order_id,
                line_id=line.line_id,
                shipment_id=shipment_id,
                location=location,
                units=sold,
                allocated=False,
                ref=ref,
                occurred_at=order.source.placed_at,
            )
        )


def _ship_by_marketplace(decision: Decision) -> None:
    """The marketplace's own warehouse shipped: it is invoiced and settled, never routed."""
    order = decision.order
    units = {line.line_id: line.soft for line in order.lines if line.soft}
    if order.status is ChannelStatus.SHIPPED and order.priced and units:
        _ship(
            decision,
            shipment_id=f"{order.order_id}/marketplace",
            release=0,
            units=units,
            shipped_at=order.revision_at,
        )


def _close(decision: Decision) -> None:
    """Complete the order once every unit has shipped or is cancelled and the shipments' money is in."""
    order = decision.order
    if not nothing_open(order):
        return
    forget_at = decision.now + decision.policy.retention
    if shipped_units(order) == 0:
        # Every line was edited out before anything was accepted of it.
        decision.emit(
            OrderCancelled(
                order_id=order.order_id,
                cancel_id=f"{order.order_id}/cancel/empty",
                reason_code=CANCELLED_BY_CHANNEL,
                lines=(),
                complete=True,
                channel=order.source.channel,
                shop=order.source.shop,
                external_id=order.source.external_id,
                origin=Origin.CHANNEL,
            ),
            OrderClosed(stage=Stage.CANCELLED, forget_at=forget_at),
        )
        settle(decision)
        return
    if not money_is_settled(order):
        return
    credit_excess(decision)
    currency = order.source.currency
    decision.emit(
        OrderCompleted(
            order_id=order.order_id,
            channel=order.source.channel,
            shop=order.source.shop,
            external_id=order.source.external_id,
            shipped_units=shipped_units(order),
            cancelled_units=sum(line.cancelled for line in order.lines),
            captured=Money(minor=captured_minor(order), currency=currency),
            refunded=Money(minor=refunded_minor(order), currency=currency),
        ),
        OrderClosed(stage=Stage.COMPLETED, forget_at=forget_at),
    )
