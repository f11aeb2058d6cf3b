"""Calls of the native client that do not keep their time-out."""

import threading
import time
from collections.abc import Iterator

import pytest

from crossdock_eventing.broker.bounded import Bounded
from crossdock_eventing.broker.confluent import ClientSettings, producer
from crossdock_eventing.broker.failure import TransactionOutcomeUnknown
from crossdock_eventing.broker.interface import TopicPartition


@pytest.fixture
def bounded() -> Iterator[Bounded]:
    made = Bounded("test")
    yield made
    made.close()


def test_a_call_gives_its_result_or_its_error(bounded: Bounded) -> None:
    assert bounded.run(lambda: 7, within_s=5.0) == 7

    def fail() -> None:
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        bounded.run(fail, within_s=5.0)
    assert bounded.run(threading.get_ident, within_s=5.0) == bounded.run(threading.get_ident, within_s=5.0)


def test_sending_offsets_that_hangs_is_an_unknown_outcome_and_the_producer_still_closes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(producer, "_RETURN_GRACE_S", 0.05)
    released = threading.Event()

    class Hanging:
        def __init__(self, conf: object) -> None: ...

        def send_offsets_to_transaction(self, *_: object) -> None:
            released.wait(30.0)

        def purge(self) -> None: ...

    monkeypatch.setattr(producer.ck, "Producer", Hanging)
    sender = producer.ConfluentProducer({}, ClientSettings(answer_timeout_ms=100))
    asked = time.monotonic()
    with pytest.raises(TransactionOutcomeUnknown):
        sender.send_offsets({TopicPartition("t", 0): 1}, object())
    assert time.monotonic() - asked < 5.0
    sender.close()
    released.set()
    sender._bounded._thread.join(5.0)
    assert not sender._bounded._thread.is_alive(), "the thread ends once the call has returned"
