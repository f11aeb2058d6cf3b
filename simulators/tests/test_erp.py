"""The simulated ERP: its books, its verdict and its faults."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from crossdock_simulators.erp import Books, Erp


@pytest.fixture
async def client() -> AsyncIterator[TestClient]:
    async with TestClient(TestServer(Erp(Books()).application())) as running:
        yield running


def document(kind: str, key: str, *, minor: int = 0, predecessor: str = "", **changes: Any) -> dict[str, Any]:
    return {
        "document_type": kind,
        "business_key": key,
        "version": 1,
        "reference": f"{key}@1",
        "order_id": "o-1",
        "amount_minor": minor,
        "currency": "EUR",
        "lines": [{"net_minor": minor, "tax_minor": 0}],
        "predecessor": predecessor,
        **changes,
    }


async def books(client: TestClient) -> dict[str, Any]:
    async with client.get("/books") as answer:
        return await answer.json()


async def post(client: TestClient, *documents: dict[str, Any]) -> list[int]:
    statuses = []
    for each in documents:
        async with client.post("/documents", json=each) as answer:
            statuses.append(answer.status)
    return statuses


async def fail(client: TestClient, **faults: Any) -> None:
    async with client.post("/faults", json=faults) as answer:
        assert answer.status == 200, await answer.text()


async def test_a_posted_document_is_found_by_its_reference(client):
    async with client.get("/documents", params={"reference": "invoice/1@1"}) as answer:
        assert answer.status == 404
    async with client.post("/documents", json=document("DELIVERY", "invoice/1")) as answer:
        assert (answer.status, (await answer.json())["external_ref"]) == (201, "ERP-00000001")
    async with client.get("/documents", params={"reference": "invoice/1@1"}) as answer:
        assert await answer.json() == {"external_ref": "ERP-00000001", "count": 1}


async def test_a_double_posting_is_taken_and_shows_in_the_books(client):
    invoice = document("DELIVERY", "delivery/1")
    assert await post(client, invoice, invoice) == [201, 201]
    assert (await books(client))["duplicates"] == [{"reference": "delivery/1@1", "count": 2}]


async def test_a_strict_erp_refuses_a_reference_that_it_holds():
    async with TestClient(TestServer(Erp(Books(unique=True)).application())) as client:
        delivery = document("DELIVERY", "delivery/1")
        assert await post(client, delivery, delivery) == [201, 409]
        assert (await books(client))["documents"] == 1


async def test_totals_are_by_type_and_currency(client):
    await post(
        client,
        document("PAYMENT", "payment/1", minor=500),
        document("PAYMENT", "payment/2", minor=-200),
        document("PAYMENT", "payment/3", minor=7, currency="USD"),
    )
    assert (await books(client))["totals"] == {
        "PAYMENT": {"EUR": {"count": 2, "amount_minor": 300}, "USD": {"count": 1, "amount_minor": 7}}
    }


async def test_sound_books_have_no_findings(client):
    await post(
        client,
        document("SALES_ORDER", "so", minor=100),
        document("DELIVERY", "d", predecessor="so@1"),
        document("INVOICE", "i", minor=100, predecessor="d@1"),
        document("CREDIT_MEMO", "c", minor=100, predecessor="i@1"),
    )
    assert (await books(client))["findings"] == []


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (document("DELIVERY", "d", predecessor="so@1"), "predecessor_missing"),
        (document("INVOICE", "i", minor=5), "predecessor_unnamed"),
        (document("SALES_ORDER", "so", minor=5, lines=[]), "amount_differs"),
        (document("SETTLEMENT_JOURNAL", "j", minor=5), "journal_unbalanced"),
        (document("CREDIT_MEMO", "c", minor=5, predecessor="i@1"), "credited_beyond_invoiced"),
    ],
)
async def test_the_ledger_checks_name_what_is_wrong(client, wrong, code):
    await post(client, wrong)
    assert code in {finding["code"] for finding in (await books(client))["findings"]}


async def test_a_batch_answers_document_by_document(client):
    await fail(client, reject={"INVOICE": "period_closed"})
    batch = [document("DELIVERY", "d"), document("INVOICE", "i"), {"document_type": "DELIVERY"}]
    async with client.post("/documents/batch", json=batch) as answer:
        results = await answer.json()
    assert [result["status"] for result in results] == [201, 422, 400]
    assert results[1]["code"] == "period_closed"
    assert (await books(client))["documents"] == 1


async def test_a_rejection_by_business_key_leaves_the_rest_alone(client):
    await fail(client, reject={"delivery/o-1/": "blocked"})
    assert await post(
        client, document("DELIVERY", "delivery/o-1/s"), document("DELIVERY", "delivery/o-2/s")
    ) == [
        422,
        201,
    ]


async def test_a_lost_answer_is_booked_and_the_connection_drops(client):
    await fail(client, lose_answer_every=2)
    assert await post(client, document("DELIVERY", "d1")) == [201]
    with pytest.raises(aiohttp.ClientError):
        await post(client, document("DELIVERY", "d2"))
    assert await post(client, document("DELIVERY", "d3")) == [201]
    assert (await books(client))["documents"] == 3


async def test_errors_are_counted_out_and_book_nothing(client):
    await fail(client, error_rate=0.25)
    statuses = await post(client, *(document("DELIVERY", f"d{number}") for number in range(8)))
    assert statuses == [201, 201, 201, 500, 201, 201, 201, 500]
    assert (await books(client))["documents"] == 6


async def test_an_outage_ends_by_itself_or_by_order(client):
    await fail(client, outage_s=60)
    assert await post(client, document("DELIVERY", "d")) == [503]
    async with client.delete("/faults") as answer:
        assert answer.status == 204
    assert await post(client, document("DELIVERY", "d")) == [201]
    await fail(client, outage_s=0)
    assert await post(client, document("DELIVERY", "e")) == [201]


async def test_requests_above_the_rate_are_throttled(client):
    await fail(client, rate_limit_per_s=1)
    async with client.post("/documents", json=document("DELIVERY", "d1")):
        pass
    statuses = await post(client, *(document("DELIVERY", f"e{number}") for number in range(5)))
    assert 429 in statuses
    assert (await books(client))["documents"] <= 3  # one a second, and the loop may cross one boundary


async def test_an_unknown_fault_is_refused_by_name(client):
    async with client.post("/faults", json={"outage": 3}) as answer:
        assert answer.status == 400
        assert "outage" in (await answer.json())["detail"]


async def test_a_body_that_is_no_json_is_the_senders_fault(client):
    async with client.post("/documents", data=b"{") as answer:
        assert (answer.status, (await answer.json())["code"]) == (400, "not_json")


async def test_books_survive_a_restart(tmp_path: Path):
    path = tmp_path / "books.jsonl"
    before = Books(path)
    before.book(document("DELIVERY", "d1"))
    after = Books(path)
    assert after.documents == before.documents
    assert after.book(document("DELIVERY", "d2")) == "ERP-00000002"
    assert len(after.find("d1@1")) == 1


async def test_the_documents_of_one_order_can_be_listed(client):
    await post(client, document("DELIVERY", "d1"), document("DELIVERY", "d2", order_id="o-2"))
    async with client.get("/books/documents", params={"order_id": "o-2"}) as answer:
        assert [each["business_key"] for each in await answer.json()] == ["d2"]
