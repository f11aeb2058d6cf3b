"""The ledgers of the simulated systems, read over HTTP into the auditor's form. Used by the command, the demo and chaos runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from crossdock_canonical.money import Money
from crossdock_tools.audit.books import (
    BookLine,
    Books,
    CancellationBook,
    ChannelBooks,
    DocumentBook,
    ErpBooks,
    ExpectedReturnBook,
    FulfillmentOrderBook,
    MoneyBook,
    PaymentBooks,
    ShipmentBook,
    ToldBook,
    WarehouseBooks,
)

SYSTEMS = ("wms", "psp", "erp", "channels")
_DEFAULT_ERP = "cloud"
_TIMEOUT_S = 30.0


class LedgerError(Exception):
    """A system's ledger cannot be read; the text says which and why."""


def read_ledgers(urls: Mapping[str, str]) -> Books:
    """The books of the systems at these addresses, by `SYSTEMS`; a further ERP is `erp:<name>`, plain `erp` is `cloud`.

    A system that is not named has no books. Raises LedgerError.
    """
    unknown = {name for name in urls if name.partition(":")[0] not in SYSTEMS}
    if unknown:
        raise LedgerError(f"no such system: {', '.join(sorted(unknown))}; there are {', '.join(SYSTEMS)}")
    erps = {
        name.partition(":")[2] or _DEFAULT_ERP: _get(url)
        for name, url in urls.items()
        if name.startswith("erp")
    }
    return Books(
        warehouse=warehouse_books(_get(urls["wms"])) if "wms" in urls else None,
        payments=payment_books(_get(urls["psp"])) if "psp" in urls else None,
        erps=erp_books(erps) if erps else None,
        channels=channel_books(_get(urls["channels"])) if "channels" in urls else None,
    )


def warehouse_books(ledger: Mapping[str, Any]) -> WarehouseBooks:
    """The warehouse's ledger in the auditor's form."""
    orders = {each["number"]: each for each in ledger["fulfillment_orders"]}
    return WarehouseBooks(
        fulfillment_orders={
            number: FulfillmentOrderBook(
                number=number,
                order_id=each["request"]["order_id"],
                location=each["request"]["location"],
                requested=_lines(each["request"].get("lines", ())),
                accepted_times=each["accepted_times"],
                status=each["status"],
            )
            for number, each in orders.items()
        },
        shipments=tuple(
            ShipmentBook(
                shipment_id=each["shipment_id"],
                number=each["number"],
                order_id=each["order_id"],
                location=each["location"],
                lines=_lines(each["lines"]),
            )
            for each in ledger["shipments"]
        ),
        cancellations=tuple(
            CancellationBook(
                cancel_id=each["cancel_id"], number=each["number"], stopped=_lines(each["stopped"])
            )
            for each in ledger["cancellations"]
        ),
        expected_returns=tuple(
            ExpectedReturnBook(
                rma_id=each["rma_id"],
                order_id=each["request"]["order_id"],
                location=each["request"].get("location") or "",
                lines=_lines(each["request"].get("lines", ())),
            )
            for each in ledger["expected_returns"]
        ),
        objections=_refused("wms", ledger),
    )


def payment_books(ledger: Mapping[str, Any]) -> PaymentBooks:
    """The payment provider's ledger in the auditor's form; what it refused moved nothing and is left out."""
    kinds: dict[str, dict[str, MoneyBook]] = {
        "captures": {},
        "voids": {},
        "refunds": {},
        "authorizations": {},
    }
    for each in ledger["entries"]:
        if each["status"] == "succeeded" and each["kind"] in kinds:
            amount = each["amount"]
            kinds[each["kind"]][each["reference"]] = MoneyBook(
                reference=each["reference"],
                order_id=each["order_id"],
                amount=Money.parse(amount["amount"], amount["currency"]),
                times=each["times"],
            )
    return PaymentBooks(**kinds, objections=(*_contradicted("psp", ledger), *_refused("psp", ledger)))


def erp_books(ledgers: Mapping[str, Mapping[str, Any]]) -> ErpBooks:
    """The ledgers of all ERPs, by name, in the auditor's form."""
    return ErpBooks(
        documents=tuple(
            DocumentBook(
                erp=name,
                document_type=each["document_type"],
                business_key=each["business_key"],
                version=each["version"],
                reference=each["reference"],
                external_ref=each["external_ref"],
                order_id=each.get("order_id"),
                amount=Money(minor=each["amount_minor"], currency=each["currency"])
                if each["currency"]
                else None,
            )
            for name, ledger in ledgers.items()
            for each in ledger["documents"]
        ),
        objections=tuple(
            f"{name}: {each['code']} {each['detail']} ({each['reference']})"
            for name, ledger in ledgers.items()
            for each in ledger["findings"]
        ),
    )


def channel_books(ledger: Mapping[str, Any]) -> ChannelBooks:
    """The channels' ledger in the auditor's form."""
    return ChannelBooks(
        told=tuple(
            ToldBook(
                channel=each["channel"],
                kind=each["kind"],
                reference=each["reference"],
                order_id=each["body"]["order_id"],
                times=each["times"],
            )
            for each in ledger["told"]
        ),
        objections=(*_contradicted("channels", ledger), *_refused("channels", ledger)),
    )


def _contradicted(system: str, ledger: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(
        f"{system}: {reference} came again with another content" for reference in ledger["contradictions"]
    )


def _refused(system: str, ledger: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(
        f"{system}: event {each['id']} was refused with {each['status']}: {each['answer']}"
        for each in ledger["events_refused"]
    )


def _lines(lines: Any) -> tuple[BookLine, ...]:
    return tuple(
        BookLine(line_id=line["line_id"], sku=line["sku"], units=int(line["units"])) for line in lines
    )


def _get(url: str) -> Mapping[str, Any]:
    try:
        response = httpx.get(f"{url.rstrip('/')}/ledger", timeout=_TIMEOUT_S)
        response.raise_for_status()
        found = response.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise LedgerError(f"no ledger at {url}: {error}") from None
    if not isinstance(found, dict):
        raise LedgerError(f"no ledger at {url}: the answer is no object")
    return found
