"""What channels, stores and customers say during a chaos run: an endless row of small stories, drawn from a seed. Pure.

A story is one order, or one file, with what follows it: duplicates, later states before earlier ones, cancels, decisions,
returns, refunds. `sending` tells them; nothing here knows whether anybody listens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import count
from random import Random
from typing import Any

from crossdock_tools.demo.scenario import (
    BAROMETER,
    CHART,
    CHRONOMETER,
    KIT,
    LANTERN,
    PLAIN,
    STORES,
    Request,
    Signer,
    amazon_request,
    json_request,
    master_data_of,
    order_id_of,
)
from crossdock_tools.demo.shapes import (
    SELLER,
    SHOP,
    AmazonOrder,
    Receipt,
    ShopifyOrder,
    Wanted,
    amazon_settlement,
    shopify_payout,
)

#: Orders of one payout or settlement report.
_SETTLED_TOGETHER = 40
_LANTERNS_A_DELIVERY = 15


@dataclass(frozen=True, slots=True)
class Step:
    """A request, and how long after the one before was answered it is sent."""

    after_s: float
    request: Request


@dataclass(frozen=True, slots=True)
class Story:
    """Requests in their order. `order` says whether a new order begins here."""

    label: str
    steps: tuple[Step, ...]
    order: bool = True


def opening(start: datetime) -> tuple[Request, ...]:
    """Items, locations and stock, before anything else."""
    rows = [
        {"sku": item.sku, "location": place, "delta": 20_000, "ref": f"PO-1/{item.sku}/{place}"}
        for item, place in (
            (CHART, "WH-NORTH"),
            (BAROMETER, "WH-SOUTH"),
            (CHRONOMETER, "WH-NORTH"),
            *((item, "WH-NORTH") for item in PLAIN),
        )
    ]
    at = (start + timedelta(minutes=1)).isoformat()  # after the counts, which contain what came before
    moved = [{**row, "moved_at": at, "reason": "receipt"} for row in rows]
    return (*master_data_of(start), json_request("/feeds/stock", {"feed": "wms", "movements": moved}))


def closing(now: datetime) -> Request:
    """Lanterns for everybody who still waits for one."""
    return _lanterns("PO-LAST", 20_000, now)


def stories(seed: int, secret: str, start: datetime) -> Iterator[Story]:
    """For ever: ids depend on the seed, contents on the seed and on `start`, which the orders were placed at."""
    random = Random(seed)  # noqa: S311 - a script, not a secret
    writer = _Writer(random, Signer(secret), start, first=1 + seed % 90 * 10_000)
    kinds = {
        writer.shopify: 40,
        writer.shopify_shuffled: 8,
        writer.split: 4,
        writer.pickup: 4,
        writer.kit: 3,
        writer.backorder: 4,
        writer.unpaid: 2,
        writer.cancelled: 4,
        writer.reviewed: 3,
        writer.returned: 5,
        writer.refunded_by_shop: 2,
        writer.amazon: 14,
        writer.amazon_pending: 5,
        writer.till: 10,
    }
    while True:
        yield random.choices(list(kinds), list(kinds.values()))[0]()
        yield from writer.files()


class _Writer:
    """Writes one story after the other."""

    def __init__(self, random: Random, sign: Signer, start: datetime, *, first: int) -> None:
        self._random = random
        self._sign = sign
        self._start = start
        self._numbers = count(first)
        self._files = count(first)
        self._paid: list[ShopifyOrder] = []
        self._amazon: list[AmazonOrder] = []
        self._waiting = 0

    def shopify(self) -> Story:
        order = self._plain()
        create = self._hook("orders/create", order, order.body())
        steps = [Step(0.0, create)]
        if (
            self._random.random() < 0.15
        ):  # the shop repeats a webhook, by another subscription or after a time-out
            steps.append(Step(self._random.choice((0.0, 3.0)), self._again(create)))
        return Story("shopify order", tuple(steps))

    def shopify_shuffled(self) -> Story:
        """The later state first, then the earlier one."""
        order = self._plain()
        later = self._hook("orders/updated", order, replace(order, revision=1).body())
        return Story(
            "shopify order, later state first",
            (Step(0.0, later), Step(0.2, self._hook("orders/create", order, order.body()))),
        )

    def split(self) -> Story:
        return self._ordered("order that ships from two places", [Wanted(CHART, 1), Wanted(BAROMETER, 1)])

    def pickup(self) -> Story:
        lines = [Wanted(PLAIN[1], 1), Wanted(PLAIN[4], 1)]
        return self._ordered("order to be picked up", lines, pickup_location=self._random.choice(STORES))

    def kit(self) -> Story:
        return self._ordered("order of a kit", [Wanted(KIT, self._random.randint(1, 2))])

    def backorder(self) -> Story:
        self._waiting += 1
        return self._ordered("back-order", [Wanted(LANTERN, 1), Wanted(PLAIN[2], 1)])

    def unpaid(self) -> Story:
        return self._ordered("order never paid", [Wanted(PLAIN[3], 1)], financial_status="pending")

    def cancelled(self) -> Story:
        """Cancelled at once, soon, or when it may have left the house."""
        order = self._plain()
        gone = replace(order, cancelled=True, revision=60)
        wait_s = self._random.choice((0.0, 0.5, 4.0, 12.0))
        return Story(
            "order cancelled",
            (
                Step(0.0, self._hook("orders/create", order, order.body())),
                Step(wait_s, self._hook("orders/cancelled", order, gone.body())),
            ),
        )

    def reviewed(self) -> Story:
        """Dear enough for a risk review; the verdict comes, or the deadline does."""
        order = self._order([Wanted(CHRONOMETER, 1)])
        steps = [Step(0.0, self._hook("orders/create", order, order.body()))]
        verdict = self._random.choice(("RELEASE", "RELEASE", "REJECT", None))
        if verdict is not None:
            body = {
                "type": "fraud",
                "decision_id": f"risk-{order.number}",
                "verdict": verdict,
                "actor": "risk-team",
            }
            steps.append(Step(2.0, json_request(f"/orders/{order_id_of(order)}/decisions", body)))
        return Story("order under review", tuple(steps))

    def returned(self) -> Story:
        """One line comes back, by post or over a counter."""
        order = self._plain()
        owner, rma = order_id_of(order), f"RMA-{order.number}"
        line = {"line_id": str(order.line_id(0)), "units": 1}
        at = (self._start + timedelta(hours=2)).isoformat()
        place = self._random.choice(("WH-NORTH", "STORE-02"))
        received = {"type": "received", "order_id": owner, "receipt_id": f"{rma}-IN", "location": place}
        graded = {**line, "grade": self._random.choice(("SELLABLE", "DAMAGED"))}
        inspected = {
            "type": "inspected",
            "order_id": owner,
            "inspection_id": f"{rma}-QC",
            "location": place,
            "lines": [graded],
            "inspected_at": at,
        }
        asked = {"rma_id": rma, "order_id": owner, "lines": [line], "requested_at": at}
        events = f"/returns/{rma}/events"
        return Story(
            "order with a return",
            (
                Step(0.0, self._hook("orders/create", order, order.body())),
                Step(self._random.uniform(20.0, 40.0), json_request("/returns", asked)),
                Step(1.0, json_request(events, {**received, "lines": [line], "received_at": at})),
                Step(1.0, json_request(events, inspected)),
            ),
        )

    def refunded_by_shop(self) -> Story:
        """Only of money that the shop itself has captured: of anything else it could not."""
        order = self._plain("paid")
        refund = order.refund(700_000 + order.number, 0, self._start + timedelta(hours=2))
        return Story(
            "order that the shop refunds in part",
            (
                Step(0.0, self._hook("orders/create", order, order.body())),
                Step(
                    self._random.uniform(20.0, 40.0),
                    self._sign.webhook("refunds/create", refund, event=f"refund-{order.number}"),
                ),
            ),
        )

    def amazon(self) -> Story:
        """Ours to ship, or one that the marketplace shipped."""
        order = self._marketplace(self._random.random() < 0.25)
        return Story("amazon order", (Step(0.0, amazon_request(order)),))

    def amazon_pending(self) -> Story:
        """Without amounts at first."""
        order = self._marketplace(False)
        return Story(
            "amazon order, pending first",
            (
                Step(0.0, amazon_request(replace(order, status="Pending", revision=0))),
                Step(self._random.uniform(0.0, 6.0), amazon_request(replace(order, revision=30))),
            ),
        )

    def till(self) -> Story:
        number = next(self._numbers)
        lines = [Wanted(self._random.choice(PLAIN), self._random.randint(1, 2))]
        receipt = Receipt(number, self._random.choice(STORES), self._placed(), lines)
        return Story("sale at a till", (Step(0.0, json_request("/channels/pos/sales", receipt.body())),))

    def files(self) -> Iterator[Story]:
        """Deliveries, payouts and settlement reports, whenever enough has come together."""
        at = self._start + timedelta(hours=2)
        if self._waiting >= _LANTERNS_A_DELIVERY:
            delivered, self._waiting = _lanterns(f"PO-{next(self._files)}", self._waiting, at), 0
            yield Story("delivery", (Step(5.0, delivered),), order=False)
        if len(self._paid) >= _SETTLED_TOGETHER:
            payout, _ = shopify_payout(100_000_000 + next(self._files), self._paid, at)
            self._paid = []
            request = json_request(f"/settlements/shopify?shop={SHOP}", payout)
            yield Story("shopify payout", (Step(15.0, request),), order=False)
        if len(self._amazon) >= _SETTLED_TOGETHER:
            report, _ = amazon_settlement(20_000_000_000 + next(self._files), self._amazon, at)
            self._amazon = []
            kind = {"Content-Type": "text/tab-separated-values"}
            request = Request(f"/settlements/amazon?seller={SELLER}", report.encode(), kind)
            yield Story("amazon settlement", (Step(15.0, request),), order=False)

    def _plain(self, status: str | None = None) -> ShopifyOrder:
        """One to three lines of what is always there; if not said otherwise, half of them are captured by the shop already."""
        lines = [
            Wanted(item, self._random.randint(1, 3))
            for item in self._random.sample(PLAIN, self._random.randint(1, 3))
        ]
        if self._random.random() < 0.2:
            lines[0] = replace(lines[0], discount=333)
        order = self._order(lines, financial_status=status or self._random.choice(("paid", "authorized")))
        if order.financial_status == "paid":
            self._paid.append(order)
        return order

    def _ordered(self, label: str, lines: list[Wanted], **fields: Any) -> Story:
        order = self._order(lines, **fields)
        return Story(label, (Step(0.0, self._hook("orders/create", order, order.body())),))

    def _order(self, lines: list[Wanted], **fields: Any) -> ShopifyOrder:
        return ShopifyOrder(next(self._numbers), self._placed(), lines, **fields)

    def _marketplace(self, shipped: bool) -> AmazonOrder:
        lines = [Wanted(self._random.choice(PLAIN), self._random.randint(1, 2))]
        order = AmazonOrder(next(self._numbers), self._placed(), lines)
        if shipped:
            order = replace(order, status="Shipped", channel="AFN")
        self._amazon.append(order)
        return order

    def _placed(self) -> datetime:
        return self._start + timedelta(milliseconds=self._random.randrange(3_600_000))

    def _hook(self, topic: str, order: ShopifyOrder, body: dict[str, Any]) -> Request:
        return self._sign.webhook(topic, body, event=f"{topic}-{order.number}")

    def _again(self, request: Request) -> Request:
        delivery = hashlib.sha256(request.body).hexdigest()[:12]
        return replace(request, headers={**request.headers, "X-Shopify-Webhook-Id": delivery})


def _lanterns(ref: str, units: int, at: datetime) -> Request:
    movement = {
        "sku": LANTERN.sku,
        "location": "WH-NORTH",
        "delta": units,
        "moved_at": at.isoformat(),
        "reason": "receipt",
        "ref": f"{ref}/1",
    }
    return json_request("/feeds/stock", {"feed": "wms", "movements": [movement]})
