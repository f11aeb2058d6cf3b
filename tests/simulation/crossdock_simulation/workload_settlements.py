"""The payout files of a workload: what a marketplace and the web shop's payment service say they pay for its orders.

As the gateway sends a file: its lines by order, and its declaration last, all under the file's one delivery. Whoever reads
two topics may see the declaration first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from crossdock_canonical.identity import OrderId, order_id, settlement_id
from crossdock_canonical.money import Money, decimal_text
from crossdock_canonical.records import (
    ChannelStatus,
    MatchLines,
    SettlementDeclared,
    SettlementLine,
    TenderState,
)
from crossdock_simulation.workload_script import Feature

if TYPE_CHECKING:
    from crossdock_simulation.workload_sales import Sale
    from crossdock_simulation.workload_script import Script

_UNKNOWN_ORDER = "113-9999999-9999999"
# A flat file's lines follow its header and its row of totals; a payout's are numbered by themselves.
_FIRST_LINE = {"amazon": 3, "shopify": 1}


class _File:
    """Lines of one payout in one currency, with the order that each belongs to."""

    def __init__(self, script: Script, channel: str, currency: str) -> None:
        self.lines: list[tuple[OrderId | None, SettlementLine]] = []
        self._script = script
        self._channel = channel
        self._currency = currency

    def add(
        self,
        owner: OrderId | None,
        label: tuple[str, str, str],
        minor: int | None,
        *,
        order_ref: str = "",
        item_ref: str = "",
        seller_sku: str = "",
        raw_amount: str | None = None,
    ) -> None:
        """One line; an amount that the currency cannot hold has only its text."""
        if raw_amount is None:
            raw_amount = decimal_text(minor or 0, self._currency)
        line = SettlementLine(
            line_no=_FIRST_LINE[self._channel] + len(self.lines),
            transaction_type=label[0],
            amount_type=label[1],
            description=label[2],
            order_ref=order_ref,
            item_ref=item_ref,
            seller_sku=seller_sku,
            amount_minor=minor,
            raw_amount=raw_amount,
            currency=self._currency,
            posted_at=self._script.start,
        )
        self.lines.append((owner, line))

    @property
    def sum_minor(self) -> int:
        return sum(line.amount_minor or 0 for _, line in self.lines)


def settle(script: Script, sales: list[Sale]) -> None:
    """A payout of each channel in each of its currencies, some time after its orders."""
    groups: dict[tuple[str, str, str], list[Sale]] = {}
    for sale in sales:
        if sale.channel in _FIRST_LINE:
            groups.setdefault((sale.channel, sale.shop, sale.currency), []).append(sale)
    for (channel, shop, currency), members in groups.items():
        if script.on(Feature.SETTLEMENT, 0.7):
            _pay_out(script, channel, shop, currency, members)


def _pay_out(script: Script, channel: str, shop: str, currency: str, sales: list[Sale]) -> None:
    file = _File(script, channel, currency)
    describe: Callable[[Script, _File, Sale], None] = _amazon_lines if channel == "amazon" else _shopify_lines
    for sale in sales:
        describe(script, file, sale)
    if script.rng.random() < 0.5:
        label = ("ServiceFee", "Cost of Advertising", "TransactionTotalAmount")
        file.add(None, label if channel == "amazon" else ("adjustment", "gross", "adjustment"), -1_250)
    if script.on(Feature.SETTLEMENT_UNKNOWN_LINE):
        _add_unknown(script, file, channel, shop, currency)
    if not file.lines:
        return
    external_id = f"{channel}-{currency}"
    at_s = max(sale.last_s for sale in sales) + script.gap_s()
    declared_minor = file.sum_minor
    if script.on(Feature.SETTLEMENT_CENT_OFF, 0.4):
        declared_minor += script.rng.choice((-1, 1))
    at_s = _send(script, file, channel, shop, external_id, declared_minor, at_s, "file")
    if script.on(Feature.SETTLED_TWICE, 0.4):
        at_s = _send(script, file, channel, shop, external_id, declared_minor, at_s + script.gap_s(), "file")
    if len(file.lines) > 1 and script.on(Feature.SETTLEMENT_CONTRADICTS, 0.3):
        file.lines.pop()
        _send(script, file, channel, shop, external_id, file.sum_minor, at_s + script.gap_s(), "correction")


def _send(
    script: Script,
    file: _File,
    channel: str,
    shop: str,
    external_id: str,
    declared_minor: int,
    at_s: float,
    version: str,
) -> float:
    """Deliver lines and declaration; when the later of them is said."""
    identity = settlement_id(channel=channel, shop=shop, external_id=external_id)
    sha256 = hashlib.sha256(f"{identity}/{version}".encode()).hexdigest()
    delivery = f"settlement/{identity}/{sha256}"
    owners: dict[OrderId | None, list[SettlementLine]] = {}
    for owner, line in file.lines:
        owners.setdefault(owner, []).append(line)
    batches = [
        MatchLines(
            subject=owner or identity,
            settlement_id=identity,
            sha256=sha256,
            batch=lines[0].line_no,
            channel=channel,
            shop=shop,
            order_id=owner,
            lines=tuple(lines),
        )
        for owner, lines in owners.items()
    ]
    currency = file.lines[0][1].currency
    declared = SettlementDeclared(
        settlement_id=identity,
        channel=channel,
        shop=shop,
        external_id=external_id,
        sha256=sha256,
        line_count=len(file.lines),
        control_sum_minor=file.sum_minor,
        declared_total=Money(minor=declared_minor, currency=currency),
        deposited_at=script.start + timedelta(days=2),
    )
    if script.on(Feature.SETTLEMENT_INCOMPLETE, 0.25):
        batches.pop()  # The sender died on the way, and nobody has sent the file again yet.
    declared_s = at_s + 0.001 + script.rng.random() * 0.01
    if script.on(Feature.DECLARED_FIRST, 0.4):
        at_s, declared_s = declared_s, at_s
    if batches:
        script.say(
            at_s,
            *batches,
            delivery=delivery,
            label=f"settlement {external_id}: {len(file.lines)} lines, {version}",
        )
    script.say(
        declared_s, declared, delivery=delivery, label=f"settlement {external_id}: declared, {version}"
    )
    return max(at_s, declared_s)


def _amazon_lines(script: Script, file: _File, sale: Sale) -> None:
    """What the marketplace paid for each item of an order, its taxes, and its commission; sometimes a refund of one."""
    if sale.status is ChannelStatus.CANCELLED:
        return
    for line in sale.lines:
        amounts = line.amounts
        names = {
            "order_ref": sale.external_id,
            "item_ref": line.line_id,
            "seller_sku": line.ware.name if script.rng.random() < 0.8 else "",
        }
        principal = amounts.goods
        if script.on(Feature.SETTLEMENT_CENT_OFF, 0.2):
            principal += 1
        file.add(sale.order_id, ("Order", "ItemPrice", "Principal"), principal, **names)
        if amounts.tax or amounts.facilitator_tax:
            tax = amounts.tax + amounts.facilitator_tax
            file.add(sale.order_id, ("Order", "ItemPrice", "Tax"), tax, **names)
        if amounts.facilitator_tax:
            label = ("Order", "ItemWithheldTax", "MarketplaceFacilitatorTax-Principal")
            file.add(sale.order_id, label, -amounts.facilitator_tax, **names)
        if amounts.discount:
            file.add(sale.order_id, ("Order", "Promotion", "Principal"), -amounts.discount, **names)
        file.add(sale.order_id, ("Order", "ItemFees", "Commission"), -(amounts.goods * 15 // 100), **names)
    if script.rng.random() < 0.2:
        back = sale.lines[0]
        refunded = -back.amounts.share(units=1, before=0, of=back.units).net
        label = ("Refund", "ItemPrice", "Principal")
        file.add(sale.order_id, label, refunded, order_ref=sale.external_id, item_ref=back.line_id)


def _shopify_lines(script: Script, file: _File, sale: Sale) -> None:
    """The charge of an order and its fee; what the shop refunded or a bank took back, as movements of their own."""
    if sale.payment is TenderState.PENDING:
        return
    charged = sale.total_minor
    file.add(sale.order_id, ("charge", "gross", "charge"), charged, order_ref=sale.external_id)
    fee = charged * 2 // 100 + 25
    file.add(sale.order_id, ("charge", "fee", "charge"), -fee, order_ref=sale.external_id)
    for kind, minor in sale.paid_back:
        file.add(sale.order_id, (kind, "gross", kind), -minor, order_ref=sale.external_id)
    if script.rng.random() < 0.2:
        label = ("reserved_funds", "gross", "reserve")
        file.add(None, label, -script.rng.randint(1, 500))


def _add_unknown(script: Script, file: _File, channel: str, shop: str, currency: str) -> None:
    """A line that cannot be explained: of an order that nobody knows, of an unknown kind, or of no proper amount."""
    stranger = order_id(channel=channel, shop=shop, external_id=_UNKNOWN_ORDER)
    known = ("Order", "ItemPrice", "Principal") if channel == "amazon" else ("charge", "gross", "charge")
    match script.rng.randrange(3):
        case 0:
            file.add(stranger, known, 1_999, order_ref=_UNKNOWN_ORDER)
        case 1:
            file.add(None, ("Mystery", "Renamed", "Without notice"), -77)
        case _:
            file.add(None, known, None, raw_amount=f"12.3456 {currency}")
