"""Today's deciders over a recorded run: the journal says in which order and at what moment, the input topics say what.

`Replay` takes the same steps as the worker (`decision.Decider`) and writes nothing. `compare` holds what came out against what
was published and is stored, `compare_runs` two runs against each other. The check of a cluster (`replay_check`), recorded
fixtures, rebuilds and shadow runs give it their records.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

from crossdock_eventing import names
from crossdock_eventing.broker.interface import Record
from crossdock_eventing.broker.partitioner import partition_for
from crossdock_eventing.codec import Codec, Undecodable
from crossdock_eventing.decision import Cause, Decider, Decision, Message
from crossdock_eventing.envelope import Meta, record_key
from crossdock_eventing.holding import EXHAUSTED
from crossdock_eventing.journal import Turn
from crossdock_eventing.limits import Limits
from crossdock_eventing.parking.desk import Desk
from crossdock_eventing.parking.formats import key_text
from crossdock_eventing.parking.lot import OwnEntries, ParkingLot
from crossdock_eventing.plain import Tagged, Unreadable, plain, typed
from crossdock_eventing.service import Service
from crossdock_eventing.state import DueTimer

#: Records of an input partition with offsets from `start` up to but without `end`: (partition, topic, start, end).
Fetch = Callable[[int, str, int, int], Iterable[Record]]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it was recorded.

    thread: the order, settlement or sku that it is about. what: the event, state or step. changes: `field: was -> is`.
    """

    service: str
    thread: str
    what: str
    changes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join(
            [f"{self.service} {self.thread}: {self.what}", *(f"    {each}" for each in self.changes)]
        )


@dataclass(frozen=True, slots=True)
class Output:
    """A published record. `place` says where a recorded one lies."""

    body: Any
    meta: Meta
    place: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """A record or a state of a version of the service whose types are not here: what another process told of it.

    identity: the identifying fields of a record. content: as `plain` gives it.
    """

    kind: str
    content: Mapping[str, Any]
    topic: str = ""
    key: str = ""
    identity: tuple[str, ...] = ()


#: What was decided upon: an answer as the journal has it, a message, a timer.
Origin = tuple[str, str, str, Any] | Record | DueTimer


@dataclass(frozen=True, slots=True)
class Step:
    """One decision of a replay. `outcome` is the code of a rejection; `key` is empty for what could not be decoded."""

    partition: int
    turn: Turn
    origin: Origin
    key: str
    outcome: Decision | str
    lookups: tuple[tuple[str, str], ...]


class _Parking:
    """The parked keys of one task in a replay."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.own = OwnEntries()
        self.parking = ParkingLot(self.own)


class _NoLetters:
    """A replay writes nothing. compacted: it decides what an entry of the replays names, and so the hash that links the next."""

    def __init__(self, compacted: frozenset[str]) -> None:
        self.now_us = 0
        self.compacted = compacted

    def dead_letter(self, *_args: object, **_why: object) -> None: ...

    def replayed(self, *_args: object) -> None: ...


class _Faithful(Decider):
    """Rejects what the turn's journal says was rejected, before it is even decoded. told: code and detail by topic and offset."""

    told: Mapping[tuple[str, int], tuple[str, str]] = MappingProxyType({})

    def message(self, record: Record) -> Message | None:
        verdict = self.told.get((record.topic, record.offset))
        if verdict is not None:
            raise Undecodable(*verdict)
        return super().message(record)


class _RecordedTable:
    """A broadcast table as the journal says a turn's decisions saw it (`service.Lookup`)."""

    def __init__(self, kind: type[Any]) -> None:
        self._kind = kind
        self.groups: Mapping[str, list[Any]] = {}
        self.read: set[str] = set()
        self.unknown: set[str] = set()

    def begin_decision(self) -> None:
        self.read.clear()
        self.unknown.clear()

    def __call__(self, group: str) -> tuple[Any, ...]:
        self.read.add(group)
        rows = self.groups.get(group)
        if rows is None:
            self.unknown.add(group)
            return ()
        return tuple(typed(self._kind, row) for row in rows)


class Replay:
    """One service's run, decided again.

    compacted: output topics that are tables: of a turn only the last row of a key is published.
    states, outputs: what followed, by key and in order. differences: steps that went another way than the journal says.
    counts: turns, messages, answers and timers that were gone through.
    rejections_stand: what the journal says was rejected stays so, also where today's decider would not: it has been repaired, and
        what it makes of the message shows where that was released.
    witness: hears of every decision; what a changed decider fails at is only a difference.
    """

    def __init__(
        self,
        service: Service,
        codec: Codec,
        *,
        partitions: int,
        compacted: frozenset[str],
        partition_of: Callable[[bytes, int], int] = partition_for,
        rejections_stand: bool = False,
        witness: Callable[[Step], None] = lambda _step: None,
    ) -> None:
        self.service = service
        self.states: dict[str, Any] = {}
        self.outputs: list[Output] = []
        self.differences: list[Difference] = []
        self.counts: Counter[str] = Counter()
        self._decider = _Faithful(service, codec, partitions=partitions, partition_of=partition_of)
        self._rejections_stand = rejections_stand
        # What found no room was not taken, so the journal does not have it.
        limits = Limits(parked_messages_max=sys.maxsize, parked_bytes_max=sys.maxsize)
        self.partitions = partitions
        self.compacted = compacted & {kind.TOPIC for kind in service.outputs}
        self._letters = _NoLetters(self.compacted)
        self._desk = Desk(service, decider=self._decider, letters=self._letters, limits=limits)
        self._tasks: dict[int, _Parking] = {}
        self._instructions = names.retry_topic(service.name)
        self._answers = Tagged(service.answers)
        self._witness = witness
        self._tables = {name: _RecordedTable(kind) for name, kind in service.tables.items()}

    def resume(self, partition: int, states: Mapping[str, Any], own: Mapping[str, bytes]) -> None:
        """Go on from here instead of from nothing: states by key, and the task's own entries (what is parked) by name."""
        self.states.update(states)
        task = self._tasks[partition] = _Parking(partition)
        task.own.entries.update(own)

    def own(self, partition: int) -> Mapping[str, bytes]:
        """The own entries of a task as they are now, by name: its parked keys and their queues."""
        task = self._tasks.get(partition)
        return {} if task is None else task.own.entries

    def task(self, partition: int, turns: Iterable[Turn], fetch: Fetch) -> None:
        """Decide every turn of one task. Raises what `fetch` does, then having decided nothing."""
        prepared = [
            (turn, [record for run in turn.runs for record in fetch(partition, *run)]) for turn in turns
        ]
        for turn, messages in prepared:
            self._turn(partition, turn, messages)

    def _turn(self, partition: int, turn: Turn, messages: list[Record]) -> None:
        now = _EPOCH + timedelta(microseconds=turn.now_us)
        for name, table in self._tables.items():
            table.groups = turn.tables.get(name, {})
        ignored: list[tuple[str, int, str]] = []
        rejected: list[tuple[str, int, str]] = []
        first = len(self.outputs)
        self.counts["turns"] += 1
        task = self._tasks.setdefault(partition, _Parking(partition))
        self._letters.now_us = turn.now_us
        if self._rejections_stand:
            rejected_then = [(topic, offset, code, "") for topic, offset, code in turn.rejected]
            self._decider.told = {
                (topic, offset): (code, detail)
                for topic, offset, code, detail in (*rejected_then, *turn.refused)
            }

        def decide(origin: Origin, key: str, command: Any, cause: Cause, place: tuple[str, int]) -> None:
            try:
                decision = self._decide(key, command, cause, now)
            except self.service.retryable as error:
                self._differs(key, f"{type(command).__name__} asks for time: {error}")
                return
            if decision is None:
                return
            if decision.ignored is not None:
                ignored.append((*place, decision.ignored))
            self._witness(Step(partition, turn, origin, key, decision, self._lookups()))

        def reject(record: Record, key: str, code: str) -> None:
            rejected.append((record.topic, record.offset, code))
            if record.key:
                task.parking.park(key_text(record.key), record, code=code, now_us=turn.now_us)
            self._witness(Step(partition, turn, record, key, code, self._lookups()))

        for answer in turn.answers:
            key, call_id, caused_by, said = answer
            try:
                command = self._answers.typed(said)
            except Unreadable as error:
                self._differs(key, f"the answer to {call_id} cannot be read: {error}")
                continue
            self.counts["answers"] += 1
            decide(answer, key, command, self._decider.answer_cause(key, caused_by), ("", 0))

        def decide_parked(record: Record, key: str, command: Any, cause: Cause) -> Decision | None:
            try:
                decision = self._decide(key, command, cause, now)
            except self.service.retryable as error:
                # It was settled in this turn, else the turn would not count it: so it had asked too often.
                raise self.service.rejected(EXHAUSTED, str(error)) from error
            if decision is not None:
                self._witness(Step(partition, turn, record, key, decision, self._lookups()))
            return decision

        for key, count in turn.released:
            self.counts["released"] += count
            self._desk.release(task, key, decide_parked, count)
        exhausted = {(topic, offset) for topic, offset, code in turn.rejected if code == EXHAUSTED}
        for record in messages:
            if record.topic == self._instructions:
                self.counts["instructions"] += 1
                self._desk.instruct(task, record, decide_parked)
                continue
            self.counts["messages"] += 1
            message: Message | Undecodable | None
            try:
                message = self._decider.message(record)
            except Undecodable as error:
                message = error
            if message is None:
                continue
            if self._desk.is_parked(task, record):
                self._desk.join(task, record)
                continue
            if isinstance(message, Undecodable):
                reject(record, "", message.code)
                continue
            if (record.topic, record.offset) in exhausted:
                reject(record, message.key, EXHAUSTED)
                continue
            try:
                decide(record, message.key, message.command, message.cause, (record.topic, record.offset))
            except self.service.rejected as error:
                reject(record, message.key, error.code)  # type: ignore[attr-defined]
        for timer in turn.timers:
            due = self._decider.timer(timer, self.states.get(timer.key))
            if due is None:
                self._differs(timer.key, f"the timer {timer.name} fired, and is not set")
                continue
            waits = self._desk.waits(task)
            if waits is not None and waits(timer.key):
                self._differs(timer.key, f"the timer {timer.name} fired, and waits while its key is parked")
                continue
            self.counts["timers"] += 1
            decide(timer, timer.key, *due, ("", timer.due_us))
        self._same_verdicts("ignored", partition, turn.ignored, ignored)
        self._same_verdicts("rejected", partition, turn.rejected, rejected)
        self.outputs[first:] = self._published(self.outputs[first:])

    def _decide(self, key: str, command: Any, cause: Cause, now: datetime) -> Decision | None:
        """Decide and apply; None, with a difference, when the decider now fails in a way that ends a process.

        Raises the service's `rejected` and `retryable`.
        """
        for table in self._tables.values():
            table.begin_decision()
        try:
            decision = self._decider.decide(
                command, self.states.get(key), cause=cause, now=now, tables=self._tables
            )
        except (self.service.rejected, self.service.retryable):
            raise
        except Exception as error:  # noqa: BLE001 - a changed decider may fail in any way; the rest shall still be told
            self._differs(key, f"{type(command).__name__} fails with {type(error).__name__}: {error}")
            return None
        finally:
            for name, table in self._tables.items():
                for group in table.unknown:
                    self._differs(
                        key, f"{type(command).__name__} reads {name}({group}), which it did not then"
                    )
        if decision.state is None:
            self.states.pop(key, None)
        else:
            self.states[key] = decision.state
        self.outputs += [Output(body, meta) for body, meta in decision.outputs]
        return decision

    def _lookups(self) -> tuple[tuple[str, str], ...]:
        return tuple((name, group) for name, table in self._tables.items() for group in sorted(table.read))

    def _same_verdicts(
        self, fate: str, partition: int, was: list[tuple[str, int, str]], now: list[tuple[str, int, str]]
    ) -> None:
        if was == now:
            return
        before, after = Counter(was), Counter(now)
        for topic, offset, code in sorted((before - after) | (after - before)):
            place = f"{topic}/{partition}/{offset}" if topic else f"an answer or a timer of task {partition}"
            said = "is no longer" if (topic, offset, code) in before else "is now"
            self._differs(place, f"{said} {fate} as {code}")

    def _published(self, outputs: list[Output]) -> list[Output]:
        """What a turn publishes: events as they came, then the last row of each table key."""
        rows: dict[tuple[str, str], Output] = {}
        events: list[Output] = []
        for output in outputs:
            if output.body.TOPIC in self.compacted:
                rows[output.body.TOPIC, record_key(output.body)] = output
            else:
                events.append(output)
        return [*events, *rows.values()]

    def _differs(self, thread: str, what: str) -> None:
        self.differences.append(Difference(self.service.name, thread, what))


def compare(
    replay: Replay,
    outputs: Iterable[Output],
    states: Mapping[str, Any],
    *,
    may_be_gone: Callable[[Output], bool] = lambda _output: False,
    all_tasks: bool = True,
) -> list[Difference]:
    """Hold a replay against what was published and is stored; the replay's own differences come first.

    may_be_gone: whether retention or compaction may have removed a published record.
    all_tasks: every task was replayed; otherwise nobody can say of a record that it should not be there.
    """
    return [
        *replay.differences,
        *compare_runs(
            replay.service.name,
            was=(outputs, states),
            now=(replay.outputs, replay.states),
            may_be_gone=may_be_gone,
            all_tasks=all_tasks,
        ),
    ]


def compare_runs(
    service: str,
    *,
    was: tuple[Iterable[Output], Mapping[str, Any]],
    now: tuple[Iterable[Output], Mapping[str, Any]],
    may_be_gone: Callable[[Output], bool] = lambda _output: False,
    all_tasks: bool = True,
) -> list[Difference]:
    """Hold outputs and states by key against each other; either side's may be `Told`. The rest as in `compare`."""
    found = []
    before: dict[str, Output] = {}
    for output in was[0]:
        if output.meta.event_id in before:
            found.append(
                Difference(service, _thread(output), f"{_name(output)} was published twice: {output.place}")
            )
        before[output.meta.event_id] = output
    new: list[Output] = []
    for output in now[0]:
        recorded = before.pop(output.meta.event_id, None)
        if recorded is None:
            if not may_be_gone(output):
                new.append(output)
        elif not (same(recorded.body, output.body) and recorded.meta == output.meta):
            changed = (*changes(recorded.body, output.body), *changes(recorded.meta, output.meta))
            found.append(Difference(service, _thread(output), f"{_name(output)} has changed", changed))
    gone = list(before.values()) if all_tasks else []
    found += _moved(service, gone, new)
    for key in sorted(was[1].keys() | now[1].keys()):
        old, state = was[1].get(key), now[1].get(key)
        if same(old, state):
            continue
        if old is None or state is None:
            if old is None or all_tasks:
                what = "the state is new" if old is None else "the state is gone"
                shown = _content(state if old is None else old)
                found.append(Difference(service, key, what, (f"{shown}",)))
        else:
            found.append(Difference(service, key, "the state has changed", changes(old, state)))
    return found


def _moved(service: str, gone: list[Output], new: list[Output]) -> Iterator[Difference]:
    """What is missing and what is new; one of each of a type from the same cause reads as a change of identity."""
    waiting: dict[tuple[str, str], list[Output]] = {}
    for output in gone:
        waiting.setdefault((output.meta.causation_id, _kind(output.body)), []).append(output)
    for output in new:
        pairs = waiting.get((output.meta.causation_id, _kind(output.body)))
        if pairs:
            was = pairs.pop(0)
            # The ids differ because an identifying field does: that field says it all.
            meta = replace(output.meta, event_id=was.meta.event_id)
            changed = (*changes(was.body, output.body), *changes(was.meta, meta))
            yield Difference(service, _thread(output), f"{_name(output)} is another one", changed)
        else:
            yield Difference(
                service, _thread(output), f"{_name(output)} is new", (f"{_content(output.body)}",)
            )
    for output in (each for rest in waiting.values() for each in rest):
        yield Difference(
            service, _thread(output), f"{_name(output)} is no longer published", (f"{_content(output.body)}",)
        )


def told(value: Any) -> Told:
    """A record or a state, as another process can be told of it."""
    if not hasattr(value, "IDENTITY"):
        return Told(type(value).__name__, plain(value))
    return Told(type(value).__name__, plain(value), value.TOPIC, record_key(value), tuple(value.IDENTITY))


def same(was: Any, now: Any) -> bool:
    """Whether two records or states are equal, either of which may be `Told`, or missing."""
    if isinstance(was, Told) == isinstance(now, Told) or was is None or now is None:
        return bool(was == now)
    return _kind(was) == _kind(now) and bool(_content(was) == _content(now))


def _thread(output: Output) -> str:
    body = output.body
    return output.meta.correlation_id or (body.key if isinstance(body, Told) else record_key(body))


def _name(output: Output) -> str:
    body = output.body
    if isinstance(body, Told):
        identity = ", ".join(f"{name} {body.content.get(name)}" for name in body.identity)
    else:
        identity = ", ".join(f"{name} {getattr(body, name)}" for name in body.IDENTITY)
    return f"{_kind(body)} ({identity})" if identity else _kind(body)


def _kind(value: Any) -> str:
    return value.kind if isinstance(value, Told) else type(value).__name__


def _content(value: Any) -> Any:
    return value.content if isinstance(value, Told) else plain(value)


def changes(was: Any, now: Any) -> tuple[str, ...]:
    """The fields that differ, as `path: was -> is`. Either may be `Told`."""
    if _kind(was) != _kind(now):
        return (f"{_kind(was)} -> {_kind(now)}",)
    return changed_fields(_content(was), _content(now))


def changed_fields(was: Any, now: Any) -> tuple[str, ...]:
    """The same of JSON values."""
    return tuple(_changed_fields("", was, now))


def _changed_fields(path: str, was: Any, now: Any) -> Iterator[str]:
    if was == now:
        return
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        for name in [*was, *(name for name in now if name not in was)]:
            inner = f"{path}.{name}" if path else name
            yield from _changed_fields(inner, was.get(name, _ABSENT), now.get(name, _ABSENT))
    elif isinstance(was, list) and isinstance(now, list):
        for index in range(max(len(was), len(now))):
            left = was[index] if index < len(was) else _ABSENT
            right = now[index] if index < len(now) else _ABSENT
            yield from _changed_fields(f"{path}[{index}]", left, right)
    else:
        yield f"{path}: {was!r} -> {now!r}"


class _Absent:
    def __repr__(self) -> str:
        return "(none)"


_ABSENT = _Absent()
