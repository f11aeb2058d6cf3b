"""The money that a message names: what is at stake in a group of dead letters, what an effect moves. Pure.

Read from field names that the contracts share, so that it holds for messages of any version: an amount of the whole message, else
the sum of its lines and charges.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from crossdock_canonical.money import AmountNotRepresentable, decimal_text

Sums = dict[str, int]
"""Minor units by currency."""

_WHOLE = ("total", "amount", "declared_total", "captured", "store_refund")


def worth(fields: Mapping[str, Any]) -> tuple[str, int] | None:
    """Currency and minor units; None for a message that names no money."""
    for name in _WHOLE:
        match fields.get(name):
            case {"minor": int(minor), "currency": str(currency)}:
                return currency, minor
    currency = str(fields.get("currency") or "")
    if not currency:
        return None
    for name in ("amount_minor", "declared_minor", "sum_minor"):
        if isinstance(fields.get(name), int):
            return currency, fields[name]
    charges = [each.get("amounts") for each in fields.get("lines") or () if isinstance(each, Mapping)]
    due = [_due(each) for each in (*charges, fields.get("shipping")) if isinstance(each, Mapping)]
    return (currency, sum(due) + int(fields.get("other_minor") or 0)) if due else None


def add(sums: Sums, currency: str, minor: int) -> None:
    """Count an amount in."""
    sums[currency] = sums.get(currency, 0) + minor


def total(each: Iterable[tuple[str, int]]) -> Sums:
    """The sum by currency."""
    sums: Sums = {}
    for currency, minor in each:
        add(sums, currency, minor)
    return sums


def money_text(sums: Mapping[str, int]) -> str:
    """For people: `1,203.50 EUR + 12.00 USD`."""
    return " + ".join(_amount(minor, currency) for currency, minor in sorted(sums.items()))


def _amount(minor: int, currency: str) -> str:
    try:
        whole, dot, part = decimal_text(abs(minor), currency).partition(".")
    except AmountNotRepresentable:
        return f"{minor} {currency}"
    return f"{'-' if minor < 0 else ''}{int(whole):,}{dot}{part} {currency}"


def _due(amounts: Mapping[str, Any]) -> int:
    """As `Amounts.due`."""
    found: dict[str, int] = {name: int(value) for name, value in amounts.items() if isinstance(value, int)}
    return (
        found.get("goods", 0)
        - found.get("discount", 0)
        + found.get("tax", 0)
        + found.get("facilitator_tax", 0)
    )
