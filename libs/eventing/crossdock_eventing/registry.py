"""Schemas by id and ids by schema, as the codec needs them: from a Confluent-compatible registry, or in memory for tests.

Services never register: `crossdock schemas register` does, at deploy time. A schema that is not registered stops start-up
with the command that mends it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any, Protocol

with warnings.catch_warnings(record=True):
    # The client imports an OAuth library that insists on telling every process of a rename inside itself.
    from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
    from confluent_kafka.schema_registry.error import SchemaRegistryError


class UnknownSchema(Exception):
    """The registry does not know the schema, the id or the guid; the text says which and what to do."""


class SchemaSource(Protocol):
    """Read side of a schema registry. Every answer is immutable, so callers cache without end."""

    def id_of(self, subject: str, schema: str) -> int:
        """Id of a registered schema. Raises UnknownSchema."""

    def by_id(self, schema_id: int) -> str:
        """Schema text of an id. Raises UnknownSchema."""

    def by_guid(self, guid: str) -> str:
        """Schema text of a guid, the identity that the header framing carries. Raises UnknownSchema."""


class ConfluentRegistry:
    """A registry that speaks Confluent's REST protocol."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = SchemaRegistryClient({"url": url})

    def id_of(self, subject: str, schema: str) -> int:
        try:
            found = self._client.lookup_schema(subject, Schema(schema, "AVRO"))
        except SchemaRegistryError as error:
            raise UnknownSchema(
                f"{subject} is not registered at {self._url} in the version of this code ({error.error_message}); "
                "run `crossdock schemas register`"
            ) from None
        assert found.schema_id is not None
        return found.schema_id

    def by_id(self, schema_id: int) -> str:
        try:
            found = self._client.get_schema(schema_id)
        except SchemaRegistryError as error:
            raise UnknownSchema(f"schema id {schema_id}: {error.error_message}") from None
        return found.schema_str or ""

    def by_guid(self, guid: str) -> str:
        try:
            found = self._client.get_schema_by_guid(guid)
        except SchemaRegistryError as error:
            raise UnknownSchema(f"schema guid {guid}: {error.error_message}") from None
        return found.schema_str or ""


class RegistryWriter:
    """Deploy's side of the registry: levels and registrations. Raises ValueError with the registry's words on a refusal."""

    def __init__(self, url: str) -> None:
        self._client = SchemaRegistryClient({"url": url})

    def require_compatibility(self, subject: str, level: str) -> None:
        """Set the subject's compatibility level; safe to repeat."""
        self._ask(lambda: self._client.set_compatibility(subject, level))

    def register(self, subject: str, schema: str) -> int:
        """Register a version and return its id; the same text again gives the same id."""
        return int(self._ask(lambda: self._client.register_schema(subject, Schema(schema, "AVRO"))))

    def _ask(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except SchemaRegistryError as error:
            raise ValueError(error.error_message) from None


class MemoryRegistry:
    """A registry in memory that knows every schema it is asked to identify: tests and the simulator."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._schemas: dict[int, str] = {}

    def id_of(self, subject: str, schema: str) -> int:  # noqa: ARG002 - one id per schema, as in a registry
        canonical = json.dumps(json.loads(schema), sort_keys=True)
        if canonical not in self._ids:
            self._ids[canonical] = len(self._ids) + 1
            self._schemas[self._ids[canonical]] = schema
        return self._ids[canonical]

    def by_id(self, schema_id: int) -> str:
        if schema_id not in self._schemas:
            raise UnknownSchema(f"schema id {schema_id} is not registered")
        return self._schemas[schema_id]

    def by_guid(self, guid: str) -> str:
        raise UnknownSchema(f"schema guid {guid} is not registered")
