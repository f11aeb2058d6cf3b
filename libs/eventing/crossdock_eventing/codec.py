"""Avro bytes in the registry's framing, to and from typed records. The loop and the edges encode and decode through here.

Written framing: magic 0, schema id as 4 bytes big-endian, Avro body. Read as well: the header framing of newer Confluent
serialisers (`__value_schema_id` = magic 1 + 16-byte guid, or magic 0 + id; the value is the bare body).
Subjects follow TopicRecordNameStrategy: `<topic>-<record full name>`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from functools import lru_cache
from io import BytesIO
from typing import Any
from uuid import UUID

import fastavro
from fastavro.read import SchemaResolutionError

from crossdock_eventing.envelope import Headers, Meta, header
from crossdock_eventing.registry import SchemaSource, UnknownSchema

_MAGIC_ID = 0
_MAGIC_GUID = 1
_FRAME = struct.Struct(">bI")
_SCHEMA_HEADER = "__value_schema_id"


class Undecodable(Exception):
    """The bytes are no record that this service can read. `code` names why: it stands in the catalogue of reasons."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class _Writer:
    """How one type is written: the frame and the parsed schema."""

    __slots__ = ("frame", "schema")

    def __init__(self, schema_id: int, schema: Any) -> None:
        self.frame = _FRAME.pack(_MAGIC_ID, schema_id)
        self.schema = schema


class _Reader:
    """How bytes of one registered schema become one of our types; `reader_schema` is None when it is the writer's."""

    __slots__ = ("kind", "reader_schema", "writer_schema")

    def __init__(self, kind: type[Any], writer_schema: Any, reader_schema: Any | None) -> None:
        self.kind = kind
        self.writer_schema = writer_schema
        self.reader_schema = reader_schema


class Codec:
    """Encodes and decodes the given types.

    written: (type, topic) of everything that is published, states with the topic of their changelog. Their ids are
    looked up at once, so that a missing registration stops start-up. Raises UnknownSchema.
    read: every type that may be decoded; a record of another type raises Undecodable.
    """

    def __init__(
        self, registry: SchemaSource, *, written: Iterable[tuple[type[Any], str]], read: Iterable[type[Any]]
    ) -> None:
        self._registry = registry
        self._writers = {
            kind: _Writer(registry.id_of(f"{topic}-{kind.SCHEMA}", kind.AVSC), _parsed(kind.AVSC))
            for kind, topic in written
        }
        self._kinds: dict[str, type[Any]] = {kind.SCHEMA: kind for kind in read}
        self._readers: dict[int, _Reader] = {}
        self._by_guid: dict[bytes, _Reader] = {}

    def encode(self, record: Any, meta: Meta) -> bytes:
        """Bytes of a record with its envelope."""
        value = record.to_avro()
        value["meta"] = meta.to_avro()
        return self._write(type(record), value)

    def encode_state(self, state: Any) -> bytes:
        """Bytes of a state, for the changelog and the store."""
        return self._write(type(state), state.to_avro())

    def decode(self, value: bytes | None, found: Headers = ()) -> tuple[Meta, Any]:
        """The envelope and the typed record. Raises Undecodable."""
        raw, kind = self._read(value, found)
        if "meta" not in raw:
            raise Undecodable(
                "contract.unexpected_type", f"{kind.SCHEMA} has no envelope: it is a state, no event"
            )
        return Meta.from_avro(raw["meta"]), kind.from_avro(raw)

    def decode_state(self, value: bytes) -> Any:
        """The typed state. Raises Undecodable."""
        raw, kind = self._read(value, ())
        return kind.from_avro(raw)

    def _write(self, kind: type[Any], value: dict[str, Any]) -> bytes:
        writer = self._writers[kind]
        out = BytesIO()
        out.write(writer.frame)
        fastavro.schemaless_writer(out, writer.schema, value)
        return out.getvalue()

    def _read(self, value: bytes | None, found: Headers) -> tuple[dict[str, Any], type[Any]]:
        if value is None:
            raise Undecodable("contract.empty_value", "the record has no value")
        reader, start = self._reader_for(value, found)
        body = BytesIO(value)
        body.seek(start)
        try:
            raw = fastavro.schemaless_reader(body, reader.writer_schema, reader.reader_schema)
        except SchemaResolutionError as error:
            raise Undecodable("contract.incompatible_schema", f"{reader.kind.SCHEMA}: {error}") from None
        except Exception as error:  # noqa: BLE001 - fastavro raises anything on hostile bytes; all mean the same
            raise Undecodable("contract.corrupt_body", f"{type(error).__name__}: {error}") from None
        if body.tell() != len(value):
            raise Undecodable("contract.corrupt_body", f"{len(value) - body.tell()} bytes follow the record")
        assert isinstance(raw, dict)
        return raw, reader.kind

    def _reader_for(self, value: bytes, found: Headers) -> tuple[_Reader, int]:
        framed = header(found, _SCHEMA_HEADER)
        if framed is not None:
            return self._reader_from_header(framed), 0
        if len(value) < _FRAME.size:
            raise Undecodable(
                "contract.bad_framing", f"{len(value)} bytes are too short for the registry framing"
            )
        magic, schema_id = _FRAME.unpack_from(value)
        if magic != _MAGIC_ID:
            raise Undecodable("contract.bad_framing", f"magic byte {magic} is not the registry framing")
        return self._reader_by_id(schema_id), _FRAME.size

    def _reader_from_header(self, framed: bytes) -> _Reader:
        if len(framed) == _FRAME.size and framed[0] == _MAGIC_ID:
            return self._reader_by_id(_FRAME.unpack(framed)[1])
        if len(framed) == 17 and framed[0] == _MAGIC_GUID:
            reader = self._by_guid.get(framed)
            if reader is None:
                guid = str(UUID(bytes=framed[1:]))
                reader = self._by_guid[framed] = self._make_reader(lambda: self._registry.by_guid(guid))
            return reader
        raise Undecodable(
            "contract.bad_framing", f"{_SCHEMA_HEADER} holds {len(framed)} bytes of no known form"
        )

    def _reader_by_id(self, schema_id: int) -> _Reader:
        reader = self._readers.get(schema_id)
        if reader is None:
            reader = self._readers[schema_id] = self._make_reader(lambda: self._registry.by_id(schema_id))
        return reader

    def _make_reader(self, fetch: Any) -> _Reader:
        try:
            writer = json.loads(fetch())
        except UnknownSchema as error:
            raise Undecodable("contract.unknown_schema", str(error)) from None
        except (ValueError, RecursionError) as error:
            raise Undecodable(
                "contract.unknown_schema", f"the registry's answer is no schema: {error}"
            ) from None
        name = (
            f"{writer.get('namespace', '')}.{writer.get('name', '')}"
            if isinstance(writer, dict)
            else str(writer)
        )
        kind = self._kinds.get(name)
        if kind is None:
            raise Undecodable("contract.unexpected_type", f"{name} is not read here")
        same = writer == json.loads(kind.AVSC)
        try:
            return _Reader(kind, _parsed(json.dumps(writer)), None if same else _parsed(kind.AVSC))
        except Exception as error:  # noqa: BLE001 - fastavro raises anything on a schema that is none
            raise Undecodable("contract.unknown_schema", f"{name}: {type(error).__name__}: {error}") from None


@lru_cache(maxsize=1024)
def _parsed(schema: str) -> Any:
    """The schema as fastavro wants it. A process has few distinct ones, and the simulator starts thousands of workers."""
    # A private name table for each: versions of one record share their names.
    return fastavro.parse_schema(json.loads(schema), named_schemas={})
