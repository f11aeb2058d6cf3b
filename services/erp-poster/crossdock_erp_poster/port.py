"""The way out to the ERPs, in the start/collect form that the shell asks for
(`crossdock_eventing.service.Port`).

The shell's loop calls it; the HTTP work runs in one background thread with its own event loop, started by the
first call. What is sent when, and what an answer means, is decided in `lanes.py`; here are thread, loop and HTTP.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import aiohttp

from crossdock_erp_poster.erp_api import ErpApi
from crossdock_erp_poster.lanes import Lanes, LookUp, Posting
from crossdock_erp_poster.model import PostDocument
from crossdock_eventing.service import Answer, Call

if TYPE_CHECKING:
    from crossdock_erp_poster.settings import Settings

_CLOSE_TIMEOUT_S = 5.0


class ErpPort:
    """The port of one instance: one caller, one background thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()  # guards everything that both threads touch
        self._lanes = Lanes(settings)
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._news = asyncio.Event()  # touched in the background loop only
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_s = math.inf
        self._told = False  # the background has been told of news and has not looked yet
        self._closing = False

    def start(self, state_key: str, call: Call, *, fresh: bool) -> None:
        """Begin the call unless it is on its way already. Raises ValueError for an ERP without an address."""
        assert isinstance(call, PostDocument)
        with self._lock:
            self._raise_failure()
            self._lanes.start(state_key, call, fresh=fresh, now_s=time.monotonic())
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._run, args=(self._loop,), name="erp-port", daemon=True
                )
                self._thread.start()
            if not self._told:
                self._told = True
                self._loop.call_soon_threadsafe(self._news.set)

    def collect(self) -> list[Answer]:
        """Take the answers. Raises the unforeseen error that stopped the background work, if any."""
        with self._lock:
            self._raise_failure()
            return self._lanes.collect(time.monotonic())

    def forget(self, state_keys: frozenset[str]) -> None:
        """Drop their calls and answers. What was sent may still be booked: the next owner looks it up."""
        with self._lock:
            self._lanes.forget(state_keys)

    def close(self) -> None:
        """Stop the background thread; calls in flight are abandoned. May be called again."""
        with self._lock:
            loop = None if self._closing or self._failure is not None else self._loop
            self._closing = True
            if loop is not None:
                loop.call_soon_threadsafe(self._news.set)
        if self._thread is not None:
            self._thread.join(_CLOSE_TIMEOUT_S)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise RuntimeError("the ERP port stopped") from self._failure

    # --- The background thread ---

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._serve())
        except BaseException as error:  # noqa: BLE001  the shell must crash on it, not this thread
            with self._lock:
                self._failure = error
        finally:
            loop.close()

    async def _serve(self) -> None:
        """Send what the lanes let leave, until closed or something breaks."""
        settings = self._settings
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=settings.answer_timeout_s),
            ) as session,
            asyncio.TaskGroup() as tasks,
        ):
            apis = {erp: ErpApi(session, address) for erp, address in settings.erps.items()}
            serving = asyncio.current_task()
            while not self._closing:
                for request in self._leave():
                    tasks.create_task(self._carry(request, apis, tasks))
                await self._news.wait()
                self._news.clear()
            for task in asyncio.all_tasks() - {serving}:
                task.cancel()

    def _leave(self, ended: Callable[[float], None] | None = None) -> list[LookUp | Posting]:
        """Say how a request ended; then what leaves now. News come when it is time for more."""
        with self._lock:
            self._told = False
            now_s = time.monotonic()
            if ended is not None:
                ended(now_s)
            requests = self._lanes.leave(now_s)
            due_s = self._lanes.due_s()
        if due_s != self._alarm_s:
            if self._alarm is not None:
                self._alarm.cancel()
            loop = asyncio.get_running_loop()
            self._alarm = None if due_s == math.inf else loop.call_at(due_s, self._ring)
            self._alarm_s = due_s
        return requests

    def _ring(self) -> None:
        self._alarm, self._alarm_s = None, math.inf  # it may have rung a little early, and is then set again
        self._news.set()

    async def _carry(
        self, request: LookUp | Posting, apis: Mapping[str, ErpApi], tasks: asyncio.TaskGroup
    ) -> None:
        """Send the request, hand back what it brought, and go on with what may leave because it has ended."""
        while True:
            match request:
                case LookUp(erp=erp, job=job):
                    found = await apis[erp].find(job.reference)
                    requests = self._leave(partial(self._lanes.looked_up, request, found))
                case Posting(erp=erp, jobs=jobs):
                    results = await apis[erp].post([job.call for job in jobs])
                    requests = self._leave(partial(self._lanes.posted, request, results))
            if not requests:
                return
            request, *others = requests
            for other in others:
                tasks.create_task(self._carry(other, apis, tasks))
