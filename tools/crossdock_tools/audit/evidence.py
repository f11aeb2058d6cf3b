"""Everything that the cluster says, read once and folded for the checks: topics, dead letters, changelogs, journals, offsets.

`Auditor` reads it; each check asks it questions and never the cluster. Records are decoded once, states only when a check
looks at them, by the schema they were written with: the services' own types are not used.
"""

from __future__ import annotations

import json
import struct
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import fastavro

from crossdock_canonical.records import BY_NAME
from crossdock_eventing import names
from crossdock_eventing.broker.interface import Broker, Reader, Record, TopicPartition, Watermarks
from crossdock_eventing.codec import Codec, Undecodable
from crossdock_eventing.deadletter import DeadLetter, read_dead_letter
from crossdock_eventing.reading import batches_up_to
from crossdock_eventing.registry import SchemaSource
from crossdock_tools.schemas.contracts import Repository
from crossdock_tools.topic_reader import Entry
from crossdock_tools.topics import group_inputs

#: The service whose input is the outside: it keeps no state, so it has a group and dead letters but no changelog or journal.
GATEWAY = "channel-gateway"
#: Key of a changelog record that carries a task's input offsets instead of a state.
OFFSETS_KEY = "\x00offsets"
#: Code of the copy of a message that waits behind a rejected one of its key.
BEHIND = "parked.behind"
_OWN = "\x00"
_PARK, _QUEUE = "\x00park/", "\x00queue/"
_FRAME = struct.Struct(">bI")
_PASSES_MAX = 20


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter: who gave up, the copied record, and where the original lies."""

    service: str
    record: Record
    letter: DeadLetter

    @property
    def original(self) -> tuple[str, int, int] | None:
        """Topic, partition and offset of the original, if the letter says."""
        found = self.letter
        if found.topic is None or found.partition is None or found.offset is None:
            return None
        return found.topic, found.partition, found.offset


class StateDecoder:
    """States as plain values, by the schema that wrote them. Keeps parsed schemas; one for all audits of a registry."""

    def __init__(self, registry: SchemaSource) -> None:
        self._registry = registry
        self._schemas: dict[int, Any] = {}

    def decode(self, value: bytes) -> dict[str, Any]:
        """Raises UnknownSchema, RegistryUnavailable; ValueError for bytes that are no framed record."""
        magic, schema_id = _FRAME.unpack_from(value)
        if magic != 0:
            raise ValueError(f"magic byte {magic} is not the registry framing")
        schema = self._schemas.get(schema_id)
        if schema is None:
            text = json.loads(self._registry.by_id(schema_id))
            schema = self._schemas[schema_id] = fastavro.parse_schema(text, named_schemas={})
        body = BytesIO(value)
        body.seek(_FRAME.size)
        found = fastavro.schemaless_reader(body, schema, None)
        assert isinstance(found, dict)
        return found


@dataclass(slots=True)
class Version:
    """A state as one transaction left it; `state` is None after its end (a tombstone). Decoded when first looked at."""

    key: str
    record: Record
    _decoder: StateDecoder
    _state: dict[str, Any] | None = None

    @property
    def state(self) -> dict[str, Any] | None:
        if self._state is None and self.record.value is not None:
            self._state = self._decoder.decode(self.record.value)
        return self._state

    @property
    def is_end(self) -> bool:
        return self.record.value is None


@dataclass(slots=True)
class Changelog:
    """A service's states. `history` by key, oldest first; compaction may have taken versions, never the last one.

    books: records in which a task wrote its input offsets down, by partition, oldest first.
    """

    history: dict[str, list[Version]] = field(default_factory=lambda: defaultdict(list))
    books: dict[int, list[Record]] = field(default_factory=lambda: defaultdict(list))

    def book(self, number: int) -> dict[str, int]:
        """The input offsets that the task of this number stands at, by topic; empty before its first book."""
        records = self.books.get(number)
        found: dict[str, int] = json.loads(records[-1].value or b"{}") if records else {}
        return found

    def latest(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Key and state of everything that lives."""
        for key, versions in self.history.items():
            state = versions[-1].state
            if state is not None:
                yield key, state


@dataclass(frozen=True, slots=True)
class Run:
    """Messages of one input topic taken in order: from offset `start`, up to but without `end`."""

    topic: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Turn:
    """A journal record: what one transaction did in one task, in the order answers, released, messages, timers.

    now_us: the transaction's one moment. answers: (state key, call id, cause, command). timers: (due, key, name).
    released: (record key, how many parked messages of it were decided).
    ignored and rejected: (topic, offset, code). tables: broadcast rows read, by table and group.
    """

    record: Record
    now_us: int
    runs: tuple[Run, ...]
    answers: tuple[tuple[str, str, str, Any], ...] = ()
    released: tuple[tuple[str, int], ...] = ()
    timers: tuple[tuple[int, str, str], ...] = ()
    ignored: tuple[tuple[str, int, str], ...] = ()
    rejected: tuple[tuple[str, int, str], ...] = ()
    tables: Mapping[str, Mapping[str, list[Any]]] = field(default_factory=dict)


@dataclass(slots=True)
class Evidence:
    """One cluster as it was read.

    inputs: per service the topics it reads as a group.
    handled: of each of these, the record types it acts on; it skips the others by their header.
    producers: per topic who may write it.
    entries: every committed, decodable record of the catalogue's topics: topic by topic, partition by partition, in log order.
    undecodable: the other ones that have a value. tombstones: deleted rows of tables.
    log: the same per partition. offsets: of every committed record of these topics, per partition.
    letters: dead letters.
    journals: per (service, partition), missing where nothing was written.
    queues: messages that are parked now, per service and record key, by sequence number. parks: what is said of each parked key.
    replays: what became of instructions, per (service, partition), in order: each record and what it says.
    committed: next offset of every group, by service.
    ends: watermarks, up to which everything was read. quiet: nothing was written in the meantime.
    retention_ms: of every topic that does not keep its records for ever.
    now_ms: the newest timestamp anywhere.
    """

    inputs: Mapping[str, tuple[str, ...]]
    handled: Mapping[str, Mapping[str, frozenset[str]]]
    producers: Mapping[str, frozenset[str]]
    entries: list[Entry] = field(default_factory=list)
    undecodable: list[Record] = field(default_factory=list)
    tombstones: list[Record] = field(default_factory=list)
    log: dict[TopicPartition, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    offsets: dict[TopicPartition, list[int]] = field(default_factory=lambda: defaultdict(list))
    letters: list[Letter] = field(default_factory=list)
    changelogs: dict[str, Changelog] = field(default_factory=dict)
    journals: dict[tuple[str, int], list[Turn]] = field(default_factory=lambda: defaultdict(list))
    queues: dict[tuple[str, str], dict[int, dict[str, Any]]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    parks: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    replays: dict[tuple[str, int], list[tuple[Record, dict[str, Any]]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    committed: dict[str, dict[TopicPartition, int]] = field(default_factory=dict)
    ends: dict[TopicPartition, Watermarks] = field(default_factory=dict)
    quiet: bool = True
    retention_ms: dict[str, int] = field(default_factory=dict)
    now_ms: int = 0
    _of: dict[type[Any], list[Entry]] = field(default_factory=lambda: defaultdict(list))
    _by_id: dict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    _by_order: dict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))

    @property
    def services(self) -> tuple[str, ...]:
        """Services that keep state, in order of name."""
        return tuple(sorted(set(self.inputs) - {GATEWAY}))

    def of(self, *kinds: type[Any]) -> list[Entry]:
        """Entries of these types; those of one type are in log order of each partition."""
        if len(kinds) == 1:
            return self._of.get(kinds[0], [])
        return [entry for kind in kinds for entry in self._of.get(kind, ())]

    def by_id(self, event_id: str) -> list[Entry]:
        """Entries with this event id: one, unless it was published twice."""
        return self._by_id.get(event_id, [])

    @property
    def ids(self) -> Mapping[str, list[Entry]]:
        """Entries by event id."""
        return self._by_id

    def of_order(self, order_id: str) -> list[Entry]:
        """Entries of one business thread (their correlation id)."""
        return self._by_order.get(order_id, [])

    @property
    def by_order(self) -> Mapping[str, list[Entry]]:
        """Entries by correlation id: orders, settlements, and threads that started with neither."""
        return self._by_order

    @property
    def journaled(self) -> frozenset[str]:
        """Services that keep a journal, which can be switched off."""
        return frozenset(service for service, _ in self.journals)

    def turns(self, service: str) -> Iterator[Turn]:
        """A service's journal, partition by partition, in order."""
        for (of, _), turns in self.journals.items():
            if of == service:
                yield from turns

    def count_between(self, partition: TopicPartition, start: int, end: int) -> int:
        """Committed records of a partition from offset `start`, below `end`; markers and aborted ones are none."""
        offsets = self.offsets.get(partition, [])
        return bisect_left(offsets, end) - bisect_left(offsets, start)

    def add(self, entry: Entry) -> None:
        """Take an entry; of one partition in log order."""
        self.entries.append(entry)
        self.log[TopicPartition(entry.record.topic, entry.record.partition)].append(entry)
        self._of[type(entry.body)].append(entry)
        self._by_id[entry.meta.event_id].append(entry)
        self._by_order[entry.meta.correlation_id].append(entry)


def place(record: Record) -> str:
    """Where a record lies, for a violation's text."""
    return f"{record.topic}[{record.partition}]@{record.offset}"


def producer_of(entry: Entry) -> str:
    """The service or edge that published an entry."""
    return entry.meta.source.rpartition("/")[2]


class EvidenceReader:
    """Reads a cluster. Keeps what every audit can share: decoders with their parsed schemas, and the catalogue."""

    def __init__(self, catalogue: Repository, registry: SchemaSource) -> None:
        self._topics = tuple(sorted(catalogue.topics))
        groups = group_inputs(catalogue)
        self._inputs = {service: tuple(topic.name for topic in topics) for service, topics in groups.items()}
        self._handled = {
            service: {topic.name: frozenset(topic.consumers[service]) for topic in topics}
            for service, topics in groups.items()
        }
        self._producers = {topic.name: frozenset(topic.producers) for topic in catalogue.topics.values()}
        self._codec = Codec(registry, written=(), read=BY_NAME.values())
        self._states = StateDecoder(registry)

    def read(self, broker: Broker) -> Evidence:
        """Everything up to the ends as they are once nothing moves any more; if it never rests, up to the last look.

        Raises BrokerRefused for a topic of the catalogue that is not there, and what brokers and registries raise.
        """
        admin = broker.admin()
        existing = admin.topics()
        dead_letters = {names.dead_letter_topic(service): service for service in self._inputs}
        changelogs = {
            names.changelog_topic(service): service for service in self._inputs if service != GATEWAY
        }
        journals = {
            topic: service for service in self._inputs if (topic := names.journal_topic(service)) in existing
        }
        replays = {
            topic: service for service in self._inputs if (topic := names.replays_topic(service)) in existing
        }
        instructions = [names.retry_topic(service) for service in self._inputs if service != GATEWAY]
        partitions = [
            TopicPartition(topic, number)
            for topic in (*self._topics, *dead_letters, *changelogs, *journals, *replays, *instructions)
            for number in range(admin.partitions(topic))
        ]
        evidence = Evidence(self._inputs, self._handled, self._producers)
        evidence.changelogs = {service: Changelog() for service in changelogs.values()}
        reader = broker.reader()
        by_partition, evidence.ends, evidence.quiet = _read_to_rest(reader, partitions)
        reader.close()
        evidence.committed = {service: admin.group_offsets(names.group(service)) for service in self._inputs}
        for topic in {*dead_letters, *(each for topics in self._inputs.values() for each in topics)}:
            kept = int(admin.describe(topic).configs.get("retention.ms", -1))
            if kept > 0:
                evidence.retention_ms[topic] = kept
        admin.close()
        for partition in partitions:
            records = by_partition.get(partition)
            if not records:
                continue
            evidence.now_ms = max(evidence.now_ms, max(record.timestamp_ms for record in records))
            topic, number = partition
            if topic in dead_letters:
                evidence.letters += [
                    Letter(dead_letters[topic], record, read_dead_letter(record.headers))
                    for record in records
                ]
            elif topic in changelogs:
                self._fold_changelog(evidence, changelogs[topic], number, records)
            elif topic in journals:
                evidence.journals[journals[topic], number] = [read_turn(record) for record in records]
            elif topic in replays:
                evidence.replays[replays[topic], number] = [
                    (record, json.loads(record.value or b"{}")) for record in records
                ]
            elif topic in instructions:
                evidence.offsets[partition] = [record.offset for record in records]
            else:
                self._fold_topic(evidence, partition, records)
        return evidence

    def _fold_topic(self, evidence: Evidence, partition: TopicPartition, records: Sequence[Record]) -> None:
        evidence.offsets[partition] = [record.offset for record in records]
        for record in records:
            if record.value is None:
                evidence.tombstones.append(record)
                continue
            try:
                meta, body = self._codec.decode(record.value, record.headers)
            except Undecodable:
                evidence.undecodable.append(record)
                continue
            evidence.add(Entry(record, meta, body))

    def _fold_changelog(
        self, evidence: Evidence, service: str, number: int, records: Sequence[Record]
    ) -> None:
        changelog = evidence.changelogs[service]
        for record in records:
            key = (record.key or b"").decode(errors="surrogateescape")
            said = None if record.value is None else record.value
            if key == OFFSETS_KEY:
                changelog.books[number].append(record)
            elif key.startswith(_PARK):
                parked = (service, key.removeprefix(_PARK))
                if said is None:
                    evidence.parks.pop(parked, None)
                else:
                    evidence.parks[parked] = json.loads(said)
            elif key.startswith(_QUEUE):
                seq, _, parked_key = key.removeprefix(_QUEUE).partition("/")
                queue = evidence.queues[service, parked_key]
                if said is None:
                    queue.pop(int(seq), None)
                else:
                    queue[int(seq)] = json.loads(said)
            elif not key.startswith(_OWN):
                changelog.history[key].append(Version(key, record, self._states))


def read_turn(record: Record) -> Turn:
    """A journal record. Raises ValueError for another version than 1."""
    found = json.loads((record.value or b"{}").decode())
    if found.get("v") != 1:
        raise ValueError(f"{place(record)}: journal version {found.get('v')} is not known here")
    return Turn(
        record=record,
        now_us=found["now"],
        runs=tuple(Run(*each) for each in found.get("runs", ())),
        released=tuple((key, count) for key, count in found.get("released", ())),
        answers=tuple((key, call, cause, command) for key, call, cause, command in found.get("answers", ())),
        timers=tuple((due, key, name) for due, key, name in found.get("timers", ())),
        ignored=tuple((topic, offset, code) for topic, offset, code in found.get("ignored", ())),
        rejected=tuple((topic, offset, code) for topic, offset, code in found.get("rejected", ())),
        tables=found.get("tables", {}),
    )


def _read_to_rest(
    reader: Reader, partitions: Sequence[TopicPartition]
) -> tuple[dict[TopicPartition, list[Record]], dict[TopicPartition, Watermarks], bool]:
    """Records of each partition, the ends up to which they were read, and whether nothing moved during the last look."""
    ends = {each: reader.watermarks(each) for each in partitions}
    reader.assign({each: found.low for each, found in ends.items()})
    records: dict[TopicPartition, list[Record]] = defaultdict(list)
    for _ in range(_PASSES_MAX):
        behind = {each: found.high for each, found in ends.items() if reader.position(each) < found.high}
        for batch in batches_up_to(reader, behind):
            for record in batch:
                records[TopicPartition(record.topic, record.partition)].append(record)
        seen = {each: reader.watermarks(each) for each in partitions}
        if all(seen[each].high == found.high for each, found in ends.items()):
            return records, ends, True
        ends = seen
    return records, ends, False
