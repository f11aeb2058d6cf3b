"""The life of an order, as given / when / then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from order_story import (
    AUTHORIZED,
    MUG,
    ORDER,
    PATIENT,
    POLICY,
    RELEASED,
    SHIRT,
    TENDER,
    a_cancel_request,
    a_channel_cancel,
    a_channel_refund,
    a_credit,
    a_line,
    an_order,
    captured,
    dispatched,
    eur,
    fire,
    parts,
    reserved,
    spec,
    timer,
    worth,
)

from crossdock_canonical.decider import Ignored
from crossdock_canonical.identity import Sku
from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    CancelFulfillment,
    CancelRefused,
    CapturePayment,
    ChannelLine,
    ChannelOrderReceived,
    ChannelStatus,
    ChargedBack,
    ConsumeStock,
    CreditCause,
    CreditGranted,
    DeliveryMethod,
    FraudDecided,
    FraudVerdict,
    FulfilledBy,
    FulfillmentCancelled,
    IntakeKind,
    ItemReference,
    LinesUnfillable,
    LineUnits,
    OnShortage,
    OrderAmended,
    OrderCancelled,
    OrderCompleted,
    OrderHeld,
    OrderReceived,
    OrderRejected,
    OrderReleased,
    OrderShipped,
    Origin,
    PaymentAuthorized,
    PaymentDeclined,
    PaymentKind,
    PaymentRecorded,
    PaymentRefunded,
    PaymentVoided,
    RefundFailed,
    RefundPayment,
    RefundRecorded,
    ReleaseStock,
    ReservationFailed,
    ReserveStock,
    SlipLine,
    StopFailure,
    Tender,
    TenderState,
    VoidPayment,
)
from crossdock_canonical.specification import T0, Specification
from crossdock_order_orchestrator.ledger import captured_minor, refunded_minor, total_minor
from crossdock_order_orchestrator.model import OrderClosed, OrderRevised, live_minor
from crossdock_order_orchestrator.state_records import AwaitedOrderState, OrderState, Stage


class TestCapturedOrder:
    def test_takes_three_messages(self) -> None:
        taken = spec().when(an_order())
        received, paid, reserve = (
            taken.one(OrderReceived),
            taken.one(PaymentRecorded),
            taken.one(ReserveStock),
        )
        assert (received.version, received.total) == (1, eur(3375))
        assert (paid.payment_id, paid.kind, paid.origin) == (TENDER, PaymentKind.CAPTURED, Origin.CHANNEL)
        assert reserve.sku == "SHIRT"
        assert [(stop.line_id, stop.units) for stop in reserve.lines] == [(SHIRT, 2), (MUG, 1)]
        assert reserve.on_shortage is OnShortage.FAIL

        released = taken.specification.when(reserved())
        release = released.one(OrderReleased)
        assert [(line.sku, line.units, line.amounts.due) for line in release.lines] == [
            ("SHIRT", 2, 2380),
            ("MUG", 1, 595),
        ]
        assert release.shipping == worth(400)

        shipped = released.specification.when(dispatched())
        shipped.then_types(OrderShipped, OrderCompleted, OrderClosed)  # nothing to capture
        completed = shipped.one(OrderCompleted)
        assert (completed.shipped_units, completed.captured) == (3, eur(3375))
        assert shipped.state.stage is Stage.COMPLETED
        assert shipped.state.delivery is None, "the recipient is not kept"

    def test_is_forgotten_after_the_retention(self) -> None:
        done = spec().after(*RELEASED, dispatched())
        assert list(done.state.timers) == ["forget"]
        assert fire(done, "forget").state is None

    @pytest.mark.parametrize("again", [an_order(), reserved(), dispatched()])
    def test_every_message_twice_changes_nothing(self, again: Any) -> None:
        done = spec().after(*RELEASED, dispatched())
        outcome = done.when(again)
        outcome.then_types(Ignored)
        assert outcome.state == done.state


class TestAuthorizedOrder:
    def test_captures_per_shipment_and_voids_nothing(self) -> None:
        released = spec().after(*AUTHORIZED)
        first = released.when(dispatched(1, L1=1))
        # One shirt 10.00 + 1.90, and the shipping charge of 4.00 with the first shipment.
        capture = first.one(CapturePayment)
        assert (capture.capture_id, capture.amount) == (f"{ORDER}/capture/s1", eur(1590))
        second = first.specification.when(dispatched(2, L1=1, L2=1))
        assert second.one(CapturePayment).amount == eur(1785)
        paid = second.specification.after(captured(f"{ORDER}/capture/s1", 1590))
        assert paid.state.stage is Stage.OPEN
        last = paid.when(captured(f"{ORDER}/capture/s2", 1785))
        assert last.one(OrderCompleted).captured == eur(3375)
        assert not last.all(VoidPayment)

    def test_voids_what_a_cancellation_leaves(self) -> None:
        short = spec().after(
            *AUTHORIZED,
            dispatched(1, L1=2),
            LinesUnfillable(order_id=ORDER, attempt_id="a1", lines=parts(L2=1)),
        )
        done = short.when(captured(f"{ORDER}/capture/s1", 2780))
        assert done.one(VoidPayment).amount == eur(595)
        assert done.one(OrderCompleted).cancelled_units == 1
        voided = done.specification.when(
            PaymentVoided(order_id=ORDER, void_id=f"{ORDER}/void/{TENDER}", amount=eur(595), voided_at=T0)
        )
        assert voided.one(PaymentRecorded).kind is PaymentKind.VOIDED
        assert live_minor(voided.state.tenders[0]) == 0

    def test_a_declined_capture_is_held_and_tried_again_a_bounded_number_of_times(self) -> None:
        state = spec().after(*AUTHORIZED, dispatched())
        capture_id = f"{ORDER}/capture/s1"
        seen = [capture_id]
        for attempt in range(1, 4):
            declined = state.when(
                PaymentDeclined(order_id=ORDER, reference=capture_id, reason="do not honour")
            )
            held = declined.one(OrderHeld)
            assert (held.reason_code, held.owner) == ("order.capture_declined", "payments")
            again = fire(declined.specification, "hold:order.capture_declined")
            if attempt == 3:
                assert not again.all(CapturePayment)
                assert again.one(OrderHeld).deadline > held.deadline
                break
            capture_id = again.one(CapturePayment).capture_id
            assert capture_id not in seen, "an answered reference is never used again"
            seen.append(capture_id)
            state = again.specification
        assert state.state.stage is Stage.OPEN

    def test_a_capture_after_a_decline_completes(self) -> None:
        state = spec().after(
            *AUTHORIZED, dispatched(), PaymentDeclined(order_id=ORDER, reference=f"{ORDER}/capture/s1")
        )
        again = fire(state, "hold:order.capture_declined")
        done = again.specification.when(captured(again.one(CapturePayment).capture_id, 3375))
        assert done.one(OrderCompleted).captured == eur(3375)
        assert "hold:order.capture_declined" not in done.state.timers

    def test_a_gift_card_pays_first(self) -> None:
        order = replace(
            an_order(),
            tenders=(
                Tender(reference="gift", state=TenderState.CAPTURED, amount=eur(1000)),
                Tender(reference=TENDER, state=TenderState.AUTHORIZED, amount=eur(2375)),
            ),
        )
        shipped = spec().after(order, reserved()).when(dispatched())
        assert shipped.one(CapturePayment).amount == eur(2375)
        assert shipped.one(CapturePayment).tender_reference == TENDER

    def test_the_channels_echo_of_our_capture_is_no_second_capture(self) -> None:
        shipped = spec().after(*AUTHORIZED, dispatched(), captured(f"{ORDER}/capture/s1", 3375))
        echo = shipped.when(an_order(revision=5))
        assert not echo.all(PaymentRecorded)
        assert captured_minor(echo.state) == 3375

    def test_a_lapsed_authorisation_makes_an_unreleased_order_unpaid(self) -> None:
        waiting = spec().after(an_order(tender=TenderState.AUTHORIZED))
        lapsed = fire(waiting, f"authorization:{TENDER}")
        assert lapsed.one(OrderHeld).reason_code == "order.unpaid"
        tender = lapsed.state.tenders[0]
        assert (tender.authorized, tender.expired) == (3375, 3375)

    def test_a_shipment_without_cover_is_held_for_payments(self) -> None:
        lapsed = fire(spec().after(*AUTHORIZED), f"authorization:{TENDER}").specification
        shipped = lapsed.when(dispatched())
        assert shipped.one(OrderHeld).reason_code == "order.payment_short"
        assert not shipped.all(CapturePayment)
        paid = shipped.specification.when(an_order(revision=5))
        paid.one(OrderCompleted)


class TestUnpaidOrder:
    def test_waits_with_stock_reserved_and_a_deadline(self) -> None:
        taken = spec().when(an_order(tender=TenderState.PENDING))
        held = taken.one(OrderHeld)
        assert (held.reason_code, held.owner, held.deadline) == (
            "order.unpaid",
            "payments",
            T0 + POLICY.unpaid_deadline,
        )
        waiting = taken.specification.when(reserved())
        assert not waiting.all(OrderReleased)
        paid = waiting.specification.when(
            PaymentAuthorized(order_id=ORDER, tender_reference=TENDER, amount=eur(3375), authorized_at=T0)
        )
        paid.one(OrderReleased)
        assert paid.one(PaymentRecorded).kind is PaymentKind.AUTHORIZED
        assert "hold:order.unpaid" not in paid.state.timers

    def test_is_rejected_at_the_deadline_and_its_stock_freed(self) -> None:
        waiting = spec().after(an_order(tender=TenderState.PENDING), reserved())
        rejected = fire(waiting, "hold:order.unpaid")
        assert rejected.one(OrderRejected).reason_code == "order.unpaid"
        assert rejected.one(ReleaseStock).lines == (
            SlipLine(line_id=SHIRT, sku=Sku("SHIRT"), units=2),
            SlipLine(line_id=MUG, sku=Sku("MUG"), units=1),
        )
        assert rejected.state.stage is Stage.REJECTED

    def test_money_that_comes_after_the_rejection_goes_back(self) -> None:
        rejected = fire(spec().after(an_order(tender=TenderState.PENDING), reserved()), "hold:order.unpaid")
        late = rejected.specification.when(an_order(revision=4))
        assert not late.all(RefundPayment), "the channel may be sending it back itself"
        assert fire(late.specification, "refund").one(RefundPayment).amount == eur(3375)

    def test_a_reservation_that_answers_after_the_rejection_is_let_go(self) -> None:
        rejected = fire(spec().after(an_order(tender=TenderState.PENDING)), "hold:order.unpaid")
        assert not rejected.all(ReleaseStock)
        answered = rejected.specification.when(reserved())
        assert [line.units for line in answered.one(ReleaseStock).lines] == [2, 1]

    def test_paid_before_created(self) -> None:
        early = PaymentAuthorized(order_id=ORDER, tender_reference=TENDER, amount=eur(3375), authorized_at=T0)
        taken = spec().after(early).when(an_order(tender=TenderState.PENDING))
        assert taken.one(PaymentRecorded).kind is PaymentKind.AUTHORIZED
        assert not taken.all(OrderHeld)


class TestMarketplaceOrder:
    def pending(self, **more: Any) -> ChannelOrderReceived:
        lines = (a_line(SHIRT, "SHIRT", 2, None),)
        fields = {"status": ChannelStatus.PENDING, "total": None, "shipping": None, "tender": None, **more}
        return an_order(*lines, channel="amazon", **fields)

    def priced(self, revision: int = 2, **more: Any) -> ChannelOrderReceived:
        line = a_line(SHIRT, "SHIRT", 2, Amounts(currency="EUR", goods=2000, facilitator_tax=380))
        return an_order(
            line, channel="amazon", revision=revision, tender=TenderState.MARKETPLACE, shipping=None, **more
        )

    def test_pending_reserves_and_waits_then_completes_with_the_amounts(self) -> None:
        taken = spec().when(self.pending())
        assert taken.one(OrderReceived).total is None
        assert taken.one(OrderHeld).reason_code == "order.pending"
        taken.one(ReserveStock)
        waiting = taken.specification.after(reserved(1, (SHIRT, "SHIRT", 2, 0)))
        priced = waiting.when(self.priced())
        again = priced.one(OrderReceived)
        assert (again.version, again.total) == (2, eur(2380))
        priced.one(OrderReleased)
        assert not priced.all(PaymentRecorded), "the marketplace settles"
        shipped = priced.specification.when(dispatched(1, L1=2))
        assert shipped.one(OrderCompleted).captured == eur(0)
        assert not shipped.all(CapturePayment)

    def test_a_pending_order_may_name_its_currency_late(self) -> None:
        waiting = spec().after(self.pending(currency=""), reserved(1, (SHIRT, "SHIRT", 2, 0)))
        assert waiting.when(self.priced()).one(OrderReleased).currency == "EUR"

    def test_a_full_snapshot_before_the_pending_one(self) -> None:
        state = spec().after(self.priced())
        state.when(self.pending()).then_types(Ignored)

    def test_fulfilled_by_the_marketplace_is_never_reserved_or_routed(self) -> None:
        afn = {"fulfilled_by": FulfilledBy.MARKETPLACE}
        taken = spec().when(self.pending(**afn))
        taken.then_types(type(taken.events[0]), OrderReceived)
        priced = taken.specification.after(self.priced(**afn))
        shipped = priced.when(self.priced(revision=3, status=ChannelStatus.SHIPPED, **afn))
        event = shipped.one(OrderShipped)
        assert (event.release, event.fulfilled_by) == (0, FulfilledBy.MARKETPLACE)
        shipped.one(OrderCompleted)
        assert not shipped.all(ReserveStock)

    def test_cancelled_while_pending(self) -> None:
        cancelled = spec().after(self.pending(), reserved(1, (SHIRT, "SHIRT", 2, 0))).when(a_channel_cancel())
        assert cancelled.one(OrderCancelled).complete
        cancelled.one(ReleaseStock)


class TestTillSale:
    def sale(self, *lines: ChannelLine, **more: Any) -> ChannelOrderReceived:
        return an_order(*lines, kind=IntakeKind.POS_SALE, channel="pos", shop="store-7", **more)

    def test_is_received_shipped_and_paid_at_once(self) -> None:
        sold = spec().when(self.sale(shipping=None, store_movement_ref="till-1"))
        paid = sold.one(PaymentRecorded)
        assert (paid.kind, paid.origin) == (PaymentKind.CAPTURED, Origin.STORE)
        assert sold.one(OrderShipped).release == 0
        sold.one(OrderCompleted)
        first, second = sold.all(ConsumeStock)
        assert (first.sku, first.units, first.ref, first.allocated) == ("SHIRT", 2, "till-1", False)
        assert (second.location, second.ref) == ("store-7", "till-1")
        assert not sold.all(ReserveStock)

    def test_one_reference_moves_a_sku_once(self) -> None:
        lines = (a_line(SHIRT, "SHIRT", 2, worth(2000)), a_line(MUG, "SHIRT", 1, worth(900)))
        sold = spec().when(self.sale(*lines, store_movement_ref="till-1"))
        assert sold.one(ConsumeStock).units == 3
        assert len(spec().when(self.sale(*lines)).all(ConsumeStock)) == 2

    def test_twice_is_once(self) -> None:
        done = spec().after(self.sale())
        done.when(self.sale()).then_types(Ignored)


class TestIntake:
    def test_a_kit_is_exploded_and_its_worth_apportioned(self) -> None:
        taken = spec().when(an_order(a_line(SHIRT, "KIT", 2, worth(1000, 191))))
        lines = taken.one(OrderReceived).lines
        assert [(line.line_id, line.parent_line_id, line.sku, line.units) for line in lines] == [
            ("L1/1", "L1", "SHIRT", 2),
            ("L1/2", "L1", "MUG", 4),
        ]
        assert [(line.amounts.goods, line.amounts.tax) for line in lines] == [(667, 127), (333, 64)]

    def test_a_case_counts_in_base_units(self) -> None:
        taken = spec().when(an_order(a_line(MUG, "CASE", 2, worth(1000))))
        assert taken.one(ReserveStock).lines == (SlipLine(line_id=MUG, sku=Sku("MUG"), units=24),)

    def test_the_first_name_that_is_mapped_decides(self) -> None:
        line = replace(
            a_line(SHIRT, "nowhere", 1, worth(100)),
            items=(ItemReference(scheme="asin", value="B0"), ItemReference(scheme="sku", value="MUG")),
        )
        assert spec().when(an_order(line)).one(OrderReceived).lines[0].sku == "MUG"

    def test_an_unknown_item_is_refused_by_name(self) -> None:
        outcome = spec().when(an_order(a_line(SHIRT, "nowhere", 1, worth(100))))
        outcome.then_rejected("order.unknown_sku")
        assert outcome.rejection is not None
        assert "sku:nowhere" in outcome.rejection.detail

    def test_a_total_that_is_not_its_parts_is_refused_with_the_difference(self) -> None:
        outcome = spec().when(an_order(total=eur(3380)))
        outcome.then_rejected("order.total_mismatch")
        assert outcome.rejection is not None
        assert "0.05 EUR" in outcome.rejection.detail

    def test_tip_duties_and_rounding_are_part_of_the_total(self) -> None:
        assert spec().when(an_order(other_minor=-1)).one(OrderReceived).total == eur(3374)

    def test_a_foreign_currency_inside_an_order_is_refused(self) -> None:
        spec().when(an_order(shipping=Amounts(currency="USD", goods=1))).then_rejected(
            "order.currency_mismatch"
        )

    @pytest.mark.parametrize("code", ["", "eur", "EURO", "E1R", "ÄÖÜ"])
    def test_amounts_in_what_is_no_currency_are_refused(self, code: str) -> None:
        amounts = Amounts(currency=code, goods=100)
        for total in (100, 101):
            outcome = spec().when(
                an_order(
                    a_line(SHIRT, "SHIRT", 2, amounts),
                    currency=code,
                    shipping=None,
                    total=Money(minor=total, currency=code),
                )
            )
            outcome.then_rejected("order.unknown_currency")

    def test_money_in_what_is_no_currency_is_refused(self) -> None:
        moved = PaymentAuthorized(
            order_id=ORDER,
            tender_reference=TENDER,
            amount=Money(minor=3375, currency="eur"),
            authorized_at=T0,
        )
        spec().after(*AUTHORIZED).when(moved).then_rejected("order.currency_mismatch")

    def test_another_currency_later_is_refused(self) -> None:
        dollars = Amounts(currency="USD", goods=100)
        changed = an_order(
            a_line(SHIRT, "SHIRT", 2, dollars),
            revision=2,
            currency="USD",
            total=Money(minor=100, currency="USD"),
            shipping=None,
            tender=None,
        )
        spec().after(an_order()).when(changed).then_rejected("order.currency_changed")

    def test_services_ship_with_the_first_shipment(self) -> None:
        order = an_order(
            a_line(SHIRT, "SHIRT", 2, worth(2000)), a_line(MUG, "MUG", 1, worth(500), requires_shipping=False)
        )
        released = spec().after(order).when(reserved(1, (SHIRT, "SHIRT", 2, 0)))
        assert [line.line_id for line in released.one(OrderReleased).lines] == [SHIRT]
        first = released.specification.when(dispatched(1, L1=1)).one(OrderShipped)
        assert [(line.line_id, line.units) for line in first.lines] == [(SHIRT, 1), (MUG, 1)]

    def test_an_order_of_services_ships_at_once(self) -> None:
        line = a_line(MUG, "MUG", 1, worth(500), requires_shipping=False)
        taken = spec().when(an_order(line))
        assert taken.one(OrderShipped).release == 0
        taken.one(OrderCompleted)
        unpaid = spec().when(an_order(line, tender=TenderState.PENDING))
        assert not unpaid.all(OrderShipped)

    def test_services_that_have_shipped_are_not_rejected_any_more(self) -> None:
        line = a_line(MUG, "MUG", 1, worth(500), requires_shipping=False)
        shipped = spec().after(an_order(line, tender=TenderState.AUTHORIZED))
        assert shipped.state.stage is Stage.OPEN, "its capture is under way"
        decided = shipped.when(
            FraudDecided(order_id=ORDER, decision_id="d1", verdict=FraudVerdict.REJECT, actor="risk")
        )
        assert not decided.all(OrderRejected)
        (capture_id,) = (movement.movement_id for movement in decided.state.movements)
        decided.specification.when(captured(capture_id, 900)).one(OrderCompleted)

    def test_an_order_that_somebody_else_fulfilled_is_not_shipped_again(self) -> None:
        taken = spec().when(an_order(status=ChannelStatus.SHIPPED))
        assert taken.one(OrderHeld).reason_code == "order.fulfilled_elsewhere"
        assert not taken.all(ReserveStock)


class TestFraud:
    BIG = an_order(a_line(SHIRT, "SHIRT", 2, worth(100_000)))

    def test_a_big_order_waits_for_a_decision(self) -> None:
        taken = spec().when(self.BIG)
        held = taken.one(OrderHeld)
        assert (held.reason_code, held.owner) == ("order.fraud_review", "risk")
        waiting = taken.specification.when(reserved(1, (SHIRT, "SHIRT", 2, 0)))
        assert not waiting.all(OrderReleased)
        cleared = waiting.specification.when(self.decision(FraudVerdict.RELEASE))
        cleared.one(OrderReleased)
        assert "hold:order.fraud_review" not in cleared.state.timers

    def decision(self, verdict: FraudVerdict) -> FraudDecided:
        return FraudDecided(order_id=ORDER, decision_id="d1", verdict=verdict, actor="risk")

    def test_a_rejection_frees_stock_and_money(self) -> None:
        waiting = spec().after(self.BIG, reserved(1, (SHIRT, "SHIRT", 2, 0)))
        rejected = waiting.when(self.decision(FraudVerdict.REJECT))
        assert rejected.one(OrderRejected).reason_code == "order.fraud_rejected"
        rejected.one(ReleaseStock)
        assert rejected.one(RefundPayment).amount == eur(100_400)
        assert rejected.one(CreditGranted).invoiced is False

    @pytest.mark.parametrize("verdict", list(FraudVerdict))
    def test_nobody_decides(self, verdict: FraudVerdict) -> None:
        policy = replace(POLICY, fraud_verdict_at_deadline=verdict)
        waiting = spec(policy).after(self.BIG, reserved(1, (SHIRT, "SHIRT", 2, 0)))
        decided = fire(waiting, "hold:order.fraud_review")
        expected = OrderReleased if verdict is FraudVerdict.RELEASE else OrderRejected
        decided.one(expected)

    def test_a_decision_before_the_order(self) -> None:
        taken = spec().after(self.decision(FraudVerdict.RELEASE)).when(self.BIG)
        assert not taken.all(OrderHeld)
        refused = spec().after(self.decision(FraudVerdict.REJECT)).when(self.BIG)
        refused.one(OrderRejected)
        assert not refused.all(ReserveStock)

    def test_a_decision_against_a_released_order_stops_what_can_be_stopped(self) -> None:
        stopped = spec().after(*RELEASED).when(self.decision(FraudVerdict.REJECT))
        assert [line.units for line in stopped.one(CancelFulfillment).lines] == [2, 1]

    def test_an_unlisted_currency_has_a_threshold_too(self) -> None:
        assert POLICY.needs_review(Money(minor=200_000, currency="SEK"))
        assert not POLICY.needs_review(Money(minor=199_999, currency="SEK"))
        assert POLICY.needs_review(Money(minor=2000, currency="JPY"))


class TestStock:
    def failed(self, slip: int = 1) -> ReservationFailed:
        return ReservationFailed(
            order_id=ORDER,
            slip_id=f"{ORDER}/reserve/{slip}",
            failure=StopFailure(line_id=MUG, sku=Sku("MUG"), requested=1, available=0),
        )

    def test_one_missing_line_cancels_the_order_and_refunds(self) -> None:
        cancelled = spec().after(an_order()).when(self.failed())
        event = cancelled.one(OrderCancelled)
        assert (event.reason_code, event.complete, event.origin) == ("order.out_of_stock", True, Origin.US)
        assert not cancelled.all(ReleaseStock), "inventory walked back itself"
        assert cancelled.one(RefundPayment).amount == eur(3375)

    def test_one_missing_line_voids_an_authorisation(self) -> None:
        cancelled = spec().after(an_order(tender=TenderState.AUTHORIZED)).when(self.failed())
        assert cancelled.one(VoidPayment).amount == eur(3375)
        assert not cancelled.all(RefundPayment)

    def test_a_backordered_line_waits_with_a_deadline_and_is_served(self) -> None:
        taken = spec(PATIENT).when(an_order())
        assert taken.one(ReserveStock).on_shortage is OnShortage.BACKORDER
        waiting = taken.specification.when(reserved(1, (SHIRT, "SHIRT", 2, 0), (MUG, "MUG", 0, 1)))
        assert waiting.one(OrderHeld).reason_code == "order.backordered"
        assert not waiting.all(OrderReleased)
        backfill = reserved(1, (MUG, "MUG", 1, 0), backfill=True, sequence=7)
        served = waiting.specification.when(backfill)
        assert len(served.one(OrderReleased).lines) == 2
        assert "hold:order.backordered" not in served.state.timers

    def test_a_backorder_that_is_not_served_is_cancelled_and_the_rest_released(self) -> None:
        waiting = spec(PATIENT).after(an_order(), reserved(1, (SHIRT, "SHIRT", 2, 0), (MUG, "MUG", 0, 1)))
        ended = fire(waiting, "hold:order.backordered")
        event = ended.one(OrderCancelled)
        assert (event.lines, event.complete) == ((LineUnits(line_id=MUG, units=1),), False)
        assert ended.one(ReleaseStock).lines == (SlipLine(line_id=MUG, sku=Sku("MUG"), units=1),)
        assert [line.line_id for line in ended.one(OrderReleased).lines] == [SHIRT]
        assert ended.one(RefundPayment).amount == eur(595)

    def test_a_queue_served_before_the_slip_answered_keeps_its_promise(self) -> None:
        """The slip travels on from the first sku, whose queue may be served before the last sku answers for all."""
        early = (
            spec(PATIENT).after(an_order()).when(reserved(1, (MUG, "MUG", 1, 0), backfill=True, sequence=7))
        )
        answered = early.specification.when(reserved(1, (SHIRT, "SHIRT", 2, 0), (MUG, "MUG", 0, 1)))
        assert not answered.all(ReleaseStock), "what was promised early must not be let go"
        assert not answered.all(OrderHeld)
        assert [line.units for line in answered.one(OrderReleased).lines] == [2, 1]

    def test_a_backfill_that_crosses_its_cancellation_is_not_let_go_twice(self) -> None:
        waiting = spec(PATIENT).after(an_order(), reserved(1, (SHIRT, "SHIRT", 2, 0), (MUG, "MUG", 0, 1)))
        ended = fire(waiting, "hold:order.backordered").specification
        crossed = ended.when(reserved(1, (MUG, "MUG", 1, 0), backfill=True, sequence=7))
        crossed.then_types(Ignored)

    def test_a_queue_that_is_served_before_the_slip_has_answered(self) -> None:
        served = spec(PATIENT).after(
            an_order(), reserved(1, (SHIRT, "SHIRT", 1, 0), backfill=True, sequence=7)
        )
        answered = served.when(reserved(1, (SHIRT, "SHIRT", 1, 1), (MUG, "MUG", 1, 0)))
        assert [line.units for line in answered.one(OrderReleased).lines] == [2, 1]

    def test_the_queue_is_let_go_before_a_promise(self) -> None:
        waiting = spec(PATIENT).after(
            an_order(a_line(SHIRT, "SHIRT", 1, worth(100))), reserved(1, (SHIRT, "SHIRT", 0, 1))
        )
        more = waiting.after(an_order(a_line(SHIRT, "SHIRT", 2, worth(200)), revision=2))
        fewer = more.after(an_order(a_line(SHIRT, "SHIRT", 1, worth(100)), revision=3))
        answered = fewer.when(reserved(2, (SHIRT, "SHIRT", 1, 0)))
        assert answered.one(ReleaseStock).lines == (SlipLine(line_id=SHIRT, sku=Sku("SHIRT"), units=1),)
        assert answered.one(OrderReleased).lines[0].units == 1

    def test_units_cancelled_under_way_are_let_go_when_the_answer_comes(self) -> None:
        cancelled = spec().after(an_order()).when(a_cancel_request(L1=1))
        assert not cancelled.all(ReleaseStock)
        answered = cancelled.specification.when(reserved())
        assert answered.one(ReleaseStock).lines == (SlipLine(line_id=SHIRT, sku=Sku("SHIRT"), units=1),)
        assert [line.units for line in answered.one(OrderReleased).lines] == [1, 1]


class TestCancellation:
    def test_by_the_channel_before_release(self) -> None:
        cancelled = spec().after(an_order(tender=TenderState.AUTHORIZED)).when(a_channel_cancel())
        event = cancelled.one(OrderCancelled)
        assert (event.complete, event.origin, event.reason_code) == (
            True,
            Origin.CHANNEL,
            "order.cancelled_by_channel",
        )
        assert cancelled.one(VoidPayment).amount == eur(3375)
        assert cancelled.state.stage is Stage.CANCELLED

    def test_before_its_order(self) -> None:
        waiting = spec().after(a_channel_cancel())
        assert isinstance(waiting.state, AwaitedOrderState)
        assert waiting.state.timers == {"await": T0 + POLICY.early_deadline}
        taken = waiting.when(an_order())
        taken.one(OrderReceived)
        assert taken.one(OrderCancelled).complete
        assert not taken.all(ReserveStock)

    def test_of_a_paid_order_lets_the_channel_refund_first(self) -> None:
        waiting = spec().after(an_order()).when(a_channel_cancel())
        assert not waiting.all(RefundPayment)
        refunded = waiting.specification.after(a_channel_refund("r1", 3375))
        assert not fire(refunded, "refund").all(RefundPayment)
        assert refunded_minor(refunded.state) == 3375

    def test_of_a_paid_order_is_refunded_by_us_when_the_channel_does_not(self) -> None:
        waiting = spec().after(an_order(), a_channel_cancel())
        refund = fire(waiting, "refund").one(RefundPayment)
        assert refund.amount == eur(3375)

    def test_after_release_asks_fulfilment(self) -> None:
        asked = spec().after(*AUTHORIZED).when(a_cancel_request(L2=1))
        command = asked.one(CancelFulfillment)
        assert not asked.all(OrderCancelled)
        done = asked.specification.when(
            FulfillmentCancelled(order_id=ORDER, cancel_id=command.cancel_id, lines=parts(L2=1))
        )
        amended, cancelled = done.one(OrderAmended), done.one(OrderCancelled)
        assert (amended.released, amended.lines[0].units, amended.lines[0].amounts) == (True, 0, worth(0))
        assert amended.amendment_id == cancelled.cancel_id
        assert not cancelled.complete
        assert not done.all(ReleaseStock), "fulfilment freed the stock"

    def test_after_release_refused_ships(self) -> None:
        asked = spec().after(*RELEASED).when(a_channel_cancel())
        command = asked.one(CancelFulfillment)
        refused = asked.specification.when(
            CancelRefused(order_id=ORDER, cancel_id=command.cancel_id, lines=command.lines)
        )
        assert refused.one(OrderHeld).reason_code == "order.cancel_refused"
        refused.specification.when(dispatched()).one(OrderCompleted)

    def test_of_everything_after_release(self) -> None:
        asked = spec().after(*AUTHORIZED).when(a_channel_cancel())
        command = asked.one(CancelFulfillment)
        done = asked.specification.when(
            FulfillmentCancelled(order_id=ORDER, cancel_id=command.cancel_id, lines=command.lines)
        )
        assert done.one(OrderCancelled).complete
        assert done.one(VoidPayment).amount == eur(3375)

    def test_of_a_part_before_release_refunds_its_worth(self) -> None:
        waiting = spec(PATIENT).after(an_order(), reserved(1, (SHIRT, "SHIRT", 2, 0), (MUG, "MUG", 0, 1)))
        cancelled = waiting.when(a_cancel_request(L1=1))
        assert cancelled.one(ReleaseStock).lines == (SlipLine(line_id=SHIRT, sku=Sku("SHIRT"), units=1),)
        assert cancelled.one(OrderAmended).lines[0].amounts == worth(1000, 190)
        assert cancelled.one(RefundPayment).amount == eur(1190)

    def test_requested_twice_is_once(self) -> None:
        state = spec().after(an_order(), a_cancel_request(L1=1))
        state.when(a_cancel_request(L1=1)).then_types(Ignored)

    def test_too_late(self) -> None:
        done = spec().after(*RELEASED, dispatched())
        done.when(a_cancel_request()).then_types(Ignored)
        assert done.when(a_channel_cancel()).state.stage is Stage.COMPLETED

    def test_of_an_unknown_line_is_refused(self) -> None:
        spec().after(an_order()).when(a_cancel_request(L9=1)).then_rejected("order.unknown_line")

    def test_an_expired_pickup_cancels(self) -> None:
        pickup = an_order(method=DeliveryMethod.PICKUP, pickup_location="store-7")
        released = spec().after(pickup, reserved())
        expiry = FulfillmentCancelled(order_id=ORDER, cancel_id="pickup-9", lines=parts(L1=2, L2=1))
        expired = released.when(expiry)
        assert expired.one(OrderCancelled).reason_code == "order.pickup_expired"
        assert expired.one(RefundPayment).amount == eur(3375)
        expired.specification.when(expiry).then_types(Ignored)

    def test_answered_in_parts_and_twice(self) -> None:
        asked = spec().after(*AUTHORIZED).when(a_cancel_request())
        cancel_id = asked.one(CancelFulfillment).cancel_id
        refused = CancelRefused(order_id=ORDER, cancel_id=cancel_id, lines=parts(L1=1, L2=1))
        taken = FulfillmentCancelled(order_id=ORDER, cancel_id=cancel_id, lines=parts(L1=1))
        there = asked.specification.after(refused, refused, taken, taken).state
        back = asked.specification.after(taken, taken, refused, refused).state
        assert [line.released for line in there.lines] == [line.released for line in back.lines] == [1, 1]
        assert there.cancels == back.cancels == ()

    def test_what_nobody_wants_any_more_is_not_reserved_again(self) -> None:
        asked = spec(PATIENT).after(*RELEASED).when(a_channel_cancel())
        command = asked.one(CancelFulfillment)
        refused = asked.specification.after(
            CancelRefused(order_id=ORDER, cancel_id=command.cancel_id, lines=command.lines)
        )
        lost = refused.when(LinesUnfillable(order_id=ORDER, attempt_id="a1", lines=parts(L1=2, L2=1)))
        assert lost.one(OrderCancelled).complete
        assert not lost.all(ReserveStock)

    def test_unfillable_lines_are_cancelled_with_credit(self) -> None:
        lost = (
            spec()
            .after(*RELEASED, dispatched(1, L1=2))
            .when(LinesUnfillable(order_id=ORDER, attempt_id="a1", lines=parts(L2=1)))
        )
        assert lost.one(OrderCancelled).reason_code == "order.out_of_stock"
        assert lost.one(CreditGranted).cause is CreditCause.CANCEL
        assert lost.one(RefundPayment).amount == eur(595)
        lost.one(OrderCompleted)

    def test_unfillable_lines_of_a_patient_channel_are_reserved_again_once(self) -> None:
        released = spec(PATIENT).after(*RELEASED, dispatched(1, L1=2))
        lost = released.when(LinesUnfillable(order_id=ORDER, attempt_id="a1", lines=parts(L2=1)))
        assert lost.one(ReserveStock).slip_id == f"{ORDER}/reserve/2"
        again = lost.specification.when(reserved(2, (MUG, "MUG", 1, 0)))
        assert again.one(OrderReleased).release == 2
        assert again.one(OrderReleased).shipping is None
        gone = again.specification.when(LinesUnfillable(order_id=ORDER, attempt_id="a2", lines=parts(L2=1)))
        gone.one(OrderCancelled)


class TestEdits:
    def edited(self, shirts: int, mugs: int, **more: Any) -> ChannelOrderReceived:
        lines = (
            a_line(SHIRT, "SHIRT", shirts, worth(1000 * shirts, 190 * shirts)),
            a_line(MUG, "MUG", mugs, worth(500 * mugs, 95 * mugs)),
        )
        return an_order(*lines, **{"revision": 3, **more})

    def test_an_older_snapshot_changes_nothing(self) -> None:
        newer = spec().after(self.edited(1, 1))
        newer.when(an_order(tender=None)).then_types(Ignored)
        assert newer.when(an_order(tender=None)).state == newer.state

    def test_an_edited_out_line_stays_with_nothing(self) -> None:
        edited = spec().after(an_order(tender=TenderState.AUTHORIZED)).when(self.edited(2, 0, tender=None))
        line = edited.state.lines[1]
        assert (line.units, line.cancelled, line.open_amounts) == (1, 1, worth(0))
        assert edited.one(OrderAmended).lines[0].units == 0
        released = edited.specification.when(reserved())
        assert [line.line_id for line in released.one(OrderReleased).lines] == [SHIRT]

    def test_a_line_that_is_left_out_is_edited_out(self) -> None:
        only = an_order(a_line(SHIRT, "SHIRT", 2, worth(2000, 380)), revision=3)
        assert spec().after(an_order()).when(only).state.lines[1].cancelled == 1

    def test_more_units_before_release_are_reserved_by_another_slip(self) -> None:
        edited = spec().after(an_order(tender=TenderState.AUTHORIZED)).when(self.edited(3, 1))
        assert edited.one(OrderReceived).total == eur(1190 * 3 + 595 + 400)
        first = edited.specification.when(reserved())
        more = first.one(ReserveStock)
        assert more.lines == (SlipLine(line_id=SHIRT, sku=Sku("SHIRT"), units=1),)
        released = first.specification.when(reserved(2, (SHIRT, "SHIRT", 1, 0)))
        assert [line.units for line in released.one(OrderReleased).lines] == [3, 1]

    def test_more_units_that_are_not_there_cancel_only_themselves(self) -> None:
        edited = spec().after(an_order(), self.edited(3, 1), reserved())
        failed = edited.when(replace(TestStock().failed(2)))
        assert failed.one(OrderCancelled).lines == (LineUnits(line_id=SHIRT, units=1),)
        assert [line.units for line in failed.one(OrderReleased).lines] == [2, 1]

    def test_a_new_line_before_release(self) -> None:
        order = an_order(a_line(SHIRT, "SHIRT", 2, worth(2000, 380)))
        edited = spec().after(order).when(self.edited(2, 1))
        assert edited.state.lines[1].waiting == 1

    def test_more_units_after_release_are_somebodys_decision(self) -> None:
        edited = spec().after(*RELEASED).when(self.edited(3, 1))
        held = edited.one(OrderHeld)
        assert (held.reason_code, held.owner) == ("order.change_after_release", "order-support")
        assert edited.state.lines[0].units == 2
        assert not edited.all(ReserveStock)

    def test_what_is_added_to_an_order_that_has_ended_is_shown_to_somebody_once(self) -> None:
        only = a_line(SHIRT, "SHIRT", 2, worth(2000, 380))
        done = spec().after(an_order(only), reserved(1, (SHIRT, "SHIRT", 2, 0)), dispatched(1, L1=2))
        assert done.state.stage is Stage.COMPLETED
        exchange = self.edited(2, 1)
        added = done.when(exchange)
        assert added.one(OrderHeld).reason_code == "order.change_after_release"
        assert not added.all(ReserveStock)
        assert total_minor(added.state) == total_minor(done.state)
        resolved = added.specification.after(
            *[timer(added.specification, "hold:order.change_after_release")[0]]
        )
        resolved.when(exchange).then_types(Ignored)
        resolved.when(replace(exchange, revision_id="r9")).then_types(OrderRevised)
        refund = replace(exchange, lines=(only,), revision_id="r91")
        resolved.when(replace(refund, total=eur(2380 + 400))).then_types(OrderRevised)
        more = self.edited(3, 1, revision=5)
        assert resolved.when(more).one(OrderHeld).reason_code == "order.change_after_release"

    def test_an_order_that_was_cancelled_takes_no_line_of_its_cancelled_snapshot(self) -> None:
        cancelled = spec().after(an_order(a_line(SHIRT, "SHIRT", 2, worth(2000, 380))), a_channel_cancel())
        assert cancelled.state.stage is Stage.CANCELLED
        again = cancelled.when(self.edited(2, 1, status=ChannelStatus.CANCELLED))
        assert again.state.lines == cancelled.state.lines

    @pytest.mark.parametrize("status", [ChannelStatus.CANCELLED, ChannelStatus.SHIPPED])
    def test_an_older_snapshot_adds_nothing_to_an_order_that_has_ended(self, status: ChannelStatus) -> None:
        only = a_line(SHIRT, "SHIRT", 2, worth(2000, 380))
        done = spec().after(an_order(only), reserved(1, (SHIRT, "SHIRT", 2, 0)), dispatched(1, L1=2))
        latest = done.when(an_order(only, tender=None, status=status, revision=5))
        assert not latest.all(OrderHeld)
        latest.specification.when(self.edited(2, 1, tender=None)).then_types(Ignored)

    def test_a_new_line_after_release_is_worth_nothing_and_its_money_goes_back(self) -> None:
        order = an_order(a_line(SHIRT, "SHIRT", 2, worth(2000, 380)))
        released = spec().after(order, reserved(1, (SHIRT, "SHIRT", 2, 0)))
        edited = released.when(self.edited(2, 1))
        assert edited.one(OrderHeld).reason_code == "order.change_after_release"
        assert captured_minor(edited.state) == 2380 + 595 + 400
        assert total_minor(edited.state) == 2380 + 400
        refunded = fire(edited.specification, "refund")
        assert refunded.one(RefundPayment).amount == eur(595)

    def test_fewer_units_after_release_ask_fulfilment_and_keep_the_channels_worth(self) -> None:
        cheaper = an_order(
            a_line(SHIRT, "SHIRT", 1, worth(1001, 190)), a_line(MUG, "MUG", 1, worth(500, 95)), revision=3
        )
        edited = spec().after(*RELEASED).when(cheaper)
        command = edited.one(CancelFulfillment)
        assert [(line.line_id, line.units) for line in command.lines] == [(SHIRT, 1)]
        done = edited.specification.when(
            FulfillmentCancelled(order_id=ORDER, cancel_id=command.cancel_id, lines=command.lines)
        )
        assert total_minor(done.state) == 1191 + 595 + 400

    def test_another_recipient_after_release_is_somebodys_decision(self) -> None:
        edited = spec().after(*RELEASED).when(an_order(revision=3, pickup_location="store-7"))
        assert edited.one(OrderHeld).reason_code == "order.change_after_release"

    def test_our_own_cancellation_comes_back_from_the_channel(self) -> None:
        state = spec().after(an_order(tender=TenderState.AUTHORIZED), a_cancel_request(L1=1))
        echoed = state.when(self.edited(1, 1, tender=TenderState.AUTHORIZED))
        assert not echoed.all(OrderCancelled)
        line = echoed.state.lines[0]
        assert (line.units, line.cancelled) == (2, 1)

    def test_the_same_second_converges(self) -> None:
        one = replace(an_order(tender=TenderState.AUTHORIZED), revision_id="a")
        two = replace(self.edited(2, 1, revision=1), revision_id="b")
        there = spec().after(one, two).state
        back = spec().after(two, one).state
        assert [line.open_amounts for line in there.lines] == [line.open_amounts for line in back.lines]
        assert captured_minor(there) == captured_minor(back) == 3375


class TestCredits:
    def shipped(self) -> Specification:
        return spec().after(*RELEASED, dispatched())

    def test_a_refund_beyond_the_goods_gives_back_first_what_was_overpaid(self) -> None:
        only = a_line(SHIRT, "SHIRT", 2, worth(2000, 380))
        done = spec().after(an_order(only), reserved(1, (SHIRT, "SHIRT", 2, 0)), dispatched(1, L1=2))
        added = (only, a_line(MUG, "MUG", 1, worth(500, 95)))
        overpaid = done.after(an_order(*added, revision=3))
        outcome = overpaid.when(a_channel_refund("77", 1190 + 595 + 50, (SHIRT, 1, worth(1000, 190))))
        unshipped, credit = outcome.all(CreditGranted)
        assert (unshipped.invoiced, unshipped.total) == (False, eur(595))
        assert (credit.invoiced, credit.total, credit.adjustment_minor) == (True, eur(1190 + 50), 50)
        assert not fire(outcome.specification, "refund").all(RefundPayment)

    def test_a_return_is_credited_and_refunded(self) -> None:
        credited = self.shipped().when(a_credit("rma-1/i1"))
        grant, refund = credited.one(CreditGranted), credited.one(RefundPayment)
        assert (grant.total, grant.cause, grant.invoiced) == (eur(1190), CreditCause.RETURN, True)
        assert (refund.refund_id, refund.amount) == ("rma-1/i1/refund", eur(1190))
        refunded = credited.specification.when(
            PaymentRefunded(order_id=ORDER, refund_id=refund.refund_id, amount=eur(1190), refunded_at=T0)
        )
        recorded = refunded.one(RefundRecorded)
        assert (recorded.origin, recorded.rma_id, recorded.credit_id) == (Origin.US, "rma-1", "rma-1/i1")

    def test_twice_is_once(self) -> None:
        state = self.shipped().after(a_credit("rma-1/i1"))
        state.when(a_credit("rma-1/i1")).then_types(Ignored)

    def test_more_than_shipped_is_refused(self) -> None:
        self.shipped().when(a_credit("rma-1/i1", 3)).then_rejected("order.credit_exceeds_shipped")

    def test_a_store_that_paid_is_recorded_and_not_paid_again(self) -> None:
        credited = self.shipped().when(a_credit("rma-1/i1", store_refund=eur(1190)))
        assert credited.one(RefundRecorded).origin is Origin.STORE
        assert not credited.all(RefundPayment)
        assert refunded_minor(credited.state) == 1190

    def test_an_even_exchange_refunds_nothing(self) -> None:
        credited = self.shipped().when(a_credit("rma-1/i1", store_refund=eur(0)))
        credited.one(CreditGranted)
        assert not credited.all(RefundRecorded)
        assert not credited.all(RefundPayment)

    def test_the_channel_refunds_first(self) -> None:
        refund = a_channel_refund("r1", 1190, (SHIRT, 1, worth(1000, 190)))
        refunded = self.shipped().when(refund)
        grant, recorded = refunded.one(CreditGranted), refunded.one(RefundRecorded)
        assert (grant.origin, grant.total, grant.lines[0].units) == (Origin.CHANNEL, eur(1190), 1)
        assert (recorded.refund_id, recorded.over_refund_minor) == ("r1", 0)
        assert not refunded.all(RefundPayment)
        later = refunded.specification.when(a_credit("rma-1/i1/r1", refund_id="r1"))
        assert not later.all(RefundPayment)
        assert not later.all(CreditGranted)
        unaware = refunded.specification.when(a_credit("rma-1/i1"))
        assert not unaware.all(RefundPayment)

    def test_the_echo_of_our_refund_may_outrun_our_own_answer(self) -> None:
        state = self.shipped().after(a_credit("rma-1/i1"))
        echo = a_channel_refund("r1", 1190, (SHIRT, 1, worth(1000, 190)), our_refund_id="rma-1/i1/refund")
        state.when(echo).then_types(Ignored)

    def test_a_channel_that_refunds_too_much_is_an_exception_on_the_books(self) -> None:
        over = self.shipped().when(a_channel_refund("r1", 4000))
        assert over.one(RefundRecorded).over_refund_minor == 625
        assert refunded_minor(over.state) == 4000

    def test_we_never_send_back_more_than_was_captured(self) -> None:
        state = self.shipped().after(a_channel_refund("r1", 3000))
        short = state.when(a_credit("rma-1/i1"))
        assert short.one(RefundPayment).amount == eur(375)
        assert short.one(OrderHeld).reason_code == "order.credit_exceeds_captured"

    def test_a_refund_of_unshipped_units_cancels_them(self) -> None:
        state = spec().after(an_order())
        refunded = state.when(a_channel_refund("r1", 595, (MUG, 1, worth(500, 95))))
        assert refunded.one(OrderCancelled).lines == (LineUnits(line_id=MUG, units=1),)
        assert refunded.one(CreditGranted).invoiced is False
        assert not fire(refunded.specification, "refund").all(RefundPayment)

    def test_a_refund_ahead_of_the_edit_that_explains_it_is_not_due_again(self) -> None:
        state = spec().after(*RELEASED, dispatched(1, L1=1))
        ahead = state.after(a_channel_refund("r1", 1190, (SHIRT, 1, worth(1000, 190)), restock=True))
        fewer = an_order(
            a_line(SHIRT, "SHIRT", 1, worth(1000, 190)), a_line(MUG, "MUG", 1, worth(500, 95)), revision=5
        )
        asked = ahead.when(fewer)
        command = asked.one(CancelFulfillment)
        done = asked.specification.after(
            FulfillmentCancelled(order_id=ORDER, cancel_id=command.cancel_id, lines=command.lines)
        )
        assert not fire(done, "refund").all(RefundPayment)
        # The shirt that left is paid: what was credited for it was for the other.
        assert (done.state.credited_minor, done.state.cancel_refunded_minor) == (0, 1190)

    def test_an_exchange_ahead_of_an_edit_pays_for_no_cancelled_unit(self) -> None:
        state = spec().after(*RELEASED, dispatched(1, L1=1))
        exchange = a_channel_refund(
            "r1", 0, (SHIRT, 1, worth(1000, 190)), adjustment_minor=-1190, restock=True
        )
        done = self.one_shirt_less(state.after(exchange))
        assert fire(done, "refund").one(RefundPayment).amount == eur(1190)

    def test_a_refund_of_what_left_pays_for_no_cancelled_unit_that_nobody_was_charged_for(self) -> None:
        state = spec().after(*AUTHORIZED, dispatched(1, L1=1), captured("order-1/capture/s1", 1590))
        refund = a_channel_refund("r1", 1190, (SHIRT, 1, worth(1000, 190)), restock=True)
        done = self.one_shirt_less(state.after(refund))
        assert (done.state.credited_minor, done.state.cancel_refunded_minor) == (1190, 0)

    def test_money_that_went_back_already_is_not_credited_and_missing_too(self) -> None:
        # All but 3.75 went back for a reason of the shop's own before half of the order turned out not to be there.
        gone = spec().after(*RELEASED, dispatched(1, L1=1), a_channel_refund("r1", 3000))
        lines = parts(L1=1, L2=1)
        done = gone.when(LinesUnfillable(order_id=ORDER, attempt_id="a1", lines=lines))
        done.one(OrderCompleted)
        assert done.one(RefundPayment).amount == eur(375)
        # 15.90 left and all was sent back: no more than that is a credit.
        assert (done.state.credited_minor, done.state.cancel_refunded_minor) == (1590, 1785)

    def test_credits_of_an_excess_have_ids_of_their_own(self) -> None:
        """An exchange of what was to be cancelled takes credit back, so that its sum comes to stand where it stood."""
        state = spec().after(
            *AUTHORIZED, a_channel_cancel(), dispatched(), captured("order-1/capture/s1", 3375)
        )
        state = state.after(a_channel_refund("r1", 2380, (SHIRT, 2, worth(2000, 380)), restock=True))
        granted: list[str] = []
        for number in (2, 3):
            even = a_channel_refund(f"r{number}", 0, (SHIRT, 1, worth(1000, 190)), adjustment_minor=-1190)
            outcome = state.when(even)
            granted += [grant.credit_id for grant in outcome.all(CreditGranted)]
            state = outcome.specification
        assert sum("/excess/" in credit_id for credit_id in granted) == 2
        assert len(granted) == len(set(granted))

    def one_shirt_less(self, state: Any) -> Any:
        """The channel edits out the shirt that did not leave, and fulfilment gives it back."""
        fewer = an_order(
            a_line(SHIRT, "SHIRT", 1, worth(1000, 190)), a_line(MUG, "MUG", 1, worth(500, 95)), revision=5
        )
        asked = state.when(fewer)
        command = asked.one(CancelFulfillment)
        return asked.specification.after(
            FulfillmentCancelled(order_id=ORDER, cancel_id=command.cancel_id, lines=command.lines)
        )

    def test_before_its_order(self) -> None:
        waiting = spec().after(a_channel_refund("r1", 595, (MUG, 1, worth(500, 95))))
        taken = waiting.when(an_order())
        assert taken.one(RefundRecorded).refund_id == "r1"
        assert [line.line_id for line in taken.one(ReserveStock).lines] == [SHIRT]

    def test_a_failed_refund_is_held_and_tried_again(self) -> None:
        state = self.shipped().after(a_credit("rma-1/i1"))
        failed = state.when(RefundFailed(order_id=ORDER, refund_id="rma-1/i1/refund"))
        assert failed.one(OrderHeld).reason_code == "order.refund_failed"
        again = fire(failed.specification, "hold:order.refund_failed")
        refund = again.one(RefundPayment)
        assert refund.refund_id == "rma-1/i1/refund/2"
        done = again.specification.when(
            PaymentRefunded(order_id=ORDER, refund_id=refund.refund_id, amount=eur(1190), refunded_at=T0)
        )
        assert done.one(RefundRecorded).credit_id == "rma-1/i1"

    def test_a_chargeback_leaves_less_to_refund(self) -> None:
        charged = self.shipped().after(
            ChargedBack(
                order_id=ORDER, chargeback_id="cb", amount=eur(3000), reason="fraud", charged_back_at=T0
            )
        )
        assert charged.when(a_credit("rma-1/i1")).one(RefundPayment).amount == eur(375)


class TestEarly:
    def test_an_order_that_never_comes_becomes_an_exception(self) -> None:
        waiting = spec().after(a_cancel_request())
        held = fire(waiting, "await")
        assert (held.one(OrderHeld).reason_code, held.one(OrderHeld).owner) == (
            "order.unknown",
            "order-support",
        )
        assert fire(held.specification, "forget").state is None
        late = held.specification.when(an_order())
        assert late.one(OrderCancelled).complete

    def test_twice_is_once(self) -> None:
        waiting = spec().after(a_cancel_request())
        waiting.when(a_cancel_request()).then_types(Ignored)

    def test_what_turns_out_wrong_does_not_stop_the_order(self) -> None:
        taken = spec().after(a_cancel_request(L9=1)).when(an_order())
        assert taken.one(OrderHeld).reason_code == "order.unknown_line"
        taken.one(ReserveStock)

    def test_an_answer_about_an_order_that_is_gone(self) -> None:
        spec().when(dispatched()).then_types(Ignored)

    def test_an_order_that_stays_open_is_looked_at_again_and_again(self) -> None:
        waiting = spec().after(an_order())
        for _ in range(2):
            overdue = fire(waiting, "hold:order.overdue")
            assert overdue.one(OrderHeld).owner == "fulfillment-operations"
            waiting = overdue.specification


def test_shipping_more_than_was_released_is_refused() -> None:
    spec().after(*RELEASED).when(dispatched(1, L1=3)).then_rejected("order.more_than_released")


def test_money_under_an_id_that_is_not_ours_is_refused() -> None:
    spec().after(*RELEASED).when(captured("somebody", 1)).then_rejected("payment.unknown_movement")


def test_a_state_is_what_its_record_says() -> None:
    state = spec(PATIENT).after(*AUTHORIZED, dispatched(1, L1=1), a_cancel_request(L2=1)).state
    assert OrderState.from_avro(state.to_avro()) == state
