"""The worker's side of parking: what arrives for a parked key, what instructions ask for, what is released. Built by the worker.

It writes dead letters and entries of the replays through the outbox; deciding is the worker's, who knows when a table may be late.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from crossdock_eventing.broker.interface import Record
from crossdock_eventing.codec import Undecodable
from crossdock_eventing.decision import Cause, Decider, Decision, Message
from crossdock_eventing.limits import Limits
from crossdock_eventing.parking.formats import (
    Instruction,
    Malformed,
    Queued,
    Release,
    ReplayedMessage,
    ReplayEntry,
    key_text,
)
from crossdock_eventing.parking.lot import ParkingLot, Result
from crossdock_eventing.service import Service

#: Code of a message that waits behind a rejected one of its key.
BEHIND: Final = "parked.behind"
#: Attribute of events that follow from a released message: the plan that released it.
REPLAY: Final = "replay"

#: Decides the command of a record for the task at hand and applies what follows; None when it has to wait. Raises the
#: service's `rejected`.
Decide = Callable[[Record, str, Any, Cause], Decision | None]


class Parking(Protocol):
    """A task, or what stands for one in a replay."""

    @property
    def partition(self) -> int: ...

    @property
    def parking(self) -> ParkingLot: ...


class Letters(Protocol):
    """Where dead letters and entries of the replays go (`outbox.Outbox`). compacted: outputs that are tables, not events."""

    compacted: frozenset[str]

    @property
    def now_us(self) -> int: ...

    def dead_letter(
        self,
        record: Record,
        partition: int,
        *,
        code: str,
        detail: str,
        error: BaseException | None,
        attempt: int = 1,
    ) -> None: ...

    def replayed(self, partition: int, entry: ReplayEntry) -> None: ...


@dataclass(slots=True)
class _Going:
    """A release in this transaction, and what it has decided."""

    release: Release
    episode: str
    messages: list[ReplayedMessage] = field(default_factory=list)


class Desk:
    """Parking in the running transaction."""

    def __init__(
        self,
        service: Service,
        *,
        decider: Decider,
        letters: Letters,
        limits: Limits,
        refused: Callable[[int, str, int, str, str], None] = lambda *_: None,
    ) -> None:
        """refused: hears task, topic, offset, code and detail of every released or injected message that is rejected."""
        self._service = service
        self._decider = decider
        self._letters = letters
        self._limits = limits
        self._refused = refused

    def waits(self, task: Parking) -> Callable[[str], bool] | None:
        """Whether the timers of a state wait, as its record key is parked; None when no key of the task is."""
        keys = task.parking.keys
        if not keys:
            return None
        record_key = self._service.record_key
        return keys.__contains__ if record_key is None else lambda key: record_key(key) in keys

    def is_parked(self, task: Parking, record: Record) -> bool:
        return (
            bool(task.parking.keys) and bool(record.key) and key_text(record.key or b"") in task.parking.keys
        )

    def join(self, task: Parking, record: Record) -> bool:
        """A message of a parked key waits behind the others; False when there is no room for it."""
        key = key_text(record.key or b"")
        if not self.has_room(task, key):
            return False
        seq = task.parking.queue(key, record)
        self._letters.dead_letter(
            record,
            task.partition,
            code=BEHIND,
            detail=f"waits as number {seq} behind what was rejected",
            error=None,
            attempt=0,
        )
        return True

    def has_room(self, task: Parking, key: str) -> bool:
        messages, size = task.parking.size(key)
        return messages < self._limits.parked_messages_max and size < self._limits.parked_bytes_max

    def reject(self, task: Parking, record: Record, *, code: str, detail: str, error: BaseException) -> None:
        """A message was rejected: it parks its key, unless it has none."""
        self._letters.dead_letter(record, task.partition, code=code, detail=detail, error=error)
        if record.key:
            task.parking.park(key_text(record.key), record, code=code, now_us=self._letters.now_us)

    def instruct(self, task: Parking, record: Record, decide: Decide) -> bool:
        """Carry out an instruction; False when it must wait for a table."""
        try:
            instruction = Instruction.from_bytes(record.value)
            if instruction.key != key_text(record.key or b""):
                raise Malformed("it names another key than its record")
        except Malformed as error:
            nobody = Instruction(
                plan="", item=0, operator="", reason="", key=key_text(record.key or b""), op="release"
            )
            self._enter(task, nobody, Result("refused", str(error)))
            return True
        if instruction.op == "inject":
            result = self._inject(task, instruction, decide)
            if result is None:
                return False
        else:
            marked = task.parking.instruct(instruction)
            if marked is None:
                return True
            result = marked
        self._enter(task, instruction, result)
        for ended in result.ended:
            self._finish(task, instruction.key, ended, _Going(ended, instruction.episode), "released", "")
        return True

    def release(self, task: Parking, key: str, decide: Decide, budget: int) -> tuple[int, bool]:
        """Decide released messages of the key, at most `budget`; returns how many, and whether the next one has to wait."""
        going: _Going | None = None
        done = 0
        late = False
        while done < budget and (found := task.parking.head(key)) is not None:
            seq, queued, release, episode = found
            if going is None or going.release != release:
                going = _Going(release, episode)
            decided = self._decide_released(queued, release, decide)
            if decided is None:
                late = True
                break
            done += 1
            if isinstance(decided, _Refusal):
                again = replace(queued, attempt=queued.attempt + 1, code=decided.code)
                self._note(task, queued.record, decided)
                self._letters.dead_letter(
                    queued.record,
                    task.partition,
                    code=decided.code,
                    detail=decided.detail,
                    error=decided.error,
                    attempt=again.attempt,
                )
                going.messages.append(ReplayedMessage.of(seq, again, "rejected", code=decided.code))
                for ended in task.parking.rejected(key, decided.code):
                    self._finish(task, key, ended, going, "rejected_again", decided.detail)
                going = None
                break
            going.messages.append(_effect(seq, queued, decided, self._letters.compacted))
            for ended in task.parking.applied(key):
                self._finish(task, key, ended, going, "released", "")
                if ended == going.release:
                    going.messages = []
        if going is not None and going.messages:
            self._finish(task, key, going.release, going, "continuing", "")
        return done, late

    def _decide_released(
        self, queued: Queued, release: Release, decide: Decide
    ) -> Decision | _Refusal | _Skipped | None:
        message = self._read(queued.record)
        if not isinstance(message, Message):
            return message
        cause = replace(message.cause, attributes={**message.cause.attributes, REPLAY: release.plan})
        try:
            return decide(queued.record, message.key, message.command, cause)
        except self._service.rejected as error:
            return _Refusal(error.code, error.detail, error)  # type: ignore[attr-defined]

    def _read(self, record: Record) -> Message | _Refusal | _Skipped:
        try:
            return self._decider.message(record) or _Skipped()
        except Undecodable as error:
            return _Refusal(error.code, error.detail, error)

    def _inject(self, task: Parking, instruction: Instruction, decide: Decide) -> Result | None:
        """Take in a foreign record as if it had come on its topic; None when it must wait for a table."""
        origin, parking = instruction.origin, task.parking
        assert origin is not None
        key = instruction.key
        record = Record(
            topic=instruction.topic,
            partition=task.partition,
            offset=origin.offset,
            timestamp_ms=instruction.timestamp_ms,
            key=key.encode(errors="surrogateescape"),
            value=instruction.value,
            headers=instruction.headers,
        )
        if parking.was_injected(origin):
            return Result("already", f"{origin} was taken in before", (), parking.left(key))
        message = self._read(record)
        if isinstance(message, _Skipped):
            return Result("refused", "the service does not handle this type", (), parking.left(key))
        queued = Queued(record)
        if key in parking.keys:
            if not self.has_room(task, key):
                return Result("refused", "the key's queue is full", (), parking.left(key))
            parking.inject(origin, self._letters.now_us)
            seq = parking.queue(key, record)
            return Result("queued", "", (ReplayedMessage.of(seq, queued, "queued"),), parking.left(key))
        decided: Decision | _Refusal | None
        if isinstance(message, _Refusal):
            decided = message
        else:
            cause = replace(message.cause, attributes={**message.cause.attributes, REPLAY: instruction.plan})
            try:
                decided = decide(record, message.key, message.command, cause)
            except self._service.rejected as error:
                decided = _Refusal(error.code, error.detail, error)  # type: ignore[attr-defined]
        if decided is None:
            return None
        parking.inject(origin, self._letters.now_us)
        if isinstance(decided, _Refusal):
            self._note(task, record, decided)
            self.reject(task, record, code=decided.code, detail=decided.detail, error=decided.error)
            again = ReplayedMessage.of(0, replace(queued, attempt=1), "rejected", code=decided.code)
            return Result("rejected_again", decided.detail, (again,), parking.left(key))
        return Result(
            "injected", "", (_effect(0, queued, decided, self._letters.compacted),), parking.left(key)
        )

    def _note(self, task: Parking, record: Record, refusal: _Refusal) -> None:
        self._refused(task.partition, record.topic, record.offset, refusal.code, refusal.detail)

    def _finish(
        self, task: Parking, key: str, release: Release, going: _Going, outcome: Any, detail: str
    ) -> None:
        """Enter what a release has come to; what was decided belongs to the one that decided it."""
        instruction = Instruction(
            plan=release.plan,
            item=release.item,
            operator=release.operator,
            reason=release.reason,
            key=key,
            op="release",
            episode=going.episode,
        )
        messages = tuple(going.messages) if release == going.release else ()
        self._enter(task, instruction, Result(outcome, detail, messages, task.parking.left(key)))

    def _enter(self, task: Parking, instruction: Instruction, result: Result) -> None:
        number, previous = task.parking.link()
        entry = ReplayEntry(
            number=number,
            previous=previous,
            at_us=self._letters.now_us,
            plan=instruction.plan,
            item=instruction.item,
            operator=instruction.operator,
            reason=instruction.reason,
            key=instruction.key,
            episode=instruction.episode,
            op=instruction.op,
            outcome=result.outcome,
            detail=result.detail,
            left=result.left,
            messages=result.messages,
        )
        task.parking.set_link(entry)
        self._letters.replayed(task.partition, entry)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A message was rejected, or cannot be decoded."""

    code: str
    detail: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class _Skipped:
    """The service does not handle this type any more: nothing follows from it."""


def _effect(
    seq: int, queued: Queued, decided: Decision | _Skipped, tables: frozenset[str]
) -> ReplayedMessage:
    if isinstance(decided, _Skipped):
        return ReplayedMessage.of(seq, queued, "ignored", code="parked.not_handled")
    if decided.ignored is not None:
        return ReplayedMessage.of(seq, queued, "ignored", code=decided.ignored)
    return ReplayedMessage.of(
        seq,
        queued,
        "applied",
        events=[meta.event_id for record, meta in decided.outputs if record.TOPIC not in tables],
    )
