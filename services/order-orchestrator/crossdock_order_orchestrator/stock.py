"""Reservation of an order's lines: one slip at a time travels sku to sku, and its answer is folded here. Called by `decide`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossdock_canonical.decider import Ignored
from crossdock_canonical.records import OnShortage, Origin, ReserveStock, SlipLine
from crossdock_order_orchestrator.cancelling import cancel, everything_open, release_stock
from crossdock_order_orchestrator.model import OUT_OF_STOCK, Remembered, StockAnswered, UnitsReturned
from crossdock_order_orchestrator.state_records import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crossdock_canonical.identity import LineId
    from crossdock_canonical.records import ReservationExpired, ReservationFailed, StockReserved
    from crossdock_order_orchestrator.decision import Decision
    from crossdock_order_orchestrator.state_records import Line


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
        _serve(decision, event, by_id)
        return
    if event.slip_id != order.slip_id:
        decision.emit(Ignored("order.duplicate", f"answer to {event.slip_id}"))
        return
    kept = []
    excess = []
    for part in event.lines:
        line = by_id[part.line_id]
        # The slip goes on to other skus: its first stop's queue may be served before the last stop answers for all.
        in_queue = line.queued + part.backordered - min(line.early, part.backordered)
        over = max(0, part.reserved + in_queue - line.waiting)
        # Inventory lets go of places in the queue first, then of promises.
        left_queue = min(over, in_queue)
        kept.append((part.line_id, part.reserved - (over - left_queue), in_queue - left_queue))
        if over:
            excess.append(SlipLine(line_id=part.line_id, sku=part.sku, units=over))
    decision.emit(StockAnswered(slip_id=event.slip_id, lines=tuple(kept)))
    if excess:
        release_stock(decision, f"{event.slip_id}/excess", tuple(excess))


def _serve(decision: Decision, event: StockReserved, by_id: Mapping[LineId, Line]) -> None:
    """A sku's queue was served. A cancellation that crossed this message freed its units in the sku's books already.

    `event.slip_id` is the last slip that queued units of the line. Unless that one is still in flight, all that was served
    stands in the line's queue as we know it, and what does not has been let go.
    """
    served = []
    for part in event.lines:
        subject_id = f"{part.line_id}/served/{event.sequence}"
        line = by_id.get(part.line_id)
        if line is None or subject_id in decision.order.seen:
            continue
        units = min(part.reserved, line.waiting if event.slip_id == decision.order.slip_id else line.queued)
        if units:
            decision.emit(Remembered(subject_id=subject_id))
            served.append((part.line_id, units, 0))
    if served:
        decision.emit(StockAnswered(slip_id=None, lines=tuple(served)))
    else:
        decision.emit(Ignored("order.not_waiting", f"backfill {event.sequence} of {event.slip_id}"))


def on_reservation_failed(decision: Decision, event: ReservationFailed) -> None:
    """All lines or none: a first slip that fails takes the order with it, a later one only what it asked for."""
    order = decision.order
    if event.slip_id != order.slip_id:
        decision.emit(Ignored("order.duplicate", f"answer to {event.slip_id}"))
        return
    asked = {line.line_id: line.waiting - line.queued for line in order.lines if line.asked}
    unchanged = tuple((line.line_id, 0, line.queued) for line in order.lines if line.asked)
    decision.emit(StockAnswered(slip_id=event.slip_id, lines=unchanged))
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
