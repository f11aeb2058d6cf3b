"""One decision in the making: the deciders write into a `Turn`, and closing it does what every change of the books calls for.

That is, in this order: tell of a shortage that a fact caused, serve the queue, publish what changed. A turn lives inside
one call of `decide`; nothing outside sees it.
"""

from __future__ import annotations

from datetime import datetime

from crossdock_canonical.decider import Ignored, Lookup
from crossdock_canonical.identity import LocationId, OrderId, Sku
from crossdock_canonical.records import (
    Bucket,
    LocationDefined,
    LocationFree,
    MovementCause,
    OversellDetected,
    SalableStock,
    SlipResult,
    StockAdjusted,
    StockMoved,
    StockPosition,
    StockReserved,
)
from crossdock_inventory_availability.evolve import evolve
from crossdock_inventory_availability.model import (
    BooksOpened,
    Policy,
    Published,
    Served,
    level,
    network_balance,
    order_and_line,
    usable,
)
from crossdock_inventory_availability.state_records import InventoryState


class Turn:
    """The books as they become, and the events so far.

    `books` are the sku's books after every event recorded so far.
    """

    def __init__(
        self,
        state: InventoryState | None,
        *,
        sku: Sku,
        now: datetime,
        policy: Policy,
        locations: Lookup[LocationDefined],
    ) -> None:
        self.now = now
        self.policy = policy
        self.books = state or InventoryState(sku=sku)
        self.events: list[object] = []
        self._is_new = state is None
        self._has_changed = False
        self._locations = locations
        self._touched: set[LocationId] = set()
        self._fact: tuple[LocationId, str, int, int] | None = None
        # Hundreds of stores may hold the sku, and a decision is about one of them: what was last published is what is free,
        # but for the locations that the decision touches.
        self._free = dict(self.books.published_free)
        self._free_total = sum(self._free.values())

    def record(self, event: object) -> None:
        """A private event: changes the books now."""
        self.remember(event)
        self._has_changed = True

    def remember(self, event: object) -> None:
        """A private event that changes nothing that others see: only what the books remember."""
        if self._is_new:
            self.events.append(BooksOpened(sku=self.books.sku))
            self._is_new = False
        self.events.append(event)
        books = evolve(self.books, event)
        assert books is not None
        self.books = books

    def publish(self, record: object) -> None:
        """A published record: says something, changes nothing."""
        self.events.append(record)

    def ignore(self, code: str, detail: str = "") -> None:
        """The command changes nothing, and why."""
        assert not self.events, "what changed something is not ignored"
        self.events.append(Ignored(code, detail))

    def touch(self, location: LocationId) -> None:
        """Stock, allocation or hold of this location changed."""
        self._touched.add(location)
        self._weigh(location)

    def weigh_all(self) -> None:
        """Ask master data again: a changed safety stock counts from the sku's next count or movement on."""
        for location in self.books.on_hand:
            self._weigh(LocationId(location))

    def fact(self, location: LocationId, cause: str) -> None:
        """What follows is a fact and may leave more promised than there is; `cause` is its reference. Call it before recording."""
        short_here = max(0, -usable(self.books, location))
        short_in_network = max(0, -network_balance(self.books))
        self._fact = (location, cause, short_here, short_in_network)

    def moved(
        self,
        *,
        location: LocationId,
        bucket: Bucket,
        delta: int,
        cause: MovementCause,
        ref: str,
        moved_at: datetime,
        order_id: OrderId | None = None,
    ) -> None:
        """Tell that physical stock changed, once its event is recorded."""
        self.publish(
            StockMoved(
                sku=self.books.sku,
                location=location,
                bucket=bucket,
                delta=delta,
                on_hand=level(self.books, location, Bucket.ON_HAND),
                version=self.books.version,
                cause=cause,
                ref=ref,
                order_id=order_id,
                moved_at=moved_at,
            )
        )
        if cause is MovementCause.ADJUSTMENT:
            self.publish(
                StockAdjusted(
                    sku=self.books.sku,
                    location=location,
                    bucket=bucket,
                    delta=delta,
                    version=self.books.version,
                    ref=ref,
                    adjusted_at=moved_at,
                )
            )
        self.touch(location)

    def authority(self, location: LocationId) -> str:
        """The feed whose word on this location's stock counts."""
        rows = self._locations(location)
        return rows[0].feed if rows else self.policy.default_feed

    def free(self, location: LocationId) -> int:
        """What may be allocated at a location: max(0, H - D - Q - A - S); 0 while it is held."""
        self._weigh(location)
        return self._free[location]

    def free_elsewhere(self) -> tuple[LocationFree, ...]:
        """Where the sku may still be allocated."""
        return tuple(
            LocationFree(location=LocationId(location), free=free)
            for location, free in self._free.items()
            if free
        )

    def promisable(self) -> int:
        """What the network could still reserve, the queue not yet served.

        Σ max(0, H - D - Q - A - S) - R, and never more than Σ(H - D - Q - A) - R: a location that a fact drove below zero
        is short of goods that its neighbours may have to make good.
        """
        return max(0, min(self._free_total, self.books.usable_total) - self.books.soft_total)

    def close(self) -> tuple[object, ...]:
        """Everything the decision says."""
        if self._has_changed:
            self._tell_shortage()
            self._serve_queue()
            self._publish_tables()
        return tuple(self.events)

    def _weigh(self, location: LocationId) -> None:
        """Bring what is free at one location up to date."""
        rows = self._locations(location)
        safety_stock = rows[0].safety_stock if rows else 0
        is_held = location in self.books.held_since
        units = 0 if is_held else max(0, usable(self.books, location) - safety_stock)
        self._free_total += units - self._free.get(location, 0)
        self._free[location] = units

    def _tell_shortage(self) -> None:
        if self._fact is None:
            return
        location, cause, short_before, network_short_before = self._fact
        short = -usable(self.books, location)
        network_short = -network_balance(self.books)
        deadline = self.now + self.policy.oversell_deadline
        for where, units, before in (
            (location, short, short_before),
            (None, network_short, network_short_before),
        ):
            if units > before:
                self.publish(
                    OversellDetected(
                        sku=self.books.sku,
                        location=where,
                        short=units,
                        cause=cause,
                        owner=self.policy.oversell_owner,
                        deadline=deadline,
                    )
                )

    def _serve_queue(self) -> None:
        """First come first served, each line as a whole: a small order does not overtake a large one that waits longer."""
        while self.books.queue:
            reservation = self.books.queue[0]
            units = self.books.waiting[reservation]
            if units > self.promisable():
                return
            order_id, line_id = order_and_line(reservation)
            asked = self.books.asked[reservation]
            slip_id = self.books.waiting_slips[reservation]
            self.record(Served(reservation=reservation))
            self.publish(
                StockReserved(
                    order_id=order_id,
                    slip_id=slip_id,
                    lines=(SlipResult(line_id=line_id, sku=self.books.sku, units=asked, reserved=units),),
                    backfill=True,
                    sequence=self.books.version,
                )
            )

    def _publish_tables(self) -> None:
        """Positions and available-to-sell where they differ from what was last said."""
        books = self.books
        changed: dict[str, int] = {location: self._free[location] for location in self._touched}
        if self._free != books.published_free:
            changed |= {
                location: units
                for location, units in self._free.items()
                if books.published_free.get(location) != units
            }
        for location, units in sorted(changed.items()):
            self.publish(
                StockPosition(
                    sku=books.sku,
                    location=LocationId(location),
                    on_hand=books.on_hand.get(location, 0),
                    allocated=books.allocated.get(location, 0),
                    free=units,
                    held=location in books.held_since,
                    version=books.version,
                    as_of=self.now,
                )
            )
        available = max(0, self._free_total - books.soft_total - books.waiting_total)
        salable = {
            channel: max(0, available - buffer) for channel, buffer in self.policy.channel_buffers.items()
        }
        news = {
            channel: units
            for channel, units in salable.items()
            if books.published_salable.get(channel) != units
        }
        for channel, units in news.items():
            self.publish(
                SalableStock(
                    sku=books.sku, channel=channel, units=units, version=books.version, as_of=self.now
                )
            )
        if changed or news:
            self.record(Published(free=changed, salable=news))
