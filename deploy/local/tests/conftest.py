"""A registry on an in-memory log, spoken to over its REST API: no broker, no network, milliseconds."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from crossdock_local.registry.http import build_app
from crossdock_local.registry.log import FencedError, LogUnavailableError
from crossdock_local.registry.records import Record
from crossdock_local.registry.service import Registry


class MemoryTopic:
    """What is committed, who may write, and the failures a test asks for."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.owner: object = None
        self.fail_next: str | None = None

    def compacted(self) -> "MemoryTopic":
        """The topic after compaction: the last record of each key, tombstones gone, order kept."""
        last = {record.key: place for place, record in enumerate(self.records)}
        kept = MemoryTopic()
        kept.records = [
            record
            for place, record in enumerate(self.records)
            if last[record.key] == place and record.value is not None
        ]
        return kept


class MemoryLog:
    """The SchemaLog contract on a MemoryTopic."""

    def __init__(self, topic: MemoryTopic) -> None:
        self.topic = topic
        self.read = 0
        self.claims = 0

    def read_to_end(self) -> list[Record]:
        return self.read_available()

    def read_available(self) -> list[Record]:
        found = self.topic.records[self.read :]
        self.read = len(self.topic.records)
        return found

    def claim(self) -> None:
        self.topic.owner = self
        self.claims += 1

    def append(self, records: Sequence[Record]) -> list[Record]:
        failure, self.topic.fail_next = self.topic.fail_next, None
        if failure == "broker timed the transaction out" or self.topic.owner is not self:
            raise FencedError(failure or "another producer has the id")
        if failure == "lost before":
            raise LogUnavailableError(failure)
        self.topic.records += records
        if failure == "lost after":
            raise LogUnavailableError(failure)
        return self.read_available()

    def close(self) -> None:
        pass


class RegistryClient:
    """REST calls that return (status, body), on an event loop of its own that runs only during a call."""

    def __init__(self, app: Starlette, registry: Registry, topic: MemoryTopic) -> None:
        self.registry = registry
        self.topic = topic
        self._loop = asyncio.Runner()
        self._http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://registry")
        self._lifespan = app.router.lifespan_context(app)
        self._loop.run(self._lifespan.__aenter__())

    def close(self) -> None:
        self._loop.run(self._lifespan.__aexit__(None, None, None))
        self._loop.run(self._http.aclose())
        self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run(coroutine)

    def call(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, Any]:
        more = more or {"json": body}
        answer = self._loop.run(self._http.request(method, path, **more))
        assert answer.headers["content-type"] == "application/vnd.schemaregistry.v1+json"
        return answer.status_code, answer.json()

    def get(self, path: str) -> tuple[int, Any]:
        return self.call("GET", path)

    def ok(self, method: str, path: str, body: Any = None) -> Any:
        status, answer = self.call(method, path, body)
        assert status == 200, answer
        return answer

    def code(self, method: str, path: str, body: Any = None, **more: Any) -> int:
        """The error code of a call that must be refused."""
        status, answer = self.call(method, path, body, **more)
        assert status == (answer["error_code"] // 100 if answer["error_code"] > 999 else answer["error_code"])
        assert answer["message"]
        return answer["error_code"]

    def register(self, subject: str, schema: Any, **more: Any) -> int:
        text = schema if isinstance(schema, str) else json.dumps(schema)
        return self.ok("POST", f"/subjects/{subject}/versions", {"schema": text, **more})["id"]


RegistryFactory = Callable[..., RegistryClient]


@pytest.fixture
def start_registry() -> Iterator[RegistryFactory]:
    """Start registries over one topic or several; all end with the test."""
    clients: list[RegistryClient] = []

    def start(topic: MemoryTopic | None = None, *, name: str = "a") -> RegistryClient:
        topic = MemoryTopic() if topic is None else topic
        registry = Registry(MemoryLog(topic), name=name)
        clients.append(RegistryClient(build_app(registry), registry, topic))
        return clients[-1]

    yield start
    for client in clients:
        client.close()


@pytest.fixture
def registry(start_registry: RegistryFactory) -> RegistryClient:
    return start_registry()
