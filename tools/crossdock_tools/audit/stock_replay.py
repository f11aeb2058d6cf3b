"""Every sku's messages taken again, in the order in which their owner took them. `stock` asks for what that comes to.

Whether a promise was given is the owner's to decide, and is read from its answer; what it has to keep to is reckoned here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from crossdock_canonical.records import (
    AllocateStock,
    AllocationFailed,
    Basis,
    Bucket,
    ConsumeStock,
    LocationDefined,
    OversellDetected,
    ReleaseScope,
    ReleaseStock,
    ReservationExpired,
    ReservationFailed,
    ReserveStock,
    RestockReturn,
    SalableStock,
    StockAllocated,
    StockMoved,
    StockMovement,
    StockPosition,
    StockReserved,
    StockSnapshot,
)
from crossdock_tools.audit.evidence import Evidence, place
from crossdock_tools.audit.finding import Finding
from crossdock_tools.audit.stock_books import SkuBooks, without_zeros
from crossdock_tools.audit.stock_order import answers_of, by_version
from crossdock_tools.audit.taken import Fired, accepted, covers, in_order
from crossdock_tools.topic_reader import Entry

INVENTORY = "inventory-availability"
#: Authority of a location that master data does not know.
DEFAULT_FEED = "wms"
_FEEDS = (StockSnapshot, StockMovement)
_COMMANDS = (ReserveStock, ReleaseStock, AllocateStock, ConsumeStock, RestockReturn)
_EFFECTS = (
    ReserveStock,
    ReleaseStock,
    AllocateStock,
    StockReserved,
    ReservationFailed,
    ReservationExpired,
    StockAllocated,
    AllocationFailed,
    StockMoved,
    OversellDetected,
    StockPosition,
    SalableStock,
)
#: What inventory cannot take into its books because it came too late for its bounded memory; it says so and is believed.
_BEYOND_MEMORY = frozenset(("stock.count_beyond_memory", "stock.movement_beyond_memory"))


class StockReplay:
    """All skus' books, and what was found while keeping them."""

    def __init__(self, evidence: Evidence) -> None:
        self.books: dict[str, SkuBooks] = {}
        self.moves = Finding(2, "on hand is the last count and every movement since, once")
        self.promises = Finding(2, "no promise exceeds what is there, in the network and at its location")
        self.shortages = Finding(
            2, "a fact that takes what was promised is told at once, with cause, owner and deadline"
        )
        self.units = Finding(2, "requested = soft + hard + queued + consumed + released + expired + failed")
        self.effects: dict[str, list[Any]] = defaultdict(list)
        self.told_at: dict[str, datetime] = {}
        for entry in evidence.of(*_EFFECTS):
            self.effects[entry.meta.causation_id].append(entry.body)
            self.told_at[entry.meta.causation_id] = entry.meta.recorded_at
        self._feeds: dict[str, str] = {
            entry.body.location: entry.body.feed for entry in evidence.of(LocationDefined)
        }

    def take(self, entry: Entry) -> None:
        """One message of a sku, with all that it led to."""
        body = entry.body
        books = self.books.setdefault(body.sku, SkuBooks(body.sku))
        # A message that came twice led to something only once.
        effects = self.effects.pop(entry.meta.event_id, ())
        match body:
            case ReserveStock():
                self._reserve(books, entry, body, effects)
            case AllocateStock():
                self._allocate(books, entry, body, effects)
            case ReleaseStock():
                books.release(body, body.lines[body.at])
                if body.hold_location and body.location is not None:
                    books.hold(body.location, self.told_at.get(entry.meta.event_id, entry.meta.recorded_at))
            case _:
                self._fact(books, entry, body, effects)
        self._serve(books, place(entry.record), effects)

    def fire(self, timer: Fired) -> None:
        """A timer of a sku: a reservation lapses, or nobody waits any longer for a slip that was overtaken."""
        books = self.books.setdefault(timer.key, SkuBooks(timer.key))
        effects = self.effects.get(timer.causation_id, ())
        kind, _, subject = timer.name.partition(":")
        if kind == "expire":
            told = sum(each.units for each in effects if isinstance(each, ReservationExpired))
            self.units.same(f"{timer.key}: units that expired of {subject}", books.expire(subject), told)
        elif kind == "forget":
            books.early.pop(tuple(subject.split("|")), None)
        self._serve(books, timer.causation_id, effects)

    def _fact(self, books: SkuBooks, entry: Entry, body: Any, effects: Sequence[Any]) -> None:
        """A count, a movement, goods that left or came back: physical truth, which may break a promise but must say so."""
        location = body.location
        before = {bucket: books.units(location, bucket) for bucket in Bucket}
        short_before, network_before = _short(books, location)
        match body:
            case StockSnapshot():
                if body.basis is Basis.ON_HAND and body.feed == self._feeds.get(location, DEFAULT_FEED):
                    books.count(body)
            case StockMovement():
                if body.feed == self._feeds.get(location, DEFAULT_FEED):
                    books.move(body)
            case RestockReturn():
                books.restock(body)
            case ConsumeStock():
                unpromised = books.consume(body)
                self.units.checked += 1
                if unpromised:
                    self.units.violations.append(
                        f"{place(entry.record)}: {unpromised} units of {body.order_id}/{body.line_id} were promised to nobody"
                    )
        changed = {bucket: books.units(location, bucket) - units for bucket, units in before.items()}
        moved = [each for each in effects if isinstance(each, StockMoved)]
        told: Counter[Bucket] = Counter()
        for each in moved:
            told[each.bucket] += each.delta
        where = f"{body.sku} at {location} after {body.ref} ({place(entry.record)})"
        self.moves.same(f"{where}: change", without_zeros(changed), without_zeros(told))
        if moved:
            self.moves.same(f"{where}: on hand", books.units(location), moved[-1].on_hand)
        short, network = _short(books, location)
        due: dict[str | None, int] = {}
        if short > short_before:
            due[location] = short
        if network > network_before:
            due[None] = network
        shortages = [each for each in effects if isinstance(each, OversellDetected)]
        self.shortages.same(f"{where}: short", due, {each.location: each.short for each in shortages})
        for shortage in shortages:
            self.shortages.checked += 1
            is_owned = shortage.owner and shortage.deadline > entry.meta.recorded_at
            if shortage.cause != body.ref or not is_owned:
                self.shortages.violations.append(f"{where}: no cause, owner or deadline in {shortage}")

    def _reserve(self, books: SkuBooks, entry: Entry, body: ReserveStock, effects: Sequence[Any]) -> None:
        line = body.lines[body.at]
        reservation = f"{body.order_id}/{line.line_id}"
        if not books.is_new("reserve", body.slip_id, line.line_id):
            return
        books.done.add(("line", reservation))
        where = f"{place(entry.record)} {body.slip_id} stop {body.at}"
        result = next(iter(answers_of(body, effects)), None)
        if result is None:
            refused = any(
                isinstance(each, ReservationFailed) or (isinstance(each, ReleaseStock) and each.failure)
                for each in effects
            )
            books.refuse(line.units)
            self.units.same(f"{where}: answers", 1, int(refused))
            return
        self.units.same(f"{where}: promised and queued", line.units, result.reserved + result.backordered)
        key = (ReleaseScope.SOFT, reservation)
        early = min(line.units, books.early.get(key, 0)) if body.at else 0
        if early:
            books.early[key] -= early
        self._promise(books, f"{where}: {line.sku}", result.reserved - early)
        books.reserve(reservation, soft=result.reserved - early, waiting=result.backordered, early=early)

    def _allocate(self, books: SkuBooks, entry: Entry, body: AllocateStock, effects: Sequence[Any]) -> None:
        line = body.lines[body.at]
        reservation = f"{body.order_id}/{line.line_id}"
        where = f"{place(entry.record)} {body.fulfillment_order_id} stop {body.at}"
        if body.failure is not None:
            if books.is_new("walk back", body.fulfillment_order_id, line.line_id):
                books.soften(reservation, body.location, line.units)
            return
        if not books.is_new("allocate", body.fulfillment_order_id, line.line_id):
            return
        held = any(
            isinstance(each, StockAllocated) or (isinstance(each, AllocateStock) and each.failure is None)
            for each in effects
        )
        failed = any(
            isinstance(each, AllocationFailed)
            or (isinstance(each, AllocateStock) and each.failure is not None)
            for each in effects
        )
        self.units.same(f"{where}: answers", 1, held + failed)
        freed, softened = (
            min(line.units, books.early.pop((scope, body.fulfillment_order_id, line.line_id), 0))
            if body.at
            else 0
            for scope in (ReleaseScope.HARD_TO_FREE, ReleaseScope.HARD_TO_SOFT)
        )
        units = line.units - freed - min(softened, line.units - freed) if held else 0
        missing = books.allocate(
            reservation,
            body.location,
            units=units,
            early=min(freed, books.soft.get(reservation, 0)),
        )
        if held:
            self.promises.same(
                f"{where}: {missing} units of {reservation} were not reserved; missing", 0, missing
            )
            short = -books.usable.get(body.location, 0) if units else 0
            self.promises.same(f"{where}: {line.sku} beyond what {body.location} has", 0, max(0, short))

    def _serve(self, books: SkuBooks, where: str, effects: Sequence[Any]) -> None:
        """The sku's queue after it: first come, first served, and never more than there is."""
        for told in effects:
            if not isinstance(told, StockReserved) or not told.backfill:
                continue
            for line in told.lines:
                reservation = f"{told.order_id}/{line.line_id}"
                self._promise(books, f"{where}: queue of {line.sku}", line.reserved)
                missing = books.serve(reservation, line.reserved)
                self.units.same(f"{where}: units served of {reservation} that did not wait", 0, missing)

    def _promise(self, books: SkuBooks, where: str, units: int) -> None:
        """Soft promises for the whole network are about to be given."""
        if units:
            beyond = max(0, units - max(0, books.balance()))
            self.promises.same(f"{where}: units promised beyond supply", 0, beyond)


def _short(books: SkuBooks, location: str) -> tuple[int, int]:
    """Units that are promised beyond what is there: at a location, and in the network."""
    return max(0, -books.usable.get(location, 0)), max(0, -books.balance())


def play(evidence: Evidence, replay: StockReplay) -> None:
    """Take every sku's messages in the order of their task: by its journal, else as the versions of their effects tell."""
    beyond_memory = {
        (topic, turn.record.partition, offset)
        for (service, _), turns in evidence.journals.items()
        if service == INVENTORY
        for turn in turns
        for topic, offset, code in turn.ignored
        if code in _BEYOND_MEMORY
    }
    inputs: dict[int, list[Entry]] = defaultdict(list)
    for entry in accepted(evidence, INVENTORY, *_FEEDS, *_COMMANDS):
        record = entry.record
        if (record.topic, record.partition, record.offset) not in beyond_memory:
            inputs[record.partition].append(entry)
    for partition, entries in inputs.items():
        turns = evidence.journals.get((INVENTORY, partition), [])
        steps = (
            in_order(evidence, INVENTORY, partition, entries)
            if covers(turns, entries)
            else by_version(entries, replay.effects, replay.told_at)
        )
        for step in steps:
            if isinstance(step, Fired):
                replay.fire(step)
            else:
                replay.take(step)
