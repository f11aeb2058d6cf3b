"""The ERPs of the simulated world, and erp-poster's way to them: its production lanes, driven by the virtual clock.

`world` opens a `SimulatedErpPort` for every process of erp-poster; all of them reach the same `SimulatedErps`, which outlive
them. Requests and responses are those of the HTTP interface, read and written by production code; only the wire is missing.
Like the ERP that the demo posts to, an ERP here books whatever it is sent, also twice, unless it is a strict one. What goes
wrong is up to the caller: there is no chance in this module.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from crossdock_canonical.money import Money
from crossdock_erp_poster.erp_api import AWAY, LOST, Response, document_body, found, posting_results
from crossdock_erp_poster.lanes import Lanes, LookUp, Posting
from crossdock_erp_poster.model import PostDocument
from crossdock_erp_poster.settings import Settings
from crossdock_eventing.service import Answer, Call
from crossdock_tools.audit.books import DocumentBook, ErpBooks

_REQUIRED = ("document_type", "business_key", "version", "reference", "amount_minor", "currency", "lines")


class Mishap(StrEnum):
    """What can happen to one request."""

    UNREACHABLE = "no connection"
    REQUEST_LOST = "connection broken before the request arrived"
    ANSWER_LOST = "connection broken after the ERP had done its work"
    AWAY = "503, maintenance"
    THROTTLED = "429, too many requests"
    FAILED = "500, nothing done"
    FAILED_AFTERWARDS = "500, although the work was done"
    REFUSED = "422, every document of the request"


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of one request.

    work_after_s: how long after its leaving the ERP works on it, whether or not anybody waits by then. For a posting it must
    not exceed `settle_s` of the settings: that is what an ERP promises. answer_after_s: how much later the answer arrives.
    retry_after_s: the header of a 503 or 429.
    """

    mishap: Mishap | None = None
    work_after_s: float = 0.0
    answer_after_s: float = 0.0
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that leaves, as whoever decides its fate sees it.

    references: of its documents; a posting may carry several. nth: how many requests for the first of them came before, so
    that a fate can follow from seed, reference and number alone.
    """

    erp: str
    is_posting: bool
    references: tuple[str, ...]
    nth: int
    at_s: float


@dataclass(frozen=True, slots=True)
class Booking:
    """One document booked once; `state_key` is the chain that asked."""

    document: DocumentBook
    state_key: str
    sent_s: float
    booked_s: float


@dataclass(eq=False, slots=True)
class Exchange:
    """A request under way. `ends_s` is when its sender learns what came of it: a response, or that none will come."""

    request: LookUp | Posting
    fate: Fate
    sent_s: float
    ends_s: float
    response: Response


class SimulatedErps:
    """Every ERP of a world.

    now_s: the world's clock. fate: asked once for each request, in the order in which they leave. strict: names of ERPs that
    refuse a reference they hold already (409); the others book it again.
    """

    def __init__(
        self,
        now_s: Callable[[], float],
        *,
        fate: Callable[[Sent], Fate] = lambda _: Fate(),
        names: Collection[str] = ("cloud",),
        strict: Collection[str] = (),
    ) -> None:
        self.now_s = now_s
        self.bookings: list[Booking] = []
        self.requests: Counter[str] = Counter()
        self._fate = fate
        self._strict = frozenset(strict)
        self._books: Mapping[str, defaultdict[str, list[DocumentBook]]] = {
            name: defaultdict(list) for name in names
        }
        self._away: dict[str, tuple[float, float | None]] = {}
        self._refused: dict[str, str] = {}
        self._under_way: list[tuple[float, int, Exchange]] = []
        self._sent: Counter[str] = Counter()
        self._exchanges = 0

    def away(self, erp: str, *, until_s: float, retry_after_s: float | None = None) -> None:
        """The ERP answers 503 to all that reaches it before then."""
        self._away[erp] = (until_s, retry_after_s)

    def refuse(self, prefix: str, code: str) -> None:
        """Every ERP refuses documents of this type, or whose business key begins so, with 422 and the code."""
        self._refused[prefix] = code

    def books(self) -> ErpBooks:
        """What all of them hold, in order of booking."""
        return ErpBooks(documents=tuple(booking.document for booking in self.bookings))

    def next_s(self) -> float | None:
        """When a request arrives next."""
        return self._under_way[0][0] if self._under_way else None

    def work(self) -> bool:
        """Work on what has arrived by now; whether there was anything."""
        worked = False
        while self._under_way and self._under_way[0][0] <= self.now_s():
            at_s, _, exchange = heapq.heappop(self._under_way)
            self._work_on(exchange, at_s)
            worked = True
        return worked

    def send(self, request: LookUp | Posting, *, timeout_s: float, settle_s: float) -> Exchange:
        """Let a request leave now. It arrives whatever becomes of its sender."""
        now_s, jobs = self.now_s(), request.jobs if isinstance(request, Posting) else (request.job,)
        references = tuple(job.reference for job in jobs)
        is_posting = isinstance(request, Posting)
        fate = self._fate(Sent(request.erp, is_posting, references, self._sent[references[0]], now_s))
        assert not is_posting or fate.work_after_s <= settle_s, "an ERP that books so late breaks its promise"
        self._sent[references[0]] += 1
        self.requests["post" if is_posting else "find"] += 1
        work_s = now_s + fate.work_after_s
        broken = fate.mishap in (Mishap.UNREACHABLE, Mishap.REQUEST_LOST, Mishap.ANSWER_LOST)
        answer_s = work_s if broken else work_s + fate.answer_after_s
        lost = "time-out" if answer_s - now_s > timeout_s else str(fate.mishap)
        response = Response(LOST, {"detail": f"answer lost: {lost}"})
        exchange = Exchange(request, fate, now_s, min(answer_s, now_s + timeout_s), response)
        if fate.mishap is Mishap.UNREACHABLE:
            exchange.response = Response(AWAY, {"detail": "no connection"})
        elif fate.mishap is not Mishap.REQUEST_LOST:
            self._exchanges += 1
            heapq.heappush(self._under_way, (work_s, self._exchanges, exchange))
        return exchange

    def _work_on(self, exchange: Exchange, at_s: float) -> None:
        response = self._hindered(exchange, at_s) or self._respond(exchange, at_s)
        if exchange.fate.mishap is Mishap.FAILED_AFTERWARDS:
            response = Response(500, {"code": "internal"})
        in_time = at_s + exchange.fate.answer_after_s <= exchange.ends_s
        if in_time and exchange.fate.mishap is not Mishap.ANSWER_LOST:
            exchange.response = response

    def _hindered(self, exchange: Exchange, at_s: float) -> Response | None:
        """The answer that comes instead of work; None when the ERP works."""
        until_s, retry_after_s = self._away.get(exchange.request.erp, (-math.inf, None))
        if at_s < until_s:
            return Response(AWAY, {"code": "outage"}, retry_after_s)
        match exchange.fate.mishap:
            case Mishap.AWAY:
                return Response(AWAY, {"code": "outage"}, exchange.fate.retry_after_s)
            case Mishap.THROTTLED:
                return Response(429, {"code": "throttled"}, exchange.fate.retry_after_s)
            case Mishap.FAILED:
                return Response(500, {"code": "internal"})
            case _:
                return None

    def _respond(self, exchange: Exchange, at_s: float) -> Response:
        request = exchange.request
        if isinstance(request, LookUp):
            booked = self._books[request.erp].get(request.job.reference)
            if not booked:
                return Response(404, {"code": "not_found"})
            return Response(200, {"external_ref": booked[0].external_ref, "count": len(booked)})
        results = [self._take(exchange, document_body(job.call), job.state_key, at_s) for job in request.jobs]
        return Response(results[0]["status"], results[0]) if len(results) == 1 else Response(200, results)

    def _take(self, exchange: Exchange, sent: dict[str, Any], state_key: str, at_s: float) -> dict[str, Any]:
        """Book one document, or say why not; `status` as the single form would answer."""
        missing = [name for name in _REQUIRED if name not in sent]
        if missing:
            return {"status": 400, "code": "field_missing", "detail": ", ".join(missing)}
        refusal = "refused" if exchange.fate.mishap is Mishap.REFUSED else self._refusal(sent)
        if refusal is not None:
            return {"status": 422, "code": refusal, "detail": f"{sent['business_key']} is not accepted"}
        erp = exchange.request.erp
        held = self._books[erp][sent["reference"]]
        if held and erp in self._strict:
            return {"status": 409, "code": "reference_exists", "detail": sent["reference"]}
        document = DocumentBook(
            erp=erp,
            document_type=sent["document_type"],
            business_key=sent["business_key"],
            version=sent["version"],
            reference=sent["reference"],
            external_ref=f"{erp}-{len(self.bookings) + 1:08d}",
            order_id=sent["order_id"],
            amount=Money(minor=sent["amount_minor"], currency=sent["currency"]) if sent["currency"] else None,
        )
        held.append(document)
        self.bookings.append(Booking(document, state_key, exchange.sent_s, at_s))
        return {"status": 201, "external_ref": document.external_ref}

    def _refusal(self, sent: dict[str, Any]) -> str | None:
        for prefix, code in self._refused.items():
            if sent["document_type"] == prefix or sent["business_key"].startswith(prefix):
                return code
        return None


class SimulatedErpPort:
    """The port of one process (`crossdock_eventing.service.Port`), without thread and network.

    What production's background thread does at its own pace is done here in `collect`, at the time of the call.
    """

    def __init__(self, erps: SimulatedErps, settings: Settings) -> None:
        self._erps = erps
        self._settings = settings
        self._lanes = Lanes(settings)
        self._exchanges: list[Exchange] = []
        self._alive = True

    def start(self, state_key: str, call: Call, *, fresh: bool) -> None:
        assert self._alive
        assert isinstance(call, PostDocument)
        self._lanes.start(state_key, call, fresh=fresh, now_s=self._erps.now_s())

    def collect(self) -> list[Answer]:
        assert self._alive
        self.run()
        return self._lanes.collect(self._erps.now_s())

    def forget(self, state_keys: frozenset[str]) -> None:
        self._lanes.forget(state_keys)

    def close(self) -> None:
        """The process ends of its own accord, which is no different for what it has sent."""
        self.crash()

    def crash(self) -> None:
        """The process died: nobody waits for its answers, and what it sent may still arrive."""
        self._alive = False
        self._exchanges.clear()

    def run(self) -> None:
        """What the background thread does by now; alone, when the process's main thread is stuck."""
        if not self._exchanges and self._lanes.idle:
            return
        now_s, settings = self._erps.now_s(), self._settings
        progress = self._alive
        while progress:
            self._erps.work()
            ended = [exchange for exchange in self._exchanges if exchange.ends_s <= now_s]
            ended.sort(key=lambda exchange: exchange.ends_s)
            for exchange in ended:
                self._exchanges.remove(exchange)
                self._complete(exchange, now_s)
            leaving = self._lanes.leave(now_s)
            self._exchanges += [
                self._erps.send(request, timeout_s=settings.answer_timeout_s, settle_s=settings.settle_s)
                for request in leaving
            ]
            progress = bool(ended or leaving)

    def next_s(self) -> float | None:
        """When `collect` will bring something or send something next; None for never, as things stand."""
        if not self._alive or (not self._exchanges and self._lanes.idle):
            return None  # calls that nobody wants any more may still be queued; they lead to nothing
        at_s = min((exchange.ends_s for exchange in self._exchanges), default=math.inf)
        at_s = min(at_s, self._lanes.due_s())
        return None if at_s == math.inf else at_s

    def _complete(self, exchange: Exchange, now_s: float) -> None:
        match exchange.request:
            case LookUp() as request:
                self._lanes.looked_up(request, found(exchange.response), now_s)
            case Posting() as request:
                results = posting_results(exchange.response, len(request.jobs))
                self._lanes.posted(request, results, now_s)
