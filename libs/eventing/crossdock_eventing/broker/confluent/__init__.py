"""The broker on Kafka, over confluent-kafka (librdkafka).

Built by each service's composition root, by deploy and by the operator tools; used through `interface`. `ConfluentBroker`
is the entrance. Everything that librdkafka would print or decide by default is set there once: isolation, assignor,
partitioner, time-outs, logs. In the shell, only this package and the registry import `confluent_kafka`.
"""

from crossdock_eventing.broker.confluent.broker import ConfluentBroker
from crossdock_eventing.broker.confluent.native import native_partition_for
from crossdock_eventing.broker.confluent.settings import ClientSettings

__all__ = ["ClientSettings", "ConfluentBroker", "native_partition_for"]
