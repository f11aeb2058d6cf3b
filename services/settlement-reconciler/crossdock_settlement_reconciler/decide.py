"""Hand each message to its stage. Called by the shell; pure.

A state key has a prefix, `order:` or `settlement:`, so that both stages live in one service side by side. Lines without an
order are keyed by their settlement, which stands as `<channel>/<shop>/<id>`; an order id has no slash.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, assert_never

from crossdock_canonical.decider import Ignored, Rejected, TimerFired
from crossdock_canonical.records import (
    LinesMatched,
    MatchLines,
    OrderAmended,
    OrderCancelled,
    OrderReceived,
    PaymentRecorded,
    RefundRecorded,
    SettlementDeclared,
    SettlementProved,
    SettlementRefused,
)
from crossdock_settlement_reconciler.model import (
    DeadlineSet,
    DeclarationTaken,
    FileDropped,
    Forgotten,
    LinesGathered,
    Policy,
)
from crossdock_settlement_reconciler.order_stage import (
    OrderCommand,
    OrderEvent,
    decide_order,
    evolve_order,
)
from crossdock_settlement_reconciler.settlement_stage import (
    SettlementCommand,
    SettlementEvent,
    decide_settlement,
    evolve_settlement,
)
from crossdock_settlement_reconciler.state_records import OrderExpectation, SettlementProgress

Command = OrderCommand | SettlementCommand
Event = OrderEvent | SettlementEvent
State = OrderExpectation | SettlementProgress


def record_key(state_key: str) -> str:
    """The record key of what acts on a state."""
    return state_key.partition(":")[2]


def state_key(record: Any) -> str:
    """Key of the state that a record acts on: `order:<order id>` or `settlement:<settlement id>`."""
    match record:
        case MatchLines():
            return f"settlement:{record.subject}" if "/" in record.subject else f"order:{record.subject}"
        case SettlementDeclared() | LinesMatched():
            return f"settlement:{record.settlement_id}"
        case _:
            return f"order:{record.order_id}"


def decide(command: Command, state: State | None, *, now: datetime, policy: Policy) -> tuple[Event, ...]:
    """Answer one message or timer with its events.

    Raises Rejected: `settlement.subject_mismatch` when lines are keyed by anything but their order, else settlement;
    `settlement.no_lines` for an empty batch; `settlement.line_out_of_range` from stage two.
    """
    match command:
        case TimerFired():
            if isinstance(state, OrderExpectation):
                return decide_order(command, state, now=now, policy=policy)
            return decide_settlement(command, state, now=now, policy=policy)
        case MatchLines():
            _check(command)
            if command.order_id is None:
                return decide_settlement(command, _settlement(state), now=now, policy=policy)
            return decide_order(command, _order(state), now=now, policy=policy)
        case SettlementDeclared() | LinesMatched():
            return decide_settlement(command, _settlement(state), now=now, policy=policy)
        case OrderReceived() | OrderAmended() | OrderCancelled() | PaymentRecorded() | RefundRecorded():
            return decide_order(command, _order(state), now=now, policy=policy)
        case _:
            assert_never(command)


def _check(batch: MatchLines) -> None:
    # Which stage a batch belongs to is told by its subject, see `state_key`, and by its order: both must say the same.
    of_order = "/" not in batch.subject
    if batch.subject != (batch.order_id or batch.settlement_id) or of_order != (batch.order_id is not None):
        raise Rejected(
            "settlement.subject_mismatch", f"{batch.subject} is neither the lines' order nor settlement"
        )
    if not batch.lines:
        raise Rejected("settlement.no_lines", f"batch {batch.batch} of {batch.sha256} is empty")


def evolve(state: State | None, event: Event) -> State | None:
    """Apply one event to the state of the stage that it belongs to; None deletes the state."""
    match event:
        case Ignored():
            return state
        case Forgotten():
            return None
        case LinesGathered() | DeclarationTaken() | FileDropped() | SettlementProved() | SettlementRefused():
            return evolve_settlement(_settlement(state), event)
        case LinesMatched() if event.subject == event.settlement_id:
            return evolve_settlement(_settlement(state), event)
        case DeadlineSet() if isinstance(state, SettlementProgress):
            return evolve_settlement(state, event)
        case _:
            return evolve_order(_order(state), event)


def _order(state: State | None) -> OrderExpectation | None:
    assert not isinstance(state, SettlementProgress), "the key of a settlement reached stage one"
    return state


def _settlement(state: State | None) -> SettlementProgress | None:
    assert not isinstance(state, OrderExpectation), "the key of an order reached stage two"
    return state
