"""Traces that go on through headers, and log lines that machines read."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from crossdock_eventing.broker.interface import Headers, Record
from crossdock_eventing.telemetry import Telemetry

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE_ID}-{SPAN_ID}-01".encode()
UNSAMPLED = f"00-{TRACE_ID}-{SPAN_ID}-00".encode()


def record(*headers: tuple[str, bytes]) -> Record:
    found: Headers = headers
    return Record("retail.order.intake.v1", 3, 42, 1_000, b"order-1", b"", found)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What would be exported, of a provider that is this test's own."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(otel, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


def test_a_sampled_trace_is_continued_by_a_span_of_ours(spans: InMemorySpanExporter) -> None:
    continued = Telemetry("toy").continue_trace(record(("traceparent", SAMPLED)), "retail.toy")
    assert continued is not None
    continued.end()
    [span] = spans.get_finished_spans()
    assert f"{span.context.trace_id:032x}" == TRACE_ID
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == SPAN_ID
    assert (span.name, span.kind) == ("process retail.order.intake.v1", SpanKind.CONSUMER)
    attributes = dict(span.attributes or {})
    assert attributes["messaging.system"] == "kafka"
    assert attributes["messaging.destination.partition.id"] == "3"
    assert attributes["messaging.kafka.offset"] == 42
    assert attributes["messaging.kafka.message.key"] == "order-1"
    assert attributes["messaging.consumer.group.name"] == "retail.toy"
    own = f"00-{TRACE_ID}-{span.context.span_id:016x}-01"
    assert continued.traceparent == own.encode(), "outputs descend from our span, not from the one before"


def test_a_sampled_trace_with_other_flags_is_sampled(spans: InMemorySpanExporter) -> None:
    """Level 2 of the specification sets 02 on ids that are random."""
    continued = Telemetry("toy").continue_trace(record(("traceparent", SAMPLED[:-2] + b"03")), "retail.toy")
    assert continued is not None
    continued.end()
    assert len(spans.get_finished_spans()) == 1


def test_an_unsampled_trace_is_handed_on_and_nothing_is_recorded(spans: InMemorySpanExporter) -> None:
    continued = Telemetry("toy").continue_trace(record(("traceparent", UNSAMPLED)), "retail.toy")
    assert continued is not None
    assert (continued.traceparent, continued.span) == (UNSAMPLED, None)
    continued.end()
    assert spans.get_finished_spans() == ()


def test_without_an_exporter_a_sampled_trace_is_handed_on() -> None:
    continued = Telemetry("toy").continue_trace(record(("traceparent", SAMPLED)), "retail.toy")
    assert continued is not None
    assert continued.traceparent == SAMPLED
    continued.end()


@pytest.mark.parametrize(
    "header",
    [b"", b"-01", b"rubbish-01", b"00-xyz-00f067aa0ba902b7-01", b"00--00f067aa0ba902b7-01", b"\xff\xfe-01",
     b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01", b"a-b-c-d-01", b"00-" + b"f" * 99 + b"-" + b"f" * 16 + b"-01",
     b"00--1-00f067aa0ba902b7-01", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\n"],
)  # fmt: skip
def test_a_header_that_is_no_trace_breaks_nothing_and_is_not_handed_on(
    spans: InMemorySpanExporter, header: bytes
) -> None:
    assert Telemetry("toy").continue_trace(record(("traceparent", header)), "retail.toy") is None
    assert spans.get_finished_spans() == ()


def test_a_record_without_a_trace_starts_none(spans: InMemorySpanExporter) -> None:
    assert Telemetry("toy").continue_trace(record(), "retail.toy") is None


# --- logs

_PROGRAM = """
import logging
import structlog
from crossdock_eventing.telemetry import configure_logging
configure_logging("toy", "INFO")
log = structlog.get_logger("crossdock_eventing.worker")
log.debug("not.shown")
log.info("message.done", correlation_id="order-1", units=3)
with structlog.contextvars.bound_contextvars(correlation_id="order-2"):
    log.warning("message.dead_lettered", code="toy.negative")
try:
    raise ValueError("broken\\nin two lines")
except ValueError:
    log.error("service.failed", exc_info=True)
logging.getLogger("some.library").warning("a library's %s", "line")
"""


@pytest.fixture(scope="module")
def lines() -> list[dict[str, object]]:
    answer = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    assert answer.stderr == ""
    return [json.loads(line) for line in answer.stdout.splitlines()]


def test_every_line_is_json_with_time_level_and_service(lines: list[dict[str, object]]) -> None:
    assert [line["event"] for line in lines] == [
        "message.done",
        "message.dead_lettered",
        "service.failed",
        "a library's line",
    ]
    assert {line["service"] for line in lines} == {"toy"}
    assert [line["level"] for line in lines] == ["info", "warning", "error", "warning"]
    assert all(str(line["timestamp"]).endswith("Z") for line in lines)


def test_lines_carry_the_correlation_id_and_what_was_given(lines: list[dict[str, object]]) -> None:
    assert (lines[0]["correlation_id"], lines[0]["units"]) == ("order-1", 3)
    assert (lines[1]["correlation_id"], lines[1]["code"]) == ("order-2", "toy.negative")


def test_a_traceback_stays_within_its_line(lines: list[dict[str, object]]) -> None:
    assert "ValueError: broken\nin two lines" in str(lines[2]["exception"])
