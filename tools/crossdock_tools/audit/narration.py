"""An order as its topic tells it: one fold of `order.events` that the checks of money, quantities and convergence stand on.

All events of one order are in one partition, so that their log order is the order in which they were decided.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from crossdock_canonical.money import Amounts
from crossdock_canonical.records import (
    AmendedLine,
    CreditGranted,
    OrderAmended,
    OrderCancelled,
    OrderCompleted,
    OrderHeld,
    OrderLine,
    OrderReceived,
    OrderRejected,
    OrderReleased,
    OrderShipped,
    PaymentKind,
    PaymentRecorded,
    RefundRecorded,
)
from crossdock_tools.audit.evidence import Evidence
from crossdock_tools.topic_reader import Entry


@dataclass(slots=True)
class Narration:
    """What was told of one order, up to now.

    lines: live units and worth of each line, shipped ones included. ordered: units ever accepted of each line; live is what of
    them is not cancelled. entries: the events themselves, in order. completed: the event, if it was told.
    """

    order_id: str
    entries: list[Entry] = field(default_factory=list)
    received: OrderReceived | None = None
    lines: dict[str, OrderLine | AmendedLine] = field(default_factory=dict)
    ordered: Counter[str] = field(default_factory=Counter)
    cancelled: Counter[str] = field(default_factory=Counter)
    shipped: Counter[str] = field(default_factory=Counter)
    shipments: list[OrderShipped] = field(default_factory=list)
    releases: list[OrderReleased] = field(default_factory=list)
    payments: list[PaymentRecorded] = field(default_factory=list)
    credits: list[CreditGranted] = field(default_factory=list)
    refunds: list[RefundRecorded] = field(default_factory=list)
    holds: list[OrderHeld] = field(default_factory=list)
    completed: OrderCompleted | None = None
    is_cancelled: bool = False
    is_rejected: bool = False

    @property
    def is_ended(self) -> bool:
        return self.completed is not None or self.is_cancelled or self.is_rejected

    def causes_until_end(self) -> set[str]:
        """Causes of all that was told up to the order's end, the end's own included."""
        causes: set[str] = set()
        for entry in self.entries:
            causes.add(entry.meta.causation_id)
            if _ends(entry.body):
                break
        return causes

    def live(self, line_id: str) -> int:
        """Units of a line that are not cancelled."""
        if self.is_cancelled or self.is_rejected:
            return 0
        line = self.lines.get(line_id)
        return 0 if line is None else line.units

    def recorded(self, kind: PaymentKind) -> int:
        """Money of one kind, minor units."""
        return sum(each.amount.minor for each in self.payments if each.kind is kind)

    def shipped_value(self) -> int:
        """What the customer owes for what has left, taxes and charges included."""
        return sum(
            sum(line.amounts.due for line in each.lines)
            + (each.shipping.due if each.shipping is not None else 0)
            + each.other_minor
            for each in self.shipments
        )

    def credited_value(self) -> int:
        """What of it was credited."""
        return sum(each.total.minor for each in self.credits if each.invoiced)

    def shipped_amounts(self, line_id: str) -> Amounts | None:
        """Worth of all parts of a line that left."""
        found: Amounts | None = None
        for each in self.shipments:
            for line in each.lines:
                if line.line_id == line_id:
                    found = line.amounts if found is None else found + line.amounts
        return found

    def take(self, entry: Entry) -> None:
        """One more event."""
        self.entries.append(entry)
        match entry.body:
            case OrderReceived() as event:
                self.received = event
                self.lines = {line.line_id: line for line in event.lines}
                self.ordered = Counter({line.line_id: line.units for line in event.lines}) + self.cancelled
            case OrderAmended(lines=lines):
                self.lines |= {line.line_id: line for line in lines}
            case OrderCancelled() as event:
                self.cancelled.update({line.line_id: line.units for line in event.lines})
                self.is_cancelled |= event.complete
            case OrderReleased() as event:
                self.releases.append(event)
            case OrderShipped() as event:
                self.shipments.append(event)
                for part in event.lines:
                    self.shipped[part.line_id] += part.units
            case PaymentRecorded() as event:
                self.payments.append(event)
            case CreditGranted() as event:
                self.credits.append(event)
            case RefundRecorded() as event:
                self.refunds.append(event)
            case OrderHeld() as event:
                self.holds.append(event)
            case OrderCompleted() as event:
                self.completed = event
            case OrderRejected():
                self.is_rejected = True


def _ends(event: object) -> bool:
    """Whether the order has ended with it."""
    return isinstance(event, OrderCompleted | OrderRejected) or (
        isinstance(event, OrderCancelled) and event.complete
    )


def narrations(evidence: Evidence) -> dict[str, Narration]:
    """Every order that its topic tells of."""
    return told(entry for entry in evidence.entries if entry.record.topic == OrderReceived.TOPIC)


def told(entries: Iterable[Entry]) -> dict[str, Narration]:
    """The fold of events in log order, by order."""
    found: dict[str, Narration] = {}
    for entry in entries:
        order_id = entry.body.order_id
        if order_id not in found:
            found[order_id] = Narration(order_id)
        found[order_id].take(entry)
    return found
