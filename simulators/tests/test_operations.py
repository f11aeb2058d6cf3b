"""The simulated warehouse, payment provider and channels: idempotent by reference, faults by count, books that survive."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError, web
from aiohttp.test_utils import TestClient, TestServer

from crossdock_simulators import channels, psp, wms
from crossdock_simulators.simulated import Journal

ORDER = "6f1f2f6e-3f0b-5a57-9c2e-1f5c53f0a001"
FULFILLMENT = f"{ORDER}/1"
PATH = f"/fulfillment-orders/{ORDER}%2F1"
REQUEST = {
    "order_id": ORDER,
    "fulfillment_order_id": FULFILLMENT,
    "location": "DC-1",
    "method": "SHIP",
    "lines": [{"line_id": "L1", "sku": "MUG", "units": 3}, {"line_id": "L2", "sku": "CUP", "units": 1}],
}


class SimulatedGateway:
    """Takes events; `away` answers 503 so many times first."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.away = 0
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        if self.away:
            self.away -= 1
            return web.Response(status=503)
        self.events.append(await request.json())
        self.headers.append(dict(request.headers))
        return web.json_response({}, status=202)

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]

    async def until(self, count: int) -> list[dict[str, Any]]:
        for _ in range(1000):
            if len(self.events) >= count:
                break
            await asyncio.sleep(0.01)
        return self.events


@pytest.fixture
async def simulated_gateway() -> AsyncIterator[SimulatedGateway]:
    gateway = SimulatedGateway()
    app = web.Application()
    app.add_routes([web.post("/{path:.*}", gateway.take)])
    async with TestServer(app) as server:
        gateway.url = str(server.make_url(""))
        yield gateway


Start = Callable[..., Any]


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


async def books(client: TestClient) -> dict[str, Any]:
    return await (await client.get("/books")).json()


def fast(gateway: SimulatedGateway, path: Path | None = None) -> web.Application:
    return wms.build(gateway.url, Journal(path), ship_after_s=0.02, collect_after_s=0.02)


async def test_an_order_ships_once_however_often_it_is_sent(simulated_gateway, start) -> None:
    client = await start(fast(simulated_gateway))
    assert (await client.put(PATH, json=REQUEST)).status == 201
    assert (await client.put(PATH, json=REQUEST)).status == 200
    simulated_gateway.away = 2
    (event,) = await simulated_gateway.until(1)
    assert event["type"] == "shipment_confirmed"
    assert event["fulfillment_order_id"] == FULFILLMENT
    assert event["lines"] == REQUEST["lines"]
    await asyncio.sleep(0.1)
    shown = await books(client)
    assert simulated_gateway.kinds() == ["shipment_confirmed"]
    assert shown["shipped_units"]["by_sku"] == {"MUG": 3, "CUP": 1}
    assert shown["shipped_units"]["by_order"] == {ORDER: 4}
    assert shown["duplicates"] == 0
    assert shown["repeated_requests"] == {"fulfillment_order": 1}
    assert (await client.get(PATH)).status == 200
    assert (await client.get("/fulfillment-orders/other")).status == 404


async def test_a_short_pick_ships_what_is_there(simulated_gateway, start) -> None:
    client = await start(fast(simulated_gateway))
    await client.post("/faults", json={"short_pick": {"MUG": 2}})
    await client.put(PATH, json=REQUEST)
    short, shipped = await simulated_gateway.until(2)
    assert (short["type"], short["lines"]) == ("short_picked", [{"line_id": "L1", "sku": "MUG", "units": 2}])
    assert [line["units"] for line in shipped["lines"]] == [1, 1]


async def test_a_location_rejects_as_often_as_it_was_told_to(simulated_gateway, start) -> None:
    client = await start(fast(simulated_gateway))
    await client.post("/faults", json={"reject": {"DC-1": 1}})
    await client.put(PATH, json=REQUEST)
    await simulated_gateway.until(1)
    await client.put(
        f"/fulfillment-orders/{ORDER}%2F2", json=REQUEST | {"fulfillment_order_id": f"{ORDER}/2"}
    )
    await simulated_gateway.until(2)
    assert simulated_gateway.kinds() == ["fulfillment_rejected", "shipment_confirmed"]


async def test_a_pickup_is_staged_and_then_collected(simulated_gateway, start) -> None:
    client = await start(fast(simulated_gateway))
    await client.put(PATH, json=REQUEST | {"method": "PICKUP"})
    await simulated_gateway.until(2)
    assert simulated_gateway.kinds() == ["pickup_staged", "pickup_collected"]


async def test_a_cancellation_in_time_stops_and_one_too_late_does_not(simulated_gateway, start) -> None:
    client = await start(wms.build(simulated_gateway.url, Journal(), ship_after_s=0.1))
    await client.put(PATH, json=REQUEST)
    stop = {"lines": [{"line_id": "L1", "sku": "MUG", "units": 3}]}
    assert (await client.put(f"{PATH}/cancellations/c1", json=stop)).status == 201
    assert (await client.put(f"{PATH}/cancellations/c1", json=stop)).status == 200
    await simulated_gateway.until(2)
    assert (await client.put(f"{PATH}/cancellations/c2", json=stop)).status == 201
    confirmed, shipped, declined = await simulated_gateway.until(3)
    assert (confirmed["type"], confirmed["lines"]) == ("cancel_confirmed", stop["lines"])
    assert [line["line_id"] for line in shipped["lines"]] == ["L2"]
    assert (declined["type"], declined["cancel_id"]) == ("cancel_declined", "c2")
    assert (await client.put("/fulfillment-orders/none/cancellations/c", json=stop)).status == 409


async def test_a_cancel_race_ships_first(simulated_gateway, start) -> None:
    client = await start(wms.build(simulated_gateway.url, Journal(), ship_after_s=5))
    await client.post("/faults", json={"cancel_race": 1})
    await client.put(PATH, json=REQUEST)
    await client.put(f"{PATH}/cancellations/c1", json={"lines": REQUEST["lines"]})
    await simulated_gateway.until(2)
    assert simulated_gateway.kinds() == ["shipment_confirmed", "cancel_declined"]


async def test_a_lost_answer_has_been_acted_upon(simulated_gateway, start) -> None:
    client = await start(fast(simulated_gateway))
    await client.post("/faults", json={"lose_answer": 1})
    with pytest.raises(ClientError):
        await client.put(PATH, json=REQUEST)
    assert (await client.get(PATH)).status == 200
    await simulated_gateway.until(1)


async def test_books_and_unposted_events_survive_a_kill(simulated_gateway, start, tmp_path) -> None:
    path = tmp_path / "wms.jsonl"
    simulated_gateway.away = 1_000_000
    client = await start(fast(simulated_gateway, path))
    await client.put(PATH, json=REQUEST)
    await asyncio.sleep(0.3)
    await client.close()
    path.write_text(path.read_text() + '{"fact": "ship')
    simulated_gateway.away = 0
    again = await start(fast(simulated_gateway, path))
    await simulated_gateway.until(1)
    assert simulated_gateway.kinds() == ["shipment_confirmed"]
    assert (await books(again))["shipped_units"]["by_order"] == {ORDER: 4}
    assert (await again.put(PATH, json=REQUEST)).status == 200
    await again.put(f"/fulfillment-orders/{ORDER}%2F2", json=REQUEST | {"fulfillment_order_id": f"{ORDER}/2"})
    await simulated_gateway.until(2)
    await again.close()
    last = await start(fast(simulated_gateway, path))
    assert (await books(last))["shipments"] == 2
    await asyncio.sleep(0.1)
    assert len(simulated_gateway.events) == 2


async def test_an_unknown_fault_is_refused(simulated_gateway, start) -> None:
    client = await start(fast(simulated_gateway))
    assert (await client.post("/faults", json={"short_pik": {}})).status == 422


CAPTURE = {
    "id": f"{ORDER}/capture/S1",
    "order_id": ORDER,
    "tender_reference": "t-1",
    "amount": {"amount": "19.99", "currency": "EUR"},
}


async def test_a_capture_happens_once_a_key_and_is_reported(simulated_gateway, start) -> None:
    client = await start(psp.build(simulated_gateway.url, Journal()))
    headers = {"Idempotency-Key": CAPTURE["id"]}
    assert (await client.post("/captures", json=CAPTURE, headers=headers)).status == 201
    assert (await client.post("/captures", json=CAPTURE, headers=headers)).status == 200
    other = CAPTURE | {"amount": {"amount": "20.00", "currency": "EUR"}}
    assert (await client.post("/captures", json=other, headers=headers)).status == 409
    (event,) = await simulated_gateway.until(1)
    assert (event["type"], event["capture_id"], event["amount"]) == (
        "captured",
        CAPTURE["id"],
        CAPTURE["amount"],
    )
    shown = await books(client)
    assert shown["money"]["captures"] == {"EUR": "19.99"}
    assert shown["repeated_requests"] == {"captures": 2}
    assert shown["contradictions"] == [f"captures/{CAPTURE['id']}"]
    found = await client.get(f"/captures/{ORDER}%2Fcapture%2FS1")
    assert (await found.json())["status"] == "succeeded"


async def test_a_decline_is_answered_and_not_reported(simulated_gateway, start) -> None:
    client = await start(psp.build(simulated_gateway.url, Journal()))
    await client.post("/faults", json={"decline": {"refunds": 1}})
    refund = CAPTURE | {"id": "r1"}
    for _ in range(2):
        answer = await client.post("/refunds", json=refund, headers={"Idempotency-Key": "r1"})
        assert (answer.status, (await answer.json())["status"]) == (402, "declined")
    assert (await client.post("/refunds", json=refund, headers={"Idempotency-Key": "r2"})).status == 201
    (event,) = await simulated_gateway.until(1)
    assert event["refund_id"] == "r2"
    assert (await books(client))["money"]["refunds"] == {"EUR": "19.99"}


async def test_a_channel_counts_what_it_is_told_twice(simulated_gateway, start) -> None:
    client = await start(channels.build(simulated_gateway.url, Journal(), shopify_secret="first"))
    body = {
        "external_id": "77",
        "shop": "harbour.example",
        "note": "crossdock-refund:r1",
        "amount": {"amount": "5.00", "currency": "EUR"},
    }
    assert (await client.put("/shopify/refunds/r%2F1", json=body)).status == 201
    assert (await client.put("/shopify/refunds/r%2F1", json=body)).status == 200
    assert (await client.put("/amazon/fulfillments/s1", json={})).status == 201
    (echo,) = await simulated_gateway.until(1)
    assert (echo["order_id"], echo["note"]) == ("77", "crossdock-refund:r1")
    assert simulated_gateway.headers[0]["X-Shopify-Topic"] == "refunds/create"
    shown = await books(client)
    assert shown["told"] == {"shopify/refunds": 1, "amazon/fulfillments": 1}
    assert shown["duplicates"] == 1
    assert (await client.get("/shopify/refunds/r%2F1")).status == 200
    assert (await client.get("/shopify/refunds/none")).status == 404
