"""Every process of the demo: broker, registry, simulators, services, gateway; started, watched, and stopped together."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from crossdock_local import addresses, container, processes
from crossdock_local.errors import LocalError
from crossdock_local.jars import JavaMissing
from crossdock_local.supervisor import Backoff, Child, Supervisor
from crossdock_tools.cluster import (
    Cluster,
    announced,
    demo_books,
    demo_directory,
    stored_cluster,
    with_registry,
)
from crossdock_tools.schemas.contracts import Repository
from crossdock_tools.schemas.register import register_all
from crossdock_tools.topics import apply_catalogue

Announce = Callable[[str], None]

SERVICES = (
    "order-orchestrator",
    "inventory-availability",
    "fulfillment-router",
    "returns",
    "settlement-reconciler",
    "erp-poster",
)
SIMULATORS = ("wms", "psp", "erp", "channels")
_HEALTHY_WITHIN_S = 60.0


@dataclass(frozen=True)
class Stack:
    """The running processes. `books` are the simulators' own accounts, by name of the simulator."""

    cluster: Cluster
    gateway_url: str
    simulator_urls: dict[str, str]
    supervisor: Supervisor


@contextmanager
def _cluster(directory: Path, announce: Announce) -> Iterator[Cluster]:
    if addresses.kafka_is_external() or addresses.registry_is_external():
        found = Cluster(addresses.bootstrap_servers(), addresses.schema_registry_url())
        announce(f"using Kafka at {found.bootstrap_servers} and the registry at {found.registry_url}")
        yield found
        return
    announce("starting Kafka and the schema registry")
    with ExitStack() as stack:
        try:
            yield stack.enter_context(stored_cluster(directory))
        except JavaMissing as missing:
            if not container.docker_answers():
                raise LocalError(f"{missing}, or start a Docker engine") from None
            announce(f"{missing}; running Kafka in a container, whose topics go with it")
            bootstrap = stack.enter_context(container.container_kafka())
            yield stack.enter_context(with_registry(bootstrap, directory))


@contextmanager
def only_one(directory: Path, what: str = "demo") -> Iterator[None]:
    """Hold a run's directory. Raises LocalError, before anything is touched, while another run has it."""
    directory.mkdir(parents=True, exist_ok=True)
    # Closed on exec: a child that outlived its demo must not keep the next one out.
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LocalError(
                f"a {what} already runs in {directory}: wait for it, stop it with Ctrl-C, "
                f"or set {addresses.DIRECTORY_VARIABLE} to another directory"
            ) from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def running(
    repository: Repository, announce: Announce, *, shopify_secrets: tuple[str, str]
) -> Iterator[Stack]:
    """The whole stack, healthy, on a cluster with every contract and topic; nothing is left when the block ends.

    A cluster that the environment names is used as it is; else one of the demo's own is started on empty data.
    Raises LocalError naming the process that does not get healthy, and its log.
    """
    directory = demo_directory()
    with only_one(directory), ExitStack() as alive:
        for part in ("kafka", "state", "books", "logs"):
            shutil.rmtree(directory / part, ignore_errors=True)
        for left in (directory / "summary.json", demo_books()):
            left.unlink(missing_ok=True)
        found = alive.enter_context(_cluster(directory, announce))
        announce("registering contracts, creating topics")
        register_all(repository, found.registry_url)
        admin = found.broker().admin()
        apply_catalogue(repository, admin)
        admin.close()
        stack = _stack(found, directory, shopify_secrets)
        announce(f"starting {len(SIMULATORS)} simulated systems, {len(SERVICES)} services and the gateway")
        with announced(found), stack.supervisor:
            stack.supervisor.wait_healthy(_HEALTHY_WITHIN_S)
            announce(f"everything is up; the gateway's pages are at {stack.gateway_url}/docs")
            yield stack


def _stack(found: Cluster, directory: Path, shopify_secrets: tuple[str, str]) -> Stack:
    gateway_port = _preferred_port(int(os.environ.get("CROSSDOCK_GATEWAY_PORT") or 8080))
    ports = processes.free_ports(addresses.LOOPBACK, len(SIMULATORS) + len(SERVICES))
    simulators = dict(zip(SIMULATORS, ports, strict=False))
    health = dict(zip(SERVICES, ports[len(SIMULATORS) :], strict=True))
    gateway_url = f"http://{addresses.LOOPBACK}:{gateway_port}"
    urls = {name: f"http://{addresses.LOOPBACK}:{port}" for name, port in simulators.items()}
    environment = {
        **os.environ,
        "KAFKA_BOOTSTRAP_SERVERS": found.bootstrap_servers,
        "SCHEMA_REGISTRY_URL": found.registry_url,
        "CROSSDOCK_STATE_DIR": str(directory / "state"),
        **outside_of(urls, shopify_secrets),
        **DEMO_POLICIES,
    }
    children = [
        *simulators_at(simulators, gateway_url, directory, environment, shopify_secret=shopify_secrets[1]),
        *(service_at(name, port, environment) for name, port in health.items()),
        gateway_at(gateway_port, environment),
    ]
    supervisor = Supervisor(
        children,
        run_directory=addresses.local_directory() / "run",
        log_directory=directory / "logs",
        backoff=Backoff(initial_s=0.5, max_s=4.0),
    )
    return Stack(found, gateway_url, urls, supervisor)


def outside_of(urls: Mapping[str, str], shopify_secrets: tuple[str, str]) -> dict[str, str]:
    """The settings that lead services and gateway to the simulated systems, whose addresses are given by name."""
    return {
        "CROSSDOCK_GATEWAY_SHOPIFY_SECRETS": ",".join(shopify_secrets),
        "CROSSDOCK_GATEWAY_WMS_URL": urls["wms"],
        "CROSSDOCK_GATEWAY_PSP_URL": urls["psp"],
        "CROSSDOCK_GATEWAY_CHANNELS_URL": urls["channels"],
        "CROSSDOCK_ERP_POSTER_ERPS": f'{{"cloud": "{urls["erp"]}"}}',
    }


def simulators_at(
    ports: Mapping[str, int],
    gateway_url: str,
    directory: Path,
    environment: Mapping[str, str],
    *,
    shopify_secret: str,
) -> list[Child]:
    """The simulated systems, by name and port, with their books under `directory`."""
    (directory / "books").mkdir(parents=True, exist_ok=True)
    return [
        Child(
            name,
            [
                *(sys.executable, "-m", f"crossdock_simulators.{name}", "--port", str(port)),
                *("--books", str(directory / "books" / f"{name}.jsonl")),
                *(("--gateway", gateway_url) if name != "erp" else ()),
                *(("--shopify-secret", shopify_secret) if name == "channels" else ()),
            ],
            environment,
            health_url=f"http://{addresses.LOOPBACK}:{port}/livez",
        )
        for name, port in ports.items()
    ]


def service_at(
    service: str, port: int, environment: Mapping[str, str], *, name: str | None = None, ordinal: int = 0
) -> Child:
    """One instance of a service, its health on `port`."""
    own = {"CROSSDOCK_HTTP_PORT": str(port), "CROSSDOCK_ORDINAL": str(ordinal)}
    return Child(
        name or service,
        [sys.executable, "-m", f"crossdock_{service.replace('-', '_')}"],
        {**environment, **own},
        health_url=f"http://{addresses.LOOPBACK}:{port}/readyz",
    )


def gateway_at(port: int, environment: Mapping[str, str], *, name: str = "channel-gateway") -> Child:
    """One gateway on `port`."""
    return Child(
        name,
        [sys.executable, "-m", "crossdock_channel_gateway"],
        {**environment, "CROSSDOCK_GATEWAY_PORT": str(port)},
        health_url=f"http://{addresses.LOOPBACK}:{port}/readyz",
    )


#: Deadlines short enough that nothing stays open; everything else is as in production.
DEMO_POLICIES = {
    "CROSSDOCK_ORDER_ORCHESTRATOR_UNPAID_DEADLINE_S": "12",
    "CROSSDOCK_ORDER_ORCHESTRATOR_FRAUD_DEADLINE_S": "15",
    "CROSSDOCK_ORDER_ORCHESTRATOR_BACKORDER_CHANNELS": '["shopify"]',
    "CROSSDOCK_ORDER_ORCHESTRATOR_CHANNEL_REFUND_GRACE_S": "2",
    "CROSSDOCK_ERP_POSTER_BATCH_MAX": "50",
    "CROSSDOCK_ERP_POSTER_REQUESTS_PER_S": "1000",
    "CROSSDOCK_ERP_POSTER_ANSWER_TIMEOUT_S": "4",
    "CROSSDOCK_ERP_POSTER_SETTLE_S": "4",
    "CROSSDOCK_ERP_POSTER_POST_WITHIN_S": "4.5",
}


def _preferred_port(port: int) -> int:
    """The port if it is free, else another."""
    if not processes.port_is_taken(addresses.LOOPBACK, port):
        return port
    [other] = processes.free_ports(addresses.LOOPBACK, 1)
    return other
