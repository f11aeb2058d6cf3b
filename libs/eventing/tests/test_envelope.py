"""Identity of records: the same cause and business fact give the same id, on every run and in every process."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossdock_eventing.envelope import Meta, correlation_of, event_id, header, headers, record_key, wrap

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


@dataclass(frozen=True)
class LineShipped:
    SCHEMA: ClassVar[str] = "toy.LineShipped"
    KEY: ClassVar[tuple[str, ...]] = ("order_id",)
    IDENTITY: ClassVar[tuple[str, ...]] = ("order_id", "line_id")
    CORRELATION: ClassVar[str | None] = "order_id"

    order_id: str
    line_id: str
    units: int = 1


@dataclass(frozen=True)
class LineLost(LineShipped):
    SCHEMA: ClassVar[str] = "toy.LineLost"
    KEY: ClassVar[tuple[str, ...]] = ("order_id", "line_id")
    CORRELATION: ClassVar[str | None] = None


SHIPPED = LineShipped("o1", "l1")


def identity(record: object, *, cause: str = "c1", source: str = "/crossdock/toy") -> str:
    return event_id(causation_id=cause, source=source, record=record)


def test_an_id_is_the_same_in_every_process() -> None:
    """Literal: an id that changed with a release would let every deduplication downstream pass a redelivery."""
    program = (
        "from crossdock_eventing.envelope import event_id\n"
        "class R: SCHEMA, IDENTITY, a, b = 'toy.LineShipped', ('a', 'b'), 'o1', 'l1'\n"
        "print(event_id(causation_id='c1', source='/crossdock/toy', record=R))\n"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert identity(SHIPPED) == other.stdout.strip() == "75f470e3-a2f0-5136-b5b5-2e3e2a80eb07"


def test_an_id_differs_by_cause_source_type_and_discriminator() -> None:
    ids = {
        identity(SHIPPED),
        identity(SHIPPED, cause="c2"),
        identity(SHIPPED, source="/crossdock/other"),
        identity(LineLost("o1", "l1")),
        identity(LineShipped("o1", "l2")),
        identity(LineShipped("o2", "l1")),
    }
    assert len(ids) == 6


@given(units=st.integers())
def test_an_id_is_unaffected_by_the_payload(units: int) -> None:
    assert identity(replace(SHIPPED, units=units)) == identity(SHIPPED)


def test_fields_of_an_identity_do_not_run_together() -> None:
    assert identity(LineShipped("o1", "1l")) != identity(LineShipped("o11", "l"))


@pytest.mark.parametrize(
    ("record", "key"), [(SHIPPED, "o1"), (LineLost("o1", "l1"), "o1|l1")], ids=["one field", "two fields"]
)
def test_the_key_is_the_key_fields_joined(record: object, key: str) -> None:
    assert record_key(record) == key


def test_the_thread_is_the_records_own_else_that_of_its_cause() -> None:
    assert correlation_of(SHIPPED, "inherited") == "o1"
    assert correlation_of(LineLost("o1", "l1"), "inherited") == "inherited"
    assert correlation_of(LineShipped("", "l1"), "inherited") == "inherited"


def test_wrapping_fills_the_envelope() -> None:
    meta = wrap(
        SHIPPED,
        causation_id="c1",
        correlation_id="x",
        now=NOW,
        source="/crossdock/toy",
        attributes={"a": "b"},
    )
    assert meta == Meta(
        event_id=identity(SHIPPED),
        correlation_id="o1",
        causation_id="c1",
        occurred_at=NOW,
        recorded_at=NOW,
        source="/crossdock/toy",
        attributes={"a": "b"},
    )
    earlier = NOW.replace(hour=8)
    stamped = wrap(
        SHIPPED,
        causation_id="c1",
        correlation_id="x",
        now=NOW,
        source="s",
        attributes={},
        occurred_at=earlier,
    )
    assert (stamped.occurred_at, stamped.recorded_at) == (earlier, NOW)
    assert Meta.from_avro(meta.to_avro()) == meta


def test_headers_repeat_what_tools_read_without_decoding() -> None:
    meta = wrap(
        SHIPPED, causation_id="c1", correlation_id="x", now=NOW, source="/crossdock/toy", attributes={}
    )
    written = headers(meta, SHIPPED.SCHEMA, b"00-trace-span-01")
    assert dict(written) == {
        "event_type": b"toy.LineShipped",
        "correlation_id": b"o1",
        "ce_id": meta.event_id.encode(),
        "ce_source": b"/crossdock/toy",
        "ce_type": b"toy.LineShipped",
        "traceparent": b"00-trace-span-01",
    }
    assert "traceparent" not in dict(headers(meta, SHIPPED.SCHEMA, None))


def test_of_headers_of_one_name_the_first_counts() -> None:
    assert header((("a", b"1"), ("a", b"2")), "a") == b"1"
    assert header((), "a") is None
