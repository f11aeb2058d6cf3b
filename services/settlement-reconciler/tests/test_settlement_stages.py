"""Settlement of orders and of files, as given / when / then."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from crossdock_canonical.decider import Ignored, TimerFired
from crossdock_canonical.identity import LineId, OrderId, Sku
from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    AmendedLine,
    ClassTotal,
    JournalLine,
    LinesMatched,
    MatchLines,
    OrderAmended,
    OrderCancelled,
    OrderLine,
    OrderReceived,
    Origin,
    PaymentKind,
    PaymentRecorded,
    RefundRecorded,
    Residual,
    SettlementDeclared,
    SettlementLine,
    SettlementProved,
    SettlementRefused,
)
from crossdock_canonical.specification import T0, Outcome, Specification
from crossdock_settlement_reconciler.decide import decide, evolve, state_key
from crossdock_settlement_reconciler.model import (
    FILES_MAX,
    RESIDUALS_LISTED_MAX,
    Forgotten,
    Policy,
    completion_name,
)
from crossdock_settlement_reconciler.state_records import OrderExpectation, SettlementProgress, Stage

ORDER = OrderId("order-1")
SETTLEMENT = "amazon/A1SELLER/7001"
SHA, OTHER_SHA = "a" * 64, "b" * 64
POLICY = Policy()
SPEC = Specification(decide=decide, evolve=evolve, arguments={"policy": POLICY})


def an_order(**changes: Any) -> OrderReceived:
    """Two jackets for 200.00 + 38.00 tax as line 1; socks for 10.00 + 1.90 as line 2."""
    order = OrderReceived(
        order_id=ORDER,
        version=1,
        channel="amazon",
        shop="A1SELLER",
        external_id="902-3159896-1390916",
        currency="EUR",
        total=Money(minor=24990, currency="EUR"),
        lines=(
            an_order_line("1", "JACKET", 20000, 3800),
            an_order_line("2", "SOCKS", 1000, 190),
        ),
        placed_at=T0,
    )
    return replace(order, **changes)


def an_order_line(line_id: str, sku: str, goods: int, tax: int, *, kit: str | None = None) -> OrderLine:
    return OrderLine(
        line_id=LineId(line_id),
        parent_line_id=kit,
        sku=Sku(sku),
        units=1,
        amounts=Amounts(currency="EUR", goods=goods, tax=tax),
    )


def a_line(number: int, label: str, amount: int | None, **changes: Any) -> SettlementLine:
    """`label` is transaction type, amount type and description, parted by bars."""
    kind, amount_type, description = (*label.split("|"), "", "")[:3]
    line = SettlementLine(
        line_no=number,
        transaction_type=kind,
        amount_type=amount_type,
        description=description,
        amount_minor=amount,
        raw_amount="12.345" if amount is None else f"{amount / 100:.2f}",
        currency="EUR",
    )
    return replace(line, **changes)


def a_batch(*lines: SettlementLine, order_id: OrderId | None = ORDER, **changes: Any) -> MatchLines:
    batch = MatchLines(
        subject=order_id or SETTLEMENT,
        settlement_id=SETTLEMENT,
        sha256=SHA,
        batch=lines[0].line_no,
        channel="amazon",
        shop="A1SELLER",
        order_id=order_id,
        lines=lines,
    )
    return replace(batch, **changes)


def matched_lines(
    batch: int, amount: int, *, lines: int = 1, sha256: str = SHA, **changes: Any
) -> LinesMatched:
    matched = LinesMatched(
        settlement_id=SETTLEMENT,
        subject="order-9",
        batch=batch,
        sha256=sha256,
        line_count=lines,
        currency="EUR",
        sum_minor=amount,
        classes=(ClassTotal(line_class="principal", amount_minor=amount, lines=lines),),
    )
    return replace(matched, **changes)


def a_declaration(
    lines: int, control: int, *, total: int | None = None, **changes: Any
) -> SettlementDeclared:
    declared = SettlementDeclared(
        settlement_id=SETTLEMENT,
        channel="amazon",
        shop="A1SELLER",
        external_id="7001",
        sha256=SHA,
        line_count=lines,
        control_sum_minor=control,
        declared_total=Money(minor=control if total is None else total, currency="EUR"),
    )
    return replace(declared, **changes)


def a_payment(amount: int, kind: PaymentKind = PaymentKind.CAPTURED) -> PaymentRecorded:
    return PaymentRecorded(
        order_id=ORDER,
        payment_id=f"payment-{amount}",
        kind=kind,
        amount=Money(minor=amount, currency="EUR"),
        origin=Origin.US,
        channel="shopify",
        shop="harbour-outfitters.example",
    )


def fire(specification: Specification, name: str) -> Outcome:
    due = specification.state.timers[name]
    return specification.when(TimerFired(name=name, due=due), now=due)


def class_amounts(matched: LinesMatched | SettlementProved) -> dict[str, int]:
    return {total.line_class: total.amount_minor for total in matched.classes}


def names(matched: LinesMatched | SettlementProved) -> list[str]:
    return [residual.name for residual in matched.residuals]


KNOWN = SPEC.after(an_order())


# Stage one: lines of an order.


def test_every_line_of_a_known_order_is_classed():
    batch = a_batch(
        a_line(1, "Order|ItemPrice|Principal", 20000, item_ref="1"),
        a_line(2, "Order|ItemPrice|Tax", 3800, item_ref="1"),
        a_line(3, "Order|ItemFees|Commission", -3000, item_ref="1"),
        a_line(4, "Order|ItemWithheldTax|MarketplaceFacilitatorTax-Principal", -3800, item_ref="1"),
        a_line(5, "Order|Promotion|Principal", -500, item_ref="1"),
        a_line(6, "Order|ItemPrice|Shipping", 399, item_ref="1"),
    )

    matched = KNOWN.when(batch).one(LinesMatched)

    assert class_amounts(matched) == {
        "principal": 20000,
        "tax": 3800,
        "shipping": 399,
        "promotion": -500,
        "fee": -3000,
        "facilitator_tax": -3800,
    }
    assert (matched.line_count, matched.sum_minor, matched.residuals) == (6, 16899, ())
    assert matched.currency == "EUR"


def test_a_batch_is_answered_once():
    batch = a_batch(a_line(1, "Order|ItemFees|Commission", -100))

    KNOWN.after(batch).when(batch).then_types(Ignored)


def test_lines_ahead_of_their_order_wait_and_are_answered_when_it_comes():
    batch = a_batch(a_line(1, "Order|ItemPrice|Principal", 23800, item_ref="1"))
    waiting = SPEC.after(batch)
    assert waiting.state.timers[f"{SHA}/1"] == T0 + POLICY.unknown_order
    waiting.when(batch).then_types(Ignored)

    outcome = waiting.when(an_order())

    assert outcome.one(LinesMatched) == KNOWN.when(batch).one(LinesMatched)
    assert f"{SHA}/1" not in outcome.state.timers
    assert outcome.state.waiting == ()


def test_lines_of_an_order_that_never_comes_become_residuals_with_an_owner():
    unknown = SPEC.after(
        a_batch(a_line(1, "Order|ItemPrice|Principal", 500), a_line(2, "Order|ItemFees|Commission", None))
    )

    outcome = fire(unknown, f"{SHA}/1")

    matched = outcome.one(LinesMatched)
    assert names(matched) == ["unknown_order", "unrepresentable_amount"]
    assert matched.classes == ()
    assert matched.sum_minor == 500
    assert all(residual.owner for residual in matched.residuals)
    late = outcome.specification.when(an_order())
    assert late.all(LinesMatched) == (), "answered once, as unknown"


@pytest.mark.parametrize(
    ("line", "residual"),
    [
        (
            a_line(4, "Order|ItemMystery|Principal", 100),
            Residual(
                name="unknown_label",
                line_no=4,
                amount_minor=100,
                raw_amount="1.00",
                detail="Order / ItemMystery / Principal",
                owner="finance-platform",
            ),
        ),
        (
            a_line(4, "Order|ItemFees|Commission", None),
            Residual(
                name="unrepresentable_amount",
                line_no=4,
                amount_minor=0,
                raw_amount="12.345",
                detail="Order / ItemFees / Commission",
                owner="channel-integration",
            ),
        ),
        (
            a_line(4, "Order|ItemPrice|Principal", 100, item_ref="77", seller_sku="OTHER"),
            Residual(
                name="ambiguous_item",
                line_no=4,
                amount_minor=100,
                raw_amount="1.00",
                detail="Order / ItemPrice / Principal / 77",
                owner="finance-platform",
            ),
        ),
    ],
)
def test_a_line_that_cannot_be_explained_is_named(line: SettlementLine, residual: Residual):
    matched = KNOWN.when(a_batch(line)).one(LinesMatched)

    assert matched.residuals == (residual,)
    assert matched.classes == ()


def test_an_item_is_found_by_its_sku_when_the_finance_code_differs():
    line = a_line(1, "Order|ItemPrice|Principal", 23800, item_ref="finance-1", seller_sku="JACKET")

    assert KNOWN.when(a_batch(line)).one(LinesMatched).residuals == ()


def test_a_sku_that_the_order_repeats_is_ambiguous_without_an_item_code():
    repeated = an_order(lines=(an_order_line("1", "SOCKS", 1000, 0), an_order_line("2", "SOCKS", 1000, 0)))
    by_sku = a_line(1, "Order|ItemPrice|Principal", 1000, seller_sku="SOCKS")
    by_code = a_line(2, "Order|ItemPrice|Principal", 1000, item_ref="2", seller_sku="SOCKS")

    matched = SPEC.after(repeated).when(a_batch(by_sku, by_code)).one(LinesMatched)

    assert [(residual.name, residual.line_no) for residual in matched.residuals] == [("ambiguous_item", 1)]


def test_the_components_of_a_kit_are_one_item():
    kit = an_order(
        lines=(an_order_line("9/1", "TENT", 700, 0, kit="9"), an_order_line("9/2", "PEGS", 300, 0, kit="9"))
    )

    matched = SPEC.after(kit).when(
        a_batch(a_line(1, "Order|ItemPrice|Principal", 1000, item_ref="9", seller_sku="TENT-KIT"))
    )

    assert matched.one(LinesMatched).residuals == ()


def test_an_item_paid_differently_is_found_and_stays_classed():
    short = a_batch(a_line(1, "Order|ItemPrice|Principal", 19000, item_ref="1"))

    outcome = KNOWN.when(short)

    matched = outcome.one(LinesMatched)
    assert names(matched) == ["amount_differs"]
    assert matched.residuals[0].amount_minor == 0
    assert class_amounts(matched) == {"principal": 19000}
    rest = a_batch(a_line(7, "Order|ItemPrice|Principal", 4800, item_ref="1"))
    assert outcome.specification.when(rest).one(LinesMatched).residuals == ()


AMENDED = OrderAmended(
    order_id=ORDER,
    amendment_id="a1",
    version=1,
    released=True,
    lines=(
        AmendedLine(
            line_id=LineId("1"),
            sku=Sku("JACKET"),
            units=1,
            cancelled_units=1,
            amounts=Amounts(currency="EUR", goods=10000, tax=1900),
        ),
    ),
)


def test_an_amendment_of_an_order_whose_first_message_was_discarded_changes_nothing():
    SPEC.when(AMENDED).then(Ignored("settlement.unknown_order", "amendment 1 of no order"))
    paid = SPEC.after(a_payment(100))
    paid.when(AMENDED).then(Ignored("settlement.unknown_order", "amendment 1 of no order"))


def test_what_an_item_should_bring_follows_amendments_and_cancellation():
    amended = KNOWN.after(AMENDED)
    paid = a_batch(a_line(1, "Order|ItemPrice|Principal", 11900, item_ref="1"))
    assert amended.when(paid).one(LinesMatched).residuals == ()

    cancelled = amended.after(
        OrderCancelled(
            order_id=ORDER,
            cancel_id="x1",
            reason_code="order.cancelled_by_channel",
            lines=(),
            complete=True,
            channel="amazon",
            shop="A1SELLER",
            external_id="902",
            origin=Origin.CHANNEL,
        )
    )
    assert names(cancelled.when(paid).one(LinesMatched)) == ["amount_differs"]


def test_an_unpriced_order_is_not_compared():
    unpriced = SPEC.after(an_order(total=None))
    line = a_line(1, "Order|ItemPrice|Principal", 5, item_ref="1")

    assert unpriced.when(a_batch(line)).one(LinesMatched).residuals == ()


def test_shopify_transactions_are_matched_with_the_ledger_line_by_line():
    refund = RefundRecorded(
        order_id=ORDER,
        refund_id="refund-1",
        amount=Money(minor=1190, currency="EUR"),
        origin=Origin.US,
        channel="shopify",
        shop="harbour-outfitters.example",
        external_id="1001",
    )
    spec = KNOWN.after(a_payment(24990), refund, a_payment(500, PaymentKind.CHARGED_BACK))
    batch = a_batch(
        a_line(1, "charge|gross", 24990, item_ref="payment-77"),
        a_line(2, "charge|fee", -750),
        a_line(3, "refund|gross", -1190),
        a_line(4, "dispute|gross", -500),
        a_line(5, "dispute|fee", -1500),
        a_line(6, "charge|gross", 24990),
        channel="shopify",
    )

    matched = spec.when(batch).one(LinesMatched)

    assert class_amounts(matched) == {
        "principal": 49980,
        "fee": -2250,
        "chargeback": -500,
        "refund": -1190,
    }
    assert [(residual.name, residual.line_no) for residual in matched.residuals] == [("amount_differs", 6)]


def test_a_foreign_amount_that_cannot_be_held_does_not_foreign_the_file():
    batch = a_batch(
        a_line(1, "charge|gross", 100), a_line(2, "charge|gross", None, currency="SEK"), channel="shopify"
    )

    assert KNOWN.when(batch).one(LinesMatched).currency == "EUR"


def test_only_money_that_moved_is_expected_in_a_settlement():
    KNOWN.when(a_payment(100, PaymentKind.AUTHORIZED)).then_types(Ignored)
    KNOWN.when(a_payment(100, PaymentKind.VOIDED)).then_types(Ignored)
    KNOWN.after(a_payment(100)).when(a_payment(100)).then_types(Ignored)
    KNOWN.when(an_order()).then_types(Ignored)


@pytest.mark.parametrize(
    ("batch", "code"),
    [
        (a_batch(a_line(1, "x", 1), subject="another"), "settlement.subject_mismatch"),
        (a_batch(a_line(1, "x", 1), order_id=OrderId("a/b")), "settlement.subject_mismatch"),
        (
            a_batch(a_line(1, "x", 1), order_id=None, settlement_id="7001", subject="7001"),
            "settlement.subject_mismatch",
        ),
        (a_batch(a_line(1, "x", 1), lines=()), "settlement.no_lines"),
        (a_batch(a_line(0, "x", 1), order_id=None), "settlement.line_out_of_range"),
    ],
)
def test_lines_that_can_never_be_matched_are_rejected(batch: MatchLines, code: str):
    SPEC.when(batch).then_rejected(code)


def test_an_order_is_forgotten_after_retention():
    fire(KNOWN, "retire").then(Forgotten())


# Stage two: one settlement.


def test_a_complete_file_proves_its_settlement():
    fees = a_batch(
        a_line(3, "ServiceFee|Cost of Advertising|TransactionTotalAmount", -150),
        a_line(4, "other-transaction|other-transaction|Current Reserve Amount", -200),
        order_id=None,
    )
    spec = SPEC.after(matched_lines(1, 1000), matched_lines(2, 500), fees)

    outcome = spec.when(a_declaration(4, 1150))

    assert outcome.one(SettlementProved) == SettlementProved(
        settlement_id=SETTLEMENT,
        channel="amazon",
        shop="A1SELLER",
        external_id="7001",
        currency="EUR",
        line_count=4,
        declared_minor=1150,
        lines_minor=1150,
        residual_minor=0,
        classes=(
            ClassTotal(line_class="principal", amount_minor=1500, lines=2),
            ClassTotal(line_class="fee", amount_minor=-150, lines=1),
            ClassTotal(line_class="reserve", amount_minor=-200, lines=1),
        ),
        residuals=(),
        journal=(
            JournalLine(account="clearing", amount_minor=1150),
            JournalLine(account="receivable", amount_minor=-1500),
            JournalLine(account="fees", amount_minor=150),
            JournalLine(account="reserves", amount_minor=200),
        ),
        sha256=SHA,
    )
    assert outcome.state.stage is Stage.PROVED
    assert set(outcome.state.timers) == {"retire"}


def test_lines_are_inert_until_all_that_are_declared_are_here():
    spec = SPEC.after(matched_lines(1, 1000), a_declaration(2, 1500))
    assert spec.state.stage is Stage.DECLARED

    assert spec.when(matched_lines(2, 500)).one(SettlementProved).lines_minor == 1500


def test_a_total_that_its_lines_do_not_reach_is_proved_with_a_named_residual():
    proved = SPEC.after(matched_lines(1, 1000)).when(a_declaration(1, 1000, total=998)).one(SettlementProved)

    assert proved.residual_minor == -2
    assert names(proved) == ["declared_differs"]
    assert JournalLine(account="residual", amount_minor=2) in proved.journal


def test_lines_without_an_order_are_answered_and_the_echo_changes_nothing():
    fee = a_batch(a_line(1, "ServiceFee|Subscription|Monthly", -3900), order_id=None)

    outcome = SPEC.when(fee)

    matched = outcome.one(LinesMatched)
    assert class_amounts(matched) == {"fee": -3900}
    outcome.specification.when(matched).then_types(Ignored)
    outcome.specification.when(fee).then_types(Ignored)


def test_a_second_declaration_of_another_file_is_refused():
    other = a_declaration(1, 900, sha256=OTHER_SHA)
    pending = SPEC.after(a_declaration(1, 1000))
    proved = pending.after(matched_lines(1, 1000))

    for spec in (pending, proved):
        refused = spec.when(other).one(SettlementRefused)
        assert (refused.sha256, refused.reason_code) == (OTHER_SHA, "settlement.contradiction")
        spec.when(a_declaration(1, 1000)).then_types(Ignored)
        spec.after(other).when(other).then_types(Ignored)


def test_a_proof_stands_whatever_comes_later():
    proved = SPEC.after(a_declaration(1, 1000), matched_lines(1, 1000))

    proved.when(matched_lines(2, 5)).then_types(Ignored)
    proved.when(matched_lines(1, 1000)).then_types(Ignored)


def test_a_file_that_contradicts_its_control_sum_is_refused_and_another_may_succeed():
    spec = SPEC.after(a_declaration(1, 1001), matched_lines(1, 1000))
    assert spec.state.stage is Stage.REFUSED
    assert spec.state.reason_code == "settlement.control_sum"
    spec.when(a_declaration(1, 1001)).then_types(Ignored)

    corrected = spec.after(matched_lines(1, 1001, sha256=OTHER_SHA))

    outcome = corrected.when(a_declaration(1, 1001, sha256=OTHER_SHA))
    assert outcome.one(SettlementProved).sha256 == OTHER_SHA


def test_lines_in_another_currency_than_the_total_never_add_up():
    spec = SPEC.after(matched_lines(1, 1000, currency="SEK"))

    assert spec.when(a_declaration(1, 1000)).one(SettlementRefused).reason_code == "settlement.control_sum"


def test_an_incomplete_file_is_refused_at_its_deadline_and_its_missing_lines_still_prove_it():
    spec = SPEC.after(a_declaration(2, 1500), matched_lines(1, 1000))

    outcome = fire(spec, completion_name(SHA))

    refused = outcome.one(SettlementRefused)
    assert (refused.reason_code, refused.detail) == ("settlement.incomplete", "1 of 2 lines arrived")
    assert outcome.specification.when(matched_lines(2, 500)).one(SettlementProved).lines_minor == 1500
    again = outcome.specification.after(a_declaration(2, 1500), now=T0 + timedelta(days=9))
    assert again.state.timers[completion_name(SHA)] == T0 + timedelta(days=9) + POLICY.incomplete


def test_lines_that_nobody_declares_are_refused_at_their_deadline():
    outcome = fire(SPEC.after(matched_lines(1, 1000)), completion_name(SHA))

    assert outcome.one(SettlementRefused).detail == "1 lines arrived without a declaration"
    assert completion_name(SHA) not in outcome.state.timers


def test_lines_of_a_file_that_lost_to_the_declared_one_are_given_up_in_silence():
    spec = SPEC.after(a_declaration(2, 1500), matched_lines(1, 900, sha256=OTHER_SHA))

    outcome = fire(spec, completion_name(OTHER_SHA))

    assert outcome.all(SettlementRefused) == ()
    assert outcome.state.files == ()


def test_residuals_beyond_the_list_stay_exact_in_sum():
    spec = SPEC
    count = RESIDUALS_LISTED_MAX + 5
    for number in range(count, 0, -1):
        residual = Residual(name="unknown_order", line_no=number, amount_minor=number, owner="order-platform")
        spec = spec.after(matched_lines(number, number, classes=(), residuals=(residual,)))

    proved = spec.when(a_declaration(count, count * (count + 1) // 2)).one(SettlementProved)

    assert len(proved.residuals) == RESIDUALS_LISTED_MAX + 1
    assert proved.residuals[-1].detail == "5 more lines"
    assert sum(residual.amount_minor for residual in proved.residuals) == proved.lines_minor
    assert [residual.line_no for residual in proved.residuals[:3]] == [1, 2, 3]


def test_files_that_pile_up_are_bounded_and_the_declared_one_stays():
    spec = SPEC.after(matched_lines(1, 1000), a_declaration(2, 1500))
    for number in range(2 * FILES_MAX):
        spec = spec.after(matched_lines(1, 1, sha256=f"{number:064}"))

    assert len(spec.state.files) == FILES_MAX
    assert len(spec.state.timers) == FILES_MAX + 1
    assert spec.when(matched_lines(2, 500)).one(SettlementProved).lines_minor == 1500


def test_a_large_file_costs_a_bit_a_line():
    spec = SPEC.after(matched_lines(100_000, 1))

    assert len(spec.state.files[0].batches) == 100_000 // 8 + 1


def test_a_settlement_is_forgotten_after_retention_unless_something_is_due():
    busy = fire(SPEC.after(a_declaration(1, 1000)), "retire")
    assert busy.all(Forgotten) == ()

    proved = SPEC.after(a_declaration(1, 1000), matched_lines(1, 1000))
    fire(proved, "retire").then(Forgotten())


# Both.


def test_state_keys_tell_the_stages_apart():
    line = a_line(1, "x", 1)

    assert state_key(a_batch(line)) == "order:order-1"
    assert state_key(an_order()) == "order:order-1"
    assert state_key(a_batch(line, order_id=None)) == f"settlement:{SETTLEMENT}"
    assert state_key(a_declaration(1, 1)) == f"settlement:{SETTLEMENT}"
    assert state_key(matched_lines(1, 1)) == f"settlement:{SETTLEMENT}"


def test_states_survive_their_encoding():
    order = SPEC.after(a_batch(a_line(1, "Order|ItemFees|x", -1)), a_payment(5)).state
    settlement = SPEC.after(matched_lines(9, 5), a_declaration(2, 5)).state

    assert OrderExpectation.from_avro(order.to_avro()) == order
    assert SettlementProgress.from_avro(settlement.to_avro()) == settlement
