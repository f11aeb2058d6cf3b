"""The transactional producer on Kafka (`interface` says what each call means). Built by `broker.ConfluentBroker`."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import confluent_kafka as ck

from crossdock_eventing.broker.bounded import Bounded
from crossdock_eventing.broker.confluent.native import raise_failure_of, to_native, translated
from crossdock_eventing.broker.confluent.settings import ClientSettings
from crossdock_eventing.broker.failure import AbortRequired, BrokerUnavailable, TransactionOutcomeUnknown
from crossdock_eventing.broker.interface import GroupMetadata, Headers, OnDelivery, TopicPartition

_RETURN_GRACE_S: Final = 1.0


class ConfluentProducer:
    """`interface.Producer` on Kafka."""

    def __init__(self, conf: dict[str, Any], settings: ClientSettings) -> None:
        self._client = ck.Producer(conf)
        self._settings = settings
        self._timeout_s = settings.answer_timeout_ms / 1000
        self._bounded = Bounded("send-offsets")

    def init_transactions(self) -> None:
        deadline = time.monotonic() + self._settings.init_timeout_s
        while True:
            try:
                return translated(lambda: self._client.init_transactions(self._timeout_s), BrokerUnavailable)
            except BrokerUnavailable:
                if time.monotonic() > deadline:
                    raise

    def begin(self) -> None:
        translated(self._client.begin_transaction, TransactionOutcomeUnknown)

    def produce(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        partition: int | None = None,
        headers: Headers = (),
        timestamp_ms: int | None = None,
        on_delivery: OnDelivery | None = None,
    ) -> None:
        optional: dict[str, Any] = {}
        if partition is not None:
            optional["partition"] = partition
        if timestamp_ms is not None:
            optional["timestamp"] = timestamp_ms
        if on_delivery is not None:
            optional["on_delivery"] = _delivery(on_delivery)
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                return self._client.produce(topic, value, key, headers=list(headers), **optional)
            except BufferError as error:
                if time.monotonic() > deadline:
                    raise AbortRequired("_QUEUE_FULL", str(error)) from error
                self._client.poll(0.01)
            except ck.KafkaException as error:
                # Once the open transaction has failed, the client answers every produce with "erroneous
                # state".
                if error.args[0].name() == "_STATE":
                    raise AbortRequired("_STATE", str(error)) from error
                raise_failure_of(error, TransactionOutcomeUnknown)

    def send_offsets(self, offsets: Mapping[TopicPartition, int], group: GroupMetadata) -> None:
        native = [to_native(partition, offset) for partition, offset in offsets.items()]
        client, timeout_s = self._client, self._timeout_s

        def send() -> None:
            client.send_offsets_to_transaction(native, group, timeout_s)

        # The call does not keep its time-out by itself, and then nothing is known of it: see `bounded`.
        translated(
            lambda: self._bounded.run(send, within_s=timeout_s + _RETURN_GRACE_S), TransactionOutcomeUnknown
        )

    def commit(self) -> None:
        translated(lambda: self._client.commit_transaction(self._timeout_s), TransactionOutcomeUnknown)

    def abort(self) -> None:
        translated(lambda: self._client.abort_transaction(self._timeout_s), TransactionOutcomeUnknown)

    def poll(self) -> None:
        self._client.poll(0)

    def close(self) -> None:
        # The client's own close() would abort and flush, and so block on a broker that is away.
        self._client.purge()
        self._bounded.close()
        del self._client


def _delivery(on_delivery: OnDelivery) -> Callable[[ck.KafkaError | None, ck.Message], None]:
    def report(error: ck.KafkaError | None, message: Any) -> None:
        if error is None:  # a failed delivery fails the transaction, and so surfaces in commit
            on_delivery(TopicPartition(message.topic(), message.partition()), message.offset())

    return report
