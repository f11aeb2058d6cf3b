"""Single dead letters: find one in a dead-letter topic, and tell everything about it. Used by `crossdock dlt show`.

What the headers mean is `crossdock_eventing.deadletter`'s to know; letters of other writers are understood as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from crossdock_eventing.broker.interface import Broker, Reader, Record, TopicPartition
from crossdock_eventing.deadletter import outline, read_dead_letter, readable_headers
from crossdock_eventing.parking.formats import key_bytes
from crossdock_tools.dead_letters.errors import DeadLetterError
from crossdock_tools.dead_letters.groups import BEHIND, iso
from crossdock_tools.topic_reader import TopicReader

if TYPE_CHECKING:
    from crossdock_eventing.registry import SchemaSource

_WINDOW = 16
_POLL_S = 0.1
_POLL_MAX = 1_000


def require_topics(broker: Broker, topics: Iterable[str]) -> None:
    """Raises DeadLetterError for one that does not exist."""
    admin = broker.admin()
    try:
        missing = sorted(set(topics) - admin.topics())
    finally:
        admin.close()
    if missing:
        raise DeadLetterError(
            f"there is no topic {', '.join(missing)} on this cluster: crossdock topics apply creates those of the services"
        )


def partitions_of(broker: Broker, topic: str) -> int:
    """How many partitions a topic has. Raises DeadLetterError for one that does not exist."""
    require_topics(broker, [topic])
    admin = broker.admin()
    try:
        return admin.partitions(topic)
    finally:
        admin.close()


def find(broker: Broker, topic: str, *, partition: int | None = None, offset: int | None = None) -> Record:
    """The letter at the coordinates in a dead-letter topic; without an offset the newest one that was rejected itself, before those
    that only wait behind one.

    Raises DeadLetterError naming what there is.
    """
    count = partitions_of(broker, topic)
    if partition is not None and not 0 <= partition < count:
        raise DeadLetterError(f"{topic} has partitions 0 to {count - 1}, not {partition}")
    if offset is not None and partition is None:
        raise DeadLetterError("an offset needs its partition: add --partition")
    reader = broker.reader()
    try:
        if partition is not None and offset is not None:
            return _at(reader, TopicPartition(topic, partition), offset)
        numbers = range(count) if partition is None else [partition]
        last = [_newest(reader, TopicPartition(topic, number)) for number in numbers]
        found = [record for record in last if record is not None]
        if not found:
            raise DeadLetterError(
                f"{topic} is empty" + ("" if partition is None else f" in partition {partition}")
            )
        return max(found, key=lambda record: (not _waits(record), record.timestamp_ms, record.partition))
    finally:
        reader.close()


def find_key(broker: Broker, registry: SchemaSource, topic: str, key: str) -> Record:
    """The newest letter under this key that was rejected itself; else the newest that waits behind one. Raises DeadLetterError."""
    require_topics(broker, [topic])
    reader = TopicReader(broker, registry, [topic])
    wanted = key_bytes(key)
    rejected: Record | None = None
    behind: Record | None = None
    try:
        for record in reader.records():
            if record.key != wanted:
                continue
            if outline(record.headers).code == BEHIND:
                behind = record
            else:
                rejected = record
    finally:
        reader.close()
    found = rejected or behind
    if found is None:
        raise DeadLetterError(
            f"{topic} has no letter under the key {key!r}: crossdock dlt list shows what there is"
        )
    return found


def tell(record: Record, registry: SchemaSource) -> dict[str, Any]:
    """Everything about one letter as plain values.

    payload: the decoded record with its envelope; None for a tombstone and for bytes that cannot be decoded, which stand in
    `payload_hex`, with why in `payload_problem`.
    """
    from crossdock_eventing.codec import Undecodable
    from crossdock_eventing.registry import RegistryUnavailable
    from crossdock_tools.dead_letters.payloads import Payloads

    letter = read_dead_letter(record.headers)
    payload, problem, kind = None, None, None
    if record.value is not None:
        try:
            found = Payloads(registry).read(record.value, record.headers)
            payload, kind = found.fields, found.kind
        except (Undecodable, RegistryUnavailable) as error:
            problem = str(error)
    return {
        "dead_letter": {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "at": iso(record.timestamp_ms),
        },
        "original": {
            "topic": letter.topic,
            "partition": letter.partition,
            "offset": letter.offset,
            "at": None if letter.timestamp_ms is None else iso(letter.timestamp_ms),
        },
        "key": None if record.key is None else record.key.decode(errors="backslashreplace"),
        "code": letter.code,
        "given_up_by": letter.given_up_by,
        "attempt": letter.attempt,
        "error_class": letter.error_class,
        "message": letter.message,
        "record_type": kind,
        "payload": payload,
        "payload_problem": problem,
        "payload_hex": record.value.hex() if problem is not None and record.value is not None else None,
        "headers": [list(pair) for pair in readable_headers(record.headers)],
        "stack_trace": letter.stack_trace,
    }


def _at(reader: Reader, partition: TopicPartition, offset: int) -> Record:
    low, high = reader.watermarks(partition)
    if low <= offset < high:
        reader.assign({partition: offset})
        while reader.position(partition) <= offset:
            for record in reader.poll(1, _POLL_S):
                if record.offset == offset:
                    return record
    raise DeadLetterError(
        f"no letter at {partition.topic}[{partition.partition}]@{offset}; the log has offsets {low} to {high - 1}, with gaps"
        if high > low
        else f"{partition.topic} is empty in partition {partition.partition}"
    )


def _newest(reader: Reader, partition: TopicPartition) -> Record | None:
    """The last letter of a partition that was rejected itself, else the last: the log ends in markers, and many may wait behind
    one, so look in windows that grow backwards.
    """
    low, high = reader.watermarks(partition)
    window = _WINDOW
    while True:
        start = max(low, high - window)
        last: Record | None = None
        reader.assign({partition: start})
        while reader.position(partition) < high:
            for record in reader.poll(_POLL_MAX, _POLL_S):
                if last is None or _waits(last) or not _waits(record):
                    last = record
        if start == low or (last is not None and not _waits(last)):
            return last
        window *= _WINDOW


def _waits(record: Record) -> bool:
    return outline(record.headers).code == BEHIND
