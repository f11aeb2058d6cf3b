"""The router's private events, and the union of all that `decide` may answer.

Every module of the core uses it.

Units travel one way: a release puts them in `waiting`; a fulfilment order takes them from there and holds
them; from it they are shipped, cancelled or returned to `waiting`; what nobody can supply becomes
`unfillable`. The private events below are exactly these movements; the published records tell others and
change nothing here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from crossdock_canonical.decider import Ignored
from crossdock_canonical.identity import LocationId
from crossdock_canonical.records import (
    AllocateStock,
    CancelRefused,
    ConsumeStock,
    FulfillmentCancelled,
    FulfillmentCancelRequested,
    FulfillmentRequested,
    LinesUnfillable,
    PickupReady,
    ReleaseStock,
    ShipmentDispatched,
)
from crossdock_fulfillment_router.model import Lines
from crossdock_fulfillment_router.state_records import Exclusion, Release


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseAccepted:
    """Every unit of the release waits for a location."""

    order_id: str
    release: Release


@dataclass(frozen=True, slots=True, kw_only=True)
class FulfillmentOrderOpened:
    """Waiting units became a fulfilment order whose stock is asked for."""

    number: int
    release: int
    location: LocationId
    lines: Lines


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationHeld:
    """The location holds the stock."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationTurnedDown:
    """The location does not hold the stock: the fulfilment order is gone, its units wait again."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LocationExcluded:
    """What this report of a location says is missing or turned down is not asked of it again."""

    number: int
    report: str
    exclusions: tuple[Exclusion, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitsReturned:
    """Held units wait for another location until `route_until`."""

    number: int
    lines: Lines
    route_until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitsShipped:
    """Held units left or were collected."""

    number: int
    shipment_id: str
    lines: Lines


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingUnitsCancelled:
    """Waiting units of a release were taken back."""

    cancel_id: str
    release: int
    lines: Lines


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldUnitsCancelled:
    """Units of a fulfilment order were taken back, as a cancellation had asked."""

    cancel_id: str
    number: int
    lines: Lines


@dataclass(frozen=True, slots=True, kw_only=True)
class CancellationOpened:
    """A cancellation, or the recall of an expired pickup, has to be answered by `due`."""

    order_id: str
    cancel_id: str
    reason: str
    recall: bool
    awaited: Lines
    due: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelAsked:
    """A fulfilment order has to answer for these lines of a cancellation."""

    cancel_id: str
    number: int
    lines: Lines


@dataclass(frozen=True, slots=True, kw_only=True)
class AskRefused:
    """Units of an ask ship, have shipped, or nobody said in time that they do not.

    `declined`: the location said so.
    """

    cancel_id: str
    number: int
    lines: Lines
    refusal: str
    declined: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AskAnswered:
    """A fulfilment order has answered a cancellation for good; a repeated answer finds nothing."""

    cancel_id: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitsRefused:
    """Units that no fulfilment order had to answer for cannot be taken back."""

    cancel_id: str
    lines: Lines
    refusal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitedMatched:
    """The release of these awaited lines has come, or never will."""

    cancel_id: str
    lines: Lines


@dataclass(frozen=True, slots=True, kw_only=True)
class CancellationPostponed:
    """Part of the answer is still on its way; look again at `due`."""

    cancel_id: str
    due: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CancellationAnswered:
    """Nothing of the cancellation is open any more."""

    cancel_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingPostponed:
    """Waiting units are sourced again at `due`."""

    release: int
    due: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingGivenUp:
    """No location supplies these waiting units."""

    release: int
    lines: Lines


@dataclass(frozen=True, slots=True, kw_only=True)
class PickupOpened:
    """The goods wait at the counter until `expires_at`."""

    number: int
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PickupRecalled:
    """The store is asked to put the goods back."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """Nothing is open: only what recognises late and repeated messages stays, until `forget_at`."""

    forget_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """The stub is removed."""


Published = (
    AllocateStock
    | ReleaseStock
    | ConsumeStock
    | FulfillmentRequested
    | FulfillmentCancelRequested
    | ShipmentDispatched
    | PickupReady
    | FulfillmentCancelled
    | CancelRefused
    | LinesUnfillable
)
Private = (
    ReleaseAccepted
    | FulfillmentOrderOpened
    | AllocationHeld
    | AllocationTurnedDown
    | LocationExcluded
    | UnitsReturned
    | UnitsShipped
    | WaitingUnitsCancelled
    | HeldUnitsCancelled
    | CancellationOpened
    | CancelAsked
    | AskRefused
    | AskAnswered
    | UnitsRefused
    | AwaitedMatched
    | CancellationPostponed
    | CancellationAnswered
    | RoutingPostponed
    | RoutingGivenUp
    | PickupOpened
    | PickupRecalled
    | Closed
    | Forgotten
)
Event = Private | Published | Ignored
