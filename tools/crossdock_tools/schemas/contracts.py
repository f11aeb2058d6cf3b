"""Read the contracts of the repository: Avro schemas, the topic catalogue and the examples.

Everything that needs them (generator, checks, registration, the services' start-up) reads them through here, so a file has
one meaning. Raises ContractError, whose text names the file and the next step.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

Schema = dict[str, Any]
_FILE_NAME = re.compile(r"^(?P<name>[A-Z][A-Za-z0-9]*)\.v(?P<version>[1-9][0-9]*)\.avsc$")


class ContractError(Exception):
    """A contract file is missing, unreadable or contradicts another; the text says which and what to do."""


@dataclass(frozen=True)
class Contract:
    """One released version of one record: `schema` is the parsed .avsc, complete in itself."""

    path: Path
    version: int
    schema: Schema

    @property
    def full_name(self) -> str:
        return f"{self.schema['namespace']}.{self.schema['name']}"

    @property
    def context(self) -> str:
        """The folder below `avro/`: a bounded context, or `state/<service>` for a service's private state."""
        return self.path.parent.name

    @property
    def is_state(self) -> bool:
        return self.path.parent.parent.name == "state"

    @property
    def identity(self) -> tuple[str, ...]:
        """Fields that tell two records of this type with one cause apart: the business discriminator of event_id."""
        return tuple(self.schema.get("identity", ()))


@dataclass(frozen=True)
class Topic:
    """One entry of the topic catalogue."""

    name: str
    owner: str
    description: str
    key: tuple[str, ...]
    partitions: int
    compacted: bool
    retention_days: int | None
    records: tuple[str, ...]
    producers: tuple[str, ...]
    consumers: dict[str, tuple[str, ...]]
    personal_data: tuple[str, ...]


@dataclass(frozen=True)
class Repository:
    """The `schemas/` folder."""

    root: Path

    @cached_property
    def contracts(self) -> tuple[Contract, ...]:
        """Every released version, ordered by name and version."""
        found = [_read_contract(path) for path in sorted(self.root.glob("avro/**/*.avsc"))]
        if not found:
            raise ContractError(f"no contract found below {self.root / 'avro'}; run from the repository")
        return tuple(sorted(found, key=lambda contract: (contract.full_name, contract.version)))

    @cached_property
    def latest(self) -> dict[str, Contract]:
        """The newest version of every record, by full name."""
        return {contract.full_name: contract for contract in self.contracts}

    @cached_property
    def topics(self) -> dict[str, Topic]:
        """The catalogue, by topic name."""
        topics = [_read_topic(path) for path in sorted(self.root.glob("topics/*.yaml"))]
        return {topic.name: topic for topic in topics}

    @cached_property
    def topic_of(self) -> dict[str, Topic]:
        """The topic that carries each record, by the record's full name."""
        return {record: topic for topic in self.topics.values() for record in topic.records}

    def example(self, contract: Contract) -> Any:
        """The example of one contract version. Raises ContractError when it is missing."""
        path = self.root / "examples" / contract.context / contract.path.name.replace(".avsc", ".json")
        if not path.exists():
            raise ContractError(f"{path} is missing: every event version has an example; write one")
        return json.loads(path.read_text())


def find_schemas() -> Path:
    """The `schemas/` folder of the repository that this code was installed from."""
    for parent in Path(__file__).resolve().parents:
        if (parent / "schemas" / "avro").is_dir():
            return parent / "schemas"
    raise ContractError("no schemas/avro folder found above the installed code; use --schemas PATH")


def _read_contract(path: Path) -> Contract:
    match = _FILE_NAME.match(path.name)
    if match is None:
        raise ContractError(f"{path}: the name must be <Record>.v<number>.avsc")
    try:
        schema = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ContractError(f"{path}: not JSON: {error}") from None
    if not isinstance(schema, dict) or schema.get("type") != "record" or schema.get("name") != match["name"]:
        raise ContractError(f"{path}: must hold one record named {match['name']}")
    if "namespace" not in schema:
        raise ContractError(f"{path}: the record needs a namespace")
    return Contract(path=path, version=int(match["version"]), schema=schema)


def _read_topic(path: Path) -> Topic:
    raw = yaml.safe_load(path.read_text())
    try:
        topic = Topic(
            name=raw["topic"],
            owner=raw["owner"],
            description=raw["description"],
            key=tuple(raw["key"]),
            partitions=raw["partitions"],
            compacted={"compact": True, "delete": False}[raw["cleanup"]],
            retention_days=raw.get("retention_days"),
            records=tuple(raw["records"]),
            producers=tuple(raw["producers"]),
            consumers={service: tuple(records) for service, records in raw["consumers"].items()},
            personal_data=tuple(raw["personal_data"]),
        )
    except (KeyError, TypeError) as error:
        raise ContractError(f"{path}: the entry {error} is missing or malformed") from None
    if path.stem != topic.name:
        raise ContractError(f"{path}: the file must be named after its topic {topic.name}")
    return topic
