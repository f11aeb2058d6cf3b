"""The vocabulary that every decider shares: a timer that fired, an input that changes nothing, and the two anticipated failures.

A core is `decide(command, state, *, now) -> tuple[event, ...]` and `evolve(state, event) -> state`. Commands are the records
of the service's input topics and `TimerFired`. An event that is a record of an output topic is published; every other event
(the service's own, and `Ignored`) only evolves the state. A state has `timers: Mapping[str, datetime]`; the shell fires each
entry once when it is due, and `decide` answers with an event whose evolution removes or moves the entry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A deadline of the entity has come."""

    name: str
    due: datetime


@dataclass(frozen=True, slots=True)
class Ignored:
    """The command changes nothing, and why: `code` such as `order.duplicate`; `detail` for people."""

    code: str
    detail: str = ""


class Rejected(Exception):
    """This message can never succeed as it is. `code` such as `order.unknown_sku` names the reason in the catalogue."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class Retryable(Exception):
    """A dependency is away; the same message may succeed `after_s` seconds later."""

    def __init__(self, code: str, detail: str, *, after_s: float) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.after_s = after_s


R_co = TypeVar("R_co", covariant=True)


class Lookup(Protocol[R_co]):
    """Read side of a broadcast table, frozen during one batch: every row whose key's first part is `group`.

    The rows come in key order. What it says is advice: the owner's answer at its own key decides.
    """

    def __call__(self, group: str) -> tuple[R_co, ...]: ...
