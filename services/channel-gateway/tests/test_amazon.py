"""Amazon orders with their items in the Selling Partner API's shape."""

from copy import deepcopy

import pytest

from crossdock_canonical.identity import order_id
from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    ChannelStatus,
    DeliveryMethod,
    FulfilledBy,
    IntakeKind,
    ItemReference,
    TenderState,
)
from crossdock_channel_gateway.problem import Refused
from crossdock_channel_gateway.translate import amazon


def usd(amount: str) -> dict:
    return {"CurrencyCode": "USD", "Amount": amount}


ORDER = {
    "AmazonOrderId": "111-2223334-5556667",
    "PurchaseDate": "2026-03-02T09:00:00Z",
    "LastUpdateDate": "2026-03-02T09:30:00Z",
    "OrderStatus": "Unshipped",
    "FulfillmentChannel": "MFN",
    "OrderTotal": usd("53.29"),
    "MarketplaceId": "ATVPDKIKX0DER",
    "LatestShipDate": "2026-03-04T07:59:59Z",
    "IsISPU": "false",
    "ShippingAddress": {
        "Name": "Alex Example",
        "AddressLine1": "1 Pier",
        "City": "Boston",
        "CountryCode": "US",
    },
    "BuyerInfo": {"BuyerEmail": "alias@marketplace.example"},
}
ITEMS = [
    {
        "ASIN": "B000000001",
        "SellerSKU": "",
        "OrderItemId": "8001",
        "Title": "Mug",
        "QuantityOrdered": 2,
        "ItemPrice": usd("40.00"),
        "ItemTax": usd("3.30"),
        "PromotionDiscount": usd("4.00"),
        "ShippingPrice": usd("4.99"),
        "ShippingTax": usd("0.00"),
        "TaxCollection": {"Model": "MarketplaceFacilitator", "ResponsibleParty": "Amazon Services, Inc."},
        "IsGift": "false",
    },
    {
        "ASIN": "B000000001",
        "SellerSKU": "MUG",
        "OrderItemId": "8002",
        "QuantityOrdered": 1,
        "QuantityShipped": 0,
        "ItemPrice": usd("9.00"),
        "IsGift": "true",
    },
]


def taken(order: object = ORDER, items: object = ITEMS):
    (record,) = amazon.translate({"order": order, "items": items}, seller="S1").records
    return record


def refusal(order: object = ORDER, items: object = ITEMS) -> dict[str, str]:
    with pytest.raises(Refused) as refused:
        amazon.translate({"order": order, "items": items}, seller="S1")
    return {each.field: each.rule for each in refused.value.errors}


def test_item_prices_are_for_all_units_and_the_marketplaces_tax_is_not_ours() -> None:
    record = taken()
    assert record.order_id == order_id(
        channel="amazon", shop="S1", marketplace="ATVPDKIKX0DER", external_id="111-2223334-5556667"
    )
    first, second = record.lines
    assert first.units == 2
    assert first.amounts == Amounts(currency="USD", goods=4000, discount=400, facilitator_tax=330)
    assert second.amounts == Amounts(currency="USD", goods=900)
    assert record.shipping == Amounts(currency="USD", goods=499)
    assert record.total == Money(minor=5329, currency="USD")
    assert sum(line.amounts.due for line in record.lines) + record.shipping.due == 5329
    assert [(tender.state, tender.amount.minor) for tender in record.tenders] == [
        (TenderState.MARKETPLACE, 5329)
    ]
    assert record.promise_by.isoformat() == "2026-03-04T07:59:59+00:00"


def test_an_empty_seller_sku_leaves_the_asin_and_lines_of_one_asin_stay_apart() -> None:
    first, second = taken().lines
    assert first.items == (ItemReference(scheme="amazon_asin", value="B000000001"),)
    assert [item.scheme for item in second.items] == ["sku", "amazon_asin"]
    assert (first.line_id, second.line_id) == ("8001", "8002")


def test_text_booleans_are_booleans() -> None:
    intake = amazon.translate({"order": ORDER, "items": ITEMS}, seller="S1")
    assert intake.attributes["amazon.gift_lines"] == "8002"
    assert intake.records[0].method is DeliveryMethod.SHIP
    assert "items[0].IsGift" in refusal(items=[ITEMS[0] | {"IsGift": "perhaps"}])


def test_answers_may_keep_their_wrappers() -> None:
    plain = taken()
    items = {"payload": {"AmazonOrderId": ORDER["AmazonOrderId"], "OrderItems": ITEMS}}
    assert taken({"payload": ORDER}, items) == plain
    assert taken({"payload": {"Orders": [ORDER]}}, {"OrderItems": ITEMS}) == plain


def test_items_of_another_order_are_refused() -> None:
    items = {"payload": {"AmazonOrderId": "999-0000000-0000000", "OrderItems": ITEMS}}
    assert "items.payload.AmazonOrderId" in refusal(items=items)


def test_a_pending_order_has_no_amounts_yet() -> None:
    order = {name: value for name, value in ORDER.items() if name != "OrderTotal"} | {
        "OrderStatus": "Pending"
    }
    items = [{"ASIN": "B000000001", "OrderItemId": "8001", "QuantityOrdered": 1}]
    record = taken(order, items)
    assert record.status is ChannelStatus.PENDING
    assert record.currency == "USD"
    assert record.total is None
    assert record.lines[0].amounts is None
    assert record.shipping is None
    assert record.tenders == ()


def test_prices_of_a_european_marketplace_contain_tax() -> None:
    order = ORDER | {
        "MarketplaceId": "A1PA6795UKMFR9",
        "OrderTotal": {"CurrencyCode": "EUR", "Amount": "23.80"},
    }
    item = {
        "ASIN": "B1",
        "OrderItemId": "1",
        "QuantityOrdered": 1,
        "ItemPrice": {"CurrencyCode": "EUR", "Amount": "23.80"},
        "ItemTax": {"CurrencyCode": "EUR", "Amount": "3.80"},
    }
    record = taken(order, [item])
    assert record.taxes_included
    assert record.lines[0].amounts == Amounts(currency="EUR", goods=2000, tax=380)


def test_the_orders_total_decides_whether_prices_contain_tax() -> None:
    order = ORDER | {
        "MarketplaceId": "A1PA6795UKMFR9",
        "OrderTotal": {"CurrencyCode": "EUR", "Amount": "27.60"},
    }
    item = {
        "ASIN": "B1",
        "OrderItemId": "1",
        "QuantityOrdered": 1,
        "ItemPrice": {"CurrencyCode": "EUR", "Amount": "23.80"},
        "ItemTax": {"CurrencyCode": "EUR", "Amount": "3.80"},
    }
    assert taken(order, [item]).lines[0].amounts == Amounts(currency="EUR", goods=2380, tax=380)


def test_goods_that_the_marketplace_ships_are_its_to_ship() -> None:
    assert taken(ORDER | {"FulfillmentChannel": "AFN"}).fulfilled_by is FulfilledBy.MARKETPLACE
    assert taken().fulfilled_by is FulfilledBy.SELLER


def test_a_canceled_order_is_a_cancellation() -> None:
    record = taken(ORDER | {"OrderStatus": "Canceled"}, [])
    assert (record.kind, record.status, record.lines) == (IntakeKind.CANCEL, ChannelStatus.CANCELLED, ())


def test_an_in_store_pickup_names_its_store() -> None:
    order = ORDER | {"IsISPU": True}
    record = taken(order, [ITEMS[0] | {"StoreChainStoreId": "STORE-07"}])
    assert (record.method, record.pickup_location) == (DeliveryMethod.PICKUP, "STORE-07")
    assert "order.FulfillmentInstruction.FulfillmentSupplySourceId" in refusal(order)


def test_yen_with_cents_are_refused_by_field() -> None:
    items = deepcopy(ITEMS[:1])
    for name in ("ItemPrice", "ItemTax", "PromotionDiscount", "ShippingPrice", "ShippingTax"):
        items[0][name] = {"CurrencyCode": "JPY", "Amount": "4"}
    items[0]["ItemPrice"]["Amount"] = "25.99"
    order = ORDER | {"OrderTotal": {"CurrencyCode": "JPY", "Amount": "26"}}
    assert refusal(order, items) == {"items[0].ItemPrice.Amount": "must be an amount that JPY can hold"}


@pytest.mark.parametrize(
    ("order", "items", "field"),
    [
        (None, ITEMS, "order"),
        (ORDER, None, "items"),
        (ORDER, "many", "items"),
        (ORDER | {"OrderStatus": "Sold"}, ITEMS, "order.OrderStatus"),
        (ORDER | {"MarketplaceId": ""}, ITEMS, "order.MarketplaceId"),
        (ORDER | {"LastUpdateDate": None}, ITEMS, "order.LastUpdateDate"),
        (ORDER, [ITEMS[0] | {"QuantityOrdered": "two"}], "items[0].QuantityOrdered"),
        (ORDER, [ITEMS[0], ITEMS[0]], "items[1].OrderItemId"),
        (
            ORDER,
            [ITEMS[0] | {"ItemTax": {"CurrencyCode": "GBP", "Amount": "1"}}],
            "items[0].ItemTax.CurrencyCode",
        ),
        ({"payload": {"Orders": [ORDER, ORDER]}}, ITEMS, "order.payload.Orders"),
    ],
)
def test_a_wrong_field_is_named(order: object, items: object, field: str) -> None:
    assert field in refusal(order, items)
