"""The gateway over HTTP: what is accepted, what is refused and how, and that no input makes it fail."""

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossdock_canonical.identity import LocationId, OrderId, Sku, order_id
from crossdock_canonical.records import (
    CancelRequested,
    FraudDecided,
    IntakeKind,
    ItemMapped,
    LocationDefined,
    PaymentCaptured,
    ReturnInspected,
    ReturnReceived,
    ReturnRequested,
    SalableStock,
    ShipmentConfirmed,
    StockMovement,
    StockSnapshot,
)
from crossdock_channel_gateway.publish import SOURCE
from crossdock_eventing.envelope import event_id

ORDER = OrderId("6f1f2f6e-3f0b-5a57-9c2e-1f5c53f0a001")
SHOPIFY = {
    "id": 77,
    "created_at": "2026-03-02T10:00:00+01:00",
    "updated_at": "2026-03-02T10:00:00+01:00",
    "currency": "EUR",
    "financial_status": "paid",
    "total_price": "20.00",
    "total_tax": "0.00",
    "line_items": [{"id": 1, "variant_id": 5, "sku": "MUG", "quantity": 2, "price": "10.00"}],
}
SALE = {
    "store": "STORE-07",
    "register": "2",
    "business_date": "2026-03-02",
    "receipt": "0042",
    "sold_at": "2026-03-02T10:00:00+01:00",
    "currency": "EUR",
    "taxes_included": True,
    "lines": [
        {
            "line": "1",
            "barcode": "4006381333931",
            "quantity": 2,
            "unit_price": "5.95",
            "discount": "1.00",
            "tax": "1.74",
        }
    ],
    "tenders": [{"reference": "card-1", "amount": "10.90", "kind": "card"}],
}


async def post(caller, path: str, body: Any, **headers: str):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await caller.http.post(path, content=raw, headers={"content-type": "application/json"} | headers)


def errors(response) -> dict[str, str]:
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == response.status_code
    return {each["field"]: each["rule"] for each in problem.get("errors", [])}


# ----------------------------------------------------------------------------------------------------- Shopify


async def test_a_signed_webhook_is_published_and_answered_with_its_ids(caller) -> None:
    response = await caller.shopify(SHOPIFY)
    assert response.status_code == 202
    expected = order_id(channel="shopify", shop="harbour.example", external_id="77")
    assert response.json()["order_id"] == response.json()["correlation_id"] == expected
    (record,) = caller.publisher.records
    assert record.order_id == expected


async def test_both_secrets_are_valid_during_a_rotation(caller) -> None:
    assert (await caller.shopify(SHOPIFY, secret="first")).status_code == 202
    assert (await caller.shopify(SHOPIFY, secret="second")).status_code == 202
    assert (await caller.shopify(SHOPIFY, secret="third")).status_code == 401
    assert (await caller.shopify(SHOPIFY, **{"x-shopify-hmac-sha256": ""})).status_code == 401


async def test_the_signature_is_checked_before_the_body_is_parsed(caller) -> None:
    assert (await caller.shopify(b"{not json", secret="third")).status_code == 401
    assert (await caller.shopify(b"{not json")).status_code == 400
    assert caller.publisher.records == []


async def test_two_deliveries_of_one_event_have_one_event_id(caller) -> None:
    first = await caller.shopify(SHOPIFY, event="e-9", **{"x-shopify-webhook-id": "w-1"})
    second = await caller.shopify(SHOPIFY, event="e-9", **{"x-shopify-webhook-id": "w-2"})
    third = await caller.shopify(SHOPIFY, event="e-10")
    assert first.json()["event_ids"] == second.json()["event_ids"] != third.json()["event_ids"]


async def test_an_unused_topic_is_accepted_and_ignored(caller) -> None:
    response = await caller.shopify(b"anything", topic="products/update")
    assert (response.status_code, response.json()["status"]) == (202, "ignored")
    assert caller.publisher.records == []


async def test_a_webhook_without_a_shop_is_refused(caller) -> None:
    response = await caller.shopify(SHOPIFY, **{"x-shopify-shop-domain": ""})
    assert (response.status_code, list(errors(response))) == (422, ["x-shopify-shop-domain"])


async def test_a_wrong_amount_names_its_field(caller) -> None:
    body = SHOPIFY | {
        "currency": "JPY",
        "total_price": "20",
        "line_items": [SHOPIFY["line_items"][0] | {"price": "25.99"}],
    }
    response = await caller.shopify(body | {"total_tax": "0"})
    assert response.status_code == 422
    assert response.json()["errors"] == [
        {"field": "line_items[0].price", "rule": "must be an amount that JPY can hold", "value": "25.99"}
    ]


# ------------------------------------------------------------------------------------------- limits and failures


async def test_a_body_over_the_limit_is_refused_without_being_read(caller) -> None:
    read = 0

    async def endless():
        nonlocal read
        for _ in range(10_000):
            read += 1024
            yield b" " * 1024

    response = await caller.http.post("/channels/pos/sales", content=endless())
    assert response.status_code == 413
    assert read <= 66 * 1024
    declared = await post(caller, "/channels/pos/sales", SALE, **{"content-length": "99999999999999999999"})
    assert declared.status_code == 413


async def test_an_absent_broker_is_503_with_a_time_to_come_back(caller) -> None:
    caller.publisher.away = True
    response = await post(caller, "/channels/pos/sales", SALE)
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_source_that_floods_is_told_to_come_back_and_others_are_served(caller) -> None:
    caller.gateway._in_flight["pos"] = caller.gateway.settings.in_flight_max
    response = await post(caller, "/channels/pos/sales", SALE)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert (await caller.shopify(SHOPIFY)).status_code == 202


async def test_unknown_paths_and_methods_are_problems_too(caller) -> None:
    assert errors(await caller.http.get("/nowhere")) == {}
    assert errors(await caller.http.get("/channels/pos/sales")) == {}


# ------------------------------------------------------------------------------------------------------- sources


async def test_a_till_sale_is_a_finished_fact(caller) -> None:
    response = await post(caller, "/channels/pos/sales", SALE)
    assert response.status_code == 202
    (record,) = caller.publisher.records
    assert record.order_id == order_id(channel="pos", shop="STORE-07", external_id="2/2026-03-02/0042")
    assert record.kind is IntakeKind.POS_SALE
    assert record.lines[0].amounts.goods == 1190 - 174
    assert record.lines[0].amounts.due == 1090 == record.total.minor == record.tenders[0].amount.minor


async def test_a_till_sale_is_checked_by_field(caller) -> None:
    line = SALE["lines"][0]
    wrong = SALE | {
        "register": None,
        "business_date": "2026-13-01",
        "lines": [line | {"quantity": 0}, line | {"unit_price": 5.955, "quantity": True}],
        "colour": "red",
    }
    found = errors(await post(caller, "/channels/pos/sales", wrong))
    assert set(found) == {"register", "lines[0].quantity", "lines[1].quantity", "colour"}
    repeated = errors(
        await post(
            caller, "/channels/pos/sales", SALE | {"business_date": "2026-13-01", "lines": [line, line]}
        )
    )
    assert set(repeated) == {"business_date", "lines[1].line"}
    cents = errors(await post(caller, "/channels/pos/sales", SALE | {"currency": "JPY", "tenders": []}))
    assert set(cents) == {"lines[0].unit_price", "lines[0].discount", "lines[0].tax"} - {"lines[0].discount"}


async def test_a_warehouse_event_names_the_order_by_its_fulfilment_order(caller) -> None:
    body = {
        "type": "shipment_confirmed",
        "fulfillment_order_id": f"{ORDER}/1",
        "location": "DC-1",
        "shipment_id": "S1",
        "lines": [{"line_id": "1", "sku": "MUG", "units": 2}],
        "shipped_at": "2026-03-02T10:00:00Z",
    }
    assert (await post(caller, "/warehouse/events", body)).json()["order_id"] == ORDER
    assert isinstance(caller.publisher.records[0], ShipmentConfirmed)
    assert "fulfillment_order_id" in errors(
        await post(caller, "/warehouse/events", body | {"fulfillment_order_id": "7"})
    )
    assert "shipment_confirmed.lines" in errors(await post(caller, "/warehouse/events", body | {"lines": []}))
    assert errors(await post(caller, "/warehouse/events", body | {"type": "vanished"}))


@pytest.mark.parametrize(
    ("kind", "facts"),
    [
        ("short_picked", {"event_id": "e", "lines": [{"line_id": "1", "sku": "MUG", "units": 1}]}),
        ("fulfillment_rejected", {"event_id": "e", "reason": "closed"}),
        ("cancel_confirmed", {"cancel_id": "c", "lines": [{"line_id": "1", "sku": "MUG", "units": 1}]}),
        ("cancel_declined", {"cancel_id": "c"}),
        ("pickup_staged", {"staged_at": "2026-03-02T10:00:00Z"}),
        (
            "pickup_collected",
            {
                "shipment_id": "C1",
                "lines": [{"line_id": "1", "sku": "MUG", "units": 1}],
                "collected_at": "2026-03-02T10:00:00Z",
            },
        ),
    ],
)
async def test_every_warehouse_event_has_a_record(caller, kind: str, facts: dict) -> None:
    body = {"type": kind, "fulfillment_order_id": f"{ORDER}/1", "location": "DC-1"} | facts
    assert (await post(caller, "/warehouse/events", body)).status_code == 202
    assert caller.publisher.records[0].order_id == ORDER


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("authorized", "tender_reference"),
        ("captured", "capture_id"),
        ("voided", "void_id"),
        ("refunded", "refund_id"),
        ("charged_back", "chargeback_id"),
    ],
)
async def test_every_payment_event_has_a_record(caller, kind: str, name: str) -> None:
    body = {
        "type": kind,
        "order_id": ORDER,
        name: "ref/1",
        "amount": {"amount": "19.99", "currency": "EUR"},
        "occurred_at": "2026-03-02T10:00:00Z",
    }
    assert (await post(caller, "/payments/events", body)).status_code == 202
    assert caller.publisher.records[0].amount.minor == 1999
    cents = body | {"amount": {"amount": "19.99", "currency": "JPY"}}
    assert "amount.amount" in errors(await post(caller, "/payments/events", cents))
    assert f"{kind}.order_id" in errors(await post(caller, "/payments/events", body | {"order_id": "7"}))


async def test_refusals_of_the_provider_have_records(caller) -> None:
    await post(
        caller,
        "/payments/events",
        {"type": "declined", "order_id": ORDER, "reference": "c1", "reason": "funds"},
    )
    await post(caller, "/payments/events", {"type": "refund_failed", "order_id": ORDER, "refund_id": "r1"})
    assert [type(record).__name__ for record in caller.publisher.records] == [
        "PaymentDeclined",
        "RefundFailed",
    ]


async def test_one_payment_fact_has_one_event_id_whoever_reports_it(caller) -> None:
    body = {
        "type": "captured",
        "order_id": ORDER,
        "capture_id": "c1",
        "amount": {"amount": "1.00", "currency": "EUR"},
        "occurred_at": "2026-03-02T10:00:00Z",
    }
    first = await post(caller, "/payments/events", body)
    again = await post(caller, "/payments/events", body | {"occurred_at": "2026-03-02T10:00:09Z"})
    assert first.json()["event_ids"] == again.json()["event_ids"]
    assert isinstance(caller.publisher.records[0], PaymentCaptured)


async def test_decisions_and_returns(caller) -> None:
    fraud = {"type": "fraud", "decision_id": "d1", "verdict": "RELEASE", "actor": "desk"}
    assert (await post(caller, f"/orders/{ORDER}/decisions", fraud)).status_code == 202
    cancel = {"type": "cancel", "request_id": "q1", "actor": "desk", "lines": [{"line_id": "1", "units": 1}]}
    assert (await post(caller, f"/orders/{ORDER}/decisions", cancel)).status_code == 202
    assert errors(await post(caller, "/orders/seven/decisions", cancel)) == {
        "order_id": "must be an order id (a UUID in lower case)"
    }
    asked = {
        "rma_id": "RMA-1",
        "order": {"channel": "shopify", "shop": "harbour.example", "external_id": "77"},
        "lines": [{"line_id": "1", "units": 1, "reason": "too small"}],
        "requested_at": "2026-03-05T10:00:00Z",
    }
    assert (await post(caller, "/returns", asked)).status_code == 202
    assert errors(await post(caller, "/returns", asked | {"order_id": ORDER}))
    received = {
        "type": "received",
        "order_id": ORDER,
        "receipt_id": "rc1",
        "location": "STORE-07",
        "lines": [{"line_id": "1", "units": 1}],
        "received_at": "2026-03-06T10:00:00Z",
    }
    assert (await post(caller, "/returns/RMA-1/events", received)).status_code == 202
    inspected = {
        "type": "inspected",
        "order_id": ORDER,
        "inspection_id": "i1",
        "location": "STORE-07",
        "lines": [{"line_id": "1", "units": 1, "grade": "SELLABLE"}],
        "tender_refunded": {"amount": "5.00", "currency": "EUR"},
        "inspected_at": "2026-03-06T10:00:00Z",
    }
    assert (await post(caller, "/returns/RMA-1/events", inspected)).status_code == 202
    kinds = [type(record) for record in caller.publisher.records]
    assert kinds == [FraudDecided, CancelRequested, ReturnRequested, ReturnReceived, ReturnInspected]
    assert caller.publisher.records[2].order_id == order_id(
        channel="shopify", shop="harbour.example", external_id="77"
    )
    assert caller.publisher.records[4].tender_refunded.minor == 500
    assert caller.publisher.records[4].rma_id == "RMA-1"


# --------------------------------------------------------------------------------------------------------- feeds


async def test_products_map_every_name_and_the_sku_itself(caller) -> None:
    body = {
        "items": [
            {"scheme": "shopify_variant", "value": "5", "sku": "MUG", "title": "Mug"},
            {"scheme": "gtin", "value": "4006381333931", "sku": "MUG", "units_per": 12},
            {
                "sku": "SET",
                "components": [{"sku": "MUG", "units": 2}, {"sku": "TRAY", "units": 1, "value_share": 3}],
            },
        ]
    }
    assert (await post(caller, "/feeds/products", body)).json()["records"] == 4
    rows = {record.reference: record for record in caller.publisher.records}
    assert set(rows) == {"shopify_variant:5", "gtin:4006381333931", "sku:MUG", "sku:SET"}
    assert rows["gtin:4006381333931"].units_per == 12
    assert rows["sku:MUG"].units_per == 1
    assert [each.value_share for each in rows["sku:SET"].components] == [1, 3]


async def test_a_product_file_may_be_csv(caller) -> None:
    text = (
        "scheme,value,sku,uom,units_per,components,title\nsku,,SET,EA,,MUG:2;TRAY:1:3,Set\nasin,,MUG,,12,,\n"
    )
    response = await post(
        caller, "/feeds/products", text.encode(), **{"content-type": "text/csv; charset=utf-8"}
    )
    assert response.status_code == 202, response.text
    rows = {record.reference: record for record in caller.publisher.records}
    assert isinstance(rows["sku:SET"], ItemMapped)
    assert [each.units for each in rows["sku:SET"].components] == [2, 1]
    assert rows["asin:MUG"].units_per == 12


async def test_one_bad_row_refuses_the_whole_file_and_is_named(caller) -> None:
    text = "sku,location,units,as_of\nMUG,DC-1,5,2026-03-02T10:00:00Z\nCUP,DC-1,many,2026-03-02T10:00:00Z\n,DC-1,1,today\n"
    response = await post(caller, "/feeds/stock?feed=wms", text.encode(), **{"content-type": "text/csv"})
    assert response.status_code == 422
    assert errors(response) == {
        "rows[3].units": "must be a whole number",
        "rows[4].sku": "Field required",
        "rows[4].as_of": "must be an ISO 8601 time with an offset",
    }
    assert caller.publisher.records == []


async def test_stock_files_hold_counts_and_movements(caller) -> None:
    body = {
        "feed": "wms",
        "snapshots": [{"sku": "MUG", "location": "DC-1", "units": 5, "as_of": "2026-03-02T10:00:00Z"}],
        "movements": [
            {
                "sku": "MUG",
                "location": "DC-1",
                "delta": -2,
                "moved_at": "2026-03-02T11:00:00Z",
                "ref": "t/1",
                "reason": "sale",
            }
        ],
    }
    assert (await post(caller, "/feeds/stock", body)).status_code == 202
    snapshot, movement = caller.publisher.records
    assert isinstance(snapshot, StockSnapshot)
    assert isinstance(movement, StockMovement)
    assert (snapshot.units, snapshot.feed, movement.delta) == (5, "wms", -2)
    table = "sku\tlocation\tdelta\tmoved_at\tref\nMUG\tDC-1\t-1\t2026-03-02T11:00:00Z\tt/2\n"
    kind = {"content-type": "text/tab-separated-values"}
    assert (await post(caller, "/feeds/stock?feed=wms", table.encode(), **kind)).status_code == 202
    assert caller.publisher.records[-1].delta == -1
    assert errors(await post(caller, "/feeds/stock", table.encode(), **kind)) == {
        "feed": "must be an identifier of 1 to 200 printable characters"
    }


async def test_rows_of_a_stock_file_have_ids_of_their_own(caller) -> None:
    count = {"location": "DC-1", "units": 5, "as_of": "2026-03-02T10:00:00Z"}
    receipt = {"location": "DC-1", "delta": 2, "moved_at": "2026-03-02T11:00:00Z", "ref": "PO-1"}
    body = {
        "feed": "wms",
        "snapshots": [{"sku": sku, **count} for sku in ("MUG", "CUP")],
        "movements": [{"sku": sku, **receipt} for sku in ("MUG", "CUP")],
    }
    assert (await post(caller, "/feeds/stock", body)).status_code == 202
    (intake,) = caller.publisher.intakes
    ids = {event_id(causation_id=intake.delivery, source=SOURCE, record=record) for record in intake.records}
    assert len(ids) == 4


async def test_rows_that_contradict_one_another_refuse_the_file(caller) -> None:
    row = {"sku": "MUG", "location": "DC-1", "units": 5, "as_of": "2026-03-02T10:00:00Z"}
    body = {"feed": "wms", "snapshots": [row, row | {"units": 6}]}
    assert (await post(caller, "/feeds/stock", body)).status_code == 422
    same = {"feed": "wms", "snapshots": [row, row]}
    assert (await post(caller, "/feeds/stock", same)).status_code == 202


async def test_locations(caller) -> None:
    body = {
        "locations": [
            {"location": "DC-1", "kind": "WAREHOUSE"},
            {"location": "S7", "kind": "STORE", "pickup": True},
        ]
    }
    assert (await post(caller, "/feeds/locations", body)).status_code == 202
    assert [type(record) for record in caller.publisher.records] == [LocationDefined, LocationDefined]
    assert caller.publisher.records[1].location == LocationId("S7")
    text = b"location,kind,pickup,safety_stock\nS8,STORE,true,3\n"
    assert (await post(caller, "/feeds/locations", text, **{"content-type": "text/csv"})).status_code == 202
    assert (caller.publisher.records[2].pickup, caller.publisher.records[2].safety_stock) == (True, 3)


# ------------------------------------------------------------------------------------------------------- queries


async def test_availability_answers_from_the_table(caller) -> None:
    at = {"sku": "MUG", "channel": "shopify"}
    assert (await caller.http.get("/availability", params=at)).status_code == 503
    caller.gateway.table.caught_up = True
    assert errors(await caller.http.get("/availability", params=at)) == {"sku": "has no availability"}
    from datetime import UTC, datetime

    row = SalableStock(
        sku=Sku("MUG"), channel="shopify", units=5, version=7, as_of=datetime(2026, 3, 2, tzinfo=UTC)
    )
    caller.gateway.table.put("MUG|shopify", row)
    answer = (await caller.http.get("/availability", params=at)).json()
    assert answer == {
        "sku": "MUG",
        "channel": "shopify",
        "units": 5,
        "version": 7,
        "as_of": "2026-03-02T00:00:00+00:00",
    }
    assert errors(await caller.http.get("/availability", params=at | {"channel": "x"})) == {
        "channel": "has no availability"
    }
    assert errors(await caller.http.get("/availability", params={"sku": "MUG"})) == {
        "channel": "Field required"
    }


async def test_an_order_id_can_be_asked_for(caller) -> None:
    at = {"channel": "amazon", "shop": "S1", "marketplace": "M", "external_id": "1"}
    answer = (await caller.http.get("/orders/id", params=at)).json()
    assert answer == {"order_id": order_id(channel="amazon", shop="S1", marketplace="M", external_id="1")}
    assert errors(await caller.http.get("/orders/id", params=at | {"shop": "a\x1fb"}))


async def test_pages_are_served_from_here(caller) -> None:
    page = (await caller.http.get("/docs")).text
    sources = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert sources
    assert all(source.startswith("/docs/assets/") for source in sources)
    for source in sources:
        assert (await caller.http.get(source)).status_code == 200
    document = (await caller.http.get("/openapi.json")).json()
    assert "/webhooks/shopify" in document["paths"]
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert references <= set(document["components"]["schemas"])
    assert (await caller.http.get("/livez")).status_code == 200
    assert (await caller.http.get("/readyz")).status_code == 200
    caller.gateway.ready = lambda: ["the broker"]
    assert (await caller.http.get("/readyz")).status_code == 503
    await caller.shopify(SHOPIFY)
    assert (
        'crossdock_gateway_deliveries_total{outcome="accepted",source="shopify"} 1.0'
        in (await caller.http.get("/metrics")).text
    )


# ---------------------------------------------------------------------------------------------------------- fuzz

ROUTES = [
    "/webhooks/shopify",
    "/webhooks/shopify#refund",
    "/channels/amazon/orders",
    "/channels/pos/sales",
    "/feeds/products",
    "/feeds/locations",
    "/feeds/stock",
    "/warehouse/events",
    "/payments/events",
    f"/orders/{ORDER}/decisions",
    "/returns",
    "/returns/RMA-1/events",
    "/settlements/amazon",
    "/settlements/shopify?shop=harbour.example",
]
WORDS = """
    id order_id order item items lines line_items quantity current_quantity price price_set shop_money amount type
    currency currency_code units created_at updated_at total_price total_tax total_discounts tax_lines order_edit
    discount_allocations refunds refund_line_items transactions order_adjustments note_attributes shipping_lines
    shipping_address financial_status note value name payload Orders OrderItems ItemPrice Amount CurrencyCode
    OrderStatus LastUpdateDate MarketplaceId AmazonOrderId QuantityOrdered OrderItemId store register sku
    business_date receipt sold_at tenders unit_price feed snapshots movements location locations kind as_of payout
"""
NAMES = st.sampled_from(WORDS.split())
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**40, -(10**40), 1e308, 1e-308, 0.1, 25.99, 10**18, -1]),
    st.text(max_size=12),
    st.sampled_from(
        [
            "",
            "EUR",
            "JPY",
            "1.00",
            "1e9",
            "NaN",
            "Infinity",
            "-0",
            "\ud800",
            "\x00",
            "\x1f",
            "0001-01-01T00:00:00+23:59",
        ]
    ),
    st.sampled_from(
        ["2026-03-02T10:00:00Z", "9999-12-31T23:59:59-23:59", "shipment_confirmed", "captured", "paid"]
    ),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=8),
    max_leaves=40,
)
DEEP = b"[" * 50_000
BYTES = st.one_of(
    TREES.map(lambda tree: json.dumps(tree).encode()),
    TREES.map(lambda tree: json.dumps(tree).encode()[:-3]),
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"",
            DEEP,
            b'{"a":' * 20_000,
            b"9" * 5_000,
            b'{"id":' + b"9" * 5_000 + b"}",
            b'{"id": 1e999999999999999999999999}',
            b'{"id": 1E-99999999999}',
            b"\xff\xfe{}",
            b"\xef\xbb\xbf{}",
            b"NaN",
            b'{"amount": Infinity}',
            b"settlement-id\ttotal-amount\n1\t2",
        ]
    ),
)


def _mutations(base: dict) -> st.SearchStrategy[bytes]:
    """A valid body with one value, anywhere, replaced by anything."""

    def paths(value: Any, at: tuple = ()) -> list[tuple]:
        found = [at] if at else []
        if isinstance(value, dict):
            for name, inner in value.items():
                found += paths(inner, (*at, name))
        if isinstance(value, list):
            for index, inner in enumerate(value):
                found += paths(inner, (*at, index))
        return found

    def changed(choice: tuple) -> bytes:
        path, replacement = choice
        copy = json.loads(json.dumps(base))
        spot = copy
        for step in path[:-1]:
            spot = spot[step]
        spot[path[-1]] = replacement
        return json.dumps(copy).encode()

    return st.tuples(st.sampled_from(paths(base)), TREES).map(changed)


AMAZON = {
    "order": {
        "AmazonOrderId": "1",
        "LastUpdateDate": "2026-03-02T09:30:00Z",
        "OrderStatus": "Unshipped",
        "MarketplaceId": "ATVPDKIKX0DER",
        "OrderTotal": {"CurrencyCode": "USD", "Amount": "1.00"},
        "ShippingAddress": {"Name": "A"},
    },
    "items": [
        {
            "OrderItemId": "1",
            "ASIN": "B",
            "QuantityOrdered": 1,
            "ItemPrice": {"CurrencyCode": "USD", "Amount": "1.00"},
            "ShippingPrice": {"CurrencyCode": "USD", "Amount": "1.00"},
            "TaxCollection": {"Model": "x"},
            "BuyerRequestedCancel": {"IsBuyerRequestedCancel": "true"},
        }
    ],
}
RICH_SHOPIFY = SHOPIFY | {
    "total_discounts": "1.00",
    "note_attributes": [{"name": "a", "value": "b"}],
    "shipping_lines": [
        {"code": "s", "price": "1.00", "discounted_price": "1.00", "tax_lines": [{"price": "0.10"}]}
    ],
    "refunds": [{"refund_line_items": [{"line_item_id": 1, "quantity": 1, "restock_type": "return"}]}],
    "shipping_address": {"name": "A"},
    "line_items": [
        SHOPIFY["line_items"][0]
        | {
            "current_quantity": 1,
            "tax_lines": [{"price": "0.10"}],
            "discount_allocations": [{"amount": "0.10"}],
        }
    ],
}
REFUND = {
    "id": 1,
    "order_id": 77,
    "created_at": "2026-03-02T10:00:00Z",
    "refund_line_items": [
        {"line_item_id": 1, "quantity": 1, "subtotal": 1.5, "total_tax": 0.1, "restock_type": "return"}
    ],
    "transactions": [{"kind": "refund", "status": "success", "amount": "1.60", "currency": "EUR"}],
    "order_adjustments": [{"amount": "-0.10", "tax_amount": "0"}],
}
PAYOUT = {
    "payout": {"id": 5, "currency": "EUR", "amount": "9.00", "date": "2026-03-02"},
    "transactions": [{"id": 1, "type": "charge", "amount": "10.00", "fee": "1.00", "source_order_id": 77}],
}
MUTATED = st.one_of(
    st.tuples(st.just("/webhooks/shopify"), _mutations(RICH_SHOPIFY)),
    st.tuples(st.just("/webhooks/shopify#refund"), _mutations(REFUND)),
    st.tuples(st.just("/channels/amazon/orders"), _mutations(AMAZON)),
    st.tuples(st.just("/channels/pos/sales"), _mutations(SALE)),
    st.tuples(st.just("/settlements/shopify?shop=harbour.example"), _mutations(PAYOUT)),
)


async def _fuzzed(caller, route: str, body: bytes, kind: str) -> None:
    path, _, variant = route.partition("#")
    if path == "/webhooks/shopify":
        response = await caller.shopify(body, topic="refunds/create" if variant else "orders/updated")
    else:
        response = await post(caller, path, body, **{"content-type": kind})
    assert response.status_code in (202, 400, 413, 422), response.text
    if response.status_code != 202:
        assert response.headers["content-type"] == "application/problem+json"
    for record in caller.publisher.records:
        _assert_encodable(record.to_avro())
    caller.publisher.intakes.clear()


def _assert_encodable(value: Any) -> None:
    """What Avro can hold: text in UTF-8, integers of 64 bits."""
    if isinstance(value, dict):
        for name, inner in value.items():
            name.encode()
            _assert_encodable(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _assert_encodable(inner)
    elif isinstance(value, str):
        value.encode()
    elif isinstance(value, int):
        assert -(2**63) <= value < 2**63


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    route=st.sampled_from(ROUTES),
    body=BYTES,
    kind=st.sampled_from(["application/json", "text/csv", "text/tab-separated-values", ""]),
)
async def test_no_body_makes_the_gateway_fail(caller, route: str, body: bytes, kind: str) -> None:
    await _fuzzed(caller, route, body, kind)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=MUTATED)
async def test_no_wrong_value_makes_the_gateway_fail(caller, chosen: tuple[str, bytes]) -> None:
    await _fuzzed(caller, *chosen, "application/json")
