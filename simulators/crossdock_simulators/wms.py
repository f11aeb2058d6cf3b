"""A warehouse management system, for every location at once: takes fulfilment orders, ships, stages pickups, stops what it can.

    python -m crossdock_simulators.wms [--port 9101] [--gateway URL] [--books FILE] [--ship-after 0.2] [--collect-after 0.5]

    PUT /fulfillment-orders/{id}                           → 201, 200 when known; then events to the gateway
    PUT /fulfillment-orders/{id}/cancellations/{cancel}    → 201, 200 when known; 409 for an unknown order
    PUT /expected-returns/{rma}                            → 201, 200 when known
    GET on each of them                                    → 200, 404
    GET /books    units shipped by sku, location and order; repeated requests; what was sent twice
    GET /ledger   every fulfilment order, shipment, cancellation and expected return
    POST /faults  {"short_pick": {"SKU or location": units}, "reject": {"location": orders}, "cancel_race": n,
                   "lose_answer": n, "outage": true, "slow_s": s}

Used by the demo and the tests; no service imports it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from crossdock_simulators.simulated import (
    Faults,
    Journal,
    Json,
    Outbox,
    add_desk,
    event_of,
    faulty,
    json_object,
    now_text,
    parser,
    serve,
)

EVENTS = "/warehouse/events"


@dataclass(slots=True)
class Order:
    """One fulfilment order. `open_units` by line is what has not left, stopped or gone missing.

    accepted_times: how often it was taken on as new work, which must be once.
    """

    request: Json
    open_units: dict[str, int]
    status: str = "accepted"  # accepted, staged, done, rejected
    cancels: dict[str, Json] = field(default_factory=dict)
    accepted_times: int = 1


class Warehouse:
    """The books and what follows from them. `journal` keeps every fact; delays in seconds."""

    def __init__(
        self, journal: Journal, outbox: Outbox, faults: Faults, *, ship_after_s: float, collect_after_s: float
    ) -> None:
        self.faults = faults
        self.orders: dict[str, Order] = {}
        self.returns: dict[str, Json] = {}
        self.shipments: list[Json] = []
        self.repeats: Counter[str] = Counter()
        self._outbox = outbox
        self._ship_after_s = ship_after_s
        self._collect_after_s = collect_after_s
        self._work: set[asyncio.Task[None]] = set()
        for fact in journal.past():
            self._apply(fact)
            outbox.remember(fact)

    async def running(self, _app: web.Application) -> AsyncIterator[None]:
        """Take up what an earlier run left; on the way out, drop what has not begun."""
        for number, order in self.orders.items():
            if order.status in ("accepted", "staged"):
                self._later(number, order)
        yield
        for work in self._work:
            work.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)

    def accept(self, number: str, request: Json) -> bool:
        """Take a fulfilment order; False when it is known already, and nothing happens."""
        if number in self.orders:
            self.repeats["fulfillment_order"] += 1
            return False
        self._record({"fact": "accepted", "number": number, "request": request})
        self._later(number, self.orders[number])
        return True

    def cancel(self, number: str, cancel_id: str, request: Json) -> bool:
        """Stop what has not left; False when this cancellation is known already."""
        order = self.orders[number]
        if cancel_id in order.cancels:
            self.repeats["cancellation"] += 1
            return False
        if self.faults.take("cancel_race"):
            self._ship(number, order)
        stopped = [
            line | {"units": min(int(line["units"]), order.open_units.get(line["line_id"], 0))}
            for line in request.get("lines", [])
        ]
        stopped = [line for line in stopped if line["units"]]
        if stopped:
            body = self._event(order, "cancel_confirmed", cancel_id=cancel_id, lines=stopped)
        else:
            lines = request.get("lines", [])
            body = self._event(
                order, "cancel_declined", cancel_id=cancel_id, lines=lines, reason="already shipped"
            )
        event = event_of(number, f"{number}/cancel/{cancel_id}", EVENTS, body)
        self._record(
            {"fact": "cancelled", "number": number, "cancel_id": cancel_id, "stopped": stopped}, event
        )
        return True

    def expect_return(self, rma_id: str, request: Json) -> bool:
        """Note an expected return; False when known."""
        if rma_id in self.returns:
            self.repeats["expected_return"] += 1
            return False
        self._record({"fact": "return_expected", "rma_id": rma_id, "request": request})
        return True

    def books(self) -> Json:
        """What left, by sku, location and order; an order that was shipped twice shows as a duplicate."""
        sku: Counter[str] = Counter()
        location: Counter[str] = Counter()
        order: Counter[str] = Counter()
        for shipment in self.shipments:
            for line in shipment["lines"]:
                sku[line["sku"]] += line["units"]
                location[shipment["location"]] += line["units"]
                order[shipment["order_id"]] += line["units"]
        ids = Counter(shipment["shipment_id"] for shipment in self.shipments)
        over = [
            number
            for number, found in self.orders.items()
            if any(left < 0 for left in found.open_units.values())
        ]
        return {
            "fulfillment_orders": len(self.orders),
            "by_status": dict(Counter(found.status for found in self.orders.values())),
            "shipments": len(self.shipments),
            "shipped_units": {"by_sku": dict(sku), "by_location": dict(location), "by_order": dict(order)},
            "duplicates": sum(count - 1 for count in ids.values()) + len(over),
            "repeated_requests": dict(self.repeats),
            "expected_returns": len(self.returns),
            "events_posted": self._outbox.posted,
            "events_waiting": self._outbox.waiting,
            "events_refused": self._outbox.refused,
        }

    def ledger(self) -> Json:
        """Every entry of the books."""
        return {
            "fulfillment_orders": [
                {
                    "number": number,
                    "accepted_times": found.accepted_times,
                    "status": found.status,
                    "request": found.request,
                }
                for number, found in self.orders.items()
            ],
            "shipments": self.shipments,
            "cancellations": [
                {"number": number, "cancel_id": cancel_id, **cancel}
                for number, found in self.orders.items()
                for cancel_id, cancel in found.cancels.items()
            ],
            "expected_returns": [
                {"rma_id": rma_id, "request": request} for rma_id, request in self.returns.items()
            ],
            "events_refused": self._outbox.refused,
        }

    def _later(self, number: str, order: Order) -> None:
        work = asyncio.create_task(self._process(number, order))
        self._work.add(work)
        work.add_done_callback(self._work.discard)

    async def _process(self, number: str, order: Order) -> None:
        pickup = order.request.get("method") == "PICKUP"
        if order.status == "accepted":
            await asyncio.sleep(self._ship_after_s)
            if self._rejects(number, order):
                return
            self._miss(number, order)
            if not pickup:
                self._ship(number, order)
                return
            body = self._event(order, "pickup_staged", staged_at=now_text())
            event = event_of(number, f"{number}/staged", EVENTS, body)
            self._record({"fact": "staged", "number": number}, event)
        await asyncio.sleep(self._collect_after_s)
        self._ship(number, order)

    def _rejects(self, number: str, order: Order) -> bool:
        if not self.faults.take("reject", str(order.request.get("location"))):
            return False
        body = self._event(order, "fulfillment_rejected", event_id=f"{number}/rejected", reason="closed")
        event = event_of(number, f"{number}/rejected", EVENTS, body)
        self._record({"fact": "rejected", "number": number}, event)
        return True

    def _miss(self, number: str, order: Order) -> None:
        """Find less than was asked for, where the faults say so."""
        missing = []
        for line in order.request.get("lines", []):
            left = order.open_units[line["line_id"]]
            units = self.faults.take_units("short_pick", line["sku"], most=left)
            units += self.faults.take_units("short_pick", order.request.get("location"), most=left - units)
            if units:
                missing.append(line | {"units": units})
        if missing:
            body = self._event(
                order, "short_picked", event_id=f"{number}/short", lines=missing, reason="not at its place"
            )
            event = event_of(number, f"{number}/short", EVENTS, body)
            self._record({"fact": "missed", "number": number, "lines": missing}, event)

    def _ship(self, number: str, order: Order) -> None:
        """Let everything leave that is still here, as one shipment or one hand-over."""
        if order.status in ("done", "rejected"):
            return
        lines = [
            line | {"units": order.open_units[line["line_id"]]}
            for line in order.request.get("lines", [])
            if order.open_units[line["line_id"]] > 0
        ]
        collected = order.request.get("method") == "PICKUP"
        shipment = {
            "shipment_id": f"{number}/{'C' if collected else 'S'}1",
            "order_id": order.request["order_id"],
            "location": order.request["location"],
            "lines": lines,
        }
        fact = {"fact": "shipped", "number": number, "shipment": shipment}
        if not lines:
            self._record(fact)
            return
        moment = now_text()
        if collected:
            body = self._event(
                order,
                "pickup_collected",
                shipment_id=shipment["shipment_id"],
                lines=lines,
                collected_at=moment,
            )
        else:
            body = self._event(
                order,
                "shipment_confirmed",
                shipment_id=shipment["shipment_id"],
                lines=lines,
                carrier="Simulated Parcel",
                tracking=f"SIM{len(self.shipments) + 1:010d}",
                shipped_at=moment,
            )
        self._record(fact, event_of(number, f"{number}/left", EVENTS, body))

    def _event(self, order: Order, kind: str, **facts: Any) -> Json:
        common = {
            "type": kind,
            "fulfillment_order_id": order.request["fulfillment_order_id"],
            "location": order.request["location"],
        }
        return common | facts

    def _record(self, fact: Json, event: Json | None = None) -> None:
        self._outbox.record(fact, event)
        self._apply(fact)

    def _apply(self, fact: Json) -> None:
        match fact:
            case {"fact": "accepted", "number": number, "request": request}:
                units = {line["line_id"]: int(line["units"]) for line in request.get("lines", [])}
                before = self.orders.get(number)
                times = 1 if before is None else before.accepted_times + 1
                self.orders[number] = Order(request=request, open_units=units, accepted_times=times)
            case {"fact": "staged", "number": number}:
                self.orders[number].status = "staged"
            case {"fact": "rejected", "number": number}:
                self.orders[number].status = "rejected"
            case {"fact": "missed", "number": number, "lines": lines}:
                self._take_off(number, lines)
            case {"fact": "shipped", "number": number, "shipment": shipment}:
                self.orders[number].status = "done"
                self._take_off(number, shipment["lines"])
                if shipment["lines"]:
                    self.shipments.append(shipment | {"number": number})
            case {"fact": "cancelled", "number": number, "cancel_id": cancel_id, "stopped": stopped}:
                self.orders[number].cancels[cancel_id] = {"stopped": stopped}
                self._take_off(number, stopped)
            case {"fact": "return_expected", "rma_id": rma_id, "request": request}:
                self.returns[rma_id] = request

    def _take_off(self, number: str, lines: list[Json]) -> None:
        for line in lines:
            self.orders[number].open_units[line["line_id"]] -= int(line["units"])


def create_app(warehouse: Warehouse, outbox: Outbox) -> web.Application:
    """The system's HTTP face."""
    app = web.Application(middlewares=[faulty(warehouse.faults)])
    add_desk(app, warehouse.faults, warehouse.books, warehouse.ledger)
    app.cleanup_ctx.append(outbox.running)
    app.cleanup_ctx.append(warehouse.running)

    async def put_order(request: web.Request) -> web.Response:
        number = request.match_info["number"]
        fresh = warehouse.accept(number, await json_object(request))
        return web.json_response({"fulfillment_order_id": number}, status=201 if fresh else 200)

    async def get_order(request: web.Request) -> web.Response:
        order = warehouse.orders.get(request.match_info["number"])
        return _found(None if order is None else {"status": order.status, "request": order.request})

    async def put_cancel(request: web.Request) -> web.Response:
        number, cancel_id = request.match_info["number"], request.match_info["cancel"]
        if number not in warehouse.orders:
            # Not 404, which a proxy may say of anything: the request itself will never be right.
            return web.json_response({"detail": "no such fulfilment order"}, status=409)
        fresh = warehouse.cancel(number, cancel_id, await json_object(request))
        return web.json_response({"cancel_id": cancel_id}, status=201 if fresh else 200)

    async def get_cancel(request: web.Request) -> web.Response:
        order = warehouse.orders.get(request.match_info["number"])
        return _found(None if order is None else order.cancels.get(request.match_info["cancel"]))

    async def put_return(request: web.Request) -> web.Response:
        rma_id = request.match_info["rma"]
        fresh = warehouse.expect_return(rma_id, await json_object(request))
        return web.json_response({"rma_id": rma_id}, status=201 if fresh else 200)

    async def get_return(request: web.Request) -> web.Response:
        return _found(warehouse.returns.get(request.match_info["rma"]))

    app.add_routes(
        [
            web.put("/fulfillment-orders/{number}", put_order),
            web.get("/fulfillment-orders/{number}", get_order),
            web.put("/fulfillment-orders/{number}/cancellations/{cancel}", put_cancel),
            web.get("/fulfillment-orders/{number}/cancellations/{cancel}", get_cancel),
            web.put("/expected-returns/{rma}", put_return),
            web.get("/expected-returns/{rma}", get_return),
        ]
    )
    return app


def _found(body: Json | None) -> web.Response:
    return web.json_response({"detail": "unknown"}, status=404) if body is None else web.json_response(body)


def build(
    gateway: str, journal: Journal, *, ship_after_s: float = 0.2, collect_after_s: float = 0.5
) -> web.Application:
    """The system over a journal."""
    outbox = Outbox(gateway, journal)
    faults = Faults(frozenset({"short_pick", "reject", "cancel_race"}))
    warehouse = Warehouse(journal, outbox, faults, ship_after_s=ship_after_s, collect_after_s=collect_after_s)
    return create_app(warehouse, outbox)


def main() -> None:
    """Entry point."""
    options = parser("A simulated warehouse management system", 9101)
    options.add_argument("--ship-after", type=float, default=0.2, help="seconds from order to shipment")
    options.add_argument("--collect-after", type=float, default=0.5, help="seconds from staged to collected")
    given = options.parse_args()
    app = build(
        given.gateway,
        Journal(given.books),
        ship_after_s=given.ship_after,
        collect_after_s=given.collect_after,
    )
    serve(app, given)


if __name__ == "__main__":
    main()
