"""The same on Kafka, with real processes: a run that is killed with SIGKILL is gone on with, and nothing takes effect twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crossdock_canonical.records import ChannelOrderReceived, ItemMapped, OrderReceived, TenderState
from crossdock_eventing import names
from crossdock_eventing.clock import SystemClock
from crossdock_eventing.codec import Codec
from crossdock_eventing.envelope import headers, record_key, wrap
from crossdock_eventing.parking.formats import Instruction
from crossdock_local.errors import LocalError
from crossdock_simulation.planting import an_order
from crossdock_tools.cluster import Cluster, stored_cluster
from crossdock_tools.dead_letters.changelog import read_changelog
from crossdock_tools.schemas.commands import repository
from crossdock_tools.schemas.register import register_all
from crossdock_tools.topic_reader import TopicReader
from crossdock_tools.topics import apply_catalogue

pytestmark = [pytest.mark.kafka, pytest.mark.e2e]

SERVICE = "order-orchestrator"
ORDERS = 60
_WITHIN_S = 60.0


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of the test's own: the catalogue's topics have one name each, and others may want them too."""
    try:
        with stored_cluster(tmp_path / "cluster") as found:
            contracts = repository(None)
            register_all(contracts, found.registry_url)
            admin = found.broker().admin()
            apply_catalogue(contracts, admin)
            admin.close()
            yield found
    except LocalError as missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no Kafka for this test: {missing}")


def publish(kafka: Cluster, name: str, *records: Any) -> None:
    codec = Codec(
        kafka.registry(), written={type(each): type(each).TOPIC for each in records}.items(), read=()
    )
    now = SystemClock().now()
    producer = kafka.broker().producer(name)
    producer.init_transactions()
    producer.begin()
    for number, record in enumerate(records):
        meta = wrap(
            record, causation_id=f"{name}/{number}", correlation_id="", now=now, source="/edge", attributes={}
        )
        producer.produce(
            record.TOPIC,
            key=record_key(record).encode(),
            value=codec.encode(record, meta),
            headers=headers(meta, record.SCHEMA, None),
        )
    producer.commit()
    producer.close()


def until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + _WITHIN_S
    while not condition():
        assert time.monotonic() < deadline_s, f"waited in vain until {what}"
        time.sleep(0.1)


def records(kafka: Cluster, topic: str) -> list[Any]:
    reader = TopicReader(kafka.broker(), kafka.registry(), [topic])
    try:
        return list(reader.records())
    finally:
        reader.close()


def test_a_run_killed_on_kafka_is_gone_on_with(kafka: Cluster, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "SCHEMA_REGISTRY_URL": kafka.registry_url,
        "CROSSDOCK_STATE_DIR": str(tmp_path / "state"),
    }

    def process(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=tmp_path,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def dlt(*arguments: str) -> Any:
        running = process("crossdock_tools.main", "dlt", *arguments, "--json")
        out, _ = running.communicate(timeout=_WITHIN_S)
        assert running.returncode == 0, out
        return json.loads(out)

    def parked() -> int:
        return sum(map(len, read_changelog(kafka.broker(), SERVICE).parked.values()))

    with (tmp_path / "service.log").open("w") as log:
        service = subprocess.Popen(
            [sys.executable, "-m", "crossdock_order_orchestrator"], env=environment, stdout=log, stderr=log
        )
    try:
        orders = [an_order(number, ("A", 1, 1000), state=TenderState.CAPTURED) for number in range(ORDERS)]
        again = [an_order(n, ("A", 1, 1000), state=TenderState.CAPTURED, revision=1) for n in range(ORDERS)]
        publish(kafka, "orders", *orders, *again)
        until(lambda: parked() == 2 * ORDERS, "every order is parked")
        publish(kafka, "items", ItemMapped(reference="sku:A", scheme="sku", value="A", sku="A"))
        assert (
            len(dlt("plan", "--service", SERVICE, "--reason", "mapped", "--all", "--out", "p.json")["items"])
            == ORDERS
        )

        run = process("crossdock_tools.main", "dlt", "run", "p.json", "--rate", "30")
        until(lambda: len(records(kafka, names.replays_topic(SERVICE))) >= 5, "the run is under way")
        run.send_signal(signal.SIGKILL)
        run.communicate(timeout=_WITHIN_S)
        assert 0 < parked() < 2 * ORDERS

        ended = dlt("run", "p.json")
        certificate = ended["certificate"]
        assert 0 < ended["sent"] < ORDERS
        assert certificate["messages"] == {"in": 2 * ORDERS, "applied": 2 * ORDERS}
        assert certificate["keys"] == {"planned": ORDERS, "unparked": ORDERS, "parked_still": {}}
        assert certificate["effects"]["by_type"]["OrderReceived"]["count"] == ORDERS
        assert certificate["problems"] == []
        assert parked() == 0
        once = dlt("run", "p.json")
        assert (once["sent"], once["events"], once["certificate"]) == (0, 0, certificate)

        sent = [
            Instruction.from_bytes(each.value).item for each in records(kafka, names.retry_topic(SERVICE))
        ]
        assert sorted(sent) == list(range(ORDERS)), "nothing was sent twice"
        kind = ("event_type", OrderReceived.SCHEMA.encode())
        received = Counter(each.key for each in records(kafka, OrderReceived.TOPIC) if kind in each.headers)
        assert set(received.values()) == {1}
        assert len(received) == ORDERS
        assert not any(each["broken"] for each in dlt("verify", "--service", SERVICE))
        [group] = dlt("list")
        assert (group["parked"], group["settled"]) == (0, 2 * ORDERS)
        assert group["topic"] == ChannelOrderReceived.TOPIC
    finally:
        service.terminate()
        service.wait(timeout=_WITHIN_S)
