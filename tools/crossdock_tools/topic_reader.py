"""Read topics from the log as it is now: what trace, the demo's figures and audits stand on.

Read committed, in no group, up to the ends as they were when asked; nothing in the cluster changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crossdock_eventing.broker.interface import Broker, Record, TopicPartition
from crossdock_eventing.envelope import Meta, header
from crossdock_eventing.reading import batches_up_to

if TYPE_CHECKING:
    from crossdock_eventing.registry import SchemaSource


@dataclass(frozen=True, slots=True)
class Entry:
    """One decoded record of a topic: where it lies, its envelope, and what it says."""

    record: Record
    meta: Meta
    body: Any


class TopicReader:
    """Reads partitions forward, each from where it was left."""

    def __init__(self, broker: Broker, registry: SchemaSource, topics: Sequence[str]) -> None:
        """Starts at the beginning of every partition. Raises BrokerRefused for a topic that does not exist."""
        from crossdock_canonical.records import BY_NAME
        from crossdock_eventing.codec import Codec

        self._reader = broker.reader()
        self._codec = Codec(registry, written=(), read=BY_NAME.values())
        admin = broker.admin()
        self._partitions = [
            TopicPartition(topic, number) for topic in topics for number in range(admin.partitions(topic))
        ]
        admin.close()
        self._reader.assign({each: self._reader.watermarks(each).low for each in self._partitions})
        self.undecodable = 0

    def skip_to_end(self) -> None:
        """Leave out everything that is there already."""
        self._reader.assign({each: self._reader.watermarks(each).high for each in self._partitions})

    def records(self) -> Iterator[Record]:
        """Every record up to the ends as they are now. Raises BrokerUnavailable when they cannot be reached."""
        ends = {each: self._reader.watermarks(each).high for each in self._partitions}
        for batch in batches_up_to(self._reader, ends):
            yield from batch

    def entries(self, *, correlation_id: str | None = None) -> Iterator[Entry]:
        """The same, decoded; with a correlation id only that thread, filtered on the header before decoding.

        What cannot be decoded is counted in `undecodable` and left out.
        """
        from crossdock_eventing.codec import Undecodable

        wanted = None if correlation_id is None else correlation_id.encode()
        for record in self.records():
            if wanted is not None and header(record.headers, "correlation_id") != wanted:
                continue
            if record.value is None:
                continue
            try:
                meta, body = self._codec.decode(record.value, record.headers)
            except Undecodable:
                self.undecodable += 1
                continue
            yield Entry(record, meta, body)

    def close(self) -> None:
        self._reader.close()
