"""Reservation of an order's lines: one slip at a time travels sku to sku, and its answer is folded here. Called by `decide`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossdock_canonical.decider import Ignored
from crossdock_canonical.records import OnShortage, Origin, ReserveStock, SlipLine
from crossdock_order_orchestrator.cancelling import cancel, everything_open, release_stock
from crossdock_order_orchestrator.model import OUT_OF_STOCK, StockAnswered, UnitsReturned
from crossdock_order_orchestrator.state_records import Stage

if TYPE_CHECKING:
    from crossdock_canonical.records import ReservationExpired, ReservationFailed, StockReserved
    from crossdock_order_orchestrator.decision import Decision


def reserve(decision: Decision) -> None:
    """Ask for every unit that has neither a promise nor a place in a queue, unless a slip is in flight."""
    order = decision.order
    if order.slip_id is not None:
        return
    stops = tuple(
        SlipLine(line_id=line.line_id, sku=line.sku, units=line.waiting - line.queued)
        for line in order.lines
        if line.routed and line.waiting > line.queued
    )
    if not stops:
        return
    may_wait = order.source.channel in decision.policy.backorder_channels
    decision.emit(
        ReserveStock(
            sku=stops[0].sku,
            order_id=order.order_id,
            slip_id=f"{order.order_id}/reserve/{order.slips + 1}",
            lines=stops,
            channel=order.source.channel,
            on_shortage=OnShortage.BACKORDER if may_wait else OnShortage.FAIL,
        )
    )


def on_stock_reserved(decision: Decision, event: StockReserved) -> None:
    """Inventory promised or queued the slip's units; what was cancelled meanwhile goes straight back."""
    order = decision.order
    by_id = {line.line_id: line for line in order.lines}
    if event.backfill:
        # A cancellation that crossed this message has freed its units in the sku's books already: take only what waits.
        served = tuple(
            (part.line_id, min(part.reserved, by_id[part.line_id].waiting), 0)
            for part in event.lines
            if part.line_id in by_id and by_id[part.line_id].waiting > 0
        )
        if served:
            decision.emit(StockAnswered(slip_id=None, lines=served))
        else:
            decision.emit(Ignored("order.not_waiting", f"backfill of {event.slip_id}"))
        return
    if event.slip_id != order.slip_id:
        decision.emit(Ignored("order.duplicate", f"answer to {event.slip_id}"))
        return
    kept = []
    excess = []
    for part in event.lines:
        line = by_id[part.line_id]
        wanted = line.waiting - line.queued
        promised = min(part.reserved, wanted)
        # The slip goes on to other skus: its first stop's queue may be served before the last stop answers for all.
        backordered = part.backordered - min(line.early, part.backordered)
        queued = min(backordered, wanted - promised)
        kept.append((part.line_id, promised, queued))
        over = part.reserved + backordered - promised - queued
        if over:
            excess.append(SlipLine(line_id=part.line_id, sku=part.sku, units=over))
    decision.emit(StockAnswered(slip_id=event.slip_id, lines=tuple(kept)))
    if excess:
        release_stock(decision, f"{event.slip_id}/excess", tuple(excess))


def on_reservation_failed(decision: Decision, event: ReservationFailed) -> None:
    """All lines or none: a first slip that fails takes the order with it, a later one only what it asked for."""
    order = decision.order
    if event.slip_id != order.slip_id:
        decision.emit(Ignored("order.duplicate", f"answer to {event.slip_id}"))
        return
    asked = {line.line_id: line.waiting - line.queued for line in order.lines if line.asked}
    decision.emit(StockAnswered(slip_id=event.slip_id, lines=tuple((line_id, 0, 0) for line_id in asked)))
    if order.stage is not Stage.OPEN:
        return
    first = order.slips == 1
    cancel(
        decision,
        cancel_id=f"{event.slip_id}/failed",
        reason_code=OUT_OF_STOCK,
        origin=Origin.US,
        units=everything_open(order) if first else asked,
    )


def on_reservation_expired(decision: Decision, event: ReservationExpired) -> None:
    """A promise lapsed: what is not released waits again."""
    order = decision.order
    units = next((min(event.units, line.soft) for line in order.lines if line.line_id == event.line_id), 0)
    if units == 0 or order.stage is not Stage.OPEN:
        decision.emit(Ignored("order.not_waiting", f"line {event.line_id} has no unreleased promise"))
        return
    decision.emit(
        UnitsReturned(
            attempt_id=f"{event.line_id}/expired/{order.slips}",
            lines=((event.line_id, units),),
            from_fulfillment=False,
        )
    )
