"""What became of the demo's orders: figures from the topics, held against what only the script knows.

Whether topics and the outside's books agree is the auditor's to say.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from crossdock_canonical.records import (
    Bucket,
    ChannelOrderReceived,
    DocumentType,
    ErpDocumentFailed,
    ErpDocumentPosted,
    MovementCause,
    OrderCancelled,
    OrderCompleted,
    OrderHeld,
    OrderReceived,
    OrderRejected,
    OrderReleased,
    OversellDetected,
    RefundRecorded,
    SettlementProved,
    SettlementRefused,
    ShipmentDispatched,
    StockMoved,
)
from crossdock_eventing import names
from crossdock_tools.audit.documents import Document, documents_of
from crossdock_tools.audit.report import Report
from crossdock_tools.cluster import Cluster
from crossdock_tools.demo.scenario import Scenario
from crossdock_tools.topic_reader import TopicReader

_KINDS = (
    ChannelOrderReceived,
    OrderReceived,
    StockMoved,
    ShipmentDispatched,
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
    released: set[str] = field(default_factory=set)
    documents: Counter[DocumentType] = field(default_factory=Counter)
    documents_asked: set[Document] = field(default_factory=set)
    documents_settled: set[Document] = field(default_factory=set)
    failed_documents: list[str] = field(default_factory=list)
    shipped_by_us: Counter[str] = field(default_factory=Counter)
    moved_out: Counter[str] = field(default_factory=Counter)
    refunded_orders: set[str] = field(default_factory=set)
    settlements: dict[str, SettlementProved] = field(default_factory=dict)
    refused_settlements: list[str] = field(default_factory=list)
    oversold: int = 0
    dead_letters: list[str] = field(default_factory=list)

    @property
    def ended(self) -> set[str]:
        return self.completed | self.cancelled | self.rejected

    def documents_missing(self) -> int:
        """Documents that the facts ask for and the ERP neither holds nor refused yet."""
        return len(self.documents_asked - self.documents_settled)

    def take(self, body: Any) -> None:
        """Fold one record."""
        if isinstance(body, OrderReleased):
            self.released.add(body.order_id)
        self.documents_asked.update(documents_of(body, released=self.released))
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
            case RefundRecorded(order_id=order_id):
                self.refunded_orders.add(order_id)
            case ShipmentDispatched(lines=lines):
                self.shipped_by_us.update({line.sku: line.units for line in lines})
            case StockMoved():
                self._moved(body)
            case OversellDetected(short=short):
                self.oversold += short
            case SettlementProved():
                self.settlements[body.settlement_id] = body
            case SettlementRefused(settlement_id=settlement_id, reason_code=code):
                self.refused_settlements.append(f"{settlement_id}: {code}")
            case ErpDocumentPosted(document_type=kind, business_key=key):
                self.documents[kind] += 1
                self.documents_settled.add((kind, key))
            case ErpDocumentFailed(document_type=kind, business_key=key):
                self.documents_settled.add((kind, key))
                self.failed_documents.append(f"{body.business_key}: {body.code} {body.detail}")

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
    audit: Report,
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
        "audit_checked": audit.checked,
        "audit_violations": len(audit.violations),
        "wall_s": round(wall_s, 1),
    }


def disagreements(outcome: Outcome, scenario: Scenario, figures: dict[str, Any]) -> list[str]:
    """Where topics and script contradict one another; empty when they agree."""
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
    same("oversold units", figures["oversold_units"], 0, "topics, promise")
    same("unexplained settlement money", figures["settlement_residual_minor"], 0, "topics, promise")
    ended = figures["orders_completed"] + figures["orders_cancelled"] + figures["orders_rejected"]
    same("orders that ended", ended, figures["orders_distinct"], "topics, topics")

    found.extend(f"refused by the ERP: {each}" for each in outcome.failed_documents)
    found.extend(f"settlement refused: {each}" for each in outcome.refused_settlements)

    for sku, units in sorted(outcome.moved_out.items()):
        if units > scenario.stocked.get(sku, 0):
            found.append(f"{sku}: {units} units left, {scenario.stocked.get(sku, 0)} were there")
    return found
