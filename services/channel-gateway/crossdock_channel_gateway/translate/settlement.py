"""Payout files of the channels as a stream of lines: Amazon's settlement report V2 and Shopify's payouts.

Read twice by `settlements`: once to check and count, once to send. A line is never dropped and never refused: an amount that
the currency cannot hold stays as text and becomes a named residual downstream. What refuses a file is its frame: no header,
no totals, lines of another settlement, bytes of no known encoding.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple

import ijson

from crossdock_canonical.money import AmountNotRepresentable, Money, minor_units
from crossdock_canonical.records import SettlementLine
from crossdock_channel_gateway.problem import FieldError, invalid, malformed, shown
from crossdock_channel_gateway.reading import clean_text, is_identifier, moment_of
from crossdock_channel_gateway.translate.marketplaces import BY_NAME

_FIELD_BYTES_MAX = 128 * 1024
_AMAZON_ORDER = re.compile(r"[0-9]{3}-[0-9]{7}-[0-9]{7}")
_PLAIN_AMOUNT = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]{1,12})?")
# Digits in groups of three or none, then the decimals.
_POINT_DECIMAL = re.compile(r"[+-]?([0-9]+|[0-9]{1,3}(,[0-9]{3})+)(\.[0-9]+)?")
_COMMA_DECIMAL = re.compile(r"[+-]?([0-9]+|[0-9]{1,3}(\.[0-9]{3})+)(,[0-9]+)?")
_TEXT_MAX = 200
_NESTING_MAX = 40
_ENDLESS_NUMBER = re.compile(rb"[0-9]{1000}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What a file says of itself as a whole."""

    external_id: str
    declared: Money
    period_start: datetime | None = None
    period_end: datetime | None = None
    deposited_at: datetime | None = None


class Line(NamedTuple):
    """One line, and the order that it names: its marketplace and external id, or None when it belongs to none."""

    line: SettlementLine
    order: tuple[str, str] | None


class SettlementFile(NamedTuple):
    """A readable file: its frame, and a function that reads its lines from the start, any number of times."""

    frame: Frame
    lines: Callable[[], Iterator[Line]]


# ---------------------------------------------------------------------------------------------------------- Amazon

_REQUIRED = (
    "settlement-id",
    "total-amount",
    "currency",
    "transaction-type",
    "order-id",
    "amount-type",
    "amount-description",
    "amount",
)


def amazon(file: BinaryIO, *, default_marketplace: str) -> SettlementFile:
    """Settlement report V2, flat file, columns by name. Raises Refused."""
    encoding = _encoding(file)
    rows = _amazon_rows(file, encoding)
    _, totals = next(rows, (0, {}))
    if not totals.get("total-amount"):
        raise invalid([FieldError("rows[2].total-amount", "the first row must hold the totals of the file")])
    currency = totals.get("currency", "")
    separator = _decimal_separator(totals["total-amount"]) or _convention(rows)
    errors = []
    declared = 0
    try:
        declared = minor_units(_normal(totals["total-amount"], separator), currency)
    except AmountNotRepresentable:
        field = "rows[2].total-amount" if len(currency) == 3 and currency.isupper() else "rows[2].currency"
        errors.append(
            FieldError(field, "must be an amount that the currency can hold", shown(totals["total-amount"]))
        )
    external_id = totals.get("settlement-id", "")
    if not is_identifier(external_id):
        errors.append(FieldError("rows[2].settlement-id", "is required", shown(external_id)))
    if errors:
        raise invalid(errors)
    frame = Frame(
        external_id=external_id,
        declared=Money(minor=declared, currency=currency),
        period_start=local_moment(totals.get("settlement-start-date", "")),
        period_end=local_moment(totals.get("settlement-end-date", "")),
        deposited_at=local_moment(totals.get("deposit-date", "")),
    )

    def lines() -> Iterator[Line]:
        rows = _amazon_rows(file, encoding)
        next(rows)
        last_marketplace: dict[str, str] = {}
        for number, row in rows:
            if row.get("settlement-id") not in ("", None, external_id):
                field = f"rows[{number}].settlement-id"
                raise invalid(
                    [
                        FieldError(
                            field, f"must be {external_id}, as in the totals", shown(row["settlement-id"])
                        )
                    ]
                )
            yield _amazon_line(number, row, currency, separator, default_marketplace, last_marketplace)

    return SettlementFile(frame, lines)


def _encoding(file: BinaryIO) -> str:
    """UTF-8 where the bytes are; older files of European marketplaces are Windows-1252."""
    file.seek(0)
    text = io.TextIOWrapper(io.BufferedReader(_Unclosed(file), 64 * 1024), encoding="utf-8-sig")
    try:
        while text.read(64 * 1024):
            pass
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8-sig"


class _Unclosed(io.RawIOBase):
    """Reads a file that stays open when the text wrapper around it is dropped."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._file.read(len(buffer))
        buffer[: len(part)] = part
        return len(part)


def _amazon_rows(file: BinaryIO, encoding: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows after the header with their number in the file (the header is 1). Raises Refused."""
    file.seek(0)
    text = io.TextIOWrapper(io.BufferedReader(_Unclosed(file), 64 * 1024), encoding=encoding, newline="")
    try:
        header = text.readline(_FIELD_BYTES_MAX).rstrip("\r\n")
        delimiter = "\t" if "\t" in header else ","
        names = [name.strip().strip('"').lower() for name in header.split(delimiter)]
        missing = [
            FieldError(name, "the header must have this column") for name in _REQUIRED if name not in names
        ]
        if missing:
            raise invalid(missing)
        # Tab-separated files quote nothing: a quotation mark in a description is a character like any other.
        table = (
            csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
            if delimiter == "\t"
            else csv.reader(text)
        )
        for number, cells in enumerate(table, start=2):
            if any(cells):
                yield number, {name: cell.strip() for name, cell in zip(names, cells, strict=False)}
    except (UnicodeDecodeError, csv.Error) as error:
        raise malformed(f"the file is no table: {shown(str(error))}") from None


def _amazon_line(
    number: int,
    row: dict[str, str],
    currency: str,
    separator: str,
    default_marketplace: str,
    last_marketplace: dict[str, str],
) -> Line:
    raw = row.get("amount", "")
    order_ref = row.get("order-id", "")
    line = SettlementLine(
        line_no=number,
        transaction_type=_label(row, "transaction-type"),
        amount_type=_label(row, "amount-type"),
        description=_label(row, "amount-description"),
        order_ref=clean_text(order_ref, _TEXT_MAX),
        item_ref=_label(row, "order-item-code"),
        seller_sku=_label(row, "sku"),
        amount_minor=_minor(_normal(raw, separator), currency),
        raw_amount=clean_text(raw, _TEXT_MAX),
        currency=currency,
        posted_at=local_moment(row.get("posted-date-time", "")) or local_moment(row.get("posted-date", "")),
        ref=_label(row, "adjustment-id") or _label(row, "shipment-id"),
    )
    if not _AMAZON_ORDER.fullmatch(order_ref):
        return Line(line, None)  # Empty, or the id of a shipment to the marketplace's warehouse.
    return Line(
        line, _amazon_order(order_ref, row.get("marketplace-name", ""), default_marketplace, last_marketplace)
    )


def _amazon_order(
    order_ref: str, name: str, default_marketplace: str, last_marketplace: dict[str, str]
) -> tuple[str, str] | None:
    """The order's marketplace: named on the line, else on the order's line before it, else the account's default."""
    if name:
        known = BY_NAME.get(name.lower())
        if known is None:
            return None  # A name that nobody mapped is a visible residual, never a guess.
        marketplace = known.marketplace_id
    else:
        marketplace = last_marketplace.get(order_ref, default_marketplace)
    last_marketplace.clear()  # Lines of one order are adjacent; remembering all would hold the file in memory.
    last_marketplace[order_ref] = marketplace
    return marketplace, order_ref


def _label(row: dict[str, str], name: str) -> str:
    return clean_text(row.get(name, ""), _TEXT_MAX)


def _convention(rows: Iterator[tuple[int, dict[str, str]]]) -> str:
    """The decimal separator of the file's lines, when its totals leave it open."""
    for _, row in rows:
        found = _decimal_separator(row.get("amount", ""))
        if found:
            return found
    return "."


def _decimal_separator(raw: str) -> str:
    """The separator that this amount proves to be the decimal one; empty when it proves nothing."""
    comma, point = raw.rfind(","), raw.rfind(".")
    if comma >= 0 and point >= 0:
        return "," if comma > point else "."
    at = max(comma, point)
    if at < 0:
        return ""
    if raw.count(raw[at]) > 1:
        return "." if raw[at] == "," else ","
    return "" if len(raw) - at - 1 == 3 else raw[at]


def _normal(raw: str, separator: str) -> str:
    """The amount with a decimal point and no grouping; text that breaks the file's convention is left as it is."""
    text = raw.replace("\u2212", "-").replace("\u00a0", "").replace("\u202f", "").replace(" ", "")
    form = _POINT_DECIMAL if separator == "." else _COMMA_DECIMAL
    if form.fullmatch(text) is None:
        return f"{raw} is no amount"
    return text.replace("," if separator == "." else ".", "").replace(separator, ".")


def _minor(text: str, currency: str) -> int | None:
    """Minor units, or None when the currency cannot hold the amount or the text is none."""
    if not _PLAIN_AMOUNT.fullmatch(text):
        return None
    try:
        return minor_units(text, currency)
    except AmountNotRepresentable:
        return None


_TIME_FORMS = (
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y",
    "%m/%d/%y",
    "%m/%d/%Y",
    "%m/%d/%Y %H:%M:%S",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%d",
)


@lru_cache(maxsize=4096)  # A file repeats its dates; reading one by its form is slow.
def local_moment(text: str) -> datetime | None:
    """A date or time of a report (ISO, MM/DD/YY or DD.MM.YYYY; UTC unless it says otherwise), or None."""
    text = text.strip()
    if not text or len(text) > 40:
        return None
    known = moment_of(text)
    if known is not None:
        return known
    for form in _TIME_FORMS:
        try:
            found = datetime.strptime(text.removesuffix("UTC").rstrip(), form).replace(tzinfo=UTC)
        except ValueError:
            continue
        return found if 1970 <= found.year <= 2200 else None
    return None


# --------------------------------------------------------------------------------------------------------- Shopify

# The transfer to the bank is what the payout declares; as a line it would cancel the others.
_TRANSFER = "payout"


def shopify(file: BinaryIO) -> SettlementFile:
    """`{"payout": {…}, "transactions": [balance transaction, …]}` in either order. Raises Refused."""
    payout = next(_elements(file, "payout"), None)
    if not isinstance(payout, dict):
        raise invalid([FieldError("payout", "is required", shown(payout))])
    errors = []
    currency = payout.get("currency")
    amount = _text(payout.get("amount"))
    external_id = _text(payout.get("id"))
    if not isinstance(currency, str) or not re.fullmatch("[A-Z]{3}", currency):
        errors.append(FieldError("payout.currency", "must be an ISO 4217 code", shown(currency)))
        currency = ""
    declared = _minor(amount, currency) if currency else 0
    if declared is None:
        errors.append(
            FieldError("payout.amount", f"must be an amount that {currency} can hold", shown(amount))
        )
    if not is_identifier(external_id):
        errors.append(FieldError("payout.id", "must be an identifier", shown(payout.get("id"))))
    if errors:
        raise invalid(errors)
    assert declared is not None
    deposited_at = local_moment(_text(payout.get("date")))
    frame = Frame(
        external_id=external_id, declared=Money(minor=declared, currency=currency), deposited_at=deposited_at
    )
    book = currency

    def lines() -> Iterator[Line]:
        number = 0
        for index, row in enumerate(_elements(file, "transactions")):
            if not isinstance(row, dict):
                raise invalid([FieldError(f"transactions[{index}]", "must be an object", shown(row))])
            owner = _text(row.get("payout_id"))
            if owner not in ("", external_id):
                raise invalid(
                    [FieldError(f"transactions[{index}].payout_id", f"must be {external_id}", shown(owner))]
                )
            if _text(row.get("type")) == _TRANSFER:
                continue
            for line in _shopify_lines(row, number + 1, book):
                number = line.line.line_no
                yield line

    return SettlementFile(frame, lines)


def _shopify_lines(row: dict[str, Any], number: int, book: str) -> Iterator[Line]:
    """The gross of one balance transaction, and its fee as a line of its own: net = amount - fee."""
    order_ref = _text(row.get("source_order_id"))
    order = ("", order_ref) if is_identifier(order_ref) else None
    foreign = _text(row.get("currency"))
    foreign = "" if foreign == book else foreign
    fee = _text(row.get("fee"))
    parts = [("gross", _text(row.get("amount")), 1)]
    if fee and _minor(fee, book) != 0:
        parts.append(("fee", fee, -1))
    for number_of_part, (part, raw, sign) in enumerate(parts, start=number):
        minor = None if foreign else _minor(raw, book)
        text = f"{'-' if sign < 0 else ''}{raw} {foreign}"
        yield Line(
            SettlementLine(
                line_no=number_of_part,
                transaction_type=clean_text(_text(row.get("type")), _TEXT_MAX),
                amount_type=part,
                description=clean_text(_text(row.get("source_type")), _TEXT_MAX),
                order_ref=clean_text(order_ref, _TEXT_MAX),
                amount_minor=None if minor is None else sign * minor,
                raw_amount=clean_text(text, _TEXT_MAX),
                currency=book,
                posted_at=local_moment(_text(row.get("processed_at"))),
                ref=clean_text(_text(row.get("id")), _TEXT_MAX),
            ),
            order,
        )


def _elements(file: BinaryIO, member: str) -> Iterator[Any]:
    """The value of a member of the file's object, or its elements one at a time when it is a list.

    Raises Refused(400) when the file is no JSON. Built on bare parse events: the library's own paths take memory that
    grows with the square of the nesting.
    """
    _refuse_endless_numbers(file)
    file.seek(0)
    try:
        yield from _values(ijson.basic_parse(file), member)
    except (ijson.JSONError, ValueError, ArithmeticError) as error:
        raise malformed(f"the file is not JSON in UTF-8: {shown(str(error))}") from None


def _refuse_endless_numbers(file: BinaryIO) -> None:
    """Keep numbers from the parser that the interpreter cannot convert: its C code does not survive them."""
    file.seek(0)
    tail = b""
    while part := file.read(1024 * 1024):
        if _ENDLESS_NUMBER.search(tail + part):
            raise malformed("the file holds a number of a thousand digits or more")
        tail = part[-1000:]


def _values(events: Iterator[tuple[str, Any]], member: str) -> Iterator[Any]:
    """The wanted values among parse events of one JSON object."""
    depth = 0
    floor = 1  # Depth at which a wanted value begins: of the member, or of an element when it is a list.
    wanted = False
    builder: ijson.ObjectBuilder | None = None
    for event, value in events:
        starts, ends = event in ("start_map", "start_array"), event in ("end_map", "end_array")
        if depth == 0 and event != "start_map":
            raise malformed("the file is not a JSON object")
        depth -= ends
        if depth == 1 and event == "map_key":
            wanted, floor = value == member, 1
        elif wanted and depth == 1 and floor == 1 and event == "start_array":
            floor = 2
        elif wanted and depth == floor - 1:
            wanted = False  # The list has ended.
        elif wanted and (builder is not None or depth == floor):
            builder = builder or ijson.ObjectBuilder()
            builder.event(event, value)
            if depth == floor and not starts:
                yield builder.value
                builder = None
        depth += starts
        if depth > _NESTING_MAX:
            raise malformed("the JSON is nested too deeply")


def _text(value: object) -> str:
    """A JSON scalar as text; empty for anything else."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, Decimal) and value.is_finite() and -13 < value.adjusted() < 16:
        return format(value, "f")
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**30:
        return str(value)
    return ""
