"""Parsing Avro schemas, and the one text by which two equal schemas are recognised.

Called by `commands` and `compatibility`. The canonical text is what Avro's Java library prints for a schema
(the form in which Confluent's registry stores it): compact JSON, attributes in a fixed order, redundant
namespaces dropped; documentation, defaults, aliases and further properties kept.
"""

import json
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import avro.errors
import avro.name
import avro.schema

from crossdock_local.registry.errors import invalid_schema

_PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
_NAMED = frozenset({"record", "error", "enum", "fixed"})
_RANGES = {"int": 2**31, "long": 2**63}


@dataclass(frozen=True)
class ParsedSchema:
    """A valid schema: its canonical `text` and Apache's parsed form."""

    text: str
    schema: avro.schema.Schema


@lru_cache(maxsize=4096)
def parse(text: str, referenced: tuple[str, ...] = (), *, normalize: bool = False) -> ParsedSchema:
    """Parse a schema whose foreign type names are defined by the `referenced` schemas, given in order of
    need.

    With `normalize`, further properties are sorted, so that their order no longer tells two schemas apart.
    Raises RegistryError 42201 for what is not a valid Avro schema, invalid field defaults included.
    """
    try:
        # Avro's Java parser, and so Confluent's registry, takes a bare word for a primitive type.
        document = text if text in _PRIMITIVES else json.loads(text)
    except ValueError as error:
        raise invalid_schema(f"not JSON ({error})") from error
    names = avro.name.Names()
    try:
        with warnings.catch_warnings():
            # Unknown logical types are ignored, as the Avro specification asks.
            warnings.simplefilter("ignore", avro.errors.IgnoredLogicalType)
            for dependency in referenced:
                avro.schema.make_avsc_object(json.loads(dependency), names)
            schema = avro.schema.make_avsc_object(document, names)
    except (avro.errors.AvroException, ValueError, TypeError, KeyError, AttributeError) as error:
        raise invalid_schema(str(error)) from error
    _check_defaults(schema, set())
    canonical = json.dumps(
        _canonical(document, "", normalize), ensure_ascii=False, separators=(",", ":"), allow_nan=False
    )
    return ParsedSchema(canonical, schema)


def _canonical(node: Any, space: str, normalize: bool) -> Any:
    if isinstance(node, list):
        return [_canonical(branch, space, normalize) for branch in node]
    if isinstance(node, str):
        owner, _, name = node.rpartition(".")
        return name if owner and owner == space else node
    kind = node["type"]
    if kind in ("array", "map"):
        inner = "items" if kind == "array" else "values"
        head: dict[str, Any] = {"type": kind, inner: _canonical(node[inner], space, normalize)}
        return head | _rest(node, {"type", inner}, normalize)
    if isinstance(kind, str) and kind in _NAMED:
        return _canonical_named(node, kind, space, normalize)
    rest = _rest(node, {"type"}, normalize)
    plain = _canonical(kind, space, normalize)
    return {"type": plain} | rest if rest and isinstance(plain, str) and plain in _PRIMITIVES else plain


def _canonical_named(node: dict[str, Any], kind: str, space: str, normalize: bool) -> dict[str, Any]:
    prefix, _, name = node["name"].rpartition(".")
    own_space = prefix or node.get("namespace", space) or ""
    result: dict[str, Any] = {"type": kind, "name": name}
    if own_space != space:
        result["namespace"] = own_space
    if node.get("doc") is not None:
        result["doc"] = node["doc"]
    known = {"type", "name", "namespace", "doc", "aliases"}
    if kind in ("record", "error"):
        known |= {"fields"}
        result["fields"] = [_canonical_field(field, own_space, normalize) for field in node["fields"]]
    elif kind == "enum":
        known |= {"symbols", "default"}
        result["symbols"] = node["symbols"]
        if "default" in node:
            result["default"] = node["default"]
    else:
        known |= {"size"}
        result["size"] = node["size"]
    result |= _rest(node, known, normalize)
    if node.get("aliases"):
        result["aliases"] = node["aliases"]
    return result


def _canonical_field(field: dict[str, Any], space: str, normalize: bool) -> dict[str, Any]:
    result = {"name": field["name"], "type": _canonical(field["type"], space, normalize)}
    if field.get("doc") is not None:
        result["doc"] = field["doc"]
    if "default" in field:
        result["default"] = field["default"]
    if field.get("order", "ascending") != "ascending":
        result["order"] = field["order"]
    if field.get("aliases"):
        result["aliases"] = field["aliases"]
    return result | _rest(field, {"name", "type", "doc", "default", "order", "aliases"}, normalize)


def _rest(node: dict[str, Any], known: set[str], normalize: bool) -> dict[str, Any]:
    names = [name for name in node if name not in known]
    return {name: node[name] for name in (sorted(names) if normalize else names)}


def _check_defaults(schema: avro.schema.Schema, seen: set[int]) -> None:
    """Refuse a field default its type cannot hold: Apache's parser does not, but readers would fail on it."""
    if id(schema) in seen:
        return
    seen.add(id(schema))
    if isinstance(schema, avro.schema.RecordSchema):
        for field in schema.fields:
            if field.has_default and not _fits(field.type, field.default):
                raise invalid_schema(
                    f"field '{field.name}' of {schema.fullname} has a default that its type does not allow: "
                    f"{json.dumps(field.default)} (a union's default is of its first branch)"
                )
            _check_defaults(field.type, seen)
    elif isinstance(schema, avro.schema.ArraySchema):
        _check_defaults(schema.items, seen)
    elif isinstance(schema, avro.schema.MapSchema):
        _check_defaults(schema.values, seen)
    elif isinstance(schema, avro.schema.UnionSchema):
        for branch in schema.schemas:
            _check_defaults(branch, seen)


def _fits(schema: Any, value: Any) -> bool:
    """Whether `value` is a default for `schema` in the JSON encoding of the Avro specification."""
    match schema.type:
        case "null":
            return value is None
        case "boolean":
            return isinstance(value, bool)
        case "int" | "long":
            limit = _RANGES[schema.type]
            return isinstance(value, int) and not isinstance(value, bool) and -limit <= value < limit
        case "float" | "double":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "string":
            return isinstance(value, str)
        case "bytes":
            return isinstance(value, str) and all(ord(character) < 256 for character in value)
        case "fixed":
            return isinstance(value, str) and len(value) == schema.size and all(ord(c) < 256 for c in value)
        case "enum":
            return value in schema.symbols
        case "array":
            return isinstance(value, list) and all(_fits(schema.items, item) for item in value)
        case "map":
            return isinstance(value, dict) and all(_fits(schema.values, item) for item in value.values())
        case "record":
            return isinstance(value, dict) and all(
                _fits(field.type, value[field.name]) if field.name in value else field.has_default
                for field in schema.fields
            )
        case "union":
            return bool(schema.schemas) and _fits(schema.schemas[0], value)
    return False
