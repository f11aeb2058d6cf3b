"""A busy world, and evidence of it with something planted: how tests show that a check of the auditor can fail.

Called by the auditor's tests. The services are the production ones; what is planted is planted in what was read of the topics.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from crossdock_canonical.identity import LineId, LocationId, OrderId, Sku, order_id
from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    CancelRequested,
    ChannelLine,
    ChannelOrderReceived,
    ChannelRefundReceived,
    ChannelStatus,
    DeliveryMethod,
    FulfillmentRequested,
    Grade,
    InspectedLine,
    IntakeKind,
    ItemMapped,
    ItemReference,
    KitComponent,
    LocationKind,
    MatchLines,
    RefundDisposition,
    RefundLine,
    ReturnInspected,
    ReturnLine,
    ReturnRequested,
    SettlementDeclared,
    SettlementLine,
    StockMovement,
    Tender,
    TenderState,
)
from crossdock_canonical.specification import T0
from crossdock_simulation.backbone import REPOSITORY, Backbone
from crossdock_tools.audit.auditor import Auditor
from crossdock_tools.audit.evidence import Changelog, Evidence, Version
from crossdock_tools.topic_reader import Entry

Body = Any
State = dict[str, Any]


def evidence_of(backbone: Backbone) -> Evidence:
    """What its topics say now."""
    return Auditor(REPOSITORY, backbone.registry).read(backbone.broker)


def planted(
    evidence: Evidence,
    *,
    drop: Callable[[Body], bool] = lambda _: False,
    change: Callable[[Body], Body] = lambda body: body,
    repeat: Callable[[Body], bool] = lambda _: False,
    state: Callable[[str, State], State] = lambda _, state: state,
) -> Evidence:
    """The same evidence without some records, with others, or with some twice; and with other latest states of a service."""
    found = replace(
        evidence,
        entries=[],
        log=defaultdict(list),
        _of=defaultdict(list),
        _by_id=defaultdict(list),
        _by_order=defaultdict(list),
    )
    for entry in evidence.entries:
        if drop(entry.body):
            continue
        changed = Entry(entry.record, entry.meta, change(entry.body))
        for _ in range(2 if repeat(entry.body) else 1):
            found.add(changed)
    found.changelogs = {
        service: Changelog(
            {key: _with_latest(versions, service, state) for key, versions in changelog.history.items()},
            changelog.books,
        )
        for service, changelog in evidence.changelogs.items()
    }
    return found


def when(kind: type, change: Callable[[Body], Body], **where: Any) -> Callable[[Body], Body]:
    """A change of the records of a type whose fields are as given; all others stay."""

    def changed(body: Body) -> Body:
        is_meant = type(body) is kind and all(getattr(body, name) == value for name, value in where.items())
        return change(body) if is_meant else body

    return changed


def _with_latest(
    versions: list[Version], service: str, state: Callable[[str, State], State]
) -> list[Version]:
    latest = versions[-1]
    if latest.state is None:
        return versions
    return [*versions[:-1], replace(latest, _state=state(service, dict(latest.state)))]


def an_order(
    number: int,
    *lines: tuple[str, int, int],
    state: TenderState = TenderState.AUTHORIZED,
    revision: int = 0,
    **fields: Any,
) -> ChannelOrderReceived:
    """The web shop's order of (sku, units, goods of the line); tax is a tenth, shipping 500. Revisions are a minute apart."""
    channel = fields.get("channel", "shopify")
    shipping = Amounts(currency="EUR", goods=500)
    worth = [Amounts(currency="EUR", goods=goods + 10, discount=10, tax=goods // 10) for _, _, goods in lines]
    total = Money(minor=sum(each.due for each in (*worth, shipping)), currency="EUR")
    at = T0 + timedelta(minutes=revision)
    base: dict[str, Any] = {
        "order_id": order_id(channel=channel, shop="shop", external_id=str(number)),
        "channel": "shopify",
        "shop": "shop",
        "external_id": str(number),
        "kind": IntakeKind.SNAPSHOT,
        "revision_at": at,
        "revision_id": f"revision/{number}/{revision}",
        "placed_at": T0,
        "currency": "EUR",
        "total": total,
        "shipping": shipping,
        "lines": tuple(
            ChannelLine(
                line_id=LineId(f"L{index}"),
                items=(ItemReference(scheme="sku", value=sku),),
                units=units,
                amounts=worth[index],
            )
            for index, (sku, units, _) in enumerate(lines)
        ),
        "tenders": (Tender(reference=f"T{number}", state=state, amount=total),),
    }
    return ChannelOrderReceived(**{**base, **fields})


SPLIT, EDITED, CANCELLED, RETURNED, UNPAID, QUEUED, REFUNDED, SETTLED, HELD_BACK, KIT = range(1, 11)
"""Numbers of the orders of `a_busy_day`, by what becomes of them."""


def id_of(number: int, channel: str = "shopify") -> OrderId:
    return order_id(channel=channel, shop="shop", external_id=str(number))


def a_busy_day(backbone: Backbone) -> None:
    """Something of everything that the checks of stock, money, ends and channels look at; all that can end has ended."""
    _open_shop(backbone)
    backbone.send(an_order(SPLIT, ("A", 2, 2001), ("B", 3, 1000)))

    placed = an_order(EDITED, ("A", 3, 3000), state=TenderState.PENDING)
    edited = an_order(EDITED, ("A", 2, 2000), revision=1)
    backbone.send(edited, cause="edited")
    backbone.send(placed, cause="placed")
    backbone.send(edited, cause="edited")
    backbone.send(an_order(KIT, ("KIT", 1, 1500)))
    backbone.run()

    ship = backbone.outside.warehouse
    backbone.outside.warehouse = lambda _: []
    backbone.send(an_order(CANCELLED, ("A", 1, 1000), state=TenderState.CAPTURED))
    backbone.run()
    backbone.outside.warehouse = ship
    backbone.send(CancelRequested(order_id=id_of(CANCELLED), request_id="c1", actor="support"))
    backbone.run()

    backbone.send(an_order(RETURNED, ("A", 3, 3001)), an_order(REFUNDED, ("B", 2, 2000)))
    backbone.run()
    _send_back(backbone)
    _sell_what_is_promised(backbone)
    backbone.send(an_order(QUEUED, ("D", 2, 2000)))
    backbone.run()
    backbone.clock.advance(60)
    backbone.stock("D", WH=7)
    backbone.run()
    _settle(backbone)
    _hold_one_back(backbone)
    backbone.pass_time(days=4)


def _open_shop(backbone: Backbone) -> None:
    for sku in ("A", "B", "C", "D"):
        backbone.send(ItemMapped(reference=f"sku:{sku}", scheme="sku", value=sku, sku=Sku(sku)))
    parts = (
        KitComponent(sku=Sku("A"), units=1, value_share=1),
        KitComponent(sku=Sku("B"), units=2, value_share=3),
    )
    kit = ItemMapped(reference="sku:KIT", scheme="sku", value="KIT", sku=Sku("KIT"), components=parts)
    backbone.send(kit)
    backbone.location("WH", kind=LocationKind.WAREHOUSE, safety_stock=1)
    backbone.location("SOUTH", kind=LocationKind.WAREHOUSE, shipping_cost_minor=900)
    backbone.location("STORE", kind=LocationKind.STORE, ships=False, pickup=True)
    backbone.stock("A", WH=50)
    backbone.stock("B", SOUTH=50)
    backbone.stock("C", STORE=1)
    backbone.stock("D", WH=1)
    backbone.run()
    receipt: dict[str, Any] = {
        "sku": Sku("A"),
        "location": "WH",
        "feed": "wms",
        "moved_at": backbone.clock.now(),
    }
    backbone.send(StockMovement(**receipt, delta=5, reason="receipt", ref="PO-1"), cause="PO-1")
    backbone.send(StockMovement(**receipt, delta=5, reason="receipt", ref="PO-1"), cause="PO-1")
    backbone.run()


def _send_back(backbone: Backbone) -> None:
    now = backbone.clock.now()
    line = ReturnLine(line_id=LineId("L0"), units=2)
    backbone.send(
        ReturnRequested(order_id=id_of(RETURNED), rma_id="RMA", lines=(line,), requested_at=now),
        ReturnInspected(
            order_id=id_of(RETURNED),
            rma_id="RMA",
            inspection_id="I1",
            location=LocationId("STORE"),
            lines=(
                InspectedLine(line_id=LineId("L0"), units=1, grade=Grade.SELLABLE),
                InspectedLine(line_id=LineId("L0"), units=1, grade=Grade.DAMAGED),
            ),
            inspected_at=now,
        ),
    )
    amounts = Amounts(currency="EUR", goods=1005, discount=5, tax=100)
    backbone.send(
        ChannelRefundReceived(
            order_id=id_of(REFUNDED),
            channel="shopify",
            shop="shop",
            external_id=str(REFUNDED),
            refund_id="77",
            lines=(
                RefundLine(
                    line_id=LineId("L0"), units=1, amounts=amounts, disposition=RefundDisposition.KEPT
                ),
            ),
            amount=Money(minor=amounts.due, currency="EUR"),
            refunded_at=now,
        )
    )
    backbone.run()


def _sell_what_is_promised(backbone: Backbone) -> None:
    """The only unit is reserved for an order that nobody pays; a till sells it."""
    backbone.send(an_order(UNPAID, ("C", 1, 1000), state=TenderState.PENDING))
    backbone.run()
    now = backbone.clock.now()
    backbone.send(
        an_order(
            100,
            ("C", 1, 1000),
            state=TenderState.CAPTURED,
            channel="pos",
            kind=IntakeKind.POS_SALE,
            status=ChannelStatus.SHIPPED,
            method=DeliveryMethod.CARRIED_OUT,
            placed_at=now,
            pickup_location=LocationId("STORE"),
        )
    )
    backbone.run()


def _settle(backbone: Backbone) -> None:
    sold = an_order(SETTLED, ("A", 1, 2000), state=TenderState.MARKETPLACE, channel="amazon", shipping=None)
    sold = replace(sold, total=Money(minor=2200, currency="EUR"))
    backbone.send(sold)
    backbone.run()
    file: dict[str, Any] = {
        "settlement_id": "amazon/shop/1",
        "sha256": "ab" * 32,
        "channel": "amazon",
        "shop": "shop",
    }

    def line(number: int, amount_type: str, description: str, minor: int, kind: str = "Order") -> Any:
        return SettlementLine(
            line_no=number,
            transaction_type=kind,
            amount_type=amount_type,
            description=description,
            order_ref=str(SETTLED),
            amount_minor=minor,
            raw_amount=str(minor),
            currency="EUR",
        )

    lines = (
        line(1, "ItemPrice", "Principal", 2000),
        line(2, "ItemPrice", "Tax", 200),
        line(3, "ItemFees", "Commission", -300),
    )
    reserve = line(4, "other-transaction", "Current Reserve Amount", -100, "other-transaction")
    backbone.send(
        MatchLines(subject=sold.order_id, batch=1, order_id=sold.order_id, lines=lines, **file),
        MatchLines(subject="amazon/shop/1", batch=4, lines=(reserve,), **file),
        SettlementDeclared(
            external_id="1",
            line_count=4,
            control_sum_minor=1800,
            declared_total=Money(minor=1801, currency="EUR"),
            **file,
        ),
    )
    backbone.run()


def _hold_one_back(backbone: Backbone) -> None:
    """Of two units one ships; the other is with the warehouse still."""
    ship = backbone.outside.warehouse

    def one(command: Any) -> list[Any]:
        if isinstance(command, FulfillmentRequested):
            command = replace(command, lines=tuple(replace(line, units=1) for line in command.lines))
        return ship(command)

    backbone.outside.warehouse = one
    backbone.send(an_order(HELD_BACK, ("A", 2, 2000)))
    backbone.run()
    backbone.outside.warehouse = ship
