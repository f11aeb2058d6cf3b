"""Hold the contracts to the house rules, offline: `crossdock schemas check`.

Every rule is a function from the repository to findings; `RULES` is the list. A finding names the file, the rule and the mend.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
from avro.errors import AvroException
from avro.schema import Schema as AvroSchema
from avro.schema import parse

from crossdock_local.registry.compatibility import unreadable
from crossdock_tools.schemas.contracts import Contract, ContractError, Repository

_NAMESPACE = re.compile(r"^retail(\.[a-z][a-z0-9_]*)+$")
_RECORD_NAME = re.compile(r"^[A-Z][A-Za-z0-9]*$")
_FIELD_NAME = re.compile(r"^[a-z][a-z0-9_]*$")
_TOPIC_NAME = re.compile(r"^retail\.[a-z]+(\.[a-z]+)*\.(events|commands|intake|feeds|table)\.v[1-9][0-9]*$")
_EDGES = ("channel-gateway",)


@dataclass(frozen=True)
class Finding:
    """One breach of a rule: where, which, and what to do."""

    where: str
    rule: str
    detail: str


def check(repository: Repository) -> list[Finding]:
    """Every breach of every rule, in file order. Raises ContractError for what cannot be read at all."""
    findings = [finding for rule in RULES for finding in rule(repository)]
    return sorted(findings, key=lambda finding: (finding.where, finding.rule))


def shape(repository: Repository) -> list[Finding]:
    """Breaches that leave no type to be made of a contract: syntax, names, docs."""
    return [finding for rule in (_syntax, _naming, _docs) for finding in rule(repository)]


def _syntax(repository: Repository) -> Iterator[Finding]:
    for contract in repository.contracts:
        try:
            fastavro.parse_schema(contract.schema, named_schemas={})
            parse(json.dumps(contract.schema))
        except (AvroException, fastavro.schema.SchemaParseException, fastavro.schema.UnknownType) as error:
            yield _finding(repository, contract, "syntax", f"no Avro schema: {error}")


def _unreadable(repository: Repository) -> set[Path]:
    """Contracts that are no Avro schema."""
    broken = {finding.where for finding in _syntax(repository)}
    return {c.path for c in repository.contracts if str(c.path.relative_to(repository.root)) in broken}


def _naming(repository: Repository) -> Iterator[Finding]:
    for contract in repository.contracts:
        namespace = contract.schema["namespace"]
        if not _NAMESPACE.match(namespace) or re.search(r"v\d", namespace):
            yield _finding(
                repository,
                contract,
                "naming",
                f"namespace {namespace} is not retail.<context> without a version",
            )
        expected = (
            f"retail.state.{contract.context.replace('-', '_')}"
            if contract.is_state
            else f"retail.{contract.context}"
        )
        if namespace != expected:
            yield _finding(
                repository, contract, "naming", f"folder {contract.context} holds namespace {expected} only"
            )
        for definition in _definitions(contract.schema):
            if not _RECORD_NAME.match(definition["name"]):
                yield _finding(
                    repository, contract, "naming", f"type {definition['name']} is not UpperCamelCase"
                )
            for member in definition.get("fields", ()):
                if not _FIELD_NAME.match(member["name"]):
                    yield _finding(
                        repository, contract, "naming", f"field {member['name']} is not snake_case"
                    )
    for topic in repository.topics.values():
        if not _TOPIC_NAME.match(topic.name):
            yield Finding(f"topics/{topic.name}.yaml", "naming", "not retail.<subject>.<kind>.v<major>")


def _envelope(repository: Repository) -> Iterator[Finding]:
    for contract in repository.contracts:
        names = [member["name"] for member in contract.schema["fields"]]
        if contract.is_state:
            if "timers" not in names:
                yield _finding(repository, contract, "envelope", "a state has a map `timers`")
            continue
        if not names or names[0] != "meta":
            yield _finding(
                repository, contract, "envelope", "the first field must be `meta` of type retail.common.Meta"
            )
        missing = [name for name in contract.identity if name not in names]
        if not contract.identity or missing:
            yield _finding(
                repository,
                contract,
                "envelope",
                f"`identity` must name fields of the record; wrong: {missing}",
            )


def _docs(repository: Repository) -> Iterator[Finding]:
    for contract in repository.contracts:
        for definition in _definitions(contract.schema):
            if not definition.get("doc"):
                yield _finding(repository, contract, "docs", f"type {definition['name']} needs a doc")
            for member in definition.get("fields", ()):
                if not member.get("doc"):
                    yield _finding(
                        repository,
                        contract,
                        "docs",
                        f"field {definition['name']}.{member['name']} needs a doc",
                    )
            if definition["type"] == "enum" and "default" not in definition:
                yield _finding(
                    repository, contract, "evolution", f"enum {definition['name']} needs a default symbol"
                )


def _shared_definitions(repository: Repository) -> Iterator[Finding]:
    """A type that several contracts nest is defined in the same words in the latest version of each."""
    first: dict[str, tuple[Contract, str]] = {}
    for contract in repository.latest.values():
        expanded: dict[str, Any] = {}
        for definition in _definitions(contract.schema):
            full_name = f"{definition['namespace']}.{definition['name']}"
            expanded[full_name] = definition
        for full_name in expanded:
            text = json.dumps(_resolved(expanded[full_name], expanded), sort_keys=True)
            seen = first.setdefault(full_name, (contract, text))
            if seen[1] != text:
                detail = f"{full_name} differs from its definition in {seen[0].path.name}"
                yield _finding(repository, contract, "shared definitions", detail)


def _examples(repository: Repository) -> Iterator[Finding]:
    for contract in repository.contracts:
        if contract.is_state:
            continue
        try:
            value = from_json(repository.example(contract), contract.schema, {})
            fastavro.schemaless_writer(BytesIO(), contract.schema, value, strict=True)
        except ContractError as error:
            yield _finding(repository, contract, "example", str(error))
        except Exception as error:  # noqa: BLE001 - fastavro raises anything for a value that does not fit
            yield _finding(
                repository,
                contract,
                "example",
                f"the example does not encode: {type(error).__name__}: {error}",
            )
    known = {
        repository.root / "examples" / c.context / c.path.name.replace(".avsc", ".json")
        for c in repository.contracts
    }
    for path in repository.root.glob("examples/**/*.json"):
        if path not in known:
            yield Finding(
                str(path.relative_to(repository.root)), "example", "an example without a contract; delete it"
            )


def _compatibility(repository: Repository) -> Iterator[Finding]:
    """Events both ways (FULL_TRANSITIVE), states backward only (BACKWARD_TRANSITIVE), against every released version."""
    for contract in repository.contracts:
        older = [
            each
            for each in repository.contracts
            if each.full_name == contract.full_name and each.version < contract.version
        ]
        for other in older:
            if {contract.path, other.path} & _unreadable(repository):
                continue  # told by the rule of the syntax
            pairs = [("read", contract, other)]
            if not contract.is_state:
                pairs.append(("be read by", other, contract))
            for verb, reader, writer in pairs:
                for problem in incompatibilities(reader.schema, writer.schema):
                    detail = f"v{contract.version} cannot {verb} v{other.version}: {problem}"
                    yield _finding(repository, contract, "compatibility", detail)


def _released(repository: Repository) -> Iterator[Finding]:
    for name, digest in released(repository).items():
        path = repository.root / name
        if not path.exists():
            yield Finding(name, "released", "a released contract was deleted; restore it")
        elif file_digest(path) != digest:
            yield Finding(
                name, "released", "a released contract was changed; restore it and write the next version"
            )


def _catalogue(repository: Repository) -> Iterator[Finding]:
    """Every event is on exactly one topic, with its key; every producer and consumer exists and says the same in code."""
    carried: dict[str, str] = {}
    for topic in repository.topics.values():
        where = f"topics/{topic.name}.yaml"
        for record in topic.records:
            contract = repository.latest.get(record)
            if contract is None:
                yield Finding(where, "catalogue", f"{record} has no contract")
                continue
            if record in carried:
                yield Finding(where, "catalogue", f"{record} is already on {carried[record]}")
            carried[record] = topic.name
            members = {member["name"] for member in contract.schema["fields"]}
            if not set(topic.key) <= members:
                yield Finding(where, "catalogue", f"{record} lacks the key fields {topic.key}")
            if (
                not members.intersection(topic.personal_data)
                and topic.personal_data
                and len(topic.records) == 1
            ):
                yield Finding(where, "catalogue", f"no field {topic.personal_data} in {record}")
        for records in topic.consumers.values():
            for record in set(records) - set(topic.records):
                yield Finding(where, "catalogue", f"consumed {record} is not on the topic")
    for full_name, contract in repository.latest.items():
        if not contract.is_state and full_name not in carried:
            yield _finding(repository, contract, "catalogue", "no topic carries it")
    counts = {topic.partitions for topic in repository.topics.values()}
    if len(counts) > 1:
        yield Finding(
            "topics",
            "catalogue",
            f"co-partitioned topics must have one partition count, found {sorted(counts)}",
        )


def _code(repository: Repository) -> Iterator[Finding]:
    """What each service says it reads and writes is what the catalogue says."""
    for name in service_names(repository):
        try:
            reads, writes = _said_by_code(name)
        except ImportError as error:
            yield Finding(
                f"services/{name}", "catalogue", f"its settings.py and service.py do not import: {error}"
            )
            continue
        catalogued_reads = {
            record for topic in repository.topics.values() for record in topic.consumers.get(name, ())
        }
        producing = {topic.name for topic in repository.topics.values() if name in topic.producers}
        for record in sorted(reads ^ catalogued_reads):
            side = "the catalogue" if record in reads else "the code"
            yield Finding(f"services/{name}", "catalogue", f"{side} does not say that it consumes {record}")
        for record in sorted(writes):
            topic = repository.topic_of.get(record)
            if topic is None or name not in topic.producers:
                yield Finding(
                    f"services/{name}", "catalogue", f"the catalogue does not say that it produces {record}"
                )
        for idle in sorted(
            producing
            - {repository.topic_of[record].name for record in writes if record in repository.topic_of}
        ):
            yield Finding(
                f"services/{name}",
                "catalogue",
                f"the catalogue says that it produces to {idle}, the code does not",
            )


RULES: tuple[Callable[[Repository], Iterable[Finding]], ...] = (
    _syntax,
    _naming,
    _envelope,
    _docs,
    _shared_definitions,
    _examples,
    _compatibility,
    _released,
    _catalogue,
    _code,
)


def service_names(repository: Repository) -> list[str]:
    """The services whose code declares what it reads and writes: every folder of `services/` but the edges."""
    folder = repository.root.parent / "services"
    return sorted(
        path.name
        for path in folder.iterdir()
        if (path / "pyproject.toml").exists() and path.name not in _EDGES
    )


def _said_by_code(name: str) -> tuple[set[str], set[str]]:
    package = f"crossdock_{name.replace('-', '_')}"
    settings = importlib.import_module(f"{package}.settings").Settings()
    service = importlib.import_module(f"{package}.service").service(settings)
    reads = {kind.SCHEMA for kind in service.inputs} | {kind.SCHEMA for kind in service.tables.values()}
    if service.port is not None:
        service.port.close()
    return reads, {kind.SCHEMA for kind in service.outputs}


def incompatibilities(reader: Any, writer: Any) -> list[str]:
    """Why data of `writer` cannot be read with `reader`, naming field and rule as the local registry does; empty when it can."""
    return [
        f"field {found.field or '(the record)'} breaks {found.rule}{': ' if found.detail else ''}{found.detail}"
        for found in unreadable(_avro(reader), _avro(writer))
    ]


def _avro(schema: Any) -> AvroSchema:
    parsed = parse(json.dumps(schema))
    assert isinstance(parsed, AvroSchema)
    return parsed


def released(repository: Repository) -> dict[str, str]:
    """Digest of every released contract, by path below `schemas/`."""
    path = repository.root / "released.json"
    return json.loads(path.read_text()) if path.exists() else {}


def file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def release(repository: Repository) -> list[str]:
    """Enter every contract that is not released yet; from now on it may not change. Returns their paths."""
    entries = released(repository)
    fresh = [str(c.path.relative_to(repository.root)) for c in repository.contracts]
    added = [name for name in fresh if name not in entries]
    entries.update((name, file_digest(repository.root / name)) for name in added)
    text = json.dumps(dict(sorted(entries.items())), indent=1) + "\n"
    (repository.root / "released.json").write_text(text)
    return added


def from_json(value: Any, schema: Any, named: dict[str, Any]) -> Any:
    """A JSON example as fastavro wants it: times as datetime, dates as date. Raises ValueError for a bad time."""
    if isinstance(schema, str) and schema in named:
        schema = named[schema]
    if isinstance(schema, list):
        inner = next(branch for branch in schema if branch != "null")
        return None if value is None else from_json(value, inner, named)
    if not isinstance(schema, dict):
        return value
    kind = schema["type"]
    if kind in ("record", "enum"):
        named[f"{schema['namespace']}.{schema['name']}"] = schema
    if kind == "record":
        known = {member["name"]: member["type"] for member in schema["fields"]}
        extra = set(value) - set(known)
        if extra:
            raise ValueError(f"unknown fields {sorted(extra)}")
        return {name: from_json(value[name], known[name], named) for name in known if name in value}
    if kind == "array":
        return [from_json(item, schema["items"], named) for item in value]
    if kind == "map":
        return {key: from_json(item, schema["values"], named) for key, item in value.items()}
    if schema.get("logicalType") == "timestamp-micros" and isinstance(value, str):
        return datetime.fromisoformat(value).astimezone(UTC)
    if schema.get("logicalType") == "date" and isinstance(value, str):
        return date(1970, 1, 1) + timedelta(days=(date.fromisoformat(value) - date(1970, 1, 1)).days)
    return value


def _definitions(schema: Any) -> Iterator[Any]:
    """Every record and enum that the schema defines, itself first."""
    if isinstance(schema, list):
        for branch in schema:
            yield from _definitions(branch)
    elif isinstance(schema, dict):
        kind = schema["type"]
        if kind in ("record", "enum"):
            yield schema
        for member in schema.get("fields", ()):
            yield from _definitions(member["type"])
        if kind == "array":
            yield from _definitions(schema["items"])
        if kind == "map":
            yield from _definitions(schema["values"])


def _resolved(schema: Any, named: dict[str, Any]) -> Any:
    """The schema with nested definitions replaced by their names, so that order of first use does not matter."""
    if isinstance(schema, list):
        return [_resolved(branch, named) for branch in schema]
    if not isinstance(schema, dict):
        return schema
    if schema["type"] == "record":
        fields = [{**member, "type": _by_name(member["type"])} for member in schema["fields"]]
        return {**schema, "fields": fields}
    return schema


def _by_name(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_by_name(branch) for branch in schema]
    if isinstance(schema, dict):
        if schema["type"] in ("record", "enum"):
            return f"{schema['namespace']}.{schema['name']}"
        return {
            key: _by_name(value) if key in ("items", "values") else value for key, value in schema.items()
        }
    return schema


def _finding(repository: Repository, contract: Contract, rule: str, detail: str) -> Finding:
    return Finding(str(contract.path.relative_to(repository.root)), rule, detail)
