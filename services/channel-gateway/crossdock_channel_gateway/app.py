"""The HTTP face of the gateway: one route a source, each of which reads, translates, publishes and answers 202.

Built by `__main__` with a Kafka publisher and by tests with a fake one. Every failure is problem details (RFC 9457): 4xx when
the request is wrong, 503 with Retry-After when the backbone is away. Bodies are read here, not by FastAPI, because a
signature covers raw bytes and a limit must hold before parsing.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import structlog
import swagger_ui_bundle
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from crossdock_canonical.identity import order_id
from crossdock_channel_gateway.availability import AvailabilityTable
from crossdock_channel_gateway.body import read_body, spool_body
from crossdock_channel_gateway.intake import Intake, Skipped
from crossdock_channel_gateway.metrics import Metrics
from crossdock_channel_gateway.problem import MEDIA_TYPE, FieldError, Refused, Unavailable, invalid, shown
from crossdock_channel_gateway.publish import Publisher, accepted
from crossdock_channel_gateway.reading import is_identifier, parse_json
from crossdock_channel_gateway.settings import Settings
from crossdock_channel_gateway.settlements import take
from crossdock_channel_gateway.signature import is_signed
from crossdock_channel_gateway.translate import (
    amazon,
    feeds,
    payments,
    people,
    pos,
    settlement,
    shopify,
    warehouse,
)
from crossdock_eventing.clock import Clock
from crossdock_eventing.telemetry import begin_trace

log = structlog.get_logger()

_BUSY_RETRY_AFTER_S = 1
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"description": text, "content": {MEDIA_TYPE: {}}}
    for code, text in (
        (400, "The body cannot be read"),
        (413, "The body is too large"),
        (422, "The content breaks a rule; `errors` names each field"),
        (503, "The backbone is away; come back after Retry-After"),
    )
}


class Gateway:
    """What every route shares."""

    def __init__(
        self,
        settings: Settings,
        publisher: Publisher,
        table: AvailabilityTable,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self.settings = settings
        self.publisher = publisher
        self.table = table
        self.metrics = metrics
        self.ready: Callable[[], list[str]] = list
        self._clock = clock
        self._in_flight: dict[str, int] = {}
        self.shopify_policy = shopify.Policy(
            locations=settings.shopify_locations, till_feed_shops=settings.till_feed_shops()
        )

    async def handle(self, source: str, work: Callable[[], Awaitable[Response]]) -> Response:
        """Run one delivery within its source's share of the gateway, and count how it ended."""
        busy = self._in_flight.get(source, 0)
        if busy >= self.settings.in_flight_max:
            self.metrics.deliveries.labels(source, "unavailable").inc()
            raise Unavailable(f"{busy} requests of {source} are in work", retry_after_s=_BUSY_RETRY_AFTER_S)
        self._in_flight[source] = busy + 1
        started = self._clock.monotonic_s()
        outcome = "failed"
        try:
            response = await work()
            outcome = "ignored" if response.headers.get("x-crossdock-outcome") == "ignored" else "accepted"
        except Refused:
            outcome = "refused"
            raise
        except Unavailable:
            outcome = "unavailable"
            raise
        else:
            self.metrics.acknowledged.labels(source).observe(self._clock.monotonic_s() - started)
            return response
        finally:
            self._in_flight[source] -= 1
            self.metrics.deliveries.labels(source, outcome).inc()

    async def send(self, intake: Intake | Skipped, request: Request) -> Response:
        """Publish and answer 202 once the broker has acknowledged everything."""
        if isinstance(intake, Skipped):
            answer = {"status": "ignored", "reason": intake.reason}
            return JSONResponse(answer, 202, headers={"x-crossdock-outcome": "ignored"})
        with traced(request, intake.delivery) as traceparent:
            event_ids = await self.publisher.publish(intake, traceparent=traceparent)
        for record in intake.records:
            self.metrics.records.labels(record.SCHEMA).inc()
        return JSONResponse(dict(accepted(intake, event_ids)), 202)


@contextmanager
def traced(request: Request, delivery: str) -> Iterator[bytes]:
    """The trace context of one delivery: the caller's, or one of its own. The block is its span."""
    given = request.headers.get("traceparent", "")
    parent = given.encode() if len(given) == 55 and given.isascii() else None
    trace = begin_trace(f"{request.method} {request.url.path}", seed=delivery, parent=parent)
    try:
        yield trace.traceparent
    finally:
        trace.end()


def create_app(
    gateway: Gateway, lifespan: Callable[[], AbstractAsyncContextManager[None]] | None = None
) -> FastAPI:
    """The application. `lifespan` starts and stops what runs beside the routes."""

    @asynccontextmanager
    async def run(_app: FastAPI) -> AsyncIterator[None]:
        if lifespan is None:
            yield
            return
        async with lifespan():
            yield

    app = FastAPI(
        title="Crossdock channel gateway",
        description="Where channels, stores, warehouses and the payment provider hand over what happened.",
        version="1",
        docs_url=None,
        redoc_url=None,
        lifespan=run,
    )
    _add_failures(app)
    _add_channels(app, gateway)
    _add_feeds(app, gateway)
    _add_operations(app, gateway)
    _add_settlements(app, gateway)
    _add_queries(app, gateway)
    _add_pages(app, gateway)
    _add_schemas(app)
    return app


# -------------------------------------------------------------------------------------------------------- failures


def problem(
    status: int,
    title: str,
    *,
    detail: str = "",
    errors: tuple[FieldError, ...] = (),
    retry_after_s: int | None = None,
) -> Response:
    """Problem details of one failure."""
    body: dict[str, Any] = {"type": "about:blank", "title": title, "status": status}
    if detail:
        body["detail"] = shown(detail)
    if errors:
        body["errors"] = [{"field": each.field, "rule": each.rule, "value": each.value} for each in errors]
    headers = {} if retry_after_s is None else {"retry-after": str(retry_after_s)}
    return JSONResponse(body, status, headers=headers, media_type=MEDIA_TYPE)


def _add_failures(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def _refused(_request: Request, error: Refused) -> Response:
        return problem(error.status, error.title, detail=error.detail, errors=error.errors)

    @app.exception_handler(Unavailable)
    async def _unavailable(_request: Request, error: Unavailable) -> Response:
        title = "The backbone is away"
        return problem(503, title, detail=error.detail, retry_after_s=error.retry_after_s)

    @app.exception_handler(RequestValidationError)
    async def _parameters(_request: Request, error: RequestValidationError) -> Response:
        errors = tuple(
            FieldError(".".join(str(part) for part in each["loc"][1:]), each["msg"], shown(each.get("input")))
            for each in error.errors()
        )
        return problem(422, "A parameter breaks a rule", errors=errors)

    @app.exception_handler(HTTPException)
    async def _http(_request: Request, error: HTTPException) -> Response:
        response = problem(error.status_code, str(error.detail))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def _unforeseen(_request: Request, error: Exception) -> Response:
        log.error("gateway.failed", exc_info=error)
        return problem(500, "The gateway failed; the fault is recorded")


# --------------------------------------------------------------------------------------------------------- intake


_MODELS: tuple[type[BaseModel], ...] = (
    pos.Sale,
    warehouse.WarehouseEvent,
    payments.PaymentEvent,
    people.Decision,
    people.ReturnRequest,
    people.ReturnEvent,
    feeds.ProductFile,
    feeds.LocationFile,
    feeds.StockFile,
)
_REFERENCES, _DEFINITIONS = models_json_schema(
    [(model, "validation") for model in _MODELS], ref_template="#/components/schemas/{model}"
)


def _described(model: type[BaseModel] | None, summary: str) -> dict[str, Any]:
    """OpenAPI of a body that the route reads by itself."""
    schema: dict[str, Any] = {"type": "object"} if model is None else dict(_REFERENCES[(model, "validation")])
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": True, "description": summary, "content": content}}


def _add_schemas(app: FastAPI) -> None:
    """Put the formats that routes read by themselves into the OpenAPI document."""
    build = app.openapi

    def openapi() -> dict[str, Any]:
        document = build()
        components = document.setdefault("components", {}).setdefault("schemas", {})
        components.update(_DEFINITIONS.get("$defs", {}))
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _add_channels(app: FastAPI, gateway: Gateway) -> None:
    settings = gateway.settings
    secrets = settings.secrets()

    @app.post(
        "/webhooks/shopify",
        status_code=202,
        tags=["channels"],
        responses={
            401: {"description": "The signature is not ours", "content": {MEDIA_TYPE: {}}},
            **_PROBLEMS,
        },
        openapi_extra=_described(None, "The webhook's bare order or refund; X-Shopify-Topic says which."),
    )
    async def shopify_webhook(request: Request) -> Response:
        """A webhook of a Shopify shop: orders and refunds. Other topics are accepted and ignored."""

        async def work() -> Response:
            body = await read_body(request, settings.body_bytes_max)
            if not is_signed(body, request.headers.get("x-shopify-hmac-sha256", ""), secrets):
                raise Refused(401, "The signature is not ours")
            topic = request.headers.get("x-shopify-topic", "")
            if topic not in shopify.ORDER_TOPICS and topic != shopify.REFUND_TOPIC:
                return await gateway.send(Skipped(f"topic {shown(topic)} is not used"), request)
            shop = _header(request, "x-shopify-shop-domain").lower()
            # Two subscriptions deliver one event twice: the event is the identity, not the delivery.
            event = request.headers.get("x-shopify-event-id") or request.headers.get("x-shopify-webhook-id")
            event = _identifier(event or hashlib.sha256(body).hexdigest(), "X-Shopify-Event-Id")
            intake = shopify.translate(
                parse_json(body), topic=topic, shop=shop, event=event, policy=gateway.shopify_policy
            )
            return await gateway.send(intake, request)

        return await gateway.handle("shopify", work)

    @app.post(
        "/channels/amazon/orders",
        status_code=202,
        tags=["channels"],
        responses=_PROBLEMS,
        openapi_extra=_described(
            None,
            "`{order, items}` as getOrder and getOrderItems (Orders API v0) answered, `payload` kept or not.",
        ),
    )
    async def amazon_order(request: Request) -> Response:
        """One Amazon order with all its items. Seller account: query `seller`, else header X-Amazon-Seller."""

        async def work() -> Response:
            body = await read_body(request, settings.body_bytes_max)
            seller = _seller(request, settings)
            notification = request.query_params.get("notification_id", "")
            if notification:
                _identifier(notification, "notification_id")
            return await gateway.send(
                amazon.translate(parse_json(body), seller=seller, notification=notification), request
            )

        return await gateway.handle("amazon", work)

    _add_json(
        app, gateway, "/channels/pos/sales", "pos", pos.Sale, pos.translate, "A finished sale at a till."
    )


def _add_json(
    app: FastAPI,
    gateway: Gateway,
    path: str,
    source: str,
    model: type[BaseModel],
    translate: Callable[..., Intake],
    summary: str,
) -> None:
    """A route whose body is one of our own JSON formats; path parameters go to the translator by order."""

    async def route(request: Request) -> Response:
        async def work() -> Response:
            body = await read_body(request, gateway.settings.body_bytes_max)
            return await gateway.send(translate(*request.path_params.values(), parse_json(body)), request)

        return await gateway.handle(source, work)

    parameters = [
        {"name": part[1:-1].split(":")[0], "in": "path", "required": True, "schema": {"type": "string"}}
        for part in path.split("/")
        if part.startswith("{")
    ]
    extra = _described(model, summary) | ({"parameters": parameters} if parameters else {})
    app.add_api_route(
        path,
        route,
        methods=["POST"],
        status_code=202,
        tags=[source],
        summary=summary,
        responses=_PROBLEMS,
        openapi_extra=extra,
        name=f"{source}{path}",
    )


def _add_operations(app: FastAPI, gateway: Gateway) -> None:
    add = partial(_add_json, app, gateway)
    add(
        "/warehouse/events",
        "warehouse",
        warehouse.WarehouseEvent,
        warehouse.translate,
        "One report of a warehouse, 3PL or store about a fulfilment order.",
    )
    add(
        "/payments/events",
        "payments",
        payments.PaymentEvent,
        payments.translate,
        "One report of the payment provider.",
    )
    add(
        "/orders/{order_id}/decisions",
        "decisions",
        people.Decision,
        people.decision,
        "Outcome of a risk review, or a wish to cancel.",
    )
    add("/returns", "returns", people.ReturnRequest, people.return_request, "A wish to return goods.")
    add(
        "/returns/{rma_id:path}/events",
        "returns",
        people.ReturnEvent,
        people.return_event,
        "Goods of a return arrived or were inspected.",
    )


def _add_feeds(app: FastAPI, gateway: Gateway) -> None:
    def add(
        path: str, model: type[BaseModel], read: Callable[..., Intake], summary: str, columns: str
    ) -> None:
        async def route(request: Request) -> Response:
            async def work() -> Response:
                body = await read_body(request, gateway.settings.feed_bytes_max)
                kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
                digest = hashlib.sha256(body).hexdigest()
                # A file may be long: it is read beside the loop, so that webhooks do not wait for it.
                intake = await run_in_threadpool(read, request, body, kind, digest)
                return await gateway.send(intake, request)

            return await gateway.handle("feeds", work)

        extra = _described(model, f"{summary} One bad row refuses the whole file.")
        csv_body = {"schema": {"type": "string", "description": f"Columns by name: {columns}"}}
        extra["requestBody"]["content"]["text/csv"] = csv_body
        app.add_api_route(
            path,
            route,
            methods=["POST"],
            status_code=202,
            tags=["feeds"],
            summary=summary,
            responses=_PROBLEMS,
            openapi_extra=extra,
            name=f"feeds{path}",
        )

    add(
        "/feeds/products",
        feeds.ProductFile,
        lambda _request, body, kind, digest: feeds.products(body, kind, sha256=digest),
        "Items, kits and cross-references.",
        "scheme, value, sku, uom, units_per, components, title",
    )
    add(
        "/feeds/locations",
        feeds.LocationFile,
        lambda _request, body, kind, digest: feeds.locations(body, kind, sha256=digest),
        "Stock locations.",
        "location, kind, feed, ships, pickup, shipping_cost_minor, safety_stock",
    )
    add(
        "/feeds/stock",
        feeds.StockFile,
        lambda request, body, kind, digest: feeds.stock(
            body, kind, feed=request.query_params.get("feed", ""), sha256=digest
        ),
        "Counts and movements of one feed (in CSV: query parameter `feed`).",
        "sku, location, bucket, units + as_of or delta + moved_at, sequence, basis, reason, ref",
    )


def _add_settlements(app: FastAPI, gateway: Gateway) -> None:
    settings = gateway.settings

    def add(channel: str, media: str, summary: str, account: str, described: str) -> None:
        async def route(request: Request) -> Response:
            async def work() -> Response:
                shop = _seller(request, settings) if channel == "amazon" else _shop(request, settings)
                spooled = await spool_body(request, settings.settlement_bytes_max)
                reader = (
                    partial(settlement.amazon, spooled.file, default_marketplace=settings.amazon_marketplace)
                    if channel == "amazon"
                    else partial(settlement.shopify, spooled.file)
                )
                delivery = f"settlement/{channel}/{shop}/{spooled.sha256}"
                with spooled.file, traced(request, delivery) as traceparent:
                    answer = await take(
                        spooled,
                        channel=channel,
                        shop=shop,
                        read=reader,
                        publisher=gateway.publisher,
                        traceparent=traceparent,
                    )
                return JSONResponse(answer, 202)

            return await gateway.handle("settlements", work)

        app.add_api_route(
            f"/settlements/{channel}",
            route,
            methods=["POST"],
            status_code=202,
            tags=["settlements"],
            summary=summary,
            responses=_PROBLEMS,
            openapi_extra={
                "parameters": [
                    {
                        "name": account,
                        "in": "query",
                        "required": False,
                        "description": described,
                        "schema": {"type": "string"},
                    }
                ],
                "requestBody": {"required": True, "content": {media: {"schema": {"type": "string"}}}},
            },
            name=f"settlements/{channel}",
        )

    add(
        "amazon",
        "text/tab-separated-values",
        "Settlement report V2 (flat file).",
        "seller",
        "Seller account; else header X-Amazon-Seller, else the setting CROSSDOCK_GATEWAY_AMAZON_SELLER.",
    )
    add(
        "shopify",
        "application/json",
        "`{payout, transactions}` of Shopify Payments.",
        "shop",
        "Shop domain, as the shop's webhooks name it; else header X-Shopify-Shop-Domain, else the setting "
        "CROSSDOCK_GATEWAY_SHOPIFY_SHOP.",
    )


def _seller(request: Request, settings: Settings) -> str:
    given = (
        request.query_params.get("seller") or request.headers.get("x-amazon-seller") or settings.amazon_seller
    )
    return _identifier(given, "seller")


def _shop(request: Request, settings: Settings) -> str:
    given = (
        request.query_params.get("shop")
        or request.headers.get("x-shopify-shop-domain")
        or settings.shopify_shop
    )
    return _identifier(given.lower(), "shop")


def _header(request: Request, name: str) -> str:
    return _identifier(request.headers.get(name, ""), name)


def _identifier(given: str, name: str) -> str:
    if not is_identifier(given):
        raise invalid(
            [FieldError(name, "must be an identifier of 1 to 200 printable characters", shown(given))]
        )
    return given


# --------------------------------------------------------------------------------------------------------- queries


def _add_queries(app: FastAPI, gateway: Gateway) -> None:
    @app.get(
        "/availability",
        tags=["queries"],
        responses={404: {"description": "Unknown sku"}, 503: _PROBLEMS[503]},
    )
    async def availability(sku: str, channel: str) -> Response:
        """What a channel may sell of a sku now: units, the version of the sku's books, and since when."""
        row = gateway.table.find(sku, channel)
        if row is not None:
            return JSONResponse(
                {
                    "sku": row.sku,
                    "channel": row.channel,
                    "units": row.units,
                    "version": row.version,
                    "as_of": row.as_of.isoformat(),
                }
            )
        if not gateway.table.caught_up:
            raise Unavailable("the availability table is still being read", retry_after_s=_BUSY_RETRY_AFTER_S)
        what = "channel" if gateway.table.knows(sku) else "sku"
        value = channel if what == "channel" else sku
        raise Refused(404, f"Unknown {what}", [FieldError(what, "has no availability", shown(value))])

    @app.get("/orders/id", tags=["queries"])
    async def order_identity(channel: str, shop: str, external_id: str, marketplace: str = "") -> Response:
        """The id under which the backbone knows a channel's order. For a till: `<register>/<business date>/<receipt>`."""
        for name, given in (("channel", channel), ("shop", shop), ("external_id", external_id)):
            _identifier(given, name)
        if marketplace:
            _identifier(marketplace, "marketplace")
        found = order_id(channel=channel, shop=shop, marketplace=marketplace, external_id=external_id)
        return JSONResponse({"order_id": found})


def _add_pages(app: FastAPI, gateway: Gateway) -> None:
    app.mount(
        "/docs/assets", StaticFiles(directory=str(swagger_ui_bundle.swagger_ui_path)), name="docs-assets"
    )

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=app.title,
            swagger_js_url="/docs/assets/swagger-ui-bundle.js",
            swagger_css_url="/docs/assets/swagger-ui.css",
            swagger_favicon_url="/docs/assets/favicon-32x32.png",
        )

    @app.get("/livez", tags=["health"])
    async def livez() -> Response:
        """The process answers."""
        return JSONResponse({"status": "alive"})

    @app.get("/readyz", tags=["health"], responses={503: _PROBLEMS[503]})
    async def readyz() -> Response:
        """The broker has been reached and the availability table is complete. An outage later is 503 on the routes."""
        missing = gateway.ready()
        return (
            problem(503, "Not ready", detail=", ".join(missing))
            if missing
            else JSONResponse({"status": "ready"})
        )

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        gateway.metrics.availability.set(len(gateway.table))
        return Response(generate_latest(gateway.metrics.registry), media_type=CONTENT_TYPE_LATEST)
