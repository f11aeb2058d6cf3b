"""The admin on Kafka (`interface` says what each call means). Built by `broker.ConfluentBroker`."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import confluent_kafka as ck
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # re-exported without saying so
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
    TopicMetadata,
)

from crossdock_eventing.broker.confluent.native import to_native, translated
from crossdock_eventing.broker.confluent.questions import (
    METADATA_RETRY_S,
    Probe,
    answer_of_coordinator,
    committed_offsets,
)
from crossdock_eventing.broker.confluent.settings import ClientSettings
from crossdock_eventing.broker.failure import BrokerRefused, BrokerUnavailable
from crossdock_eventing.broker.interface import TopicDescription, TopicPartition, TopicSpec, Watermarks


class ConfluentAdmin:
    """`interface.Admin` on Kafka."""

    def __init__(self, conf: Mapping[str, Any], settings: ClientSettings, probe: Probe) -> None:
        self._client = AdminClient({k: v for k, v in conf.items() if k != "logger"}, logger=conf["logger"])
        self._conf = conf
        self._probe = probe
        self._timeout_s = settings.query_timeout_s

    def cluster_id(self) -> str:
        return translated(lambda: self._client.cluster_id(self._timeout_s), BrokerUnavailable)

    def topics(self) -> frozenset[str]:
        metadata = translated(lambda: self._client.list_topics(timeout=self._timeout_s), BrokerUnavailable)
        return frozenset(name for name in metadata.topics if not name.startswith("__"))

    def topic_id(self, topic: str) -> str:
        return str(self._native_description(topic).topic_id)

    def partitions(self, topic: str) -> int:
        return len(self._native_description(topic).partitions)

    def describe(self, topic: str) -> TopicDescription:
        native = self._native_description(topic)
        resource = ConfigResource(ResourceType.TOPIC, topic)
        configs = self._answer(self._client.describe_configs([resource])[resource])
        return TopicDescription(
            topic,
            str(native.topic_id),
            len(native.partitions),
            len(native.partitions[0].replicas),
            {name: entry.value for name, entry in configs.items() if entry.value is not None},
        )

    def create_topics(self, specs: Sequence[TopicSpec]) -> frozenset[str]:
        native = [
            NewTopic(
                spec.name,
                num_partitions=spec.partitions,
                replication_factor=spec.replication_factor,
                config=dict(spec.configs),
            )
            for spec in specs
        ]
        created = set()
        for name, future in (self._client.create_topics(native) if native else {}).items():
            try:
                self._answer(future)
                created.add(name)
            except BrokerRefused as error:
                if error.code != "TOPIC_ALREADY_EXISTS":
                    raise
        self._await_metadata(lambda topics: all(_writable(topics.get(spec.name)) for spec in specs))
        return frozenset(created)

    def delete_topics(self, topics: Sequence[str]) -> None:
        for future in (self._client.delete_topics(list(topics)) if topics else {}).values():
            try:
                self._answer(future)
            except BrokerRefused as error:
                if error.code != "UNKNOWN_TOPIC_OR_PART":
                    raise
        self._await_metadata(lambda known: not any(topic in known for topic in topics))

    def delete_records(self, before: Mapping[TopicPartition, int]) -> None:
        native = [to_native(partition, offset) for partition, offset in before.items()]
        for future in self._client.delete_records(native).values():
            self._answer(future)

    def watermarks(self, partition: TopicPartition) -> Watermarks:
        return self._probe.watermarks(partition)

    def group_offsets(self, group: str) -> dict[TopicPartition, int]:
        metadata = translated(lambda: self._client.list_topics(timeout=self._timeout_s), BrokerUnavailable)
        asked = [
            ck.TopicPartition(name, number)
            for name, topic in metadata.topics.items()
            if not name.startswith("__")
            for number in topic.partitions
        ]
        # The admin client's own question for them takes the process down (SIGSEGV in librdkafka 2.16) when a coordinator
        # that has just been chosen answers it; a consumer's does not.
        conf = {**self._conf, "group.id": group, "isolation.level": "read_committed"}
        consumer = ck.Consumer(conf)
        try:
            answers = committed_offsets(consumer, asked, self._timeout_s) if asked else []
        finally:
            consumer.close()
        return {
            TopicPartition(native.topic, native.partition): native.offset
            for native in answers
            if native.offset >= 0
        }

    def initialise_group(self, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        existing = self.group_offsets(group)
        missing = [to_native(partition, at) for partition, at in offsets.items() if partition not in existing]
        if not missing:
            return
        request = [ck.ConsumerGroupTopicPartitions(group, missing)]
        answer_of_coordinator(
            lambda: self._answer(self._client.alter_consumer_group_offsets(request)[group]).topic_partitions,
            self._timeout_s,
        )

    def close(self) -> None:
        del self._client

    def _native_description(self, topic: str) -> Any:
        future = self._client.describe_topics(ck.TopicCollection([topic]))[topic]
        return self._answer(future)

    def _answer(self, future: "Future[Any]") -> Any:
        self._client.poll(0)  # hands on its log lines
        return translated(lambda: future.result(self._timeout_s), BrokerUnavailable)

    def _await_metadata(self, holds: Callable[[dict[str, TopicMetadata]], bool]) -> None:
        """Creating and deleting are acknowledged before every broker knows of them; wait until they do."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            if holds(
                translated(
                    lambda: self._client.list_topics(timeout=self._timeout_s), BrokerUnavailable
                ).topics
            ):
                return
            if time.monotonic() > deadline:
                raise BrokerUnavailable("_TIMED_OUT", "topic metadata did not settle")
            time.sleep(METADATA_RETRY_S)


def _writable(topic: TopicMetadata | None) -> bool:
    return topic is not None and topic.error is None and all(p.leader >= 0 for p in topic.partitions.values())
