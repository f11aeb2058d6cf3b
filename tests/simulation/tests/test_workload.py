"""Workloads are repeatable, valid and rich; and without any fault the six services bring every one of them to an end."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import pytest

from crossdock_canonical.records import BY_NAME, ChannelOrderReceived, ChannelRefundReceived, IntakeKind
from crossdock_eventing import names
from crossdock_eventing.clock import to_micros
from crossdock_eventing.deadletter import read_dead_letter
from crossdock_eventing.envelope import event_id, record_key
from crossdock_inventory_availability.state_records import InventoryState
from crossdock_order_orchestrator.state_records import OrderState, Stage
from crossdock_settlement_reconciler.state_records import SettlementProgress
from crossdock_settlement_reconciler.state_records import Stage as SettlementStage
from crossdock_simulation.backbone import REPOSITORY, Backbone
from crossdock_simulation.operator import Operator
from crossdock_simulation.workload import LARGE, SMALL, Feature, Item, Workload, workload
from crossdock_tools.audit.evidence import BEHIND
from crossdock_tools.topic_reader import TopicReader

SEEDS = 300
CHUNK = 20
#: What the gateway publishes only because a service asked for something: the simulated outside answers with it.
ANSWERS = {
    *("PaymentCaptured", "PaymentVoided", "PaymentRefunded", "RefundFailed"),
    *("ShipmentConfirmed", "ShortPicked", "FulfillmentRejected", "PickupStaged", "PickupCollected"),
    *("CancelConfirmed", "CancelDeclined"),
}


def say(backbone: Backbone, item: Item) -> None:
    """Deliver an item as the gateway does: every record of it under the delivery's id."""
    if item.records:
        backbone.send(*item.records, cause=item.delivery)
    if item.raw:
        producer = backbone.broker.producer("somebody")
        producer.init_transactions()
        producer.begin()
        for raw in item.raw:
            producer.produce(
                raw.topic,
                key=raw.key,
                value=raw.value,
                headers=(("event_type", raw.event_type.encode()),),
                timestamp_ms=to_micros(backbone.clock.now()) // 1000,
            )
        producer.commit()


def played(world: Workload) -> Backbone:
    """The world without any fault: everything said in its order, then time for every deadline of an order.

    What is said within half a second is under way together.
    """
    backbone = Backbone(world.start)
    operator = Operator(
        0, backbone.broker, backbone.services, backbone.clock, lambda _line: None, delays_s=(0.0,)
    )
    backbone.send(*world.setup)
    backbone.run()
    said_s = 0.0
    for item in world.items:
        if item.at_s - said_s > 0.5:
            run(backbone, operator)
        now_s = (backbone.clock.now() - world.start).total_seconds()
        backbone.clock.advance(max(0.0, item.at_s - now_s))
        say(backbone, item)
        said_s = item.at_s
    run(backbone, operator)
    for days in (2, 5, 8, 16):
        backbone.pass_time(days=days)
        run(backbone, operator)
    return backbone


def run(backbone: Backbone, operator: Operator) -> None:
    """Until nothing happens, and the operator has let every parked key go."""
    backbone.run()
    while operator.step() or operator.next_s() is not None:
        backbone.clock.advance(1.0)
        backbone.run()


def given_up(backbone: Backbone) -> set[tuple[str, str]]:
    """Key and code of every dead letter."""
    found = set()
    for name in backbone.services:
        reader = TopicReader(backbone.broker, backbone.registry, [names.dead_letter_topic(name)])
        for record in reader.records():
            code = read_dead_letter(record.headers).code
            assert record.key is not None
            assert code is not None
            if code == BEHIND:
                continue
            found.add((record.key.decode(), code))
        reader.close()
    return found


def may_be_given_up(world: Workload) -> set[tuple[str, str]]:
    """Key and code of every dead letter that the workload allows for."""
    allowed = {(record_key(record), item.rejected_as) for item in world.items for record in item.records}
    return allowed | {(raw.key.decode(), item.rejected_as) for item in world.items for raw in item.raw}


def has_to_be_given_up(world: Workload) -> set[tuple[str, str]]:
    """Of those the ones that no order of events can avoid."""
    found = {(raw.key.decode(), item.rejected_as) for item in world.items for raw in item.raw}
    for item in world.items:
        if item.rejected_as == "order.total_mismatch" or "not mapped" in item.label:
            found.add((record_key(item.records[0]), item.rejected_as))
    return found


def unfinished(world: Workload, backbone: Backbone) -> list[str]:
    """Orders that neither ended nor wait with a deadline, promises without an open order, settlements without a verdict."""
    orders = backbone.workers["order-orchestrator"].states()
    found = []
    for order_id in world.orders:
        state = orders.get(order_id)
        if state is None:
            found.append(f"order {order_id} is not known")
        elif not (isinstance(state, OrderState) and state.stage is not Stage.OPEN) and not state.timers:
            found.append(f"order {order_id} waits for ever: {state}")
    for sku, books in backbone.workers["inventory-availability"].states().items():
        assert isinstance(books, InventoryState)
        for reservation in (*books.soft, *books.hard, *books.waiting):
            order = orders.get(reservation.partition("/")[0])
            if not isinstance(order, OrderState) or order.stage is not Stage.OPEN:
                found.append(f"{sku} is promised to {reservation}, which is over")
    for key, progress in backbone.workers["settlement-reconciler"].states().items():
        if isinstance(progress, SettlementProgress) and progress.stage in (
            SettlementStage.OPEN,
            SettlementStage.DECLARED,
        ):
            found.append(f"settlement {key} has no verdict")
    return found


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_every_world_comes_to_an_end_and_only_mistakes_are_given_up(first: int) -> None:
    for seed in range(first, first + CHUNK):
        world = workload(seed)
        backbone = played(world)
        letters = given_up(backbone)
        assert letters <= may_be_given_up(world), f"seed {seed}"
        assert letters >= has_to_be_given_up(world), f"seed {seed}"
        assert unfinished(world, backbone) == [], f"seed {seed}"


def test_a_seed_has_the_same_workload_every_time() -> None:
    assert [workload(seed) for seed in range(50)] == [workload(seed) for seed in range(50)]
    assert len({workload(seed).items for seed in range(50)}) == 50


def test_items_are_numbered_in_order_of_time() -> None:
    for world in map(workload, range(200)):
        assert [item.number for item in world.items] == list(range(1, len(world.items) + 1))
        assert [item.at_s for item in world.items] == sorted(item.at_s for item in world.items)
        assert all(item.at_s >= 0 and (item.records or item.raw) and item.label for item in world.items)


def test_the_same_delivery_says_the_same() -> None:
    for world in map(workload, range(500)):
        said: dict[str, Any] = {}
        for item in world.items:
            for record in item.records:
                identity = event_id(causation_id=item.delivery, source="gateway", record=record)
                assert said.setdefault(identity, record) == record, f"seed {world.seed}: {item.label}"


def test_orders_add_up_but_for_those_that_are_meant_not_to() -> None:
    for world in map(workload, range(500)):
        for item in world.items:
            for record in item.records:
                if not isinstance(record, ChannelOrderReceived) or record.total is None:
                    continue
                worth = sum(line.amounts.due for line in record.lines if line.amounts is not None)
                worth += record.other_minor + (record.shipping.due if record.shipping else 0)
                mismatch = item.rejected_as == "order.total_mismatch"
                assert (worth != record.total.minor) == mismatch, f"seed {world.seed}: {item.label}"
                assert len({line.line_id for line in record.lines}) == len(record.lines)
                assert all(tender.amount.currency == record.currency for tender in record.tenders)


def test_sizes_bound_a_world() -> None:
    for size in (SMALL, LARGE):
        worlds = [workload(seed, size) for seed in range(200)]
        assert max(len(world.orders) for world in worlds) == size.orders_max
        assert max(len(world.skus) for world in worlds) == size.skus_max
        assert {len(world.locations) for world in worlds} == {1, 2}
    drawn = Counter(len(workload(seed).orders) for seed in range(300))
    assert drawn[1] + drawn[2] > 200
    assert max(drawn) > 2


def test_every_feature_shows_in_some_worlds_and_none_in_all() -> None:
    worlds = [workload(seed) for seed in range(2000)]
    shown = Counter(feature for world in worlds for feature in world.features)
    rare = {feature: shown[feature] for feature in Feature if shown[feature] < 0.02 * len(worlds)}
    assert rare == {}
    assert max(shown.values()) < 0.7 * len(worlds)


def test_features_meet_one_another() -> None:
    met: dict[Feature, set[Feature]] = defaultdict(set)
    for world in map(workload, range(3000)):
        for feature in world.features:
            met[feature] |= world.features
    assert {feature: set(Feature) - met[feature] for feature in Feature if len(met[feature]) < 40} == {}


def test_every_kind_of_record_of_the_gateway_is_said_or_is_an_answer() -> None:
    published = {
        BY_NAME[schema].__name__
        for topic in REPOSITORY.topics.values()
        if "channel-gateway" in topic.producers
        for schema in topic.records
    }
    said = {
        type(record).__name__
        for world in map(workload, range(300))
        for record in (*world.setup, *(record for item in world.items for record in item.records))
    }
    assert said == published - ANSWERS


@pytest.mark.parametrize("seed", [16830, 27593, 86974])
def test_a_refund_of_a_line_that_a_snapshot_leaves_out_may_be_given_up(seed: int) -> None:
    """When that snapshot comes first, the line is never known: an older one adds nothing any more."""
    world = workload(seed)
    told: dict[str, list[set[str]]] = defaultdict(list)
    refunds = []
    for item in world.items:
        for record in item.records:
            if isinstance(record, ChannelOrderReceived) and record.kind is IntakeKind.SNAPSHOT:
                told[record.order_id].append({line.line_id for line in record.lines})
            elif isinstance(record, ChannelRefundReceived) and not item.rejected_as:
                refunds.append(record)
    for refund in refunds:
        assert all({line.line_id for line in refund.lines} <= lines for lines in told[refund.order_id])
