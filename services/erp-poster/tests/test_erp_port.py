"""The port against the simulated ERP over HTTP: every fault on the way, and never a second booking."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from aiohttp import web

from crossdock_canonical.identity import OrderId, Sku
from crossdock_canonical.records import DocumentType
from crossdock_canonical.specification import T0
from crossdock_erp_poster.model import (
    PostDocument,
    Posted,
    Refused,
    Unavailable,
    UnknownOutcome,
    call_id,
)
from crossdock_erp_poster.port import ErpPort
from crossdock_erp_poster.settings import Settings
from crossdock_erp_poster.state_records import DocumentLine, PendingDocument
from crossdock_simulators.erp import Books, Erp, Faults

SETTLE_S = 0.15


class RunningErp:
    """The simulator in a thread of its own; `faults` and `books` are looked at directly."""

    def __init__(self, *, unique: bool = False) -> None:
        self.books = Books(unique=unique)
        self.erp = Erp(self.books)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        assert self._ready.wait(5)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        runner = web.AppRunner(self.erp.application())
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self._loop.run_until_complete(site.start())
        self.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    def fail(self, **faults: object) -> None:
        self.erp.set_faults(Faults(**faults), now_s=self._loop.time())

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)


@pytest.fixture
def erp() -> Iterator[RunningErp]:
    running = RunningErp()
    yield running
    running.close()


@pytest.fixture
def new_port(erp: RunningErp) -> Iterator[Callable[..., ErpPort]]:
    ports: list[ErpPort] = []

    def build(**changes: object) -> ErpPort:
        settings = Settings(
            **{"erps": {"cloud": erp.address}, "settle_s": SETTLE_S, "answer_timeout_s": 1.0, **changes}
        )
        ports.append(ErpPort(settings))
        return ports[-1]

    yield build
    for port in ports:
        port.close()


def call(number: int = 1, *, attempt: int = 1, erp_name: str = "cloud") -> PostDocument:
    document = PendingDocument(
        document_type=DocumentType.INVOICE,
        business_key=f"invoice/o-{number}/s1",
        wait_until=T0,
        amount_minor=1190,
        currency="EUR",
        lines=(
            DocumentLine(
                position="l1", sku=Sku("tea"), units=1, stock_location="", net_minor=1000, tax_minor=190
            ),
        ),
    )
    return PostDocument(
        call_id=call_id(document, attempt),
        erp=erp_name,
        order_id=OrderId(f"o-{number}"),
        document=document,
        predecessor="",
        attempt=attempt,
    )


def outcomes(port: ErpPort, count: int = 1, *, within_s: float = 5.0) -> list[object]:
    """Collect so many answers, and no more than these."""
    found, give_up = [], time.monotonic() + within_s
    while len(found) < count and time.monotonic() < give_up:
        found += [answer.command.outcome for answer in port.collect()]
        time.sleep(0.005)
    assert len(found) == count
    return found


def start(port: ErpPort, made: PostDocument, *, fresh: bool = True) -> None:
    port.start(f"order:{made.order_id}", made, fresh=fresh)


def test_a_document_is_posted_and_answered_under_its_call(erp, new_port):
    port, made = new_port(), call()
    start(port, made)
    start(port, made)  # the shell may say so again: it is on its way already
    outcome = outcomes(port)[0]
    assert outcome == Posted("ERP-00000001", existed=False)
    (booked,) = erp.books.documents
    assert booked["reference"] == "invoice/o-1/s1@1"
    assert (booked["amount_minor"], booked["order_id"], booked["document_type"]) == (1190, "o-1", "INVOICE")
    assert booked["lines"][0]["net_minor"] == 1000
    assert erp.erp.requests == {"post": 1}


def test_a_lost_answer_is_looked_up_and_not_posted_again(erp, new_port):
    erp.fail(lose_answer_every=1)
    port = new_port()
    start(port, call())
    assert outcomes(port) == [Posted("ERP-00000001", existed=True)]
    assert len(erp.books.documents) == 1


def test_an_answer_that_comes_too_late_leaves_the_outcome_unknown_until_a_look_up_finds_it(erp, new_port):
    erp.fail(latency_ms=400)
    port = new_port(answer_timeout_s=0.1)
    start(port, call())
    assert isinstance(outcomes(port)[0], UnknownOutcome)
    erp.fail()
    time.sleep(0.5)  # what the core waits for as `settle`: by now the ERP has booked it
    start(port, call(attempt=2))
    assert outcomes(port) == [Posted("ERP-00000001", existed=True)]
    assert len(erp.books.documents) == 1


def test_after_a_crash_between_post_and_answer_the_document_is_found(erp, new_port):
    first = new_port()
    start(first, call())
    while not erp.books.documents:
        time.sleep(0.005)
    first.close()
    second = new_port()
    start(second, call(), fresh=False)
    assert outcomes(second) == [Posted("ERP-00000001", existed=True)]
    assert erp.erp.requests == {"post": 1, "find": 1}


def test_after_a_crash_while_the_erp_is_still_working_the_document_is_not_posted_twice(erp, new_port):
    erp.fail(latency_ms=100)
    first = new_port()
    start(first, call())
    while not erp.erp.requests["post"]:
        time.sleep(0.005)
    first.close()
    erp.fail()  # the look-up is fast and finds nothing yet
    second = new_port()
    start(second, call(), fresh=False)
    assert isinstance(outcomes(second)[0], UnknownOutcome)
    time.sleep(SETTLE_S)
    start(second, call(attempt=2))
    assert outcomes(second) == [Posted("ERP-00000001", existed=True)]
    assert len(erp.books.documents) == 1
    assert erp.erp.requests == {"post": 1, "find": 2}


def test_after_a_crash_before_the_post_the_document_is_posted_with_the_next_attempt(erp, new_port):
    port = new_port()
    start(port, call(), fresh=False)
    assert isinstance(outcomes(port)[0], UnknownOutcome)
    start(port, call(attempt=2))  # at once: the port holds it back for as long as the ERP may take
    began = time.monotonic()
    assert outcomes(port) == [Posted("ERP-00000001", existed=False)]
    assert time.monotonic() - began > SETTLE_S / 2
    assert erp.erp.requests == {"find": 2, "post": 1}


def test_an_outage_is_told_and_after_it_the_next_attempt_succeeds(erp, new_port):
    erp.fail(outage_s=60)
    port = new_port()
    start(port, call())
    assert isinstance(outcomes(port)[0], Unavailable)
    start(port, call(attempt=2))
    assert isinstance(outcomes(port)[0], Unavailable)
    erp.fail()
    start(port, call(attempt=3))
    assert outcomes(port) == [Posted("ERP-00000001", existed=False)]


def test_an_outage_at_the_look_up_after_a_restart_leaves_the_outcome_unknown(erp, new_port):
    erp.fail(outage_s=60)
    port = new_port()
    start(port, call(), fresh=False)
    # Not `Unavailable`: the core would try again before the earlier process's posting has settled.
    assert isinstance(outcomes(port)[0], UnknownOutcome)


def test_an_erp_that_nobody_answers_for_is_unavailable(erp, new_port):
    port = new_port(erps={"cloud": "http://127.0.0.1:9"})
    start(port, call())
    assert isinstance(outcomes(port)[0], Unavailable)


def test_a_server_error_is_looked_up_since_it_may_have_booked(erp, new_port):
    erp.fail(error_rate=0.5)  # every second request
    port = new_port()
    start(port, call(1))
    assert outcomes(port) == [Posted("ERP-00000001", existed=False)]
    start(port, call(2))
    assert isinstance(outcomes(port)[0], UnknownOutcome)
    assert erp.erp.requests == {"post": 2, "find": 1}


def test_a_refusal_carries_the_erps_code(erp, new_port):
    erp.fail(reject={"invoice/o-1/": "period_closed"})
    port = new_port()
    start(port, call())
    assert outcomes(port) == [Refused("period_closed", "invoice/o-1/s1 is not accepted")]


def test_a_conflict_means_that_the_document_exists(new_port):
    strict = RunningErp(unique=True)
    try:
        strict.books.book({"reference": "invoice/o-1/s1@1"})
        port = new_port(erps={"cloud": strict.address})
        start(port, call())
        assert outcomes(port) == [Posted("ERP-00000001", existed=True)]
        assert len(strict.books.documents) == 1
    finally:
        strict.close()


def test_a_throttled_document_is_posted_once_the_erp_allows_it(erp, new_port):
    erp.fail(rate_limit_per_s=2)
    port = new_port()
    for number in range(1, 6):
        start(port, call(number))
    assert {type(outcome) for outcome in outcomes(port, 5, within_s=8)} == {Posted}
    assert len(erp.books.documents) == 5
    assert erp.erp.requests["throttled"] > 0


def test_a_long_pause_is_handed_to_the_core(erp, new_port):
    erp.fail(rate_limit_per_s=1)
    port = new_port(back_off_max_s=0.5)
    for number in range(1, 9):  # so many that two of them meet in one second of the ERP's clock
        start(port, call(number))
    found = outcomes(port, 8)
    assert {type(outcome) for outcome in found} == {Posted, Unavailable}
    assert next(each for each in found if isinstance(each, Unavailable)).retry_after_s == 1.0


def test_requests_keep_the_pace(erp, new_port):
    port, began = new_port(requests_per_s=40), time.monotonic()
    for number in range(1, 13):
        start(port, call(number))
    outcomes(port, 12)
    assert time.monotonic() - began >= 11 / 40


def test_what_moved_away_is_neither_posted_nor_answered(erp, new_port):
    port = new_port(requests_per_s=5)
    start(port, call(1))
    start(port, call(2))
    port.forget(frozenset({"order:o-2"}))
    outcomes(port)
    time.sleep(0.3)
    assert port.collect() == []
    assert [document["order_id"] for document in erp.books.documents] == ["o-1"]


def test_what_moved_away_and_came_back_is_posted_once(erp, new_port):
    port = new_port(requests_per_s=10)
    start(port, call(1))
    start(port, call(2))
    port.forget(frozenset({"order:o-2"}))
    start(port, call(2), fresh=False)
    assert {type(outcome) for outcome in outcomes(port, 2)} == {Posted, UnknownOutcome}
    start(port, call(2, attempt=2))
    outcomes(port)
    assert erp.books.report()["duplicates"] == []
    assert len(erp.books.documents) == 2


def test_queued_documents_go_in_one_batch_and_each_gets_its_own_answer(erp, new_port):
    erp.fail(reject={"invoice/o-3/": "period_closed"}, latency_ms=50)
    port = new_port(batch_max=50, requests_in_flight=1)
    for number in range(1, 21):
        start(port, call(number))
    found = outcomes(port, 20)
    assert sum(isinstance(outcome, Posted) for outcome in found) == 19
    assert (
        sum(outcome == Refused("period_closed", "invoice/o-3/s1 is not accepted") for outcome in found) == 1
    )
    assert erp.erp.requests["post"] + erp.erp.requests["batch"] <= 3


def test_a_batch_whose_answer_is_lost_is_looked_up_document_by_document(erp, new_port):
    erp.fail(lose_answer_every=1)
    port = new_port(batch_max=50, requests_in_flight=1)
    for number in range(1, 11):
        start(port, call(number))
    assert all(outcome.existed for outcome in outcomes(port, 10))
    assert erp.books.report()["duplicates"] == []


def test_an_erp_without_an_address_is_a_fault_of_the_settings(new_port):
    with pytest.raises(ValueError, match="legacy"):
        start(new_port(), call(erp_name="legacy"))


def test_an_unforeseen_error_in_the_background_reaches_the_shell(new_port, monkeypatch):
    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("crossdock_erp_poster.erp_api.ErpApi.post", broken)
    port = new_port()
    start(port, call())
    with pytest.raises(RuntimeError, match="the ERP port stopped"):
        outcomes(port)
