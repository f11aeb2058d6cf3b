"""Defects of the settlement reconciler: classes, residuals, journals, deadlines. Listed in `catalogue`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from crossdock_settlement_reconciler import journal, matching, settlement_stage
from crossdock_settlement_reconciler.classes import LineClass
from crossdock_settlement_reconciler.model import DECLARED_DIFFERS
from crossdock_simulation.mutations.mutation import Mutation, replaced, wrapped

_SERVICE = "settlement-reconciler"
Original = Callable[..., Any]


def _difference_unnamed(original: Original) -> Original:
    def proved(*args: Any) -> Any:
        proof = original(*args)
        named = tuple(each for each in proof.residuals if each.name != DECLARED_DIFFERS)
        return replace(proof, residuals=named)

    return proved


def _in_two_classes(original: Original) -> Original:
    """A promotion's line is a promotion, and lowers the principal as well."""

    def answer(batch: Any, classed: Any, residuals: Any) -> Any:
        found = original(batch, classed, residuals)
        twice = tuple(
            replace(each, lines=each.lines + 1) if each.line_class == LineClass.FEE else each
            for each in found.classes
        )
        return replace(found, classes=twice)

    return answer


def _batches_unknown(_bits: bytes, _number: int) -> bool:
    return False


MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        name="difference-unnamed",
        invariant=3,
        where=_SERVICE,
        about="a payout that differs from its lines is proved without naming the difference",
        apply=wrapped(settlement_stage, "_proved", _difference_unnamed),
    ),
    Mutation(
        name="line-in-two-classes",
        invariant=3,
        where=_SERVICE,
        about="a fee line is counted in two classes",
        apply=wrapped(matching, "_answer", _in_two_classes),
    ),
    Mutation(
        name="reserve-as-adjustment",
        invariant=3,
        where=_SERVICE,
        about="what a channel holds back is posted as an adjustment",
        apply=lambda: patch.dict(journal._ACCOUNTS, {LineClass.RESERVE: "adjustments"}),
    ),
    Mutation(
        name="batch-gathered-twice",
        invariant=3,
        where=_SERVICE,
        about="a batch of lines without an order is answered as often as it comes",
        apply=replaced(settlement_stage, "_has_bit", _batches_unknown),
    ),
    Mutation(
        name="lines-awaited-forever",
        invariant=10,
        where=_SERVICE,
        about="a payout whose lines do not all come waits without a deadline",
        apply=replaced(settlement_stage, "_await_completion", lambda *_args: None),
    ),
)
