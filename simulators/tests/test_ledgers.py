"""What the simulated systems show as their ledgers is what the auditor reads: every entry, and how often it came about."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from crossdock_canonical.money import Money
from crossdock_simulators import channels, erp, psp, wms
from crossdock_simulators.simulated import Journal
from crossdock_tools.audit.books import BookLine
from crossdock_tools.audit.ledgers import channel_books, erp_books, payment_books, warehouse_books

NOWHERE = "http://127.0.0.1:9"
LINES = [{"line_id": "L1", "sku": "MUG", "units": 3}]
REQUEST = {
    "order_id": "O-1",
    "fulfillment_order_id": "O-1/1",
    "location": "DC-1",
    "method": "SHIP",
    "lines": LINES,
}

Start = Callable[[web.Application], Awaitable[Any]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    running: list[TestClient] = []

    async def begin(app: web.Application) -> TestClient:
        client = TestClient(TestServer(app))
        await client.start_server()
        running.append(client)
        return client

    yield begin
    for client in running:
        await client.close()


async def ledger(client: TestClient) -> dict[str, Any]:
    # Faults are for the system's own work: an audit in the middle of an outage reads its books all the same.
    await client.post("/faults", json={"outage": True})
    async with client.get("/ledger") as answer:
        found: dict[str, Any] = await answer.json()
    await client.post("/faults", json={"outage": False})
    return found


async def until_shipped(client: TestClient) -> dict[str, Any]:
    while not (found := await ledger(client))["shipments"]:
        pass
    return found


async def test_the_warehouses(start: Start, tmp_path: Path) -> None:
    client = await start(wms.build(NOWHERE, Journal(tmp_path / "wms"), ship_after_s=0.0))
    for _ in range(2):
        await client.put("/fulfillment-orders/O-1%2F1", json=REQUEST)
        await client.put("/expected-returns/R1", json={**REQUEST, "rma_id": "R1"})
    found = warehouse_books(await until_shipped(client))
    await client.put("/fulfillment-orders/O-1%2F1/cancellations/X1", json=REQUEST)
    order = found.fulfillment_orders["O-1/1"]
    line = BookLine(line_id="L1", sku="MUG", units=3)
    assert (order.accepted_times, order.order_id, order.location, order.requested) == (
        1,
        "O-1",
        "DC-1",
        (line,),
    )
    [shipment] = found.shipments
    assert (shipment.shipment_id, shipment.number, shipment.lines) == ("O-1/1/S1", "O-1/1", (line,))
    assert [each.rma_id for each in found.expected_returns] == ["R1"]
    [cancellation] = warehouse_books(await ledger(client)).cancellations
    assert (cancellation.number, cancellation.cancel_id, cancellation.stopped) == ("O-1/1", "X1", ())
    again = await start(wms.build(NOWHERE, Journal(tmp_path / "wms"), ship_after_s=0.0))
    assert warehouse_books(await ledger(again)).shipments == found.shipments, "it survives a restart"


async def test_the_payment_providers(start: Start) -> None:
    client = await start(psp.build(NOWHERE, Journal()))
    body = {"order_id": "O-1", "amount": {"amount": "19.99", "currency": "EUR"}}
    for _ in range(2):
        await client.post("/captures", json=body, headers={"Idempotency-Key": "C1"})
    await client.post("/faults", json={"decline": {"refunds": 1}})
    await client.post("/refunds", json=body, headers={"Idempotency-Key": "F1"})
    found = payment_books(await ledger(client))
    assert found.captures["C1"].amount == Money(minor=1999, currency="EUR")
    assert (found.captures["C1"].times, found.captures["C1"].order_id) == (1, "O-1")
    assert not found.refunds, "what was declined moved nothing"


async def test_the_channels(start: Start) -> None:
    client = await start(channels.build(NOWHERE, Journal()))
    for _ in range(2):
        await client.put("/shopify/fulfillments/O-1%2F1%2FS1", json={"order_id": "O-1"})
    [told] = channel_books(await ledger(client)).told
    assert (told.channel, told.kind, told.reference) == ("shopify", "fulfillments", "O-1/1/S1")
    assert (told.order_id, told.times) == ("O-1", 1)


async def test_the_erps(start: Start) -> None:
    client = await start(erp.Erp(erp.Books()).application())
    document = {
        "document_type": "INVOICE",
        "business_key": "invoice/O-1/S1",
        "version": 1,
        "reference": "invoice/O-1/S1@1",
        "order_id": "O-1",
        "amount_minor": 1999,
        "currency": "EUR",
        "lines": [],
        "predecessor": "",
    }
    for _ in range(2):
        await client.post("/documents", json=document)
    async with client.get("/ledger") as answer:
        found = erp_books({"cloud": await answer.json()})
    assert [each.external_ref for each in found.documents] == ["ERP-00000001", "ERP-00000002"]
    assert found.documents[0].amount == Money(minor=1999, currency="EUR")
    assert any("amount_differs" in each for each in found.objections)
