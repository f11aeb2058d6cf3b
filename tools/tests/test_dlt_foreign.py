"""Dead letters of Spring Kafka's recoverer, Kafka Connect and Kafka Streams, byte for byte as they write them: listed, shown, and
taken in by a service, each once.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crossdock_canonical.records import ChannelOrderReceived, ErpDocumentPosted, OrderReceived
from crossdock_canonical.specification import T0
from crossdock_eventing.broker.interface import Headers, TopicSpec
from crossdock_eventing.clock import to_micros
from crossdock_eventing.codec import Codec
from crossdock_eventing.envelope import headers, record_key, wrap
from crossdock_simulation.planting import an_order, id_of

SERVICE = "order-orchestrator"
INTAKE = ChannelOrderReceived.TOPIC
T0_MS = to_micros(T0) // 1000
PLAN = (
    "plan",
    "--service",
    SERVICE,
    "--reason",
    "their listener was down",
    "--inject",
    "--all",
    "--out",
    "p.json",
)


def spring(topic: str, partition: int, offset: int) -> Headers:
    """DeadLetterPublishingRecoverer: numbers binary and big-endian, text UTF-8, the wrapper's class before its cause."""
    return (
        ("kafka_dlt-original-topic", topic.encode()),
        ("kafka_dlt-original-partition", struct.pack(">i", partition)),
        ("kafka_dlt-original-offset", struct.pack(">q", offset)),
        ("kafka_dlt-original-timestamp", struct.pack(">q", T0_MS)),
        ("kafka_dlt-original-timestamp-type", b"CreateTime"),
        ("kafka_dlt-original-consumer-group", b"acme-orders"),
        ("kafka_dlt-exception-fqcn", b"org.springframework.kafka.listener.ListenerExecutionFailedException"),
        ("kafka_dlt-exception-cause-fqcn", b"java.net.ConnectException"),
        ("kafka_dlt-exception-message", b"Listener failed; Connection refused"),
        (
            "kafka_dlt-exception-stacktrace",
            b"java.net.ConnectException: Connection refused\n\tat com.acme.X.y(X.java:1)\n",
        ),
    )


def connect(topic: str, partition: int, offset: int) -> Headers:
    """DeadLetterQueueReporter with context headers: all text."""
    return (
        ("__connect.errors.topic", topic.encode()),
        ("__connect.errors.partition", str(partition).encode()),
        ("__connect.errors.offset", str(offset).encode()),
        ("__connect.errors.connector.name", b"warehouse-sink"),
        ("__connect.errors.task.id", b"0"),
        ("__connect.errors.stage", b"TASK_PUT"),
        ("__connect.errors.class.name", b"org.apache.kafka.connect.sink.SinkTask"),
        ("__connect.errors.exception.class.name", b"org.apache.kafka.connect.errors.RetriableException"),
        ("__connect.errors.exception.message", b"no connection"),
        ("__connect.errors.exception.stacktrace", b"org.apache...RetriableException\n\tat A.b(A.java:2)\n"),
    )


def streams(topic: str, partition: int, offset: int) -> Headers:
    """The built-in handlers' dead letter queue (KIP-1034): all text."""
    return (
        ("__streams.errors.exception", b"java.lang.IllegalStateException"),
        ("__streams.errors.message", b"no store"),
        ("__streams.errors.stacktrace", b"java.lang.IllegalStateException\n\tat C.d(C.java:3)\n"),
        ("__streams.errors.topic", topic.encode()),
        ("__streams.errors.partition", str(partition).encode()),
        ("__streams.errors.offset", str(offset).encode()),
    )


WRITERS = {"orders.DLT": spring, "connect-dlq": connect, "streams-dlq": streams}
CODES = {
    "orders.DLT": "java.net.ConnectException",
    "connect-dlq": "org.apache.kafka.connect.errors.RetriableException",
    "streams-dlq": "java.lang.IllegalStateException",
}


class Elsewhere:
    """Dead-letter topics of other applications on the shop's cluster."""

    def __init__(self, shop: Any) -> None:
        self.broker = shop.broker()
        self.broker.admin().create_topics([TopicSpec(topic, 2) for topic in WRITERS])
        self.codec = Codec(
            shop.registry(), written=[(ChannelOrderReceived, INTAKE), (OrderReceived, "x")], read=()
        )
        self._producers = 0

    def letter(
        self, topic: str, number: int, *, offset: int | None = None, key: bytes | None = b"", **fields: Any
    ) -> bytes:
        """An order that the topic's writer gave up on at this offset of the intake; returns its bytes."""
        order = an_order(number, ("A", 1, 1000 * number), **fields)
        meta = wrap(
            order, causation_id=f"d{number}", correlation_id="", now=T0, source="/shop", attributes={}
        )
        value = self.codec.encode(order, meta)
        self.put(
            topic,
            record_key(order).encode() if key == b"" else key,
            value,
            (
                *headers(meta, order.SCHEMA, None),
                *WRITERS[topic]("acme.orders", 1, number if offset is None else offset),
            ),
        )
        return value

    def put(self, topic: str, key: bytes | None, value: bytes | None, found: Headers) -> None:
        self._producers += 1
        producer = self.broker.producer(f"elsewhere-{self._producers}")
        producer.init_transactions()
        producer.begin()
        producer.produce(topic, key=key, value=value, headers=found, partition=1, timestamp_ms=T0_MS)
        producer.commit()


@pytest.fixture
def elsewhere(shop: Any) -> Elsewhere:
    shop.map()
    return Elsewhere(shop)


@pytest.mark.parametrize("topic", WRITERS)
def test_a_foreign_letter_is_listed_shown_and_taken_in_once(
    shop: Any, elsewhere: Elsewhere, dlt: Callable, topic: str
) -> None:
    value = elsewhere.letter(topic, 4711)

    [group] = dlt("list", "--topic", topic, "--json").json
    assert (group["service"], group["code"], group["topic"]) == (topic, CODES[topic], "acme.orders")
    assert (group["letters"], group["loose"], group["parked"]) == (1, 1, 0)
    assert "1 letters are parked by nobody" in dlt("list", "--topic", topic).out

    told = dlt("show", "--topic", topic, "--json").json
    assert (told["code"], told["original"]["offset"], told["key"]) == (CODES[topic], 4711, id_of(4711))
    assert told["record_type"] == "retail.order.ChannelOrderReceived"
    assert told["parked"] is None

    [item] = dlt(*PLAN, "--from", topic, "--json").json["items"]
    assert item["origin"] == {"cluster": "memory", "topic": "acme.orders", "partition": 1, "offset": 4711}
    assert (item["key"], item["record"]["topic"]) == (id_of(4711), INTAKE)
    assert "errors" not in str(item["record"]["headers"])
    assert "kafka_dlt" not in str(item["record"]["headers"])

    tried = dlt("run", "p.json", "--dry-run", "--json").json
    assert (tried["messages"], tried["effects"]["OrderReceived"]["count"]) == ({"applied": 1}, 1)
    ran = dlt("run", "p.json", "--json")
    assert (ran.exit_code, ran.json["sent"]) == (0, 1)
    made = ran.json["certificate"]
    assert (made["messages"], made["problems"]) == ({"in": 1, "applied": 1}, [])
    assert made["effects"]["by_type"] == tried["effects"]
    assert len(shop.backbone.published(OrderReceived)) == 1

    # The same letter by another plan, and copied a second time: it was taken in before.
    elsewhere.letter(topic, 4711)
    Path("p.json").unlink()
    assert len(dlt(*PLAN, "--from", topic, "--json").json["items"]) == 1
    ran = dlt("run", "p.json", "--json")
    assert (ran.exit_code, "came to already" in ran.json["surprises"][0]) == (1, True)
    assert len(shop.backbone.published(OrderReceived)) == 1
    [original] = [each for each in shop.instructions() if each.item == 0][:1]
    assert original.value == value


def test_the_life_goes_on_from_there_to_the_books(shop: Any, elsewhere: Elsewhere, dlt: Callable) -> None:
    elsewhere.letter("orders.DLT", 7)
    dlt(*PLAN, "--from", "orders.DLT")
    dlt("run", "p.json")
    [received] = shop.backbone.entries(OrderReceived)
    assert "replay" in received.meta.attributes
    assert shop.backbone.published(ErpDocumentPosted)


def test_what_is_rejected_is_parked_like_any_message_and_can_be_replayed(
    shop: Any, elsewhere: Elsewhere, dlt: Callable
) -> None:
    order = an_order(5, ("Z", 1, 100))
    meta = wrap(order, causation_id="d5", correlation_id="", now=T0, source="/shop", attributes={})
    elsewhere.put("connect-dlq", b"{}", elsewhere.codec.encode(order, meta), connect("acme.orders", 0, 5))
    dlt(*PLAN, "--from", "connect-dlq")
    ran = dlt("run", "p.json", "--json")
    assert ran.exit_code == 1
    assert "came to rejected_again" in ran.json["surprises"][0]
    assert shop.parked() == {id_of(5): 1}
    shop.map("Z")
    dlt("plan", "--service", SERVICE, "--reason", "mapped", "--all", "--out", "q.json")
    ran = dlt("run", "q.json", "--json")
    assert (ran.exit_code, ran.json["certificate"]["problems"]) == (0, [])
    assert shop.parked() == {}


def test_behind_a_parked_key_it_waits(shop: Any, elsewhere: Elsewhere, dlt: Callable) -> None:
    shop.order(8, sku="Z")
    elsewhere.letter("streams-dlq", 8, revision=1)
    dlt(*PLAN, "--from", "streams-dlq")
    ran = dlt("run", "p.json", "--json")
    assert (ran.exit_code, ran.json["certificate"]["messages"]) == (0, {"in": 1, "queued": 1})
    assert shop.parked() == {id_of(8): 2}


def test_a_letter_without_a_key_of_its_own_goes_under_that_of_the_contract(
    shop: Any, elsewhere: Elsewhere, dlt: Callable
) -> None:
    elsewhere.letter("orders.DLT", 9, key=None)
    elsewhere.letter("orders.DLT", 10, key=b'"10"')
    items = dlt(*PLAN, "--from", "orders.DLT", "--json").json["items"]
    assert [each["key"] for each in items] == [id_of(9), id_of(10)]
    assert dlt("run", "p.json").exit_code == 0


def test_letters_without_coordinates_are_told_apart_by_where_they_lie(
    shop: Any, elsewhere: Elsewhere, dlt: Callable
) -> None:
    order = an_order(6, ("A", 1, 100))
    meta = wrap(order, causation_id="d6", correlation_id="", now=T0, source="/shop", attributes={})
    elsewhere.put("connect-dlq", None, elsewhere.codec.encode(order, meta), ())
    [item] = dlt(*PLAN, "--from", "connect-dlq", "--json").json["items"]
    assert item["origin"] == {"cluster": "memory", "topic": "connect-dlq", "partition": 1, "offset": 0}


def test_conditions_choose_among_foreign_letters(shop: Any, elsewhere: Elsewhere, dlt: Callable) -> None:
    for number in (1, 2, 3):
        elsewhere.letter("orders.DLT", number)
    choose = (*PLAN[:-3], "--from", "orders.DLT", "--json", "--out")
    [item] = dlt(*choose, "1.json", "--where", "external_id==2").json["items"]
    assert item["key"] == id_of(2)
    assert len(dlt(*choose, "2.json", "--code", "java.net.*").json["items"]) == 3
    assert len(dlt(*choose, "3.json", "--key", id_of(3)).json["items"]) == 1
    answer = dlt(*choose, "4.json", "--topic", INTAKE)
    assert (answer.exit_code, "no letter that can be taken in meets all conditions" in answer.err) == (
        1,
        True,
    )


def test_what_cannot_be_taken_in_is_refused_or_left_out(
    shop: Any, elsewhere: Elsewhere, dlt: Callable
) -> None:
    elsewhere.letter("orders.DLT", 1)
    elsewhere.put("orders.DLT", b"k", b'{"order": 1}', spring("acme.orders", 0, 77))
    elsewhere.put("orders.DLT", b"k", None, spring("acme.orders", 0, 78))
    answer = dlt(*PLAN, "--from", "orders.DLT")
    assert answer.exit_code == 1
    assert "could not read the payload (contract.bad_framing); " in answer.err
    assert "no plan was made: select less, or add --skip-unfit" in answer.err
    assert not Path("p.json").exists()
    answer = dlt(*PLAN, "--from", "orders.DLT", "--skip-unfit")
    assert answer.exit_code == 0
    assert "left out 1 letters" in answer.out
    assert shop.instructions() == []


def test_a_type_that_the_service_does_not_handle_is_refused(
    shop: Any, elsewhere: Elsewhere, dlt: Callable
) -> None:
    elsewhere.letter("orders.DLT", 1)
    answer = dlt("plan", "--service", "returns", "--reason", "r", "--inject", "--all", "--from", "orders.DLT")
    assert (answer.exit_code, "returns does not handle retail.order.ChannelOrderReceived" in answer.err) == (
        1,
        True,
    )


def test_our_own_parked_letters_are_not_taken_in_a_second_time(
    shop: Any, elsewhere: Elsewhere, dlt: Callable
) -> None:
    shop.order(1, sku="Z")
    answer = dlt(*PLAN)
    assert answer.exit_code == 1
    assert "1 letters are of ours and parked: leave out --inject to replay those" in answer.err


def test_our_own_letter_that_came_without_a_key_can_be_taken_in(
    shop: Any, elsewhere: Elsewhere, dlt: Callable
) -> None:
    order = an_order(3, ("A", 1, 100))
    meta = wrap(order, causation_id="d3", correlation_id="", now=T0, source="/shop", attributes={})
    elsewhere.put(INTAKE, None, elsewhere.codec.encode(order, meta), headers(meta, order.SCHEMA, None))
    shop.backbone.run()
    [group] = dlt("list", "--json").json
    assert (group["code"], group["loose"], group["parked"]) == ("contract.missing_key", 1, 0)
    dlt(*PLAN)
    assert dlt("run", "p.json").exit_code == 0
    assert len(shop.backbone.published(OrderReceived)) == 1


def test_a_topic_that_is_not_there_is_said(dlt: Callable) -> None:
    for command in (
        ("list", "--topic", "no-such"),
        ("show", "--topic", "no-such"),
        (*PLAN, "--from", "no-such"),
    ):
        answer = dlt(*command)
        assert (answer.exit_code, "there is no topic no-such on this cluster" in answer.err) == (1, True)
    answer = dlt("show")
    assert "either --service or --topic" in answer.err
