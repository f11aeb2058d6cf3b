"""Everything the outside says in one simulated world, fixed up front from one seed. The simulator and its tests call it.

Most worlds are small, so that a schedule is fast and its failure short; each seed switches features on or off as a swarm, so
that each of them meets every other. Records are what the channel gateway makes of the senders' own forms.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Any

from crossdock_canonical.identity import LocationId, OrderId, Sku
from crossdock_canonical.specification import T0
from crossdock_simulation.workload_changes import change
from crossdock_simulation.workload_mistakes import go_wrong
from crossdock_simulation.workload_returns import give_back
from crossdock_simulation.workload_sales import Sale
from crossdock_simulation.workload_script import Feature, Item, RawRecord, Script
from crossdock_simulation.workload_settlements import settle
from crossdock_simulation.workload_shops import marketplace_order, till_sale, web_order
from crossdock_simulation.workload_world import build, report_stock

__all__ = ["LARGE", "SMALL", "Feature", "Item", "RawRecord", "Size", "Workload", "workload"]


@dataclass(frozen=True, slots=True)
class Size:
    """How large a world may be."""

    orders_max: int
    skus_max: int
    locations_max: int


SMALL = Size(orders_max=2, skus_max=2, locations_max=2)
LARGE = Size(orders_max=6, skus_max=4, locations_max=2)
_LARGE_SHARE = 0.1

# Most of what can happen to an order happens to the web shop's.
_CHANNEL_WEIGHTS = {Feature.SHOPIFY: 4, Feature.AMAZON: 2, Feature.POS: 1}
_ORDERS = {Feature.SHOPIFY: web_order, Feature.AMAZON: marketplace_order, Feature.POS: till_sale}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is said in one world.

    setup: records that are there before time starts: items, locations, first counts. items: deliveries in order of time.
    features: what shows in it. orders: every order that is ever spoken of by its channel.
    """

    seed: int
    start: datetime
    setup: tuple[Any, ...]
    items: tuple[Item, ...]
    features: frozenset[Feature]
    orders: tuple[OrderId, ...]
    skus: tuple[Sku, ...]
    locations: tuple[LocationId, ...]


def workload(seed: int, size: Size | None = None, *, start: datetime = T0) -> Workload:
    """The world of a seed: the same one every time. `size`: drawn by the seed unless it is given."""
    rng = Random(seed)
    drawn = LARGE if rng.random() < _LARGE_SHARE else SMALL
    size = size or drawn
    script = Script(rng, start)
    world = build(
        script,
        skus=rng.randint(1, size.skus_max),
        locations=2 if size.locations_max > 1 and Feature.TWO_LOCATIONS in script.enabled else 1,
    )
    channels = [channel for channel in _CHANNEL_WEIGHTS if channel in script.enabled]
    weights = [_CHANNEL_WEIGHTS[channel] for channel in channels]
    sales: list[Sale] = []
    at_s = 0.0
    for number in range(1, rng.randint(1, size.orders_max) + 1):
        at_s += script.gap_s()
        (channel,) = rng.choices(channels, weights)
        sale = _ORDERS[channel](world, number, at_s)
        sales.append(sale)
        change(world, sale)
        give_back(world, sale)
    report_stock(world, at_s * rng.random())
    settle(script, sales)
    go_wrong(world, sales, at_s)
    return Workload(
        seed=seed,
        start=start,
        setup=tuple(world.setup),
        items=script.items(),
        features=frozenset(script.shown),
        orders=tuple(sale.order_id for sale in sales),
        skus=tuple(world.skus),
        locations=tuple(place.location for place in world.places),
    )
