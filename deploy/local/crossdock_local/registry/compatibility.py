"""Whether a new schema version may follow the earlier ones, and if not, which field breaks which rule.

Called by `commands`. Apache's `avro.compatibility` decides; the checker below only remembers, for each
refusal, the field it came from, which Apache's merged result no longer tells.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from avro.compatibility import (
    CompatibleResult,
    ReaderWriterCompatibilityChecker,
    SchemaCompatibilityResult,
    SchemaCompatibilityType,
    SchemaIncompatibilityType,
    incompatible,
    lookup_writer_field,
    merge,
    schema_name_equals,
)
from avro.schema import NamedSchema, RecordSchema, Schema, UnionSchema

from crossdock_local.registry.avro_text import ParsedSchema


class Level(StrEnum):
    """Confluent's compatibility levels."""

    NONE = "NONE"
    BACKWARD = "BACKWARD"
    BACKWARD_TRANSITIVE = "BACKWARD_TRANSITIVE"
    FORWARD = "FORWARD"
    FORWARD_TRANSITIVE = "FORWARD_TRANSITIVE"
    FULL = "FULL"
    FULL_TRANSITIVE = "FULL_TRANSITIVE"

    @property
    def transitive(self) -> bool:
        """Whether every earlier version counts, not only the latest."""
        return self.value.endswith("_TRANSITIVE")

    @property
    def backward(self) -> bool:
        """Whether the new schema must read what the old ones wrote."""
        return self.value.startswith(("BACKWARD", "FULL"))

    @property
    def forward(self) -> bool:
        """Whether the old schemas must read what the new one writes."""
        return self.value.startswith(("FORWARD", "FULL"))


@dataclass(frozen=True)
class Incompatibility:
    """`rule` (Apache's incompatibility type, upper case) is broken at `field` (dotted; empty for the
    whole)."""

    rule: str
    field: str
    detail: str


def violations(
    new: ParsedSchema, earlier: Sequence[tuple[int, ParsedSchema]], level: Level
) -> tuple[str, ...]:
    """What `level` forbids about `new` after the `earlier` (version, schema) pairs, given oldest first.

    Empty when it is compatible. Each message names the direction, the version, the field and the rule.
    """
    compared = list(earlier) if level.transitive else list(earlier[-1:])
    messages = []
    for version, old in reversed(compared):
        if level.backward:
            messages += [
                _message("BACKWARD", found, version, reader="the new schema", writer=f"version {version}")
                for found in unreadable(new.schema, old.schema)
            ]
        if level.forward:
            messages += [
                _message("FORWARD", found, version, reader=f"version {version}", writer="the new schema")
                for found in unreadable(old.schema, new.schema)
            ]
    return tuple(messages)


def unreadable(reader: Schema, writer: Schema) -> tuple[Incompatibility, ...]:
    """Why `reader` cannot read what `writer` wrote; empty when it can."""
    checker = _NamingChecker()
    result = checker.get_compatibility(reader, writer)
    if result.compatibility is SchemaCompatibilityType.compatible:
        return ()
    assert checker.found
    return tuple(dict.fromkeys(checker.found))


class _NamingChecker(ReaderWriterCompatibilityChecker):
    """Apache's checker, keeping what it found together with the field it found it at."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Incompatibility] = []
        self._path: list[str] = []

    def calculate_compatibility(
        self, reader: Schema, writer: Schema, location: list[str]
    ) -> SchemaCompatibilityResult:
        before = len(self.found)
        if isinstance(reader, UnionSchema) and not isinstance(writer, UnionSchema):
            return self._any_branch(reader, writer, location)
        result = super().calculate_compatibility(reader, writer, location)
        if result.compatibility is SchemaCompatibilityType.compatible:
            del self.found[before:]
        elif len(self.found) == before:
            # At one place several rules can break at once (name and size): they are reported together.
            rules = dict.fromkeys(kind.value.upper() for kind in result.incompatibilities)
            self._remember(" and ".join(rules), "; ".join(sorted(result.messages)))
        elif (
            isinstance(reader, RecordSchema)
            and isinstance(writer, RecordSchema)
            and not schema_name_equals(reader, writer)
        ):
            # A record renamed *and* changed inside: its fields are in `found` already, its name is not.
            kind = SchemaIncompatibilityType.name_mismatch
            self._remember(kind.value.upper(), f"expected: {writer.fullname}")
        return result

    def check_reader_writer_record_fields(
        self, reader: RecordSchema, writer: RecordSchema, location: list[str]
    ) -> SchemaCompatibilityResult:
        result = CompatibleResult
        for position, field in enumerate(reader.fields):
            counterpart = lookup_writer_field(writer, field)
            here = [*location, "fields", str(position)]
            self._path.append(field.name)
            if counterpart is not None:
                result = merge(result, self.get_compatibility(field.type, counterpart.type, "type", here))
            elif not field.has_default:
                kind = SchemaIncompatibilityType.reader_field_missing_default_value
                self._remember(kind.value.upper(), "")
                result = merge(result, incompatible(kind, field.name, here))
            self._path.pop()
        return result

    def _any_branch(
        self, reader: UnionSchema, writer: Schema, location: list[str]
    ) -> SchemaCompatibilityResult:
        before = len(self.found)
        nearest: list[Incompatibility] = []
        for branch in reader.schemas:
            result = self.get_compatibility(branch, writer, "type", location)
            attempt = self.found[before:]
            del self.found[before:]
            if result.compatibility is SchemaCompatibilityType.compatible:
                return CompatibleResult
            if _describe(branch) == _describe(writer):
                nearest = attempt  # The branch that was meant: its fields tell more than "no branch".
        kind = SchemaIncompatibilityType.missing_union_branch
        message = f"the reader's union lacks the writer's type {_describe(writer)}"
        self.found += nearest or [Incompatibility(kind.value.upper(), ".".join(self._path), message)]
        return incompatible(kind, message, location)

    def _remember(self, rule: str, detail: str) -> None:
        self.found.append(Incompatibility(rule, ".".join(self._path), detail))


def _describe(schema: Schema) -> str:
    return f"{schema.type} {schema.fullname}" if isinstance(schema, NamedSchema) else str(schema.type)


def _message(direction: str, found: Incompatibility, version: int, *, reader: str, writer: str) -> str:
    place = f"field '{found.field}'" if found.field else "the schema itself"
    if "READER_FIELD_MISSING_DEFAULT_VALUE" in found.rule:
        detail = f"{reader} has it without a default, and {writer} does not write it"
    else:
        detail = f"{reader} cannot read what {writer} writes: {found.detail}"
    return f"{direction} with version {version}: {place} breaks {found.rule} ({detail})"
