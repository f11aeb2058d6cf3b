"""Defects of the shell that every service runs in: worker, task, state, outbox, calls, journal. Listed in `catalogue`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any
from unittest.mock import patch
from uuid import NAMESPACE_URL, uuid5

from crossdock_eventing import worker
from crossdock_eventing.broker.interface import Producer, Record, TopicPartition
from crossdock_eventing.calls import Calls
from crossdock_eventing.decision import Cause, Decider
from crossdock_eventing.envelope import Meta, record_key
from crossdock_eventing.journal import Journal
from crossdock_eventing.outbox import Outbox
from crossdock_eventing.state import Checkpoint, DueTimer, TaskState
from crossdock_eventing.task import Task
from crossdock_eventing.worker import Worker
from crossdock_simulation.mutations.mutation import SHELL, Mutation, replaced, wrapped

Original = Callable[..., Any]


# ---- which messages count as taken


def _skipped_unjournaled(original: Original) -> Original:
    def enter(self: Worker, batch: Any, task: Task, record: Record) -> None:
        kind = dict(record.headers).get("event_type")
        is_skipped = kind is not None and kind not in self._decider._handled
        with patch.object(self._journal, "on", self._journal.on and not is_skipped):
            original(self, batch, task, record)

    return enter


def _from_position(original: Original) -> Original:
    def work_off(self: Worker, batch: Any, timers: Any) -> None:
        original(self, batch, timers)
        for task in batch.touched.values():
            for each in self._inputs_of(task.partition):
                task.next_offsets[each.topic] = self._consumer.position(each) or 0

    return work_off


def _not_rewound(original: Original) -> Original:
    def recover(self: Worker) -> None:
        with patch.object(Worker, "_rewind", lambda _self: None):
            original(self)

    return recover


def _not_sought(original: Original) -> Original:
    def rewind(self: Worker) -> None:
        with patch.object(self._consumer, "seek", lambda *_place: None):
            original(self)

    return rewind


def _letter_alone(
    self: Worker, batch: Any, task: Task, record: Record, *, code: str, detail: str, error: BaseException
) -> None:
    self._desk.reject(task, record, code=code, detail=detail, error=error)
    self._journal.rejected(task.partition, record.topic, record.offset, code)
    batch.touched[task.partition] = task


class _OffsetsOfInput(Task):
    """Sends offsets only when it has taken a message: not for a timer, an answer, its first book."""

    _committed: dict[str, int] | None = None

    def offsets(self) -> dict[TopicPartition, int]:
        return {} if self._committed == self.next_offsets else super().offsets()

    def flush(self, now_ms: int) -> None:
        super().flush(now_ms)
        self._committed = dict(self.next_offsets)


# ---- what is written, and when


class _TypeByType(Outbox):
    """Writes a transaction's events at its end, one type after another."""

    def begin(self, producer: Producer, now: datetime) -> None:
        super().begin(producer, now)
        self._events: list[tuple[Any, bytes, Meta, Any]] = []

    def publish(self, record: Any, meta: Meta, trace: Any) -> None:
        if record.TOPIC in self.compacted:
            super().publish(record, meta, trace)
        else:
            self._events.append((record, record_key(record).encode(), meta, trace))

    def finish(self, touched: Iterable[Task]) -> None:
        for event in sorted(self._events, key=lambda event: event[0].SCHEMA):
            self._produce(*event)
        super().finish(touched)


class _LettersLast(Outbox):
    """Collects a transaction's dead letters on a stack and writes them at its end."""

    def begin(self, producer: Producer, now: datetime) -> None:
        super().begin(producer, now)
        self._letters: list[tuple[Record, int, dict[str, Any]]] = []

    def dead_letter(self, record: Record, partition: int, **why: Any) -> None:
        self._letters.append((record, partition, why))

    def finish(self, touched: Iterable[Task]) -> None:
        while self._letters:
            record, partition, why = self._letters.pop()
            super().dead_letter(record, partition, **why)
        super().finish(touched)


def _commands_at_once(original: Original) -> Original:
    """Worker's constructor; its outbox gets a producer of its own for what the outside is waiting for."""

    def make(self: Worker, service: Any, *, broker: Any, ordinal: int = 0, **rest: Any) -> None:
        with patch.object(worker, "Outbox", _CommandsAtOnce):
            original(self, service, broker=broker, ordinal=ordinal, **rest)
        assert isinstance(self._outbox, _CommandsAtOnce)
        self._outbox.express = broker.producer(f"{self._transactional_id}-express")
        self._outbox.express.init_transactions()

    return make


class _CommandsAtOnce(Outbox):
    """Commands to the outside leave in a transaction of their own, before that of the decision commits."""

    express: Producer

    def _produce(self, record: Any, key: bytes, meta: Meta, trace: Any) -> None:
        if ".commands." not in record.TOPIC:
            super()._produce(record, key, meta, trace)
            return
        with patch.object(self, "_producer", self.express):
            self.express.begin()
            super()._produce(record, key, meta, trace)
            self.express.commit()


class _FlushedEarly(Outbox):
    """Brings the stores up to date as soon as the transaction's changes are written to the log."""

    def finish(self, touched: Iterable[Task]) -> None:
        tasks = list(touched)
        super().finish(tasks)
        for task in tasks:
            state = task.state
            kept = dict(state._overlay), dict(state._before), dict(state._encoded)
            state.flush(task._checkpoint(self._now_ms))
            state._overlay, state._before, state._encoded = kept


def _without_tombstones(original: Original) -> Original:
    def changes(self: TaskState) -> Iterator[tuple[str, bytes | None]]:
        for key, value in original(self):
            if value is not None:
                yield key, value

    return changes


# ---- recovery


def _changelog_unread(original: Original) -> Original:
    def recover(self: Worker) -> None:
        with patch.object(Task, "restore", lambda *_args: 0):
            original(self)

    return recover


def _cache_kept(original: Original) -> Original:
    def load(self: TaskState, changes: Mapping[str, bytes | None], checkpoint: Checkpoint) -> None:
        with patch.object(TaskState, "_forget", lambda *_args: None):
            original(self, changes, checkpoint)

    return load


# ---- journal, causes, timers


class _JournalOfHits(Journal):
    """Notes table rows that were read, and not that there were none."""

    def looked_up(self, task: int, reads: Iterable[tuple[str, str, str]]) -> None:
        super().looked_up(task, [each for each in reads if each[2] != "[]"])


def _cause_handed_on(original: Original) -> Original:
    def message(self: Decider, record: Record) -> Any:
        found = original(self, record)
        if found is None:
            return None
        meta, _ = self._codec.decode(record.value, record.headers)
        cause = replace(found.cause, causation_id=meta.causation_id)
        return replace(found, cause=cause)

    return message


def _numbered_events(original: Original) -> Original:
    """`decide`, whose events have ids by their place in the list."""

    def decide(self: Decider, command: Any, state: Any, *, cause: Cause, **rest: Any) -> Any:
        found = original(self, command, state, cause=cause, **rest)
        outputs = tuple(
            (event, replace(meta, event_id=str(uuid5(NAMESPACE_URL, f"{cause.causation_id}/{index}"))))
            for index, (event, meta) in enumerate(found.outputs)
        )
        return replace(found, outputs=outputs)

    return decide


class _FirstTimersOnly(TaskState):
    """Writes the timers of a new state into the index, and forgets to when a state changes."""

    def _index(
        self, batch: dict[bytes, bytes | None], key: str, before: Any | None, after: Any | None
    ) -> None:
        added: dict[bytes, bytes | None] = {}
        super()._index(added, key, before, after)
        is_known = before is not None
        batch |= {
            entry: value
            for entry, value in added.items()
            if not (is_known and value is not None and entry.startswith(b"t"))
        }


class _FloorNeverFalls(TaskState):
    """Looks for due timers from the earliest one that it ever saw on."""

    def _index(
        self, batch: dict[bytes, bytes | None], key: str, before: Any | None, after: Any | None
    ) -> None:
        floor = self._floor, self._floor_lives
        super()._index(batch, key, before, after)
        if self._floor < floor[0]:
            self._floor, self._floor_lives = floor


def _never_looked_up(original: Original) -> Original:
    def start_again(self: Calls, task: Task) -> None:
        if self._of is not None:
            for key in task.state.keys_with_calls():
                self.start(task, key, task.state.get(key), fresh=True)

    return start_again


def _timer_by_now(original: Original) -> Original:
    def fired(self: Journal, task: int, timer: DueTimer, ignored: str | None) -> None:
        original(self, task, timer._replace(due_us=self._now_us), ignored)

    return fired


MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        name="skipped-messages-unjournaled",
        invariant=1,
        where=SHELL,
        about="messages of types that the service skips are left out of the journal's runs",
        apply=wrapped(Worker, "_enter", _skipped_unjournaled),
    ),
    Mutation(
        name="offsets-from-position",
        invariant=1,
        where=SHELL,
        about="the offsets sent are the consumer's position, not the book of what was processed",
        apply=wrapped(Worker, "_work_off", _from_position),
    ),
    Mutation(
        name="unknown-commit-believed",
        invariant=1,
        where=SHELL,
        about="after a commit of unknown outcome the worker goes on as if it had landed",
        apply=wrapped(Worker, "_recover", _not_rewound),
    ),
    Mutation(
        name="input-not-sought",
        invariant=1,
        where=SHELL,
        about="after a transaction has failed its messages are not read again",
        apply=wrapped(Worker, "_rewind", _not_sought),
    ),
    Mutation(
        name="dead-letter-not-taken",
        invariant=1,
        where=SHELL,
        about="a dead letter is written without moving past its message",
        apply=replaced(Worker, "_reject", _letter_alone),
    ),
    Mutation(
        name="dead-letter-unwritten",
        invariant=1,
        where=SHELL,
        about="a message that cannot be processed is logged and skipped, without a dead letter",
        apply=replaced(Outbox, "dead_letter", lambda *_args, **_why: None),
    ),
    Mutation(
        name="offsets-with-input-only",
        invariant=8,
        where=SHELL,
        about="a transaction sends offsets only for tasks that took a message, so that a zombie's timers are not fenced",
        apply=replaced(worker, "Task", _OffsetsOfInput),
    ),
    Mutation(
        name="events-type-by-type",
        invariant=5,
        where=SHELL,
        about="a transaction's events are written one type after another",
        apply=replaced(worker, "Outbox", _TypeByType),
    ),
    Mutation(
        name="letters-last-first",
        invariant=5,
        where=SHELL,
        about="a transaction's dead letters are written at its end, the last one first",
        apply=replaced(worker, "Outbox", _LettersLast),
    ),
    Mutation(
        name="commands-before-commit",
        invariant=8,
        where=SHELL,
        about="commands to the outside leave at once, before the transaction that decided them has committed",
        apply=wrapped(Worker, "__init__", _commands_at_once),
    ),
    Mutation(
        name="flush-before-commit",
        invariant=6,
        where=SHELL,
        about="the store is flushed before the transaction commits",
        apply=replaced(worker, "Outbox", _FlushedEarly),
    ),
    Mutation(
        name="changelog-unread",
        invariant=6,
        where=SHELL,
        about="recovery from a commit of unknown outcome does not read the changelog again",
        apply=wrapped(Worker, "_recover", _changelog_unread),
    ),
    Mutation(
        name="overlay-kept",
        invariant=6,
        where=SHELL,
        about="what an aborted transaction changed is not dropped",
        apply=replaced(TaskState, "drop", lambda _self: None),
    ),
    Mutation(
        name="cache-kept",
        invariant=6,
        where=SHELL,
        about="states read again from the changelog do not replace those in the cache",
        apply=wrapped(TaskState, "load", _cache_kept),
    ),
    Mutation(
        name="tombstones-unwritten",
        invariant=6,
        where=SHELL,
        about="the end of a state is not written to the changelog",
        apply=wrapped(TaskState, "changes", _without_tombstones),
    ),
    Mutation(
        name="misses-unjournaled",
        invariant=6,
        where=SHELL,
        about="the journal keeps the table rows that a decision read, and not that a row was missing",
        apply=replaced(worker, "Journal", _JournalOfHits),
    ),
    Mutation(
        name="timers-journaled-by-now",
        invariant=6,
        where=SHELL,
        about="the journal names a timer by when it fired, not by when it was due",
        apply=wrapped(Journal, "fired", _timer_by_now),
    ),
    Mutation(
        name="cause-handed-on",
        invariant=8,
        where=SHELL,
        about="an event names the cause of its cause",
        apply=wrapped(Decider, "message", _cause_handed_on),
    ),
    Mutation(
        name="events-numbered",
        invariant=8,
        where=SHELL,
        about="event ids are made of the cause and the place among its events",
        apply=wrapped(Decider, "decide", _numbered_events),
    ),
    Mutation(
        name="timers-first-only",
        invariant=10,
        where=SHELL,
        about="a timer that is added to a known state is missing in the index",
        apply=replaced(worker, "TaskState", _FirstTimersOnly),
    ),
    Mutation(
        name="timer-floor-fixed",
        invariant=10,
        where=SHELL,
        about="a timer that is earlier than all others is not looked for",
        apply=replaced(worker, "TaskState", _FloorNeverFalls),
    ),
    Mutation(
        name="restored-calls-fresh",
        invariant=4,
        where=SHELL,
        about="a call found outstanding after a restart is made as if nobody had made it before",
        apply=wrapped(Calls, "start_again", _never_looked_up),
    ),
)
