"""A decision in the making: the events so far and the state they lead to. The modules of `decide` share it."""

from __future__ import annotations

from collections.abc import Iterable

from crossdock_canonical.identity import LocationId
from crossdock_canonical.records import FulfillmentLine, ReleaseScope, ReleaseStock, SlipLine
from crossdock_fulfillment_router.events import Event
from crossdock_fulfillment_router.evolve import evolve
from crossdock_fulfillment_router.model import fulfillment_order_id
from crossdock_fulfillment_router.state_records import FulfillmentOrder, Release, RoutingState


class Decision:
    """Collects events. Each is folded at once, so that the next step sees what the one before it did."""

    def __init__(self, state: RoutingState | None) -> None:
        self._state = state
        self._events: list[Event] = []

    @property
    def state(self) -> RoutingState:
        """The state after the events so far."""
        assert self._state is not None, "nothing is known of the order yet"
        return self._state

    @property
    def releases(self) -> tuple[Release, ...]:
        """The releases seen, none before the first."""
        return self._state.releases if self._state is not None else ()

    @property
    def events(self) -> tuple[Event, ...]:
        return tuple(self._events)

    def emit(self, event: Event) -> None:
        self._events.append(event)
        self._state = evolve(self._state, event)

    def release_soft(self, lines: Iterable[FulfillmentLine], *, slip: str) -> None:
        """Let go of network-wide reservations. `slip` is unique to the cause."""
        for line in lines:
            self._release(line, slip=slip, scope=ReleaseScope.SOFT)

    def release_hard(
        self,
        order: FulfillmentOrder,
        lines: Iterable[FulfillmentLine],
        *,
        slip: str,
        scope: ReleaseScope,
        hold_location: bool = False,
    ) -> None:
        """Let go of what a fulfilment order holds at its location. `slip` is unique to the cause."""
        for line in lines:
            self._release(
                line,
                slip=slip,
                scope=scope,
                location=order.location,
                fulfillment_order=fulfillment_order_id(self.state.order_id, order.number),
                hold_location=hold_location,
            )

    def _release(
        self,
        line: FulfillmentLine,
        *,
        slip: str,
        scope: ReleaseScope,
        location: LocationId | None = None,
        fulfillment_order: str | None = None,
        hold_location: bool = False,
    ) -> None:
        # One slip a line: it goes to its sku directly, so nothing that is asked of that sku later can
        # overtake it.
        self.emit(
            ReleaseStock(
                sku=line.sku,
                order_id=self.state.order_id,
                slip_id=f"{slip}/{line.line_id}",
                lines=(SlipLine(line_id=line.line_id, sku=line.sku, units=line.units),),
                scope=scope,
                location=location,
                fulfillment_order_id=fulfillment_order,
                hold_location=hold_location,
            )
        )
