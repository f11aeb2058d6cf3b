"""The order in which a sku's messages were taken, where no journal tells it. `stock_replay` asks.

Topics are in their own order; between two of them stand the versions of the sku's books that their messages led to.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from crossdock_canonical.records import (
    ReservationExpired,
    ReserveStock,
    SalableStock,
    StockMoved,
    StockPosition,
    StockReserved,
)
from crossdock_tools.audit.taken import Fired
from crossdock_tools.topic_reader import Entry

_EARLIEST = -1
_NEVER = datetime.min.replace(tzinfo=UTC)


def answers_of(body: ReserveStock, effects: Iterable[Any]) -> Iterator[Any]:
    """What the stop answered: its line in the slip that travels on, or in the final answer."""
    for each in effects:
        if isinstance(each, ReserveStock) and len(each.results) > body.at:
            yield each.results[body.at]
        elif isinstance(each, StockReserved) and not each.backfill and len(each.lines) > body.at:
            yield each.lines[body.at]


def by_version(
    entries: Iterable[Entry], effects: Mapping[str, Sequence[Any]], told_at: Mapping[str, datetime]
) -> Iterator[Entry | Fired]:
    """A task's steps, merged by moment and version of what they led to. effects, told_at: by cause, what and when.

    Of the rows that one transaction wrote under one key only the last is on the topic; what came before it in its topic
    stands directly before it. What led to nothing changed nothing, and may come first, as may what only joined a queue.
    """
    queues: dict[tuple[str, str], list[tuple[datetime, int, Entry | Fired]]] = defaultdict(list)
    for entry in sorted(entries, key=lambda each: each.record.offset):
        sku, cause = entry.body.sku, entry.meta.event_id
        led_to = effects.get(cause, ())
        queues_up = isinstance(entry.body, ReserveStock) and not any(
            result.reserved for result in answers_of(entry.body, led_to)
        )
        version = _version(led_to) or (_EARLIEST if queues_up else 0)
        # What led to nothing was taken at some time after it was written.
        moment = told_at.get(cause, entry.meta.recorded_at)
        queues[sku, entry.record.topic].append((moment, version, entry))
    skus = {sku for sku, _ in queues}
    for cause, told in effects.items():
        sku = next((str(each.sku) for each in told if isinstance(each, ReservationExpired)), "")
        if sku in skus and cause.startswith("timer/"):
            name = cause.removeprefix(f"timer/{sku}/").rpartition("/")[0]
            queues[sku, "timers"].append((told_at[cause], _version(told), Fired(sku, name, cause)))
            queues[sku, "timers"].sort(key=lambda step: step[:2])
    for sku in skus:
        waiting = [deque(_placed(steps)) for (of, _), steps in queues.items() if of == sku]
        while waiting:
            yield min(waiting, key=lambda steps: steps[0][:2]).popleft()[2]
            waiting = [steps for steps in waiting if steps]


def _placed(
    steps: list[tuple[datetime, int, Entry | Fired]],
) -> list[tuple[datetime, int, Entry | Fired]]:
    """The steps of one topic; one without a version gets that of the next in its transaction."""
    placed = []
    after: tuple[datetime, int] = (_NEVER, 0)
    for moment, version, step in reversed(steps):
        after = moment, version or (after[1] if after[0] == moment else 0)
        placed.append((*after, step))
    return placed[::-1]


def _version(effects: Iterable[Any]) -> int:
    """Version of the sku's books after a step; 0 when it published nothing of them."""
    versions = [
        each.sequence if isinstance(each, StockReserved) else each.version
        for each in effects
        if isinstance(each, StockMoved | StockPosition | SalableStock | StockReserved)
    ]
    return max(versions, default=0)
