"""A recorded run of one service as a text file: what it took, in which order and at what moment, and what came of it.

JSON lines, in the order of the story, task by task:

    {"service": ..., "partitions": n, "compacted": [topic], "settings": {variable: value}}
    {"in": [topic, partition, offset], "id": event id, "thread": correlation id, "key": ..., "body": {type: {...}}}
    {"turn": {a journal record}, "task": n}          decides the messages above it, answers and timers
    {"out": {type: {...}}, "id": ..., "cause": ..., "thread": ...}
    {"state": key, "is": {type: {...}}}              last of all: what every key holds in the end

Fields that equal their default are left out. A message that nobody could decode has `value` and `headers` in base 64 instead.
A recording holds some keys of a run in full, not all: runs are single messages and need not join.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from crossdock_eventing.broker.interface import Record
from crossdock_eventing.codec import Codec, Undecodable
from crossdock_eventing.envelope import Meta, headers
from crossdock_eventing.journal import Turn, plain_turn, typed_turn
from crossdock_eventing.plain import Tagged
from crossdock_eventing.registry import MemoryRegistry, SchemaSource
from crossdock_eventing.replay import Difference, Output, Replay, Step, compare
from crossdock_eventing.replay_check import reading_codec
from crossdock_eventing.service import Service
from crossdock_eventing.state import DueTimer

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class RecordedTurn:
    """One transaction in one task: the messages it took, and what it published."""

    task: int
    turn: Turn
    inputs: list[Record] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)


@dataclass(slots=True)
class Recording:
    """The run of one service; see the module for the file."""

    service: str
    partitions: int
    compacted: frozenset[str]
    settings: Mapping[str, str]
    turns: list[RecordedTurn]
    states: dict[str, Any]

    def replay(self, service: Service, steps: list[Step] | None = None) -> Replay:
        """Decide it again with `service`; `steps` gets every decision."""
        by_task: dict[int, list[RecordedTurn]] = {}
        for turn in self.turns:
            by_task.setdefault(turn.task, []).append(turn)
        records = {
            (each.partition, each.topic, each.offset): each for turn in self.turns for each in turn.inputs
        }

        def fetch(partition: int, topic: str, start: int, end: int) -> Iterator[Record]:
            for offset in range(start, end):
                if (partition, topic, offset) in records:
                    yield records[partition, topic, offset]

        replay = Replay(
            service,
            _codec(service),
            partitions=self.partitions,
            compacted=self.compacted,
            witness=(lambda _step: None) if steps is None else steps.append,
        )
        for task, turns in by_task.items():
            replay.task(task, [each.turn for each in turns], fetch)
        return replay

    def differences(self, service: Service) -> list[Difference]:
        """What today's deciders do otherwise."""
        return compare(
            self.replay(service), (each for turn in self.turns for each in turn.outputs), self.states
        )

    def accepted(self, service: Service) -> Recording:
        """The same messages, answers and timers, with what today's deciders make of them. A timer that is not set any more
        is left out.
        """
        steps: list[Step] = []
        replay = self.replay(service, steps)
        return recorded(self, steps, replay.outputs, replay.states)


def recorded(
    header: Recording, steps: Iterable[Step], outputs: Iterable[Output], states: Mapping[str, Any]
) -> Recording:
    """The recording of these decisions; of `outputs` those that one of them led to."""
    turns: dict[int, RecordedTurn] = {}
    owner: dict[str, RecordedTurn] = {}
    for step in steps:
        made = turns.setdefault(id(step.turn), RecordedTurn(step.partition, Turn(step.turn.now_us)))
        _add(made, step)
        if not isinstance(step.outcome, str):
            owner.update((meta.event_id, made) for _, meta in step.outcome.outputs)
    for output in outputs:
        if output.meta.event_id in owner:
            owner[output.meta.event_id].outputs.append(output)
    return Recording(
        header.service,
        header.partitions,
        header.compacted,
        header.settings,
        list(turns.values()),
        dict(states),
    )


def _add(made: RecordedTurn, step: Step) -> None:
    turn, place = made.turn, ("", 0)
    match step.origin:
        case Record() as record:
            made.inputs.append(record)
            place = (record.topic, record.offset)
            turn.runs.append((record.topic, record.offset, record.offset + 1))
        case DueTimer() as timer:
            place = ("", timer.due_us)
            turn.timers.append(timer)
        case answer:
            turn.answers.append(answer)
    if isinstance(step.outcome, str):
        turn.rejected.append((*place, step.outcome))
    elif step.outcome.ignored is not None:
        turn.ignored.append((*place, step.outcome.ignored))
    tables: dict[str, dict[str, list[Any]]] = {name: dict(groups) for name, groups in turn.tables.items()}
    for name, group in step.lookups:
        tables.setdefault(name, {})[group] = step.turn.tables.get(name, {}).get(group, [])
    turn.tables = tables


def write(
    recording: Recording, service: Service, path: Path, *, registry: SchemaSource | None = None
) -> None:
    """Write the file. `registry` knows the schemas of messages that come from a cluster."""
    codec = _codec(service) if registry is None else reading_codec(registry, service)
    lines = _lines(recording, service, codec)
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def read_header(path: Path) -> Recording:
    """The recording without its turns: which service, under which settings."""
    with path.open() as lines:
        return _header(json.loads(lines.readline()))


def read(path: Path, service: Service) -> Recording:
    """The file, its bodies as today's types. Raises Unreadable where they lack something, OSError."""
    bodies, states = Tagged({*service.inputs, *service.outputs}), Tagged(service.states)
    codec = _codec(service)
    first, *rest = map(json.loads, path.read_text().splitlines())
    found = _header(first)
    waiting: list[Record] = []
    for line in rest:
        if "in" in line:
            waiting.append(_input(line, bodies, codec))
        elif "turn" in line:
            found.turns.append(RecordedTurn(line["task"], typed_turn(line["turn"]), waiting))
            waiting = []
        elif "out" in line:
            found.turns[-1].outputs.append(_output(line, bodies, found))
        else:
            found.states[line["state"]] = states.typed(line["is"])
    return found


def _header(line: Mapping[str, Any]) -> Recording:
    return Recording(
        line["service"], line["partitions"], frozenset(line["compacted"]), line["settings"], [], {}
    )


def _lines(recording: Recording, service: Service, codec: Codec) -> Iterator[dict[str, Any]]:
    kinds = {*service.inputs, *service.outputs}
    bodies, states = Tagged(kinds, brief=True), Tagged(service.states, brief=True)
    yield {
        "service": recording.service,
        "partitions": recording.partitions,
        "compacted": sorted(recording.compacted),
        "settings": dict(recording.settings),
    }
    for each in recording.turns:
        for record in each.inputs:
            yield _input_line(record, bodies, codec)
        yield {"turn": plain_turn(each.turn), "task": each.task}
        for output in each.outputs:
            meta = output.meta
            yield {
                "out": bodies.plain(output.body),
                "id": meta.event_id,
                "cause": meta.causation_id,
                "thread": meta.correlation_id,
                **({"attributes": dict(meta.attributes)} if meta.attributes else {}),
            }
    for key in sorted(recording.states):
        yield {"state": key, "is": states.plain(recording.states[key])}


def _input_line(record: Record, bodies: Tagged, codec: Codec) -> dict[str, Any]:
    place = [record.topic, record.partition, record.offset]
    key = (record.key or b"").decode(errors="replace")
    try:
        meta, body = codec.decode(record.value, record.headers)
    except Undecodable:
        raw = [[name, _base64(value)] for name, value in record.headers]
        return {"in": place, "key": key, "value": _base64(record.value or b""), "headers": raw}
    return {
        "in": place,
        "id": meta.event_id,
        "thread": meta.correlation_id,
        "key": key,
        **({"attributes": dict(meta.attributes)} if meta.attributes else {}),
        "body": bodies.plain(body),
    }


def _input(line: Mapping[str, Any], bodies: Tagged, codec: Codec) -> Record:
    topic, partition, offset = line["in"]
    key = line["key"].encode()
    if "body" not in line:
        raw = tuple((name, b64decode(value)) for name, value in line["headers"])
        return Record(topic, partition, offset, 0, key, b64decode(line["value"]), raw)
    body = bodies.typed(line["body"])
    # Of a message's envelope its decision sees the id, the thread and the attributes; times and causes are its producer's.
    meta = Meta(
        event_id=line["id"],
        correlation_id=line["thread"],
        occurred_at=_EPOCH,
        recorded_at=_EPOCH,
        source="",
        attributes=line.get("attributes", {}),
    )
    return Record(
        topic, partition, offset, 0, key, codec.encode(body, meta), headers(meta, body.SCHEMA, None)
    )


def _output(line: Mapping[str, Any], bodies: Tagged, found: Recording) -> Output:
    now = _EPOCH + timedelta(microseconds=found.turns[-1].turn.now_us)
    meta = Meta(
        event_id=line["id"],
        correlation_id=line["thread"],
        causation_id=line["cause"],
        occurred_at=now,
        recorded_at=now,
        source=f"/crossdock/{found.service}",
        attributes=line.get("attributes", {}),
    )
    return Output(bodies.typed(line["out"]), meta)


def _codec(service: Service) -> Codec:
    """Writes and reads messages as today's types. Two of one service understand each other."""
    return Codec(
        MemoryRegistry(),
        written=[(kind, kind.TOPIC) for kind in service.inputs],
        read=[*service.inputs],
    )


def _base64(value: bytes) -> str:
    return b64encode(value).decode()
