"""The world of a workload: items with their names, locations, first counts, and what the stock feeds report later.

`workload` builds one; orders draw their items from it. Who is the authority of a location's stock follows from its master data.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from crossdock_canonical.identity import LocationId, Sku
from crossdock_canonical.records import (
    Basis,
    Bucket,
    ItemMapped,
    ItemReference,
    KitComponent,
    LocationDefined,
    LocationKind,
    StockMovement,
    StockSnapshot,
)
from crossdock_simulation.workload_script import Feature

if TYPE_CHECKING:
    from crossdock_simulation.workload_script import Script

KIT = "KIT"
CASE = "CASE"
LATE = "LATE"
_WAREHOUSE_FEED = "wms"
_STORE_FEED = "stores"
_FOREIGN_FEEDS = (("erp", Basis.ON_HAND), ("shopify", Basis.SALABLE))


@dataclass(frozen=True, slots=True)
class Ware:
    """Something that can be ordered. `price` is in minor units; `late_s`: its mapping is only sent then."""

    name: str
    price: int
    late_s: float | None = None

    @property
    def variant(self) -> str:
        return f"variant-{self.name}"

    @property
    def asin(self) -> str:
        return f"asin-{self.name}"

    @property
    def gtin(self) -> str:
        return f"gtin-{self.name}"


@dataclass(frozen=True, slots=True)
class Place:
    """A stock location and the name of its one authoritative feed."""

    location: LocationId
    feed: str


@dataclass(slots=True)
class World:
    """What orders refer to. `setup`: records that are there before anything else is said."""

    script: Script
    currency: str
    wares: list[Ware] = field(default_factory=list)
    skus: list[Sku] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    setup: list[Any] = field(default_factory=list)
    sequence: int = 0

    @property
    def store(self) -> LocationId:
        """Where customers collect and tills sell."""
        return self.places[-1].location


def build(script: Script, *, skus: int, locations: int) -> World:
    """A world of some skus and locations with their master data and first counts."""
    rng = script.rng
    world = World(script, currency="JPY" if script.on(Feature.NO_DECIMALS, 0.2) else "EUR")
    world.skus = [Sku("ABCDEF"[index]) for index in range(skus)]
    world.wares = [Ware(sku, rng.choice((1, 99, 1_000, 2_495, 8_990, 12_347))) for sku in world.skus]
    if script.on(Feature.DEAR, 0.6):
        world.wares[0] = Ware(world.skus[0], 350_000)
    mapped = [record for ware in world.wares for record in _names(ware)]
    if script.on(Feature.KIT):
        ware = Ware(KIT, 3_333)
        parts = tuple(
            KitComponent(sku=sku, units=rng.randint(1, 2), value_share=rng.randint(1, 3))
            for sku in world.skus[:2]
        )
        mapped += _names(ware, components=parts)
        world.wares.append(ware)
    if script.on(Feature.CASE):
        ware = Ware(CASE, 5_000)
        mapped += _names(ware, sku=world.skus[-1], units_per=rng.choice((2, 6)))
        world.wares.append(ware)
    if script.on(Feature.LATE_MAPPING):
        # Sold before it is mapped: the orders have to come once more. It has the stock of the first sku.
        late_s = script.gap_s()
        ware = Ware(LATE, 777, late_s=late_s)
        script.say(
            late_s,
            *_names(ware, sku=world.skus[0]),
            delivery="products/late",
            label="items: LATE is mapped",
        )
        world.wares.append(ware)
    world.setup += mapped
    _locate(world, locations)
    _count_first(world)
    return world


def _names(ware: Ware, *, sku: Sku | None = None, **fields: Any) -> list[ItemMapped]:
    """Every name of a ware in the cross-reference."""
    names = (
        ("sku", ware.name),
        ("shopify_variant", ware.variant),
        ("amazon_asin", ware.asin),
        ("gtin", ware.gtin),
    )
    return [
        ItemMapped(
            reference=f"{scheme}:{value}", scheme=scheme, value=value, sku=sku or Sku(ware.name), **fields
        )
        for scheme, value in names
    ]


def _locate(world: World, locations: int) -> None:
    """One location that ships and serves customers, or a warehouse and a store."""
    script = world.script
    if locations == 1:
        world.places = [Place(LocationId("WH"), _WAREHOUSE_FEED)]
    else:
        script.shown.add(Feature.TWO_LOCATIONS)
        world.places = [
            Place(LocationId("WH"), _WAREHOUSE_FEED),
            Place(LocationId("STORE"), script.rng.choice((_WAREHOUSE_FEED, _STORE_FEED))),
        ]
    safety = script.rng.randint(1, 2) if script.on(Feature.SAFETY_STOCK) else 0
    for index, place in enumerate(world.places):
        world.setup.append(
            LocationDefined(
                location=place.location,
                kind=LocationKind.STORE if index else LocationKind.WAREHOUSE,
                feed=place.feed,
                pickup=index == len(world.places) - 1,
                shipping_cost_minor=script.rng.randint(0, 500),
                safety_stock=safety,
            )
        )


def _count_first(world: World) -> None:
    """A count of every sku at every location from before the start; now and then of nothing, or of none of it."""
    script = world.script
    scarce = script.on(Feature.SCARCE, 0.8)
    for place in world.places:
        for sku in world.skus:
            if scarce and script.rng.random() < 0.2:
                continue
            units = script.rng.choice((0, 1, 1, 2, 3)) if scarce else script.rng.randint(20, 60)
            world.setup.append(
                StockSnapshot(
                    sku=sku,
                    location=place.location,
                    units=units,
                    as_of=script.start - timedelta(minutes=10),
                    feed=place.feed,
                    ref=f"first/{sku}/{place.location}",
                )
            )


def report_stock(world: World, at_s: float) -> None:
    """What the feeds say later: goods come, are counted again, break; other systems say what they believe."""
    script = world.script
    place = script.rng.choice(world.places)
    if script.on(Feature.RECEIPT):
        at_s += script.gap_s()
        _receive(world, place, at_s)
    if script.on(Feature.RECOUNT):
        at_s += script.gap_s()
        _count(world, place, at_s, script.rng.randint(3, 30), place.feed, "recount")
    if script.on(Feature.ADJUSTED_DOWN):
        at_s += script.gap_s()
        _count(world, place, at_s, script.rng.randint(0, 1), place.feed, "count down")
    if script.on(Feature.FOREIGN_COUNT):
        at_s += script.gap_s()
        feed, basis = script.rng.choice(_FOREIGN_FEEDS)
        _count(world, place, at_s, script.rng.randint(0, 30), feed, "reconciliation", basis=basis)
    if script.on(Feature.DAMAGED):
        at_s += script.gap_s()
        bucket = script.rng.choice((Bucket.DAMAGED, Bucket.QUALITY_HOLD))
        _count(world, place, at_s, script.rng.randint(0, 2), place.feed, f"count of {bucket}", bucket=bucket)


def _receive(world: World, place: Place, at_s: float) -> None:
    """A receipt of one sku, reported once or twice under one reference."""
    script = world.script
    sku = script.rng.choice(world.skus)
    world.sequence += 1
    movement = StockMovement(
        sku=sku,
        location=place.location,
        delta=script.rng.randint(1, 12),
        moved_at=script.moment(at_s),
        feed=place.feed,
        sequence=world.sequence,
        reason="receipt",
        ref=f"PO-{world.sequence}",
    )
    say_stock(world, at_s, movement, label=f"stock: {movement.delta} {sku} come to {place.location}")
    if script.on(Feature.MOVED_TWICE):
        again_s = at_s + script.gap_s()
        say_stock(world, again_s, movement, label=f"stock: receipt {movement.ref} in another file")


def _count(world: World, place: Place, at_s: float, units: int, feed: str, what: str, **fields: Any) -> None:
    script = world.script
    sku = script.rng.choice(world.skus)
    world.sequence += 1
    record = StockSnapshot(
        sku=sku,
        location=place.location,
        units=units,
        as_of=script.moment(at_s),
        feed=feed,
        sequence=world.sequence,
        ref=f"count/{world.sequence}",
        **fields,
    )
    say_stock(world, at_s, record, label=f"stock: {what} of {sku} at {place.location} by {feed}: {units}")


def say_stock(world: World, at_s: float, record: StockMovement | StockSnapshot, *, label: str) -> None:
    """Send a file of one row."""
    world.script.say(
        at_s,
        record,
        delivery=f"stock/{record.feed}/file-{world.script.file_number()}",
        label=label,
        occurred_at=record.as_of if isinstance(record, StockSnapshot) else record.moved_at,
    )


def references(ware: Ware, channel: str) -> tuple[ItemReference, ...]:
    """The names by which a channel speaks of a ware, most specific first."""
    schemes = {
        "shopify": (("shopify_variant", ware.variant), ("sku", ware.name)),
        "amazon": (("sku", ware.name), ("amazon_asin", ware.asin)),
        "pos": (("gtin", ware.gtin),),
    }
    return tuple(ItemReference(scheme=scheme, value=value) for scheme, value in schemes[channel])
