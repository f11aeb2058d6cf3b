"""The orders of a workload, as their channels tell them: a web shop's snapshots, a marketplace's, a till's receipts.

A `Sale` is the channel's own idea of one order; its snapshots follow from it, in the canonical form that the gateway makes
of them. What happens to it later is `workload_changes`', `workload_returns`' and `workload_settlements`' to tell.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from crossdock_canonical.identity import LineId, OrderId, order_id
from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    Address,
    ChannelLine,
    ChannelOrderReceived,
    ChannelStatus,
    DeliveryMethod,
    FulfilledBy,
    IntakeKind,
    ItemReference,
    PaymentAuthorized,
    PaymentDeclined,
    StockMovement,
    Tender,
    TenderState,
)
from crossdock_simulation.workload_script import Feature
from crossdock_simulation.workload_world import CASE, KIT, LATE, references, say_stock

if TYPE_CHECKING:
    from crossdock_simulation.workload_script import Script
    from crossdock_simulation.workload_world import Ware, World

SHOP = "crossdock.myshopify.example"
SELLER = "A2SELLER"
AMERICAN, GERMAN = "ATVPDKIKX0DER", "A1PA6795UKMFR9"
_VAT_PERCENT = 19
_SALES_TAX_PERCENT = 7
_ADDRESS = Address(
    name="Alex Example", line1="7 Harbour Street", city="Hamburg", postcode="20457", country="DE"
)


@dataclass(slots=True)
class SaleLine:
    """A line as the channel has it. `amounts` are of the ordered `units`; `left` of them remain after edits.

    listed: False when the channel leaves the line out of its snapshots since it was edited out. refunded, returned: units.
    """

    line_id: LineId
    ware: Ware
    items: tuple[ItemReference, ...]
    units: int
    amounts: Amounts
    left: int
    refunded: int = 0
    returned: int = 0
    listed: bool = True
    requires_shipping: bool = True

    @property
    def current(self) -> Amounts:
        """Worth of the units that are left."""
        if self.left == self.units:
            return self.amounts
        return self.amounts.share(units=self.left, before=0, of=self.units)

    def snapshot(self, *, priced: bool) -> ChannelLine:
        """The line as the gateway reads it."""
        return ChannelLine(
            line_id=self.line_id,
            items=self.items,
            title=self.ware.name,
            units=self.left,
            amounts=self.current if priced else None,
            requires_shipping=self.requires_shipping,
        )


@dataclass(slots=True, kw_only=True)
class Sale:
    """One order as its channel knows it.

    last_s: until when it was talked about, seconds from the start. outstanding_minor: what is not paid yet of an order that
    is paid in parts. paid_back: money that left again, as (kind of movement, amount) of the channel's payment service.
    """

    number: int
    channel: str
    shop: str
    marketplace: str = ""
    external_id: str
    currency: str
    taxes_included: bool
    lines: list[SaleLine]
    placed_s: float
    last_s: float
    revised_s: int
    shipping: Amounts | None = None
    other_minor: int = 0
    payment: TenderState
    status: ChannelStatus = ChannelStatus.OPEN
    priced: bool = True
    fulfilled_by: FulfilledBy = FulfilledBy.SELLER
    kind: IntakeKind = IntakeKind.SNAPSHOT
    method: DeliveryMethod = DeliveryMethod.SHIP
    pickup_location: str | None = None
    store_movement_ref: str = ""
    outstanding_minor: int = 0
    paid_back: list[tuple[str, int]] = field(default_factory=list)
    events: int = 0

    @property
    def name(self) -> str:
        return f"{self.channel} order {self.number}"

    @property
    def order_id(self) -> OrderId:
        return order_id(
            channel=self.channel,
            shop=self.shop,
            marketplace=self.marketplace,
            external_id=self.external_id,
        )

    @property
    def tender_reference(self) -> str:
        """The channel's reference of the one payment of the order."""
        if self.channel == "shopify":
            return f"shopify/{self.shop}/{self.external_id}"
        return self.external_id if self.channel == "amazon" else f"{self.shop}/{self.external_id}"

    @property
    def total_minor(self) -> int:
        """What the customer owes for the order as it stands."""
        parts = sum(line.current.due for line in self.lines)
        return parts + (self.shipping.due if self.shipping is not None else 0) + self.other_minor

    def late_s(self) -> float | None:
        """When the last name in the order is mapped; None when all are from the start."""
        return max((line.ware.late_s for line in self.lines if line.ware.late_s is not None), default=None)

    def next_event(self) -> str:
        """The channel's id of the next event about the order."""
        self.events += 1
        return f"{self.number}-{self.events}"


def rejected_as(sale: Sale) -> str:
    """The code with which a snapshot of the order may be given up on."""
    return "order.unknown_sku" if sale.late_s() is not None else ""


def snapshot(script: Script, sale: Sale, *, revision_id: str) -> ChannelOrderReceived:
    """The order as it stands, under its latest revision."""
    total = Money(minor=sale.total_minor, currency=sale.currency) if sale.priced else None
    return ChannelOrderReceived(
        order_id=sale.order_id,
        channel=sale.channel,
        shop=sale.shop,
        marketplace=sale.marketplace,
        external_id=sale.external_id,
        external_name=f"#{sale.number}",
        kind=sale.kind,
        revision_at=script.moment(sale.revised_s),
        revision_id=revision_id,
        placed_at=script.moment(sale.placed_s),
        status=sale.status,
        currency=sale.currency,
        taxes_included=sale.taxes_included,
        total=total,
        lines=tuple(line.snapshot(priced=sale.priced) for line in sale.lines if line.listed),
        shipping=sale.shipping if sale.priced else None,
        other_minor=sale.other_minor if sale.priced else 0,
        tenders=() if total is None else _tenders(sale, total),
        fulfilled_by=sale.fulfilled_by,
        method=sale.method,
        pickup_location=sale.pickup_location,
        ship_to=_ADDRESS if sale.method is DeliveryMethod.SHIP and sale.priced else None,
        promise_by=script.moment(sale.placed_s) + timedelta(days=2) if sale.channel == "amazon" else None,
        store_movement_ref=sale.store_movement_ref,
    )


def _tenders(sale: Sale, total: Money) -> tuple[Tender, ...]:
    """The payment; of an order that is paid in parts one that is taken and one that is awaited."""
    if not sale.outstanding_minor:
        return (Tender(reference=sale.tender_reference, state=sale.payment, amount=total),)
    awaited = Money(minor=sale.outstanding_minor, currency=sale.currency)
    return (
        Tender(reference=sale.tender_reference, state=TenderState.CAPTURED, amount=total - awaited),
        Tender(reference=f"{sale.tender_reference}/outstanding", state=TenderState.PENDING, amount=awaited),
    )


def revise(script: Script, sale: Sale, at_s: float) -> None:
    """Stamp the next revision: to the second, so that two within one second have the same stamp."""
    step_s = 0 if script.on(Feature.SAME_SECOND) else 1
    sale.revised_s = max(sale.revised_s + step_s, int(at_s))
    sale.last_s = max(sale.last_s, at_s)


def tell(script: Script, sale: Sale, at_s: float, topic: str, what: str, *, arrives_s: float = 0.0) -> None:
    """Say the order as it stands; `topic` is the web shop's webhook. `arrives_s`: when, if later than it happened."""
    event = sale.next_event()
    if sale.channel == "shopify":
        revision_id, delivery = f"{topic}/{event}", f"shopify/{sale.shop}/{topic}/{event}"
    else:
        revision_id = f"{script.moment(sale.revised_s).isoformat()}/{sale.status}/{event}"
        delivery = f"amazon/{sale.shop}/{sale.marketplace}/{sale.external_id}/{revision_id}"
    record = snapshot(script, sale, revision_id=revision_id)
    arrives_s = max(at_s, arrives_s)
    may_fail = rejected_as(sale)
    script.say(
        arrives_s,
        record,
        delivery=delivery,
        label=f"{sale.name}: {what}",
        occurred_at=record.revision_at,
        rejected_as=may_fail,
    )
    if script.on(Feature.RETRY, 0.3):
        # The same state under a new event: a second subscription to another topic, or a notification sent once more.
        again = f"{revision_id}-again"
        script.say(
            arrives_s + script.gap_s(),
            replace(record, revision_id=again),
            delivery=f"{delivery}-again",
            label=f"{sale.name}: {what}, told anew",
            occurred_at=record.revision_at,
            rejected_as=may_fail,
        )


def web_order(world: World, number: int, at_s: float) -> Sale:
    """An order of the web shop, from its creation until it is paid, or not."""
    script = world.script
    script.shown.add(Feature.SHOPIFY)
    if script.on(Feature.WEB_TILL, 0.15):
        return _web_till_sale(world, number, at_s)
    external_id = str(5_312_960_330_000 + number)
    taxes_included = script.on(Feature.TAX_INCLUDED)
    sale = Sale(
        number=number,
        channel="shopify",
        shop=SHOP,
        external_id=external_id,
        currency=world.currency,
        taxes_included=taxes_included,
        lines=_lines(world, "shopify", f"{external_id}", world.currency, _VAT_PERCENT, taxes_included),
        placed_s=int(at_s),
        last_s=at_s,
        revised_s=int(at_s),
        payment=TenderState.AUTHORIZED,
    )
    if script.on(Feature.DIGITAL, 0.3):
        sale.lines[-1].requires_shipping = False
    if script.on(Feature.PICKUP, 0.4):
        sale.method, sale.pickup_location = DeliveryMethod.PICKUP, world.store
    elif script.on(Feature.SHIPPING):
        sale.shipping = _priced(script, 490, world.currency, _VAT_PERCENT, taxes_included)
    if script.on(Feature.TIP, 0.3):
        sale.other_minor = 150
    if script.on(Feature.CAPTURED_BY_SHOP):
        sale.payment = TenderState.CAPTURED
    _pay_and_tell(world, sale, at_s)
    return sale


def _pay_and_tell(world: World, sale: Sale, at_s: float) -> None:
    """The creation, and the payment with it, after it, or never; whichever message arrives first."""
    script = world.script
    if script.on(Feature.NEVER_PAID, 0.15):
        sale.payment = TenderState.PENDING
        tell(script, sale, at_s, "orders/create", "created unpaid")
    elif script.on(Feature.AUTHORIZED_BY_PROVIDER, 0.4):
        sale.payment = TenderState.PENDING
        tell(script, sale, at_s, "orders/create", "created unpaid")
        at_s += script.gap_s()
        if script.on(Feature.DECLINED_BY_PROVIDER):
            declined = PaymentDeclined(
                order_id=sale.order_id, reference=sale.tender_reference, reason="insufficient funds"
            )
            _report_payment(script, sale, at_s, declined, "payment declined")
            at_s += script.gap_s()
        authorized = PaymentAuthorized(
            order_id=sale.order_id,
            tender_reference=sale.tender_reference,
            amount=Money(minor=sale.total_minor, currency=sale.currency),
            psp_reference=f"psp-{sale.number}",
            authorized_at=script.moment(at_s),
        )
        sale.payment = TenderState.AUTHORIZED
        sale.last_s = at_s
        _report_payment(script, sale, at_s, authorized, "authorised by the provider")
    elif sale.total_minor > 1 and script.on(Feature.PAID_IN_PARTS, 0.3):
        sale.payment, sale.outstanding_minor = TenderState.CAPTURED, sale.total_minor // 2
        tell(script, sale, at_s, "orders/create", "created, half of it paid")
        sale.outstanding_minor = 0
        at_s += script.gap_s()
        revise(script, sale, at_s)
        tell(script, sale, at_s, "orders/paid", "the other half paid")
    elif script.on(Feature.PAID_LATE, 0.5):
        paid, paid_s = sale.payment, at_s + script.gap_s()
        late_s = paid_s + script.gap_s() if script.on(Feature.OUT_OF_ORDER) else 0.0
        sale.payment = TenderState.PENDING
        tell(script, sale, at_s, "orders/create", "created unpaid", arrives_s=late_s)
        sale.payment = paid
        revise(script, sale, paid_s)
        tell(script, sale, paid_s, "orders/paid", f"paid, {paid}")
    else:
        tell(script, sale, at_s, "orders/create", f"created, {sale.payment}")
    _tell_once_mapped(script, sale)


def _tell_once_mapped(script: Script, sale: Sale) -> None:
    """An order whose item was not mapped is sent again once it is: somebody sees to that."""
    late_s = sale.late_s()
    if late_s is not None:
        again_s = max(late_s, sale.last_s) + script.gap_s()
        revise(script, sale, again_s)
        tell(script, sale, again_s, "orders/updated", "sent again after its item is mapped")


def _report_payment(
    script: Script, sale: Sale, at_s: float, record: PaymentAuthorized | PaymentDeclined, what: str
) -> None:
    reference = "/".join(str(getattr(record, name)) for name in record.IDENTITY)
    script.say(at_s, record, delivery=f"payment/{reference}", label=f"{sale.name}: {what}")


def marketplace_order(world: World, number: int, at_s: float) -> Sale:
    """An order of the marketplace: pending without amounts, then priced; shipped by us, or by the marketplace."""
    script = world.script
    script.shown.add(Feature.AMAZON)
    german = script.on(Feature.TAX_INCLUDED)
    marketplace, currency = (GERMAN, "EUR") if german else (AMERICAN, "USD")
    external_id = f"113-{number:07d}-{number * 7919:07d}"
    percent = _VAT_PERCENT if german else _SALES_TAX_PERCENT
    sale = Sale(
        number=number,
        channel="amazon",
        shop=SELLER,
        marketplace=marketplace,
        external_id=external_id,
        currency=currency,
        taxes_included=german,
        lines=_lines(world, "amazon", f"6882{number:04d}", currency, percent, german, facilitated=not german),
        placed_s=int(at_s),
        last_s=at_s,
        revised_s=int(at_s),
        payment=TenderState.MARKETPLACE,
    )
    if script.on(Feature.SHIPPING):
        sale.shipping = _priced(script, 399, currency, percent, german, facilitated=not german)
    pending = script.on(Feature.MARKETPLACE_PENDING)
    by_marketplace = script.on(Feature.MARKETPLACE_FULFILLED, 0.4)
    if by_marketplace:
        sale.fulfilled_by = FulfilledBy.MARKETPLACE
    if pending:
        later_s = at_s + script.gap_s()
        sale.priced, sale.status = False, ChannelStatus.PENDING
        late_s = later_s + script.gap_s() if script.on(Feature.OUT_OF_ORDER) else 0.0
        tell(script, sale, at_s, "", "pending", arrives_s=late_s)
        sale.priced, sale.status = True, ChannelStatus.OPEN
        at_s = later_s
        revise(script, sale, at_s)
    if not by_marketplace or script.rng.random() < 0.5:
        tell(script, sale, at_s, "", "unshipped, priced")
        at_s += script.gap_s()
    if by_marketplace:
        sale.status = ChannelStatus.SHIPPED
        revise(script, sale, at_s)
        tell(script, sale, at_s, "", "shipped by the marketplace")
    _tell_once_mapped(script, sale)
    return sale


def _web_till_sale(world: World, number: int, at_s: float) -> Sale:
    """A sale at a till of the web shop's own platform: a webhook like any other, and a finished sale."""
    script = world.script
    external_id = str(5_312_960_330_000 + number)
    sale = Sale(
        number=number,
        channel="shopify",
        shop=SHOP,
        external_id=external_id,
        currency=world.currency,
        taxes_included=True,
        lines=_lines(world, "shopify", external_id, world.currency, _VAT_PERCENT, True),
        placed_s=int(at_s),
        last_s=at_s,
        revised_s=int(at_s),
        payment=TenderState.CAPTURED,
        kind=IntakeKind.POS_SALE,
        method=DeliveryMethod.CARRIED_OUT,
        pickup_location=world.store,
    )
    tell(script, sale, at_s, "orders/create", "sold at a till")
    _tell_once_mapped(script, sale)
    return sale


def till_sale(world: World, number: int, at_s: float) -> Sale:
    """A receipt: a finished sale. The store's feed may report the same goods under the same reference."""
    script = world.script
    script.shown.add(Feature.POS)
    taxes_included = script.on(Feature.TAX_INCLUDED)
    external_id = f"R1/{script.moment(at_s).date().isoformat()}/{number:06d}"
    sale = Sale(
        number=number,
        channel="pos",
        shop=world.store,
        external_id=external_id,
        currency=world.currency,
        taxes_included=taxes_included,
        lines=_lines(world, "pos", "", world.currency, _VAT_PERCENT, taxes_included),
        placed_s=int(at_s),
        last_s=at_s,
        revised_s=int(at_s),
        payment=TenderState.CAPTURED,
        status=ChannelStatus.SHIPPED,
        kind=IntakeKind.POS_SALE,
        method=DeliveryMethod.CARRIED_OUT,
        pickup_location=world.store,
    )
    plain = all(line.ware.name in world.skus for line in sale.lines)
    fed = plain and len(sale.lines) == 1 and script.on(Feature.STORE_FEED_SALE)
    if fed:
        sale.store_movement_ref = f"till/{number}"
        line = sale.lines[0]
        goods = StockMovement(
            sku=next(sku for sku in world.skus if sku == line.ware.name),
            location=world.store,
            delta=-line.units,
            moved_at=script.moment(at_s),
            feed=world.places[-1].feed,
            reason="sale",
            ref=sale.store_movement_ref,
        )
        say_stock(
            world,
            max(0.0, at_s + script.gap_s() - script.gap_s()),
            goods,
            label=f"{sale.name}: in the store's feed",
        )
    arrivals = [at_s]
    late_s = sale.late_s()
    if late_s is not None:
        arrivals.append(max(late_s, at_s) + script.gap_s())
    for arrives_s in arrivals:
        record = snapshot(script, sale, revision_id=external_id)
        script.say(
            arrives_s,
            record,
            delivery=f"pos/{sale.shop}/{external_id}",
            label=f"{sale.name}: receipt" + (", once more" if arrives_s != at_s else ""),
            occurred_at=record.placed_at,
            rejected_as=rejected_as(sale),
        )
    return sale


def _lines(
    world: World,
    channel: str,
    prefix: str,
    currency: str,
    percent: int,
    taxes_included: bool,
    *,
    facilitated: bool = False,
) -> list[SaleLine]:
    """One line, or up to three, of which two may be of the same ware."""
    script = world.script
    count = script.rng.randint(2, 3) if script.on(Feature.MULTI_LINE) else 1
    lines = []
    for index in range(count):
        ware = script.rng.choice(world.wares)
        _note(script, ware)
        units = script.rng.choice((1, 1, 2, 3))
        lines.append(
            SaleLine(
                line_id=LineId(f"{prefix}{index + 1}"),
                ware=ware,
                items=references(ware, channel),
                units=units,
                amounts=_priced(
                    script, ware.price * units, currency, percent, taxes_included, facilitated=facilitated
                ),
                left=units,
            )
        )
    return lines


def added_line(world: World, sale: Sale) -> SaleLine:
    """A line that an edit adds to an order of the web shop."""
    script = world.script
    ware = script.rng.choice(world.wares)
    _note(script, ware)
    amounts = _priced(script, ware.price, sale.currency, _VAT_PERCENT, sale.taxes_included)
    return SaleLine(
        line_id=LineId(f"{sale.external_id}{len(sale.lines) + 1}"),
        ware=ware,
        items=references(ware, sale.channel),
        units=1,
        amounts=amounts,
        left=1,
    )


def _note(script: Script, ware: Ware) -> None:
    """A ware of a special kind shows its feature once it is ordered."""
    kind = _KINDS.get(ware.name)
    if kind is not None:
        script.shown.add(kind)


_KINDS = {KIT: Feature.KIT, CASE: Feature.CASE, LATE: Feature.LATE_MAPPING}


def _priced(
    script: Script,
    gross: int,
    currency: str,
    percent: int,
    taxes_included: bool,
    *,
    facilitated: bool = False,
) -> Amounts:
    """Amounts of a price as the channel gives it, perhaps discounted; the tax lies in the price or on top."""
    discount = script.rng.randint(0, gross // 2) if script.on(Feature.DISCOUNT, 0.4) else 0
    net = gross - discount
    tax = net * percent // (100 + percent) if taxes_included else net * percent // 100
    return Amounts(
        currency=currency,
        goods=gross - tax if taxes_included else gross,
        discount=discount,
        tax=0 if facilitated else tax,
        facilitator_tax=tax if facilitated else 0,
    )
