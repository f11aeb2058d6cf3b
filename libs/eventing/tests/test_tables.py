"""Broadcast tables: what a decider sees of a compacted topic, and how it is told that a row may only be late."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest

from crossdock_eventing.broker.failure import BrokerRefused
from crossdock_eventing.broker.interface import TopicPartition, TopicSpec
from crossdock_eventing.broker.memory import MemoryBroker
from crossdock_eventing.codec import Codec
from crossdock_eventing.envelope import Meta
from crossdock_eventing.registry import MemoryRegistry
from crossdock_eventing.tables import Tables, TableView

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
META = Meta(event_id="e", correlation_id="c", occurred_at=NOW, recorded_at=NOW, source="s")
MICROS = {"type": "long", "logicalType": "timestamp-micros"}
META_SCHEMA = {
    "type": "record",
    "name": "Meta",
    "namespace": "tables.common",
    "fields": [
        *({"name": name, "type": "string"} for name in ("event_id", "correlation_id", "causation_id")),
        *({"name": name, "type": MICROS} for name in ("occurred_at", "recorded_at")),
        {"name": "source", "type": "string"},
        {"name": "attributes", "type": {"type": "map", "values": "string"}},
    ],
}


def row_schema(name: str) -> str:
    rows = [{"name": "meta", "type": META_SCHEMA}, {"name": "sku", "type": "string"}]
    rows += [{"name": "location", "type": "string"}, {"name": "units", "type": "long"}]
    return json.dumps({"type": "record", "name": name, "namespace": "tables", "fields": rows})


@dataclass(frozen=True)
class Stock:
    SCHEMA: ClassVar[str] = "tables.Stock"
    TOPIC: ClassVar[str] = "stock.table.v1"
    AVSC: ClassVar[str] = row_schema("Stock")

    sku: str
    location: str
    units: int

    def to_avro(self) -> dict[str, Any]:
        return {"sku": self.sku, "location": self.location, "units": self.units}

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> Any:
        return cls(value["sku"], value["location"], value["units"])


@dataclass(frozen=True)
class Price(Stock):
    SCHEMA: ClassVar[str] = "tables.Price"
    TOPIC: ClassVar[str] = "price.table.v1"
    AVSC: ClassVar[str] = row_schema("Price")


class TopicBench:
    """Two table topics with two partitions each, and a publisher of rows."""

    def __init__(self) -> None:
        self.broker = MemoryBroker(lambda: 1_000)
        compact = {"cleanup.policy": "compact"}
        self.broker.admin().create_topics([TopicSpec(k.TOPIC, 2, configs=compact) for k in (Stock, Price)])
        self.codec = Codec(
            MemoryRegistry(), written=[(k, k.TOPIC) for k in (Stock, Price)], read=[Stock, Price]
        )
        self.unreadable: list[str] = []
        self.producer = self.broker.producer("edge")
        self.producer.init_transactions()

    def tables(self) -> Tables:
        return Tables(self.broker, self.codec, {"stock": Stock, "prices": Price}, self.unreadable.append)

    def put(self, row: Stock, **more: Any) -> None:
        self.raw(type(row), f"{row.sku}|{row.location}", self.codec.encode(row, META), **more)

    def raw(self, kind: type[Stock], key: str | None, value: bytes | None, **more: Any) -> None:
        headers = more.get("headers", (("event_type", kind.SCHEMA.encode()),))
        self.producer.begin()
        self.producer.produce(
            kind.TOPIC,
            key=None if key is None else key.encode(),
            value=value,
            headers=headers,
            partition=more.get("partition"),
        )
        self.producer.commit()


@pytest.fixture
def topics() -> TopicBench:
    return TopicBench()


# --- the view


def test_rows_are_found_by_the_first_part_of_their_key_in_key_order() -> None:
    view = TableView()
    for key in ("tee|b", "tee|a", "cap|a", "tee"):
        view.put(key, key)
    assert view("tee") == ("tee", "tee|a", "tee|b")
    assert view("cap") == ("cap|a",)
    assert len(view) == 4


def test_a_row_replaced_or_deleted_is_seen_at_once() -> None:
    view = TableView()
    view.put("tee|a", 1)
    assert view("tee") == (1,)
    view.put("tee|a", 2)
    assert view("tee") == (2,)
    view.put("tee|a", None)
    view.put("never|there", None)
    assert view("tee") == ()
    assert len(view) == 0


def test_only_a_look_that_finds_nothing_is_a_miss() -> None:
    view = TableView()
    view.put("tee|a", 1)
    view("tee")
    assert not view.missed
    view("cap")
    assert view.missed


# --- from the topics


def test_catching_up_reads_every_partition_to_its_end(topics: TopicBench) -> None:
    rows = [Stock(f"sku-{number}", "mu", number) for number in range(20)]
    for row in rows:
        topics.put(row)
    tables = topics.tables()
    assert tables.views["stock"]("sku-3") == ()
    tables.catch_up()
    assert [tables.views["stock"](row.sku) for row in rows] == [(row,) for row in rows]
    ends = [topics.broker.admin().watermarks(TopicPartition(Stock.TOPIC, n)).high for n in (0, 1)]
    assert min(ends) > 0, "both partitions have rows, or this proves nothing"


def test_draining_brings_what_came_since(topics: TopicBench) -> None:
    tables = topics.tables()
    tables.catch_up()
    topics.put(Stock("tee", "mu", 1))
    tables.drain()
    topics.put(Stock("tee", "mu", 2))
    assert tables.views["stock"]("tee") == (Stock("tee", "mu", 1),)
    tables.drain()
    assert tables.views["stock"]("tee") == (Stock("tee", "mu", 2),)


def test_each_topic_feeds_its_own_table(topics: TopicBench) -> None:
    topics.put(Stock("tee", "mu", 1))
    topics.put(Price("tee", "mu", 999))
    tables = topics.tables()
    tables.catch_up()
    assert tables.views["stock"]("tee") == (Stock("tee", "mu", 1),)
    assert tables.views["prices"]("tee") == (Price("tee", "mu", 999),)


def test_a_tombstone_deletes_its_row(topics: TopicBench) -> None:
    for location in ("mu", "be"):
        topics.put(Stock("tee", location, 1), partition=0)
    topics.raw(Stock, "tee|mu", None, headers=(), partition=0)
    tables = topics.tables()
    tables.catch_up()
    assert tables.views["stock"]("tee") == (Stock("tee", "be", 1),)


def test_a_row_without_headers_is_known_by_its_topic(topics: TopicBench) -> None:
    topics.put(Stock("tee", "mu", 1), headers=())
    tables = topics.tables()
    tables.catch_up()
    assert tables.views["stock"]("tee") == (Stock("tee", "mu", 1),)


def test_a_row_that_cannot_be_read_replaces_the_older_one_by_nothing(topics: TopicBench) -> None:
    topics.put(Stock("tee", "mu", 9))
    topics.raw(Stock, "tee|mu", b"no avro")
    topics.raw(Stock, None, b"no key either", partition=0)
    topics.put(Stock("tee", "be", 1))
    tables = topics.tables()
    tables.catch_up()
    assert topics.unreadable == [Stock.TOPIC]
    assert tables.views["stock"]("tee") == (Stock("tee", "be", 1),)


@pytest.mark.parametrize("headers", [(), (("event_type", Stock.SCHEMA.encode()),)])
def test_a_row_of_another_table_is_no_row_of_this_one(topics: TopicBench, headers: Any) -> None:
    """The deciders would take it for what the table has, and find fields missing."""
    topics.raw(Stock, "tee|mu", topics.codec.encode(Price("tee", "mu", 9), META), headers=headers)
    tables = topics.tables()
    tables.catch_up()
    assert topics.unreadable == [Stock.TOPIC]
    assert tables.views["stock"]("tee") == tables.views["prices"]("tee") == ()


def test_misses_are_of_any_table_and_forgotten_on_request(topics: TopicBench) -> None:
    tables = topics.tables()
    assert not tables.missed()
    tables.views["prices"]("tee")
    assert tables.missed()
    tables.begin_decision()
    assert not tables.missed()


def test_rows_of_an_open_or_aborted_transaction_are_not_seen(topics: TopicBench) -> None:
    tables = topics.tables()
    topics.producer.begin()
    row = Stock("tee", "mu", 1)
    topics.producer.produce(Stock.TOPIC, key=b"tee|mu", value=topics.codec.encode(row, META), headers=())
    tables.drain()
    assert len(tables.views["stock"]) == 0
    topics.producer.abort()
    tables.catch_up()
    assert len(tables.views["stock"]) == 0


def test_a_service_without_tables_reads_nothing(topics: TopicBench) -> None:
    tables = Tables(topics.broker, topics.codec, {}, topics.unreadable.append)
    tables.drain()
    tables.catch_up()
    assert (tables.views, tables.missed()) == ({}, False)
    tables.close()


def test_a_table_whose_topic_is_missing_stops_the_start(topics: TopicBench) -> None:
    topics.broker.admin().delete_topics([Price.TOPIC])
    with pytest.raises(BrokerRefused, match=Price.TOPIC):
        topics.tables()
