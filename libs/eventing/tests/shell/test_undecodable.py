"""Whatever bytes, key and headers a record comes with: it gets a code, goes to the dead letters, and its partition goes on."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

import pytest
import yaml
from toy import PARTITIONS, START, Add, Added, Balance, Bench, CounterState, Rate, partition_of

from crossdock_eventing import names
from crossdock_eventing.broker.interface import Headers, TopicPartition
from crossdock_eventing.broker.partitioner import partition_for
from crossdock_eventing.codec import Codec
from crossdock_eventing.envelope import header, wrap

BenchFactory = Callable[..., Bench]
ACCOUNT = "a"


def good(account: str = ACCOUNT, reference: str = "good") -> Add:
    return Add(account=account, reference=reference, amount=9)


def written(bench: Bench, record: Any = None) -> bytes:
    record = record or good()
    meta = wrap(
        record, causation_id="c", correlation_id="t", now=START, source="/e", attributes={"channel.note": "x"}
    )
    value: bytes = bench.codec.encode(record, meta)
    return value


def in_schema(bench: Bench, schema: str, body: bytes = b"\x02") -> bytes:
    return struct.pack(">bI", 0, bench.registry.id_of("any", schema)) + body


def altered(**field: Any) -> str:
    """The schema of Add with its last field changed."""
    schema = json.loads(Add.AVSC)
    schema["fields"][-1] |= field
    return json.dumps(schema)


@dataclass(frozen=True)
class Case:
    """A record that cannot be read: its code, and what it is made of."""

    code: str
    name: str
    value: Callable[[Bench], bytes | None] = written
    key: bytes | None = ACCOUNT.encode()
    headers: Headers = ()
    partition: int = partition_of(ACCOUNT)

    def send(self, bench: Bench) -> None:
        producer = bench.broker.producer(f"{bench.name}-stranger")
        producer.init_transactions()
        producer.begin()
        producer.produce(
            Add.TOPIC, key=self.key, value=self.value(bench), headers=self.headers, partition=self.partition
        )
        producer.commit()
        producer.close()


def schema_header(value: bytes) -> Headers:
    return (("__value_schema_id", value),)


CASES = (
    Case("contract.bad_framing", "no bytes", lambda _: b""),
    Case("contract.bad_framing", "too short", lambda _: b"\x00\x00\x00"),
    Case("contract.bad_framing", "another magic byte", lambda bench: b"\x01" + written(bench)[1:]),
    Case("contract.bad_framing", "JSON", lambda _: b'{"account":"a","amount":9}'),
    Case("contract.bad_framing", "a schema header of no form", headers=schema_header(b"\x07")),
    Case("contract.unknown_schema", "an id nobody gave", lambda _: b"\x00\x00\x00\xff\xffx"),
    Case("contract.unknown_schema", "a guid nobody gave", headers=schema_header(b"\x01" + bytes(16))),
    Case("contract.unexpected_type", "another service's record", lambda bench: in_schema(bench, '"string"')),
    Case(
        "contract.unexpected_type",
        "a state from a changelog",
        lambda bench: Codec(bench.registry, written=[(CounterState, "x")], read=()).encode_state(
            CounterState(total=1)
        ),
    ),
    Case("contract.corrupt_body", "cut off", lambda bench: written(bench)[:-2]),
    Case("contract.corrupt_body", "nothing but the frame", lambda bench: written(bench)[:5]),
    Case("contract.corrupt_body", "followed by more", lambda bench: written(bench) + b"\x00"),
    Case("contract.corrupt_body", "text that is no text", lambda bench: written(bench)[:5] + b"\x04\xff\xfe"),
    Case("contract.corrupt_body", "a length that lies", lambda bench: written(bench)[:5] + b"\xfe" * 8),
    Case(
        "contract.incompatible_schema",
        "a field of another type",
        lambda bench: in_schema(bench, altered(type="string"), written(bench)[5:-1] + b"\x02x"),
    ),
    Case(
        "contract.incompatible_schema",
        "a field of another name",
        lambda bench: in_schema(bench, altered(name="sum"), written(bench)[5:]),
    ),
    Case("contract.empty_value", "a tombstone", lambda _: None),
    Case("contract.missing_key", "no key", key=None),
    Case("contract.missing_key", "an empty key", key=b""),
    Case("contract.misrouted_key", "another partition", partition=1 - partition_of(ACCOUNT)),
    Case("contract.bad_key", "no text", key=b"\xff\xfe", partition=partition_for(b"\xff\xfe", PARTITIONS)),
    Case("contract.bad_key", "a NUL", key=b"a\0b", partition=partition_of("a\0b")),
    Case("contract.bad_key", "the store's own key", key=b"\0offsets", partition=partition_of("\0offsets")),
)


def letters(bench: Bench) -> list[tuple[str, bytes | None, bytes | None]]:
    """Code, key and value of the dead letters."""
    return [
        ((header(each.headers, "crossdock-error-code") or b"").decode(), each.key, each.value)
        for each in bench.records(names.dead_letter_topic(bench.name))
    ]


def neighbour(partition: int) -> str:
    """Another account of the partition."""
    return next(name for name in "cdefghijk" if partition_of(name) == partition)


def test_every_reason_has_a_case() -> None:
    catalogue = yaml.safe_load((files("crossdock_eventing") / "reasons.yaml").read_text(encoding="utf-8"))
    assert {case.code for case in CASES} == {code for code in catalogue if code.startswith("contract.")}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code}: {case.name}")
def test_a_record_that_cannot_be_read_is_dead_lettered_and_its_partition_goes_on(
    bench: Bench, case: Case
) -> None:
    worker = bench.worker()
    case.send(bench)
    other = neighbour(case.partition)
    bench.send(good(other))
    bench.settle(worker)
    assert letters(bench) == [(case.code, case.key, case.value(bench))]
    assert bench.published(Added) == [Added(account=other, reference="good", total=9)]
    offsets = bench.admin.group_offsets(names.group(bench.name))
    last = bench.records(Add.TOPIC)[-1]
    assert offsets[TopicPartition(Add.TOPIC, case.partition)] == last.offset + 1

    worker.close()
    bench.disks.clear()
    again = bench.worker()
    bench.send(good(other, "second"))
    bench.settle(again)
    assert len(letters(bench)) == 1
    assert [each.reference for each in bench.published(Added)] == ["good", "second"]


def test_all_of_them_in_a_row_stop_nothing(either_bench: Bench) -> None:
    bench = either_bench
    worker = bench.worker()
    for case in CASES:
        case.send(bench)
    for partition in (0, 1):
        bench.send(good(neighbour(partition)))
    bench.settle(worker, steps=60)
    assert len(letters(bench)) == len(CASES)
    assert {code for code, _, _ in letters(bench)} - {"parked.behind"} <= {case.code for case in CASES}
    assert sorted(each.account for each in bench.published(Added)) == sorted(map(neighbour, (0, 1)))


@pytest.mark.kafka
def test_a_record_as_large_as_its_topic_takes_is_dead_lettered_whole(new_kafka_bench: BenchFactory) -> None:
    """The copy with its reason is larger than the original, and in the changelog a third larger."""
    bench = new_kafka_bench()
    worker = bench.worker()
    Case("", "garbage", lambda _: b"\x01" * 1_048_000).send(bench)
    other = neighbour(partition_of(ACCOUNT))
    bench.send(good(other))
    bench.settle(worker)
    ((code, _, value),) = letters(bench)
    assert (code, len(value or b"")) == ("contract.bad_framing", 1_048_000)
    assert bench.published(Added) == [Added(account=other, reference="good", total=9)]
    worker.close()
    bench.disks.clear()
    again = bench.worker()
    bench.settle(again)
    assert again.ready


def test_a_type_that_is_only_read_as_a_table_is_skipped_before_its_key_is_asked_for(
    new_bench: BenchFactory,
) -> None:
    """`state_key` knows the service's inputs; another type that it can decode is no business of it."""
    bench = new_bench(with_rates=True)

    def state_key(command: Any) -> str:
        assert isinstance(command, Add)
        return command.account

    bench.service = replace(bench.service, state_key=state_key, record_key=lambda key: key)
    worker = bench.worker()
    row = Rate(account=ACCOUNT, factor=10)
    Case("", "a row", lambda bench: written(bench, row)).send(bench)
    bench.send(row, good())
    bench.settle(worker)
    assert letters(bench) == []
    assert bench.published(Balance) == [Balance(account=ACCOUNT, total=90)]
