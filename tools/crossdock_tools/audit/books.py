"""What the outside says of itself: the accounts of warehouse, payment provider, ERPs and channels, in one form.

`objections` of each: what the system itself holds against us, one text each, such as a reference used for another request or
an event of its own that it could not get rid of.

Read from the simulated systems over HTTP (`ledgers`), from a file, or filled in by a simulation with books of its own. Every
part may be missing: the checks that need it then say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from crossdock_canonical.money import Money


@dataclass(frozen=True, slots=True, kw_only=True)
class BookLine:
    """Units of one order line."""

    line_id: str
    sku: str
    units: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FulfillmentOrderBook:
    """A fulfilment order that the warehouse took.

    number: our reference.
    accepted_times: how often it was taken on as new work; more than once is work done twice.
    status: the warehouse's own word.
    """

    number: str
    order_id: str
    location: str
    requested: tuple[BookLine, ...]
    accepted_times: int = 1
    status: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShipmentBook:
    """Goods that left, or were handed over, once."""

    shipment_id: str
    number: str
    order_id: str
    location: str
    lines: tuple[BookLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CancellationBook:
    """A cancellation that the warehouse took. `stopped` is empty where it was too late."""

    cancel_id: str
    number: str
    stopped: tuple[BookLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedReturnBook:
    """A return that the warehouse was told to expect."""

    rma_id: str
    order_id: str
    location: str
    lines: tuple[BookLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WarehouseBooks:
    """The warehouse's accounts. `fulfillment_orders` by number."""

    fulfillment_orders: Mapping[str, FulfillmentOrderBook] = field(default_factory=dict)
    shipments: tuple[ShipmentBook, ...] = ()
    cancellations: tuple[CancellationBook, ...] = ()
    expected_returns: tuple[ExpectedReturnBook, ...] = ()
    objections: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MoneyBook:
    """Money that moved once, or `times`. `order_id` as the request named it."""

    reference: str
    order_id: str
    amount: Money
    times: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentBooks:
    """The payment provider's accounts, by reference (ours, but the tender's for authorisations). Refusals are not in them."""

    captures: Mapping[str, MoneyBook] = field(default_factory=dict)
    voids: Mapping[str, MoneyBook] = field(default_factory=dict)
    refunds: Mapping[str, MoneyBook] = field(default_factory=dict)
    authorizations: Mapping[str, MoneyBook] = field(default_factory=dict)
    objections: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentBook:
    """One booking in one ERP: the same document twice is two of them.

    document_type, business_key, version: as posted; reference: what the ERP can find it by; external_ref: its own number.
    amount: worth of the document, None where it has none.
    """

    erp: str
    document_type: str
    business_key: str
    version: int
    reference: str
    external_ref: str
    order_id: str | None = None
    amount: Money | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ErpBooks:
    """Every booking of every ERP. An ERP objects to what its accountant would: unbalanced journals, missing predecessors."""

    documents: tuple[DocumentBook, ...] = ()
    objections: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldBook:
    """News that a channel was told and acted on `times`; asking again without effect is not counted.

    kind: fulfillments, cancellations, rejections, refunds or returns. reference: of the news (shipment, cancel, refund, ...).
    """

    channel: str
    kind: str
    reference: str
    order_id: str
    times: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelBooks:
    """What all channels were told."""

    told: tuple[ToldBook, ...] = ()
    objections: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """The outside. None: these books were not given."""

    warehouse: WarehouseBooks | None = None
    payments: PaymentBooks | None = None
    erps: ErpBooks | None = None
    channels: ChannelBooks | None = None

    def to_json(self) -> dict[str, Any]:
        """As `from_json` reads it."""
        return {name: part for name, part in asdict(self).items() if part is not None}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Books:
        """Raises KeyError, TypeError or ValueError for what is no such account."""
        if not isinstance(found, Mapping):
            raise TypeError("books are an object")
        unknown = set(found) - {"warehouse", "payments", "erps", "channels"}
        if unknown:
            raise ValueError(f"no such books: {', '.join(sorted(unknown))}")
        return cls(
            warehouse=_warehouse(found["warehouse"]) if "warehouse" in found else None,
            payments=_payments(found["payments"]) if "payments" in found else None,
            erps=_erps(found["erps"]) if "erps" in found else None,
            channels=_channels(found["channels"]) if "channels" in found else None,
        )


NO_BOOKS = Books()


def _lines(found: list[dict[str, Any]]) -> tuple[BookLine, ...]:
    return tuple(BookLine(line_id=each["line_id"], sku=each["sku"], units=each["units"]) for each in found)


def _warehouse(found: Mapping[str, Any]) -> WarehouseBooks:
    return WarehouseBooks(
        fulfillment_orders={
            number: FulfillmentOrderBook(**{**each, "requested": _lines(each["requested"])})
            for number, each in found["fulfillment_orders"].items()
        },
        shipments=tuple(
            ShipmentBook(**{**each, "lines": _lines(each["lines"])}) for each in found["shipments"]
        ),
        cancellations=tuple(
            CancellationBook(**{**each, "stopped": _lines(each["stopped"])})
            for each in found["cancellations"]
        ),
        expected_returns=tuple(
            ExpectedReturnBook(**{**each, "lines": _lines(each["lines"])})
            for each in found["expected_returns"]
        ),
        objections=tuple(found["objections"]),
    )


def _payments(found: Mapping[str, Any]) -> PaymentBooks:
    def money(kind: str) -> dict[str, MoneyBook]:
        return {
            reference: MoneyBook(**{**each, "amount": Money(**each["amount"])})
            for reference, each in found[kind].items()
        }

    return PaymentBooks(
        captures=money("captures"),
        voids=money("voids"),
        refunds=money("refunds"),
        authorizations=money("authorizations"),
        objections=tuple(found["objections"]),
    )


def _erps(found: Mapping[str, Any]) -> ErpBooks:
    return ErpBooks(
        documents=tuple(
            DocumentBook(**{**each, "amount": None if each["amount"] is None else Money(**each["amount"])})
            for each in found["documents"]
        ),
        objections=tuple(found["objections"]),
    )


def _channels(found: Mapping[str, Any]) -> ChannelBooks:
    return ChannelBooks(
        told=tuple(ToldBook(**each) for each in found["told"]), objections=tuple(found["objections"])
    )
