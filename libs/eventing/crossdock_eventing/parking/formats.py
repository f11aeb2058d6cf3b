"""What parking writes and reads, as JSON: the state of a parked key, an operator's instruction, the entry that tells the outcome.

The worker's task keeps the first, the operator's tool sends the second, both read the third (ADR 13 has every field). Bytes
travel as base64; a hash is the hexadecimal SHA-256.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Final, Literal

from crossdock_eventing.broker.interface import Headers, Record

VERSION: Final = 1
NO_ENTRY: Final = "0" * 64  # what the first entry of a partition names as the one before

PARK_PREFIX: Final = "\x00park/"
QUEUE_PREFIX: Final = "\x00queue/"
INJECTED_PREFIX: Final = "\x00injected/"
REPLAYS_KEY: Final = "\x00replays"

Operation = Literal["release", "edit", "discard", "inject"]
OPERATIONS: Final[tuple[Operation, ...]] = ("release", "edit", "discard", "inject")


class Malformed(ValueError):
    """These bytes are no instruction or entry of this format; the text says why."""


def key_text(key: bytes) -> str:
    """The record key as text; `key_bytes` gives back the same bytes, whatever they are."""
    return key.decode(errors="surrogateescape")


def key_bytes(key: str) -> bytes:
    return key.encode(errors="surrogateescape")


def digest(value: bytes | None) -> str:
    """Hash of a message's bytes; a tombstone counts as no bytes."""
    return sha256(value or b"").hexdigest()


@dataclass(frozen=True, slots=True)
class Release:
    """An instruction at work: everything up to `upto` may go; None: until the queue is empty."""

    plan: str
    item: int
    operator: str
    reason: str
    upto: int | None

    def covers(self, seq: int) -> bool:
        return self.upto is None or seq <= self.upto


@dataclass(frozen=True, slots=True)
class Park:
    """One parked key. Sequence numbers from `head` to before `tail` are queued, but for those that were discarded.

    bytes: sum of what is queued. since_us: when the episode began. code: why the head was rejected.
    """

    episode: str
    since_us: int
    code: str
    head: int = 0
    tail: int = 0
    bytes: int = 0
    releases: tuple[Release, ...] = ()
    handled: tuple[tuple[str, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "episode": self.episode,
            "since": self.since_us,
            "code": self.code,
            "head": self.head,
            "tail": self.tail,
            "bytes": self.bytes,
            "releases": [
                [each.plan, each.item, each.operator, each.reason, each.upto] for each in self.releases
            ],
            "handled": [list(each) for each in self.handled],
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Park:
        return cls(
            episode=found["episode"],
            since_us=found["since"],
            code=found["code"],
            head=found["head"],
            tail=found["tail"],
            bytes=found["bytes"],
            releases=tuple(Release(*each) for each in found["releases"]),
            handled=tuple((plan, item) for plan, item in found["handled"]),
        )


@dataclass(frozen=True, slots=True)
class Queued:
    """One parked message, with all that its record had.

    attempt: how often it was decided and rejected. code: why, the last time. original: hash of its bytes before the first edit.
    """

    record: Record
    attempt: int = 0
    code: str = ""
    original: str | None = None

    @property
    def before(self) -> str:
        """Hash of its bytes as they came."""
        return self.original or digest(self.record.value)

    def edited(self, value: bytes) -> Queued:
        return replace(self, record=self.record._replace(value=value), original=self.before)

    def to_json(self) -> dict[str, Any]:
        record = self.record
        return {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "timestamp": record.timestamp_ms,
            "headers": _plain_headers(record.headers),
            "value": _plain_bytes(record.value),
            "attempt": self.attempt,
            "code": self.code,
            "original": self.original,
        }

    @classmethod
    def from_json(cls, key: str, found: Mapping[str, Any]) -> Queued:
        """`key`: the parked key, which names the entry."""
        record = Record(
            topic=found["topic"],
            partition=found["partition"],
            offset=found["offset"],
            key=key_bytes(key),
            value=_raw_bytes(found["value"]),
            headers=_raw_headers(found["headers"]),
            timestamp_ms=found["timestamp"],
        )
        return cls(record, found["attempt"], found["code"], found["original"])


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a foreign dead letter had been first; who gave it up need not know us."""

    cluster: str
    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.cluster}/{self.topic}/{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """What an operator wants done with a parked key.

    episode: of the key as the plan saw it; "" for "inject". upto: of a release; None: until the queue is empty.
    seq, before: of "edit" and "discard".
    value: of "edit". origin, topic, timestamp_ms, headers, value: of "inject".
    """

    plan: str
    item: int
    operator: str
    reason: str
    key: str
    op: Operation
    episode: str = ""
    upto: int | None = None
    seq: int = -1
    before: str = ""
    value: bytes | None = None
    origin: Origin | None = None
    topic: str = ""
    timestamp_ms: int = 0
    headers: Headers = ()

    def to_bytes(self) -> bytes:
        """The value of its record, whose key is `key_bytes(key)`."""
        parts: dict[str, Any] = {
            "v": VERSION,
            "plan": self.plan,
            "item": self.item,
            "operator": self.operator,
            "reason": self.reason,
            "key": self.key,
            "op": self.op,
        }
        if self.op != "inject":
            parts["episode"] = self.episode
        match self.op:
            case "release":
                parts["upto"] = self.upto
            case "edit":
                parts |= {"seq": self.seq, "value": _plain_bytes(self.value), "before": self.before}
            case "discard":
                parts |= {"seq": self.seq, "before": self.before}
            case "inject":
                assert self.origin is not None
                origin = self.origin
                parts["origin"] = {
                    "cluster": origin.cluster,
                    "topic": origin.topic,
                    "partition": origin.partition,
                    "offset": origin.offset,
                }
                parts["record"] = {
                    "topic": self.topic,
                    "timestamp": self.timestamp_ms,
                    "headers": _plain_headers(self.headers),
                    "value": _plain_bytes(self.value),
                }
        return _compact(parts)

    @classmethod
    def from_bytes(cls, value: bytes | None) -> Instruction:
        """Raises Malformed."""
        try:
            found = json.loads(value or b"")
            if found["v"] != VERSION:
                raise Malformed(f"version {found['v']} is not known here")
            op = found["op"]
            if op not in OPERATIONS:
                raise Malformed(f"no such operation: {op}")
            common: dict[str, Any] = {
                name: str(found[name]) for name in ("plan", "operator", "reason", "key")
            }
            common |= {"item": int(found["item"]), "op": op}
            if op == "inject":
                origin, record = found["origin"], found["record"]
                return cls(
                    **common,
                    origin=Origin(
                        str(origin["cluster"]),
                        str(origin["topic"]),
                        int(origin["partition"]),
                        int(origin["offset"]),
                    ),
                    topic=str(record["topic"]),
                    timestamp_ms=int(record["timestamp"]),
                    headers=_raw_headers(record["headers"]),
                    value=_raw_bytes(record["value"]),
                )
            common["episode"] = str(found["episode"])
            if op == "release":
                return cls(**common, upto=None if found["upto"] is None else int(found["upto"]))
            common |= {"seq": int(found["seq"]), "before": str(found["before"])}
            return cls(**common, value=_raw_bytes(found["value"]) if op == "edit" else None)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise (
                error if isinstance(error, Malformed) else Malformed(f"{type(error).__name__}: {error}")
            ) from error


MessageOutcome = Literal["applied", "ignored", "rejected", "edited", "discarded", "queued"]
Outcome = Literal[
    "released",
    "continuing",
    "rejected_again",
    "edited",
    "discarded",
    "injected",
    "queued",
    "already",
    "stale",
    "refused",
]


@dataclass(frozen=True, slots=True)
class ReplayedMessage:
    """What became of one message. before, after: hashes of its bytes as they came and as they were decided.

    code: of a rejection, or of what was ignored. events: ids of what was published in consequence.
    """

    seq: int
    topic: str
    partition: int
    offset: int
    attempt: int
    before: str
    after: str
    outcome: MessageOutcome
    code: str = ""
    events: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, seq: int, queued: Queued, outcome: MessageOutcome, *, code: str = "", events: Sequence[str] = ()
    ) -> ReplayedMessage:
        record = queued.record
        return cls(
            seq,
            record.topic,
            record.partition,
            record.offset,
            queued.attempt,
            queued.before,
            digest(record.value),
            outcome,
            code,
            tuple(events),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "seq": self.seq,
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "attempt": self.attempt,
            "before": self.before,
            "after": self.after,
            "outcome": self.outcome,
            "code": self.code,
            "events": list(self.events),
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> ReplayedMessage:
        return cls(**{**found, "events": tuple(found["events"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayEntry:
    """One entry of the replays: an instruction, what was done about it now, and the link of the chain.

    number, previous: place in the chain of its partition, and hash of the entry before. left: messages of the key still parked.
    """

    number: int
    previous: str
    at_us: int
    plan: str
    item: int
    operator: str
    reason: str
    key: str
    episode: str
    op: str
    outcome: Outcome
    detail: str = ""
    left: int = 0
    messages: tuple[ReplayedMessage, ...] = field(default=())

    def to_bytes(self) -> bytes:
        """The value of its record; its hash is what the next entry names as `previous`."""
        return _compact(
            {
                "v": VERSION,
                "n": self.number,
                "prev": self.previous,
                "at": self.at_us,
                "plan": self.plan,
                "item": self.item,
                "operator": self.operator,
                "reason": self.reason,
                "key": self.key,
                "episode": self.episode,
                "op": self.op,
                "outcome": self.outcome,
                "detail": self.detail,
                "left": self.left,
                "messages": [each.to_json() for each in self.messages],
            }
        )

    @classmethod
    def from_bytes(cls, value: bytes | None) -> ReplayEntry:
        """Raises Malformed."""
        try:
            found = json.loads(value or b"")
            if found["v"] != VERSION:
                raise Malformed(f"version {found['v']} is not known here")
            return cls(
                number=found["n"],
                previous=found["prev"],
                at_us=found["at"],
                messages=tuple(ReplayedMessage.from_json(each) for each in found["messages"]),
                **{
                    name: found[name]
                    for name in (
                        "plan",
                        "item",
                        "operator",
                        "reason",
                        "key",
                        "episode",
                        "op",
                        "outcome",
                        "detail",
                        "left",
                    )
                },
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise (
                error if isinstance(error, Malformed) else Malformed(f"{type(error).__name__}: {error}")
            ) from error


def park_name(key: str) -> str:
    """The changelog's key of a parked key's state."""
    return f"{PARK_PREFIX}{key}"


def queue_name(key: str, seq: int) -> str:
    """The changelog's key of one queued message."""
    return f"{QUEUE_PREFIX}{seq:016d}/{key}"


def parked_key(name: str) -> str | None:
    """The parked key that this key of the changelog is about; None for another key."""
    return name[len(PARK_PREFIX) :] if name.startswith(PARK_PREFIX) else None


def queued_place(name: str) -> tuple[str, int] | None:
    """The parked key and the sequence number that this key of the changelog is about; None for another key."""
    if not name.startswith(QUEUE_PREFIX):
        return None
    seq, _, key = name[len(QUEUE_PREFIX) :].partition("/")
    return key, int(seq)


def injected_name(origin: Origin) -> str:
    return f"{INJECTED_PREFIX}{origin}"


def _compact(parts: Mapping[str, Any]) -> bytes:
    return json.dumps(parts, separators=(",", ":")).encode()  # ASCII: keys may hold surrogates


def _plain_bytes(value: bytes | None) -> str | None:
    return None if value is None else b64encode(value).decode()


def _raw_bytes(value: str | None) -> bytes | None:
    return None if value is None else b64decode(value, validate=True)


def _plain_headers(headers: Headers) -> list[list[str | None]]:
    return [[name, _plain_bytes(value)] for name, value in headers]


def _raw_headers(found: Sequence[Sequence[Any]]) -> Headers:
    return tuple((str(name), _raw_bytes(value) or b"") for name, value in found)
