"""What orders and routing ask of stock: reserve, allocate, release, consume. Called by `decide`.

A slip travels: the decider handles the line at `at` and re-emits the command for the next sku, or walks it back. Every
operation on a line is remembered, so that a redelivery neither promises nor lets go twice, and is not passed on either.
"""

from __future__ import annotations

from dataclasses import replace

from crossdock_canonical.decider import Rejected
from crossdock_canonical.records import (
    AllocateStock,
    AllocationFailed,
    Bucket,
    ConsumeStock,
    MovementCause,
    OnShortage,
    ReleaseScope,
    ReleaseStock,
    ReservationFailed,
    ReserveStock,
    SlipLine,
    SlipResult,
    StockAllocated,
    StockReserved,
    StopFailure,
)
from crossdock_inventory_availability.model import (
    Allocated,
    Consumed,
    Deallocated,
    EarlyReleaseMet,
    Held,
    Moved,
    Refused,
    Released,
    ReleasedEarly,
    Reserved,
    bucket_key,
    digest,
    early_allocation_key,
    early_reservation_key,
    hard_key,
    known_reference,
    level,
    micros,
    reservation_id,
)
from crossdock_inventory_availability.turn import Turn


def reserve(command: ReserveStock, turn: Turn) -> None:
    """Promise the line network-wide, or queue what is missing, or fail the slip."""
    line = _stop(command)
    books = turn.books
    operation = digest("reserve", command.slip_id, line.line_id)
    if operation in books.recent:
        return turn.ignore("stock.duplicate_reserve", f"{command.slip_id} at {command.at}")
    operations = (operation, digest("line", command.order_id, line.line_id))
    reservation = reservation_id(command.order_id, line.line_id)

    # Only a slip that was on its way can be overtaken: its first stop arrives in the order of its sender.
    early_key = early_reservation_key(reservation)
    early = min(line.units, books.released_early.get(early_key, 0)) if command.at else 0
    wanted = line.units - early
    # Who waits goes first, so what is promisable beyond the queue is all that a newcomer may take.
    available = max(0, turn.promisable() - books.waiting_total) if wanted else 0
    if wanted > available and command.on_shortage is OnShortage.FAIL:
        turn.record(Refused(units=line.units, operations=operations))
        failure = StopFailure(line_id=line.line_id, sku=line.sku, requested=line.units, available=available)
        return _fail_reservation(command, failure, turn)

    soft = min(wanted, available)
    if early:
        turn.record(EarlyReleaseMet(key=early_key, units=early))
    turn.record(
        Reserved(
            reservation=reservation,
            slip_id=command.slip_id,
            soft=soft,
            waiting=wanted - soft,
            early=early,
            expires_at=command.expires_at,
            operations=operations,
        )
    )
    result = SlipResult(
        line_id=line.line_id, sku=line.sku, units=line.units, reserved=soft + early, backordered=wanted - soft
    )
    results = (*command.results, result)
    if command.at + 1 == len(command.lines):
        turn.publish(StockReserved(order_id=command.order_id, slip_id=command.slip_id, lines=results))
    else:
        onward = command.lines[command.at + 1]
        turn.publish(replace(command, sku=onward.sku, at=command.at + 1, results=results))
    return None


def _fail_reservation(command: ReserveStock | ReleaseStock, failure: StopFailure, turn: Turn) -> None:
    """One stop back, or the answer when there is none."""
    if command.at == 0:
        turn.publish(ReservationFailed(order_id=command.order_id, slip_id=command.slip_id, failure=failure))
        return
    back = command.at - 1
    turn.publish(
        ReleaseStock(
            sku=command.lines[back].sku,
            order_id=command.order_id,
            slip_id=command.slip_id,
            at=back,
            lines=command.lines,
            scope=ReleaseScope.SOFT,
            failure=failure,
        )
    )


def allocate(command: AllocateStock, turn: Turn) -> None:
    """Turn the line's own soft reservation hard at the location, never more than is free there; or walk the slip back."""
    line = _stop(command)
    books = turn.books
    reservation = reservation_id(command.order_id, line.line_id)
    if command.failure is not None:
        return _walk_allocation_back(command, line, command.failure, turn)
    operation = digest("allocate", command.fulfillment_order_id, line.line_id)
    if operation in books.recent:
        return turn.ignore("stock.duplicate_allocate", f"{command.fulfillment_order_id} at {command.at}")

    soft = books.soft.get(reservation, 0)
    freed = _met_early(command, line, ReleaseScope.HARD_TO_FREE, turn)
    returned = _met_early(command, line, ReleaseScope.HARD_TO_SOFT, turn)
    freed = min(freed, line.units)
    wanted = line.units - freed - min(returned, line.units - freed)
    freed = min(freed, soft)
    available = min(soft - freed, turn.free(command.location))
    if wanted > available:
        failure = StopFailure(line_id=line.line_id, sku=line.sku, requested=line.units, available=available)
        turn.record(
            Allocated(
                reservation=reservation,
                location=command.location,
                units=0,
                early=freed,
                operations=(operation,),
            )
        )
        return _fail_allocation(replace(command, failure=failure, free=turn.free_elsewhere()), turn)

    turn.record(
        Allocated(
            reservation=reservation,
            location=command.location,
            units=wanted,
            early=freed,
            operations=(operation,),
        )
    )
    turn.touch(command.location)
    if command.at + 1 == len(command.lines):
        turn.publish(
            StockAllocated(
                order_id=command.order_id,
                fulfillment_order_id=command.fulfillment_order_id,
                location=command.location,
                lines=command.lines,
            )
        )
    else:
        turn.publish(replace(command, sku=command.lines[command.at + 1].sku, at=command.at + 1))
    return None


def _met_early(command: AllocateStock, line: SlipLine, scope: ReleaseScope, turn: Turn) -> int:
    """Units of this stop that a release let go before it came by."""
    if not turn.books.released_early or not command.at:
        return 0
    key = early_allocation_key(scope, command.fulfillment_order_id, line.line_id)
    units = turn.books.released_early.get(key, 0)
    if units:
        turn.record(EarlyReleaseMet(key=key, units=units))
    return units


def _walk_allocation_back(command: AllocateStock, line: SlipLine, failure: StopFailure, turn: Turn) -> None:
    """All or none: the line's allocation becomes a reservation again."""
    operation = digest("walk back", command.fulfillment_order_id, line.line_id)
    if operation in turn.books.recent:
        return turn.ignore("stock.duplicate_allocate", f"{command.fulfillment_order_id} back at {command.at}")
    reservation = reservation_id(command.order_id, line.line_id)
    units = min(line.units, turn.books.hard.get(hard_key(reservation, command.location), 0))
    turn.record(
        Deallocated(
            reservation=reservation,
            location=command.location,
            units=units,
            to_soft=True,
            operations=(operation,),
        )
    )
    if units:
        turn.touch(command.location)
    return _fail_allocation(replace(command, failure=failure), turn)


def _fail_allocation(command: AllocateStock, turn: Turn) -> None:
    """One stop back, or the answer when there is none."""
    assert command.failure is not None
    if command.at:
        back = command.at - 1
        turn.publish(replace(command, sku=command.lines[back].sku, at=back))
        return
    turn.publish(
        AllocationFailed(
            order_id=command.order_id,
            fulfillment_order_id=command.fulfillment_order_id,
            location=command.location,
            failure=command.failure,
            free=command.free,
        )
    )


def release(command: ReleaseStock, turn: Turn) -> None:
    """Let go of the line's promise and pass the slip on. What does not exist is not let go, and its slip still travels."""
    line = _stop(command)
    is_walk_back = command.failure is not None
    operation = digest(
        "walk back" if is_walk_back else "release", command.slip_id, command.scope, line.line_id
    )
    if operation in turn.books.recent:
        return turn.ignore("stock.duplicate_release", f"{command.slip_id} at {command.at}")
    travels_on = is_walk_back or command.at + 1 < len(command.lines)
    if command.scope is ReleaseScope.SOFT:
        _release_soft(command, line, operation, turn, travels_on=travels_on)
    else:
        _release_hard(command, line, operation, turn, travels_on=travels_on)
    if command.failure is not None:
        _fail_reservation(command, command.failure, turn)
    elif travels_on:
        turn.publish(replace(command, sku=command.lines[command.at + 1].sku, at=command.at + 1))
    if not turn.events:
        turn.ignore("stock.nothing_to_release", f"{command.order_id}/{line.line_id}")
    return None


def _release_soft(
    command: ReleaseStock, line: SlipLine, operation: int, turn: Turn, *, travels_on: bool
) -> None:
    books = turn.books
    reservation = reservation_id(command.order_id, line.line_id)
    waiting = min(line.units, books.waiting.get(reservation, 0))
    soft = min(line.units - waiting, books.soft.get(reservation, 0))
    # Never heard of the line: the slip that promises it is still on its way, by another road.
    is_early = (
        command.failure is None
        and line.units > 0
        and not soft + waiting
        and digest("line", command.order_id, line.line_id) not in books.recent
    )
    if is_early:
        _remember_early(early_reservation_key(reservation), line.units, operation, turn)
    elif soft or waiting or travels_on:
        turn.record(
            Released(
                reservation=reservation,
                soft=soft,
                waiting=waiting,
                failed=command.failure is not None,
                operations=(operation,),
            )
        )


def _release_hard(
    command: ReleaseStock, line: SlipLine, operation: int, turn: Turn, *, travels_on: bool
) -> None:
    if command.location is None:
        raise Rejected("stock.release_without_location", f"{command.slip_id}: {command.scope}")
    books = turn.books
    reservation = reservation_id(command.order_id, line.line_id)
    units = min(line.units, books.hard.get(hard_key(reservation, command.location), 0))
    fulfillment_order_id = command.fulfillment_order_id
    if (
        fulfillment_order_id is not None
        and line.units > 0
        and not units
        and digest("allocate", fulfillment_order_id, line.line_id) not in books.recent
    ):
        key = early_allocation_key(command.scope, fulfillment_order_id, line.line_id)
        _remember_early(key, line.units, operation, turn)
    elif units or travels_on or command.hold_location:
        turn.record(
            Deallocated(
                reservation=reservation,
                location=command.location,
                units=units,
                to_soft=command.scope is ReleaseScope.HARD_TO_SOFT,
                operations=(operation,),
            )
        )
        if units:
            turn.touch(command.location)
    if command.hold_location:
        turn.record(Held(location=command.location, since=micros(turn.now)))
        turn.touch(command.location)


def _remember_early(key: str, units: int, operation: int, turn: Turn) -> None:
    forget_at = turn.now + turn.policy.early_release_kept
    turn.record(ReleasedEarly(key=key, units=units, forget_at=forget_at, operations=(operation,)))


def consume(command: ConsumeStock, turn: Turn) -> None:
    """Goods left: the line's promises are kept, and the books follow unless the feed or a later count already told.

    Goods that left without enough of a promise are a fact all the same.
    """
    if command.units <= 0:
        raise Rejected("stock.units_not_positive", f"{command.shipment_id}: {command.units}")
    books = turn.books
    operation = digest("consume", command.shipment_id, command.line_id)
    if operation in books.recent:
        return turn.ignore("stock.duplicate_consume", f"{command.shipment_id}/{command.line_id}")
    reservation = reservation_id(command.order_id, command.line_id)
    hard = soft = waiting = 0
    if command.allocated:
        # What the location did not hold for the line still fulfils what the line holds or waits for elsewhere.
        hard = min(command.units, books.hard.get(hard_key(reservation, command.location), 0))
        soft = min(command.units - hard, books.soft.get(reservation, 0))
        waiting = min(command.units - hard - soft, books.waiting.get(reservation, 0))

    turn.fact(command.location, command.ref)
    turn.record(
        Consumed(
            reservation=reservation,
            location=command.location,
            hard=hard,
            soft=soft,
            waiting=waiting,
            operations=(operation,),
        )
    )
    turn.touch(command.location)
    ref = digest(command.ref)
    known = known_reference(books, bucket_key(command.location, Bucket.ON_HAND), ref)
    if known is not None and not known.by_command:
        return None  # the feed told of these goods first
    before = level(books, command.location, Bucket.ON_HAND)
    # Two lines of one shipment may share a reference: only a feed's word on it covers them all.
    turn.record(
        Moved(
            location=command.location,
            bucket=Bucket.ON_HAND,
            delta=-command.units,
            ref=ref,
            moved_at=micros(command.occurred_at),
            by_command=True,
        )
    )
    if level(turn.books, command.location, Bucket.ON_HAND) != before:
        turn.moved(
            location=command.location,
            bucket=Bucket.ON_HAND,
            delta=-command.units,
            cause=MovementCause.SALE,
            ref=command.ref,
            moved_at=command.occurred_at,
            order_id=command.order_id,
        )
    return None


def _stop(command: ReserveStock | AllocateStock | ReleaseStock) -> SlipLine:
    """The line of the current stop. Raises Rejected when the slip contradicts itself."""
    if not 0 <= command.at < len(command.lines):
        raise Rejected("stock.malformed_slip", f"stop {command.at} of {len(command.lines)}")
    line = command.lines[command.at]
    if line.sku != command.sku or line.units < 0:
        raise Rejected("stock.malformed_slip", f"{line.units} of {line.sku} at {command.sku}")
    return line
