"""The main paths across all six services, on the in-memory broker: from a channel's message to the ERP's books."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from backbone import Backbone

from crossdock_canonical.identity import order_id
from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    ChannelLine,
    ChannelOrderReceived,
    ErpDocumentPosted,
    IntakeKind,
    ItemMapped,
    ItemReference,
    LocationKind,
    OrderCompleted,
    OrderShipped,
    StockMoved,
    Tender,
    TenderState,
)
from crossdock_canonical.specification import T0


def items(backbone: Backbone, *skus: str) -> None:
    for sku in skus:
        backbone.send(ItemMapped(reference=f"sku:{sku}", scheme="sku", value=sku, sku=sku))


def order(number: int, *lines: tuple[str, int, int], state: TenderState = TenderState.AUTHORIZED, **fields: Any) -> Any:
    """An order of (sku, units, total of the line before tax)."""
    amounts = [Amounts(currency="EUR", goods=goods, tax=goods // 10) for _, _, goods in lines]
    total = sum(each.due for each in amounts)
    base: dict[str, Any] = {
        "order_id": order_id(channel="shopify", shop="shop", external_id=str(number)),
        "channel": "shopify",
        "shop": "shop",
        "external_id": str(number),
        "kind": IntakeKind.SNAPSHOT,
        "revision_at": T0,
        "revision_id": f"r{number}",
        "placed_at": T0,
        "currency": "EUR",
        "total": Money(minor=total, currency="EUR"),
        "lines": tuple(
            ChannelLine(
                line_id=f"L{index}",
                items=(ItemReference(scheme="sku", value=sku),),
                units=units,
                amounts=amounts[index],
            )
            for index, (sku, units, _) in enumerate(lines)
        ),
        "tenders": (Tender(reference=f"T{number}", state=state, amount=Money(minor=total, currency="EUR")),),
    }
    return ChannelOrderReceived(**{**base, **fields})


def test_a_captured_order_goes_from_the_channel_to_the_erp(backbone: Backbone) -> None:
    items(backbone, "A", "B")
    backbone.location("WH", kind=LocationKind.WAREHOUSE)
    backbone.stock("A", WH=10)
    backbone.stock("B", WH=10)
    backbone.send(order(1, ("A", 2, 2000), ("B", 1, 999)))
    backbone.run()
    assert backbone.dead_letters() == []
    (shipped,) = backbone.published(OrderShipped)
    assert sum(line.amounts.due for line in shipped.lines) == 2200 + 999 + 99
    assert backbone.outside.captured == 2200 + 999 + 99
    assert len(backbone.published(OrderCompleted)) == 1
    kinds = sorted(document.document_type for document in backbone.published(ErpDocumentPosted))
    assert kinds == ["DELIVERY", "INVOICE", "PAYMENT", "SALES_ORDER"]
    sold = [moved for moved in backbone.published(StockMoved) if moved.delta < 0]
    assert sorted((moved.sku, moved.on_hand) for moved in sold) == [("A", 8), ("B", 9)]


def test_an_order_split_over_two_locations_sums_to_the_order(backbone: Backbone) -> None:
    items(backbone, "A", "B")
    backbone.stock("A", NORTH=5)
    backbone.stock("B", SOUTH=5)
    backbone.send(order(1, ("A", 1, 1001), ("B", 1, 2002)))
    backbone.run()
    shipments = backbone.published(OrderShipped)
    assert len(shipments) == 2
    assert sum(line.amounts.due for each in shipments for line in each.lines) == 1101 + 2202
    assert len(backbone.published(OrderCompleted)) == 1


def test_a_backorder_ships_when_stock_comes(backbone: Backbone) -> None:
    items(backbone, "A")
    backbone.stock("A", WH=0)
    backbone.send(order(1, ("A", 1, 1000)))
    backbone.run()
    assert backbone.published(OrderShipped) == []
    backbone.clock.advance(timedelta(hours=1).total_seconds())
    backbone.stock("A", WH=3)
    backbone.run()
    assert len(backbone.published(OrderCompleted)) == 1
    assert backbone.dead_letters() == []
