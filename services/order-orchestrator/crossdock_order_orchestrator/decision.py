"""One decision under way: the events so far and the state that they lead to. Every part of `decide` writes through it.

Consequences are then derived from what the order has become, not from what came in, so that the same facts in another
order lead to the same next step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossdock_canonical.records import OrderHeld
from crossdock_order_orchestrator.evolve import evolve
from crossdock_order_orchestrator.model import DEFAULT_OWNER, HOLD, OWNERS, DeadlineMoved
from crossdock_order_orchestrator.state_records import OrderState

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from crossdock_order_orchestrator.model import Event, Policy, State


class Decision:
    """Collects events and folds them at once. Not shared, not kept."""

    __slots__ = ("events", "now", "policy", "state")

    def __init__(self, state: State | None, *, now: datetime, policy: Policy) -> None:
        self.state = state
        self.now = now
        self.policy = policy
        self.events: list[Event] = []

    @property
    def order(self) -> OrderState:
        """The order as it is after the events so far."""
        assert isinstance(self.state, OrderState)
        return self.state

    def emit(self, *events: Event) -> None:
        for event in events:
            self.state = evolve(self.state, event)
            self.events.append(event)

    def hold(self, reason_code: str, waits: timedelta) -> None:
        """Make the order wait for somebody until a deadline; a hold that stands is not renewed."""
        if HOLD + reason_code not in self.order.timers:
            self.hold_again(reason_code, waits)

    def hold_again(self, reason_code: str, waits: timedelta) -> None:
        """Hold, or move the deadline of a hold that stands."""
        self.emit(
            OrderHeld(
                order_id=self.order.order_id,
                reason_code=reason_code,
                deadline=self.now + waits,
                owner=OWNERS.get(reason_code, DEFAULT_OWNER),
            )
        )

    def unhold(self, reason_code: str) -> None:
        """The reason to wait is gone."""
        self.drop_timer(HOLD + reason_code)

    def drop_timer(self, name: str) -> None:
        if name in self.order.timers:
            self.emit(DeadlineMoved(name=name))
