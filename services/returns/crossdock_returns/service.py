"""Composition of the returns service. `__main__`, the simulator and the tests call `service`."""

from __future__ import annotations

from functools import partial

from crossdock_canonical.decider import Ignored, Rejected, Retryable, TimerFired
from crossdock_canonical.records import (
    CreditGranted,
    CreditProposed,
    OrderShipped,
    RefundRecorded,
    RestockReturn,
    ReturnAuthorized,
    ReturnClosed,
    ReturnDeclined,
    ReturnExpected,
    ReturnInspected,
    ReturnReceived,
    ReturnRequested,
)
from crossdock_eventing.service import Service
from crossdock_returns.decide import decide
from crossdock_returns.evolve import evolve
from crossdock_returns.settings import Settings
from crossdock_returns.state_records import OrderReturns


def service(settings: Settings) -> Service:
    """The service as the shell runs it; state key: order id."""
    return Service(
        name="returns",
        decide=partial(decide, policy=settings.policy()),
        evolve=evolve,
        inputs=(
            OrderShipped,
            RefundRecorded,
            CreditGranted,
            ReturnRequested,
            ReturnReceived,
            ReturnInspected,
        ),
        outputs=(
            ReturnAuthorized,
            ReturnDeclined,
            ReturnClosed,
            CreditProposed,
            ReturnExpected,
            RestockReturn,
        ),
        states=(OrderReturns,),
        timer=TimerFired,
        ignored=Ignored,
        rejected=Rejected,
        retryable=Retryable,
    )
