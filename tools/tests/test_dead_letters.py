"""`crossdock dlt`: letters of our services, of Spring, Connect and Streams, byte for byte as they write them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from crossdock_canonical.money import Money
from crossdock_canonical.records import CancelRequested, PaymentCaptured
from crossdock_canonical.specification import T0
from crossdock_eventing import names
from crossdock_eventing.broker.interface import Headers, Record, TopicPartition
from crossdock_eventing.clock import to_micros
from crossdock_eventing.deadletter import dead_letter_headers
from crossdock_eventing.envelope import Meta
from crossdock_eventing.registry import MemoryRegistry, RegistryUnavailable
from crossdock_simulation.planting import an_order
from crossdock_tools.dead_letters import command as dead_letters
from crossdock_tools.dead_letters.letters import find, tell

SERVICE = "order-orchestrator"
TOPIC = names.dead_letter_topic(SERVICE)
T0_MS = to_micros(T0) // 1000
REQUEST = CancelRequested(order_id="order-1", request_id="c-1", actor="kundendienst", reason="zu spät")
META = Meta(event_id="e1", correlation_id="order-1", occurred_at=T0, recorded_at=T0, source="/crossdock/test")

SPRING: Headers = (
    ("kafka_dlt-exception-fqcn", b"org.springframework.kafka.listener.ListenerExecutionFailedException"),
    ("kafka_dlt-exception-cause-fqcn", b"java.lang.IllegalStateException"),
    ("kafka_dlt-exception-message", "Listener failed; f\u00fcr\u00a0immer".encode()),
    (
        "kafka_dlt-exception-stacktrace",
        b"java.lang.IllegalStateException: no\n\tat com.acme.X.y(X.java:1)\r\n",
    ),
    ("kafka_dlt-original-topic", b"acme.orders"),
    ("kafka_dlt-original-partition", b"\x00\x00\x00\x07"),
    ("kafka_dlt-original-offset", b"\x00\x00\x00\x01\x00\x00\x00\x02"),
    ("kafka_dlt-original-timestamp", b"\x00\x00\x01\x9b\x00\x00\x00\x00"),
    ("kafka_dlt-original-timestamp-type", b"CreateTime"),
    ("kafka_dlt-original-consumer-group", b"acme.billing"),
)
CONNECT: Headers = (
    ("__connect.errors.topic", b"acme.orders"),
    ("__connect.errors.partition", b"3"),
    ("__connect.errors.offset", b"4711"),
    ("__connect.errors.connector.name", b"warehouse-sink"),
    ("__connect.errors.task.id", b"0"),
    ("__connect.errors.stage", b"VALUE_CONVERTER"),
    ("__connect.errors.class.name", b"io.confluent.connect.avro.AvroConverter"),
    ("__connect.errors.exception.class.name", b"org.apache.kafka.connect.errors.DataException"),
    ("__connect.errors.exception.message", b"Failed to deserialize"),
    ("__connect.errors.exception.stacktrace", b"org.apache...DataException\n\tat A.b(A.java:2)\n"),
)
STREAMS: Headers = (
    ("__streams.errors.exception", b"org.apache.kafka.common.errors.SerializationException"),
    ("__streams.errors.stacktrace", b"org.apache...SerializationException\n\tat C.d(C.java:3)\n"),
    ("__streams.errors.message", b"Size of data received by LongDeserializer is not 8"),
    ("__streams.errors.topic", b"acme.clicks"),
    ("__streams.errors.partition", b"1"),
    ("__streams.errors.offset", b"99"),
)


def ours(code: str, topic: str = "retail.order.intake.v1", *, attempt: int = 1) -> Headers:
    origin = Record(topic, 2, 41, T0_MS, b"order-1", b"", (("correlation_id", b"order-1"),))
    try:
        raise ValueError("the reason")
    except ValueError as error:
        return dead_letter_headers(
            origin, code=code, detail="why", error=error, group=names.group(SERVICE), attempt=attempt
        )


def letter(cluster: Any, headers: Headers, **more: Any) -> None:
    cluster.put(TOPIC, **{"key": b"order-1", "value": b"x", "partition": 0, "headers": headers, **more})


def test_letters_are_grouped_by_service_code_and_topic_oldest_first(
    cluster: Any, crossdock: Callable
) -> None:
    letter(cluster, ours("order.unknown_sku"), after_s=30)
    letter(cluster, ours("order.unknown_sku"), after_s=10, partition=3)
    letter(cluster, ours("order.unknown_sku", "retail.order.commands.v1"), after_s=20)
    letter(cluster, CONNECT, after_s=5)
    cluster.put(names.dead_letter_topic("returns"), value=b"", headers=ours("order.unknown_sku"), after_s=40)
    found = crossdock("dlt", "list", "--json").json
    stamp = {s: (T0 + timedelta(seconds=s)).isoformat(timespec="milliseconds") for s in (5, 10, 20, 30, 40)}
    data_exception = "org.apache.kafka.connect.errors.DataException"

    def row(service: str, code: str, topic: str, letters: int, oldest: int, newest: int) -> dict[str, object]:
        ends = {"oldest": stamp[oldest], "newest": stamp[newest]}
        return {"service": service, "code": code, "topic": topic, "letters": letters, **ends}

    found = [{name: each[name] for name in row("", "", "", 0, 5, 5)} for each in found]

    assert found == [
        row(SERVICE, data_exception, "acme.orders", 1, 5, 5),
        row(SERVICE, "order.unknown_sku", "retail.order.intake.v1", 2, 10, 30),
        row(SERVICE, "order.unknown_sku", "retail.order.commands.v1", 1, 20, 20),
        row("returns", "order.unknown_sku", "retail.order.intake.v1", 1, 40, 40),
    ]
    only = crossdock("dlt", "list", "--json", "--service", "returns").json
    assert [each["service"] for each in only] == ["returns"]


def test_the_list_for_people_says_how_old(cluster: Any, crossdock: Callable, monkeypatch: Any) -> None:
    letter(cluster, ours("order.unknown_sku"))
    cluster.clock.advance(3 * 86_400 + 5)
    monkeypatch.setattr(dead_letters, "SystemClock", lambda: cluster.clock)
    said = crossdock("dlt", "list").out
    assert "order.unknown_sku" in said
    assert "3 d" in said
    assert "1 dead letters in 1 groups" in said


def test_nothing_given_up_on_is_said_plainly(crossdock: Callable) -> None:
    answer = crossdock("dlt", "list")
    assert (answer.exit_code, answer.out) == (0, "0 dead letters in 0 groups\nnothing is parked\n")


def test_a_letter_is_told_in_full(cluster: Any, crossdock: Callable) -> None:
    letter(cluster, ours("order.unknown_sku", attempt=3), value=cluster.codec.encode(REQUEST, META))
    told = crossdock("dlt", "show", "--service", SERVICE, "--partition", "0", "--offset", "0", "--json").json
    assert told["dead_letter"]["topic"] == TOPIC
    assert told["original"] == {
        "topic": "retail.order.intake.v1",
        "partition": 2,
        "offset": 41,
        "at": T0.isoformat(timespec="milliseconds"),
    }
    assert (told["key"], told["code"], told["attempt"]) == ("order-1", "order.unknown_sku", 3)
    assert told["given_up_by"] == names.group(SERVICE)
    assert told["error_class"] == "builtins.ValueError"
    assert told["message"] == "order.unknown_sku: why"
    assert told["stack_trace"].endswith("ValueError: the reason\n")
    assert told["record_type"] == "retail.order.CancelRequested"
    assert told["payload"]["reason"] == "zu spät"
    assert told["payload"]["meta"]["correlation_id"] == "order-1"
    assert told["payload_hex"] is None
    assert dict(told["headers"])["kafka_dlt-original-offset"] == 41
    assert dict(told["headers"])["correlation_id"] == "order-1"


def test_a_letter_for_people(cluster: Any, crossdock: Callable) -> None:
    letter(cluster, ours("order.unknown_sku"), value=cluster.codec.encode(REQUEST, META))
    said = crossdock("dlt", "show", "--service", SERVICE).out
    assert f"{TOPIC}[0]@0" in said
    assert "original     retail.order.intake.v1[2]@41" in said
    assert '"reason": "zu spät"' in said
    assert said.count("ValueError: the reason") == 1


@pytest.mark.parametrize(
    ("headers", "original", "given_up_by", "code", "message", "stack"),
    [
        (
            SPRING,
            {
                "topic": "acme.orders",
                "partition": 7,
                "offset": 2**32 + 2,
                "at": "2025-12-08T22:05:58.656+00:00",
            },
            "acme.billing",
            "java.lang.IllegalStateException",
            "Listener failed; für\u00a0immer",
            "at com.acme.X.y(X.java:1)",
        ),
        (
            CONNECT,
            {"topic": "acme.orders", "partition": 3, "offset": 4711, "at": None},
            "warehouse-sink",
            "org.apache.kafka.connect.errors.DataException",
            "Failed to deserialize",
            "at A.b(A.java:2)",
        ),
        (
            STREAMS,
            {"topic": "acme.clicks", "partition": 1, "offset": 99, "at": None},
            None,
            "org.apache.kafka.common.errors.SerializationException",
            "Size of data received by LongDeserializer is not 8",
            "at C.d(C.java:3)",
        ),
        ((), dict.fromkeys(("topic", "partition", "offset", "at")), None, None, None, None),
    ],
    ids=["spring", "connect", "streams", "no headers at all"],
)
def test_letters_of_other_writers_are_understood(
    cluster: Any,
    crossdock: Callable,
    headers: Headers,
    original: dict[str, Any],
    given_up_by: str | None,
    code: str | None,
    message: str | None,
    stack: str | None,
) -> None:
    letter(cluster, headers)
    told = crossdock("dlt", "show", "--service", SERVICE, "--json").json
    assert told["original"] == original
    assert (told["given_up_by"], told["code"], told["message"]) == (given_up_by, code, message)
    assert (stack in told["stack_trace"]) if stack else told["stack_trace"] is None
    assert crossdock("dlt", "show", "--service", SERVICE).exit_code == 0


def test_of_several_writers_the_last_one_counts(cluster: Any, crossdock: Callable) -> None:
    letter(cluster, (*CONNECT, *SPRING, *ours("order.unknown_sku")))
    told = crossdock("dlt", "show", "--service", SERVICE, "--json").json
    assert (told["code"], told["original"]["offset"]) == ("order.unknown_sku", 41)
    assert told["error_class"] == "builtins.ValueError"
    letter(cluster, (*ours("order.unknown_sku"), *STREAMS), after_s=1)
    told = crossdock("dlt", "show", "--service", SERVICE, "--json").json
    assert told["code"] == "org.apache.kafka.common.errors.SerializationException"
    assert told["original"]["topic"] == "acme.clicks"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"plain", "plain"),
        (b"", ""),
        (b"\xff\xfe", "0xfffe"),
        (b"\x00\x00\x00\x02", "0x00000002"),
        (b"\x01" + bytes(16), "0x01" + "00" * 16),
    ],
)
def test_other_headers_are_text_or_hex(cluster: Any, crossdock: Callable, value: bytes, shown: str) -> None:
    letter(cluster, (("x-other", value), ("x-other", b"again")))
    told = crossdock("dlt", "show", "--service", SERVICE, "--json").json
    assert told["headers"] == [["x-other", shown], ["x-other", "again"]]


@pytest.mark.parametrize("value", [b"", b"7", b"-3", "\u00b2".encode(), b"9" * 5000, struct.pack(">i", -1)])
def test_a_number_that_is_none_is_shown_and_not_believed(
    cluster: Any, crossdock: Callable, value: bytes
) -> None:
    letter(cluster, (("__connect.errors.topic", b"t"), ("__connect.errors.offset", value)))
    told = crossdock("dlt", "show", "--service", SERVICE, "--json").json
    assert told["original"]["offset"] == (7 if value == b"7" else None)


def test_what_cannot_be_decoded_is_shown_in_hex_with_the_reason(cluster: Any, crossdock: Callable) -> None:
    letter(cluster, ours("contract.bad_framing"), key=b"\xff", value=b"\x07rubbish!")
    told = crossdock("dlt", "show", "--service", SERVICE, "--json").json
    assert (told["payload"], told["payload_hex"]) == (None, b"\x07rubbish!".hex())
    assert "magic byte 7" in told["payload_problem"]
    assert told["key"] == "\\xff"
    assert b"\x07rubbish!".hex() in crossdock("dlt", "show", "--service", SERVICE).out


def test_a_tombstone_and_a_missing_key_are_told_as_such(cluster: Any, crossdock: Callable) -> None:
    letter(cluster, ours("contract.missing_key"), key=None, value=None)
    told = crossdock("dlt", "show", "--service", SERVICE, "--json").json
    assert (told["key"], told["payload"], told["payload_problem"], told["payload_hex"]) == (None,) * 4
    assert "payload (a tombstone)" in crossdock("dlt", "show", "--service", SERVICE).out


def test_a_registry_that_is_away_hides_the_payload_only(cluster: Any, monkeypatch: Any) -> None:
    class Away(MemoryRegistry):
        def by_id(self, schema_id: int) -> str:
            raise RegistryUnavailable("no answer")

    letter(cluster, ours("order.unknown_sku"), value=cluster.codec.encode(REQUEST, META))
    told = tell(find(cluster.broker(), TOPIC), Away())
    assert (told["payload"], told["payload_problem"]) == (None, "no answer")
    assert told["code"] == "order.unknown_sku"


def test_without_an_offset_the_newest_letter_is_shown(cluster: Any, crossdock: Callable) -> None:
    for number in range(40):
        letter(cluster, ours(f"code.n{number}"), after_s=number, partition=number % 2)
    letter(cluster, ours("code.late"), after_s=20, partition=3)
    show = ("dlt", "show", "--service", SERVICE, "--json")
    assert crossdock(*show).json["code"] == "code.n39"
    assert crossdock(*show, "--partition", "0").json["code"] == "code.n38"
    assert crossdock(*show, "--partition", "3").json["code"] == "code.late"


def test_of_an_order_the_largest_amount_is_at_stake_once(cluster: Any, crossdock: Callable) -> None:
    def paid(minor: int, order: str, currency: str = "EUR") -> None:
        body = PaymentCaptured(
            order_id=order, capture_id="c", amount=Money(minor=minor, currency=currency), captured_at=T0
        )
        found = (("event_type", body.SCHEMA.encode()), ("correlation_id", order.encode()))
        headers = (*(each for each in ours("order.unknown_sku") if each[0] != "correlation_id"), *found)
        letter(cluster, headers, key=order.encode(), value=cluster.codec.encode(body, META))

    snapshot = an_order(1, ("A", 1, 1000))
    letter(
        cluster, ours("order.unknown_sku"), value=cluster.codec.encode(snapshot, META)
    )  # of order-1, 16.00 EUR
    paid(500, "order-1")
    paid(700, "order-2")
    paid(800, "order-3", "USD")
    letter(cluster, ours("order.unknown_sku"), value=cluster.codec.encode(REQUEST, META), key=b"order-4")
    [group] = crossdock("dlt", "list", "--json").json
    assert group["stake_minor"] == {"EUR": 1600 + 700, "USD": 800}


def test_what_was_rejected_is_shown_before_what_waits_behind_it(cluster: Any, crossdock: Callable) -> None:
    letter(cluster, ours("order.unknown_sku"), after_s=1, partition=0)
    show = ("dlt", "show", "--service", SERVICE, "--json")
    for number in range(40):
        letter(cluster, ours("parked.behind"), after_s=2 + number, partition=number % 2)
    assert crossdock(*show).json["code"] == "order.unknown_sku"
    assert crossdock(*show, "--partition", "0").json["code"] == "order.unknown_sku"
    assert crossdock(*show, "--partition", "1").json["code"] == "parked.behind"


def test_the_newest_letter_is_found_behind_a_long_tail_of_markers(cluster: Any) -> None:
    letter(cluster, ours("code.last"), after_s=1)
    producer = cluster.broker().producer("aborts")
    producer.init_transactions()
    for _ in range(50):
        producer.begin()
        producer.produce(TOPIC, key=b"k", value=b"never", partition=0)
        producer.abort()
    assert find(cluster.broker(), TOPIC, partition=0).offset == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--service", "nobody"), "no service 'nobody' consumes anything; known are "),
        (("--service", SERVICE), f"{TOPIC} is empty"),
        (("--service", SERVICE, "--partition", "0", "--offset", "0"), f"{TOPIC} is empty in partition 0"),
        (("--service", SERVICE, "--partition", "99"), "has partitions 0 to "),
        (("--service", SERVICE, "--offset", "1"), "add --partition"),
    ],
)
def test_a_letter_that_is_not_there_is_one_line(
    crossdock: Callable, arguments: tuple[str, ...], words: str
) -> None:
    answer = crossdock("dlt", "show", *arguments)
    assert answer.exit_code == 1
    assert words in answer.err
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize("offset", ["1", "2", "-1"])
def test_an_offset_without_a_letter_says_what_the_log_has(
    cluster: Any, crossdock: Callable, offset: str
) -> None:
    letter(cluster, ours("order.unknown_sku"))  # offset 0; its commit marker takes 1
    answer = crossdock("dlt", "show", "--service", SERVICE, "--partition", "0", "--offset", offset)
    assert answer.exit_code == 1
    assert f"no letter at {TOPIC}[0]@{offset}" in answer.err


def test_looking_changes_nothing(cluster: Any, crossdock: Callable) -> None:
    letter(cluster, ours("order.unknown_sku"))
    admin = cluster.broker().admin()

    def everything() -> Any:
        ends = {
            (topic, number): admin.watermarks(TopicPartition(topic, number))
            for topic in admin.topics()
            for number in range(admin.partitions(topic))
        }
        return ends, admin.group_offsets(names.group(SERVICE))

    before = everything()
    crossdock("dlt", "list")
    crossdock("dlt", "show", "--service", SERVICE)
    assert everything() == before
