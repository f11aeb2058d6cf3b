"""Goods that come back in a workload: asked for, received, inspected, by post or over a store's counter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossdock_canonical.identity import LocationId
from crossdock_canonical.money import Money
from crossdock_canonical.records import (
    Grade,
    InspectedLine,
    ReturnInspected,
    ReturnLine,
    ReturnReceived,
    ReturnRequested,
)
from crossdock_simulation.workload_script import Feature

if TYPE_CHECKING:
    from crossdock_simulation.workload_sales import Sale, SaleLine
    from crossdock_simulation.workload_script import Script
    from crossdock_simulation.workload_world import World

# Of the orders of which something comes back, those of which something comes back again.
_TWICE_SHARE = 0.25
# Most goods come back when they have had the time to arrive; some senders are faster than the parcel.
_USUAL_WAIT_S = 2 * 86_400.0


def give_back(world: World, sale: Sale) -> None:
    """One return of one line of the order, or two, as far as they are told; any of their steps may be all that is."""
    script = world.script
    requested = script.on(Feature.RETURN_REQUESTED)
    received = script.on(Feature.RETURN_RECEIVED)
    inspected = script.on(Feature.RETURN_INSPECTED)
    if not (requested or received or inspected):
        return
    line = script.rng.choice(sale.lines)
    _send_back(world, sale, line, f"RMA-{sale.number}", requested, received, inspected)
    if script.rng.random() < _TWICE_SHARE:
        _send_back(world, sale, line, f"RMA-{sale.number}-B", requested, received, inspected)


def _send_back(
    world: World, sale: Sale, line: SaleLine, rma_id: str, requested: bool, received: bool, inspected: bool
) -> None:
    """Some units of a line. Of a line that comes back twice, it may be the same units that are announced once more."""
    script = world.script
    units = script.rng.randint(1, line.units)
    place = script.rng.choice(world.places).location
    at_s = sale.last_s + script.gap_s()
    if script.rng.random() < 0.7:
        at_s += _USUAL_WAIT_S
    going = (ReturnLine(line_id=line.line_id, units=units, reason="too small"),)
    if requested:
        record = ReturnRequested(
            order_id=sale.order_id,
            rma_id=rma_id,
            channel=sale.channel,
            location=script.rng.choice((None, place)),
            lines=going,
            requested_at=script.moment(at_s),
        )
        script.say(
            at_s,
            record,
            delivery=f"return/{rma_id}/requested",
            label=f"{sale.name}: {units} of line {line.line_id} are to come back",
            occurred_at=record.requested_at,
        )
        at_s += script.gap_s()
    if received:
        receipt = ReturnReceived(
            order_id=sale.order_id,
            rma_id=rma_id,
            receipt_id=f"{rma_id}-IN",
            location=place,
            lines=going,
            received_at=script.moment(at_s),
        )
        script.say(
            at_s,
            receipt,
            delivery=f"return/{rma_id}/received/{receipt.receipt_id}",
            label=f"{sale.name}: {units} of line {line.line_id} arrive at {place}",
            occurred_at=receipt.received_at,
        )
        at_s += script.gap_s()
    if inspected:
        first = script.rng.randint(1, units) if script.rng.random() < 0.4 else units
        _inspect(script, sale, line, 0, first, rma_id, place, at_s)
        if units > first:
            at_s += script.gap_s()
            _inspect(script, sale, line, first, units - first, rma_id, place, at_s)
    sale.last_s = max(sale.last_s, at_s)


def _inspect(
    script: Script,
    sale: Sale,
    line: SaleLine,
    before: int,
    units: int,
    rma_id: str,
    place: LocationId,
    at_s: float,
) -> None:
    """The findings on units that follow those inspected `before`; a store may have paid the money out of its drawer."""
    inspection_id = f"{rma_id}-QC-{before}" if before else f"{rma_id}-QC"
    drawer = None
    worth = line.amounts.share(units=units, before=before, of=line.units).due
    if script.on(Feature.STORE_REFUND, 0.4):
        drawer = Money(minor=script.rng.choice((worth, worth, 0)), currency=sale.currency)
    record = ReturnInspected(
        order_id=sale.order_id,
        rma_id=rma_id,
        inspection_id=inspection_id,
        location=place,
        lines=(InspectedLine(line_id=line.line_id, units=units, grade=script.rng.choice(tuple(Grade))),),
        tender_refunded=drawer,
        inspected_at=script.moment(at_s),
    )
    script.say(
        at_s,
        record,
        delivery=f"return/{rma_id}/inspected/{inspection_id}",
        label=f"{sale.name}: {units} of line {line.line_id} inspected at {place}",
        occurred_at=record.inspected_at,
    )
