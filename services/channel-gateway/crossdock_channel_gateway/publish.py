"""Sends an intake's records to Kafka and answers once the broker has acknowledged all of them. Called by every route.

Ids are deterministic, so a caller who got 503 after a part was written sends the same again and nothing happens twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from aiokafka.structs import RecordMetadata

from crossdock_channel_gateway.intake import Intake
from crossdock_channel_gateway.problem import Refused, Unavailable
from crossdock_eventing.clock import Clock
from crossdock_eventing.envelope import Headers, Meta, headers, record_key, wrap

SOURCE = "channel-gateway"
RETRY_AFTER_S = 5
_BATCH = 500  # Records in flight for one request: bounds what waits for a slow broker.


class Producer(Protocol):
    """The part of an aiokafka producer that is used: `send` returns a future of the broker's acknowledgement."""

    async def send(
        self, topic: str, value: bytes | None = None, key: bytes | None = None, *, headers: Any = None
    ) -> Awaitable[RecordMetadata]: ...


class Encoder(Protocol):
    """The part of the shell's codec that is used."""

    def encode(self, record: Any, meta: Meta) -> bytes: ...


class Publisher(Protocol):
    """What routes and the outbound side need of it."""

    async def publish(self, intake: Intake, *, traceparent: bytes | None = None) -> tuple[str, ...]:
        """Event ids of the records, all acknowledged. Raises Unavailable, or Refused when a record is too large."""


class KafkaPublisher:
    """Publisher over an idempotent producer with acks=all.

    timeout_s: the longest that a caller waits for one batch of records. The producer itself retries for as long as it
    lives, so a record may be written after its caller was told to come back: the copies have one id.
    """

    def __init__(self, producer: Producer, encoder: Encoder, clock: Clock, *, timeout_s: float) -> None:
        self._producer = producer
        self._encoder = encoder
        self._clock = clock
        self._timeout_s = timeout_s

    async def publish(self, intake: Intake, *, traceparent: bytes | None = None) -> tuple[str, ...]:
        now = self._clock.now()
        ids: list[str] = []
        for start in range(0, len(intake.records), _BATCH):
            ids += await self._send(intake, intake.records[start : start + _BATCH], now, traceparent)
        return tuple(ids)

    async def _send(
        self, intake: Intake, records: Sequence[Any], now: datetime, traceparent: bytes | None
    ) -> list[str]:
        ready: list[tuple[str, bytes, bytes, Headers]] = []
        ids: list[str] = []
        for record in records:
            meta = wrap(
                record,
                causation_id=intake.delivery,
                correlation_id=intake.delivery,
                now=now,
                source=SOURCE,
                attributes=intake.attributes,
                occurred_at=intake.occurred_at,
            )
            ids.append(meta.event_id)
            value = self._encoder.encode(record, meta)
            ready.append(
                (record.TOPIC, value, record_key(record).encode(), headers(meta, record.SCHEMA, traceparent))
            )
        try:
            async with asyncio.timeout(self._timeout_s):
                waiting = [
                    await self._producer.send(topic, value, key, headers=list(found))
                    for topic, value, key, found in ready
                ]
                for acknowledged in waiting:
                    await acknowledged
        except MessageSizeTooLargeError:
            raise Refused(413, "The content is too large for one record") from None
        except (TimeoutError, KafkaError) as error:
            raise Unavailable(
                f"the broker did not acknowledge: {type(error).__name__}", retry_after_s=RETRY_AFTER_S
            ) from None
        return ids


def accepted(intake: Intake, event_ids: tuple[str, ...]) -> Mapping[str, Any]:
    """Body of a 202: ids to follow the delivery by. Files of many records answer with their number instead."""
    record = intake.records[0]
    thread = getattr(record, record.CORRELATION or "", None)
    answer: dict[str, Any] = {"correlation_id": thread or intake.delivery, "records": len(event_ids)}
    if hasattr(record, "order_id"):
        answer["order_id"] = record.order_id
    if len(event_ids) <= 20:
        answer["event_ids"] = list(event_ids)
    return answer
