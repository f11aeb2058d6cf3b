"""Composition of the settlement reconciler. `__main__`, the simulator and the tests call `service`."""

from __future__ import annotations

from functools import partial

from crossdock_canonical.decider import Ignored, Rejected, Retryable, TimerFired
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
from crossdock_eventing.service import Service
from crossdock_settlement_reconciler.decide import decide, evolve, record_key, state_key
from crossdock_settlement_reconciler.settings import Settings
from crossdock_settlement_reconciler.state_records import OrderExpectation, SettlementProgress


def service(settings: Settings) -> Service:
    """The service as the shell runs it; state keys: `order:<order id>` and `settlement:<settlement id>`."""
    return Service(
        name="settlement-reconciler",
        decide=partial(decide, policy=settings.policy()),
        evolve=evolve,
        inputs=(
            OrderReceived,
            OrderAmended,
            OrderCancelled,
            PaymentRecorded,
            RefundRecorded,
            MatchLines,
            SettlementDeclared,
            LinesMatched,
        ),
        outputs=(LinesMatched, SettlementProved, SettlementRefused),
        states=(OrderExpectation, SettlementProgress),
        timer=TimerFired,
        ignored=Ignored,
        rejected=Rejected,
        retryable=Retryable,
        state_key=state_key,
        record_key=record_key,
    )
