"""What happens to an order of a workload after it is placed: edits, cancellations, decisions, refunds, chargebacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    CancelRequested,
    ChannelOrderReceived,
    ChannelRefundReceived,
    ChannelStatus,
    ChargedBack,
    FraudDecided,
    FraudVerdict,
    IntakeKind,
    LineUnits,
    RefundDisposition,
    RefundLine,
    TenderState,
)
from crossdock_simulation.workload_sales import revise, tell
from crossdock_simulation.workload_script import Feature
from crossdock_simulation.workload_shops import added_line

if TYPE_CHECKING:
    from crossdock_simulation.workload_sales import Sale, SaleLine
    from crossdock_simulation.workload_script import Script
    from crossdock_simulation.workload_world import World

_DEAR_MINOR = 300_000


def change(world: World, sale: Sale) -> None:
    """Let some of it happen, in the order in which people do it; what is said may arrive in any."""
    script = world.script
    if sale.kind is IntakeKind.SNAPSHOT:
        _decide_on_risk(script, sale)
        if sale.channel == "shopify":
            _edit(world, sale)
        if script.on(Feature.CANCEL_LINES, 0.3):
            _ask_to_cancel_lines(script, sale)
        if script.on(Feature.OUR_CANCEL, 0.25):
            _ask_to_cancel(script, sale)
        if script.on(Feature.CHANNEL_CANCEL, 0.3):
            _cancel_by_channel(script, sale)
        elif sale.status is ChannelStatus.OPEN and script.on(Feature.CHANNEL_SAYS_SHIPPED, 0.3):
            sale.status = ChannelStatus.SHIPPED
            _tell_edit(script, sale, "snapshot, shipped as the channel sees it")
    if sale.channel == "shopify":
        paid = sale.payment in (TenderState.AUTHORIZED, TenderState.CAPTURED) and sale.total_minor > 0
        if paid and script.on(Feature.CHANNEL_REFUND):
            _refund_by_channel(script, sale)
        if paid and script.on(Feature.EXCHANGE, 0.3):
            _exchange(world, sale)
        if paid and script.on(Feature.CHARGEBACK, 0.3):
            _charge_back(script, sale)


def _edit(world: World, sale: Sale) -> None:
    """The web shop's own edits: fewer units, a line less, a line more; an edited order is a new snapshot."""
    script = world.script
    line = script.rng.choice(sale.lines)
    if line.left > 1 and script.on(Feature.EDIT_DOWN, 0.6):
        line.left -= 1
        _tell_edit(script, sale, f"one unit less of line {line.line_id}")
    if len(sale.lines) > 1 and script.on(Feature.LINE_REMOVED, 0.5):
        line = script.rng.choice(sale.lines)
        # Some shops keep a line that was edited out with no units, some leave it out.
        line.left, line.listed = 0, script.rng.random() < 0.5
        _tell_edit(script, sale, f"without line {line.line_id}")
    if script.on(Feature.LINE_ADDED, 0.4):
        line = added_line(world, sale)
        sale.lines.append(line)
        _tell_edit(script, sale, f"with a new line {line.line_id}")


def _tell_edit(script: Script, sale: Sale, what: str) -> None:
    at_s = sale.last_s + script.gap_s()
    revise(script, sale, at_s)
    tell(script, sale, at_s, "orders/updated", what)


def _decide_on_risk(script: Script, sale: Sale) -> None:
    """A verdict on an order that is held for review, and now and then on one that is not."""
    dear = sale.total_minor >= _DEAR_MINOR
    if dear:
        script.shown.add(Feature.DEAR)
    if not script.on(Feature.FRAUD_DECISION, 0.7 if dear else 0.1):
        return
    at_s = sale.last_s + script.gap_s()
    verdict = script.rng.choice((FraudVerdict.RELEASE, FraudVerdict.RELEASE, FraudVerdict.REJECT))
    decided = FraudDecided(
        order_id=sale.order_id, decision_id=f"risk-{sale.number}", verdict=verdict, actor="risk-team"
    )
    _send_decision(script, sale, at_s, decided, decided.decision_id, f"risk review: {verdict}")


def _ask_to_cancel(script: Script, sale: Sale) -> None:
    at_s = sale.last_s + script.gap_s()
    request_id = f"cancel-{sale.number}"
    asked = CancelRequested(
        order_id=sale.order_id, request_id=request_id, actor="support", reason="changed their mind"
    )
    _send_decision(script, sale, at_s, asked, request_id, "support cancels what has not shipped")


def _ask_to_cancel_lines(script: Script, sale: Sale) -> None:
    at_s = sale.last_s + script.gap_s()
    line = script.rng.choice(sale.lines)
    units = script.rng.randint(1, line.units)
    request_id = f"cancel-line-{sale.number}"
    asked = CancelRequested(
        order_id=sale.order_id,
        request_id=request_id,
        actor="support",
        lines=(LineUnits(line_id=line.line_id, units=units),),
    )
    _send_decision(script, sale, at_s, asked, request_id, f"support cancels {units} of line {line.line_id}")


def _send_decision(
    script: Script,
    sale: Sale,
    at_s: float,
    record: CancelRequested | FraudDecided,
    decision_id: str,
    what: str,
) -> None:
    sale.last_s = max(sale.last_s, at_s)
    # A line that an edit adds is unknown until the snapshot with it has arrived.
    script.say(
        at_s,
        record,
        delivery=f"decision/{sale.order_id}/{decision_id}",
        label=f"{sale.name}: {what}",
        rejected_as="order.unknown_line" if isinstance(record, CancelRequested) and record.lines else "",
    )


def _cancel_by_channel(script: Script, sale: Sale) -> None:
    """The channel's own message of a cancellation, and often the snapshot that says the same."""
    at_s = sale.last_s + script.gap_s()
    # A cancellation may be faster than the order it cancels.
    arrives_s = max(0.0, sale.placed_s - 1) if script.on(Feature.OUT_OF_ORDER, 0.3) else at_s
    revise(script, sale, at_s)
    sale.status = ChannelStatus.CANCELLED
    event = sale.next_event()
    if sale.channel == "shopify":
        revision_id = f"orders/cancelled/{event}"
        delivery = f"shopify/{sale.shop}/{revision_id}"
    else:
        revision_id = f"{script.moment(sale.revised_s).isoformat()}/Canceled"
        delivery = f"amazon/{sale.shop}/{sale.marketplace}/{sale.external_id}/{revision_id}"
    cancelled = ChannelOrderReceived(
        order_id=sale.order_id,
        channel=sale.channel,
        shop=sale.shop,
        marketplace=sale.marketplace,
        external_id=sale.external_id,
        external_name=f"#{sale.number}",
        kind=IntakeKind.CANCEL,
        revision_at=script.moment(sale.revised_s),
        revision_id=revision_id,
        placed_at=script.moment(sale.placed_s),
        status=ChannelStatus.CANCELLED,
        currency=sale.currency,
        lines=(),
        fulfilled_by=sale.fulfilled_by,
        cancel_reason="customer",
    )
    script.say(
        arrives_s,
        cancelled,
        delivery=delivery,
        label=f"{sale.name}: cancelled by its channel",
        occurred_at=cancelled.revision_at,
    )
    if sale.channel == "shopify" and script.rng.random() < 0.5:
        if sale.payment is TenderState.AUTHORIZED and script.rng.random() < 0.5:
            sale.payment = TenderState.VOIDED
        tell(script, sale, at_s + script.gap_s(), "orders/updated", "snapshot of the cancelled order")


def _refund_by_channel(script: Script, sale: Sale) -> None:
    """The web shop sends money back for a line or for all of them, with what became of the units or without a word of it."""
    refundable = [line for line in sale.lines if line.units > line.refunded]
    whole = script.rng.random() < 0.3
    if not refundable:
        return
    at_s = sale.last_s + script.gap_s()
    disposition = script.rng.choice(tuple(RefundDisposition))
    parts = tuple(
        _refund_line(line, line.units - line.refunded if whole else 1, disposition)
        for line in (refundable if whole else [script.rng.choice(refundable)])
    )
    worth = sum(part.amounts.due for part in parts)
    amount = max(0, worth + script.rng.choice((0, 0, 0, 1, -1, 100)))
    # A note that looks like one of ours and names no refund that we ever started.
    note = f"note-{sale.number}/refund" if script.on(Feature.FOREIGN_REFUND_NOTE, 0.3) else None
    refund = ChannelRefundReceived(
        order_id=sale.order_id,
        channel=sale.channel,
        shop=sale.shop,
        external_id=sale.external_id,
        refund_id=f"77{sale.number:04d}",
        our_refund_id=note,
        lines=parts,
        adjustment_minor=amount - worth,
        amount=Money(minor=amount, currency=sale.currency),
        refunded_at=script.moment(at_s),
        restock=disposition is RefundDisposition.RETURNED
        or (disposition is RefundDisposition.UNSPECIFIED and script.rng.random() < 0.5),
    )
    what = "everything" if whole else f"1 of line {parts[0].line_id}"
    _say_refund(script, sale, at_s, refund, f"the shop refunds {what}, {disposition}")
    if script.rng.random() < 0.5:
        if whole and sale.payment is TenderState.CAPTURED:
            sale.payment = TenderState.REFUNDED
        _tell_edit(script, sale, "snapshot after its refund")


def _refund_line(line: SaleLine, units: int, disposition: RefundDisposition) -> RefundLine:
    """Units refunded at their price less discount, and their tax, as the web shop names them."""
    share = line.amounts.share(units=units, before=line.refunded, of=line.units)
    line.refunded += units
    amounts = Amounts(currency=share.currency, goods=share.net, tax=share.tax + share.facilitator_tax)
    return RefundLine(line_id=line.line_id, units=units, amounts=amounts, disposition=disposition)


def _say_refund(script: Script, sale: Sale, at_s: float, refund: ChannelRefundReceived, what: str) -> None:
    sale.last_s = max(sale.last_s, at_s)
    if refund.amount.minor:
        sale.paid_back.append(("refund", refund.amount.minor))
    # A line that an edit adds is unknown until the snapshot with it has arrived; one that an edit leaves out is never
    # known when the snapshot without it is the first to arrive.
    unsure = {line.line_id for number, line in enumerate(sale.lines) if number or not line.listed}
    unsure &= {part.line_id for part in refund.lines}
    script.say(
        at_s,
        refund,
        delivery=f"shopify/{sale.shop}/refunds/create/{refund.refund_id}",
        label=f"{sale.name}: {what}",
        occurred_at=refund.refunded_at,
        rejected_as="order.unknown_line" if unsure else "",
    )


def _exchange(world: World, sale: Sale) -> None:
    """A line goes back and another comes: the refund pays nothing, and only the snapshot has the new line."""
    script = world.script
    refundable = [line for line in sale.lines if line.units > line.refunded]
    if not refundable:
        return
    at_s = sale.last_s + script.gap_s()
    part = _refund_line(script.rng.choice(refundable), 1, RefundDisposition.RETURNED)
    refund = ChannelRefundReceived(
        order_id=sale.order_id,
        channel=sale.channel,
        shop=sale.shop,
        external_id=sale.external_id,
        refund_id=f"78{sale.number:04d}",
        lines=(part,),
        adjustment_minor=-part.amounts.due,
        amount=Money(minor=0, currency=sale.currency),
        refunded_at=script.moment(at_s),
        restock=True,
    )
    _say_refund(script, sale, at_s, refund, f"one of line {part.line_id} is exchanged")
    sale.lines.append(added_line(world, sale))
    _tell_edit(script, sale, f"with line {sale.lines[-1].line_id} in exchange")


def _charge_back(script: Script, sale: Sale) -> None:
    """The customer's bank takes a part of the payment back, or all of it."""
    at_s = sale.last_s + script.gap_s()
    amount = script.rng.choice((sale.total_minor, max(1, sale.total_minor // 3)))
    record = ChargedBack(
        order_id=sale.order_id,
        chargeback_id=f"dispute-{sale.number}",
        amount=Money(minor=amount, currency=sale.currency),
        reason="fraudulent",
        charged_back_at=script.moment(at_s),
    )
    sale.paid_back.append(("dispute", amount))
    script.say(
        at_s,
        record,
        delivery=f"payment/{record.chargeback_id}",
        label=f"{sale.name}: {amount} are charged back",
    )
