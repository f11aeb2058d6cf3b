"""The outbound side: one effect a record and reference, order per key, nothing skipped, one dead system stops only itself."""

import asyncio
import json
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestServer

from crossdock_canonical.identity import LineId, LocationId, OrderId, Sku
from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    CancelDeclined,
    CapturePayment,
    FulfillmentCancelRequested,
    FulfillmentRejected,
    FulfillmentRequested,
    LineUnits,
    OrderCancelled,
    OrderRejected,
    OrderShipped,
    Origin,
    PaymentDeclined,
    RefundFailed,
    RefundPayment,
    RefundRecorded,
    ReturnAuthorized,
    ReturnDeclined,
    ReturnExpected,
    ReturnLine,
    SalableStock,
    ShippedLine,
    VoidPayment,
    WarehouseLine,
)
from crossdock_canonical.records.common import FulfilledBy
from crossdock_channel_gateway.availability import AvailabilityTable
from crossdock_channel_gateway.courier import Away, Courier, Done, HttpCaller, Never
from crossdock_channel_gateway.effects import OUTBOUND, Effect, effect_of
from crossdock_channel_gateway.intake import Intake
from crossdock_channel_gateway.kafka import _take_row
from crossdock_channel_gateway.metrics import Metrics
from crossdock_channel_gateway.outbound import Handler, Outbound, Window
from crossdock_channel_gateway.problem import Unavailable
from crossdock_channel_gateway.runtime import availability_decoder, outbound_decoder
from crossdock_channel_gateway.translate.shopify import Policy, translate
from crossdock_eventing.broker.interface import Record, TopicPartition
from crossdock_eventing.codec import Codec
from crossdock_eventing.deadletter import ERROR_CODE
from crossdock_eventing.envelope import header, headers, wrap
from crossdock_eventing.registry import MemoryRegistry

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
ORDER = OrderId("6f1f2f6e-3f0b-5a57-9c2e-1f5c53f0a001")
EUR = Money(minor=1999, currency="EUR")
LINES = (WarehouseLine(line_id=LineId("1"), sku=Sku("MUG"), units=2),)
REGISTRY = MemoryRegistry()
CODEC = Codec(REGISTRY, written=[(kind, kind.TOPIC) for kind in (*OUTBOUND, SalableStock)], read=())
SALABLE = SalableStock(sku=Sku("MUG"), channel="shopify", units=3, version=7, as_of=NOW)


def capture(reference: str = "c/1", order: str = ORDER) -> CapturePayment:
    return CapturePayment(order_id=OrderId(order), capture_id=reference, tender_reference="t", amount=EUR)


def requested(number: int = 1, order: str = ORDER) -> FulfillmentRequested:
    return FulfillmentRequested(
        order_id=OrderId(order),
        fulfillment_order_id=f"{order}/{number}",
        location=LocationId("DC-1"),
        lines=LINES,
    )


def shipped(**changes: Any) -> OrderShipped:
    facts: dict[str, Any] = {
        "order_id": ORDER,
        "shipment_id": f"{ORDER}/1/S1",
        "release": 1,
        "channel": "shopify",
        "shop": "harbour.example",
        "external_id": "77",
        "lines": (ShippedLine(line_id=LineId("1"), sku=Sku("MUG"), units=2, amounts=Amounts.zero("EUR")),),
        "channel_lines": (LineUnits(line_id=LineId("1"), units=2),),
        "currency": "EUR",
        "carrier": "Parcel",
        "tracking": "T1",
        "shipped_at": NOW,
    }
    return OrderShipped(**(facts | changes))


def refunded(origin: Origin = Origin.US, channel: str = "shopify") -> RefundRecorded:
    return RefundRecorded(
        order_id=ORDER,
        refund_id="rma/i/refund",
        amount=EUR,
        origin=origin,
        channel=channel,
        shop="harbour.example",
        external_id="77",
    )


def cancelled(origin: Origin = Origin.US, **changes: Any) -> OrderCancelled:
    facts: dict[str, Any] = {
        "order_id": ORDER,
        "cancel_id": "x",
        "reason_code": "order.out_of_stock",
        "lines": (LineUnits(line_id=LineId("1"), units=1),),
        "channel_lines": (LineUnits(line_id=LineId("1"), units=1),),
        "complete": True,
        "channel": "shopify",
        "shop": "harbour.example",
        "external_id": "77",
        "origin": origin,
    }
    return OrderCancelled(**(facts | changes))


ENCODED = f"{ORDER}%2F1"
STOP = FulfillmentCancelRequested(
    order_id=ORDER,
    fulfillment_order_id=f"{ORDER}/1",
    cancel_id="x/1",
    location=LocationId("DC-1"),
    lines=LINES,
)


# ------------------------------------------------------------------------------------------------------- effects


@pytest.mark.parametrize(
    ("record", "system", "call"),
    [
        (requested(), "wms", f"PUT /fulfillment-orders/{ENCODED}"),
        (STOP, "wms", f"PUT /fulfillment-orders/{ENCODED}/cancellations/x%2F1"),
        (ReturnExpected(order_id=ORDER, rma_id="R1", lines=LINES), "wms", "PUT /expected-returns/R1"),
        (capture(), "psp", "POST /captures"),
        (VoidPayment(order_id=ORDER, void_id="v", tender_reference="t", amount=EUR), "psp", "POST /voids"),
        (
            RefundPayment(order_id=ORDER, refund_id="r", tender_reference="t", amount=EUR),
            "psp",
            "POST /refunds",
        ),
        (shipped(), "channels", f"PUT /shopify/fulfillments/{ENCODED}%2FS1"),
        (cancelled(), "channels", "PUT /shopify/cancellations/x"),
        (refunded(), "channels", "PUT /shopify/refunds/rma%2Fi%2Frefund"),
        (
            OrderRejected(
                order_id=ORDER, reason_code="order.unpaid", channel="amazon", shop="S", external_id="1"
            ),
            "channels",
            f"PUT /amazon/rejections/{ORDER}",
        ),
        (
            ReturnAuthorized(
                order_id=ORDER,
                rma_id="R1",
                channel="shopify",
                external_id="77",
                lines=(ReturnLine(line_id=LineId("1"), units=1),),
                expires_at=NOW,
            ),
            "channels",
            "PUT /shopify/returns/R1",
        ),
        (ReturnDeclined(order_id=ORDER, rma_id="R1", reason_code="x"), "channels", "PUT /any/returns/R1"),
    ],
)
def test_every_record_is_one_call_by_its_reference(record: Any, system: str, call: str) -> None:
    effect = effect_of(record)
    assert (effect.system, f"{effect.method} {effect.path}") == (system, call)
    json.dumps(effect.body)


def test_every_outbound_record_has_been_thought_of() -> None:
    assert {kind.__name__ for kind in OUTBOUND} >= {"FulfillmentRequested", "ReturnDeclined"}
    assert len(OUTBOUND) == 12


@pytest.mark.parametrize(
    "record",
    [
        shipped(release=0),
        shipped(fulfilled_by=FulfilledBy.MARKETPLACE),
        cancelled(Origin.CHANNEL),
        refunded(Origin.CHANNEL),
        refunded(Origin.STORE, channel="pos"),
    ],
)
def test_what_the_channel_did_itself_is_no_news_to_it(record: Any) -> None:
    assert effect_of(record) is None


def test_a_channel_is_told_its_own_lines_and_units() -> None:
    kit = (LineUnits(line_id=LineId("KIT"), units=1),)
    components = tuple(
        ShippedLine(
            line_id=LineId(f"KIT/{number}"),
            sku=Sku(f"PART-{number}"),
            units=2,
            amounts=Amounts.zero("EUR"),
            parent_line_id="KIT",
            per_unit=2,
        )
        for number in (1, 2)
    )
    parts = tuple(LineUnits(line_id=part.line_id, units=part.units) for part in components)
    told = [{"line_id": "KIT", "units": 1}]
    assert effect_of(shipped(lines=components, channel_lines=kit)).body["lines"] == told
    assert effect_of(cancelled(lines=parts, channel_lines=kit)).body["lines"] == told
    authorized = ReturnAuthorized(
        order_id=ORDER,
        rma_id="R1",
        channel="shopify",
        external_id="77",
        lines=tuple(ReturnLine(line_id=part.line_id, units=part.units) for part in parts),
        channel_lines=(ReturnLine(line_id=LineId("KIT"), units=1),),
        expires_at=NOW,
    )
    assert effect_of(authorized).body["lines"] == told


def test_a_part_of_a_kit_is_told_with_what_completes_it() -> None:
    assert effect_of(shipped(channel_lines=())) is None
    assert effect_of(cancelled(channel_lines=(), complete=False)) is None
    assert effect_of(cancelled(channel_lines=(), complete=True)).body["complete"]


@pytest.mark.parametrize("origin", [Origin.US, Origin.STORE])
def test_the_note_of_our_refund_is_understood_when_the_channel_echoes_it(origin: Origin) -> None:
    note = effect_of(refunded(origin)).body["note"]
    echo = {
        "id": 9,
        "order_id": 77,
        "created_at": "2026-03-02T10:00:00Z",
        "note": note,
        "transactions": [{"kind": "refund", "status": "success", "amount": "19.99", "currency": "EUR"}],
    }
    intake = translate(echo, topic="refunds/create", shop="harbour.example", event="e", policy=Policy())
    assert intake.records[0].our_refund_id == "rma/i/refund"


# ------------------------------------------------------------------------------------------------------- courier


class ScriptedCaller:
    """Caller whose outcomes are scripted; afterwards everything is done."""

    def __init__(self, send: list | None = None, find: list | None = None) -> None:
        self.outcomes = {"send": send or [], "find": find or []}
        self.calls: list[str] = []

    async def send(self, effect: Effect):
        self.calls.append("send")
        return self.outcomes["send"].pop(0) if self.outcomes["send"] else Done()

    async def find(self, effect: Effect):
        self.calls.append("find")
        return self.outcomes["find"].pop(0) if self.outcomes["find"] else None


class Remembering:
    def __init__(self) -> None:
        self.records: list[Any] = []
        self.away = 0

    async def publish(self, intake: Intake, *, traceparent: bytes | None = None) -> tuple[str, ...]:
        if self.away:
            self.away -= 1
            raise Unavailable("away", retry_after_s=0)
        self.records += intake.records
        return ()


def courier(caller: Any, publisher: Remembering | None = None) -> Courier:
    return Courier(caller, publisher or Remembering(), Metrics(), backoff_initial_s=0.001, backoff_max_s=0.01)


async def test_an_unknown_outcome_is_looked_up_before_the_call_is_repeated() -> None:
    caller = ScriptedCaller(send=[Away("lost", acted=None)], find=[Done()])
    assert await courier(caller).carry_out("x", effect_of(capture()), fresh=True) is None
    assert caller.calls == ["send", "find"]


async def test_a_call_that_was_looked_up_in_vain_is_made_again() -> None:
    caller = ScriptedCaller(send=[Away("lost", acted=None)], find=[Away("down", acted=None), None])
    await courier(caller).carry_out("x", effect_of(capture()), fresh=True)
    assert caller.calls == ["send", "find", "find", "send"]


async def test_a_call_that_never_left_is_repeated_without_a_lookup() -> None:
    caller = ScriptedCaller(send=[Away("refused", acted=False), Away("busy", acted=False)])
    await courier(caller).carry_out("x", effect_of(capture()), fresh=True)
    assert caller.calls == ["send", "send", "send"]


async def test_what_an_earlier_owner_may_have_done_is_looked_up_first() -> None:
    caller = ScriptedCaller(find=[Done()])
    await courier(caller).carry_out("x", effect_of(capture()), fresh=False)
    assert caller.calls == ["find"]


@pytest.mark.parametrize(
    ("record", "answer"),
    [
        (capture(), PaymentDeclined(order_id=ORDER, reference="c/1", reason="no")),
        (
            VoidPayment(order_id=ORDER, void_id="v", tender_reference="t", amount=EUR),
            PaymentDeclined(order_id=ORDER, reference="v", reason="no"),
        ),
        (
            RefundPayment(order_id=ORDER, refund_id="r", tender_reference="t", amount=EUR),
            RefundFailed(order_id=ORDER, refund_id="r", reason="no"),
        ),
        (
            requested(),
            FulfillmentRejected(
                order_id=ORDER,
                fulfillment_order_id=f"{ORDER}/1",
                event_id=f"{ORDER}/1/refused",
                location=LocationId("DC-1"),
                reason="no",
            ),
        ),
        (
            STOP,
            CancelDeclined(
                order_id=ORDER,
                fulfillment_order_id=f"{ORDER}/1",
                cancel_id="x/1",
                location=LocationId("DC-1"),
                lines=LINES,
                reason="no",
            ),
        ),
    ],
)
async def test_a_refusal_is_told_to_whoever_waits_for_the_outcome(record: Any, answer: Any) -> None:
    publisher = Remembering()
    publisher.away = 2
    assert (
        await courier(ScriptedCaller(send=[Never("no")]), publisher).carry_out(
            "x", effect_of(record), fresh=True
        )
        is None
    )
    assert publisher.records == [answer]


async def test_a_refusal_that_nobody_waits_for_is_the_dead_letters() -> None:
    assert await courier(ScriptedCaller(send=[Never("no")])).carry_out(
        "x", effect_of(shipped()), fresh=True
    ) == Never("no")


# ------------------------------------------------------------------------------------------------------- over HTTP


async def test_answers_of_systems_are_understood() -> None:
    answers: list[tuple[int, dict]] = []
    seen: list[tuple[str, str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.method, request.raw_path, request.headers.get("Idempotency-Key", "")))
        if not answers:
            request.transport.close()
            return web.Response()
        status, body = answers.pop(0)
        return web.json_response(body, status=status)

    app = web.Application()
    app.add_routes([web.route("*", "/{path:.*}", answer)])
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        url = str(server.make_url(""))
        caller = HttpCaller(session, {"wms": url, "psp": url, "channels": "http://127.0.0.1:1"})
        effect = effect_of(capture())
        answers += [(201, {}), (402, {"status": "declined", "reason": "funds"}), (503, {}), (429, {})]
        assert await caller.send(effect) == Done()
        assert await caller.send(effect) == Never("HTTP 402: funds")
        assert await caller.send(effect) == Away("HTTP 503", acted=None)
        assert await caller.send(effect) == Away("HTTP 429", acted=False)
        lost = await caller.send(effect)
        assert isinstance(lost, Away)
        assert lost.acted is None
        answers += [
            (404, {}),
            (200, {"status": "declined", "reason": "funds"}),
            (200, {"status": "succeeded"}),
        ]
        assert await caller.find(effect) is None
        assert await caller.find(effect) == Never("funds")
        assert await caller.find(effect) == Done()
        assert seen[0] == ("POST", "/captures", "c/1")
        assert seen[-1][:2] == ("GET", "/captures/c%2F1")
        unreachable = await caller.send(effect_of(shipped()))
        assert isinstance(unreachable, Away)
        assert unreachable.acted is False


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((status, Never(f"HTTP {status}: no")) for status in (400, 402, 409, 410, 422)),
        *((status, Away(f"HTTP {status}", acted=False)) for status in (408, 423, 425, 429)),
        *(
            (status, Away(f"HTTP {status}", acted=False, blocked=True))
            for status in (302, 401, 403, 404, 405, 407, 413, 451)
        ),
        *((status, Away(f"HTTP {status}", acted=None)) for status in (500, 502, 503, 504)),
    ],
)
async def test_only_a_judgement_of_the_call_itself_is_final(status: int, outcome: Any) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"reason": "no"}, status=status, headers={"Location": "/login"})

    app = web.Application()
    app.add_routes([web.put("/{path:.*}", answer)])
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        url = str(server.make_url(""))
        caller = HttpCaller(session, {"wms": url, "psp": url, "channels": url})
        assert await caller.send(effect_of(requested())) == outcome


async def test_an_expired_token_is_waited_out_and_heard_of() -> None:
    caller = ScriptedCaller(send=[Away("HTTP 401", acted=False, blocked=True)] * 2)
    publisher, metrics = Remembering(), Metrics()
    waiting = Courier(caller, publisher, metrics, backoff_initial_s=0.001, backoff_max_s=0.01)
    with structlog.testing.capture_logs() as logs:
        assert await waiting.carry_out("x", effect_of(requested()), fresh=True) is None
    assert (publisher.records, caller.calls) == ([], ["send", "send", "send"])
    heard = [(line["log_level"], line["system"], line["reason"]) for line in logs]
    assert heard == [("error", "wms", "HTTP 401")] * 2
    labels = {"system": "wms", "status": "HTTP 401"}
    assert metrics.registry.get_sample_value("crossdock_gateway_outbound_blocked_total", labels) == 2


async def test_a_lost_answer_to_a_put_is_not_repeated_behind_our_back() -> None:
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.method)
        if len(seen) > 1:
            request.transport.close()
        return web.json_response({})

    app = web.Application()
    app.add_routes([web.route("*", "/{path:.*}", answer)])
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        caller = HttpCaller(session, {"wms": str(server.make_url(""))})
        assert await caller.send(effect_of(requested())) == Done()
        assert isinstance(await caller.send(effect_of(requested())), Away)
    assert seen == ["PUT", "PUT"]


# --------------------------------------------------------------------------------------------------- the loop


def written(record: Any, offset: int, partition: int = 0) -> Record:
    meta = wrap(record, causation_id="c", correlation_id="c", now=NOW, source="test", attributes={})
    return Record(
        topic=record.TOPIC,
        partition=partition,
        offset=offset,
        timestamp_ms=0,
        key=record.order_id.encode(),
        value=CODEC.encode(record, meta),
        headers=headers(meta, record.SCHEMA, None),
    )


class Systems:
    """Caller that remembers the order of effects; paths in `down` never succeed, `slow_s` delays the others."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.found: list[str] = []
        self.down: set[str] = set()
        self.slow_s = 0.0
        self.running = 0
        self.most = 0

    async def send(self, effect: Effect):
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(self.slow_s)
        self.running -= 1
        reference = effect.body.get("id") or effect.body.get("fulfillment_order_id")
        if effect.system in self.down or reference in self.down:
            return Away("down", acted=False)
        self.done.append(reference)
        return Done()

    async def find(self, effect: Effect):
        self.found.append(effect.lookup)


class Letters:
    def __init__(self) -> None:
        self.written: list[tuple[str, Record, Any]] = []

    async def write(self, topic: str, record: Record, found: Any) -> None:
        self.written.append((topic, record, found))


class MemorySource:
    """Source over lists; a paused partition gives nothing."""

    def __init__(self, ends: dict[TopicPartition, int] | None = None) -> None:
        self.ready: dict[TopicPartition, list[Record]] = defaultdict(list)
        self.ends = ends or {}
        self.committed: dict[TopicPartition, int] = {}
        self.paused: set[TopicPartition] = set()

    def add(self, *records: Record) -> None:
        for record in records:
            self.ready[TopicPartition(record.topic, record.partition)].append(record)

    async def poll(self):
        await asyncio.sleep(0.005)
        found = {at: records[:10] for at, records in self.ready.items() if records and at not in self.paused}
        for at, records in found.items():
            del self.ready[at][: len(records)]
        return found

    async def end_offset(self, partition: TopicPartition) -> int:
        return self.ends.get(partition, 0)

    async def commit(self, offsets) -> None:
        for partition, offset in offsets.items():
            assert offset > self.committed.get(partition, 0)
            self.committed[partition] = offset

    def pause(self, partition: TopicPartition) -> None:
        self.paused.add(partition)

    def resume(self, partition: TopicPartition) -> None:
        self.paused.discard(partition)


class Bench:
    def __init__(self, *, lanes: int = 4, ends: dict | None = None) -> None:
        self.source = MemorySource(ends)
        self.systems = Systems()
        self.letters = Letters()
        self.outbound = Outbound(
            self.source,
            Handler(outbound_decoder(REGISTRY), courier(self.systems), self.letters, Metrics()),
            Metrics(),
            lanes=lanes,
        )

    async def steps(self, count: int) -> None:
        for _ in range(count):
            await self.outbound.step()


PAYMENTS = TopicPartition("retail.payment.commands.v1", 0)
WAREHOUSE = TopicPartition("retail.warehouse.commands.v1", 0)


async def test_records_of_one_key_keep_their_order_and_keys_run_beside_each_other() -> None:
    bench = Bench(lanes=8)
    bench.systems.slow_s = 0.005
    records = [capture(f"{key}{number}", order=key) for number in range(5) for key in "abc"]
    bench.source.add(*(written(record, offset) for offset, record in enumerate(records)))
    await bench.steps(40)
    for key in "abc":
        assert [each for each in bench.systems.done if each.startswith(key)] == [
            f"{key}{n}" for n in range(5)
        ]
    assert bench.systems.most == 3
    assert bench.source.committed == {PAYMENTS: 15}


async def test_an_offset_is_committed_only_when_all_before_it_is_settled() -> None:
    bench = Bench()
    bench.systems.down.add("a1")
    bench.source.add(
        written(capture("a0", "a"), 0), written(capture("a1", "a"), 1), written(capture("b1", "b"), 2)
    )
    await bench.steps(10)
    assert bench.systems.done == ["a0", "b1"]
    assert bench.source.committed == {PAYMENTS: 1}
    bench.systems.down.clear()
    await bench.steps(10)
    assert bench.source.committed == {PAYMENTS: 3}


async def test_a_dead_system_pauses_its_own_partition_only() -> None:
    bench = Bench(lanes=2)
    bench.systems.down.add("wms")
    bench.source.add(*(written(requested(n, f"{n}"), n) for n in range(40)))
    bench.source.add(*(written(capture(f"c{n}", f"{n}"), n) for n in range(40)))
    await bench.steps(30)
    assert bench.source.paused == {WAREHOUSE}
    assert bench.source.committed == {PAYMENTS: 40}
    assert bench.source.ready[WAREHOUSE]
    bench.systems.down.clear()
    await bench.steps(60)
    assert bench.source.committed == {PAYMENTS: 40, WAREHOUSE: 40}
    assert bench.source.paused == set()


async def test_records_that_are_not_acted_on_are_skipped_by_their_header() -> None:
    bench = Bench()
    other = written(capture(), 0)._replace(
        value=b"garbage", headers=(("event_type", b"retail.order.OrderReceived"),)
    )
    bench.source.add(other, written(capture("c1"), 1))
    await bench.steps(5)
    assert bench.source.committed == {PAYMENTS: 2}
    assert bench.letters.written == []


async def test_a_record_that_cannot_be_read_is_a_dead_letter() -> None:
    bench = Bench()
    bench.source.add(written(capture(), 0)._replace(value=b"garbage"), written(capture("c1"), 1))
    await bench.steps(5)
    ((topic, record, found),) = bench.letters.written
    assert topic == "retail.channel-gateway.dlt"
    assert record.value == b"garbage"
    assert header(found, ERROR_CODE) == b"contract.bad_framing"
    assert bench.source.committed == {PAYMENTS: 2}


async def test_a_record_of_another_type_under_a_header_of_ours_is_a_dead_letter() -> None:
    bench = Bench()
    meta = wrap(SALABLE, causation_id="c", correlation_id="c", now=NOW, source="test", attributes={})
    stray = written(capture(), 0)._replace(value=CODEC.encode(SALABLE, meta))
    bench.source.add(stray, written(capture("c1"), 1))
    await bench.steps(5)
    ((_, _, found),) = bench.letters.written
    assert header(found, ERROR_CODE) == b"contract.unexpected_type"
    assert bench.source.committed == {PAYMENTS: 2}


def test_an_availability_row_that_is_none_takes_the_older_one_away() -> None:
    table, decoder = AvailabilityTable(), availability_decoder(REGISTRY)
    meta = wrap(SALABLE, causation_id="c", correlation_id="c", now=NOW, source="test", attributes={})
    row = written(capture(), 0)._replace(key=b"MUG|shopify", value=CODEC.encode(SALABLE, meta))
    for stray in (written(capture(), 1).value, b"garbage", None):
        _take_row(row, decoder, table)
        assert table.find("MUG", "shopify") == SALABLE
        _take_row(row._replace(value=stray), decoder, table)
        assert table.find("MUG", "shopify") is None


async def test_what_was_there_before_us_is_looked_up_and_what_came_after_is_not() -> None:
    bench = Bench(ends={PAYMENTS: 1})
    bench.source.add(written(capture("c0", "a"), 0), written(capture("c1", "b"), 1))
    await bench.steps(5)
    assert bench.systems.found == ["/captures/c0"]
    assert sorted(bench.systems.done) == ["c0", "c1"]


async def test_partitions_that_move_away_are_finished_and_committed() -> None:
    bench = Bench()
    bench.systems.slow_s = 0.05
    bench.source.add(written(capture("c0", "a"), 0))
    await bench.steps(1)
    assert bench.source.committed == {}
    await bench.outbound.revoke([PAYMENTS])
    assert bench.systems.done == ["c0"]
    assert bench.source.committed == {PAYMENTS: 1}


async def test_an_unforeseen_failure_ends_the_loop_and_skips_nothing() -> None:
    async def settle(record: Record, *, fresh: bool) -> None:
        raise RuntimeError("a fault in the code")

    window = Window(settle, lanes=1, known_before=0)
    window.offer([written(capture(), 0)])
    await asyncio.sleep(0.01)
    with pytest.raises(RuntimeError):
        window.settled_before()
