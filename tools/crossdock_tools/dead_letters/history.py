"""Who replayed what, when, why and with which outcome: every service's replays, plan by plan. Told by `crossdock dlt history`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from crossdock_tools.dead_letters.groups import iso
from crossdock_tools.dead_letters.replays import Said


@dataclass(slots=True)
class Past:
    """One plan as the replays tell of it. outcomes: of instructions. messages: what became of messages. Times in µs."""

    plan: str
    service: str
    operator: str
    reason: str
    first_us: int
    last_us: int
    keys: set[str] = field(default_factory=set)
    outcomes: Counter[str] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)
    events: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "plan": self.plan,
            "service": self.service,
            "operator": self.operator,
            "reason": self.reason,
            "first": iso(self.first_us // 1000),
            "last": iso(self.last_us // 1000),
            "keys": len(self.keys),
            "outcomes": dict(sorted(self.outcomes.items())),
            "messages": dict(sorted(self.messages.items())),
            "events": self.events,
        }


def told(said: Iterable[Said]) -> list[Past]:
    """Every plan, the first one first. An instruction that nobody understood has no plan and stands under ""."""
    found: dict[tuple[str, str], Past] = {}
    for each in said:
        entry = each.entry
        past = found.get((each.service, entry.plan))
        if past is None:
            past = found[each.service, entry.plan] = Past(
                entry.plan, each.service, entry.operator, entry.reason, entry.at_us, entry.at_us
            )
        past.first_us, past.last_us = min(past.first_us, entry.at_us), max(past.last_us, entry.at_us)
        past.keys.add(entry.key)
        past.outcomes[entry.outcome] += 1
        for message in entry.messages:
            past.messages[message.outcome] += 1
            past.events += len(message.events)
    return sorted(found.values(), key=lambda past: (past.first_us, past.plan))
