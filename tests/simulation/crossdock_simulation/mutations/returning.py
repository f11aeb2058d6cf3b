"""Defects of the returns service: what may come back, what it is worth, until when it is remembered. Listed in `catalogue`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from crossdock_returns import crediting, decide, evolve
from crossdock_returns.model import RETIRE, DeadlineSet, find_line, shipped_units
from crossdock_returns.state_records import OrderReturns
from crossdock_simulation.mutations.mutation import Mutation, replaced, wrapped

_SERVICE = "returns"
Original = Callable[..., Any]


def _all_that_shipped(state: OrderReturns, line_id: str) -> int:
    line = find_line(state, line_id)
    return 0 if line is None else shipped_units(line)


def _retired_early(*, name: str, due: Any) -> DeadlineSet:
    return DeadlineSet(name=name, due=due - timedelta(days=140) if name == RETIRE else due)


def _without_discount(original: Original) -> Original:
    def worth(line: Any, units: int) -> Any:
        return replace(original(line, units), discount=0)

    return worth


def _restocked_by_line(original: Original) -> Original:

    def restock(**fields: Any) -> Any:
        return original(**{**fields, "ref": f"{fields['rma_id']}/{fields['line_id']}/{fields['bucket']}"})

    return restock


def _deferred_untimed(original: Original) -> Original:
    def defer(state: OrderReturns, *rest: Any) -> Any:
        return replace(original(state, *rest), timers=state.timers)

    return defer


MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        name="returns-beyond-shipped",
        invariant=7,
        where=_SERVICE,
        about="units that another return has announced may be announced again",
        apply=replaced(decide, "returnable_units", _all_that_shipped),
    ),
    Mutation(
        name="credit-without-discount",
        invariant=3,
        where=_SERVICE,
        about="a credit for returned goods forgets their discount",
        apply=wrapped(crediting, "worth", _without_discount),
    ),
    Mutation(
        name="returns-forgotten-early",
        invariant=9,
        where=_SERVICE,
        about="the returns of an order are forgotten 40 days after its last shipment",
        apply=replaced(decide, "DeadlineSet", _retired_early),
    ),
    Mutation(
        name="deferred-without-deadline",
        invariant=10,
        where=_SERVICE,
        about="a return that comes before its order's shipment waits for it without a deadline",
        apply=wrapped(evolve, "_defer", _deferred_untimed),
    ),
    Mutation(
        name="restock-reference-of-return",
        invariant=12,
        where=_SERVICE,
        about="goods restocked after a second inspection of a return go under the reference of the first",
        apply=wrapped(decide, "RestockReturn", _restocked_by_line),
    ),
)
