"""The journal: what a transaction was decided from and the inputs alone do not tell. Written by the worker, read by the replay.

One record for each transaction and task that it touched, in that transaction, so an aborted one leaves none: the moment that
was `now`, answers of the port, runs of messages as they were merged, timers that fired, and the table rows that were read.
JSON, on the partition of the task's number:

    {"v": 1, "now": µs,
     "answers": [[state key, call id, cause, {type: {command}}], ...],   decided first
     "released": [[record key, count], ...],    then so many parked messages of these keys
     "runs": [[topic, from, to], ...],          then these messages: the next offset before and after, so that runs join
     "timers": [[due µs, key, name], ...],      then these timers
     "ignored": [[topic, offset, code], ...],   what changed nothing; topic "" and the due time (0: an answer) if no message
     "rejected": [[topic, offset, code], ...],  what went to the dead letters
     "refused": [[topic, offset, code, detail], ...],   what was rejected when it was released or injected
     "tables": {table: {group: [row, ...]}}}    an empty list was read and found missing

Empty parts are left out. Messages that are skipped by their type lie inside a run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from crossdock_eventing.clock import to_micros
from crossdock_eventing.plain import Tagged
from crossdock_eventing.service import Answer
from crossdock_eventing.state import DueTimer

VERSION = 1


class UnknownVersion(ValueError):
    """The journal was written by a shell that this one does not understand."""


@dataclass(slots=True)
class Turn:
    """One journal record, its fields as in the format above. `tables` holds rows as JSON values."""

    now_us: int
    answers: list[tuple[str, str, str, Any]] = field(default_factory=list)
    released: list[tuple[str, int]] = field(default_factory=list)
    runs: list[tuple[str, int, int]] = field(default_factory=list)
    timers: list[DueTimer] = field(default_factory=list)
    ignored: list[tuple[str, int, str]] = field(default_factory=list)
    rejected: list[tuple[str, int, str]] = field(default_factory=list)
    refused: list[tuple[str, int, str, str]] = field(default_factory=list)
    tables: Mapping[str, Mapping[str, list[Any]]] = field(default_factory=dict)


def read_turn(value: bytes | str) -> Turn:
    """The journal record of these bytes. Raises UnknownVersion."""
    return typed_turn(json.loads(value))


def typed_turn(found: Mapping[str, Any]) -> Turn:
    """The turn of these JSON values. Raises UnknownVersion."""
    if found.get("v") != VERSION:
        raise UnknownVersion(f"journal version {found.get('v')} is not known here")
    return Turn(
        now_us=found["now"],
        answers=[(key, call, cause, command) for key, call, cause, command in found.get("answers", ())],
        released=[(key, count) for key, count in found.get("released", ())],
        runs=[(topic, start, end) for topic, start, end in found.get("runs", ())],
        timers=[DueTimer(due_us, key, name) for due_us, key, name in found.get("timers", ())],
        ignored=[(topic, offset, code) for topic, offset, code in found.get("ignored", ())],
        rejected=[(topic, offset, code) for topic, offset, code in found.get("rejected", ())],
        refused=[(topic, offset, code, detail) for topic, offset, code, detail in found.get("refused", ())],
        tables=found.get("tables", {}),
    )


def plain_turn(turn: Turn) -> dict[str, Any]:
    """The turn as JSON values, in the format above."""
    parts: dict[str, Any] = {"v": VERSION, "now": turn.now_us}
    for name in ("answers", "released", "runs", "timers", "ignored", "rejected", "refused", "tables"):
        if found := getattr(turn, name):
            parts[name] = found
    return parts


class Journal:
    """The records of the running transaction, one for each task number. Off: it stays empty."""

    def __init__(self, answers: Iterable[type[Any]], *, on: bool) -> None:
        self.on = on
        self._answers = Tagged(answers)
        self._now_us = 0
        self._turns: dict[int, Turn] = {}
        self._rows: dict[int, dict[str, dict[str, str]]] = {}

    def begin(self, now: datetime) -> None:
        """A transaction begins; forgets what an earlier one did not finish."""
        self._now_us = to_micros(now)
        self._turns.clear()
        self._rows.clear()

    def answered(self, task: int, answer: Answer, cause: str, ignored: str | None) -> None:
        if self.on:
            turn = self._turn(task)
            command = self._answers.plain(answer.command)
            turn.answers.append((answer.state_key, answer.call_id, cause, command))
            if ignored is not None:
                turn.ignored.append(("", 0, ignored))

    def released(self, task: int, key: str, count: int) -> None:
        if self.on:
            self._turn(task).released.append((key, count))

    def entered(self, task: int, topic: str, start: int, end: int) -> None:
        """A message of the task was taken: its next offset was `start` and is `end` now."""
        if self.on:
            runs = self._turn(task).runs
            if runs and runs[-1][0] == topic:
                assert runs[-1][2] == start
                start = runs.pop()[1]
            runs.append((topic, start, end))

    def ignored(self, task: int, topic: str, offset: int, code: str) -> None:
        if self.on:
            self._turn(task).ignored.append((topic, offset, code))

    def rejected(self, task: int, topic: str, offset: int, code: str) -> None:
        if self.on:
            self._turn(task).rejected.append((topic, offset, code))

    def refused(self, task: int, topic: str, offset: int, code: str, detail: str) -> None:
        if self.on:
            self._turn(task).refused.append((topic, offset, code, detail))

    def fired(self, task: int, timer: DueTimer, ignored: str | None) -> None:
        if self.on:
            turn = self._turn(task)
            turn.timers.append(timer)
            if ignored is not None:
                turn.ignored.append(("", timer.due_us, ignored))

    def looked_up(self, task: int, reads: Iterable[tuple[str, str, str]]) -> None:
        """A decision of the task read these (table, group, rows as JSON text); tables stand still within a transaction."""
        if self.on:
            for table, group, rows in reads:
                self._rows.setdefault(task, {}).setdefault(table, {})[group] = rows

    def record(self, task: int) -> bytes:
        """The value of the task's journal record."""
        text = json.dumps(plain_turn(self._turn(task)), separators=(",", ":"), ensure_ascii=False)
        if tables := self._rows.get(task):
            # The rows are JSON already: a large group is read far more often than one of its rows changes.
            inner = ",".join(
                f"{_text(table)}:{{{','.join(f'{_text(group)}:{rows}' for group, rows in groups.items())}}}"
                for table, groups in tables.items()
            )
            text = f'{text[:-1]},"tables":{{{inner}}}}}'
        return text.encode(errors="surrogatepass")  # a parked key may be any bytes

    def _turn(self, task: int) -> Turn:
        turn = self._turns.get(task)
        if turn is None:
            turn = self._turns[task] = Turn(self._now_us)
        return turn


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
