"""Dead letters of every writer: the quick outline says what the full reading says, and the headers of the original come back."""

from __future__ import annotations

import struct

import pytest

from crossdock_eventing.broker.interface import Headers, Record
from crossdock_eventing.deadletter import (
    dead_letter_headers,
    is_ours,
    original_headers,
    outline,
    read_dead_letter,
)

ORIGINAL: Headers = (("event_type", b"toy.Add"), ("correlation_id", b"thread-1"), ("x-other", b"\x00"))
RECORD = Record("toy.commands.v1", 3, 2**40, 1_700_000_000_000, b"k", b"v", ORIGINAL)
OURS = dead_letter_headers(
    RECORD, code="toy.negative", detail="-1", error=ValueError("no"), group="retail.toy"
)
SPRING: Headers = (
    *ORIGINAL,
    ("kafka_dlt-original-topic", b"acme.orders"),
    ("kafka_dlt-original-partition", struct.pack(">i", 7)),
    ("kafka_dlt-original-offset", struct.pack(">q", 12)),
    ("kafka_dlt-original-timestamp", struct.pack(">q", 5)),
    ("kafka_dlt-original-timestamp-type", b"CreateTime"),
    ("kafka_dlt-original-consumer-group", b"billing"),
    ("kafka_dlt-exception-fqcn", b"org.springframework.kafka.listener.ListenerExecutionFailedException"),
    ("kafka_dlt-exception-cause-fqcn", b"java.lang.IllegalStateException"),
    ("kafka_dlt-exception-message", b"Listener failed"),
    ("kafka_dlt-exception-stacktrace", b"at X.y(X.java:1)"),
)
CONNECT: Headers = (
    *ORIGINAL,
    ("__connect.errors.topic", b"acme.orders"),
    ("__connect.errors.partition", b"3"),
    ("__connect.errors.offset", b"4711"),
    ("__connect.errors.connector.name", b"sink"),
    ("__connect.errors.task.id", b"0"),
    ("__connect.errors.stage", b"VALUE_CONVERTER"),
    ("__connect.errors.class.name", b"io.confluent.connect.avro.AvroConverter"),
    ("__connect.errors.exception.class.name", b"org.apache.kafka.connect.errors.DataException"),
    ("__connect.errors.exception.message", b"Failed"),
    ("__connect.errors.exception.stacktrace", b"at A.b(A.java:2)"),
)
STREAMS: Headers = (
    *ORIGINAL,
    ("__streams.errors.exception", b"org.apache.kafka.common.errors.SerializationException"),
    ("__streams.errors.message", b"Size of data"),
    ("__streams.errors.stacktrace", b"at C.d(C.java:3)"),
    ("__streams.errors.topic", b"acme.clicks"),
    ("__streams.errors.partition", b"1"),
    ("__streams.errors.offset", b"99"),
)


@pytest.mark.parametrize(
    "headers",
    [
        OURS,
        SPRING,
        CONNECT,
        STREAMS,
        ORIGINAL,
        (),
        (*OURS, *STREAMS),
        (*CONNECT, *OURS),
        (*OURS, *OURS),
        (*OURS, *SPRING),
        tuple(each for each in OURS if each[0] != "kafka_dlt-original-offset"),
        (*OURS, ("kafka_dlt-original-partition", b"7")),
        (*OURS, ("crossdock-error-code", b"\xff")),
    ],
)
def test_the_outline_is_what_the_full_reading_says(headers: Headers) -> None:
    full, short = read_dead_letter(headers), outline(headers)
    assert short[:4] == (full.code, full.topic, full.partition, full.offset)
    named = any(name == "event_type" for name, _ in headers)
    assert short[4:] == (("thread-1", b"toy.Add") if named else ("", b""))


@pytest.mark.parametrize(
    ("headers", "ours"),
    [
        (OURS, True),
        ((*SPRING, *OURS), True),
        ((*CONNECT, *OURS), True),
        ((*OURS, *SPRING), False),
        ((*OURS, *CONNECT), False),
        ((*OURS, *STREAMS), False),
        (SPRING, False),
        (CONNECT, False),
        (ORIGINAL, False),
        ((), False),
    ],
)
def test_whose_letter_it_is(headers: Headers, ours: bool) -> None:
    assert is_ours(headers) is ours


@pytest.mark.parametrize("headers", [OURS, SPRING, CONNECT, STREAMS, (*OURS, *STREAMS[3:]), ORIGINAL])
def test_the_headers_of_the_original_come_back(headers: Headers) -> None:
    assert original_headers(headers) == ORIGINAL


def test_a_key_that_spring_could_not_read_is_told_as_the_error() -> None:
    letter = read_dead_letter(
        (
            ("kafka_dlt-original-topic", b"acme.orders"),
            ("kafka_dlt-key-exception-fqcn", b"org.apache.kafka.common.errors.SerializationException"),
            ("kafka_dlt-key-exception-message", b"no key"),
            ("kafka_dlt-key-exception-stacktrace", b"at K.l(K.java:4)"),
        )
    )
    assert letter.error_class == "org.apache.kafka.common.errors.SerializationException"
    assert (letter.message, letter.stack_trace) == ("no key", "at K.l(K.java:4)")
