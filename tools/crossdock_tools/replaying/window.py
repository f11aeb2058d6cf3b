"""Which part of a recorded run is meant: bounds as a user writes them, and the cut that they make through a task's journal.

A bound is an offset of one topic or a moment. Everything else that a task took is cut at the place where that message lies in
the journal, as a decision depends on all that came before it, of whatever topic.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from crossdock_eventing.broker.interface import Record
from crossdock_eventing.clock import to_micros
from crossdock_eventing.journal import Turn
from crossdock_tools.replaying.errors import ReplayError

_OFFSET: Final = re.compile(r"^\d+$")
_PLACES: Final = re.compile(r"^\d+:\d+(,\d+:\d+)*$")
_AGO: Final = re.compile(r"^(\d+)(s|min|h|d)$")
_SECONDS: Final = {"s": 1, "min": 60, "h": 3_600, "d": 86_400}
#: Beyond every offset.
END: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Bound:
    """One end of a window. One of: an offset of every partition, offsets by partition, a moment in µs since the epoch."""

    offset: int | None = None
    places: tuple[tuple[int, int], ...] = ()
    at_us: int | None = None

    @property
    def needs_topic(self) -> bool:
        return self.at_us is None

    def partitions(self) -> set[int]:
        """The partitions that it names; empty: it is about all."""
        return {partition for partition, _ in self.places}

    def offset_in(self, partition: int, records: Sequence[Record]) -> int | None:
        """The offset of the topic's first message in the window, or after it; `records` are those of the partition, in order.

        None when the bound does not name the partition.
        """
        if self.at_us is not None:
            at_ms = -(-self.at_us // 1000)
            return next((each.offset for each in records if each.timestamp_ms >= at_ms), END)
        return self.offset if not self.places else dict(self.places).get(partition)


def bound(text: str, now: datetime) -> Bound:
    """`120`, `0:120,3:88`, a time with its zone, or how long ago. Raises ReplayError."""
    if _OFFSET.match(text):
        return Bound(offset=int(text))
    if _PLACES.match(text):
        pairs = [each.split(":") for each in text.split(",")]
        return Bound(places=tuple((int(partition), int(offset)) for partition, offset in pairs))
    if (ago := _AGO.match(text)) is not None:
        moment = now - timedelta(seconds=int(ago[1]) * _SECONDS[ago[2]])
        return Bound(at_us=to_micros(moment))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ReplayError(
            f"{text!r} is no bound: write an offset (120), offsets of partitions (0:120,3:88), a time (2026-03-02T09:00:00Z), "
            "or how long ago (90min, 2h, 3d)"
        ) from None
    if moment.tzinfo is None:
        raise ReplayError(f"{text!r} does not say in which time zone: add Z or an offset")
    return Bound(at_us=to_micros(moment))


def split_at_moment(turns: Sequence[Turn], at_us: int) -> tuple[list[Turn], list[Turn]]:
    """Transactions before a moment, and those from it on."""
    place = next((index for index, turn in enumerate(turns) if turn.now_us >= at_us), len(turns))
    return [*turns[:place]], [*turns[place:]]


def split_at_offset(turns: Sequence[Turn], topic: str, offset: int) -> tuple[list[Turn], list[Turn]]:
    """All that a task took before the first message of `topic` from `offset` on, and the rest; a transaction may be cut in two."""
    for index, turn in enumerate(turns):
        for place, (name, start, end) in enumerate(turn.runs):
            if name == topic and end > offset:
                first, second = _halves(turn, place, max(start, offset))
                head = [first] if first.answers or first.released or first.runs else []
                return [*turns[:index], *head], [second, *turns[index + 1 :]]
    return [*turns], []


def _halves(turn: Turn, place: int, offset: int) -> tuple[Turn, Turn]:
    """Cut a transaction within a run. Answers and what was released come before every message, timers after."""
    topic, start, end = turn.runs[place]
    before = [*turn.runs[:place], *([(topic, start, offset)] if offset > start else [])]
    after = [(topic, offset, end), *turn.runs[place + 1 :]]

    def earlier(verdict: tuple[str, int, str]) -> bool:
        name, at, _ = verdict
        if not name:
            return at == 0  # an answer; a timer has its due time
        return any(name == each and low <= at < high for each, low, high in before)

    # What was refused names where its message was first, and the message is in one half only: both may know of it.
    first = Turn(turn.now_us, turn.answers, turn.released, before, refused=turn.refused, tables=turn.tables)
    second = Turn(turn.now_us, runs=after, timers=turn.timers, refused=turn.refused, tables=turn.tables)
    for verdict in turn.ignored:
        (first if earlier(verdict) else second).ignored.append(verdict)
    for verdict in turn.rejected:
        (first if earlier(verdict) else second).rejected.append(verdict)
    return first, second
