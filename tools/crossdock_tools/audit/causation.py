"""Invariant 8: no effect without its cause. Every event descends from a committed record, a timer that was set, or the outside.

Also what stands on it: event ids follow from cause and identity, nobody publishes twice, and causes precede effects.
"""

from __future__ import annotations

from collections.abc import Mapping

from crossdock_eventing.broker.interface import TopicPartition
from crossdock_eventing.clock import to_micros
from crossdock_eventing.envelope import event_id
from crossdock_tools.audit.books import Books
from crossdock_tools.audit.evidence import GATEWAY, Evidence, Version, place, producer_of
from crossdock_tools.audit.report import Check
from crossdock_tools.topic_reader import Entry

_TIMER = "timer/"


def causes(evidence: Evidence, _books: Books) -> tuple[Check, ...]:
    """Each event's causation id leads to something that happened, and to an input of whoever acted on it."""
    from_events, from_timers, from_outside = 0, 0, 0
    unfounded: list[str] = []
    untaken: list[str] = []
    timers = _Timers(evidence)
    for entry in evidence.entries:
        service, cause = producer_of(entry), entry.meta.causation_id
        found = evidence.by_id(cause)
        if service == GATEWAY:
            from_outside += 1
            if not cause:
                unfounded.append(f"{_named(entry)} names no delivery")
        elif found:
            from_events += 1
            if not any(_taken(evidence, service, each) for each in found):
                untaken.append(
                    f"{_named(entry)} of {service} is caused by {_named(found[0])}, which {service} has not taken in"
                )
        elif cause.startswith(_TIMER):
            from_timers += 1
            if not timers.was_set(service, cause):
                unfounded.append(f"{_named(entry)} is caused by {cause}, which {service} never set")
        else:
            from_events += 1
            unfounded.append(f"{_named(entry)} of {service} is caused by {cause!r}, which nobody published")
    return (
        Check(
            8,
            "every event has its cause",
            len(evidence.entries),
            tuple(unfounded),
            f"{from_events} from events, {from_timers} from timers, {from_outside} from outside",
        ),
        Check(8, "causes were taken in by who acted on them", from_events, tuple(untaken)),
    )


def acyclic(evidence: Evidence, _books: Books) -> Check:
    """Nothing causes itself, however far round; and in one partition a cause lies before its effect."""
    violations: list[str] = []
    settled: set[str] = set()
    for start in evidence.ids:
        walked: list[str] = []
        at = start
        path: set[str] = set()
        while at not in settled and at in evidence.ids:
            if at in path:
                violations.append(f"{_named(evidence.by_id(at)[0])} causes itself over {len(path)} events")
                break
            path.add(at)
            walked.append(at)
            at = evidence.by_id(at)[0].meta.causation_id
        settled.update(walked)
    for entry in evidence.entries:
        record = entry.record
        for cause in evidence.by_id(entry.meta.causation_id):
            same_log = (cause.record.topic, cause.record.partition) == (record.topic, record.partition)
            if same_log and cause.record.offset >= record.offset:
                violations.append(f"{_named(entry)} lies before its cause {_named(cause)}")
    return Check(8, "causes precede effects", len(evidence.entries), tuple(violations))


def identities(evidence: Evidence, _books: Books) -> tuple[Check, ...]:
    """An event id follows from cause and identity, and is published once; only the outside's deliveries may repeat."""
    forged: list[str] = []
    for entry in evidence.entries:
        meta = entry.meta
        expected = event_id(causation_id=meta.causation_id, source=meta.source, record=entry.body)
        if meta.event_id != expected:
            forged.append(f"{_named(entry)} should be {expected} by its cause and identity")
    doubled: list[str] = []
    repeated = 0
    for identity, entries in evidence.ids.items():
        if len(entries) == 1:
            continue
        first = entries[0]
        places = ", ".join(place(entry.record) for entry in entries)
        if any(producer_of(entry) != GATEWAY for entry in entries):
            doubled.append(
                f"{type(first.body).__name__} {identity} was published {len(entries)} times: {places}"
            )
        elif any(entry.body != first.body for entry in entries):
            doubled.append(f"{type(first.body).__name__} {identity} says different things: {places}")
        else:
            repeated += 1
    return (
        Check(8, "event ids follow from cause and identity", len(evidence.entries), tuple(forged)),
        Check(
            8,
            "no event is published twice",
            len(evidence.ids),
            tuple(doubled),
            f"{repeated} deliveries repeated by the outside" if repeated else "",
        ),
    )


def producers(evidence: Evidence, _books: Books) -> Check:
    """Only who the catalogue names as producer writes to a topic."""
    violations = tuple(
        f"{_named(entry)} was written by {producer_of(entry)}"
        for entry in evidence.entries
        if producer_of(entry) not in evidence.producers[entry.record.topic]
    )
    return Check(8, "topics are written by their producers", len(evidence.entries), violations)


def _taken(evidence: Evidence, service: str, cause: Entry) -> bool:
    """Whether the record is one that the service handles, and lies before what its group has yet to read."""
    record = cause.record
    if cause.body.SCHEMA not in evidence.handled.get(service, {}).get(record.topic, frozenset()):
        return False
    committed = evidence.committed[service].get(TopicPartition(record.topic, record.partition))
    return committed is None or record.offset < committed


def _named(entry: Entry) -> str:
    return f"{type(entry.body).__name__} {place(entry.record)}"


class _Timers:
    """Which timers a service fired or set: from its journal, else from the history of its states."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._journals = evidence.journaled
        self._fired: dict[str, set[str]] = {}

    def was_set(self, service: str, causation_id: str) -> bool:
        if service in self._journals:
            return causation_id in self._journaled(service)
        changelog = self._evidence.changelogs.get(service)
        return changelog is not None and _in_history(changelog.history, causation_id)

    def _journaled(self, service: str) -> set[str]:
        if service not in self._fired:
            self._fired[service] = {
                f"{_TIMER}{key}/{name}/{due_us}"
                for turn in self._evidence.turns(service)
                for due_us, key, name in turn.timers
            }
        return self._fired[service]


def _in_history(history: Mapping[str, list[Version]], causation_id: str) -> bool:
    """Whether some version of a state held the timer. Keys and names may hold slashes, so every split is tried."""
    rest, _, due = causation_id.removeprefix(_TIMER).rpartition("/")
    cut = rest.find("/")
    while cut >= 0:
        key, name = rest[:cut], rest[cut + 1 :]
        for version in history.get(key, ()):
            moment = (version.state or {}).get("timers", {}).get(name)
            if moment is not None and str(to_micros(moment)) == due:
                return True
        cut = rest.find("/", cut + 1)
    return False
