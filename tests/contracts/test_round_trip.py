"""Whatever a contract allows, its Python type holds and its bytes carry; two compatible versions read each other."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossdock_canonical.records import BY_NAME, OrderHeld
from crossdock_eventing.codec import Codec, Undecodable
from crossdock_eventing.envelope import Meta, event_id, record_key
from crossdock_eventing.registry import MemoryRegistry
from crossdock_tools.schemas.check import from_json
from crossdock_tools.schemas.contracts import Contract, Repository, find_schemas
from crossdock_tools.schemas.generate import generated_files

REPOSITORY = Repository(find_schemas())
EVENTS = [contract for contract in REPOSITORY.latest.values() if not contract.is_state]
STATES = [contract for contract in REPOSITORY.latest.values() if contract.is_state]

_TEXT = st.text(max_size=8)
_PRIMITIVES: dict[str, st.SearchStrategy[Any]] = {
    "string": _TEXT,
    "long": st.integers(-(2**63), 2**63 - 1),
    "int": st.integers(-(2**31), 2**31 - 1),
    "boolean": st.booleans(),
    "bytes": st.binary(max_size=8),
}
# Years that fit microseconds since 1970 with room to spare; microseconds are what the contracts hold.
_TIMES = st.datetimes(
    datetime(1971, 1, 1),  # noqa: DTZ001 - Hypothesis wants naive bounds
    datetime(2200, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


def values_of(schema: Any, named: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """Any value of an Avro schema, as fastavro reads it."""
    if isinstance(schema, list):
        return st.one_of([st.none() if branch == "null" else values_of(branch, named) for branch in schema])
    if isinstance(schema, str):
        return named[schema] if schema in named else _PRIMITIVES[schema]
    if "logicalType" in schema:
        assert schema["logicalType"] == "timestamp-micros", f"a strategy for {schema} is needed"
        return _TIMES
    match schema["type"]:
        case "record":
            members = {each["name"]: values_of(each["type"], named) for each in schema["fields"]}
            made: st.SearchStrategy[Any] = st.fixed_dictionaries(members)
        case "enum":
            made = st.sampled_from(schema["symbols"])
        case "array":
            return st.lists(values_of(schema["items"], named), max_size=2)
        case "map":
            return st.dictionaries(_TEXT, values_of(schema["values"], named), max_size=2)
        case primitive:
            return _PRIMITIVES[primitive]
    named[f"{schema['namespace']}.{schema['name']}"] = made
    return made


def python_type(contract: Contract) -> Any:
    if not contract.is_state:
        return BY_NAME[contract.full_name]
    package = f"crossdock_{contract.context.replace('-', '_')}"
    return getattr(importlib.import_module(f"{package}.state_records"), contract.schema["name"])


def any_value(contract: Contract) -> Callable[[Callable[..., None]], Any]:
    """Run a test on values of a contract."""
    return lambda test: settings(
        max_examples=15,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )(given(values_of(contract.schema, {}))(test))


def by_name(contract: Contract) -> str:
    return contract.full_name


@pytest.mark.parametrize("contract", EVENTS, ids=by_name)
def test_an_example_is_read_into_its_type_and_written_back(contract: Contract) -> None:
    kind = python_type(contract)
    value = from_json(REPOSITORY.example(contract), contract.schema, {})
    meta, record = Meta.from_avro(value.pop("meta")), kind.from_avro(value)
    codec = Codec(MemoryRegistry(), written=[(kind, kind.TOPIC)], read=[kind])
    assert record.to_avro() == value
    assert codec.decode(codec.encode(record, meta)) == (meta, record)
    assert record_key(record), "an example shows its key"
    assert event_id(causation_id="cause", source="test", record=record)


@pytest.mark.parametrize("contract", EVENTS, ids=by_name)
def test_any_record_survives_its_bytes(contract: Contract) -> None:
    kind = python_type(contract)
    codec = Codec(MemoryRegistry(), written=[(kind, kind.TOPIC)], read=[kind])

    @any_value(contract)
    def survives(value: Any) -> None:
        envelope = value.pop("meta")
        record = kind.from_avro(value)
        assert record.to_avro() == value
        meta, read = codec.decode(codec.encode(record, Meta.from_avro(envelope)))
        assert read == record
        assert meta.to_avro() == envelope

    survives()


@pytest.mark.parametrize("contract", STATES, ids=by_name)
def test_any_state_survives_its_bytes(contract: Contract) -> None:
    kind = python_type(contract)
    codec = Codec(MemoryRegistry(), written=[(kind, "changelog")], read=[kind])

    @any_value(contract)
    def survives(value: Any) -> None:
        state = kind.from_avro(value)
        assert state.to_avro() == value
        assert codec.decode_state(codec.encode_state(state)) == state

    survives()


# ---- two versions of one record


class Schemas(Protocol):
    @property
    def repository(self) -> Repository: ...
    def next_version(self, name: str, change: Callable[[Any], object], **example: Any) -> None: ...


MODULE = Path("libs/canonical/crossdock_canonical/records/order.py")
META = Meta(
    event_id="e-1",
    correlation_id="o-1",
    occurred_at=datetime(2026, 3, 2, 9, tzinfo=UTC),
    recorded_at=datetime(2026, 3, 2, 9, tzinfo=UTC),
    source="/crossdock/order-orchestrator",
)


@pytest.fixture
def next_order_held(workspace: Schemas, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The Python type of an OrderHeld that has one more field, generated as a release of it would be."""
    workspace.next_version(
        "order/OrderHeld",
        lambda schema: schema["fields"].append(
            {"name": "severity", "type": "string", "default": "normal", "doc": "How urgent the hold is."}
        ),
        severity="high",
    )
    module = ModuleType("next_order_records")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(generated_files(workspace.repository)[MODULE], module.__dict__)
    return module.OrderHeld  # type: ignore[attr-defined]


def test_a_new_reader_fills_what_an_old_writer_did_not_know(next_order_held: Any) -> None:
    registry = MemoryRegistry()
    old = Codec(registry, written=[(OrderHeld, OrderHeld.TOPIC)], read=[OrderHeld])
    new = Codec(registry, written=[(next_order_held, OrderHeld.TOPIC)], read=[next_order_held])
    written = held(OrderHeld)
    meta, read = new.decode(old.encode(written, META))
    assert meta == META
    assert read == held(next_order_held, severity="normal")


def test_an_old_reader_leaves_out_what_a_new_writer_added(next_order_held: Any) -> None:
    registry = MemoryRegistry()
    old = Codec(registry, written=[(OrderHeld, OrderHeld.TOPIC)], read=[OrderHeld])
    new = Codec(registry, written=[(next_order_held, OrderHeld.TOPIC)], read=[next_order_held])
    assert old.decode(new.encode(held(next_order_held, severity="high"), META)) == (META, held(OrderHeld))


def test_both_versions_of_a_record_have_one_identity(next_order_held: Any) -> None:
    one, other = held(OrderHeld), held(next_order_held, severity="high")
    assert event_id(causation_id="c", source="s", record=one) == event_id(
        causation_id="c", source="s", record=other
    )


def test_bytes_of_another_type_are_refused_by_name() -> None:
    registry = MemoryRegistry()
    writer = Codec(registry, written=[(OrderHeld, OrderHeld.TOPIC)], read=())
    reader = Codec(registry, written=(), read=[BY_NAME["retail.order.OrderCompleted"]])
    with pytest.raises(Undecodable, match=r"contract\.unexpected_type.*retail\.order\.OrderHeld"):
        reader.decode(writer.encode(held(OrderHeld), META))


def held(kind: Any, **more: Any) -> Any:
    return kind(
        order_id="o-1",
        reason_code="payment.deadline",
        deadline=datetime(2026, 3, 3, 9, tzinfo=UTC),
        owner="order-desk",
        **more,
    )
