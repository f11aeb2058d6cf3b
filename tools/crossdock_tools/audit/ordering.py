"""Invariant 5: what happens to one key happens in order, also beyond a service: outputs follow the order of their causes.

And an order's documents come after those that they stand on, which no ERP need check: delivery after sales order, invoice after
delivery, credit memo and change after what they credit and change.
"""

from __future__ import annotations

from collections.abc import Mapping

from crossdock_canonical.records import DocumentType, ErpDocumentFailed, ErpDocumentPosted, OrderShipped
from crossdock_eventing.broker.interface import TopicPartition
from crossdock_tools.audit.books import Books
from crossdock_tools.audit.evidence import GATEWAY, Evidence, place, producer_of
from crossdock_tools.audit.report import Check
from crossdock_tools.audit.taken import first_letters
from crossdock_tools.topic_reader import Entry


def outputs(evidence: Evidence, _books: Books) -> Check:
    """Outputs that the messages of one key caused stand, per output topic and key, in the order of these messages.

    Left out is what the answer of an outside system caused: it names the fact that was asked about, and answers come when they
    come. So are the outside's own messages.
    """
    violations: list[str] = []
    checked = 0
    answered = _answered(evidence)
    reached: dict[
        tuple[str, TopicPartition, bytes | None, TopicPartition, bytes | None], tuple[int, Entry]
    ] = {}
    for partition, entries in evidence.log.items():
        for entry in entries:
            service = producer_of(entry)
            if service == GATEWAY or (service, entry.meta.causation_id) in answered:
                continue
            causes = evidence.by_id(entry.meta.causation_id)
            if not causes:
                continue
            checked += 1
            record, cause = entry.record, causes[0].record
            thread = (service, partition, record.key, TopicPartition(cause.topic, cause.partition), cause.key)
            before, earlier = reached.get(thread, (-1, entry))
            # A delivery that was repeated is one message at several offsets: the first that fits is the one.
            fitting = [each.record.offset for each in causes if each.record.offset >= before]
            if not fitting:
                violations.append(
                    f"{place(record)} of {service}, caused by {place(cause)}, stands after "
                    f"{place(earlier.record)}, which a later message caused"
                )
                continue
            reached[thread] = (min(fitting), entry)
    return Check(5, "outputs keep the order of their causes", checked, tuple(violations))


def letters(evidence: Evidence, _books: Books) -> Check:
    """Dead letters of one key stand in the order in which its messages came."""
    violations: list[str] = []
    reached: dict[tuple[str, int, bytes | None, TopicPartition], int] = {}
    checked = 0
    for letter in first_letters(evidence):
        if letter.service == GATEWAY:
            continue
        assert letter.original is not None
        checked += 1
        topic, number, offset = letter.original
        thread = (letter.service, letter.record.partition, letter.record.key, TopicPartition(topic, number))
        before = reached.get(thread, -1)
        if offset < before:
            violations.append(f"{place(letter.record)} copies @{offset} of {topic}[{number}] after @{before}")
        reached[thread] = max(offset, before)
    return Check(5, "dead letters keep the order of their messages", checked, tuple(violations))


def documents(evidence: Evidence, _books: Books) -> Check:
    """Each document of an order was posted after one that it stands on. What was posted first lies first: they share a key."""
    violations: list[str] = []
    checked = 0
    releases = {
        (entry.body.order_id, entry.body.shipment_id): entry.body.release
        for entry in evidence.of(OrderShipped)
    }
    posted: dict[str | None, list[str]] = {}
    for entry in evidence.of(ErpDocumentPosted):
        body = entry.body
        before = posted.setdefault(body.order_id, [])
        base = _stands_on(body, releases)
        if base:
            checked += 1
            if not any(key == base or (base.endswith("/") and key.startswith(base)) for key in before):
                violations.append(f"{body.business_key} ({place(entry.record)}) was posted before {base}")
        before.append(body.business_key)
    return Check(5, "documents come after those that they stand on", checked, tuple(violations))


def _stands_on(body: ErpDocumentPosted, releases: Mapping[tuple[str, str], int]) -> str:
    """Business key of the document that must be there, or what it begins with; empty when none must."""
    order = body.order_id or ""
    shipment = body.business_key.removeprefix(f"delivery/{order}/").removeprefix(f"invoice/{order}/")
    match body.document_type:
        case DocumentType.DELIVERY:
            # What was carried out of a store was never released.
            release = releases.get((order, shipment), 0)
            return f"sales_order/{order}/{release}" if release else ""
        case DocumentType.INVOICE:
            return f"delivery/{order}/{shipment}"
        case DocumentType.SALES_ORDER_CHANGE:
            return f"sales_order/{order}/"
        case DocumentType.CREDIT_MEMO:
            return f"invoice/{order}/"
        case _:
            return ""


def _answered(evidence: Evidence) -> frozenset[tuple[str, str]]:
    """Service and cause of what an outside system's answer was decided for."""
    told = {
        (service, cause)
        for (service, _), turns in evidence.journals.items()
        for turn in turns
        for _, _, cause, _ in turn.answers
    }
    # Without a journal: the ERP's answers are the only ones there are, and each of its events is one.
    journaled = evidence.journaled
    unjournaled = {
        (producer_of(entry), entry.meta.causation_id)
        for entry in evidence.of(ErpDocumentPosted, ErpDocumentFailed)
        if producer_of(entry) not in journaled
    }
    return frozenset(told | unjournaled)
