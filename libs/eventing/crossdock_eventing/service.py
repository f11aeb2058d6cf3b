"""What a service tells the shell about itself: its decider, its records, its state, its outside port.

Each service builds one `Service` in its `service.py`; its `__main__` hands it to `crossdock_eventing.process.run`, and tests
and the simulator hand the same value to a `Worker` on the in-memory broker. Nothing here does anything: it is the seam.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Protocol, Self


class State(Protocol):
    """A generated state record. `timers` maps a name to when it fires; the shell derives its index from it."""

    SCHEMA: ClassVar[str]

    @property
    def timers(self) -> Mapping[str, datetime]: ...

    def to_avro(self) -> dict[str, Any]: ...

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> Self: ...


class Record(Protocol):
    """A generated record type of a contract: where it goes, what identifies it, how it is written."""

    SCHEMA: ClassVar[str]
    TOPIC: ClassVar[str]
    KEY: ClassVar[tuple[str, ...]]
    IDENTITY: ClassVar[tuple[str, ...]]
    CORRELATION: ClassVar[str | None]

    def to_avro(self) -> dict[str, Any]: ...

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> Self: ...


class CodedError(Protocol):
    """An anticipated failure: its code stands in the catalogue of reasons."""

    code: str
    detail: str


class Call(Protocol):
    """One call to an outside system that the state says is outstanding. `call_id` is new for every attempt.

    `caused_by` is the event id of what made it necessary: the cause of what follows from the answer. A service that makes
    calls asks for it with `wants_cause` and keeps it in its state, since a call outlives the process that decided it.
    """

    @property
    def call_id(self) -> str: ...

    @property
    def caused_by(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call brought: `command` is given to the decider under the state key that asked."""

    state_key: str
    call_id: str
    command: object


class Port(Protocol):
    """The outside of a service in start/collect form, so that the loop stays steppable and owns no thread.

    Calls are derived from the state: whatever the state says is outstanding is started after its transaction committed,
    and again after a restore, when `fresh` is False: an earlier process may have made it, so look up before calling.
    """

    def start(self, state_key: str, call: Call, *, fresh: bool) -> None:
        """Begin the call; does not block."""

    def collect(self) -> list[Answer]:
        """Take the answers that have arrived; does not block. Called in every step, before its transaction."""

    def forget(self, state_keys: frozenset[str]) -> None:
        """These keys moved to another instance: drop their calls and answers."""

    def close(self) -> None:
        """Stop; calls in flight are abandoned, their outcome unknown."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """One service. Every callable is pure but for the port.

    decide: `(command, state | None, *, now, **tables) -> tuple[event, ...]`; raises only `rejected` and `retryable`.
    evolve: `(state | None, event) -> state | None`; None deletes the state.
    inputs: record types that are handled; their topics are subscribed, other types on them are skipped by header.
    outputs: record types that `decide` may emit; events of other types stay private.
    states: generated state types, one or more.
    tables: broadcast tables, keyword of `decide` -> record type; given as `Lookup` (grouped by the key's first part).
    state_key: the key of the state that a record acts on, a function of the record's Kafka key and topic only.
    record_key: the record key that a state's key belongs to; needed with `state_key`.
    timer: builds the command of a timer from its name and due time.
    calls: what the state says is outstanding at `port`.
    wants_cause: give `decide` the event id of the command as keyword `cause`.
    answers: types of the commands that the port's answers carry; they are journaled, being in no topic.
    ignored: type of the event, with a `code`, that says of a command that it changes nothing.
    """

    name: str
    decide: Callable[..., tuple[Any, ...]]
    evolve: Callable[[Any, Any], Any]
    inputs: tuple[type[Any], ...]
    outputs: tuple[type[Any], ...]
    states: tuple[type[Any], ...]
    timer: Callable[[str, datetime], object]
    rejected: type[Exception]
    retryable: type[Exception]
    tables: Mapping[str, type[Any]] = field(default_factory=dict)
    state_key: Callable[[Any], str] | None = None
    record_key: Callable[[str], str] | None = None
    calls: Callable[[Any], tuple[Any, ...]] | None = None
    port: Port | None = None
    wants_cause: bool = False
    answers: tuple[type[Any], ...] = ()
    ignored: type[Any] | None = None

    def __post_init__(self) -> None:
        if (self.state_key is None) != (self.record_key is None):
            raise ValueError("state_key and record_key go together")
