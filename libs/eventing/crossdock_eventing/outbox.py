"""What one transaction writes: events, table rows, states, dead letters, replays, the journal. Used by the worker alone.

Nothing is kept from one transaction to the next but the names of the topics.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import structlog

from crossdock_eventing import names
from crossdock_eventing.broker.interface import Producer, Record
from crossdock_eventing.clock import to_micros
from crossdock_eventing.codec import Codec
from crossdock_eventing.deadletter import dead_letter_headers
from crossdock_eventing.envelope import Meta, header, headers, record_key
from crossdock_eventing.parking.formats import ReplayEntry, key_bytes
from crossdock_eventing.task import OFFSETS_KEY, Task
from crossdock_eventing.telemetry import Telemetry, Trace

log = structlog.get_logger(__name__)


class Outbox:
    """Writes into the open transaction. `begin` first, `finish` last.

    compacted: output topics that are tables: only the last value of a key in a transaction can matter to their readers.
    """

    def __init__(
        self, service: str, codec: Codec, telemetry: Telemetry, *, compacted: frozenset[str]
    ) -> None:
        self._codec = codec
        self._telemetry = telemetry
        self.compacted = compacted
        self._group = names.group(service)
        self._dead_letters = names.dead_letter_topic(service)
        self._replays = names.replays_topic(service)
        self._journal = names.journal_topic(service)
        self._rows: dict[tuple[str, bytes], tuple[Any, Meta, Trace | None]] = {}

    def begin(self, producer: Producer, now: datetime) -> None:
        """A transaction was opened on `producer`; forgets what an earlier one did not finish."""
        self._producer = producer
        self.now_us = to_micros(now)
        self._now_ms = self.now_us // 1000
        self._rows.clear()

    def publish(self, record: Any, meta: Meta, trace: Trace | None) -> None:
        """Write an output; a table row waits for `finish`."""
        key = record_key(record).encode()
        if record.TOPIC in self.compacted:
            self._rows[record.TOPIC, key] = (record, meta, trace)
        else:
            self._produce(record, key, meta, trace)

    def dead_letter(
        self,
        record: Record,
        partition: int,
        *,
        code: str,
        detail: str,
        error: BaseException | None,
        attempt: int = 1,
    ) -> None:
        """Copy an input that was given up on, or waits behind one, untouched to this partition of the dead letters."""
        self._producer.produce(
            self._dead_letters,
            partition=partition,
            key=record.key,
            value=record.value,
            headers=dead_letter_headers(
                record, code=code, detail=detail, error=error, group=self._group, attempt=attempt
            ),
            timestamp_ms=self._now_ms,
        )
        self._telemetry.dead_lettered(code)
        correlation = header(record.headers, "correlation_id") or b""
        log.warning(
            "message.dead_lettered",
            code=code,
            detail=detail,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            correlation_id=correlation.decode(errors="replace"),
        )

    def replayed(self, partition: int, entry: ReplayEntry) -> None:
        """Say what became of an instruction."""
        self._producer.produce(
            self._replays,
            partition=partition,
            key=key_bytes(entry.key),
            value=entry.to_bytes(),
            timestamp_ms=self._now_ms,
        )
        self._telemetry.replayed(entry.outcome)

    def finish(self, touched: Iterable[Task]) -> None:
        """Write the table rows, and of every touched task its changed states and its book of offsets."""
        for (_, key), (record, meta, trace) in self._rows.items():
            self._produce(record, key, meta, trace)
        for task in touched:
            for name, value in task.state.changes():
                self._to_changelog(task, name, value)
            self._to_changelog(task, OFFSETS_KEY, task.book())

    def journal(self, task: Task, turn: bytes) -> None:
        """Write the task's record of the journal."""
        self._producer.produce(
            self._journal,
            partition=task.partition,
            key=str(task.partition).encode(),
            value=turn,
            timestamp_ms=self._now_ms,
        )

    def _produce(self, record: Any, key: bytes, meta: Meta, trace: Trace | None) -> None:
        self._producer.produce(
            record.TOPIC,
            key=key,
            value=self._codec.encode(record, meta),
            headers=headers(meta, record.SCHEMA, None if trace is None else trace.traceparent),
            timestamp_ms=to_micros(meta.recorded_at) // 1000,
        )

    def _to_changelog(self, task: Task, key: str, value: bytes | None) -> None:
        self._producer.produce(
            task.changelog.topic,
            partition=task.partition,
            key=key_bytes(key),
            value=value,
            timestamp_ms=self._now_ms,
            on_delivery=task.delivered,
        )
