"""Reads vendors' JSON without trusting it: every value has its path, and every broken rule is collected, none raised midway.

The translators of Shopify and Amazon walk a body with `Reader` and call `finish` once. Unknown fields are ignored, null
means absent. Own formats use pydantic models instead, with the same text rules.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from crossdock_canonical.money import AmountNotRepresentable, minor_units
from crossdock_channel_gateway.problem import ERRORS_MAX, FieldError, invalid, malformed, shown

IDENTIFIER_MAX = 200
TEXT_MAX = 500
UNITS_MAX = 1_000_000_000
MINOR_MAX = 10**15
LINES_MAX = 1_000

_AMOUNT = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]{1,12})?")
_CURRENCY = re.compile(r"[A-Z]{3}")
# Control characters, and halves of a surrogate pair, which no encoding can carry.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_json(body: bytes) -> Any:
    """The body's JSON, with fractions as Decimal. Raises Refused(400) for anything that is not JSON in UTF-8."""
    try:
        return json.loads(body.decode("utf-8-sig"), parse_float=Decimal, parse_constant=_no_constant)
    except RecursionError:
        raise malformed("the JSON is nested too deeply") from None
    except (ValueError, ArithmeticError) as error:
        raise malformed(f"the body is not JSON in UTF-8: {shown(str(error))}") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def amount_text(value: object) -> str | None:
    """Decimal text of a JSON string or number, or None when it is no plain decimal amount."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip()
    elif isinstance(value, int):
        text = str(value) if abs(value) < MINOR_MAX else ""
    elif isinstance(value, Decimal) and value.is_finite() and -13 < value.adjusted() < 16:
        text = format(value, "f")
    else:
        return None
    return text if _AMOUNT.fullmatch(text) else None


def moment_of(value: object) -> datetime | None:
    """UTC time of an ISO 8601 text with an offset, or None. Years outside 1970-2200 are no business times."""
    if not isinstance(value, str) or len(value) > 40:
        return None
    try:
        parsed = datetime.fromisoformat(value)
        if parsed.tzinfo is None:
            return None
        moment = parsed.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment if 1970 <= moment.year <= 2200 else None


def clean_text(value: str, size: int = TEXT_MAX) -> str:
    """Free text that any encoder can carry, clipped."""
    return _SURROGATE.sub("\ufffd", value.strip())[:size]


def is_identifier(value: str) -> bool:
    """Whether the text can be an identifier: not empty, printable, bounded."""
    return 0 < len(value) <= IDENTIFIER_MAX and _UNPRINTABLE.search(value) is None


class Reader:
    """One value of a JSON body with its path. Reading a wrong value notes the error and returns a neutral value."""

    __slots__ = ("_errors", "path", "value")

    def __init__(self, value: Any, path: str = "", errors: list[FieldError] | None = None) -> None:
        self.value = value
        self.path = path
        self._errors: list[FieldError] = [] if errors is None else errors

    @property
    def present(self) -> bool:
        return self.value is not None

    def has(self, name: str) -> bool:
        """Whether this is an object with the member; cheaper than reading it."""
        return isinstance(self.value, dict) and self.value.get(name) is not None

    def at(self, name: str) -> Reader:
        """Member of an object; absent when this value is."""
        path = f"{self.path}.{name}" if self.path else name
        if self.value is not None and not isinstance(self.value, dict):
            self.fail("must be an object")
            self.value = None  # Said once.
        return Reader(None if self.value is None else self.value.get(name), path, self._errors)

    def items(self, *, most: int = LINES_MAX) -> list[Reader]:
        """Elements of a list; none when absent."""
        if self.value is None:
            return []
        if not isinstance(self.value, list):
            self.fail("must be a list")
            return []
        if len(self.value) > most:
            self.fail(f"must have at most {most} elements")
            return []
        return [
            Reader(value, f"{self.path}[{index}]", self._errors) for index, value in enumerate(self.value)
        ]

    def fail(self, rule: str) -> None:
        if len(self._errors) < ERRORS_MAX:
            self._errors.append(FieldError(self.path, rule, shown(self.value)))

    def finish(self) -> None:
        """Raise Refused(422) when anything read so far was wrong."""
        if self._errors:
            raise invalid(list(dict.fromkeys(self._errors)))  # A value may have been read twice.

    def identifier(self, *, required: bool = True) -> str:
        """An id given as text or whole number."""
        value = self.value
        if value is None or value == "":
            if required:
                self.fail("is required")
            return ""
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**30:
            return str(value)
        if isinstance(value, str) and is_identifier(value.strip()):
            return value.strip()
        self.fail(f"must be an identifier of 1 to {IDENTIFIER_MAX} printable characters")
        return ""

    def text(self, size: int = TEXT_MAX) -> str:
        """Free text for people: clipped, never refused for its length."""
        if self.value is None:
            return ""
        if isinstance(self.value, str):
            return clean_text(self.value, size)
        if isinstance(self.value, (int, Decimal)) and not isinstance(self.value, bool):
            return shown(self.value)[:size]
        self.fail("must be text")
        return ""

    def word(self, allowed: dict[str, Any], *, default: str | None = None) -> Any:
        """The meaning of one of the known words. An unknown word is an error, never a guess."""
        value = default if self.value is None else self.value
        if isinstance(value, str) and value in allowed:
            return allowed[value]
        self.fail(f"must be one of {', '.join(sorted(allowed))}" if self.present else "is required")
        return next(iter(allowed.values()))

    def flag(self, *, default: bool) -> bool:
        """A boolean, also as the text that some vendors send."""
        value = self.value.lower() if isinstance(self.value, str) else self.value
        if value is None or value == "":
            return default
        if value is True or value == "true":
            return True
        if value is False or value == "false":
            return False
        self.fail("must be true or false")
        return default

    def whole(self, *, least: int = 0, most: int = UNITS_MAX, default: int | None = None) -> int:
        """A whole number within bounds, also as text."""
        value = self.value
        if value is None and default is not None:
            return default
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
            value = int(value)
        if isinstance(value, Decimal) and value.adjusted() < 18 and value == value.to_integral_value():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        self.fail("is required" if self.value is None else f"must be a whole number from {least} to {most}")
        return least

    def moment(self) -> datetime:
        """A time with an offset, as UTC."""
        found = moment_of(self.value)
        if found is None:
            self.fail("is required" if self.value is None else "must be an ISO 8601 time with an offset")
            return datetime(1970, 1, 1, tzinfo=UTC)
        return found

    def currency(self) -> str:
        """An ISO 4217 code."""
        if isinstance(self.value, str) and _CURRENCY.fullmatch(self.value):
            return self.value
        self.fail(
            "is required" if self.value is None else "must be an ISO 4217 code of three capital letters"
        )
        return ""

    def minor(self, currency: str, *, default: int | None = None) -> int:
        """An amount in minor units; refused, never rounded, when the currency cannot hold it."""
        if self.value is None and default is not None:
            return default
        text = amount_text(self.value)
        if text is None:
            self.fail("is required" if self.value is None else "must be a decimal amount")
            return 0
        if not currency:
            return 0  # The currency's own error is noted already.
        try:
            return minor_units(text, currency)
        except AmountNotRepresentable:
            self.fail(f"must be an amount that {currency} can hold")
            return 0

    def bounded(self, minor: int) -> int:
        """The computed amount, or 0 with a note when it is beyond any business amount."""
        if abs(minor) < MINOR_MAX:
            return minor
        self.fail("the amount is too large")
        return 0
