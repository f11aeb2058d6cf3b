"""What one accepted delivery says: the records, and the envelope facts they share. Translators build it, `publish` sends it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

ATTRIBUTES_MAX = 20
ATTRIBUTE_TEXT_MAX = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """Records of one delivery, in publishing order.

    delivery: the delivery's own id; the same delivery again has the same one, so its records have the same event ids.
    occurred_at: when it happened at the sender, UTC; None: when it was received.
    attributes: channel extensions that travel untouched, bounded.
    """

    records: tuple[Any, ...]
    delivery: str
    occurred_at: datetime | None
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A delivery that is accepted and means nothing to the backbone, and why."""

    reason: str


def bounded_attributes(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """The first attributes, clipped: extensions are for people and must not outgrow the record they travel on."""
    kept = [(name, value) for name, value in pairs if name and value][:ATTRIBUTES_MAX]
    return {name[:ATTRIBUTE_TEXT_MAX]: value[:ATTRIBUTE_TEXT_MAX] for name, value in kept}
