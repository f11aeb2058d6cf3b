"""The simulated ERPs with erp-poster's production lanes and core: whatever goes wrong, every document is booked once."""

from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdock_canonical.decider import TimerFired
from crossdock_canonical.identity import LineId, OrderId, Sku
from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    DocumentType,
    ErpDocumentPosted,
    OrderReleased,
    OrderShipped,
    ReleasedLine,
    ShippedLine,
)
from crossdock_canonical.specification import T0
from crossdock_erp_poster.decide import calls, decide
from crossdock_erp_poster.documents import chain_of
from crossdock_erp_poster.evolve import evolve
from crossdock_erp_poster.model import PostDocument, Posted, Refused, Unavailable, UnknownOutcome, call_id
from crossdock_erp_poster.settings import Settings
from crossdock_erp_poster.state_records import DocumentLine, PendingDocument
from crossdock_simulation.erp import Fate, Mishap, Sent, SimulatedErpPort, SimulatedErps

TIMES = {"answer_timeout_s": 3, "settle_s": 10, "post_within_s": 5}
SESSION_S = 12.0
WORTH = Amounts(currency="EUR", goods=1000, tax=190)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def invoice(number: int = 1, *, attempt: int = 1) -> PostDocument:
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
        erp="cloud",
        order_id=OrderId(f"o-{number}"),
        document=document,
        predecessor="",
        attempt=attempt,
    )


class Bench:
    """One ERP whose fates are given in order, and ports to it."""

    def __init__(self, *fates: Fate, **erps: object) -> None:
        self.clock = Clock()
        self.fates = deque(fates)
        self.sent: list[Sent] = []
        self.erps = SimulatedErps(self.clock, fate=self.fate, **erps)

    def fate(self, sent: Sent) -> Fate:
        self.sent.append(sent)
        return self.fates.popleft() if self.fates else Fate()

    def port(self, **changes: object) -> SimulatedErpPort:
        return SimulatedErpPort(self.erps, Settings(**{**TIMES, "requests_per_s": inf, **changes}))

    def outcome(self, port: SimulatedErpPort, *, after_s: float = 0.0) -> object:
        self.clock.now_s += after_s
        answers = port.collect()
        assert len(answers) <= 1
        return answers[0].command.outcome if answers else None


def start(port: SimulatedErpPort, call: PostDocument, *, fresh: bool = True) -> None:
    """As the shell does at the end of a step that committed."""
    assert port.collect() == []
    port.start(f"order:{call.order_id}", call, fresh=fresh)


def test_a_document_is_booked_and_answered_and_the_books_tell_it():
    bench = Bench(Fate(work_after_s=0.5, answer_after_s=0.25))
    port = bench.port()
    start(port, invoice())
    assert bench.outcome(port) is None
    assert (bench.erps.next_s(), port.next_s()) == (0.5, 0.75)
    assert bench.outcome(port, after_s=0.5) is None
    assert bench.outcome(port, after_s=0.25) == Posted("cloud-00000001", existed=False)
    assert (bench.erps.next_s(), port.next_s()) == (None, None)
    (booking,) = bench.erps.bookings
    assert (booking.state_key, booking.sent_s, booking.booked_s) == ("order:o-1", 0.0, 0.5)
    (document,) = bench.erps.books().documents
    assert (document.erp, document.document_type, document.version) == ("cloud", "INVOICE", 1)
    assert (document.business_key, document.reference) == ("invoice/o-1/s1", "invoice/o-1/s1@1")
    assert (document.order_id, document.amount) == ("o-1", Money(minor=1190, currency="EUR"))


@pytest.mark.parametrize(
    ("fate", "expected", "booked"),
    [
        (Fate(Mishap.UNREACHABLE), Unavailable("503 no connection"), 0),
        (Fate(Mishap.REQUEST_LOST), UnknownOutcome("nothing answer lost: " + Mishap.REQUEST_LOST), 0),
        (Fate(Mishap.ANSWER_LOST), Posted("cloud-00000001", existed=True), 1),
        (Fate(Mishap.AWAY, retry_after_s=7.0), Unavailable("503", 7.0), 0),
        (Fate(Mishap.THROTTLED, retry_after_s=100.0), Unavailable("throttled", 100.0), 0),
        (Fate(Mishap.FAILED), UnknownOutcome("500"), 0),
        (Fate(Mishap.FAILED_AFTERWARDS), Posted("cloud-00000001", existed=True), 1),
        (Fate(Mishap.REFUSED), Refused("refused", "invoice/o-1/s1 is not accepted"), 0),
    ],
)
def test_every_mishap_ends_as_over_http(fate, expected, booked):
    bench = Bench(fate)
    port = bench.port()
    start(port, invoice())
    assert bench.outcome(port) == expected
    assert len(bench.erps.bookings) == booked


def test_a_posting_that_is_booked_after_the_time_out_is_found_before_it_is_posted_again():
    bench = Bench(Fate(work_after_s=9.0))
    port = bench.port()
    start(port, invoice())
    assert bench.outcome(port) is None
    assert isinstance(bench.outcome(port, after_s=3.0), UnknownOutcome)
    # A clock has jumped: the core's wait is over at once. The port looks up when the ERP must be done.
    start(port, invoice(attempt=2))
    assert bench.outcome(port, after_s=1.0) is None
    assert port.next_s() == 10.0
    assert bench.outcome(port, after_s=6.0) == Posted("cloud-00000001", existed=True)
    assert len(bench.erps.bookings) == 1


def test_what_a_dead_process_sent_still_arrives():
    bench = Bench(Fate(work_after_s=9.0))
    dead, successor = bench.port(), bench.port()
    start(dead, invoice())
    dead.collect()
    dead.crash()
    start(successor, invoice(), fresh=False)
    assert isinstance(bench.outcome(successor), UnknownOutcome)
    bench.clock.now_s = 9.0
    assert bench.erps.work()
    start(successor, invoice(attempt=2))
    assert bench.outcome(successor, after_s=1.0) == Posted("cloud-00000001", existed=True)
    assert len(bench.erps.bookings) == 1


def test_an_attempt_after_one_that_another_process_made_is_only_looked_up():
    bench = Bench(Fate(work_after_s=9.0))
    dead, successor = bench.port(), bench.port()
    start(dead, invoice())
    dead.collect()
    assert isinstance(bench.outcome(dead, after_s=3.0), UnknownOutcome)
    dead.crash()
    start(successor, invoice(attempt=2))  # the timer has fired early by the successor's clock
    assert isinstance(bench.outcome(successor), UnknownOutcome)
    start(successor, invoice(attempt=3))
    assert bench.outcome(successor, after_s=7.0) is None
    assert bench.outcome(successor, after_s=3.0) == Posted("cloud-00000001", existed=True)
    assert len(bench.erps.bookings) == 1


def test_a_zombie_posts_nothing_once_its_chains_may_be_anothers():
    throttled = Fate(Mishap.THROTTLED, retry_after_s=30.0)
    bench = Bench(throttled)
    zombie, successor = bench.port(), bench.port()
    start(zombie, invoice())
    assert bench.outcome(zombie) is None  # it waits in the lane
    bench.clock.now_s = SESSION_S
    start(successor, invoice(), fresh=False)
    successor.collect()
    bench.clock.now_s += 10.0
    start(successor, invoice(attempt=2))
    assert bench.outcome(successor) == Posted("cloud-00000001", existed=False)
    bench.clock.now_s = 31.0
    zombie.run()  # its background thread wakes up first
    assert isinstance(bench.outcome(zombie), Unavailable)
    assert len(bench.erps.bookings) == 1


def test_a_process_that_stood_still_between_its_commit_and_its_call_posts_nothing():
    bench = Bench()
    zombie = bench.port()
    zombie.collect()
    bench.clock.now_s = SESSION_S
    zombie.start("order:o-1", invoice(), fresh=True)
    assert isinstance(bench.outcome(zombie), Unavailable)
    assert bench.erps.bookings == []


def test_a_strict_erp_refuses_a_reference_it_holds_and_another_books_it_again():
    for strict, booked in (((), 2), (("cloud",), 1)):
        bench = Bench(strict=strict)
        for port in (bench.port(), bench.port()):
            start(port, invoice())  # nobody would: both think it is new
            assert isinstance(bench.outcome(port), Posted)
        assert len(bench.erps.bookings) == booked


def test_an_outage_and_refusals_are_by_erp_and_by_document():
    bench = Bench()
    bench.erps.away("cloud", until_s=60.0, retry_after_s=20.0)
    bench.erps.refuse("invoice/o-2/", "period_closed")
    port = bench.port()
    start(port, invoice())
    assert bench.outcome(port) == Unavailable("503", 20.0)
    bench.clock.now_s = 60.0
    start(port, invoice(attempt=2))
    assert bench.outcome(port) == Posted("cloud-00000001", existed=False)
    start(port, invoice(2))
    assert bench.outcome(port) == Refused("period_closed", "invoice/o-2/s1 is not accepted")


def test_a_batch_is_one_request_and_every_document_has_its_own_answer():
    bench = Bench()
    bench.erps.refuse("invoice/o-3/", "period_closed")
    port = bench.port(batch_max=50)
    for number in range(1, 6):
        port.start(f"order:o-{number}", invoice(number), fresh=True)
    kinds = [type(answer.command.outcome) for answer in port.collect()]
    assert kinds == [Posted, Posted, Refused, Posted, Posted]
    assert [len(sent.references) for sent in bench.sent] == [5]


def test_what_moved_away_is_neither_sent_nor_answered():
    bench = Bench(Fate(work_after_s=1.0))
    port = bench.port(requests_in_flight=1)
    port.start("order:o-1", invoice(1), fresh=True)
    port.start("order:o-2", invoice(2), fresh=True)
    port.collect()
    port.forget(frozenset({"order:o-1", "order:o-2"}))
    assert bench.outcome(port, after_s=2.0) is None
    assert [booking.state_key for booking in bench.erps.bookings] == ["order:o-1"]  # it had left


# --- Two instances, their core, and everything that can happen to them ---


@dataclass
class Instance:
    """A process of erp-poster as its port sees it. `member` is what the group thinks, `chains` what the process thinks."""

    port: SimulatedErpPort
    member: bool = True
    chains: set[str] = field(default_factory=set)
    started: set[str] = field(default_factory=set)
    alive: bool = True
    frozen_until_s: float = 0.0
    freeze_s: float = 0.0  # how long it will stand still between its next commit and the calls that follow
    to_start: list[tuple[str, PostDocument]] = field(default_factory=list)
    seen_s: float = 0.0
    skew_s: float = 0.0


ORDERS = tuple(OrderId(f"o-{number}") for number in range(3))
COMMON = {"channel": "shopify", "shop": "eu", "external_id": "1", "release": 1, "currency": "EUR"}
FACTS = tuple(
    fact
    for order_id in ORDERS
    for fact in (
        OrderReleased(
            order_id=order_id,
            lines=(ReleasedLine(line_id=LineId("l1"), sku=Sku("tea"), units=1, amounts=WORTH),),
            **COMMON,
        ),
        OrderShipped(
            order_id=order_id,
            shipment_id="s1",
            lines=(ShippedLine(line_id=LineId("l1"), sku=Sku("tea"), units=1, amounts=WORTH),),
            shipped_at=T0,
            **COMMON,
        ),
    )
)


class Cluster:
    """Two instances over one log of states: a transaction counts only if its member is in the group."""

    def __init__(self, fates: list[Fate], *, batch_max: int, in_flight: int) -> None:
        self.bench = Bench(*fates)
        self.settings = Settings(
            **TIMES, requests_per_s=50, batch_max=batch_max, requests_in_flight=in_flight, back_off_max_s=20
        )
        self.decide = partial(decide, policy=self.settings.policy())
        self.states: dict[str, object] = {}
        self.posted: Counter[str] = Counter()
        self.instances = [self._process(), self._process()]
        for number, order_id in enumerate(ORDERS):
            self.instances[number % 2].chains.add(f"order:{order_id}")
        self.coming = deque(FACTS)

    @property
    def now_s(self) -> float:
        return self.bench.clock.now_s

    def _process(self) -> Instance:
        port = SimulatedErpPort(self.bench.erps, self.settings)
        port.collect()
        return Instance(port, seen_s=self.now_s)

    def advance(self, seconds: float, *, piece_s: float = 0.25) -> None:
        """Let time go by in pieces; dead and frozen members are expelled when their session is over."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.bench.clock.now_s = min(end_s, self.now_s + piece_s)
            self.bench.erps.work()
            for instance in self.instances:
                self.step(instance)
            self._expel()

    def _expel(self) -> None:
        for number, instance in enumerate(self.instances):
            if instance.member and self.now_s - instance.seen_s > SESSION_S:
                other = self.instances[1 - number]
                instance.member = False
                if other.member:
                    self._take_over(other, self._owned(number))

    def _owned(self, number: int) -> set[str]:
        held = self.instances[1 - number].chains if self.instances[1 - number].member else set()
        return {f"order:{order_id}" for order_id in ORDERS} - held

    def _take_over(self, instance: Instance, chains: set[str]) -> None:
        instance.chains |= chains
        for chain in sorted(chains) if instance.alive else ():
            for call in calls(self.states.get(chain)):
                instance.started.add(call.call_id)
                instance.port.start(chain, call, fresh=False)

    def crash(self, number: int) -> None:
        self.instances[number].port.crash()
        self.instances[number].alive = False

    def restart(self, number: int) -> None:
        """The same identity comes back: it owns what its predecessor owned, unless that was expelled."""
        before = self.instances[number]
        if before.alive:
            return
        process = self.instances[number] = self._process()
        process.skew_s = before.skew_s
        self._join(process, number, chains=before.chains if before.member else set())

    def _join(self, instance: Instance, number: int, *, chains: set[str]) -> None:
        instance.member, instance.seen_s = True, self.now_s
        other = self.instances[1 - number]
        self._take_over(instance, chains if other.member else self._owned(number))

    def rebalance(self, to: int) -> None:
        """Every chain moves to one instance; the other, at work, hears of it before."""
        giver, taker = self.instances[1 - to], self.instances[to]
        at_work = [
            each.alive and each.member and self.now_s >= each.frozen_until_s for each in (giver, taker)
        ]
        if all(at_work):
            giver.port.forget(frozenset(giver.chains))
            chains, giver.chains, giver.started = giver.chains, set(), set()
            self._take_over(taker, chains)

    def step(self, instance: Instance) -> None:
        if not instance.alive or self.now_s < instance.frozen_until_s:
            return
        for chain, call in instance.to_start:  # it stood still in the midst of a step
            instance.port.start(chain, call, fresh=True)
            instance.port.run()
        instance.to_start.clear()
        answers = instance.port.collect()
        if not instance.member:  # only now does it hear of it
            instance.port.forget(frozenset(instance.chains))
            instance.chains.clear()
            instance.started.clear()
            self._join(instance, self.instances.index(instance), chains=set())
            return
        instance.seen_s = self.now_s
        now = T0 + timedelta(seconds=self.now_s + instance.skew_s)
        commands = [
            (answer.state_key, answer.command) for answer in answers if answer.state_key in instance.chains
        ]
        for chain in sorted(instance.chains):
            state = self.states.get(chain)
            due = None if state is None else state.timers.get("retry")
            if due is not None and due <= now:
                commands.append((chain, TimerFired("retry", due)))
        if self.coming and chain_of(self.coming[0]) in instance.chains:
            commands.append((chain_of(self.coming[0]), self.coming.popleft()))
        changed = set()
        for chain, command in commands:
            state = self.states.get(chain)
            for event in self.decide(command, state, now=now):
                state = evolve(state, event)
                if isinstance(event, ErpDocumentPosted):
                    self.posted[event.business_key] += 1
            self.states[chain] = state
            changed.add(chain)
        instance.to_start = [
            (chain, call)
            for chain in sorted(changed)
            for call in calls(self.states[chain])
            if call.call_id not in instance.started
        ]
        instance.started |= {call.call_id for _, call in instance.to_start}
        if instance.to_start and instance.freeze_s:
            instance.frozen_until_s, instance.freeze_s = self.now_s + instance.freeze_s, 0.0
            return
        for chain, call in instance.to_start:
            instance.port.start(chain, call, fresh=True)
        instance.to_start.clear()

    def do(self, step: tuple) -> None:
        match step:
            case ("pass", seconds):
                self.advance(seconds)
            case ("crash", number):
                self.crash(number)
            case ("restart", number):
                self.restart(number)
            case ("stand_still", number, seconds):
                self.instances[number].frozen_until_s = self.now_s + seconds
            case ("stand_still_after_commit", number, seconds):
                self.instances[number].freeze_s = seconds
            case ("rebalance", number):
                self.rebalance(number)
            case ("background_runs", number):
                if self.instances[number].alive:
                    self.instances[number].port.run()
            case ("skew", number, seconds):
                self.instances[number].skew_s = seconds
            case _:
                raise AssertionError(step)

    def heal(self) -> None:
        self.bench.fates.clear()
        for number in (0, 1):
            self.restart(number)
            self.instances[number].skew_s = 0.0
            self.instances[number].freeze_s = 0.0
        for _ in range(40):
            if not self.coming and all(state and not state.pending for state in self.states.values()):
                return
            self.advance(30.0, piece_s=1.0)
        raise AssertionError(f"never done: {self.states}")


DURATIONS = st.sampled_from([0.25, 1.0, 4.0, 6.0, 11.0, 15.0, 30.0])
INSTANCE = st.integers(min_value=0, max_value=1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), DURATIONS),
        st.tuples(st.just("pass"), DURATIONS),
        st.tuples(st.sampled_from(["crash", "restart", "rebalance", "background_runs"]), INSTANCE),
        st.tuples(st.sampled_from(["stand_still", "stand_still_after_commit"]), INSTANCE, DURATIONS),
        st.tuples(st.just("skew"), INSTANCE, st.sampled_from([-300.0, -12.0, 12.0, 300.0])),
    ),
    max_size=25,
)
FATES = st.lists(
    st.builds(
        Fate,
        mishap=st.one_of(st.none(), st.sampled_from([each for each in Mishap if each is not Mishap.REFUSED])),
        work_after_s=st.sampled_from([0.0, 0.0, 0.1, 2.0, 5.0, 9.9]),
        answer_after_s=st.sampled_from([0.0, 0.5, 4.0]),
        retry_after_s=st.sampled_from([None, 0.5, 8.0, 19.0, 30.0]),
    ),
    max_size=25,
)


@settings(max_examples=300, deadline=None)
@given(steps=STEPS, fates=FATES, batch_max=st.sampled_from([1, 4]), in_flight=st.sampled_from([1, 4]))
def test_every_document_is_booked_once_whatever_happens(steps, fates, batch_max, in_flight):
    cluster = Cluster(fates, batch_max=batch_max, in_flight=in_flight)
    for step in steps:
        cluster.do(step)
    cluster.heal()
    references = Counter(document.reference for document in cluster.bench.erps.books().documents)
    expected = {
        f"{kind}@1" for o in ORDERS for kind in (f"sales_order/{o}/1", f"delivery/{o}/s1", f"invoice/{o}/s1")
    }
    assert set(references) == expected
    assert max(references.values()) == 1
    assert {f"{key}@1" for key in cluster.posted} == expected
    assert max(cluster.posted.values()) == 1
