"""What a caller did wrong, as values and as problem details (RFC 9457). Every reader and every route raises these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MEDIA_TYPE = "application/problem+json"
ERRORS_MAX = 50
_SHOWN_MAX = 120


@dataclass(frozen=True, slots=True)
class FieldError:
    """One broken rule: `field` as `line_items[2].price`, the rule in words, the offending value as text."""

    field: str
    rule: str
    value: str = ""


class Refused(Exception):
    """The request cannot be accepted as it is; `status` is a 4xx. Repeating it unchanged cannot help."""

    def __init__(self, status: int, title: str, errors: Sequence[FieldError] = (), detail: str = "") -> None:
        super().__init__(f"{title} {detail}".strip())
        assert 400 <= status < 500
        self.status = status
        self.title = title
        self.errors = tuple(errors[:ERRORS_MAX])
        self.detail = detail


class Unavailable(Exception):
    """Nothing is wrong with the request; the same request may succeed `retry_after_s` seconds later."""

    def __init__(self, detail: str, *, retry_after_s: int) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s


def invalid(errors: Sequence[FieldError]) -> Refused:
    """422: the body is well-formed, and breaks these rules."""
    return Refused(422, "The content breaks a rule", errors)


def malformed(detail: str) -> Refused:
    """400: the bytes are not what their content type says."""
    return Refused(400, "The body cannot be read", detail=detail)


def shown(value: object) -> str:
    """The value as short text that any encoder can carry."""
    text = value if isinstance(value, str) else _scalar(value)
    return text[:_SHOWN_MAX].encode("ascii", "backslashreplace").decode()


def _scalar(value: object) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "null"
    if isinstance(value, int) and abs(value) >= 10**_SHOWN_MAX:
        return "a number of more than 120 digits"  # str() of a huge integer is refused by the interpreter.
    return str(value)
