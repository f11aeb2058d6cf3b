"""The payload of a message, decoded, and written again after an edit or in the newest schema. Used by every command that reads one.

A message is read as the services read it. What is written again is in the schema of the type's latest version here, which must be
registered; it is decoded once more before it counts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from crossdock_canonical.records import BY_NAME
from crossdock_eventing.broker.interface import Headers
from crossdock_eventing.codec import Codec, Undecodable
from crossdock_eventing.envelope import Meta, header, record_key
from crossdock_eventing.registry import SchemaSource
from crossdock_tools.dead_letters.edits import Assignment, Invalid

_SCHEMA_HEADER = "__value_schema_id"
#: What identifies a message and its cause: other services have seen it, so no edit may change it.
_FIXED = ("event_id", "correlation_id", "causation_id")


@dataclass(frozen=True, slots=True)
class Payload:
    """A decoded message."""

    meta: Meta
    body: Any

    @property
    def kind(self) -> str:
        """Full name of its record type."""
        name: str = type(self.body).SCHEMA
        return name

    @property
    def fields(self) -> dict[str, Any]:
        """Everything in it as plain values, the envelope under `meta`."""
        return {"meta": self.meta.to_avro(), **self.body.to_avro()}


class Payloads:
    """Reads and writes payloads of every contract."""

    def __init__(self, registry: SchemaSource) -> None:
        self._registry = registry
        self._reader = Codec(registry, written=(), read=BY_NAME.values())
        self._writers: dict[type[Any], Codec] = {}

    def read(self, value: bytes | None, headers: Headers) -> Payload:
        """Raises Undecodable, RegistryUnavailable."""
        return Payload(*self._reader.decode(value, headers))

    def edit(
        self, value: bytes | None, headers: Headers, assignments: Sequence[Assignment]
    ) -> tuple[bytes, list[str]]:
        """The message with these fields set, and what changed. Raises Invalid, RegistryUnavailable, UnknownSchema."""
        before = self._readable(value, headers)
        kind = type(before.body)
        fields = deepcopy(before.fields)
        changes = [change for each in assignments for change in each.apply(fields, json.loads(kind.AVSC))]
        if any(fields["meta"][name] != before.fields["meta"][name] for name in _FIXED):
            raise Invalid(f"meta.{', meta.'.join(_FIXED)} identify the message: an edit cannot change them")
        try:
            after = Payload(Meta.from_avro(fields["meta"]), kind.from_avro(fields))
        except (ValueError, KeyError, TypeError) as error:
            raise Invalid(f"{before.kind}: {type(error).__name__}: {error}") from None
        if record_key(after.body) != record_key(before.body):
            raise Invalid(
                f"{', '.join(kind.KEY)} is the key that the message is parked under: an edit cannot change it"
            )
        return self._written(after), changes

    def migrate(self, value: bytes | None, headers: Headers) -> bytes:
        """The same message in the newest schema of its type; the same bytes where it is in that already.

        Raises Invalid, RegistryUnavailable, UnknownSchema.
        """
        return self._written(self._readable(value, headers))

    def _readable(self, value: bytes | None, headers: Headers) -> Payload:
        if header(headers, _SCHEMA_HEADER) is not None:
            raise Invalid(
                f"the header {_SCHEMA_HEADER} names the schema of this message, so its bytes must stay"
            )
        try:
            return self.read(value, headers)
        except Undecodable as error:
            raise Invalid(str(error)) from None

    def _written(self, payload: Payload) -> bytes:
        """The payload's bytes, which say the same when they are read. Raises Invalid."""
        kind = type(payload.body)
        writer = self._writers.get(kind)
        if writer is None:
            writer = self._writers[kind] = Codec(self._registry, written=[(kind, kind.TOPIC)], read=())
        try:
            written = writer.encode(payload.body, payload.meta)
            again = self.read(written, ())
        except Undecodable as error:
            raise Invalid(str(error)) from None
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise Invalid(f"{payload.kind}: {type(error).__name__}: {error}") from None
        if again != payload:
            raise Invalid(f"{payload.kind} does not come back from its schema as it was meant")
        return written
