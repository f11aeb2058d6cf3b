"""Composition of erp-poster: what the shell needs to know. Called by `__main__` and by tests."""

from __future__ import annotations

from functools import partial

from crossdock_canonical.decider import Ignored, Rejected, Retryable, TimerFired
from crossdock_canonical.records import (
    CreditGranted,
    ErpDocumentFailed,
    ErpDocumentPosted,
    OrderAmended,
    OrderCancelled,
    OrderReleased,
    OrderShipped,
    PaymentRecorded,
    RefundRecorded,
    SettlementProved,
    StockAdjusted,
)
from crossdock_erp_poster.decide import calls, decide
from crossdock_erp_poster.documents import chain_of, record_key_of
from crossdock_erp_poster.evolve import evolve
from crossdock_erp_poster.model import ErpAnswered
from crossdock_erp_poster.port import ErpPort
from crossdock_erp_poster.settings import Settings
from crossdock_erp_poster.state_records import ChainState
from crossdock_eventing.service import Port, Service


def service(settings: Settings, port: Port | None = None) -> Service:
    """The service; `port` replaces the HTTP port, whose thread starts with its first call."""
    return Service(
        name="erp-poster",
        decide=partial(decide, policy=settings.policy()),
        evolve=evolve,
        inputs=(
            OrderReleased,
            OrderAmended,
            OrderShipped,
            PaymentRecorded,
            CreditGranted,
            RefundRecorded,
            OrderCancelled,
            SettlementProved,
            StockAdjusted,
        ),
        outputs=(ErpDocumentPosted, ErpDocumentFailed),
        states=(ChainState,),
        timer=TimerFired,
        ignored=Ignored,
        rejected=Rejected,
        retryable=Retryable,
        state_key=chain_of,
        record_key=record_key_of,
        calls=calls,
        wants_cause=True,
        port=port or ErpPort(settings),
        answers=(ErpAnswered,),
    )
