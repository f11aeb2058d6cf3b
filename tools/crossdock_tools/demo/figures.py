"""What became of the demo's orders: figures from the topics, held against the simulators' own books.

The topics say what the backbone believes; the books say what the outside did. The demo fails when the two disagree.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from crossdock_canonical.money import minor_units
from crossdock_canonical.records import (
    Bucket,
    ChannelOrderReceived,
    CreditGranted,
    DocumentType,
    ErpDocumentFailed,
    ErpDocumentPosted,
    FulfilledBy,
    MovementCause,
    OrderCancelled,
    OrderCompleted,
    OrderHeld,
    OrderReceived,
    OrderRejected,
    OrderReleased,
    OrderShipped,
    Origin,
    OversellDetected,
    PaymentCaptured,
    PaymentKind,
    PaymentRecorded,
    RefundRecorded,
    ReturnClosed,
    SettlementProved,
    SettlementRefused,
    ShipmentDispatched,
    StockAdjusted,
    StockMoved,
)
from crossdock_eventing import names
from crossdock_tools.cluster import Cluster
from crossdock_tools.demo.scenario import Scenario
from crossdock_tools.topic_reader import TopicReader

_KINDS = (
    ChannelOrderReceived,
    OrderReceived,
    StockMoved,
    ShipmentDispatched,
    PaymentCaptured,
    ReturnClosed,
    SettlementProved,
    ErpDocumentPosted,
)


@dataclass
class Outcome:
    """Everything that the run wrote, folded. `read` adds what came since."""

    ordered: set[str] = field(default_factory=set)
    completed: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    rejected: set[str] = field(default_factory=set)
    held: Counter[str] = field(default_factory=Counter)
    facts: Counter[DocumentType] = field(default_factory=Counter)
    documents: Counter[DocumentType] = field(default_factory=Counter)
    failed_documents: list[str] = field(default_factory=list)
    shipped_by_us: Counter[str] = field(default_factory=Counter)
    moved_out: Counter[str] = field(default_factory=Counter)
    acknowledged: set[tuple[str, str]] = field(default_factory=set)
    captured: Counter[str] = field(default_factory=Counter)
    refunded_by_us: Counter[str] = field(default_factory=Counter)
    returns_closed: set[str] = field(default_factory=set)
    refunded_orders: set[str] = field(default_factory=set)
    settlements: dict[str, SettlementProved] = field(default_factory=dict)
    refused_settlements: list[str] = field(default_factory=list)
    oversold: int = 0
    dead_letters: list[str] = field(default_factory=list)

    @property
    def ended(self) -> set[str]:
        return self.completed | self.cancelled | self.rejected

    def documents_missing(self) -> int:
        """Documents that the facts ask for and the ERP does not hold yet."""
        return sum((self.facts - self.documents).values())

    def take(self, body: Any) -> None:
        """Fold one record."""
        match body:
            case ChannelOrderReceived(order_id=order_id):
                self.ordered.add(order_id)
            case OrderCompleted(order_id=order_id):
                self.completed.add(order_id)
            case OrderCancelled(order_id=order_id, complete=True):
                self.cancelled.add(order_id)
            case OrderRejected(order_id=order_id):
                self.rejected.add(order_id)
            case OrderHeld(reason_code=code):
                self.held[code] += 1
            case OrderReleased():
                self.facts[DocumentType.SALES_ORDER] += 1
            case OrderShipped():
                self._shipped(body)
            case PaymentRecorded(kind=PaymentKind.CAPTURED):
                self.facts[DocumentType.PAYMENT] += 1
            case RefundRecorded():
                self.facts[DocumentType.PAYMENT] += 1
                self.refunded_orders.add(body.order_id)
                if body.origin is Origin.US:
                    self.refunded_by_us[body.amount.currency] += body.amount.minor
            case CreditGranted(invoiced=True):
                self.facts[DocumentType.CREDIT_MEMO] += 1
            case ShipmentDispatched(lines=lines):
                self.shipped_by_us.update({line.sku: line.units for line in lines})
            case PaymentCaptured(amount=amount):
                self.captured[amount.currency] += amount.minor
            case ReturnClosed(rma_id=rma_id):
                self.returns_closed.add(rma_id)
            case StockMoved():
                self._moved(body)
            case StockAdjusted():
                self.facts[DocumentType.STOCK_ADJUSTMENT] += 1
            case OversellDetected(short=short):
                self.oversold += short
            case SettlementProved():
                self.settlements[body.settlement_id] = body
                self.facts[DocumentType.SETTLEMENT_JOURNAL] += 1
            case SettlementRefused(settlement_id=settlement_id, reason_code=code):
                self.refused_settlements.append(f"{settlement_id}: {code}")
            case ErpDocumentPosted(document_type=kind):
                self.documents[kind] += 1
            case ErpDocumentFailed():
                self.failed_documents.append(f"{body.business_key}: {body.code} {body.detail}")

    def _shipped(self, shipped: OrderShipped) -> None:
        self.facts[DocumentType.DELIVERY] += 1
        self.facts[DocumentType.INVOICE] += 1
        told = shipped.fulfilled_by is FulfilledBy.SELLER and shipped.channel != "pos"
        if told and shipped.channel_lines:
            self.acknowledged.add((shipped.channel, shipped.shipment_id))

    def _moved(self, moved: StockMoved) -> None:
        if moved.cause is MovementCause.SALE and moved.bucket is Bucket.ON_HAND:
            self.moved_out[moved.sku] -= moved.delta


class OutcomeReader:
    """Follows the topics of the outcome from where they were when the run began."""

    def __init__(self, cluster: Cluster, services: tuple[str, ...]) -> None:
        broker = cluster.broker()
        topics = sorted({kind.TOPIC for kind in _KINDS})
        self._topics = TopicReader(broker, cluster.registry(), topics)
        letters = [names.dead_letter_topic(service) for service in services]
        self._dead_letters = TopicReader(broker, cluster.registry(), letters)
        self._topics.skip_to_end()
        self._dead_letters.skip_to_end()
        self.outcome = Outcome()

    def read(self) -> int:
        """Fold what came since the last call; returns how many records that were."""
        count = 0
        for entry in self._topics.entries():
            self.outcome.take(entry.body)
            count += 1
        for record in self._dead_letters.records():
            found = dict(record.headers)
            code = found.get("crossdock-error-code", b"?").decode(errors="replace")
            self.outcome.dead_letters.append(f"{record.topic}: {code}")
            count += 1
        return count

    def close(self) -> None:
        self._topics.close()
        self._dead_letters.close()


def summary(
    outcome: Outcome,
    books: dict[str, dict[str, Any]],
    *,
    sent: int,
    refused: int,
    expected_letters: int,
    wall_s: float,
) -> dict[str, Any]:
    """The figures that the README defines."""
    residual = sum(
        abs(proved.residual_minor) + sum(abs(each.amount_minor) for each in proved.residuals)
        for proved in outcome.settlements.values()
    )
    return {
        "requests_sent": sent,
        "requests_refused": refused,
        "orders_distinct": len(outcome.ordered),
        "orders_completed": len(outcome.completed - outcome.cancelled),
        "orders_cancelled": len(outcome.cancelled),
        "orders_rejected": len(outcome.rejected),
        "orders_open": len(outcome.ordered - outcome.ended),
        "dead_lettered": len(outcome.dead_letters),
        "dead_letters_expected": expected_letters,
        "erp_documents": books["erp"]["documents"],
        "erp_duplicates": len(books["erp"]["duplicates"]),
        "oversold_units": outcome.oversold,
        "settlement_lines": sum(proved.line_count for proved in outcome.settlements.values()),
        "settlement_residual_minor": residual,
        "wall_s": round(wall_s, 1),
    }


def disagreements(
    outcome: Outcome, books: dict[str, dict[str, Any]], scenario: Scenario, figures: dict[str, Any]
) -> list[str]:
    """Where topics, books and script contradict one another; empty when all three agree."""
    found: list[str] = []

    def same(what: str, left: object, right: object, between: str) -> None:
        if left != right:
            found.append(f"{what}: {left} and {right} ({between})")

    same("orders", figures["orders_distinct"], scenario.distinct, "topics, script")
    same("refused requests", figures["requests_refused"], scenario.refused, "client, script")
    same("rejected orders", figures["orders_rejected"], scenario.rejected, "topics, script")
    same("cancelled orders", figures["orders_cancelled"], scenario.cancelled, "topics, script")
    same("dead letters", figures["dead_lettered"], figures["dead_letters_expected"], "topics, script")
    same("settlement lines", figures["settlement_lines"], scenario.settlement_lines, "topics, script")
    same("open orders", figures["orders_open"], 0, "topics, promise")
    same("duplicate ERP documents", figures["erp_duplicates"], 0, "ERP, promise")
    same("oversold units", figures["oversold_units"], 0, "topics, promise")
    same("unexplained settlement money", figures["settlement_residual_minor"], 0, "topics, promise")
    ended = figures["orders_completed"] + figures["orders_cancelled"] + figures["orders_rejected"]
    same("orders that ended", ended, figures["orders_distinct"], "topics, topics")

    same("ERP documents", books["erp"]["documents"], sum(outcome.documents.values()), "ERP, topics")
    posted = {kind.value: outcome.documents[kind] for kind in outcome.facts}
    facts = {kind.value: count for kind, count in outcome.facts.items()}
    same("documents by type", posted, facts, "ERP, facts on the topics")
    found.extend(f"refused by the ERP: {each}" for each in outcome.failed_documents)
    found.extend(f"settlement refused: {each}" for each in outcome.refused_settlements)

    shipped = books["wms"]["shipped_units"]["by_sku"]
    same("units shipped by sku", shipped, dict(outcome.shipped_by_us), "warehouse, topics")
    for sku, units in sorted(outcome.moved_out.items()):
        if units > scenario.stocked.get(sku, 0):
            found.append(f"{sku}: {units} units left, {scenario.stocked.get(sku, 0)} were there")
    money = books["psp"]["money"]
    same("money captured", _minor(money["captures"]), dict(outcome.captured), "payment provider, topics")
    same("money refunded", _minor(money["refunds"]), dict(outcome.refunded_by_us), "payment provider, topics")
    told = sum(count for what, count in books["channels"]["told"].items() if what.endswith("/fulfillments"))
    same("shipments told to channels", told, len(outcome.acknowledged), "channels, topics")
    same("shipped twice", books["wms"]["duplicates"], 0, "warehouse, promise")
    for name in ("psp", "channels"):
        same(f"contradictions at {name}", books[name]["contradictions"], [], "its books, promise")
    same("findings in the ERP's ledger", books["erp"]["findings"], [], "ERP, promise")
    return found


def _minor(amounts: dict[str, str]) -> dict[str, int]:
    """Decimal text by currency, as minor units."""
    return {currency: minor_units(text, currency) for currency, text in amounts.items()}
