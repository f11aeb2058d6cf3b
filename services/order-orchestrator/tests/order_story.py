"""What an order is told in the tests of its life: the channel, stock, warehouse, money. Imported by them alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from crossdock_canonical.decider import TimerFired
from crossdock_canonical.identity import LineId, LocationId, OrderId, Sku
from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    CancelRequested,
    ChannelLine,
    ChannelOrderReceived,
    ChannelRefundReceived,
    ChannelStatus,
    CreditProposed,
    FulfillmentLine,
    IntakeKind,
    ItemMapped,
    ItemReference,
    KitComponent,
    LineUnits,
    PaymentCaptured,
    RefundLine,
    ReturnedLine,
    ShipmentDispatched,
    SlipResult,
    StockReserved,
    Tender,
    TenderState,
)
from crossdock_canonical.specification import T0, Outcome, Specification
from crossdock_order_orchestrator.decide import decide
from crossdock_order_orchestrator.evolve import evolve
from crossdock_order_orchestrator.model import Policy

ORDER = OrderId("order-1")
SHIRT, MUG = LineId("L1"), LineId("L2")
TENDER = "pay-1"
POLICY = Policy(fraud_threshold_minor={"EUR": 100_000})
PATIENT = replace(POLICY, backorder_channels=frozenset({"shopify"}))

ITEMS = {
    "sku:SHIRT": ItemMapped(reference="sku:SHIRT", scheme="sku", value="SHIRT", sku=Sku("SHIRT")),
    "sku:MUG": ItemMapped(reference="sku:MUG", scheme="sku", value="MUG", sku=Sku("MUG")),
    "sku:CASE": ItemMapped(reference="sku:CASE", scheme="sku", value="CASE", sku=Sku("MUG"), units_per=12),
    "sku:KIT": ItemMapped(
        reference="sku:KIT",
        scheme="sku",
        value="KIT",
        sku=Sku("KIT"),
        components=(
            KitComponent(sku=Sku("SHIRT"), units=1, value_share=2),
            KitComponent(sku=Sku("MUG"), units=2, value_share=1),
        ),
    ),
}


def items(group: str) -> tuple[ItemMapped, ...]:
    return (ITEMS[group],) if group in ITEMS else ()


def spec(policy: Policy = POLICY) -> Specification:
    return Specification(decide=decide, evolve=evolve, arguments={"policy": policy, "items": items})


def eur(minor: int) -> Money:
    return Money(minor=minor, currency="EUR")


def worth(goods: int, tax: int = 0, discount: int = 0) -> Amounts:
    return Amounts(currency="EUR", goods=goods, discount=discount, tax=tax)


def a_line(line_id: LineId, sku: str, units: int, amounts: Amounts | None, **more: Any) -> ChannelLine:
    return ChannelLine(
        line_id=line_id, items=(ItemReference(scheme="sku", value=sku),), units=units, amounts=amounts, **more
    )


def an_order(
    *lines: ChannelLine, revision: int = 1, tender: TenderState | None = TenderState.CAPTURED, **more: Any
) -> ChannelOrderReceived:
    """Two shirts for 20.00 + 3.80 tax and a mug for 5.00 + 0.95, shipping 4.00: 33.75 in all, unless told otherwise."""
    if not lines:
        lines = (a_line(SHIRT, "SHIRT", 2, worth(2000, 380)), a_line(MUG, "MUG", 1, worth(500, 95)))
    fields: dict[str, Any] = {"shipping": worth(400), "other_minor": 0, **more}
    parts = sum(line.amounts.due for line in lines if line.amounts is not None)
    due = parts + (fields["shipping"].due if fields["shipping"] else 0) + fields["other_minor"]
    total = fields.pop("total", eur(due))
    amount = fields.pop("amount", total or eur(0))
    tenders = (Tender(reference=TENDER, state=tender, amount=amount),) if tender else ()
    return ChannelOrderReceived(
        **{
            "order_id": ORDER,
            "channel": "shopify",
            "shop": "shop",
            "external_id": "1001",
            "kind": IntakeKind.SNAPSHOT,
            "revision_at": T0 + timedelta(minutes=revision),
            "revision_id": f"r{revision}",
            "placed_at": T0,
            "currency": "EUR",
            "total": total,
            "lines": lines,
            "tenders": tenders,
            **fields,
        }
    )


def a_channel_cancel() -> ChannelOrderReceived:
    return an_order(
        kind=IntakeKind.CANCEL, revision=9, status=ChannelStatus.CANCELLED, total=None, tender=None
    )


def reserved(slip: int = 1, *results: tuple[LineId, str, int, int], **more: Any) -> StockReserved:
    results = results or ((SHIRT, "SHIRT", 2, 0), (MUG, "MUG", 1, 0))
    return StockReserved(
        order_id=ORDER,
        slip_id=f"{ORDER}/reserve/{slip}",
        lines=tuple(
            SlipResult(line_id=line, sku=Sku(sku), units=got + wait, reserved=got, backordered=wait)
            for line, sku, got, wait in results
        ),
        **more,
    )


def parts(**units: int) -> tuple[FulfillmentLine, ...]:
    skus = {"L1": "SHIRT", "L2": "MUG"}
    return tuple(
        FulfillmentLine(line_id=LineId(line), sku=Sku(skus[line]), units=n) for line, n in units.items()
    )


def dispatched(number: int = 1, **units: int) -> ShipmentDispatched:
    return ShipmentDispatched(
        order_id=ORDER,
        fulfillment_order_id=f"{ORDER}/{number}",
        shipment_id=f"s{number}",
        release=1,
        location=LocationId("dc"),
        lines=parts(**(units or {"L1": 2, "L2": 1})),
        dispatched_at=T0,
    )


def captured(capture_id: str, minor: int) -> PaymentCaptured:
    return PaymentCaptured(order_id=ORDER, capture_id=capture_id, amount=eur(minor), captured_at=T0)


def a_cancel_request(request_id: str = "q1", **units: int) -> CancelRequested:
    lines = tuple(LineUnits(line_id=LineId(line), units=n) for line, n in units.items())
    return CancelRequested(order_id=ORDER, request_id=request_id, actor="support", lines=lines)


def a_channel_refund(
    refund_id: str, amount: int, *lines: tuple[LineId, int, Amounts], **more: Any
) -> ChannelRefundReceived:
    return ChannelRefundReceived(
        order_id=ORDER,
        channel="shopify",
        shop="shop",
        external_id="1001",
        refund_id=refund_id,
        lines=tuple(RefundLine(line_id=line, units=n, amounts=amounts) for line, n, amounts in lines),
        amount=eur(amount),
        refunded_at=T0,
        **more,
    )


def a_credit(credit_id: str, units: int = 1, **more: Any) -> CreditProposed:
    line = ReturnedLine(
        line_id=SHIRT, sku=Sku("SHIRT"), units=units, amounts=worth(1000 * units, 190 * units)
    )
    return CreditProposed(
        order_id=ORDER, rma_id="rma-1", credit_id=credit_id, lines=(line,), currency="EUR", **more
    )


def timer(specification: Specification, name: str) -> tuple[TimerFired, datetime]:
    due = specification.state.timers[name]
    return TimerFired(name=name, due=due), due


def fire(specification: Specification, name: str) -> Outcome:
    command, due = timer(specification, name)
    outcome = specification.when(command, now=due)
    assert outcome.state is None or outcome.state.timers.get(name) != due, (
        "a timer that fired must go or move"
    )
    return outcome


RELEASED = (an_order(), reserved())
AUTHORIZED = (an_order(tender=TenderState.AUTHORIZED), reserved())
