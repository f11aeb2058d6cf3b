"""A service's changelog as it is now: its parked keys with their queues, and the states of keys. The truth that plans are made on.

Read committed, up to the ends as they were when asked. A changelog holds every state of its service; whoever knows the keys that
matter reads the partitions of these alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from crossdock_eventing import names
from crossdock_eventing.broker.interface import Broker, TopicPartition
from crossdock_eventing.parking.formats import (
    Park,
    Queued,
    key_text,
    parked_key,
    queued_place,
)
from crossdock_eventing.reading import batches_up_to
from crossdock_tools.dead_letters.errors import DeadLetterError

_OWN = b"\x00"


@dataclass(slots=True)
class ParkedKey:
    """One parked key and its queue, by sequence number in order."""

    key: str
    partition: int
    park: Park
    _raw: dict[int, bytes] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._raw)

    @property
    def numbers(self) -> list[int]:
        return sorted(self._raw)

    def queued(self, seq: int) -> Queued | None:
        """The message of this number; None when it is not queued."""
        found = self._raw.get(seq)
        return None if found is None else Queued.from_json(self.key, json.loads(found))

    def queue(self) -> Iterator[tuple[int, Queued]]:
        """Every message with its number, head first."""
        for seq in self.numbers:
            queued = self.queued(seq)
            assert queued is not None
            yield seq, queued


@dataclass(slots=True)
class Changelog:
    """What was read. own: the tasks' own entries, by partition and name; states: encoded, by key; only what was asked for.

    partitions: how many the changelog has.
    """

    service: str
    partitions: int
    parked: dict[str, ParkedKey] = field(default_factory=dict)
    own: dict[int, dict[str, bytes]] = field(default_factory=dict)
    states: dict[str, bytes] = field(default_factory=dict)


def read_changelog(
    broker: Broker,
    service: str,
    *,
    partitions: Collection[int] | None = None,
    wanted: Callable[[str], bool] = lambda _key: True,
    states: Callable[[str], bool] | None = None,
) -> Changelog:
    """Read a service's changelog.

    partitions: only these. wanted: which parked keys to keep. states: which states to keep, by their key; None: none.
    Raises BrokerRefused for a topic that does not exist, BrokerUnavailable.
    """
    topic = names.changelog_topic(service)
    admin = broker.admin()
    count = admin.partitions(topic)
    admin.close()
    if wrong := set(partitions or ()) - set(range(count)):
        raise DeadLetterError(f"{topic} has partitions 0 to {count - 1}, not {min(wrong)}")
    found = Changelog(service, count)
    queues: dict[str, dict[int, bytes]] = {}
    parks: dict[str, tuple[int, bytes]] = {}
    reader = broker.reader()
    try:
        chosen = [
            TopicPartition(topic, number) for number in (range(count) if partitions is None else partitions)
        ]
        ends = {each: reader.watermarks(each) for each in chosen}
        reader.assign({each: end.low for each, end in ends.items()})
        for records in batches_up_to(reader, {each: end.high for each, end in ends.items()}):
            for record in records:
                raw = record.key or b""
                if not raw.startswith(_OWN):
                    if states is not None:
                        name = key_text(raw)
                        if states(name):
                            _put(found.states, name, record.value)
                    continue
                name = key_text(raw)
                _put(found.own.setdefault(record.partition, {}), name, record.value)
    finally:
        reader.close()
    for partition, entries in found.own.items():
        for name, value in entries.items():
            place = queued_place(name)
            if place is not None and wanted(place[0]):
                queues.setdefault(place[0], {})[place[1]] = value
            key = parked_key(name)
            if key is not None and wanted(key):
                parks[key] = partition, value
    for key, (partition, value) in parks.items():
        found.parked[key] = ParkedKey(key, partition, Park.from_json(json.loads(value)), queues.get(key, {}))
    return found


def _put(entries: dict[str, bytes], name: str, value: bytes | None) -> None:
    if value is None:
        entries.pop(name, None)
    else:
        entries[name] = value
