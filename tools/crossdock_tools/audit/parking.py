"""Invariants 1, 5 and 8 where keys are parked: what was rejected or waits behind it is one of parked, applied and discarded.

Four accounts are held against each other: the dead letters (the visible copies), the queues in the changelogs, the replays (what
became of every instruction), and the events that released messages led to.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from hashlib import sha256
from itertools import islice
from typing import Any

from crossdock_eventing import names
from crossdock_eventing.broker.interface import TopicPartition
from crossdock_tools.audit.books import Books
from crossdock_tools.audit.evidence import BEHIND, GATEWAY, Evidence, place
from crossdock_tools.audit.finding import Finding
from crossdock_tools.audit.report import Check
from crossdock_tools.audit.taken import Coordinates, first_letters

_GONE = ("applied", "ignored", "discarded")
_FIRST = "0" * 64


def parked(evidence: Evidence, _books: Books) -> tuple[Check, ...]:
    """Every parked message has one fate, queues keep their order, the replays are one chain, and no effect is made twice."""
    return (
        _fates(evidence),
        _order(evidence),
        _overtaken(evidence),
        _chain(evidence),
        _effects(evidence),
    )


def unparked(evidence: Evidence, _books: Books) -> Check:
    """No key waits for an operator."""
    waiting = tuple(
        f"{service}: {key} is parked as {park['code']}" for (service, key), park in evidence.parks.items()
    )
    return Check(1, "no key is parked", max(1, len(evidence.letters)), waiting)


def _gone(evidence: Evidence) -> dict[tuple[str, Coordinates], list[str]]:
    """How parked messages left their queues."""
    found: dict[tuple[str, Coordinates], list[str]] = defaultdict(list)
    for (service, _), entries in evidence.replays.items():
        for _, said in entries:
            for message in said["messages"]:
                if message["outcome"] in _GONE and said["op"] != "inject":
                    found[service, _at(message)].append(message["outcome"])
    return found


def _fates(evidence: Evidence) -> Check:
    """What was rejected or waits behind is parked still, or was applied, or was discarded with a reason: one of these, once."""
    finding = Finding(1, "what was rejected or waits behind it is parked, applied or discarded, once")
    gone = _gone(evidence)
    waiting = {
        (service, _at(message)): key
        for (service, key), queue in evidence.queues.items()
        for message in queue.values()
    }
    lettered = set()
    for letter in evidence.letters:
        if letter.original is None or letter.service == GATEWAY or not letter.record.key:
            continue
        lettered.add((letter.service, letter.original))
    for message in lettered:
        topic, partition, offset = message[1]
        fates = [*gone.get(message, ()), *(["parked"] if message in waiting else [])]
        ends = evidence.ends.get(TopicPartition(names.replays_topic(message[0]), partition))
        if fates or ends is None or not ends.low:  # letters may be older than what the replays reach back to
            finding.same(
                f"fates of {topic}[{partition}]@{offset} at {message[0]} ({', '.join(fates)})", 1, len(fates)
            )
    for (service, where), key in waiting.items():
        topic, partition, offset = where
        committed = evidence.committed[service].get(TopicPartition(topic, partition))
        finding.expect(
            committed is None or offset < committed or topic not in evidence.inputs[service],
            f"{service} has {topic}[{partition}]@{offset} of {key} parked, which is still to be taken",
        )
        finding.expect(
            (service, where) in lettered,
            f"{service} has {topic}[{partition}]@{offset} of {key} parked without a dead letter",
        )
    for (service, _), entries in evidence.replays.items():
        for record, said in entries:
            if said["outcome"] == "discarded":
                finding.expect(
                    bool(said["reason"]) and bool(said["operator"]),
                    f"{place(record)} of {service} discards without a reason or by nobody",
                )
    _expect_whole_queues(evidence, finding)
    return finding.check()


def _expect_whole_queues(evidence: Evidence, finding: Finding) -> None:
    """A parked key is one with a queue: its head is there, and nothing lies outside of head and tail."""
    for (service, key), park in evidence.parks.items():
        queue = evidence.queues.get((service, key), {})
        where = f"{service}: queue of {key}"
        finding.expect(park["head"] in queue, f"{where} lacks its head {park['head']}")
        finding.expect(
            all(park["head"] <= seq < park["tail"] for seq in queue),
            f"{where} has {sorted(queue)}, not between {park['head']} and {park['tail']}",
        )
    for (service, key), queue in evidence.queues.items():
        if queue:
            finding.expect(
                (service, key) in evidence.parks, f"{service}: {key} has a queue and is not parked"
            )


def _order(evidence: Evidence) -> Check:
    """Parked messages of a key are decided in the order in which they were queued, and each topic's in the order of its log."""
    finding = Finding(5, "parked messages are decided in the order in which they came")
    for (service, number), entries in evidence.replays.items():
        reached: dict[tuple[str, str], int] = {}
        offsets: dict[tuple[str, str, str], int] = {}
        for record, said in entries:
            if said["op"] != "release":
                continue
            thread = (said["key"], said["episode"])
            for message in said["messages"]:
                before = reached.get(thread, -1)
                finding.expect(
                    message["seq"] >= before,
                    f"{place(record)} of {service}: message {message['seq']} of {said['key']} after {before}",
                )
                reached[thread] = message["seq"]
                log = (*thread, message["topic"])
                if message["partition"] == number and message["topic"] in evidence.inputs[service]:
                    finding.expect(
                        message["offset"] >= offsets.get(log, -1),
                        f"{place(record)} of {service}: {message['topic']}@{message['offset']} after {offsets.get(log)}",
                    )
                    offsets[log] = message["offset"]
    return finding.check()


def _overtaken(evidence: Evidence) -> Check:
    """From the transaction after a rejection until the one that frees the key, nothing of that key is decided as it comes."""
    finding = Finding(5, "nothing of a key overtakes what is parked of it")
    behind = {
        (letter.service, letter.original) for letter in evidence.letters if letter.letter.code == BEHIND
    }
    rejected = {(letter.service, letter.original): letter.record.key for letter in first_letters(evidence)}
    for (service, number), turns in evidence.journals.items():
        handled = evidence.handled[service]
        for key, start, end in _episodes(evidence, service, number, rejected):
            text = key.decode(errors="surrogateescape")
            for turn in turns[start + 1 : end]:
                for run in turn.runs:
                    entries = evidence.log.get(TopicPartition(run.topic, number), ())
                    first = bisect_left(entries, run.start, key=lambda entry: entry.record.offset)
                    for entry in islice(entries, first, None):
                        if entry.record.offset >= run.end:
                            break
                        if entry.record.key == key and entry.body.SCHEMA in handled.get(run.topic, ()):
                            where = (run.topic, number, entry.record.offset)
                            finding.expect(
                                (service, where) in behind,
                                f"{place(entry.record)} was decided by {service} while {text} was parked",
                            )
                for _, timer_key, name in turn.timers:
                    finding.expect(
                        timer_key != text and not timer_key.endswith(f":{text}"),
                        f"timer {name} of {timer_key} fired at {service} while {text} was parked",
                    )
    return finding.check()


def _episodes(
    evidence: Evidence,
    service: str,
    number: int,
    rejected: dict[tuple[str, Coordinates | None], bytes | None],
) -> Iterator[tuple[bytes, int, int]]:
    """Record key, index of the turn that rejected, index of the turn that freed the key (the end, if none has)."""
    turns = evidence.journals[service, number]
    moments = [turn.now_us for turn in turns]
    freed: dict[tuple[str, str], int] = {}
    for _, said in evidence.replays.get((service, number), ()):
        if said["left"] == 0 and said["op"] in ("release", "discard"):
            freed.setdefault((said["key"], said["episode"]), said["at"])
    for index, turn in enumerate(turns):
        for topic, offset, _ in turn.rejected:
            key = rejected.get((service, (topic, number, offset)))
            if key:
                text = key.decode(errors="surrogateescape")
                at_us = freed.get((text, f"{topic}[{number}]@{offset}"))
                yield key, index, len(turns) if at_us is None else bisect_left(moments, at_us)


def _chain(evidence: Evidence) -> Check:
    """Each entry of the replays names the one before it: none is missing, none was altered."""
    finding = Finding(8, "the replays are an unbroken chain")
    for (service, number), entries in evidence.replays.items():
        low = evidence.ends[TopicPartition(names.replays_topic(service), number)].low
        expected = None if low else (0, _FIRST)
        for record, said in entries:
            if expected is not None:
                finding.same(
                    f"{place(record)}: number and hash before", list(expected), [said["n"], said["prev"]]
                )
            expected = (said["n"] + 1, sha256(record.value or b"").hexdigest())
    return finding.check()


def _effects(evidence: Evidence) -> Check:
    """Events that an entry names are on the topics, caused by the message that it names; a parked message has none."""
    finding = Finding(8, "released messages have the effects that the replays name, parked ones have none")
    by_place = {
        (entry.record.topic, entry.record.partition, entry.record.offset): entry for entry in evidence.entries
    }
    for (service, _), entries in evidence.replays.items():
        for record, said in entries:
            for message in said["messages"]:
                cause = by_place.get(_at(message))
                for event in message["events"]:
                    found = evidence.by_id(event)
                    finding.expect(
                        bool(found) or not evidence.quiet,
                        f"{place(record)} of {service} names {event}, which nobody published",
                    )
                    if found and cause is not None and message["before"] == message["after"]:
                        finding.same(
                            f"{place(record)}: cause of {event}",
                            cause.meta.event_id,
                            found[0].meta.causation_id,
                        )
    return finding.check()


def _at(message: dict[str, Any]) -> Coordinates:
    return message["topic"], message["partition"], message["offset"]
