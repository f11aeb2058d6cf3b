"""A service's state, built again from its inputs and journal, and held against what its changelog holds now.

Called by `crossdock replay rebuild`. Reads only, in no group. Each task stands for itself: one whose journal or inputs
retention has cut is named and left out, as is one that was written to all the while.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from crossdock_eventing import names
from crossdock_eventing.broker.interface import Broker, Record, TopicPartition
from crossdock_eventing.codec import Codec, Undecodable
from crossdock_eventing.journal import Turn, UnknownVersion, read_turn
from crossdock_eventing.parking.formats import PARK_PREFIX, key_text
from crossdock_eventing.plain import plain
from crossdock_eventing.replay import Difference, Replay, changes, same
from crossdock_eventing.replay_check import (
    NotReplayable,
    Topics,
    compacted_topics,
    reading_codec,
    require_whole,
)
from crossdock_eventing.state import OWN
from crossdock_eventing.task import OFFSETS_KEY
from crossdock_tools.replaying import parked
from crossdock_tools.replaying.progress import Progress, Steps, silent

if TYPE_CHECKING:
    from crossdock_eventing.registry import SchemaSource
    from crossdock_eventing.service import Service

_WORDS: Final = parked.Words(
    new="follows from inputs and journal, and is not there live",
    gone="is there live, and does not follow from inputs and journal",
    changed="differs (live -> rebuilt)",
)


@dataclass(slots=True)
class Rebuilt:
    """What a rebuild gave.

    tasks: by partition, the replay that holds the rebuilt states and own entries. differences: from what is live.
    beyond: partitions that cannot be rebuilt, with the reason. moving: partitions that were written to all the while.
    counts: what was gone through, and states and parked keys that were compared.
    """

    service: str
    tasks: dict[int, Replay] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    beyond: dict[int, str] = field(default_factory=dict)
    moving: list[int] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def rebuild(
    service: Service, broker: Broker, registry: SchemaSource, *, progress: Progress = silent
) -> Rebuilt:
    """Rebuild every task of `service`, composed with the settings that it ran under.

    Reads its journal, changelog and inputs into memory. Raises BrokerRefused (a topic is missing), BrokerUnavailable.
    """
    journal, changelog = names.journal_topic(service.name), names.changelog_topic(service.name)
    inputs = sorted({names.retry_topic(service.name), *(kind.TOPIC for kind in service.inputs)})
    topics = Topics(
        broker,
        [journal, changelog, *inputs],
        progress=lambda done, total: progress(f"reading {service.name}", done, total),
    )
    compacted = compacted_topics(broker, [service])
    codec = reading_codec(registry, service)
    found = Rebuilt(service.name)
    count = topics.partitions[journal]
    messages = sum(
        len(records) for each, records in topics.records.items() if each.topic not in (journal, changelog)
    )
    steps = Steps(progress, f"rebuilding {service.name}", messages)
    for number in range(count):
        if {TopicPartition(journal, number), TopicPartition(changelog, number)} & topics.moving:
            found.moving.append(number)
            continue
        replay = Replay(
            service, codec, partitions=count, compacted=compacted, rejections_stand=True, witness=steps
        )
        try:
            turns = [
                read_turn(record.value or b"{}") for record in topics.records[TopicPartition(journal, number)]
            ]
            require_whole(topics, TopicPartition(journal, number), turns)
            live = _latest(topics.records[TopicPartition(changelog, number)])
            _require_reached(topics, TopicPartition(journal, number), turns, live.pop(OFFSETS_KEY, b"{}"))
            replay.task(number, turns, topics.between)
        except (NotReplayable, UnknownVersion) as reason:
            found.beyond[number] = str(reason)
            continue
        found.tasks[number] = replay
        found.counts += replay.counts
        found.differences += replay.differences
        found.differences += _compared(replay, number, live, codec, found.counts)
    steps.end()
    return found


def _latest(changelog: list[Record]) -> dict[str, bytes]:
    """The last value of every key, the task's own entries included."""
    found: dict[str, bytes] = {}
    for record in changelog:
        key = key_text(record.key or b"")
        if record.value is None:
            found.pop(key, None)
        else:
            found[key] = record.value
    return found


def _require_reached(topics: Topics, journal: TopicPartition, turns: list[Turn], book: bytes) -> None:
    """Raises NotReplayable when the service went on and wrote no journal; `book`: how far it is, by topic."""
    reached = {topic: end for turn in turns for topic, _, end in turn.runs}
    for topic, at in json.loads(book).items():
        each = TopicPartition(topic, journal.partition)
        if each not in topics.ends:
            continue  # an input of a version before this one
        since = reached.get(topic, topics.ends[each].low)
        if since < at and topics.between(journal.partition, topic, since, at):
            raise NotReplayable(
                f"{journal.topic}/{journal.partition} ends at {since} of {topic}, the service is at {at}"
            )


def _compared(
    replay: Replay, number: int, latest: dict[str, bytes], codec: Codec, counts: Counter[str]
) -> Iterator[Difference]:
    """What one partition of the changelog holds otherwise than the rebuilt task."""
    service = replay.service.name
    live = {key: value for key, value in latest.items() if not key.startswith(OWN)}
    own = {key: value for key, value in latest.items() if key.startswith(OWN)}
    for key in sorted(live.keys() | replay.states.keys()):
        counts["states"] += 1
        rebuilt = replay.states.get(key)
        if key not in live:
            yield Difference(service, key, f"the state {_WORDS.new}", (f"{plain(rebuilt)}",))
            continue
        try:
            state = codec.decode_state(live[key])
        except Undecodable as error:
            yield Difference(service, key, f"the live state cannot be read: {error}")
            continue
        if rebuilt is None:
            yield Difference(service, key, f"the state {_WORDS.gone}", (f"{plain(state)}",))
        elif not same(state, rebuilt):
            yield Difference(service, key, f"the state {_WORDS.changed}", changes(state, rebuilt))
    counts["parked"] += sum(each.startswith(PARK_PREFIX) for each in own.keys() | replay.own(number).keys())
    yield from parked.differences(service, own, replay.own(number), _WORDS)


def write_states(found: Rebuilt, folder: Path) -> Path:
    """Write `<service>.states.jsonl`: a line for each rebuilt state and each own entry (ADR 13), in order.

    `{"partition", "key", "is": {type: {...}}}` or `{"partition", "entry": name, "is": {...}}`. Raises OSError.
    """
    path = folder / f"{found.service}.states.jsonl"
    with path.open("w") as lines:
        for line in _lines(found):
            lines.write(json.dumps(line) + "\n")
    return path


def _lines(found: Rebuilt) -> Iterator[dict[str, Any]]:
    for number, replay in sorted(found.tasks.items()):
        for key, state in sorted(replay.states.items()):
            yield {"partition": number, "key": key, "is": {type(state).__name__: plain(state)}}
        for name, value in sorted(replay.own(number).items()):
            yield {"partition": number, "entry": name, "is": json.loads(value)}
