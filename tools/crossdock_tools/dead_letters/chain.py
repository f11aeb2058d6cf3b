"""The replays as a hash chain: every entry names its number in the partition and the hash of the one before. An altered or missing
entry breaks it. `crossdock dlt verify` walks it; a certificate stands on it.

The service keeps the chain's end in its changelog, so that entries cut off at the end are missed as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from crossdock_eventing import names
from crossdock_eventing.broker.interface import Broker, Record, TopicPartition
from crossdock_eventing.parking.formats import NO_ENTRY, REPLAYS_KEY, Malformed, ReplayEntry
from crossdock_tools.dead_letters.changelog import read_changelog
from crossdock_tools.topic_reader import TopicReader

if TYPE_CHECKING:
    from crossdock_eventing.registry import SchemaSource


@dataclass(frozen=True, slots=True)
class Link:
    """One partition's chain. entries: how many were walked. last: number and hash of the last; None for an empty chain.

    broken: where and how it is broken first; "" for a whole one. first: number of the first entry; above 0 retention took those
    before it.
    """

    topic: str
    partition: int
    entries: int
    first: int
    last: tuple[int, str] | None
    broken: str

    def to_json(self) -> dict[str, Any]:
        return {
            "topic": self.topic,
            "partition": self.partition,
            "entries": self.entries,
            "first": self.first,
            "last": None if self.last is None else {"number": self.last[0], "hash": self.last[1]},
            "broken": self.broken or None,
        }


def walk(broker: Broker, registry: SchemaSource, service: str) -> list[Link]:
    """Every partition's chain of a service's replays."""
    # The ends first: what commits meanwhile makes the chain longer than they say, never shorter.
    ends = _ends(broker, service)
    topic = names.replays_topic(service)
    reader = TopicReader(broker, registry, [topic])
    records: dict[int, list[Record]] = {}
    try:
        for record in reader.records():
            records.setdefault(record.partition, []).append(record)
    finally:
        reader.close()
    admin = broker.admin()
    try:
        return [
            _link(
                topic,
                number,
                records.get(number, []),
                end=ends.get(number),
                low=admin.watermarks(TopicPartition(topic, number)).low,
            )
            for number in range(admin.partitions(topic))
        ]
    finally:
        admin.close()


def _link(
    topic: str, partition: int, records: Iterable[Record], *, end: tuple[int, str] | None, low: int
) -> Link:
    """Walk one partition. `end`: next number and last hash as the service remembers them. `low`: where the log begins."""
    first: int | None = None
    number, previous = 0, NO_ENTRY
    hashes: dict[int, str] = {}

    def found(broken: str) -> Link:
        last = (number - 1, previous) if hashes else None
        return Link(topic, partition, len(hashes), first or 0, last, broken)

    for record in records:
        where = f"{topic}[{partition}]@{record.offset}"
        try:
            entry = ReplayEntry.from_bytes(record.value)
        except Malformed as error:
            return found(f"{where} is no entry: {error}")
        if first is None:
            # What retention took cannot be walked: then the first entry that is left is taken at its word.
            first = entry.number if low > 0 else 0
            number, previous = (entry.number, entry.previous) if low > 0 else (0, NO_ENTRY)
        if entry.number != number:
            return found(
                f"{where} is entry {entry.number}, where {number} is due: {_gap(number, entry.number)}"
            )
        if entry.previous != previous:
            return found(
                f"{where}, entry {number}, does not follow from the entry before: one of them was altered"
            )
        number, previous = number + 1, sha256(record.value or b"").hexdigest()
        hashes[entry.number] = previous
    if end is not None:
        next_number, last_hash = end
        if next_number > number:
            return found(
                f"{topic}[{partition}] ends before entry {next_number - 1}: {_gap(number, next_number)}"
            )
        known = hashes.get(next_number - 1)
        if known is not None and known != last_hash:
            return found(
                f"{topic}[{partition}], entry {next_number - 1}, is not as the service wrote it: it was altered"
            )
    return found("")


def _gap(due: int, found: int) -> str:
    if found <= due:
        return "an entry was put in or altered"
    missing = f"entry {due} is" if found == due + 1 else f"entries {due} to {found - 1} are"
    return f"{missing} missing"


def _ends(broker: Broker, service: str) -> dict[int, tuple[int, str]]:
    """Next number and last hash of each partition, from the service's changelog."""
    changelog = read_changelog(broker, service, wanted=lambda _key: False)
    found = {}
    for partition, entries in changelog.own.items():
        if REPLAYS_KEY in entries:
            link = json.loads(entries[REPLAYS_KEY])
            found[partition] = (int(link["n"]), str(link["hash"]))
    return found
