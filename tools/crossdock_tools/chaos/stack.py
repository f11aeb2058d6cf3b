"""Every process of a chaos run, each service twice, each instance behind a network path of its own that can be disturbed.

`run` holds it; `faults` does it harm. The supervisor, the registry, the simulated systems and the auditor's own connections take
the direct way to the broker.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from crossdock_local import addresses, jars, processes, toxiproxy
from crossdock_local.broker import LocalKafka, ProxiedListener
from crossdock_local.errors import LocalError
from crossdock_local.supervisor import Backoff, Supervisor
from crossdock_tools.chaos.schedule import Targets
from crossdock_tools.cluster import Cluster, with_registry
from crossdock_tools.demo.stack import (
    DEMO_POLICIES,
    SERVICES,
    SIMULATORS,
    gateway_at,
    only_one,
    outside_of,
    service_at,
    simulators_at,
)
from crossdock_tools.schemas.contracts import Repository
from crossdock_tools.schemas.register import register_all
from crossdock_tools.topics import apply_catalogue

#: How long the broker waits for an instance that has died. Short, so that zombies are many and a killed instance is soon back.
SESSION_S = 6.0
INSTANCES = 2
_HEALTHY_WITHIN_S = 120.0

#: As in the demo, but nobody outside is waited for longer than a fault lasts.
POLICIES = {
    **DEMO_POLICIES,
    "CROSSDOCK_ERP_POSTER_ANSWER_TIMEOUT_S": "3",
    # Covers the slowest answer of the schedule, on a busy machine.
    "CROSSDOCK_ERP_POSTER_SETTLE_S": "8",
    # Less than the session, by a heartbeat.
    "CROSSDOCK_ERP_POSTER_POST_WITHIN_S": "4.5",
    "CROSSDOCK_ERP_POSTER_BACK_OFF_MAX_S": "8",
    "CROSSDOCK_GATEWAY_CALL_TIMEOUT_S": "3",
    "CROSSDOCK_GATEWAY_BACKOFF_MAX_S": "5",
}


@dataclass(frozen=True)
class Stack:
    """The running processes.

    `cluster` is the direct way to broker and registry. `routes` are the names of the proxied paths: those of the instances and
    gateways. `state` is where the instances keep their stores.
    """

    cluster: Cluster
    kafka: LocalKafka
    proxy: toxiproxy.Toxiproxy
    supervisor: Supervisor
    targets: Targets
    gateway_urls: tuple[str, ...]
    simulator_urls: dict[str, str]
    directory: Path

    def store(self, instance: str) -> Path:
        """Where an instance keeps its local stores."""
        service, _, ordinal = instance.rpartition("-")
        return self.directory / "state" / service / ordinal


def chaos_directory() -> Path:
    """Where a run keeps its broker's data, stores, books, logs and report."""
    return addresses.local_directory() / "chaos"


def keep_evidence(directory: Path) -> None:
    """Move what a failed run left out of the way of the next one, to `chaos-failed-<seed>` beside it."""
    report = directory / "report.json"
    try:
        found = json.loads(report.read_text())
    except (FileNotFoundError, ValueError):
        return
    if found["ok"]:
        return
    kept = directory.parent / f"chaos-failed-{found['seed']}"
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir()
    for part in directory.iterdir():
        if part.name != "lock":
            part.rename(kept / part.name)


def clear(directory: Path) -> None:
    """Delete what a run left, but for its report and logs."""
    for part in ("kafka", "state", "books"):
        shutil.rmtree(directory / part, ignore_errors=True)


@contextmanager
def running(
    repository: Repository, announce: Callable[[str], None], *, shopify_secrets: tuple[str, str]
) -> Iterator[Stack]:
    """The whole stack, healthy, on empty data; nothing is left running when the block ends.

    Raises LocalError when Java, Maven or Go is missing, when another run has the directory, or naming the process that does not
    get healthy, and its log.
    """
    if addresses.kafka_is_external():
        raise LocalError(
            f"chaos kills its broker, so it starts one of its own: unset {addresses.BOOTSTRAP_VARIABLE}"
        )
    local, directory = addresses.local_directory(), chaos_directory()
    server = toxiproxy.ensure_server(local / "bin", announce)
    library = local / "kafka" / "lib"
    jars.find_java()
    jars.ensure_jars(library, announce)
    with only_one(directory, "chaos run"), ExitStack() as alive:
        clear(directory)
        shutil.rmtree(directory / "logs", ignore_errors=True)
        (directory / "report.json").unlink(missing_ok=True)
        services = {
            service: tuple(f"{service}-{ordinal}" for ordinal in range(INSTANCES)) for service in SERVICES
        }
        gateways = tuple(f"channel-gateway-{ordinal}" for ordinal in range(INSTANCES))
        targets = Targets(services, gateways, SESSION_S)
        clients = (*targets.instances, *gateways)
        ports = iter(
            processes.steady_ports(addresses.LOOPBACK, 3 + 2 * len(clients) + len(clients) + len(SIMULATORS))
        )
        listeners = {
            name: ProxiedListener(
                name.upper().replace("-", "_"), port=next(ports), advertised_port=next(ports)
            )
            for name in clients
        }
        kafka = LocalKafka(
            directory / "kafka",
            port=next(ports),
            controller_port=next(ports),
            library=library,
            session_timeout_ms=int(SESSION_S * 1000),
            proxied=tuple(listeners.values()),
            quick_start=True,
        )
        routes = tuple(
            toxiproxy.Route(name, port=each.advertised_port, upstream_port=each.port)
            for name, each in listeners.items()
        )
        announce(f"starting Kafka with {len(routes)} proxied paths, and the schema registry")
        alive.enter_context(kafka)
        found = alive.enter_context(with_registry(kafka.bootstrap_servers, directory))
        proxy = toxiproxy.Toxiproxy(
            server, routes, port=next(ports), log_file=directory / "logs" / "toxiproxy.log"
        )
        alive.enter_context(proxy)
        register_all(repository, found.registry_url)
        admin = found.broker().admin()
        apply_catalogue(repository, admin)
        admin.close()

        simulators = {name: next(ports) for name in SIMULATORS}
        own_ports = {name: next(ports) for name in clients}
        urls = {name: f"http://{addresses.LOOPBACK}:{port}" for name, port in simulators.items()}
        gateway_urls = tuple(f"http://{addresses.LOOPBACK}:{own_ports[name]}" for name in gateways)
        common = {
            **os.environ,
            "SCHEMA_REGISTRY_URL": found.registry_url,
            "CROSSDOCK_STATE_DIR": str(directory / "state"),
            **outside_of(urls, shopify_secrets),
            **POLICIES,
        }
        environment = {
            name: {
                **common,
                "KAFKA_BOOTSTRAP_SERVERS": f"{addresses.LOOPBACK}:{listeners[name].advertised_port}",
            }
            for name in clients
        }
        children = [
            *simulators_at(simulators, gateway_urls[0], directory, common, shopify_secret=shopify_secrets[1]),
            *(
                service_at(service, own_ports[name], environment[name], name=name, ordinal=ordinal)
                for service, instances in services.items()
                for ordinal, name in enumerate(instances)
            ),
            *(
                gateway_at(
                    own_ports[name], {**environment[name], "CROSSDOCK_ORDINAL": str(ordinal)}, name=name
                )
                for ordinal, name in enumerate(gateways)
            ),
        ]
        supervisor = Supervisor(
            children,
            run_directory=directory / "run",
            log_directory=directory / "logs",
            backoff=Backoff(initial_s=0.5, max_s=2.0, stable_s=10.0),
        )
        announce(f"starting {len(children)} processes: every service and the gateway twice")
        with supervisor:
            supervisor.wait_healthy(_HEALTHY_WITHIN_S)
            yield Stack(found, kafka, proxy, supervisor, targets, gateway_urls, urls, directory)
