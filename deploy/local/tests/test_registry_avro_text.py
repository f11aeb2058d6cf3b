"""The canonical text: equal schemas are equal texts, and nothing that readers see is lost."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossdock_local.registry.avro_text import parse
from crossdock_local.registry.errors import RegistryError

ORDER = {
    "doc": "An order.",
    "fields": [
        {"default": None, "type": ["null", "string"], "name": "note", "doc": "Free text."},
        {"type": {"logicalType": "timestamp-micros", "type": "long"}, "name": "at"},
        {"name": "money", "type": {"type": "fixed", "size": 8, "name": "retail.Money"}},
        {"name": "again", "type": "retail.Money", "order": "ignore", "aliases": ["more"], "pii": True},
        {"name": "far", "type": {"type": "enum", "name": "other.E", "symbols": ["A"], "default": "A"}},
        {"name": "n", "type": {"type": "int"}, "order": "ascending"},
    ],
    "aliases": ["Purchase"],
    "owner": "orders",
    "namespace": "retail",
    "name": "Order",
    "type": "record",
}


def test_the_text_is_what_avros_java_library_prints() -> None:
    assert parse(json.dumps(ORDER)).text == (
        '{"type":"record","name":"Order","namespace":"retail","doc":"An order.","fields":['
        '{"name":"note","type":["null","string"],"doc":"Free text.","default":null},'
        '{"name":"at","type":{"type":"long","logicalType":"timestamp-micros"}},'
        '{"name":"money","type":{"type":"fixed","name":"Money","size":8}},'
        '{"name":"again","type":"Money","order":"ignore","aliases":["more"],"pii":true},'
        '{"name":"far","type":{"type":"enum","name":"E","namespace":"other","symbols":["A"],"default":"A"}},'
        '{"name":"n","type":"int"}],"owner":"orders","aliases":["Purchase"]}'
    )


def test_the_text_is_a_fixed_point_and_the_same_schema() -> None:
    once = parse(json.dumps(ORDER))
    twice = parse(once.text)
    assert twice.text == once.text
    assert twice.schema.canonical_form == once.schema.canonical_form


@given(st.data())
def test_attribute_order_and_white_space_do_not_matter(data: st.DataObject) -> None:
    def shuffled(node: object) -> object:
        if isinstance(node, dict):
            names = data.draw(st.permutations(list(node)))
            return {name: shuffled(node[name]) for name in names}
        return [shuffled(item) for item in node] if isinstance(node, list) else node

    indent = data.draw(st.sampled_from([None, 1, 4]))
    text = json.dumps(shuffled(ORDER), indent=indent)
    assert parse(text, normalize=True).text == parse(json.dumps(ORDER), normalize=True).text


def test_documentation_and_defaults_tell_schemas_apart() -> None:
    plain = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}]}
    texts = {
        parse(json.dumps(variant)).text
        for variant in (
            plain,
            plain | {"doc": "d"},
            plain | {"fields": [{"name": "a", "type": "int", "default": 0}]},
            plain | {"namespace": "n"},
        )
    }
    assert len(texts) == 4


def test_a_nested_name_without_a_namespace_leaves_the_outer_one() -> None:
    inner = {"type": "record", "name": "In", "namespace": "", "fields": []}
    outer = {"type": "record", "name": "a.Out", "fields": [{"name": "f", "type": inner}]}
    assert '"name":"In","namespace":""' in parse(json.dumps(outer)).text


@pytest.mark.parametrize("kind", ["null", "boolean", "int", "long", "float", "double", "bytes", "string"])
def test_a_primitive_may_be_a_bare_word(kind: str) -> None:
    assert parse(kind).text == parse(json.dumps(kind)).text == parse(json.dumps({"type": kind})).text


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("null", None, 0),
        ("boolean", True, 1),
        ("int", -(2**31), 2**31),
        ("long", 2**63 - 1, 2**63),
        ("double", 1, "1"),
        ("string", "", None),
        ("bytes", "\u00ff", "\u0100"),
        ({"type": "fixed", "name": "F", "size": 2}, "ab", "abc"),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, "A", "B"),
        ({"type": "array", "items": "int"}, [1], ["1"]),
        ({"type": "map", "values": "int"}, {"a": 1}, {"a": "1"}),
        ({"type": "record", "name": "I", "fields": [{"name": "x", "type": "int"}]}, {"x": 1}, {}),
        (["null", "int"], None, 1),
    ],
)
def test_a_default_must_fit_its_type(kind: object, good: object, bad: object) -> None:
    def with_default(default: object) -> str:
        fields = [{"name": "f", "type": kind, "default": default}]
        return json.dumps({"type": "record", "name": "R", "fields": fields})

    parse(with_default(good))
    with pytest.raises(RegistryError, match="'f'"):
        parse(with_default(bad))
