"""Composition of the order orchestrator. `__main__`, the simulator and the tests call `service`."""

from __future__ import annotations

from functools import partial

from crossdock_canonical.decider import Ignored, Rejected, Retryable, TimerFired
from crossdock_canonical.records import (
    CancelFulfillment,
    CancelRefused,
    CancelRequested,
    CapturePayment,
    ChannelOrderReceived,
    ChannelRefundReceived,
    ChargedBack,
    ConsumeStock,
    CreditGranted,
    CreditProposed,
    FraudDecided,
    FulfillmentCancelled,
    ItemMapped,
    LinesUnfillable,
    OrderAmended,
    OrderCancelled,
    OrderCompleted,
    OrderHeld,
    OrderReceived,
    OrderRejected,
    OrderReleased,
    OrderShipped,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentDeclined,
    PaymentRecorded,
    PaymentRefunded,
    PaymentVoided,
    PickupReady,
    RefundFailed,
    RefundPayment,
    RefundRecorded,
    ReleaseStock,
    ReservationExpired,
    ReservationFailed,
    ReserveStock,
    ShipmentDispatched,
    StockReserved,
    VoidPayment,
)
from crossdock_eventing.service import Service
from crossdock_order_orchestrator.decide import decide
from crossdock_order_orchestrator.evolve import evolve
from crossdock_order_orchestrator.settings import Settings
from crossdock_order_orchestrator.state_records import AwaitedOrderState, OrderState


def service(settings: Settings) -> Service:
    """The service as the shell runs it; state key: order id, the key of every input topic."""
    return Service(
        name="order-orchestrator",
        decide=partial(decide, policy=settings.policy()),
        evolve=evolve,
        inputs=(
            ChannelOrderReceived,
            ChannelRefundReceived,
            FraudDecided,
            CancelRequested,
            StockReserved,
            ReservationFailed,
            ReservationExpired,
            ShipmentDispatched,
            PickupReady,
            FulfillmentCancelled,
            CancelRefused,
            LinesUnfillable,
            PaymentAuthorized,
            PaymentCaptured,
            PaymentVoided,
            PaymentDeclined,
            PaymentRefunded,
            RefundFailed,
            ChargedBack,
            CreditProposed,
        ),
        outputs=(
            OrderReceived,
            OrderReleased,
            OrderAmended,
            OrderShipped,
            PaymentRecorded,
            CreditGranted,
            RefundRecorded,
            OrderHeld,
            OrderRejected,
            OrderCancelled,
            OrderCompleted,
            ReserveStock,
            ReleaseStock,
            ConsumeStock,
            CancelFulfillment,
            CapturePayment,
            VoidPayment,
            RefundPayment,
        ),
        states=(AwaitedOrderState, OrderState),
        tables={"items": ItemMapped},
        timer=TimerFired,
        ignored=Ignored,
        rejected=Rejected,
        retryable=Retryable,
    )
