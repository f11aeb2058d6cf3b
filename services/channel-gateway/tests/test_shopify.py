"""Shopify orders and refunds in the vendor's shape become canonical intake, with every amount in its place."""

from copy import deepcopy

import pytest

from crossdock_canonical.identity import order_id
from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    ChannelStatus,
    DeliveryMethod,
    IntakeKind,
    ItemReference,
    RefundDisposition,
    TenderState,
)
from crossdock_channel_gateway.intake import Skipped
from crossdock_channel_gateway.problem import Refused
from crossdock_channel_gateway.translate import shopify

SHOP = "harbour.example"


def money(
    amount: str, currency: str = "EUR", shown: str | None = None, shown_currency: str | None = None
) -> dict:
    return {
        "shop_money": {"amount": amount, "currency_code": currency},
        "presentment_money": {"amount": shown or amount, "currency_code": shown_currency or currency},
    }


MODERN = {
    "id": 5312960331001,
    "name": "#1001",
    "created_at": "2026-03-02T10:00:00+01:00",
    "updated_at": "2026-03-02T10:00:05+01:00",
    "cancelled_at": None,
    "currency": "EUR",
    "presentment_currency": "EUR",
    "financial_status": "authorized",
    "fulfillment_status": None,
    "taxes_included": True,
    "email": "customer@shop.example",
    "source_name": "web",
    "total_price": "104.40",
    "total_price_set": money("104.40"),
    "total_tax": "16.67",
    "total_tax_set": money("16.67"),
    "total_discounts": "10.00",
    "total_discounts_set": money("10.00"),
    "total_tip_received": "0.0",
    "discount_codes": [{"code": "SPRING", "amount": "10.00", "type": "fixed_amount"}],
    "note_attributes": [{"name": "gift", "value": "yes"}],
    "line_items": [
        {
            "id": 1,
            "variant_id": 44120001,
            "sku": "",
            "title": "Boots",
            "quantity": 2,
            "current_quantity": 2,
            "price": "49.75",
            "price_set": money("49.75"),
            "requires_shipping": True,
            "tax_lines": [{"price": "14.29", "rate": 0.19, "title": "VAT", "price_set": money("14.29")}],
            "discount_allocations": [{"amount": "10.00", "amount_set": money("10.00")}],
        },
        {
            "id": 2,
            "variant_id": None,
            "sku": "LACES",
            "title": "Laces",
            "quantity": 1,
            "current_quantity": 1,
            "price": "10.00",
            "price_set": money("10.00"),
            "requires_shipping": True,
            "tax_lines": [{"price": "1.60", "rate": 0.19, "title": "VAT", "price_set": money("1.60")}],
            "discount_allocations": [],
        },
    ],
    "shipping_lines": [
        {
            "code": "standard",
            "price": "4.90",
            "price_set": money("4.90"),
            "tax_lines": [{"price": "0.78", "rate": 0.19, "title": "VAT", "price_set": money("0.78")}],
            "discount_allocations": [],
        }
    ],
    "shipping_address": {
        "first_name": "Alex",
        "last_name": "Example",
        "address1": "Quay 1",
        "city": "Bremen",
        "zip": "28195",
        "country": "Germany",
        "country_code": "DE",
        "province": None,
    },
}

OLD = {
    "id": 450001,
    "name": "#7",
    "created_at": "2008-01-10T11:00:00-05:00",
    "updated_at": "2008-01-10T11:00:00-05:00",
    "currency": "USD",
    "financial_status": "paid",
    "taxes_included": False,
    "total_price": "109.01",
    "total_tax": "10.00",
    "total_discounts": "1.00",
    "tax_lines": [{"price": "10.00", "rate": 0.1, "title": "State Tax"}],
    "line_items": [
        {"id": 11, "variant_id": 901, "sku": "A", "quantity": 1, "price": "33.33", "title": "A"},
        {"id": 12, "variant_id": 902, "sku": "B", "quantity": 2, "price": "33.34", "title": "B"},
    ],
    "shipping_lines": [{"code": "Free", "price": "0.00", "title": "Free"}],
}


def taken(body: dict, topic: str = "orders/create", event: str = "e-1", policy: shopify.Policy | None = None):
    intake = shopify.translate(body, topic=topic, shop=SHOP, event=event, policy=policy or shopify.Policy())
    assert not isinstance(intake, Skipped), intake
    (record,) = intake.records
    return record


def refusal(body: object, topic: str = "orders/create") -> dict[str, str]:
    with pytest.raises(Refused) as refused:
        shopify.translate(body, topic=topic, shop=SHOP, event="e-1", policy=shopify.Policy())
    assert refused.value.status == 422
    return {each.field: each.rule for each in refused.value.errors}


def changed(body: dict, **changes: object) -> dict:
    return deepcopy(body) | changes


def due(record) -> int:
    lines = sum(line.amounts.due for line in record.lines)
    return lines + (record.shipping.due if record.shipping else 0) + record.other_minor


def test_tax_inclusive_prices_become_goods_without_tax_and_the_parts_make_the_total() -> None:
    record = taken(MODERN)
    assert record.order_id == order_id(channel="shopify", shop=SHOP, external_id="5312960331001")
    assert record.kind is IntakeKind.SNAPSHOT
    assert record.status is ChannelStatus.OPEN
    assert record.taxes_included
    boots, laces = record.lines
    assert boots.amounts == Amounts(currency="EUR", goods=9950 - 1429, discount=1000, tax=1429)
    assert laces.amounts == Amounts(currency="EUR", goods=840, tax=160)
    assert record.shipping == Amounts(currency="EUR", goods=412, tax=78)
    assert record.total == Money(minor=10440, currency="EUR")
    assert due(record) == 10440
    assert record.revision_at.isoformat() == "2026-03-02T09:00:05+00:00"
    assert record.ship_to.name == "Alex Example"
    assert record.ship_to.email == "customer@shop.example"


def test_an_item_is_named_by_its_variant_before_its_sku() -> None:
    boots, laces = taken(MODERN).lines
    assert boots.items == (ItemReference(scheme="shopify_variant", value="44120001"),)
    assert laces.items == (ItemReference(scheme="sku", value="LACES"),)
    assert taken(OLD).lines[0].items == (
        ItemReference(scheme="shopify_variant", value="901"),
        ItemReference(scheme="sku", value="A"),
    )


def test_order_level_tax_and_discount_are_apportioned_to_the_last_cent() -> None:
    record = taken(OLD)
    first, second = record.lines
    assert first.amounts == Amounts(currency="USD", goods=3333, discount=33, tax=333)
    assert second.amounts == Amounts(currency="USD", goods=6668, discount=67, tax=667)
    assert due(record) == 10901 == record.total.minor
    assert record.shipping is None


def test_a_channel_that_is_liable_for_tax_is_its_facilitator() -> None:
    body = deepcopy(MODERN)
    body["line_items"][0]["tax_lines"][0]["channel_liable"] = True
    assert taken(body).lines[0].amounts == Amounts(
        currency="EUR", goods=9950 - 1429, discount=1000, facilitator_tax=1429
    )


def test_books_are_in_shop_money_and_the_customers_total_is_kept() -> None:
    body = changed(
        MODERN,
        presentment_currency="JPY",
        total_price_set=money("104.40", shown="17000", shown_currency="JPY"),
    )
    record = taken(body)
    assert record.total == Money(minor=10440, currency="EUR")
    assert record.presentment_total == Money(minor=17000, currency="JPY")
    body["total_price_set"]["presentment_money"]["amount"] = "17000.50"
    assert "total_price_set.presentment_money.amount" in refusal(body)


def test_tip_duties_and_fees_are_in_other() -> None:
    body = changed(
        MODERN,
        total_tip_received="2.00",
        current_total_duties_set=money("3.10"),
        current_total_additional_fees_set=money("0.40"),
        total_price="109.90",
        total_price_set=money("109.90"),
    )
    record = taken(body)
    assert record.other_minor == 550
    assert due(record) == record.total.minor == 10990


def test_an_amount_that_the_currency_cannot_hold_is_refused_by_field() -> None:
    body = changed(OLD, currency="JPY", total_price="109", total_tax="10", total_discounts="0")
    body["line_items"][0]["price"] = "25.99"
    body["line_items"][1]["price"] = "33"
    body["tax_lines"] = []
    assert refusal(body) == {"line_items[0].price": "must be an amount that JPY can hold"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"id": None}, "id"),
        ({"id": {"x": 1}}, "id"),
        ({"currency": "euro"}, "currency"),
        ({"updated_at": "yesterday", "created_at": None}, "updated_at"),
        ({"updated_at": "2026-03-02T10:00:00"}, "updated_at"),
        ({"line_items": None}, "line_items"),
        ({"line_items": {}}, "line_items"),
        ({"line_items": [7]}, "line_items[0]"),
        ({"financial_status": "sold"}, "financial_status"),
        ({"total_price": "1e5"}, "total_price"),
        ({"total_price": "1_000.00"}, "total_price"),
        ({"total_price": "25.990000000000000000000000000000001"}, "total_price"),
        ({"total_price": True}, "total_price"),
        ({"taxes_included": "maybe"}, "taxes_included"),
        ({"shipping_address": "Bremen"}, "shipping_address"),
    ],
)
def test_a_wrong_field_is_named(change: dict, field: str) -> None:
    assert field in refusal(changed(OLD, **change))


def test_a_line_id_may_not_repeat() -> None:
    body = deepcopy(OLD)
    body["line_items"][1]["id"] = 11
    assert refusal(body) == {"line_items[1].id": "must be unique within the order"}


def test_an_amount_beyond_reason_is_refused_before_it_overflows() -> None:
    body = deepcopy(OLD)
    body["line_items"][0] |= {"price": "9999999999999.99", "quantity": 1_000_000_000}
    assert "line_items[0].price" in refusal(body)


def test_a_line_that_was_edited_out_stays_with_no_units() -> None:
    body = changed(MODERN, current_total_price="94.40")
    body["line_items"][1]["current_quantity"] = 0
    record = taken(body, topic="orders/updated")
    assert [(line.line_id, line.units) for line in record.lines] == [("1", 2), ("2", 0)]
    assert record.lines[1].amounts.due == 0
    assert record.total.minor == 9440 == due(record)


def test_an_exchange_adds_lines_that_its_refund_does_not_have() -> None:
    added = deepcopy(MODERN["line_items"][1]) | {"id": 3, "price": "20.00", "price_set": money("20.00")}
    body = changed(
        MODERN,
        current_total_price="79.65",
        line_items=[*deepcopy(MODERN["line_items"]), added],
        refunds=[
            {
                "id": 5,
                "refund_line_items": [{"id": 6, "line_item_id": 1, "quantity": 1, "restock_type": "return"}],
            }
        ],
    )
    body["line_items"][0]["current_quantity"] = 1
    record = taken(body, topic="orders/updated")
    assert [line.units for line in record.lines] == [2, 1, 1]
    assert record.total.minor == due(record) == 12440


def test_an_added_line_is_in_the_current_total() -> None:
    added = deepcopy(MODERN["line_items"][1]) | {"id": 3, "price": "20.00", "price_set": money("20.00")}
    body = changed(MODERN, current_total_price="124.40", line_items=[*deepcopy(MODERN["line_items"]), added])
    assert taken(body, topic="orders/updated").total.minor == 12440


def test_a_total_that_its_parts_do_not_make_is_passed_on_as_it_is() -> None:
    assert taken(changed(MODERN, total_price="99.99", total_price_set=money("99.99"))).total.minor == 9999


def test_units_that_came_back_after_shipping_stay_ordered() -> None:
    body = changed(
        MODERN,
        refunds=[
            {
                "id": 5,
                "refund_line_items": [{"id": 6, "line_item_id": 1, "quantity": 1, "restock_type": "return"}],
            }
        ],
    )
    body["line_items"][0]["current_quantity"] = 1
    record = taken(body, topic="orders/updated")
    assert record.lines[0].units == 2
    assert record.total.minor == 10440


def test_a_cancelled_webhook_is_a_cancellation_without_lines() -> None:
    record = taken(
        changed(MODERN, cancelled_at="2026-03-02T11:00:00+01:00", cancel_reason="customer"),
        topic="orders/cancelled",
    )
    assert (record.kind, record.status, record.lines) == (IntakeKind.CANCEL, ChannelStatus.CANCELLED, ())
    assert record.cancel_reason == "customer"


def test_a_snapshot_of_a_cancelled_order_says_so() -> None:
    assert taken(changed(MODERN, cancelled_at="2026-03-02T11:00:00+01:00")).status is ChannelStatus.CANCELLED


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("pending", TenderState.PENDING),
        (None, TenderState.PENDING),
        ("authorized", TenderState.AUTHORIZED),
        ("paid", TenderState.CAPTURED),
        ("partially_refunded", TenderState.CAPTURED),
        ("refunded", TenderState.REFUNDED),
        ("voided", TenderState.VOIDED),
    ],
)
def test_the_financial_status_is_the_tenders(status: str | None, state: TenderState) -> None:
    (tender,) = taken(changed(MODERN, financial_status=status)).tenders
    assert (tender.state, tender.amount.minor) == (state, 10440)


def test_a_partial_payment_is_one_taken_and_one_awaited() -> None:
    body = changed(MODERN, financial_status="partially_paid", total_outstanding="4.40")
    first, second = taken(body).tenders
    assert (first.state, first.amount.minor) == (TenderState.CAPTURED, 10000)
    assert (second.state, second.amount.minor) == (TenderState.PENDING, 440)
    assert first.reference != second.reference


def test_two_deliveries_of_one_event_have_one_identity_and_topics_differ() -> None:
    first = taken(MODERN, event="e-7")
    assert taken(MODERN, event="e-7").revision_id == first.revision_id
    assert taken(MODERN, event="e-8").revision_id != first.revision_id
    assert taken(MODERN, topic="orders/paid", event="e-7").revision_id != first.revision_id


def test_a_pickup_names_its_location() -> None:
    policy = shopify.Policy(locations={"905": "STORE-07"})
    body = changed(MODERN, location_id=905)
    body["shipping_lines"][0]["code"] = "pickup"
    record = taken(body, policy=policy)
    assert (record.method, record.pickup_location) == (DeliveryMethod.PICKUP, "STORE-07")
    assert "location_id" in refusal(changed(body, location_id=None))
    noted = changed(MODERN, note_attributes=[{"name": "pickup_location", "value": "STORE-07"}])
    assert taken(noted).pickup_location == "STORE-07"


def test_till_sales_are_taken_from_one_source_only() -> None:
    body = changed(MODERN, source_name="pos", location_id=905, fulfillment_status="fulfilled")
    record = taken(body)
    assert (record.kind, record.method) == (IntakeKind.POS_SALE, DeliveryMethod.CARRIED_OUT)
    policy = shopify.Policy(till_feed_shops=frozenset({SHOP}))
    skipped = shopify.translate(body, topic="orders/create", shop=SHOP, event="e", policy=policy)
    assert isinstance(skipped, Skipped)


def test_an_edit_notice_is_ignored_since_the_snapshot_follows() -> None:
    body = {"order_edit": {"id": 1, "order_id": 2, "line_items": {"additions": [], "removals": []}}}
    skipped = shopify.translate(body, topic="orders/edited", shop=SHOP, event="e", policy=shopify.Policy())
    assert isinstance(skipped, Skipped)


def test_extensions_travel_bounded() -> None:
    notes = [{"name": f"n{index}", "value": "x" * 1000} for index in range(60)]
    intake = shopify.translate(
        changed(MODERN, note_attributes=notes),
        topic="orders/create",
        shop=SHOP,
        event="e",
        policy=shopify.Policy(),
    )
    assert intake.attributes["shopify.source_name"] == "web"
    assert len(intake.attributes) <= 20
    assert max(len(value) for value in intake.attributes.values()) <= 250


REFUND = {
    "id": 929361465,
    "order_id": 5312960331001,
    "created_at": "2026-03-09T10:00:00+01:00",
    "note": "too small",
    "restock": True,
    "refund_line_items": [
        {
            "id": 1,
            "line_item_id": 1,
            "quantity": 1,
            "restock_type": "return",
            "subtotal": 44.75,
            "subtotal_set": money("44.75"),
            "total_tax": 7.15,
            "total_tax_set": money("7.15"),
        }
    ],
    "transactions": [{"id": 3, "kind": "refund", "status": "success", "amount": "44.75", "currency": "EUR"}],
    "order_adjustments": [],
}


def test_a_refund_whose_lines_contain_tax_adds_up_without_it() -> None:
    record = taken(REFUND, topic="refunds/create")
    assert record.order_id == order_id(channel="shopify", shop=SHOP, external_id="5312960331001")
    assert record.refund_id == "929361465"
    (line,) = record.lines
    assert (line.line_id, line.units) == ("1", 1)
    assert line.amounts == Amounts(currency="EUR", goods=4475 - 715, tax=715)
    assert record.amount == Money(minor=4475, currency="EUR")
    assert record.adjustment_minor == 0
    assert record.restock
    assert line.disposition is RefundDisposition.RETURNED
    assert record.our_refund_id is None


def test_a_refund_line_says_what_became_of_its_units_better_than_the_whole_refund() -> None:
    (row,) = REFUND["refund_line_items"]
    kinds = ("cancel", "no_restock")
    body = changed(REFUND, refund_line_items=[{**row, "restock_type": kind} for kind in kinds])
    record = taken(body, topic="refunds/create")
    told = [line.disposition for line in record.lines]
    assert told == [RefundDisposition.CANCELLED, RefundDisposition.KEPT]
    assert not record.restock


def test_the_flag_of_a_refund_counts_where_its_lines_say_nothing() -> None:
    (row,) = REFUND["refund_line_items"]
    record = taken(changed(REFUND, refund_line_items=[{**row, "restock_type": None}]), topic="refunds/create")
    assert record.lines[0].disposition is RefundDisposition.UNSPECIFIED
    assert record.restock


def test_a_refund_with_tax_on_top_and_shipping() -> None:
    body = changed(
        REFUND,
        transactions=[{"kind": "refund", "status": "success", "amount": "56.80", "currency": "EUR"}],
        order_adjustments=[{"kind": "shipping_refund", "amount": "-4.12", "tax_amount": "-0.78"}],
    )
    record = taken(body, topic="refunds/create")
    assert record.lines[0].amounts == Amounts(currency="EUR", goods=4475, tax=715)
    assert record.adjustment_minor == 490


def test_a_failed_transaction_moved_no_money() -> None:
    body = changed(
        REFUND, transactions=[{"kind": "refund", "status": "failure", "amount": "44.75", "currency": "EUR"}]
    )
    record = taken(body, topic="refunds/create")
    assert record.amount.minor == 0
    assert record.adjustment_minor == -sum(line.amounts.due for line in record.lines)


def test_a_presentment_refund_is_booked_in_shop_money() -> None:
    body = changed(
        REFUND, transactions=[{"kind": "refund", "status": "success", "amount": "8100", "currency": "JPY"}]
    )
    record = taken(body, topic="refunds/create")
    assert record.amount == Money(minor=4475 + 715, currency="EUR")


@pytest.mark.parametrize(
    ("note", "ours"),
    [
        ("crossdock-refund:rma-1/i-1/refund", "rma-1/i-1/refund"),
        ("by the desk, crossdock-refund: c/refund", "c/refund"),
        ("rma-1/i-1/refund", "rma-1/i-1/refund"),
        ("customer asked for a refund", None),
        (None, None),
    ],
)
def test_our_own_refund_is_known_by_its_note(note: str | None, ours: str | None) -> None:
    assert taken(changed(REFUND, note=note), topic="refunds/create").our_refund_id == ours


def test_a_refund_without_any_currency_is_refused() -> None:
    body = {"id": 1, "order_id": 2, "created_at": "2026-03-09T10:00:00Z", "refund_line_items": []}
    assert refusal(body, topic="refunds/create") == {"transactions": "must name the currency of the refund"}
