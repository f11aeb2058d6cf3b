"""Invariant 4: one ERP document per business key and version across all ERPs, and one for every fact that asks for one.

Which fact asks for which document is written down here a second time, from the business rules and not from the poster: sales
order on release, delivery and invoice on shipment, payment on money that moved, credit memo on a credit against an invoice,
change on what became of released lines, adjustment on a count, journal on a proven settlement.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from crossdock_canonical.records import (
    CreditGranted,
    DocumentType,
    ErpDocumentFailed,
    ErpDocumentPosted,
    OrderAmended,
    OrderCancelled,
    OrderReleased,
    OrderShipped,
    PaymentKind,
    PaymentRecorded,
    RefundRecorded,
    SettlementProved,
    StockAdjusted,
)
from crossdock_tools.audit.books import Books, DocumentBook
from crossdock_tools.audit.evidence import Evidence, place
from crossdock_tools.audit.report import Check
from crossdock_tools.topic_reader import Entry

#: Type and business key.
Document = tuple[DocumentType, str]

_HELD_ONCE = "ERPs hold no document twice"
_HELD = "posted documents are booked"
_SOUND = "ERPs have no objection of their own"

_FACTS = (
    OrderReleased,
    OrderShipped,
    OrderAmended,
    OrderCancelled,
    PaymentRecorded,
    RefundRecorded,
    CreditGranted,
    StockAdjusted,
    SettlementProved,
)


def documents(evidence: Evidence, books: Books) -> tuple[Check, ...]:
    """No document twice, none without its fact, and the ERPs' own books hold what the topics say."""
    posted = evidence.of(ErpDocumentPosted)
    return (_posted_once(posted, evidence), _asked_for(evidence, posted), *_booked(evidence, posted, books))


def complete(evidence: Evidence, books: Books) -> tuple[Check, ...]:
    """Every fact that asks for a document has it, posted or refused, and every booking of an ERP is known to us."""
    settled = {_identity(entry.body) for entry in evidence.of(ErpDocumentPosted, ErpDocumentFailed)}
    wanted = asked(evidence)
    missing = tuple(
        f"{kind} {key}, which {type(facts[0].body).__name__} {place(facts[0].record)} asks for, is neither posted nor refused"
        for (kind, key), facts in wanted.items()
        if (kind, key) not in settled
    )
    found = Check(4, "every fact has its document", len(wanted), missing)
    if books.erps is None:
        return (found, Check(4, "every booking is known", 0, note="no books given"))
    known = {(entry.body.business_key, entry.body.version) for entry in evidence.of(ErpDocumentPosted)}
    unknown = tuple(
        f"{each.erp} booked {each.reference} as {each.external_ref}, of which no topic speaks"
        for each in books.erps.documents
        if (each.business_key, each.version) not in known
    )
    return (found, Check(4, "every booking is known", len(books.erps.documents), unknown))


def asked(evidence: Evidence) -> dict[Document, list[Entry]]:
    """Every document that the facts on the topics ask for, with its facts."""
    released = {entry.body.order_id for entry in evidence.of(OrderReleased)}
    wanted: dict[Document, list[Entry]] = {}
    for entry in evidence.of(*_FACTS):
        for document in documents_of(entry.body, released=released):
            wanted.setdefault(document, []).append(entry)
    return wanted


def documents_of(fact: Any, *, released: set[str]) -> tuple[Document, ...]:
    """Type and business key of each document that a fact asks for. `released`: orders of which something was released."""
    match fact:
        case OrderReleased(order_id=order, release=release):
            return ((DocumentType.SALES_ORDER, f"sales_order/{order}/{release}"),)
        case OrderShipped(order_id=order, shipment_id=shipment):
            return (
                (DocumentType.DELIVERY, f"delivery/{order}/{shipment}"),
                (DocumentType.INVOICE, f"invoice/{order}/{shipment}"),
            )
        case OrderAmended(order_id=order, amendment_id=change, released=True):
            return ((DocumentType.SALES_ORDER_CHANGE, f"sales_order_change/{order}/{change}"),)
        case OrderCancelled(order_id=order, cancel_id=change, complete=True) if order in released:
            return ((DocumentType.SALES_ORDER_CHANGE, f"sales_order_change/{order}/{change}"),)
        case PaymentRecorded(order_id=order, payment_id=payment, kind=PaymentKind.CAPTURED):
            return ((DocumentType.PAYMENT, f"payment/{order}/{payment}"),)
        case RefundRecorded(order_id=order, refund_id=refund):
            return ((DocumentType.PAYMENT, f"refund/{order}/{refund}"),)
        case CreditGranted(order_id=order, credit_id=credit, invoiced=True):
            return ((DocumentType.CREDIT_MEMO, f"credit_memo/{order}/{credit}"),)
        case StockAdjusted():
            key = f"stock_adjustment/{fact.sku}/{fact.location}/{fact.bucket}/{fact.ref}"
            return ((DocumentType.STOCK_ADJUSTMENT, key),)
        case SettlementProved(settlement_id=settlement, sha256=digest):
            return ((DocumentType.SETTLEMENT_JOURNAL, f"settlement_journal/{settlement}/{digest}"),)
        case _:
            return ()


def _identity(document: ErpDocumentPosted | ErpDocumentFailed) -> Document:
    return document.document_type, document.business_key


def _posted_once(posted: list[Entry], evidence: Evidence) -> Check:
    violations: list[str] = []
    first: dict[tuple[str, int], Entry] = {}
    for entry in posted:
        body = entry.body
        before = first.setdefault((body.business_key, body.version), entry)
        if before is not entry:
            violations.append(
                f"{body.business_key} version {body.version} in {body.erp} as {body.external_ref} ({place(entry.record)}) "
                f"and in {before.body.erp} as {before.body.external_ref} ({place(before.record)})"
            )
    for entry in evidence.of(ErpDocumentFailed):
        twin = first.get((entry.body.business_key, entry.body.version))
        if twin is not None:
            violations.append(
                f"{entry.body.business_key} is posted ({place(twin.record)}) and refused ({place(entry.record)})"
            )
    return Check(4, "one document per business key and version", len(posted), tuple(violations))


def _asked_for(evidence: Evidence, posted: list[Entry]) -> Check:
    """Each document goes back to the fact that asks for it, which is its cause."""
    violations = []
    wanted = asked(evidence)
    for entry in posted:
        facts = wanted.get(_identity(entry.body), [])
        if entry.meta.causation_id not in {fact.meta.event_id for fact in facts}:
            violations.append(
                f"{entry.body.document_type} {entry.body.business_key} ({place(entry.record)}) has no fact that asks for it"
            )
    return Check(4, "every document has its fact", len(posted), tuple(violations))


def _booked(evidence: Evidence, posted: list[Entry], books: Books) -> tuple[Check, ...]:
    if books.erps is None:
        note = "no books given"
        return tuple(Check(4, name, 0, note=note) for name in (_HELD_ONCE, _HELD, _SOUND))
    booked: dict[tuple[str, int], list[DocumentBook]] = {}
    for each in books.erps.documents:
        booked.setdefault((each.business_key, each.version), []).append(each)
    doubled = [
        f"{key} version {version}: " + ", ".join(f"{each.erp} {each.external_ref}" for each in found)
        for (key, version), found in booked.items()
        if len(found) > 1
    ]
    references = Counter((each.erp, each.reference) for each in books.erps.documents)
    keys = {(each.erp, each.reference): (each.business_key, each.version) for each in books.erps.documents}
    doubled += [
        f"{erp} holds reference {reference} {count} times, for different documents"
        for (erp, reference), count in references.items()
        if count > len(booked[keys[erp, reference]])
    ]
    differing: list[str] = []
    for entry in posted:
        body = entry.body
        found = booked.get((body.business_key, body.version), [])
        match = next(
            (each for each in found if (each.erp, each.external_ref) == (body.erp, body.external_ref)), None
        )
        if match is None:
            there = ", ".join(f"{each.erp} {each.external_ref}" for each in found) or "not booked"
            differing.append(f"{body.business_key} was posted to {body.erp} as {body.external_ref}: {there}")
        elif match.document_type != body.document_type.value:
            differing.append(
                f"{body.business_key} is a {body.document_type}, booked as {match.document_type}"
            )
        elif body.amount is not None and match.amount is not None and match.amount != body.amount:
            differing.append(f"{body.business_key} is worth {body.amount}, booked as {match.amount}")
    refused = {(entry.body.business_key, entry.body.version) for entry in evidence.of(ErpDocumentFailed)}
    differing += [
        f"{key} was given up, and is booked" for key, version in booked if (key, version) in refused
    ]
    return (
        Check(4, _HELD_ONCE, len(books.erps.documents), tuple(doubled)),
        Check(4, _HELD, len(posted), tuple(differing)),
        Check(4, _SOUND, len(books.erps.documents), books.erps.objections),
    )
