"""Which request goes to which ERP and when, and what its answer means: look-ups, batches, pace, pauses, doubt.

No thread, no clock, no network: `port.py` drives it with HTTP, the simulator with an ERP in memory. Every
`now_s` is of one monotonic clock of the caller's.

An ERP may book whatever it is sent, also twice. Each document is booked once all the same, because
- a posting is booked within `settle_s` of its leaving or never (a promise of the ERP, see `Settings`);
- a document that another process may have posted (its call was restored, or its last attempt was not made
  here) is only looked up. If that finds nothing, the answer is `UnknownOutcome`: the core makes a new attempt;
- a new attempt is looked up before it is posted, and not before all that may be on its way has settled. The
  core waits too, but by a wall clock, which jumps and differs from machine to machine;
- only a call that follows a committed transaction is ever posted, and only within `post_within_s` of the step
  that committed. The broker lets no instance commit whose session is over, so one that has lost its chains
  without knowing has stopped posting before their next owner begins to.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, assert_never

from crossdock_erp_poster.erp_api import Found, NotFound, PostingResult, Throttled
from crossdock_erp_poster.model import (
    ErpAnswered,
    Outcome,
    PostDocument,
    Posted,
    Refused,
    Unavailable,
    UnknownOutcome,
)
from crossdock_eventing.service import Answer

if TYPE_CHECKING:
    from crossdock_erp_poster.settings import Settings

#: How long an attempt is remembered. Longer than most back-offs; what is forgotten costs one more look-up.
_REMEMBERED_S = 3600.0


@dataclass(eq=False, slots=True)
class Job:
    """One call. Compared by identity: the same call may be started again after its key went and came back.

    doubt: its document may be on its way; the answer unless a look-up finds it.
    wanted: False once it is answered, its key has moved away or its state asks for another call.
    """

    state_key: str
    call: PostDocument
    reference: str
    started_s: float
    doubt: UnknownOutcome | None = None
    wanted: bool = True


@dataclass(frozen=True, slots=True)
class _Tried:
    """The last attempt that this instance made of a document. By `settled_s` it is booked or will never be."""

    attempt: int
    settled_s: float
    at_s: float


@dataclass(eq=False, frozen=True, slots=True)
class LookUp:
    """A request for the document of one job, by its reference."""

    erp: str
    job: Job


@dataclass(eq=False, frozen=True, slots=True)
class Posting:
    """A request that posts the documents of these jobs."""

    erp: str
    jobs: tuple[Job, ...]


class Lanes:
    """The calls of one instance, a lane for each ERP: start, let leave, complete, collect."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lanes = {erp: _Lane(erp, settings, self._answer) for erp in settings.erps}
        self._outstanding: dict[str, Job] = {}
        self._answers: list[Answer] = []
        self._tried: dict[str, _Tried] = {}  # by reference, in the order of `at_s`
        self._collected_s: float | None = None
        self._owned_until_s = -math.inf

    @property
    def idle(self) -> bool:
        """Nothing is wanted and nothing waits to be collected."""
        return not self._outstanding and not self._answers

    def start(self, state_key: str, call: PostDocument, *, fresh: bool, now_s: float) -> None:
        """Queue the call unless it is on its way already; `fresh` when its transaction has just committed.

        Raises ValueError for an ERP without an address.
        """
        lane = self._lanes.get(call.erp)
        if lane is None:
            raise ValueError(f"{state_key} belongs to ERP {call.erp!r}, whose address the settings lack")
        if fresh:
            # The commit came after the last collect: the instance was alive then, whenever it says so now.
            collected_s = now_s if self._collected_s is None else self._collected_s
            self._owned_until_s = collected_s + self._settings.post_within_s
        known = self._outstanding.get(state_key)
        if known is not None:
            if known.call.call_id == call.call_id:
                return
            known.wanted = False
        job = self._outstanding[state_key] = Job(state_key, call, call.reference, now_s)
        tried = self._tried.get(job.reference)
        if fresh and call.attempt == 1:
            lane.post(job)
        elif fresh and tried is not None and tried.attempt == call.attempt - 1:
            lane.look_up(job, max(now_s, tried.settled_s))
        else:
            job.doubt = UnknownOutcome("another process may have posted it; a look-up has not found it")
            self._remember(job, now_s, settled_s=now_s + self._settings.settle_s)
            lane.look_up(job, now_s)

    def collect(self, now_s: float) -> list[Answer]:
        """Take the answers. The shell does so at the beginning of every step, before what it commits in it."""
        self._collected_s = now_s
        answers, self._answers = self._answers, []
        return answers

    def forget(self, state_keys: frozenset[str]) -> None:
        """Drop their calls and answers. What has left may still be booked: the next owner looks it up."""
        for state_key in state_keys:
            job = self._outstanding.pop(state_key, None)
            if job is not None:
                job.wanted = False
        self._answers = [answer for answer in self._answers if answer.state_key not in state_keys]

    def leave(self, now_s: float) -> list[LookUp | Posting]:
        """The requests that leave now. The caller sends each, and completes it whatever becomes of it."""
        requests: list[LookUp | Posting] = []
        for lane in self._lanes.values():
            while (request := lane.leave(now_s, owned_until_s=self._owned_until_s)) is not None:
                requests.append(request)
                if isinstance(request, Posting):
                    for job in request.jobs:
                        self._remember(job, now_s, settled_s=now_s + self._settings.settle_s)
        return requests

    def due_s(self) -> float:
        """When the next request may leave if nothing is started or completed before; infinity for never."""
        return min(lane.due_s() for lane in self._lanes.values())

    def looked_up(self, request: LookUp, result: Found, now_s: float) -> None:
        """The look-up has ended."""
        self._lanes[request.erp].looked_up(request.job, result, now_s)

    def posted(self, request: Posting, results: Sequence[PostingResult], now_s: float) -> None:
        """The posting has ended, with a result for each of its jobs."""
        self._lanes[request.erp].posted(request.jobs, results, now_s)

    def _answer(self, job: Job, outcome: Outcome, now_s: float) -> None:
        """Keep the answer for the shell, unless nobody waits for it any more."""
        if not job.wanted:
            return
        job.wanted = False
        del self._outstanding[job.state_key]
        match outcome:
            case Posted() | Refused():
                self._tried.pop(job.reference, None)
            case Unavailable():
                self._remember(job, now_s, settled_s=now_s)
            case UnknownOutcome():
                pass  # remembered since it left, or since its doubt began
            case _:
                assert_never(outcome)
        call_id = job.call.call_id
        self._answers.append(Answer(job.state_key, call_id, ErpAnswered(call_id, outcome)))

    def _remember(self, job: Job, now_s: float, *, settled_s: float) -> None:
        tried, reference = self._tried, job.reference
        while tried and tried[oldest := next(iter(tried))].at_s < now_s - _REMEMBERED_S:
            del tried[oldest]
        tried.pop(reference, None)  # to stand at the end
        tried[reference] = _Tried(job.call.attempt, settled_s, now_s)


class _Lane:
    """The traffic with one ERP: its queues, its pace, its pauses."""

    def __init__(self, erp: str, settings: Settings, answer: Callable[[Job, Outcome, float], None]) -> None:
        self._erp = erp
        self._settings = settings
        self._answer = answer
        self._look_ups: deque[Job] = deque()
        self._postings: deque[Job] = deque()
        self._held: list[tuple[float, int, Job]] = []  # heap of look-ups, by when they may leave
        self._numbers = count()
        self._in_flight = 0
        self._slot_s = -math.inf  # before it no request leaves
        self._slot_awaited = False

    def look_up(self, job: Job, not_before_s: float) -> None:
        heappush(self._held, (not_before_s, next(self._numbers), job))

    def post(self, job: Job) -> None:
        self._postings.append(job)

    def leave(self, now_s: float, *, owned_until_s: float) -> LookUp | Posting | None:
        """The next request, if one may leave now."""
        while self._held and self._held[0][0] <= now_s:
            self._look_ups.append(heappop(self._held)[2])
        while self._look_ups and not self._look_ups[0].wanted:
            self._look_ups.popleft()
        while self._postings and (not self._postings[0].wanted or now_s > owned_until_s):
            late = Unavailable("not sent: too long since a commit to be sure that the chain is still here")
            self._answer(self._postings.popleft(), late, now_s)
        if not (self._look_ups or self._postings) or self._in_flight == self._settings.requests_in_flight:
            return None
        if now_s < self._slot_s:
            self._slot_awaited = True
            return None
        self._take_slot(now_s)
        self._in_flight += 1
        # The older call first, so that neither kind waits for ever behind the other.
        if self._look_ups and (
            not self._postings or self._look_ups[0].started_s < self._postings[0].started_s
        ):
            return LookUp(self._erp, self._look_ups.popleft())
        jobs: list[Job] = []
        while self._postings and len(jobs) < self._settings.batch_max:
            job = self._postings.popleft()
            if job.wanted:
                jobs.append(job)
        return Posting(self._erp, tuple(jobs))

    def due_s(self) -> float:
        if self._in_flight == self._settings.requests_in_flight:
            return math.inf
        if self._look_ups or self._postings:
            return self._slot_s
        return max(self._slot_s, self._held[0][0]) if self._held else math.inf

    def looked_up(self, job: Job, result: Found, now_s: float) -> None:
        self._in_flight -= 1
        refusal = self._rest(result, now_s) if isinstance(result, Throttled) else None
        match result:
            case Posted():
                self._answer(job, result, now_s)
            case _ if job.doubt is not None:
                self._answer(job, job.doubt, now_s)
            case NotFound():
                self._postings.appendleft(job)
            case Unavailable():
                self._answer(job, result, now_s)
            case Throttled() if refusal is not None:
                self._answer(job, refusal, now_s)
            case Throttled():
                self._look_ups.appendleft(job)

    def posted(self, jobs: Sequence[Job], results: Sequence[PostingResult], now_s: float) -> None:
        self._in_flight -= 1
        again: list[Job] = []
        doubtful: list[Job] = []
        for job, result in zip(jobs, results, strict=True):
            match result:
                case Throttled():
                    refusal = self._rest(result, now_s)
                    if refusal is None:
                        again.append(job)
                    else:
                        self._answer(job, refusal, now_s)
                case UnknownOutcome():
                    job.doubt = result
                    doubtful.append(job)
                case _:
                    self._answer(job, result, now_s)
        self._postings.extendleft(reversed(again))
        self._look_ups.extendleft(reversed(doubtful))

    def _rest(self, throttled: Throttled, now_s: float) -> Unavailable | None:
        """Let the whole lane rest. A pause beyond the back-off is the core's to keep: the answer that says so."""
        if throttled.retry_after_s > self._settings.back_off_max_s:
            return Unavailable("throttled", throttled.retry_after_s)
        self._slot_s = max(self._slot_s, now_s + throttled.retry_after_s)
        return None

    def _take_slot(self, now_s: float) -> None:
        """Evenly paced, never more than `requests_per_s`."""
        interval_s = 1 / self._settings.requests_per_s
        # A timer that wakes its caller late must not slow the pace down: a slot that was awaited counts in full.
        punctual = self._slot_awaited and now_s - self._slot_s < interval_s
        self._slot_s = (self._slot_s if punctual else now_s) + interval_s
        self._slot_awaited = False
