"""Composition of inventory-availability: what the shell needs to know. Called by `__main__` and by tests."""

from __future__ import annotations

from functools import partial

from crossdock_canonical.decider import Ignored, Rejected, Retryable, TimerFired
from crossdock_canonical.records import (
    AllocateStock,
    AllocationFailed,
    ConsumeStock,
    LocationDefined,
    OversellDetected,
    ReleaseStock,
    ReservationExpired,
    ReservationFailed,
    ReserveStock,
    RestockReturn,
    SalableStock,
    StockAdjusted,
    StockAllocated,
    StockDriftDetected,
    StockMoved,
    StockMovement,
    StockPosition,
    StockReserved,
    StockSnapshot,
)
from crossdock_eventing.service import Service
from crossdock_inventory_availability.decide import decide
from crossdock_inventory_availability.evolve import evolve
from crossdock_inventory_availability.settings import Settings
from crossdock_inventory_availability.state_records import InventoryState


def service(settings: Settings) -> Service:
    """The service; its state key is the sku, which is also the key of everything it reads."""
    return Service(
        name="inventory-availability",
        decide=partial(decide, policy=settings.policy()),
        evolve=evolve,
        inputs=(
            StockSnapshot,
            StockMovement,
            ReserveStock,
            ReleaseStock,
            AllocateStock,
            ConsumeStock,
            RestockReturn,
        ),
        outputs=(
            ReserveStock,
            ReleaseStock,
            AllocateStock,
            StockReserved,
            ReservationFailed,
            ReservationExpired,
            StockAdjusted,
            StockAllocated,
            AllocationFailed,
            StockMoved,
            StockAdjusted,
            StockDriftDetected,
            OversellDetected,
            StockPosition,
            SalableStock,
        ),
        states=(InventoryState,),
        tables={"locations": LocationDefined},
        timer=TimerFired,
        ignored=Ignored,
        rejected=Rejected,
        retryable=Retryable,
    )
