"""What decisions do to the world, named for an operator: events, ERP documents, money. Used by dry runs and certificates.

An ERP document is one that the ERP poster will have booked, or the event that tells of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from crossdock_tools.dead_letters.worth import Sums, add, money_text, worth

if TYPE_CHECKING:
    from crossdock_eventing.decision import Decision

DOCUMENT: Final = "ERP document"


@dataclass(frozen=True, slots=True)
class Effect:
    """One thing that follows. name: the record type, or DOCUMENT. about: what tells it from others. money: minor units."""

    name: str
    about: str
    money: tuple[str, int] | None = None

    def __str__(self) -> str:
        amount = "" if self.money is None else f" ({money_text(dict([self.money]))})"
        return f"{self.name} {self.about}{amount}".rstrip()


def effects_of(decision: Decision, compacted: Container[str] = ()) -> list[Effect]:
    """The events that one decision publishes, and the documents that it queues for the ERP. compacted: topics that are tables."""
    found = [effect_of(body) for body, _ in decision.outputs if body.TOPIC not in compacted]
    # An intent to post is private to the poster: it is known by the document that it carries.
    documents = [getattr(event, "document", None) for event in decision.events]
    return [*found, *(_document(each) for each in documents if hasattr(each, "business_key"))]


def effect_of(body: Any) -> Effect:
    """A published record."""
    about = ", ".join(
        str(getattr(body, name)) for name in (*body.KEY, *body.IDENTITY) if name in _fields(body)
    )
    return Effect(type(body).__name__, about, worth(body))


def _fields(body: Any) -> frozenset[str]:
    return frozenset(body.to_avro())


def _document(document: Any) -> Effect:
    kind = str(getattr(document, "document_type", "")).lower()
    return Effect(DOCUMENT, f"{kind} {document.business_key}".strip(), worth(document))


def tally(effects: Iterable[Effect]) -> dict[str, dict[str, Any]]:
    """How many of each name, and their money: `{name: {"count": n, "money_minor": {currency: minor}}}`."""
    counts: Counter[str] = Counter()
    money: dict[str, Sums] = {}
    for each in effects:
        counts[each.name] += 1
        if each.money is not None:
            add(money.setdefault(each.name, {}), *each.money)
    return {
        name: {"count": count, **({"money_minor": money[name]} if name in money else {})}
        for name, count in sorted(counts.items())
    }
