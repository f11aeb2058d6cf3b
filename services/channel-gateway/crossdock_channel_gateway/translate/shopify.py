"""Shopify webhook bodies (REST Admin API order and refund resources) into canonical intake. Called by `app`.

Books are in shop money (`*_set.shop_money`, else the plain field); presentment money is kept beside it. Prices that include
tax become goods = price - tax, so `Amounts.goods` never contains tax while what the customer owes stays the channel's.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from crossdock_canonical.identity import LineId, LocationId, order_id
from crossdock_canonical.money import Amounts, Money, apportion
from crossdock_canonical.records import (
    Address,
    ChannelLine,
    ChannelOrderReceived,
    ChannelRefundReceived,
    ChannelStatus,
    DeliveryMethod,
    IntakeKind,
    ItemReference,
    RefundDisposition,
    RefundLine,
    Tender,
    TenderState,
)
from crossdock_channel_gateway.intake import Intake, Skipped, bounded_attributes
from crossdock_channel_gateway.reading import Reader, clean_text

CHANNEL = "shopify"
ORDER_TOPICS = frozenset(
    f"orders/{verb}"
    for verb in ("create", "updated", "paid", "edited", "cancelled", "fulfilled", "partially_fulfilled")
)
REFUND_TOPIC = "refunds/create"

_TENDER_STATES = {
    "pending": TenderState.PENDING,
    "authorized": TenderState.AUTHORIZED,
    "partially_paid": TenderState.PENDING,
    "paid": TenderState.CAPTURED,
    "partially_refunded": TenderState.CAPTURED,
    "refunded": TenderState.REFUNDED,
    "voided": TenderState.VOIDED,
    "expired": TenderState.VOIDED,
}
_PICKUP_WORDS = frozenset({"pickup", "pick_up", "pick-up", "local_pickup"})
_PICKUP_ATTRIBUTE = "pickup_location"
# What a refund line's kind tells of its units. A kind of the old days only tells that stock grew.
_DISPOSITIONS = {
    "cancel": RefundDisposition.CANCELLED,
    "return": RefundDisposition.RETURNED,
    "no_restock": RefundDisposition.KEPT,
}
# Refund lines of these kinds are units that shipped and came back; the others never left.
_RETURNED_KINDS = frozenset({"return", "no_restock", "legacy_restock"})
# Our refund id as the outbound side writes it into the refund's note.
REFUND_NOTE_PREFIX = "crossdock-refund:"
_OUR_REFUND = re.compile(REFUND_NOTE_PREFIX + r"\s*(\S{1,200})")
_BARE_REFUND = re.compile(r"\S{1,190}/refund")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a shop's set-up decides.

    locations: the shop's location id -> our location; an id that is not listed is our location already.
    till_feed_shops: shops whose till sales come through the store feed, so that their `pos` orders are not taken twice.
    """

    locations: Mapping[str, str] = field(default_factory=dict)
    till_feed_shops: frozenset[str] = frozenset()


def translate(body: Any, *, topic: str, shop: str, event: str, policy: Policy) -> Intake | Skipped:
    """One webhook. `event` is the Event-Id, the same for every delivery of one event. Raises Refused(422)."""
    delivery = f"shopify/{shop}/{topic}/{event}"
    if topic == REFUND_TOPIC:
        return _refund(_unwrapped(body, "refund"), shop=shop, delivery=delivery)
    if topic not in ORDER_TOPICS:
        return Skipped(f"topic {topic} is not used")
    if isinstance(body, dict) and "order_edit" in body:
        return Skipped("an order edit is followed by orders/updated, which carries the snapshot")
    return _order(
        _unwrapped(body, "order"), topic=topic, shop=shop, event=event, delivery=delivery, policy=policy
    )


def _unwrapped(body: Any, name: str) -> Reader:
    """The resource itself: a webhook sends it bare, the REST resource has one member around it."""
    root = Reader(body)
    if not isinstance(body, dict):
        root.fail("must be an object")
        root.finish()
    return root.at(name) if name in body and "id" not in body else root


def _order(
    root: Reader, *, topic: str, shop: str, event: str, delivery: str, policy: Policy
) -> Intake | Skipped:
    external_id = root.at("id").identifier()
    updated = root.at("updated_at") if root.at("updated_at").present else root.at("created_at")
    revision_at = updated.moment()
    placed_at = root.at("created_at").moment() if root.at("created_at").present else revision_at
    currency = root.at("currency").currency()
    if root.at("source_name").text() == "pos" and shop in policy.till_feed_shops:
        return Skipped("till sales of this shop come through the store feed")
    cancelled = topic == "orders/cancelled"
    common: dict[str, Any] = {
        "order_id": order_id(channel=CHANNEL, shop=shop, external_id=external_id),
        "channel": CHANNEL,
        "shop": shop,
        "external_id": external_id,
        "external_name": root.at("name").text(),
        "revision_at": revision_at,
        "revision_id": f"{topic}/{event}",
        "placed_at": placed_at,
        "currency": currency,
        "cancel_reason": root.at("cancel_reason").text(),
    }
    if cancelled:
        root.finish()
        record = ChannelOrderReceived(
            **common, kind=IntakeKind.CANCEL, status=ChannelStatus.CANCELLED, lines=()
        )
        return Intake(records=(record,), delivery=delivery, occurred_at=revision_at)

    priced = _Priced(root, currency)
    total = priced.total
    method, pickup = _delivery(root, policy)
    record = ChannelOrderReceived(
        **common,
        kind=IntakeKind.POS_SALE if method is DeliveryMethod.CARRIED_OUT else IntakeKind.SNAPSHOT,
        status=_status(root),
        presentment_total=_presentment_total(root, currency),
        taxes_included=priced.taxes_included,
        total=Money(minor=total, currency=currency),
        lines=priced.lines,
        shipping=priced.shipping,
        other_minor=priced.other,
        tenders=_tenders(root, f"shopify/{shop}/{external_id}", total, currency),
        method=method,
        pickup_location=pickup,
        ship_to=_address(root),
    )
    root.finish()
    return Intake(records=(record,), delivery=delivery, occurred_at=revision_at, attributes=_attributes(root))


def _status(root: Reader) -> ChannelStatus:
    if root.at("cancelled_at").present:
        return ChannelStatus.CANCELLED
    if root.at("fulfillment_status").text() == "fulfilled":
        return ChannelStatus.SHIPPED
    return ChannelStatus.OPEN


class _Priced:
    """Lines, shipping and other charges of an order with every tax and discount in its place."""

    def __init__(self, root: Reader, currency: str) -> None:
        self.taxes_included = root.at("taxes_included").flag(default=False)
        rows = root.at("line_items").items()
        if not rows:
            root.at("line_items").fail("must have at least one element")
        lines = [_Line(row, currency) for row in rows]
        _refuse_repeated(lines)
        shipping = _Charge.shipping(root, currency)
        duties = _money(root, ("current_total_duties", "original_total_duties"), currency)
        fees = _money(root, ("current_total_additional_fees", "original_total_additional_fees"), currency)
        tip = _money(root, ("total_tip_received",), currency)
        if lines:
            _apportion_rest(root, lines, shipping, currency)
        returned = _returned_units(root)
        edited = False
        made: list[ChannelLine] = []
        for line in lines:
            units = line.units_left(returned.get(line.line_id, 0))
            edited = edited or units != line.quantity
            made.append(line.channel_line(units, currency, taxes_included=self.taxes_included))
        self.lines = tuple(made)
        has_shipping = shipping.gross or shipping.tax or shipping.facilitator_tax
        self.shipping = (
            shipping.amounts(currency, taxes_included=self.taxes_included) if has_shipping else None
        )
        parts = sum(line.amounts.due for line in made if line.amounts is not None)
        parts += self.shipping.due if self.shipping is not None else 0
        self.other = tip + duties + fees
        total = _money(root, ("total_price",), currency, required=True)
        rounding = _money(root, ("total_rounding", "total_cash_rounding_payment_adjustment"), currency)
        if rounding and total - parts - self.other == rounding:
            self.other += rounding  # Some totals contain the rounding of cash, some do not.
        changed = edited or root.at("refunds").items()
        if parts + self.other != total and root.has("current_total_price"):
            # `total_price` is the order as it was placed, the current one falls with returns too. Where neither is the
            # order as it stands after edits, no total of the channel is, and its parts are.
            current = _money(root, ("current_total_price",), currency)
            total = parts + self.other if changed and current != parts + self.other else current
        self.total = root.bounded(total)


class _Charge:
    """One price with the discounts and taxes that the channel allocated to it; amounts still as the channel counts them."""

    __slots__ = ("discount", "facilitator_tax", "gross", "tax")

    def __init__(self, *, gross: int, discount: int, tax: int, facilitator_tax: int) -> None:
        self.gross = gross
        self.discount = discount
        self.tax = tax
        self.facilitator_tax = facilitator_tax

    @classmethod
    def shipping(cls, root: Reader, currency: str) -> _Charge:
        charge = cls(gross=0, discount=0, tax=0, facilitator_tax=0)
        rows = root.at("shipping_lines").items(most=100)
        for row in rows:
            if row.at("is_removed").flag(default=False):
                continue
            price = _money(row, ("price",), currency)
            allocated = _discounts(row, currency)
            if not row.at("discount_allocations").present and _named(row, "discounted_price").present:
                allocated = price - _money(row, ("discounted_price",), currency)
            tax, facilitator_tax = _taxes(row, currency)
            charge.gross = row.bounded(charge.gross + price)
            charge.discount = row.bounded(charge.discount + allocated)
            charge.tax = row.bounded(charge.tax + tax)
            charge.facilitator_tax = row.bounded(charge.facilitator_tax + facilitator_tax)
        if not rows:
            charge.gross = _money(root, ("total_shipping_price",), currency)
        return charge

    @property
    def net(self) -> int:
        return self.gross - self.discount

    def amounts(self, currency: str, *, taxes_included: bool) -> Amounts:
        contained = self.tax + self.facilitator_tax if taxes_included else 0
        return Amounts(
            currency=currency,
            goods=self.gross - contained,
            discount=self.discount,
            tax=self.tax,
            facilitator_tax=self.facilitator_tax,
        )


class _Line:
    """One element of `line_items`."""

    __slots__ = ("charge", "line_id", "quantity", "row")

    def __init__(self, row: Reader, currency: str) -> None:
        self.row = row
        self.line_id = row.at("id").identifier()
        self.quantity = row.at("quantity").whole()
        price = _money(row, ("price",), currency, required=True)
        discount = _discounts(row, currency)
        if not row.at("discount_allocations").present:
            discount = _money(row, ("total_discount",), currency)
        tax, facilitator_tax = _taxes(row, currency)
        self.charge = _Charge(
            gross=row.at("price").bounded(price * self.quantity),
            discount=discount,
            tax=tax,
            facilitator_tax=facilitator_tax,
        )

    def units_left(self, returned: int) -> int:
        """Ordered units less those that were edited out; units that came back after shipping stay ordered."""
        current = self.row.at("current_quantity")
        if not current.present:
            return self.quantity
        edited_out = self.quantity - current.whole(most=max(self.quantity, 0)) - returned
        return self.quantity - max(0, edited_out)

    def channel_line(self, units: int, currency: str, *, taxes_included: bool) -> ChannelLine:
        amounts = self.charge.amounts(currency, taxes_included=taxes_included)
        if units != self.quantity:
            amounts = amounts.share(units=units, before=0, of=self.quantity)
        return ChannelLine(
            line_id=LineId(self.line_id),
            items=_item_references(self.row),
            title=self.row.at("title").text(),
            units=units,
            amounts=amounts,
            requires_shipping=self.row.at("requires_shipping").flag(default=True)
            and not self.row.at("gift_card").flag(default=False),
        )


def _refuse_repeated(lines: Sequence[_Line]) -> None:
    seen: set[str] = set()
    for line in lines:
        if line.line_id in seen:
            line.row.at("id").fail("must be unique within the order")
        seen.add(line.line_id)


def _item_references(row: Reader) -> tuple[ItemReference, ...]:
    """Variant first, since a sku may be empty, null or reused; then the sku."""
    variant = row.at("variant_id").identifier(required=False)
    sku = row.at("sku").identifier(required=False)
    found = (("shopify_variant", variant), ("sku", sku))
    return tuple(ItemReference(scheme=scheme, value=value) for scheme, value in found if value)


def _apportion_rest(root: Reader, lines: Sequence[_Line], shipping: _Charge, currency: str) -> None:
    """Give the lines what the order names and no line was allocated: discount by price, tax by discounted price."""
    weights = [max(0, line.charge.net) for line in lines]
    allocated = sum(line.charge.discount for line in lines) + shipping.discount
    unallocated = _money(root, ("current_total_discounts", "total_discounts"), currency) - allocated
    if unallocated > 0:
        for line, part in zip(lines, apportion(unallocated, weights), strict=True):
            line.charge.discount += part
    charges = [*(line.charge for line in lines), shipping]
    taxed = sum(charge.tax + charge.facilitator_tax for charge in charges) + _duty_taxes(root, currency)
    untaxed = _money(root, ("current_total_tax", "total_tax"), currency) - taxed
    if untaxed > 0:
        order_taxes = root.at("tax_lines").items()
        facilitated = bool(order_taxes) and all(
            tax.at("channel_liable").flag(default=False) for tax in order_taxes
        )
        weights = [max(0, line.charge.net) for line in lines]
        for line, part in zip(lines, apportion(untaxed, weights), strict=True):
            if facilitated:
                line.charge.facilitator_tax += part
            else:
                line.charge.tax += part


def _duty_taxes(root: Reader, currency: str) -> int:
    """Taxes on duties are in the order's tax, and belong to no line."""
    return sum(
        sum(_taxes(duty, currency))
        for line in root.at("line_items").items()
        for duty in line.at("duties").items(most=20)
    )


def _returned_units(root: Reader) -> dict[str, int]:
    """Units of each line that shipped and came back, by the snapshot's own refunds."""
    units: dict[str, int] = defaultdict(int)
    for refund in root.at("refunds").items():
        for row in refund.at("refund_line_items").items():
            if row.at("restock_type").text() in _RETURNED_KINDS:
                units[row.at("line_item_id").identifier()] += row.at("quantity").whole()
    return dict(units)


def _named(parent: Reader, name: str) -> Reader:
    """The shop-money form of a field when the payload has it, else the plain field."""
    if parent.has(f"{name}_set"):
        shop_money = parent.at(f"{name}_set").at("shop_money")
        if shop_money.present:
            return shop_money.at("amount")
    return parent.at(name)


def _money(parent: Reader, names: Sequence[str], currency: str, *, required: bool = False) -> int:
    """The first of the fields that the payload has, in shop money; 0 when it has none and none is required."""
    for name in names:
        if not parent.has(name) and not parent.has(f"{name}_set"):
            continue
        found = _named(parent, name)
        if not found.present:
            continue
        if parent.has(f"{name}_set"):
            code = parent.at(f"{name}_set").at("shop_money").at("currency_code")
            if code.present and currency and code.value != currency:
                code.fail(f"must be the order's currency {currency}")
        return found.minor(currency)
    if required:
        parent.at(names[0]).fail("is required")
    return 0


def _discounts(row: Reader, currency: str) -> int:
    return sum(_money(each, ("amount",), currency) for each in row.at("discount_allocations").items(most=100))


def _taxes(row: Reader, currency: str) -> tuple[int, int]:
    """Tax that the seller owes, and tax that the channel is liable for."""
    owed = [0, 0]
    for tax in row.at("tax_lines").items(most=100):
        owed[tax.at("channel_liable").flag(default=False)] += _money(tax, ("price",), currency)
    return row.at("tax_lines").bounded(owed[0]), row.at("tax_lines").bounded(owed[1])


def _presentment_total(root: Reader, currency: str) -> Money | None:
    shown = root.at("total_price_set").at("presentment_money")
    if not shown.present or shown.at("currency_code").value == currency:
        return None
    code = shown.at("currency_code").currency()
    return Money(minor=shown.at("amount").minor(code), currency=code)


def _tenders(root: Reader, reference: str, total: int, currency: str) -> tuple[Tender, ...]:
    """The payment as the order's financial status tells it; a partial payment is one taken and one awaited."""
    status = root.at("financial_status")
    state: TenderState = status.word(_TENDER_STATES, default="pending")
    open_amount = _named(root, "total_outstanding")
    if status.value == "partially_paid" and open_amount.present:
        outstanding = open_amount.minor(currency)
        taken = Money(minor=max(0, total - outstanding), currency=currency)
        return (
            Tender(reference=reference, state=TenderState.CAPTURED, amount=taken),
            Tender(
                reference=f"{reference}/outstanding",
                state=TenderState.PENDING,
                amount=Money(minor=outstanding, currency=currency),
            ),
        )
    return (Tender(reference=reference, state=state, amount=Money(minor=total, currency=currency)),)


def _delivery(root: Reader, policy: Policy) -> tuple[DeliveryMethod, str | None]:
    """How the goods reach the customer; a pickup names its location."""
    location = root.at("location_id")
    attribute = next((note for note in _notes(root) if note[0] == _PICKUP_ATTRIBUTE), None)
    words = {
        line.at(name).text().lower()
        for line in root.at("shipping_lines").items(most=100)
        for name in ("code", "delivery_category")
    }
    if attribute is not None:
        code = Reader(attribute[1], _PICKUP_ATTRIBUTE).identifier(required=False)
    elif words & _PICKUP_WORDS:
        code = location.identifier()
    elif root.at("source_name").text() == "pos" and location.present:
        code = location.identifier()
        return DeliveryMethod.CARRIED_OUT, LocationId(policy.locations.get(code, code))
    else:
        return DeliveryMethod.SHIP, None
    if not code:
        root.at("note_attributes").fail("a pickup must name its location")
    return DeliveryMethod.PICKUP, LocationId(policy.locations.get(code, code))


def _notes(root: Reader) -> list[tuple[str, str]]:
    return [
        (note.at("name").text(), note.at("value").text())
        for note in root.at("note_attributes").items(most=250)
    ]


def _address(root: Reader) -> Address | None:
    given = root.at("shipping_address")
    if not given.present:
        return None
    name = (
        given.at("name").text() or f"{given.at('first_name').text()} {given.at('last_name').text()}".strip()
    )
    return Address(
        name=name,
        company=given.at("company").text(),
        line1=given.at("address1").text(),
        line2=given.at("address2").text(),
        city=given.at("city").text(),
        region=given.at("province_code").text() or given.at("province").text(),
        postcode=given.at("zip").text(),
        country=given.at("country_code").text() or given.at("country").text(),
        phone=given.at("phone").text() or root.at("phone").text(),
        email=root.at("email").text() or root.at("contact_email").text(),
    )


def _attributes(root: Reader) -> dict[str, str]:
    codes = [code.at("code").text() for code in root.at("discount_codes").items(most=100)]
    return bounded_attributes(
        [
            ("shopify.source_name", root.at("source_name").text()),
            ("shopify.tags", root.at("tags").text()),
            ("shopify.test", "true" if root.at("test").flag(default=False) else ""),
            ("shopify.discount_codes", ", ".join(code for code in codes if code)),
            *((f"shopify.note.{name}", value) for name, value in _notes(root)),
        ]
    )


def _refund(root: Reader, *, shop: str, delivery: str) -> Intake:
    """A refund resource: `subtotal` is net of discount, and contains tax where the shop's prices do.

    The refund does not say whether they do, but its money does: the lines and adjustments add up to the transactions
    either with the tax on top or without.
    """
    external_id = root.at("order_id").identifier()
    refunded_at = (
        root.at("processed_at") if root.at("processed_at").present else root.at("created_at")
    ).moment()
    moved = [row for row in root.at("transactions").items() if _is_refund(row)]
    currency = _refund_currency(root, moved)
    rows = root.at("refund_line_items").items()
    worth = [(_money(row, ("subtotal",), currency), _money(row, ("total_tax",), currency)) for row in rows]
    adjusted = -sum(
        _money(each, ("amount",), currency) + _money(each, ("tax_amount",), currency)
        for each in root.at("order_adjustments").items()
    )
    on_top = sum(subtotal + tax for subtotal, tax in worth) + adjusted
    contained = sum(subtotal for subtotal, _ in worth) + adjusted
    in_books = [row for row in moved if _transaction_currency(row, currency) == currency]
    if root.at("transactions").present and len(in_books) == len(moved):
        amount = sum(_money(row, ("amount",), currency) for row in moved)
        taxes_included = amount == contained != on_top
    else:
        amount, taxes_included = max(0, on_top), False
    lines = tuple(
        RefundLine(
            line_id=LineId(row.at("line_item_id").identifier()),
            units=row.at("quantity").whole(),
            amounts=Amounts(currency=currency, goods=subtotal - tax if taxes_included else subtotal, tax=tax),
            disposition=_DISPOSITIONS.get(row.at("restock_type").text(), RefundDisposition.UNSPECIFIED),
        )
        for row, (subtotal, tax) in zip(rows, worth, strict=True)
    )
    kinds = {row.at("restock_type").text() for row in rows}
    told = bool(kinds & _DISPOSITIONS.keys())
    record = ChannelRefundReceived(
        order_id=order_id(channel=CHANNEL, shop=shop, external_id=external_id),
        channel=CHANNEL,
        shop=shop,
        external_id=external_id,
        refund_id=root.at("id").identifier(),
        our_refund_id=_our_refund_id(root.at("note")),
        lines=lines,
        adjustment_minor=root.bounded(amount - sum(line.amounts.due for line in lines)),
        amount=Money(minor=root.bounded(amount), currency=currency),
        refunded_at=refunded_at,
        # The flag of the whole refund says less than what its lines say, and counts only where they say nothing.
        restock=bool(kinds & {"return", "legacy_restock"})
        or (not told and root.at("restock").flag(default=False)),
    )
    shown = [row for row in moved if row not in in_books]
    attributes = [
        (
            "shopify.presentment_refund",
            " ".join(f"{row.at('amount').text()} {row.at('currency').text()}" for row in shown),
        ),
        ("shopify.note", root.at("note").text()),
    ]
    root.finish()
    return Intake(
        records=(record,),
        delivery=delivery,
        occurred_at=refunded_at,
        attributes=bounded_attributes(attributes),
    )


def _is_refund(row: Reader) -> bool:
    """Whether the transaction moved money back: failed and pending ones did not."""
    return row.at("kind").text() in ("refund", "") and row.at("status").text() in ("success", "")


def _transaction_currency(row: Reader, default: str) -> str:
    if row.at("amount_set").at("shop_money").present:
        return default
    return row.at("currency").currency() if row.at("currency").present else default


def _refund_currency(root: Reader, moved: Sequence[Reader]) -> str:
    """The shop's currency: where the refund has shop money it is that; else that of its transactions."""
    named = (
        *(row.at("subtotal_set") for row in root.at("refund_line_items").items()),
        *(row.at("amount_set") for row in root.at("order_adjustments").items()),
        *(row.at("amount_set") for row in moved),
    )
    for money in named:
        code = money.at("shop_money").at("currency_code")
        if code.present:
            return code.currency()
    given = [row.at("currency") for row in moved if row.at("currency").present]
    if given:
        return given[0].currency()
    if root.at("currency").present:
        return root.at("currency").currency()
    root.at("transactions").fail("must name the currency of the refund")
    return ""


def _our_refund_id(note: Reader) -> str | None:
    """Our refund id when the channel echoes a refund that we started: it travels in the note."""
    text = clean_text(note.text())
    marked = _OUR_REFUND.search(text)
    if marked is not None:
        return marked.group(1)
    return text if _BARE_REFUND.fullmatch(text) else None
