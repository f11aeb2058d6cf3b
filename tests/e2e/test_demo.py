"""The whole backbone as a user runs it: `crossdock demo`, with processes killed in the middle, then `crossdock trace`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crossdock_local.addresses import LOOPBACK, local_directory
from crossdock_local.processes import free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.kafka, pytest.mark.timeout(400)]

CROSSDOCK = [sys.executable, "-m", "crossdock_tools.main"]
KILLED = ("order-orchestrator", "inventory-availability", "channel-gateway")
FIGURES = {
    "requests_sent": 349,
    "requests_refused": 2,
    "orders_distinct": 300,
    "orders_completed": 292,
    "orders_cancelled": 3,
    "orders_rejected": 5,
    "orders_open": 0,
    "dead_lettered": 1,
    "dead_letters_expected": 1,
    "erp_documents": 1044,
    "erp_duplicates": 0,
    "oversold_units": 0,
    "settlement_lines": 501,
    "settlement_residual_minor": 0,
    "audit_violations": 0,
}
VARYING = ("audit_checked", "wall_s")
AUDITED_MIN = 30_000


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A local directory of its own, so that a user's demo and cluster are left alone; fetched jars are shared."""
    local = tmp_path_factory.mktemp("local")
    jars = local_directory() / "kafka" / "lib"
    if jars.is_dir():
        (local / "kafka").mkdir()
        (local / "kafka" / "lib").symlink_to(jars)
    [port] = free_ports(LOOPBACK, 1)
    return {**os.environ, "CROSSDOCK_LOCAL_DIR": str(local), "CROSSDOCK_GATEWAY_PORT": str(port)}


@pytest.fixture(scope="module")
def demo(environment: dict[str, str]) -> dict[str, Any]:
    """What a run reports in which three processes were killed with -9 while orders were coming in."""
    run = subprocess.Popen(
        [*CROSSDOCK, "demo", "--json"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stderr is not None
    assert run.stdout is not None
    told: list[str] = []
    to_kill = list(KILLED)
    for line in run.stderr:
        told.append(line)
        if ("] sent " in line or "waiting for orders" in line) and to_kill:
            kill(environment, to_kill.pop(0))
    output = run.stdout.read()
    assert run.wait(timeout=30) == 0, "".join(told[-30:])
    assert not to_kill, "the run ended before every process was killed"
    return {**json.loads(output), "told": told}


def kill(environment: dict[str, str], name: str) -> None:
    record = json.loads((Path(environment["CROSSDOCK_LOCAL_DIR"]) / "run" / f"{name}.pid").read_text())
    os.kill(record["pid"], signal.SIGKILL)


def test_killing_processes_changes_no_figure(demo: dict[str, Any]) -> None:
    figures = {name: value for name, value in demo["summary"].items() if name not in VARYING}
    assert figures == FIGURES
    assert demo["summary"]["audit_checked"] >= AUDITED_MIN
    assert demo["disagreements"] == []
    for name in KILLED:
        assert any(f"{name} had ended with -9" in line for line in demo["told"])


def test_the_finished_run_can_be_audited_again(demo: dict[str, Any], environment: dict[str, str]) -> None:
    done = subprocess.run(
        [*CROSSDOCK, "audit", "--demo", "--expect-drained", "--json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    report = json.loads(done.stdout)
    assert report["checked"] == demo["summary"]["audit_checked"]
    assert {check["invariant"] for check in report["checks"]} >= {1, 4, 5, 8, 9, 12}


def test_nothing_is_left_running(demo: dict[str, Any], environment: dict[str, str]) -> None:
    local = environment["CROSSDOCK_LOCAL_DIR"]
    left = [
        process.name for process in Path("/proc").glob("[0-9]*") if local.encode() in _command_line(process)
    ]
    assert left == []
    assert list((Path(local) / "run").glob("*.pid")) == []


def _command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:  # it has just ended
        return b""


def test_an_order_is_traced_from_its_webhook_to_the_erp(
    demo: dict[str, Any], environment: dict[str, str]
) -> None:
    done = subprocess.run(
        [*CROSSDOCK, "trace", "--channel", "shopify", "--ref", "#901", "--demo", "--json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    life = json.loads(done.stdout)
    told = [event["event"] for event in life["events"]]
    assert told[0] == "ChannelOrderReceived"
    assert {"OrderReleased", "StockAllocated", "ShipmentConfirmed", "OrderShipped", "OrderCompleted"} <= set(
        told
    )
    assert told.count("OrderShipped") == 2, "it ships from two locations"
    services = {event["service"] for event in life["events"]}
    assert {
        "channel-gateway",
        "order-orchestrator",
        "inventory-availability",
        "fulfillment-router",
        "erp-poster",
    } == services
    seen = set()
    for event in life["events"]:
        assert event["cause"] in seen or event["event"] == "ChannelOrderReceived", (
            "a cause stands before its effects"
        )
        assert (event["delay_ms"] is None) == (event["cause"] is None)
        seen.add(event["event_id"])
