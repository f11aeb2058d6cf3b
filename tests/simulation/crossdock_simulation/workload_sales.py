"""One order of a workload as its channel has it, and how the channel tells of it: snapshots in the gateway's canonical form.

`workload_shops` makes sales; `workload_changes`, `workload_returns` and `workload_settlements` tell what becomes of them.
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
    Tender,
    TenderState,
)
from crossdock_simulation.workload_script import Feature

if TYPE_CHECKING:
    from crossdock_simulation.workload_script import Script
    from crossdock_simulation.workload_world import Ware

SHOP = "crossdock.myshopify.example"
SELLER = "A2SELLER"
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
