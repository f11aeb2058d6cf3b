"""The state of one task: what is committed in its store, and over it what the running transaction changed.

The worker reads and sets typed states here, writes `changes()` to the changelog, and after the commit calls `flush`. Nothing
reaches the store before its transaction committed, so a crash never leaves the store ahead of the log.

Store layout: `s<key>` state; `o<name>` entries that the task keeps for itself (what is parked); `t<due, 8 bytes big-endian
microseconds><key>\\0<name>` timer index; `c<key>` index of states with outstanding calls; `m` checkpoint. The indexes are local
and derived: only states and the task's own entries are in the changelog.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple

from crossdock_eventing.clock import to_micros
from crossdock_eventing.codec import Codec
from crossdock_eventing.keyvalue import KeyValue

_CHECKPOINT = b"m"
_TIMERS, _NO_TIMER = b"t", b"u"  # every timer entry lies between
#: Names of the task's own entries begin so; no entity has such a key.
OWN = "\x00"
_CACHE_BYTES_MAX = 64 * 1024 * 1024
_DECODED_FACTOR = 6  # A decoded state takes about this many times its encoded bytes.


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Which changelog the store mirrors and how far: `next_offset` is the first offset that it does not hold.

    `inputs` is the task's own book of processed records (`topic` -> next offset) as of that point.
    """

    cluster_id: str
    topic_id: str
    next_offset: int
    written_at_ms: int
    inputs: dict[str, int] = field(default_factory=dict)


class DueTimer(NamedTuple):
    """A timer of an entity, in firing order."""

    due_us: int
    key: str
    name: str


class TaskState:
    """Typed state of one (service, partition).

    calls: what a state has outstanding at the service's port; None when the service has no port.
    """

    def __init__(self, store: KeyValue, codec: Codec, calls: Callable[[Any], tuple[Any, ...]] | None) -> None:
        self._store = store
        self._codec = codec
        self._calls = calls
        self._overlay: dict[str, Any | None] = {}
        self._before: dict[str, Any | None] = {}
        self._encoded: dict[str, bytes | None] = {}
        self._own: dict[str, bytes | None] = {}
        self._cache: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self._cached_bytes = 0
        # No timer lives below the floor: a scan from the start would pass every timer that was ever removed. The floor is
        # the earliest timer itself once that was looked for.
        self._floor, self._floor_lives = _TIMERS, False

    def get(self, key: str) -> Any | None:
        """The state of an entity, the running transaction included."""
        if key in self._overlay:
            return self._overlay[key]
        return self._committed(key)

    def set(self, key: str, state: Any | None) -> None:
        """Replace (None: delete) the state within the running transaction."""
        if key not in self._before:
            self._before[key] = self._committed(key)
        self._overlay[key] = state

    def changes(self) -> Iterator[tuple[str, bytes | None]]:
        """Every state that the transaction changed, encoded once each, for the changelog."""
        for key, state in self._overlay.items():
            self._encoded[key] = None if state is None else self._codec.encode_state(state)
            yield key, self._encoded[key]
        yield from self._own.items()

    def own(self, name: str) -> bytes | None:
        """One of the task's own entries, the running transaction included."""
        return self._own[name] if name in self._own else self._store.get(_own_key(name))

    def set_own(self, name: str, value: bytes | None) -> None:
        """Replace (None: delete) it within the running transaction."""
        assert name.startswith(OWN)
        self._own[name] = value

    def own_names(self, prefix: str) -> Iterator[str]:
        """Names of the task's own entries that begin so, the running transaction included; in no order."""
        first = _own_key(prefix)
        for entry, _ in self._store.scan(first, first + b"\xff"):
            name = entry[1:].decode(errors="surrogateescape")
            if name not in self._own:
                yield name
        for name, value in list(self._own.items()):
            if value is not None and name.startswith(prefix):
                yield name

    def changed(self) -> Mapping[str, Any | None]:
        """The states that the transaction changed."""
        return self._overlay

    def flush(self, checkpoint: Checkpoint) -> None:
        """The transaction committed: make it durable together with how far the changelog is mirrored."""
        batch: dict[bytes, bytes | None] = {}
        for key, state in self._overlay.items():
            encoded = self._encoded[key]
            batch[_state_key(key)] = encoded
            self._index(batch, key, self._before[key], state)
            self._remember(key, state, len(encoded or b""))
        batch.update((_own_key(name), value) for name, value in self._own.items())
        batch[_CHECKPOINT] = _packed(checkpoint)
        self._store.write(batch)
        self._clear()

    def drop(self) -> None:
        """The transaction did not commit: forget what it changed."""
        self._clear()

    def load(self, changes: Mapping[str, bytes | None], checkpoint: Checkpoint) -> None:
        """Take committed changes from the changelog, the last one of each key."""
        batch: dict[bytes, bytes | None] = {}
        for key, encoded in changes.items():
            if key.startswith(OWN):
                batch[_own_key(key)] = encoded
                continue
            before = self._committed(key)
            state = None if encoded is None else self._codec.decode_state(encoded)
            batch[_state_key(key)] = encoded
            self._index(batch, key, before, state)
            self._forget(key)
        batch[_CHECKPOINT] = _packed(checkpoint)
        self._store.write(batch)

    def checkpoint(self) -> Checkpoint | None:
        """How far the store mirrors which changelog; None for a new store."""
        packed = self._store.get(_CHECKPOINT)
        return None if packed is None else Checkpoint(**json.loads(packed))

    def wipe(self) -> None:
        """Forget everything; the changelog will be read from its start."""
        self._clear()
        self._cache.clear()
        self._cached_bytes = 0
        self._floor, self._floor_lives = _TIMERS, False
        self._store.wipe()

    def timers_until(
        self, now: datetime, limit: int, waits: Callable[[str], bool] | None = None
    ) -> list[DueTimer]:
        """Committed timers due at `now`, at most `limit`, in order of (due, key, name); without those of keys that wait."""
        first_us = self.next_timer_us()
        if first_us is None or first_us > to_micros(now):
            return []
        until = b"t" + (to_micros(now) + 1).to_bytes(8, "big")
        return list(islice(self._timers_before(until, waits), limit))

    def next_timer_us(self, waits: Callable[[str], bool] | None = None) -> int | None:
        """When the earliest committed timer is due, microseconds since the epoch; without those of keys that wait."""
        if not self._floor_lives:
            first = next(self._store.scan(self._floor, _NO_TIMER), None)
            self._floor = _NO_TIMER if first is None else first[0]
            self._floor_lives = True
        if self._floor == _NO_TIMER:
            return None
        if waits is None:
            return int.from_bytes(self._floor[1:9], "big")
        timer = next(self._timers_before(_NO_TIMER, waits), None)
        return None if timer is None else timer.due_us

    def _timers_before(self, end: bytes, waits: Callable[[str], bool] | None) -> Iterator[DueTimer]:
        for entry, _ in self._store.scan(self._floor, end):
            key, _, name = entry[9:].partition(b"\0")
            timer = DueTimer(int.from_bytes(entry[1:9], "big"), key.decode(), name.decode())
            if waits is None or not waits(timer.key):
                yield timer

    def keys_with_calls(self) -> list[str]:
        """Committed states that have calls outstanding."""
        return [entry[1:].decode() for entry, _ in self._store.scan(b"c", b"d")]

    def entities(self) -> Iterator[str]:
        """Every committed key, in order."""
        for entry, _ in self._store.scan(b"s", b"t"):
            yield entry[1:].decode()

    def close(self) -> None:
        self._store.close()

    def _committed(self, key: str) -> Any | None:
        cached = self._cache.get(key)
        if cached is not None:
            self._cache.move_to_end(key)
            return cached[0]
        encoded = self._store.get(_state_key(key))
        if encoded is None:
            return None
        state = self._codec.decode_state(encoded)
        self._remember(key, state, len(encoded))
        return state

    def _remember(self, key: str, state: Any | None, size: int) -> None:
        self._forget(key)
        if state is None:
            return
        cost = size * _DECODED_FACTOR + 200
        self._cache[key] = (state, cost)
        self._cached_bytes += cost
        while self._cached_bytes > _CACHE_BYTES_MAX:
            _, (_, freed) = self._cache.popitem(last=False)
            self._cached_bytes -= freed

    def _forget(self, key: str) -> None:
        cached = self._cache.pop(key, None)
        if cached is not None:
            self._cached_bytes -= cached[1]

    def _index(
        self, batch: dict[bytes, bytes | None], key: str, before: Any | None, after: Any | None
    ) -> None:
        old: Mapping[str, datetime] = {} if before is None else before.timers
        new: Mapping[str, datetime] = {} if after is None else after.timers
        if old != new:
            for name, due in old.items():
                if new.get(name) != due:
                    gone = _timer_key(key, name, due)
                    batch[gone] = None
                    self._floor_lives = self._floor_lives and gone != self._floor
            for name, due in new.items():
                if old.get(name) != due:
                    set_ = _timer_key(key, name, due)
                    batch[set_] = b""
                    if set_ < self._floor:
                        self._floor, self._floor_lives = set_, True
        if self._calls is not None:
            was = before is not None and bool(self._calls(before))
            is_ = after is not None and bool(self._calls(after))
            if was != is_:
                batch[b"c" + key.encode()] = b"" if is_ else None

    def _clear(self) -> None:
        self._overlay.clear()
        self._before.clear()
        self._encoded.clear()
        self._own.clear()


def _state_key(key: str) -> bytes:
    return b"s" + key.encode()


def _own_key(name: str) -> bytes:
    return b"o" + name.encode(errors="surrogateescape")


def _timer_key(key: str, name: str, due: datetime) -> bytes:
    return b"t" + to_micros(due).to_bytes(8, "big") + key.encode() + b"\0" + name.encode()


def _packed(checkpoint: Checkpoint) -> bytes:
    # By hand: `asdict` copies every value, at every commit of every task.
    fields = {
        "cluster_id": checkpoint.cluster_id,
        "topic_id": checkpoint.topic_id,
        "next_offset": checkpoint.next_offset,
        "written_at_ms": checkpoint.written_at_ms,
        "inputs": checkpoint.inputs,
    }
    return json.dumps(fields, separators=(",", ":")).encode()
