"""What the settlement core decides with: its policy, its private events, the names of residuals and who resolves them.

Stage one holds one state an order (`order:<order id>`) and classes the lines that settlements have for it. Stage two holds
one state a settlement (`settlement:<settlement id>`) and gathers classed lines until a declaration adds up. All amounts are
minor units, signed as the channel signs them: what is paid to the seller is positive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from crossdock_canonical.identity import LineId, OrderId
from crossdock_canonical.records import LinesMatched, MatchLines, SettlementDeclared
from crossdock_settlement_reconciler.state_records import ExpectedLine, Movement, SettledItem

UNKNOWN_ORDER = "unknown_order"
UNKNOWN_LABEL = "unknown_label"
UNREPRESENTABLE_AMOUNT = "unrepresentable_amount"
AMBIGUOUS_ITEM = "ambiguous_item"
AMOUNT_DIFFERS = "amount_differs"
DECLARED_DIFFERS = "declared_differs"

#: Team that resolves a residual, by its name.
OWNERS: Mapping[str, str] = {
    UNKNOWN_ORDER: "order-platform",
    UNKNOWN_LABEL: "finance-platform",
    UNREPRESENTABLE_AMOUNT: "channel-integration",
    AMBIGUOUS_ITEM: "finance-platform",
    AMOUNT_DIFFERS: "finance-platform",
    DECLARED_DIFFERS: "finance-platform",
}

INCOMPLETE = "settlement.incomplete"
CONTROL_SUM = "settlement.control_sum"
CONTRADICTION = "settlement.contradiction"

RETIRE = "retire"

# Bounds of what one state holds. Beyond them sums stay exact: see `settlement_stage`.
LINES_MAX = 2_000_000
RESIDUALS_LISTED_MAX = 200
FILES_MAX = 8
WAITING_BATCHES_MAX = 100
ANSWERED_MAX = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Deadlines of the business.

    unknown_order: how long lines wait for their order before they become a residual.
    incomplete: how long a settlement file may take to arrive in full; longer than lines may wait.
    retention: how long an order or a settlement is remembered, beyond settlement and chargeback windows.
    """

    unknown_order: timedelta = timedelta(days=2)
    incomplete: timedelta = timedelta(days=4)
    retention: timedelta = timedelta(days=200)

    def __post_init__(self) -> None:
        assert self.unknown_order < self.incomplete < self.retention


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderExpected:
    """What the order is worth, as of `version`."""

    order_id: OrderId
    version: int
    currency: str
    priced: bool
    lines: tuple[ExpectedLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectationChanged:
    """Lines of the order are worth something else now; `amendment` is 0 when no amendment said so."""

    amendment: int
    expected_minor: Mapping[LineId, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class MovementRecorded:
    """Money moved on the order's ledger; a settlement will show it."""

    order_id: OrderId
    movement: Movement


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchDeferred:
    """Lines came before their order."""

    batch: MatchLines
    deadline: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectationSettled:
    """What one batch paid for the order: totals by item, and the movements that its lines showed."""

    items: tuple[SettledItem, ...]
    movements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LinesGathered:
    """Classed lines reached their settlement."""

    matched: LinesMatched


@dataclass(frozen=True, slots=True)
class DeclarationTaken:
    """This declaration is in force."""

    declared: SettlementDeclared


@dataclass(frozen=True, slots=True)
class FileDropped:
    """Lines of a file that no declaration in force speaks of are given up."""

    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadlineSet:
    """A timer starts or moves."""

    name: str
    due: datetime


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Retention passed: the state goes."""


def batch_name(sha256: str, batch: int) -> str:
    """Name of one batch, and of the timer of one that waits."""
    return f"{sha256}/{batch}"


def completion_name(sha256: str) -> str:
    """Name of the timer by which a file must be complete."""
    return f"complete/{sha256}"
