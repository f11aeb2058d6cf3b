"""A cluster in memory with the catalogue's topics, and the command line on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from crossdock_canonical.records import BY_NAME
from crossdock_canonical.specification import T0
from crossdock_eventing.broker.interface import Headers
from crossdock_eventing.broker.memory import MemoryBroker
from crossdock_eventing.clock import ManualClock, to_micros
from crossdock_eventing.codec import Codec
from crossdock_eventing.envelope import Meta, headers, record_key
from crossdock_eventing.registry import MemoryRegistry
from crossdock_tools import dead_letters, main, trace
from crossdock_tools.schemas.contracts import Repository
from crossdock_tools.topics import apply_catalogue

REPOSITORY = Repository(Path(__file__).parents[2] / "schemas")


class MemoryCluster:
    """`crossdock_tools.cluster.Cluster`, in memory."""

    def __init__(self) -> None:
        self.clock = ManualClock(T0)
        self._broker = MemoryBroker(lambda: to_micros(self.clock.now()) // 1000)
        self._registry = MemoryRegistry()
        apply_catalogue(REPOSITORY, self._broker.admin())
        self.codec = Codec(
            self._registry, written=[(kind, kind.TOPIC) for kind in BY_NAME.values()], read=BY_NAME.values()
        )
        self._producers = 0

    def broker(self) -> MemoryBroker:
        return self._broker

    def registry(self) -> MemoryRegistry:
        return self._registry

    def put(
        self,
        topic: str,
        *,
        key: bytes | None = b"k",
        value: bytes | None,
        headers: Headers = (),
        partition: int | None = None,
        after_s: float = 0.0,
    ) -> None:
        """One committed record, stamped `after_s` after the beginning."""
        self._producers += 1
        producer = self._broker.producer(f"test-{self._producers}")
        producer.init_transactions()
        producer.begin()
        producer.produce(
            topic,
            key=key,
            value=value,
            headers=headers,
            partition=partition,
            timestamp_ms=to_micros(T0 + timedelta(seconds=after_s)) // 1000,
        )
        producer.commit()

    def publish(self, record: Any, meta: Meta) -> None:
        """A record as a service writes it."""
        self.put(
            record.TOPIC,
            key=record_key(record).encode(),
            value=self.codec.encode(record, meta),
            headers=headers(meta, record.SCHEMA, None),
        )


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    exit_code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def cluster() -> MemoryCluster:
    return MemoryCluster()


@pytest.fixture
def crossdock(
    cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Run `crossdock ...` against the cluster in memory."""

    @contextmanager
    def reachable(**_: object) -> Iterator[MemoryCluster]:
        yield cluster

    for module in (dead_letters, trace):
        monkeypatch.setattr(module, "reachable_cluster", reachable)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr("sys.argv", ["crossdock", *arguments])
        with pytest.raises(SystemExit) as ended:
            main.main()
        said = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), said.out, said.err)

    return run
