"""Defects of parking: queues of rejected keys, instructions of operators, the chain of outcomes. Listed in `catalogue`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from crossdock_eventing.parking.desk import Desk
from crossdock_eventing.parking.formats import ReplayEntry
from crossdock_eventing.parking.lot import Head, ParkingLot
from crossdock_eventing.state import OWN, TaskState
from crossdock_simulation.mutations.mutation import SHELL, Mutation, replaced, wrapped

Original = Callable[..., Any]


def _entries_unlogged(original: Original) -> Original:
    def changes(self: TaskState) -> Iterator[tuple[str, bytes | None]]:
        for name, value in original(self):
            if not name.startswith(OWN):
                yield name, value

    return changes


def _last_first(original: Original) -> Original:
    """The queue as a stack: what came last is decided first, and leaves first."""

    def head(self: ParkingLot, key: str) -> Head | None:
        found: Head | None = original(self, key)
        if found is None:
            return None
        park = self._parked(key)
        for seq in reversed(range(park.head, park.tail)):
            queued = self._queued(key, seq)
            if queued is not None:
                return found._replace(seq=seq, queued=queued)
        return found

    return head


def _kept_when_applied(original: Original) -> Original:
    """The head is decided, and stays the head the first time."""
    decided: set[tuple[str, str, int]] = set()

    def applied(self: ParkingLot, key: str) -> Any:
        park = self._parked(key)
        once = (key, park.episode, park.head)
        if once in decided:
            return original(self, key)
        decided.add(once)
        return ()

    return applied


def _unchained(original: Original) -> Original:
    def set_link(self: ParkingLot, entry: ReplayEntry) -> None:
        original(self, replace(entry, previous=""))

    return set_link


MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        name="parked-key-overtaken",
        invariant=5,
        where=SHELL,
        about="messages of a parked key are decided as they come",
        apply=replaced(Desk, "is_parked", lambda _self, _task, _record: False),
    ),
    Mutation(
        name="parked-timers-fire",
        invariant=5,
        where=SHELL,
        about="timers of a parked key do not wait",
        apply=replaced(Desk, "waits", lambda _self, _task: None),
    ),
    Mutation(
        name="released-last-first",
        invariant=1,
        where=SHELL,
        about="of a parked key's queue the last message is decided first",
        apply=wrapped(ParkingLot, "head", _last_first),
    ),
    Mutation(
        name="queue-unlogged",
        invariant=1,
        where=SHELL,
        about="what is parked is kept in the local store only",
        apply=wrapped(TaskState, "changes", _entries_unlogged),
    ),
    Mutation(
        name="released-twice",
        invariant=1,
        where=SHELL,
        about="a released message stays in the queue, and is decided once more",
        apply=wrapped(ParkingLot, "applied", _kept_when_applied),
    ),
    Mutation(
        name="replays-unchained",
        invariant=8,
        where=SHELL,
        about="an entry of the replays names the hash of something else than the entry before",
        apply=wrapped(ParkingLot, "set_link", _unchained),
    ),
)
