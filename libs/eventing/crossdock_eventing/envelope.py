"""The envelope of every record: identity, causation and times, in the payload and, for tools, in headers.

The loop wraps what a decider emitted; the edges wrap what they translated; the operator tools read it back.
Header names: CloudEvents 1.0 Kafka binding (`ce_*`), W3C Trace Context (`traceparent`), and two of our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

Headers = tuple[tuple[str, bytes], ...]

_NAMESPACE = uuid5(NAMESPACE_URL, "urn:crossdock")
_SEPARATOR = "\x1f"


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """`retail.common.Meta`. Times are aware UTC; `attributes` are channel extensions that travel untouched."""

    event_id: str
    correlation_id: str
    causation_id: str = ""
    occurred_at: datetime
    recorded_at: datetime
    source: str
    attributes: Mapping[str, str] = field(default_factory=dict)

    def to_avro(self) -> dict[str, Any]:
        return {
            "event_id": self.event_id,
            "correlation_id": self.correlation_id,
            "causation_id": self.causation_id,
            "occurred_at": self.occurred_at,
            "recorded_at": self.recorded_at,
            "source": self.source,
            "attributes": self.attributes,
        }

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> Meta:
        return cls(
            event_id=value["event_id"],
            correlation_id=value["correlation_id"],
            causation_id=value["causation_id"],
            occurred_at=value["occurred_at"],
            recorded_at=value["recorded_at"],
            source=value["source"],
            attributes=value["attributes"],
        )


def event_id(*, causation_id: str, source: str, record: Any) -> str:
    """UUIDv5 of (causation id, source, record type, the record's identity fields).

    Never an output index, which one more event would shift, and never payload bytes, which a defaulted field changes.
    """
    parts = [causation_id, source, record.SCHEMA]
    parts += [str(getattr(record, name)) for name in record.IDENTITY]
    return str(uuid5(_NAMESPACE, _SEPARATOR.join(parts)))


def record_key(record: Any) -> str:
    """The Kafka key of a record: its key fields, joined by `|`."""
    key = record.KEY
    if len(key) == 1:
        return str(getattr(record, key[0]))
    return "|".join([str(getattr(record, name)) for name in key])


def correlation_of(record: Any, inherited: str) -> str:
    """The record's own business thread (its order, else its settlement), else the thread of its cause."""
    own = record.CORRELATION and getattr(record, record.CORRELATION)
    return str(own) if own else inherited


def wrap(
    record: Any,
    *,
    causation_id: str,
    correlation_id: str,
    now: datetime,
    source: str,
    attributes: Mapping[str, str],
    occurred_at: datetime | None = None,
) -> Meta:
    """The envelope of a record that `source` publishes because of `causation_id`."""
    return Meta(
        event_id=event_id(causation_id=causation_id, source=source, record=record),
        correlation_id=correlation_of(record, correlation_id),
        causation_id=causation_id,
        occurred_at=occurred_at or now,
        recorded_at=now,
        source=source,
        attributes=attributes,
    )


def headers(meta: Meta, record_type: str, traceparent: bytes | None) -> Headers:
    """What tools and filters read without decoding."""
    identity = meta.event_id.encode()
    kind = record_type.encode()
    found = (
        ("event_type", kind),
        ("correlation_id", meta.correlation_id.encode()),
        ("ce_id", identity),
        ("ce_source", meta.source.encode()),
        ("ce_type", kind),
    )
    return found if traceparent is None else (*found, ("traceparent", traceparent))


def header(found: Headers, name: str) -> bytes | None:
    """The first header of that name."""
    for key, value in found:
        if key == name:
            return value
    return None
