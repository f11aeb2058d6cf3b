"""What each request to change the registry writes, or why it is refused. Pure: state in, records out.

`service` calls these under its writer lock, writes the records, and answers once they are applied. Rules
and codes follow Confluent's Schema Registry REST API.
"""

from dataclasses import dataclass, replace
from typing import Any

from crossdock_local.registry import errors
from crossdock_local.registry.avro_text import ParsedSchema, parse
from crossdock_local.registry.compatibility import Level, violations
from crossdock_local.registry.records import (
    Json,
    Record,
    Reference,
    StoredSchema,
    config_record,
    delete_subject_record,
    mode_record,
    schema_record,
    schema_tombstone,
    writer_record,
)
from crossdock_local.registry.state import State

MODES = ("READWRITE", "READONLY", "IMPORT")
VERSION_MAX = 2**31 - 1


@dataclass(frozen=True)
class Decision:
    """The records to write, in one transaction, and the answer to give once they are applied."""

    records: tuple[Record, ...]
    answer: Any


@dataclass(frozen=True)
class SchemaRequest:
    """A schema as a client sends it. `id` and `version` only in IMPORT mode; -1 means not given."""

    text: str
    references: tuple[Reference, ...] = ()
    id: int = -1
    version: int = -1

    @classmethod
    def from_json(cls, body: Json) -> "SchemaRequest":
        """Read a request body. Raises RegistryError 42201 when it is not one this registry can hold."""
        text = body.get("schema")
        if not isinstance(text, str) or not text.strip():
            raise errors.invalid_schema("empty schema")
        schema_type = body.get("schemaType") or "AVRO"
        if schema_type != "AVRO":
            raise errors.invalid_schema(f"schema type {schema_type!r} is not supported: only AVRO is")
        for rules in ("metadata", "ruleSet"):
            if body.get(rules):
                raise errors.invalid_schema(f"{rules!r} is not supported by this registry")
        try:
            references = tuple(
                Reference(str(item["name"]), str(item["subject"]), int(item["version"]))
                for item in body.get("references") or ()
            )
            return cls(text, references, int(body.get("id") or -1), int(body.get("version") or -1))
        except (TypeError, KeyError, ValueError) as error:
            raise errors.invalid_schema(f"malformed references, id or version ({error!r})") from error


def register(state: State, subject: str, request: SchemaRequest, *, normalize: bool) -> Decision:
    """Give a schema its id and version under a subject; the answer is the stored version.

    The same text has the same id in every subject. Registering what the subject already has writes nothing.
    Raises RegistryError 42201, 42205, 42207 or, when the compatibility level forbids it, 409.
    """
    mode = state.mode(subject)
    if mode == "READONLY":
        raise errors.not_permitted(f"Subject '{subject}' is in read-only mode")
    if (request.id > 0) != (mode == "IMPORT"):
        rule = "requires" if mode == "IMPORT" else "does not allow"
        raise errors.not_permitted(f"Subject '{subject}' is in mode {mode}, which {rule} a schema id")
    parsed = parse_request(state, subject, request, normalize=normalize)
    if mode == "IMPORT":
        return _import_schema(state, subject, request, parsed)
    earlier = state.versions(subject)
    for schema in earlier:
        if (schema.text, schema.references) == (parsed.text, request.references):
            return Decision((), schema)
    comparable = [(old.version, _parse_stored(state, old)) for old in earlier if old.schema_type == "AVRO"]
    broken = violations(parsed, comparable, state.level(subject))
    if broken:
        raise errors.incompatible(broken)
    known = state.id_of("AVRO", parsed.text, request.references)
    schema_id = state.highest_id + 1 if known is None else known
    stored = StoredSchema(subject, _next_version(state, subject), schema_id, parsed.text, request.references)
    return Decision((schema_record(stored),), stored)


def parse_request(
    state: State, subject: str, request: SchemaRequest, *, normalize: bool = False
) -> ParsedSchema:
    """The schema of a request, its references resolved. Raises RegistryError 42201."""
    texts = _referenced_texts(state, request.references)
    return parse(request.text, texts, normalize=normalize or state.normalizes(subject))


def incompatibilities(
    state: State, subject: str, request: SchemaRequest, against: list[StoredSchema]
) -> tuple[str, ...]:
    """What the subject's level forbids about a schema, compared with the given versions (oldest first)."""
    parsed = parse_request(state, subject, request)
    earlier = [(old.version, _parse_stored(state, old)) for old in against]
    return violations(parsed, earlier, state.level(subject))


def find(
    state: State, subject: str, request: SchemaRequest, *, normalize: bool, deleted: bool
) -> StoredSchema:
    """The version of a subject that holds this schema. Raises RegistryError 40401 or 40403."""
    versions = existing_versions(state, subject, deleted=deleted)
    parsed = parse_request(state, subject, request, normalize=normalize)
    for schema in reversed(versions):
        if (schema.text, schema.references) == (parsed.text, request.references):
            return schema
    raise errors.schema_not_found()


def existing_versions(state: State, subject: str, *, deleted: bool = False) -> list[StoredSchema]:
    """A subject's versions, oldest first, at least one. Raises RegistryError 40401."""
    versions = state.versions(subject, deleted=deleted)
    if not versions:
        raise errors.subject_not_found(subject)
    return versions


def version_of(state: State, subject: str, version: str, *, deleted: bool = False) -> StoredSchema:
    """One version of a subject, by number, `latest` or `-1`. Raises RegistryError 40401, 40402 or 42202."""
    number = version_number(version)
    versions = existing_versions(state, subject, deleted=deleted)
    if number is None:
        return versions[-1]
    for schema in versions:
        if schema.version == number:
            return schema
    raise errors.version_not_found(number)


def version_number(version: str) -> int | None:
    """The number that a path names; None for the latest. Raises RegistryError 42202."""
    if version in ("latest", "-1"):
        return None
    if not version.isascii() or not version.isdigit() or not 1 <= int(version) <= VERSION_MAX:
        raise errors.invalid_version(version)
    return int(version)


def delete_subject(state: State, subject: str, *, permanent: bool) -> Decision:
    """Hide a subject's versions, or (`permanent`, once hidden) remove them; the answer lists them.

    Raises RegistryError 40401, 40404, 40405, 42205 or 42206.
    """
    _refuse_readonly(state, subject)
    every = existing_versions(state, subject, deleted=True)
    shown = state.versions(subject)
    if permanent and shown:
        raise errors.subject_not_soft_deleted(subject)
    if not permanent and not shown:
        raise errors.subject_soft_deleted(subject)
    going = every if permanent else shown
    for schema in going:
        if state.referrers(subject, schema.version):
            raise errors.reference_exists(subject, schema.version)
    numbers = [schema.version for schema in going]
    if not permanent:
        return Decision((delete_subject_record(subject, numbers[-1]),), numbers)
    records = [schema_tombstone(subject, number) for number in numbers]
    if subject in state.configs:
        records.append(config_record(subject, None))
    if subject in state.modes:
        records.append(mode_record(subject, None))
    return Decision((*records, _keep_highest_id(state)), numbers)


def delete_version(state: State, subject: str, version: str, *, permanent: bool) -> Decision:
    """Hide one version, or (`permanent`, once hidden) remove it; the answer is its number.

    Raises RegistryError 40401, 40402, 40406, 40407, 42202, 42205 or 42206.
    """
    _refuse_readonly(state, subject)
    schema = version_of(state, subject, version, deleted=True)
    if permanent and not schema.deleted:
        raise errors.version_not_soft_deleted(subject, schema.version)
    if not permanent and schema.deleted:
        raise errors.version_soft_deleted(subject, schema.version)
    if state.referrers(subject, schema.version):
        raise errors.reference_exists(subject, schema.version)
    if permanent:
        records = (schema_tombstone(subject, schema.version), _keep_highest_id(state))
        return Decision(records, schema.version)
    return Decision((schema_record(replace(schema, deleted=True)),), schema.version)


def set_config(state: State, subject: str | None, body: Json) -> Decision:
    """Change compatibility settings of a subject, or of all (None). Raises RegistryError 42203 or 42205."""
    if subject is not None:
        _refuse_readonly(state, subject)
    elif state.mode(None) == "READONLY":
        raise errors.not_permitted("The registry is in read-only mode")
    settings = dict(state.configs.get(subject, {}))
    level = body.get("compatibility", body.get("compatibilityLevel"))
    normalize = body.get("normalize")
    if level is None and normalize is None:
        raise errors.invalid_compatibility_level(level)
    answer: Json = {}
    if level is not None:
        if not isinstance(level, str) or level.upper() not in Level.__members__:
            raise errors.invalid_compatibility_level(level)
        settings["compatibilityLevel"] = answer["compatibility"] = level.upper()
    if normalize is not None:
        settings["normalize"] = answer["normalize"] = bool(normalize)
    return Decision((config_record(subject, settings),), answer)


def delete_config(state: State, subject: str | None) -> Decision:
    """Go back to the settings above: a subject's to the global ones, the global ones to the default.

    The answer is what was set. Raises RegistryError 40401 or 42205.
    """
    if subject is None:
        before = {"compatibilityLevel": Level.BACKWARD.value} | state.configs.get(None, {})
        return Decision((config_record(None, None),), before)
    _refuse_readonly(state, subject)
    if subject not in state.configs:
        raise errors.subject_not_found(subject)
    return Decision((config_record(subject, None),), state.configs[subject])


def set_mode(state: State, subject: str | None, body: Json, *, force: bool) -> Decision:
    """Change the mode of a subject, or of all (None). Raises RegistryError 42204 or 42205.

    IMPORT lets ids be chosen by the client, so it wants an empty subject (or registry) unless forced.
    """
    mode = body.get("mode")
    if not isinstance(mode, str) or mode.upper() not in MODES:
        raise errors.invalid_mode(mode)
    mode = mode.upper()
    if mode == "IMPORT" and not force and state.mode(subject) != "IMPORT":
        occupied = state.subjects() if subject is None else [v.subject for v in state.versions(subject)]
        if occupied:
            raise errors.not_permitted(f"Cannot import since subject '{occupied[0]}' has schemas already")
    return Decision((mode_record(subject, mode),), {"mode": mode})


def delete_mode(state: State, subject: str) -> Decision:
    """Go back to the global mode; the answer is what was set. Raises RegistryError 40401."""
    if subject not in state.modes:
        raise errors.subject_not_found(subject)
    return Decision((mode_record(subject, None),), {"mode": state.modes[subject]})


def _import_schema(state: State, subject: str, request: SchemaRequest, parsed: ParsedSchema) -> Decision:
    version = request.version if request.version > 0 else _next_version(state, subject)
    stored = StoredSchema(subject, version, request.id, parsed.text, request.references)
    same_id = state.with_id(request.id)
    if same_id and (same_id[0].text, same_id[0].references) != (parsed.text, request.references):
        raise errors.id_does_not_match(f"Overwriting the schema with id {request.id} is not permitted")
    for schema in state.versions(subject, deleted=True):
        if schema.version == version and schema.id != request.id:
            raise errors.id_does_not_match(
                f"Version {version} of subject '{subject}' has id {schema.id}, not {request.id}"
            )
    return Decision((schema_record(stored),), stored)


def _next_version(state: State, subject: str) -> int:
    every = state.versions(subject, deleted=True)
    return every[-1].version + 1 if every else 1


def _parse_stored(state: State, schema: StoredSchema) -> ParsedSchema:
    return parse(schema.text, _referenced_texts(state, schema.references))


def _referenced_texts(state: State, references: tuple[Reference, ...]) -> tuple[str, ...]:
    """The texts behind references, what each itself needs before it, each once."""
    texts: dict[str, None] = {}
    for reference in references:
        found = [
            schema
            for schema in state.versions(reference.subject, deleted=True)
            if reference.version in (schema.version, -1)
        ]
        if not found:
            raise errors.invalid_schema(
                f"no schema reference found for subject '{reference.subject}' version {reference.version}"
            )
        texts |= dict.fromkeys((*_referenced_texts(state, found[-1].references), found[-1].text))
    return tuple(texts)


def _refuse_readonly(state: State, subject: str) -> None:
    if state.mode(subject) == "READONLY":
        raise errors.not_permitted(f"Subject '{subject}' is in read-only mode")


def _keep_highest_id(state: State) -> Record:
    return writer_record(state.writer or "", state.highest_id)
