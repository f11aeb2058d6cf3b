"""Between librdkafka and us: partitions, records and errors in our types, its log lines in our log.

Called by every other module of the package; `native_partition_for` also by composition roots.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final, NoReturn, TypeVar

import confluent_kafka as ck
import structlog

from crossdock_eventing.broker.failure import (
    AbortRequired,
    BrokerError,
    BrokerRefused,
    BrokerUnavailable,
    Fenced,
    OffsetMissing,
)
from crossdock_eventing.broker.interface import Record, TopicPartition

T = TypeVar("T")
log = structlog.get_logger(__name__)

# Error codes by the client's own names.
_FENCED: Final = frozenset(
    {
        "_FATAL",
        "_FENCED",
        "PRODUCER_FENCED",
        "INVALID_PRODUCER_EPOCH",
        "FENCED_INSTANCE_ID",
        "UNRELEASED_INSTANCE_ID",
    }
)
# The client goes on by itself after these; the caller just sees no records for a while.
_TRANSIENT: Final = frozenset(
    {
        "_ALL_BROKERS_DOWN",
        "_TRANSPORT",
        "_RESOLVE",
        "_TIMED_OUT",
        "_MAX_POLL_EXCEEDED",  # on_lost follows, then the client joins again
        "REQUEST_TIMED_OUT",
        "NETWORK_EXCEPTION",
        "LEADER_NOT_AVAILABLE",
        "NOT_LEADER_FOR_PARTITION",
        "COORDINATOR_LOAD_IN_PROGRESS",
        "COORDINATOR_NOT_AVAILABLE",
        "NOT_COORDINATOR",
        "REBALANCE_IN_PROGRESS",
        "UNSTABLE_OFFSET_COMMIT",
    }
)


def to_native(partition: TopicPartition, offset: int = ck.OFFSET_INVALID) -> ck.TopicPartition:
    return ck.TopicPartition(partition.topic, partition.partition, offset)


def from_native(native: Iterable[ck.TopicPartition]) -> list[TopicPartition]:
    return sorted(TopicPartition(partition.topic, partition.partition) for partition in native)


def record_of(message: Any) -> Record | None:
    """A message as a record; None for a passing trouble of the client, which is logged."""
    error = message.error()
    if error is None:
        headers = message.headers()
        return Record(
            message.topic(),
            message.partition(),
            message.offset(),
            message.timestamp()[1],
            message.key(),
            message.value(),
            tuple((name, value if value is not None else b"") for name, value in headers) if headers else (),
        )
    if error.name() == "_AUTO_OFFSET_RESET":
        raise OffsetMissing(error.name(), f"{message.topic()}[{message.partition()}]: {error.str()}")
    if error.name() in _TRANSIENT:
        log.warning("broker.consume_trouble", code=error.name(), reason=error.str())
        return None
    return raise_failure(error, BrokerUnavailable)


def translated(call: Callable[[], T], when_retriable: type[BrokerError]) -> T:
    """`call()`, its native failure raised as ours; one that could be retried as `when_retriable`."""
    try:
        return call()
    except ck.KafkaException as error:
        raise_failure_of(error, when_retriable)
    except TimeoutError as error:
        raise when_retriable("_TIMED_OUT", str(error)) from error


def raise_failure_of(error: ck.KafkaException, when_retriable: type[BrokerError]) -> NoReturn:
    raise_failure(error.args[0], when_retriable, error)


def raise_failure(
    error: ck.KafkaError, when_retriable: type[BrokerError], cause: Exception | None = None
) -> NoReturn:
    if error.fatal() or error.name() in _FENCED:
        failure: type[BrokerError] = Fenced
    elif error.name() == "MSG_SIZE_TOO_LARGE":
        failure = BrokerRefused  # the same records would be too large again, for ever
    elif error.txn_requires_abort():
        failure = AbortRequired
    elif error.retriable() or error.name() in _TRANSIENT or error.name() == "_CONFLICT":
        failure = when_retriable
    else:
        failure = BrokerRefused
    raise failure(error.name(), error.str()) from cause


class ClientLog:
    """Stands in for a `logging.Logger` and passes librdkafka's own lines on to structlog.

    fatal: the line that said that the client has come to its end.
    """

    def __init__(self) -> None:
        self.fatal: str | None = None

    def log(self, level: int, form: str, *args: object) -> None:
        line = form % args
        if line.startswith("FATAL "):
            self.fatal = line
        log.log(level, "broker.client", line=line)


def log_client_error(error: ck.KafkaError) -> None:
    log.warning("broker.client_error", code=error.name(), reason=error.str())


def native_partition_for(key: bytes, partitions: int) -> int:
    """`partitioner.partition_for` by the client's own code, twenty times as fast; the factory proves that
    they agree.
    """
    partition: int = ck.murmur2(key, partitions)
    return partition
