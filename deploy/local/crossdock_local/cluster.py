"""Bringing the local broker and registry up and down, and telling how they are.

`crossdock up|down|status` call these. Both processes are detached: they outlive the command, and are found
again by their pid files under `.local/run`. What the environment says is elsewhere is never started or
stopped here.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from crossdock_local import addresses, broker, processes
from crossdock_local.errors import LocalError

KAFKA = "kafka"
REGISTRY = "schema-registry"
REGISTRY_READY_TIMEOUT_S = 30.0
_GRACE_S = {KAFKA: broker.STOP_GRACE_S, REGISTRY: 5.0}

Announce = Callable[[str], None]


@dataclass(frozen=True)
class ComponentStatus:
    """One line of `crossdock status`. `pid` is None for what does not run or was not started here."""

    component: str
    address: str
    managed: bool
    pid: int | None
    healthy: bool


def up(announce: Announce) -> tuple[ComponentStatus, ...]:
    """Make the broker and the registry run and answer; what runs already is left as it is.

    `announce` gets a line for each step. Raises LocalError with one line saying what to do.
    """
    with _only_one_at_a_time():
        kafka, url = addresses.bootstrap_servers(), addresses.schema_registry_url()
        if addresses.kafka_is_external():
            announce(f"{KAFKA}: using {kafka} from {addresses.BOOTSTRAP_VARIABLE}; nothing started")
            _require(KAFKA, kafka, addresses.BOOTSTRAP_VARIABLE, broker.answers(kafka, timeout_s=5.0))
        else:
            _start_kafka(announce)
        if addresses.registry_is_external():
            announce(f"{REGISTRY}: using {url} from {addresses.REGISTRY_URL_VARIABLE}; nothing started")
            _require(REGISTRY, url, addresses.REGISTRY_URL_VARIABLE, registry_answers(url, timeout_s=5.0))
        else:
            _start_registry(announce)
    return status()


def down(announce: Announce, *, wipe: bool = False) -> list[str]:
    """Stop what `up` started and return its names; with `wipe`, also delete Kafka's data."""
    stopped = []
    with _only_one_at_a_time():
        for name in (REGISTRY, KAFKA):
            record = processes.read_live(_pid_file(name))
            if record is None:
                announce(f"{name}: not running")
                continue
            processes.stop(record, grace_s=_GRACE_S[name])
            _pid_file(name).unlink(missing_ok=True)
            announce(f"{name}: stopped (pid {record.pid})")
            stopped.append(name)
        data = addresses.local_directory() / "kafka" / "data"
        if wipe and data.exists():
            shutil.rmtree(data)
            announce(f"{KAFKA}: data deleted ({data})")
    return stopped


def status() -> tuple[ComponentStatus, ...]:
    """How the broker and the registry are, wherever they are."""
    kafka = processes.read_live(_pid_file(KAFKA))
    registry = processes.read_live(_pid_file(REGISTRY))
    bootstrap, url = addresses.bootstrap_servers(), addresses.schema_registry_url()
    if kafka and not addresses.kafka_is_external():
        bootstrap = kafka.address
    if registry and not addresses.registry_is_external():
        url = registry.address
    return (
        ComponentStatus(
            component=KAFKA,
            address=bootstrap,
            managed=not addresses.kafka_is_external(),
            pid=None if kafka is None or addresses.kafka_is_external() else kafka.pid,
            healthy=broker.answers(bootstrap, timeout_s=2.0),
        ),
        ComponentStatus(
            component=REGISTRY,
            address=url,
            managed=not addresses.registry_is_external(),
            pid=None if registry is None or addresses.registry_is_external() else registry.pid,
            healthy=registry_answers(url, timeout_s=2.0),
        ),
    )


def registry_answers(url: str, *, timeout_s: float) -> bool:
    """Whether a schema registry answers at `url`."""
    try:
        with urllib.request.urlopen(f"{url}/subjects", timeout=timeout_s) as answer:  # noqa: S310 (http only)
            return isinstance(json.load(answer), list)
    except (OSError, ValueError):
        return False


def registry_command(*, port: int, bootstrap: str) -> list[str]:
    """The command line of a registry process."""
    module = ("-m", "crossdock_local.registry")
    return [sys.executable, *module, "--port", str(port), "--bootstrap", bootstrap]


def wait_for_registry(url: str, process: "subprocess.Popen[bytes]", log_file: Path) -> None:
    """Return once the registry answers. Raises LocalError when it ends first, or after 30 seconds."""
    deadline = time.monotonic() + REGISTRY_READY_TIMEOUT_S
    while not registry_answers(url, timeout_s=1.0):
        if process.poll() is not None:
            raise LocalError(
                f"the schema registry ended while starting: {_last_line(log_file)} (see {log_file})"
            )
        if time.monotonic() > deadline:
            raise LocalError(f"the schema registry did not answer at {url}: see {log_file}")
        time.sleep(0.1)


def _start_kafka(announce: Announce) -> None:
    port, directory = addresses.kafka_port(), addresses.local_directory()
    settings = broker.BrokerSettings(
        directory=directory,
        library=directory / "kafka" / "lib",
        port=port,
        controller_port=addresses.controller_port(),
    )
    if _runs_already(KAFKA, settings.bootstrap_servers, addresses.KAFKA_PORT_VARIABLE, announce):
        return
    _refuse_taken_port(KAFKA, port, addresses.KAFKA_PORT_VARIABLE)
    _refuse_taken_port(KAFKA, settings.controller_port, addresses.CONTROLLER_PORT_VARIABLE)
    if settings.port == settings.controller_port:
        raise LocalError(f"{KAFKA}: client and controller port are both {port}: change one of them")
    announce(f"{KAFKA}: starting on {settings.bootstrap_servers}")
    process = broker.start_detached(settings, lambda line: announce(f"{KAFKA}: {line}"))
    with _stopped_unless_ready(KAFKA, process, settings.bootstrap_servers):
        broker.wait_until_ready(settings, process.poll)
    announce(f"{KAFKA}: ready (pid {process.pid})")


def _start_registry(announce: Announce) -> None:
    port, bootstrap = addresses.registry_port(), addresses.bootstrap_servers()
    url = addresses.schema_registry_url()
    if _runs_already(REGISTRY, url, addresses.REGISTRY_PORT_VARIABLE, announce):
        return
    _refuse_taken_port(REGISTRY, port, addresses.REGISTRY_PORT_VARIABLE)
    announce(f"{REGISTRY}: starting on {url}")
    log_file = addresses.local_directory() / "logs" / f"{REGISTRY}.log"
    process = processes.spawn(
        registry_command(port=port, bootstrap=bootstrap), log_file=log_file, die_with_parent=False
    )
    with _stopped_unless_ready(REGISTRY, process, url):
        wait_for_registry(url, process, log_file)
    announce(f"{REGISTRY}: ready (pid {process.pid})")


def _require(name: str, address: str, variable: str, healthy: bool) -> None:
    if not healthy:
        raise LocalError(f"{name} does not answer at {address}: correct or unset {variable}")


def _runs_already(name: str, address: str, variable: str, announce: Announce) -> bool:
    record = processes.read_live(_pid_file(name))
    if record is None:
        return False
    if record.address != address:
        raise LocalError(
            f"{name} is running at {record.address}, not {address}: "
            f"run 'crossdock down' first, or correct {variable}"
        )
    announce(f"{name}: already running at {address} (pid {record.pid})")
    return True


def _refuse_taken_port(name: str, port: int, variable: str) -> None:
    if processes.port_is_taken(addresses.LOOPBACK, port):
        raise LocalError(f"{name}: port {port} is in use by another program: set {variable} to a free port")


@contextmanager
def _stopped_unless_ready(name: str, process: "subprocess.Popen[bytes]", address: str) -> Iterator[None]:
    """Remember a detached process; if it is never ready, or the user gives up, leave none behind."""
    try:
        processes.write_record(_pid_file(name), pid=process.pid, address=address)
        yield
    except BaseException:
        processes.stop_children([process], grace_s=5.0)
        _pid_file(name).unlink(missing_ok=True)
        raise


@contextmanager
def _only_one_at_a_time() -> Iterator[None]:
    """Two `crossdock up` at once: the second waits, and then finds everything running."""
    run = addresses.local_directory() / "run"
    run.mkdir(parents=True, exist_ok=True)
    # The lock must not be inherited by the detached children, or it would never be let go of.
    descriptor = os.open(run / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _pid_file(name: str) -> Path:
    return addresses.local_directory() / "run" / f"{name}.pid"


def _last_line(file: Path) -> str:
    lines = file.read_text(encoding="utf-8", errors="replace").strip().splitlines() if file.is_file() else []
    return lines[-1][:300] if lines else "no output"
