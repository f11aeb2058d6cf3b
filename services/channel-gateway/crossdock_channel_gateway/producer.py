"""The gateway's way into Kafka: an idempotent producer that is replaced once it can write a partition no more. Used by `runtime`.

aiokafka gives a batch its sequence number when it takes it in hand, and drops a batch that finds no leader within the time-out:
after an outage that is longer, every further batch of that partition is out of sequence, for as long as the producer lives.
A new producer starts a new sequence. What the old one may still write has the ids of the copies that its callers send again.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    KafkaError,
    OutOfOrderSequenceNumber,
    ProducerFenced,
    UnknownProducerId,
)
from aiokafka.structs import RecordMetadata

from crossdock_channel_gateway.outbound import SERVICE
from crossdock_eventing.names import group

log = structlog.get_logger()

#: Answers after which nothing more can be written to the partition under this producer's identity.
_BROKEN = (
    OutOfOrderSequenceNumber,
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    ProducerFenced,
    UnknownProducerId,
)
_RETRY_S = 1.0
_FAREWELL_S = 10.0


def idempotent_producer(bootstrap_servers: str, *, timeout_s: float) -> AIOKafkaProducer:
    """A producer whose retries never repeat or reorder a record; its partitioner is Java's murmur2."""
    return AIOKafkaProducer(
        bootstrap_servers=bootstrap_servers,
        client_id=group(SERVICE),
        acks="all",
        enable_idempotence=True,
        request_timeout_ms=int(timeout_s * 1000),
        linger_ms=2,
        compression_type=None,
    )


class LastingProducer:
    """Sends like an aiokafka producer, for as long as the gateway lives. `start` and `stop` bracket its use.

    A record that meets the broken producer fails with its KafkaError; its caller sends it again, to the next one.
    """

    def __init__(self, bootstrap_servers: str, *, timeout_s: float) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._timeout_s = timeout_s
        self._current = self._new()
        self._replacing: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Raises KafkaError when the broker does not answer; then nothing is left running."""
        try:
            await self._current.start()
        except KafkaError:
            await self._current.stop()
            raise

    async def send(
        self, topic: str, value: bytes | None = None, key: bytes | None = None, *, headers: Any = None
    ) -> asyncio.Future[RecordMetadata]:
        """A future of the broker's acknowledgement. Raises KafkaError."""
        producer = self._current
        try:
            acknowledged: asyncio.Future[RecordMetadata] = await producer.send(
                topic, value, key, headers=headers
            )
        except KafkaError as error:
            self._look_at(producer, error)
            raise
        acknowledged.add_done_callback(
            lambda answer: self._look_at(producer, None if answer.cancelled() else answer.exception())
        )
        return acknowledged

    async def send_and_wait(
        self, topic: str, value: bytes | None = None, key: bytes | None = None, *, headers: Any = None
    ) -> RecordMetadata:
        """Returns once the broker has acknowledged. Raises KafkaError."""
        return await (await self.send(topic, value, key, headers=headers))

    async def stop(self) -> None:
        """Send what is waiting, if the broker takes it soon, and stop."""
        for task in (self._replacing, *self._leaving):
            if task is not None:
                task.cancel()
        await asyncio.gather(
            *(task for task in (self._replacing, *self._leaving) if task is not None), return_exceptions=True
        )
        await _let_go(self._current)

    def _look_at(self, producer: AIOKafkaProducer, error: BaseException | None) -> None:
        # A bare KafkaError is what every send raises once the native producer's own loop has died.
        if not isinstance(error, _BROKEN) and type(error) is not KafkaError:
            return
        if producer is self._current and (self._replacing is None or self._replacing.done()):
            log.warning("producer.replaced", error=type(error).__name__)
            self._replacing = asyncio.create_task(self._replace())

    async def _replace(self) -> None:
        """Start the next producer, however long the broker is away, and let the old one go."""
        while True:
            following = self._new()
            try:
                await following.start()
            except KafkaError as error:
                log.warning("producer.waits_for_broker", error=type(error).__name__)
                await following.stop()
                await asyncio.sleep(_RETRY_S)
            except asyncio.CancelledError:
                await following.stop()
                raise
            else:
                break
        old, self._current = self._current, following
        leaving = asyncio.create_task(_let_go(old))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    def _new(self) -> AIOKafkaProducer:
        return idempotent_producer(self._bootstrap_servers, timeout_s=self._timeout_s)


async def _let_go(producer: AIOKafkaProducer) -> None:
    """Stop a producer. One that is out of sequence, or whose broker is away, would first wait for ever for what it cannot write."""
    try:
        async with asyncio.timeout(_FAREWELL_S):
            await producer.stop()
    except (TimeoutError, KafkaError) as error:
        log.warning("producer.left_behind", error=type(error).__name__)
