"""Defects of the fulfilment router: reports of locations, routing, cancellations. Listed in `catalogue`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from crossdock_canonical.records import ReleaseScope
from crossdock_fulfillment_router import decide, reporting, routing
from crossdock_fulfillment_router.decision import Decision
from crossdock_fulfillment_router.events import Closed, RoutingGivenUp
from crossdock_fulfillment_router.model import find_order, parse_number
from crossdock_simulation.mutations.mutation import Mutation, replaced, wrapped

_SERVICE = "fulfillment-router"
Original = Callable[..., Any]


def _whole_order(original: Original) -> Original:
    def shipped(decision: Decision, command: Any) -> None:
        number = parse_number(decision.state, command.fulfillment_order_id)
        order = find_order(decision.state, number)
        lines = command.lines if order is None else order.lines
        original(decision, replace(command, lines=lines))

    return shipped


def _hard_stays(original: Original) -> Original:
    def release(self: Decision, *args: Any, scope: Any, **rest: Any) -> None:
        if scope is not ReleaseScope.HARD_TO_FREE:
            original(self, *args, scope=scope, **rest)

    return release


def _given_up_silently(decision: Decision, release: Any, lines: Any, _reason: str) -> None:
    decision.emit(RoutingGivenUp(release=release.release, lines=lines))


def _forgotten_after(kept: timedelta) -> Callable[..., Closed]:
    return lambda *, forget_at: Closed(forget_at=forget_at - timedelta(days=120) + kept)


MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        name="parcel-is-everything",
        invariant=12,
        where=_SERVICE,
        about="the first parcel of a fulfilment order counts as all of it",
        apply=wrapped(reporting, "shipped", _whole_order),
    ),
    Mutation(
        name="cancelled-stays-allocated",
        invariant=10,
        where=_SERVICE,
        about="units that a location stopped stay allocated there",
        apply=wrapped(Decision, "release_hard", _hard_stays),
    ),
    Mutation(
        name="routing-once",
        invariant=10,
        where=_SERVICE,
        about="units that no location has are not looked for again",
        apply=replaced(routing, "postpone", lambda *_args, **_policy: None),
    ),
    Mutation(
        name="routing-forgotten-early",
        invariant=9,
        where=_SERVICE,
        about="a routed order is forgotten a week after its last parcel",
        apply=replaced(decide, "Closed", _forgotten_after(timedelta(days=7))),
    ),
    Mutation(
        name="unfillable-unsaid",
        invariant=10,
        where=_SERVICE,
        about="units that are given up are not told of to their order",
        apply=replaced(routing, "_give_up", _given_up_silently),
    ),
)
