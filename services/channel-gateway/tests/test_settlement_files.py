"""Payout files: read as a stream, grouped by order, declared last; odd lines stay visible, odd files are refused whole."""

import hashlib
import json
import re
import tracemalloc
from collections.abc import AsyncIterator

import pytest

from crossdock_canonical.identity import order_id
from crossdock_canonical.records import MatchLines, SettlementDeclared
from crossdock_channel_gateway.intake import Intake
from crossdock_channel_gateway.settlements import BATCH_LINES, WINDOW_LINES
from crossdock_channel_gateway.translate.settlement import local_moment

COLUMNS = (
    "settlement-id settlement-start-date settlement-end-date deposit-date total-amount currency transaction-type order-id "
    "merchant-order-id adjustment-id shipment-id marketplace-name amount-type amount-description amount fulfillment-id "
    "posted-date posted-date-time order-item-code merchant-order-item-id merchant-adjustment-item-id sku quantity-purchased "
    "promotion-id"
)
HEADER = COLUMNS.split()
FIRST, SECOND = "111-0000001-0000001", "111-0000002-0000002"


def row(**cells: str) -> str:
    return "\t".join(cells.get(name.replace("-", "_"), "") for name in HEADER)


def totals(amount: str = "30.00", currency: str = "USD") -> str:
    return row(
        settlement_id="9001",
        settlement_start_date="2026-02-01T00:00:00+00:00",
        settlement_end_date="2026-02-15 00:00:00 UTC",
        deposit_date="02/17/26",
        total_amount=amount,
        currency=currency,
    )


def line(
    amount: str,
    order: str = FIRST,
    *,
    description: str = "Principal",
    place: str = "Amazon.com",
    **cells: str,
) -> str:
    return row(
        settlement_id="9001",
        transaction_type=cells.pop("transaction_type", "Order"),
        order_id=order,
        marketplace_name=place,
        amount_type="ItemPrice",
        amount_description=description,
        amount=amount,
        posted_date="2026-02-03",
        posted_date_time="03.02.2026 12:00:00 UTC",
        order_item_code="8001",
        sku="MUG",
        **cells,
    )


def report(*rows: str, totals_row: str | None = None) -> bytes:
    return "\r\n".join(["\t".join(HEADER), totals_row or totals(), *rows, ""]).encode()


async def sent(caller, body: bytes, path: str = "/settlements/amazon?seller=S1"):
    return await caller.http.post(path, content=body)


def split(caller) -> tuple[list[MatchLines], SettlementDeclared]:
    *matches, declared = caller.publisher.records
    assert all(isinstance(record, MatchLines) for record in matches)
    assert isinstance(declared, SettlementDeclared)
    return matches, declared


async def test_lines_go_to_their_order_and_the_declaration_comes_last(caller) -> None:
    body = report(
        line("20.00"), line("5.00", SECOND), line("8.00", description="Shipping"), line("-3.00", "", place="")
    )
    response = await sent(caller, body)
    assert response.status_code == 202, response.text
    matches, declared = split(caller)
    first, second, none = matches
    expected = order_id(channel="amazon", shop="S1", marketplace="ATVPDKIKX0DER", external_id=FIRST)
    assert (first.subject, first.order_id) == (expected, expected)
    assert [each.line_no for each in first.lines] == [3, 5]
    assert [each.amount_minor for each in first.lines] == [2000, 800]
    assert second.batch == 4
    assert (none.subject, none.order_id) == ("amazon/S1/9001", None)
    assert declared.settlement_id == "amazon/S1/9001"
    assert declared.sha256 == hashlib.sha256(body).hexdigest()
    assert (declared.line_count, declared.control_sum_minor, declared.declared_total.minor) == (4, 3000, 3000)
    assert declared.deposited_at.isoformat() == "2026-02-17T00:00:00+00:00"
    assert first.lines[0].posted_at.isoformat() == "2026-02-03T12:00:00+00:00"
    assert (first.lines[0].item_ref, first.lines[0].seller_sku) == ("8001", "MUG")


async def test_the_same_file_again_is_the_same_records(caller) -> None:
    body = report(line("20.00"), line("10.00", SECOND))
    await sent(caller, body)
    first = [(intake.delivery, intake.records) for intake in caller.publisher.intakes]
    caller.publisher.intakes.clear()
    await sent(caller, body)
    assert [(intake.delivery, intake.records) for intake in caller.publisher.intakes] == first


async def test_local_amounts_are_read_by_the_files_convention(caller) -> None:
    rows = [line(amount) for amount in ("95,00", "1.234,56", "-0,5", "1.234", "\u22123,10")]
    await sent(caller, report(*rows, totals_row=totals("1.326,00", "EUR")))
    matches, declared = split(caller)
    assert [each.amount_minor for each in matches[0].lines] == [9500, 123456, -50, 123400, -310]
    assert declared.declared_total.minor == 132600


async def test_an_amount_that_cannot_be_held_stays_as_text(caller) -> None:
    rows = [line("1.234"), line("12,34"), line(""), line("free"), line("1,234.50")]
    await sent(caller, report(*rows))
    matches, declared = split(caller)
    assert [each.amount_minor for each in matches[0].lines] == [None, None, None, None, 123450]
    assert [each.raw_amount for each in matches[0].lines] == ["1.234", "12,34", "", "free", "1,234.50"]
    assert (declared.line_count, declared.control_sum_minor) == (5, 123450)


async def test_an_id_that_is_no_order_belongs_to_the_settlement(caller) -> None:
    await sent(caller, report(line("1.00", "FBA15DXYZ"), line("2.00", FIRST, place="Amazon.example")))
    matches, _ = split(caller)
    assert [(match.order_id, len(match.lines)) for match in matches] == [(None, 2)]
    assert [each.order_ref for each in matches[0].lines] == ["FBA15DXYZ", FIRST]


async def test_an_empty_marketplace_is_the_orders_own_or_the_accounts(caller) -> None:
    german = order_id(channel="amazon", shop="S1", marketplace="A1PA6795UKMFR9", external_id=FIRST)
    american = order_id(channel="amazon", shop="S1", marketplace="ATVPDKIKX0DER", external_id=SECOND)
    await sent(
        caller,
        report(line("1.00", place="Amazon.de"), line("2.00", place=""), line("2.00", SECOND, place="")),
    )
    matches, _ = split(caller)
    assert [(match.order_id, len(match.lines)) for match in matches] == [(german, 2), (american, 1)]


async def test_columns_are_found_by_name(caller) -> None:
    names = list(reversed([name for name in HEADER if name != "promotion-id"]))
    cells = dict(zip(HEADER, line("7.00").split("\t"), strict=True))
    sums = dict(zip(HEADER, totals("7.00").split("\t"), strict=True))
    body = "\n".join(
        "\t".join(part) for part in (names, [sums[n] for n in names], [cells[n] for n in names])
    ).encode()
    assert (await sent(caller, body)).status_code == 202
    assert split(caller)[1].control_sum_minor == 700


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"", 422, "settlement-id"),
        (b"settlement-id\tamount\n1\t2\n", 422, "total-amount"),
        (report(totals_row=line("1.00")), 422, "rows[2].total-amount"),
        (report(totals_row=totals("3.005")), 422, "rows[2].total-amount"),
        (report(totals_row=totals("3.00", "dollars")), 422, "rows[2].currency"),
        (report(line("1.00"), line("1.00").replace("9001", "9002")), 422, "rows[4].settlement-id"),
        (report(line("1.00")) + b"\x81", 400, ""),
    ],
)
async def test_a_file_with_a_broken_frame_is_refused_whole(
    caller, body: bytes, status: int, field: str
) -> None:
    response = await sent(caller, body)
    assert response.status_code == status, response.text
    assert not field or field in {each["field"] for each in response.json()["errors"]}
    assert caller.publisher.records == []


async def test_a_file_of_an_older_encoding_is_read(caller) -> None:
    body = report(line("30.00", description="Versandgebühr")).decode().encode("cp1252")
    assert (await sent(caller, body)).status_code == 202
    assert split(caller)[0][0].lines[0].description == "Versandgebühr"


async def test_records_stay_small(caller) -> None:
    await sent(caller, report(*[line("0.01") for _ in range(BATCH_LINES + 1)]))
    matches, declared = split(caller)
    assert [len(match.lines) for match in matches] == [BATCH_LINES, 1]
    assert [match.batch for match in matches] == [3, 3 + BATCH_LINES]
    assert declared.line_count == BATCH_LINES + 1


async def test_an_unacknowledged_part_is_503_and_nothing_is_declared(caller) -> None:
    caller.publisher.fail_after = 1
    rows = [line("1.00", f"111-0000001-{number:07d}") for number in range(WINDOW_LINES + 1)]
    response = await sent(caller, report(*rows))
    assert response.status_code == 503
    assert not any(isinstance(record, SettlementDeclared) for record in caller.publisher.records)


class CountingPublisher:
    """Keeps sums, not records."""

    def __init__(self) -> None:
        self.lines = 0
        self.largest = 0
        self.declared: SettlementDeclared | None = None

    async def publish(self, intake: Intake, *, traceparent: bytes | None = None) -> tuple[str, ...]:
        for record in intake.records:
            assert self.declared is None
            if isinstance(record, SettlementDeclared):
                self.declared = record
            else:
                self.lines += len(record.lines)
        self.largest = max(self.largest, len(intake.records))
        return ()


async def test_a_large_file_is_never_held(caller) -> None:
    caller.gateway.publisher = CountingPublisher()
    rows = 20_000

    async def body() -> AsyncIterator[bytes]:
        yield report().rstrip() + b"\r\n"
        for start in range(0, rows, 1000):
            numbers = range(start, start + 1000)
            yield (
                "\r\n".join(line("0.01", f"111-{number:07d}-0000001") for number in numbers).encode()
                + b"\r\n"
            )

    tracemalloc.start()
    response = await caller.http.post("/settlements/amazon?seller=S1", content=body())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert response.status_code == 202, response.text
    assert response.json()["lines"] == rows == caller.gateway.publisher.lines
    assert caller.gateway.publisher.declared.control_sum_minor == rows
    assert caller.gateway.publisher.largest <= WINDOW_LINES
    assert peak < 12 * 1024 * 1024  # The file has 2.5 MB, its lines as objects more than 20 MB.


PAYOUT = {
    "payout": {"id": 5501, "status": "paid", "date": "2026-02-17", "currency": "EUR", "amount": "38.55"},
    "transactions": [
        {
            "id": 1,
            "type": "charge",
            "payout_id": 5501,
            "currency": "EUR",
            "amount": "45.00",
            "fee": "1.45",
            "source_order_id": 77,
            "processed_at": "2026-02-16T10:00:00+01:00",
        },
        {
            "id": 2,
            "type": "refund",
            "payout_id": 5501,
            "currency": "EUR",
            "amount": "-5.00",
            "fee": "0.00",
            "source_order_id": 77,
        },
        {"id": 3, "type": "adjustment", "currency": "USD", "amount": "1.00", "source_order_id": None},
        {"id": 4, "type": "payout", "currency": "EUR", "amount": "-38.55", "fee": "0.00"},
    ],
}
SHOPIFY = "/settlements/shopify?shop=Harbour.example"


async def test_a_shopify_payout_is_gross_and_fee_lines(caller) -> None:
    response = await sent(caller, json.dumps(PAYOUT).encode(), SHOPIFY)
    assert response.status_code == 202, response.text
    matches, declared = split(caller)
    ours, none = matches
    assert ours.order_id == order_id(channel="shopify", shop="harbour.example", external_id="77")
    assert [
        (each.line_no, each.transaction_type, each.amount_type, each.amount_minor) for each in ours.lines
    ] == [
        (1, "charge", "gross", 4500),
        (2, "charge", "fee", -145),
        (3, "refund", "gross", -500),
    ]
    assert (none.subject, none.lines[0].amount_minor, none.lines[0].raw_amount) == (
        "shopify/harbour.example/5501",
        None,
        "1.00 USD",
    )
    assert (declared.line_count, declared.control_sum_minor, declared.declared_total.minor) == (4, 3855, 3855)


@pytest.mark.parametrize(
    ("path", "setting", "shop"),
    [
        ("/settlements/shopify", None, "default-shop"),
        ("/settlements/shopify", "Harbour.example", "harbour.example"),
        (SHOPIFY, "elsewhere.example", "harbour.example"),
    ],
)
async def test_a_payout_file_alone_belongs_to_the_shop_of_the_settings(
    caller, path: str, setting: str | None, shop: str
) -> None:
    if setting is not None:
        caller.gateway.settings.shopify_shop = setting
    response = await sent(caller, json.dumps(PAYOUT).encode(), path)
    assert response.status_code == 202, response.text
    (ours, _), declared = split(caller)
    assert ours.order_id == order_id(channel="shopify", shop=shop, external_id="77")
    assert (declared.shop, declared.settlement_id) == (shop, f"shopify/{shop}/5501")


async def test_the_payout_may_follow_its_transactions(caller) -> None:
    body = json.dumps({"transactions": PAYOUT["transactions"], "payout": PAYOUT["payout"]}).encode()
    assert (await sent(caller, body, SHOPIFY)).status_code == 202


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"{", 400, ""),
        (b"[]", 400, ""),
        (b'{"payout": ' + b"[" * 100_000, 400, ""),
        (b'{"payout": ' + b"9" * 5_000 + b"}", 400, ""),
        (b'{"transactions": []}', 422, "payout"),
        (
            json.dumps(PAYOUT | {"payout": PAYOUT["payout"] | {"amount": "1.005"}}).encode(),
            422,
            "payout.amount",
        ),
        (
            json.dumps(PAYOUT | {"transactions": [{"payout_id": 9}]}).encode(),
            422,
            "transactions[0].payout_id",
        ),
        (json.dumps(PAYOUT | {"transactions": [3]}).encode(), 422, "transactions[0]"),
    ],
)
async def test_a_payout_with_a_broken_frame_is_refused_whole(
    caller, body: bytes, status: int, field: str
) -> None:
    response = await sent(caller, body, SHOPIFY)
    assert response.status_code == status, response.text
    assert not field or field in {each["field"] for each in response.json()["errors"]}
    assert caller.publisher.records == []


async def test_a_file_over_its_limit_is_refused(caller) -> None:
    caller.gateway.settings.settlement_bytes_max = 100
    assert (await sent(caller, report())).status_code == 413


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-02-03T12:00:00+01:00", "2026-02-03T11:00:00+00:00"),
        ("2026-02-03 12:00:00 UTC", "2026-02-03T12:00:00+00:00"),
        ("03.02.2026 12:00:00 UTC", "2026-02-03T12:00:00+00:00"),
        ("03.02.2026", "2026-02-03T00:00:00+00:00"),
        ("02/03/26", "2026-02-03T00:00:00+00:00"),
        ("2026-02-03", "2026-02-03T00:00:00+00:00"),
        ("soon", None),
        ("", None),
    ],
)
def test_dates_of_reports(text: str, moment: str | None) -> None:
    found = local_moment(text)
    assert (found.isoformat() if found else None) == moment
    assert re.fullmatch(r"[0-9T:+-]+", moment or "2026-02-03")
