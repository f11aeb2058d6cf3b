"""What holds for an order in every world: stock, fulfilment, payments and channel that answer late, twice, badly, in any order."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from crossdock_canonical.decider import Rejected, TimerFired
from crossdock_canonical.identity import LineId, LocationId, OrderId, Sku
from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    CancelFulfillment,
    CancelRefused,
    CancelRequested,
    CapturePayment,
    ChannelLine,
    ChannelOrderReceived,
    ChannelRefundReceived,
    ChannelStatus,
    CreditProposed,
    FraudDecided,
    FraudVerdict,
    FulfillmentCancelled,
    FulfillmentLine,
    IntakeKind,
    ItemMapped,
    ItemReference,
    KitComponent,
    LinesUnfillable,
    LineUnits,
    OnShortage,
    OrderCompleted,
    OrderReleased,
    OrderShipped,
    PaymentCaptured,
    PaymentDeclined,
    PaymentRefunded,
    PaymentVoided,
    RefundFailed,
    RefundLine,
    RefundPayment,
    ReleaseStock,
    ReservationFailed,
    ReserveStock,
    ReturnedLine,
    ShipmentDispatched,
    SlipResult,
    StockReserved,
    StopFailure,
    Tender,
    TenderState,
    VoidPayment,
)
from crossdock_canonical.specification import T0
from crossdock_order_orchestrator.decide import decide
from crossdock_order_orchestrator.early import keep, recall
from crossdock_order_orchestrator.evolve import evolve
from crossdock_order_orchestrator.ledger import capturable_minor, total_minor, unsettled_minor
from crossdock_order_orchestrator.model import Policy, live_minor, live_units, open_units
from crossdock_order_orchestrator.state_records import (
    AwaitedOrderState,
    MovementKind,
    OrderState,
    Stage,
)

ORDER = OrderId("o")
KIT = ItemMapped(
    reference="sku:KIT",
    scheme="sku",
    value="KIT",
    sku=Sku("KIT"),
    components=(
        KitComponent(sku=Sku("A"), units=1, value_share=2),
        KitComponent(sku=Sku("B"), units=2, value_share=1),
    ),
)


def an_item(group: str) -> tuple[ItemMapped, ...]:
    if group == "sku:KIT":
        return (KIT,)
    name = group.removeprefix("sku:")
    return (ItemMapped(reference=group, scheme="sku", value=name, sku=Sku(name)),)


def amounts(goods: int, tax: int) -> Amounts:
    return Amounts(currency="EUR", goods=goods, tax=tax, discount=goods // 7)


def money(minor: int) -> Money:
    return Money(minor=minor, currency="EUR")


@st.composite
def snapshots(draw: st.DrawFn, *, most: int = 3, goods_first: bool = False) -> list[ChannelOrderReceived]:
    """Successive revisions of one order, each with at least one unit; payments only advance."""
    names = draw(st.lists(st.sampled_from(["A", "B", "KIT", "SERVICE"]), min_size=1, max_size=3))
    if goods_first:
        names[0] = draw(st.sampled_from(["A", "KIT"]))
    state = TenderState.PENDING
    ladder = [TenderState.PENDING, TenderState.AUTHORIZED, TenderState.CAPTURED]
    made: list[ChannelOrderReceived] = []
    for revision in range(draw(st.integers(1, most))):
        lines = []
        for number, name in enumerate(names):
            floor = 1 if number == 0 else 0
            units = draw(st.integers(floor, 3))
            lines.append(
                ChannelLine(
                    line_id=LineId(f"L{number}"),
                    items=(ItemReference(scheme="sku", value=name),),
                    units=units,
                    amounts=amounts(units * draw(st.integers(1, 999)), units * draw(st.integers(0, 99))),
                    requires_shipping=name != "SERVICE",
                )
            )
        shipping = amounts(draw(st.integers(0, 500)), 0)
        other = draw(st.integers(0, 3))
        total = sum(line.amounts.due for line in lines if line.amounts) + shipping.due + other
        state = draw(st.sampled_from(ladder[ladder.index(state) :]))
        made.append(
            ChannelOrderReceived(
                order_id=ORDER,
                channel="shopify",
                shop="shop",
                external_id="1",
                kind=IntakeKind.SNAPSHOT,
                # Two revisions may carry the same second.
                revision_at=T0 + timedelta(seconds=draw(st.integers(revision, revision + 1))),
                revision_id=f"r{revision}",
                placed_at=T0,
                currency="EUR",
                total=money(total),
                lines=tuple(lines),
                shipping=shipping,
                other_minor=other,
                tenders=(Tender(reference="card", state=state, amount=money(total)),),
            )
        )
    return made


A_CHANNEL_CANCEL = ChannelOrderReceived(
    order_id=ORDER,
    channel="shopify",
    shop="shop",
    external_id="1",
    kind=IntakeKind.CANCEL,
    revision_at=T0 + timedelta(days=1),
    revision_id="cancel",
    placed_at=T0 + timedelta(days=1),
    status=ChannelStatus.CANCELLED,
    currency="EUR",
    lines=(),
)


class World:
    """The order, and everybody who answers it. Each answerer keeps its own order; `draw` decides everything else."""

    def __init__(self, data: Any, policy: Policy) -> None:
        self.data = data
        self.policy = policy
        self.state: Any = None
        self.now: datetime = T0
        self.stock: deque[Any] = deque()
        self.fulfilment: deque[Any] = deque()
        self.payments: deque[Any] = deque()
        self.soft: dict[str, int] = {}
        self.queued: dict[str, int] = {}
        self.last_slip: dict[str, str] = {}
        self.with_router: dict[str, int] = {}
        self.asked_back: dict[str, int] = {}
        self.sequence = 0
        self.shipments = 0
        self.published: list[Any] = []

    def chance(self, label: str, most: int = 3) -> bool:
        return bool(self.data.draw(st.integers(0, most), label=label) == 0)

    def tell(self, command: Any) -> None:
        try:
            events = decide(command, self.state, now=self.now, policy=self.policy, items=an_item)
        except Rejected as rejected:
            # Only a line that the order does not have, or an over-claimed return, may be refused here.
            if rejected.code not in ("order.unknown_line", "order.credit_exceeds_shipped"):
                raise
            return
        assert events, f"{command} was answered by nothing"
        named = [
            (type(event), *(getattr(event, name) for name in event.IDENTITY))
            for event in events
            if hasattr(event, "IDENTITY")
        ]
        assert len(set(named)) == len(named), f"two events of one decision would get one id: {named}"
        for event in events:
            self.state = evolve(self.state, event)
            self.published.append(event)
            self.answer(event)
        if isinstance(command, TimerFired) and self.state is not None:
            assert self.state.timers.get(command.name) != command.due
        self.check()

    def answer(self, event: Any) -> None:
        match event:
            case ReserveStock():
                self.reserve(event)
            case ReleaseStock():
                for stop in event.lines:
                    waiting = min(stop.units, self.queued.get(stop.line_id, 0))
                    self.queued[stop.line_id] = self.queued.get(stop.line_id, 0) - waiting
                    self.soft[stop.line_id] = self.soft.get(stop.line_id, 0) - (stop.units - waiting)
                    assert self.soft[stop.line_id] >= 0, "released more than was promised"
            case OrderReleased():
                for line in event.lines:
                    self.soft[line.line_id] -= line.units
                    assert self.soft[line.line_id] >= 0, "released to fulfilment without a promise"
                    self.with_router[line.line_id] = self.with_router.get(line.line_id, 0) + line.units
            case CancelFulfillment():
                self.cancel_fulfilment(event)
            case CapturePayment():
                if self.chance("decline"):
                    self.payments.append(PaymentDeclined(order_id=ORDER, reference=event.capture_id))
                else:
                    self.payments.append(
                        PaymentCaptured(
                            order_id=ORDER,
                            capture_id=event.capture_id,
                            amount=event.amount,
                            captured_at=self.now,
                        )
                    )
            case VoidPayment():
                self.payments.append(
                    PaymentVoided(
                        order_id=ORDER, void_id=event.void_id, amount=event.amount, voided_at=self.now
                    )
                )
            case RefundPayment():
                if self.chance("refund fails"):
                    self.payments.append(RefundFailed(order_id=ORDER, refund_id=event.refund_id))
                else:
                    self.payments.append(
                        PaymentRefunded(
                            order_id=ORDER,
                            refund_id=event.refund_id,
                            amount=event.amount,
                            refunded_at=self.now,
                        )
                    )
            case _:
                pass

    def reserve(self, slip: ReserveStock) -> None:
        if slip.on_shortage is OnShortage.FAIL and self.chance("out of stock", 5):
            first = slip.lines[0]
            failure = StopFailure(line_id=first.line_id, sku=first.sku, requested=first.units, available=0)
            self.stock.append(ReservationFailed(order_id=ORDER, slip_id=slip.slip_id, failure=failure))
            return
        results = []
        for stop in slip.lines:
            short = slip.on_shortage is OnShortage.BACKORDER and self.chance("short")
            waits = self.data.draw(st.integers(1, stop.units), label="waits") if short else 0
            self.soft[stop.line_id] = self.soft.get(stop.line_id, 0) + stop.units - waits
            self.queued[stop.line_id] = self.queued.get(stop.line_id, 0) + waits
            if waits:
                self.last_slip[stop.line_id] = slip.slip_id
            results.append(
                SlipResult(
                    line_id=stop.line_id,
                    sku=stop.sku,
                    units=stop.units,
                    reserved=stop.units - waits,
                    backordered=waits,
                )
            )
        self.stock.append(StockReserved(order_id=ORDER, slip_id=slip.slip_id, lines=tuple(results)))

    def serve_queue(self) -> None:
        """Stock came in: the sku serves one queued line, and says so, perhaps before the slip's last stop answers."""
        for line_id, waiting in self.queued.items():
            if waiting:
                self.sequence += 1
                self.queued[line_id] = 0
                self.soft[line_id] = self.soft.get(line_id, 0) + waiting
                result = SlipResult(line_id=LineId(line_id), sku=Sku("A"), units=waiting, reserved=waiting)
                served = StockReserved(
                    order_id=ORDER,
                    slip_id=self.last_slip[line_id],
                    lines=(result,),
                    backfill=True,
                    sequence=self.sequence,
                )
                if self.chance("overtakes", 1):
                    self.stock.appendleft(served)
                else:
                    self.stock.append(served)
                return

    def cancel_fulfilment(self, command: CancelFulfillment) -> None:
        taken, refused = [], []
        for line in command.lines:
            units = min(line.units, self.with_router.get(line.line_id, 0))
            back = 0 if self.chance("refuse", 1) else units
            self.with_router[line.line_id] = self.with_router.get(line.line_id, 0) - back
            if back:
                taken.append(replace(line, units=back))
            if line.units - back:
                refused.append(replace(line, units=line.units - back))
        if taken:
            self.fulfilment.append(
                FulfillmentCancelled(order_id=ORDER, cancel_id=command.cancel_id, lines=tuple(taken))
            )
        if refused:
            self.fulfilment.append(
                CancelRefused(order_id=ORDER, cancel_id=command.cancel_id, lines=tuple(refused))
            )

    def work(self) -> None:
        """Fulfilment ships some of what it has, all of it, or gives it up."""
        lines = []
        for line_id, units in self.with_router.items():
            if units == 0:
                continue
            part = self.data.draw(st.integers(0, units), label="ships") if self.chance("part") else units
            if part:
                self.with_router[line_id] -= part
                lines.append(FulfillmentLine(line_id=LineId(line_id), sku=Sku("A"), units=part))
        if not lines:
            return
        self.shipments += 1
        if self.chance("unfillable", 4):
            attempt = f"attempt-{self.shipments}"
            self.fulfilment.append(LinesUnfillable(order_id=ORDER, attempt_id=attempt, lines=tuple(lines)))
            return
        self.fulfilment.append(
            ShipmentDispatched(
                order_id=ORDER,
                fulfillment_order_id=f"{ORDER}/1",
                shipment_id=f"s{self.shipments}",
                release=1,
                location=LocationId("dc"),
                lines=tuple(lines),
                dispatched_at=self.now,
            )
        )

    def next_timer(self) -> str | None:
        timers = self.state.timers if self.state is not None else {}
        return min(timers, key=lambda name: (timers[name], name), default=None)

    def fire_next_timer(self) -> None:
        name = self.next_timer()
        if name is None:
            return
        due = self.state.timers[name]
        self.now = max(self.now, due)
        self.tell(TimerFired(name=name, due=due))

    def quiet(self) -> bool:
        return not (self.stock or self.fulfilment or self.payments)

    def check(self) -> None:
        state = self.state
        if state is None:
            return
        assert state.timers, "nobody has a next step"
        if isinstance(state, AwaitedOrderState):
            return
        for line in state.lines:
            parts = (line.cancelled, line.waiting, line.soft, line.released, line.shipped)
            assert min(*parts, line.queued, line.asked, line.unclaimed) >= 0, line
            assert line.units == sum(parts), line
            assert line.queued <= line.waiting, line
            assert line.unclaimed <= line.credited <= line.shipped, line
            assert 0 <= line.withdrawn <= line.cancelled, line
            assert 0 <= line.refunded <= line.released, line
            if open_units(line) == 0:
                assert line.open_amounts == Amounts.zero("EUR"), line
        for tender in state.tenders:
            assert live_minor(tender) >= 0, tender
            captures = unsettled_minor(state, MovementKind.CAPTURE, tender.reference)
            voids = unsettled_minor(state, MovementKind.VOID, tender.reference)
            # Unless the channel took the money while we were asking for it: a fact may cross a request.
            if tender.state is TenderState.AUTHORIZED:
                assert captures + voids <= live_minor(tender), tender
            pending = unsettled_minor(state, MovementKind.REFUND, tender.reference)
            assert tender.refunded + pending <= tender.captured + tender.promised, tender
        if state.stage is not Stage.OPEN:
            assert all(open_units(line) == 0 for line in state.lines), "closed with open units"
            assert state.delivery is None
        if self.quiet() and not state.slip_id:
            for line in state.lines:
                if line.routed:
                    assert line.soft == self.soft.get(line.line_id, 0), "our promise is not inventory's"
                    assert line.queued == self.queued.get(line.line_id, 0)
                    assert line.released == self.with_router.get(line.line_id, 0)


POLICIES = st.sampled_from(
    [
        Policy(fraud_threshold_minor={"EUR": 4000}),
        Policy(backorder_channels=frozenset({"shopify"}), fraud_verdict_at_deadline=FraudVerdict.RELEASE),
    ]
)


def side_inputs(order: ChannelOrderReceived) -> st.SearchStrategy[Any]:
    """What people, banks, returns and the channel may say at any time."""
    line_ids = st.sampled_from([line.line_id for line in order.lines])
    units = st.integers(1, 2)
    number = st.integers(1, 3)
    worth = st.builds(amounts, st.integers(0, 900), st.integers(0, 90))
    return st.one_of(
        st.just(A_CHANNEL_CANCEL),
        st.builds(
            lambda n, lines: CancelRequested(order_id=ORDER, request_id=f"q{n}", actor="a", lines=lines),
            number,
            st.lists(st.builds(LineUnits, line_id=line_ids, units=units), max_size=2).map(tuple),
        ),
        st.builds(
            lambda n, line, u, w, extra, restock: ChannelRefundReceived(
                order_id=ORDER,
                channel="shopify",
                shop="shop",
                external_id="1",
                refund_id=f"cr{n}",
                lines=(RefundLine(line_id=line, units=u, amounts=w),),
                amount=money(w.due + extra),
                refunded_at=T0,
                restock=restock,
            ),
            number,
            line_ids,
            units,
            worth,
            st.integers(0, 300),
            st.booleans(),
        ),
        st.builds(
            lambda n, line, u, w: CreditProposed(
                order_id=ORDER,
                rma_id=f"rma{n}",
                credit_id=f"rma{n}/i",
                lines=(ReturnedLine(line_id=line, sku=Sku("A"), units=u, amounts=w),),
                currency="EUR",
            ),
            number,
            line_ids,
            units,
            worth,
        ),
        st.builds(
            lambda n, verdict: FraudDecided(
                order_id=ORDER, decision_id=f"d{n}", verdict=verdict, actor="risk"
            ),
            number,
            st.sampled_from(FraudVerdict),
        ),
    )


@settings(max_examples=1000, deadline=None)
@given(data=st.data(), policy=POLICIES, revisions=snapshots())
def test_every_order_ends_and_its_books_close_in_any_world(
    data: Any, policy: Policy, revisions: list[ChannelOrderReceived]
) -> None:
    world = World(data, policy)
    messages = [
        *revisions,
        *data.draw(st.lists(side_inputs(revisions[0]), max_size=4), label="side inputs"),
        *data.draw(st.lists(st.sampled_from(revisions), max_size=2), label="duplicates"),
    ]
    channel = deque(data.draw(st.permutations(messages), label="order of arrival"))
    steps = ("channel", "stock", "fulfilment", "payments", "work", "queue", "again")
    last: Any = None
    for step in data.draw(st.lists(st.sampled_from(steps), max_size=30), label="steps"):
        queue = {
            "channel": channel,
            "stock": world.stock,
            "fulfilment": world.fulfilment,
            "payments": world.payments,
        }.get(step)
        if queue:
            last = queue.popleft()
            world.tell(last)
        elif step == "work":
            world.work()
        elif step == "queue":
            world.serve_queue()
        elif step == "again" and last is not None:
            world.tell(last)
    # Then time passes, and everything that is under way arrives.
    for _ in range(200):
        if world.state is None and not channel:
            break
        for queue in (channel, world.stock, world.fulfilment, world.payments):
            while queue:
                world.tell(queue.popleft())
        world.work()
        if world.quiet():
            if world.next_timer() in (None, "forget"):
                break
            world.fire_next_timer()
    state = world.state
    assert isinstance(state, OrderState)
    held = {"hold:order.capture_declined", "hold:order.payment_short", "hold:order.fulfilled_elsewhere"}
    assert state.stage is not Stage.OPEN or held & set(state.timers), state
    assert not any(world.soft.values()), "a reservation outlived its order"
    assert not any(world.queued.values()), "a place in a queue outlived its order"
    shipped = [event for event in world.published if isinstance(event, OrderShipped)]
    billed = sum(
        sum(line.amounts.due for line in event.lines)
        + (event.shipping.due if event.shipping else 0)
        + event.other_minor
        for event in shipped
    )
    if state.stage is Stage.COMPLETED:
        assert billed == total_minor(state), "the parts of the order do not sum to it"
        assert sum(tender.captured for tender in state.tenders) >= billed, "shipped for nothing"
        completed = [event for event in world.published if isinstance(event, OrderCompleted)]
        assert len(completed) == 1


@settings(max_examples=1000, deadline=None)
@given(data=st.data(), revisions=snapshots(most=4, goods_first=True), cancelled=st.booleans())
def test_permuted_and_duplicated_channel_messages_converge(
    data: Any, revisions: list[ChannelOrderReceived], cancelled: bool
) -> None:
    # An order of nothing but services ships when it is paid: what comes later comes too late, and that depends on order.
    messages = [*revisions, *([A_CHANNEL_CANCEL] if cancelled else [])]
    again = data.draw(st.lists(st.sampled_from(messages), max_size=3), label="duplicates")
    shuffled = data.draw(st.permutations([*messages, *again]), label="order of arrival")
    assert essence(run(data, messages)) == essence(run(data, shuffled))


def run(data: Any, messages: list[Any]) -> OrderState:
    """The order after these messages, with every promise kept that it then asks for."""
    world = World(data, Policy(fraud_threshold_major=10**9))
    world.chance = lambda label, most=3: False  # type: ignore[method-assign]
    for message in messages:
        world.tell(message)
    while world.stock:
        world.tell(world.stock.popleft())
    assert isinstance(world.state, OrderState)
    return world.state


def essence(state: OrderState) -> Any:
    """What must not depend on the order of arrival."""
    return (
        state.stage,
        state.status,
        {
            line.line_id: (line.sku, live_units(line), line.released, line.soft, line.open_amounts)
            for line in state.lines
        },
        total_minor(state),
        [(t.reference, t.state, t.captured, capturable_minor(state, t)) for t in state.tenders],
    )


@given(
    command=st.one_of(
        snapshots(most=1).flatmap(lambda made: side_inputs(made[0])),
        st.builds(
            lambda minor: ChannelRefundReceived(
                order_id=ORDER,
                channel="shopify",
                shop="shop",
                external_id="1",
                refund_id="x",
                our_refund_id="y",
                lines=(),
                adjustment_minor=minor,
                amount=money(minor),
                refunded_at=T0,
            ),
            st.integers(0, 10**9),
        ),
    )
)
def test_what_waits_for_its_order_comes_back_whole(command: Any) -> None:
    assert recall(ORDER, keep(command)) == command


@settings(max_examples=50, deadline=None)
@given(data=st.data(), revisions=snapshots())
def test_a_state_survives_its_record(data: Any, revisions: list[ChannelOrderReceived]) -> None:
    state = run(data, revisions)
    assert OrderState.from_avro(state.to_avro()) == state
