"""How fast: listing a hundred thousand dead letters, and what a service releases against what it takes as it comes.

In processor time, on the in-memory broker, so that a busy machine changes nothing. `pytest -s` prints the figures.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from feeds import STRUCK, traffic, transfers
from incident import Incident

from crossdock_canonical.records import ChannelOrderReceived
from crossdock_eventing import names
from crossdock_eventing.broker.interface import Record
from crossdock_eventing.codec import Codec
from crossdock_eventing.deadletter import dead_letter_headers
from crossdock_eventing.envelope import headers, wrap
from crossdock_simulation.planting import an_order
from crossdock_tools import main
from crossdock_tools.dead_letters import command

LETTERS, ORDERS = 100_000, 10_000
LIST_S_MAX = 10.0
RATIO_MIN = 0.5


def test_a_service_releases_at_half_its_live_pace_at_least() -> None:
    incident = Incident()
    live = traffic(1, keys=300, each=10, prefix="LIVE")
    before_s = incident.spent_s[STRUCK]
    incident.send(live.before)
    incident.run()
    live_s = (incident.spent_s[STRUCK] - before_s) / len(live.before)

    incident.deploy(bug=transfers)
    struck = traffic(2, keys=300, each=10)
    incident.send(struck.before)
    incident.run()
    incident.deploy(bug=None)
    plan = incident.plan()
    before_s = incident.spent_s[STRUCK]
    incident.replay(plan)
    incident.run()
    released_s = (incident.spent_s[STRUCK] - before_s) / struck.parked
    assert incident.parked() == {}
    print(f"\nlive {1 / live_s:,.0f} messages/s, released {1 / released_s:,.0f}: {live_s / released_s:.0%}")
    assert live_s / released_s >= RATIO_MIN


@pytest.fixture(scope="module")
def full() -> Incident:
    """A hundred thousand letters of the orchestrator: ten for each of ten thousand orders, one rejected and nine behind it."""
    incident = Incident()
    service = "order-orchestrator"
    kind = ChannelOrderReceived
    codec = Codec(incident.registry, written=[(kind, kind.TOPIC)], read=())
    producer = incident.broker.producer("letters")
    producer.init_transactions()
    producer.begin()
    now = incident.clock.now()
    for number in range(ORDERS):
        order = an_order(number, ("A", 1, 1000))
        meta = wrap(
            order,
            causation_id=f"delivery/{number}",
            correlation_id="",
            now=now,
            source="/crossdock/channel-gateway",
            attributes={},
        )
        key, value = order.order_id.encode(), codec.encode(order, meta)
        carried = headers(meta, kind.SCHEMA, None)
        for place in range(LETTERS // ORDERS):
            offset = number * LETTERS // ORDERS + place
            original = Record(kind.TOPIC, 0, offset, incident.clock.now_ms(), key, value, carried)
            why = dead_letter_headers(
                original,
                code="parked.behind" if place else "order.unknown_sku",
                detail="line L0: sku:A",
                error=None,
                group=names.group(service),
            )
            producer.produce(names.dead_letter_topic(service), key=key, value=value, headers=why)
    producer.commit()
    return incident


def test_a_hundred_thousand_dead_letters_are_listed_in_ten_seconds(
    full: Incident, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Cluster:
        def broker(self) -> Any:
            return full.broker

        def registry(self) -> Any:
            return full.registry

    @contextmanager
    def reachable(**_: object) -> Iterator[Cluster]:
        yield Cluster()

    monkeypatch.setattr(command, "reachable_cluster", reachable)
    monkeypatch.setattr("sys.argv", ["crossdock", "dlt", "list", "--json"])
    started_s = time.process_time()
    with pytest.raises(SystemExit) as ended:
        main.main()
    took_s = time.process_time() - started_s
    assert not ended.value.code
    [group] = json.loads(capsys.readouterr().out)
    assert (group["letters"], group["keys"], group["orders"]) == (LETTERS, ORDERS, ORDERS)
    assert group["behind"] == LETTERS - ORDERS
    assert group["stake_minor"]["EUR"] > 0
    with capsys.disabled():
        print(f"\nlisted {LETTERS:,} letters in {took_s:.1f} s")
    assert took_s < LIST_S_MAX
