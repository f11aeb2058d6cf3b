"""`crossdock up`, `status` and `down` as a user runs them, on free ports and a directory of their own."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crossdock_local import addresses, broker, jars, processes
from crossdock_local.container import container_environment

pytest.importorskip("crossdock_tools.main")


class Command:
    """The `crossdock` command with its settings."""

    def __init__(self, directory: Path) -> None:
        self.kafka, self.controller, self.registry = processes.free_ports(addresses.LOOPBACK, 3)
        outside = {name: value for name, value in os.environ.items() if not name.startswith("CROSSDOCK_")}
        outside.pop("KAFKA_BOOTSTRAP_SERVERS", None)
        outside.pop("SCHEMA_REGISTRY_URL", None)
        self.environment = outside | {
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "CROSSDOCK_LOCAL_DIR": str(directory),
            "CROSSDOCK_KAFKA_PORT": str(self.kafka),
            "CROSSDOCK_KAFKA_CONTROLLER_PORT": str(self.controller),
            "CROSSDOCK_REGISTRY_PORT": str(self.registry),
        }

    def run(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        answer = subprocess.run(
            [sys.executable, "-m", "crossdock_tools.main", *arguments],
            env=self.environment | settings,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in answer.stderr
        return answer

    def status(self) -> dict[str, dict[str, Any]]:
        answer = json.loads(self.run("status", "--json").stdout)
        return {component["component"]: component for component in answer["components"]}


@pytest.fixture
def crossdock(tmp_path: Path) -> Iterator[Command]:
    command = Command(tmp_path)
    yield command
    command.run("down")


def test_help_is_fast_and_lists_the_commands(crossdock: Command) -> None:
    answer = crossdock.run("--help")
    assert answer.returncode == 0
    for name in ("up", "down", "status"):
        assert re.search(rf"\b{name}\b", answer.stdout)
        assert crossdock.run(name, "--help").returncode == 0
    # What takes long to import must not be, just to print help.
    heavy = ("crossdock_local.cluster", "starlette", "uvicorn", "fastapi", "aiokafka", "faust", "avro")
    script = f"import sys, crossdock_tools.main; print([name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", script], env=crossdock.environment, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"


def test_nothing_runs_at_first_and_down_says_so(crossdock: Command) -> None:
    answer = crossdock.run("status")
    assert answer.returncode == 1
    assert f"127.0.0.1:{crossdock.kafka}" in answer.stdout
    answer = crossdock.run("down")
    assert answer.returncode == 0
    assert "kafka: not running" in answer.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"CROSSDOCK_KAFKA_PORT": "many"}, "CROSSDOCK_KAFKA_PORT='many' is not a port"),
        ({"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}, "kafka does not answer at 127.0.0.1:1"),
    ],
)
def test_a_users_mistake_is_one_line(crossdock: Command, settings: dict[str, str], message: str) -> None:
    answer = crossdock.run("up", **settings)
    assert answer.returncode == 1
    assert answer.stderr.splitlines()[-1].startswith(f"crossdock: {message}")


@pytest.mark.parametrize(
    ("owner", "variable"),
    [("kafka", "CROSSDOCK_KAFKA_PORT"), ("controller", "CROSSDOCK_KAFKA_CONTROLLER_PORT")],
)
def test_a_taken_port_names_the_setting_to_change(crossdock: Command, owner: str, variable: str) -> None:
    with socket.socket() as other:
        other.bind((addresses.LOOPBACK, getattr(crossdock, owner)))
        other.listen()
        answer = crossdock.run("up")
    assert answer.returncode == 1
    [line] = answer.stderr.splitlines()
    assert "in use by another program" in line
    assert variable in line


@pytest.mark.kafka
def test_up_status_down(crossdock: Command, tmp_path: Path) -> None:
    library = jars.ensure_jars(addresses.local_directory() / "kafka" / "lib")
    (tmp_path / "kafka").mkdir()
    (tmp_path / "kafka" / "lib").symlink_to(library)

    answer = crossdock.run("up")
    assert answer.returncode == 0, answer.stderr
    assert f"http://127.0.0.1:{crossdock.registry}" in answer.stdout
    assert "Next:" in answer.stdout
    first = crossdock.status()
    assert all(component["healthy"] and component["managed"] for component in first.values())

    # Again: nothing is started, nothing changes.
    answer = crossdock.run("up", "--json")
    assert answer.stderr.count("already running") == 2
    assert {c["component"]: c for c in json.loads(answer.stdout)["components"]} == first == crossdock.status()

    # Other ports while it runs would start a second broker on the same data.
    answer = crossdock.run("up", CROSSDOCK_KAFKA_PORT=str(processes.free_ports(addresses.LOOPBACK, 1)[0]))
    assert answer.returncode == 1
    assert "run 'crossdock down' first" in answer.stderr

    # Killed: status says so, and up brings back only what is missing, with its data.
    os.kill(first["schema-registry"]["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 10
    while crossdock.status()["schema-registry"]["pid"] is not None:
        assert time.monotonic() < deadline
    assert crossdock.run("status").returncode == 1
    assert crossdock.run("up").returncode == 0
    second = crossdock.status()
    assert second["kafka"]["pid"] == first["kafka"]["pid"]
    assert second["schema-registry"]["pid"] != first["schema-registry"]["pid"]

    # An outside cluster is used, not started or stopped.
    answer = crossdock.run("status", "--json", KAFKA_BOOTSTRAP_SERVERS=f"localhost:{crossdock.kafka}")
    [kafka, _] = json.loads(answer.stdout)["components"]
    assert (kafka["managed"], kafka["pid"], kafka["healthy"]) == (False, None, True)

    answer = crossdock.run("down", "--wipe", "--json")
    assert json.loads(answer.stdout) == {"stopped": ["schema-registry", "kafka"], "wiped": True}
    assert not (tmp_path / "kafka" / "data").exists()
    assert all(processes.start_mark(component["pid"]) is None for component in second.values())


def test_the_containers_settings_are_the_brokers_in_the_images_form() -> None:
    settings = container_environment(19092)
    assert settings["KAFKA_ADVERTISED_LISTENERS"] == "PLAINTEXT://127.0.0.1:19092"
    assert settings["KAFKA_LISTENERS"] == "PLAINTEXT://:19092,CONTROLLER://127.0.0.1:19093"
    assert settings["KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR"] == "1"
    assert settings["KAFKA_LOG_DIRS"] != ""


def test_dead_owners_transactions_end_before_their_session_does(tmp_path: Path) -> None:
    settings = broker.BrokerSettings(directory=tmp_path, library=tmp_path, port=1, controller_port=2)
    properties = broker.server_properties(settings)
    transaction_timeout_ms = 10_000  # Every transactional producer of the workspace.
    assert int(properties["group.consumer.session.timeout.ms"]) > transaction_timeout_ms
    assert int(properties["transaction.max.timeout.ms"]) >= transaction_timeout_ms
    assert properties["auto.create.topics.enable"] == "false"


def test_a_proxied_listener_sends_its_clients_back_through_the_proxy(tmp_path: Path) -> None:
    settings = broker.BrokerSettings(
        directory=tmp_path,
        library=tmp_path,
        port=1,
        controller_port=2,
        session_timeout_ms=6_000,
        proxied=(broker.ProxiedListener("RETURNS_0", port=3, advertised_port=4),),
    )
    properties = broker.server_properties(settings)
    assert properties["listeners"] == (
        "PLAINTEXT://127.0.0.1:1,RETURNS_0://127.0.0.1:3,CONTROLLER://127.0.0.1:2"
    )
    assert properties["advertised.listeners"] == "PLAINTEXT://127.0.0.1:1,RETURNS_0://127.0.0.1:4"
    assert (
        properties["listener.security.protocol.map"]
        == "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,RETURNS_0:PLAINTEXT"
    )
    assert properties["group.consumer.session.timeout.ms"] == "6000"
