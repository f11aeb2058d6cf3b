"""One task of a worker: (service, partition number). Its state, its book of processed offsets, and its restore.

A task owns the partition of its number in every input topic, and the changelog partition of the same number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from crossdock_eventing.broker.interface import Reader, Record, TopicPartition
from crossdock_eventing.parking.formats import key_text
from crossdock_eventing.parking.lot import ParkingLot
from crossdock_eventing.reading import batches_up_to
from crossdock_eventing.retry import Retry
from crossdock_eventing.state import Checkpoint, TaskState

#: Key of the changelog record that carries the task's book of input offsets.
OFFSETS_KEY = "\x00offsets"
_TRUST_MS_MAX = (
    6 * 24 * 3600 * 1000
)  # delete.retention.ms (7 days) less a day: a missed tombstone would raise the dead


@dataclass(slots=True)
class Task:
    """What a worker knows of one partition number.

    next_offsets: the shell's own book: next offset to process of each input topic.
    shown_ms: newest record timestamp processed of each input topic.
    parking: its parked keys.
    held_until_s: until when a message asked to be left alone (monotonic clock); the task's inputs are not read until then.
    retry: the message that asked for it.
    crowded: the parked key whose queue is full; until it shrinks only instructions are read.
    booked: whether the changelog holds a book. A new task writes one at once: were its group offsets to expire before its
        first message, nobody could tell that there was nothing.
    """

    partition: int
    state: TaskState
    changelog: TopicPartition
    cluster_id: str
    topic_id: str
    next_offsets: dict[str, int] = field(default_factory=dict)
    shown_ms: dict[str, int] = field(default_factory=dict)
    changelog_next: int = 0
    held_until_s: float | None = None
    retry: Retry | None = None
    crowded: str | None = None
    booked: bool = False
    parking: ParkingLot = field(init=False)

    def __post_init__(self) -> None:
        self.parking = ParkingLot(self.state)

    def offsets(self) -> dict[TopicPartition, int]:
        """What a transaction that touched this task commits, also when it had no new input."""
        return {TopicPartition(topic, self.partition): offset for topic, offset in self.next_offsets.items()}

    def book(self) -> bytes:
        """The book as a changelog value."""
        return json.dumps(self.next_offsets, separators=(",", ":"), sort_keys=True).encode()

    def processed(self, record: Record) -> None:
        """Enter a record into the book."""
        self.next_offsets[record.topic] = record.offset + 1
        if record.timestamp_ms > self.shown_ms.get(record.topic, 0):
            self.shown_ms[record.topic] = record.timestamp_ms

    def delivered(self, _partition: TopicPartition, offset: int) -> None:
        """A changelog record got its offset (delivery report)."""
        self.changelog_next = max(self.changelog_next, offset + 1)

    def flush(self, now_ms: int) -> None:
        """The transaction committed."""
        self.booked = True
        self.state.flush(self._checkpoint(now_ms))

    def drop(self) -> None:
        """The transaction did not commit: forget what it changed."""
        self.state.drop()
        self.parking.forget()

    def restore(self, reader: Reader, now_ms: int) -> int:
        """Bring the store up to the changelog's end; returns how many changelog records it took.

        The end is the high watermark read uncommitted, asked after `committed()` answered: whatever had committed by then
        lies below it. Wipes a store that mirrors another changelog, lies outside the log, or is older than tombstones live.
        Raises BrokerUnavailable.
        """
        low, high = reader.watermarks(self.changelog)
        checkpoint = self.state.checkpoint()
        if checkpoint is not None and not self._trusted(checkpoint, low, high, now_ms):
            self.state.wipe()
            checkpoint = None
        start = low if checkpoint is None else checkpoint.next_offset
        self.changelog_next = start
        if checkpoint is not None:
            self.next_offsets = dict(checkpoint.inputs)
            self.booked = bool(checkpoint.inputs)
        reader.assign({self.changelog: start})
        self.parking.forget()
        read = 0
        for records in batches_up_to(reader, {self.changelog: high}):
            read += len(records)
            self._take(records, now_ms)
        self.changelog_next = max(self.changelog_next, reader.position(self.changelog))
        return read

    def _take(self, records: list[Record], now_ms: int) -> None:
        changes: dict[str, bytes | None] = {}
        for record in records:
            assert record.key is not None, "a changelog record has a key"
            self.changelog_next = record.offset + 1
            key = key_text(record.key)
            if key == OFFSETS_KEY:
                assert record.value is not None
                self.next_offsets = json.loads(record.value)
                self.booked = True
            else:
                changes[key] = record.value
        if records:
            self.state.load(changes, self._checkpoint(now_ms))

    def start_from(self, committed: Mapping[TopicPartition, int | None]) -> dict[TopicPartition, int | None]:
        """Where to read each input: the group's committed offset, else the book in the changelog, else None."""
        starts = {
            each: self.next_offsets.get(each.topic) if offset is None else offset
            for each, offset in committed.items()
        }
        self.next_offsets = {each.topic: offset for each, offset in starts.items() if offset is not None}
        return starts

    def _checkpoint(self, now_ms: int) -> Checkpoint:
        return Checkpoint(
            cluster_id=self.cluster_id,
            topic_id=self.topic_id,
            next_offset=self.changelog_next,
            written_at_ms=now_ms,
            inputs=dict(self.next_offsets),
        )

    def _trusted(self, checkpoint: Checkpoint, low: int, high: int, now_ms: int) -> bool:
        return (
            checkpoint.cluster_id == self.cluster_id
            and checkpoint.topic_id == self.topic_id
            and low <= checkpoint.next_offset <= high
            and now_ms - checkpoint.written_at_ms <= _TRUST_MS_MAX
        )
