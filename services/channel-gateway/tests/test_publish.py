"""The publisher: what reaches the broker, and what an unacknowledged record means."""

import asyncio
from datetime import UTC, datetime

import pytest
from aiokafka.errors import KafkaTimeoutError, MessageSizeTooLargeError

from crossdock_canonical.identity import OrderId
from crossdock_canonical.records import PaymentDeclined, SalableStock
from crossdock_channel_gateway.availability import AvailabilityTable
from crossdock_channel_gateway.intake import Intake
from crossdock_channel_gateway.problem import Refused, Unavailable
from crossdock_channel_gateway.publish import KafkaPublisher
from crossdock_channel_gateway.runtime import INTAKE, LatePublisher
from crossdock_eventing.clock import ManualClock
from crossdock_eventing.codec import Codec
from crossdock_eventing.registry import MemoryRegistry

START = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
EARLIER = datetime(2026, 3, 2, 9, tzinfo=UTC)


class ScriptedProducer:
    """Producer whose acknowledgements are scripted: `None` acknowledges, an error fails, "never" stays open."""

    def __init__(self, *script: object) -> None:
        self.script = list(script)
        self.sent: list[tuple] = []

    async def send(self, topic, value=None, key=None, *, headers=None):
        self.sent.append((topic, value, key, headers))
        outcome = self.script.pop(0) if self.script else None
        future = asyncio.get_running_loop().create_future()
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        elif outcome is None:
            future.set_result(object())
        return future


def codec() -> Codec:
    return Codec(MemoryRegistry(), written=[(kind, kind.TOPIC) for kind in INTAKE], read=INTAKE)


def declined(*references: str) -> Intake:
    records = tuple(PaymentDeclined(order_id=OrderId("o-1"), reference=each) for each in references)
    return Intake(records=records, delivery="payment/x", occurred_at=EARLIER, attributes={"a": "b"})


async def test_a_record_is_framed_keyed_and_named_in_its_headers() -> None:
    producer = ScriptedProducer()
    made = codec()
    publisher = KafkaPublisher(producer, made, ManualClock(START), timeout_s=1)
    (event_id,) = await publisher.publish(declined("c1"), traceparent=b"00-a-b-01")
    ((topic, value, key, headers),) = producer.sent
    assert (topic, key) == ("retail.payment.intake.v1", b"o-1")
    meta, record = made.decode(value)
    assert record == PaymentDeclined(order_id=OrderId("o-1"), reference="c1")
    assert (meta.event_id, meta.correlation_id, meta.source) == (event_id, "o-1", "channel-gateway")
    assert (meta.occurred_at, meta.recorded_at, meta.attributes) == (EARLIER, START, {"a": "b"})
    assert dict(headers)["event_type"] == b"retail.payment.PaymentDeclined"
    assert dict(headers)["traceparent"] == b"00-a-b-01"


async def test_an_answer_waits_for_every_record() -> None:
    producer = ScriptedProducer(None, KafkaTimeoutError())
    publisher = KafkaPublisher(producer, codec(), ManualClock(START), timeout_s=1)
    with pytest.raises(Unavailable):
        await publisher.publish(declined("c1", "c2"))
    again = await publisher.publish(declined("c1", "c2"))
    assert len(set(again)) == 2


async def test_a_silent_broker_is_given_up_on_quickly() -> None:
    publisher = KafkaPublisher(ScriptedProducer("never"), codec(), ManualClock(START), timeout_s=0.05)
    async with asyncio.timeout(1):
        with pytest.raises(Unavailable):
            await publisher.publish(declined("c1"))


async def test_a_record_that_no_broker_takes_is_the_callers_fault() -> None:
    publisher = KafkaPublisher(
        ScriptedProducer(MessageSizeTooLargeError()), codec(), ManualClock(START), timeout_s=1
    )
    with pytest.raises(Refused) as refused:
        await publisher.publish(declined("c1"))
    assert refused.value.status == 413


async def test_before_the_broker_is_reached_callers_are_told_to_come_back() -> None:
    with pytest.raises(Unavailable):
        await LatePublisher().publish(declined("c1"))


def row(version: int, units: int) -> SalableStock:
    return SalableStock(sku="MUG", channel="shopify", units=units, version=version, as_of=START)


def test_availability_never_goes_back() -> None:
    table = AvailabilityTable()
    table.put("MUG|shopify", row(5, 10))
    table.put("MUG|shopify", row(4, 99))
    assert table.find("MUG", "shopify").units == 10
    table.put("MUG|shopify", row(6, 3))
    assert table.find("MUG", "shopify").units == 3
    assert table.knows("MUG")
    table.delete("MUG|shopify")
    assert table.find("MUG", "shopify") is None
    assert not table.knows("MUG")
    assert len(table) == 0
