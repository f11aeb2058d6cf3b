"""Run one service as a program: `run(service)` is what every `__main__` calls.

Settings come from the environment (`ProcessSettings`). SIGTERM and SIGINT end the loop after the running step; the group
membership is kept, so that a restart gets its partitions back at once. Anything unforeseen exits non-zero.
"""

from __future__ import annotations

import fcntl
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Literal, NoReturn

import structlog
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings

from crossdock_eventing.broker.confluent import ConfluentBroker, native_partition_for
from crossdock_eventing.broker.failure import BrokerError
from crossdock_eventing.clock import SystemClock
from crossdock_eventing.health import HealthServer
from crossdock_eventing.keyvalue import KeyValue, RocksKeyValue
from crossdock_eventing.pace import Pace
from crossdock_eventing.registry import ConfluentRegistry, RegistryUnavailable, UnknownSchema
from crossdock_eventing.service import Service
from crossdock_eventing.telemetry import Telemetry, configure_logging, configure_tracing
from crossdock_eventing.worker import UnequalPartitions, Worker

log = structlog.get_logger(__name__)


class ProcessSettings(BaseSettings):
    """What a service process reads from its environment, whatever the service."""

    bootstrap_servers: str = Field("127.0.0.1:9092", validation_alias="KAFKA_BOOTSTRAP_SERVERS")
    registry_url: str = Field("http://127.0.0.1:8081", validation_alias="SCHEMA_REGISTRY_URL")
    state_dir: Path = Field(Path(".local/state"), validation_alias="CROSSDOCK_STATE_DIR")
    ordinal: int = Field(0, ge=0, validation_alias="CROSSDOCK_ORDINAL")
    http_host: str = Field("127.0.0.1", validation_alias="CROSSDOCK_HTTP_HOST")
    http_port: int = Field(0, ge=0, le=65535, validation_alias="CROSSDOCK_HTTP_PORT")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", validation_alias="CROSSDOCK_LOG_LEVEL"
    )
    commit_interval_ms: int = Field(20, ge=1, validation_alias="CROSSDOCK_COMMIT_INTERVAL_MS")
    journal: Literal["on", "off"] = Field("on", validation_alias="CROSSDOCK_JOURNAL")


def run(service: Service) -> NoReturn:
    """Work until a signal comes; exits 0 after one, 1 after a failure that names itself in the log.

    What an operator can put right is one line; anything else goes with its traceback.
    """
    configure_logging(service.name)
    stopping = _Stop()
    try:
        settings = ProcessSettings()
        configure_logging(service.name, settings.log_level)
        configure_tracing(service.name)
        directory = settings.state_dir / service.name / str(settings.ordinal)
        with _exclusive(directory):
            _work(service, settings, directory, stopping)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        log.error("service.failed", error="wrong setting", detail="; ".join(wrong))
        sys.exit(1)
    except (BrokerError, UnknownSchema, RegistryUnavailable, UnequalPartitions, _InUse, OSError) as error:
        log.error("service.failed", error=type(error).__name__, detail=str(error))
        sys.exit(1)
    except Exception:
        log.exception("service.crashed")
        sys.exit(1)
    log.info("service.stopped")
    sys.exit(0)


def _work(service: Service, settings: ProcessSettings, directory: Path, stopping: _Stop) -> None:
    clock = SystemClock()
    telemetry = Telemetry(service.name)
    health = HealthServer(telemetry, clock, host=settings.http_host, port=settings.http_port)
    try:

        def open_store(partition: int) -> KeyValue:
            return RocksKeyValue(directory / f"p{partition}")

        worker = Worker(
            service,
            broker=ConfluentBroker(settings.bootstrap_servers),
            registry=ConfluentRegistry(settings.registry_url),
            clock=clock,
            open_store=open_store,
            ordinal=settings.ordinal,
            pace=Pace(commit_interval_s=settings.commit_interval_ms / 1000),
            telemetry=telemetry,
            partition_of=native_partition_for,
            journal=settings.journal == "on",
        )
        log.info("service.started", http_port=health.port, ordinal=settings.ordinal)
        try:
            while not stopping.asked:
                worker.step()
        finally:
            worker.close()
    finally:
        health.close()


class _Stop:
    """Set by the first SIGTERM or SIGINT."""

    def __init__(self) -> None:
        self.asked = False
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._ask)

    def _ask(self, _signum: int, _frame: FrameType | None) -> None:
        self.asked = True


class _InUse(Exception):
    """Another process holds the state directory."""


class _exclusive:  # noqa: N801 - reads as a statement
    """Hold the state directory: two processes with one identity on a host would fence each other for ever."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._file = (self._directory / "lock").open("w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _InUse(
                f"{self._directory} is in use by another process; give this one another CROSSDOCK_ORDINAL or CROSSDOCK_STATE_DIR"
            ) from None

    def __exit__(self, *_: object) -> None:
        self._file.close()
