"""Defects of inventory-availability: promises, counts, movements, queues. Listed in `catalogue`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from crossdock_canonical.records import Bucket
from crossdock_inventory_availability import counts, evolve, promises, turn
from crossdock_inventory_availability.model import Consumed
from crossdock_inventory_availability.state_records import InventoryState
from crossdock_inventory_availability.turn import Turn
from crossdock_simulation.mutations.mutation import Mutation, replaced, together, wrapped

_SERVICE = "inventory-availability"
Original = Callable[..., Any]


def _usable_if_allocated(books: InventoryState, location: str) -> int:
    unfit = sum(max(0, column.get(location, 0)) for column in (books.damaged, books.quality_hold))
    return books.on_hand.get(location, 0) - unfit


def _counted_on_arrival(original: Original) -> Original:
    def count(command: Any, open_turn: Turn) -> Any:
        return original(replace(command, as_of=open_turn.now), open_turn)

    return count


def _allocation_kept(**fields: Any) -> Consumed:
    return Consumed(**{**fields, "hard": 0})


def _damaged_for_sale(original: Original) -> Original:
    def restock(command: Any, open_turn: Turn) -> Any:
        return original(replace(command, bucket=Bucket.ON_HAND), open_turn)

    return restock


def _only_first_stop(original: Original) -> Original:
    def fail(command: Any, failure: Any, open_turn: Turn) -> None:
        original(replace(command, at=0), failure, open_turn)

    return fail


MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        name="allocation-not-subtracted",
        invariant=2,
        where=_SERVICE,
        about="what is allocated at a location may be allocated there again",
        apply=together(
            replaced(turn, "usable", _usable_if_allocated), replaced(evolve, "usable", _usable_if_allocated)
        ),
    ),
    Mutation(
        name="shortage-untold",
        invariant=2,
        where=_SERVICE,
        about="a count or sale that takes what was promised raises no shortage",
        apply=replaced(Turn, "_tell_shortage", lambda _self: None),
    ),
    Mutation(
        name="count-as-of-arrival",
        invariant=2,
        where=_SERVICE,
        about="a count holds as of its arrival, not as of when the shelf was counted",
        apply=wrapped(counts, "count", _counted_on_arrival),
    ),
    Mutation(
        name="movement-reference-forgotten",
        invariant=2,
        where=_SERVICE,
        about="a receipt that two files report is booked twice",
        apply=replaced(counts, "known_reference", lambda *_args: None),
    ),
    Mutation(
        name="consumption-keeps-allocation",
        invariant=2,
        where=_SERVICE,
        about="goods that left stay allocated",
        apply=replaced(promises, "Consumed", _allocation_kept),
    ),
    Mutation(
        name="damaged-for-sale",
        invariant=2,
        where=_SERVICE,
        about="returned goods that are damaged are for sale again",
        apply=wrapped(counts, "restock", _damaged_for_sale),
    ),
    Mutation(
        name="failed-slip-keeps-promises",
        invariant=10,
        where=_SERVICE,
        about="a slip that fails at a later stop leaves what its earlier stops promised",
        apply=wrapped(promises, "_fail_reservation", _only_first_stop),
    ),
)
