"""The plan file: what shall be done with which parked messages, by whom, why, and on what state it was made. JSON for people and
programs.

    {"crossdock_plan": 1, "plan": id, "service", "cluster", "operator", "reason", "created_at", "asked_for": {...}, "items": [...]}

An item is an instruction of the parking protocol (ADR 13) without what is common to all, and with it the state that it was made
on: partition, head and tail of the key's queue, how many messages it is about, where the message had been first, its hash before
and after, and what an edit changes. The plan's id ends in a hash of all that: a file that was altered is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from crossdock_eventing.parking.formats import Instruction, Malformed
from crossdock_tools.dead_letters.errors import DeadLetterError

VERSION: Final = 1
#: What the transactional ids of runs begin with; a plan's id follows, so that two runs of one plan fence each other.
TRANSACTIONAL_PREFIX: Final = "crossdock-dlt-"
_HASH_CHARS = 12
_COMMON = ("v", "plan", "operator", "reason")
_ABOUT = ("partition", "head", "tail", "messages", "original", "code", "before", "after", "changes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One instruction, and the state that it was made on.

    messages: how many it is about; of a release those queued at that time. original: `topic[partition]@offset` of its message, of
    a release that of the head. code: why that was rejected. before, after: SHA-256 of its bytes now and then; "" after a discard.
    changes: of an edit, as `path: was -> is`.
    """

    instruction: Instruction
    partition: int
    head: int = 0
    tail: int = 0
    messages: int = 1
    original: str = ""
    code: str = ""
    before: str = ""
    after: str = ""
    changes: tuple[str, ...] = ()

    @property
    def number(self) -> int:
        return self.instruction.item

    @property
    def key(self) -> str:
        return self.instruction.key

    def to_json(self) -> dict[str, Any]:
        parts = json.loads(self.instruction.to_bytes())
        about = {name: getattr(self, name) for name in _ABOUT}
        about["changes"] = list(self.changes)
        if not self.changes:
            del about["changes"]
        said = {name: value for name, value in parts.items() if name not in _COMMON}
        return {**said, "made_on": about}

    @classmethod
    def from_json(cls, found: Mapping[str, Any], common: Mapping[str, Any]) -> Item:
        """Raises Malformed, KeyError, TypeError, ValueError."""
        about = dict(found["made_on"])
        parts = {name: value for name, value in found.items() if name != "made_on"}
        instruction = Instruction.from_bytes(json.dumps({**common, **parts}).encode())
        about["changes"] = tuple(about.get("changes", ()))
        return cls(instruction=instruction, **{name: about[name] for name in _ABOUT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What shall be done. `asked_for`: the options that chose it, for whoever reads the file."""

    plan: str
    service: str
    cluster: str
    operator: str
    reason: str
    created_at: datetime
    asked_for: Mapping[str, Any]
    items: tuple[Item, ...]

    @property
    def messages(self) -> int:
        """How many messages leave their queues if all goes well, as far as was known when it was made."""
        return sum(each.messages for each in self.items if each.instruction.op != "edit")

    @property
    def keys(self) -> frozenset[str]:
        return frozenset(each.key for each in self.items)

    def to_json(self) -> dict[str, Any]:
        return {
            "crossdock_plan": VERSION,
            "plan": self.plan,
            "service": self.service,
            "cluster": self.cluster,
            "operator": self.operator,
            "reason": self.reason,
            "created_at": self.created_at.isoformat(),
            "asked_for": dict(self.asked_for),
            "items": [each.to_json() for each in self.items],
        }


def new_plan(
    *,
    service: str,
    cluster: str,
    operator: str,
    reason: str,
    now: datetime,
    asked_for: Mapping[str, Any],
    items: Sequence[Item],
) -> Plan:
    """A plan of these items in this order, which get their numbers, the plan's id and who asks for them."""
    draft = Plan(
        plan="",
        service=service,
        cluster=cluster,
        operator=operator,
        reason=reason,
        created_at=now,
        asked_for=asked_for,
        items=tuple(
            replace(
                each,
                instruction=replace(each.instruction, plan="", item=number, operator=operator, reason=reason),
            )
            for number, each in enumerate(items)
        ),
    )
    identity = _identity(draft)
    return replace(
        draft,
        plan=identity,
        items=tuple(
            replace(each, instruction=replace(each.instruction, plan=identity)) for each in draft.items
        ),
    )


def write_plan(plan: Plan, path: Path) -> None:
    """Raises DeadLetterError when the file cannot be written, or is there already: a plan is not overwritten."""
    text = json.dumps(plan.to_json(), indent=1) + "\n"
    try:
        with path.open("x", encoding="ascii") as file:
            file.write(text)
    except FileExistsError:
        raise DeadLetterError(f"{path} is there already: name another file with --out") from None
    except OSError as error:
        raise DeadLetterError(f"the plan cannot be written: {error}") from None


def read_plan(path: Path) -> Plan:
    """Raises DeadLetterError for a file that cannot be read, is no plan, or was altered."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DeadLetterError(f"the plan cannot be read: {error}") from None
    except ValueError as error:
        raise DeadLetterError(
            f"{path} is no plan: it is not JSON ({error}); crossdock dlt plan makes one"
        ) from None
    if not isinstance(found, dict) or "crossdock_plan" not in found:
        raise DeadLetterError(f"{path} is no plan; crossdock dlt plan makes one")
    if found["crossdock_plan"] != VERSION:
        raise DeadLetterError(
            f"{path} is a plan of version {found['crossdock_plan']}, which this command does not know: make it again"
        )
    try:
        common = {"v": 1, "plan": found["plan"], "operator": found["operator"], "reason": found["reason"]}
        plan = Plan(
            plan=found["plan"],
            service=found["service"],
            cluster=found["cluster"],
            operator=found["operator"],
            reason=found["reason"],
            created_at=datetime.fromisoformat(found["created_at"]),
            asked_for=found["asked_for"],
            items=tuple(Item.from_json(each, common) for each in found["items"]),
        )
    except (Malformed, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DeadLetterError(f"{path} is no plan: {type(error).__name__}: {error}; make it again") from None
    blank = tuple(replace(each, instruction=replace(each.instruction, plan="")) for each in plan.items)
    if _identity(replace(plan, plan="", items=blank)) != plan.plan:
        raise DeadLetterError(
            f"{path} was altered after it was made, and is not what {plan.operator} planned: make it again with crossdock dlt plan"
        )
    return plan


def _identity(draft: Plan) -> str:
    """Readable and sortable, and told apart by everything in the plan."""
    text = json.dumps(draft.to_json(), separators=(",", ":"), sort_keys=True)
    return f"{draft.created_at:%Y%m%d-%H%M%S}-{sha256(text.encode()).hexdigest()[:_HASH_CHARS]}"
