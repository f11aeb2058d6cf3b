"""Kafka for the gateway, through aiokafka: the outbound source, the dead letters, and the availability reader."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata
from aiokafka.structs import TopicPartition as KafkaPartition

from crossdock_canonical.records import SalableStock
from crossdock_channel_gateway.availability import AvailabilityTable
from crossdock_channel_gateway.outbound import SERVICE, TOPICS, Decoder
from crossdock_channel_gateway.producer import LastingProducer
from crossdock_eventing.broker.interface import Headers, Record, TopicPartition
from crossdock_eventing.codec import Undecodable
from crossdock_eventing.names import group, instance_id

log = structlog.get_logger()

_POLL_MS = 100
_POLL_RECORDS = 500
_RETRY_S = 1.0


class KafkaSource:
    """The outbound group's consumer. Created inside a running loop; `start` and `stop` bracket its use."""

    def __init__(self, bootstrap_servers: str, *, ordinal: int | None) -> None:
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap_servers,
            group_id=group(SERVICE),
            group_instance_id=None if ordinal is None else instance_id(SERVICE, ordinal),
            client_id=group(SERVICE),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )

    async def start(self, on_revoked: Callable[[Iterable[TopicPartition]], Awaitable[None]]) -> None:
        self._consumer.subscribe(topics=list(TOPICS), listener=_Listener(on_revoked))
        await self._consumer.start()

    async def stop(self) -> None:
        await self._consumer.stop()

    async def poll(self) -> Mapping[TopicPartition, Sequence[Record]]:
        found = await self._consumer.getmany(timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)
        return {
            TopicPartition(partition.topic, partition.partition): [_record(each) for each in records]
            for partition, records in found.items()
        }

    async def end_offset(self, partition: TopicPartition) -> int:
        where = KafkaPartition(*partition)
        ends = await self._consumer.end_offsets([where])
        return int(ends[where])

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit; a commit that fails is made up for by the next, or the work is looked up by the next owner."""
        try:
            await self._consumer.commit(
                {
                    KafkaPartition(*partition): OffsetAndMetadata(offset, "")
                    for partition, offset in offsets.items()
                }
            )
        except KafkaError as error:
            log.warning("outbound.commit_failed", error=type(error).__name__)

    def pause(self, partition: TopicPartition) -> None:
        self._consumer.pause(KafkaPartition(*partition))

    def resume(self, partition: TopicPartition) -> None:
        self._consumer.resume(KafkaPartition(*partition))


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, on_revoked: Callable[[Iterable[TopicPartition]], Awaitable[None]]) -> None:
        self._on_revoked = on_revoked

    async def on_partitions_revoked(self, revoked: Any) -> None:
        await self._on_revoked([TopicPartition(each.topic, each.partition) for each in revoked])

    async def on_partitions_assigned(self, assigned: Any) -> None:
        log.info("outbound.assigned", partitions=len(assigned))


def _record(found: Any) -> Record:
    return Record(
        topic=found.topic,
        partition=found.partition,
        offset=found.offset,
        timestamp_ms=found.timestamp,
        key=found.key,
        value=found.value,
        headers=tuple(found.headers),
    )


class KafkaDeadLetters:
    """Dead letters through the gateway's producer."""

    def __init__(self, producer: LastingProducer) -> None:
        self._producer = producer

    async def write(self, topic: str, record: Record, headers: Headers) -> None:
        while True:
            try:
                await self._producer.send_and_wait(topic, record.value, record.key, headers=list(headers))
            except KafkaError as error:
                log.warning("outbound.dead_letter_waits", error=type(error).__name__)
                await asyncio.sleep(_RETRY_S)
            else:
                return


async def read_availability(bootstrap_servers: str, decoder: Decoder, table: AvailabilityTable) -> None:
    """Keep the table up with its topic, from the beginning, until cancelled. Raises KafkaError when the broker goes."""
    topic = SalableStock.TOPIC
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap_servers,
        client_id=f"{group(SERVICE)}-availability",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    await consumer.start()
    try:
        partitions = [KafkaPartition(topic, number) for number in await _partitions(consumer, topic)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        while True:
            found = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)
            for records in found.values():
                for record in records:
                    _take_row(_record(record), decoder, table)
            if not table.caught_up:
                positions = [
                    await consumer.position(partition) >= ends[partition] for partition in partitions
                ]
                table.caught_up = all(positions)
    finally:
        await consumer.stop()


async def _partitions(consumer: AIOKafkaConsumer, topic: str) -> list[int]:
    while True:
        found = consumer.partitions_for_topic(topic)
        if found:
            return sorted(found)
        await consumer._client.force_metadata_update()  # noqa: SLF001 - there is no public way to wait for a topic
        await asyncio.sleep(_RETRY_S)
        consumer._client.add_topic(topic)  # noqa: SLF001


def _take_row(record: Record, decoder: Decoder, table: AvailabilityTable) -> None:
    key = (record.key or b"").decode(errors="replace")
    if record.value is None:
        table.delete(key)
        return
    try:
        _, row = decoder.decode(record.value, record.headers)
    except Undecodable as error:
        # A row that cannot be read is not answered with an older one.
        table.delete(key)
        log.error("availability.undecodable", key=key, code=error.code, detail=error.detail)
        return
    table.put(key, row)
