"""A gateway over a publisher that remembers, and helpers to sign and post."""

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest

from crossdock_channel_gateway.app import Gateway, create_app
from crossdock_channel_gateway.availability import AvailabilityTable
from crossdock_channel_gateway.intake import Intake
from crossdock_channel_gateway.metrics import Metrics
from crossdock_channel_gateway.problem import Unavailable
from crossdock_channel_gateway.publish import SOURCE
from crossdock_channel_gateway.settings import Settings
from crossdock_eventing.clock import ManualClock
from crossdock_eventing.envelope import event_id

START = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)


class RememberingPublisher:
    """Publisher that keeps what it was given; `fail_after` records it is away."""

    def __init__(self) -> None:
        self.intakes: list[Intake] = []
        self.away = False
        self.fail_after: int | None = None

    @property
    def records(self) -> list:
        return [record for intake in self.intakes for record in intake.records]

    async def publish(self, intake: Intake, *, traceparent: bytes | None = None) -> tuple[str, ...]:
        if self.away or (self.fail_after is not None and len(self.records) >= self.fail_after):
            raise Unavailable("the broker did not acknowledge", retry_after_s=5)
        self.intakes.append(intake)
        return tuple(
            event_id(causation_id=intake.delivery, source=SOURCE, record=record) for record in intake.records
        )


class Caller:
    """What tests talk to: the application, its publisher and its table."""

    def __init__(self, http: httpx.AsyncClient, publisher: RememberingPublisher, gateway: Gateway) -> None:
        self.http = http
        self.publisher = publisher
        self.gateway = gateway

    async def shopify(
        self,
        body: object,
        *,
        topic: str = "orders/create",
        event: str = "e-1",
        secret: str = "first",
        **headers: str,
    ) -> httpx.Response:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        signature = base64.b64encode(hmac.new(secret.encode(), raw, hashlib.sha256).digest()).decode()
        given = {
            "x-shopify-topic": topic,
            "x-shopify-shop-domain": "Harbour.example",
            "x-shopify-hmac-sha256": signature,
            "x-shopify-event-id": event,
            "x-shopify-webhook-id": "w-1",
        }
        return await self.http.post("/webhooks/shopify", content=raw, headers=given | headers)


@pytest.fixture
def gateway_settings() -> Settings:
    return Settings(shopify_secrets="first, second", body_bytes_max=64 * 1024, outbound=False)


@pytest.fixture
async def caller(gateway_settings: Settings) -> AsyncIterator[Caller]:
    publisher = RememberingPublisher()
    gateway = Gateway(gateway_settings, publisher, AvailabilityTable(), ManualClock(START), Metrics())
    transport = httpx.ASGITransport(create_app(gateway))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        yield Caller(http, publisher, gateway)
