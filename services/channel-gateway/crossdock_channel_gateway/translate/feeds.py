"""Product, location and stock files, JSON or CSV. One bad row refuses the whole file: a file never takes half effect."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from typing import Annotated, Any, TypeVar

from pydantic import Field

from crossdock_canonical.identity import LocationId, Sku
from crossdock_canonical.records import (
    Basis,
    Bucket,
    ItemMapped,
    KitComponent,
    LocationDefined,
    LocationKind,
    StockMovement,
    StockSnapshot,
)
from crossdock_channel_gateway.intake import Intake
from crossdock_channel_gateway.problem import ERRORS_MAX, FieldError, Refused, invalid, malformed
from crossdock_channel_gateway.reading import MINOR_MAX, parse_json
from crossdock_channel_gateway.translate import ours

CSV_TYPES = frozenset({"text/csv", "text/tab-separated-values"})
_COUNT_MAX = 1_000_000_000_000


class Component(ours.OwnModel):
    sku: ours.Identifier
    units: ours.Units = Field(description="Units of the component in one kit.")
    value_share: ours.Count = Field(1, description="Weight by which the kit's price is apportioned.")


class Item(ours.OwnModel):
    """One name of an item: a channel variant, ASIN, barcode or ERP code, and the sku that it means."""

    scheme: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")] = Field(
        "sku", description="sku, shopify_variant, amazon_asin, gtin, erp_item."
    )
    value: ours.Identifier | None = Field(None, description="Identifier in that scheme; default: the sku.")
    sku: ours.Identifier
    uom: Annotated[str, Field(pattern=r"^[A-Z0-9]{1,8}$")] = Field("EA", description="Base unit of the sku.")
    units_per: ours.Units = Field(
        1, description="Base units in one unit of the external name (a case of 12 = 12)."
    )
    components: Annotated[list[Component], Field(max_length=200)] = Field(
        [], description="Components when it is a kit. In CSV: `sku:units[:share]`, separated by `;`."
    )
    title: ours.Text = ""


class Location(ours.OwnModel):
    """One stock location."""

    location: ours.Identifier
    kind: LocationKind
    feed: ours.Identifier = Field("wms", description="Its one authoritative stock feed.")
    ships: bool = True
    pickup: bool = False
    shipping_cost_minor: Annotated[ours.Whole, Field(ge=0, lt=MINOR_MAX)] = 0
    safety_stock: ours.Count = 0


class Snapshot(ours.OwnModel):
    """A count of one sku at one location."""

    sku: ours.Identifier
    location: ours.Identifier
    bucket: Bucket = Bucket.ON_HAND
    units: Annotated[ours.Whole, Field(ge=-_COUNT_MAX, le=_COUNT_MAX)]
    as_of: ours.Moment
    sequence: Annotated[ours.Whole, Field(ge=0, le=_COUNT_MAX)] = 0
    basis: Basis = Basis.ON_HAND
    ref: ours.Identifier | None = Field(
        None, description="Id of the count; default: feed, bucket and time of it."
    )


class Movement(ours.OwnModel):
    """Stock that came, left or changed condition."""

    sku: ours.Identifier
    location: ours.Identifier
    bucket: Bucket = Bucket.ON_HAND
    delta: Annotated[ours.Whole, Field(ge=-_COUNT_MAX, le=_COUNT_MAX)]
    moved_at: ours.Moment
    sequence: Annotated[ours.Whole, Field(ge=0, le=_COUNT_MAX)] = 0
    reason: ours.Text = ""
    ref: ours.Identifier = Field(description="Business reference; one reference never moves stock twice.")


class ProductFile(ours.OwnModel):
    items: Annotated[list[Item], Field(min_length=1)]


class LocationFile(ours.OwnModel):
    locations: Annotated[list[Location], Field(min_length=1)]


class StockFile(ours.OwnModel):
    feed: ours.Identifier = Field(description="Name of the feed, as in the location's master data.")
    snapshots: list[Snapshot] = Field([])
    movements: list[Movement] = Field([])


def products(body: bytes, content_type: str, *, sha256: str) -> Intake:
    """Cross-reference rows. Every sku that occurs is mapped to itself too. Raises Refused."""
    if content_type in CSV_TYPES:
        items = _csv_rows(body, content_type, lambda row: ours.validated(Item, _with_components(row)))
    else:
        items = ours.validated(ProductFile, parse_json(body)).items
    mapped: dict[str, ItemMapped] = {}
    errors: list[FieldError] = []
    for index, item in enumerate(items):
        record = _item(item)
        known = mapped.setdefault(record.reference, record)
        if known != record:
            errors.append(
                FieldError(
                    f"items[{index}].value", "contradicts an earlier row of the file", record.reference
                )
            )
    for item in items:
        own = f"sku:{item.sku}"
        if own not in mapped:
            mapped[own] = _item(item.model_copy(update={"scheme": "sku", "value": item.sku, "units_per": 1}))
    return _file(errors, tuple(mapped.values()), delivery=f"products/{sha256}")


def _item(item: Item) -> ItemMapped:
    value = item.value or item.sku
    return ItemMapped(
        reference=f"{item.scheme}:{value}",
        scheme=item.scheme,
        value=value,
        sku=Sku(item.sku),
        uom=item.uom,
        units_per=item.units_per,
        components=tuple(
            KitComponent(sku=Sku(each.sku), units=each.units, value_share=each.value_share)
            for each in item.components
        ),
        title=item.title,
    )


def _with_components(row: dict[str, Any]) -> dict[str, Any]:
    """A CSV cell cannot hold a list: `A:1;B:2:30` is two components."""
    cell = row.pop("components", "")
    if not cell:
        return row
    parts = [part.split(":") for part in cell.split(";")]
    names = ("sku", "units", "value_share")
    return row | {"components": [dict(zip(names, part, strict=False)) for part in parts]}


def locations(body: bytes, content_type: str, *, sha256: str) -> Intake:
    """Location master data. Raises Refused."""
    if content_type in CSV_TYPES:
        rows = _csv_rows(body, content_type, lambda row: ours.validated(Location, row))
    else:
        rows = ours.validated(LocationFile, parse_json(body)).locations
    defined: dict[str, LocationDefined] = {}
    errors: list[FieldError] = []
    for index, row in enumerate(rows):
        record = LocationDefined(**(row.model_dump() | {"location": LocationId(row.location)}))
        if defined.setdefault(row.location, record) != record:
            errors.append(
                FieldError(f"locations[{index}].location", "contradicts an earlier row", row.location)
            )
    return _file(errors, tuple(defined.values()), delivery=f"locations/{sha256}")


def stock(body: bytes, content_type: str, *, feed: str, sha256: str) -> Intake:
    """Counts and movements of one feed. In CSV the feed is the query parameter `feed`. Raises Refused."""
    if content_type in CSV_TYPES:
        rows = _csv_rows(body, content_type, _stock_row)
        named = ours.validated(StockFile, {"feed": feed or None}).feed
        snapshots = [row for row in rows if isinstance(row, Snapshot)]
        movements = [row for row in rows if isinstance(row, Movement)]
    else:
        file = ours.validated(StockFile, parse_json(body))
        named, snapshots, movements = file.feed, file.snapshots, file.movements
    records: tuple[StockSnapshot | StockMovement, ...] = (
        *(_snapshot(row, named) for row in snapshots),
        *(_movement(row, named) for row in movements),
    )
    errors = [FieldError("", "the file has no rows")] if not records else _contradictions(records)
    return _file(errors, records, delivery=f"stock/{named}/{sha256}")


def _stock_row(row: dict[str, Any]) -> Snapshot | Movement:
    """A CSV row is a count (column `units`) or a movement (column `delta`)."""
    return ours.validated(Movement, row) if "delta" in row else ours.validated(Snapshot, row)


def _snapshot(row: Snapshot, feed: str) -> StockSnapshot:
    return StockSnapshot(
        sku=Sku(row.sku),
        location=LocationId(row.location),
        bucket=row.bucket,
        units=row.units,
        as_of=row.as_of,
        feed=feed,
        sequence=row.sequence,
        basis=row.basis,
        ref=row.ref or f"{feed}/{row.bucket}/{row.as_of.isoformat()}",
    )


def _movement(row: Movement, feed: str) -> StockMovement:
    return StockMovement(
        sku=Sku(row.sku),
        location=LocationId(row.location),
        bucket=row.bucket,
        delta=row.delta,
        moved_at=row.moved_at,
        feed=feed,
        sequence=row.sequence,
        reason=row.reason,
        ref=row.ref,
    )


def _contradictions(records: tuple[StockSnapshot | StockMovement, ...]) -> list[FieldError]:
    """Rows that claim the same reference for different facts."""
    seen: dict[tuple[str, ...], StockSnapshot | StockMovement] = {}
    errors = []
    for record in records:
        identity = (record.SCHEMA, record.sku, record.location, record.bucket, record.ref)
        if seen.setdefault(identity, record) != record:
            errors.append(
                FieldError(
                    "ref", f"names two different rows of {record.sku} at {record.location}", record.ref
                )
            )
    return errors


def _file(errors: list[FieldError], records: tuple[Any, ...], *, delivery: str) -> Intake:
    if errors:
        raise invalid(errors)
    occurred = [getattr(record, "as_of", None) or getattr(record, "moved_at", None) for record in records]
    moments = [moment for moment in occurred if moment is not None]
    return Intake(records=records, delivery=delivery, occurred_at=max(moments) if moments else None)


Row = TypeVar("Row")


def _csv_rows(body: bytes, content_type: str, read: Callable[[dict[str, Any]], Row]) -> list[Row]:
    """Every row through `read`; the errors of all rows together, named `rows[3].units`
    by the line of the file. Empty cells are absent."""
    errors: list[FieldError] = []
    rows: list[Row] = []
    for number, cells in _cells(body, content_type):
        try:
            rows.append(read(cells))
        except Refused as refused:
            errors += [
                FieldError(f"rows[{number}].{each.field}", each.rule, each.value) for each in refused.errors
            ]
            if len(errors) >= ERRORS_MAX:
                break
    if errors:
        raise invalid(errors)
    if not rows:
        raise malformed("the file has a header and no rows")
    return rows


def _cells(body: bytes, content_type: str) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        text = body.decode("utf-8-sig")
        table = csv.DictReader(
            io.StringIO(text, newline=""),
            delimiter="\t" if content_type == "text/tab-separated-values" else ",",
            strict=True,
        )
        for row in table:
            if None in row:
                raise malformed(f"row {table.line_num} has more cells than the header")
            yield (
                table.line_num,
                {name.strip(): cell.strip() for name, cell in row.items() if name and cell and cell.strip()},
            )
    except (UnicodeDecodeError, csv.Error) as error:
        raise malformed(f"the body is not CSV in UTF-8: {type(error).__name__}") from None
