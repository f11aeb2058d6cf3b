"""Fields of a decoded message by path, and conditions on them. Pure.

A path is a subset of JSONPath: `lines[0].sku`, `lines[*].sku`, `meta.attributes['channel.note']`, with or without a leading `$.`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from crossdock_tools.dead_letters.errors import DeadLetterError

EVERY: Final = "*"
_STEP = re.compile(r"\.?([A-Za-z_][A-Za-z0-9_-]*)|\[(\d+|\*)\]|\['([^']*)'\]")
_PREDICATE = re.compile(r"^((?:\['[^']*'\]|[^=!~<>\[\]]|\[[\d*]+\])+)(==|!=|~|<|>)(.*)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Path:
    """Names, positions and `EVERY`, outermost first."""

    text: str
    steps: tuple[str | int, ...]

    @classmethod
    def parse(cls, text: str) -> Path:
        """Raises DeadLetterError."""
        rest = text.strip().removeprefix("$").removeprefix(".")
        steps: list[str | int] = []
        place = 0
        while place < len(rest):
            found = _STEP.match(rest, place)
            if found is None:
                break
            name, index, quoted = found.groups()
            if index is None:
                steps.append(name if quoted is None else quoted)
            else:
                steps.append(EVERY if index == EVERY else int(index))
            place = found.end()
        if not steps or place < len(rest):
            raise DeadLetterError(
                f"{text!r} is no path of fields: write lines[0].sku, lines[*].sku or meta.attributes['a.b']"
            )
        return cls(text.strip(), tuple(steps))

    def values(self, payload: Any) -> Iterator[Any]:
        """Every value that the path leads to."""
        found = [payload]
        for step in self.steps:
            found = [inner for outer in found for inner in _inside(outer, step)]
        yield from found


@dataclass(frozen=True, slots=True)
class Predicate:
    """`path == value`, `!=`, `~` (regular expression), `<` or `>`: true when any value of the path fulfils it."""

    path: Path
    operator: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Predicate:
        """Raises DeadLetterError."""
        found = _PREDICATE.match(text)
        if found is None:
            raise DeadLetterError(
                f"{text!r} is no condition: write path==value, or !=, ~, <, > instead of =="
            )
        path, operator, value = found.groups()
        value = value.strip()
        if operator == "~":
            try:
                re.compile(value)
            except re.error as error:
                raise DeadLetterError(f"{value!r} is no regular expression: {error}") from None
        return cls(Path.parse(path), operator, value)

    def holds(self, payload: Any) -> bool:
        """Raises DeadLetterError for `<` and `>` on a value that has no such order."""
        return any(self._holds_for(value) for value in self.path.values(payload))

    def _holds_for(self, found: Any) -> bool:
        match self.operator:
            case "==":
                return _equals(found, self.value)
            case "!=":
                return not _equals(found, self.value)
            case "~":
                return re.search(self.value, shown(found)) is not None
        try:
            left, right = _ordered(found, self.value)
        except (ValueError, InvalidOperation):
            raise DeadLetterError(
                f"{self.path.text} is {shown(found)}, which {self.value!r} cannot be compared with"
            ) from None
        return bool(left < right if self.operator == "<" else left > right)


def _inside(value: Any, step: str | int) -> list[Any]:
    if step == EVERY:
        return (
            list(value)
            if isinstance(value, list)
            else list(value.values())
            if isinstance(value, dict)
            else []
        )
    if isinstance(step, int):
        return [value[step]] if isinstance(value, list) and step < len(value) else []
    return [value[step]] if isinstance(value, dict) and step in value else []


def _equals(found: Any, text: str) -> bool:
    if isinstance(found, str):
        return found == text
    if isinstance(found, bool) or found is None:
        return text == json.dumps(found)
    try:
        left, right = _ordered(found, text)
    except (ValueError, InvalidOperation):
        return False
    return bool(left == right)


def _ordered(found: Any, text: str) -> tuple[Any, Any]:
    """Both sides as values of one type. Raises ValueError."""
    if isinstance(found, str):
        return found, text
    if isinstance(found, datetime):
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError(text)
        return found, moment
    if isinstance(found, int | float) and not isinstance(found, bool):
        return Decimal(str(found)), Decimal(text)
    raise ValueError(text)


def shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    return json.dumps(value, default=str, ensure_ascii=False)
