"""Another version of a service on a window of recorded traffic: in this process, or in one of its own.

`shadow` builds the pieces and reads what came out. Run as a program (`python -m`, by `shadow` only) this module is that other
process: it has the candidate's packages on its path, this repository's shell, and a job file; it knows no broker.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossdock_eventing.broker.interface import Record
from crossdock_eventing.codec import Codec, Undecodable
from crossdock_eventing.envelope import Meta
from crossdock_eventing.journal import Turn, plain_turn, typed_turn
from crossdock_eventing.parking.formats import Queued, queued_place
from crossdock_eventing.plain import plain, typed
from crossdock_eventing.registry import MemoryRegistry, SchemaSource, UnknownSchema
from crossdock_eventing.replay import Difference, Fetch, Output, Replay, Step, Told, told
from crossdock_eventing.replay_check import reading_codec
from crossdock_tools.replaying.errors import ReplayError
from crossdock_tools.replaying.services import UnknownService, load

if TYPE_CHECKING:
    from crossdock_eventing.service import Service


@dataclass(frozen=True, slots=True)
class Piece:
    """The window of one task: what it was when the window began, the turns, and the messages that they name."""

    partition: int
    states: Mapping[str, Any]
    own: Mapping[str, bytes]
    turns: list[Turn]
    records: list[Record]

    def fetch(self) -> Fetch:
        """Looks the messages of a run up."""
        by_place = {(each.topic, each.offset): each for each in self.records}

        def fetch(_partition: int, topic: str, start: int, end: int) -> Iterator[Record]:
            found = (by_place.get((topic, offset)) for offset in range(start, end))
            return (each for each in found if each is not None)

        return fetch


@dataclass(slots=True)
class Ran:
    """What one version made of a piece.

    states: of the keys that it decided upon, None where there is none. These and outputs may be `Told`. differences: from the
    journal. counts: as the replay's; another process does not tell them.
    """

    outputs: list[Output] = field(default_factory=list)
    states: dict[str, Any] = field(default_factory=dict)
    own: dict[str, bytes] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What makes the candidate: other settings, another decider (`module:function`), another checkout."""

    settings: Mapping[str, str] = field(default_factory=dict)
    decider: str | None = None
    checkout: Path | None = None


def run(
    service: Service,
    codec: Codec,
    piece: Piece,
    *,
    partitions: int,
    compacted: frozenset[str],
    witness: Callable[[Step], None] = lambda _step: None,
) -> Ran:
    """Decide a piece with this version of the service; nothing is written anywhere."""
    keys: set[str] = set()

    def saw(step: Step) -> None:
        keys.add(step.key)
        witness(step)

    replay = Replay(service, codec, partitions=partitions, compacted=compacted, witness=saw)
    replay.resume(piece.partition, piece.states, piece.own)
    replay.task(piece.partition, piece.turns, piece.fetch())
    states = {key: replay.states.get(key) for key in sorted(keys) if key}
    own = dict(replay.own(piece.partition))
    return Ran(replay.outputs, states, own, replay.differences, replay.counts)


def composed(name: str, settings: Mapping[str, str], choice: Choice) -> Service:
    """The candidate from the packages on this process's path. Raises ReplayError."""
    try:
        offered = importlib.import_module(f"crossdock_{name.replace('-', '_')}.settings").Settings
        prefix = offered.model_config.get("env_prefix", "")
        known = {f"{prefix}{each}".upper() for each in offered.model_fields}
        if unknown := sorted(choice.settings.keys() - known):
            raise ReplayError(
                f"{name} has no setting {', '.join(unknown)}; there are {', '.join(sorted(known))}"
            )
        service = load(name, {**settings, **choice.settings})
        return service if choice.decider is None else _with_decider(service, choice.decider)
    except ReplayError:
        raise
    except UnknownService as error:
        raise ReplayError(str(error)) from None
    except Exception as error:
        raise ReplayError(f"the candidate cannot be composed: {type(error).__name__}: {error}") from error


def _with_decider(service: Service, text: str) -> Service:
    """The service with this decider; the policy that its own decider was given goes to this one, where it takes it."""
    module, _, name = text.partition(":")
    if not name:
        raise ReplayError(f"{text!r} names no decider: write module:function")
    try:
        decide = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ReplayError(f"no module {module}: run this where it can be imported from") from None
    except AttributeError:
        raise ReplayError(f"{module} has no {name}") from None
    if isinstance(service.decide, partial):
        taken = inspect.signature(decide).parameters.values()
        open_ended = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken)
        names = {each.name for each in taken}
        given = {key: value for key, value in service.decide.keywords.items() if open_ended or key in names}
        decide = partial(decide, **given)
    return replace(service, decide=decide)


# ---- the job of another process, and its answer


class _Shipped:
    """`SchemaSource` that knows what came with the job."""

    def __init__(self, by_id: Mapping[str, str], by_guid: Mapping[str, str]) -> None:
        self._by_id, self._by_guid = by_id, by_guid

    def id_of(self, subject: str, schema: str) -> int:  # noqa: ARG002 - nothing is written
        raise UnknownSchema(f"{subject} is not written here")

    def by_id(self, schema_id: int) -> str:
        if str(schema_id) not in self._by_id:
            raise UnknownSchema(f"schema id {schema_id} is not known")
        return self._by_id[str(schema_id)]

    def by_guid(self, guid: str) -> str:
        if guid not in self._by_guid:
            raise UnknownSchema(f"schema guid {guid} is not known")
        return self._by_guid[guid]


class Remembering:
    """`SchemaSource` that keeps what it was asked for, so that it can go with a job."""

    def __init__(self, registry: SchemaSource) -> None:
        self._registry = registry
        self.known_ids: dict[str, str] = {}
        self.known_guids: dict[str, str] = {}

    def id_of(self, subject: str, schema: str) -> int:
        return self._registry.id_of(subject, schema)

    def by_id(self, schema_id: int) -> str:
        found = self.known_ids[str(schema_id)] = self._registry.by_id(schema_id)
        return found

    def by_guid(self, guid: str) -> str:
        found = self.known_guids[guid] = self._registry.by_guid(guid)
        return found


def require_schemas(schemas: Remembering, pieces: list[Piece]) -> None:
    """Ask for the schema of every message that the pieces hold, queued ones included: the candidate may decode any of them."""
    for piece in pieces:
        codec = Codec(schemas, written=(), read=())
        queued = [
            Queued.from_json(place[0], json.loads(value)).record
            for name, value in piece.own.items()
            if (place := queued_place(name)) is not None
        ]
        for record in (*piece.records, *queued):
            with suppress(Undecodable):  # no type is known here, so every one is; the schema was asked for
                codec.decode(record.value, record.headers)


def write_job(
    path: Path,
    service: Service,
    settings: Mapping[str, str],
    choice: Choice,
    pieces: list[Piece],
    *,
    schemas: Remembering,
    partitions: int,
    compacted: frozenset[str],
) -> None:
    """Write what another process needs to run the pieces. `service` is today's, whose states the pieces have."""
    ids = MemoryRegistry()
    codec = Codec(ids, written=[(kind, "state") for kind in service.states], read=())
    job = {
        "service": service.name,
        "settings": {key: value for key, value in settings.items() if key.startswith("CROSSDOCK_")},
        "changed": dict(choice.settings),
        "decider": choice.decider,
        "partitions": partitions,
        "compacted": sorted(compacted),
        "ids": schemas.known_ids,
        "guids": schemas.known_guids,
        "states": {
            str(number): ids.by_id(number) for number in {ids.id_of("", kind.AVSC) for kind in service.states}
        },
        "pieces": [
            {
                "partition": piece.partition,
                "states": {key: _text(codec.encode_state(state)) for key, state in piece.states.items()},
                "own": {name: _text(value) for name, value in piece.own.items()},
                "turns": [plain_turn(turn) for turn in piece.turns],
                "records": [_plain_record(record) for record in piece.records],
            }
            for piece in pieces
        ],
    }
    path.write_text(json.dumps(job))


def read_answer(path: Path, service: str) -> tuple[str, list[Ran]]:
    """From where the candidate was imported, and what it made of each piece."""
    found = json.loads(path.read_text())
    return found["file"], [
        Ran(
            [Output(_told(each["is"]), typed(Meta, each["meta"])) for each in ran["outputs"]],
            {key: None if state is None else _told(state) for key, state in ran["states"].items()},
            {name: b64decode(value) for name, value in ran["own"].items()},
            [
                Difference(service, thread, what, tuple(changed))
                for thread, what, changed in ran["differences"]
            ],
        )
        for ran in found["pieces"]
    ]


def main(job_file: str, answer_file: str) -> None:
    """Carry out a job. What cannot be composed is one line on standard error and exit code 1."""
    job = json.loads(Path(job_file).read_text())
    name = job["service"]
    try:
        service = composed(name, job["settings"], Choice(settings=job["changed"], decider=job["decider"]))
    except ReplayError as error:
        sys.exit(str(error))
    codec = reading_codec(_Shipped(job["ids"], job["guids"]), service)
    states = Codec(_Shipped(job["states"], {}), written=(), read=service.states)
    answers = []
    for each in job["pieces"]:
        piece = Piece(
            each["partition"],
            {key: states.decode_state(b64decode(value)) for key, value in each["states"].items()},
            {entry: b64decode(value) for entry, value in each["own"].items()},
            [typed_turn(turn) for turn in each["turns"]],
            [_typed_record(record) for record in each["records"]],
        )
        ran = run(service, codec, piece, partitions=job["partitions"], compacted=frozenset(job["compacted"]))
        answers.append(
            {
                "outputs": [
                    {"is": _plain_told(output.body), "meta": plain(output.meta)} for output in ran.outputs
                ],
                "states": {
                    key: None if state is None else _plain_told(state) for key, state in ran.states.items()
                },
                "own": {entry: _text(value) for entry, value in ran.own.items()},
                "differences": [[each.thread, each.what, each.changes] for each in ran.differences],
            }
        )
    file = importlib.import_module(f"crossdock_{name.replace('-', '_')}").__file__
    Path(answer_file).write_text(json.dumps({"file": file, "pieces": answers}))


def _plain_told(value: Any) -> dict[str, Any]:
    found = told(value)
    return {
        "kind": found.kind,
        "content": found.content,
        "topic": found.topic,
        "key": found.key,
        "identity": found.identity,
    }


def _told(found: Mapping[str, Any]) -> Told:
    return Told(**{**found, "identity": tuple(found["identity"])})


def _plain_record(record: Record) -> list[Any]:
    headers = [[name, _text(value)] for name, value in record.headers]
    return [*record[:4], _text(record.key), _text(record.value), headers]


def _typed_record(found: list[Any]) -> Record:
    topic, partition, offset, timestamp_ms, key, value, headers = found
    return Record(
        topic,
        partition,
        offset,
        timestamp_ms,
        _bytes(key),
        _bytes(value),
        tuple((name, b64decode(each)) for name, each in headers),
    )


def _text(value: bytes | None) -> str | None:
    return None if value is None else b64encode(value).decode()


def _bytes(value: str | None) -> bytes | None:
    return None if value is None else b64decode(value)


if __name__ == "__main__":
    main(*sys.argv[1:])
