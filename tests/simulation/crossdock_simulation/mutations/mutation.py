"""What a deliberate defect is, and how one is planted. The modules of this package write them, `hunt` applies them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

SHELL = "shell"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """One defect, as a person or a careless change could make it.

    invariant: number of the one that it breaks. where: the service, or `shell` for what all services run in.
    about: the defect in a sentence.
    apply: plants it for as long as the context lasts, at the place where production code calls what is replaced.
    """

    name: str
    invariant: int
    where: str
    about: str
    apply: Callable[[], AbstractContextManager[Any]]


def replaced(owner: Any, name: str, new: Any) -> Callable[[], AbstractContextManager[Any]]:
    """Plant by putting `new` in the place of `owner`'s attribute. Raises AttributeError, when planted, for one it does not have."""
    return lambda: patch.object(owner, name, new)


def wrapped(
    owner: Any, name: str, around: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Callable[[], AbstractContextManager[Any]]:
    """Plant by putting `around(original)` in the original's place; `around` is called anew each time it is planted."""
    return lambda: patch.object(owner, name, around(getattr(owner, name)))


def together(
    *parts: Callable[[], AbstractContextManager[Any]],
) -> Callable[[], AbstractContextManager[Any]]:
    """Plant several replacements that are one defect."""

    @contextmanager
    def planted() -> Iterator[None]:
        with ExitStack() as stack:
            for part in parts:
                stack.enter_context(part())
            yield

    return planted
