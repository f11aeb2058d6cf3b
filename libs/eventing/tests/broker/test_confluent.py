"""The native client's errors as ours, by their flags, without a broker: each row of the failure table."""

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from crossdock_eventing.broker import interface
from crossdock_eventing.broker.confluent import ClientSettings, ConfluentBroker, native, questions
from crossdock_eventing.broker.failure import (
    AbortRequired,
    BrokerError,
    BrokerRefused,
    BrokerUnavailable,
    Fenced,
    OffsetMissing,
    TransactionOutcomeUnknown,
)

E = KafkaError


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (E(E._TIMED_OUT, retriable=True), TransactionOutcomeUnknown),
        (E(E._CONFLICT, retriable=True), TransactionOutcomeUnknown),
        (E(E._CONFLICT), TransactionOutcomeUnknown),
        (E(E.UNKNOWN_MEMBER_ID, txn_requires_abort=True), AbortRequired),
        (E(E.ILLEGAL_GENERATION, txn_requires_abort=True), AbortRequired),
        (E(E.STALE_MEMBER_EPOCH, txn_requires_abort=True), AbortRequired),
        (E(E._FENCED, fatal=True), Fenced),
        (E(E._FENCED), Fenced),
        (E(E.FENCED_INSTANCE_ID, fatal=True), Fenced),
        (E(E.UNRELEASED_INSTANCE_ID), Fenced),
        (E(E.OUT_OF_ORDER_SEQUENCE_NUMBER, fatal=True), Fenced),
        (E(E.MSG_SIZE_TOO_LARGE), BrokerRefused),
        (
            E(E.MSG_SIZE_TOO_LARGE, txn_requires_abort=True),
            BrokerRefused,
        ),  # again it would be too large again
        (E(E._STATE), BrokerRefused),
    ],
    ids=lambda value: value.name() if isinstance(value, E) else value.__name__,
)
def test_a_transaction_call_raises_the_type_that_names_the_remedy(
    error: KafkaError, failure: type[BrokerError]
) -> None:
    def call() -> None:
        raise KafkaException(error)

    with pytest.raises(failure) as raised:
        native.translated(call, TransactionOutcomeUnknown)
    assert raised.type is failure
    assert raised.value.code == error.name()


def test_concurrent_transactions_at_init_and_slow_queries_are_worth_another_try() -> None:
    def busy() -> None:
        raise KafkaException(E(E.CONCURRENT_TRANSACTIONS, retriable=True))

    def slow() -> None:
        raise TimeoutError

    for call in (busy, slow):
        with pytest.raises(BrokerUnavailable):
            native.translated(call, BrokerUnavailable)


class StartingCoordinator:
    """A consumer whose group's coordinator has just been chosen."""

    def __init__(self, refusals: int) -> None:
        self.asked = 0
        self._refusals = refusals

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        self.asked += 1
        if self.asked <= self._refusals:
            raise KafkaException(E(E.NOT_COORDINATOR))
        return partitions


def test_a_coordinator_that_is_starting_is_asked_again_until_the_time_is_over() -> None:
    wanted = [TopicPartition("t", 0, 3)]
    patient = StartingCoordinator(refusals=2)
    assert questions.committed_offsets(patient, wanted, 10.0) == wanted
    assert patient.asked == 3
    with pytest.raises(BrokerUnavailable, match="NOT_COORDINATOR"):
        questions.committed_offsets(StartingCoordinator(refusals=1_000), wanted, 0.05)


class StartingBroker:
    """A client that was told of no partitions when it asked while the broker started."""

    def __init__(self, refusals: int, code: int) -> None:
        self.asked_anew = 0
        self._refusals = refusals
        self._code = code

    def poll(self, _: float) -> None: ...

    def list_topics(self, topic: str, timeout: float) -> None:
        self.asked_anew += 1

    def get_watermark_offsets(self, partition: TopicPartition, timeout: float) -> tuple[int, int]:
        if self.asked_anew < self._refusals:
            raise KafkaException(E(self._code))
        return 3, 7


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        (E._UNKNOWN_PARTITION, BrokerRefused),
        (E.NOT_LEADER_FOR_PARTITION, BrokerUnavailable),
        (E.LEADER_NOT_AVAILABLE, BrokerUnavailable),
    ],
    ids=["unknown", "not leader", "no leader"],
)
def test_the_ends_of_a_partition_are_asked_for_anew_until_the_time_is_over(
    code: int, failure: type[BrokerError]
) -> None:
    probe = questions.Probe.__new__(questions.Probe)
    probe._timeout_s = 10.0
    probe._client = StartingBroker(2, code)
    assert probe.watermarks(interface.TopicPartition("t", 0)) == (3, 7)
    assert probe._client.asked_anew == 2
    probe._timeout_s = 0.05
    probe._client = StartingBroker(1_000, code)
    with pytest.raises(failure):
        probe.watermarks(interface.TopicPartition("t", 0))


class Message:
    def __init__(self, error: KafkaError) -> None:
        self._error = error

    def error(self) -> KafkaError:
        return self._error

    def topic(self) -> str:
        return "t"

    def partition(self) -> int:
        return 0


def test_a_passing_trouble_while_consuming_is_no_record_and_no_failure() -> None:
    assert native.record_of(Message(E(E._ALL_BROKERS_DOWN))) is None
    assert native.record_of(Message(E(E._MAX_POLL_EXCEEDED))) is None


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        (E._AUTO_OFFSET_RESET, OffsetMissing),
        (E._FATAL, Fenced),
        (E.FENCED_INSTANCE_ID, Fenced),
        (E.UNKNOWN_TOPIC_OR_PART, BrokerRefused),
        (E.GROUP_AUTHORIZATION_FAILED, BrokerRefused),
    ],
)
def test_what_does_not_pass_by_itself_while_consuming_ends_the_process(
    code: int, failure: type[BrokerError]
) -> None:
    with pytest.raises(failure):
        native.record_of(Message(E(code)))


def test_a_broker_is_not_built_on_a_client_that_partitions_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.ck, "murmur2", lambda key, partitions: 0)
    with pytest.raises(BrokerRefused, match="disagree"):
        ConfluentBroker("127.0.0.1:1")


def test_a_client_that_has_come_to_its_end_says_so_at_every_poll() -> None:
    """The native one says it once, and not at all if the record that says it is swept away by a rebalance."""
    reader = ConfluentBroker("127.0.0.1:1", ClientSettings()).reader()
    reader._log.log(40, "%s", "FAIL [client] Connect failed")
    assert reader.poll(1, 0.0) == []
    reader._log.log(50, "%s", "FATAL [client] Fatal error: Broker: Static consumer fenced")
    for _ in range(2):
        with pytest.raises(Fenced, match="Static consumer fenced"):
            reader.poll(1, 0.0)
    reader.close()
