"""Till sales: one receipt is a finished sale, a fact. The store, register, business date and receipt number identify it."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any

from pydantic import Field

from crossdock_canonical.identity import LineId, LocationId, order_id
from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    ChannelLine,
    ChannelOrderReceived,
    ChannelStatus,
    DeliveryMethod,
    IntakeKind,
    ItemReference,
    Tender,
    TenderState,
)
from crossdock_channel_gateway.intake import Intake
from crossdock_channel_gateway.problem import FieldError
from crossdock_channel_gateway.reading import LINES_MAX, MINOR_MAX
from crossdock_channel_gateway.translate import ours

CHANNEL = "pos"


class Line(ours.OwnModel):
    """One line of the receipt; named by sku or by barcode."""

    line: ours.Identifier = Field(description="Line of the receipt, unique in it.")
    sku: ours.Identifier | None = None
    barcode: ours.Identifier | None = None
    title: ours.Text = ""
    quantity: ours.Units
    unit_price: ours.Amount = Field(description="Price of one unit before discount.")
    discount: ours.Amount = Field("0", description="Discount of the whole line.")
    tax: ours.Amount = Field("0", description="Tax of the whole line, also when the prices contain it.")


class Payment(ours.OwnModel):
    """One tender of the receipt, taken at the till."""

    reference: ours.Identifier
    amount: ours.Amount
    kind: ours.Text = Field("", description="Cash, card, voucher; for people.")


class Sale(ours.OwnModel):
    """A finished sale at a till."""

    store: ours.Identifier = Field(description="Store, which is the stock location too.")
    till: ours.Identifier = Field(alias="register")
    business_date: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]
    receipt: ours.Identifier
    sold_at: ours.Moment
    currency: ours.Currency
    taxes_included: bool = False
    lines: Annotated[list[Line], Field(min_length=1, max_length=LINES_MAX)]
    tenders: list[Payment] = Field([], max_length=20)
    total: ours.Amount | None = Field(
        None, description="Total of the receipt; default: the sum of its lines."
    )
    stock_movement_ref: ours.Identifier | None = Field(
        None, description="Reference of this sale in the store's own stock feed, so that it moves stock once."
    )


def translate(body: Any) -> Intake:
    """One receipt. Raises Refused(422)."""
    sale = ours.validated(Sale, body)
    money = ours.Amounts(sale.currency)
    _check(sale, money)
    lines = tuple(_line(line, index, money, sale) for index, line in enumerate(sale.lines))
    due = sum(line.amounts.due for line in lines if line.amounts is not None)
    total = due if sale.total is None else money.minor(sale.total, "total")
    tenders = tuple(
        Tender(
            reference=tender.reference,
            state=TenderState.CAPTURED,
            amount=Money(
                minor=money.minor(tender.amount, f"tenders[{index}].amount"), currency=sale.currency
            ),
        )
        for index, tender in enumerate(sale.tenders)
    )
    money.finish()
    external_id = f"{sale.till}/{sale.business_date}/{sale.receipt}"
    record = ChannelOrderReceived(
        order_id=order_id(channel=CHANNEL, shop=sale.store, external_id=external_id),
        channel=CHANNEL,
        shop=sale.store,
        external_id=external_id,
        external_name=sale.receipt,
        kind=IntakeKind.POS_SALE,
        revision_at=sale.sold_at,
        revision_id=external_id,
        placed_at=sale.sold_at,
        status=ChannelStatus.SHIPPED,
        currency=sale.currency,
        taxes_included=sale.taxes_included,
        total=Money(minor=total, currency=sale.currency),
        lines=lines,
        tenders=tenders or (_paid(f"{sale.store}/{external_id}", total, sale.currency),),
        method=DeliveryMethod.CARRIED_OUT,
        pickup_location=LocationId(sale.store),
        store_movement_ref=sale.stock_movement_ref or "",
    )
    return Intake(records=(record,), delivery=f"pos/{sale.store}/{external_id}", occurred_at=sale.sold_at)


def _paid(reference: str, total: int, currency: str) -> Tender:
    """A receipt is paid, whatever it says of how."""
    return Tender(
        reference=reference, state=TenderState.CAPTURED, amount=Money(minor=total, currency=currency)
    )


def _check(sale: Sale, money: ours.Amounts) -> None:
    try:
        date.fromisoformat(sale.business_date)
    except ValueError:
        money.errors.append(FieldError("business_date", "must be a date of the calendar", sale.business_date))
    seen: set[str] = set()
    for index, line in enumerate(sale.lines):
        if line.line in seen:
            money.errors.append(
                FieldError(f"lines[{index}].line", "must be unique within the receipt", line.line)
            )
        seen.add(line.line)
        if line.sku is None and line.barcode is None:
            money.errors.append(FieldError(f"lines[{index}].sku", "sku or barcode is required"))


def _line(line: Line, index: int, money: ours.Amounts, sale: Sale) -> ChannelLine:
    field = f"lines[{index}]"
    gross = money.minor(line.unit_price, f"{field}.unit_price") * line.quantity
    if abs(gross) >= MINOR_MAX:
        money.errors.append(FieldError(f"{field}.unit_price", "the amount is too large", line.unit_price))
        gross = 0
    tax = money.minor(line.tax, f"{field}.tax")
    found = (("sku", line.sku), ("gtin", line.barcode))
    return ChannelLine(
        line_id=LineId(line.line),
        items=tuple(ItemReference(scheme=scheme, value=value) for scheme, value in found if value),
        title=line.title,
        units=line.quantity,
        amounts=Amounts(
            currency=sale.currency,
            goods=gross - tax if sale.taxes_included else gross,
            discount=money.minor(line.discount, f"{field}.discount"),
            tax=tax,
        ),
    )
