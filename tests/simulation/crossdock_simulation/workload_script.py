"""The vocabulary of a workload: what is said, when, and which features a seed switches on. The `workload` modules write it.

A script is fixed up front: every item carries its records, ids and times, so that one can be left out while the others stay
what they were. That is what makes shrinking a failing schedule possible.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum, auto
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from random import Random


class Feature(StrEnum):
    """Classes of behaviour of the outside. A seed enables about half of them, so that every one meets every other."""

    SHOPIFY = auto()
    AMAZON = auto()
    POS = auto()
    WEB_TILL = auto()
    # What an order is like.
    CAPTURED_BY_SHOP = auto()
    PAID_LATE = auto()
    NEVER_PAID = auto()
    AUTHORIZED_BY_PROVIDER = auto()
    DECLINED_BY_PROVIDER = auto()
    PAID_IN_PARTS = auto()
    MARKETPLACE_PENDING = auto()
    MARKETPLACE_FULFILLED = auto()
    MULTI_LINE = auto()
    KIT = auto()
    CASE = auto()
    DIGITAL = auto()
    PICKUP = auto()
    TAX_INCLUDED = auto()
    DISCOUNT = auto()
    SHIPPING = auto()
    TIP = auto()
    NO_DECIMALS = auto()
    DEAR = auto()
    LATE_MAPPING = auto()
    # What the network is like.
    TWO_LOCATIONS = auto()
    SCARCE = auto()
    SAFETY_STOCK = auto()
    # How channels deliver.
    DUPLICATE = auto()
    RETRY = auto()
    DELAY = auto()
    OUT_OF_ORDER = auto()
    SAME_SECOND = auto()
    # What happens to an order.
    EDIT_DOWN = auto()
    LINE_REMOVED = auto()
    LINE_ADDED = auto()
    CHANNEL_CANCEL = auto()
    CHANNEL_SAYS_SHIPPED = auto()
    OUR_CANCEL = auto()
    CANCEL_LINES = auto()
    FRAUD_DECISION = auto()
    CHANNEL_REFUND = auto()
    FOREIGN_REFUND_NOTE = auto()
    CHARGEBACK = auto()
    RETURN_REQUESTED = auto()
    RETURN_RECEIVED = auto()
    RETURN_INSPECTED = auto()
    STORE_REFUND = auto()
    EXCHANGE = auto()
    # What feeds report.
    RECEIPT = auto()
    MOVED_TWICE = auto()
    STORE_FEED_SALE = auto()
    RECOUNT = auto()
    ADJUSTED_DOWN = auto()
    FOREIGN_COUNT = auto()
    DAMAGED = auto()
    # What channels pay.
    SETTLEMENT = auto()
    SETTLED_TWICE = auto()
    SETTLEMENT_CONTRADICTS = auto()
    SETTLEMENT_INCOMPLETE = auto()
    SETTLEMENT_UNKNOWN_LINE = auto()
    SETTLEMENT_CENT_OFF = auto()
    DECLARED_FIRST = auto()
    # What a service has to give up on.
    UNKNOWN_SKU = auto()
    TOTAL_MISMATCH = auto()
    UNKNOWN_LINE = auto()
    UNKNOWN_RETURN = auto()
    FOREIGN_CURRENCY = auto()
    UNDECODABLE = auto()


CHANNELS = (Feature.SHOPIFY, Feature.AMAZON, Feature.POS)
_FEATURES = tuple(Feature)
# Typical gaps between what happens, seconds: everything at once, a busy minute, a slow hour, days.
_TEMPOS_S = (0.02, 1.0, 30.0, 1800.0, 40_000.0)


@dataclass(frozen=True, slots=True)
class RawRecord:
    """Bytes on a topic that are no record of ours. `event_type` is what their header claims."""

    topic: str
    key: bytes
    value: bytes | None
    event_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One delivery from outside.

    number: position in the workload, and its name in a trace. at_s: simulated seconds from the start.
    records: canonical records in publishing order. raw: bytes to publish beside them.
    delivery: the delivery's own id, the causation id of its records: a redelivery has the same one.
    occurred_at: when it happened at the sender; None: when it is received.
    rejected_as: the code with which a service may have to give up on a record of it; empty: none may.
    """

    number: int
    at_s: float
    records: tuple[Any, ...]
    delivery: str
    label: str
    occurred_at: datetime | None = None
    raw: tuple[RawRecord, ...] = ()
    rejected_as: str = ""


class Script:
    """What is said so far. `rng` is the only source of chance of a whole workload."""

    def __init__(self, rng: Random, start: datetime) -> None:
        self.rng = rng
        self.start = start
        bits = rng.getrandbits(len(_FEATURES))
        self.enabled = {feature for index, feature in enumerate(_FEATURES) if bits >> index & 1}
        if not self.enabled.intersection(CHANNELS):
            self.enabled.add(rng.choice(CHANNELS))
        self.shown: set[Feature] = set()
        self.drafts: list[tuple[float, dict[str, Any]]] = []
        self._tempo_s = rng.choice(_TEMPOS_S[:4])
        self._files = 0

    def on(self, feature: Feature, chance: float = 0.5) -> bool:
        """Draw whether the feature shows here; the caller then makes it show."""
        if feature in self.enabled and self.rng.random() < chance:
            self.shown.add(feature)
            return True
        return False

    def gap_s(self) -> float:
        """Seconds until the next thing happens: mostly at the tempo of this world, sometimes at any other."""
        rng = self.rng
        tempo_s = self._tempo_s if rng.random() < 0.8 else rng.choice(_TEMPOS_S)
        return tempo_s * (0.1 + 2 * rng.random())

    def moment(self, at_s: float) -> datetime:
        """The time at the sender, to the second, as most of them tell it."""
        return self.start + timedelta(seconds=int(at_s))

    def file_number(self) -> int:
        """A number for the next file of any feed."""
        self._files += 1
        return self._files

    def say(
        self,
        at_s: float,
        *records: Any,
        delivery: str,
        label: str,
        occurred_at: datetime | None = None,
        raw: tuple[RawRecord, ...] = (),
        rejected_as: str = "",
    ) -> None:
        """Add a delivery, perhaps late, perhaps twice."""
        if self.on(Feature.DELAY, 0.2):
            at_s += self.gap_s()
        draft = {
            "records": records,
            "delivery": delivery,
            "label": label,
            "occurred_at": occurred_at,
            "raw": raw,
            "rejected_as": rejected_as,
        }
        self.drafts.append((at_s, draft))
        if self.on(Feature.DUPLICATE, 0.25):
            # Two deliveries of one event may come at the very same time, from two subscriptions.
            again_s = at_s + self.gap_s() * self.rng.randint(0, 1)
            self.drafts.append((again_s, draft | {"label": f"{label}, again"}))

    def items(self) -> tuple[Item, ...]:
        """Everything said, in order of time."""
        ordered = sorted(self.drafts, key=lambda draft: draft[0])
        return tuple(
            Item(number=number, at_s=round(at_s, 3), **draft)
            for number, (at_s, draft) in enumerate(ordered, start=1)
        )
