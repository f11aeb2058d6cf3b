"""How the sku's books change: one function of the state and an event. The shell and `turn` fold with it.

Columns are copied, never changed in place. Every promise asserts here what its decider asserted before (FLOW "Invariants,
exactly"), and every change asserts that no asked-for unit was lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
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


def evolve(state: InventoryState | None, event: object) -> InventoryState | None:
    """The books after an event; published records other than through `Published` leave them alone."""
    if isinstance(event, BooksOpened):
        assert state is None
        return InventoryState(sku=event.sku)
    apply = _APPLY.get(type(event))
    if apply is None:
        return state
    assert state is not None, f"{type(event).__name__} before BooksOpened"
    changed: InventoryState = apply(state, event)
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


def _counted(state: InventoryState, event: Counted) -> InventoryState:
    key = bucket_key(event.location, event.bucket)
    movements = list(journal(state, key))
    later = [movement for movement in movements if movement.moved_at > event.as_of]
    counted = movements[: len(movements) - len(later)][-COUNTED_REFS_REMEMBERED:]
    held_since = state.held_since
    if event.bucket is Bucket.ON_HAND and held_since.get(event.location, event.as_of + 1) <= event.as_of:
        held_since = _without(held_since, event.location)
    return replace(
        _with_level(state, event.location, event.bucket, event.units),
        counted_at={**state.counted_at, key: event.as_of},
        count_sequence=_with(state.count_sequence, key, event.sequence),
        journal={**state.journal, key: _flat(counted + later)} if movements else state.journal,
        forgotten_until=_without(state.forgotten_until, key),
        held_since=held_since,
        version=state.version + 1,
    )


def _moved(state: InventoryState, event: Moved) -> InventoryState:
    key = bucket_key(event.location, event.bucket)
    counted_at = state.counted_at.get(key)
    movements = list(journal(state, key))
    movements.append(Movement(event.ref, event.moved_at, event.delta, int(event.by_command)))
    movements.sort(key=lambda movement: movement.moved_at)
    forgotten_until = state.forgotten_until
    if len(movements) > MOVEMENTS_REMEMBERED:
        oldest = movements.pop(0)
        if counted_at is None or oldest.moved_at > counted_at:
            forgotten_until = {**forgotten_until, key: oldest.moved_at}
    if counted_at is None or event.moved_at > counted_at:
        units = level(state, event.location, event.bucket) + event.delta
        state = _with_level(state, event.location, event.bucket, units)
    return replace(
        state,
        journal={**state.journal, key: _flat(movements)},
        forgotten_until=forgotten_until,
        version=state.version + 1,
    )


def _reserved(state: InventoryState, event: Reserved) -> InventoryState:
    reservation = event.reservation
    state = replace(
        state,
        soft=_add(state.soft, reservation, event.soft),
        soft_total=state.soft_total + event.soft,
        requested_total=state.requested_total + event.soft + event.waiting + event.early,
        released_total=state.released_total + event.early,
        recent=_remember(state.recent, event.operations),
        version=state.version + 1,
    )
    if event.waiting:
        state = replace(
            state,
            queue=state.queue if reservation in state.waiting else (*state.queue, reservation),
            waiting=_add(state.waiting, reservation, event.waiting),
            waiting_total=state.waiting_total + event.waiting,
            asked=_add(state.asked, reservation, event.soft + event.waiting + event.early),
            waiting_slips={**state.waiting_slips, reservation: event.slip_id},
        )
    if event.soft or event.waiting:
        state = replace(state, timers=_with_timer(state.timers, f"expire:{reservation}", event.expires_at))
    assert not event.soft or network_balance(state) >= 0, "promised more than there is"
    return state


def _refused(state: InventoryState, event: Refused) -> InventoryState:
    return replace(
        state,
        requested_total=state.requested_total + event.units,
        failed_total=state.failed_total + event.units,
        recent=_remember(state.recent, event.operations),
        version=state.version + 1,
    )


def _served(state: InventoryState, event: Served) -> InventoryState:
    units = state.waiting[event.reservation]
    state = replace(
        _without_promises(state, event.reservation, waiting=units),
        soft=_add(state.soft, event.reservation, units),
        soft_total=state.soft_total + units,
        timers=state.timers,  # its deadline now bounds the promise
        version=state.version + 1,
    )
    assert network_balance(state) >= 0, "promised more than there is"
    return state


def _allocated(state: InventoryState, event: Allocated) -> InventoryState:
    state = _without_promises(state, event.reservation, soft=event.units + event.early)
    state = replace(
        _with_hard(state, event.reservation, event.location, event.units),
        released_total=state.released_total + event.early,
        recent=_remember(state.recent, event.operations),
        version=state.version + 1,
    )
    assert not event.units or usable(state, event.location) >= 0, "allocated more than there is"
    return state


def _deallocated(state: InventoryState, event: Deallocated) -> InventoryState:
    units = event.units
    return replace(
        _with_hard(state, event.reservation, event.location, -units),
        soft=_add(state.soft, event.reservation, units) if event.to_soft else state.soft,
        soft_total=state.soft_total + units if event.to_soft else state.soft_total,
        released_total=state.released_total if event.to_soft else state.released_total + units,
        recent=_remember(state.recent, event.operations),
        version=state.version + 1,
    )


def _released(state: InventoryState, event: Released) -> InventoryState:
    units = event.soft + event.waiting
    return replace(
        _without_promises(state, event.reservation, soft=event.soft, waiting=event.waiting),
        failed_total=state.failed_total + units if event.failed else state.failed_total,
        released_total=state.released_total if event.failed else state.released_total + units,
        recent=_remember(state.recent, event.operations),
        version=state.version + 1,
    )


def _consumed(state: InventoryState, event: Consumed) -> InventoryState:
    state = _with_hard(state, event.reservation, event.location, -event.hard)
    return replace(
        _without_promises(state, event.reservation, soft=event.soft, waiting=event.waiting),
        consumed_total=state.consumed_total + event.hard + event.soft + event.waiting,
        recent=_remember(state.recent, event.operations),
        version=state.version + 1,
    )


def _lapsed(state: InventoryState, event: Lapsed) -> InventoryState:
    return replace(
        _without_promises(state, event.reservation, soft=event.soft, waiting=event.waiting),
        expired_total=state.expired_total + event.soft + event.waiting,
        timers=_without(state.timers, f"expire:{event.reservation}"),
        version=state.version + 1,
    )


def _held(state: InventoryState, event: Held) -> InventoryState:
    held_since = {**state.held_since, event.location: event.since}
    return replace(state, held_since=held_since, version=state.version + 1)


def _released_early(state: InventoryState, event: ReleasedEarly) -> InventoryState:
    return replace(
        state,
        released_early=_add(state.released_early, event.key, event.units),
        timers={**state.timers, f"forget:{event.key}": event.forget_at},
        recent=_remember(state.recent, event.operations),
        version=state.version + 1,
    )


def _early_release_met(state: InventoryState, event: EarlyReleaseMet) -> InventoryState:
    released_early = _add(state.released_early, event.key, -event.units)
    timers = state.timers if event.key in released_early else _without(state.timers, f"forget:{event.key}")
    return replace(state, released_early=released_early, timers=timers, version=state.version + 1)


def _early_release_forgotten(state: InventoryState, event: EarlyReleaseForgotten) -> InventoryState:
    return replace(
        state,
        released_early=_without(state.released_early, event.key),
        timers=_without(state.timers, f"forget:{event.key}"),
        version=state.version + 1,
    )


def _published(state: InventoryState, event: Published) -> InventoryState:
    return replace(
        state,
        published_free={**state.published_free, **event.free} if event.free else state.published_free,
        published_salable={**state.published_salable, **event.salable}
        if event.salable
        else state.published_salable,
    )


_APPLY: dict[type, Any] = {
    Counted: _counted,
    Moved: _moved,
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


def _with_level(state: InventoryState, location: str, bucket: Bucket, units: int) -> InventoryState:
    before = usable(state, location)
    match bucket:
        case Bucket.ON_HAND:
            state = replace(state, on_hand={**state.on_hand, location: units})
        case Bucket.DAMAGED:
            state = replace(state, damaged=_with(state.damaged, location, units))
        case Bucket.QUALITY_HOLD:
            state = replace(state, quality_hold=_with(state.quality_hold, location, units))
    return replace(state, usable_total=state.usable_total + usable(state, location) - before)


def _with_hard(state: InventoryState, reservation: str, location: LocationId, delta: int) -> InventoryState:
    if not delta:
        return state
    return replace(
        state,
        hard=_add(state.hard, hard_key(reservation, location), delta),
        hard_total=state.hard_total + delta,
        allocated=_add(state.allocated, location, delta),
        usable_total=state.usable_total - delta,
    )


def _without_promises(
    state: InventoryState, reservation: str, *, soft: int = 0, waiting: int = 0
) -> InventoryState:
    """Less soft and waiting; what waits for nothing leaves the queue, what promises nothing has no deadline."""
    if soft:
        state = replace(state, soft=_add(state.soft, reservation, -soft), soft_total=state.soft_total - soft)
    if waiting:
        left = _add(state.waiting, reservation, -waiting)
        state = replace(state, waiting=left, waiting_total=state.waiting_total - waiting)
        if reservation not in left:
            state = replace(
                state,
                queue=tuple(other for other in state.queue if other != reservation),
                asked=_without(state.asked, reservation),
                waiting_slips=_without(state.waiting_slips, reservation),
            )
    if reservation in state.soft or reservation in state.waiting:
        return state
    return replace(state, timers=_without(state.timers, f"expire:{reservation}"))


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


def _with_timer(timers: Mapping[str, datetime], name: str, due: datetime | None) -> Mapping[str, datetime]:
    return _without(timers, name) if due is None else {**timers, name: due}


def _flat(movements: list[Movement]) -> tuple[int, ...]:
    return tuple(number for movement in movements for number in movement)


def _remember(recent: tuple[int, ...], operations: tuple[int, ...]) -> tuple[int, ...]:
    return (*recent, *operations)[-OPERATIONS_REMEMBERED:]
