"""Amazon Selling Partner API, Orders v0: one order with its items into canonical intake. Called by `app`.

An item's prices are for all its units already. Whether they contain tax follows the marketplace, unless the order's own total
proves the other reading. Tax that the marketplace collects (`TaxCollection`) is never the seller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from crossdock_canonical.identity import LineId, LocationId, order_id
from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    Address,
    ChannelLine,
    ChannelOrderReceived,
    ChannelStatus,
    DeliveryMethod,
    FulfilledBy,
    IntakeKind,
    ItemReference,
    Tender,
    TenderState,
)
from crossdock_channel_gateway.intake import Intake, bounded_attributes
from crossdock_channel_gateway.reading import Reader
from crossdock_channel_gateway.translate.marketplaces import BY_ID

CHANNEL = "amazon"
_STATUSES = {
    "Pending": ChannelStatus.PENDING,
    "PendingAvailability": ChannelStatus.PENDING,
    "Unshipped": ChannelStatus.OPEN,
    "PartiallyShipped": ChannelStatus.OPEN,
    "InvoiceUnconfirmed": ChannelStatus.OPEN,
    "Shipped": ChannelStatus.SHIPPED,
    "Canceled": ChannelStatus.CANCELLED,
    "Unfulfillable": ChannelStatus.CANCELLED,
}
_FULFILLERS = {"MFN": FulfilledBy.SELLER, "AFN": FulfilledBy.MARKETPLACE}


def translate(body: Any, *, seller: str, notification: str = "") -> Intake:
    """`{"order": …, "items": …}` as the API returned them, wrapped in `payload` or not. Raises Refused(422).

    seller: our seller account. notification: NotificationId that led to the fetch, when there was one.
    """
    root = Reader(body)
    order = _one_order(root.at("order"))
    external_id = order.at("AmazonOrderId").identifier()
    status: ChannelStatus = order.at("OrderStatus").word(_STATUSES)
    updated = order.at("LastUpdateDate")
    revision_at = updated.moment()
    marketplace = order.at("MarketplaceId").identifier()
    rows = _items(root.at("items"), external_id)
    if not rows and status is not ChannelStatus.CANCELLED and order.present:
        root.at("items").fail("must have at least one element")
    currency = _currency(order, rows, marketplace)
    cancelled = status is ChannelStatus.CANCELLED
    total = _amount(order.at("OrderTotal"), currency) if order.at("OrderTotal").present else None
    priced = _Priced(rows, currency, total, taxes_included=_prices_contain_tax(marketplace))
    by_marketplace = (
        order.at("FulfillmentChannel").word(_FULFILLERS, default="MFN") is FulfilledBy.MARKETPLACE
    )
    pickup = _pickup_location(order, rows)
    reference = f"{updated.text()}/{order.at('OrderStatus').text()}"
    record = ChannelOrderReceived(
        order_id=order_id(channel=CHANNEL, shop=seller, marketplace=marketplace, external_id=external_id),
        channel=CHANNEL,
        shop=seller,
        marketplace=marketplace,
        external_id=external_id,
        external_name=order.at("SellerOrderId").text() or external_id,
        kind=IntakeKind.CANCEL if cancelled else IntakeKind.SNAPSHOT,
        revision_at=revision_at,
        revision_id=notification or reference,
        placed_at=order.at("PurchaseDate").moment() if order.at("PurchaseDate").present else revision_at,
        status=status,
        currency=currency,
        taxes_included=priced.taxes_included,
        total=None if cancelled or total is None else Money(minor=total, currency=currency),
        lines=() if cancelled else priced.lines,
        shipping=None if cancelled else priced.shipping,
        other_minor=0 if cancelled else priced.other,
        tenders=() if cancelled or total is None else (_tender(external_id, total, currency),),
        fulfilled_by=FulfilledBy.MARKETPLACE if by_marketplace else FulfilledBy.SELLER,
        method=DeliveryMethod.PICKUP if pickup else DeliveryMethod.SHIP,
        pickup_location=LocationId(pickup) if pickup else None,
        ship_to=_address(order),
        promise_by=order.at("LatestShipDate").moment() if order.at("LatestShipDate").present else None,
        cancel_reason=_buyer_cancel_reason(rows) if cancelled else "",
    )
    attributes = _attributes(order, rows)
    root.finish()
    return Intake(
        records=(record,),
        delivery=f"amazon/{seller}/{marketplace}/{external_id}/{record.revision_id}",
        occurred_at=revision_at,
        attributes=attributes,
    )


def _one_order(given: Reader) -> Reader:
    """The order itself, out of getOrder's or a one-order getOrders' answer."""
    if not given.present:
        given.fail("is required")
        return given
    inner = given.at("payload") if isinstance(given.value, dict) and "payload" in given.value else given
    if not (isinstance(inner.value, dict) and "Orders" in inner.value):
        return inner
    orders = inner.at("Orders").items()
    if len(orders) != 1:
        inner.at("Orders").fail("must have exactly one element")
        return Reader(None, inner.path)
    return orders[0]


def _items(given: Reader, external_id: str) -> list[Reader]:
    """The items, out of getOrderItems' answer or as a bare list; they must be this order's."""
    if isinstance(given.value, dict):
        inner = given.at("payload") if "payload" in given.value else given
        owner = inner.at("AmazonOrderId")
        if owner.present and owner.value != external_id:
            owner.fail("must be the order's AmazonOrderId")
        return inner.at("OrderItems").items()
    return given.items()


def _prices_contain_tax(marketplace: str) -> bool:
    known = BY_ID.get(marketplace)
    return known is not None and known.taxes_included


def _currency(order: Reader, rows: Sequence[Reader], marketplace: str) -> str:
    """The order's currency; a pending order has no money yet, and takes its marketplace's."""
    for money in (order.at("OrderTotal"), *(row.at("ItemPrice") for row in rows)):
        if money.present:
            return money.at("CurrencyCode").currency()
    if marketplace in BY_ID:
        return BY_ID[marketplace].currency
    if marketplace:
        order.at("MarketplaceId").fail("is not a known marketplace, and no amount names a currency")
    return ""


def _amount(money: Reader, currency: str) -> int:
    """An SP-API Money; 0 when absent."""
    if not money.present:
        return 0
    code = money.at("CurrencyCode").currency()
    if code and currency and code != currency:
        money.at("CurrencyCode").fail(f"must be the order's currency {currency}")
        return 0
    return money.at("Amount").minor(currency)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Charge:
    """Price, discount and tax as the API gives them, for all units."""

    price: int
    discount: int
    tax: int
    discount_tax: int
    facilitated: bool

    def amounts(self, currency: str, *, taxes_included: bool) -> Amounts:
        tax = self.tax - self.discount_tax
        return Amounts(
            currency=currency,
            goods=self.price - self.tax if taxes_included else self.price,
            discount=self.discount - self.discount_tax if taxes_included else self.discount,
            tax=0 if self.facilitated else tax,
            facilitator_tax=tax if self.facilitated else 0,
        )


class _Priced:
    """Lines, shipping and cash-on-delivery fees, read with or without tax in the prices."""

    def __init__(
        self, rows: Sequence[Reader], currency: str, total: int | None, *, taxes_included: bool
    ) -> None:
        items = [_item_charge(row, currency) for row in rows]
        shipping = [_shipping_charge(row, currency) for row in rows]
        self.other = sum(
            _amount(row.at("CODFee"), currency) - _amount(row.at("CODFeeDiscount"), currency) for row in rows
        )

        def due(*, included: bool) -> int:
            charges = [charge for charge in (*items, *shipping) if charge is not None]
            return (
                sum(charge.amounts(currency, taxes_included=included).due for charge in charges) + self.other
            )

        self.taxes_included = taxes_included
        if total is not None and due(included=taxes_included) != total == due(included=not taxes_included):
            self.taxes_included = not taxes_included
        _refuse_repeated(rows)
        self.lines = tuple(
            _line(row, charge, currency, taxes_included=self.taxes_included)
            for row, charge in zip(rows, items, strict=True)
        )
        charged = [
            charge.amounts(currency, taxes_included=self.taxes_included)
            for charge in shipping
            if charge is not None
        ]
        self.shipping = sum(charged, Amounts.zero(currency)) if charged else None


def _refuse_repeated(rows: Sequence[Reader]) -> None:
    seen: set[object] = set()
    for row in rows:
        line_id = row.at("OrderItemId").identifier()
        if line_id in seen:
            row.at("OrderItemId").fail("must be unique within the order")
        seen.add(line_id)


def _item_charge(row: Reader, currency: str) -> _Charge | None:
    """The item's price with its gift wrap; None while the order is not priced."""
    if not row.at("ItemPrice").present:
        return None
    wrap = row.at("BuyerInfo")
    return _Charge(
        price=_amount(row.at("ItemPrice"), currency) + _amount(wrap.at("GiftWrapPrice"), currency),
        discount=_amount(row.at("PromotionDiscount"), currency),
        tax=_amount(row.at("ItemTax"), currency) + _amount(wrap.at("GiftWrapTax"), currency),
        discount_tax=_amount(row.at("PromotionDiscountTax"), currency),
        facilitated=_facilitated(row),
    )


def _shipping_charge(row: Reader, currency: str) -> _Charge | None:
    if not row.at("ShippingPrice").present:
        return None
    return _Charge(
        price=_amount(row.at("ShippingPrice"), currency),
        discount=_amount(row.at("ShippingDiscount"), currency),
        tax=_amount(row.at("ShippingTax"), currency),
        discount_tax=_amount(row.at("ShippingDiscountTax"), currency),
        facilitated=_facilitated(row),
    )


def _facilitated(row: Reader) -> bool:
    collection = row.at("TaxCollection")
    return collection.at("Model").text() == "MarketplaceFacilitator" or collection.at(
        "ResponsibleParty"
    ).text().startswith("Amazon")


def _line(row: Reader, charge: _Charge | None, currency: str, *, taxes_included: bool) -> ChannelLine:
    sku = row.at("SellerSKU").identifier(required=False)
    asin = row.at("ASIN").identifier(required=False)
    found = (("sku", sku), ("amazon_asin", asin))
    return ChannelLine(
        line_id=LineId(row.at("OrderItemId").identifier()),
        items=tuple(ItemReference(scheme=scheme, value=value) for scheme, value in found if value),
        title=row.at("Title").text(),
        units=row.at("QuantityOrdered").whole(),
        amounts=None if charge is None else charge.amounts(currency, taxes_included=taxes_included),
    )


def _tender(external_id: str, total: int, currency: str) -> Tender:
    return Tender(
        reference=external_id, state=TenderState.MARKETPLACE, amount=Money(minor=total, currency=currency)
    )


def _pickup_location(order: Reader, rows: Sequence[Reader]) -> str:
    """Where an in-store pickup order is collected; empty for an order that ships."""
    if not order.at("IsISPU").flag(default=False):
        return ""
    source = order.at("FulfillmentInstruction").at("FulfillmentSupplySourceId")
    stores = (source, *(row.at("StoreChainStoreId") for row in rows))
    for store in stores:
        if store.present:
            return store.identifier()
    source.fail("an in-store pickup must name its location")
    return ""


def _address(order: Reader) -> Address | None:
    given = order.at("ShippingAddress")
    if not given.present:
        return None
    return Address(
        name=given.at("Name").text(),
        company=given.at("CompanyName").text(),
        line1=given.at("AddressLine1").text(),
        line2=" ".join(
            part for part in (given.at("AddressLine2").text(), given.at("AddressLine3").text()) if part
        ),
        city=given.at("City").text(),
        region=given.at("StateOrRegion").text(),
        postcode=given.at("PostalCode").text(),
        country=given.at("CountryCode").text(),
        phone=given.at("Phone").text(),
        email=order.at("BuyerInfo").at("BuyerEmail").text(),
    )


def _buyer_cancel_reason(rows: Sequence[Reader]) -> str:
    """The buyer's wish to cancel: the API says it as the text "true", on every item."""
    for row in rows:
        wish = row.at("BuyerRequestedCancel")
        if wish.at("IsBuyerRequestedCancel").flag(default=False):
            return wish.at("BuyerCancelReason").text() or "buyer requested"
    return ""


def _attributes(order: Reader, rows: Sequence[Reader]) -> dict[str, str]:
    gifts = [row.at("OrderItemId").text() for row in rows if row.at("IsGift").flag(default=False)]
    return bounded_attributes(
        [
            ("amazon.order_type", order.at("OrderType").text()),
            ("amazon.service_level", order.at("ShipmentServiceLevelCategory").text()),
            ("amazon.is_prime", "true" if order.at("IsPrime").flag(default=False) else ""),
            ("amazon.replaces", order.at("ReplacedOrderId").text()),
            ("amazon.gift_lines", ", ".join(gifts)),
            ("amazon.buyer_requested_cancel", _buyer_cancel_reason(rows)),
        ]
    )
