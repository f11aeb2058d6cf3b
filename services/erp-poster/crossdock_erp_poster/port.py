"""The way out to the ERPs, in the start/collect form that the shell asks for
(`crossdock_eventing.service.Port`).

The shell's loop calls it; the HTTP work runs in one background thread with its own event loop, started by the
first call.

Posting once rests on three rules. A document whose earlier posting may have arrived is looked up by its
reference before it is posted. After a lost answer it is looked up at once, and if it is not there (yet) the
core is told so and waits until the ERP cannot be working on it any more. After a restart (`fresh` False) the
port itself waits that long between two look-ups, since it does not know when the earlier process sent it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

from crossdock_erp_poster.erp_api import ErpApi, NotFound, Throttled
from crossdock_erp_poster.model import (
    ErpAnswered,
    Outcome,
    PostDocument,
    Posted,
    Unavailable,
    UnknownOutcome,
)
from crossdock_eventing.service import Answer, Call

if TYPE_CHECKING:
    from crossdock_erp_poster.settings import Settings

_CLOSE_TIMEOUT_S = 5.0
_LOOK_UPS_AFTER_RESTART = 2


@dataclass(eq=False, slots=True)
class _Job:
    """One call. Compared by identity: the same call may be started again after its key went and came back.

    look_ups: how many more must find nothing before the document may be posted.
    """

    state_key: str
    call: PostDocument
    look_ups: int


class ErpPort:
    """The port of one instance: one caller, one background thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()  # guards everything that both threads touch
        self._started: deque[_Job] = deque()
        self._answers: deque[Answer] = deque()
        self._outstanding: dict[str, _Job] = {}
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._news = asyncio.Event()  # touched in the background loop only
        self._closing = False

    def start(self, state_key: str, call: Call, *, fresh: bool) -> None:
        """Begin the call unless it is on its way already. Raises ValueError for an ERP without an address."""
        assert isinstance(call, PostDocument)
        if call.erp not in self._settings.erps:
            raise ValueError(f"{state_key} belongs to ERP {call.erp!r}, whose address the settings lack")
        with self._lock:
            self._raise_failure()
            known = self._outstanding.get(state_key)
            if known is not None and known.call.call_id == call.call_id:
                return
            job = _Job(state_key, call, look_ups=int(call.attempt > 1) if fresh else _LOOK_UPS_AFTER_RESTART)
            self._outstanding[state_key] = job
            self._started.append(job)
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._run, args=(self._loop,), name="erp-port", daemon=True
                )
                self._thread.start()
            if len(self._started) == 1:  # otherwise the background has been told and has not looked yet
                self._loop.call_soon_threadsafe(self._news.set)

    def collect(self) -> list[Answer]:
        """Take the answers. Raises the unforeseen error that stopped the background work, if any."""
        with self._lock:
            self._raise_failure()
            answers = list(self._answers)
            self._answers.clear()
        return answers

    def forget(self, state_keys: frozenset[str]) -> None:
        """Drop their calls and answers. What was sent may still be booked: the next owner looks it up."""
        with self._lock:
            for state_key in state_keys:
                self._outstanding.pop(state_key, None)
            self._answers = deque(answer for answer in self._answers if answer.state_key not in state_keys)

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
        """Hand what was started to its ERP's lane, until closed or a lane breaks."""
        settings = self._settings
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=settings.answer_timeout_s),
            ) as session,
            asyncio.TaskGroup() as tasks,
        ):
            lanes = {
                erp: _Lane(self, ErpApi(session, address), settings) for erp, address in settings.erps.items()
            }
            workers = [
                tasks.create_task(lane.work())
                for lane in lanes.values()
                for _ in range(settings.requests_in_flight)
            ]
            while not self._closing:
                await self._news.wait()
                self._news.clear()
                with self._lock:
                    jobs = list(self._started)
                    self._started.clear()
                for job in jobs:
                    lanes[job.call.erp].queue.put_nowait(job)
            for worker in workers:
                worker.cancel()

    def wants(self, job: _Job) -> bool:
        """False when the job's key has moved away or asks for another call by now."""
        with self._lock:
            return self._outstanding.get(job.state_key) is job

    def answer(self, job: _Job, outcome: Outcome) -> None:
        """Keep the answer for the shell, unless nobody waits for it any more."""
        call_id = job.call.call_id
        with self._lock:
            if self._outstanding.get(job.state_key) is job:
                del self._outstanding[job.state_key]
                self._answers.append(Answer(job.state_key, call_id, ErpAnswered(call_id, outcome)))


class _Lane:
    """The traffic with one ERP: its queue, its pace, its pauses."""

    def __init__(self, port: ErpPort, api: ErpApi, settings: Settings) -> None:
        self.queue: asyncio.Queue[_Job] = asyncio.Queue()
        self._port = port
        self._api = api
        self._settings = settings
        self._next_slot_s = 0.0  # loop time before which no request may leave

    async def work(self) -> None:
        """Take jobs for ever. Several tasks run it: their number is the limit on requests in flight."""
        while True:
            job = await self.queue.get()
            if job.look_ups:
                await self._look_up(job)
            else:
                await self._post(self._with_more(job))

    def _with_more(self, job: _Job) -> list[_Job]:
        """A batch: the job and what else is queued and needs no look-up first."""
        jobs = [job]
        for _ in range(self.queue.qsize()):
            if len(jobs) == self._settings.batch_max:
                break
            other = self.queue.get_nowait()
            if other.look_ups:
                self.queue.put_nowait(other)
            else:
                jobs.append(other)
        return jobs

    async def _look_up(self, job: _Job) -> None:
        await self._slot()
        if not self._port.wants(job):
            return
        match await self._api.find(job.call.reference):
            case Posted() as found:
                self._port.answer(job, found)
            case NotFound():
                job.look_ups -= 1
                delay_s = self._settings.settle_s if job.look_ups else 0
                asyncio.get_running_loop().call_later(delay_s, self.queue.put_nowait, job)
            case Throttled() as throttled:
                self._throttled(job, throttled)
            case Unavailable() as unavailable if job.look_ups == _LOOK_UPS_AFTER_RESTART:
                # Nobody knows yet when it was sent: the core must wait before the next attempt.
                self._port.answer(job, UnknownOutcome(unavailable.detail))
            case Unavailable() as unavailable:
                self._port.answer(job, unavailable)

    async def _post(self, jobs: list[_Job]) -> None:
        await self._slot()
        jobs = [job for job in jobs if self._port.wants(job)]
        if not jobs:
            return
        for job, result in zip(jobs, await self._api.post([job.call for job in jobs]), strict=True):
            match result:
                case Throttled():
                    self._throttled(job, result)
                case UnknownOutcome():
                    await self._slot()
                    found = await self._api.find(job.call.reference)
                    self._port.answer(job, found if isinstance(found, Posted) else result)
                case _:
                    self._port.answer(job, result)

    def _throttled(self, job: _Job, throttled: Throttled) -> None:
        """Pause the whole lane and queue the job again; a pause beyond the back-off is the core's to keep."""
        if throttled.retry_after_s > self._settings.back_off_max_s:
            self._port.answer(job, Unavailable("throttled", throttled.retry_after_s))
            return
        resume_s = asyncio.get_running_loop().time() + throttled.retry_after_s
        self._next_slot_s = max(self._next_slot_s, resume_s)
        self.queue.put_nowait(job)

    async def _slot(self) -> None:
        """Wait for this request's turn: evenly paced, never more than `requests_per_s`."""
        now_s = asyncio.get_running_loop().time()
        slot_s = max(now_s, self._next_slot_s)
        self._next_slot_s = slot_s + 1 / self._settings.requests_per_s
        if slot_s > now_s:
            await asyncio.sleep(slot_s - now_s)
