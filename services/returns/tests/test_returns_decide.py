"""Returns of one order, as given / when / then."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from crossdock_canonical.decider import Ignored, TimerFired
from crossdock_canonical.identity import LineId, LocationId, OrderId, Sku
from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    Bucket,
    CreditCause,
    CreditGranted,
    CreditLine,
    CreditProposed,
    Grade,
    InspectedLine,
    OrderShipped,
    Origin,
    RefundRecorded,
    RestockReturn,
    ReturnAuthorized,
    ReturnClosed,
    ReturnDeclined,
    ReturnedLine,
    ReturnExpected,
    ReturnInspected,
    ReturnLine,
    ReturnReceived,
    ReturnRequested,
    ShippedLine,
    WarehouseLine,
)
from crossdock_canonical.specification import T0, Outcome, Specification
from crossdock_returns.decide import decide
from crossdock_returns.evolve import evolve
from crossdock_returns.model import DeadlineSet, GoodsInspected, OrderForgotten, Policy, expiry_name
from crossdock_returns.state_records import OrderReturns, RmaStatus

ORDER = OrderId("order-1")
RMA = "rma-1"
SHOP_FLOOR = LocationId("store-7")
POLICY = Policy()
JACKET, SOCKS = LineId("1"), LineId("2")


def a_shipment(shipment_id: str = "s1", *, jackets: int = 1, socks: int = 3) -> OrderShipped:
    """Jackets of 100.00 + 19.00 tax each; three pairs of socks for 10.00 + 1.90 in all."""
    lines = []
    if jackets:
        worth = Amounts(currency="EUR", goods=10000 * jackets, tax=1900 * jackets)
        lines.append(ShippedLine(line_id=JACKET, sku=Sku("JACKET"), units=jackets, amounts=worth))
    if socks:
        worth = Amounts(currency="EUR", goods=1000, discount=1, tax=190)
        lines.append(ShippedLine(line_id=SOCKS, sku=Sku("SOCKS"), units=socks, amounts=worth))
    return OrderShipped(
        order_id=ORDER,
        shipment_id=shipment_id,
        release=1,
        channel="shopify",
        shop="harbour-outfitters.example",
        external_id="1001",
        lines=tuple(lines),
        currency="EUR",
        shipped_at=T0,
    )


def a_request(*lines: tuple[LineId, int], rma_id: str = RMA, requested_at: datetime = T0) -> ReturnRequested:
    return ReturnRequested(
        order_id=ORDER,
        rma_id=rma_id,
        lines=tuple(ReturnLine(line_id=line_id, units=units) for line_id, units in lines),
        requested_at=requested_at,
    )


def a_receipt(*lines: tuple[LineId, int], receipt_id: str = "r1", rma_id: str = RMA) -> ReturnReceived:
    return ReturnReceived(
        order_id=ORDER,
        rma_id=rma_id,
        receipt_id=receipt_id,
        location=SHOP_FLOOR,
        lines=tuple(ReturnLine(line_id=line_id, units=units) for line_id, units in lines),
        received_at=T0,
    )


def an_inspection(
    *lines: tuple[LineId, int, Grade],
    inspection_id: str = "i1",
    rma_id: str = RMA,
    tender_refunded: Money | None = None,
) -> ReturnInspected:
    return ReturnInspected(
        order_id=ORDER,
        rma_id=rma_id,
        inspection_id=inspection_id,
        location=SHOP_FLOOR,
        lines=tuple(
            InspectedLine(line_id=line_id, units=units, grade=grade) for line_id, units, grade in lines
        ),
        tender_refunded=tender_refunded,
        inspected_at=T0,
    )


def a_channel_credit(units: int = 1, *, credit_id: str = "c1", **changes: object) -> CreditGranted:
    worth = Amounts(currency="EUR", goods=10000 * units, tax=1900 * units)
    credit = CreditGranted(
        order_id=ORDER,
        credit_id=credit_id,
        cause=CreditCause.CHANNEL_REFUND,
        lines=(CreditLine(line_id=JACKET, sku=Sku("JACKET"), units=units, amounts=worth),),
        currency="EUR",
        total=Money(minor=11900 * units, currency="EUR"),
        origin=Origin.CHANNEL,
    )
    return replace(credit, **changes)  # type: ignore[arg-type]


def a_channel_refund(*, refund_id: str = "shopify-refund-9", credit_id: str = "c1") -> RefundRecorded:
    return RefundRecorded(
        order_id=ORDER,
        refund_id=refund_id,
        credit_id=credit_id,
        amount=Money(minor=11900, currency="EUR"),
        origin=Origin.CHANNEL,
        channel="shopify",
        shop="harbour-outfitters.example",
        external_id="1001",
    )


SPEC = Specification(decide=decide, evolve=evolve, arguments={"policy": POLICY})
SHIPPED = SPEC.after(a_shipment())
JACKET_WORTH = Amounts(currency="EUR", goods=10000, tax=1900)


def a_jacket_line() -> ReturnedLine:
    return ReturnedLine(line_id=JACKET, sku=Sku("JACKET"), units=1, amounts=JACKET_WORTH)


def fire(specification: Specification, name: str) -> Outcome:
    due = specification.state.timers[name]
    return specification.when(TimerFired(name=name, due=due), now=due)


def test_a_return_within_window_and_quantity_is_authorized_and_expected():
    outcome = SHIPPED.when(a_request((JACKET, 1), (SOCKS, 2)))

    expires_at = T0 + POLICY.validity
    outcome.then(
        ReturnAuthorized(
            order_id=ORDER,
            rma_id=RMA,
            channel="shopify",
            external_id="1001",
            lines=(ReturnLine(line_id=JACKET, units=1), ReturnLine(line_id=SOCKS, units=2)),
            channel_lines=(ReturnLine(line_id=JACKET, units=1), ReturnLine(line_id=SOCKS, units=2)),
            expires_at=expires_at,
        ),
        ReturnExpected(
            order_id=ORDER,
            rma_id=RMA,
            lines=(
                WarehouseLine(line_id=JACKET, sku=Sku("JACKET"), units=1),
                WarehouseLine(line_id=SOCKS, sku=Sku("SOCKS"), units=2),
            ),
        ),
    )
    assert outcome.state.timers[expiry_name(RMA)] == expires_at


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (a_request((JACKET, 2)), "return.more_than_shipped"),
        (a_request((LineId("9"), 1)), "return.unknown_line"),
        (
            a_request((JACKET, 1), requested_at=T0 + POLICY.window + timedelta(seconds=1)),
            "return.window_closed",
        ),
    ],
)
def test_a_return_beyond_what_shipped_or_the_window_is_declined(request_: ReturnRequested, reason: str):
    SHIPPED.when(request_).then(ReturnDeclined(order_id=ORDER, rma_id=RMA, reason_code=reason))


def test_units_of_an_open_return_cannot_be_claimed_twice():
    claimed = SHIPPED.after(a_request((SOCKS, 2)))

    claimed.when(a_request((SOCKS, 2), rma_id="rma-2")).then(
        ReturnDeclined(order_id=ORDER, rma_id="rma-2", reason_code="return.more_than_shipped")
    )
    claimed.when(a_request((SOCKS, 1), rma_id="rma-2")).then_types(ReturnAuthorized, ReturnExpected)


def test_units_of_a_lapsed_return_can_be_claimed_again():
    lapsed = fire(SHIPPED.after(a_request((SOCKS, 3))), expiry_name(RMA))
    assert lapsed.one(ReturnClosed) == ReturnClosed(
        order_id=ORDER, rma_id=RMA, outcome="expired", returned_units=0
    )

    lapsed.specification.when(a_request((SOCKS, 3), rma_id="rma-2")).then_types(
        ReturnAuthorized, ReturnExpected
    )


def test_two_lines_of_one_request_that_name_the_same_order_line_add_up():
    SHIPPED.when(a_request((SOCKS, 2), (SOCKS, 2))).then_types(ReturnDeclined)


def test_a_request_ahead_of_its_order_waits_and_is_decided_when_goods_ship():
    waiting = SPEC.after(a_request((JACKET, 1)))
    assert waiting.state.timers["request/rma-1"] == T0 + POLICY.unknown_order

    outcome = waiting.when(a_shipment())

    assert outcome.one(ReturnAuthorized).lines == (ReturnLine(line_id=JACKET, units=1),)
    assert "request/rma-1" not in outcome.state.timers
    assert outcome.state.waiting_requests == ()


def test_a_request_whose_order_never_ships_is_declined_at_its_deadline():
    declined = fire(SPEC.after(a_request((JACKET, 1))), "request/rma-1")

    assert declined.one(ReturnDeclined).reason_code == "return.unknown_order"
    assert "request/rma-1" not in declined.state.timers


def test_goods_found_sellable_are_restocked_and_credited_and_the_return_completes():
    received = SHIPPED.after(a_request((JACKET, 1)), a_receipt((JACKET, 1)))

    outcome = received.when(an_inspection((JACKET, 1, Grade.SELLABLE)))

    assert outcome.one(RestockReturn) == RestockReturn(
        sku=Sku("JACKET"),
        order_id=ORDER,
        rma_id=RMA,
        line_id=JACKET,
        location=SHOP_FLOOR,
        units=1,
        bucket=Bucket.ON_HAND,
        ref="rma-1/i1/1/SELLABLE",
        occurred_at=T0,
    )
    assert outcome.one(CreditProposed) == CreditProposed(
        order_id=ORDER, rma_id=RMA, credit_id="rma-1/i1", lines=(a_jacket_line(),), currency="EUR"
    )
    assert outcome.one(ReturnClosed).outcome == "completed"
    assert expiry_name(RMA) not in outcome.state.timers


@pytest.mark.parametrize("grade", [Grade.DAMAGED, Grade.SCRAP, Grade.REFURBISH])
def test_goods_that_cannot_be_sold_as_they_are_go_to_damaged(grade: Grade):
    outcome = SHIPPED.when(an_inspection((JACKET, 1, grade)))

    assert outcome.one(RestockReturn).bucket is Bucket.DAMAGED
    assert outcome.one(CreditProposed).lines == (a_jacket_line(),)


def test_the_credits_of_a_line_sum_to_what_it_was_worth():
    state = SHIPPED
    credited = Amounts.zero("EUR")
    for step in ("i1", "i2", "i3"):
        outcome = state.when(an_inspection((SOCKS, 1, Grade.SELLABLE), inspection_id=step))
        credited += outcome.one(CreditProposed).lines[0].amounts
        state = outcome.specification

    assert credited == Amounts(currency="EUR", goods=1000, discount=1, tax=190)


def test_a_line_of_several_shipments_is_credited_shipment_by_shipment():
    both = SHIPPED.after(a_shipment("s2", jackets=2, socks=0))

    outcome = both.when(an_inspection((JACKET, 2, Grade.SELLABLE)))

    assert outcome.one(CreditProposed).lines[0].amounts == JACKET_WORTH + JACKET_WORTH


def test_a_blind_return_opens_its_own_authorization():
    outcome = SHIPPED.when(a_receipt((JACKET, 1)))

    assert outcome.one(ReturnAuthorized).lines == (ReturnLine(line_id=JACKET, units=1),)
    assert outcome.all(ReturnExpected) == ()
    outcome.specification.when(an_inspection((JACKET, 1, Grade.SELLABLE))).then_types(
        GoodsInspected, RestockReturn, CreditProposed, ReturnClosed, DeadlineSet
    )


def test_an_inspection_alone_is_also_the_receipt():
    done = SHIPPED.after(a_request((JACKET, 1)), an_inspection((JACKET, 1, Grade.SELLABLE)))

    late = done.when(a_receipt((JACKET, 1)))

    assert late.all(CreditProposed) == ()
    assert late.state.rmas[0].status is RmaStatus.COMPLETED


def test_goods_beyond_the_authorization_are_credited_up_to_what_shipped():
    spec = SHIPPED.after(a_request((SOCKS, 1)), a_receipt((SOCKS, 5)))

    outcome = spec.when(an_inspection((SOCKS, 5, Grade.SELLABLE)))

    assert outcome.one(RestockReturn).units == 5
    assert outcome.one(CreditProposed).lines[0].units == 3
    assert outcome.one(ReturnClosed).returned_units == 5


def test_units_inspected_ahead_of_their_shipment_are_credited_when_it_is_known():
    early = SHIPPED.after(an_inspection((JACKET, 2, Grade.SELLABLE)))

    outcome = early.when(a_shipment("s2", jackets=1, socks=0))

    credit = outcome.one(CreditProposed)
    assert credit.credit_id == "rma-1/s2"
    assert credit.lines == (a_jacket_line(),)


def test_an_inspection_of_a_line_not_known_to_have_shipped_waits_for_it():
    waiting = SPEC.after(a_shipment("s1", jackets=0), an_inspection((JACKET, 1, Grade.SELLABLE)))
    assert waiting.state.rmas == ()

    outcome = waiting.when(a_shipment("s2", jackets=1, socks=0))

    assert outcome.one(CreditProposed).lines == (a_jacket_line(),)


def test_at_the_deadline_known_lines_are_taken_and_the_unknown_ones_are_named():
    inspection = an_inspection((SOCKS, 3, Grade.SELLABLE), (JACKET, 1, Grade.SELLABLE))
    waiting = SPEC.after(a_shipment("s1", jackets=0), inspection)

    outcome = fire(waiting, "inspection/rma-1/i1")

    assert outcome.one(CreditProposed).lines[0].line_id == SOCKS
    assert outcome.one(ReturnDeclined).reason_code == "return.unknown_line"
    assert "inspection/rma-1/i1" not in outcome.state.timers


def test_a_unit_that_the_channel_refunded_first_is_linked_and_not_credited_again():
    refunded = SPEC.after(a_shipment(jackets=2), a_channel_credit(), a_channel_refund())

    outcome = refunded.when(an_inspection((JACKET, 2, Grade.SELLABLE)))

    linked, ours = outcome.all(CreditProposed)
    assert (linked.refund_id, linked.credit_id) == ("shopify-refund-9", "rma-1/i1/shopify-refund-9")
    assert (ours.refund_id, ours.credit_id) == (None, "rma-1/i1")
    assert linked.lines == ours.lines == (a_jacket_line(),)


def test_refund_and_credit_of_the_channel_link_in_either_order():
    one = SHIPPED.after(a_channel_credit(), a_channel_refund()).state
    other = SHIPPED.after(a_channel_refund(), a_channel_credit()).state

    assert one == other


@pytest.mark.parametrize(
    "credit",
    [
        a_channel_credit(origin=Origin.US, cause=CreditCause.RETURN),
        a_channel_credit(cause=CreditCause.CANCEL, invoiced=False),
        a_channel_credit(0),
    ],
)
def test_credits_that_cover_no_unit_ahead_of_its_return_change_nothing(credit: CreditGranted):
    SHIPPED.when(credit).then_types(Ignored)


def test_money_out_of_a_store_drawer_is_passed_on_with_the_credit():
    paid = Money(minor=11900, currency="EUR")

    outcome = SHIPPED.when(an_inspection((JACKET, 1, Grade.SELLABLE), tender_refunded=paid))

    assert outcome.one(CreditProposed).store_refund == paid


def test_money_out_of_a_store_drawer_is_passed_on_even_when_nothing_is_owed():
    paid = Money(minor=11900, currency="EUR")
    done = SHIPPED.after(an_inspection((JACKET, 1, Grade.SELLABLE)))

    again = an_inspection((JACKET, 1, Grade.SELLABLE), inspection_id="i2", tender_refunded=paid)

    assert done.when(again).one(CreditProposed) == CreditProposed(
        order_id=ORDER, rma_id=RMA, credit_id="rma-1/i2", lines=(), currency="EUR", store_refund=paid
    )


def test_goods_of_a_return_declined_as_late_are_restocked_but_not_credited():
    late = T0 + POLICY.window + timedelta(days=1)
    declined = SHIPPED.after(a_request((JACKET, 1), requested_at=late))

    outcome = declined.when(an_inspection((JACKET, 1, Grade.SELLABLE)))

    outcome.then_types(GoodsInspected, RestockReturn)


def test_goods_of_a_return_declined_before_its_order_was_known_are_credited():
    unknown = fire(SPEC.after(a_request((JACKET, 1))), "request/rma-1").specification

    outcome = unknown.after(a_shipment()).when(an_inspection((JACKET, 1, Grade.SELLABLE)))

    assert outcome.one(CreditProposed).lines == (a_jacket_line(),)
    assert outcome.one(ReturnClosed).outcome == "completed"


@pytest.mark.parametrize(
    "duplicate",
    [
        a_shipment(),
        a_request((JACKET, 1)),
        a_receipt((JACKET, 1)),
        an_inspection((JACKET, 1, Grade.SELLABLE)),
        a_channel_credit(),
        a_channel_refund(),
    ],
)
def test_every_input_takes_effect_once(duplicate: object):
    spec = SHIPPED.after(
        a_channel_credit(),
        a_channel_refund(),
        a_request((JACKET, 1)),
        a_receipt((JACKET, 1)),
        an_inspection((JACKET, 1, Grade.SELLABLE)),
    )

    outcome = spec.when(duplicate)

    outcome.then_types(Ignored)
    assert outcome.events[0].code == "return.duplicate"


def test_an_input_that_waits_already_is_a_duplicate():
    waiting = SPEC.after(a_receipt((JACKET, 1)))

    waiting.when(a_receipt((JACKET, 1))).then_types(Ignored)


@pytest.mark.parametrize("command", [a_request(), a_request((JACKET, 0)), a_receipt((JACKET, -1))])
def test_a_return_without_positive_quantities_is_rejected(command: object):
    SHIPPED.when(command).then_rejected("return.bad_quantity")


def test_an_order_is_forgotten_after_retention_unless_something_is_open():
    busy = fire(SHIPPED.after(a_request((JACKET, 1))), "retire").specification
    assert busy.state.timers["retire"] == T0 + 2 * POLICY.retention

    fire(SHIPPED, "retire").then(OrderForgotten())


def test_state_survives_its_encoding():
    state = SHIPPED.after(
        a_channel_credit(), a_request((JACKET, 1)), an_inspection((LineId("9"), 1, Grade.SCRAP))
    ).state

    assert OrderReturns.from_avro(state.to_avro()) == state


KIT, KIT_CUP, KIT_SPOONS = LineId("7"), LineId("7/1"), LineId("7/2")


def a_kit_shipment(*, kits: int = 2) -> OrderShipped:
    """Kits of one cup and two spoons, for 9.00 each."""
    lines = tuple(
        ShippedLine(
            line_id=line_id,
            sku=Sku(sku),
            units=kits * per_unit,
            amounts=Amounts(currency="EUR", goods=goods * kits),
            parent_line_id=KIT,
            per_unit=per_unit,
        )
        for line_id, sku, per_unit, goods in ((KIT_CUP, "CUP", 1, 500), (KIT_SPOONS, "SPOON", 2, 400))
    )
    return replace(a_shipment(), lines=lines)


def test_a_request_for_a_kit_authorises_its_components_and_tells_the_channel_the_kit():
    outcome = SPEC.after(a_kit_shipment()).when(a_request((KIT, 1)))
    authorized = outcome.one(ReturnAuthorized)
    assert [(line.line_id, line.units) for line in authorized.lines] == [(KIT_CUP, 1), (KIT_SPOONS, 2)]
    assert [(line.line_id, line.units) for line in authorized.channel_lines] == [(KIT, 1)]
    expected = outcome.one(ReturnExpected)
    assert [(line.sku, line.units) for line in expected.lines] == [("CUP", 1), ("SPOON", 2)]


def test_one_component_is_a_kit_for_the_channel():
    authorized = SPEC.after(a_kit_shipment()).when(a_request((KIT_SPOONS, 1))).one(ReturnAuthorized)
    assert [(line.line_id, line.units) for line in authorized.lines] == [(KIT_SPOONS, 1)]
    assert [(line.line_id, line.units) for line in authorized.channel_lines] == [(KIT, 1)]


def test_more_kits_than_shipped_are_declined():
    declined = SPEC.after(a_kit_shipment(kits=1)).when(a_request((KIT, 2))).one(ReturnDeclined)
    assert declined.reason_code == "return.more_than_shipped"


def test_kits_that_came_before_their_shipment_is_known_are_restocked_and_credited():
    outcome = SPEC.after(an_inspection((KIT, 1, Grade.SELLABLE))).when(a_kit_shipment())
    restocked = outcome.all(RestockReturn)
    assert [(each.line_id, each.sku, each.units) for each in restocked] == [
        (KIT_CUP, "CUP", 1),
        (KIT_SPOONS, "SPOON", 2),
    ]
    credit = outcome.one(CreditProposed)
    assert sum(line.amounts.due for line in credit.lines) == 900
