"""Bytes to records and back: round trips, other versions' bytes, and every reason for which bytes are no record of ours."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any, ClassVar
from uuid import UUID

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossdock_eventing.codec import Codec, Undecodable
from crossdock_eventing.envelope import Meta
from crossdock_eventing.registry import MemoryRegistry, RegistryUnavailable, UnknownSchema

TOPIC = "codec.events.v1"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROS = {"type": "long", "logicalType": "timestamp-micros"}
META_FIELDS = [
    {"name": "event_id", "type": "string"},
    {"name": "correlation_id", "type": "string"},
    {"name": "causation_id", "type": "string", "default": ""},
    {"name": "occurred_at", "type": MICROS},
    {"name": "recorded_at", "type": MICROS},
    {"name": "source", "type": "string"},
    {"name": "attributes", "type": {"type": "map", "values": "string"}, "default": {}},
]
META_SCHEMA = {"type": "record", "name": "Meta", "namespace": "codec.common", "fields": META_FIELDS}
GRADES = ["UNKNOWN", "A", "B"]
SKU, UNITS = {"name": "sku", "type": "string"}, {"name": "units", "type": "long"}
NOTE = {"name": "note", "type": "string", "default": "none"}
LINES = {"name": "lines", "type": {"type": "array", "items": "long"}, "default": []}


def grade(*symbols: str) -> dict[str, Any]:
    kind = {"type": "enum", "name": "Grade", "symbols": [*GRADES, *symbols], "default": "UNKNOWN"}
    return {"name": "grade", "type": kind, "default": "UNKNOWN"}


def record_schema(*fields: dict[str, Any], name: str = "Graded", meta: bool = True) -> str:
    envelope = [{"name": "meta", "type": META_SCHEMA}] if meta else []
    return json.dumps({"type": "record", "name": name, "namespace": "codec", "fields": [*envelope, *fields]})


@dataclass(frozen=True)
class Graded:
    SCHEMA: ClassVar[str] = "codec.Graded"
    AVSC: ClassVar[str] = record_schema(SKU, UNITS, NOTE, LINES, grade())

    sku: str
    units: int
    note: str = "none"
    lines: tuple[int, ...] = ()
    grade: str = "UNKNOWN"

    def to_avro(self) -> dict[str, Any]:
        return {
            "sku": self.sku,
            "units": self.units,
            "note": self.note,
            "lines": list(self.lines),
            "grade": self.grade,
        }

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> Graded:
        return cls(value["sku"], value["units"], value["note"], tuple(value["lines"]), value["grade"])


@dataclass(frozen=True)
class GradedState(Graded):
    SCHEMA: ClassVar[str] = "codec.GradedState"
    AVSC: ClassVar[str] = record_schema(SKU, UNITS, NOTE, LINES, grade(), name="GradedState", meta=False)


META = Meta(
    event_id="e1",
    correlation_id="order-1",
    causation_id="c1",
    occurred_at=datetime(2026, 3, 2, 9, 0, 0, 123456, tzinfo=UTC),
    recorded_at=datetime(2026, 3, 2, 9, 0, 1, tzinfo=UTC),
    source="/crossdock/codec",
    attributes={"channel.note": "gift"},
)
CURRENT = Graded("TEE-M", 3, "fragile", (1, 2), "A")


class GuidRegistry(MemoryRegistry):
    """With guids, and answers that a test can spoil."""

    def __init__(self) -> None:
        super().__init__()
        self.guids: dict[str, str] = {}
        self.away = False
        self.asked = 0

    def by_id(self, schema_id: int) -> str:
        self.asked += 1
        if self.away:
            raise RegistryUnavailable("no answer")
        return super().by_id(schema_id)

    def by_guid(self, guid: str) -> str:
        if guid not in self.guids:
            raise UnknownSchema(guid)
        return self.guids[guid]


@pytest.fixture
def registry() -> GuidRegistry:
    return GuidRegistry()


@pytest.fixture
def codec(registry: GuidRegistry) -> Codec:
    return Codec(
        registry, written=[(Graded, TOPIC), (GradedState, "codec.changelog")], read=[Graded, GradedState]
    )


def written_with(registry: MemoryRegistry, schema: str, value: dict[str, Any]) -> bytes:
    """What another version of the producer would have written."""
    out = BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(json.loads(schema)), value)
    return struct.pack(">bI", 0, registry.id_of("any", schema)) + out.getvalue()


def code_of(codec: Codec, value: bytes | None, headers: Any = ()) -> str:
    with pytest.raises(Undecodable) as refused:
        codec.decode(value, headers)
    assert refused.value.code in str(refused.value)
    assert refused.value.detail
    return refused.value.code


# --- round trips


def test_the_frame_is_magic_zero_and_the_schemas_id(codec: Codec, registry: GuidRegistry) -> None:
    value = codec.encode(CURRENT, META)
    assert value[:5] == b"\x00" + registry.id_of("x", Graded.AVSC).to_bytes(4, "big")


@given(
    st.builds(
        Graded,
        sku=st.text(),
        units=st.integers(-(2**63), 2**63 - 1),
        note=st.text(),
        lines=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5).map(tuple),
        grade=st.sampled_from(GRADES),
    ),
    st.integers(0, 7_258_118_400_000_000).map(lambda us: EPOCH + timedelta(microseconds=us)),
    st.dictionaries(st.text(), st.text(), max_size=3),
)
def test_what_is_written_is_read_back(record: Graded, at: datetime, attributes: dict[str, str]) -> None:
    codec = Codec(MemoryRegistry(), written=[(Graded, TOPIC)], read=[Graded])
    meta = replace(META, occurred_at=at, attributes=attributes)
    assert codec.decode(codec.encode(record, meta)) == (meta, record)


def test_a_state_is_read_back(codec: Codec) -> None:
    state = GradedState("TEE-M", 3)
    assert codec.decode_state(codec.encode_state(state)) == state


# --- other versions


def test_an_older_writers_record_gets_the_defaults_of_the_newer_reader(
    codec: Codec, registry: GuidRegistry
) -> None:
    old = written_with(
        registry, record_schema(SKU, UNITS), {"meta": META.to_avro(), "sku": "TEE-M", "units": 3}
    )
    assert codec.decode(old) == (META, Graded("TEE-M", 3))


def test_a_newer_writers_record_loses_what_the_older_reader_does_not_know(
    codec: Codec, registry: GuidRegistry
) -> None:
    extra = {"name": "colour", "type": "string", "default": ""}
    new = written_with(
        registry,
        record_schema(extra, UNITS, grade("C"), SKU, NOTE, LINES),
        {"meta": META.to_avro(), **CURRENT.to_avro(), "colour": "red", "grade": "C"},
    )
    assert codec.decode(new) == (META, replace(CURRENT, grade="UNKNOWN"))


def test_a_state_of_an_older_version_is_read(codec: Codec, registry: GuidRegistry) -> None:
    old = record_schema(SKU, UNITS, name="GradedState", meta=False)
    assert codec.decode_state(written_with(registry, old, {"sku": "S", "units": 1})) == GradedState("S", 1)


def test_a_schema_is_asked_for_once(codec: Codec, registry: GuidRegistry) -> None:
    for _ in range(3):
        codec.decode(codec.encode(CURRENT, META))
    assert registry.asked == 1


# --- the header framing


def test_a_guid_in_the_header_frames_a_bare_body(codec: Codec, registry: GuidRegistry) -> None:
    guid = UUID("8b8bd78e-4456-4c99-8d72-64cbe6177dae")
    registry.guids[str(guid)] = Graded.AVSC
    body = codec.encode(CURRENT, META)[5:]
    headers = (("other", b"x"), ("__value_schema_id", b"\x01" + guid.bytes))
    assert codec.decode(body, headers) == (META, CURRENT)


def test_an_id_in_the_header_frames_a_bare_body(codec: Codec) -> None:
    value = codec.encode(CURRENT, META)
    assert codec.decode(value[5:], (("__value_schema_id", value[:5]),)) == (META, CURRENT)


@pytest.mark.parametrize(
    "framed", [b"", b"\x00", b"\x01" + bytes(15), b"\x02" + bytes(16), b"\x00" + bytes(5)]
)
def test_a_header_of_another_form_is_bad_framing(codec: Codec, framed: bytes) -> None:
    assert code_of(codec, codec.encode(CURRENT, META), (("__value_schema_id", framed),)) == (
        "contract.bad_framing"
    )


# --- every reason


def test_no_value(codec: Codec) -> None:
    assert code_of(codec, None) == "contract.empty_value"


@pytest.mark.parametrize("value", [b"", b"\x00", b"\x00\x00\x00\x00", b"\x01\x00\x00\x00\x01", b'{"sku":1}'])
def test_bytes_outside_the_framing(codec: Codec, value: bytes) -> None:
    assert code_of(codec, value) == "contract.bad_framing"


def test_an_id_or_a_guid_that_the_registry_does_not_know(codec: Codec) -> None:
    assert code_of(codec, b"\x00\x00\x00\xff\xff") == "contract.unknown_schema"
    assert code_of(codec, b"", (("__value_schema_id", b"\x01" + bytes(16)),)) == "contract.unknown_schema"


@pytest.mark.parametrize(
    "answer",
    [
        "not JSON",
        pytest.param("[" * 100_000, id="deeper than anybody reads"),
        '{"type":"record","name":"Graded","namespace":"codec","fields":[{"name":"a","type":"codec.Missing"}]}',
        '{"type":"record","name":"Graded","namespace":"codec","fields":3}',
    ],
)
def test_an_answer_that_is_no_schema(codec: Codec, registry: GuidRegistry, answer: str) -> None:
    guid = UUID(int=7)
    registry.guids[str(guid)] = answer
    assert code_of(codec, b"", (("__value_schema_id", b"\x01" + guid.bytes),)) == "contract.unknown_schema"


@pytest.mark.parametrize(
    "schema", ['"string"', '["null","string"]', record_schema(SKU, name="Other"), "{}", "null"]
)
def test_a_type_that_is_not_read_here(codec: Codec, registry: GuidRegistry, schema: str) -> None:
    guid = UUID(int=8)
    registry.guids[str(guid)] = schema
    assert code_of(codec, b"", (("__value_schema_id", b"\x01" + guid.bytes),)) == "contract.unexpected_type"


def test_a_body_that_is_cut_or_followed_by_more(codec: Codec) -> None:
    value = codec.encode(CURRENT, META)
    for end in range(5, len(value)):
        assert code_of(codec, value[:end]) == "contract.corrupt_body"
    assert code_of(codec, value + b"\x00") == "contract.corrupt_body"


def test_a_schema_that_does_not_resolve_to_ours(codec: Codec, registry: GuidRegistry) -> None:
    other = record_schema({"name": "sku", "type": "string"}, {"name": "units", "type": "string"})
    value = written_with(registry, other, {"meta": META.to_avro(), "sku": "S", "units": "many"})
    assert code_of(codec, value) == "contract.incompatible_schema"
    fewer = written_with(registry, record_schema(SKU), {"meta": META.to_avro(), "sku": "S"})
    assert code_of(codec, fewer) == "contract.incompatible_schema"


def test_a_state_is_no_event(codec: Codec) -> None:
    """A record that was copied from a changelog has no envelope."""
    assert code_of(codec, codec.encode_state(GradedState("TEE-M", 3))) == "contract.unexpected_type"


def test_a_registry_that_is_away_condemns_no_record(codec: Codec, registry: GuidRegistry) -> None:
    value = codec.encode(CURRENT, META)
    registry.away = True
    with pytest.raises(RegistryUnavailable):
        codec.decode(value)
    registry.away = False
    assert codec.decode(value) == (META, CURRENT)


def test_a_type_that_was_not_registered_stops_the_start() -> None:
    class Empty(MemoryRegistry):
        def id_of(self, subject: str, schema: str) -> int:
            raise UnknownSchema(subject)

    with pytest.raises(UnknownSchema, match=f"{TOPIC}-{Graded.SCHEMA}"):
        Codec(Empty(), written=[(Graded, TOPIC)], read=[])


# --- hostile bytes

HOSTILE_REGISTRY = MemoryRegistry()
HOSTILE = Codec(HOSTILE_REGISTRY, written=[(Graded, TOPIC)], read=[Graded])
OLD_ID = HOSTILE_REGISTRY.id_of("old", record_schema(SKU, UNITS))
VALID = HOSTILE.encode(CURRENT, META)


@given(
    value=st.one_of(
        st.none(),
        st.binary(max_size=80),
        st.binary(max_size=80).map(lambda body: VALID[:5] + body),
        st.binary(max_size=80).map(lambda body: struct.pack(">bI", 0, OLD_ID) + body),
        st.tuples(st.integers(5, len(VALID) - 1), st.binary(min_size=1, max_size=9)).map(
            lambda change: VALID[: change[0]] + change[1] + VALID[change[0] + len(change[1]) :]
        ),
    ),
    framed=st.one_of(st.none(), st.binary(max_size=20), st.just(VALID[:5])),
)
def test_hostile_bytes_are_decoded_or_undecodable_and_nothing_else(
    value: bytes | None, framed: bytes | None
) -> None:
    headers = () if framed is None else (("__value_schema_id", framed),)
    try:
        meta, record = HOSTILE.decode(value, headers)
    except Undecodable:
        return
    assert isinstance(meta, Meta)
    assert isinstance(record, Graded)


@pytest.mark.parametrize("count", [2**62, -(2**62), 2**31])
def test_a_length_that_lies_costs_neither_memory_nor_time(codec: Codec, count: int) -> None:
    """A block count and a string length are numbers in the bytes: whoever wrote them may have written anything."""

    def zigzag(number: int) -> bytes:
        rest = (number << 1) ^ (number >> 63)
        out = bytearray()
        while rest > 0x7F:
            out.append(rest & 0x7F | 0x80)
            rest >>= 7
        return bytes([*out, rest])

    value = codec.encode(CURRENT, META)
    assert code_of(codec, value[:5] + zigzag(count) + b"abc") == "contract.corrupt_body"
    lines = codec.encode(Graded("S", 1), META)
    head = lines[: lines.rindex(b"none") + 4]
    assert code_of(codec, head + zigzag(count) + b"\x02\x02") == "contract.corrupt_body"
