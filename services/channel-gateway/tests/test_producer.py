"""The producer that outlives its broken sequence."""

import asyncio

import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    NotLeaderForPartitionError,
    OutOfOrderSequenceNumber,
)

from crossdock_channel_gateway import producer as producing
from crossdock_channel_gateway.producer import LastingProducer


class Native:
    """One aiokafka producer: `outcome` is what becomes of every record, at once if it `raises`."""

    def __init__(self, outcome: Exception | None, *, starts: bool = True, raises: bool = False) -> None:
        self.outcome = outcome
        self.starts = starts
        self.raises = raises
        self.sent: list[bytes] = []
        self.stopped = False

    async def start(self) -> None:
        if not self.starts:
            raise KafkaConnectionError

    async def send(self, topic: str, value: bytes, key: bytes, *, headers: object) -> asyncio.Future:
        if self.raises:
            raise self.outcome
        self.sent.append(value)
        answer = asyncio.get_running_loop().create_future()
        if self.outcome is None:
            answer.set_result(object())
        else:
            answer.set_exception(self.outcome)
        return answer

    async def stop(self) -> None:
        self.stopped = True


def lasting(monkeypatch: pytest.MonkeyPatch, *natives: Native) -> LastingProducer:
    waiting = list(natives)
    monkeypatch.setattr(producing, "idempotent_producer", lambda *_, **__: waiting.pop(0))
    monkeypatch.setattr(producing, "_RETRY_S", 0.0)
    return LastingProducer("nowhere:1", timeout_s=1.0)


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_producer_out_of_sequence_is_replaced_and_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    broken, away, whole = Native(OutOfOrderSequenceNumber()), Native(None, starts=False), Native(None)
    producer = lasting(monkeypatch, broken, away, whole)
    await producer.start()
    with pytest.raises(OutOfOrderSequenceNumber):
        await producer.send_and_wait("t", b"1", b"k")
    await settled()
    await producer.send_and_wait("t", b"1", b"k")
    assert whole.sent == [b"1"]
    assert broken.stopped
    assert away.stopped
    await producer.stop()
    assert whole.stopped


async def test_a_producer_whose_loop_has_died_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    dead, whole = Native(KafkaError("Unexpected error during batch delivery"), raises=True), Native(None)
    producer = lasting(monkeypatch, dead, whole)
    with pytest.raises(KafkaError):
        await producer.send("t", b"1", b"k")
    await settled()
    await producer.send_and_wait("t", b"1", b"k")
    assert whole.sent == [b"1"]


async def test_many_records_that_meet_the_same_break_bring_one_new_producer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken, whole = Native(OutOfOrderSequenceNumber()), Native(None)
    producer = lasting(monkeypatch, broken, whole)
    answers = [await producer.send("t", b"1", b"k") for _ in range(5)]
    await asyncio.gather(*answers, return_exceptions=True)
    await settled()
    await producer.send_and_wait("t", b"2", b"k")
    assert whole.sent == [b"2"]


async def test_an_outage_that_passes_replaces_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    shaken = Native(NotLeaderForPartitionError())
    producer = lasting(monkeypatch, shaken)
    with pytest.raises(NotLeaderForPartitionError):
        await producer.send_and_wait("t", b"1", b"k")
    await settled()
    shaken.outcome = None
    await producer.send_and_wait("t", b"1", b"k")
    assert len(shaken.sent) == 2


async def test_a_producer_that_cannot_write_does_not_keep_the_gateway_from_stopping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stuck = Native(None)

    async def never() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(stuck, "stop", never)
    monkeypatch.setattr(producing, "_FAREWELL_S", 0.01)
    producer = lasting(monkeypatch, stuck)
    await producer.start()
    async with asyncio.timeout(1.0):
        await producer.stop()
