"""The cluster that a command talks to: the one the environment or `crossdock up` gives, or the one that the demo left on disk.

Used by every command that reads topics, and by the demo itself.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crossdock_local import addresses

if TYPE_CHECKING:
    from crossdock_eventing.broker.confluent import ConfluentBroker
    from crossdock_eventing.registry import ConfluentRegistry


@dataclass(frozen=True)
class Cluster:
    """Where Kafka and the registry answer."""

    bootstrap_servers: str
    registry_url: str

    def broker(self) -> ConfluentBroker:
        from crossdock_eventing.broker.confluent import ConfluentBroker

        return ConfluentBroker(self.bootstrap_servers)

    def registry(self) -> ConfluentRegistry:
        from crossdock_eventing.registry import ConfluentRegistry

        return ConfluentRegistry(self.registry_url)


def demo_directory() -> Path:
    """Where the demo keeps its broker's data, logs, books and summary."""
    return addresses.local_directory() / "demo"


def demo_books() -> Path:
    """Where the demo keeps what the outside's books said when it ended."""
    return demo_directory() / "books.json"


@contextmanager
def reachable_cluster(*, demo: bool = False) -> Iterator[Cluster]:
    """The cluster at hand; when none answers, or `demo` asks for it, the topics of the running or last demo.

    Of a demo that has ended, broker and registry are started for as long as the block and stopped again. Raises
    LocalError when neither a cluster answers nor a demo has run.
    """
    from crossdock_local import broker
    from crossdock_local.errors import LocalError

    bootstrap = addresses.bootstrap_servers()
    stored = (demo_directory() / "kafka").is_dir()
    if not demo and broker.answers(bootstrap, timeout_s=3.0):
        yield Cluster(bootstrap, addresses.schema_registry_url())
        return
    if addresses.kafka_is_external() and not demo:
        raise LocalError(f"no Kafka answers at {bootstrap}: check {addresses.BOOTSTRAP_VARIABLE}")
    running = _running_demo()
    if running is not None:
        yield running
        return
    if not stored:
        raise LocalError(
            f"no Kafka answers at {bootstrap} and no demo has run: crossdock up, or crossdock demo"
        )
    print("reading the topics of the last demo run", file=sys.stderr)
    with stored_cluster(demo_directory()) as found:
        yield found


@contextmanager
def announced(found: Cluster) -> Iterator[None]:
    """Tell other commands, for as long as the block, that the demo's cluster runs at these addresses."""
    note = _note()
    note.write_text(json.dumps(asdict(found)))
    try:
        yield
    finally:
        note.unlink(missing_ok=True)


def _running_demo() -> Cluster | None:
    """The cluster of a demo that runs now; a note that a killed demo left behind is not believed."""
    from crossdock_local import broker

    try:
        found = Cluster(**json.loads(_note().read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return found if broker.answers(found.bootstrap_servers, timeout_s=3.0) else None


def _note() -> Path:
    return demo_directory() / "cluster.json"


@contextmanager
def stored_cluster(directory: Path) -> Iterator[Cluster]:
    """A broker and a registry of their own on free ports, over the data in `directory`, for as long as the block.

    Raises JavaMissing, a LocalError, when Java or Maven is not there.
    """
    from crossdock_local import broker, jars

    library = addresses.local_directory() / "kafka" / "lib"
    jars.find_java()
    jars.ensure_jars(library)
    with (
        broker.LocalKafka(directory / "kafka", library=library) as kafka,
        with_registry(kafka.bootstrap_servers, directory) as found,
    ):
        yield found


@contextmanager
def with_registry(bootstrap_servers: str, directory: Path) -> Iterator[Cluster]:
    """A registry of its own on a free port, over a broker, for as long as the block."""
    from crossdock_local import cluster, processes

    [port] = processes.free_ports(addresses.LOOPBACK, 1)
    log_file = directory / "logs" / "schema-registry.log"
    command = cluster.registry_command(port=port, bootstrap=bootstrap_servers)
    registry = processes.spawn(command, log_file=log_file, die_with_parent=True)
    try:
        url = f"http://{addresses.LOOPBACK}:{port}"
        cluster.wait_for_registry(url, registry, log_file)
        yield Cluster(bootstrap_servers, url)
    finally:
        processes.stop_children([registry], grace_s=5.0)
