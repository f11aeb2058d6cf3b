"""Composition of the fulfilment router: its decider with its policy, its records, its tables."""

from __future__ import annotations

from functools import partial

from crossdock_canonical.decider import Ignored, Rejected, Retryable, TimerFired
from crossdock_canonical.records import (
    AllocateStock,
    AllocationFailed,
    CancelConfirmed,
    CancelDeclined,
    CancelFulfillment,
    CancelRefused,
    ConsumeStock,
    FulfillmentCancelled,
    FulfillmentCancelRequested,
    FulfillmentRejected,
    FulfillmentRequested,
    LinesUnfillable,
    LocationDefined,
    OrderReleased,
    PickupCollected,
    PickupReady,
    PickupStaged,
    ReleaseStock,
    ShipmentConfirmed,
    ShipmentDispatched,
    ShortPicked,
    StockAllocated,
    StockPosition,
)
from crossdock_eventing.service import Service
from crossdock_fulfillment_router.decide import decide
from crossdock_fulfillment_router.evolve import evolve
from crossdock_fulfillment_router.settings import Settings
from crossdock_fulfillment_router.state_records import RoutingState


def service(settings: Settings) -> Service:
    """The fulfilment router as the shell runs it.

    Its state key is the order id, the key of every input topic.
    """
    return Service(
        name="fulfillment-router",
        decide=partial(decide, policy=settings.policy()),
        evolve=evolve,
        inputs=(
            OrderReleased,
            StockAllocated,
            AllocationFailed,
            CancelFulfillment,
            ShipmentConfirmed,
            ShortPicked,
            FulfillmentRejected,
            CancelConfirmed,
            CancelDeclined,
            PickupStaged,
            PickupCollected,
        ),
        outputs=(
            AllocateStock,
            ReleaseStock,
            ConsumeStock,
            FulfillmentRequested,
            FulfillmentCancelRequested,
            ShipmentDispatched,
            PickupReady,
            FulfillmentCancelled,
            CancelRefused,
            LinesUnfillable,
        ),
        states=(RoutingState,),
        tables={"positions": StockPosition, "locations": LocationDefined},
        timer=TimerFired,
        ignored=Ignored,
        rejected=Rejected,
        retryable=Retryable,
    )
