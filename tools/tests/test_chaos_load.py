"""The load of a chaos run: what is said, to whom it belongs, and that the gateway's own translation takes it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import islice

from crossdock_tools.chaos.load import Story, opening, stories

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def some(seed: int, count: int = 600) -> list[Story]:
    return list(islice(stories(seed, "secret", START), count))


def test_a_seed_tells_the_same_and_another_seed_speaks_of_other_orders() -> None:
    assert some(4) == some(4)
    mine, others = ({_order_ids(story) for story in some(seed) if story.order} for seed in (4, 5))
    assert not mine & others


def test_every_order_is_another_order() -> None:
    orders = [_order_ids(story) for story in some(4) if story.order]
    assert len(set(orders)) == len(orders)


def test_everything_happens_and_files_come_when_there_is_enough_to_settle() -> None:
    told = some(4)
    assert {story.label for story in told} >= {
        "shopify order",
        "shopify order, later state first",
        "order that ships from two places",
        "order to be picked up",
        "order of a kit",
        "back-order",
        "order never paid",
        "order cancelled",
        "order under review",
        "order with a return",
        "order that the shop refunds in part",
        "amazon order",
        "amazon order, pending first",
        "sale at a till",
        "delivery",
        "shopify payout",
        "amazon settlement",
    }
    (paths,) = {
        len({step.request.path for step in story.steps}) for story in told if story.label == "shopify payout"
    }
    assert paths == 1


def test_a_refund_by_the_shop_is_of_money_that_the_shop_has() -> None:
    refunded = [story for story in some(4) if story.label == "order that the shop refunds in part"]
    assert refunded
    for story in refunded:
        assert json.loads(story.steps[0].request.body)["financial_status"] == "paid"


def test_stock_is_there_before_anybody_orders() -> None:
    assert {request.path for request in opening(START)} == {
        "/feeds/products",
        "/feeds/locations",
        "/feeds/stock",
    }


def _order_ids(story: Story) -> str:
    """What the channel calls the order that a story begins with."""
    body = json.loads(story.steps[0].request.body)
    if "AmazonOrderId" in body.get("order", {}):
        return str(body["order"]["AmazonOrderId"])
    return str(body.get("id") or f"{body['store']}/{body['receipt']}")
