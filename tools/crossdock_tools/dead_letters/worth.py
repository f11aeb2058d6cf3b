"""The money that a message names: what is at stake in a group of dead letters, what an effect moves. Pure.

By field names that the contracts share: an amount of the whole message, else the sum of its lines and charges.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from crossdock_canonical.money import AmountNotRepresentable, Amounts, Money, decimal_text

Sums = dict[str, int]
"""Minor units by currency."""

_WHOLE = ("total", "amount", "declared_total", "captured", "store_refund")
_MINOR = ("amount_minor", "declared_minor", "sum_minor")


def worth(body: Any) -> tuple[str, int] | None:
    """Currency and minor units of a typed record; None for one that names no money."""
    for name in _WHOLE:
        whole = getattr(body, name, None)
        if isinstance(whole, Money):
            return whole.currency, whole.minor
    currency = str(getattr(body, "currency", ""))
    if not currency:
        return None
    for name in _MINOR:
        minor = getattr(body, name, None)
        if isinstance(minor, int):
            return currency, minor
    charges = [getattr(line, "amounts", None) for line in getattr(body, "lines", ())]
    due = [each.due for each in (*charges, getattr(body, "shipping", None)) if isinstance(each, Amounts)]
    return (currency, sum(due) + int(getattr(body, "other_minor", 0))) if due else None


def may_name_money(kind: type[Any]) -> bool:
    """Whether any record of the type can be worth something."""
    return any(hasattr(kind, name) for name in (*_WHOLE, "currency"))


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
