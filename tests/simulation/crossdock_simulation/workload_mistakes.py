"""What senders of a workload get wrong: input that a service has to give up on, visibly, while all else goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from crossdock_canonical.identity import LineId, order_id
from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    CancelRequested,
    ChannelOrderReceived,
    ChannelRefundReceived,
    ItemReference,
    LineUnits,
    RefundLine,
    ReturnLine,
    ReturnReceived,
    ReturnRequested,
    SettlementDeclared,
    StockMovement,
)
from crossdock_simulation.workload_sales import SHOP, snapshot
from crossdock_simulation.workload_script import Feature, RawRecord

if TYPE_CHECKING:
    from crossdock_simulation.workload_sales import Sale
    from crossdock_simulation.workload_script import Script
    from crossdock_simulation.workload_world import World

# Values that are no record, and the code that each is given up on with.
_GARBAGE = (
    (None, "contract.empty_value"),
    (b"\x01not a record", "contract.bad_framing"),
    (b"\x00\x7f\xff\xff\xff\x02", "contract.unknown_schema"),
)


def go_wrong(world: World, sales: list[Sale], until_s: float) -> None:
    """Some mistakes, each at any time of the world."""
    script = world.script
    sale = script.rng.choice(sales)

    def sometime() -> float:
        return until_s * script.rng.random() + script.gap_s()

    if script.on(Feature.UNKNOWN_SKU, 0.12):
        _unknown_sku(script, sale, sometime())
    if script.on(Feature.TOTAL_MISMATCH, 0.12):
        _total_mismatch(script, sale, sometime())
    if sale.channel != "pos" and script.on(Feature.UNKNOWN_LINE, 0.15):
        _unknown_line(script, sale, sometime())
    if sale.channel == "shopify" and script.on(Feature.FOREIGN_CURRENCY, 0.2):
        _foreign_currency(script, sale, sometime())
    if script.on(Feature.UNKNOWN_RETURN, 0.15):
        _unknown_return(world, sometime())
    if script.on(Feature.UNDECODABLE, 0.15):
        _undecodable(world, sale, sometime())


def _unknown_sku(script: Script, sale: Sale, at_s: float) -> None:
    """An order of something that nobody has mapped, in the likeness of another order."""
    like = snapshot(script, sale, revision_id="unmapped/1")
    external_id = f"{like.external_id}-unmapped"
    record = replace(
        like,
        order_id=order_id(channel=like.channel, shop=like.shop, external_id=external_id),
        marketplace="",
        external_id=external_id,
        lines=tuple(
            replace(line, items=(ItemReference(scheme="sku", value="NOWHERE"),)) for line in like.lines
        ),
    )
    _say_order(script, record, at_s, "names an item that is not mapped", "order.unknown_sku")


def _total_mismatch(script: Script, sale: Sale, at_s: float) -> None:
    """An order of its own whose total is not the sum of its parts."""
    like = snapshot(script, sale, revision_id="mismatch/1")
    if like.total is None:
        return
    external_id = f"{like.external_id}-mismatch"
    record = replace(
        like,
        order_id=order_id(channel=like.channel, shop=like.shop, external_id=external_id),
        marketplace="",
        external_id=external_id,
        total=replace(like.total, minor=like.total.minor + script.rng.choice((-1, 1, 100))),
    )
    _say_order(script, record, at_s, "does not add up", "order.total_mismatch")


def _say_order(script: Script, record: ChannelOrderReceived, at_s: float, what: str, code: str) -> None:
    script.say(
        at_s,
        record,
        delivery=f"{record.channel}/{record.shop}/{record.external_id}/{record.revision_id}",
        label=f"{record.channel} order {record.external_id}: {what}",
        occurred_at=record.revision_at,
        rejected_as=code,
    )


def _unknown_line(script: Script, sale: Sale, at_s: float) -> None:
    """Support cancels a line that the order does not have."""
    request_id = f"wrong-line-{sale.number}"
    record = CancelRequested(
        order_id=sale.order_id,
        request_id=request_id,
        actor="support",
        lines=(LineUnits(line_id=LineId("no-such-line"), units=1),),
    )
    script.say(
        at_s,
        record,
        delivery=f"decision/{sale.order_id}/{request_id}",
        label=f"{sale.name}: support cancels a line that it does not have",
        rejected_as="order.unknown_line",
    )


def _foreign_currency(script: Script, sale: Sale, at_s: float) -> None:
    """A refund in a currency that is not the order's."""
    refund_id = f"76{sale.number:04d}"
    amounts = Amounts(currency="CHF", goods=100)
    record = ChannelRefundReceived(
        order_id=sale.order_id,
        channel=sale.channel,
        shop=sale.shop,
        external_id=sale.external_id,
        refund_id=refund_id,
        lines=(RefundLine(line_id=sale.lines[0].line_id, units=1, amounts=amounts),),
        amount=Money(minor=100, currency="CHF"),
        refunded_at=script.moment(at_s),
    )
    script.say(
        at_s,
        record,
        delivery=f"shopify/{sale.shop}/refunds/create/{refund_id}",
        label=f"{sale.name}: refunded in a currency that is not its own",
        occurred_at=record.refunded_at,
        rejected_as="order.currency_mismatch",
    )


def _unknown_return(world: World, at_s: float) -> None:
    """Goods of an order from before our time: nobody gives up on them, they wait and end as somebody's exception."""
    script = world.script
    owner = order_id(channel="shopify", shop=SHOP, external_id="before our time")
    rma_id = "RMA-unknown"
    lines = (ReturnLine(line_id=LineId("1"), units=1),)
    asked = ReturnRequested(
        order_id=owner, rma_id=rma_id, channel="shopify", lines=lines, requested_at=script.moment(at_s)
    )
    came = ReturnReceived(
        order_id=owner,
        rma_id=rma_id,
        receipt_id=f"{rma_id}-IN",
        location=world.store,
        lines=lines,
        received_at=script.moment(at_s),
    )
    record, step = (
        (asked, "requested") if script.rng.random() < 0.5 else (came, f"received/{came.receipt_id}")
    )
    script.say(at_s, record, delivery=f"return/{rma_id}/{step}", label=f"return of an unknown order: {step}")


def _undecodable(world: World, sale: Sale, at_s: float) -> None:
    """Bytes that are no record, where one belongs."""
    script = world.script
    kind, key = script.rng.choice(
        (
            (ChannelOrderReceived, sale.order_id),
            (ReturnRequested, sale.order_id),
            (StockMovement, world.skus[0]),
            (SettlementDeclared, f"{sale.channel}/{sale.shop}/garbage"),
        )
    )
    value, code = script.rng.choice(_GARBAGE)
    raw = RawRecord(topic=kind.TOPIC, key=key.encode(), value=value, event_type=kind.SCHEMA)
    script.say(
        at_s,
        delivery=f"garbage/{script.file_number()}",
        label=f"garbage on {kind.TOPIC} under {key}",
        raw=(raw,),
        rejected_as=code,
    )
