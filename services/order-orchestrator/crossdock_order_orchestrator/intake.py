"""A channel's message becomes an order, or changes one. Called by `decide`.

Snapshots merge by (revision time, delivery) and are compared line by line under the channel's line id: an older one changes
no line, whatever comes first. Kits are exploded; amounts and tax are the channel's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from crossdock_canonical.decider import Ignored, Rejected
from crossdock_canonical.identity import LineId, Sku
from crossdock_canonical.money import Amounts, Money, is_currency
from crossdock_canonical.records import (
    ChannelLine,
    ChannelOrderReceived,
    ChannelStatus,
    FulfilledBy,
    IntakeKind,
    ItemMapped,
    OrderLine,
    OrderReceived,
    Origin,
)
from crossdock_order_orchestrator.cancelling import amend, cancel, everything_open, worth_left
from crossdock_order_orchestrator.ledger import overpaid_minor, total
from crossdock_order_orchestrator.model import (
    CANCELLED_BY_CHANNEL,
    CHANGE_AFTER_RELEASE,
    HOLD,
    OVERDUE,
    REFUND_TIMER,
    OrderRevised,
    OrderTaken,
    RefundDeferred,
    Remembered,
    channel_line_id,
    is_started,
    live_units,
    open_units,
    withdrawn_units,
)
from crossdock_order_orchestrator.payments import merge_tenders
from crossdock_order_orchestrator.state_records import Delivery, Line, OrderSource, OrderState, Stage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crossdock_canonical.decider import Lookup
    from crossdock_order_orchestrator.decision import Decision

_STATUS_RANK = {
    ChannelStatus.PENDING: 0,
    ChannelStatus.OPEN: 1,
    ChannelStatus.SHIPPED: 2,
    ChannelStatus.CANCELLED: 3,
}


def take(decision: Decision, snapshot: ChannelOrderReceived, items: Lookup[ItemMapped]) -> None:
    """Make an order of the first message that describes it. Raises Rejected when it contradicts itself or names the unknown."""
    _check(snapshot)
    if not snapshot.lines:
        raise Rejected("order.no_lines", f"order {snapshot.external_id} has no line")
    routed = snapshot.kind is IntakeKind.SNAPSHOT and snapshot.fulfilled_by is FulfilledBy.SELLER
    lines = tuple(
        line for given in snapshot.lines for line in _explode(given, snapshot.currency, items, routed=routed)
    )
    watched_from = max(decision.now, snapshot.promise_by or decision.now)
    order = OrderState(
        order_id=snapshot.order_id,
        stage=Stage.OPEN,
        source=OrderSource(
            channel=snapshot.channel,
            shop=snapshot.shop,
            marketplace=snapshot.marketplace,
            external_id=snapshot.external_id,
            currency=snapshot.currency,
            placed_at=snapshot.placed_at,
            fulfilled_by=snapshot.fulfilled_by,
            kind=snapshot.kind,
        ),
        delivery=_delivery(snapshot),
        revision_at=snapshot.revision_at,
        revision_id=snapshot.revision_id,
        status=snapshot.status,
        priced=_is_priced(snapshot),
        shipping=snapshot.shipping,
        other_minor=snapshot.other_minor,
        lines=lines,
        tenders=(),
        # Whatever happens, somebody looks at an order that is open for too long.
        timers={HOLD + OVERDUE: watched_from + decision.policy.overdue_after},
    )
    decision.emit(OrderTaken(order=order))
    _publish_received(decision, snapshot)
    merge_tenders(decision, snapshot.tenders)
    if snapshot.status is ChannelStatus.CANCELLED:
        cancel_by_channel(decision)


def cancel_by_channel(decision: Decision) -> None:
    """The channel wants nothing of the order any more: for good, however often and in whatever form it says so."""
    order = decision.order
    before = len(decision.events)
    if order.status is not ChannelStatus.CANCELLED:
        decision.emit(OrderRevised(order=replace(order, status=ChannelStatus.CANCELLED)))
    cancel_id = f"{order.order_id}/cancel/channel"
    if cancel_id not in order.seen and order.stage is Stage.OPEN:
        decision.emit(Remembered(subject_id=cancel_id))
        cancel(
            decision,
            cancel_id=cancel_id,
            reason_code=CANCELLED_BY_CHANNEL,
            origin=Origin.CHANNEL,
            units=everything_open(order),
        )
    elif len(decision.events) == before:
        decision.emit(Ignored("order.duplicate", "cancelled by the channel before"))


def merge(decision: Decision, snapshot: ChannelOrderReceived, items: Lookup[ItemMapped]) -> None:
    """Merge another snapshot of an order that is known. Payments and status only advance; lines follow the newest revision."""
    order = decision.order
    _check(snapshot)
    if order.priced and snapshot.currency != order.source.currency:
        raise Rejected(
            "order.currency_changed", f"from {order.source.currency} to {snapshot.currency or 'none'}"
        )
    if snapshot.fulfilled_by is not order.source.fulfilled_by:
        raise Rejected(
            "order.fulfilment_changed", f"from {order.source.fulfilled_by} to {snapshot.fulfilled_by}"
        )
    before = len(decision.events)
    newer = (snapshot.revision_at, snapshot.revision_id) > (order.revision_at, order.revision_id)
    if newer and order.stage is Stage.OPEN:
        if snapshot.kind is order.source.kind is IntakeKind.SNAPSHOT:
            _revise(decision, snapshot, items)
    elif newer:
        _note_after_end(decision, snapshot, items)
    merge_tenders(decision, snapshot.tenders)
    if overpaid_minor(decision.order) > 0 and REFUND_TIMER not in decision.order.timers:
        # The channel that lowered the total, or reported money late, may be sending it back itself.
        decision.emit(RefundDeferred(until=decision.now + decision.policy.channel_refund_grace))
    if _STATUS_RANK[snapshot.status] > _STATUS_RANK[decision.order.status]:
        if snapshot.status is ChannelStatus.CANCELLED:
            cancel_by_channel(decision)
        else:
            decision.emit(OrderRevised(order=replace(decision.order, status=snapshot.status)))
    if len(decision.events) == before:
        is_latest = (snapshot.revision_at, snapshot.revision_id) == (order.revision_at, order.revision_id)
        code = "order.duplicate" if is_latest else "order.stale_revision"
        decision.emit(Ignored(code, f"revision {snapshot.revision_id} of {snapshot.revision_at.isoformat()}"))


def _revise(decision: Decision, snapshot: ChannelOrderReceived, items: Lookup[ItemMapped]) -> None:
    """Take over lines, charges and delivery of a newer snapshot as far as the order has not gone too far for it."""
    order = decision.order
    released = is_started(order)
    given = {line.line_id: line for line in snapshot.lines}
    known = {channel_line_id(line) for line in order.lines}
    lines: list[Line] = []
    reductions: dict[LineId, int] = {}
    too_late = False
    for line in order.lines:
        units, amounts = _reported(given.get(LineId(channel_line_id(line))), line, order, snapshot.currency)
        change = units - line.reported
        # Units that we cancelled and the channel still counts: it may be telling us of our own cancellation. And units that
        # it withdrew already, whatever fulfilment answers: its refund told us before this snapshot does.
        ahead = max(0, line.reported - live_units(line) + withdrawn_units(order, line))
        revised = replace(line, reported=units, reported_amounts=amounts)
        if not order.priced:  # A marketplace may name the currency only with the prices.
            zero = Amounts.zero(snapshot.currency)
            revised = replace(revised, open_amounts=zero, shipped_amounts=zero)
        if change > 0 and released:
            too_late = True
        elif change > 0:
            waiting = line.waiting + change if line.routed else line.waiting
            soft = line.soft if line.routed else line.soft + change
            revised = replace(revised, units=line.units + change, waiting=waiting, soft=soft)
        elif -change > ahead:
            reductions[line.line_id] = -change - ahead
        lines.append(revised)
    for added in snapshot.lines:
        if added.line_id not in known:
            if released:
                too_late = too_late or added.units > 0
                lines.extend(_unaccepted(added, snapshot.currency, items))
            else:
                lines.extend(_explode(added, snapshot.currency, items, routed=True))
    repriced = tuple(
        line if line.line_id in reductions else replace(line, open_amounts=_repriced(line)) for line in lines
    )
    delivery = _delivery(snapshot)
    charges = (snapshot.shipping, snapshot.other_minor)
    if released:
        too_late = too_late or delivery != order.delivery or charges != (order.shipping, order.other_minor)
        delivery, charges = order.delivery or delivery, (order.shipping, order.other_minor)
    decision.emit(
        OrderRevised(
            order=replace(
                order,
                source=replace(order.source, currency=snapshot.currency),
                revision_at=snapshot.revision_at,
                revision_id=snapshot.revision_id,
                priced=order.priced or _is_priced(snapshot),
                delivery=delivery,
                shipping=charges[0],
                other_minor=charges[1],
                lines=repriced,
            )
        )
    )
    if reductions:
        cancel(
            decision,
            cancel_id=f"{order.order_id}/edit/{snapshot.revision_id}",
            reason_code=CANCELLED_BY_CHANNEL,
            origin=Origin.CHANNEL,
            units=reductions,
        )
    if decision.order.stage is not Stage.OPEN:
        return
    changed = {
        line.line_id: 0 for line, old in zip(repriced, order.lines, strict=False) if _differs(line, old)
    }
    if released:
        if changed:
            amendment_id = f"{order.order_id}/revision/{snapshot.revision_id}"
            amend(decision, amendment_id, changed, CHANGE_AFTER_RELEASE)
        if too_late:
            decision.hold(CHANGE_AFTER_RELEASE, decision.policy.exception_deadline)
    elif (
        changed
        or len(repriced) > len(order.lines)
        or charges != (order.shipping, order.other_minor)
        or decision.order.priced != order.priced
    ):
        _publish_received(decision, snapshot)


def _note_after_end(decision: Decision, snapshot: ChannelOrderReceived, items: Lookup[ItemMapped]) -> None:
    """An order that has ended keeps the newest revision, so that an older one that comes later is known to be old.

    What the revision adds, in an exchange for instance, is not accepted: somebody sees it, once. A cancelled one adds nothing.
    """
    order = decision.order
    lines = list(order.lines)
    grows = False
    if snapshot.status is not ChannelStatus.CANCELLED:
        lines, grows = _with_additions(order, snapshot, items)
    decision.emit(
        OrderRevised(
            order=replace(
                order,
                revision_at=snapshot.revision_at,
                revision_id=snapshot.revision_id,
                lines=tuple(lines) if grows else order.lines,
            )
        )
    )
    if grows:
        decision.hold(CHANGE_AFTER_RELEASE, decision.policy.exception_deadline)


def _with_additions(
    order: OrderState, snapshot: ChannelOrderReceived, items: Lookup[ItemMapped]
) -> tuple[list[Line], bool]:
    """The lines with what the snapshot adds to them noted and not accepted; whether it adds anything."""
    given = {line.line_id: line.units for line in snapshot.lines}
    lines = []
    grows = False
    for line in order.lines:
        units = given.get(LineId(channel_line_id(line)), 0) * line.per_unit
        grows = grows or units > line.reported
        lines.append(replace(line, reported=max(units, line.reported)))
    known = {channel_line_id(line) for line in order.lines}
    for added in snapshot.lines:
        if added.line_id not in known and added.units > 0:
            grows = True
            lines.extend(_unaccepted(added, order.source.currency, items))
    return lines, grows


def _unaccepted(given: ChannelLine, currency: str, items: Lookup[ItemMapped]) -> tuple[Line, ...]:
    """Our lines for a line that came too late. It is worth nothing: money that was taken for it is overpaid."""
    zero = Amounts.zero(currency)
    return tuple(
        replace(line, units=0, waiting=0, soft=0, open_amounts=zero, reported_amounts=zero)
        for line in _explode(replace(given, amounts=None), currency, items, routed=True)
    )


def _reported(given: ChannelLine | None, line: Line, order: OrderState, currency: str) -> tuple[int, Amounts]:
    """Quantity and worth that the snapshot reports for one of our lines. A line that it leaves out was edited out."""
    if given is None:
        return 0, Amounts.zero(currency)
    if given.amounts is None:
        return given.units * line.per_unit, Amounts.zero(currency)
    siblings = [other for other in order.lines if channel_line_id(other) == channel_line_id(line)]
    shares = given.amounts.split([other.value_share for other in siblings])
    return given.units * line.per_unit, shares[siblings.index(line)]


def _repriced(line: Line) -> Amounts:
    """Worth of the open units after a snapshot that did not reduce the line."""
    if live_units(line) > line.reported or open_units(line) == 0:
        return line.open_amounts
    return worth_left(line, 0)


def _differs(line: Line, old: Line) -> bool:
    return line.open_amounts != old.open_amounts or live_units(line) != live_units(old)


def _publish_received(decision: Decision, snapshot: ChannelOrderReceived) -> None:
    order = decision.order
    source = order.source
    decision.emit(
        OrderReceived(
            order_id=order.order_id,
            version=order.version + 1,
            channel=source.channel,
            shop=source.shop,
            marketplace=source.marketplace,
            external_id=source.external_id,
            currency=source.currency,
            total=total(order) if order.priced else None,
            lines=tuple(
                OrderLine(
                    line_id=line.line_id,
                    parent_line_id=line.parent_line_id,
                    sku=line.sku,
                    units=live_units(line),
                    uom=line.uom,
                    amounts=line.open_amounts + line.shipped_amounts,
                )
                for line in order.lines
            ),
            shipping=order.shipping,
            other_minor=order.other_minor,
            tenders=snapshot.tenders,
            fulfilled_by=source.fulfilled_by,
            placed_at=source.placed_at,
        )
    )


def _explode(
    given: ChannelLine, currency: str, items: Lookup[ItemMapped], *, routed: bool
) -> tuple[Line, ...]:
    """Our lines for one line of the channel: itself, or the components of a kit, in base units, worth apportioned."""
    item = _resolve(given, items)
    amounts = given.amounts or Amounts.zero(currency)
    routed = routed and given.requires_shipping

    def made(line_id: str, sku: Sku, per_unit: int, share: int, worth: Amounts, parent: str | None) -> Line:
        units = given.units * per_unit
        return Line(
            line_id=LineId(line_id),
            parent_line_id=parent,
            sku=sku,
            uom=item.uom,
            per_unit=per_unit,
            value_share=share,
            routed=routed,
            units=units,
            waiting=units if routed else 0,
            soft=0 if routed else units,
            open_amounts=worth,
            shipped_amounts=Amounts.zero(currency),
            reported=units,
            reported_amounts=worth,
        )

    if not item.components:
        return (made(given.line_id, item.sku, item.units_per, 1, amounts, None),)
    shares = amounts.split([component.value_share for component in item.components])
    return tuple(
        made(
            f"{given.line_id}/{number}",
            component.sku,
            item.units_per * component.units,
            component.value_share,
            worth,
            given.line_id,
        )
        for number, (component, worth) in enumerate(zip(item.components, shares, strict=True), start=1)
    )


def _resolve(given: ChannelLine, items: Lookup[ItemMapped]) -> ItemMapped:
    for reference in given.items:
        rows = items(f"{reference.scheme}:{reference.value}")
        if rows:
            return rows[0]
    names = ", ".join(f"{reference.scheme}:{reference.value}" for reference in given.items) or "no reference"
    raise Rejected("order.unknown_sku", f"line {given.line_id}: {names}")


def _is_priced(snapshot: ChannelOrderReceived) -> bool:
    return snapshot.total is not None and all(
        line.amounts is not None or line.units == 0 for line in snapshot.lines
    )


def _delivery(snapshot: ChannelOrderReceived) -> Delivery:
    return Delivery(
        method=snapshot.method,
        pickup_location=snapshot.pickup_location,
        promise_by=snapshot.promise_by,
        ship_to=snapshot.ship_to,
    )


def _check(snapshot: ChannelOrderReceived) -> None:
    """Raises Rejected when the snapshot contradicts itself: the code names how, the detail by how much."""
    line_ids = [line.line_id for line in snapshot.lines]
    if len(set(line_ids)) < len(line_ids):
        raise Rejected("order.repeated_line", f"order {snapshot.external_id} repeats a line id")
    for line in snapshot.lines:
        if line.units < 0:
            raise Rejected("order.negative_units", f"line {line.line_id} has {line.units} units")
    _check_currencies(snapshot)
    if _is_priced(snapshot) and snapshot.total is not None:
        parts = sum(line.amounts.due for line in snapshot.lines if line.amounts is not None)
        parts += (snapshot.shipping.due if snapshot.shipping is not None else 0) + snapshot.other_minor
        if parts != snapshot.total.minor:
            difference = Money(minor=snapshot.total.minor - parts, currency=snapshot.currency)
            raise Rejected(
                "order.total_mismatch",
                f"total {snapshot.total} exceeds the sum of its parts by {difference}",
            )


def _check_currencies(snapshot: ChannelOrderReceived) -> None:
    named: Iterable[tuple[str, str]] = (
        *(
            (f"line {line.line_id}", line.amounts.currency)
            for line in snapshot.lines
            if line.amounts is not None
        ),
        *(("shipping", charge.currency) for charge in (snapshot.shipping,) if charge is not None),
        *(("total", amount.currency) for amount in (snapshot.total,) if amount is not None),
        *((f"payment {tender.reference}", tender.amount.currency) for tender in snapshot.tenders),
    )
    for what, currency in named:
        if currency != snapshot.currency:
            raise Rejected(
                "order.currency_mismatch", f"{what} is in {currency}, the order in {snapshot.currency}"
            )
        if not is_currency(currency):
            raise Rejected("order.unknown_currency", f"{what} is in {currency!r}, which is no currency")
