"""How the sku's books change: one function of the state and an event. The shell and `turn` fold with it.

Columns are copied, never changed in place. Every promise asserts here what its decider asserted before (FLOW "Invariants,
exactly"), and every change asserts that no asked-for unit was lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from crossdock_canonical.identity import LocationId
from crossdock_canonical.records import Bucket
from crossdock_inventory_availability.model import (
    COUNTED_REFS_REMEMBERED,
    MOVEMENTS_REMEMBERED,
    OPERATIONS_REMEMBERED,
    Allocated,
    BooksOpened,
    Consumed,
    Counted,
    Deallocated,
    DriftTold,
    EarlyReleaseForgotten,
    EarlyReleaseMet,
    Held,
    Lapsed,
    Moved,
    Movement,
    Published,
    Refused,
    Released,
    ReleasedEarly,
    Reserved,
    Served,
    bucket_key,
    hard_key,
    journal,
    level,
    network_balance,
    usable,
)
from crossdock_inventory_availability.state_records import InventoryState

T = TypeVar("T")

#: Fields of the state that an event changes, so that the record is copied once an event.
Changes = dict[str, Any]


def evolve(state: InventoryState | None, event: object) -> InventoryState | None:
    """The books after an event; published records other than through `Published` leave them alone."""
    if isinstance(event, BooksOpened):
        assert state is None
        return InventoryState(sku=event.sku)
    apply = _APPLY.get(type(event))
    if apply is None:
        return state
    assert state is not None, f"{type(event).__name__} before BooksOpened"
    changed = replace(state, **{"version": state.version + 1, **apply(state, event)})
    assert (
        changed.requested_total
        == changed.soft_total
        + changed.hard_total
        + changed.waiting_total
        + changed.consumed_total
        + changed.released_total
        + changed.expired_total
        + changed.failed_total
    ), event
    return changed


def _counted(state: InventoryState, event: Counted) -> Changes:
    key = bucket_key(event.location, event.bucket)
    movements = list(journal(state, key))
    later = [movement for movement in movements if movement.moved_at > event.as_of]
    counted = movements[: len(movements) - len(later)][-COUNTED_REFS_REMEMBERED:]
    changes = _level(state, event.location, event.bucket, event.units)
    changes["counted_at"] = {**state.counted_at, key: event.as_of}
    changes["count_sequence"] = _with(state.count_sequence, key, event.sequence)
    changes["forgotten_until"] = _without(state.forgotten_until, key)
    if movements:
        flat = tuple(number for movement in counted + later for number in movement)
        changes["journal"] = {**state.journal, key: flat}
    if (
        event.bucket is Bucket.ON_HAND
        and state.held_since.get(event.location, event.as_of + 1) <= event.as_of
    ):
        changes["held_since"] = _without(state.held_since, event.location)
    return changes


def _moved(state: InventoryState, event: Moved) -> Changes:
    key = bucket_key(event.location, event.bucket)
    counted_at = state.counted_at.get(key)
    is_new = counted_at is None or event.moved_at > counted_at
    changes: Changes = {}
    if is_new:
        units = level(state, event.location, event.bucket) + event.delta
        changes = _level(state, event.location, event.bucket, units)
    flat = state.journal.get(key, ())
    place = len(flat)
    while place and flat[place - 3] > event.moved_at:  # nearly always the latest
        place -= 4
    movement = Movement(event.ref, event.moved_at, event.delta, int(event.by_command))
    flat = (*flat[:place], *movement, *flat[place:])
    if len(flat) > 4 * MOVEMENTS_REMEMBERED:
        oldest = Movement(*flat[:4])
        flat = flat[4:]
        if counted_at is None or oldest.moved_at > counted_at:
            changes["forgotten_until"] = {**state.forgotten_until, key: oldest.moved_at}
    changes["journal"] = {**state.journal, key: flat}
    return changes


def _drift_told(state: InventoryState, event: DriftTold) -> Changes:
    return {"version": state.version, "recent": _remember(state.recent, event.operations)}


def _reserved(state: InventoryState, event: Reserved) -> Changes:
    reservation = event.reservation
    asked = event.soft + event.waiting + event.early
    changes: Changes = {
        "soft": _add(state.soft, reservation, event.soft),
        "soft_total": state.soft_total + event.soft,
        "requested_total": state.requested_total + asked,
        "released_total": state.released_total + event.early,
        "recent": _remember(state.recent, event.operations),
    }
    if event.waiting:
        changes["queue"] = state.queue if reservation in state.waiting else (*state.queue, reservation)
        changes["waiting"] = _add(state.waiting, reservation, event.waiting)
        changes["waiting_total"] = state.waiting_total + event.waiting
        changes["asked"] = _add(state.asked, reservation, asked)
        changes["waiting_slips"] = {**state.waiting_slips, reservation: event.slip_id}
    if event.soft or event.waiting:
        timer = f"expire:{reservation}"
        if event.expires_at is None:
            changes["timers"] = _without(state.timers, timer)
        else:
            changes["timers"] = {**state.timers, timer: event.expires_at}
    assert not event.soft or network_balance(state) >= event.soft, "promised more than there is"
    return changes


def _refused(state: InventoryState, event: Refused) -> Changes:
    return {
        "requested_total": state.requested_total + event.units,
        "failed_total": state.failed_total + event.units,
        "recent": _remember(state.recent, event.operations),
    }


def _served(state: InventoryState, event: Served) -> Changes:
    units = state.waiting[event.reservation]
    assert network_balance(state) >= units, "promised more than there is"
    changes = _fewer_promises(state, event.reservation, waiting=units)
    changes["soft"] = _add(state.soft, event.reservation, units)
    changes["soft_total"] = state.soft_total + units
    changes["timers"] = state.timers  # its deadline now bounds the promise
    return changes


def _allocated(state: InventoryState, event: Allocated) -> Changes:
    assert not event.units or usable(state, event.location) >= event.units, "allocated more than there is"
    changes = _fewer_promises(state, event.reservation, soft=event.units + event.early)
    changes |= _hard(state, event.reservation, event.location, event.units)
    changes["released_total"] = state.released_total + event.early
    changes["recent"] = _remember(state.recent, event.operations)
    return changes


def _deallocated(state: InventoryState, event: Deallocated) -> Changes:
    changes = _hard(state, event.reservation, event.location, -event.units)
    if event.to_soft:
        changes["soft"] = _add(state.soft, event.reservation, event.units)
        changes["soft_total"] = state.soft_total + event.units
    else:
        changes["released_total"] = state.released_total + event.units
    changes["recent"] = _remember(state.recent, event.operations)
    return changes


def _released(state: InventoryState, event: Released) -> Changes:
    units = event.soft + event.waiting
    changes = _fewer_promises(state, event.reservation, soft=event.soft, waiting=event.waiting)
    if event.failed:
        changes["failed_total"] = state.failed_total + units
    else:
        changes["released_total"] = state.released_total + units
    changes["recent"] = _remember(state.recent, event.operations)
    return changes


def _consumed(state: InventoryState, event: Consumed) -> Changes:
    changes = _fewer_promises(state, event.reservation, soft=event.soft, waiting=event.waiting)
    changes |= _hard(state, event.reservation, event.location, -event.hard)
    changes["consumed_total"] = state.consumed_total + event.hard + event.soft + event.waiting
    changes["recent"] = _remember(state.recent, event.operations)
    return changes


def _lapsed(state: InventoryState, event: Lapsed) -> Changes:
    changes = _fewer_promises(state, event.reservation, soft=event.soft, waiting=event.waiting)
    changes["expired_total"] = state.expired_total + event.soft + event.waiting
    changes["timers"] = _without(state.timers, f"expire:{event.reservation}")
    return changes


def _held(state: InventoryState, event: Held) -> Changes:
    return {"held_since": {**state.held_since, event.location: event.since}}


def _released_early(state: InventoryState, event: ReleasedEarly) -> Changes:
    return {
        "released_early": _add(state.released_early, event.key, event.units),
        "timers": {**state.timers, f"forget:{event.key}": event.forget_at},
        "recent": _remember(state.recent, event.operations),
    }


def _early_release_met(state: InventoryState, event: EarlyReleaseMet) -> Changes:
    released_early = _add(state.released_early, event.key, -event.units)
    is_met = event.key not in released_early
    return {
        "released_early": released_early,
        "timers": _without(state.timers, f"forget:{event.key}") if is_met else state.timers,
    }


def _early_release_forgotten(state: InventoryState, event: EarlyReleaseForgotten) -> Changes:
    return {
        "released_early": _without(state.released_early, event.key),
        "timers": _without(state.timers, f"forget:{event.key}"),
    }


def _published(state: InventoryState, event: Published) -> Changes:
    changes: Changes = {"version": state.version}  # saying what the books hold does not change them
    if event.free:
        changes["published_free"] = {**state.published_free, **event.free}
    if event.salable:
        changes["published_salable"] = {**state.published_salable, **event.salable}
    return changes


_APPLY: dict[type, Callable[[InventoryState, Any], Changes]] = {
    Counted: _counted,
    Moved: _moved,
    DriftTold: _drift_told,
    Reserved: _reserved,
    Refused: _refused,
    Served: _served,
    Allocated: _allocated,
    Deallocated: _deallocated,
    Released: _released,
    Consumed: _consumed,
    Lapsed: _lapsed,
    Held: _held,
    ReleasedEarly: _released_early,
    EarlyReleaseMet: _early_release_met,
    EarlyReleaseForgotten: _early_release_forgotten,
    Published: _published,
}


def _level(state: InventoryState, location: str, bucket: Bucket, units: int) -> Changes:
    """A bucket holds this many units."""
    changes: Changes
    match bucket:
        case Bucket.ON_HAND:
            changes = {"on_hand": {**state.on_hand, location: units}}
            gain = units - state.on_hand.get(location, 0)
        case Bucket.DAMAGED:
            changes = {"damaged": _with(state.damaged, location, units)}
            gain = max(0, state.damaged.get(location, 0)) - max(0, units)
        case Bucket.QUALITY_HOLD:
            changes = {"quality_hold": _with(state.quality_hold, location, units)}
            gain = max(0, state.quality_hold.get(location, 0)) - max(0, units)
    changes["usable_total"] = state.usable_total + gain
    return changes


def _hard(state: InventoryState, reservation: str, location: LocationId, delta: int) -> Changes:
    """So many more units hard allocated for a reservation at a location."""
    if not delta:
        return {}
    return {
        "hard": _add(state.hard, hard_key(reservation, location), delta),
        "hard_total": state.hard_total + delta,
        "allocated": _add(state.allocated, location, delta),
        "usable_total": state.usable_total - delta,
    }


def _fewer_promises(state: InventoryState, reservation: str, *, soft: int = 0, waiting: int = 0) -> Changes:
    """Less soft and waiting; what waits for nothing leaves the queue, what promises nothing has no deadline."""
    changes: Changes = {}
    soft_left, waiting_left = state.soft, state.waiting
    if soft:
        soft_left = _add(soft_left, reservation, -soft)
        changes["soft"] = soft_left
        changes["soft_total"] = state.soft_total - soft
    if waiting:
        waiting_left = _add(waiting_left, reservation, -waiting)
        changes["waiting"] = waiting_left
        changes["waiting_total"] = state.waiting_total - waiting
        if reservation not in waiting_left:
            changes["queue"] = tuple(other for other in state.queue if other != reservation)
            changes["asked"] = _without(state.asked, reservation)
            changes["waiting_slips"] = _without(state.waiting_slips, reservation)
    if reservation not in soft_left and reservation not in waiting_left:
        changes["timers"] = _without(state.timers, f"expire:{reservation}")
    return changes


def _add(column: Mapping[str, int], key: str, delta: int) -> Mapping[str, int]:
    """The column with `delta` more units at `key`; never below 0, and 0 is absent."""
    if not delta:
        return column
    units = column.get(key, 0) + delta
    assert units >= 0, f"{key} would fall to {units}"
    return _with(column, key, units)


def _with(column: Mapping[str, int], key: str, value: int) -> Mapping[str, int]:
    """The column with this value; 0 is absent."""
    if value:
        return {**column, key: value}
    return _without(column, key)


def _without(column: Mapping[str, T], key: str) -> Mapping[str, T]:
    if key not in column:
        return column
    rest = dict(column)
    del rest[key]
    return rest


def _remember(recent: tuple[int, ...], operations: tuple[int, ...]) -> tuple[int, ...]:
    return (*recent, *operations)[-OPERATIONS_REMEMBERED:]
