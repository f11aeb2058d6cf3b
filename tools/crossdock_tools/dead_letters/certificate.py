"""The certificate of a plan: what went in, what effects it made, which existed already, what is parked still. Made from the topics
alone, so that anybody can make it again and compare.

It holds that nothing took effect twice: every event that the replays name lies on its topic once, and no message left a queue
twice under any plan. Called at the end of a run and by `crossdock dlt certificate`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final

from crossdock_canonical.records import ErpDocumentFailed, ErpDocumentPosted
from crossdock_eventing import names
from crossdock_eventing.broker.interface import Broker, TopicPartition
from crossdock_eventing.deadletter import outline
from crossdock_eventing.envelope import header
from crossdock_eventing.parking.formats import ReplayedMessage, key_text
from crossdock_eventing.registry import SchemaSource
from crossdock_tools.dead_letters.chain import Link, walk
from crossdock_tools.dead_letters.effects import Effect, effect_of, tally
from crossdock_tools.dead_letters.plan import Plan
from crossdock_tools.dead_letters.queues import readable_key
from crossdock_tools.dead_letters.replays import ALREADY, GONE, Ledger, Place, ReplayReader, Said
from crossdock_tools.schemas.contracts import Repository
from crossdock_tools.topic_reader import TopicReader

VERSION: Final = 1
_TOLD_MAX = 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: What may be more when a certificate is made again: the ERP answers later.
_GROWING = "erp_documents"


@dataclass(slots=True)
class _Found:
    """The events that a plan is said to have made, as they lie on the topics."""

    times: Counter[str] = field(default_factory=Counter)
    effects: list[Effect] = field(default_factory=list)
    may_be_gone: bool = False


def certify(plan: Plan, broker: Broker, registry: SchemaSource, repository: Repository) -> dict[str, Any]:
    """The certificate as JSON values; `problems` is empty for a sound one.

    Raises BrokerRefused for a topic that does not exist, BrokerUnavailable.
    """
    ledger, taken = _told(plan, broker, registry)
    entries = [said.entry for said in ledger.said]
    last = _last_word(ledger.said)
    fates = Counter(message.outcome for message in last.values())
    events = [event for entry in entries for message in entry.messages for event in message.events]
    found = _events(events, plan.service, broker, registry, repository)
    links = walk(broker, registry, plan.service)
    parked = {key: count for key, count in {entry.key: entry.left for entry in entries}.items() if count}
    released = {entry.key for entry in entries if entry.op != "inject"}
    causes = {*events, *_identities(last, plan.service, broker, registry)}
    times = [entry.at_us for entry in entries if entry.outcome != ALREADY]
    return {
        "crossdock_certificate": VERSION,
        "plan": plan.plan,
        "service": plan.service,
        "cluster": plan.cluster,
        "operator": plan.operator,
        "reason": plan.reason,
        "first_at": _moment(min(times)) if times else None,
        "last_at": _moment(max(times)) if times else None,
        "instructions": {
            "planned": len(plan.items),
            "open": len(plan.items) - len(ledger.outcomes),
            **Counter(entry.outcome for entry in ledger.outcomes.values()),
        },
        "messages": {"in": len(last), **fates},
        "effects": {
            "events": len(events),
            "digest": sha256("\n".join(sorted(events)).encode()).hexdigest(),
            "by_type": tally(found.effects),
        },
        "existed": dict(
            sorted(Counter(each.code for each in last.values() if each.outcome == "ignored").items())
        ),
        "erp_documents": tally(_documents(causes, broker, registry)),
        "keys": {
            "planned": len({each.key for each in plan.items if each.instruction.op != "inject"}),
            "unparked": len(released - parked.keys()),
            "parked_still": dict(sorted(parked.items())),
        },
        "edits": _altered(entries_of(ledger.said, "edited")),
        "discards": _altered(entries_of(ledger.said, "discarded")),
        "chain": {
            str(link.partition): None
            if link.last is None
            else {"entries": link.last[0] + 1, "hash": link.last[1]}
            for link in links
        },
        "problems": _problems(events, found, taken, links),
    }


def entries_of(said: Iterable[Said], outcome: str) -> list[tuple[str, ReplayedMessage]]:
    """Key and message of every message that came to this."""
    return [
        (each.entry.key, message)
        for each in said
        for message in each.entry.messages
        if message.outcome == outcome
    ]


def differences(given: Mapping[str, Any], made: Mapping[str, Any]) -> list[str]:
    """Where a certificate does not say what the topics say now; later answers of the ERP, and later entries, are no difference."""
    found = []
    for name in [*made, *(name for name in given if name not in made)]:
        was, now = given.get(name), made.get(name)
        if name == _GROWING:
            found += _shrunk(was or {}, now or {})
        elif name == "chain":
            found += _cut(was or {}, now or {})
        elif was != now:
            found.append(f"{name}: it says {_brief(was)}, the topics say {_brief(now)}")
    return found


def _told(plan: Plan, broker: Broker, registry: SchemaSource) -> tuple[Ledger, Counter[Place]]:
    """What became of the plan, and how often each message left a queue under any plan."""
    ledger = Ledger(plan.plan)
    taken: Counter[Place] = Counter()
    reader = ReplayReader(broker, registry, [plan.service])
    try:
        for said in reader.entries():
            ledger.take(said)
            if said.entry.op != "inject":
                taken.update(
                    (each.topic, each.partition, each.offset, said.entry.key)
                    for each in said.entry.messages
                    if each.outcome in GONE
                )
    finally:
        reader.close()
    return ledger, taken


def _last_word(said: Iterable[Said]) -> dict[tuple[str, int, int, str, int], ReplayedMessage]:
    """The last thing that is said of each message; what was taken in from elsewhere is told apart by its item."""
    last: dict[tuple[str, int, int, str, int], ReplayedMessage] = {}
    for each in said:
        item = each.entry.item if each.entry.op == "inject" else -1
        for message in each.entry.messages:
            last[message.topic, message.partition, message.offset, each.entry.key, item] = message
    return last


def _events(
    wanted: Iterable[str], service: str, broker: Broker, registry: SchemaSource, repository: Repository
) -> _Found:
    """Look the events up on the service's output topics."""
    from crossdock_eventing.codec import Undecodable
    from crossdock_tools.dead_letters.payloads import Payloads

    found = _Found()
    identities = {each.encode() for each in wanted}
    topics = [
        topic.name
        for topic in repository.topics.values()
        if service in topic.producers and not topic.compacted
    ]
    if not identities or not topics:
        return found
    payloads = Payloads(registry)
    reader = TopicReader(broker, registry, topics)
    try:
        for record in reader.records():
            identity = header(record.headers, "ce_id")
            if identity not in identities or identity is None:
                continue
            name = identity.decode()
            found.times[name] += 1
            if found.times[name] == 1:
                try:
                    found.effects.append(effect_of(payloads.read(record.value, record.headers).body))
                except Undecodable:
                    continue
    finally:
        reader.close()
    admin = broker.admin()
    try:
        found.may_be_gone = any(
            admin.watermarks(TopicPartition(topic, number)).low
            for topic in topics
            for number in range(admin.partitions(topic))
        )
    finally:
        admin.close()
    return found


def _identities(
    last: Iterable[tuple[str, int, int, str, int]], service: str, broker: Broker, registry: SchemaSource
) -> set[str]:
    """Event ids of the replayed messages: what the ERP poster's documents name as their cause."""
    places = {each[:4] for each in last}
    reader = TopicReader(broker, registry, [names.dead_letter_topic(service)])
    found = set()
    try:
        for record in reader.records():
            letter = outline(record.headers)
            place = (letter.topic, letter.partition, letter.offset, key_text(record.key or b""))
            identity = header(record.headers, "ce_id")
            if identity is not None and place in places:
                found.add(identity.decode(errors="replace"))
    finally:
        reader.close()
    return found


def _documents(causes: set[str], broker: Broker, registry: SchemaSource) -> list[Effect]:
    """What the ERP has said so far to documents that follow from the replayed messages, or from events that these made."""
    reader = TopicReader(broker, registry, [ErpDocumentPosted.TOPIC])
    try:
        return [
            effect_of(entry.body)
            for entry in reader.entries()
            if isinstance(entry.body, ErpDocumentPosted | ErpDocumentFailed)
            and entry.meta.causation_id in causes
        ]
    finally:
        reader.close()


def _problems(events: list[str], found: _Found, taken: Counter[Place], links: Iterable[Link]) -> list[str]:
    """Everything that speaks against the certificate."""
    problems = [link.broken for link in links if link.broken]
    problems += [
        f"{topic}[{partition}]@{offset} of {readable_key(key)} left its queue {times} times"
        for (topic, partition, offset, key), times in taken.items()
        if times > 1
    ]
    problems += [f"event {name} is told of twice" for name, times in Counter(events).items() if times > 1]
    problems += [
        f"event {name} lies on its topic {times} times" for name, times in found.times.items() if times > 1
    ]
    if not found.may_be_gone:
        problems += [f"event {name} is on no topic" for name in events if not found.times[name]]
    return problems[:_TOLD_MAX]


def _altered(messages: Iterable[tuple[str, ReplayedMessage]]) -> list[dict[str, Any]]:
    return [
        {
            "key": key,
            "original": f"{each.topic}[{each.partition}]@{each.offset}",
            "before": each.before,
            "after": "" if each.outcome == "discarded" else each.after,
        }
        for key, each in messages
    ]


def _shrunk(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{_GROWING}: it says {each['count']} {name}, the topics say {now.get(name, {}).get('count', 0)}"
        for name, each in was.items()
        if now.get(name, {}).get("count", 0) < each["count"]
    ]


def _cut(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Later entries make a chain longer; a shorter one, or another hash at the same length, is another chain."""
    found = []
    for partition, link in was.items():
        there = now.get(partition)
        if link is None:
            continue
        if there is None or there["entries"] < link["entries"]:
            found.append(
                f"chain: partition {partition} has fewer entries than the {link['entries']} that it says"
            )
        elif there["entries"] == link["entries"] and there["hash"] != link["hash"]:
            found.append(f"chain: partition {partition} ends in another entry than it says")
    return found


def _brief(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _moment(at_us: int) -> str:
    return (_EPOCH + timedelta(microseconds=at_us)).isoformat()
