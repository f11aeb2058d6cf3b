"""What one input becomes: the message in a record, the decision on a command, the envelopes of what it publishes.

The worker takes each step here and adds what only it knows: transactions, tables that may be behind, dead letters. The replay
takes the same steps from the journal. Nothing here writes, waits or reads a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from crossdock_eventing.broker.interface import Record
from crossdock_eventing.codec import Codec, Undecodable
from crossdock_eventing.envelope import Meta, header, wrap
from crossdock_eventing.service import Service
from crossdock_eventing.state import DueTimer

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Cause:
    """What the outputs of one decision descend from, and the attributes that travel on with them."""

    causation_id: str
    correlation_id: str
    attributes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Message:
    """A record of a type that the service handles. `key`: of the state that it acts on."""

    key: str
    command: Any
    cause: Cause


@dataclass(frozen=True, slots=True)
class Decision:
    """What a command led to.

    events: all of them. outputs: those to publish, in order, with their envelopes. state: what the key holds from now on.
    ignored: the code, when the decision was that nothing changes.
    """

    events: tuple[Any, ...]
    outputs: tuple[tuple[Any, Meta], ...]
    state: Any | None
    ignored: str | None


class Decider:
    """A service's decider as the shell uses it, on both sides of the log."""

    def __init__(
        self, service: Service, codec: Codec, *, partitions: int, partition_of: Callable[[bytes, int], int]
    ) -> None:
        self._service = service
        self._codec = codec
        self._partitions = partitions
        self._partition_of = partition_of
        self._source = f"/crossdock/{service.name}"
        self._handled = {kind.SCHEMA.encode() for kind in service.inputs}
        self._inputs = frozenset(service.inputs)
        self._outputs = frozenset(service.outputs)

    def message(self, record: Record) -> Message | None:
        """What the record says; None for a type that the service does not handle, known by the header. Raises Undecodable."""
        kind = header(record.headers, "event_type")
        if kind is not None and kind not in self._handled:
            return None
        if not record.key:
            raise Undecodable("contract.missing_key", "keyed topics have non-empty keys")
        if self._partition_of(record.key, self._partitions) != record.partition:
            raise Undecodable(
                "contract.misrouted_key", f"the key does not belong to partition {record.partition}"
            )
        meta, command = self._codec.decode(record.value, record.headers)
        if type(command) not in self._inputs:
            return None  # before its key is asked for: `state_key` knows the inputs only
        try:
            key = record.key.decode() if self._service.state_key is None else self._service.state_key(command)
        except UnicodeDecodeError as error:
            raise Undecodable("contract.bad_key", str(error)) from error
        if "\0" in key:
            raise Undecodable("contract.bad_key", "a NUL divides the parts of the store's own keys")
        return Message(key, command, Cause(meta.event_id, meta.correlation_id, meta.attributes))

    def answer_cause(self, key: str, caused_by: str) -> Cause:
        """The cause of what follows from the answer to a call that the event `caused_by` made necessary."""
        return Cause(caused_by, key, {})

    def timer(self, timer: DueTimer, state: Any | None) -> tuple[Any, Cause] | None:
        """The command of a timer that is due; None when `state` has moved or removed it since."""
        due = _EPOCH + timedelta(microseconds=timer.due_us)
        if state is None or state.timers.get(timer.name) != due:
            return None
        cause = Cause(f"timer/{timer.key}/{timer.name}/{timer.due_us}", timer.key, {})
        return self._service.timer(timer.name, due), cause

    def decide(
        self, command: Any, state: Any | None, *, cause: Cause, now: datetime, tables: Mapping[str, Any]
    ) -> Decision:
        """Decide, evolve and wrap. Raises the service's `rejected` and `retryable`."""
        service = self._service
        asked_for = {"cause": cause.causation_id} if service.wants_cause else {}
        events = service.decide(command, state, now=now, **tables, **asked_for)
        outputs = []
        seen: set[str] = set()
        for event in events:
            state = service.evolve(state, event)
            if type(event) not in self._outputs:
                continue
            meta = wrap(
                event,
                causation_id=cause.causation_id,
                correlation_id=cause.correlation_id,
                now=now,
                source=self._source,
                attributes=cause.attributes,
            )
            assert meta.event_id not in seen, (
                f"two {event.SCHEMA} of one decision share their identity {event.IDENTITY}"
            )
            seen.add(meta.event_id)
            outputs.append((event, meta))
        ignored = None
        if service.ignored is not None and events and all(type(each) is service.ignored for each in events):
            ignored = events[0].code
        return Decision(events, tuple(outputs), state, ignored)
