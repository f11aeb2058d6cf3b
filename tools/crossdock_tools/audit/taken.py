"""What the services have taken of their inputs, and in which order: the ground of every check that follows causes to effects.

A message that is still to be taken has no effects yet, and one that was given up never has any. The checks of stock, money,
lifecycle and convergence ask this. The order in which a task merged its topics is in its journal, and nowhere else.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from crossdock_eventing.broker.interface import TopicPartition
from crossdock_tools.audit.evidence import BEHIND, Evidence, Letter, Turn
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


#: Topic, partition and offset of a message.
Coordinates = tuple[str, int, int]


def given_up(evidence: Evidence, service: str) -> frozenset[Coordinates]:
    """Messages that the service dead-lettered and has not applied since: they are parked, or were discarded."""
    lettered = (letter.original for letter in evidence.letters if letter.service == service)
    return frozenset(each for each in lettered if each is not None) - released(evidence, service)


def released(evidence: Evidence, service: str) -> frozenset[Coordinates]:
    """Messages that were parked, and applied when an operator let them go."""
    return frozenset(
        (message["topic"], message["partition"], message["offset"])
        for (name, _), entries in evidence.replays.items()
        if name == service
        for _, entry in entries
        for message in entry["messages"]
        if message["outcome"] in ("applied", "ignored")
    )


def first_letters(evidence: Evidence) -> Iterator[Letter]:
    """Dead letters written when their message came: not what other systems wrote, nor the verdicts of releases.

    What waited and was rejected when it was let go has two letters of attempt 1 or less: the copy, and the verdict.
    """
    verdicts = Counter(
        (service, message["topic"], message["partition"], message["offset"], message["attempt"])
        for (service, _), entries in evidence.replays.items()
        for _, said in entries
        for message in said["messages"]
        if message["outcome"] == "rejected"
    )
    for letter in evidence.letters:
        if letter.original is None or (letter.letter.attempt or 0) > 1:
            continue
        verdict = (letter.service, *letter.original, letter.letter.attempt)
        if letter.letter.code != BEHIND and verdicts[verdict]:
            verdicts[verdict] -= 1
            continue
        yield letter


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


def in_order(
    evidence: Evidence, service: str, number: int, inputs: Iterable[Entry]
) -> Iterator[Entry | Fired]:
    """What one task did, in its order: released messages, messages and timers, by its journal.

    inputs: entries of its partition; what is not among them is passed over.
    """
    later = {
        (topic, offset) for topic, partition, offset in released(evidence, service) if partition == number
    }
    queued: dict[str, deque[tuple[str, int]]] = defaultdict(deque)
    for _, said in evidence.replays.get((service, number), ()):
        if said["op"] == "release":
            queued[said["key"]].extend((message["topic"], message["offset"]) for message in said["messages"])
    waiting: dict[str, list[Entry]] = {}
    parked: dict[tuple[str, int], Entry] = {}
    for entry in inputs:
        where = (entry.record.topic, entry.record.offset)
        if where in later:
            parked[where] = entry
        else:
            waiting.setdefault(entry.record.topic, []).append(entry)
    queues = {
        topic: iter(sorted(entries, key=lambda e: e.record.offset)) for topic, entries in waiting.items()
    }
    heads = {topic: next(queue, None) for topic, queue in queues.items()}
    for turn in evidence.journals.get((service, number), ()):
        for key, count in turn.released:
            for _ in range(count):
                # What was rejected again is decided more than once, and no input until it succeeds.
                decided = parked.get(queued[key].popleft()) if queued[key] else None
                if decided is not None:
                    yield decided
        for run in turn.runs:
            head = heads.get(run.topic)
            while head is not None and head.record.offset < run.end:
                yield head
                head = heads[run.topic] = next(queues[run.topic], None)
        for due_us, key, name in turn.timers:
            yield Fired(key, name, f"timer/{key}/{name}/{due_us}")
