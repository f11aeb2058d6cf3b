"""Given / when / then for deciders: core tests read as the specification and use no mocks.

spec = Specification(decide=decide, evolve=evolve)
spec.after(order_received).when(stock_reserved, now=T0).then(OrderReleased(...))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from crossdock_canonical.decider import Rejected

T0 = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)

Decide = Callable[..., tuple[Any, ...]]
Evolve = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Specification:
    """A decider in some state. Every method returns a new specification, so that a test branches freely.

    `decide` may take keyword arguments beyond `now` (a policy, a lookup): bind them in `arguments`.
    """

    decide: Decide
    evolve: Evolve
    state: Any = None
    arguments: dict[str, Any] = field(default_factory=dict)

    def given(self, *events: Any) -> Specification:
        """The state after these events."""
        state = self.state
        for event in events:
            state = self.evolve(state, event)
        return replace(self, state=state)

    def after(self, *commands: Any, now: datetime = T0) -> Specification:
        """The state after these commands were decided and their events applied."""
        specification = self
        for command in commands:
            specification = specification.given(*specification.when(command, now=now).events)
        return specification

    def when(self, command: Any, *, now: datetime = T0) -> Outcome:
        """What the decider answers."""
        try:
            events = self.decide(command, self.state, now=now, **self.arguments)
        except Rejected as rejection:
            return Outcome(events=(), rejection=rejection, specification=self)
        return Outcome(events=events, rejection=None, specification=self.given(*events))


@dataclass(frozen=True)
class Outcome:
    """The answer to one command, and the specification that follows it."""

    events: tuple[Any, ...]
    rejection: Rejected | None
    specification: Specification

    @property
    def state(self) -> Any:
        return self.specification.state

    def then(self, *expected: Any) -> Specification:
        """Exactly these events, in this order."""
        assert self.rejection is None, f"rejected: {self.rejection}"
        assert self.events == expected, f"\n got      {self.events}\n expected {expected}"
        return self.specification

    def then_types(self, *expected: type) -> Specification:
        """Exactly events of these types, in this order."""
        assert self.rejection is None, f"rejected: {self.rejection}"
        assert tuple(type(event) for event in self.events) == expected, f"got {self.events}"
        return self.specification

    def then_rejected(self, code: str) -> Specification:
        """The command is refused with this code and the state is unchanged."""
        assert self.rejection is not None, f"accepted with {self.events}"
        assert self.rejection.code == code, f"rejected with {self.rejection}"
        return self.specification

    def one(self, kind: type) -> Any:
        """The only event of this type."""
        found = [event for event in self.events if type(event) is kind]
        assert len(found) == 1, f"{len(found)} events of {kind.__name__} in {self.events}"
        return found[0]

    def all(self, kind: type) -> tuple[Any, ...]:
        """Every event of this type."""
        return tuple(event for event in self.events if type(event) is kind)
