"""Invariant 2: no promise beyond supply; and what stock says of itself is true. One of the audit's subjects.

Every count, movement and command of a sku is taken again (`stock_replay`) into books of our own (`stock_books`); here they are
held against what inventory publishes and keeps.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from crossdock_canonical.records import (
    Bucket,
    LocationDefined,
    ReserveStock,
    SalableStock,
    StockMoved,
    StockPosition,
    StockSnapshot,
)
from crossdock_tools.audit.books import Books
from crossdock_tools.audit.evidence import Evidence, place
from crossdock_tools.audit.finding import Finding, closed
from crossdock_tools.audit.report import Check
from crossdock_tools.audit.stock_books import SkuBooks, without_zeros
from crossdock_tools.audit.stock_replay import INVENTORY, StockReplay, play
from crossdock_tools.audit.taken import why_not


def _compare_tables(evidence: Evidence, skus: Mapping[str, SkuBooks], finding: Finding) -> None:
    """The last row of every position and every channel's stock.

    A location's safety stock may be any that it ever had: a change counts from the sku's next movement on. What a channel is
    told less is a setting, unknown here, but one and the same for all skus.
    """
    safety_stock: dict[str, set[int]] = defaultdict(lambda: {0})
    for entry in evidence.of(LocationDefined):
        safety_stock[entry.body.location].add(entry.body.safety_stock)
    positions = {(entry.body.sku, entry.body.location): entry.body for entry in evidence.of(StockPosition)}
    free: Counter[str] = Counter()
    for (sku, location), row in positions.items():
        free[sku] += row.free
        books = skus.get(sku) or SkuBooks(sku)
        is_held = location in books.held_since
        ours = (books.units(location), books.allocated.get(location, 0), is_held)
        finding.same(
            f"{sku} at {location}: on hand, allocated, held", ours, (row.on_hand, row.allocated, row.held)
        )
        usable = books.usable.get(location, 0)
        possible = {0} if is_held else {max(0, usable - safety) for safety in safety_stock[location]}
        finding.same(f"{sku} at {location}: free", row.free if row.free in possible else possible, row.free)
    for sku, books in skus.items():
        for location in books.usable:
            if (sku, location) not in positions and (books.units(location) or books.allocated.get(location)):
                finding.violations.append(f"{sku} at {location}: no position is published")
    rows: dict[str, dict[str, int]] = defaultdict(dict)
    for entry in evidence.of(SalableStock):
        rows[entry.body.channel][entry.body.sku] = entry.body.units
    for channel, told in rows.items():
        salable = {}
        for sku in told:
            books = skus.get(sku) or SkuBooks(sku)
            salable[sku] = max(0, free[sku] - books.soft_total - sum(books.waiting.values()))
        withheld = Counter(salable[sku] - units for sku, units in told.items() if units)
        buffer = withheld.most_common(1)[0][0] if withheld else 0
        for sku, units in told.items():
            finding.same(
                f"{sku} for {channel}: available to sell", max(0, salable[sku] - max(0, buffer)), units
            )


def _compare_states(evidence: Evidence, skus: Mapping[str, SkuBooks], finding: Finding) -> None:
    """Every column of a sku's state that is a sum of facts. The state is read as plain values."""
    states = dict(evidence.changelogs[INVENTORY].latest()) if INVENTORY in evidence.changelogs else {}
    for sku, books in skus.items():
        columns: dict[str, Any] = {
            bucket.lower(): {
                location: level.units for (location, of), level in books.levels.items() if of is bucket
            }
            for bucket in Bucket
        }
        columns |= {name: getattr(books, name) for name in ("allocated", "soft", "hard", "waiting")}
        ours = {name: without_zeros(column) for name, column in columns.items()}
        totals = {
            f"{name}_total": getattr(books, name)
            for name in ("requested", "consumed", "released", "expired", "failed")
        }
        state = states.get(sku, {})
        for name, column in ours.items():
            finding.same(f"{sku}: {name}", column, without_zeros(state.get(name, {})))
        for name, total in totals.items():
            finding.same(f"{sku}: {name}", total, state.get(name, 0))


def stock(evidence: Evidence, _books: Books) -> tuple[Check, ...]:
    """Counts, promises, shortages, unit by unit, and what the tables say at the end."""
    replay = StockReplay(evidence)
    tables = Finding(2, "published positions and available-to-sell are what the books say")
    states = Finding(2, "inventory's own books are what its inputs make of them")
    found = (replay.moves, replay.promises, replay.shortages, replay.units, tables, states)
    note = why_not(evidence, StockSnapshot, ReserveStock)
    if not note:
        play(evidence, replay)
        _compare_tables(evidence, replay.books, tables)
        _compare_states(evidence, replay.books, states)
    return closed(found, note)


def stock_versions(evidence: Evidence, _books: Books) -> Check:
    """A published row is never followed by an older one, nor by another one of the same version."""
    latest: dict[tuple[str, str], tuple[int, Any]] = {}
    finding = Finding(2, "published stock versions never go back")
    for entry in evidence.of(StockPosition, SalableStock, StockMoved):
        body = entry.body
        kind = type(body).__name__
        key = kind, "" if isinstance(body, StockMoved) else (entry.record.key or b"").decode()
        if isinstance(body, StockMoved):
            key = kind, body.sku
        finding.checked += 1
        before = latest.get(key)
        if before is not None and body.version <= before[0]:
            finding.violations.append(
                f"{place(entry.record)}: {kind} {key[1]} has version {body.version} after {before[0]}"
            )
        latest[key] = body.version, body
    return finding.check()


CHECKS = (stock, stock_versions)
