"""The books of one sku, kept anew from what was said about it. `stock` feeds them and holds the published figures against them.

Per location H on hand, D damaged, Q quality hold, A hard allocated; per sku R soft reserved. H (and D, Q alike) is the count
of the location's authority plus the movements after its moment, each reference once. Usable at a location is H - D - Q - A,
the network's balance is the sum of that less R. No record tells of sellable stock in transit, so that T is 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from crossdock_canonical.records import (
    Bucket,
    ConsumeStock,
    ReleaseScope,
    ReleaseStock,
    RestockReturn,
    SlipLine,
    StockMovement,
    StockSnapshot,
)

K = TypeVar("K")


@dataclass(slots=True)
class Level:
    """One condition of stock at one location: the count and what moved since."""

    counted: tuple[datetime, int] | None = None
    units: int = 0
    moved: list[tuple[datetime, int]] = field(default_factory=list)
    known: dict[str, bool] = field(default_factory=dict)  # reference -> told by a command, not by the feed

    def count(self, at: datetime, sequence: int, units: int) -> bool:
        """Take a count unless a later one was taken."""
        if self.counted is not None and (at, sequence) <= self.counted:
            return False
        self.counted = (at, sequence)
        self.moved = [each for each in self.moved if each[0] > at]
        self.units = units + sum(delta for _, delta in self.moved)
        return True

    def move(self, at: datetime, ref: str, delta: int, *, by_command: bool) -> None:
        """Take a movement; what the count contains already only makes its reference known."""
        self.known.setdefault(ref, by_command)
        if self.counted is None or at > self.counted[0]:
            self.moved.append((at, delta))
            self.units += delta


class SkuBooks:
    """Stock and promises of one sku.

    soft, waiting: units by reservation, `<order id>/<line id>`; hard: by `<reservation>@<location>`. The totals count every
    unit that was ever asked for: requested = soft + hard + waiting + consumed + released + expired + failed.
    """

    def __init__(self, sku: str) -> None:
        self.sku = sku
        self.levels: dict[tuple[str, Bucket], Level] = {}
        self.soft: dict[str, int] = {}
        self.waiting: dict[str, int] = {}
        self.hard: dict[str, int] = {}
        self.allocated: dict[str, int] = {}
        self.held_since: dict[str, datetime] = {}
        self.early: dict[tuple[str, ...], int] = {}
        self.done: set[tuple[str, ...]] = set()
        self.requested = self.consumed = self.released = self.expired = self.failed = 0
        self.soft_total = 0
        self.usable: dict[str, int] = {}
        self.usable_total = 0

    def units(self, location: str, bucket: Bucket = Bucket.ON_HAND) -> int:
        found = self.levels.get((location, bucket))
        return 0 if found is None else found.units

    def balance(self) -> int:
        """Σ(H - D - Q - A) - R."""
        return self.usable_total - self.soft_total

    def is_new(self, *operation: str) -> bool:
        """Whether an operation comes for the first time; again, it changes nothing."""
        if operation in self.done:
            return False
        self.done.add(operation)
        return True

    # ---- facts

    def count(self, told: StockSnapshot) -> None:
        """A count of the location's authority. One at or after the moment goods were missed ends the hold."""
        if not self._level(told.location, told.bucket).count(told.as_of, told.sequence, told.units):
            return
        since = self.held_since.get(told.location)
        if told.bucket is Bucket.ON_HAND and since is not None and told.as_of >= since:
            del self.held_since[told.location]
        self._weigh(told.location)

    def move(self, told: StockMovement) -> None:
        """A movement that the location's authority tells of."""
        level = self._level(told.location, told.bucket)
        if told.delta and told.ref not in level.known:
            level.move(told.moved_at, told.ref, told.delta, by_command=False)
            self._weigh(told.location)

    def restock(self, told: RestockReturn) -> None:
        """Goods came back: on hand, and in their bucket when they cannot be sold."""
        for bucket in dict.fromkeys((Bucket.ON_HAND, told.bucket)):
            level = self._level(told.location, bucket)
            if told.ref not in level.known:
                level.move(told.occurred_at, told.ref, told.units, by_command=True)
        self._weigh(told.location)

    def consume(self, told: ConsumeStock) -> int:
        """Goods left. Returns the units that left against a promise and had none."""
        if not self.is_new("consume", told.shipment_id, told.line_id):
            return 0
        reservation = f"{told.order_id}/{told.line_id}"
        left = told.units if told.allocated else 0
        hard = self._take_hard(reservation, told.location, left)
        soft = self._take_soft(reservation, left - hard)
        waiting = _take(self.waiting, reservation, left - hard - soft)
        self.consumed += hard + soft + waiting
        level = self._level(told.location, Bucket.ON_HAND)
        if level.known.get(told.ref, True):  # else the feed told of these very goods
            level.move(told.occurred_at, told.ref, -told.units, by_command=True)
        self._weigh(told.location)
        return left - hard - soft - waiting

    # ---- promises

    def reserve(self, reservation: str, *, soft: int, waiting: int, early: int) -> None:
        """Units were promised and queued; `early` had been let go before they were asked for."""
        self.requested += soft + waiting + early
        self.released += early
        self._add_soft(reservation, soft)
        _add(self.waiting, reservation, waiting)

    def refuse(self, units: int) -> None:
        self.requested += units
        self.failed += units

    def serve(self, reservation: str, units: int) -> int:
        """The queue gave units. Returns how many of them did not wait."""
        served = _take(self.waiting, reservation, units)
        self._add_soft(reservation, units)
        return units - served

    def allocate(self, reservation: str, location: str, *, units: int, early: int) -> int:
        """Soft became hard, and `early` had been let go before. Returns the units that were not soft."""
        missing = units + early - self._take_soft(reservation, units + early)
        self.released += early
        _add(self.hard, f"{reservation}@{location}", units)
        _add(self.allocated, location, units)
        self._weigh(location)
        return missing

    def soften(self, reservation: str, location: str, units: int) -> None:
        """Hard became soft again."""
        self._add_soft(reservation, self._take_hard(reservation, location, units))

    def release(self, told: ReleaseStock, line: SlipLine) -> None:
        """Let go of what there is of a line's promise. What is not there yet, and may come, is let go when it comes."""
        back = told.failure is not None
        if not self.is_new("walk back" if back else "release", told.slip_id, told.scope, line.line_id):
            return
        reservation = f"{told.order_id}/{line.line_id}"
        if told.scope is ReleaseScope.SOFT:
            waiting = _take(self.waiting, reservation, line.units)
            soft = self._take_soft(reservation, line.units - waiting)
            if back:
                self.failed += waiting + soft
            else:
                self.released += waiting + soft
            if not back and not waiting + soft and ("line", reservation) not in self.done:
                self._let_go_early(("soft", reservation), line.units)
            return
        location, order = told.location or "", told.fulfillment_order_id
        units = self._take_hard(reservation, location, line.units)
        if told.scope is ReleaseScope.HARD_TO_SOFT:
            self._add_soft(reservation, units)
        else:
            self.released += units
        if order is not None and not units and ("allocate", order, line.line_id) not in self.done:
            self._let_go_early((told.scope, order, line.line_id), line.units)

    def expire(self, reservation: str) -> int:
        """The deadline of a reservation passed. Returns the units that are free again."""
        units = self._take_soft(reservation, self.soft.get(reservation, 0))
        units += self.waiting.pop(reservation, 0)
        self.expired += units
        return units

    def hold(self, location: str, since: datetime) -> None:
        self.held_since[location] = since

    # ---- arithmetic

    def _level(self, location: str, bucket: Bucket) -> Level:
        return self.levels.setdefault((location, bucket), Level())

    def _weigh(self, location: str) -> None:
        """Usable again at a location. A bucket below zero, its movements having come out of order, makes nothing usable."""
        unfit = max(0, self.units(location, Bucket.DAMAGED)) + max(
            0, self.units(location, Bucket.QUALITY_HOLD)
        )
        usable = self.units(location) - unfit - self.allocated.get(location, 0)
        self.usable_total += usable - self.usable.get(location, 0)
        self.usable[location] = usable

    def _add_soft(self, reservation: str, units: int) -> None:
        _add(self.soft, reservation, units)
        self.soft_total += units

    def _take_soft(self, reservation: str, units: int) -> int:
        taken = _take(self.soft, reservation, units)
        self.soft_total -= taken
        return taken

    def _take_hard(self, reservation: str, location: str, units: int) -> int:
        taken = _take(self.hard, f"{reservation}@{location}", units)
        if taken:
            _take(self.allocated, location, taken)
            self._weigh(location)
        return taken

    def _let_go_early(self, key: tuple[str, ...], units: int) -> None:
        if units:
            self.early[key] = self.early.get(key, 0) + units


def _add(column: dict[str, int], key: str, units: int) -> None:
    if units:
        column[key] = column.get(key, 0) + units


def _take(column: dict[str, int], key: str, units: int) -> int:
    """Take up to so many units; what reaches zero goes. Returns how many were taken."""
    there = column.get(key, 0)
    taken = min(there, units)
    if taken == there:
        column.pop(key, None)
    else:
        column[key] = there - taken
    return taken


def without_zeros(column: Mapping[K, int]) -> dict[K, int]:
    """The column without what is zero: absent and zero mean the same."""
    return {key: units for key, units in column.items() if units}
