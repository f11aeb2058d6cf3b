"""Typed values as plain JSON values and back: port answers and table rows in the journal, recorded runs in fixtures.

A class is described by its own annotations, so nothing has to be written for it: dataclasses, enumerations, `NewType`s,
times (ISO 8601), bytes (base 64), tuples, mappings with text keys, optional values, and unions of dataclasses. A member of a
union, and whatever goes through `Tagged`, is an object of one field that carries the name of its class. In brief, a field that
equals its default is left out; reading back puts it in again.
"""

from __future__ import annotations

import types
import typing
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import datetime
from enum import Enum
from functools import cache
from typing import Any

_Conversion = Callable[[Any], Any]


class Unreadable(ValueError):
    """The plain value is none of the types that are known here, or lacks what its type needs."""


class Tagged:
    """One of several classes, with its name: `{"StockReserved": {...}}`."""

    def __init__(self, kinds: Iterable[Any], *, brief: bool = False) -> None:
        self._brief = brief
        self._kinds = frozenset(kinds)
        self._by_name = {kind.__name__: kind for kind in self._kinds}

    def plain(self, value: Any) -> dict[str, Any]:
        """The value as JSON values."""
        kind: Any = type(value)
        assert kind in self._kinds, f"{kind.__name__} is none of {sorted(self._by_name)}"
        return {kind.__name__: _to_plain(kind, self._brief)(value)}

    def typed(self, value: Any) -> Any:
        """The value that `plain` was given. Raises Unreadable."""
        if not isinstance(value, dict) or len(value) != 1:
            raise Unreadable(f"{value!r} is no object of one field that names its type")
        [(name, content)] = value.items()
        kind = self._by_name.get(name)
        if kind is None:
            raise Unreadable(f"{name} is none of {', '.join(sorted(self._by_name))}")
        return _to_typed(kind)(content)


def plain(value: Any, *, brief: bool = False) -> Any:
    """A dataclass as JSON values."""
    kind: Any = type(value)
    return _to_plain(kind, brief)(value)


def typed(kind: Any, value: Any) -> Any:
    """The dataclass `kind` that `plain` was given; fields that are missing get their default. Raises Unreadable."""
    return _to_typed(kind)(value)


@cache
def _to_plain(kind: Any, brief: bool) -> _Conversion:
    kind = _supertype(kind)
    if kind is datetime:
        return datetime.isoformat
    if kind is bytes:
        return lambda value: b64encode(value).decode()
    if isinstance(kind, type) and issubclass(kind, Enum):
        return lambda value: value.value
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        members = [(each.name, _to_plain(hints[each.name], brief), _default(each)) for each in fields(kind)]
        if brief:
            return lambda value: {
                name: convert(found)
                for name, convert, default in members
                if (found := getattr(value, name)) != default
            }
        return lambda value: {name: convert(getattr(value, name)) for name, convert, _ in members}
    arguments = typing.get_args(kind)
    match _shape(kind):
        case "tuple":
            convert = _to_plain(arguments[0], brief)
            return lambda value: [convert(each) for each in value]
        case "mapping":
            convert = _to_plain(arguments[1], brief)
            return lambda value: {key: convert(each) for key, each in value.items()}
        case "optional":
            convert = _to_plain(_present(arguments)[0], brief)
            return lambda value: None if value is None else convert(value)
        case "union":
            tagged = Tagged(_present(arguments), brief=brief)
            return lambda value: None if value is None else tagged.plain(value)
    return _same


def _default(each: Field[Any]) -> Any:
    """The field's default; without one, what equals nothing else."""
    return each.default if each.default_factory is MISSING else each.default_factory()


@cache
def _to_typed(kind: Any) -> _Conversion:
    kind = _supertype(kind)
    if kind is datetime:
        return datetime.fromisoformat
    if kind is bytes:
        return b64decode
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        members = {each.name: _to_typed(hints[each.name]) for each in fields(kind)}
        return lambda value: _built(kind, members, value)
    arguments = typing.get_args(kind)
    match _shape(kind):
        case "tuple":
            convert = _to_typed(arguments[0])
            return lambda value: tuple(convert(each) for each in value)
        case "mapping":
            convert = _to_typed(arguments[1])
            return lambda value: {key: convert(each) for key, each in value.items()}
        case "optional":
            convert = _to_typed(_present(arguments)[0])
            return lambda value: None if value is None else convert(value)
        case "union":
            tagged = Tagged(_present(arguments))
            return lambda value: None if value is None else tagged.typed(value)
    return _same


def _built(kind: Any, members: Mapping[str, _Conversion], value: Mapping[str, Any]) -> Any:
    try:
        return kind(**{name: members[name](each) for name, each in value.items()})
    except (KeyError, TypeError, ValueError) as error:
        raise Unreadable(f"{kind.__name__}: {error!r} in {value!r}") from None


def _shape(kind: Any) -> str:
    origin = typing.get_origin(kind)
    if origin is tuple:
        return "tuple"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "mapping"
    if origin in (typing.Union, types.UnionType):
        return "optional" if len(_present(typing.get_args(kind))) == 1 else "union"
    assert kind in (str, int, float, bool), f"{kind} has no plain form"
    return "scalar"


def _present(arguments: tuple[Any, ...]) -> list[Any]:
    return [each for each in arguments if each is not type(None)]


def _supertype(kind: Any) -> Any:
    while hasattr(kind, "__supertype__"):
        kind = kind.__supertype__
    return kind


def _same(value: Any) -> Any:
    return value
