"""What a service shows of itself: JSON logs, Prometheus metrics, OpenTelemetry traces.

The worker reports here; `health` serves it. Spans follow the OpenTelemetry messaging semantic conventions. A span is recorded
only where the edge sampled the trace, the context is propagated always: recording costs more than the work it measures.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

import structlog
from opentelemetry import trace as otel
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from crossdock_eventing.broker.interface import Record
from crossdock_eventing.envelope import header

#: Every metric of a service. The names are a contract: dashboards and alerts use them.
MetricName = Literal[
    "crossdock_messages_total",  # messages and timers settled in committed transactions
    "crossdock_transactions_total",  # committed transactions
    "crossdock_transaction_seconds",  # from begin to committed
    "crossdock_decisions_total",  # events decided, by type; of ignored input, by code
    "crossdock_dead_letters_total",  # messages given up on, by code
    "crossdock_parked_keys",  # keys whose messages wait for an operator
    "crossdock_crowded_tasks",  # partitions that take no input, as the queue of a parked key is full
    "crossdock_replays_total",  # instructions of operators, by outcome
    "crossdock_retry_attempts",  # tries so far of the message that a partition waits for, by partition; 0: it does not wait
    "crossdock_retry_at_seconds",  # when it is tried next, by partition (Unix time)
    "crossdock_breaker_open",  # 1: nearly every message was rejected, and the service has stopped
    "crossdock_unreadable_rows_total",  # rows of broadcast tables that could not be read, by topic
    "crossdock_rewinds_total",  # transactions dropped and read again
    "crossdock_tasks",  # partitions that this instance works on
    "crossdock_buffered_messages",  # polled and not yet decided
]
METRIC_NAMES: tuple[str, ...] = get_args(MetricName)

_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


@dataclass(slots=True)
class Trace:
    """The trace context of one message; `traceparent` goes on to its outputs."""

    traceparent: bytes
    span: Span | None

    def end(self) -> None:
        if self.span is not None:
            self.span.end()


class Telemetry:
    """Counters of one service instance, and its heartbeat."""

    def __init__(self, service: str) -> None:
        # They would double the series, under names that no contract has.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._service = service
        self._messages = Counter(
            _name("crossdock_messages_total"), "Settled messages and timers", registry=self.registry
        )
        self._transactions = Counter(
            _name("crossdock_transactions_total"), "Committed transactions", registry=self.registry
        )
        self._seconds = Histogram(
            _name("crossdock_transaction_seconds"),
            "Begin to committed",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._decisions = Counter(
            _name("crossdock_decisions_total"), "Decided events", ["event", "code"], registry=self.registry
        )
        self._dead_letters = Counter(
            _name("crossdock_dead_letters_total"), "Dead letters", ["code"], registry=self.registry
        )
        self._parked = Gauge(_name("crossdock_parked_keys"), "Parked keys", registry=self.registry)
        self._crowded = Gauge(
            _name("crossdock_crowded_tasks"), "Tasks with a full queue", registry=self.registry
        )
        self._replays = Counter(
            _name("crossdock_replays_total"), "Instructions", ["outcome"], registry=self.registry
        )
        self._retry_attempts = Gauge(
            _name("crossdock_retry_attempts"), "Tries so far", ["partition"], registry=self.registry
        )
        self._retry_at = Gauge(
            _name("crossdock_retry_at_seconds"), "Next try", ["partition"], registry=self.registry
        )
        self._breaker = Gauge(
            _name("crossdock_breaker_open"), "Stopped by rejections", registry=self.registry
        )
        self._unreadable_rows = Counter(
            _name("crossdock_unreadable_rows_total"), "Unreadable rows", ["topic"], registry=self.registry
        )
        self._rewinds = Counter(
            _name("crossdock_rewinds_total"), "Dropped transactions", registry=self.registry
        )
        self._tasks = Gauge(_name("crossdock_tasks"), "Partitions worked on", registry=self.registry)
        self._buffered = Gauge(
            _name("crossdock_buffered_messages"), "Polled, not decided", registry=self.registry
        )
        # What belongs to the open transaction, and counts once that commits.
        self._by_event: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._by_code: defaultdict[str, int] = defaultdict(int)
        self._by_outcome: defaultdict[str, int] = defaultdict(int)
        self._tracer = otel.get_tracer("crossdock")
        self.last_beat: datetime | None = None
        self.ready = False

    def beat(
        self, now: datetime, *, ready: bool, tasks: int, buffered: int, parked: int = 0, crowded: int = 0
    ) -> None:
        """The loop came round."""
        self.last_beat = now
        self.ready = ready
        self._tasks.set(tasks)
        self._buffered.set(buffered)
        self._parked.set(parked)
        self._crowded.set(crowded)

    def retrying(self, partition: int, attempts: int, at: datetime) -> None:
        """The partition waits for a message that was tried so often, until `at`."""
        self._retry_attempts.labels(partition).set(attempts)
        self._retry_at.labels(partition).set(at.timestamp())

    def retried(self, partition: int) -> None:
        """The partition waits no more."""
        self._retry_attempts.labels(partition).set(0)

    def stopped(self) -> None:
        """The breaker opened."""
        self._breaker.set(1)

    def decided(self, event: Any) -> None:
        """An event was decided; `code` of an ignored one is kept."""
        self._by_event[type(event).__name__, getattr(event, "code", "")] += 1

    def committed(self, messages: int, seconds: float) -> None:
        """A transaction committed."""
        self._messages.inc(messages)
        self._transactions.inc()
        self._seconds.observe(seconds)
        for (event, code), count in self._by_event.items():
            self._decisions.labels(event, code).inc(count)
        for code, count in self._by_code.items():
            self._dead_letters.labels(code).inc(count)
        for outcome, count in self._by_outcome.items():
            self._replays.labels(outcome).inc(count)
        self._forget()

    def rewound(self) -> None:
        """A transaction was dropped and its input will be read again."""
        self._forget()
        self._rewinds.inc()

    def _forget(self) -> None:
        for tally in (self._by_event, self._by_code, self._by_outcome):
            tally.clear()

    def row_unreadable(self, topic: str) -> None:
        """A row of a broadcast table could not be read."""
        self._unreadable_rows.labels(topic).inc()

    def dead_lettered(self, code: str) -> None:
        """A message was given up on."""
        self._by_code[code] += 1

    def replayed(self, outcome: str) -> None:
        """An instruction came to this."""
        self._by_outcome[outcome] += 1

    def continue_trace(self, record: Record, group: str) -> Trace | None:
        """The trace that the record belongs to; a span is recorded when it was sampled at the edge."""
        incoming = header(record.headers, "traceparent")
        context = None if incoming is None else _span_context(incoming)
        if incoming is None or context is None:
            return None
        if not context.trace_flags.sampled:
            return Trace(incoming, None)
        span = self._tracer.start_span(
            f"process {record.topic}",
            context=otel.set_span_in_context(NonRecordingSpan(context)),
            kind=SpanKind.CONSUMER,
            attributes={
                "messaging.system": "kafka",
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.destination.name": record.topic,
                "messaging.destination.partition.id": str(record.partition),
                "messaging.kafka.offset": record.offset,
                "messaging.kafka.message.key": (record.key or b"").decode(errors="replace"),
                "messaging.consumer.group.name": group,
                "service.name": self._service,
            },
        )
        made = span.get_span_context()
        if not made.is_valid:
            return Trace(incoming, None)
        return Trace(f"00-{made.trace_id:032x}-{made.span_id:016x}-01".encode(), span)


# W3C Trace Context: version, trace id, parent id, flags. Version ff is forbidden.
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


def begin_trace(name: str, *, seed: str, parent: bytes | None) -> Trace:
    """The trace of one delivery at the edge; every record that follows from it carries the context on.

    parent: the caller's `traceparent`, continued when it is one. seed: identity of the delivery; without a parent it names
    the trace, so that a redelivery belongs to the same one. A span is recorded where `configure_tracing` found an endpoint
    and the sampler (`OTEL_TRACES_SAMPLER`) takes it; the context is propagated always.
    """
    context = None if parent is None else _span_context(parent)
    if not isinstance(otel.get_tracer_provider(), TracerProvider):
        if context is not None and parent is not None:
            return Trace(parent, None)
        digest = hashlib.sha256(seed.encode()).hexdigest()
        return Trace(f"00-{digest[:32]}-{digest[32:48]}-00".encode(), None)
    around = None if context is None else otel.set_span_in_context(NonRecordingSpan(context))
    span = otel.get_tracer("crossdock").start_span(name, context=around, kind=SpanKind.SERVER)
    made = span.get_span_context()
    flags = int(made.trace_flags)
    return Trace(f"00-{made.trace_id:032x}-{made.span_id:016x}-{flags:02x}".encode(), span)


def _span_context(traceparent: bytes) -> SpanContext | None:
    """The context that the header carries; None for a header that is none."""
    parts = _TRACEPARENT.fullmatch(traceparent)
    if parts is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in parts.groups())
    context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return context if context.is_valid else None


def _name(name: MetricName) -> str:
    return name


def configure_logging(service: str, level: str = "INFO") -> None:
    """JSON lines on standard output: time, level, event, service, and whatever was bound; libraries' lines too."""

    def add_service(
        _logger: Any, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        event["service"] = service
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        add_service,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(
        handlers=[handler], level=max(logging.WARNING, logging.getLevelNamesMapping()[level]), force=True
    )


def configure_tracing(service: str) -> None:
    """Send spans where `OTEL_EXPORTER_OTLP_ENDPOINT` says; without it nothing is recorded, contexts still propagate."""
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    otel.set_tracer_provider(provider)
