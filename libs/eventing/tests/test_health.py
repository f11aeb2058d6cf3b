"""`/livez`, `/readyz` and `/metrics`, over HTTP."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from prometheus_client.parser import text_string_to_metric_families

from crossdock_eventing.clock import ManualClock
from crossdock_eventing.health import HEARTBEAT_MAX, HealthServer
from crossdock_eventing.telemetry import METRIC_NAMES, Telemetry

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


class Probed:
    """A health server on a free port, and what it answers."""

    def __init__(self) -> None:
        self.clock = ManualClock(START)
        self.telemetry = Telemetry("toy")
        self.server = HealthServer(self.telemetry, self.clock, host="127.0.0.1", port=0)

    def beat(self, *, ready: bool = True, tasks: int = 2, buffered: int = 5) -> None:
        self.telemetry.beat(self.clock.now(), ready=ready, tasks=tasks, buffered=buffered)

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.server.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metrics(self) -> dict[str, float]:
        """Every sample without labels."""
        families = text_string_to_metric_families(self.get("/metrics")[1])
        return {
            sample.name: sample.value for family in families for sample in family.samples if not sample.labels
        }


@pytest.fixture
def probed() -> Iterator[Probed]:
    probed = Probed()
    yield probed
    probed.server.close()


def test_alive_is_the_heartbeat_of_the_loop(probed: Probed) -> None:
    assert probed.get("/livez")[0] == 503, "a loop that has not started yet is not alive"
    probed.beat()
    assert probed.get("/livez") == (200, "ok\n")
    probed.clock.advance(HEARTBEAT_MAX.total_seconds() - 0.001)
    assert probed.get("/livez")[0] == 200
    probed.clock.advance(0.001)
    assert probed.get("/livez") == (503, "the loop is not turning\n")
    probed.beat()
    assert probed.get("/livez")[0] == 200


def test_ready_is_what_the_loop_says(probed: Probed) -> None:
    assert probed.get("/readyz")[0] == 503
    probed.beat(ready=False)
    assert probed.get("/readyz") == (503, "no partition is assigned and restored yet\n")
    probed.beat(ready=True)
    assert probed.get("/readyz") == (200, "ok\n")


def test_the_metrics_are_those_of_the_contract_and_no_others(probed: Probed) -> None:
    probed.telemetry.decided("an event")
    probed.telemetry.dead_lettered("toy.negative")
    probed.telemetry.committed(1, 0.01)
    _, text = probed.get("/metrics")
    families = {family.name: family.type for family in text_string_to_metric_families(text)}
    # A counter's family goes without its suffix.
    named = {f"{name}_total" if kind == "counter" else name for name, kind in families.items()}
    assert named == set(METRIC_NAMES)
    assert all(family.documentation for family in text_string_to_metric_families(text))


def test_the_metrics_say_what_was_reported(probed: Probed) -> None:
    class Ignored:
        code = "duplicate"

    probed.beat(tasks=3, buffered=7)
    probed.telemetry.decided(Ignored())
    probed.telemetry.decided(Ignored())
    probed.telemetry.dead_lettered("toy.negative")
    probed.telemetry.replayed("released")
    probed.telemetry.committed(12, 0.004)
    probed.telemetry.decided(Ignored())
    probed.telemetry.dead_lettered("toy.negative")
    probed.telemetry.replayed("released")
    probed.telemetry.rewound()
    samples = probed.metrics()
    assert samples["crossdock_tasks"] == 3
    assert samples["crossdock_buffered_messages"] == 7
    assert samples["crossdock_messages_total"] == 12
    assert samples["crossdock_transactions_total"] == 1
    assert samples["crossdock_rewinds_total"] == 1
    assert samples["crossdock_transaction_seconds_sum"] == 0.004
    text = probed.get("/metrics")[1]
    assert 'crossdock_decisions_total{code="duplicate",event="Ignored"} 2.0' in text, (
        "what was rewound is no decision"
    )
    assert 'crossdock_dead_letters_total{code="toy.negative"} 1.0' in text, "nor a dead letter"
    assert 'crossdock_replays_total{outcome="released"} 1.0' in text


def test_other_paths_say_which_there_are(probed: Probed) -> None:
    status, text = probed.get("/")
    assert status == 404
    assert all(path in text for path in ("/livez", "/readyz", "/metrics"))


def test_a_taken_port_is_an_error_at_the_start(probed: Probed) -> None:
    with pytest.raises(OSError, match="in use"):
        HealthServer(probed.telemetry, probed.clock, host="127.0.0.1", port=probed.server.port)


def test_a_closed_server_lets_go_of_its_port() -> None:
    first = Probed()
    port = first.server.port
    first.server.close()
    again = HealthServer(first.telemetry, first.clock, host="127.0.0.1", port=port)
    assert again.port == port
    again.close()
