"""Replay identity of a cluster: replaying each service's journal gives the events that lie on its topics and the states in its
changelog, and nothing more.

`crossdock replay check` and the audit of simulated and disturbed runs call it. It reads whole topics into memory.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from crossdock_eventing import names
from crossdock_eventing.broker.interface import Broker, Record, TopicPartition, Watermarks
from crossdock_eventing.codec import Codec
from crossdock_eventing.envelope import header, record_key
from crossdock_eventing.journal import Turn, read_turn
from crossdock_eventing.parking.formats import key_text
from crossdock_eventing.reading import batches_up_to
from crossdock_eventing.registry import SchemaSource
from crossdock_eventing.replay import Difference, Output, Replay, Step, compare
from crossdock_eventing.service import Service
from crossdock_eventing.state import OWN

_PASSES_MAX = 20


class NotReplayable(Exception):
    """Journal or inputs do not reach back far enough, or do not join; the text says where."""


class Topics:
    """Every committed record of some partitions, read once.

    moving: partitions that were written to all the while. What the others hold belongs together.
    """

    def __init__(
        self,
        broker: Broker,
        topics: Collection[str],
        *,
        partitions: Collection[int] | None = None,
        passes_max: int = _PASSES_MAX,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        """Asks for the ends in the order of `topics`: with a journal first, every input that its turns name is read.

        partitions: of each topic, only these. passes_max: how often to read on until nothing is written any more; 1: once, up to
        the ends as they were, and nobody looks what moved meanwhile.
        progress: hears of offsets, those that were passed and all.
        Raises BrokerRefused for a topic that does not exist, BrokerUnavailable.
        """
        admin = broker.admin()
        self.partitions = {topic: admin.partitions(topic) for topic in topics}
        admin.close()
        every = [
            TopicPartition(topic, number)
            for topic, count in self.partitions.items()
            for number in range(count)
            if partitions is None or number in partitions
        ]
        self.records: dict[TopicPartition, list[Record]] = {each: [] for each in every}
        reader = broker.reader()
        try:
            ends = {each: reader.watermarks(each) for each in every}
            reader.assign({each: found.low for each, found in ends.items()})
            lows = {each: found.low for each, found in ends.items()}
            for _ in range(passes_max):
                total = sum(found.high - lows[each] for each, found in ends.items())
                for records in batches_up_to(reader, {each: found.high for each, found in ends.items()}):
                    self._take(records)
                    progress(sum(reader.position(each) - low for each, low in lows.items()), total)
                read = ends
                if passes_max > 1:
                    ends = {each: reader.watermarks(each) for each in every}
                self.moving = frozenset(each for each in every if ends[each].high != read[each].high)
                self.quiet = not self.moving
                if self.quiet:
                    break
        finally:
            reader.close()
        self.ends: Mapping[TopicPartition, Watermarks] = ends
        for each, found in ends.items():
            records = self.records[each]
            while records and records[-1].offset >= found.high:
                records.pop()  # one poll may bring more than was asked for: its inputs may not have been read
        self._offsets: dict[TopicPartition, list[int]] = {}

    def _take(self, records: list[Record]) -> None:
        for record in records:
            self.records[TopicPartition(record.topic, record.partition)].append(record)

    def between(self, partition: int, topic: str, start: int, end: int) -> Sequence[Record]:
        """Records with offsets from `start` up to but without `end`. Raises NotReplayable when retention took some."""
        each = TopicPartition(topic, partition)
        if start < end and self.ends[each].low > start:
            raise NotReplayable(
                f"{topic}/{partition} begins at {self.ends[each].low}, the journal needs {start}"
            )
        offsets = self._offsets.get(each)
        if offsets is None:
            offsets = self._offsets[each] = [record.offset for record in self.records[each]]
        return self.records[each][bisect_left(offsets, start) : bisect_left(offsets, end)]

    def of(self, topic: str) -> Iterable[Record]:
        """Every record of a topic, partition by partition."""
        for number in range(self.partitions[topic]):
            yield from self.records[TopicPartition(topic, number)]


@dataclass(slots=True)
class Identity:
    """What a check found.

    checked: services, tasks, turns, messages, answers, timers, outputs and states that were held against each other.
    differences: what today's deciders do otherwise. beyond: tasks whose journal or inputs no longer reach back to their
    beginning, which nobody can replay. replays: one a service. quiet: nothing was written while the topics were read.
    """

    checked: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)
    beyond: list[str] = field(default_factory=list)
    quiet: bool = True
    replays: list[Replay] = field(default_factory=list)


class ReplayCheck:
    """Checks any number of clusters that share a registry; it keeps parsed schemas from one to the next.

    rejections_stand: as `Replay` has it.
    """

    def __init__(
        self, registry: SchemaSource, services: Iterable[Service], *, rejections_stand: bool = False
    ) -> None:
        self._services = tuple(services)
        self._rejections_stand = rejections_stand
        self._codecs = {service.name: reading_codec(registry, service) for service in self._services}

    def check(self, broker: Broker, witness: Callable[[Step], None] = lambda _step: None) -> Identity:
        """Replay the journals of `broker`; `witness` hears of every decision.

        Raises BrokerRefused (a topic is missing), BrokerUnavailable.
        """
        topics = Topics(broker, {topic for service in self._services for topic in topics_of(service)})
        compacted = compacted_topics(broker, self._services)
        found = Identity(quiet=topics.quiet)
        for service in self._services:
            found.replays.append(self._check(service, topics, compacted, witness, found))
        return found

    def _check(
        self,
        service: Service,
        topics: Topics,
        compacted: frozenset[str],
        witness: Callable[[Step], None],
        found: Identity,
    ) -> Replay:
        codec = self._codecs[service.name]
        journal = names.journal_topic(service.name)
        replay = Replay(
            service,
            codec,
            partitions=topics.partitions[journal],
            compacted=compacted,
            rejections_stand=self._rejections_stand,
            witness=witness,
        )
        beyond = 0
        for number in range(topics.partitions[journal]):
            try:
                turns = [
                    read_turn(record.value or b"{}")
                    for record in topics.records[TopicPartition(journal, number)]
                ]
                require_whole(topics, TopicPartition(journal, number), turns)
                replay.task(number, turns, topics.between)
            except NotReplayable as reason:
                found.beyond.append(str(reason))
                beyond += 1
        states = dict(stored_states(topics.of(names.changelog_topic(service.name)), codec))
        outputs = published(service, topics, codec)
        last = {
            (output.body.TOPIC, record_key(output.body)): output.meta.event_id for output in replay.outputs
        }

        def may_be_gone(output: Output) -> bool:
            topic = output.body.TOPIC
            if topic in compacted:
                return last[topic, record_key(output.body)] != output.meta.event_id
            return any(
                topics.ends[TopicPartition(topic, number)].low for number in range(topics.partitions[topic])
            )

        found.differences += compare(replay, outputs, states, may_be_gone=may_be_gone, all_tasks=not beyond)
        found.checked += replay.counts
        found.checked += Counter(
            services=1, tasks=topics.partitions[journal] - beyond, outputs=len(outputs), states=len(states)
        )
        return replay


def replay_identity(
    broker: Broker, registry: SchemaSource, services: Iterable[Service]
) -> tuple[Counter[str], list[Difference]]:
    """What was checked, with counts, and what differs; a task that cannot be replayed is a difference here."""
    found = ReplayCheck(registry, services).check(broker)
    return found.checked, [
        *found.differences,
        *(Difference("replay", "task", reason) for reason in found.beyond),
    ]


def topics_of(service: Service) -> set[str]:
    """The topics that a replay of the service reads."""
    return {
        names.journal_topic(service.name),
        names.changelog_topic(service.name),
        names.retry_topic(service.name),
        *(kind.TOPIC for kind in (*service.inputs, *service.outputs)),
    }


def compacted_topics(broker: Broker, services: Iterable[Service]) -> frozenset[str]:
    """The outputs that are tables."""
    admin = broker.admin()
    try:
        outputs = {kind.TOPIC for service in services for kind in service.outputs}
        return frozenset(
            topic for topic in outputs if "compact" in admin.describe(topic).configs.get("cleanup.policy", "")
        )
    finally:
        admin.close()


def reading_codec(registry: SchemaSource, service: Service) -> Codec:
    """Reads what the service reads, as it does, and what it wrote."""
    tables = service.tables.values()
    return Codec(registry, written=(), read=[*service.inputs, *service.states, *tables, *service.outputs])


def require_whole(topics: Topics, journal: TopicPartition, turns: Iterable[Turn]) -> None:
    """Raises NotReplayable when the journal starts after the task did, or its runs do not join."""
    if topics.ends[journal].low:
        raise NotReplayable(f"{journal.topic}/{journal.partition} begins at {topics.ends[journal].low}")
    reached: dict[str, int] = {}
    for topic, start, end in (run for turn in turns for run in turn.runs):
        if topic not in reached:
            low = topics.ends[TopicPartition(topic, journal.partition)].low
            if low < start and topics.between(journal.partition, topic, low, start):
                raise NotReplayable(
                    f"{journal.topic}/{journal.partition} misses messages of {topic} before {start}"
                )
        elif reached[topic] != start:
            raise NotReplayable(
                f"{journal.topic}/{journal.partition}: {topic} goes on at {start} instead of {reached[topic]}"
            )
        reached[topic] = end


def stored_states(changelog: Iterable[Record], codec: Codec) -> Iterable[tuple[str, Any]]:
    """The last state of every key, decoded."""
    latest: dict[str, bytes | None] = {}
    for record in changelog:
        key = key_text(record.key or b"")
        if not key.startswith(OWN):
            latest[key] = record.value
    for key, value in latest.items():
        if value is not None:
            yield key, codec.decode_state(value)


def published(service: Service, topics: Topics, codec: Codec) -> list[Output]:
    """What the service published, decoded; others may write to the same topics."""
    source = f"/crossdock/{service.name}".encode()
    found = []
    for topic in sorted({kind.TOPIC for kind in service.outputs}):
        for record in topics.of(topic):
            if record.value is not None and header(record.headers, "ce_source") == source:
                meta, body = codec.decode(record.value, record.headers)
                found.append(Output(body, meta, f"{record.topic}/{record.partition}/{record.offset}"))
    return found
