"""Whatever the order of facts, answers, outages, lost answers and crashes: each document exactly once, in order."""

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from crossdock_canonical.decider import TimerFired
from crossdock_canonical.identity import LineId, OrderId, Sku
from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    AmendedLine,
    CreditCause,
    CreditGranted,
    CreditLine,
    ErpDocumentFailed,
    ErpDocumentPosted,
    OrderAmended,
    OrderReleased,
    OrderShipped,
    Origin,
    PaymentKind,
    PaymentRecorded,
    RefundRecorded,
    ReleasedLine,
    ShippedLine,
)
from crossdock_canonical.specification import T0, Specification
from crossdock_erp_poster.decide import calls, decide
from crossdock_erp_poster.evolve import evolve
from crossdock_erp_poster.model import (
    ErpAnswered,
    Policy,
    PostDocument,
    Posted,
    Refused,
    Unavailable,
    UnknownOutcome,
)
from crossdock_erp_poster.state_records import ChainState

ORDER = OrderId("o-1")
WORTH = Amounts(currency="EUR", goods=1000, tax=190)
COMMON = {"order_id": ORDER, "channel": "shopify", "shop": "eu", "external_id": "1001"}
RELEASED = OrderReleased(
    **COMMON,
    release=1,
    lines=(ReleasedLine(line_id=LineId("l1"), sku=Sku("tea"), units=2, amounts=WORTH + WORTH),),
    currency="EUR",
)
SHIPPED = OrderShipped(
    **COMMON,
    shipment_id="s1",
    release=1,
    lines=(ShippedLine(line_id=LineId("l1"), sku=Sku("tea"), units=1, amounts=WORTH),),
    currency="EUR",
    shipped_at=T0,
)
CAPTURED = PaymentRecorded(
    order_id=ORDER,
    payment_id="o-1/capture/s1",
    kind=PaymentKind.CAPTURED,
    amount=Money(minor=1190, currency="EUR"),
    origin=Origin.US,
    channel="shopify",
    shop="eu",
)
FACTS = (
    RELEASED,
    SHIPPED,
    replace(SHIPPED, shipment_id="s2"),
    CAPTURED,
    replace(CAPTURED, payment_id="o-1/capture/s2"),
    OrderAmended(
        order_id=ORDER,
        amendment_id="a1",
        version=2,
        released=True,
        lines=(AmendedLine(line_id=LineId("l1"), sku=Sku("tea"), units=1, cancelled_units=1, amounts=WORTH),),
    ),
    CreditGranted(
        order_id=ORDER,
        credit_id="c1",
        cause=CreditCause.RETURN,
        lines=(CreditLine(line_id=LineId("l1"), sku=Sku("tea"), units=1, amounts=WORTH),),
        currency="EUR",
        total=Money(minor=1190, currency="EUR"),
        origin=Origin.US,
    ),
    RefundRecorded(
        **COMMON,
        refund_id="c1/refund",
        credit_id="c1",
        amount=Money(minor=1190, currency="EUR"),
        origin=Origin.US,
    ),
)
DOCUMENTS = {
    "sales_order/o-1/1",
    "sales_order_change/o-1/a1",
    "delivery/o-1/s1",
    "delivery/o-1/s2",
    "invoice/o-1/s1",
    "invoice/o-1/s2",
    "payment/o-1/o-1/capture/s1",
    "payment/o-1/o-1/capture/s2",
    "credit_memo/o-1/c1",
    "refund/o-1/c1/refund",
}
#: Document → what must stand in the books before it (any of them).
PREDECESSORS = {
    "sales_order_change/o-1/a1": {"sales_order/o-1/1"},
    "delivery/o-1/s1": {"sales_order/o-1/1"},
    "delivery/o-1/s2": {"sales_order/o-1/1"},
    "invoice/o-1/s1": {"delivery/o-1/s1"},
    "invoice/o-1/s2": {"delivery/o-1/s2"},
    "credit_memo/o-1/c1": {"invoice/o-1/s1", "invoice/o-1/s2"},
}
MONEY_PREDECESSORS = {
    "payment/o-1/o-1/capture/s1": {"invoice/o-1/s1", "invoice/o-1/s2"},
    "payment/o-1/o-1/capture/s2": {"invoice/o-1/s1", "invoice/o-1/s2"},
    "refund/o-1/c1/refund": {"invoice/o-1/s1", "invoice/o-1/s2"},
}


class ModelErp:
    """Takes whatever it is sent, twice if it must.

    The port's promise: it looks up before a new attempt, and after a restart it does nothing but look up.
    """

    def __init__(self) -> None:
        self.booked: list[str] = []

    def call(self, call: PostDocument, fate: str, *, fresh: bool) -> ErpAnswered:
        doubtful = call.attempt > 1 or not fresh
        if fate == "away" and fresh:
            return ErpAnswered(call.call_id, Unavailable("503"))
        if doubtful and fate != "away" and call.reference in self.booked:
            return ErpAnswered(call.call_id, Posted("found", existed=True))
        if not fresh:
            return ErpAnswered(call.call_id, UnknownOutcome("not found"))
        if fate == "refused":
            return ErpAnswered(call.call_id, Refused("no", ""))
        if fate != "lost_request":
            self.booked.append(call.reference)
        if fate in ("lost_request", "lost_answer"):
            return ErpAnswered(call.call_id, UnknownOutcome("reset"))
        return ErpAnswered(call.call_id, Posted("new", existed=False))


class Run:
    """One chain, its ERP and a clock, with the invariants asserted after every step."""

    def __init__(self) -> None:
        policy = Policy(default_erp="cloud")
        self.spec = Specification(decide=partial(decide, policy=policy), evolve=evolve)
        self.erp = ModelErp()
        self.now: datetime = T0
        self.posted: list[str] = []
        self.failed: list[str] = []
        self.fresh = True

    def do(self, command: object) -> None:
        outcome = self.spec.when(command, now=self.now)
        assert outcome.rejection is None
        assert outcome.events
        self.posted += [event.business_key for event in outcome.all(ErpDocumentPosted)]
        self.failed += [event.business_key for event in outcome.all(ErpDocumentFailed)]
        before = calls(self.spec.state)
        self.spec = outcome.specification
        if calls(self.spec.state) != before:
            self.fresh = True
        self.check()

    def check(self) -> None:
        state = self.spec.state
        assert max(Counter(self.erp.booked).values(), default=0) <= 1, "a document was posted twice"
        assert max(Counter(self.posted + self.failed).values(), default=0) <= 1
        outstanding = calls(state)
        assert len(outstanding) <= 1
        if state is None:
            return
        assert ChainState.from_avro(state.to_avro()) == state
        assert state.pending or "remove" in state.timers, "a chain at rest is forgotten one day"
        # Nothing is ever stuck: what is not on its way has a timer that looks at it again.
        assert not state.pending or outstanding or {"retry", "predecessor"} & set(state.timers)

    def answer(self, fate: str) -> None:
        for call in calls(self.spec.state):
            self.do(self.erp.call(call, fate, fresh=self.fresh))

    def crash_after_calling(self, fate: str) -> None:
        """The call was made, its answer died with the process; the restored one starts it again."""
        for call in calls(self.spec.state):
            self.erp.call(call, fate, fresh=self.fresh)
            self.fresh = False
            self.check()

    def retry(self) -> None:
        due = self.spec.state.timers.get("retry") if self.spec.state else None
        if due is not None:
            self.now = max(self.now, due)
            self.do(TimerFired("retry", due))

    def drain(self) -> None:
        while calls(self.spec.state) or "retry" in self.spec.state.timers:
            self.retry()
            self.answer("posted")


STEPS = st.lists(
    st.sampled_from(
        ["fact", "fact", "duplicate", "posted", "away", "lost_answer", "lost_request", "crash", "retry"]
    ),
    max_size=40,
)


def run_through(order: list[object], steps: list[str], refusals: frozenset[int] = frozenset()) -> Run:
    run, coming, seen = Run(), list(order), []
    for number, step in enumerate(steps):
        run.now += timedelta(seconds=1)
        if step == "fact" and coming:
            seen.append(coming.pop(0))
            run.do(seen[-1])
        elif step == "duplicate" and seen:
            run.do(seen[number % len(seen)])
        elif step == "crash":
            run.crash_after_calling("posted")
        elif step == "retry":
            run.retry()
        elif step in ("posted", "away", "lost_answer", "lost_request"):
            run.answer("refused" if number in refusals else step)
    for fact in coming:
        run.do(fact)
    run.drain()
    return run


@settings(max_examples=150, deadline=None)
@given(order=st.permutations(FACTS), steps=STEPS)
def test_every_interleaving_posts_each_document_once_and_after_its_predecessor(order, steps):
    run = run_through(order, steps)
    assert {reference.removesuffix("@1") for reference in run.erp.booked} == DOCUMENTS
    assert sorted(run.posted) == sorted(DOCUMENTS)
    assert run.failed == []
    booked: set[str] = set()
    for key in run.posted:
        before = {**PREDECESSORS, **MONEY_PREDECESSORS}.get(key)
        assert before is None or before & booked, f"{key} before {before}"
        booked.add(key)
    assert run.spec.state.pending == ()


@settings(max_examples=150, deadline=None)
@given(
    order=st.permutations(FACTS),
    steps=STEPS,
    refusals=st.frozensets(st.integers(min_value=0, max_value=39), max_size=8),
)
def test_every_document_is_posted_or_failed_exactly_once_and_nothing_follows_a_failed_one(
    order, steps, refusals
):
    run = run_through(order, steps, refusals)
    assert sorted(run.posted + run.failed) == sorted(DOCUMENTS)
    for key, before in PREDECESSORS.items():
        assert key not in run.posted or before & set(run.posted), f"{key} follows what failed"
    assert run.spec.state.pending == ()
