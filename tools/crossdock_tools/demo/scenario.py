"""What the demo sends, in which order, and what must come of it. Pure: the same run every time.

300 orders: 170 of a Shopify shop, 90 of Amazon, 40 at tills; among them every detour that the README names. Quantities are
small against stock wherever an order is not meant to wait or split, so that the number of parcels and documents does not
depend on which location wins.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from crossdock_canonical.identity import order_id
from crossdock_tools.demo.shapes import (
    SELLER,
    SHOP,
    AmazonOrder,
    Item,
    Receipt,
    ShopifyOrder,
    Wanted,
    amazon_settlement,
    shopify_payout,
)

WAREHOUSES = ("WH-NORTH", "WH-SOUTH")
STORES = ("STORE-01", "STORE-02", "STORE-03")
_STOCK = 5_000

ITEMS = tuple(
    Item(
        sku=f"SKU-{number:04d}",
        title=title,
        price=price,
        variant=44_120_000 + number,
        asin=f"B0CD{number:06d}",
        gtin=f"4006381{number:06d}",
    )
    for number, (title, price) in enumerate(
        [
            ("Rain jacket", 8_990),
            ("Wool beanie", 1_990),
            ("Deck shoe", 7_450),
            ("Canvas bag", 3_290),
            ("Thermos 0.7 l", 2_495),
            ("Head torch", 3_999),
            ("Dry sack 20 l", 1_799),
            ("Trail map", 999),
            ("Sea chart", 2_900),  # only in the north
            ("Barometer", 5_900),  # only in the south
            ("Brass lantern", 6_900),  # arrives late: back-ordered
            ("Sextant", 48_000),  # one is missing on its shelf: short pick
            ("Chronometer", 320_000),  # dear enough for a risk review
        ],
        start=1,
    )
)
PLAIN, CHART, BAROMETER, LANTERN, SEXTANT, CHRONOMETER = ITEMS[:8], *ITEMS[8:]
KIT_SKU = "KIT-WINTER"
KIT = Item(KIT_SKU, "Winter kit", 10_900, 44_129_999, "B0CDKIT001", "4006381999999")


@dataclass(frozen=True)
class Request:
    """One request to the gateway. `refused` is the status that it must be answered with when it is meant to fail."""

    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    refused: int | None = None


@dataclass(frozen=True)
class Scenario:
    """The whole script. `late` is sent once every order of `orders` has been taken in, `settlements` once they have ended."""

    master_data: tuple[Request, ...]
    orders: tuple[Request, ...]
    late: tuple[Request, ...]
    returns: tuple[Request, ...]
    settlements: tuple[Request, ...]
    distinct: int
    rejected: int
    cancelled: int
    settlement_lines: int
    returned: tuple[str, ...]
    stocked: dict[str, int]

    @property
    def requests(self) -> tuple[Request, ...]:
        return (*self.master_data, *self.orders, *self.late, *self.returns, *self.settlements)

    @property
    def refused(self) -> int:
        return sum(request.refused is not None for request in self.requests)


def build(now: datetime, secret: str) -> Scenario:
    """The script for a run that starts `now`; `secret` signs the webhooks."""
    sign = Signer(secret)
    start = now - timedelta(hours=2)
    shopify = [*_shopify_plain(start)]
    paid = [order for order in shopify if order.financial_status == "paid"]
    special = _Special(start, sign)
    amazon, amazon_pending = _amazon(start)
    receipts = [
        Receipt(
            number,
            STORES[number % 3],
            start + timedelta(seconds=number),
            [Wanted(PLAIN[number % 8], 1 + number % 2)],
        )
        for number in range(1, 41)
    ]
    orders: list[Request] = []
    for index, order in enumerate(shopify):
        create = sign.webhook("orders/create", order.body(), event=f"create-{order.number}")
        if index % 17 == 3:  # the same event twice, by two subscriptions
            orders += [
                create,
                sign.webhook("orders/create", order.body(), event=f"create-{order.number}", delivery="again"),
            ]
        elif index % 17 == 9:  # the later state first
            later = replace(order, revision=1)
            orders += [sign.webhook("orders/updated", later.body(), event=f"update-{order.number}"), create]
        else:
            orders.append(create)
    for each in amazon_pending:
        orders.append(amazon_request(replace(each, status="Pending", revision=0)))
    orders += [amazon_request(order) for order in amazon]
    orders += [amazon_request(replace(each, revision=30)) for each in amazon_pending]
    orders += [json_request("/channels/pos/sales", receipt.body()) for receipt in receipts]
    orders += special.requests
    genuine = sign.webhook("orders/create", shopify[0].body(), event="forged")
    orders.append(
        replace(genuine, headers={**genuine.headers, "X-Shopify-Hmac-Sha256": "Zm9yZ2Vk"}, refused=401)
    )
    orders.append(sign.raw("orders/create", b'{"id": 1, "line_items": [', event="malformed", refused=400))

    returned, returns = _returns(shopify, now)
    payout, payout_lines = shopify_payout(118_801, paid, now)
    report, report_lines = amazon_settlement(20_260_302_001, [*amazon, *amazon_pending], now)
    settlements = (
        json_request(f"/settlements/shopify?shop={SHOP}", payout),
        Request(
            f"/settlements/amazon?seller={SELLER}",
            report.encode(),
            {"Content-Type": "text/tab-separated-values"},
        ),
    )
    return Scenario(
        master_data=master_data_of(start),
        orders=tuple(orders),
        late=(_lanterns(now), *special.late),
        returns=returns,
        settlements=settlements,
        distinct=len(shopify) + len(special.orders) + len(amazon) + len(amazon_pending) + len(receipts),
        rejected=special.rejected,
        cancelled=special.cancelled,
        settlement_lines=payout_lines + report_lines,
        returned=returned,
        stocked=_stocked(),
    )


class Signer:
    """Signs webhooks as the shop does."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def webhook(self, topic: str, body: Any, *, event: str, delivery: str = "") -> Request:
        return self.raw(topic, json.dumps(body).encode(), event=event, delivery=delivery)

    def raw(
        self, topic: str, body: bytes, *, event: str, delivery: str = "", refused: int | None = None
    ) -> Request:
        digest = hmac.new(self._secret, body, hashlib.sha256).digest()
        headers = {
            "Content-Type": "application/json",
            "X-Shopify-Topic": topic,
            "X-Shopify-Shop-Domain": SHOP,
            "X-Shopify-Event-Id": event,
            "X-Shopify-Webhook-Id": f"{event}-{delivery or 'first'}",
            "X-Shopify-Hmac-Sha256": base64.b64encode(digest).decode(),
            "X-Shopify-API-Version": "2026-01",
        }
        return Request("/webhooks/shopify", body, headers, refused)


class _Special:
    """Orders that take a detour. They are numbered from 900."""

    def __init__(self, start: datetime, sign: Signer) -> None:
        self.orders: list[ShopifyOrder] = []
        self.requests: list[Request] = []
        self.late: list[Request] = []
        self.rejected = 0
        self.cancelled = 0
        self._start = start
        self._sign = sign
        self._splits()
        self._pickups()
        self._backorders()
        self._short_pick()
        self._kits()
        self._unpaid()
        self._reviews()
        self._cancels()

    def _splits(self) -> None:
        for _ in range(5):
            self._place([Wanted(CHART, 1), Wanted(BAROMETER, 1)])

    def _pickups(self) -> None:
        for _ in range(8):
            self._place([Wanted(PLAIN[1], 1), Wanted(PLAIN[4], 1)], pickup_location="STORE-01")

    def _backorders(self) -> None:
        for _ in range(4):
            self._place([Wanted(LANTERN, 1), Wanted(PLAIN[2], 1)])

    def _short_pick(self) -> None:
        self._place([Wanted(SEXTANT, 2)])

    def _kits(self) -> None:
        for _ in range(3):
            self._place([Wanted(KIT, 2)])

    def _unpaid(self) -> None:
        for _ in range(3):
            self._place([Wanted(PLAIN[3], 1)], financial_status="pending")
            self.rejected += 1

    def _reviews(self) -> None:
        """Dear orders: released, reduced and released, rejected, and left to the deadline."""
        released = self._place([Wanted(CHRONOMETER, 1)])
        reduced = self._place([Wanted(CHRONOMETER, 2), Wanted(PLAIN[0], 3)])
        smaller = replace(reduced, lines=[Wanted(CHRONOMETER, 1), Wanted(PLAIN[0], 1)], revision=5)
        self.requests.append(
            self._sign.webhook("orders/edited", smaller.body(), event=f"edit-{reduced.number}")
        )
        rejected = self._place([Wanted(CHRONOMETER, 1)])
        self._place([Wanted(CHRONOMETER, 1)])
        self.rejected += 2
        for order, verdict in ((released, "RELEASE"), (reduced, "RELEASE"), (rejected, "REJECT")):
            body = {
                "type": "fraud",
                "decision_id": f"risk-{order.number}",
                "verdict": verdict,
                "actor": "risk-team",
            }
            self.requests.append(json_request(f"/orders/{order_id_of(order)}/decisions", body))

    def _cancels(self) -> None:
        """Cancelled while unpaid; cancelled before it was known; cancelled while it waits for stock."""
        unpaid = self._place([Wanted(PLAIN[5], 1)], financial_status="pending")
        self._cancel(unpaid)
        early = self._order([Wanted(PLAIN[6], 1)], financial_status="pending")
        self._cancel(early)
        self._create(early)
        waiting = self._place([Wanted(LANTERN, 1)])
        self._cancel(waiting)

    def _place(self, lines: list[Wanted], **fields: Any) -> ShopifyOrder:
        order = self._order(lines, **fields)
        self._create(order)
        return order

    def _order(self, lines: list[Wanted], **fields: Any) -> ShopifyOrder:
        number = 901 + len(self.orders)
        order = ShopifyOrder(number, self._start + timedelta(seconds=number), lines, **fields)
        self.orders.append(order)
        return order

    def _create(self, order: ShopifyOrder) -> None:
        self.requests.append(
            self._sign.webhook("orders/create", order.body(), event=f"create-{order.number}")
        )

    def _cancel(self, order: ShopifyOrder) -> None:
        gone = replace(order, cancelled=True, revision=60)
        self.requests.append(
            self._sign.webhook("orders/cancelled", gone.body(), event=f"cancel-{order.number}")
        )
        self.cancelled += 1


def order_id_of(order: ShopifyOrder) -> str:
    """The id that the gateway computes for the order."""
    return order_id(channel="shopify", shop=SHOP, external_id=str(order.id))


def _shopify_plain(start: datetime) -> Iterator[ShopifyOrder]:
    """139 orders of one to three lines, half of them captured by the shop already."""
    for number in range(1, 140):
        lines = [
            Wanted(PLAIN[(number + step * 3) % 8], 1 + (number + step) % 3) for step in range(1 + number % 3)
        ]
        if number % 5 == 0:
            lines[0] = replace(lines[0], discount=333)
        status = "paid" if number % 2 else "authorized"
        yield ShopifyOrder(number, start + timedelta(seconds=number), lines, status)


def _amazon(start: datetime) -> tuple[list[AmazonOrder], list[AmazonOrder]]:
    """60 that we ship, 20 that Amazon shipped; and 10 that are pending first."""
    ours = [
        AmazonOrder(
            n, start + timedelta(seconds=n), [Wanted(PLAIN[n % 8], 1 + n % 2)], without_sku=n % 9 == 0
        )
        for n in range(1, 61)
    ]
    theirs = [
        AmazonOrder(
            n, start + timedelta(seconds=n), [Wanted(PLAIN[n % 8], 1)], status="Shipped", channel="AFN"
        )
        for n in range(61, 81)
    ]
    pending = [AmazonOrder(n, start + timedelta(seconds=n), [Wanted(PLAIN[n % 8], 1)]) for n in range(81, 91)]
    return [*ours, *theirs], pending


def amazon_request(order: AmazonOrder) -> Request:
    """The order as the marketplace says it now."""
    return json_request(f"/channels/amazon/orders?seller={SELLER}", order.body())


def _returns(orders: list[ShopifyOrder], now: datetime) -> tuple[tuple[str, ...], tuple[Request, ...]]:
    """One by post, one over the counter of a store, and one refund that the shop makes by itself."""
    by_post, in_store, by_shop = orders[1], orders[3], orders[4]
    requests = []
    for order, rma, location in ((by_post, "RMA-1", "WH-NORTH"), (in_store, "RMA-2", "STORE-02")):
        line, owner = {"line_id": str(order.line_id(0)), "units": 1}, order_id_of(order)
        at = now.isoformat()
        requests.append(
            json_request("/returns", {"rma_id": rma, "order_id": owner, "lines": [line], "requested_at": at})
        )
        received = {
            "type": "received",
            "order_id": owner,
            "receipt_id": f"{rma}-IN",
            "location": location,
            "lines": [line],
        }
        requests.append(json_request(f"/returns/{rma}/events", {**received, "received_at": at}))
        graded = {**line, "grade": "SELLABLE" if rma == "RMA-1" else "DAMAGED"}
        inspected = {
            "type": "inspected",
            "order_id": owner,
            "inspection_id": f"{rma}-QC",
            "location": location,
            "lines": [graded],
        }
        requests.append(json_request(f"/returns/{rma}/events", {**inspected, "inspected_at": at}))
    return (order_id_of(by_post), order_id_of(in_store), order_id_of(by_shop)), tuple(requests)


def shop_refund(now: datetime, secret: str) -> Request:
    """The shop's own refund of the first line of the fifth order."""
    order = list(_shopify_plain(now - timedelta(hours=2)))[4]
    return Signer(secret).webhook("refunds/create", order.refund(77_001, 0, now), event="refund-77001")


def _lanterns(now: datetime) -> Request:
    movement = {
        "sku": LANTERN.sku,
        "location": "WH-NORTH",
        "delta": 20,
        "moved_at": now.isoformat(),
        "reason": "receipt",
        "ref": "PO-4711/1",
    }
    return json_request("/feeds/stock", {"feed": "wms", "movements": [movement]})


def _stocked() -> dict[str, int]:
    """Units that the feeds ever brought, by sku."""
    stocked = {item.sku: _STOCK * 5 for item in PLAIN}
    return {**stocked, CHART.sku: 50, BAROMETER.sku: 50, LANTERN.sku: 20, SEXTANT.sku: 6, CHRONOMETER.sku: 10}


def master_data_of(start: datetime) -> tuple[Request, ...]:
    """Items, locations and first counts, which were true at `start`."""
    items = [
        row
        for item in (*ITEMS, KIT)
        for row in (
            {"scheme": "shopify_variant", "value": str(item.variant), "sku": item.sku},
            {"scheme": "amazon_asin", "value": item.asin, "sku": item.sku},
            {"scheme": "gtin", "value": item.gtin, "sku": item.sku},
            {"scheme": "sku", "value": item.sku, "sku": item.sku, "title": item.title},
        )
    ]
    parts = [
        {"sku": PLAIN[1].sku, "units": 1, "value_share": 20},
        {"sku": PLAIN[4].sku, "units": 2, "value_share": 50},
    ]
    for row in items:
        if row["sku"] == KIT_SKU:
            row["components"] = parts  # type: ignore[assignment]
    places = [
        {"location": "WH-NORTH", "kind": "WAREHOUSE", "feed": "wms", "shipping_cost_minor": 420},
        {"location": "WH-SOUTH", "kind": "WAREHOUSE", "feed": "wms", "shipping_cost_minor": 510},
        *(
            {"location": store, "kind": "STORE", "feed": "store", "pickup": True, "shipping_cost_minor": 790}
            for store in STORES
        ),
    ]
    counts = [(item.sku, place, _STOCK) for item in PLAIN for place in WAREHOUSES]
    counts += [(CHART.sku, "WH-NORTH", 50), (BAROMETER.sku, "WH-SOUTH", 50), (LANTERN.sku, "WH-NORTH", 0)]
    counts += [(SEXTANT.sku, "WH-NORTH", 3), (SEXTANT.sku, "WH-SOUTH", 3), (CHRONOMETER.sku, "WH-NORTH", 10)]
    in_stores = [(item.sku, store, _STOCK) for item in PLAIN for store in STORES]
    at = start.isoformat()

    def snapshots(rows: list[tuple[str, str, int]]) -> list[dict[str, Any]]:
        return [{"sku": sku, "location": place, "units": units, "as_of": at} for sku, place, units in rows]

    return (
        json_request("/feeds/products", {"items": items}),
        json_request("/feeds/locations", {"locations": places}),
        json_request("/feeds/stock", {"feed": "wms", "snapshots": snapshots(counts)}),
        json_request("/feeds/stock", {"feed": "store", "snapshots": snapshots(in_stores)}),
    )


def json_request(path: str, body: Any) -> Request:
    """A POST of a JSON document."""
    return Request(path, json.dumps(body).encode(), {"Content-Type": "application/json"})
