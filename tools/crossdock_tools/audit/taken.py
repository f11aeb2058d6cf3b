"""What the services have taken of their inputs, and in which order: the ground of every check that follows causes to effects.

A message that is still to be taken has no effects yet, and one that was given up never has any. The checks of stock, money,
lifecycle and convergence ask this. The order in which a task merged its topics is in its journal, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from crossdock_eventing.broker.interface import TopicPartition
from crossdock_tools.audit.evidence import Evidence, Turn
from crossdock_tools.topic_reader import Entry

UNREST = "the cluster was written to while it was read"
TRUNCATED = "the beginning of the log is gone"


def is_whole(evidence: Evidence, topics: Iterable[str]) -> bool:
    """Whether the topics are there from their first record on, so that sums over them can be taken."""
    wanted = set(topics)
    return all(ends.low == 0 for place, ends in evidence.ends.items() if place.topic in wanted)


def why_not(evidence: Evidence, *kinds: type[Any]) -> str:
    """Why sums over the topics of these records prove nothing; empty when they do."""
    if not evidence.quiet:
        return UNREST
    return "" if is_whole(evidence, {kind.TOPIC for kind in kinds}) else TRUNCATED


def given_up(evidence: Evidence, service: str) -> frozenset[tuple[str, int, int]]:
    """Coordinates of the messages that the service dead-lettered."""
    return frozenset(
        letter.original
        for letter in evidence.letters
        if letter.service == service and letter.original is not None
    )


def pending(evidence: Evidence, *services: str) -> int:
    """Records of their inputs that these services have not taken yet."""
    return sum(
        evidence.count_between(partition, offset, evidence.ends[partition].high)
        for service in services
        for partition, offset in evidence.committed.get(service, {}).items()
        if partition in evidence.ends
    )


def accepted(evidence: Evidence, service: str, *kinds: type[Any]) -> list[Entry]:
    """Entries of these types that the service has taken and not given up; those of one type in log order of a partition."""
    offsets = evidence.committed.get(service, {})
    lost = given_up(evidence, service)
    found = []
    for entry in evidence.of(*kinds):
        record = entry.record
        is_taken = record.offset < offsets.get(TopicPartition(record.topic, record.partition), 0)
        if is_taken and (record.topic, record.partition, record.offset) not in lost:
            found.append(entry)
    return found


class Fired(NamedTuple):
    """A timer that fired: of which state, and what its effects name as their cause."""

    key: str
    name: str
    causation_id: str


def covers(turns: Iterable[Turn], inputs: Iterable[Entry]) -> bool:
    """Whether a task's journal tells of all these messages: it can be switched off, and its beginning expires."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for turn in turns:
        for run in turn.runs:
            first.setdefault(run.topic, run.start)
            last[run.topic] = run.end
    return all(
        first.get(each.record.topic, each.record.offset + 1)
        <= each.record.offset
        < last.get(each.record.topic, 0)
        for each in inputs
    )


def in_order(turns: Iterable[Turn], inputs: Iterable[Entry]) -> Iterator[Entry | Fired]:
    """What one task did, in its order: messages and timers.

    turns: the task's journal. inputs: entries of its partition; what is not among them is passed over.
    """
    waiting: dict[str, list[Entry]] = {}
    for entry in inputs:
        waiting.setdefault(entry.record.topic, []).append(entry)
    queues = {
        topic: iter(sorted(entries, key=lambda e: e.record.offset)) for topic, entries in waiting.items()
    }
    heads = {topic: next(queue, None) for topic, queue in queues.items()}
    for turn in turns:
        for run in turn.runs:
            head = heads.get(run.topic)
            while head is not None and head.record.offset < run.end:
                yield head
                head = heads[run.topic] = next(queues[run.topic], None)
        for due_us, key, name in turn.timers:
            yield Fired(key, name, f"timer/{key}/{name}/{due_us}")
