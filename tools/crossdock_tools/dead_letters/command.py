"""`crossdock dlt`: what the services gave up on, read from the dead-letter topics. Nothing is changed.

`list` says how much of what lies there and for how long; `show` tells one letter in full: payload, original coordinates, headers,
reason. What the headers mean is `crossdock_eventing.deadletter`'s to know; letters of other writers are understood as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crossdock_eventing import names
from crossdock_eventing.broker.interface import Broker, Reader, Record, TopicPartition
from crossdock_eventing.clock import SystemClock
from crossdock_eventing.deadletter import read_dead_letter, readable_headers
from crossdock_tools.cluster import reachable_cluster
from crossdock_tools.schemas.commands import DemoOption, JsonOption, repository
from crossdock_tools.topic_reader import TopicReader
from crossdock_tools.topics import group_inputs

if TYPE_CHECKING:
    from crossdock_eventing.registry import SchemaSource

app = typer.Typer(help="Look at what the services gave up on.", no_args_is_help=True)

_WINDOW = 16
_POLL_S = 0.1
_POLL_MAX = 1_000


class DeadLetterError(Exception):
    """There is no such service or letter; the text says what there is."""


@dataclass(frozen=True, slots=True)
class Group:
    """Letters of one service, reason and original topic. Times are when they were given up on, ms since the epoch."""

    service: str
    code: str
    topic: str
    count: int
    oldest_ms: int
    newest_ms: int


@app.command(name="list")
def list_letters(
    service: Annotated[str | None, typer.Option(help="Only what this service gave up on.")] = None,
    demo: DemoOption = False,
    as_json: JsonOption = False,
) -> None:
    """Group the dead letters by service, reason and original topic: how many, the oldest and the newest."""
    by_topic = {names.dead_letter_topic(each): each for each in _services(service)}
    with reachable_cluster(demo=demo) as cluster:
        reader = TopicReader(cluster.broker(), cluster.registry(), list(by_topic))
        try:
            found = groups(reader.records(), by_topic)
        finally:
            reader.close()
    if as_json:
        print(json.dumps([_group_as_json(each) for each in found], indent=1))
    else:
        _print_groups(found, SystemClock().now())


@app.command()
def show(
    service: Annotated[str, typer.Option(help="The service that gave up.")],
    partition: Annotated[int | None, typer.Option(help="Partition of its dead-letter topic.")] = None,
    offset: Annotated[int | None, typer.Option(help="Offset there; default: the newest letter.")] = None,
    demo: DemoOption = False,
    as_json: JsonOption = False,
) -> None:
    """Tell one dead letter in full: payload, original coordinates, headers, error and stack trace."""
    [known] = _services(service)
    with reachable_cluster(demo=demo) as cluster:
        record = find(cluster.broker(), known, partition=partition, offset=offset)
        told = tell(record, cluster.registry())
    if as_json:
        print(json.dumps(told, indent=1, ensure_ascii=False, default=str))
    else:
        _print_letter(told)


def groups(letters: Iterable[Record], service_of: dict[str, str]) -> list[Group]:
    """The letters grouped, oldest group first. `service_of`: dead-letter topic -> service."""
    found: dict[tuple[str, str, str], Group] = {}
    for record in letters:
        letter = read_dead_letter(record.headers)
        key = (service_of[record.topic], letter.code or "?", letter.topic or "?")
        stamp = record.timestamp_ms
        group = found.get(key, Group(*key, count=0, oldest_ms=stamp, newest_ms=stamp))
        found[key] = replace(
            group,
            count=group.count + 1,
            oldest_ms=min(group.oldest_ms, stamp),
            newest_ms=max(group.newest_ms, stamp),
        )
    return sorted(found.values(), key=lambda group: (group.oldest_ms, group.service, group.code, group.topic))


def find(broker: Broker, service: str, *, partition: int | None = None, offset: int | None = None) -> Record:
    """The letter at the coordinates in the service's dead-letter topic; without an offset the newest one.

    Raises DeadLetterError naming what there is.
    """
    topic = names.dead_letter_topic(service)
    admin = broker.admin()
    count = admin.partitions(topic)
    admin.close()
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
        return max(found, key=lambda record: (record.timestamp_ms, record.partition))
    finally:
        reader.close()


def tell(record: Record, registry: SchemaSource) -> dict[str, Any]:
    """Everything about one letter as plain values.

    payload: the decoded record with its envelope; None for a tombstone and for bytes that cannot be decoded, which stand in
    `payload_hex`, with why in `payload_problem`.
    """
    from crossdock_canonical.records import BY_NAME
    from crossdock_eventing.codec import Codec, Undecodable
    from crossdock_eventing.registry import RegistryUnavailable

    letter = read_dead_letter(record.headers)
    payload, problem, kind = None, None, None
    if record.value is not None:
        try:
            meta, body = Codec(registry, written=(), read=BY_NAME.values()).decode(
                record.value, record.headers
            )
            payload, kind = {"meta": meta.to_avro(), **body.to_avro()}, type(body).SCHEMA
        except (Undecodable, RegistryUnavailable) as error:
            problem = str(error)
    return {
        "dead_letter": {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "at": _moment(record.timestamp_ms),
        },
        "original": {
            "topic": letter.topic,
            "partition": letter.partition,
            "offset": letter.offset,
            "at": None if letter.timestamp_ms is None else _moment(letter.timestamp_ms),
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


def _services(wanted: str | None) -> list[str]:
    known = sorted(group_inputs(repository(None)))
    if wanted is None:
        return known
    if wanted not in known:
        raise DeadLetterError(f"no service {wanted!r} consumes anything; known are {', '.join(known)}")
    return [wanted]


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
    """The last letter of a partition: the log ends in markers, so look in windows that grow backwards."""
    low, high = reader.watermarks(partition)
    window = _WINDOW
    while True:
        start = max(low, high - window)
        last = None
        reader.assign({partition: start})
        while reader.position(partition) < high:
            for record in reader.poll(_POLL_MAX, _POLL_S):
                last = record
        if last is not None or start == low:
            return last
        window *= _WINDOW


def _moment(stamp_ms: int) -> str:
    return (datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=stamp_ms)).isoformat(
        timespec="milliseconds"
    )


def _group_as_json(group: Group) -> dict[str, Any]:
    return {
        "service": group.service,
        "code": group.code,
        "topic": group.topic,
        "count": group.count,
        "oldest": _moment(group.oldest_ms),
        "newest": _moment(group.newest_ms),
    }


def _print_groups(found: list[Group], now: datetime) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Dead letters", title_justify="left")
    for column in ("service", "code", "original topic", "count", "oldest", "newest (UTC)"):
        table.add_column(
            column, justify="right" if column in ("count", "oldest") else "left", overflow="fold"
        )
    for group in found:
        age = now - datetime.fromtimestamp(group.oldest_ms / 1000, UTC)
        newest = _moment(group.newest_ms)[:19].replace("T", " ")
        table.add_row(group.service, group.code, group.topic, f"{group.count:,}", _age(age), newest)
    console = Console()
    if found:
        console.print(table)
    console.print(f"{sum(group.count for group in found):,} dead letters in {len(found)} groups")


def _age(age: timedelta) -> str:
    seconds = max(0, int(age.total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _print_letter(told: dict[str, Any]) -> None:
    where, original = told["dead_letter"], told["original"]
    print(f"{where['topic']}[{where['partition']}]@{where['offset']}  {where['at']}")
    print(
        f"original     {original['topic']}[{original['partition']}]@{original['offset']}  {original['at'] or ''}".rstrip()
    )
    for label, name in (("key", "key"), ("code", "code"), ("given up by", "given_up_by"), ("attempt", "attempt"),
                        ("error", "error_class"), ("message", "message")):  # fmt: skip
        if told[name] is not None:
            print(f"{label:<13}{told[name]}")
    print("\nheaders")
    for name, value in told["headers"]:
        if value != told["stack_trace"]:
            print(f"  {name}: {value}")
    if told["payload"] is not None:
        print(f"\npayload ({told['record_type']})")
        print(json.dumps(told["payload"], indent=1, ensure_ascii=False, default=str))
    elif told["payload_problem"] is not None:
        print(f"\npayload ({told['payload_problem']})\n{told['payload_hex']}")
    else:
        print("\npayload (a tombstone)")
    if told["stack_trace"]:
        print(f"\nstack trace\n{told['stack_trace'].rstrip()}")
