"""From a schedule that fails to the shortest one that still fails in the same way. Used by `campaign` after a failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from crossdock_simulation.schedule import Schedule
from crossdock_simulation.workload import workload

Fails = Callable[[Schedule], bool]

_SIMPLER: tuple[dict[str, Any], ...] = (
    {"instances": 1},
    {"partitions": 1},
    {"batch_max": 2000},
    {"commit_interval_s": 0.0},
    {"parked_max": 1_000, "released_max": 500},
    {"horizon_days": 60.0},
)


def signature(failure: str) -> str:
    """What kind of failure it is: the check or the exception, without what it happened to."""
    return failure.split(":", 1)[0].split(" at ", 1)[0]


def shrink(schedule: Schedule, fails: Fails, *, tries_max: int = 400) -> Schedule:
    """Leave out faults and items and simplify settings as long as `fails` stays true.

    Every candidate is one run, at most `tries_max`; nothing can be left out of the result alone unless they ran out.
    """
    tries = 0
    smallest = schedule
    improved = True
    while improved:
        improved = False
        for candidate in _smaller(smallest):
            if tries == tries_max:
                return smallest
            tries += 1
            if fails(candidate):
                smallest, improved = candidate, True
                break
    return smallest


def _smaller(schedule: Schedule) -> Iterator[Schedule]:
    """Candidates, those that leave out most first."""
    if schedule.faults:
        yield schedule.without(faults=frozenset(range(len(schedule.faults))))
    said = [item.number for item in workload(schedule.seed).items if item.number not in schedule.left_out]
    for share in (1, 2, 4):
        size = max(1, len(said) // share)
        for start in range(0, len(said), size) if len(said) > share or share == 1 else ():
            yield schedule.without(items=frozenset(said[start : start + size]))
    for position in range(len(schedule.faults)):
        yield schedule.without(faults=frozenset({position}))
    for number in said:
        yield schedule.without(items=frozenset({number}))
    for setting in _SIMPLER:
        candidate = replace(schedule, **setting)
        if candidate != schedule:
            yield candidate
