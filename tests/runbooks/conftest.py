"""A site in memory for the commands of a runbook: six services at work, what an operator sees of them, and a terminal.

`crossdock` is the real command line, in this process, on the site's cluster. `curl` reaches the real gateway application and the
real metrics of the services. What follows a `|` is done by a shell. `kubectl` is played: its effect on a service is the site's to
carry out, and `logs` are the lines that the service wrote.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from prometheus_client import generate_latest

from crossdock_canonical.records import LocationKind, TenderState
from crossdock_channel_gateway.app import Gateway, create_app
from crossdock_channel_gateway.availability import AvailabilityTable
from crossdock_channel_gateway.intake import Intake
from crossdock_channel_gateway.metrics import Metrics
from crossdock_channel_gateway.settings import Settings as GatewaySettings
from crossdock_eventing.broker.memory import MemoryBroker
from crossdock_eventing.envelope import event_id
from crossdock_eventing.registry import MemoryRegistry, UnknownSchema
from crossdock_eventing.worker import Worker
from crossdock_local.addresses import bootstrap_servers
from crossdock_simulation.backbone import Backbone
from crossdock_simulation.planting import an_order
from crossdock_tools import auditing, documents, main, trace
from crossdock_tools.dead_letters import command as dead_letters
from crossdock_tools.dead_letters import plan_command, replay_command
from crossdock_tools.dead_letters.replays import ReplayReader
from crossdock_tools.schemas import register

_QUIET_ROUNDS = 10


class Site(Backbone):
    """The cluster that every command reaches (`crossdock_tools.cluster.Cluster`), with the services at work on it.

    logs: lines that each service wrote. kubectl: what `kubectl -n crossdock WORDS` does here, by WORDS; it returns what is printed.
    """

    bootstrap_servers = bootstrap_servers()

    def __init__(self) -> None:
        self.logs: defaultdict[str, list[str]] = defaultdict(list)
        self.kubectl: dict[str, Callable[[], str]] = {}
        self.unregistered: set[int] = set()
        self._speaking = ""
        super().__init__()
        self.listen()
        self._known = self.registry.by_id
        self.registry.by_id = self._by_id  # type: ignore[method-assign]
        self.cluster = _Reached(self.broker, self.registry)
        self.location("WH-NORTH", kind=LocationKind.WAREHOUSE)
        self.stock("LAMP-BLUE", **{"WH-NORTH": 5_000})
        self.run()

    def _by_id(self, schema_id: int) -> str:
        if schema_id in self.unregistered:
            raise UnknownSchema(f"schema id {schema_id} is not known")
        return self._known(schema_id)

    def worker(self, name: str) -> Worker:
        """A worker that says whose its log lines are."""
        made = super().worker(name)
        step = made.step

        def speaking(*, wait: bool = True) -> int:
            self._speaking = name
            try:
                return step(wait=wait)
            finally:
                self._speaking = ""

        made.step = speaking  # type: ignore[method-assign]
        return made

    def order(self, number: int, *, sku: str = "LAMP-BLUE", **fields: Any) -> None:
        """A customer pays for a lamp."""
        self.send(an_order(number, (sku, 1, 1000 + 100 * (number % 7)), state=TenderState.CAPTURED, **fields))

    def run(self, *, steps_max: int = 500) -> None:
        """As `Backbone.run`, but that a service whose breaker is open is not waited for: it is never at work again."""
        quiet = 0
        for _ in range(steps_max):
            moved = sum(worker.step(wait=False) for worker in self.workers.values()) + self.outside.step()
            self.clock.advance(0.001)
            at_work = all(worker.ready or worker._breaker.open for worker in self.workers.values())
            quiet = quiet + 1 if at_work and not moved else 0
            if quiet == _QUIET_ROUNDS:
                return
        raise AssertionError(f"still moving after {steps_max} rounds")

    def listen(self) -> None:
        """Log lines go to `logs`, as production writes them. Called again after a command that logs elsewhere."""

        def stamped(
            _logger: Any, _method: str, event: structlog.typing.EventDict
        ) -> structlog.typing.EventDict:
            event["service"] = self._speaking
            event["timestamp"] = self.clock.now().isoformat().replace("+00:00", "Z")
            return event

        structlog.configure(
            processors=[
                stamped,
                structlog.processors.add_log_level,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
            wrapper_class=structlog.BoundLogger,
            logger_factory=lambda *_: _Lines(self.logs[self._speaking]),
            cache_logger_on_first_use=False,
        )

    async def publish(self, intake: Intake, *, traceparent: bytes | None = None) -> tuple[str, ...]:
        """As the gateway's publisher does."""
        self.send(*intake.records, cause=intake.delivery)
        source = "/crossdock/channel-gateway"
        return tuple(
            event_id(causation_id=intake.delivery, source=source, record=each) for each in intake.records
        )


class _Reached:
    """The site as commands reach it."""

    bootstrap_servers = bootstrap_servers()

    def __init__(self, broker: MemoryBroker, registry: MemoryRegistry) -> None:
        self.broker = lambda: broker
        self.registry = lambda: registry


class _Lines:
    """A logger that keeps its lines."""

    def __init__(self, lines: list[str]) -> None:
        self.debug = self.info = self.warning = self.error = self.exception = lines.append


class RegistryWriter:
    """`crossdock schemas register` on the site: what nobody knew is known from then on."""

    site: Site

    def __init__(self, url: str) -> None:
        self._unregistered = self.site.unregistered

    def require_compatibility(self, subject: str, level: str) -> None: ...

    def register(self, subject: str, schema: str) -> int:
        schema_id = self.site.registry.id_of(subject, schema)
        self._unregistered.discard(schema_id)
        return schema_id


class Terminal:
    """Runs one command line and returns what it prints: standard output, after a failure standard error too."""

    def __init__(
        self, site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self._site = site
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def run(self, line: str) -> str:
        command, _, rest = line.partition(" | ")
        words = shlex.split(command)
        match words:
            case ["crossdock", *arguments]:
                said = self._crossdock(arguments)
            case ["curl", "-s", url]:
                said = self._get(url)
            case ["curl", "-s", url, "-d", body]:
                said = self._post(url, body)
            case ["kubectl", "-n", "crossdock", "logs", resource]:
                said = "".join(f"{each}\n" for each in self._site.logs[resource.removeprefix("statefulset/")])
            case ["kubectl", "-n", "crossdock", *arguments]:
                said = self._site.kubectl[" ".join(arguments)]()
            case _:
                raise AssertionError(f"this terminal does not know {command}")
        self._site.run()
        if not rest:
            return said
        return subprocess.run(
            ["bash", "-c", rest], input=said, capture_output=True, text=True, check=True
        ).stdout

    def _crossdock(self, arguments: list[str]) -> str:
        self._monkeypatch.setattr("sys.argv", ["crossdock", *arguments])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main.main()
        said = self._capsys.readouterr()
        self._site.listen()
        return said.out + (said.err if ended.value.code else "")

    def _get(self, url: str) -> str:
        service, _, path = url.removeprefix("http://").partition(":8080")
        assert path == "/metrics"
        return generate_latest(self._site.workers[service]._telemetry.registry).decode()

    def _post(self, url: str, body: str) -> str:
        gateway = Gateway(
            GatewaySettings(outbound=False), self._site, AvailabilityTable(), self._site.clock, Metrics()
        )

        async def call() -> httpx.Response:
            transport = httpx.ASGITransport(create_app(gateway))
            async with httpx.AsyncClient(transport=transport) as http:
                return await http.post(url, content=body, headers={"content-type": "application/json"})

        answer = asyncio.run(call())
        assert answer.status_code == 202, answer.text
        return json.dumps(answer.json()) + "\n"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    monkeypatch.chdir(tmp_path)
    # The policies of the site's services, for the commands that decide as they do.
    monkeypatch.setenv("CROSSDOCK_ORDER_ORCHESTRATOR_BACKORDER_CHANNELS", '["shopify"]')
    monkeypatch.setenv("CROSSDOCK_OPERATOR", "mira")
    made = Site()

    @contextmanager
    def reachable(**_: object) -> Iterator[_Reached]:
        yield made.cluster

    for module in (auditing, documents, trace, dead_letters, plan_command, replay_command):
        monkeypatch.setattr(module, "reachable_cluster", reachable)
    for module in (dead_letters, plan_command, replay_command):
        monkeypatch.setattr(module, "SystemClock", lambda: made.clock)
    monkeypatch.setattr(register, "RegistryWriter", type("_", (RegistryWriter,), {"site": made}))
    entries = ReplayReader.entries

    def after_work(reader: ReplayReader) -> Any:
        """Whoever reads the replays gives the services time to work first."""
        made.run()
        return entries(reader)

    monkeypatch.setattr(ReplayReader, "entries", after_work)
    yield made
    structlog.reset_defaults()


@pytest.fixture
def terminal(site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(site, monkeypatch, capsys)
