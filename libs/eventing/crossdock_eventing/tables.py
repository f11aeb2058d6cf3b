"""Broadcast tables: compacted topics that every instance reads in full, by a reader of its own that joins no group.

They are drained before a transaction begins and frozen while it runs. What they say is advice, but for one thing: a row that
is missing may only be late. A decision that missed a row is therefore made again once the table was read up to an end that
was asked for after the message had been polled; only then is the row known not to exist.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import structlog

from crossdock_eventing.broker.interface import Broker, Record, TopicPartition
from crossdock_eventing.codec import Codec, Undecodable
from crossdock_eventing.plain import plain
from crossdock_eventing.reading import batches_up_to

log = structlog.get_logger(__name__)

_DRAIN = 5_000


class TableView:
    """One table as a decider sees it (`Lookup`): rows by the first part of their key, in key order.

    missed, read: whether a group was missing, and the groups asked for, since the decision began.
    """

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, Any]] = {}
        self._frozen: dict[str, tuple[Any, ...]] = {}
        self._texts: dict[str, dict[str, str]] = {}
        self.missed = False
        self.read: set[str] = set()

    def __call__(self, group: str) -> tuple[Any, ...]:
        self.read.add(group)
        found = self._frozen.get(group)
        if found is None:
            rows = self._rows.get(group)
            if not rows:
                self.missed = True
                return ()
            found = self._frozen[group] = tuple(rows[key] for key in sorted(rows))
        return found

    def put(self, key: str, row: Any | None) -> None:
        """Set a row, or delete it (a tombstone)."""
        group = key.split("|", 1)[0]
        self._frozen.pop(group, None)
        if group in self._texts:
            self._texts[group].pop(key, None)
        if row is None:
            self._rows.get(group, {}).pop(key, None)
        else:
            self._rows.setdefault(group, {})[key] = row

    def text(self, group: str) -> str:
        """The rows of a group as a JSON array, in key order. Rows that did not change are not written again."""
        rows, texts = self._rows.get(group, {}), self._texts.setdefault(group, {})
        for key in rows.keys() - texts.keys():
            texts[key] = json.dumps(plain(rows[key]), separators=(",", ":"), ensure_ascii=False)
        return f"[{','.join(texts[key] for key in sorted(texts))}]"

    def __len__(self) -> int:
        return sum(len(rows) for rows in self._rows.values())


class Tables:
    """Every broadcast table of one service. `views` are the keyword arguments of its decider."""

    def __init__(
        self,
        broker: Broker,
        codec: Codec,
        tables: Mapping[str, type[Any]],
        on_unreadable: Callable[[str], None],
    ) -> None:
        """`on_unreadable(topic)` hears of every row that cannot be read; it counts as deleted. Raises BrokerRefused when a
        table's topic does not exist.
        """
        self.views = {name: TableView() for name in tables}
        self._codec = codec
        self._kinds = {(kind.TOPIC, kind): self.views[name] for name, kind in tables.items()}
        self._by_topic = {kind.TOPIC: self.views[name] for name, kind in tables.items()}
        self._reader = broker.reader() if tables else None
        self._partitions: list[TopicPartition] = []
        self._on_unreadable = on_unreadable
        if self._reader is not None:
            admin = broker.admin()
            self._partitions = [
                TopicPartition(topic, partition)
                for topic in sorted(self._by_topic)
                for partition in range(admin.partitions(topic))
            ]
            admin.close()
            self._reader.assign({each: self._reader.watermarks(each).low for each in self._partitions})

    def drain(self) -> None:
        """Take what has already arrived, without waiting."""
        if self._reader is not None:
            while records := self._reader.poll(_DRAIN, 0.0):
                self._take(records)
                if len(records) < _DRAIN:
                    return

    def catch_up(self) -> None:
        """Read up to the ends as they are now. Blocks for as long as that takes. Raises BrokerUnavailable."""
        if self._reader is not None:
            ends = {each: self._reader.watermarks(each).high for each in self._partitions}
            for records in batches_up_to(self._reader, ends):
                self._take(records)

    def begin_decision(self) -> None:
        """Forget what was read and missed so far."""
        for view in self.views.values():
            view.missed = False
            view.read.clear()

    def missed(self) -> bool:
        """Whether a row was missing since `begin_decision`."""
        return any(view.missed for view in self.views.values())

    def read(self) -> Iterator[tuple[str, str, str]]:
        """Table, group and rows as JSON text of whatever was read since `begin_decision`."""
        for name, view in self.views.items():
            for group in sorted(view.read):
                yield name, group, view.text(group)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def _take(self, records: list[Record]) -> None:
        for record in records:
            if record.key is None:
                continue
            key = record.key.decode(errors="replace")
            if record.value is None:
                self._by_topic[record.topic].put(key, None)
                continue
            try:
                row = self._codec.decode(record.value, record.headers)[1]
                view = self._kinds.get((record.topic, type(row)))
                if view is None:
                    raise Undecodable("contract.unexpected_type", f"{row.SCHEMA} is no row of {record.topic}")
                view.put(key, row)
            except Undecodable as error:
                # An older row that is known to be replaced would be worse than none: its reader is told of a miss.
                self._by_topic[record.topic].put(key, None)
                self._on_unreadable(record.topic)
                log.error(
                    "table.row_unreadable",
                    code=error.code,
                    detail=error.detail,
                    topic=record.topic,
                    partition=record.partition,
                    offset=record.offset,
                    key=key,
                )
