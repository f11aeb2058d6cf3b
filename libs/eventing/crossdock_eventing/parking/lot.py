"""The parked keys of one task: queues in the task's state, and what instructions do to them. Decides nothing, writes to no topic.

The worker and the replay of its journal take the same steps: `queue` or `park` what arrives, `instruct`, then `head` and
`applied` or `rejected` for what is released. Everything is kept through `Own`, so it commits, aborts and is restored with the task.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Protocol

from crossdock_eventing.broker.interface import Record
from crossdock_eventing.parking.formats import (
    INJECTED_PREFIX,
    NO_ENTRY,
    PARK_PREFIX,
    REPLAYS_KEY,
    Instruction,
    Origin,
    Outcome,
    Park,
    Queued,
    Release,
    ReplayedMessage,
    ReplayEntry,
    digest,
    injected_name,
    park_name,
    parked_key,
    queue_name,
)

_HANDLED_MAX: Final = 100
_INJECTED_US: Final = 30 * 24 * 3600 * 1_000_000  # as long as dead letters are kept
_OVERHEAD_BYTES: Final = 200  # what a message takes beside its value
_DECODED_MAX: Final = 1_000  # parked keys whose entry is kept decoded


class Own(Protocol):
    """The task's own entries of the changelog, by name; the running transaction included."""

    def own(self, name: str) -> bytes | None: ...

    def set_own(self, name: str, value: bytes | None) -> None: ...

    def own_names(self, prefix: str) -> Iterator[str]: ...


class OwnEntries:
    """`Own` in a dictionary: replays, sandboxes, tests."""

    def __init__(self) -> None:
        self.entries: dict[str, bytes] = {}

    def own(self, name: str) -> bytes | None:
        return self.entries.get(name)

    def set_own(self, name: str, value: bytes | None) -> None:
        if value is None:
            self.entries.pop(name, None)
        else:
            self.entries[name] = value

    def own_names(self, prefix: str) -> Iterator[str]:
        return iter([name for name in self.entries if name.startswith(prefix)])


@dataclass(frozen=True, slots=True)
class Result:
    """What an instruction came to, for its entry in the replays.

    left: messages of the key that are still parked. ended: releases that it completed.
    """

    outcome: Outcome
    detail: str = ""
    messages: tuple[ReplayedMessage, ...] = ()
    left: int = 0
    ended: tuple[Release, ...] = ()


class Head(NamedTuple):
    """The first message of a parked key, and what releases it."""

    seq: int
    queued: Queued
    release: Release
    episode: str


class ParkingLot:
    """Parked keys of one task."""

    def __init__(self, own: Own) -> None:
        self._own = own
        self._keys: set[str] | None = None
        self._releasing: set[str] = set()
        # What is worked on, decoded: a release asks for the same key's entries several times for each message.
        self._parks: dict[str, Park] = {}
        self._last_queued: tuple[str, int, Queued] | None = None

    def forget(self) -> None:
        """The entries changed otherwise (an abort, a restore): look again."""
        self._keys = None
        self._parks.clear()
        self._last_queued = None

    @property
    def keys(self) -> frozenset[str] | set[str]:
        """Every parked key."""
        if self._keys is None:
            parks = {
                key: self._park(key)
                for key in map(parked_key, self._own.own_names(PARK_PREFIX))
                if key is not None
            }
            self._keys = {key for key, park in parks.items() if park is not None}
            self._releasing = {key for key, park in parks.items() if park is not None and park.releases}
        return self._keys

    @property
    def releasing(self) -> list[str]:
        """Keys with a release at work, in order."""
        return sorted(self._releasing) if self.keys else []

    def park(self, key: str, record: Record, *, code: str, now_us: int) -> None:
        """This message was rejected: it opens an episode, at sequence number 0."""
        assert key not in self.keys
        episode = f"{record.topic}[{record.partition}]@{record.offset}"
        self._enqueue(key, Park(episode, now_us, code), Queued(record, 1, code))

    def queue(self, key: str, record: Record) -> int:
        """This message waits behind the others of its key; returns its sequence number."""
        park = self._parked(key)
        self._enqueue(key, park, Queued(record))
        return park.tail

    def size(self, key: str) -> tuple[int, int]:
        """Messages and bytes that the key holds at most, counting what was discarded in between."""
        park = self._park(key)
        return (0, 0) if park is None else (park.tail - park.head, park.bytes)

    def instruct(self, instruction: Instruction) -> Result | None:
        """Carry out an edit or a discard, or mark a release, which then goes on by `head`; None: it was marked.

        Whoever calls this settles "inject" by itself.
        """
        key = instruction.key
        park = self._park(key)

        def result(outcome: Outcome, detail: str = "", *messages: ReplayedMessage) -> Result:
            return Result(outcome, detail, messages, self.left(key))

        if park is None:
            return result("already", "the episode is over")
        if park.episode != instruction.episode:
            return result("already", f"another episode has begun, at {park.episode}")
        handled = (instruction.plan, instruction.item)
        if handled in park.handled:
            return result("already", "this instruction was handled before")
        park = replace(park, handled=(*park.handled, handled)[-_HANDLED_MAX:])
        if instruction.op == "release":
            if instruction.upto is not None and instruction.upto < park.head:
                return result("already", "what it releases has gone")
            release = Release(
                instruction.plan, instruction.item, instruction.operator, instruction.reason, instruction.upto
            )
            self._set_park(key, replace(park, releases=(*park.releases, release)))
            return None
        seq = instruction.seq
        queued = self._queued(key, seq)
        if queued is None:
            return result("already", f"message {seq} is not parked any more")
        if (found := digest(queued.record.value)) != instruction.before:
            return result("stale", f"the bytes of message {seq} have the hash {found} by now")
        if instruction.op == "discard":
            message = ReplayedMessage.of(seq, queued, "discarded")
            ended = self._leave(key, park, seq, queued)
            return Result("discarded", "", (message,), self.left(key), ended)
        if instruction.value is None:
            return result("refused", "an edit needs a value")
        edited = queued.edited(instruction.value)
        self._set_queued(key, seq, edited)
        self._set_park(key, replace(park, bytes=park.bytes + _size(edited.record) - _size(queued.record)))
        return result("edited", "", ReplayedMessage.of(seq, edited, "edited"))

    def head(self, key: str) -> Head | None:
        """The next message of the key that a release covers."""
        park = self._park(key)
        release = (
            None if park is None else next((each for each in park.releases if each.covers(park.head)), None)
        )
        if park is None or release is None:
            return None
        queued = self._queued(key, park.head)
        assert queued is not None, "the head is queued"
        return Head(park.head, queued, release, park.episode)

    def applied(self, key: str) -> tuple[Release, ...]:
        """The head succeeded and leaves; returns the releases that this completes."""
        park = self._parked(key)
        queued = self._queued(key, park.head)
        assert queued is not None, "the head is queued"
        return self._leave(key, park, park.head, queued)

    def rejected(self, key: str, code: str) -> tuple[Release, ...]:
        """The head was rejected again and stays; its releases end. Returns them."""
        park = self._parked(key)
        queued = self._queued(key, park.head)
        assert queued is not None, "the head is queued"
        self._set_queued(key, park.head, replace(queued, attempt=queued.attempt + 1, code=code))
        self._set_park(key, replace(park, code=code, releases=()))
        return park.releases

    def left(self, key: str) -> int:
        """Messages that the key holds."""
        park = self._park(key)
        if park is None:
            return 0
        return sum(self._own.own(queue_name(key, seq)) is not None for seq in range(park.head, park.tail))

    def was_injected(self, origin: Origin) -> bool:
        """Whether this foreign record was taken in before."""
        return self._own.own(injected_name(origin)) is not None

    def inject(self, origin: Origin, now_us: int) -> None:
        """This foreign record is taken in; those of long ago are forgotten."""
        for each in list(self._own.own_names(INJECTED_PREFIX)):
            at = self._own.own(each)
            if at is not None and json.loads(at)["at"] < now_us - _INJECTED_US:
                self._own.set_own(each, None)
        self._own.set_own(injected_name(origin), _packed({"at": now_us}))

    def link(self) -> tuple[int, str]:
        """Number of the next entry of the replays, and hash of the last."""
        found = self._own.own(REPLAYS_KEY)
        if found is None:
            return 0, NO_ENTRY
        link = json.loads(found)
        return link["n"], link["hash"]

    def set_link(self, entry: ReplayEntry) -> None:
        """This entry is written now."""
        self._own.set_own(REPLAYS_KEY, _packed({"n": entry.number + 1, "hash": digest(entry.to_bytes())}))

    def _leave(self, key: str, park: Park, seq: int, gone: Queued) -> tuple[Release, ...]:
        """A message leaves the queue, and the key is free with the last; returns the releases that this completes."""
        self._set_queued(key, seq, None)
        head = park.head
        while head < park.tail and self._own.own(queue_name(key, head)) is None:
            head += 1
        if head == park.tail:
            self._set_park(key, None)
            return park.releases
        first = self._queued(key, head)
        assert first is not None, "the head is queued"
        ended = tuple(each for each in park.releases if not each.covers(head))
        going = tuple(each for each in park.releases if each.covers(head))
        size = park.bytes - _size(gone.record)
        self._set_park(key, replace(park, head=head, code=first.code, bytes=size, releases=going))
        return ended

    def _enqueue(self, key: str, park: Park, queued: Queued) -> None:
        self._set_queued(key, park.tail, queued)
        self._set_park(key, replace(park, tail=park.tail + 1, bytes=park.bytes + _size(queued.record)))

    def _parked(self, key: str) -> Park:
        park = self._park(key)
        assert park is not None, f"{key} is not parked"
        return park

    def _park(self, key: str) -> Park | None:
        park = self._parks.get(key)
        if park is None:
            found = self._own.own(park_name(key))
            if found is None:
                return None
            park = Park.from_json(json.loads(found))
            self._keep(key, park)
        return park

    def _keep(self, key: str, park: Park) -> None:
        if len(self._parks) >= _DECODED_MAX:
            self._parks.clear()
        self._parks[key] = park

    def _set_park(self, key: str, park: Park | None) -> None:
        self._own.set_own(park_name(key), None if park is None else _packed(park.to_json()))
        if park is None:
            self._parks.pop(key, None)
        else:
            self._keep(key, park)
        known = self.keys
        assert isinstance(known, set)
        if park is None:
            known.discard(key)
        else:
            known.add(key)
        if park is not None and park.releases:
            self._releasing.add(key)
        else:
            self._releasing.discard(key)

    def _queued(self, key: str, seq: int) -> Queued | None:
        if self._last_queued is not None and self._last_queued[:2] == (key, seq):
            return self._last_queued[2]
        found = self._own.own(queue_name(key, seq))
        if found is None:
            return None
        queued = Queued.from_json(key, json.loads(found))
        self._last_queued = key, seq, queued
        return queued

    def _set_queued(self, key: str, seq: int, queued: Queued | None) -> None:
        self._last_queued = None if queued is None else (key, seq, queued)
        self._own.set_own(queue_name(key, seq), None if queued is None else _packed(queued.to_json()))


def _size(record: Record) -> int:
    return (
        _OVERHEAD_BYTES
        + len(record.value or b"")
        + sum(len(name) + len(value) for name, value in record.headers)
    )


def _packed(parts: dict[str, object]) -> bytes:
    return json.dumps(parts, separators=(",", ":")).encode()
