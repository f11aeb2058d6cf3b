"""The outside's books: written and read back, and read from the ledgers that simulated systems show."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from crossdock_canonical.money import Money
from crossdock_canonical.records import PaymentAuthorized
from crossdock_canonical.specification import T0
from crossdock_tools.audit import ledgers
from crossdock_tools.audit.books import NO_BOOKS, Books
from crossdock_tools.audit.ledgers import LedgerError, read_ledgers

LINES = [{"line_id": "L1", "sku": "A", "units": 2}]
LEDGERS: dict[str, dict[str, Any]] = {
    "http://wms/ledger": {
        "fulfillment_orders": [
            {
                "number": "O-1/1",
                "accepted_times": 1,
                "status": "done",
                "request": {"order_id": "O-1", "location": "WH", "lines": LINES},
            }
        ],
        "shipments": [
            {
                "shipment_id": "O-1/1/S1",
                "number": "O-1/1",
                "order_id": "O-1",
                "location": "WH",
                "lines": LINES,
            }
        ],
        "cancellations": [{"number": "O-1/1", "cancel_id": "X1", "stopped": []}],
        "expected_returns": [
            {"rma_id": "R1", "request": {"order_id": "O-1", "location": None, "lines": LINES}}
        ],
        "events_refused": [{"id": "e1", "status": 422, "answer": "no"}],
    },
    "http://psp/ledger": {
        "entries": [
            {
                "kind": kind,
                "reference": f"{kind}-1",
                "times": 1,
                "status": status,
                "order_id": "O-1",
                "amount": {"amount": "19.99", "currency": "EUR"},
            }
            for kind, status in (
                ("captures", "succeeded"),
                ("refunds", "declined"),
                ("chargebacks", "succeeded"),
            )
        ],
        "contradictions": ["captures/C1"],
        "events_refused": [],
    },
    "http://erp/ledger": {
        "documents": [
            {
                "document_type": "DELIVERY",
                "business_key": "delivery/O-1/S1",
                "version": 1,
                "reference": "delivery/O-1/S1/v1",
                "external_ref": "ERP-1",
                "order_id": "O-1",
                "amount_minor": 0,
                "currency": "",
            }
        ],
        "findings": [{"reference": "r", "code": "journal_unbalanced", "detail": "7"}],
    },
    "http://channels/ledger": {
        "told": [
            {
                "channel": "shopify",
                "kind": "fulfillments",
                "reference": "S1",
                "times": 1,
                "body": {"order_id": "O-1"},
            }
        ],
        "contradictions": [],
        "events_refused": [],
    },
}
EUR = Money(minor=1999, currency="EUR")
URLS = {name: f"http://{name}" for name in ("wms", "psp", "erp", "channels")}


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(url: str, **_: object) -> httpx.Response:
        request = httpx.Request("GET", url)
        if url not in LEDGERS:
            raise httpx.ConnectError("nobody there", request=request)
        return httpx.Response(200, json=LEDGERS[url], request=request)

    monkeypatch.setattr(ledgers.httpx, "get", get)


@pytest.mark.usefixtures("simulated")
def test_ledgers_become_books() -> None:
    books = read_ledgers(URLS)
    assert books.warehouse is not None
    assert books.warehouse.fulfillment_orders["O-1/1"].requested[0].units == 2
    assert books.warehouse.shipments[0].number == "O-1/1"
    assert books.warehouse.expected_returns[0].location == ""
    assert books.payments is not None
    assert books.payments.captures["captures-1"].amount == Money(minor=1999, currency="EUR")
    assert books.payments.refunds == {}, "what was declined moved nothing"
    assert books.erps is not None
    assert (books.erps.documents[0].erp, books.erps.documents[0].amount) == ("cloud", None)
    assert books.erps.objections == ("cloud: journal_unbalanced 7 (r)",)
    assert books.warehouse.objections == ("wms: event e1 was refused with 422: no",)
    assert books.payments.objections == ("psp: captures/C1 came again with another content",)
    assert books.channels is not None
    assert books.channels.told[0].order_id == "O-1"


@pytest.mark.usefixtures("simulated")
def test_books_survive_a_file() -> None:
    books = read_ledgers(URLS)
    assert Books.from_json(json.loads(json.dumps(books.to_json()))) == books
    part = read_ledgers({"psp": "http://psp"})
    assert (part.warehouse, part.erps, part.channels) == (None, None, None)
    assert Books.from_json(json.loads(json.dumps(part.to_json()))) == part
    assert Books.from_json({}) == NO_BOOKS


@pytest.mark.usefixtures("simulated")
def test_two_erps_have_two_names() -> None:
    books = read_ledgers({"erp": "http://erp", "erp:legacy": "http://erp"})
    assert books.erps is not None
    assert [document.erp for document in books.erps.documents] == ["cloud", "legacy"]


@pytest.mark.usefixtures("simulated")
def test_a_system_that_is_unknown_or_away_is_named() -> None:
    with pytest.raises(LedgerError, match="no such system: tms"):
        read_ledgers({"tms": "http://tms"})
    with pytest.raises(LedgerError, match="no ledger at http://nowhere: nobody there"):
        read_ledgers({"wms": "http://nowhere"})


def test_books_of_an_unknown_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="no such books: taxes"):
        Books.from_json({"taxes": {}})


# --- The command


def clean(world: Any) -> None:
    world.deliver(PaymentAuthorized(order_id="O-1", tender_reference="T1", amount=EUR, authorized_at=T0))
    world.commit_all()


def test_a_clean_cluster_ends_with_success_and_counts(world: Any, crossdock: Callable[..., Any]) -> None:
    clean(world)
    done = crossdock("audit")
    assert done.exit_code == 0, done.err
    assert "every event has its cause" in done.out
    assert "0 violations" in done.out
    assert "checks had nothing to look at" in done.out


def test_a_violation_ends_with_failure_and_is_shown(world: Any, crossdock: Callable[..., Any]) -> None:
    clean(world)
    world.commit("order-orchestrator", payment_intake=0)
    assert crossdock("audit").exit_code == 0
    done = crossdock("audit", "--expect-drained")
    assert done.exit_code == 1
    assert "1 nothing is pending: order-orchestrator has 1 messages" in done.out
    as_json = crossdock("audit", "--expect-drained", "--json")
    assert as_json.exit_code == 1
    assert as_json.json["violations"] == 1


@pytest.mark.usefixtures("world")
def test_a_cluster_without_events_is_no_success(crossdock: Callable[..., Any]) -> None:
    done = crossdock("audit")
    assert (done.exit_code, done.err.count("\n")) == (1, 1)
    assert "nothing to audit" in done.err


def test_checks_without_anything_to_look_at_can_be_held_against_it(
    world: Any, crossdock: Callable[..., Any]
) -> None:
    clean(world)
    assert crossdock("audit", "--require-all").exit_code == 1


@pytest.mark.usefixtures("simulated")
def test_books_from_systems_and_from_a_file(
    world: Any, crossdock: Callable[..., Any], tmp_path: Path
) -> None:
    clean(world)
    file = tmp_path / "books.json"
    addresses = ",".join(f"{name}={url}" for name, url in URLS.items())
    done = crossdock("audit", "--simulators", addresses, "--save-books", str(file), "--json")
    assert done.exit_code == 1
    found = {check["name"]: check for check in done.json["checks"]}
    assert found["warehouse orders were requested"]["violations"] == [
        "O-1/1 was taken on and never requested"
    ]
    again = crossdock("audit", "--books", str(file), "--json")
    assert again.json == done.json


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--books", "/nowhere/books.json"], "cannot read the books"),
        (["--simulators", "wms"], "write name=URL"),
        (["--simulators", "tms=http://x"], "no such system: tms"),
        (["--books", "x", "--simulators", "wms=http://x"], "use one"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(
    crossdock: Callable[..., Any], arguments: list[str], words: str
) -> None:
    done = crossdock("audit", *arguments)
    assert done.exit_code == 1
    assert words in done.err
    assert done.err.count("\n") == 1


def test_a_file_that_holds_no_books_is_told_in_one_line(
    crossdock: Callable[..., Any], tmp_path: Path
) -> None:
    for text in ("{", "[]", '{"channels": 7}', '{"erps": {}}'):
        file = tmp_path / "books.json"
        file.write_text(text)
        done = crossdock("audit", "--books", str(file))
        assert (done.exit_code, done.err.count("\n")) == (1, 1)
        assert "holds no books" in done.err
