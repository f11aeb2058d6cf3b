"""Brings the gateway up and down around the HTTP application: producer, availability reader, outbound. Used by `__main__`.

The application answers from its first moment: what has not come up yet is 503 on the routes that need it, and is retried here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import structlog
from aiokafka.errors import KafkaError

from crossdock_canonical.records import (
    CancelConfirmed,
    CancelDeclined,
    CancelRequested,
    ChannelOrderReceived,
    ChannelRefundReceived,
    ChargedBack,
    FraudDecided,
    FulfillmentRejected,
    ItemMapped,
    LocationDefined,
    MatchLines,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentDeclined,
    PaymentRefunded,
    PaymentVoided,
    PickupCollected,
    PickupStaged,
    RefundFailed,
    ReturnInspected,
    ReturnReceived,
    ReturnRequested,
    SalableStock,
    SettlementDeclared,
    ShipmentConfirmed,
    ShortPicked,
    StockMovement,
    StockSnapshot,
)
from crossdock_channel_gateway.app import Gateway, create_app
from crossdock_channel_gateway.availability import AvailabilityTable
from crossdock_channel_gateway.courier import Courier, HttpCaller
from crossdock_channel_gateway.effects import OUTBOUND
from crossdock_channel_gateway.intake import Intake
from crossdock_channel_gateway.kafka import (
    KafkaDeadLetters,
    KafkaSource,
    read_availability,
)
from crossdock_channel_gateway.metrics import Metrics
from crossdock_channel_gateway.outbound import Handler, Outbound
from crossdock_channel_gateway.problem import Unavailable
from crossdock_channel_gateway.producer import LastingProducer
from crossdock_channel_gateway.publish import RETRY_AFTER_S, KafkaPublisher, Publisher
from crossdock_channel_gateway.settings import Settings
from crossdock_eventing.clock import Clock
from crossdock_eventing.codec import Codec
from crossdock_eventing.registry import ConfluentRegistry, RegistryUnavailable, SchemaSource, UnknownSchema

log = structlog.get_logger()

#: Every record that the gateway publishes.
INTAKE = (
    ChannelOrderReceived,
    ChannelRefundReceived,
    FraudDecided,
    CancelRequested,
    ItemMapped,
    LocationDefined,
    StockSnapshot,
    StockMovement,
    ShipmentConfirmed,
    ShortPicked,
    FulfillmentRejected,
    CancelConfirmed,
    CancelDeclined,
    PickupStaged,
    PickupCollected,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentDeclined,
    PaymentVoided,
    PaymentRefunded,
    RefundFailed,
    ChargedBack,
    ReturnRequested,
    ReturnReceived,
    ReturnInspected,
    MatchLines,
    SettlementDeclared,
)
_RETRY_S = 2.0


def outbound_decoder(registry: SchemaSource) -> Codec:
    """Reads what is carried out and nothing else: another type under such a header is undecodable, not a fault of ours."""
    return Codec(registry, written=(), read=OUTBOUND)


def availability_decoder(registry: SchemaSource) -> Codec:
    """Reads rows of the availability table and nothing else."""
    return Codec(registry, written=(), read=(SalableStock,))


class LatePublisher:
    """Publisher that says "come back" until the real one is there."""

    def __init__(self) -> None:
        self.ready: Publisher | None = None

    async def publish(self, intake: Intake, *, traceparent: bytes | None = None) -> tuple[str, ...]:
        if self.ready is None:
            raise Unavailable("the broker has not been reached yet", retry_after_s=RETRY_AFTER_S)
        return await self.ready.publish(intake, traceparent=traceparent)


class Runtime:
    """Everything that runs beside the routes. `failed` is set when a part ended for a reason no one anticipated."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.settings = settings
        self.failed = asyncio.Event()
        self._clock = clock
        self._publisher = LatePublisher()
        self._table = AvailabilityTable()
        self._metrics = Metrics()
        self._producer: LastingProducer | None = None
        gateway = Gateway(settings, self._publisher, self._table, clock, self._metrics)
        gateway.ready = self._missing
        self.app = create_app(gateway, self._running)

    def _missing(self) -> list[str]:
        missing = []
        if self._publisher.ready is None:
            missing.append("the broker or the schema registry has not been reached")
        if not self._table.caught_up:
            missing.append("the availability table is still being read")
        return missing

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        work = asyncio.create_task(self._work())
        work.add_done_callback(self._ended)
        try:
            yield
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            if self._producer is not None:
                await self._producer.stop()

    def _ended(self, work: asyncio.Task[None]) -> None:
        if not work.cancelled() and work.exception() is not None:
            log.error("gateway.part_failed", exc_info=work.exception())
            self.failed.set()

    async def _work(self) -> None:
        registry = ConfluentRegistry(self.settings.schema_registry_url)
        codec = await self._encoder(registry)
        self._producer = await self._connected()
        self._publisher.ready = KafkaPublisher(
            self._producer, codec, self._clock, timeout_s=self.settings.publish_timeout_s
        )
        log.info("gateway.connected")
        async with asyncio.TaskGroup() as parts:
            parts.create_task(_again(lambda: self._read_availability(registry)))
            if self.settings.outbound:
                producer = self._producer
                parts.create_task(_again(lambda: self._carry_out(registry, producer)))

    async def _encoder(self, registry: SchemaSource) -> Codec:
        """The codec with the id of every schema that is written, once the registry answers."""
        written = [(kind, kind.TOPIC) for kind in INTAKE]
        while True:
            try:
                return await asyncio.to_thread(lambda: Codec(registry, written=written, read=()))
            except (RegistryUnavailable, UnknownSchema) as error:
                log.warning("gateway.waits_for_registry", detail=str(error))
                await asyncio.sleep(_RETRY_S)

    async def _connected(self) -> LastingProducer:
        while True:
            producer = LastingProducer(
                self.settings.bootstrap_servers, timeout_s=self.settings.publish_timeout_s
            )
            try:
                await producer.start()
            except KafkaError as error:
                log.warning("gateway.waits_for_broker", error=type(error).__name__)
                await asyncio.sleep(_RETRY_S)
            else:
                return producer

    async def _read_availability(self, registry: SchemaSource) -> None:
        await read_availability(self.settings.bootstrap_servers, availability_decoder(registry), self._table)

    async def _carry_out(self, registry: SchemaSource, producer: LastingProducer) -> None:
        timeout = aiohttp.ClientTimeout(total=self.settings.call_timeout_s)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            caller = HttpCaller(
                session,
                {
                    "wms": self.settings.wms_url,
                    "psp": self.settings.psp_url,
                    "channels": self.settings.channels_url,
                },
            )
            courier = Courier(
                caller,
                self._publisher,
                self._metrics,
                backoff_initial_s=self.settings.backoff_initial_s,
                backoff_max_s=self.settings.backoff_max_s,
            )
            handler = Handler(outbound_decoder(registry), courier, KafkaDeadLetters(producer), self._metrics)
            source = KafkaSource(self.settings.bootstrap_servers, ordinal=self.settings.ordinal)
            outbound = Outbound(source, handler, self._metrics, lanes=self.settings.lanes_max)
            try:
                await source.start(outbound.revoke)
                await outbound.run()
            finally:
                await source.stop()


async def _again(part: Callable[[], Awaitable[None]]) -> None:
    """Run a part of the runtime again whenever the broker takes it down."""
    while True:
        try:
            await part()
        except KafkaError as error:
            log.warning("gateway.part_restarts", error=type(error).__name__)
            await asyncio.sleep(_RETRY_S)
