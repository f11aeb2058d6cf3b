"""What the simulated systems share: books that survive a kill, events that are posted until taken, faults by count.

Nothing here is random: a fault happens to the next so-many requests, a delay is the one that was set.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

Json = dict[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_RETRY_FIRST_S = 0.1
_RETRY_MAX_S = 2.0


def now_text() -> str:
    """Current time as the gateway reads it."""
    return datetime.now(UTC).isoformat()  # noqa: TID251 - a simulated system has a clock of its own


class Journal:
    """Facts in order; with a path they are appended to a file, one JSON object a line, and read back at start."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._file = None if path is None else path.open("a", buffering=1)
        if self._file is not None:
            self._file.write("\n")  # Ends a line that a kill cut off; an empty line is no fact.

    def past(self) -> Iterator[Json]:
        """Facts of earlier runs. A last line that a kill cut off is no fact."""
        if self._path is None:
            return
        for line in self._path.read_text().splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue

    def append(self, fact: Json) -> None:
        if self._file is not None:
            self._file.write(json.dumps(fact, separators=(",", ":")) + "\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class Faults:
    """What goes wrong next. A number is how many more times; a mapping has its own numbers; `slow_s` and `outage` last."""

    def __init__(self, known: frozenset[str]) -> None:
        self._known = known | {"outage", "slow_s", "lose_answer"}
        self._set: Json = {}

    def update(self, given: Json) -> Json:
        """Set the given faults and return all. Raises ValueError for a fault that does not exist."""
        unknown = set(given) - self._known
        if unknown:
            raise ValueError(
                f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(sorted(self._known))}"
            )
        self._set.update(given)
        return self._set

    def take(self, name: str, of: str | None = None) -> bool:
        """Whether the fault happens now; uses it up once."""
        return self.take_units(name, of, most=1) == 1

    def take_units(self, name: str, of: str | None, *, most: int) -> int:
        """Use up to `most` of a fault's number, and say how many."""
        holder, key = (self._set, name) if of is None else (self._set.get(name, {}), of)
        left = int(holder.get(key, 0))
        used = max(0, min(left, most))
        if used:
            holder[key] = left - used
        return used

    def __getitem__(self, name: str) -> Any:
        return self._set.get(name)


def event_of(key: str, identity: str, path: str, body: Json, headers: Json | None = None) -> Json:
    """An event for `Outbox.record`: posted in its key's order; `identity` names it in the journal."""
    return {"id": identity, "key": key, "path": path, "body": body, "headers": headers or {}}


class Outbox:
    """Posts events to the gateway until it takes them: in order for one key, whatever happens to other keys."""

    def __init__(self, gateway: str, journal: Journal) -> None:
        self._gateway = gateway.rstrip("/")
        self._journal = journal
        self._session: aiohttp.ClientSession | None = None
        self._last: dict[str, asyncio.Task[None]] = {}
        self._unposted: dict[str, Json] = {}
        self.posted = 0
        self.refused: list[Json] = []

    def remember(self, fact: Json) -> None:
        """A fact of an earlier run: what was not posted then is posted now, once started."""
        event = fact.get("event")
        if event is not None:
            self._unposted[event["id"]] = event
        if fact.get("fact") == "posted":
            self._unposted.pop(fact["id"], None)
            self.posted += 1

    async def running(self, _app: web.Application) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
            self._session = session
            for event in list(self._unposted.values()):
                self._start(event)
            self._unposted.clear()
            yield
            for task in self._last.values():
                task.cancel()
            await asyncio.gather(*self._last.values(), return_exceptions=True)

    def record(self, fact: Json, event: Json | None = None) -> None:
        """Write a fact with the event that reports it, as one line: a kill leaves both or neither. Then post the event."""
        self._journal.append(fact if event is None else fact | {"event": event})
        if event is not None:
            self._start(event)

    @property
    def waiting(self) -> int:
        return len(self._last)

    def _start(self, event: Json) -> None:
        key = event["key"]
        task = asyncio.create_task(self._deliver(event, self._last.get(key)))
        self._last[key] = task
        task.add_done_callback(lambda done: self._forget(key, done))

    def _forget(self, key: str, task: asyncio.Task[None]) -> None:
        if self._last.get(key) is task:
            del self._last[key]

    async def _deliver(self, event: Json, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        wait_s = _RETRY_FIRST_S
        while not await self._attempt(event):
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, _RETRY_MAX_S)

    async def _attempt(self, event: Json) -> bool:
        """One try; True when the gateway took the event, or will never take it."""
        assert self._session is not None
        raw = json.dumps(event["body"]).encode()
        headers = {"Content-Type": "application/json", **event["headers"]}
        try:
            async with self._session.post(
                self._gateway + event["path"], data=raw, headers=headers
            ) as response:
                if response.status in (202, 400, 401, 404, 405, 413, 422):
                    if response.status != 202:
                        self.refused.append(
                            {"id": event["id"], "status": response.status, "answer": await response.text()}
                        )
                    self._journal.append({"fact": "posted", "id": event["id"]})
                    self.posted += 1
                    return True
        except (aiohttp.ClientError, TimeoutError):
            return False
        return False


def faulty(faults: Faults) -> Any:
    """Middleware: outage, slowness and lost answers, for the system's own requests only."""

    @web.middleware
    async def apply(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in ("/livez", "/books", "/ledger", "/faults"):
            return await handler(request)
        if faults["outage"]:
            return web.json_response({"detail": "outage"}, status=503)
        if faults["slow_s"]:
            await asyncio.sleep(float(faults["slow_s"]))
        response = await handler(request)
        if request.method != "GET" and faults.take("lose_answer") and request.transport is not None:
            request.transport.close()  # The work is done; the caller never learns of it.
        return response

    return apply


def add_desk(
    app: web.Application, faults: Faults, books: Callable[[], Json], ledger: Callable[[], Json]
) -> None:
    """The routes that every simulated system has: `/livez`, `/books` (sums), `/ledger` (every entry), `/faults`."""

    async def livez(_request: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def show_books(_request: web.Request) -> web.Response:
        return web.json_response(books())

    async def show_ledger(_request: web.Request) -> web.Response:
        return web.json_response(ledger())

    async def set_faults(request: web.Request) -> web.Response:
        try:
            given = await request.json()
            return web.json_response(faults.update(given))
        except ValueError as error:
            return web.json_response({"detail": str(error)}, status=422)

    app.add_routes(
        [
            web.get("/livez", livez),
            web.get("/books", show_books),
            web.get("/ledger", show_ledger),
            web.post("/faults", set_faults),
        ]
    )


async def json_object(request: web.Request) -> Json:
    """The request's JSON object. Raises HTTPBadRequest."""
    try:
        found = await request.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise web.HTTPBadRequest(text=json.dumps({"detail": "the body is no JSON object"}))
    return found


def parser(description: str, port: int) -> argparse.ArgumentParser:
    """The options that every simulated system has."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--host", default="127.0.0.1")
    made.add_argument("--port", type=int, default=port)
    made.add_argument("--gateway", default="http://127.0.0.1:8080", help="where events are posted")
    made.add_argument("--books", type=Path, default=None, help="file that keeps the books over a restart")
    return made


def serve(app: web.Application, options: argparse.Namespace) -> None:
    """Serve until a signal comes."""
    web.run_app(app, host=options.host, port=options.port, access_log=None, print=None)
