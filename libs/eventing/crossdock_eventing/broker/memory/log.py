"""The partition log of the in-memory broker: offsets, transaction markers, the last stable offset,
compaction.

Used by `transactions` (who appends and settles) and `clients` (who read). Knows nothing of producers or
groups.
"""

from bisect import bisect_left
from dataclasses import dataclass
from enum import Enum, auto

from crossdock_eventing.broker.interface import Headers, Record, TopicPartition, Watermarks


class Fate(Enum):
    """What became of the records of one transaction in one partition."""

    OPEN = auto()
    COMMITTED = auto()
    ABORTED = auto()


@dataclass(slots=True)
class Span:
    """The records of one transaction in one partition, from its first offset to its marker."""

    first: int
    fate: Fate = Fate.OPEN


@dataclass(frozen=True, slots=True)
class _Entry:
    record: Record
    span: Span
    is_marker: bool


class PartitionLog:
    """An append-only log whose readers see committed records only."""

    def __init__(self, partition: TopicPartition) -> None:
        self._partition = partition
        self._entries: list[_Entry] = []  # by offset; gaps where compaction took records
        self._low = 0
        self.high = 0  # the offset that the next record gets
        self._open: list[Span] = []  # by first offset

    @property
    def watermarks(self) -> Watermarks:
        return Watermarks(self._low, self.high)

    @property
    def last_stable_offset(self) -> int:
        """Everything below is decided: committed readers stop at the first record of the oldest open span."""
        return self._open[0].first if self._open else self.high

    def open_span(self) -> Span:
        """Start a transaction here; its first record must follow at once."""
        span = Span(self.high)
        self._open.append(span)
        return span

    def append(
        self, span: Span, *, timestamp_ms: int, key: bytes | None, value: bytes | None, headers: Headers
    ) -> int:
        """Add a record of an open span; returns its offset."""
        assert span.fate is Fate.OPEN
        topic, partition = self._partition
        record = Record(topic, partition, self.high, timestamp_ms, key, value, headers)
        return self._add(_Entry(record, span, is_marker=False))

    def settle(self, span: Span, fate: Fate, *, timestamp_ms: int) -> None:
        """End a span with a marker, which takes an offset of its own."""
        assert span.fate is Fate.OPEN
        assert fate is not Fate.OPEN
        span.fate = fate
        self._open.remove(span)
        topic, partition = self._partition
        marker = Record(topic, partition, self.high, timestamp_ms, None, None, ())
        self._add(_Entry(marker, span, is_marker=True))

    def _add(self, entry: _Entry) -> int:
        self._entries.append(entry)
        self.high += 1
        return entry.record.offset

    def read(self, start: int, max_records: int) -> tuple[list[Record], int]:
        """Committed records from offset `start` on, and the offset to continue at.

        The latter passes over markers, aborted records and gaps, up to the last stable offset. `start`
        must lie within the log.
        """
        assert self._low <= start <= self.high
        end = self.last_stable_offset
        found: list[Record] = []
        for index in range(self._index(start), len(self._entries)):
            entry = self._entries[index]
            if entry.record.offset >= end:
                break
            if entry.span.fate is Fate.COMMITTED and not entry.is_marker:
                if len(found) == max_records:
                    return found, entry.record.offset
                found.append(entry.record)
        return found, max(start, end)

    def _index(self, offset: int) -> int:
        return bisect_left(self._entries, offset, key=lambda entry: entry.record.offset)

    def truncate(self, before: int) -> None:
        """Drop everything below `before`, as retention does."""
        del self._entries[: self._index(before)]
        self._low = max(self._low, min(before, self.high))

    def compact(self, *, tombstones_before_ms: int | None) -> None:
        """Keep the last record of each key, below the last stable offset, and no aborted records.

        Tombstones stay unless stamped before `tombstones_before_ms`, which stands for `delete.retention.ms`.
        """
        end = self.last_stable_offset
        last: dict[bytes | None, int] = {}
        for entry in self._entries:
            if entry.record.offset < end and not entry.is_marker and entry.span.fate is Fate.COMMITTED:
                last[entry.record.key] = entry.record.offset

        def survives(entry: _Entry) -> bool:
            record = entry.record
            if record.offset >= end:
                return True
            if entry.is_marker or last.get(record.key) != record.offset:
                return False
            expired = tombstones_before_ms is not None and record.timestamp_ms < tombstones_before_ms
            return record.value is not None or not expired

        self._entries = [entry for entry in self._entries if survives(entry)]
