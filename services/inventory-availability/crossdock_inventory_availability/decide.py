"""The decider of one sku: what a command means for its books. The shell calls it; the parts are in `counts` and `promises`."""

from __future__ import annotations

from datetime import datetime
from typing import assert_never

from crossdock_canonical.decider import Ignored, Lookup, TimerFired
from crossdock_canonical.records import (
    AllocateStock,
    ConsumeStock,
    LocationDefined,
    ReleaseStock,
    ReservationExpired,
    ReserveStock,
    RestockReturn,
    StockMovement,
    StockSnapshot,
)
from crossdock_inventory_availability import counts, promises
from crossdock_inventory_availability.model import EarlyReleaseForgotten, Lapsed, Policy, order_and_line
from crossdock_inventory_availability.state_records import InventoryState
from crossdock_inventory_availability.turn import Turn

Command = (
    StockSnapshot
    | StockMovement
    | ReserveStock
    | ReleaseStock
    | AllocateStock
    | ConsumeStock
    | RestockReturn
    | TimerFired
)


def decide(
    command: Command,
    state: InventoryState | None,
    *,
    now: datetime,
    policy: Policy,
    locations: Lookup[LocationDefined],
) -> tuple[object, ...]:
    """Events of the command, in order: what happened, then the queue served, then the tables. Raises Rejected."""
    if isinstance(command, TimerFired):
        if state is None or state.timers.get(command.name) != command.due:
            return (Ignored("stock.timer_gone", command.name),)
        sku = state.sku
    else:
        sku = command.sku
    turn = Turn(state, sku=sku, now=now, policy=policy, locations=locations)
    match command:
        case StockSnapshot():
            counts.count(command, turn)
        case StockMovement():
            counts.move(command, turn)
        case RestockReturn():
            counts.restock(command, turn)
        case ReserveStock():
            promises.reserve(command, turn)
        case AllocateStock():
            promises.allocate(command, turn)
        case ReleaseStock():
            promises.release(command, turn)
        case ConsumeStock():
            promises.consume(command, turn)
        case TimerFired():
            _fire(command, turn)
        case _:
            assert_never(command)
    return turn.close()


def _fire(timer: TimerFired, turn: Turn) -> None:
    kind, _, subject = timer.name.partition(":")
    if kind == "forget":
        turn.record(EarlyReleaseForgotten(key=subject))
        return
    soft = turn.books.soft.get(subject, 0)
    waiting = turn.books.waiting.get(subject, 0)
    turn.record(Lapsed(reservation=subject, soft=soft, waiting=waiting))
    order_id, line_id = order_and_line(subject)
    turn.publish(
        ReservationExpired(order_id=order_id, line_id=line_id, sku=turn.books.sku, units=soft + waiting)
    )
