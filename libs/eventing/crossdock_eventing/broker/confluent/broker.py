"""The entrance to the broker on Kafka: the factory of its clients, with their settings in librdkafka's own words."""

from typing import Any, Final

from crossdock_eventing.broker import partitioner
from crossdock_eventing.broker.confluent.admin import ConfluentAdmin
from crossdock_eventing.broker.confluent.consumer import ConfluentConsumer, ConfluentReader
from crossdock_eventing.broker.confluent.native import ClientLog, log_client_error, native_partition_for
from crossdock_eventing.broker.confluent.producer import ConfluentProducer
from crossdock_eventing.broker.confluent.questions import Probe
from crossdock_eventing.broker.confluent.settings import ClientSettings
from crossdock_eventing.broker.failure import BrokerRefused
from crossdock_eventing.broker.interface import RECORD_BYTES_MAX


class ConfluentBroker:
    """Factory of Kafka clients for one cluster (`interface.Broker`)."""

    def __init__(self, bootstrap_servers: str, settings: ClientSettings | None = None) -> None:
        """Raises BrokerRefused if the native client's murmur2 is not ours: records would land in wrong
        partitions.
        """
        for key, hashed in partitioner.VECTORS:
            if (
                not native_partition_for(key, 6)
                == partitioner.partition_for(key, 6)
                == (hashed & 0x7FFFFFFF) % 6
            ):
                raise BrokerRefused("PARTITIONER", f"clients disagree on the partition of {key!r}")
        self._settings = settings or ClientSettings()
        self._common: dict[str, Any] = {
            "bootstrap.servers": bootstrap_servers,
            "logger": ClientLog(),
            "error_cb": log_client_error,
            **self._settings.extra,
        }
        self._probe = Probe(self._common, self._settings.query_timeout_s)

    def consumer(self, group: str, *, instance_id: str | None) -> ConfluentConsumer:
        settings = self._settings
        conf: dict[str, Any] = {
            **self._common,
            **_FETCHING,
            "group.id": group,
            "group.protocol": settings.group_protocol,
            "max.poll.interval.ms": settings.max_poll_interval_ms,
        }
        if settings.group_protocol == "consumer":
            conf["group.remote.assignor"] = "range"
        else:
            conf["partition.assignment.strategy"] = "range"
            conf["session.timeout.ms"] = settings.session_timeout_ms
            conf["heartbeat.interval.ms"] = min(3_000, settings.session_timeout_ms // 3)
        if instance_id is not None:
            conf["group.instance.id"] = instance_id
        return ConfluentConsumer(conf, settings, self._probe)

    def reader(self) -> ConfluentReader:
        # The client insists on a group id; assign() without subscribe() never joins it.
        conf = {**self._common, **_FETCHING, "group.id": "crossdock.reader"}
        return ConfluentReader(conf, self._settings, self._probe)

    def producer(self, transactional_id: str) -> ConfluentProducer:
        answer_timeout_ms = self._settings.answer_timeout_ms
        conf: dict[str, Any] = {
            **self._common,
            "transactional.id": transactional_id,
            "transaction.timeout.ms": self._settings.transaction_timeout_ms,
            "message.timeout.ms": answer_timeout_ms,
            "socket.timeout.ms": answer_timeout_ms,
            "partitioner": "murmur2_random",
            # By default a client that lost all its connections starts over from the bootstrap servers, and a transaction under way
            # then stands still for 11 s; without, it goes on after 0.5 s. Should every address have changed, its next call times
            # out, and the producer that replaces it begins at the bootstrap servers anyway.
            "metadata.recovery.strategy": "none",
            "retry.backoff.ms": 1,
            "linger.ms": 20,  # the loop's commit flushes; lingering only fills batches
            "batch.size": 262_144,
            "message.max.bytes": RECORD_BYTES_MAX,
        }
        return ConfluentProducer(conf, self._settings)

    def admin(self) -> ConfluentAdmin:
        return ConfluentAdmin(self._common, self._settings, self._probe)


_FETCHING: Final[dict[str, Any]] = {
    "isolation.level": "read_committed",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "enable.partition.eof": False,
    "retry.backoff.ms": 1,
    # A resumed partition waits for the fetch under way: the default keeps it waiting for half a second.
    "fetch.wait.max.ms": 100,
    # Bounds what is prefetched to 16 MiB a process; the defaults allow 64 MiB.
    "queued.min.messages": 10_000,
    "queued.max.messages.kbytes": 16_384,
    # Whoever empties a full queue quickly (a restore, a long list) stands still until the client looks again: a second by default.
    "fetch.queue.backoff.ms": 10,
}
