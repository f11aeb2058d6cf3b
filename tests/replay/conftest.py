"""A day of the backbone that was recorded, and `crossdock replay` on its cluster."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from crossdock_canonical.records import ItemMapped, LocationKind
from crossdock_eventing import names
from crossdock_eventing.broker.interface import TopicPartition
from crossdock_eventing.broker.partitioner import partition_for
from crossdock_eventing.parking.formats import Instruction, Park, key_text, park_name
from crossdock_local.addresses import bootstrap_servers
from crossdock_simulation.backbone import Backbone
from crossdock_simulation.planting import an_order, id_of
from crossdock_tools import main
from crossdock_tools.replaying import command

ORCHESTRATOR = "order-orchestrator"


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    exit_code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class RecordedDay:
    """Orders 1 to 3 of an item that nobody mapped are parked, the first of them is released when it is; an hour later come 4 to 6.

    The second has another message behind it. `crossdock_tools.cluster.Cluster` as well, over this backbone.
    """

    bootstrap_servers = bootstrap_servers()

    def __init__(self) -> None:
        self.backbone = run = Backbone()
        run.location("WH", kind=LocationKind.WAREHOUSE)
        run.stock("A", WH=100)
        run.send(*(an_order(number, ("A", 1, 1000 * number)) for number in (1, 2, 3)))
        run.run()
        run.send(an_order(2, ("A", 2, 2000), revision=1))
        run.send(ItemMapped(reference="sku:A", scheme="sku", value="A", sku="A"))
        run.run()
        self.release(id_of(1))
        run.run()
        run.pass_time(hours=1)
        self.later = run.clock.now()
        run.clock.advance(0.001)
        run.send(*(an_order(number, ("A", 1, 1000 * number)) for number in (4, 5, 6)))
        run.run()

    def broker(self) -> Any:
        return self.backbone.broker

    def registry(self) -> Any:
        return self.backbone.registry

    def records(self, topic: str) -> list[Any]:
        """Every committed record, partition by partition."""
        reader, admin = self.broker().reader(), self.broker().admin()
        ends = {
            each: reader.watermarks(each).high
            for each in (TopicPartition(topic, number) for number in range(admin.partitions(topic)))
        }
        reader.assign(dict.fromkeys(ends, 0))
        found: list[Any] = []
        while any(reader.position(each) < end for each, end in ends.items()):
            found += reader.poll(1000, 0.0)
        return sorted(found, key=lambda record: (record.partition, record.offset))

    def put(self, topic: str, *, key: str, value: bytes | None, partition: int | None = None) -> None:
        """One committed record."""
        producer = self.broker().producer("somebody")
        producer.init_transactions()
        producer.begin()
        producer.produce(topic, key=key.encode(), value=value, partition=partition)
        producer.commit()

    def release(self, key: str) -> None:
        entries = {
            key_text(each.key): each.value for each in self.records(names.changelog_topic(ORCHESTRATOR))
        }
        park = Park.from_json(json.loads(entries[park_name(key)]))
        instruction = Instruction(
            plan="p", item=0, operator="ada", reason="mapped", key=key, op="release", episode=park.episode
        )
        self.put(names.retry_topic(ORCHESTRATOR), key=key, value=instruction.to_bytes())

    def partition_of(self, number: int) -> int:
        """Where the order of this number lies."""
        admin = self.broker().admin()
        return partition_for(id_of(number).encode(), admin.partitions(names.journal_topic(ORCHESTRATOR)))


@pytest.fixture
def recorded_day() -> RecordedDay:
    return RecordedDay()


@pytest.fixture
def replay_cli(
    recorded_day: RecordedDay, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    """Run `crossdock replay ...` on the recorded day."""

    @contextmanager
    def reachable(*, demo: bool) -> Iterator[RecordedDay]:
        yield recorded_day

    monkeypatch.setattr(command, "reachable_cluster", reachable)
    monkeypatch.setenv("CROSSDOCK_ORDER_ORCHESTRATOR_BACKORDER_CHANNELS", '["shopify"]')
    monkeypatch.setenv("COLUMNS", "200")

    def invoke(*arguments: str) -> Said:
        monkeypatch.setattr("sys.argv", ["crossdock", "replay", *arguments])
        capsys.readouterr()  # what the services have logged meanwhile
        with pytest.raises(SystemExit) as ended:
            main.main()
        said = capsys.readouterr()
        return Said(int(ended.value.code or 0), said.out, said.err)

    return invoke
