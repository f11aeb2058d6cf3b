"""The records of the `_schemas` topic, byte for byte as Confluent's registry writes them.

`commands` builds them, `state` folds them. The order of a key's fields matters: compaction compares bytes,
so a key in another order would be another key. Source: the key and value classes of Confluent's Schema
Registry 7.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

Json = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """One record of the topic; a `value` of None is a tombstone."""

    key: bytes
    value: bytes | None


@dataclass(frozen=True)
class Reference:
    """`name` (a full type name) is defined by that version of that subject."""

    name: str
    subject: str
    version: int

    def as_json(self) -> Json:
        """As the REST API and the topic have it."""
        return {"name": self.name, "subject": self.subject, "version": self.version}


@dataclass(frozen=True)
class StoredSchema:
    """One version of a subject. `deleted` is the soft delete: hidden, but still readable by id."""

    subject: str
    version: int
    id: int
    text: str
    references: tuple[Reference, ...] = ()
    schema_type: str = "AVRO"
    deleted: bool = False

    @property
    def guid(self) -> str:
        """The schema's identity across registries, which newer serialisers put in a header.

        It follows from the content, so it is computed and not stored: MD5 over the text and, for each reference, name,
        subject and version (int32 big-endian), shown as a UUID without version bits. Confluent's registry (8.0) derives
        the same one, so records keep their guid when the schemas topic moves from one registry to the other.
        """
        content = [self.text.encode()]
        for reference in self.references:
            content += [
                reference.name.encode(),
                reference.subject.encode(),
                reference.version.to_bytes(4, "big", signed=True),
            ]
        digest = hashlib.md5(b"".join(content), usedforsecurity=False).digest()
        return str(UUID(bytes=digest))


def schema_record(schema: StoredSchema) -> Record:
    """A version of a subject."""
    value: Json = {"subject": schema.subject, "version": schema.version, "id": schema.id}
    if schema.references:
        value["references"] = [reference.as_json() for reference in schema.references]
    if schema.schema_type != "AVRO":
        value["schemaType"] = schema.schema_type
    value |= {"schema": schema.text, "deleted": schema.deleted}
    return Record(_schema_key(schema.subject, schema.version), _dump(value))


def schema_tombstone(subject: str, version: int) -> Record:
    """The hard delete of a version."""
    return Record(_schema_key(subject, version), None)


def delete_subject_record(subject: str, last_version: int) -> Record:
    """The soft delete of every version up to `last_version`."""
    key = {"keytype": "DELETE_SUBJECT", "subject": subject, "magic": 0}
    return Record(_dump(key), _dump({"subject": subject, "version": last_version}))


def config_record(subject: str | None, config: Json | None) -> Record:
    """The compatibility settings of a subject, or of all (None); without settings, a tombstone."""
    return Record(_setting_key("CONFIG", subject), None if config is None else _dump(config))


def mode_record(subject: str | None, mode: str | None) -> Record:
    """The mode of a subject, or of all (None); without a mode, a tombstone."""
    return Record(_setting_key("MODE", subject), None if mode is None else _dump({"mode": mode}))


def writer_record(writer: str, highest_id: int) -> Record:
    """Who writes from here on, and the highest id ever given out.

    It is Confluent's NOOP record, whose value Confluent's registry never reads. The highest id must be kept
    because a hard delete takes its id out of the topic, and giving it to another schema would corrupt old
    messages.
    """
    return Record(_dump({"keytype": "NOOP", "magic": 0}), _dump({"writer": writer, "highest_id": highest_id}))


def _schema_key(subject: str, version: int) -> bytes:
    return _dump({"keytype": "SCHEMA", "subject": subject, "version": version, "magic": 1})


def _setting_key(keytype: str, subject: str | None) -> bytes:
    key: Json = {"keytype": keytype}
    if subject is not None:
        key["subject"] = subject
    return _dump(key | {"magic": 0})


def _dump(value: Json) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
