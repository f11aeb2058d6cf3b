"""What the returns core decides with: its policy, its private events, and questions to its state.

`decide`, `crediting` and `evolve` import this. A return (RMA) belongs to one order; goods may come back to
any location, with or without a request. Units are base units of the sku; only an input may speak of a kit by the channel's
line and count kits, and is taken apart when it is decided.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from crossdock_canonical.identity import LineId, OrderId
from crossdock_canonical.records import (
    CreditGranted,
    OrderShipped,
    ReturnInspected,
    ReturnLine,
    ReturnReceived,
    ReturnRequested,
)
from crossdock_returns.state_records import OrderReturns, ReturnableLine, Rma, RmaStatus

WINDOW_CLOSED = "return.window_closed"
MORE_THAN_SHIPPED = "return.more_than_shipped"
UNKNOWN_LINE = "return.unknown_line"
UNKNOWN_ORDER = "return.unknown_order"

RETIRE = "retire"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Deadlines of the business.

    window: a request must be made within this time of the line's last shipment.
    validity: how long an authorised return may take to arrive.
    inspection: how long received goods may wait for inspection.
    unknown_order: how long an input waits for its order or line to ship.
    retention: how long an order is remembered after its last shipment or return, beyond every redelivery.
    """

    window: timedelta = timedelta(days=30)
    validity: timedelta = timedelta(days=30)
    inspection: timedelta = timedelta(days=14)
    unknown_order: timedelta = timedelta(days=3)
    retention: timedelta = timedelta(days=180)

    def __post_init__(self) -> None:
        assert self.retention > self.window + self.validity + self.inspection


WaitingInput = ReturnRequested | ReturnReceived | ReturnInspected


@dataclass(frozen=True, slots=True)
class ShipmentLearned:
    """Goods of the order left: from now on they may come back."""

    shipment: OrderShipped


@dataclass(frozen=True, slots=True)
class ChannelCredited:
    """The channel credited units before an inspection did."""

    credit: CreditGranted


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelRefunded:
    """The channel's refund that paid out one of its credits."""

    order_id: OrderId
    credit_id: str
    refund_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InputDeferred:
    """An input is ahead of the shipment that it speaks of."""

    waiting: WaitingInput
    deadline: datetime


@dataclass(frozen=True, slots=True)
class InputResumed:
    """A deferred input is decided now; `name` is its timer's."""

    name: str


@dataclass(frozen=True, slots=True)
class BlindReturnOpened:
    """Goods came of which nothing more may be returned: recorded, with nothing authorised."""

    rma_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GoodsReceived:
    """Units of one receipt, by line."""

    rma_id: str
    receipt_id: str
    lines: tuple[ReturnLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GoodsInspected:
    """Units of one inspection, by line. `creditable`: False when the return was declined for its lateness."""

    rma_id: str
    inspection_id: str
    units: tuple[tuple[str, int], ...]
    creditable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadlineSet:
    """A timer starts or moves."""

    name: str
    due: datetime


@dataclass(frozen=True, slots=True)
class OrderForgotten:
    """Retention passed and nothing is open: the state goes."""


def waiting_name(waiting: WaitingInput) -> str:
    """Name of the timer of a deferred input, unique within the order."""
    match waiting:
        case ReturnRequested():
            return f"request/{waiting.rma_id}"
        case ReturnReceived():
            return f"receipt/{waiting.rma_id}/{waiting.receipt_id}"
        case ReturnInspected():
            return f"inspection/{waiting.rma_id}/{waiting.inspection_id}"


def expiry_name(rma_id: str) -> str:
    """Name of the timer by which a return must have made its next step."""
    return f"expire/{rma_id}"


def find_line(state: OrderReturns, line_id: str) -> ReturnableLine | None:
    """The shipped line, None when nothing of it is known to have shipped."""
    return next((line for line in state.lines if line.line_id == line_id), None)


def components(state: OrderReturns, line_id: str) -> tuple[ReturnableLine, ...]:
    """The shipped lines that a line id means: itself, or the components of the kit that the channel knows by it."""
    return tuple(line for line in state.lines if line_id in (line.line_id, line.parent_line_id))


def base_units(line: ReturnableLine, line_id: str, units: int) -> int:
    """Base units of a shipped line that `units` under `line_id` mean: kits under the kit's id, else base units."""
    return units * line.per_unit if line_id == line.parent_line_id else units


def in_channel_units(state: OrderReturns, lines: Iterable[ReturnLine]) -> tuple[ReturnLine, ...]:
    """The same in the channel's lines and units, for telling it. A kit or case comes back with the first part of it."""
    found: dict[LineId, ReturnLine] = {}
    for line in lines:
        known = find_line(state, line.line_id)
        assert known is not None, "only shipped lines are authorised"
        line_id = LineId(known.parent_line_id or known.line_id)
        units = -(-line.units // known.per_unit)
        before = found.get(line_id)
        found[line_id] = (
            replace(line, line_id=line_id, units=units)
            if before is None
            else replace(before, units=max(before.units, units))
        )
    return tuple(found.values())


def find_rma(state: OrderReturns, rma_id: str) -> Rma | None:
    """The return, None when unknown."""
    return next((rma for rma in state.rmas if rma.rma_id == rma_id), None)


def shipped_units(line: ReturnableLine) -> int:
    """Units of the line that left so far."""
    return sum(lot.units for lot in line.lots)


def returnable_units(state: OrderReturns, line_id: str) -> int:
    """Units that a new return may still claim: shipped less what every return holds; may be negative."""
    line = find_line(state, line_id)
    held = 0
    for rma in state.rmas:
        for claimed in rma.lines:
            if claimed.line_id == line_id:
                authorized = claimed.authorized if rma.status is RmaStatus.OPEN else 0
                held += max(authorized, claimed.received, claimed.inspected)
    return (0 if line is None else shipped_units(line)) - held


def is_settled(rma: Rma) -> bool:
    """True when everything authorised or received was inspected, and there was something."""
    return any(line.inspected for line in rma.lines) and all(
        line.inspected >= max(line.authorized, line.received) for line in rma.lines
    )
