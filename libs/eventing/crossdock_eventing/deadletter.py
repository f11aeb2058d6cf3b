"""The dead-letter record: original bytes and key untouched, the reason in headers that other tools read too.

Written by the loop, read by the operator tools. Header names and encodings are those of Spring Kafka's
DeadLetterPublishingRecoverer (partition int32, offset and timestamp int64, big-endian; the rest UTF-8), which kafbat and
others display, plus three of our own. Read as well: Kafka Connect (`__connect.errors.*`, KIP-298) and Kafka Streams
(`__streams.errors.*`, KIP-1034), which write every value as text.
"""

from __future__ import annotations

import struct
import traceback
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from crossdock_eventing.broker.interface import Headers, Record

ERROR_CODE = "crossdock-error-code"
ATTEMPT = "crossdock-attempt"
PARKED_BY = "crossdock-parked-by"

_DIGITS_MAX = 19  # of an int64
_INT32, _INT64 = struct.Struct(">i"), struct.Struct(">q")
_SPRING_PARTITION, _SPRING_OFFSET = "kafka_dlt-original-partition", "kafka_dlt-original-offset"
_SPRING_NUMBERS = {
    _SPRING_PARTITION: _INT32,
    _SPRING_OFFSET: _INT64,
    "kafka_dlt-original-timestamp": _INT64,
}
#: What names of headers begin with that are written when a record is given up on.
_ADDED = ("kafka_dlt-", "__connect.errors.", "__streams.errors.", ERROR_CODE, ATTEMPT, PARKED_BY)

_MESSAGE_BYTES_MAX = 2_000
_STACK_BYTES_MAX = 8_000


def dead_letter_headers(
    record: Record, *, code: str, detail: str, error: BaseException | None, group: str, attempt: int = 1
) -> Headers:
    """The headers of a record that `group` gave up on, after those it already had."""
    fqcn = (
        f"{type(error).__module__}.{type(error).__qualname__}" if error is not None else "crossdock.Rejected"
    )
    stack = "".join(traceback.format_exception(error)) if error is not None else ""
    return (
        *record.headers,
        ("kafka_dlt-original-topic", record.topic.encode()),
        ("kafka_dlt-original-partition", struct.pack(">i", record.partition)),
        ("kafka_dlt-original-offset", struct.pack(">q", record.offset)),
        ("kafka_dlt-original-timestamp", struct.pack(">q", record.timestamp_ms)),
        ("kafka_dlt-original-timestamp-type", b"CreateTime"),
        ("kafka_dlt-original-consumer-group", group.encode()),
        ("kafka_dlt-exception-fqcn", fqcn.encode()),
        ("kafka_dlt-exception-message", _clipped(f"{code}: {detail}", _MESSAGE_BYTES_MAX)),
        ("kafka_dlt-exception-stacktrace", _clipped(stack, _STACK_BYTES_MAX)),
        (ERROR_CODE, code.encode()),
        (ATTEMPT, str(attempt).encode()),
        (PARKED_BY, group.encode()),
    )


def _clipped(text: str, size: int) -> bytes:
    return text.encode()[:size].decode(errors="ignore").encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """Why a record was given up on and where it had been; None where its writer does not say.

    topic, partition, offset, timestamp_ms: coordinates of the original record.
    given_up_by: consumer group, or connector.
    code: our reason; of a foreign letter the class of its error.
    attempt: how many times it was given up on by one of our services, the first included.
    """

    topic: str | None
    partition: int | None
    offset: int | None
    timestamp_ms: int | None
    given_up_by: str | None
    code: str | None
    error_class: str | None
    message: str | None
    stack_trace: str | None
    attempt: int | None


@dataclass(frozen=True, slots=True)
class _Dialect:
    """The header names of one writer; "" for what it does not write. Of several names the one written last counts."""

    topic: str
    partition: str
    offset: str
    timestamp: str
    given_up_by: str
    error_class: tuple[str, ...]
    message: tuple[str, ...]
    stack_trace: tuple[str, ...]


_DIALECTS = (
    _Dialect(
        topic="kafka_dlt-original-topic",
        partition="kafka_dlt-original-partition",
        offset="kafka_dlt-original-offset",
        timestamp="kafka_dlt-original-timestamp",
        given_up_by="kafka_dlt-original-consumer-group",
        # Spring wraps what a listener throws, and writes the cause after the wrapper: the last says most. A key that could not
        # be read has names of its own.
        error_class=(
            "kafka_dlt-exception-fqcn",
            "kafka_dlt-exception-cause-fqcn",
            "kafka_dlt-key-exception-fqcn",
        ),
        message=("kafka_dlt-exception-message", "kafka_dlt-key-exception-message"),
        stack_trace=("kafka_dlt-exception-stacktrace", "kafka_dlt-key-exception-stacktrace"),
    ),
    _Dialect(
        topic="__connect.errors.topic",
        partition="__connect.errors.partition",
        offset="__connect.errors.offset",
        timestamp="",
        given_up_by="__connect.errors.connector.name",
        error_class=("__connect.errors.exception.class.name",),
        message=("__connect.errors.exception.message",),
        stack_trace=("__connect.errors.exception.stacktrace",),
    ),
    _Dialect(
        topic="__streams.errors.topic",
        partition="__streams.errors.partition",
        offset="__streams.errors.offset",
        timestamp="",
        given_up_by="",
        error_class=("__streams.errors.exception",),
        message=("__streams.errors.message",),
        stack_trace=("__streams.errors.stacktrace",),
    ),
)


_TOPICS = frozenset(each.topic for each in _DIALECTS)
_FOREIGN_TOPICS = _TOPICS - {_DIALECTS[0].topic}


def read_dead_letter(headers: Headers) -> DeadLetter:
    """The reason that the headers carry, by whichever writer; all None for a record that is no dead letter.

    A header that repeats counts as it was written last: a record may have been given up on more than once, by several.
    """
    last = dict(headers)
    order = {name: place for place, (name, _) in enumerate(headers)}
    dialect = max(_DIALECTS, key=lambda each: order.get(each.topic, -1))

    def text(*names: str) -> str | None:
        name = max(names, key=lambda each: order.get(each, -1))
        return _text(last[name]) if name in last else None

    def number(name: str) -> int | None:
        value = _readable(name, last[name]) if name in last else None
        return _whole_number(value) if isinstance(value, str) else value

    error_class = text(*dialect.error_class)
    return DeadLetter(
        topic=text(dialect.topic),
        partition=number(dialect.partition),
        offset=number(dialect.offset),
        timestamp_ms=number(dialect.timestamp),
        given_up_by=text(dialect.given_up_by),
        code=(text(ERROR_CODE) if dialect is _DIALECTS[0] else None) or error_class,
        error_class=error_class,
        message=text(*dialect.message),
        stack_trace=text(*dialect.stack_trace),
        attempt=number(ATTEMPT),
    )


class Outline(NamedTuple):
    """The little of a dead letter that is read of each of a hundred thousand. `kind`: the record type, as bytes; b"" if unsaid."""

    code: str | None
    topic: str | None
    partition: int | None
    offset: int | None
    correlation_id: str
    kind: bytes


def outline(headers: Headers) -> Outline:
    """As `read_dead_letter`, quick for letters of ours."""
    last = dict(headers)
    code, place, at = last.get(ERROR_CODE), last.get(_SPRING_PARTITION, b""), last.get(_SPRING_OFFSET, b"")
    thread, kind = last.get("correlation_id", b"").decode(errors="replace"), last.get("event_type", b"")
    if (
        code is None
        or len(place) != _INT32.size
        or len(at) != _INT64.size
        or not _FOREIGN_TOPICS.isdisjoint(last)
    ):
        letter = read_dead_letter(headers)
        return Outline(letter.code, letter.topic, letter.partition, letter.offset, thread, kind)
    topic = last.get(_DIALECTS[0].topic)
    return Outline(
        _name(code),
        None if topic is None else _name(topic),
        _INT32.unpack(place)[0],
        _INT64.unpack(at)[0],
        thread,
        kind,
    )


def is_ours(headers: Headers) -> bool:
    """Whether one of our services wrote this letter, and nobody else after it."""
    last = max((place for place, (name, _) in enumerate(headers) if name in _TOPICS), default=-1)
    return any(name == PARKED_BY for name, _ in headers[last + 1 :])


def original_headers(headers: Headers) -> Headers:
    """The headers that the record had before anybody gave up on it."""
    return tuple(each for each in headers if not each[0].startswith(_ADDED))


def readable_headers(headers: Headers) -> list[tuple[str, str | int]]:
    """Every header, in order, for a person: Spring's binary numbers as numbers, text as text, other bytes as 0x and hex."""
    return [(name, _readable(name, value)) for name, value in headers]


def _readable(name: str, value: bytes) -> str | int:
    packed = _SPRING_NUMBERS.get(name)
    if packed is not None and len(value) == packed.size:
        found: int = packed.unpack(value)[0]
        return found
    return _text(value)


@lru_cache(maxsize=4_096)
def _name(value: bytes) -> str:
    """`_text` of what repeats from letter to letter."""
    return _text(value)


def _text(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return f"0x{value.hex()}"
    # A control character betrays a number or a flag of somebody's own; stack traces have line ends and tabs.
    return f"0x{value.hex()}" if any(mark < " " and mark not in "\t\r\n" for mark in text) else text


def _whole_number(text: str) -> int | None:
    return int(text) if len(text) <= _DIGITS_MAX and text.isascii() and text.isdigit() else None
