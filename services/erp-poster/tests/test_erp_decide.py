"""The decider of one chain, given / when / then."""

from dataclasses import replace
from datetime import timedelta
from functools import partial

from crossdock_canonical.decider import Ignored, TimerFired
from crossdock_canonical.identity import LineId, LocationId, OrderId, Sku
from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    AmendedLine,
    Bucket,
    ClassTotal,
    CreditCause,
    CreditGranted,
    CreditLine,
    DocumentType,
    ErpDocumentFailed,
    ErpDocumentPosted,
    JournalLine,
    LineUnits,
    OrderAmended,
    OrderCancelled,
    OrderReleased,
    OrderShipped,
    Origin,
    PaymentKind,
    PaymentRecorded,
    RefundRecorded,
    ReleasedLine,
    SettlementProved,
    ShippedLine,
    StockAdjusted,
)
from crossdock_canonical.specification import T0, Specification
from crossdock_erp_poster.decide import calls, decide
from crossdock_erp_poster.evolve import evolve
from crossdock_erp_poster.model import (
    AttemptFailed,
    AttemptStarted,
    DocumentQueued,
    ErpAnswered,
    Outcome,
    Policy,
    Posted,
    PostedOnAccount,
    Refused,
    Unavailable,
    UnknownOutcome,
)
from crossdock_erp_poster.state_records import ChainState

POLICY = Policy(default_erp="cloud", erp_by_channel={"amazon": "legacy"}, adjustments_remembered=3)
SPEC = Specification(decide=partial(decide, policy=POLICY), evolve=evolve)
ORDER = OrderId("o-1")
POSTED = Posted("ERP-1", existed=False)

# 2 x 10.00 EUR, 2.00 off, 19 % seller's tax, and a facilitator's tax that is in no amount.
WORTH = Amounts(currency="EUR", goods=2000, discount=200, tax=342, facilitator_tax=90)
SHIPPING = Amounts(currency="EUR", goods=500, tax=95)

RELEASED = OrderReleased(
    order_id=ORDER,
    release=1,
    channel="shopify",
    shop="eu",
    external_id="1001",
    lines=(ReleasedLine(line_id=LineId("l1"), sku=Sku("tea"), units=2, amounts=WORTH),),
    shipping=SHIPPING,
    other_minor=7,
    currency="EUR",
)
SHIPPED = OrderShipped(
    order_id=ORDER,
    shipment_id="s1",
    release=1,
    channel="shopify",
    shop="eu",
    external_id="1001",
    lines=(ShippedLine(line_id=LineId("l1"), sku=Sku("tea"), units=2, amounts=WORTH),),
    shipping=SHIPPING,
    other_minor=7,
    currency="EUR",
    location=LocationId("berlin"),
    shipped_at=T0,
)
CAPTURED = PaymentRecorded(
    order_id=ORDER,
    payment_id=f"{ORDER}/capture/s1",
    kind=PaymentKind.CAPTURED,
    amount=Money(minor=2834, currency="EUR"),
    origin=Origin.US,
    channel="shopify",
    shop="eu",
)
CREDITED = CreditGranted(
    order_id=ORDER,
    credit_id="rma-1/i1",
    rma_id="rma-1",
    cause=CreditCause.RETURN,
    lines=(CreditLine(line_id=LineId("l1"), sku=Sku("tea"), units=2, amounts=WORTH),),
    adjustment_minor=-100,
    currency="EUR",
    total=Money(minor=2132, currency="EUR"),
    origin=Origin.US,
    invoiced=True,
)
REFUNDED = RefundRecorded(
    order_id=ORDER,
    refund_id="rma-1/i1/refund",
    credit_id="rma-1/i1",
    amount=Money(minor=2132, currency="EUR"),
    origin=Origin.US,
    channel="shopify",
    shop="eu",
    external_id="1001",
)
CANCELLED = OrderCancelled(
    order_id=ORDER,
    cancel_id="c1",
    reason_code="order.cancelled_by_us",
    lines=(LineUnits(line_id=LineId("l1"), units=2),),
    complete=True,
    channel="shopify",
    shop="eu",
    external_id="1001",
    origin=Origin.US,
)
PROVED = SettlementProved(
    settlement_id="shopify/eu/p-1",
    channel="shopify",
    shop="eu",
    external_id="p-1",
    currency="EUR",
    line_count=2,
    declared_minor=2700,
    lines_minor=2700,
    residual_minor=0,
    classes=(ClassTotal(line_class="principal", amount_minor=2700, lines=2),),
    journal=(
        JournalLine(account="clearing", amount_minor=2700),
        JournalLine(account="receivable", amount_minor=-2700),
    ),
    sha256="ab" * 32,
)


def adjusted(ref: str, version: int) -> StockAdjusted:
    return StockAdjusted(
        sku=Sku("tea"),
        location=LocationId("berlin"),
        bucket=Bucket.ON_HAND,
        delta=-3,
        version=version,
        ref=ref,
        adjusted_at=T0,
    )


def outstanding_key(specification: Specification) -> str | None:
    found = calls(specification.state)
    return found[0].document.business_key if found else None


def answered(specification: Specification, outcome: Outcome = POSTED) -> ErpAnswered:
    return ErpAnswered(calls(specification.state)[0].call_id, outcome)


def drained(specification: Specification) -> tuple[Specification, list[str]]:
    """Answer every call with a posting, and the keys in order of posting."""
    posted = []
    while (key := outstanding_key(specification)) is not None:
        posted.append(key)
        specification = specification.after(answered(specification))
    return specification, posted


def test_an_order_becomes_sales_order_delivery_invoice_and_payment_one_after_the_other():
    spec = SPEC.after(RELEASED, SHIPPED, CAPTURED)
    assert outstanding_key(spec) == "sales_order/o-1/1"
    spec, posted = drained(spec)
    assert posted == [
        "sales_order/o-1/1",
        "delivery/o-1/s1",
        "invoice/o-1/s1",
        "payment/o-1/o-1/capture/s1",
    ]
    assert spec.state.pending == ()
    assert spec.state.timers == {"remove": T0 + POLICY.retention}


def test_documents_carry_what_the_seller_may_claim_and_name_their_predecessor():
    spec = SPEC.after(RELEASED, SHIPPED)
    (sales_order,) = calls(spec.state)
    # 2000 - 200 + 342 for the line, 595 for shipping, 7 for the tip: the facilitator's 90 is in no amount.
    assert (sales_order.document.amount_minor, sales_order.document.currency) == (2744, "EUR")
    assert sum(line.net_minor + line.tax_minor for line in sales_order.document.lines) == 2744
    assert sales_order.predecessor == ""
    spec = spec.after(answered(spec))
    (delivery,) = calls(spec.state)
    assert delivery.predecessor == "sales_order/o-1/1@1"
    assert (delivery.document.amount_minor, delivery.document.currency) == (0, "")
    assert [(line.sku, line.units, line.stock_location) for line in delivery.document.lines] == [
        ("tea", 2, "berlin")
    ]
    spec = spec.after(answered(spec))
    (invoice,) = calls(spec.state)
    assert (invoice.reference, invoice.predecessor) == ("invoice/o-1/s1@1", "delivery/o-1/s1@1")
    assert invoice.document.amount_minor == 2744


def test_the_answer_is_published_with_the_erp_and_its_number():
    spec = SPEC.after(RELEASED)
    later = T0 + timedelta(seconds=3)
    posted = spec.when(answered(spec, Posted("SO-77", existed=True)), now=later).one(ErpDocumentPosted)
    assert posted == ErpDocumentPosted(
        chain="order:o-1",
        document_type=DocumentType.SALES_ORDER,
        business_key="sales_order/o-1/1",
        version=1,
        erp="cloud",
        external_ref="SO-77",
        amount=Money(minor=2744, currency="EUR"),
        order_id=ORDER,
        posted_at=later,
        existed=True,
    )


def test_a_sale_that_was_never_released_needs_no_sales_order():
    _, posted = drained(SPEC.after(replace(SHIPPED, release=0)))
    assert posted == ["delivery/o-1/s1", "invoice/o-1/s1"]


def test_a_chain_stays_with_the_erp_of_its_channel():
    spec = SPEC.after(replace(RELEASED, channel="amazon"))
    assert calls(spec.state)[0].erp == "legacy"
    moved_rule = replace(spec, decide=partial(decide, policy=replace(POLICY, erp_by_channel={})))
    spec = moved_rule.after(SHIPPED, answered(spec))
    assert calls(spec.state)[0].erp == "legacy"


def test_a_delivery_that_overtakes_its_sales_order_waits_for_it():
    spec = SPEC.after(SHIPPED)
    assert outstanding_key(spec) is None
    assert spec.state.timers == {"predecessor": T0 + POLICY.predecessor_deadline}
    spec, posted = drained(spec.after(RELEASED))
    assert posted == ["sales_order/o-1/1", "delivery/o-1/s1", "invoice/o-1/s1"]


def test_documents_whose_predecessor_never_comes_fail_at_the_deadline():
    spec = SPEC.after(SHIPPED)
    due = spec.state.timers["predecessor"]
    outcome = spec.when(TimerFired("predecessor", due), now=due)
    assert [(event.business_key, event.code) for event in outcome.all(ErpDocumentFailed)] == [
        ("delivery/o-1/s1", "erp.predecessor_missing"),
        ("invoice/o-1/s1", "erp.predecessor_failed"),
    ]
    assert outcome.state.pending == ()
    assert set(outcome.state.timers) == {"remove"}


def test_a_refused_document_takes_its_followers_with_it_but_not_the_money():
    spec = SPEC.after(RELEASED, SHIPPED, CAPTURED, CREDITED, REFUNDED)
    outcome = spec.when(answered(spec, Refused("unknown_item", "tea")))
    failed = outcome.all(ErpDocumentFailed)
    assert [(event.document_type, event.code) for event in failed] == [
        (DocumentType.SALES_ORDER, "erp.rejected"),
        (DocumentType.DELIVERY, "erp.predecessor_failed"),
        (DocumentType.INVOICE, "erp.predecessor_failed"),
        (DocumentType.CREDIT_MEMO, "erp.predecessor_failed"),
    ]
    assert failed[0].detail == "unknown_item: tea"
    spec, posted = drained(outcome.specification)
    assert posted == ["payment/o-1/o-1/capture/s1", "refund/o-1/rma-1/i1/refund"]


def test_a_refused_shipment_does_not_touch_the_other_shipment():
    second = replace(SHIPPED, shipment_id="s2", shipping=None, other_minor=0)
    spec = SPEC.after(RELEASED)
    spec = spec.after(answered(spec), SHIPPED, second)
    spec = spec.after(answered(spec, Refused("blocked", "")))
    _, posted = drained(spec)
    assert posted == ["delivery/o-1/s2", "invoice/o-1/s2"]


def test_an_outage_is_waited_out_with_capped_back_off_and_new_call_ids():
    spec, now, delays, ids = SPEC.after(RELEASED), T0, [], set()
    for _ in range(9):
        ids.add(calls(spec.state)[0].call_id)
        outcome = spec.when(answered(spec, Unavailable("503")), now=now)
        failed = outcome.one(AttemptFailed)
        delays.append((failed.retry_at - now).total_seconds())
        assert calls(outcome.state) == ()
        now = outcome.state.timers["retry"]
        assert now == failed.retry_at
        spec = outcome.specification.after(TimerFired("retry", now), now=now)
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert len(ids) == 9
    assert drained(spec)[1] == ["sales_order/o-1/1"]


def test_the_erps_own_wish_and_the_settling_time_lengthen_the_back_off():
    spec = SPEC.after(RELEASED)
    asked = spec.when(answered(spec, Unavailable("503", retry_after_s=300))).one(AttemptFailed)
    assert asked.retry_at == T0 + timedelta(seconds=300)
    unknown = spec.when(answered(spec, UnknownOutcome("reset"))).one(AttemptFailed)
    assert (unknown.retry_at, unknown.code) == (T0 + POLICY.settle, "erp.unknown_outcome")


def test_events_during_an_outage_queue_behind_the_current_document():
    spec = SPEC.after(RELEASED)
    spec = spec.after(answered(spec, Unavailable("503")), SHIPPED)
    assert calls(spec.state) == ()
    spec = spec.after(TimerFired("retry", spec.state.timers["retry"]))
    assert drained(spec)[1] == ["sales_order/o-1/1", "delivery/o-1/s1", "invoice/o-1/s1"]


def test_a_late_or_repeated_answer_changes_nothing():
    spec = SPEC.after(RELEASED, SHIPPED)
    answer = answered(spec)
    spec = spec.after(answer)
    assert outstanding_key(spec) == "delivery/o-1/s1"
    spec.when(answer).then(Ignored("erp.stale_answer", answer.call_id))
    SPEC.when(answer).then(Ignored("erp.stale_answer", answer.call_id))


def test_a_repeated_fact_changes_nothing_before_and_after_it_is_posted():
    spec = SPEC.after(RELEASED, SHIPPED)
    spec.when(SHIPPED).then_types(Ignored)
    spec, _ = drained(spec)
    later = T0 + timedelta(days=1)
    for fact in (RELEASED, SHIPPED):
        outcome = spec.when(fact, now=later)
        outcome.then_types(Ignored)
        assert outcome.events[0].code == "erp.duplicate"


def test_a_capture_follows_the_invoice_of_its_own_shipment():
    second = replace(SHIPPED, shipment_id="s2", shipping=None, other_minor=0)
    again = replace(CAPTURED, payment_id=f"{ORDER}/capture/s1/2")
    spec = SPEC.after(RELEASED, SHIPPED, second, CAPTURED, again)
    predecessors = {}
    while calls(spec.state):
        (call,) = calls(spec.state)
        predecessors[call.document.business_key] = call.predecessor
        spec = spec.after(answered(spec))
    assert predecessors["payment/o-1/o-1/capture/s1"] == "invoice/o-1/s1@1"
    assert predecessors["payment/o-1/o-1/capture/s1/2"] == "invoice/o-1/s1@1"


def test_money_that_comes_before_the_invoice_waits_for_it():
    prepaid = replace(CAPTURED, payment_id="tender-1")
    spec = SPEC.after(prepaid, RELEASED, SHIPPED)
    assert drained(spec)[1][-1] == "payment/o-1/tender-1"


def test_money_that_nobody_invoices_is_posted_on_account():
    spec = SPEC.after(CAPTURED)
    due = spec.state.timers["predecessor"]
    assert due == T0 + POLICY.on_account_after
    outcome = spec.when(TimerFired("predecessor", due), now=due)
    outcome.then_types(PostedOnAccount, AttemptStarted, type(outcome.events[-1]))
    assert calls(outcome.state)[0].predecessor == ""
    assert "predecessor" not in outcome.state.timers


def test_money_of_an_order_that_is_cancelled_completely_waits_for_nothing():
    prepaid = replace(CAPTURED, payment_id="tender-1")
    refund = replace(REFUNDED, credit_id=None, amount=prepaid.amount)
    spec = SPEC.after(prepaid)
    assert calls(spec.state) == ()
    spec, posted = drained(spec.after(CANCELLED, replace(CREDITED, invoiced=False), refund))
    assert posted == ["payment/o-1/tender-1", "refund/o-1/rma-1/i1/refund"]


def test_a_refund_is_negative_money_and_follows_its_credit_memo():
    spec, _ = drained(SPEC.after(RELEASED, SHIPPED, CAPTURED))
    spec = spec.after(CREDITED, REFUNDED)
    (memo,) = calls(spec.state)
    assert memo.document.document_type is DocumentType.CREDIT_MEMO
    assert memo.document.amount_minor == 2142 - 100
    assert sum(line.net_minor + line.tax_minor for line in memo.document.lines) == 2042
    spec = spec.after(answered(spec))
    (refund,) = calls(spec.state)
    assert (refund.document.document_type, refund.document.amount_minor) == (DocumentType.PAYMENT, -2132)


def test_facts_without_a_document_open_no_chain():
    cases = [
        (replace(CAPTURED, kind=PaymentKind.AUTHORIZED), "erp.no_money_moved"),
        (replace(CAPTURED, kind=PaymentKind.CHARGED_BACK), "erp.no_money_moved"),
        (replace(CREDITED, invoiced=False), "erp.never_invoiced"),
        (CANCELLED, "erp.not_released"),
    ]
    for fact, code in cases:
        outcome = SPEC.when(fact)
        assert [event.code for event in outcome.events] == [code]
        assert outcome.state is None


def test_changes_of_a_released_order_follow_its_sales_order():
    amended = OrderAmended(
        order_id=ORDER,
        amendment_id="a1",
        version=2,
        released=True,
        lines=(
            AmendedLine(
                line_id=LineId("l1"),
                sku=Sku("tea"),
                units=1,
                cancelled_units=1,
                amounts=WORTH.split([1, 1])[0],
            ),
        ),
    )
    partly = replace(CANCELLED, cancel_id="c1", complete=False)
    spec = SPEC.after(RELEASED)
    spec.when(partly).then(Ignored("erp.told_by_amendment", "c1"))
    spec = spec.after(partly, amended, replace(CANCELLED, cancel_id="c2"))
    assert [(line.position, line.units) for line in spec.state.pending[-2].lines] == [("l1", 1)]
    assert [(line.position, line.units) for line in spec.state.pending[-1].lines] == [("l1", 0)]
    _, posted = drained(spec)
    assert posted == [
        "sales_order/o-1/1",
        "sales_order_change/o-1/a1",
        "sales_order_change/o-1/c2",
    ]
    SPEC.when(replace(amended, released=False)).then(Ignored("erp.not_released", "a1"))


def test_a_settlement_becomes_a_balanced_journal():
    spec = SPEC.after(PROVED)
    (call,) = calls(spec.state)
    assert spec.state.chain == "settlement:shopify/eu/p-1"
    assert call.document.document_type is DocumentType.SETTLEMENT_JOURNAL
    assert call.document.amount_minor == 2700
    assert [(line.position, line.net_minor) for line in call.document.lines] == [
        ("clearing", 2700),
        ("receivable", -2700),
    ]
    corrected = spec.after(answered(spec), replace(PROVED, sha256="cd" * 32))
    assert calls(corrected.state)[0].reference != call.reference


def test_adjustments_of_a_sku_are_posted_in_order_and_remembered_within_bounds():
    spec = SPEC
    for version in range(1, 8):
        spec = spec.after(adjusted(f"count-{version}", version))
    assert calls(spec.state)[0].document.lines[0].units == -3
    spec, posted = drained(spec)
    assert posted == [f"stock_adjustment/tea/berlin/ON_HAND/count-{version}" for version in range(1, 8)]
    assert len(spec.state.settled) == POLICY.adjustments_remembered
    assert spec.state.forgotten_book_version == 4
    for version in range(1, 8):
        spec.when(adjusted(f"count-{version}", version)).then_types(Ignored)
    assert spec.when(adjusted("count-8", 8)).one(DocumentQueued)


def test_a_chain_at_rest_is_forgotten_after_the_retention_and_not_while_it_has_intents():
    spec, _ = drained(SPEC.after(RELEASED))
    due = spec.state.timers["remove"]
    assert spec.when(TimerFired("remove", due), now=due).state is None
    assert "remove" not in spec.after(SHIPPED, now=due - timedelta(days=1)).state.timers


def test_the_state_survives_its_own_encoding():
    spec = SPEC.after(RELEASED, SHIPPED, CAPTURED)
    spec = spec.after(answered(spec, Unavailable("503")))
    assert ChainState.from_avro(spec.state.to_avro()) == spec.state
