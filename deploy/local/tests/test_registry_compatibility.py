"""Compatibility levels, rule by rule, with the field that each message names."""

import json
from typing import Any

import pytest

from crossdock_local.registry.avro_text import parse
from crossdock_local.registry.compatibility import Level, unreadable, violations


def schema(*fields: dict[str, Any], name: str = "Order", **more: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields), **more}


def field(name: str, kind: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, **more}


def parsed(document: Any):
    return parse(json.dumps(document))


def found(reader: Any, writer: Any) -> list[tuple[str, str]]:
    return [(item.rule, item.field) for item in unreadable(parsed(reader).schema, parsed(writer).schema)]


ID = field("id", "string")
BASE = schema(ID)
WITH_DEFAULT = schema(ID, field("note", "string", default=""))
WITHOUT_DEFAULT = schema(ID, field("note", "string"))
EMPTY = schema()


@pytest.mark.parametrize(
    ("level", "new", "old", "compatible"),
    [
        # Adding a field: with a default anyone may, without one only FORWARD allows it.
        (Level.BACKWARD, WITH_DEFAULT, BASE, True),
        (Level.BACKWARD, WITHOUT_DEFAULT, BASE, False),
        (Level.FORWARD, WITHOUT_DEFAULT, BASE, True),
        (Level.FULL, WITH_DEFAULT, BASE, True),
        (Level.FULL, WITHOUT_DEFAULT, BASE, False),
        # Removing one: BACKWARD allows it, FORWARD only if it had a default.
        (Level.BACKWARD, BASE, WITHOUT_DEFAULT, True),
        (Level.FORWARD, BASE, WITHOUT_DEFAULT, False),
        (Level.FORWARD, BASE, WITH_DEFAULT, True),
        (Level.FULL, BASE, WITH_DEFAULT, True),
        (Level.FULL, BASE, WITHOUT_DEFAULT, False),
        # Widening a type reads old data only.
        (Level.BACKWARD, schema(field("n", "long")), schema(field("n", "int")), True),
        (Level.FORWARD, schema(field("n", "long")), schema(field("n", "int")), False),
        (Level.NONE, schema(field("n", "string")), schema(field("n", "int")), True),
    ],
)
def test_a_level_against_one_earlier_version(level: Level, new: Any, old: Any, compatible: bool) -> None:
    assert (not violations(parsed(new), [(1, parsed(old))], level)) is compatible


@pytest.mark.parametrize(
    ("level", "versions"),
    [
        (Level.BACKWARD, []),
        (Level.BACKWARD_TRANSITIVE, ["BACKWARD with version 1"]),
        (Level.FORWARD, []),
        (Level.FORWARD_TRANSITIVE, []),
        (Level.FULL, []),
        (Level.FULL_TRANSITIVE, ["BACKWARD with version 1"]),
    ],
)
def test_transitive_levels_look_at_every_version(level: Level, versions: list[str]) -> None:
    # Each step is fine by itself: the default is dropped after the field exists.
    history = [(1, parsed(BASE)), (2, parsed(WITH_DEFAULT))]
    messages = violations(parsed(WITHOUT_DEFAULT), history, level)
    assert [message.partition(":")[0] for message in messages] == versions


def test_forward_transitive_looks_at_every_version() -> None:
    history = [
        (1, parsed(schema(ID, field("n", "int")))),
        (2, parsed(schema(ID, field("n", "int", default=1)))),
    ]
    assert violations(parsed(schema(ID)), history, Level.FORWARD) == ()
    [message] = violations(parsed(schema(ID)), history, Level.FORWARD_TRANSITIVE)
    assert message == (
        "FORWARD with version 1: field 'n' breaks READER_FIELD_MISSING_DEFAULT_VALUE "
        "(version 1 has it without a default, and the new schema does not write it)"
    )


@pytest.mark.parametrize(
    ("reader", "writer", "expected"),
    [
        (schema(field("n", "int")), schema(field("n", "string")), [("TYPE_MISMATCH", "n")]),
        (WITHOUT_DEFAULT, BASE, [("READER_FIELD_MISSING_DEFAULT_VALUE", "note")]),
        (schema(ID, name="Invoice"), BASE, [("NAME_MISMATCH", "")]),
        (
            schema(field("s", {"type": "enum", "name": "S", "symbols": ["A"]})),
            schema(field("s", {"type": "enum", "name": "S", "symbols": ["A", "B"]})),
            [("MISSING_ENUM_SYMBOLS", "s")],
        ),
        (
            schema(field("s", {"type": "enum", "name": "S", "symbols": ["A"], "default": "A"})),
            schema(field("s", {"type": "enum", "name": "S", "symbols": ["A", "B"], "default": "A"})),
            [],
        ),
        (
            schema(field("f", {"type": "fixed", "name": "F", "size": 4})),
            schema(field("f", {"type": "fixed", "name": "F", "size": 8})),
            [("FIXED_SIZE_MISMATCH", "f")],
        ),
        (schema(field("u", ["null", "int"])), schema(field("u", "string")), [("MISSING_UNION_BRANCH", "u")]),
        (
            schema(field("u", ["null", "int"])),
            schema(field("u", ["null", "long"])),
            [("MISSING_UNION_BRANCH", "u")],
        ),
        (schema(field("u", "int")), schema(field("u", ["null", "int"])), [("TYPE_MISMATCH", "u")]),
        (schema(field("u", ["null", "long"])), schema(field("u", "int")), []),
        # Deep inside arrays, maps and the branch of a union that was meant.
        (
            schema(field("lines", {"type": "array", "items": schema(field("qty", "int"), name="Line")})),
            schema(field("lines", {"type": "array", "items": schema(field("qty", "long"), name="Line")})),
            [("TYPE_MISMATCH", "lines.qty")],
        ),
        (
            schema(
                field("to", ["null", schema(name="Store"), schema(field("zip", "string"), name="Address")])
            ),
            schema(field("to", ["null", schema(name="Store"), schema(name="Address")])),
            [("READER_FIELD_MISSING_DEFAULT_VALUE", "to.zip")],
        ),
        # Two at once, each with its own field; a renamed record with a change inside.
        (
            schema(field("a", "int"), field("b", "int"), field("c", "int")),
            schema(field("a", "string"), field("b", "int")),
            [("TYPE_MISMATCH", "a"), ("READER_FIELD_MISSING_DEFAULT_VALUE", "c")],
        ),
        (
            schema(field("a", "int"), name="Invoice"),
            schema(field("a", "string")),
            [("TYPE_MISMATCH", "a"), ("NAME_MISMATCH", "")],
        ),
        # Aliases count as the name.
        (schema(field("b", "int", aliases=["a"])), schema(field("a", "int")), []),
        (schema(ID, name="Invoice", aliases=["Order"]), BASE, []),
    ],
)
def test_each_rule_names_its_field(reader: Any, writer: Any, expected: list[tuple[str, str]]) -> None:
    assert found(reader, writer) == expected


def test_a_type_that_contains_itself() -> None:
    def tree(kind: str) -> dict[str, Any]:
        children = field("children", {"type": "array", "items": "Tree"})
        return schema(field("value", kind), children, name="Tree")

    assert found(tree("long"), tree("int")) == []
    assert found(tree("int"), tree("long")) == [("TYPE_MISMATCH", "value")]
