"""Schemas by id and ids by schema, as the codec needs them: from a Confluent-compatible registry, or in memory for tests.

Services never register: `crossdock schemas register` does, at deploy time. A schema that is not registered stops start-up
with the command that mends it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Protocol, TypeVar

with warnings.catch_warnings(record=True):
    # The client imports an OAuth library that insists on telling every process of a rename inside itself.
    from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
    from confluent_kafka.schema_registry.error import SchemaRegistryError


T = TypeVar("T")


class UnknownSchema(Exception):
    """The registry does not know the schema, the id or the guid; the text says which and what to do."""


class RegistryUnavailable(Exception):
    """The registry gave no answer, or failed. It says nothing about the schema that was asked for, so nothing may be
    concluded about a record: a service ends and is restarted, a tool reports it.
    """


class SchemaSource(Protocol):
    """Read side of a schema registry. Every answer is immutable, so callers cache without end.

    Any call may raise RegistryUnavailable.
    """

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
        found = self._known(
            lambda: self._client.lookup_schema(subject, Schema(schema, "AVRO")),
            f"{subject} is not registered at {self._url} in the version of this code; run `crossdock schemas register`",
        )
        assert found.schema_id is not None
        return found.schema_id

    def by_id(self, schema_id: int) -> str:
        found = self._known(lambda: self._client.get_schema(schema_id), f"schema id {schema_id} is not known")
        return found.schema_str or ""

    def by_guid(self, guid: str) -> str:
        found = self._known(lambda: self._client.get_schema_by_guid(guid), f"schema guid {guid} is not known")
        return found.schema_str or ""

    def _known(self, call: Callable[[], T], otherwise: str) -> T:
        """The answer. Raises UnknownSchema for a 404 (in words of ours), RegistryUnavailable for no or another answer."""
        try:
            return _answer(self._url, call)
        except SchemaRegistryError as error:
            if error.http_status_code != _NOT_FOUND:
                raise RegistryUnavailable(f"{self._url}: {error}") from None
            raise UnknownSchema(f"{otherwise} ({error.error_message})") from None


class RegistryWriter:
    """Deploy's side of the registry: levels and registrations.

    Raises ValueError with the registry's words on a refusal, RegistryUnavailable when there is no answer.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = SchemaRegistryClient({"url": url})

    def require_compatibility(self, subject: str, level: str) -> None:
        """Set the subject's compatibility level; safe to repeat."""
        self._ask(lambda: self._client.set_compatibility(subject, level))

    def register(self, subject: str, schema: str) -> int:
        """Register a version and return its id; the same text again gives the same id."""
        return self._ask(lambda: self._client.register_schema(subject, Schema(schema, "AVRO")))

    def _ask(self, call: Callable[[], T]) -> T:
        try:
            return _answer(self._url, call)
        except SchemaRegistryError as error:
            raise ValueError(error.error_message) from None


_NOT_FOUND = 404


def _answer(url: str, call: Callable[[], T]) -> T:
    """What the registry answers, refusals included (SchemaRegistryError). Raises RegistryUnavailable."""
    try:
        return call()
    except SchemaRegistryError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the client's HTTP library raises when nobody answers
        raise RegistryUnavailable(f"no answer from the schema registry at {url}: {error}") from None


class MemoryRegistry:
    """A registry in memory that knows every schema it is asked to identify: tests and the simulator."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._by_text: dict[str, int] = {}
        self._schemas: dict[int, str] = {}

    def id_of(self, subject: str, schema: str) -> int:  # noqa: ARG002 - one id per schema, as in a registry
        known = self._by_text.get(schema)
        if known is None:
            canonical = json.dumps(json.loads(schema), sort_keys=True)
            known = self._by_text[schema] = self._ids.setdefault(canonical, len(self._ids) + 1)
            self._schemas.setdefault(known, schema)
        return known

    def by_id(self, schema_id: int) -> str:
        if schema_id not in self._schemas:
            raise UnknownSchema(f"schema id {schema_id} is not registered")
        return self._schemas[schema_id]

    def by_guid(self, guid: str) -> str:
        raise UnknownSchema(f"schema guid {guid} is not registered")
