"""`crossdock schemas check`: nothing to find in the repository, and every rule finds its breach in a broken copy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from crossdock_tools.schemas.check import Finding, check, release
from crossdock_tools.schemas.contracts import ContractError, Repository, find_schemas


class Schemas(Protocol):
    @property
    def schemas(self) -> Path: ...
    @property
    def repository(self) -> Repository: ...
    def path(self, name: str) -> Path: ...
    def edit(self, name: str, change: Callable[[Any], object], *, save_as: str | None = None) -> None: ...
    def next_version(self, name: str, change: Callable[[Any], object], **example: Any) -> None: ...


HELD = "order/OrderHeld"
HELD_AVSC, HELD_JSON = f"{HELD}.v1.avsc", f"{HELD}.v1.json"
ORDER_EVENTS, RETURN_EVENTS = "retail.order.events.v1.yaml", "retail.return.events.v1.yaml"
STATE = "state/returns/OrderReturns.v1.avsc"


def member(name: str, record: Any) -> Any:
    """A field of a record by name."""
    return next(each for each in record["fields"] if each["name"] == name)


def test_the_repository_breaks_no_rule() -> None:
    assert check(Repository(find_schemas())) == []


def test_an_untouched_copy_breaks_no_rule(workspace: Schemas) -> None:
    assert check(workspace.repository) == []


def breach(file: str, change: Callable[[Any], object]) -> Callable[[Schemas], None]:
    return lambda copy: copy.edit(file, change)


def second_version(change: Callable[[Any], object]) -> Callable[[Schemas], None]:
    return lambda copy: copy.next_version(HELD, change)


def released_then(change: Callable[[Schemas], object]) -> Callable[[Schemas], None]:
    def act(copy: Schemas) -> None:
        release(copy.repository)
        change(copy)

    return act


def without_meta_first(schema: Any) -> None:
    schema["fields"] = [*schema["fields"][1:], schema["fields"][0]]


def drop_field(name: str) -> Callable[[Any], None]:
    def change(schema: Any) -> None:
        schema["fields"].remove(member(name, schema))

    return change


def retype(name: str, kind: Any) -> Callable[[Any], None]:
    return lambda schema: member(name, schema).update(type=kind)


def add_field(**entries: Any) -> Callable[[Any], None]:
    return lambda schema: schema["fields"].append({"doc": "New.", **entries})


BREACHES: dict[str, tuple[Callable[[Schemas], None], str, str, str]] = {
    # what is broken: (how, file of the finding, rule, words of the finding)
    "unknown type": (breach(HELD_AVSC, retype("owner", "strin")), f"avro/{HELD_AVSC}", "syntax", "strin"),
    "version in the namespace": (
        breach(HELD_AVSC, lambda s: s.update(namespace="retail.order.v1")),
        f"avro/{HELD_AVSC}", "naming", "without a version",
    ),
    "namespace of another folder": (
        breach(HELD_AVSC, lambda s: s.update(namespace="retail.payment")),
        f"avro/{HELD_AVSC}", "naming", "retail.order only",
    ),
    "camel-case field": (
        breach(HELD_AVSC, lambda s: member("owner", s).update(name="ownerTeam")),
        f"avro/{HELD_AVSC}", "naming", "ownerTeam is not snake_case",
    ),
    "topic name of no kind": (
        lambda copy: copy.edit(ORDER_EVENTS, lambda t: t.update(topic="retail.order_stream.v1"),
                               save_as="retail.order_stream.v1.yaml"),
        "topics/retail.order_stream.v1.yaml", "naming", "retail.<subject>.<kind>.v<major>",
    ),
    "envelope not first": (breach(HELD_AVSC, without_meta_first), f"avro/{HELD_AVSC}", "envelope", "first field"),
    "no identity": (breach(HELD_AVSC, lambda s: s.pop("identity")), f"avro/{HELD_AVSC}", "envelope", "identity"),
    "identity of no field": (
        breach(HELD_AVSC, lambda s: s.update(identity=["hold_number"])),
        f"avro/{HELD_AVSC}", "envelope", "hold_number",
    ),
    "state without timers": (breach(STATE, drop_field("timers")), f"avro/{STATE}", "envelope", "timers"),
    "undocumented field": (
        breach(HELD_AVSC, lambda s: member("owner", s).pop("doc")),
        f"avro/{HELD_AVSC}", "docs", "OrderHeld.owner needs a doc",
    ),
    "undocumented type": (breach(HELD_AVSC, lambda s: s.update(doc="")), f"avro/{HELD_AVSC}", "docs", "OrderHeld"),
    "enum without default": (
        breach("order/OrderCancelled.v1.avsc", lambda s: enum_of(s).pop("default")),
        "avro/order/OrderCancelled.v1.avsc", "evolution", "needs a default symbol",
    ),
    "a shared type in other words": (
        breach("payment/VoidPayment.v1.avsc", lambda s: member("amount", s)["type"].update(doc="Some money.")),
        "avro/payment/VoidPayment.v1.avsc", "shared definitions", "retail.common.Money differs",
    ),
    "no example": (lambda copy: copy.path(HELD_JSON).unlink(), f"avro/{HELD_AVSC}", "example", "is missing"),
    "example of nothing": (
        lambda copy: copy.edit(HELD_JSON, lambda _: None, save_as="order/OrderLost.v1.json"),
        "examples/order/OrderLost.v1.json", "example", "without a contract",
    ),
    "example without a field": (
        breach(HELD_JSON, lambda value: value.pop("order_id")), f"avro/{HELD_AVSC}", "example", "order_id",
    ),
    "example with a stray field": (
        breach(HELD_JSON, lambda value: value.update(colour="red")), f"avro/{HELD_AVSC}", "example", "colour",
    ),
    "example of a wrong type": (
        breach(HELD_JSON, lambda value: value.update(order_id=7)), f"avro/{HELD_AVSC}", "example", "does not encode",
    ),
    "v2 without a field that had no default": (
        second_version(drop_field("reason_code")),
        f"avro/{HELD}.v2.avsc", "compatibility", "cannot be read by v1: field reason_code",
    ),
    "v2 with a field without default": (
        second_version(add_field(name="severity", type="string")),
        f"avro/{HELD}.v2.avsc", "compatibility", "cannot read v1: field severity",
    ),
    "v2 with a changed type": (
        second_version(retype("reason_code", "long")), f"avro/{HELD}.v2.avsc", "compatibility", "cannot read v1: field reason_code",
    ),
    "released file changed": (
        released_then(breach(HELD_AVSC, lambda s: s.update(doc="Another."))),
        f"avro/{HELD_AVSC}", "released", "write the next version",
    ),
    "released file deleted": (
        released_then(lambda copy: copy.path(HELD_AVSC).unlink()), f"avro/{HELD_AVSC}", "released", "restore it",
    ),
    "record on no topic": (
        breach(ORDER_EVENTS, lambda t: t["records"].remove("retail.order.OrderHeld")),
        f"avro/{HELD_AVSC}", "catalogue", "no topic carries it",
    ),
    "record on two topics": (
        breach(RETURN_EVENTS, lambda t: t["records"].append("retail.order.OrderHeld")),
        f"topics/{RETURN_EVENTS}", "catalogue", "is already on retail.order.events.v1",
    ),
    "record of no contract": (
        breach(ORDER_EVENTS, lambda t: t["records"].append("retail.order.OrderLost")),
        f"topics/{ORDER_EVENTS}", "catalogue", "retail.order.OrderLost has no contract",
    ),
    "key of no field": (
        breach(ORDER_EVENTS, lambda t: t.update(key=["sku"])), f"topics/{ORDER_EVENTS}", "catalogue", "lacks the key",
    ),
    "consumed from another topic": (
        breach(ORDER_EVENTS, lambda t: t["consumers"]["returns"].append("retail.stock.StockMoved")),
        f"topics/{ORDER_EVENTS}", "catalogue", "consumed retail.stock.StockMoved is not on the topic",
    ),
    "unequal partition counts": (
        breach(ORDER_EVENTS, lambda t: t.update(partitions=8)), "topics", "catalogue", "one partition count",
    ),
    "consumer that the catalogue forgot": (
        breach(ORDER_EVENTS, lambda t: t["consumers"]["returns"].remove("retail.order.OrderShipped")),
        "services/returns", "catalogue", "the catalogue does not say that it consumes retail.order.OrderShipped",
    ),
    "consumer that the code forgot": (
        breach(ORDER_EVENTS, lambda t: t["consumers"]["returns"].append("retail.order.OrderHeld")),
        "services/returns", "catalogue", "the code does not say that it consumes retail.order.OrderHeld",
    ),
    "producer that the catalogue forgot": (
        breach(ORDER_EVENTS, lambda t: t.update(producers=["returns"])),
        "services/order-orchestrator", "catalogue", "does not say that it produces retail.order.OrderHeld",
    ),
    "producer that the code forgot": (
        breach(ORDER_EVENTS, lambda t: t["producers"].append("returns")),
        "services/returns", "catalogue", "produces to retail.order.events.v1, the code does not",
    ),
}  # fmt: skip


def enum_of(schema: Any) -> Any:
    """The first enum of a record's fields."""
    return next(
        each["type"]
        for each in schema["fields"]
        if isinstance(each["type"], dict) and each["type"]["type"] == "enum"
    )


@pytest.mark.parametrize("name", BREACHES)
def test_a_breach_is_found(workspace: Schemas, name: str) -> None:
    act, where, rule, words = BREACHES[name]
    act(workspace)
    findings = check(workspace.repository)
    assert any(f.where == where and f.rule == rule and words in f.detail for f in findings), told(findings)


def told(findings: list[Finding]) -> str:
    return "\n".join(f"{each.where}: {each.rule}: {each.detail}" for each in findings) or "no finding at all"


@pytest.mark.parametrize(("kind", "default"), [("string", "normal"), (["null", "string"], None)])
def test_a_second_version_may_add_a_field_with_a_default(workspace: Schemas, kind: Any, default: Any) -> None:
    release(workspace.repository)
    workspace.next_version(HELD, add_field(name="severity", type=kind, default=default), severity="high")
    assert check(workspace.repository) == []
    assert release(workspace.repository) == [f"avro/{HELD}.v2.avsc"]


def test_a_state_may_drop_a_field_because_nobody_old_reads_the_new(workspace: Schemas) -> None:
    workspace.edit(STATE, drop_field("order_id"), save_as=STATE.replace(".v1.", ".v2."))
    assert [f for f in check(workspace.repository) if f.rule == "compatibility"] == []


def test_a_release_is_entered_once(workspace: Schemas) -> None:
    assert f"avro/{HELD_AVSC}" in release(workspace.repository)
    assert release(workspace.repository) == []
    assert check(workspace.repository) == []


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (HELD_AVSC, "{", "not JSON"),
        (HELD_AVSC, json.dumps({"type": "enum"}), "must hold one record named OrderHeld"),
        (ORDER_EVENTS, "topic: retail.order.events.v1", "'owner' is missing"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(workspace: Schemas, name: str, text: str, words: str) -> None:
    workspace.path(name).write_text(text)
    with pytest.raises(ContractError, match=words) as refused:
        check(workspace.repository)
    assert name in str(refused.value)
