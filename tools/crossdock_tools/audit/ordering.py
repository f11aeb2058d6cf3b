"""Invariant 5: what happens to one key happens in order, also beyond a service: outputs follow the order of their causes."""

from __future__ import annotations

from crossdock_canonical.records import ErpDocumentFailed, ErpDocumentPosted
from crossdock_eventing.broker.interface import TopicPartition
from crossdock_tools.audit.books import Books
from crossdock_tools.audit.evidence import GATEWAY, Evidence, place, producer_of
from crossdock_tools.audit.report import Check
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
    for letter in evidence.letters:
        if letter.original is None or letter.service == GATEWAY or (letter.letter.attempt or 1) > 1:
            continue
        checked += 1
        topic, number, offset = letter.original
        thread = (letter.service, letter.record.partition, letter.record.key, TopicPartition(topic, number))
        before = reached.get(thread, -1)
        if offset < before:
            violations.append(f"{place(letter.record)} copies @{offset} of {topic}[{number}] after @{before}")
        reached[thread] = max(offset, before)
    return Check(5, "dead letters keep the order of their messages", checked, tuple(violations))


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
