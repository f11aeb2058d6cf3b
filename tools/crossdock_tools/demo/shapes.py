"""Payloads as the channels send them: Shopify orders and refunds, Amazon orders with items, till receipts, payout files.

Used by the scenario. Amounts are minor units until they are written; every total is the sum of its parts.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from crossdock_canonical.money import decimal_text

SHOP = "harbour-outfitters.example"
SHOP_CURRENCY = "EUR"
SELLER = "A2HARBOUR0SELLER"
MARKETPLACE = "ATVPDKIKX0DER"
MARKETPLACE_NAME = "Amazon.com"
AMAZON_CURRENCY = "USD"

_TAX_PERCENT = 19
_AMAZON_TAX_PERCENT = 8
_SHIPPING = 490


@dataclass(frozen=True)
class Item:
    """One sellable thing and what the channels call it. `price` is the unit price before tax, minor units."""

    sku: str
    title: str
    price: int
    variant: int
    asin: str
    gtin: str


@dataclass(frozen=True)
class Wanted:
    """A quantity of an item in an order; `discount` is for the whole line, minor units."""

    item: Item
    units: int
    discount: int = 0
    line_id: str = ""


@dataclass(frozen=True)
class ShopifyOrder:
    """An order in a Shopify shop. Tax is exclusive, shipping is taxed."""

    number: int
    placed_at: datetime
    lines: Sequence[Wanted]
    financial_status: str = "authorized"
    pickup_location: str | None = None
    revision: int = 0
    cancelled: bool = False
    notes: Sequence[tuple[str, str]] = field(default_factory=tuple)

    @property
    def id(self) -> int:
        return 5_312_960_330_000 + self.number

    def line_id(self, index: int) -> int:
        return self.id * 10 + index

    @property
    def updated_at(self) -> datetime:
        return self.placed_at + timedelta(seconds=self.revision)

    @property
    def shipping(self) -> int:
        return 0 if self.pickup_location else _SHIPPING

    def line_tax(self, line: Wanted) -> int:
        return _percent(line.item.price * line.units - line.discount, _TAX_PERCENT)

    @property
    def total(self) -> int:
        goods = sum(line.item.price * line.units - line.discount + self.line_tax(line) for line in self.lines)
        return goods + self.shipping + _percent(self.shipping, _TAX_PERCENT)

    def body(self) -> dict[str, Any]:
        """The webhook's bare order, with the newer `*_set` money beside the old decimals."""
        shipping_tax = _percent(self.shipping, _TAX_PERCENT)
        tax = sum(self.line_tax(line) for line in self.lines) + shipping_tax
        subtotal = sum(line.item.price * line.units - line.discount for line in self.lines)
        methods = [] if self.pickup_location else [self._shipping_line(shipping_tax)]
        notes = [*self.notes]
        if self.pickup_location:
            notes.append(("pickup_location", self.pickup_location))
        address = _address(self.number)
        return {
            "id": self.id,
            "admin_graphql_api_id": f"gid://shopify/Order/{self.id}",
            "name": f"#{self.number}",
            "order_number": self.number,
            "email": f"customer{self.number}@shop.example",
            "created_at": self.placed_at.isoformat(),
            "updated_at": self.updated_at.isoformat(),
            "cancelled_at": self.updated_at.isoformat() if self.cancelled else None,
            "cancel_reason": "customer" if self.cancelled else None,
            "closed_at": None,
            "currency": SHOP_CURRENCY,
            "presentment_currency": SHOP_CURRENCY,
            "financial_status": self.financial_status,
            "fulfillment_status": None,
            "subtotal_price": _eur(subtotal),
            "total_price": _eur(self.total),
            "total_price_set": _set(self.total),
            "total_tax": _eur(tax),
            "total_discounts": _eur(sum(line.discount for line in self.lines)),
            "taxes_included": False,
            "source_name": "web",
            "line_items": [self._line(index, line) for index, line in enumerate(self.lines)],
            "shipping_lines": methods,
            "shipping_address": address,
            "billing_address": address,
            "note_attributes": [{"name": name, "value": value} for name, value in notes],
            "fulfillments": [],
            "refunds": [],
        }

    def _line(self, index: int, line: Wanted) -> dict[str, Any]:
        tax = self.line_tax(line)
        discounts = (
            [{"amount": _eur(line.discount), "discount_application_index": 0}] if line.discount else []
        )
        return {
            "id": self.line_id(index),
            "product_id": line.item.variant // 10,
            "variant_id": line.item.variant,
            "sku": line.item.sku,
            "title": line.item.title,
            "quantity": line.units,
            "price": _eur(line.item.price),
            "price_set": _set(line.item.price),
            "grams": 400,
            "requires_shipping": True,
            "tax_lines": [{"price": _eur(tax), "price_set": _set(tax), "rate": 0.19, "title": "VAT"}],
            "discount_allocations": discounts,
        }

    def _shipping_line(self, tax: int) -> dict[str, Any]:
        return {
            "id": self.id * 10 + 9,
            "code": "STANDARD",
            "title": "Standard",
            "price": _eur(self.shipping),
            "price_set": _set(self.shipping),
            "tax_lines": [{"price": _eur(tax), "rate": 0.19, "title": "VAT"}],
            "discount_allocations": [],
        }

    def refund(self, refund_id: int, index: int, at: datetime) -> dict[str, Any]:
        """A refund of one whole line that the shop made by itself."""
        line = self.lines[index]
        tax = self.line_tax(line)
        net = line.item.price * line.units - line.discount
        return {
            "id": refund_id,
            "order_id": self.id,
            "created_at": at.isoformat(),
            "note": "goodwill",
            "restock": False,
            "refund_line_items": [
                {
                    "id": refund_id * 10,
                    "quantity": line.units,
                    "line_item_id": self.line_id(index),
                    "restock_type": "no_restock",
                    "subtotal": _eur(net),
                    "total_tax": _eur(tax),
                }
            ],
            "transactions": [
                {
                    "id": refund_id * 10 + 1,
                    "parent_id": self.id,
                    "amount": _eur(net + tax),
                    "kind": "refund",
                    "gateway": "shopify_payments",
                    "status": "success",
                    "currency": SHOP_CURRENCY,
                }
            ],
            "order_adjustments": [],
        }


@dataclass(frozen=True)
class AmazonOrder:
    """An order on Amazon; its tax is collected by the marketplace."""

    number: int
    placed_at: datetime
    lines: Sequence[Wanted]
    status: str = "Unshipped"
    channel: str = "MFN"
    revision: int = 0
    without_sku: bool = False

    @property
    def id(self) -> str:
        return f"113-{self.number:07d}-{(self.number * 7919) % 10_000_000:07d}"

    def item_id(self, index: int) -> str:
        return f"{68_828_574_000_000 + self.number * 10 + index}"

    def tax(self, line: Wanted) -> int:
        return _percent(line.item.price * line.units, _AMAZON_TAX_PERCENT)

    @property
    def total(self) -> int:
        return sum(line.item.price * line.units + self.tax(line) for line in self.lines)

    def body(self) -> dict[str, Any]:
        """`{"order": …, "items": […]}` as getOrder and getOrderItems answer."""
        pending = self.status == "Pending"
        shipped = self.status == "Shipped"
        units = sum(line.units for line in self.lines)
        order: dict[str, Any] = {
            "AmazonOrderId": self.id,
            "PurchaseDate": _zulu(self.placed_at),
            "LastUpdateDate": _zulu(self.placed_at + timedelta(seconds=self.revision)),
            "OrderStatus": self.status,
            "FulfillmentChannel": self.channel,
            "MarketplaceId": MARKETPLACE,
            "NumberOfItemsShipped": units if shipped else 0,
            "NumberOfItemsUnshipped": 0 if shipped or pending else units,
            "EarliestShipDate": _zulu(self.placed_at),
            "LatestShipDate": _zulu(self.placed_at + timedelta(days=2)),
            "OrderType": "StandardOrder",
            "IsReplacementOrder": "false",
        }
        if not pending:
            order["OrderTotal"] = _usd(self.total)
            order["ShippingAddress"] = {
                "Name": "Jordan Example",
                "AddressLine1": f"{self.number} Main Street",
                "City": "Springfield",
                "StateOrRegion": "IL",
                "PostalCode": "62701",
                "CountryCode": "US",
            }
        return {"order": order, "items": [self._item(i, line, pending) for i, line in enumerate(self.lines)]}

    def _item(self, index: int, line: Wanted, pending: bool) -> dict[str, Any]:
        item: dict[str, Any] = {
            "ASIN": line.item.asin,
            "SellerSKU": "" if self.without_sku else line.item.sku,
            "OrderItemId": self.item_id(index),
            "Title": line.item.title,
            "QuantityOrdered": line.units,
            "IsGift": "false",
        }
        if not pending:
            item["ItemPrice"] = _usd(line.item.price * line.units)
            item["ItemTax"] = _usd(self.tax(line))
            item["TaxCollection"] = {
                "Model": "MarketplaceFacilitator",
                "ResponsibleParty": "Amazon Services, Inc.",
            }
        return item


@dataclass(frozen=True)
class Receipt:
    """A finished sale at a till."""

    number: int
    store: str
    sold_at: datetime
    lines: Sequence[Wanted]

    @property
    def external_id(self) -> str:
        return f"R1/{self.sold_at.date().isoformat()}/{self.number:06d}"

    def body(self) -> dict[str, Any]:
        return {
            "store": self.store,
            "register": "R1",
            "business_date": self.sold_at.date().isoformat(),
            "receipt": f"{self.number:06d}",
            "sold_at": self.sold_at.isoformat(),
            "currency": SHOP_CURRENCY,
            "lines": [
                {
                    "line": str(index + 1),
                    "barcode": line.item.gtin,
                    "quantity": line.units,
                    "unit_price": _eur(line.item.price),
                    "tax": _eur(_percent(line.item.price * line.units, _TAX_PERCENT)),
                }
                for index, line in enumerate(self.lines)
            ],
        }


def shopify_payout(
    payout_id: int, orders: Sequence[ShopifyOrder], at: datetime
) -> tuple[dict[str, Any], int]:
    """A payout with its balance transactions, and how many settlement lines it makes."""
    transactions: list[dict[str, Any]] = []
    paid = 0
    for order in orders:
        fee = _percent(order.total, 2) + 25
        paid += order.total - fee
        transactions.append(
            {
                "id": order.id + 7,
                "type": "charge",
                "payout_id": payout_id,
                "payout_status": "paid",
                "currency": SHOP_CURRENCY,
                "amount": _eur(order.total),
                "fee": _eur(fee),
                "net": _eur(order.total - fee),
                "source_id": order.id + 3,
                "source_type": "charge",
                "source_order_id": order.id,
                "source_order_transaction_id": order.id + 3,
                "processed_at": at.isoformat(),
            }
        )
    transactions.append(
        {
            "id": payout_id + 1,
            "type": "payout",
            "payout_id": payout_id,
            "payout_status": "paid",
            "currency": SHOP_CURRENCY,
            "amount": _eur(-paid),
            "fee": _eur(0),
            "net": _eur(-paid),
            "source_id": payout_id,
            "source_type": "payout",
            "source_order_id": None,
            "processed_at": at.isoformat(),
        }
    )
    payout = {
        "id": payout_id,
        "status": "paid",
        "date": at.date().isoformat(),
        "currency": SHOP_CURRENCY,
        "amount": _eur(paid),
    }
    return {"payout": payout, "transactions": transactions}, 2 * len(orders)


_COLUMNS = [
    *(
        "settlement-id",
        "settlement-start-date",
        "settlement-end-date",
        "deposit-date",
        "total-amount",
        "currency",
    ),
    *(
        "transaction-type",
        "order-id",
        "merchant-order-id",
        "adjustment-id",
        "shipment-id",
        "marketplace-name",
    ),
    *("amount-type", "amount-description", "amount", "fulfillment-id", "posted-date", "posted-date-time"),
    *(
        "order-item-code",
        "merchant-order-item-id",
        "merchant-adjustment-item-id",
        "sku",
        "quantity-purchased",
    ),
    "promotion-id",
]


def amazon_settlement(settlement_id: int, orders: Sequence[AmazonOrder], at: datetime) -> tuple[str, int]:
    """A V2 flat file, tab separated, totals in its first row; and how many lines it has."""
    rows: list[dict[str, str]] = []
    total = 0

    def add(kind: str, description: tuple[str, str], minor: int, **fields: str) -> None:
        nonlocal total
        total += minor
        rows.append(
            {
                "settlement-id": str(settlement_id),
                "transaction-type": kind,
                "amount-type": description[0],
                "amount-description": description[1],
                "amount": decimal_text(minor, AMAZON_CURRENCY),
                "posted-date": at.date().isoformat(),
                "posted-date-time": f"{at:%Y-%m-%d %H:%M:%S} UTC",
                **fields,
            }
        )

    for order in orders:
        for index, line in enumerate(order.lines):
            where = {
                "order-id": order.id,
                "marketplace-name": MARKETPLACE_NAME,
                "order-item-code": order.item_id(index),
                "sku": line.item.sku,
                "quantity-purchased": str(line.units),
            }
            principal, tax = line.item.price * line.units, order.tax(line)
            add("Order", ("ItemPrice", "Principal"), principal, **where)
            add("Order", ("ItemPrice", "Tax"), tax, **where)
            add("Order", ("ItemWithheldTax", "MarketplaceFacilitatorTax-Principal"), -tax, **where)
            add("Order", ("ItemFees", "Commission"), -_percent(principal, 15), **where)
    add("ServiceFee", ("Cost of Advertising", "TransactionTotalAmount"), -1_250)
    head = {
        "settlement-id": str(settlement_id),
        "settlement-start-date": f"{at - timedelta(days=14):%Y-%m-%d %H:%M:%S} UTC",
        "settlement-end-date": f"{at:%Y-%m-%d %H:%M:%S} UTC",
        "deposit-date": f"{at + timedelta(days=2):%Y-%m-%d %H:%M:%S} UTC",
        "total-amount": decimal_text(total, AMAZON_CURRENCY),
        "currency": AMAZON_CURRENCY,
    }
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, delimiter="\t", lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows([head, *rows])
    return text.getvalue(), len(rows)


def _percent(minor: int, percent: int) -> int:
    """Half up, as the channels compute it."""
    return (minor * percent * 2 + 100) // 200


def _eur(minor: int) -> str:
    return decimal_text(minor, SHOP_CURRENCY)


def _usd(minor: int) -> dict[str, str]:
    return {"CurrencyCode": AMAZON_CURRENCY, "Amount": decimal_text(minor, AMAZON_CURRENCY)}


def _set(minor: int) -> dict[str, Any]:
    money = {"amount": _eur(minor), "currency_code": SHOP_CURRENCY}
    return {"shop_money": money, "presentment_money": money}


def _zulu(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _address(number: int) -> dict[str, str]:
    return {
        "first_name": "Alex",
        "last_name": f"Example {number}",
        "address1": f"{number % 90 + 1} Harbour Street",
        "city": "Hamburg",
        "zip": "20457",
        "country_code": "DE",
        "province_code": "HH",
    }
