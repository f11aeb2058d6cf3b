"""Invariant 1: every accepted message is, per consuming service, exactly one of applied, ignored, dead-lettered and pending.

Three accounts are held against each other: the journal (what a service says it took), the group's offsets (what Kafka will not
give it again) and the book in its changelog (what it starts from when the group's offsets are lost).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from crossdock_eventing import names
from crossdock_eventing.broker.interface import Record, TopicPartition
from crossdock_eventing.envelope import header
from crossdock_tools.audit.books import Books
from crossdock_tools.audit.evidence import BEHIND, GATEWAY, Evidence, Letter, place
from crossdock_tools.audit.report import Check
from crossdock_tools.audit.taken import first_letters


def accounted(evidence: Evidence, _books: Books) -> tuple[Check, ...]:
    """Runs cover every input without gap or overlap; each message has one fate; the three accounts agree."""
    return (_runs(evidence), _fates(evidence), _offsets(evidence), _letters(evidence), _undecodable(evidence))


def drained(evidence: Evidence, _books: Books) -> Check:
    """Nothing is pending: every group has taken all that its topics hold."""
    violations = []
    checked = 0
    absent = set()
    for service, partition in _inputs(evidence):
        if not _has_worked(evidence, service):
            absent.add(service)
            continue
        checked += len(evidence.offsets.get(partition, ()))
        pending = _pending(evidence, service, partition)
        if pending:
            where = f"{partition.topic}[{partition.partition}]"
            violations.append(f"{service} has {pending} messages of {where} still to take")
    note = f"does not run here: {', '.join(sorted(absent))}" if absent else ""
    return Check(1, "nothing is pending", checked, tuple(violations), note)


def _runs(evidence: Evidence) -> Check:
    violations: list[str] = []
    checked = 0
    for (service, number), turns in sorted(evidence.journals.items()):
        reached: dict[str, int] = {}
        for turn in turns:
            for run in turn.runs:
                checked += 1
                where = f"{service} {run.topic}[{number}] {run.start}..{run.end} ({place(turn.record)})"
                expected = reached.get(run.topic)
                if run.end <= run.start:
                    violations.append(f"{where} goes backwards")
                elif expected is None:
                    missed = evidence.count_between(TopicPartition(run.topic, number), 0, run.start)
                    if missed and not _journal_is_cut(evidence, service, number):
                        violations.append(f"{where} starts after {missed} messages that nobody took")
                elif run.start > expected:
                    violations.append(f"{where} leaves out {expected}..{run.start}")
                elif run.start < expected:
                    violations.append(f"{where} takes {run.start}..{expected} again")
                reached[run.topic] = max(run.end, expected or 0)
    return Check(1, "runs join without gap or overlap", checked, tuple(violations), _journal_note(evidence))


def _journal_is_cut(evidence: Evidence, service: str, number: int) -> bool:
    """Whether retention has taken the journal's beginning, so that it cannot tell of the first messages."""
    return evidence.ends[TopicPartition(names.journal_topic(service), number)].low > 0


def _fates(evidence: Evidence) -> Check:
    """What was ignored or rejected lies in a run of its own transaction, once; the rest of a run was applied or skipped."""
    violations: list[str] = []
    fates: Counter[str] = Counter()
    for (service, number), turns in sorted(evidence.journals.items()):
        told: dict[tuple[str, int], str] = {}
        taken: dict[str, tuple[int, int]] = {}
        for turn in turns:
            for run in turn.runs:
                taken[run.topic] = (taken.get(run.topic, (run.start, 0))[0], run.end)
            for fate, listed in (("ignored", turn.ignored), ("dead-lettered", turn.rejected)):
                for topic, offset, code in listed:
                    if not topic:
                        continue  # An answer or a timer that came to nothing: no message.
                    where = f"{service} {topic}[{number}]@{offset} {fate} as {code or 'nothing'}"
                    if (topic, offset) in told:
                        violations.append(f"{where}, and {told[topic, offset]} besides")
                    if not code:
                        violations.append(f"{where}: a reason is owed")
                    if not any(run.topic == topic and run.start <= offset < run.end for run in turn.runs):
                        violations.append(f"{where} by a transaction that did not take it")
                    told[topic, offset] = fate
        for topic, (start, end) in taken.items():
            handled = evidence.handled[service].get(topic, frozenset())
            for entry in evidence.log.get(TopicPartition(topic, number), ()):
                offset = entry.record.offset
                if start <= offset < end:
                    skipped = entry.body.SCHEMA not in handled
                    fates["skipped" if skipped else told.get((topic, offset), "applied")] += 1
        for record in evidence.undecodable:
            start, end = taken.get(record.topic, (0, 0))
            if record.partition == number and start <= record.offset < end:
                # What cannot be read cannot be applied: without a dead letter it was left to others, or `_undecodable` objects.
                fates[told.get((record.topic, record.offset), "skipped")] += 1
    journaled = evidence.journaled
    for service, partition in _inputs(evidence):
        if service in journaled:
            fates["pending"] += _pending(evidence, service, partition)
    note = ", ".join(f"{count} {fate}" for fate, count in sorted(fates.items()) if count)
    note = note or _journal_note(evidence)
    return Check(1, "each message has one fate per service", fates.total(), tuple(violations), note)


def _offsets(evidence: Evidence) -> Check:
    """The group's offset, the end of the journal's runs and the changelog's book are one number, and lie in the log."""
    violations: list[str] = []
    checked = 0
    journaled = evidence.journaled
    for service, partition in _inputs(evidence):
        committed = evidence.committed[service].get(partition)
        where = f"{service} {partition.topic}[{partition.partition}]"
        if committed is None:
            if evidence.offsets.get(partition):
                violations.append(f"{where}: the group has no offset")
            continue
        checked += 1
        if committed > evidence.ends[partition].high:
            violations.append(f"{where}: {committed} is beyond the end {evidence.ends[partition].high}")
        if service == GATEWAY or not evidence.quiet:
            continue
        ran = _journal_end(evidence, service, partition)
        if ran is None and service in journaled and evidence.count_between(partition, 0, committed):
            if not _journal_is_cut(evidence, service, partition.partition):
                violations.append(
                    f"{where}: the group stands at {committed}, the journal knows nothing of it"
                )
        elif ran is not None and ran != committed:
            violations.append(f"{where}: the group stands at {committed}, the journal at {ran}")
        booked = evidence.changelogs[service].book(partition.partition).get(partition.topic)
        if booked is not None and booked != committed:
            violations.append(f"{where}: the group stands at {committed}, the changelog's book at {booked}")
    return Check(1, "group, journal and changelog stand at one offset", checked, tuple(violations))


def _journal_end(evidence: Evidence, service: str, partition: TopicPartition) -> int | None:
    for turn in reversed(evidence.journals.get((service, partition.partition), ())):
        for run in reversed(turn.runs):
            if run.topic == partition.topic:
                return run.end
    return None


def _letters(evidence: Evidence) -> Check:
    """Each rejected message has one dead letter, and each letter of a service has its rejected message."""
    violations: list[str] = []
    letters: dict[tuple[str, str, int, int], list[Letter]] = {}
    checked = 0
    for letter in first_letters(evidence):
        if letter.letter.code == BEHIND:
            continue  # `parking` looks at these.
        checked += 1
        assert letter.original is not None
        topic, number, offset = letter.original
        letters.setdefault((letter.service, topic, number, offset), []).append(letter)
        if topic not in evidence.inputs[letter.service]:
            violations.append(f"{place(letter.record)} copies {topic}, which {letter.service} does not read")
        committed = evidence.committed[letter.service].get(TopicPartition(topic, number))
        if letter.service != GATEWAY and committed is not None and offset >= committed:
            violations.append(
                f"{place(letter.record)} copies {topic}[{number}]@{offset}, which is still to be taken"
            )
    for (service, topic, number, offset), copies in letters.items():
        # The gateway writes its letters before it commits, so a crash between the two repeats one.
        if len(copies) > 1 and service != GATEWAY:
            places = ", ".join(place(each.record) for each in copies)
            violations.append(
                f"{service} {topic}[{number}]@{offset} has {len(copies)} dead letters: {places}"
            )
    rejected = {
        (service, topic, number, offset): code
        for (service, number), turns in evidence.journals.items()
        for turn in turns
        for topic, offset, code in turn.rejected
    }
    for (service, topic, number, offset), code in rejected.items():
        copies = letters.get((service, topic, number, offset), [])
        where = f"{service} {topic}[{number}]@{offset}"
        if not copies:
            violations.append(f"{where} was rejected as {code} and has no dead letter")
        elif copies[0].letter.code != code:
            violations.append(f"{where} was rejected as {code}, its dead letter says {copies[0].letter.code}")
    for (service, topic, number, offset), copies in letters.items():
        journal = evidence.journals.get((service, number))
        if (
            journal
            and (service, topic, number, offset) not in rejected
            and _is_journaled(evidence, service, copies[0])
        ):
            violations.append(
                f"{place(copies[0].record)} has no rejected message in the journal of {service}"
            )
    return Check(1, "dead letters are the rejected messages", checked + len(rejected), tuple(violations))


def _is_journaled(evidence: Evidence, service: str, letter: Letter) -> bool:
    """Whether the journal still reaches back to the transaction that wrote the letter (letters are kept longer)."""
    [first, *_] = evidence.journals[service, letter.record.partition]
    cut = _journal_is_cut(evidence, service, letter.record.partition)
    return not cut or letter.record.timestamp_ms > first.record.timestamp_ms


def _undecodable(evidence: Evidence) -> Check:
    """A record that nobody can read is dead-lettered by every service that took it in, unless its header says it is for others."""
    violations: list[str] = []
    checked = 0
    given_up = {(letter.service, letter.original) for letter in evidence.letters}
    for record in evidence.undecodable:
        for service, topics in evidence.inputs.items():
            if record.topic not in topics or not _is_for(evidence, service, record):
                continue
            committed = evidence.committed[service].get(TopicPartition(record.topic, record.partition), 0)
            if record.offset >= committed:
                continue
            checked += 1
            if (service, (record.topic, record.partition, record.offset)) not in given_up:
                violations.append(f"{place(record)} cannot be read and has no dead letter of {service}")
    return Check(1, "what cannot be read is dead-lettered", checked, tuple(violations))


def _is_for(evidence: Evidence, service: str, record: Record) -> bool:
    kind = header(record.headers, "event_type")
    return kind is None or kind.decode(errors="replace") in evidence.handled[service][record.topic]


def _inputs(evidence: Evidence) -> Iterator[tuple[str, TopicPartition]]:
    numbers: dict[str, list[TopicPartition]] = defaultdict(list)
    for partition in evidence.ends:
        numbers[partition.topic].append(partition)
    for service, topics in sorted(evidence.inputs.items()):
        # What operators ask for is input too; the gateway does not read it.
        asked = () if service == GATEWAY else (names.retry_topic(service),)
        for topic in (*topics, *asked):
            for partition in numbers[topic]:
                yield service, partition


def _pending(evidence: Evidence, service: str, partition: TopicPartition) -> int:
    """Messages that the group has yet to take."""
    committed = evidence.committed[service].get(partition, 0)
    return evidence.count_between(partition, committed, evidence.ends[partition].high)


def _has_worked(evidence: Evidence, service: str) -> bool:
    """False for a gateway that never committed anything: a world whose outside is played by something else."""
    return service != GATEWAY or any(
        offset > evidence.ends[partition].low
        for partition, offset in evidence.committed[service].items()
        if partition in evidence.ends
    )


def _journal_note(evidence: Evidence) -> str:
    silent = sorted(set(evidence.services) - evidence.journaled)
    return f"no journal: {', '.join(silent)}" if silent else ""
