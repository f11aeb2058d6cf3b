"""Terms of the sku's books: policy, private events, keys, and what the books say. `evolve`, `turn` and the deciders import it.

H on hand, D damaged, Q quality hold, A hard allocated, S safety stock, per location; R soft reserved, per sku. No v1 record
tells of stock in transit, so the formulas' T is 0 and has no column.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import NamedTuple

from crossdock_canonical.identity import LineId, LocationId, OrderId, Sku
from crossdock_canonical.records import Bucket, ReleaseScope
from crossdock_inventory_availability.state_records import InventoryState

#: Operations (a line's reserve, allocate, release, consume) that a sku recognises when they come again after their reservation
#: has gone. About five are spent on one order line, so a slow sku remembers weeks and a hot one its last two dozen lines:
#: enough for a redelivery, and small enough to be written with every message.
OPERATIONS_REMEMBERED = 128
#: Movements after the last count that one bucket of one location keeps, to roll an older count forward.
MOVEMENTS_REMEMBERED = 256
#: References at or before the last count that stay known: the till's and the feed's word on one sale may straddle a count.
COUNTED_REFS_REMEMBERED = 32

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What the business decides.

    default_feed: authority of a location that master data does not know yet.
    channel_buffers: the channels that are told what they may sell, and the units each of them is not told of. A buffer dampens
        what is advertised; an order that was accepted may take everything.
    oversell_owner, oversell_deadline: who resolves a shortage that a fact caused, and by when.
    early_release_kept: how long a release that overtook its slip waits for it.
    """

    default_feed: str = "wms"
    channel_buffers: Mapping[str, int]
    oversell_owner: str = "inventory-control"
    oversell_deadline: timedelta = timedelta(hours=4)
    early_release_kept: timedelta = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class BooksOpened:
    """The sku is heard of for the first time."""

    sku: Sku


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """The authority counted a bucket: `units` is the count with later movements added."""

    location: LocationId
    bucket: Bucket
    units: int
    as_of: int
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """A movement became known; it changes the bucket unless the last count already contains it."""

    location: LocationId
    bucket: Bucket
    delta: int
    ref: int
    moved_at: int
    by_command: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftTold:
    """A count that only reconciles differs from the books, and somebody was told."""

    operations: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """A line asked for soft + waiting + early units: promised, queued, and let go before they were asked for."""

    reservation: str
    slip_id: str
    soft: int
    waiting: int
    early: int
    expires_at: datetime | None
    operations: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A line asked for units that cannot be promised."""

    units: int
    operations: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The line at the head of the queue got all that it waited for."""

    reservation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocated:
    """Soft became hard at a location; `early` units had been let go for good before."""

    reservation: str
    location: LocationId
    units: int
    early: int
    operations: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deallocated:
    """Hard became soft again, or was let go."""

    reservation: str
    location: LocationId
    units: int
    to_soft: bool
    operations: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """Soft and waiting units were let go; `failed` when their slip failed elsewhere."""

    reservation: str
    soft: int
    waiting: int
    failed: bool
    operations: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumed:
    """Goods of a line left: its promises are kept. Goods that nobody promised have none of the three."""

    reservation: str
    location: LocationId
    hard: int
    soft: int
    waiting: int
    operations: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lapsed:
    """The deadline of a reservation passed."""

    reservation: str
    soft: int
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A location reported goods missing."""

    location: LocationId
    since: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedEarly:
    """A release overtook the slip that it lets go."""

    key: str
    units: int
    forget_at: datetime
    operations: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyReleaseMet:
    """The overtaken slip came by."""

    key: str
    units: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyReleaseForgotten:
    """No overtaken slip came."""

    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What the tables now say, where it changed."""

    free: Mapping[str, int]
    salable: Mapping[str, int]


class Movement(NamedTuple):
    """One entry of a journal: digest of the reference, moment in microseconds, delta, and whether a command told of it."""

    ref: int
    moved_at: int
    delta: int
    by_command: int


def micros(moment: datetime) -> int:
    """Microseconds since 1970, exactly."""
    return (moment - _EPOCH) // _MICROSECOND


def digest(*parts: str) -> int:
    """64-bit digest of the parts, for memory that must stay small."""
    return int.from_bytes(blake2b("\x1f".join(parts).encode(), digest_size=8).digest(), "big", signed=True)


def reservation_id(order_id: OrderId, line_id: LineId) -> str:
    return f"{order_id}/{line_id}"


def order_and_line(reservation: str) -> tuple[OrderId, LineId]:
    """An order id is a UUID, so the first slash ends it."""
    order_id, _, line_id = reservation.partition("/")
    return OrderId(order_id), LineId(line_id)


def hard_key(reservation: str, location: LocationId) -> str:
    return f"{reservation}@{location}"


def early_reservation_key(reservation: str) -> str:
    return f"{ReleaseScope.SOFT}|{reservation}"


def early_allocation_key(scope: ReleaseScope, fulfillment_order_id: str, line_id: LineId) -> str:
    return f"{scope}|{fulfillment_order_id}|{line_id}"


def bucket_key(location: str, bucket: Bucket) -> str:
    return f"{location}|{bucket}"


def level(books: InventoryState, location: str, bucket: Bucket) -> int:
    """Units in a bucket."""
    match bucket:
        case Bucket.ON_HAND:
            return books.on_hand.get(location, 0)
        case Bucket.DAMAGED:
            return books.damaged.get(location, 0)
        case Bucket.QUALITY_HOLD:
            return books.quality_hold.get(location, 0)


def usable(books: InventoryState, location: str) -> int:
    """H - D - Q - A at a location. A bucket below zero (its movements came out of order) makes nothing usable."""
    unfit = max(0, books.damaged.get(location, 0)) + max(0, books.quality_hold.get(location, 0))
    return books.on_hand.get(location, 0) - unfit - books.allocated.get(location, 0)


def network_balance(books: InventoryState) -> int:
    """Σ(H - D - Q - A) - R: what every promise must leave at 0 or more."""
    return books.usable_total - books.soft_total


def journal(books: InventoryState, key: str) -> Iterator[Movement]:
    """The remembered movements of a bucket, oldest first."""
    flat = books.journal.get(key, ())
    return (Movement(*flat[index : index + 4]) for index in range(0, len(flat), 4))


def known_reference(books: InventoryState, key: str, ref: int) -> Movement | None:
    """The remembered movement of this reference."""
    if ref not in books.journal.get(key, ()):  # the common answer, without building entries
        return None
    return next((movement for movement in journal(books, key) if movement.ref == ref), None)


def moved_since(books: InventoryState, key: str, moment: int) -> int:
    """Sum of the remembered movements after a moment."""
    return sum(movement.delta for movement in journal(books, key) if movement.moved_at > moment)
