"""What the business decides about routing, arithmetic of lines, and what the state says.

The other modules of the core stand on this one and on `events`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from crossdock_canonical.decider import Rejected
from crossdock_canonical.identity import LineId
from crossdock_canonical.records import FulfillmentLine
from crossdock_fulfillment_router.state_records import (
    Cancellation,
    Exclusion,
    FulfillmentOrder,
    FulfillmentStatus,
    Release,
    RoutingState,
)

Lines = tuple[FulfillmentLine, ...]

FORGET = "forget"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the business decides about routing.

    sourcing_deadline: how long units may wait for a location before they are given up.
    retry_first, retry_max: back-off between two attempts to source; it doubles from the first to the last.
    immediate_attempts: attempts turned down by inventory that are repeated at once, before the back-off
        sets in.
    parcels_max: a plan of more parcels waits one back-off for a better one, then the fewest possible go.
    cancel_deadline: how long a location may take to answer a cancellation; after it the order is told that
        it ships.
    release_deadline: how long a cancellation waits for a release that has not been seen.
    pickup_window: how long goods wait at the counter, from the notice to the customer.
    recall_interval: pause between two recalls of an expired pickup that the store declines or does not
        answer.
    retention: how long a closed order recognises late and repeated messages.
    """

    sourcing_deadline: timedelta = timedelta(days=3)
    retry_first: timedelta = timedelta(seconds=5)
    retry_max: timedelta = timedelta(minutes=10)
    immediate_attempts: int = 3
    parcels_max: int = 3
    cancel_deadline: timedelta = timedelta(hours=4)
    release_deadline: timedelta = timedelta(minutes=15)
    pickup_window: timedelta = timedelta(days=7)
    recall_interval: timedelta = timedelta(days=1)
    retention: timedelta = timedelta(days=60)

    def backoff(self, attempts: int) -> timedelta:
        """Pause after the given number of attempts."""
        doublings = min(
            attempts, 30
        )  # 2**30 times the first pause is beyond any retry_max; it only bounds the arithmetic.
        return min(self.retry_first * int(2**doublings), self.retry_max)


def route_timer(release: int) -> str:
    return f"route/{release}"


def cancel_timer(cancel_id: str) -> str:
    return f"cancel/{cancel_id}"


def pickup_timer(number: int) -> str:
    return f"pickup/{number}"


def fulfillment_order_id(order_id: str, number: int) -> str:
    return f"{order_id}/{number}"


def parse_number(state: RoutingState, order_id: str) -> int:
    """n of `<order_id>/<n>`. Raises Rejected when the router never gave this id out.

    A location, like inventory, learns the id from a record that was written together with the state that
    knows it; so an unknown id is not early, it is wrong.
    """
    prefix, _, number = order_id.rpartition("/")
    if (
        prefix == state.order_id
        and re.fullmatch("[1-9][0-9]{0,8}", number)
        and int(number) <= state.last_number
    ):
        return int(number)
    raise Rejected("fulfillment.unknown_order", f"{order_id!r} is no fulfilment order of {state.order_id}")


def total(lines: Iterable[FulfillmentLine]) -> dict[LineId, int]:
    """Units by line."""
    units: dict[LineId, int] = {}
    for line in lines:
        units[line.line_id] = units.get(line.line_id, 0) + line.units
    return units


def merged(lines: Iterable[FulfillmentLine]) -> Lines:
    """One entry a line, ordered by sku, then line: the order of every document, so that slips never cross."""
    first: dict[LineId, FulfillmentLine] = {}
    lines = tuple(lines)
    for line in lines:
        first.setdefault(line.line_id, line)
    units = total(lines)
    return tuple(
        FulfillmentLine(line_id=line.line_id, sku=line.sku, units=units[line.line_id])
        for line in sorted(first.values(), key=lambda line: (line.sku, line.line_id))
        if units[line.line_id]
    )


def less(lines: Lines, taken: Iterable[FulfillmentLine]) -> Lines:
    """What stays of `lines` without `taken`, which must be contained in them; lines that reach zero go."""
    gone = total(taken)
    rest = []
    for line in lines:
        units = line.units - gone.pop(line.line_id, 0)
        assert units >= 0, f"{-units} units more than {line.line_id} has"
        if units:
            rest.append(FulfillmentLine(line_id=line.line_id, sku=line.sku, units=units))
    assert not gone, f"lines {sorted(gone)} are not there"
    return tuple(rest)


def common(lines: Iterable[FulfillmentLine], limit: dict[LineId, int]) -> Lines:
    """As much of `lines` as `limit` still allows; `limit` is reduced by it."""
    found = []
    for line in lines:
        units = min(line.units, limit.get(line.line_id, 0))
        if units > 0:
            limit[line.line_id] -= units
            found.append(FulfillmentLine(line_id=line.line_id, sku=line.sku, units=units))
    return tuple(found)


def find_release(state: RoutingState, number: int) -> Release:
    return next(release for release in state.releases if release.release == number)


def find_order(state: RoutingState, number: int) -> FulfillmentOrder | None:
    """The open fulfilment order, None once it is closed."""
    return next((order for order in state.fulfillment_orders if order.number == number), None)


def find_cancellation(state: RoutingState, cancel_id: str) -> Cancellation | None:
    """The cancellation while it is not answered."""
    return next((found for found in state.cancellations if found.cancel_id == cancel_id), None)


def waiting(release: Release) -> Lines:
    """What waits for a location, in document order."""
    return merged(
        FulfillmentLine(line_id=line.line_id, sku=line.sku, units=line.waiting) for line in release.lines
    )


def asked_back(order: FulfillmentOrder) -> Lines:
    """What cancellations wait for of the fulfilment order."""
    return tuple(line for ask in order.asks for line in ask.lines)


def uncancelled(order: FulfillmentOrder) -> Lines:
    """What the fulfilment order holds and nobody wants back."""
    return less(order.lines, asked_back(order))


def is_held(order: FulfillmentOrder) -> bool:
    return order.status is not FulfillmentStatus.ASKED


def is_closed(state: RoutingState) -> bool:
    """True when nothing can happen any more unless somebody asks again."""
    return not (
        state.fulfillment_orders
        or state.cancellations
        or any(line.waiting for release in state.releases for line in release.lines)
    )


def is_excluded(exclusions: Sequence[Exclusion], location: str, sku: str) -> bool:
    return any(gone.location == location and gone.sku in (None, sku) for gone in exclusions)
