"""What warehouses, 3PLs and stores report about fulfilment orders. One JSON form for all of them, told apart by `type`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, RootModel

from crossdock_canonical.identity import LineId, LocationId, OrderId, Sku
from crossdock_canonical.records import (
    CancelConfirmed,
    CancelDeclined,
    FulfillmentRejected,
    PickupCollected,
    PickupStaged,
    ShipmentConfirmed,
    ShortPicked,
    WarehouseLine,
)
from crossdock_channel_gateway.intake import Intake
from crossdock_channel_gateway.problem import FieldError, invalid
from crossdock_channel_gateway.translate import ours


class Line(ours.OwnModel):
    """A quantity of one order line, base units of the sku."""

    line_id: ours.Identifier
    sku: ours.Identifier
    units: ours.Units


Lines = Annotated[list[Line], Field(min_length=1, max_length=1_000)]


class _Report(ours.OwnModel):
    fulfillment_order_id: ours.Identifier = Field(description="`<order_id>/<n>`, as it was requested.")
    location: ours.Identifier


class Shipped(_Report):
    """The goods left."""

    type: Literal["shipment_confirmed"]
    shipment_id: ours.Identifier
    lines: Lines
    carrier: ours.Text = ""
    tracking: ours.Text = ""
    shipped_at: ours.Moment


class Short(_Report):
    """Some goods could not be found."""

    type: Literal["short_picked"]
    event_id: ours.Identifier
    lines: Lines = Field(description="What is missing.")
    reason: ours.Text = ""


class Rejected(_Report):
    """The location will not take the fulfilment order."""

    type: Literal["fulfillment_rejected"]
    event_id: ours.Identifier
    reason: ours.Text = ""


class Stopped(_Report):
    """A cancellation came in time."""

    type: Literal["cancel_confirmed"]
    cancel_id: ours.Identifier
    lines: Lines


class NotStopped(_Report):
    """A cancellation came too late."""

    type: Literal["cancel_declined"]
    cancel_id: ours.Identifier
    lines: list[Line] = Field([], max_length=1_000)
    reason: ours.Text = ""


class Staged(_Report):
    """Goods wait at the counter."""

    type: Literal["pickup_staged"]
    staged_at: ours.Moment


class Collected(_Report):
    """The customer took the goods."""

    type: Literal["pickup_collected"]
    shipment_id: ours.Identifier
    lines: Lines
    collected_at: ours.Moment


Report: TypeAlias = Annotated[
    Shipped | Short | Rejected | Stopped | NotStopped | Staged | Collected, Field(discriminator="type")
]


class WarehouseEvent(RootModel[Report]):
    """One report of a location."""


def translate(body: Any) -> Intake:
    """One report. Raises Refused(422)."""
    report = ours.validated(WarehouseEvent, body).root
    order, _, number = report.fulfillment_order_id.rpartition("/")
    if not order or not number.isascii() or not number.isdigit():
        rule = "must be `<order_id>/<n>`, as it was requested"
        raise invalid([FieldError("fulfillment_order_id", rule, report.fulfillment_order_id)])
    common: dict[str, Any] = {
        "order_id": OrderId(order),
        "fulfillment_order_id": report.fulfillment_order_id,
        "location": LocationId(report.location),
    }
    record, reference, occurred_at = _record(report, common)
    return Intake(
        records=(record,),
        delivery=f"warehouse/{report.location}/{report.type}/{reference}",
        occurred_at=occurred_at,
    )


def _record(report: Report, common: dict[str, Any]) -> tuple[Any, str, Any]:
    match report:
        case Shipped():
            record: Any = ShipmentConfirmed(
                **common,
                shipment_id=report.shipment_id,
                lines=_lines(report.lines),
                carrier=report.carrier,
                tracking=report.tracking,
                shipped_at=report.shipped_at,
            )
            return record, report.shipment_id, report.shipped_at
        case Collected():
            record = PickupCollected(
                **common,
                shipment_id=report.shipment_id,
                lines=_lines(report.lines),
                collected_at=report.collected_at,
            )
            return record, report.shipment_id, report.collected_at
        case Staged():
            return (
                PickupStaged(**common, staged_at=report.staged_at),
                report.fulfillment_order_id,
                report.staged_at,
            )
        case Short():
            record = ShortPicked(
                **common, event_id=report.event_id, lines=_lines(report.lines), reason=report.reason
            )
            return record, report.event_id, None
        case Rejected():
            return (
                FulfillmentRejected(**common, event_id=report.event_id, reason=report.reason),
                report.event_id,
                None,
            )
        case Stopped():
            record = CancelConfirmed(**common, cancel_id=report.cancel_id, lines=_lines(report.lines))
            return record, report.cancel_id, None
        case NotStopped():
            record = CancelDeclined(
                **common, cancel_id=report.cancel_id, lines=_lines(report.lines), reason=report.reason
            )
            return record, report.cancel_id, None


def _lines(lines: list[Line]) -> tuple[WarehouseLine, ...]:
    return tuple(
        WarehouseLine(line_id=LineId(line.line_id), sku=Sku(line.sku), units=line.units) for line in lines
    )
