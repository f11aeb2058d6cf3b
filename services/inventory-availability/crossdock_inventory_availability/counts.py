"""What feeds report and returns bring back: counts and movements of physical stock. Called by `decide`.

H = count(as_of) + Σ movements after as_of, each reference once (FLOW "Invariants, exactly"). One feed per location is its
authority; every other one, and a count that is already net of commitments, only reconciles.
"""

from __future__ import annotations

from crossdock_canonical.decider import Rejected
from crossdock_canonical.records import (
    Basis,
    Bucket,
    MovementCause,
    RestockReturn,
    StockDriftDetected,
    StockMovement,
    StockSnapshot,
)
from crossdock_inventory_availability.model import (
    Counted,
    DriftTold,
    Moved,
    bucket_key,
    digest,
    known_reference,
    level,
    micros,
    moved_since,
)
from crossdock_inventory_availability.turn import Turn

#: Reasons of a feed that name what an order will explain; every other movement is the warehouse's own.
_CAUSES = {"sale": MovementCause.SALE, "return": MovementCause.RETURN}


def count(command: StockSnapshot, turn: Turn) -> None:
    """The authority's count replaces the books as of its moment; any other count is compared with them."""
    turn.weigh_all()
    key = bucket_key(command.location, command.bucket)
    books = turn.books
    as_of = micros(command.as_of)
    is_authority = command.feed == turn.authority(command.location) and command.basis is Basis.ON_HAND
    counted_at = books.counted_at.get(key)
    last = None if counted_at is None else (counted_at, books.count_sequence.get(key, 0))
    if last is not None and (as_of < last[0] or (is_authority and (as_of, command.sequence) <= last)):
        return turn.ignore("stock.count_out_of_order", f"{command.ref} of {command.as_of.isoformat()}")
    if as_of < books.forgotten_until.get(key, as_of):
        return turn.ignore("stock.count_beyond_memory", f"{command.ref} of {command.as_of.isoformat()}")
    operation = digest("drift", key, command.feed, command.ref)
    if not is_authority and operation in books.recent:
        return turn.ignore("stock.count_known", command.ref)

    later = moved_since(books, key, as_of)
    if command.basis is Basis.SALABLE:
        expected = turn.free(command.location)
    else:
        expected = level(books, command.location, command.bucket) - later
    difference = command.units - expected
    if difference and (last is not None or not is_authority):
        turn.publish(
            StockDriftDetected(
                sku=books.sku,
                location=command.location,
                feed=command.feed,
                expected=expected,
                reported=command.units,
                authoritative=is_authority,
                ref=command.ref,
                as_of=command.as_of,
            )
        )
    if not is_authority:
        if difference:
            turn.remember(DriftTold(operations=(operation,)))
        else:
            turn.ignore("stock.count_agrees", command.ref)
        return None

    turn.fact(command.location, command.ref)
    turn.record(
        Counted(
            location=command.location,
            bucket=command.bucket,
            units=command.units + later,
            as_of=as_of,
            sequence=command.sequence,
        )
    )
    if difference:
        turn.moved(
            location=command.location,
            bucket=command.bucket,
            delta=difference,
            cause=MovementCause.SNAPSHOT if last is None else MovementCause.ADJUSTMENT,
            ref=command.ref,
            moved_at=command.as_of,
        )
    else:
        turn.touch(command.location)  # a count that agrees may still have ended a hold
    return None


def move(command: StockMovement, turn: Turn) -> None:
    """The authority's movement changes its bucket once, whoever told of its reference first."""
    if command.feed != turn.authority(command.location):
        return turn.ignore("stock.feed_not_authoritative", f"{command.feed} at {command.location}")
    if command.delta == 0:
        return turn.ignore("stock.no_movement", command.ref)
    key = bucket_key(command.location, command.bucket)
    ref = digest(command.ref)
    moved_at = micros(command.moved_at)
    if known_reference(turn.books, key, ref):
        return turn.ignore("stock.movement_known", command.ref)
    if moved_at < turn.books.forgotten_until.get(key, moved_at):
        return turn.ignore("stock.movement_beyond_memory", f"{command.ref} of {command.moved_at.isoformat()}")

    turn.weigh_all()
    turn.fact(command.location, command.ref)
    before = level(turn.books, command.location, command.bucket)
    turn.record(
        Moved(
            location=command.location,
            bucket=command.bucket,
            delta=command.delta,
            ref=ref,
            moved_at=moved_at,
        )
    )
    if level(turn.books, command.location, command.bucket) != before:
        turn.moved(
            location=command.location,
            bucket=command.bucket,
            delta=command.delta,
            cause=_CAUSES.get(command.reason, MovementCause.FEED),
            ref=command.ref,
            moved_at=command.moved_at,
        )
    return None


def restock(command: RestockReturn, turn: Turn) -> None:
    """Returned goods are on hand again; those unfit for sale are on hand and in their bucket."""
    if command.units <= 0:
        raise Rejected("stock.units_not_positive", f"{command.ref}: {command.units}")
    buckets = (Bucket.ON_HAND,) if command.bucket is Bucket.ON_HAND else (Bucket.ON_HAND, command.bucket)
    ref = digest(command.ref)
    turn.fact(command.location, command.ref)
    for bucket in buckets:
        if known_reference(turn.books, bucket_key(command.location, bucket), ref):
            continue
        before = level(turn.books, command.location, bucket)
        turn.record(
            Moved(
                location=command.location,
                bucket=bucket,
                delta=command.units,
                ref=ref,
                moved_at=micros(command.occurred_at),
                by_command=True,
            )
        )
        if level(turn.books, command.location, bucket) != before:
            turn.moved(
                location=command.location,
                bucket=bucket,
                delta=command.units,
                cause=MovementCause.RETURN,
                ref=command.ref,
                moved_at=command.occurred_at,
                order_id=command.order_id,
            )
    if not turn.events:
        turn.ignore("stock.movement_known", command.ref)
