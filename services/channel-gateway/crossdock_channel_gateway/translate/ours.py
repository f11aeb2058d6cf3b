"""What the formats that Crossdock itself defines have in common: strict models, and their errors as field errors.

An unknown field is refused: a misspelt optional field would otherwise be lost in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.json_schema import WithJsonSchema

from crossdock_canonical.money import AmountNotRepresentable, minor_units
from crossdock_channel_gateway.problem import ERRORS_MAX, FieldError, Refused, invalid, shown
from crossdock_channel_gateway.reading import (
    IDENTIFIER_MAX,
    TEXT_MAX,
    UNITS_MAX,
    amount_text,
    clean_text,
    is_identifier,
    moment_of,
)

_WHOLE = re.compile(r"-?[0-9]{1,18}")


def _identifier(value: Any) -> str:
    text = (
        str(value)
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**30
        else value
    )
    if not isinstance(text, str) or not is_identifier(text.strip()):
        raise ValueError(f"must be an identifier of 1 to {IDENTIFIER_MAX} printable characters")
    return text.strip()


def _moment(value: Any) -> datetime:
    found = value if isinstance(value, datetime) else moment_of(value)
    if found is None:
        raise ValueError("must be an ISO 8601 time with an offset")
    return found


def _amount(value: Any) -> str:
    text = amount_text(value)
    if text is None:
        raise ValueError("must be a decimal amount")
    return text


def _whole(value: Any) -> int:
    """A whole number; as text too, since that is all that a CSV cell can say."""
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError("must be a whole number")


def _order_id(value: str) -> str:
    parts = value.split("-")
    if [len(part) for part in parts] != [8, 4, 4, 4, 12] or set(value) - set("0123456789abcdef-"):
        raise ValueError("must be an order id (a UUID in lower case)")
    return value


Identifier = Annotated[
    str,
    BeforeValidator(_identifier),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": IDENTIFIER_MAX}),
]
OrderReference = Annotated[
    Identifier, AfterValidator(_order_id), WithJsonSchema({"type": "string", "format": "uuid"})
]
Text = Annotated[str, AfterValidator(clean_text), WithJsonSchema({"type": "string", "maxLength": TEXT_MAX})]
Moment = Annotated[
    datetime, BeforeValidator(_moment), WithJsonSchema({"type": "string", "format": "date-time"})
]
Amount = Annotated[
    str,
    BeforeValidator(_amount),
    WithJsonSchema({"type": "string", "examples": ["19.99"], "description": "Decimal text, never a float."}),
]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$", description="ISO 4217 code.")]
Whole = Annotated[int, BeforeValidator(_whole), WithJsonSchema({"type": "integer"})]
Units = Annotated[Whole, Field(ge=1, le=UNITS_MAX)]
Count = Annotated[Whole, Field(ge=0, le=UNITS_MAX)]


class OwnModel(BaseModel):
    """Base of every format that Crossdock defines."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


M = TypeVar("M", bound=BaseModel)


def validated(model: type[M], value: Any, *, prefix: str = "") -> M:
    """The value as the model. Raises Refused(422) with every broken rule by its field."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise invalid(field_errors(error, prefix)) from None
    except RecursionError:
        raise Refused(400, "The body cannot be read", detail="the JSON is nested too deeply") from None


def field_errors(error: ValidationError, prefix: str = "") -> list[FieldError]:
    return [
        FieldError(path(each["loc"], prefix), each["msg"].removeprefix("Value error, "), shown(each["input"]))
        for each in error.errors(include_url=False, include_context=False)[:ERRORS_MAX]
    ]


def path(location: Iterable[int | str], prefix: str = "") -> str:
    """`lines[2].price` of a pydantic location."""
    found = prefix
    for step in location:
        if isinstance(step, int):
            found += f"[{step}]"
        else:
            found += f".{shown(step)}" if found else shown(step)
    return found


class Amounts:
    """Reads amounts of one currency by field, and collects what the currency cannot hold."""

    def __init__(self, currency: str) -> None:
        self.currency = currency
        self.errors: list[FieldError] = []

    def minor(self, text: str, field: str) -> int:
        try:
            return minor_units(text, self.currency)
        except AmountNotRepresentable:
            self.errors.append(FieldError(field, f"must be an amount that {self.currency} can hold", text))
            return 0

    def finish(self) -> None:
        if self.errors:
            raise invalid(self.errors)
