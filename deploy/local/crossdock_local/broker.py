"""One Apache Kafka broker in KRaft mode from plain jars, on loopback.

`crossdock up` starts it detached (`start_detached`); tests hold it as a context manager (`LocalKafka`).
Settings are for one machine: replication 1, small internal topics, short group and transaction time-outs, so
that a crashed process's partitions move within seconds.
"""

import base64
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from crossdock_local import jars, processes
from crossdock_local.addresses import LOOPBACK
from crossdock_local.errors import LocalError

READY_TIMEOUT_S = 90.0
STOP_GRACE_S = 20.0
# Above the 10 s transaction time-out of the services: a dead owner's open transaction must end before its
# partitions have a new owner, or that owner cannot read past it.
SESSION_TIMEOUT_MS = 12_000
_LOG_SETTINGS = Path(__file__).with_name("log4j2.properties")


@dataclass(frozen=True)
class ProxiedListener:
    """A further way into the broker: it listens on `port`, and tells clients that come that way to use `advertised_port`.

    A proxy stands between the two. Kafka's clients connect to whatever address the listener they asked advertises, so each
    path that is to be disturbed on its own needs a listener of its own. `name` is Kafka's: capitals, digits, underscores.
    """

    name: str
    port: int
    advertised_port: int


@dataclass(frozen=True)
class BrokerSettings:
    """Where one broker listens and keeps its files: `directory/kafka/data`, `directory/logs`."""

    directory: Path
    library: Path
    port: int
    controller_port: int
    heap_mb: int = 512
    session_timeout_ms: int = SESSION_TIMEOUT_MS
    proxied: tuple[ProxiedListener, ...] = ()
    #: Compiles less: half the CPU until it answers, and less throughput later. For a broker that is restarted often.
    quick_start: bool = False

    @property
    def bootstrap_servers(self) -> str:
        """What a client connects to."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def data(self) -> Path:
        """The log directory of the broker."""
        return self.directory / "kafka" / "data"

    @property
    def properties_file(self) -> Path:
        """The generated `server.properties`."""
        return self.directory / "kafka" / "server.properties"

    @property
    def log_file(self) -> Path:
        """The broker's own log, rolled by log4j."""
        return self.directory / "logs" / "kafka.log"

    @property
    def output_file(self) -> Path:
        """What the JVM itself prints, before and beside log4j."""
        return self.directory / "logs" / "kafka.out"


def server_properties(settings: BrokerSettings) -> dict[str, str]:
    """The broker's configuration. Source of the names: Apache Kafka 4.1's broker configuration reference."""
    controller = f"{LOOPBACK}:{settings.controller_port}"
    direct = f"PLAINTEXT://{settings.bootstrap_servers}"
    listeners = [direct, *(f"{each.name}://{LOOPBACK}:{each.port}" for each in settings.proxied)]
    advertised = [direct, *(f"{each.name}://{LOOPBACK}:{each.advertised_port}" for each in settings.proxied)]
    protocols = ["PLAINTEXT", "CONTROLLER", *(each.name for each in settings.proxied)]
    return {
        "node.id": "1",
        "process.roles": "broker,controller",
        "controller.quorum.voters": f"1@{controller}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listeners": ",".join([*listeners, f"CONTROLLER://{controller}"]),
        "advertised.listeners": ",".join(advertised),
        "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in protocols),
        "log.dirs": str(settings.data),
        # The catalogue creates topics; a misspelt name must fail, not become a topic.
        "auto.create.topics.enable": "false",
        "num.partitions": "1",
        "default.replication.factor": "1",
        "min.insync.replicas": "1",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "5",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "5",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.coordinator.rebalance.protocols": "classic,consumer",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        "group.consumer.min.session.timeout.ms": "1000",
        "group.consumer.session.timeout.ms": str(settings.session_timeout_ms),
        "group.consumer.min.heartbeat.interval.ms": "500",
        "group.consumer.heartbeat.interval.ms": "1000",
        "transaction.max.timeout.ms": "60000",
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
        "num.network.threads": "2",  # of each listener
        "num.io.threads": "4",
        "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
        "log.cleaner.backoff.ms": "5000",
    }


class LocalKafka:
    """A broker that lives as long as a `with` block: for tests.

    Ports not given are chosen among the free ones. The process dies with the one that started it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        controller_port: int | None = None,
        library: Path | None = None,
        heap_mb: int = 512,
        session_timeout_ms: int = SESSION_TIMEOUT_MS,
        proxied: tuple[ProxiedListener, ...] = (),
        quick_start: bool = False,
    ) -> None:
        free_port, free_controller_port = processes.free_ports(LOOPBACK, 2)
        self.settings = BrokerSettings(
            directory=directory,
            library=library or directory / "kafka" / "lib",
            port=port or free_port,
            controller_port=controller_port or free_controller_port,
            heap_mb=heap_mb,
            session_timeout_ms=session_timeout_ms,
            proxied=proxied,
            quick_start=quick_start,
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap_servers(self) -> str:
        """What a client connects to."""
        return self.settings.bootstrap_servers

    @property
    def pid(self) -> int:
        """The broker's process id. Only while it runs."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the broker and return when it answers. Data of an earlier start in the directory is kept."""
        self.launch()
        assert self._process is not None
        try:
            wait_until_ready(self.settings, self._process.poll)
        except BaseException:
            self.stop()
            raise

    def launch(self) -> None:
        """Start the broker and return at once: `answers(bootstrap_servers)` tells when it is there."""
        assert self._process is None
        self._process = _launch(self.settings, die_with_parent=True)

    def signal(self, number: signal.Signals) -> None:
        """Send the running broker a signal: SIGTERM to shut down in order, SIGKILL to crash, SIGSTOP to freeze."""
        assert self._process is not None
        self._process.send_signal(number)

    def ended(self) -> bool:
        """Whether the broker's process is gone; then it is forgotten, and `launch` may follow."""
        if self._process is not None and self._process.poll() is not None:
            self._process = None
        return self._process is None

    def stop(self, *, grace_s: float = STOP_GRACE_S) -> None:
        """End the broker; with `grace_s=0` as a crash does."""
        if self._process is not None:
            processes.stop_children([self._process], grace_s=grace_s)
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start_detached(settings: BrokerSettings, announce: Callable[[str], None]) -> subprocess.Popen[bytes]:
    """Start a broker that outlives this process, and return without waiting for it to be ready.

    Raises LocalError when Java or Maven is missing or the storage cannot be formatted.
    """
    jars.ensure_jars(settings.library, announce)
    return _launch(settings, die_with_parent=False)


def wait_until_ready(settings: BrokerSettings, exit_code: Callable[[], int | None]) -> None:
    """Return once the broker answers a metadata request.

    `exit_code` tells whether the process has ended. Raises LocalError when it has, or after 90 seconds.
    """
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        code = exit_code()
        if code is not None:
            raise LocalError(f"Kafka ended with code {code} while starting: {_last_words(settings)}")
        if answers(settings.bootstrap_servers, timeout_s=1.0):
            return
        time.sleep(0.1)
    raise LocalError(f"Kafka did not answer within {READY_TIMEOUT_S:.0f} s: see {settings.log_file}")


def answers(bootstrap: str, *, timeout_s: float) -> bool:
    """Whether a cluster answers a metadata request at `bootstrap`."""
    try:
        # Without an error callback librdkafka prints each refused connection.
        quiet: dict[str, Any] = {"bootstrap.servers": bootstrap, "log_level": 0, "error_cb": lambda _: None}
        admin = AdminClient(quiet)
        return bool(admin.list_topics(timeout=timeout_s).brokers)
    except KafkaException:
        return False


def _launch(settings: BrokerSettings, *, die_with_parent: bool) -> subprocess.Popen[bytes]:
    java = jars.find_java()
    jars.ensure_jars(settings.library)
    settings.data.mkdir(parents=True, exist_ok=True)
    settings.log_file.parent.mkdir(parents=True, exist_ok=True)
    lines = (f"{name}={value}\n" for name, value in server_properties(settings).items())
    settings.properties_file.write_text("".join(lines), encoding="utf-8")
    if not (settings.data / "meta.properties").is_file():
        _format_storage(java, settings)
    return processes.spawn(
        _command(java, settings, "kafka.Kafka", str(settings.properties_file)),
        log_file=settings.output_file,
        environment=_environment(),
        die_with_parent=die_with_parent,
    )


def _format_storage(java: str, settings: BrokerSettings) -> None:
    arguments = ("format", "--cluster-id", _new_cluster_id(), "--config", str(settings.properties_file))
    answer = subprocess.run(  # noqa: S603
        _command(java, settings, "kafka.tools.StorageTool", *arguments),
        capture_output=True,
        text=True,
        check=False,
        env=_environment(),
    )
    if answer.returncode != 0:
        reason = (answer.stderr or answer.stdout).strip().splitlines()[-1:] or ["no reason given"]
        raise LocalError(f"Kafka's storage under {settings.data} could not be formatted: {reason[0]}")


def _command(java: str, settings: BrokerSettings, main: str, *arguments: str) -> list[str]:
    return [
        java,
        f"-Xms{min(256, settings.heap_mb)}m",
        f"-Xmx{settings.heap_mb}m",
        "-XX:+UseG1GC",
        "-XX:MaxGCPauseMillis=20",
        *(("-XX:TieredStopAtLevel=1",) if settings.quick_start else ()),
        "-XX:+ExitOnOutOfMemoryError",
        "-Djava.awt.headless=true",
        f"-Dlog4j2.configurationFile={_LOG_SETTINGS}",
        f"-Dcrossdock.kafka.log={settings.log_file}",
        *("-cp", str(settings.library / "*")),
        main,
        *arguments,
    ]


def _environment() -> dict[str, str]:
    # The launchers' variables of another Kafka installation must not reach this broker.
    return {name: value for name, value in os.environ.items() if not name.startswith(("KAFKA_", "LOG4J_"))}


def _new_cluster_id() -> str:
    """A Kafka Uuid: 16 random bytes, base64url without padding; a leading dash would read as an option."""
    while True:
        text = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
        if not text.startswith("-"):
            return text


def _last_words(settings: BrokerSettings) -> str:
    for file in (settings.log_file, settings.output_file):
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
        telling = [line for line in lines if "ERROR" in line or "Exception" in line]
        if telling:
            return f"{telling[-1].strip()[:300]} (see {file})"
    return f"see {settings.log_file}"
