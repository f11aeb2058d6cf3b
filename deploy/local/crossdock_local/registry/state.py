"""The registry's memory: the `_schemas` topic folded into look-up tables.

`service` applies every record it reads, in order; `commands` and `http` only look. No I/O.
"""

import json
from collections.abc import Iterator
from dataclasses import replace

from crossdock_local.registry.compatibility import Level
from crossdock_local.registry.records import Json, Record, Reference, StoredSchema

_Identity = tuple[str, str, tuple[Reference, ...]]


class State:
    """Subjects, versions, ids, settings. Applying the same records again changes nothing."""

    def __init__(self) -> None:
        self.configs: dict[str | None, Json] = {}
        self.modes: dict[str | None, str] = {}
        self.highest_id = 0
        self.writer: str | None = None
        self._subjects: dict[str, dict[int, StoredSchema]] = {}
        self._by_id: dict[int, dict[tuple[str, int], StoredSchema]] = {}
        self._by_guid: dict[str, dict[tuple[str, int], StoredSchema]] = {}
        self._ids: dict[_Identity, int] = {}

    def apply(self, record: Record) -> None:
        """Fold one record; kinds that only a newer Confluent registry knows are passed over."""
        key = json.loads(record.key)
        value = None if record.value is None else json.loads(record.value)
        subject = key.get("subject")
        match key.get("keytype"), value:
            case "SCHEMA", None:
                self._remove(subject, key["version"])
            case "SCHEMA", dict():
                self._put(_stored(value))
            case "DELETE_SUBJECT", dict():
                for schema in list(self._subjects.get(subject, {}).values()):
                    if schema.version <= value["version"]:
                        self._put(replace(schema, deleted=True))
            case "CLEAR_SUBJECT", _:
                for version in list(self._subjects.get(subject, {})):
                    self._remove(subject, version)
            case "CONFIG", None:
                self.configs.pop(subject, None)
            case "CONFIG", dict():
                self.configs[subject] = value
            case "MODE", None:
                self.modes.pop(subject, None)
            case "MODE", dict():
                self.modes[subject] = value["mode"]
            case "NOOP", dict():
                self.writer = value.get("writer")
                self.highest_id = max(self.highest_id, value.get("highest_id", 0))

    def subjects(self, *, prefix: str = "", deleted: bool = False, deleted_only: bool = False) -> list[str]:
        """Subject names in order; those with soft-deleted versions only when asked for."""
        return sorted(
            subject
            for subject in self._subjects
            if subject.startswith(prefix)
            and self.versions(subject, deleted=deleted, deleted_only=deleted_only)
        )

    def versions(
        self, subject: str, *, deleted: bool = False, deleted_only: bool = False
    ) -> list[StoredSchema]:
        """A subject's versions, oldest first; empty when there are none."""
        stored = sorted(self._subjects.get(subject, {}).values(), key=lambda schema: schema.version)
        if deleted_only:
            return [schema for schema in stored if schema.deleted]
        return [schema for schema in stored if deleted or not schema.deleted]

    def with_id(self, schema_id: int, *, deleted: bool = True) -> list[StoredSchema]:
        """Every (subject, version) of an id, in that order; soft-deleted ones too unless told otherwise."""
        found = self._by_id.get(schema_id, {})
        return [found[place] for place in sorted(found) if deleted or not found[place].deleted]

    def with_guid(self, guid: str) -> StoredSchema | None:
        """A version that holds the schema of this guid, soft-deleted ones included."""
        found = self._by_guid.get(guid)
        return None if found is None else found[min(found)]

    def id_of(self, schema_type: str, text: str, references: tuple[Reference, ...]) -> int | None:
        """The id that a schema of this text already has in any subject."""
        return self._ids.get((schema_type, text, references))

    def referrers(self, subject: str, version: int) -> list[StoredSchema]:
        """The versions, not soft-deleted, that refer to this one."""
        return [
            schema
            for schema in self
            if not schema.deleted
            and any(
                reference.subject == subject and reference.version == version
                for reference in schema.references
            )
        ]

    def level(self, subject: str) -> Level:
        """The compatibility level in force for a subject. Confluent's default is BACKWARD."""
        for owner in (subject, None):
            named = self.configs.get(owner, {}).get("compatibilityLevel")
            if named:
                return Level(named)
        return Level.BACKWARD

    def normalizes(self, subject: str) -> bool:
        """Whether the subject's, or else the global, settings ask for normalized schemas."""
        for owner in (subject, None):
            flag = self.configs.get(owner, {}).get("normalize")
            if flag is not None:
                return bool(flag)
        return False

    def mode(self, subject: str | None) -> str:
        """The mode in force for a subject, or the global one (None)."""
        return self.modes.get(subject) or self.modes.get(None) or "READWRITE"

    def __iter__(self) -> Iterator[StoredSchema]:
        """Every version of every subject."""
        for versions in self._subjects.values():
            yield from versions.values()

    def _put(self, schema: StoredSchema) -> None:
        same_id = self.with_id(schema.id)
        if same_id and same_id[0].text != schema.text:
            return  # As Confluent's: an id means one schema for ever, so the later claim is not believed.
        before = self._subjects.get(schema.subject, {}).get(schema.version)
        if before is not None and before.id != schema.id:
            self._remove(schema.subject, schema.version)
        self._subjects.setdefault(schema.subject, {})[schema.version] = schema
        self._by_id.setdefault(schema.id, {})[schema.subject, schema.version] = schema
        self._by_guid.setdefault(schema.guid, {})[schema.subject, schema.version] = schema
        self._ids.setdefault((schema.schema_type, schema.text, schema.references), schema.id)
        self.highest_id = max(self.highest_id, schema.id)

    def _remove(self, subject: str, version: int) -> None:
        schema = self._subjects.get(subject, {}).pop(version, None)
        if schema is None:
            return
        if not self._subjects[subject]:
            del self._subjects[subject]
        del self._by_guid[schema.guid][subject, version]
        if not self._by_guid[schema.guid]:
            del self._by_guid[schema.guid]
        del self._by_id[schema.id][subject, version]
        if not self._by_id[schema.id]:
            del self._by_id[schema.id]
            self._ids = {identity: known for identity, known in self._ids.items() if known != schema.id}


def _stored(value: Json) -> StoredSchema:
    return StoredSchema(
        subject=value["subject"],
        version=value["version"],
        id=value["id"],
        text=value["schema"],
        references=tuple(
            Reference(reference["name"], reference["subject"], reference["version"])
            for reference in value.get("references") or ()
        ),
        schema_type=value.get("schemaType") or "AVRO",
        deleted=bool(value.get("deleted")),
    )
