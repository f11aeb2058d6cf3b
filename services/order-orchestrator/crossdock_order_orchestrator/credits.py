"""Money that goes back: refunds that a channel made, credits that returns propose. Called by `decide`.

Whoever comes first credits the units; the other finds them credited. We never send back more than was captured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crossdock_canonical.decider import Ignored, Rejected
from crossdock_canonical.money import Money
from crossdock_canonical.records import (
    CreditCause,
    CreditGranted,
    CreditLine,
    Origin,
    RefundDisposition,
    RefundRecorded,
)
from crossdock_order_orchestrator.cancelling import cancel
from crossdock_order_orchestrator.ledger import (
    captured_minor,
    overpaid_minor,
    promised_minor,
    refundable_total_minor,
    total_minor,
)
from crossdock_order_orchestrator.model import (
    CANCEL_REFUSED,
    CANCELLED_BY_CHANNEL,
    CreditMatched,
    RefundClaimed,
    RefundedUnitsShipped,
    RefundOwed,
    Remembered,
    being_cancelled,
    cancellable_units,
    components,
    shipped_units,
    withdrawn_units,
)
from crossdock_order_orchestrator.state_records import OwedRefund

if TYPE_CHECKING:
    from crossdock_canonical.identity import LineId
    from crossdock_canonical.money import Amounts
    from crossdock_canonical.records import ChannelRefundReceived, CreditProposed
    from crossdock_order_orchestrator.decision import Decision
    from crossdock_order_orchestrator.state_records import Line, OrderState


_LEFT = (RefundDisposition.RETURNED, RefundDisposition.KEPT)


def on_channel_refund(decision: Decision, event: ChannelRefundReceived) -> None:
    """The channel sent money back. Shipped units are credited; unshipped ones are cancelled, so that they do not leave."""
    order = decision.order
    if event.amount.currency != order.source.currency:
        raise Rejected("order.currency_mismatch", f"refund {event.refund_id} is in {event.amount.currency}")
    if event.refund_id in order.seen:
        decision.emit(Ignored("order.duplicate", f"refund {event.refund_id}"))
        return
    # A store's refund is ours to tell the channel of, too, and was remembered under its own id.
    ours = event.our_refund_id in order.seen or any(
        movement.movement_id == event.our_refund_id for movement in order.movements
    )
    if event.our_refund_id is not None and ours:
        decision.emit(Ignored("refund.echo", f"our refund {event.our_refund_id} as {event.refund_id}"))
        return
    by_header = all(part.disposition is RefundDisposition.UNSPECIFIED for part in event.lines)
    credited: list[CreditLine] = []
    claims: list[RefundClaimed] = []
    unshipped: dict[LineId, int] = {}
    unshipped_minor = 0
    for part in event.lines:
        found = components(order, part.line_id)
        if not found:
            raise Rejected("order.unknown_line", f"refund {event.refund_id} names line {part.line_id}")
        with_customer = part.disposition in _LEFT or (by_header and event.restock)
        for line, amounts in zip(
            found, part.amounts.split([line.value_share for line in found]), strict=True
        ):
            units = part.units * line.per_unit
            if units == 0:
                continue
            where = _where_refunded(decision.order, line, units, shipped_first=with_customer)
            not_shipped, shipped, _ = amounts.split(
                [where.unshipped, where.shipped, units - where.unshipped - where.shipped]
            )
            if where.open:
                unshipped[line.line_id] = unshipped.get(line.line_id, 0) + where.open
            if where.unshipped:
                unshipped_minor += not_shipped.due
                gone = where.unshipped - where.released
                claims.append(
                    RefundClaimed(
                        line_id=line.line_id,
                        withdrawn=where.withdrawn,
                        released=where.released,
                        amounts=not_shipped.split([where.released, gone])[0],
                    )
                )
            if where.shipped:
                credited.append(
                    CreditLine(line_id=line.line_id, sku=line.sku, units=where.shipped, amounts=shipped)
                )
    if shipped_units(order) == 0:
        unshipped_minor = event.amount.minor
    credit_minor = event.amount.minor - unshipped_minor
    credit_id = f"{order.order_id}/channel/{event.refund_id}"
    adjustment_minor = credit_minor - sum(line.amounts.due for line in credited)
    # Beyond goods, what goes back first is what was taken for nothing; only the rest is taken off the invoice.
    overpaid = max(0, min(adjustment_minor, overpaid_minor(order) - unshipped_minor))
    unshipped_minor += overpaid
    credit_minor -= overpaid
    adjustment_minor -= overpaid
    over_minor = max(0, event.amount.minor - refundable_total_minor(order))
    decision.emit(*claims)
    # Cancel first, so that the grace for the channel's refund and the refund itself are weighed together.
    if unshipped:
        cancel(
            decision,
            cancel_id=f"{order.order_id}/refund/{event.refund_id}",
            reason_code=CANCELLED_BY_CHANNEL,
            origin=Origin.CHANNEL,
            units=unshipped,
            refunded=True,
        )
    decision.emit(
        RefundRecorded(
            order_id=order.order_id,
            refund_id=event.refund_id,
            credit_id=credit_id,
            amount=event.amount,
            origin=Origin.CHANNEL,
            channel=order.source.channel,
            shop=order.source.shop,
            external_id=order.source.external_id,
            reference=event.our_refund_id or "",
            over_refund_minor=over_minor,
        )
    )
    if unshipped_minor:
        _grant_channel(decision, f"{credit_id}/unshipped", (), unshipped_minor, invoiced=False)
    if credited or credit_minor:
        _grant_channel(decision, credit_id, tuple(credited), adjustment_minor, invoiced=True)


@dataclass(frozen=True, slots=True)
class _Where:
    """Where refunded units of a line are.

    withdrawn: cancelled for the channel before. standing: with fulfilment, which was asked for them before. open: to be
    cancelled now, `asking` of them by asking fulfilment. shipped: with the customer. late: cancelled before by others.
    """

    withdrawn: int
    standing: int
    open: int
    asking: int
    shipped: int
    late: int

    @property
    def unshipped(self) -> int:
        return self.withdrawn + self.standing + self.open + self.late

    @property
    def released(self) -> int:
        """Units that may still ship although they are refunded."""
        return self.standing + self.asking


def _where_refunded(order: OrderState, line: Line, units: int, *, shipped_first: bool) -> _Where:
    """Attribute refunded units: first to those that left if `shipped_first`, else to those that did not leave.

    What the channel withdrew and has not paid for comes before what nobody has touched: the snapshot without the units and
    the refund of them may come in either order. Units beyond what there is are in no part: their money is an adjustment.
    """
    returnable = line.shipped - line.credited
    shipped = min(units, returnable) if shipped_first else 0
    rest = units - shipped
    withdrawn = min(rest, line.withdrawn)
    rest -= withdrawn
    standing = min(rest, max(0, min(withdrawn_units(order, line), line.released) - line.refunded))
    rest -= standing
    # Units that fulfilment refused to give back are asked for no second time.
    still_open = min(rest, cancellable_units(order, line))
    rest -= still_open
    asking = max(0, still_open - line.waiting - line.soft)
    if not shipped_first:
        shipped = min(rest, returnable)
        rest -= shipped
    # Others cancelled them, and their money has not gone back yet.
    asked_back = being_cancelled(order.cancels, line.line_id) - standing
    late = min(
        rest, max(0, asked_back - line.refunded) + (line.cancelled if overpaid_minor(order) > 0 else 0)
    )
    return _Where(withdrawn, standing, still_open, asking, shipped, late)


def credit_refunded_shipment(decision: Decision, shipment_id: str) -> None:
    """Units left that the channel had refunded as unshipped: what it sent back is a credit for them, and no cancellation's.

    As long as there are other units to ship, it is these that are taken to have left.
    """
    order = decision.order
    lines: list[CreditLine] = []
    remains: list[tuple[LineId, int, Amounts]] = []
    for line in order.lines:
        units = line.refunded - line.released
        if units > 0 and line.refunded_amounts is not None:
            left, gone = line.refunded_amounts.split([line.refunded - units, units])
            remains.append((line.line_id, units, left))
            lines.append(CreditLine(line_id=line.line_id, sku=line.sku, units=units, amounts=gone))
    if lines:
        minor = sum(line.amounts.due for line in lines)
        decision.emit(RefundedUnitsShipped(lines=tuple(remains), minor=minor))
        credit_id = f"{order.order_id}/refunded/{shipment_id}"
        _grant_channel(decision, credit_id, tuple(lines), 0, invoiced=True)
        decision.hold(CANCEL_REFUSED, decision.policy.exception_deadline)


def credit_excess(decision: Decision) -> None:
    """Everything that stays has shipped: what went back for more than that is a credit, and what did not suffice is none.

    The channel rounds parts of a line as it does, and refunds charges that a later shipment bills: more was refunded as
    unshipped than was taken for what did not ship, and that is a credit as well. The other way round, a refund of the channel
    was credited although the money was taken for what did not ship, and nothing is left to send it back: the credit is taken
    back as far. Unless a bank took the money, which is nobody's refund.
    """
    order = decision.order
    if promised_minor(order) > 0:
        return
    unshipped = max(0, captured_minor(order) - total_minor(order))
    excess = order.cancel_refunded_minor - unshipped
    if excess < 0:
        gone = -excess - overpaid_minor(order) if order.charged_back_minor == 0 else 0
        excess = -max(0, min(gone, order.credited_minor))
    if excess != 0:
        credit_id = base_id = f"{order.order_id}/excess/{order.credited_minor}"
        # Credits are taken back as well, so that their sum may come to stand where it stood.
        number = 1
        while credit_id in order.seen:
            number += 1
            credit_id = f"{base_id}/{number}"
        decision.emit(RefundedUnitsShipped(lines=(), minor=excess))
        _grant_channel(decision, credit_id, (), excess, invoiced=True)


def _grant_channel(
    decision: Decision,
    credit_id: str,
    lines: tuple[CreditLine, ...],
    adjustment_minor: int,
    *,
    invoiced: bool,
) -> None:
    currency = decision.order.source.currency
    total = sum(line.amounts.due for line in lines) + adjustment_minor
    decision.emit(
        CreditGranted(
            order_id=decision.order.order_id,
            credit_id=credit_id,
            cause=CreditCause.CHANNEL_REFUND,
            lines=lines,
            adjustment_minor=adjustment_minor,
            currency=currency,
            total=Money(minor=total, currency=currency),
            origin=Origin.CHANNEL,
            invoiced=invoiced,
        )
    )


def on_credit_proposed(decision: Decision, event: CreditProposed) -> None:
    """Returned goods were accepted: credit what nobody credited yet, and send the money back unless a store did."""
    order = decision.order
    if event.credit_id in order.seen:
        decision.emit(Ignored("order.duplicate", f"credit {event.credit_id}"))
        return
    if event.currency != order.source.currency:
        raise Rejected("order.currency_mismatch", f"credit {event.credit_id} is in {event.currency}")
    by_id = {line.line_id: line for line in order.lines}
    matched: list[tuple[LineId, int]] = []
    lines: list[CreditLine] = []
    for part in event.lines:
        line = by_id.get(part.line_id)
        if line is None:
            raise Rejected("order.unknown_line", f"credit {event.credit_id} names line {part.line_id}")
        # The channel paid for these units already, whether or not the return knows of it.
        paid = min(part.units, line.unclaimed)
        if event.refund_id is not None and event.refund_id in order.seen:
            paid = part.units if line.unclaimed >= part.units else paid
        left = part.units - paid
        if left > line.shipped - line.credited:
            raise Rejected(
                "order.credit_exceeds_shipped",
                f"line {line.line_id}: {left} units, {line.shipped} shipped, {line.credited} credited",
            )
        if paid:
            matched.append((line.line_id, paid))
        if left:
            amounts = part.amounts.split([left, paid])[0]
            lines.append(CreditLine(line_id=line.line_id, sku=line.sku, units=left, amounts=amounts))
    if matched:
        decision.emit(CreditMatched(credit_id=event.credit_id, lines=tuple(matched)))
    total = sum(line.amounts.due for line in lines)
    by_store = event.store_refund is not None
    if lines:
        decision.emit(
            CreditGranted(
                order_id=order.order_id,
                credit_id=event.credit_id,
                rma_id=event.rma_id,
                cause=CreditCause.RETURN,
                lines=tuple(lines),
                currency=event.currency,
                total=Money(minor=total, currency=event.currency),
                origin=Origin.STORE if by_store else Origin.US,
            )
        )
    if event.store_refund is not None:
        _record_store_refund(decision, event, event.store_refund)
    elif total > 0:
        # Paid out with the next step, as far as the money is in: a capture may still be under way.
        decision.emit(
            RefundOwed(owed=OwedRefund(credit_id=event.credit_id, rma_id=event.rma_id, minor=total))
        )
    if event.credit_id not in decision.order.seen:
        decision.emit(Remembered(subject_id=event.credit_id))


def _record_store_refund(decision: Decision, event: CreditProposed, amount: Money) -> None:
    """Money out of a drawer is a fact; beyond what was captured it is an exception on the books. An even exchange has none."""
    order = decision.order
    if amount.minor == 0:
        return
    decision.emit(
        RefundRecorded(
            order_id=order.order_id,
            refund_id=f"{event.credit_id}/refund",
            credit_id=event.credit_id,
            rma_id=event.rma_id,
            amount=amount,
            origin=Origin.STORE,
            channel=order.source.channel,
            shop=order.source.shop,
            external_id=order.source.external_id,
            over_refund_minor=max(0, amount.minor - refundable_total_minor(order)),
        )
    )
