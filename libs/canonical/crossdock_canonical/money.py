"""Exact money: integers of minor units with their currency, never a float. Cores and edges import this.

Exponents are those of ISO 4217. An amount that its currency cannot hold is refused with the offending text, never rounded
in silence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

# ISO 4217: every currency has two decimals but for these.
_NO_DECIMALS = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_THREE_DECIMALS = "BHD IQD JOD KWD LYD OMR TND"
_EXPONENTS = {
    **dict.fromkeys(_NO_DECIMALS.split(), 0),
    **dict.fromkeys(_THREE_DECIMALS.split(), 3),
    "CLF": 4,
    "UYW": 4,
}


class AmountNotRepresentable(ValueError):
    """The text is no amount, or has more decimals than its currency."""

    def __init__(self, text: str, currency: str) -> None:
        super().__init__(f"{text!r} is not an amount that {currency or 'an unknown currency'} can hold")
        self.text = text
        self.currency = currency


class CurrencyMismatch(ValueError):
    """Two amounts of different currencies were put together."""

    def __init__(self, left: str, right: str) -> None:
        super().__init__(f"amounts in {left} and {right} cannot be put together")


def is_currency(code: str) -> bool:
    """Whether the text has the form of an ISO 4217 code: three capital letters."""
    return len(code) == 3 and code.isascii() and code.isalpha() and code.isupper()


def exponent(currency: str) -> int:
    """Decimals of the currency (ISO 4217). Raises AmountNotRepresentable when the code is not three capital letters."""
    if not is_currency(currency):
        raise AmountNotRepresentable("", currency)
    return _EXPONENTS.get(currency, 2)


def minor_units(text: str | int, currency: str) -> int:
    """Read a decimal text such as `25.99` as minor units. Raises AmountNotRepresentable; trailing zeros are allowed."""
    try:
        value = Decimal(str(text).strip())
    except InvalidOperation:
        raise AmountNotRepresentable(str(text), currency) from None
    if not value.is_finite() or abs(value) >= Decimal(10) ** 15:
        raise AmountNotRepresentable(str(text), currency)
    scaled = value.scaleb(exponent(currency))
    if scaled != scaled.to_integral_value():
        raise AmountNotRepresentable(str(text), currency)
    return int(scaled)


def decimal_text(minor: int, currency: str) -> str:
    """Write minor units as the channels do: `1999` EUR is `19.99`."""
    return f"{Decimal(minor).scaleb(-exponent(currency)):.{exponent(currency)}f}"


def apportion(amount: int, weights: Sequence[int]) -> tuple[int, ...]:
    """Split an amount by weights so that the parts sum to it exactly (largest remainder, ties to the first).

    All weights zero: equal weights. Negative amounts split as their absolute value does.
    """
    assert weights, "an amount cannot be split into no parts"
    assert all(weight >= 0 for weight in weights)
    shares = weights if any(weights) else [1] * len(weights)
    total = sum(shares)
    floors = [abs(amount) * share // total for share in shares]
    remainders = [abs(amount) * share % total for share in shares]
    missing = abs(amount) - sum(floors)
    for index in sorted(range(len(shares)), key=lambda i: (-remainders[i], i))[:missing]:
        floors[index] += 1
    sign = -1 if amount < 0 else 1
    return tuple(sign * part for part in floors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """An exact amount of one currency. `minor` counts minor units (cents; whole units for JPY)."""

    minor: int
    currency: str

    @classmethod
    def parse(cls, text: str | int, currency: str) -> Self:
        """Read `25.99`. Raises AmountNotRepresentable."""
        return cls(minor=minor_units(text, currency), currency=currency)

    def __str__(self) -> str:
        return f"{decimal_text(self.minor, self.currency)} {self.currency}"

    def __add__(self, other: Money) -> Money:
        if other.currency != self.currency:
            raise CurrencyMismatch(self.currency, other.currency)
        return Money(minor=self.minor + other.minor, currency=self.currency)

    def __sub__(self, other: Money) -> Money:
        return self + Money(minor=-other.minor, currency=other.currency)

    def to_avro(self) -> dict[str, Any]:
        return {"minor": self.minor, "currency": self.currency}

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> Self:
        return cls(minor=value["minor"], currency=value["currency"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """What a line or a charge is worth, in minor units of one currency; due = goods - discount + tax + facilitator_tax."""

    currency: str
    goods: int
    discount: int = 0
    tax: int = 0
    facilitator_tax: int = 0

    @classmethod
    def zero(cls, currency: str) -> Self:
        return cls(currency=currency, goods=0)

    @property
    def net(self) -> int:
        """Goods less discount: revenue without any tax."""
        return self.goods - self.discount

    @property
    def due(self) -> int:
        """What the customer pays for it, tax of both kinds included."""
        return self.net + self.tax + self.facilitator_tax

    @property
    def receivable(self) -> int:
        """What the seller may claim: the facilitator's tax is never ours."""
        return self.net + self.tax

    def __add__(self, other: Amounts) -> Amounts:
        if other.currency != self.currency:
            raise CurrencyMismatch(self.currency, other.currency)
        return Amounts(
            currency=self.currency,
            goods=self.goods + other.goods,
            discount=self.discount + other.discount,
            tax=self.tax + other.tax,
            facilitator_tax=self.facilitator_tax + other.facilitator_tax,
        )

    def __neg__(self) -> Amounts:
        return Amounts(
            currency=self.currency,
            goods=-self.goods,
            discount=-self.discount,
            tax=-self.tax,
            facilitator_tax=-self.facilitator_tax,
        )

    def __sub__(self, other: Amounts) -> Amounts:
        return self + -other

    def split(self, weights: Sequence[int]) -> tuple[Amounts, ...]:
        """Apportion every component by weights; the parts sum to the whole exactly."""
        columns = zip(
            apportion(self.goods, weights),
            apportion(self.discount, weights),
            apportion(self.tax, weights),
            apportion(self.facilitator_tax, weights),
            strict=True,
        )
        return tuple(
            replace(self, goods=goods, discount=discount, tax=tax, facilitator_tax=facilitator)
            for goods, discount, tax, facilitator in columns
        )

    def share(self, *, units: int, before: int, of: int) -> Amounts:
        """Worth of units `before + 1 .. before + units` of a line of `of` units; consecutive shares sum to the line."""
        assert 0 <= before <= before + units <= of
        assert of > 0
        return self._cumulative(before + units, of) - self._cumulative(before, of)

    def _cumulative(self, units: int, of: int) -> Amounts:
        return self.split([units, of - units])[0]

    def to_avro(self) -> dict[str, Any]:
        return {
            "currency": self.currency,
            "goods": self.goods,
            "discount": self.discount,
            "tax": self.tax,
            "facilitator_tax": self.facilitator_tax,
        }

    @classmethod
    def from_avro(cls, value: dict[str, Any]) -> Self:
        return cls(
            currency=value["currency"],
            goods=value["goods"],
            discount=value["discount"],
            tax=value["tax"],
            facilitator_tax=value["facilitator_tax"],
        )
