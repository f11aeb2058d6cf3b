"""Orders of a workload as each kind of seller starts them: the web shop, the marketplace, the till. Called by `workload`.

Each says an order from its creation until it is paid for, or not; whichever of its messages arrives first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossdock_canonical.identity import LineId
from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    ChannelStatus,
    DeliveryMethod,
    FulfilledBy,
    IntakeKind,
    PaymentAuthorized,
    PaymentDeclined,
    StockMovement,
    TenderState,
)
from crossdock_simulation.workload_sales import (
    SELLER,
    SHOP,
    Sale,
    SaleLine,
    rejected_as,
    revise,
    snapshot,
    tell,
)
from crossdock_simulation.workload_script import Feature
from crossdock_simulation.workload_world import CASE, KIT, LATE, references, say_stock

if TYPE_CHECKING:
    from crossdock_simulation.workload_script import Script
    from crossdock_simulation.workload_world import Ware, World

_AMERICAN, _GERMAN = "ATVPDKIKX0DER", "A1PA6795UKMFR9"
_VAT_PERCENT = 19
_SALES_TAX_PERCENT = 7


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
    marketplace, currency = (_GERMAN, "EUR") if german else (_AMERICAN, "USD")
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
