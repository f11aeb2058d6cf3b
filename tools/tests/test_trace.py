"""`crossdock trace`: finding an order by what people call it, and telling its events in causal order."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossdock_canonical.identity import OrderId
from crossdock_canonical.money import Money
from crossdock_canonical.records import (
    CancelRequested,
    CapturePayment,
    ChannelOrderReceived,
    IntakeKind,
    PaymentCaptured,
)
from crossdock_canonical.specification import T0
from crossdock_eventing import names
from crossdock_eventing.broker.interface import Record
from crossdock_eventing.deadletter import dead_letter_headers
from crossdock_eventing.envelope import Meta
from crossdock_tools.topic_reader import Entry
from crossdock_tools.trace import Step, TraceError, find_order, tell

REQUEST = CancelRequested(order_id=OrderId("order-1"), request_id="c-1", actor="customer", reason="too late")


def meta(event_id: str, cause: str = "", *, at_s: float = 0.0, order: str = "order-1") -> Meta:
    moment = T0 + timedelta(seconds=at_s)
    return Meta(
        event_id=event_id,
        correlation_id=order,
        causation_id=cause,
        occurred_at=moment,
        recorded_at=moment,
        source="/crossdock/returns",
    )


def entry(event_id: str, cause: str = "", *, at_s: float = 0.0, body: Any = REQUEST) -> Entry:
    record = Record("some.topic", 1, 7, 0, b"order-1", b"", ())
    return Entry(record, meta(event_id, cause, at_s=at_s), body)


def intake(order_id: str, channel: str, external_id: str, name: str = "") -> ChannelOrderReceived:
    """An order as the gateway took it in."""
    return ChannelOrderReceived(
        order_id=OrderId(order_id),
        channel=channel,
        shop="eu",
        external_id=external_id,
        external_name=name,
        kind=IntakeKind.SNAPSHOT,
        revision_at=T0,
        revision_id="r1",
        placed_at=T0,
        currency="EUR",
        lines=(),
    )


# --- find_order

ORDERS = [
    entry("e1", body=intake("o1", "shopify", "5001", "#901")),
    entry("e2", body=intake("o1", "shopify", "5001", "#901")),  # the channel sent it twice
    entry("e3", body=intake("o2", "amazon", "302-1")),
    entry("e4", body=intake("o3", "pos", "5001", "77")),
    entry("not an order"),
]


@pytest.mark.parametrize(
    ("ref", "channel", "order_id"),
    [
        ("#901", None, "o1"),
        ("#901", "shopify", "o1"),
        ("5001", "shopify", "o1"),
        ("5001", "pos", "o3"),
        ("302-1", None, "o2"),
        ("o3", None, "o3"),
    ],
)
def test_an_order_is_found_by_any_of_its_names(ref: str, channel: str | None, order_id: str) -> None:
    assert find_order(ORDERS, ref=ref, channel=channel) == order_id


def test_an_unknown_reference_says_what_was_looked_at() -> None:
    with pytest.raises(TraceError, match=r"no order '#902' of any channel is in retail\.order\.intake\.v1"):
        find_order(ORDERS, ref="#902", channel=None)
    with pytest.raises(TraceError, match="no order '#901' of channel amazon"):
        find_order(ORDERS, ref="#901", channel="amazon")


def test_a_reference_of_several_orders_names_them() -> None:
    with pytest.raises(TraceError) as refused:
        find_order(ORDERS, ref="5001", channel=None)
    assert str(refused.value) == "'5001' names 2 orders: o1 (shopify eu 5001); o3 (pos eu 5001)"


# --- tell


def ids(steps: list[Step]) -> list[str]:
    return [step.event_id for step in steps]


def test_a_cause_stands_before_its_effects_whatever_the_clocks_say() -> None:
    told = tell(
        [
            entry("c", "b", at_s=1),  # its writer's clock is 9 s behind
            entry("b", "a", at_s=10),
            entry("a", "delivery", at_s=5),
        ]
    )
    assert ids(told) == ["a", "b", "c"]
    assert [step.delay_ms for step in told] == [None, 5000.0, -9000.0]


def test_among_what_is_free_the_earliest_recorded_comes_first() -> None:
    told = tell(
        [
            entry("a", at_s=0),
            entry("late effect of a", "a", at_s=30),
            entry("b", "elsewhere", at_s=10),
            entry("effect of b", "b", at_s=20),
        ]
    )
    assert ids(told) == ["a", "b", "effect of b", "late effect of a"]


def test_an_event_published_twice_is_told_once() -> None:
    assert ids(tell([entry("a"), entry("b", "a", at_s=1), entry("b", "a", at_s=1)])) == ["a", "b"]


def test_a_step_says_who_where_and_what() -> None:
    [step] = tell([entry("a", "delivery", at_s=1.5)])
    assert step == Step(
        event="CancelRequested",
        service="returns",
        topic="some.topic",
        partition=1,
        offset=7,
        recorded_at=(T0 + timedelta(seconds=1.5)).isoformat(),
        delay_ms=None,
        event_id="a",
        causation_id="delivery",
        cause=None,
        summary="",
    )


def test_a_report_from_outside_follows_the_command_with_its_reference() -> None:
    """A payment provider knows our capture id and nothing of event ids."""
    order, amount = OrderId("order-1"), Money(minor=5, currency="EUR")
    captures = [
        CapturePayment(order_id=order, capture_id=number, tender_reference="t", amount=amount)
        for number in "12"
    ]
    captured = PaymentCaptured(order_id=order, capture_id="2", amount=amount, captured_at=T0)
    told = tell(
        [
            entry("report", "delivery/2", body=captured),
            entry("one", at_s=1, body=captures[0]),
            entry("two", at_s=2, body=captures[1]),
        ]
    )
    assert [(step.event_id, step.cause) for step in told] == [("one", None), ("two", None), ("report", "two")]
    assert told[2].delay_ms == -2000.0


@given(data=st.data(), size=st.integers(0, 12))
def test_every_event_is_told_once_and_after_its_cause(data: st.DataObject, size: int) -> None:
    causes = [data.draw(st.integers(-1, number - 1)) for number in range(size)]
    entries = [
        entry(str(number), str(cause), at_s=data.draw(st.integers(0, 5)))
        for number, cause in enumerate(causes)
    ]
    told = ids(tell(data.draw(st.permutations(entries))))
    assert sorted(told, key=int) == [str(number) for number in range(size)]
    for number, cause in enumerate(causes):
        if cause >= 0:
            assert told.index(str(cause)) < told.index(str(number))


# --- the command


def test_the_command_tells_an_order_and_its_dead_letters(cluster: Any, crossdock: Callable) -> None:
    order = intake("order-1", "shopify", "5001", "#901")
    cluster.publish(order, meta("e1", "delivery"))
    cluster.publish(REQUEST, meta("e2", "e1", at_s=2))
    cluster.publish(REQUEST, meta("other", order="order-2"))
    origin = Record(CancelRequested.TOPIC, 0, 3, 0, b"order-1", b"", (("correlation_id", b"order-1"),))
    given_up = dead_letter_headers(
        origin, code="returns.unknown_line", detail="", error=None, group=names.group("returns")
    )
    cluster.put(names.dead_letter_topic("returns"), value=b"", headers=given_up, partition=0)
    told = crossdock("trace", "--ref", "#901", "--json").json
    assert told["order_id"] == "order-1"
    assert [(each["event"], each["delay_ms"]) for each in told["events"]] == [
        ("ChannelOrderReceived", None),
        ("CancelRequested", 2000.0),
    ]
    assert told["dead_letters"] == [f"{names.dead_letter_topic('returns')}[0]@0: returns.unknown_line"]
    said = crossdock("trace", "--ref", "order-1").out
    assert "2 events, 1 dead letters" in said


def test_an_order_that_is_not_there_is_one_line(crossdock: Callable) -> None:
    answer = crossdock("trace", "--ref", "#1", "--channel", "shopify")
    assert answer.exit_code == 1
    assert answer.err.startswith("crossdock: no order '#1' of channel shopify is in retail.order.intake.v1")
    assert answer.err.count("\n") == 1
