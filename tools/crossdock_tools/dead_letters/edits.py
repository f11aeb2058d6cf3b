"""Edits of a decoded message: `path=value`, held to the record's Avro schema. Pure.

A field that the schema does not have, or a value that is none of its type, is refused with the reason before anything is written.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from crossdock_tools.dead_letters.errors import DeadLetterError
from crossdock_tools.dead_letters.fields import EVERY, Path, shown

_ASSIGNMENT = re.compile(r"^((?:\['[^']*'\]|[^=\[\]]|\[[\d*]+\])+)=(?!=)(.*)$", re.DOTALL)


class Invalid(Exception):
    """A value or a field that the schema does not allow; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """`path=value`: the value is text for text fields, ISO 8601 for times, else JSON."""

    path: Path
    value: str

    @classmethod
    def parse(cls, text: str) -> Assignment:
        """Raises DeadLetterError."""
        found = _ASSIGNMENT.match(text)
        if found is None:
            raise DeadLetterError(f"{text!r} is no edit: write path=value, as in lines[0].sku=SKU-1")
        return cls(Path.parse(found[1]), found[2])

    def apply(self, payload: dict[str, Any], schema: Mapping[str, Any]) -> list[str]:
        """Set the field in a payload of this schema; returns what changed as `path: was -> is`. Raises Invalid."""
        types = _Types(schema)
        places = list(_places(payload, self.path, types, schema))
        if not places:
            raise Invalid(f"the message has no {self.path.text}")
        changes = []
        for place, container, step, node in places:
            was = container.get(step) if isinstance(container, dict) else container[step]
            value = types.fromshown(self.value, node, place)
            container[step] = value
            if value != was:
                changes.append(f"{place}: {shown(was)} -> {shown(value)}")
        return changes


class _Types:
    """The named types of one schema, and values of them."""

    def __init__(self, schema: Any) -> None:
        self._named: dict[str, Mapping[str, Any]] = {}
        self._collect(schema, "")

    def _collect(self, node: Any, namespace: str) -> None:
        if isinstance(node, list):
            for each in node:
                self._collect(each, namespace)
        elif isinstance(node, dict):
            namespace = node.get("namespace", namespace)
            if "name" in node:
                self._named[node["name"]] = node
                self._named[f"{namespace}.{node['name']}"] = node
            for field in node.get("fields", ()):
                self._collect(field["type"], namespace)
            for inner in ("items", "values", "type"):
                if isinstance(node.get(inner), dict | list):
                    self._collect(node[inner], namespace)

    def resolve(self, node: Any) -> Any:
        """The type behind a name; of an optional one the type that is there."""
        if isinstance(node, list):
            present = [each for each in node if each != "null"]
            return self.resolve(present[0]) if len(present) == 1 else node
        if isinstance(node, str) and node in self._named:
            return self._named[node]
        if isinstance(node, dict) and isinstance(node.get("type"), dict | list):
            return self.resolve(node["type"])
        return node

    def fromshown(self, text: str, node: Any, place: str) -> Any:
        """The value that the text means for this type. Raises Invalid."""
        if isinstance(node, list) and "null" in node and text == "null":
            return None
        resolved = self.resolve(node)
        kind = resolved["type"] if isinstance(resolved, dict) else resolved
        logical = resolved.get("logicalType", "") if isinstance(resolved, dict) else ""
        if kind in ("string", "enum", "bytes", "fixed") or logical:
            return self.typed(text, node, place)
        try:
            return self.typed(json.loads(text), node, place)
        except json.JSONDecodeError:
            raise Invalid(f"{place} is {_named(resolved)}, which {text!r} is not") from None

    def typed(self, value: Any, node: Any, place: str) -> Any:
        """A JSON value as what fastavro reads and writes for this type. Raises Invalid."""
        if isinstance(node, list) and value is None and "null" in node:
            return None
        resolved = self.resolve(node)
        kind = resolved["type"] if isinstance(resolved, dict) else resolved
        if isinstance(resolved, dict) and str(resolved.get("logicalType", "")).startswith("timestamp-"):
            return _moment(value, place)
        simple = _SIMPLE.get(kind) if isinstance(kind, str) else None
        if simple is not None:
            if not simple(value):
                raise Invalid(f"{place} is {_named(resolved)}, which {value!r} is not")
            return value
        match kind:
            case "enum":
                if value not in resolved["symbols"]:
                    raise Invalid(f"{place} is one of {', '.join(resolved['symbols'])}, not {value!r}")
                return value
            case "bytes":
                try:
                    return b64decode(value, validate=True)
                except (ValueError, TypeError):
                    raise Invalid(f"{place} holds bytes: give them as base64") from None
            case "array" if isinstance(value, list):
                return [
                    self.typed(each, resolved["items"], f"{place}[{index}]")
                    for index, each in enumerate(value)
                ]
            case "map" if isinstance(value, dict):
                return {
                    key: self.typed(each, resolved["values"], f"{place}.{key}") for key, each in value.items()
                }
            case "record" if isinstance(value, dict):
                return self._record(value, resolved, place)
        raise Invalid(f"{place} is {_named(resolved)}, which {value!r} is not")

    def _record(self, value: dict[str, Any], schema: Mapping[str, Any], place: str) -> dict[str, Any]:
        fields = {field["name"]: field for field in schema["fields"]}
        if unknown := value.keys() - fields.keys():
            raise Invalid(f"{place} has no {', '.join(sorted(unknown))}; it has {', '.join(fields)}")
        typed = {}
        for name, field in fields.items():
            if name not in value and "default" not in field:
                raise Invalid(f"{place} lacks {name}")
            typed[name] = self.typed(value.get(name, field.get("default")), field["type"], f"{place}.{name}")
        return typed


def _places(payload: Any, path: Path, types: _Types, schema: Any) -> Iterator[tuple[str, Any, Any, Any]]:
    """Place as text, container, step in it and type there, of every field that the path leads to. Raises Invalid."""
    found: list[tuple[str, Any, Any]] = [("", payload, schema)]
    for depth, step in enumerate(path.steps):
        last = depth == len(path.steps) - 1
        deeper: list[tuple[str, Any, Any]] = []
        for place, container, node in found:
            for name, inner in _type_inside(container, step, types.resolve(node), place or "the record"):
                there = f"{place}[{name}]" if isinstance(name, int) else f"{place}.{name}".lstrip(".")
                if last:
                    yield there, container, name, inner
                elif container[name] is not None:
                    deeper.append((there, container[name], inner))
        found = deeper


def _type_inside(container: Any, step: str | int, node: Any, place: str) -> Iterator[tuple[Any, Any]]:
    """The steps and types within a container of this type that `step` means."""
    kind = node["type"] if isinstance(node, dict) else node
    if kind == "array" and step != EVERY and isinstance(step, int):
        if step >= len(container):
            raise Invalid(f"{place} has {len(container)} entries, and none at [{step}]")
        yield step, node["items"]
    elif kind == "array" and step == EVERY:
        yield from ((index, node["items"]) for index in range(len(container)))
    elif kind == "record":
        types = {field["name"]: field["type"] for field in node["fields"]}
        if step not in types:
            raise Invalid(f"{place} has no {step}; it has {', '.join(types)}")
        yield step, types[step]
    elif kind == "map" and isinstance(step, str):
        yield step, node["values"]
    else:
        raise Invalid(f"{place} is {_named(node)} and has no {step}")


def _moment(value: Any, place: str) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
    except (ValueError, TypeError):
        raise Invalid(f"{place} is a time: give it as 2026-03-02T09:00:00Z, not {value!r}") from None
    if moment.tzinfo is None:
        raise Invalid(f"{place} is a time, and {value!r} does not say in which zone: add Z or an offset")
    return moment


_SIMPLE: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool) and -(2**31) <= value < 2**31,
    "long": lambda value: (
        isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    ),
    "float": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "double": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
}


def _named(node: Any) -> str:
    if isinstance(node, dict):
        return str(node.get("name") or node["type"])
    return str(node)
