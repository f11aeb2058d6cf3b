"""Fields by path: what a condition selects, what an edit may change, and why it may not."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from crossdock_canonical.money import Money
from crossdock_canonical.records import CancelRequested, ChannelOrderReceived, PaymentCaptured
from crossdock_canonical.specification import T0
from crossdock_eventing.codec import Codec
from crossdock_eventing.envelope import Meta
from crossdock_eventing.registry import MemoryRegistry, UnknownSchema
from crossdock_simulation.planting import an_order
from crossdock_tools.dead_letters.edits import Assignment, Invalid
from crossdock_tools.dead_letters.errors import DeadLetterError
from crossdock_tools.dead_letters.fields import Path, Predicate
from crossdock_tools.dead_letters.payloads import Payloads
from crossdock_tools.dead_letters.worth import may_name_money, money_text, worth

PAYLOAD: dict[str, Any] = {
    "meta": {"attributes": {"channel.note": "gift"}, "recorded_at": datetime(2026, 3, 2, 9, tzinfo=UTC)},
    "lines": [{"sku": "A", "units": 2}, {"sku": "B-7", "units": 11}],
    "total": {"minor": 1999, "currency": "EUR"},
    "paid": True,
    "note": None,
    "text": "12",
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("total.minor", [1999]),
        ("$.total.minor", [1999]),
        ("lines[1].sku", ["B-7"]),
        ("lines[*].units", [2, 11]),
        ("lines[9].sku", []),
        ("nothing.here", []),
        ("meta.attributes['channel.note']", ["gift"]),
        ("meta.attributes[*]", ["gift"]),
        ("total[0]", []),
    ],
)
def test_a_path_leads_to_values(path: str, found: list[Any]) -> None:
    assert list(Path.parse(path).values(PAYLOAD)) == found


@pytest.mark.parametrize("path", ["", "$", "a..b", "a[", "a[x]", "a[-1]", "a b", "[*"])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(DeadLetterError, match="no path of fields"):
        Path.parse(path)


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("total.minor==1999", True),
        ("total.minor == 1999", True),
        ("total.minor==1999.0", True),
        ("total.minor!=1999", False),
        ("total.minor<2000", True),
        ("total.minor>1999", False),
        ("total.minor==abc", False),
        ("lines[*].sku==B-7", True),
        ("lines[*].sku!=A", True),
        ("lines[0].sku!=A", False),
        ("lines[*].units>10", True),
        ("lines[*].sku~^B-\\d$", True),
        ("lines[*].sku~^C", False),
        ("paid==true", True),
        ("paid==1", False),
        ("note==null", True),
        ("nothing==x", False),
        ("nothing!=x", False),
        ("text==12", True),
        ("text<2", True),
        ("meta.recorded_at>2026-03-02T08:59:59Z", True),
        ("meta.recorded_at==2026-03-02T10:00:00+01:00", True),
        ("meta.attributes['channel.note']==gift", True),
    ],
)
def test_a_condition_holds_for_any_value_of_its_path(condition: str, holds: bool) -> None:
    assert Predicate.parse(condition).holds(PAYLOAD) is holds


@pytest.mark.parametrize("condition", ["total.minor", "==3", "a=3", "a~(", "a b==3", ""])
def test_what_is_no_condition_is_refused(condition: str) -> None:
    with pytest.raises(DeadLetterError):
        Predicate.parse(condition)


@pytest.mark.parametrize(
    "condition", ["total.minor<abc", "paid<true", "meta.recorded_at>2026-03-02T09:00:00"]
)
def test_what_has_no_order_is_not_compared(condition: str) -> None:
    with pytest.raises(DeadLetterError, match="cannot be compared"):
        Predicate.parse(condition).holds(PAYLOAD)


META = Meta(event_id="e1", correlation_id="o1", occurred_at=T0, recorded_at=T0, source="/test")
ORDER = an_order(1, ("A", 2, 2000))
KINDS = (ChannelOrderReceived, CancelRequested, PaymentCaptured)


class Desk:
    """A registry that knows the contracts, and messages under it."""

    def __init__(self) -> None:
        self.registry = MemoryRegistry()
        self.codec = Codec(self.registry, written=[(kind, kind.TOPIC) for kind in KINDS], read=KINDS)
        self.payloads = Payloads(self.registry)

    def edit(self, *edits: str, record: Any = ORDER) -> tuple[Any, list[str]]:
        value = self.codec.encode(record, META)
        written, changes = self.payloads.edit(value, (), [Assignment.parse(each) for each in edits])
        return self.codec.decode(written)[1], changes


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_an_edit_changes_what_it_says_and_nothing_else(desk: Desk) -> None:
    after, changes = desk.edit("lines[0].items[0].value=B", "total.minor=5", "placed_at=2026-03-01T00:00:00Z")
    assert changes == [
        "lines[0].items[0].value: A -> B",
        f"total.minor: {ORDER.total and ORDER.total.minor} -> 5",
        f"placed_at: {T0.isoformat()} -> 2026-03-01T00:00:00+00:00",
    ]
    plain, was = after.to_avro(), ORDER.to_avro()
    plain["lines"][0]["items"][0]["value"] = "A"
    plain["total"]["minor"] = was["total"]["minor"]
    plain["placed_at"] = was["placed_at"]
    assert plain == was


def test_every_element_an_optional_record_and_an_enumeration_can_be_edited(desk: Desk) -> None:
    two = an_order(1, ("A", 2, 2000), ("B", 1, 100))
    after, changes = desk.edit("lines[*].units=7", record=two)
    assert ([line.units for line in after.lines], len(changes)) == ([7, 7], 2)
    assert desk.edit("total=null")[0].total is None
    after, _ = desk.edit('presentment_total={"minor": 3, "currency": "USD"}')
    assert after.presentment_total == Money(minor=3, currency="USD")
    assert desk.edit("status=CANCELLED")[0].status == "CANCELLED"
    note, _ = desk.edit("meta.attributes['channel.note']=fixed by hand")
    assert note == ORDER


def test_an_edit_that_changes_nothing_says_so(desk: Desk) -> None:
    assert desk.edit("currency=EUR") == (ORDER, [])


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        ("nothing=1", "the record has no nothing; it has meta, order_id"),
        ("lines[0].nothing=1", "lines[0] has no nothing"),
        ("lines[4].units=1", "lines has 1 entries, and none at [4]"),
        ("total.minor=abc", "total.minor is long, which 'abc' is not"),
        ("total.minor=1.5", "total.minor is long, which 1.5 is not"),
        ("total.minor=true", "total.minor is long, which True is not"),
        ("total.minor=9223372036854775808", "total.minor is long"),
        ("total.minor=null", "total.minor is long"),
        ("taxes_included=1", "taxes_included is boolean"),
        ("status=LOST", "status is one of PENDING, OPEN, "),
        ("placed_at=yesterday", "placed_at is a time"),
        ("placed_at=2026-03-01T00:00:00", "does not say in which zone"),
        ('total={"minor": 1}', "total lacks currency"),
        ('total={"minor": 1, "currency": "EUR", "x": 1}', "total has no x"),
        ("lines=[1]", "lines[0] is ChannelLine"),
        ("lines={}", "lines is array"),
        ("order_id=other", "order_id is the key that the message is parked under"),
        ("meta.event_id=e2", "identify the message"),
        ("meta.causation_id=e2", "identify the message"),
        ("currency.x=1", "currency is string and has no x"),
        ("ship_to.name=x", "the message has no ship_to.name"),
    ],
)
def test_an_edit_that_the_schema_does_not_allow_is_refused_with_the_reason(
    desk: Desk, edit: str, reason: str
) -> None:
    with pytest.raises(Invalid) as refused:
        desk.edit(edit)
    assert reason in str(refused.value)


@pytest.mark.parametrize("edit", ["", "a", "=3", "a==3", "a b=3"])
def test_what_is_no_edit_is_refused(edit: str) -> None:
    with pytest.raises(DeadLetterError):
        Assignment.parse(edit)


def test_bytes_that_cannot_be_read_cannot_be_edited(desk: Desk) -> None:
    with pytest.raises(Invalid, match=r"contract\.bad_framing"):
        desk.payloads.edit(b"\x07rubbish", (), [Assignment.parse("a=1")])
    with pytest.raises(Invalid, match="names the schema"):
        desk.payloads.edit(b"", (("__value_schema_id", b"\x00\x00\x00\x00\x01"),), [])


def test_a_message_of_an_older_schema_is_written_in_the_newest(desk: Desk) -> None:
    newest = json.loads(ChannelOrderReceived.AVSC)
    older = {**newest, "fields": [each for each in newest["fields"] if each["name"] != "store_movement_ref"]}

    class Older(ChannelOrderReceived):
        AVSC = json.dumps(older)

    writer = Codec(desk.registry, written=[(Older, Older.TOPIC)], read=())
    fields = {name: getattr(ORDER, name) for name in ORDER.__slots__}
    value = writer.encode(Older(**fields), META)
    migrated = desk.payloads.migrate(value, ())
    assert migrated != value
    assert migrated == desk.codec.encode(ORDER, META)
    assert desk.payloads.migrate(migrated, ()) == migrated


def test_a_schema_that_is_not_registered_is_said(desk: Desk) -> None:
    value = desk.codec.encode(ORDER, META)

    class Behind(MemoryRegistry):
        by_id = desk.registry.by_id

        def id_of(self, subject: str, schema: str) -> int:
            raise UnknownSchema(f"{subject} is not registered")

    with pytest.raises(UnknownSchema, match=r"retail\.order\.intake\.v1-retail\.order\.ChannelOrderReceived"):
        Payloads(Behind()).migrate(value, ())


EUR = {"currency": "EUR"}


@pytest.mark.parametrize(
    ("record", "found"),
    [
        (
            PaymentCaptured(order_id="o", capture_id="c", amount=Money(minor=6, **EUR), captured_at=T0),
            ("EUR", 6),
        ),
        (ORDER, ("EUR", 2700)),
        (replace(ORDER, total=None), ("EUR", 2700)),
        (replace(ORDER, total=None, other_minor=3, shipping=None), ("EUR", 2203)),
        (replace(ORDER, total=None, currency=""), None),
        (replace(ORDER, total=None, lines=(), shipping=None), None),
        (SimpleNamespace(currency="JPY", declared_minor=7), ("JPY", 7)),
        (SimpleNamespace(currency="EUR", amount_minor=-9, lines=()), ("EUR", -9)),
        (SimpleNamespace(sku="A", units=3), None),
        (CancelRequested(order_id="o", request_id="r", actor="a"), None),
    ],
)
def test_the_money_that_a_message_names(record: Any, found: Any) -> None:
    assert worth(record) == found


def test_types_that_name_no_money_are_known_as_such() -> None:
    assert [may_name_money(kind) for kind in KINDS] == [True, False, True]


def test_money_for_people() -> None:
    assert money_text({"USD": 1200, "EUR": -120350, "JPY": 1500}) == "-1,203.50 EUR + 1,500 JPY + 12.00 USD"
    assert money_text({"eur": 5}) == "5 eur"
