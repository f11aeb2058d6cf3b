"""Questions that several clients put to the cluster, asked again while a leader or a coordinator is being chosen.

Called by the consumers (`consumer`) and the admin (`admin`).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import confluent_kafka as ck

from crossdock_eventing.broker.confluent.native import raise_failure, to_native, translated
from crossdock_eventing.broker.failure import BrokerError, BrokerUnavailable
from crossdock_eventing.broker.interface import TopicPartition, Watermarks

METADATA_RETRY_S: Final = 0.02

# A coordinator that has just been chosen reads its log before it answers: every client asks again.
_COORDINATOR_STARTING: Final = frozenset(
    {"COORDINATOR_LOAD_IN_PROGRESS", "COORDINATOR_NOT_AVAILABLE", "NOT_COORDINATOR"}
)
# A broker that has just started tells of no partitions for a moment, and clients believe it.
_STALE_METADATA: Final = frozenset({"NOT_LEADER_FOR_PARTITION", "LEADER_NOT_AVAILABLE", "_UNKNOWN_PARTITION"})


class Probe:
    """Asks for the ends of partitions, read uncommitted, on behalf of all clients of one factory.

    A client that reads committed would be told the last stable offset instead of the end of the log.
    """

    def __init__(self, common: Mapping[str, Any], timeout_s: float) -> None:
        self._conf = {**common, "group.id": "crossdock.probe", "isolation.level": "read_uncommitted"}
        self._client = ck.Consumer(self._conf)
        self._timeout_s = timeout_s

    def watermarks(self, partition: TopicPartition) -> Watermarks:
        try:
            return self._ask(partition)
        except BrokerUnavailable as silent:
            if silent.code in _STALE_METADATA:
                raise
            # A client that a starting broker told of no brokers knows none from then on (librdkafka issue 5301).
            self._client.close()
            self._client = ck.Consumer(self._conf)
            return self._ask(partition)

    def _ask(self, partition: TopicPartition) -> Watermarks:
        self._client.poll(0)  # hands on its log lines; it has no records
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                low, high = translated(
                    lambda: self._client.get_watermark_offsets(to_native(partition), timeout=self._timeout_s),
                    BrokerUnavailable,
                )
            except BrokerError as error:
                # What this client knows of the partition is old: it asks anew, as every client must.
                if error.code not in _STALE_METADATA or time.monotonic() > deadline:
                    raise
                translated(
                    lambda: self._client.list_topics(partition.topic, timeout=self._timeout_s),
                    BrokerUnavailable,
                )
                time.sleep(METADATA_RETRY_S)
            else:
                return Watermarks(low, high)


def committed_offsets(
    consumer: ck.Consumer, asked: Sequence[ck.TopicPartition], timeout_s: float
) -> list[ck.TopicPartition]:
    """The committed offsets of the consumer's group, once no transaction over them is open. Raises BrokerUnavailable."""
    return answer_of_coordinator(
        lambda: translated(lambda: consumer.committed(list(asked), timeout=timeout_s), BrokerUnavailable),
        timeout_s,
    )


def answer_of_coordinator(
    ask: Callable[[], list[ck.TopicPartition]], timeout_s: float
) -> list[ck.TopicPartition]:
    """The answer, partition by partition, of a group's coordinator to a question that can be asked again."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            answers = ask()
            for native in answers:
                if native.error is not None:
                    raise_failure(native.error, BrokerUnavailable)
        except BrokerUnavailable as error:
            if error.code not in _COORDINATOR_STARTING or time.monotonic() > deadline:
                raise
            time.sleep(METADATA_RETRY_S)
        else:
            return answers
