"""Services by name, composed as their own processes compose them. Used by the replay commands and the recorded runs.

The tools depend on no service: one is imported when it is asked for, as `python -m` would find it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crossdock_eventing.service import Service

_OURS = "CROSSDOCK_"


class UnknownService(Exception):
    """No service of this name is installed."""


def load(name: str, settings: Mapping[str, str]) -> Service:
    """The service with exactly these settings (`CROSSDOCK_...` variables) over the defaults. Raises UnknownService."""
    package = f"crossdock_{name.replace('-', '_')}"
    try:
        composition = importlib.import_module(f"{package}.service")
    except ModuleNotFoundError:
        raise UnknownService(f"no service {name} is installed here") from None
    with _environment(settings):
        made: Service = composition.service(importlib.import_module(f"{package}.settings").Settings())
    return made


def policies(name: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The settings of one service in an environment, but for addresses: they decide nothing."""
    prefix = f"{_OURS}{name.replace('-', '_').upper()}_"
    return {key: value for key, value in environment.items() if key.startswith(prefix) and "://" not in value}


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = {key: value for key, value in os.environ.items() if key.startswith(_OURS)}
    try:
        _replace(settings)
        yield
    finally:
        _replace(before)


def _replace(settings: Mapping[str, str]) -> None:
    for key in [key for key in os.environ if key.startswith(_OURS)]:
        del os.environ[key]
    os.environ.update(settings)
