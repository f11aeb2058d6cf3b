"""Typed values as JSON values: what goes in comes out, whatever the annotations say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NewType

import pytest

from crossdock_eventing.plain import Tagged, Unreadable, plain, typed

Sku = NewType("Sku", str)


class Colour(StrEnum):
    RED = "RED"


@dataclass(frozen=True)
class Line:
    sku: Sku
    units: int = 1


@dataclass(frozen=True)
class Done:
    number: str


@dataclass(frozen=True)
class Away:
    after_s: float | None = None


Outcome = Done | Away


@dataclass(frozen=True, kw_only=True)
class Everything:
    at: datetime
    colour: Colour
    lines: tuple[Line, ...]
    first: Line | None
    outcome: Outcome
    maybe: Done | Away | None = None
    due: Mapping[str, datetime] = field(default_factory=dict)
    raw: bytes = b""
    flag: bool = False


NOW = datetime(2026, 3, 2, 9, 30, 0, 123456, tzinfo=UTC)
FULL = Everything(
    at=NOW,
    colour=Colour.RED,
    lines=(Line(Sku("A")), Line(Sku("B"), 2)),
    first=Line(Sku("A")),
    outcome=Done("7"),
    maybe=Away(1.5),
    due={"deadline": NOW},
    raw=b"\x00\xff",
    flag=True,
)
LEAN = Everything(at=NOW, colour=Colour.RED, lines=(), first=None, outcome=Away())


@pytest.mark.parametrize("brief", [False, True])
@pytest.mark.parametrize("value", [FULL, LEAN])
def test_what_goes_in_comes_out_through_json(value: Everything, brief: bool) -> None:
    assert typed(Everything, json.loads(json.dumps(plain(value, brief=brief)))) == value
    assert Tagged([Everything]).typed(Tagged([Everything], brief=brief).plain(value)) == value


def test_a_member_of_a_union_says_what_it_is() -> None:
    assert plain(FULL)["outcome"] == {"Done": {"number": "7"}}
    assert plain(FULL)["maybe"] == {"Away": {"after_s": 1.5}}


def test_in_brief_a_default_is_left_out() -> None:
    assert plain(Line(Sku("A")), brief=True) == {"sku": "A"}
    assert plain(Line(Sku("A"))) == {"sku": "A", "units": 1}
    assert set(plain(LEAN, brief=True)) == {"at", "colour", "lines", "first", "outcome"}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"Done": {"name": "7"}}, "name"),
        ({"Gone": {}}, "Gone is none of Away, Done"),
        ({"Done": {"number": "7"}, "Away": {}}, "no object of one field"),
        ([], "no object of one field"),
        ({"Done": {}}, "number"),
    ],
)
def test_what_cannot_be_read_is_named(value: Any, says: str) -> None:
    with pytest.raises(Unreadable, match=says):
        Tagged([Done, Away]).typed(value)
