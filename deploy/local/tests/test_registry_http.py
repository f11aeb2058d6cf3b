"""The registry's REST API on an in-memory log: Confluent's paths, answers and error codes."""

import json
from typing import Any

import pytest

from crossdock_local.registry.records import Record, Reference, StoredSchema


def record(name: str, *fields: tuple[Any, ...], **more: Any) -> dict[str, Any]:
    rendered = [
        {"name": field, "type": kind, **({"default": rest[0]} if rest else {})}
        for field, kind, *rest in fields
    ]
    return {"type": "record", "name": name, "fields": rendered, **more}


ORDER = record("Order", ("id", "string"))
ORDER_2 = record("Order", ("id", "string"), ("note", "string", ""))


# --- registering and looking up


def test_a_schema_gets_an_id_and_a_version(registry) -> None:
    schema_id = registry.register("orders-value", ORDER)
    stored = registry.ok("GET", "/subjects/orders-value/versions/1")
    assert stored == {
        "subject": "orders-value",
        "version": 1,
        "id": schema_id,
        "guid": "8b8bd78e-4456-4c99-8d72-64cbe6177dae",
        "schema": '{"type":"record","name":"Order","fields":[{"name":"id","type":"string"}]}',
    }
    assert registry.ok("GET", "/subjects/orders-value/versions/latest") == stored
    content = {"schema": stored["schema"], "guid": stored["guid"]}
    assert registry.ok("GET", f"/schemas/ids/{schema_id}") == content
    assert registry.ok("GET", f"/schemas/ids/{schema_id}/schema") == json.loads(stored["schema"])
    assert registry.ok("GET", "/subjects/orders-value/versions/1/schema") == json.loads(stored["schema"])


def test_the_same_schema_keeps_its_id_in_every_subject_and_writes_nothing_twice(registry) -> None:
    first = registry.register("a", ORDER)
    other = registry.register("a", ORDER_2)
    written = len(registry.topic.records)
    assert registry.register("a", json.dumps(ORDER, indent=3)) == first
    assert len(registry.topic.records) == written
    assert registry.register("b", ORDER) == first != other
    assert registry.ok("GET", f"/schemas/ids/{first}/subjects") == ["a", "b"]
    assert registry.ok("GET", f"/schemas/ids/{first}/versions") == [
        {"subject": "a", "version": 1},
        {"subject": "b", "version": 1},
    ]


def test_a_schema_is_found_by_its_guid_which_needs_no_id(start_registry) -> None:
    registry = start_registry()
    answer = registry.ok("POST", "/subjects/a/versions", {"schema": json.dumps(ORDER)})
    assert answer == {"id": 1, "version": 1, "guid": answer["guid"]}
    registry.register("b", ORDER)
    found = registry.ok("GET", f"/schemas/guids/{answer['guid']}")
    assert found == {"schema": json.dumps(ORDER, separators=(",", ":")), "guid": answer["guid"]}
    assert registry.ok("GET", f"/schemas/guids/{answer['guid'].upper()}") == found
    assert registry.code("GET", "/schemas/guids/00000000-0000-0000-0000-000000000000") == 40403
    other = start_registry(name="elsewhere")
    other.register("x", '"long"')
    again = other.ok("POST", "/subjects/a/versions", {"schema": json.dumps(ORDER)})
    assert (again["id"], again["guid"]) == (2, answer["guid"])


def test_a_guid_goes_with_the_last_version_of_its_schema(registry) -> None:
    guid = registry.ok("POST", "/subjects/a/versions", {"schema": json.dumps(ORDER)})["guid"]
    registry.register("b", ORDER)
    for subject in ("a", "b"):
        assert registry.call("GET", f"/schemas/guids/{guid}")[0] == 200
        registry.ok("DELETE", f"/subjects/{subject}")
        assert registry.call("GET", f"/schemas/guids/{guid}")[0] == 200
        registry.ok("DELETE", f"/subjects/{subject}?permanent=true")
    assert registry.code("GET", f"/schemas/guids/{guid}") == 40403


@pytest.mark.parametrize(
    ("references", "guid"),
    [
        ((), "d629bb05-ad85-3d20-fbcb-895de3c459f7"),
        (
            (
                Reference("io.confluent.kafka.example.User", "User", 1),
                Reference("io.confluent.kafka.example.Address", "Address", 2),
            ),
            "5c08d70e-5347-41b2-6369-199425d044eb",
        ),
    ],
)
def test_guids_are_those_that_confluents_registry_derives(references: tuple, guid: str) -> None:
    """Its own regression vectors (schema-md5-golden-data.json): a header written there must be found here."""
    fields = [("name", "string"), ("age", "int"), ("ssn", "string")]
    fields += [(name, f"io.confluent.kafka.example.{name.title()}") for name in ("user", "address")]
    person = {"type": "record", "name": "Person", "namespace": "io.confluent.kafka.example"}
    person["fields"] = record("Person", *fields)["fields"]
    text = json.dumps(person, separators=(",", ":"))
    assert StoredSchema("Person", 1, 100, text, references).guid == guid


def test_lookup_finds_the_version_of_a_text(registry) -> None:
    registry.register("a", ORDER)
    registry.register("a", ORDER_2)
    assert registry.ok("POST", "/subjects/a", {"schema": json.dumps(ORDER_2)})["version"] == 2
    assert registry.code("POST", "/subjects/none", {"schema": json.dumps(ORDER)}) == 40401
    assert registry.code("POST", "/subjects/a", {"schema": '"string"'}) == 40403


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/subjects/none/versions", 40401),
        ("/subjects/none/versions/1", 40401),
        ("/subjects/a/versions/7", 40402),
        ("/subjects/a/versions/0", 42202),
        ("/subjects/a/versions/first", 42202),
        ("/schemas/ids/99", 40403),
        ("/schemas/ids/99/versions", 40403),
        ("/config/a", 40408),
        ("/mode/a", 40409),
        ("/nothing/here", 404),
    ],
)
def test_what_is_not_there_has_its_code(registry, path: str, code: int) -> None:
    registry.register("a", ORDER)
    assert registry.code("GET", path) == code


@pytest.mark.parametrize(
    "schema",
    [
        "",
        "not json",
        '{"type":"record","name":"R"}',
        '{"type":"nothing"}',
        '{"type":"enum","name":"E","symbols":["A"],"default":"B"}',
        json.dumps(record("R", ("f", "int", "seven"))),
        json.dumps(record("R", ("f", ["null", "string"], "x"))),
        json.dumps(record("R", ("f", "int", 2**31))),
    ],
)
def test_an_invalid_schema_is_refused(registry, schema: str) -> None:
    assert registry.code("POST", "/subjects/a/versions", {"schema": schema}) == 42201
    assert registry.ok("GET", "/subjects") == []


@pytest.mark.parametrize(
    "more", [{"schemaType": "PROTOBUF"}, {"ruleSet": {"domainRules": []}, "metadata": {"a": 1}}]
)
def test_what_this_registry_does_not_hold_is_refused_not_ignored(registry, more: dict[str, Any]) -> None:
    assert registry.code("POST", "/subjects/a/versions", {"schema": '"string"', **more}) == 42201


def test_a_body_that_is_not_json_is_refused(registry) -> None:
    assert registry.code("POST", "/subjects/a/versions", content=b"{") == 400
    assert registry.code("PUT", "/config", [1]) == 400


def test_normalize_makes_property_order_irrelevant(registry) -> None:
    one = record("R", ("f", {"type": "string", "b": 1, "a": 2}))
    two = record("R", ("f", {"type": "string", "a": 2, "b": 1}))
    first = registry.ok("POST", "/subjects/a/versions?normalize=true", {"schema": json.dumps(one)})
    assert registry.ok("POST", "/subjects/a/versions?normalize=true", {"schema": json.dumps(two)}) == first
    assert registry.ok("POST", "/subjects/a?normalize=true", {"schema": json.dumps(two)})["version"] == 1
    assert registry.register("a", one) != first["id"]
    registry.ok("PUT", "/config/b", {"normalize": True})
    assert registry.register("b", one) == registry.register("b", two) == first["id"]


def test_listings(registry) -> None:
    registry.register("b", ORDER)
    registry.register("a", ORDER)
    registry.register("a", ORDER_2)
    assert registry.ok("GET", "/subjects") == ["a", "b"]
    assert registry.ok("GET", "/subjects?subjectPrefix=a") == ["a"]
    assert registry.ok("GET", "/subjects/a/versions") == [1, 2]
    assert [entry["version"] for entry in registry.ok("GET", "/schemas?subjectPrefix=a")] == [1, 2]
    assert [entry["version"] for entry in registry.ok("GET", "/schemas?latestOnly=true")] == [2, 1]
    assert registry.ok("GET", "/schemas/types") == ["AVRO"]
    assert registry.ok("GET", "/schemas/ids/1?fetchMaxId=true")["maxId"] == 2


# --- deleting


def test_soft_delete_hides_a_subject_but_not_its_ids(registry) -> None:
    schema_id = registry.register("a", ORDER)
    registry.register("a", ORDER_2)
    assert registry.ok("DELETE", "/subjects/a") == [1, 2]
    assert registry.ok("GET", "/subjects") == []
    assert registry.ok("GET", "/subjects?deleted=true") == ["a"]
    assert registry.ok("GET", "/subjects?deletedOnly=true") == ["a"]
    assert registry.ok("GET", "/subjects/a/versions?deleted=true") == [1, 2]
    assert registry.ok("GET", "/subjects/a/versions/2?deleted=true")["version"] == 2
    assert registry.code("GET", "/subjects/a/versions/1") == 40401
    assert registry.get(f"/schemas/ids/{schema_id}")[0] == 200
    assert registry.ok("GET", f"/schemas/ids/{schema_id}/subjects") == []
    assert registry.ok("GET", f"/schemas/ids/{schema_id}/subjects?deleted=true") == ["a"]
    assert registry.code("DELETE", "/subjects/a") == 40404


def test_a_schema_registered_again_after_a_soft_delete_is_a_new_version_with_its_old_id(registry) -> None:
    schema_id = registry.register("a", ORDER)
    registry.ok("DELETE", "/subjects/a")
    assert registry.register("a", ORDER) == schema_id
    assert registry.ok("GET", "/subjects/a/versions") == [2]


def test_hard_delete_wants_a_soft_delete_first_and_takes_the_settings_along(registry) -> None:
    schema_id = registry.register("a", ORDER)
    registry.ok("PUT", "/config/a", {"compatibility": "NONE"})
    assert registry.code("DELETE", "/subjects/a?permanent=true") == 40405
    registry.ok("DELETE", "/subjects/a")
    assert registry.ok("DELETE", "/subjects/a?permanent=true") == [1]
    assert registry.ok("GET", "/subjects?deleted=true") == []
    assert registry.code("GET", f"/schemas/ids/{schema_id}") == 40403
    assert registry.code("GET", "/config/a") == 40408
    assert registry.code("DELETE", "/subjects/a") == 40401


def test_deleting_one_version(registry) -> None:
    registry.register("a", ORDER)
    registry.register("a", ORDER_2)
    assert registry.code("DELETE", "/subjects/a/versions/1?permanent=true") == 40407
    assert registry.ok("DELETE", "/subjects/a/versions/latest") == 2
    assert registry.ok("GET", "/subjects/a/versions/latest")["version"] == 1
    assert registry.code("DELETE", "/subjects/a/versions/2") == 40406
    assert registry.ok("DELETE", "/subjects/a/versions/2?permanent=true") == 2
    assert registry.code("DELETE", "/subjects/a/versions/2") == 40402
    assert registry.ok("GET", "/subjects/a/versions?deleted=true") == [1]


def test_an_id_is_never_given_out_twice_even_after_hard_delete_compaction_and_restart(
    registry, start_registry
) -> None:
    registry.register("a", ORDER)
    gone = registry.register("b", ORDER_2)
    registry.ok("DELETE", "/subjects/b")
    registry.ok("DELETE", "/subjects/b?permanent=true")
    again = start_registry(registry.topic.compacted(), name="later")
    assert again.register("c", '"long"') == gone + 1


# --- references


def test_references(registry) -> None:
    line = record("Line", ("sku", "string"), namespace="retail")
    order = record("Order", ("lines", {"type": "array", "items": "retail.Line"}), namespace="retail")
    line_id = registry.register("line", line)
    references = [{"name": "retail.Line", "subject": "line", "version": 1}]
    assert registry.code("POST", "/subjects/order/versions", {"schema": json.dumps(order)}) == 42201
    missing = [{"name": "retail.Line", "subject": "line", "version": 9}]
    body = {"schema": json.dumps(order), "references": missing}
    assert registry.code("POST", "/subjects/order/versions", body) == 42201
    order_id = registry.register("order", order, references=references)
    assert order_id != line_id
    found = registry.ok("GET", f"/schemas/ids/{order_id}")
    assert found["references"] == references
    assert registry.ok("GET", f"/schemas/guids/{found['guid']}") == found
    assert registry.ok("GET", "/subjects/line/versions/1/referencedby") == [order_id]
    assert registry.code("DELETE", "/subjects/line") == 42206
    assert registry.code("DELETE", "/subjects/line/versions/1") == 42206
    registry.ok("DELETE", "/subjects/order")
    assert registry.ok("DELETE", "/subjects/line") == [1]


# --- settings


def test_config_falls_back_from_subject_to_global_to_backward(registry) -> None:
    assert registry.ok("GET", "/config") == {"compatibilityLevel": "BACKWARD"}
    assert registry.ok("PUT", "/config", {"compatibility": "full"}) == {"compatibility": "FULL"}
    assert registry.ok("GET", "/config/a?defaultToGlobal=true") == {"compatibilityLevel": "FULL"}
    assert registry.ok("PUT", "/config/a", {"compatibility": "NONE"}) == {"compatibility": "NONE"}
    assert registry.ok("GET", "/config/a") == {"compatibilityLevel": "NONE"}
    assert registry.ok("DELETE", "/config/a") == {"compatibilityLevel": "NONE"}
    assert registry.code("DELETE", "/config/a") == 40401
    assert registry.ok("DELETE", "/config") == {"compatibilityLevel": "FULL"}
    assert registry.ok("GET", "/config") == {"compatibilityLevel": "BACKWARD"}
    assert registry.code("PUT", "/config", {"compatibility": "SOMEHOW"}) == 42203
    assert registry.code("PUT", "/config", {}) == 42203


def test_readonly_refuses_changes(registry) -> None:
    registry.register("a", ORDER)
    registry.ok("PUT", "/mode/a", {"mode": "READONLY"})
    assert registry.ok("GET", "/mode/a") == {"mode": "READONLY"}
    assert registry.code("POST", "/subjects/a/versions", {"schema": json.dumps(ORDER_2)}) == 42205
    assert registry.code("DELETE", "/subjects/a") == 42205
    assert registry.code("DELETE", "/subjects/a/versions/1") == 42205
    assert registry.code("PUT", "/config/a", {"compatibility": "NONE"}) == 42205
    assert registry.register("b", ORDER) == 1
    assert registry.ok("DELETE", "/mode/a") == {"mode": "READONLY"}
    assert registry.ok("GET", "/mode/a?defaultToGlobal=true") == {"mode": "READWRITE"}
    registry.ok("PUT", "/mode", {"mode": "READONLY"})
    assert registry.code("POST", "/subjects/b/versions", {"schema": json.dumps(ORDER_2)}) == 42205
    assert registry.code("PUT", "/config", {"compatibility": "NONE"}) == 42205
    assert registry.code("PUT", "/mode", {"mode": "SOMETIMES"}) == 42204


def test_import_keeps_foreign_ids(registry) -> None:
    body = {"schema": json.dumps(ORDER), "id": 100, "version": 7}
    assert registry.code("POST", "/subjects/a/versions", body) == 42205
    registry.ok("PUT", "/mode/a", {"mode": "IMPORT"})
    assert registry.ok("POST", "/subjects/a/versions", body)["id"] == 100
    assert registry.ok("GET", "/subjects/a/versions") == [7]
    assert registry.code("POST", "/subjects/a/versions", {"schema": json.dumps(ORDER)}) == 42205
    assert registry.code("POST", "/subjects/a/versions", {**body, "schema": '"int"'}) == 42207
    assert registry.code("POST", "/subjects/a/versions", {**body, "schema": '"int"', "id": 101}) == 42207
    assert registry.register("b", '"long"') == 101
    assert registry.code("PUT", "/mode/b", {"mode": "IMPORT"}) == 42205
    assert registry.ok("PUT", "/mode/b?force=true", {"mode": "IMPORT"}) == {"mode": "IMPORT"}


# --- compatibility


def test_an_incompatible_schema_is_refused_naming_field_and_rule(registry) -> None:
    registry.register("a", ORDER)
    body = {"schema": json.dumps(record("Order", ("id", "string"), ("total", "long")))}
    status, answer = registry.call("POST", "/subjects/a/versions", body)
    assert (status, answer["error_code"]) == (409, 409)
    assert "'total'" in answer["message"]
    assert "READER_FIELD_MISSING_DEFAULT_VALUE" in answer["message"]
    assert registry.ok("GET", "/subjects/a/versions") == [1]


def test_the_compatibility_test_registers_nothing(registry) -> None:
    registry.register("a", ORDER)
    wrong = {"schema": json.dumps(record("Order", ("id", "long")))}
    right = {"schema": json.dumps(ORDER_2)}
    for path in ("/compatibility/subjects/a/versions/latest", "/compatibility/subjects/a/versions/1"):
        assert registry.ok("POST", path, right) == {"is_compatible": True}
        assert registry.ok("POST", path, wrong) == {"is_compatible": False}
        verbose = registry.ok("POST", f"{path}?verbose=true", wrong)
        assert "'id'" in verbose["messages"][0]
        assert "TYPE_MISMATCH" in verbose["messages"][0]
    assert registry.ok("POST", "/compatibility/subjects/a/versions", wrong) == {"is_compatible": False}
    assert registry.code("POST", "/compatibility/subjects/a/versions/9", right) == 40402
    assert registry.code("POST", "/compatibility/subjects/none/versions/1", right) == 40401
    assert registry.ok("POST", "/compatibility/subjects/none/versions/latest", right)["is_compatible"]
    assert registry.ok("GET", "/subjects/a/versions") == [1]


def test_a_soft_deleted_version_no_longer_binds(registry) -> None:
    registry.register("a", ORDER)
    registry.ok("DELETE", "/subjects/a/versions/1")
    registry.register("a", record("Order", ("id", "long")))


# --- the topic


def test_the_records_are_confluents(registry) -> None:
    registry.register("a", '"string"')
    registry.ok("PUT", "/config", {"compatibility": "FULL"})
    registry.ok("PUT", "/mode/a", {"mode": "READWRITE"})
    registry.ok("DELETE", "/subjects/a")
    registry.ok("DELETE", "/subjects/a?permanent=true")
    written = [(r.key.decode(), r.value.decode() if r.value else None) for r in registry.topic.records]
    assert [line for line in written if "NOOP" not in line[0]] == [
        (
            '{"keytype":"SCHEMA","subject":"a","version":1,"magic":1}',
            '{"subject":"a","version":1,"id":1,"schema":"\\"string\\"","deleted":false}',
        ),
        ('{"keytype":"CONFIG","magic":0}', '{"compatibilityLevel":"FULL"}'),
        ('{"keytype":"MODE","subject":"a","magic":0}', '{"mode":"READWRITE"}'),
        ('{"keytype":"DELETE_SUBJECT","subject":"a","magic":0}', '{"subject":"a","version":1}'),
        ('{"keytype":"SCHEMA","subject":"a","version":1,"magic":1}', None),
        ('{"keytype":"MODE","subject":"a","magic":0}', None),
    ]


def test_a_restart_and_a_compaction_change_nothing(registry, start_registry) -> None:
    registry.register("a", ORDER)
    registry.register("a", ORDER_2)
    registry.register("b", ORDER_2)
    registry.ok("DELETE", "/subjects/a/versions/1")
    registry.ok("DELETE", "/subjects/b")
    registry.register("b", '"string"')
    registry.ok("PUT", "/config/a", {"compatibility": "FULL_TRANSITIVE"})
    registry.ok("PUT", "/mode/b", {"mode": "READONLY"})
    paths = ["/schemas?deleted=true", "/schemas", "/config/a", "/mode/b", "/subjects?deletedOnly=true"]
    before = [registry.get(path) for path in paths]
    for topic in (registry.topic, registry.topic.compacted()):
        again = start_registry(topic, name=f"later-{len(topic.records)}")
        assert [again.get(path) for path in paths] == before


def test_what_a_newer_confluent_registry_wrote_is_read_and_the_unknown_passed_over(
    registry, start_registry
) -> None:
    def line(key: dict[str, Any], value: Any) -> Record:
        return Record(json.dumps(key).encode(), None if value is None else json.dumps(value).encode())

    topic = type(registry.topic)()
    topic.records = [
        line({"keytype": "NOOP", "magic": 0}, None),
        line({"keytype": "CONTEXT", "tenant": "default", "context": ".", "magic": 0}, {"context": "."}),
        line(
            {"keytype": "SCHEMA", "subject": "orders-value", "version": 1, "magic": 1},
            {
                "subject": "orders-value",
                "version": 1,
                "id": 1,
                "guid": "x",
                "ts": 1,
                "deleted": False,
                "schema": '"string"',
                "schemaTags": None,
                "metadata": None,
                "ruleSet": None,
            },
        ),
        line(
            {"keytype": "SCHEMA", "subject": "proto", "version": 1, "magic": 1},
            {
                "subject": "proto",
                "version": 1,
                "id": 2,
                "schemaType": "PROTOBUF",
                "deleted": False,
                "schema": "message M {}",
            },
        ),
        Record(b"not json", b"{}"),
    ]
    reader = start_registry(topic)
    assert reader.ok("GET", "/subjects") == ["orders-value", "proto"]
    assert reader.ok("GET", "/schemas/ids/1")["schema"] == '"string"'
    assert reader.ok("GET", "/schemas/ids/2")["schemaType"] == "PROTOBUF"
    assert reader.register("next", '"int"') == 3
