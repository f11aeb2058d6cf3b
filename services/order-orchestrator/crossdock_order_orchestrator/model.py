"""Vocabulary of the orchestrator's core: its policy, its private events, and what can be read off an order's state.

`decide` and its parts write these events, `evolve` folds them. The state itself is generated (`state_records`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from crossdock_canonical.decider import Ignored
from crossdock_canonical.identity import LineId, OrderId, Sku
from crossdock_canonical.money import Amounts, Money, exponent
from crossdock_canonical.records import (
    CancelFulfillment,
    CapturePayment,
    ConsumeStock,
    CreditGranted,
    FraudVerdict,
    FulfilledBy,
    IntakeKind,
    LineUnits,
    OrderAmended,
    OrderCancelled,
    OrderCompleted,
    OrderHeld,
    OrderReceived,
    OrderRejected,
    OrderReleased,
    OrderShipped,
    Origin,
    PaymentRecorded,
    RefundPayment,
    RefundRecorded,
    ReleaseStock,
    ReserveStock,
    TenderState,
    VoidPayment,
)
from crossdock_order_orchestrator.state_records import (
    AwaitedOrderState,
    EarlyInput,
    Line,
    Movement,
    OrderState,
    OwedRefund,
    PendingCancel,
    Stage,
    TenderBooks,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

# An order's own ids that are remembered against redelivery. Shipments, cancellations, refunds and credits each take at
# least one unit or one movement of money, so an order that outgrows this has far outlived its redelivery windows.
SEEN_MAX = 256
EARLY_INPUTS_MAX = 64

UNPAID = "order.unpaid"
PENDING = "order.pending"
FRAUD_REVIEW = "order.fraud_review"
FRAUD_REJECTED = "order.fraud_rejected"
BACKORDERED = "order.backordered"
OUT_OF_STOCK = "order.out_of_stock"
CANCELLED_BY_CHANNEL = "order.cancelled_by_channel"
CANCELLED_BY_US = "order.cancelled_by_us"
PICKUP_EXPIRED = "order.pickup_expired"
CHANGE_AFTER_RELEASE = "order.change_after_release"
CANCEL_REFUSED = "order.cancel_refused"
CAPTURE_DECLINED = "order.capture_declined"
REFUND_FAILED = "order.refund_failed"
VOID_FAILED = "order.void_failed"
PAYMENT_SHORT = "order.payment_short"
PAYMENT_UNANSWERED = "order.payment_unanswered"
CREDIT_SHORT = "order.credit_exceeds_captured"
CHARGED_BACK = "order.charged_back"
OVERDUE = "order.overdue"
FULFILLED_ELSEWHERE = "order.fulfilled_elsewhere"
UNKNOWN_ORDER = "order.unknown"

# Who decides on a held order, by reason.
OWNERS: Mapping[str, str] = {
    UNPAID: "payments",
    PENDING: "marketplace-operations",
    FRAUD_REVIEW: "risk",
    BACKORDERED: "supply",
    CHANGE_AFTER_RELEASE: "order-support",
    CANCEL_REFUSED: "order-support",
    CAPTURE_DECLINED: "payments",
    REFUND_FAILED: "payments",
    VOID_FAILED: "payments",
    PAYMENT_SHORT: "payments",
    PAYMENT_UNANSWERED: "payments",
    CREDIT_SHORT: "finance",
    CHARGED_BACK: "payments",
    FULFILLED_ELSEWHERE: "order-support",
    OVERDUE: "fulfillment-operations",
    UNKNOWN_ORDER: "order-support",
}
DEFAULT_OWNER = "order-support"

# Names of timers. A hold's timer is `hold:` and its reason.
HOLD = "hold:"
REFUND_TIMER = "refund"
FORGET_TIMER = "forget"
AWAIT_TIMER = "await"
AUTHORIZATION_TIMER = "authorization:"
ANSWER_TIMER = "answer:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the business decided: deadlines, thresholds, and what happens when nobody decides."""

    unpaid_deadline: timedelta = timedelta(days=2)
    pending_deadline: timedelta = timedelta(days=7)
    fraud_deadline: timedelta = timedelta(days=1)
    fraud_verdict_at_deadline: FraudVerdict = FraudVerdict.REJECT
    fraud_threshold_minor: Mapping[str, int] = field(default_factory=dict)
    fraud_threshold_major: int = 2000  # of a currency that the mapping does not name
    backorder_channels: frozenset[str] = frozenset()
    backorder_deadline: timedelta = timedelta(days=14)
    early_deadline: timedelta = timedelta(days=3)
    authorization_lifetime: timedelta = timedelta(days=30)
    payment_retry_after: timedelta = timedelta(hours=6)
    payment_attempts_max: int = 3
    payment_answer_within: timedelta = timedelta(hours=6)
    exception_deadline: timedelta = timedelta(days=7)
    channel_refund_grace: timedelta = timedelta(minutes=15)
    overdue_after: timedelta = timedelta(days=2)
    reroutes_max: int = 1
    retention: timedelta = timedelta(days=180)

    def needs_review(self, total: Money) -> bool:
        """True when an order of this total waits for a risk decision."""
        default = self.fraud_threshold_major * 10 ** exponent(total.currency)
        threshold: int = self.fraud_threshold_minor.get(total.currency, default)
        return total.minor >= threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class InputKept:
    """An input about an order that is not known yet was put aside."""

    order_id: OrderId
    input: EarlyInput
    deadline: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderTaken:
    """The first snapshot made an order."""

    order: OrderState


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRevised:
    """A newer snapshot was merged: `order` differs from the state before in what the channel owns."""

    order: OrderState


@dataclass(frozen=True, slots=True, kw_only=True)
class TenderNoted:
    """A payment was reported. `promised_minor` is what a marketplace will settle itself."""

    reference: str
    state: TenderState
    promised_minor: int = 0
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TenderLapsed:
    """What was authorised and not taken can be taken no more."""

    reference: str
    minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentFailed:
    """The provider refused one of our movements."""

    movement_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MovementStarted:
    """The provider is asked to move money; `replaces` names the failed attempt that this one follows."""

    movement: Movement
    answer_by: datetime
    replaces: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedAgain:
    """The provider did not answer and was asked again under the same id; without a time nobody asks a further time."""

    movement_id: str
    answer_by: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundOwed:
    """A credit is to be paid out as soon as what was captured allows it."""

    owed: OwedRefund


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundDeferred:
    """The channel gets time to send its own refund before we start one."""

    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StockAnswered:
    """Inventory answered a slip (`slip_id` set) or served its queue: (line id, promised by this, in the queue after it)."""

    slip_id: str | None
    lines: tuple[tuple[LineId, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitsReturned:
    """Units came back from fulfilment, or their promise lapsed; they wait for stock again."""

    attempt_id: str
    lines: tuple[tuple[LineId, int], ...]
    from_fulfillment: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelledUnits:
    """Where cancelled units of one line stood, and what the line's remaining open units are worth."""

    line_id: LineId
    sku: Sku
    unasked: int = 0
    queued: int = 0
    soft: int = 0
    released: int = 0
    open_amounts: Amounts

    @property
    def units(self) -> int:
        return self.unasked + self.queued + self.soft + self.released


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitsCancelled:
    """Units left the order. `withdrawn`: for the channel; `refunded`: by its refund, which has them paid back already."""

    cancel_id: str
    lines: tuple[CancelledUnits, ...]
    withdrawn: bool = False
    refunded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRecorded:
    """Fulfilment was asked to take units back."""

    cancel: PendingCancel


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """An input that changes nothing else was applied; its redelivery must not count as new."""

    subject_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelAnswered:
    """Fulfilment answered for these units of a cancellation, either way. `refused`: against the channel's wish."""

    cancel_id: str
    lines: tuple[tuple[LineId, int], ...]
    refused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FraudCleared:
    """A risk decision came."""

    decision_id: str
    rejected: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditMatched:
    """Units whose money the channel had already sent back: accepted returned goods, or units that never shipped.

    unshipped_minor: what of that money was for units that never shipped.
    withdrawn: the units are cancelled for the channel, and wait for its refund no more.
    """

    credit_id: str
    lines: tuple[tuple[LineId, int], ...]
    unshipped_minor: int = 0
    withdrawn: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundClaimed:
    """The channel paid for one line's units that have not shipped.

    withdrawn: units that were cancelled for the channel before. released: units that are still with fulfilment, of `amounts`.
    """

    line_id: LineId
    withdrawn: int
    released: int
    amounts: Amounts


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundedUnitsShipped:
    """Units that the channel refunded as unshipped left after all: (line id, units, worth of those that remain).

    minor: what had been refunded for them, which is a credit for shipped goods now.
    """

    lines: tuple[tuple[LineId, int, Amounts], ...]
    minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadlineMoved:
    """A timer moves to another time; without one it is removed."""

    name: str
    due: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderClosed:
    """Nothing more is expected to happen; what remains is a stub for returns, refunds and redeliveries."""

    stage: Stage
    forget_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """Every window in which something could still refer to the order has passed."""


Published = (
    OrderReceived
    | OrderReleased
    | OrderAmended
    | OrderShipped
    | PaymentRecorded
    | CreditGranted
    | RefundRecorded
    | OrderHeld
    | OrderRejected
    | OrderCancelled
    | OrderCompleted
    | ReserveStock
    | ReleaseStock
    | ConsumeStock
    | CancelFulfillment
    | CapturePayment
    | VoidPayment
    | RefundPayment
)
Private = (
    InputKept
    | OrderTaken
    | OrderRevised
    | TenderNoted
    | TenderLapsed
    | PaymentFailed
    | MovementStarted
    | AskedAgain
    | RefundOwed
    | RefundDeferred
    | StockAnswered
    | UnitsReturned
    | UnitsCancelled
    | CancelRecorded
    | CancelAnswered
    | Remembered
    | FraudCleared
    | CreditMatched
    | RefundClaimed
    | RefundedUnitsShipped
    | DeadlineMoved
    | OrderClosed
    | Forgotten
    | Ignored
)
Event = Published | Private
State = AwaitedOrderState | OrderState


def live_units(line: Line) -> int:
    """Units that are not cancelled."""
    return line.units - line.cancelled


def open_units(line: Line) -> int:
    """Units that are neither shipped nor cancelled."""
    return line.units - line.cancelled - line.shipped


def channel_line_id(line: Line) -> str:
    """The id by which the channel knows the line."""
    return line.parent_line_id or line.line_id


def components(order: OrderState, line_id: str) -> tuple[Line, ...]:
    """The lines that a channel's or our own line id means: itself, or the components of its kit."""
    return tuple(line for line in order.lines if line_id in (line.line_id, line.parent_line_id))


def completed_for_channel(order: OrderState, shipped: Mapping[LineId, int]) -> tuple[LineUnits, ...]:
    """What becomes complete when these base units ship, in the channel's lines and units.

    A unit of the channel's line has shipped once all that is in it has; what ships ahead counts with what completes it.
    """
    return _grown(order, lambda line: (line.shipped, line.shipped + shipped.get(line.line_id, 0)), _whole)


def cancelled_for_channel(order: OrderState, cancelled: Mapping[LineId, int]) -> tuple[LineUnits, ...]:
    """What can no longer ship whole when these base units are cancelled, in the channel's lines and units.

    A unit of the channel's line is cancelled with the first part of it, so that in the end each has shipped or is cancelled.
    """
    return _grown(
        order, lambda line: (line.cancelled, line.cancelled + cancelled.get(line.line_id, 0)), _begun
    )


def _whole(parts: list[tuple[int, int]]) -> int:
    return min(units // per_unit for units, per_unit in parts)


def _begun(parts: list[tuple[int, int]]) -> int:
    return max(-(-units // per_unit) for units, per_unit in parts)


def _grown(
    order: OrderState,
    change: Callable[[Line], tuple[int, int]],
    folded: Callable[[list[tuple[int, int]]], int],
) -> tuple[LineUnits, ...]:
    """By how much the units of each of the channel's lines grow. `change`: base units of one of ours before and after."""
    before: dict[str, list[tuple[int, int]]] = {}
    after: dict[str, list[tuple[int, int]]] = {}
    for line in order.lines:
        old, new = change(line)
        before.setdefault(channel_line_id(line), []).append((old, line.per_unit))
        after.setdefault(channel_line_id(line), []).append((new, line.per_unit))
    grown = {line_id: folded(parts) - folded(before[line_id]) for line_id, parts in after.items()}
    return tuple(LineUnits(line_id=LineId(line_id), units=units) for line_id, units in grown.items() if units)


def being_cancelled(cancels: Iterable[PendingCancel], line_id: str) -> int:
    """Units of the line that fulfilment was asked to take back."""
    return sum(asked.units for cancel in cancels for asked in cancel.lines if asked.line_id == line_id)


def withdrawn_units(order: OrderState, line: Line) -> int:
    """Units that the channel wanted cancelled and that are not: fulfilment has not answered, or has refused."""
    wanted = (cancel for cancel in order.cancels if cancel.origin is Origin.CHANNEL)
    return being_cancelled(wanted, line.line_id) + line.refused


def refunded_units_left(line: Line, released: int, *, withdrawn: bool) -> int:
    """Refunded units that are still released once `released` units were cancelled.

    A cancellation for the channel takes them first; any other only as far as there is no other unit to take.
    """
    if withdrawn:
        return line.refunded - min(line.refunded, released)
    return min(line.refunded, line.released - released)


def cancellable_units(order: OrderState, line: Line) -> int:
    """Units that can still be cancelled, or be asked back from fulfilment."""
    asked_back = being_cancelled(order.cancels, line.line_id)
    return line.waiting + line.soft + max(0, line.released - asked_back)


def nothing_open(order: OrderState) -> bool:
    """True when every unit is shipped or cancelled."""
    return all(open_units(line) == 0 for line in order.lines)


def shipped_units(order: OrderState) -> int:
    return sum(line.shipped for line in order.lines)


def is_started(order: OrderState) -> bool:
    """True once anything of it was released or has shipped: from then on it cannot be given up as a whole."""
    return order.releases > 0 or order.charges_billed


def is_till_sale(order: OrderState) -> bool:
    return order.source.kind is IntakeKind.POS_SALE


def is_ours_to_ship(order: OrderState) -> bool:
    return order.source.fulfilled_by is FulfilledBy.SELLER


def live_minor(tender: TenderBooks) -> int:
    """What is authorised and neither taken, let go nor lapsed."""
    return tender.authorized - tender.captured - tender.voided - tender.expired
