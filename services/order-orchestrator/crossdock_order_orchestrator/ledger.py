"""Arithmetic of an order's money ledger; every figure in minor units of the order's currency. Pure reading, no decisions.

Per payment: authorized = captured + voided + expired + live. Per order: total = worth of the lines that are not cancelled +
charges. Refunds that we start never exceed what was captured, or what the marketplace settles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossdock_canonical.money import Money
from crossdock_order_orchestrator.model import live_minor
from crossdock_order_orchestrator.state_records import MovementKind, MovementStatus, OrderState, Stage

if TYPE_CHECKING:
    from crossdock_order_orchestrator.state_records import TenderBooks

_UNSETTLED = (MovementStatus.PENDING, MovementStatus.FAILED)


def charges_minor(order: OrderState) -> int:
    """Shipping and everything else that is owed once per order."""
    return (order.shipping.due if order.shipping is not None else 0) + order.other_minor


def shipped_minor(order: OrderState) -> int:
    """What the customer owes for what has left, charges included from the first shipment on."""
    goods = sum(line.shipped_amounts.due for line in order.lines)
    return goods + (charges_minor(order) if order.charges_billed else 0)


def total_minor(order: OrderState) -> int:
    """Current total: lines that are not cancelled, and the charges while there is something to charge them on."""
    goods = sum(line.open_amounts.due + line.shipped_amounts.due for line in order.lines)
    owed = order.charges_billed or order.stage is Stage.OPEN
    return goods + (charges_minor(order) if owed else 0)


def total(order: OrderState) -> Money:
    return Money(minor=total_minor(order), currency=order.source.currency)


def promised_minor(order: OrderState) -> int:
    """What a marketplace settles itself."""
    return sum(tender.promised for tender in order.tenders)


def is_paid(order: OrderState) -> bool:
    """True when the total is captured, authorised, or guaranteed by the marketplace."""
    if promised_minor(order) > 0 or any(tender.state == "MARKETPLACE" for tender in order.tenders):
        return True
    return sum(tender.captured + live_minor(tender) for tender in order.tenders) >= total_minor(order)


def captured_minor(order: OrderState) -> int:
    return sum(tender.captured for tender in order.tenders)


def refunded_minor(order: OrderState) -> int:
    """Everything that went back, by whomever."""
    return sum(tender.refunded for tender in order.tenders) + order.over_refunded_minor


def refunded_by_us_minor(order: OrderState) -> int:
    """What of it we sent ourselves."""
    return sum(
        movement.minor
        for movement in order.movements
        if movement.kind is MovementKind.REFUND and movement.status is MovementStatus.DONE
    )


def unsettled_minor(order: OrderState, kind: MovementKind, reference: str | None = None) -> int:
    """Movements that are under way or wait for another attempt, of one payment or of all."""
    return sum(
        movement.minor
        for movement in order.movements
        if movement.kind is kind
        and movement.status in _UNSETTLED
        and reference in (None, movement.tender_reference)
    )


def capturable_minor(order: OrderState, tender: TenderBooks) -> int:
    """What of the payment may still be taken."""
    taken = unsettled_minor(order, MovementKind.CAPTURE, tender.reference)
    return max(0, live_minor(tender) - taken - unsettled_minor(order, MovementKind.VOID, tender.reference))


def refundable_minor(order: OrderState, tender: TenderBooks) -> int:
    """What of the payment we may send back."""
    pending = unsettled_minor(order, MovementKind.REFUND, tender.reference)
    return max(0, tender.captured + tender.promised - tender.refunded - pending)


def refundable_total_minor(order: OrderState) -> int:
    """What we may send back over all payments, less what banks and over-refunds have taken already."""
    gone = order.over_refunded_minor + order.charged_back_minor
    return max(0, sum(refundable_minor(order, tender) for tender in order.tenders) - gone)


def uncaptured_minor(order: OrderState) -> int:
    """What has shipped and is neither taken nor being taken."""
    if promised_minor(order) > 0:
        return 0
    taken = captured_minor(order) + unsettled_minor(order, MovementKind.CAPTURE)
    return max(0, shipped_minor(order) - taken)


def overpaid_minor(order: OrderState) -> int:
    """What was taken, or is being taken, for units that will never ship, and has not gone back."""
    taken = captured_minor(order) + unsettled_minor(order, MovementKind.CAPTURE)
    return max(
        0, min(taken - total_minor(order) - order.cancel_refunded_minor, refundable_total_minor(order))
    )
