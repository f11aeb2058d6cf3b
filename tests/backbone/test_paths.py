"""The main paths across all six services, on the in-memory broker: from a channel's message to the ERP's books."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from itertools import permutations
from typing import Any

import pytest

from crossdock_canonical.identity import order_id
from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    CancelRequested,
    ChannelLine,
    ChannelOrderReceived,
    ChannelStatus,
    DeliveryMethod,
    DocumentType,
    ErpDocumentPosted,
    FulfilledBy,
    FulfillmentRequested,
    Grade,
    InspectedLine,
    IntakeKind,
    ItemMapped,
    ItemReference,
    KitComponent,
    LinesMatched,
    LocationKind,
    MatchLines,
    MovementCause,
    OrderCancelled,
    OrderCompleted,
    OrderReleased,
    OrderShipped,
    PaymentRecorded,
    RefundRecorded,
    ReserveStock,
    RestockReturn,
    ReturnAuthorized,
    ReturnDeclined,
    ReturnInspected,
    ReturnLine,
    ReturnReceived,
    ReturnRequested,
    SalableStock,
    SettlementLine,
    ShortPicked,
    StockMoved,
    Tender,
    TenderState,
)
from crossdock_canonical.specification import T0
from crossdock_channel_gateway.effects import effect_of
from crossdock_simulation.backbone import REPOSITORY, Backbone
from crossdock_tools.topic_reader import TopicReader


def items(backbone: Backbone, *skus: str) -> None:
    for sku in skus:
        backbone.send(ItemMapped(reference=f"sku:{sku}", scheme="sku", value=sku, sku=sku))


def order(
    number: int, *lines: tuple[str, int, int], state: TenderState = TenderState.AUTHORIZED, **fields: Any
) -> Any:
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
    known = {entry.meta.event_id for entry in backbone.entries(OrderReleased, OrderShipped, PaymentRecorded)}
    causes = {entry.meta.causation_id for entry in backbone.entries(ErpDocumentPosted)}
    assert causes <= known, "a document's cause is the fact behind it, however long the ERP took"
    sold = [moved for moved in backbone.published(StockMoved) if moved.delta < 0]
    assert sorted((moved.sku, moved.on_hand) for moved in sold) == [("A", 8), ("B", 9)]


def kit_and_case(backbone: Backbone) -> None:
    """A kit of one A and two B, and a case of six A."""
    items(backbone, "A", "B")
    parts = (KitComponent(sku="A", units=1, value_share=1), KitComponent(sku="B", units=2, value_share=3))
    backbone.send(ItemMapped(reference="sku:KIT", scheme="sku", value="KIT", sku="KIT", components=parts))
    backbone.send(ItemMapped(reference="sku:CASE", scheme="sku", value="CASE", sku="A", units_per=6))


def told(backbone: Backbone, kind: type) -> list[list[tuple[str, int]]]:
    """Lines of the channel's calls, by record."""
    effects = [effect_of(record) for record in backbone.published(kind)]
    return [
        [(line["line_id"], line["units"]) for line in effect.body["lines"]] for effect in effects if effect
    ]


def test_kits_and_cases_ship_to_their_channel_in_its_own_lines_and_units(backbone: Backbone) -> None:
    kit_and_case(backbone)
    backbone.stock("A", WH=50)
    backbone.stock("B", WH=50)
    backbone.send(order(1, ("CASE", 1, 6000), ("KIT", 2, 1000)))
    backbone.run()
    (shipped,) = backbone.published(OrderShipped)
    assert [(line.line_id, line.units, line.parent_line_id, line.per_unit) for line in shipped.lines] == [
        ("L0", 6, None, 6),
        ("L1/1", 2, "L1", 1),
        ("L1/2", 4, "L1", 2),
    ]
    assert told(backbone, OrderShipped) == [[("L0", 1), ("L1", 2)]]


def test_a_kit_that_ships_in_parts_is_told_with_the_part_that_completes_it(backbone: Backbone) -> None:
    kit_and_case(backbone)
    backbone.stock("A", NORTH=5)
    backbone.stock("B", SOUTH=5)
    backbone.send(order(1, ("KIT", 2, 1000)))
    backbone.run()
    first, last = backbone.published(OrderShipped)
    assert effect_of(first) is None
    assert effect_of(last).body["lines"] == [{"line_id": "L0", "units": 2}]


def test_a_kit_of_which_a_part_is_missing_is_cancelled_whole_for_its_channel(backbone: Backbone) -> None:
    kit_and_case(backbone)
    backbone.stock("A", WH=2)
    backbone.stock("B", WH=4)
    ship = backbone.outside.warehouse

    def one_b_is_missing(command: Any) -> list[Any]:
        if not isinstance(command, FulfillmentRequested):
            return ship(command)
        confirmed = []
        for record in ship(command):
            there = tuple(replace(line, units=3 if line.sku == "B" else line.units) for line in record.lines)
            confirmed.append(replace(record, lines=there))
        missing = tuple(replace(line, units=1) for line in command.lines if line.sku == "B")
        short = ShortPicked(
            order_id=command.order_id,
            fulfillment_order_id=command.fulfillment_order_id,
            event_id="short-1",
            location=command.location,
            lines=missing,
        )
        return [short, *confirmed]

    backbone.outside.warehouse = one_b_is_missing
    backbone.send(order(1, ("KIT", 2, 1000), channel="amazon"))
    backbone.run()
    for _ in range(4):
        backbone.pass_time(days=3)
    assert told(backbone, OrderShipped) == [[("L0", 1)]]
    assert told(backbone, OrderCancelled) == [[("L0", 1)]]


def test_a_kit_comes_back_under_its_channel_line_and_every_component_is_restocked(backbone: Backbone) -> None:
    kit_and_case(backbone)
    backbone.stock("A", WH=5)
    backbone.stock("B", WH=5)
    sold = order(1, ("KIT", 1, 1000))
    backbone.send(sold)
    backbone.run()
    now = backbone.clock.now()
    backbone.send(
        ReturnRequested(
            order_id=sold.order_id,
            rma_id="RMA",
            lines=(ReturnLine(line_id="L0", units=1),),
            requested_at=now,
        )
    )
    backbone.run()
    assert backbone.published(ReturnDeclined) == []
    assert told(backbone, ReturnAuthorized) == [[("L0", 1)]]
    backbone.send(
        ReturnInspected(
            order_id=sold.order_id,
            rma_id="RMA",
            inspection_id="I1",
            location="WH",
            lines=(InspectedLine(line_id="L0", units=1, grade=Grade.SELLABLE),),
            inspected_at=now,
        )
    )
    backbone.run()
    restocked = {each.line_id: (each.sku, each.units) for each in backbone.published(RestockReturn)}
    assert restocked == {"L0/1": ("A", 1), "L0/2": ("B", 2)}
    assert backbone.outside.refunded == backbone.outside.captured == 1100
    assert backbone.dead_letters() == []


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


def test_a_till_sale_is_invoiced_and_leaves_the_store_at_once(backbone: Backbone) -> None:
    items(backbone, "A")
    backbone.stock("A", STORE=5)
    backbone.run()
    sale = order(
        7,
        ("A", 2, 2000),
        state=TenderState.CAPTURED,
        channel="pos",
        kind=IntakeKind.POS_SALE,
        status=ChannelStatus.SHIPPED,
        method=DeliveryMethod.CARRIED_OUT,
        placed_at=T0 + timedelta(minutes=1),
        revision_at=T0 + timedelta(minutes=1),
        shop="STORE",
        pickup_location="STORE",
    )
    backbone.send(sale)
    backbone.run()
    assert len(backbone.published(OrderCompleted)) == 1
    assert backbone.published(FulfillmentRequested) == []
    (moved,) = [each for each in backbone.published(StockMoved) if each.cause is MovementCause.SALE]
    assert (moved.location, moved.on_hand) == ("STORE", 3)
    kinds = sorted(document.document_type for document in backbone.published(ErpDocumentPosted))
    assert kinds == ["DELIVERY", "INVOICE", "PAYMENT"]


def test_what_the_marketplace_ships_is_never_reserved_but_invoiced(backbone: Backbone) -> None:
    items(backbone, "A")
    theirs: dict[str, Any] = {"channel": "amazon", "fulfilled_by": FulfilledBy.MARKETPLACE}
    backbone.send(order(1, ("A", 1, 1000), state=TenderState.MARKETPLACE, **theirs))
    backbone.run()
    assert backbone.published(OrderCompleted) == []
    backbone.send(
        order(
            1,
            ("A", 1, 1000),
            state=TenderState.MARKETPLACE,
            status=ChannelStatus.SHIPPED,
            revision_at=T0 + timedelta(minutes=1),
            revision_id="r2",
            **theirs,
        )
    )
    backbone.run()
    assert len(backbone.published(OrderCompleted)) == 1
    assert backbone.published(ReserveStock) == []
    assert DocumentType.INVOICE in {
        document.document_type for document in backbone.published(ErpDocumentPosted)
    }


def test_a_pickup_waits_at_its_store_and_is_captured_when_collected(backbone: Backbone) -> None:
    items(backbone, "A")
    backbone.location("STORE", kind=LocationKind.STORE, pickup=True)
    backbone.stock("A", STORE=5, WH=5)
    backbone.send(order(1, ("A", 1, 1000), method=DeliveryMethod.PICKUP, pickup_location="STORE"))
    backbone.run()
    (shipped,) = backbone.published(OrderShipped)
    assert shipped.location == "STORE"
    assert backbone.outside.captured == 1100
    assert len(backbone.published(OrderCompleted)) == 1


def test_a_cancel_before_release_frees_stock_and_voids(backbone: Backbone) -> None:
    items(backbone, "A")
    backbone.stock("A", WH=5)
    backbone.send(order(1, ("A", 1, 1000), state=TenderState.PENDING))
    backbone.run()
    backbone.send(CancelRequested(order_id=order(1).order_id, request_id="c1", actor="support"))
    backbone.run()
    (cancelled,) = backbone.published(OrderCancelled)
    assert cancelled.complete
    assert backbone.published(SalableStock)[-1].units == 5
    assert backbone.outside.captured == 0


def test_a_cancel_after_release_asks_the_warehouse_and_frees_the_location(backbone: Backbone) -> None:
    items(backbone, "A")
    backbone.stock("A", WH=5)
    ship = backbone.outside.warehouse
    backbone.outside.warehouse = lambda _: []
    backbone.send(order(1, ("A", 1, 1000)))
    backbone.run()
    assert len(backbone.published(FulfillmentRequested)) == 1
    backbone.outside.warehouse = ship
    backbone.send(CancelRequested(order_id=order(1).order_id, request_id="c1", actor="support"))
    backbone.run()
    (cancelled,) = backbone.published(OrderCancelled)
    assert cancelled.complete
    assert backbone.published(OrderShipped) == []
    assert backbone.published(SalableStock)[-1].units == 5


def test_a_short_pick_ships_what_was_found_and_sources_the_rest_elsewhere(backbone: Backbone) -> None:
    items(backbone, "A")
    backbone.location("NORTH", kind=LocationKind.WAREHOUSE, shipping_cost_minor=1)
    backbone.location("SOUTH", kind=LocationKind.WAREHOUSE, shipping_cost_minor=2)
    backbone.stock("A", NORTH=3, SOUTH=3)
    backbone.run()
    ship = backbone.outside.warehouse

    def one_is_missing(command: Any) -> list[Any]:
        if command.location != "NORTH":
            return ship(command)
        (line,) = command.lines
        found, missing = replace(line, units=line.units - 1), replace(line, units=1)
        short = ShortPicked(
            order_id=command.order_id,
            fulfillment_order_id=command.fulfillment_order_id,
            event_id="short-1",
            location="NORTH",
            lines=(missing,),
        )
        return [short, *ship(replace(command, lines=(found,)))]

    backbone.outside.warehouse = one_is_missing
    backbone.send(order(1, ("A", 2, 2001)))
    backbone.run()
    shipments = backbone.published(OrderShipped)
    assert sorted(each.location for each in shipments) == ["NORTH", "SOUTH"]
    assert sum(line.amounts.due for each in shipments for line in each.lines) == 2201
    assert len(backbone.published(OrderCompleted)) == 1


def test_a_return_is_restocked_credited_refunded_and_booked_once(backbone: Backbone) -> None:
    items(backbone, "A")
    backbone.stock("A", WH=5)
    bought = order(1, ("A", 3, 3001))
    backbone.send(bought)
    backbone.run()
    line: dict[str, Any] = {"line_id": "L0", "units": 2}
    now = backbone.clock.now()
    inspected = ReturnInspected(
        order_id=bought.order_id,
        rma_id="RMA",
        inspection_id="I1",
        location="STORE",
        lines=(InspectedLine(**line, grade=Grade.SELLABLE),),
        inspected_at=now,
    )
    backbone.send(
        ReturnRequested(order_id=bought.order_id, rma_id="RMA", lines=(ReturnLine(**line),), requested_at=now)
    )
    backbone.send(
        ReturnReceived(
            order_id=bought.order_id,
            rma_id="RMA",
            receipt_id="R1",
            location="STORE",
            lines=(ReturnLine(**line),),
            received_at=now,
        )
    )
    backbone.send(inspected)
    backbone.send(inspected)
    backbone.run()
    (refund,) = backbone.published(RefundRecorded)
    assert (
        refund.amount.minor
        == backbone.outside.refunded
        == Amounts(currency="EUR", goods=3001, tax=300).share(units=2, before=0, of=3).due
    )
    back = [each for each in backbone.published(StockMoved) if each.cause is MovementCause.RETURN]
    assert [(each.location, each.delta) for each in back] == [("STORE", 2)]
    assert [each.document_type for each in backbone.published(ErpDocumentPosted)].count(
        DocumentType.CREDIT_MEMO
    ) == 1


def test_an_erp_that_is_away_delays_documents_and_nothing_else(backbone: Backbone) -> None:
    items(backbone, "A")
    backbone.stock("A", WH=50)
    backbone.erp.away = True
    for number in range(10):
        backbone.send(order(number, ("A", 1, 1000)))
    backbone.run()
    assert len(backbone.published(OrderCompleted)) == 10
    assert backbone.published(ErpDocumentPosted) == []
    backbone.erp.away = False
    backbone.run()
    assert len(backbone.published(ErpDocumentPosted)) == 40
    assert set(backbone.erp.documents.values()) == {1}


@pytest.mark.parametrize("shuffle", range(6))
def test_duplicated_and_permuted_channel_messages_converge(backbone: Backbone, shuffle: int) -> None:
    items(backbone, "A")
    backbone.stock("A", WH=5)
    backbone.run()
    later = T0 + timedelta(minutes=1)
    created = order(1, ("A", 2, 2000), state=TenderState.PENDING)
    paid = order(1, ("A", 2, 2000), state=TenderState.CAPTURED, revision_at=later, revision_id="paid")
    messages = list(permutations((created, paid, created)))[shuffle]
    for message in messages:
        backbone.send(message)
        backbone.run()
    backbone.send(*messages)
    backbone.run()
    assert len(backbone.published(OrderShipped)) == 1
    assert len(backbone.published(OrderCompleted)) == 1
    assert backbone.published(SalableStock)[-1].units == 3


def test_a_crash_of_every_service_in_turn_changes_nothing(backbone: Backbone) -> None:
    """Disks survive; what was in flight is read again."""
    items(backbone, "A", "B")
    backbone.stock("A", WH=100)
    backbone.stock("B", WH=100)
    backbone.run()
    for number, name in enumerate(backbone.services):
        backbone.send(order(number, ("A", 1, 1000), ("B", 2, 999)))
        for _ in range(3):
            for worker in backbone.workers.values():
                worker.step(wait=False)
            backbone.outside.step()
        backbone.workers[name].close()
        backbone.clock.advance(60)
        backbone.workers[name] = backbone.worker(name)
    backbone.run()
    assert len(backbone.published(OrderCompleted)) == 6
    assert set(backbone.erp.documents.values()) == {1}
    assert backbone.outside.shipped == {"A": 6, "B": 12}
    assert backbone.dead_letters() == []


def test_a_two_line_order_costs_at_most_twenty_decoded_messages(backbone: Backbone) -> None:
    """The hop budget, from intake to settlement: every record of the order, once for every service that decodes it."""
    items(backbone, "A", "B")
    backbone.stock("A", WH=10)
    backbone.stock("B", WH=10)
    backbone.run()
    bought = order(1, ("A", 1, 1000), ("B", 2, 999), state=TenderState.MARKETPLACE, channel="amazon")
    backbone.send(bought)
    backbone.run()
    settlement = {"settlement_id": "amazon/shop/1", "sha256": "ab" * 32, "channel": "amazon", "shop": "shop"}
    line = SettlementLine(
        line_no=1,
        transaction_type="Order",
        amount_type="ItemPrice",
        description="Principal",
        order_ref="1",
        amount_minor=1999,
        raw_amount="19.99",
        currency="EUR",
    )
    backbone.send(
        MatchLines(subject=bought.order_id, batch=1, order_id=bought.order_id, lines=(line,), **settlement)
    )
    backbone.run()
    topics = [topic for topic in REPOSITORY.topics.values() if not topic.compacted]
    decoded: Counter[str] = Counter()
    reader = TopicReader(backbone.broker, backbone.registry, [topic.name for topic in topics])
    for entry in reader.entries():
        if bought.order_id in (entry.meta.correlation_id, getattr(entry.body, "subject", None)):
            consumers = REPOSITORY.topics[entry.record.topic].consumers
            for service, kinds in consumers.items():
                if entry.body.SCHEMA in kinds:
                    decoded[f"{service} {type(entry.body).__name__}"] += 1
    assert len(backbone.published(OrderCompleted)) == len(backbone.published(LinesMatched)) == 1
    assert decoded.total() <= 20, decoded
