"""What can go wrong in a simulated world, when, and the plan of it that a seed draws. `world` carries the faults out.

A fault strikes at a call: the n-th time that a service makes it, before or after. So faults land in the middle of work, and
taking one out of a plan leaves the others where they were, as far as the world before them stays the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from crossdock_simulation.gate import Call, Moment

SERVICES = (
    "order-orchestrator",
    "inventory-availability",
    "fulfillment-router",
    "returns",
    "settlement-reconciler",
    "erp-poster",
)

_MID_STEP: tuple[tuple[Call, Moment], ...] = (
    ("begin", "after"),
    ("produce", "after"),
    ("send_offsets", "before"),
    ("send_offsets", "after"),
    ("commit", "before"),
    ("commit", "after"),
)
_ANYWHERE: tuple[tuple[Call, Moment], ...] = (
    *_MID_STEP,
    ("poll", "after"),
    ("write", "before"),
    ("write", "after"),
    ("read", "after"),
    ("committed", "before"),
    ("init", "after"),
    ("abort", "before"),
)
_COMMIT: tuple[tuple[Call, Moment], ...] = (("commit", "before"),)
_COMMITTED: tuple[tuple[Call, Moment], ...] = (("commit", "after"),)
_BEGUN: tuple[tuple[Call, Moment], ...] = (("begin", "after"),)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: where it may strike, what `size` means and which sizes it takes."""

    about: str
    calls: tuple[tuple[Call, Moment], ...]
    sizes: tuple[float, ...] = (0.0,)
    weight: float = 1.0


#: Beyond the session (12 s), beyond the transaction time-out (10 s), and within both.
_PAUSES = (0.2, 5.0, 11.0, 14.0, 40.0)
_OUTAGES = (0.5, 8.0, 45.0, 900.0)

KINDS: Mapping[str, Kind] = {
    "kill": Kind("process dies; back after `size` seconds", _ANYWHERE, (0.5, 3.0, 30.0), 5.0),
    "kill_and_lose_disk": Kind("process dies and its store is deleted", _ANYWHERE, (0.5, 15.0), 2.0),
    "kill_and_roll_back_disk": Kind(
        "machine loses power: the last `size` batches", _ANYWHERE, (1, 2, 5), 2.0
    ),
    "kill_committing": Kind("process dies, its commit is under way and lands", _COMMIT, (0.5, 15.0), 2.0),
    "pause": Kind("process stands still for `size` seconds: a zombie", _ANYWHERE, _PAUSES, 4.0),
    "commit_answer_lost": Kind("commit lands, its answer does not", _COMMIT, (0.0,), 3.0),
    "commit_late": Kind("commit times out and lands `size` seconds later", _COMMIT, (0.1, 3.0, 30.0), 2.0),
    "commit_lost": Kind("commit times out and never lands", _COMMIT, (0.0,), 1.0),
    "record_undelivered": Kind("a record of the transaction is not delivered", _BEGUN),
    "expelled": Kind("coordinator expels the member with work in flight", _MID_STEP, (0.0,), 2.0),
    "superseded": Kind(
        "process stands still for `size` seconds, and its successor is at work before its transaction times out",
        _MID_STEP,
        (0.2, 3.0, 8.0),
        3.0,
    ),
    "broker_away": Kind("no broker answers for `size` seconds", _ANYWHERE, (0.3, 6.0, 20.0), 2.0),
    "markers_held": Kind("commits are acknowledged before readers see them", _COMMIT, (0.05, 2.0)),
    "compacted": Kind(
        "every changelog is compacted; tombstones older than `size` go", _COMMITTED, (0.0, 7 * 86400.0)
    ),
    "scaled_out": Kind("one more instance starts", _COMMITTED),
    "scaled_in": Kind("an instance stops for good", _COMMITTED),
    "rolling_restart": Kind("every instance is stopped and started in turn", _COMMITTED),
    "twin": Kind("a second process starts under the same identity", _MID_STEP + _COMMITTED),
    "clock_skewed": Kind(
        "the process's clock jumps by `size` seconds", _COMMITTED, (-3600.0, -5.0, 5.0, 3600.0)
    ),
    "clock_leapt": Kind("all clocks leap by `size` seconds", _COMMITTED, (20.0, 400.0, 90000.0)),
    "wms_away": Kind("warehouse unreachable for `size` seconds", _COMMITTED, _OUTAGES),
    "psp_away": Kind("payment provider unreachable for `size` seconds", _COMMITTED, _OUTAGES),
    "channels_away": Kind("channels unreachable for `size` seconds", _COMMITTED, _OUTAGES),
    "erp_away": Kind("ERP unreachable for `size` seconds", _COMMITTED, _OUTAGES),
    "wms_answer_lost": Kind("warehouse acts, `size` answers are lost", _COMMITTED, (1, 3)),
    "psp_answer_lost": Kind("payment provider acts, `size` answers are lost", _COMMITTED, (1, 3)),
    "channels_answer_lost": Kind("channel acts, `size` answers are lost", _COMMITTED, (1, 3)),
    "erp_answer_lost": Kind("ERP books, `size` answers are lost", _COMMITTED, (1, 3)),
    "wms_request_lost": Kind("`size` requests never reach the warehouse", _COMMITTED, (1, 3)),
    "psp_request_lost": Kind("`size` requests never reach the payment provider", _COMMITTED, (1, 3)),
    "erp_request_lost": Kind("`size` requests never reach the ERP", _COMMITTED, (1, 3)),
    "erp_unreachable": Kind("`size` requests find no ERP", _COMMITTED, (1, 3)),
    "erp_fails": Kind("ERP answers 500 to `size` requests and does nothing", _COMMITTED, (1, 3)),
    "erp_fails_afterwards": Kind("ERP books and answers 500 to `size` requests", _COMMITTED, (1, 3)),
    "erp_throttles": Kind("ERP answers 429 to `size` requests", _COMMITTED, (1, 5)),
    "erp_slow": Kind(
        "ERP books, and answers, `size` seconds after it was asked: past the time-out",
        _COMMITTED,
        (2.0, 4.0, 20.0),
    ),
    "gateway_killed": Kind("gateway dies and carries out again what was not committed", _COMMITTED),
    "deliveries_repeated": Kind(
        "the next `size` deliveries come twice, the first time perhaps by half", _COMMITTED, (2, 6)
    ),
    "events_delayed": Kind("events of the outside arrive `size` seconds late", _COMMITTED, (2.0, 600.0)),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a plan: strikes at the `nth` time that `service` makes `call`."""

    kind: str
    service: str
    call: Call
    moment: Moment
    nth: int
    size: float

    def __str__(self) -> str:
        return f"{self.kind}({self.size:g}) {self.moment} {self.call} #{self.nth} of {self.service}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Fault:
        """Raises TypeError, ValueError for what is no fault."""
        fault = cls(**found)
        if fault.kind not in KINDS or fault.service not in SERVICES:
            raise ValueError(f"no such fault: {fault}")
        return fault


def draw_faults(chance: Random) -> tuple[Fault, ...]:
    """A plan: few faults mostly, many sometimes, of a few kinds that meet each other."""
    count = chance.choices((0, 1, 2, 3, 5, 8, 13), (2, 8, 10, 10, 8, 5, 2))[0]
    if not count:
        return ()
    names = list(KINDS)
    few = chance.choices(names, [KINDS[name].weight for name in names], k=chance.choice((2, 4, len(names))))
    hit = chance.choices(SERVICES, (4, 4, 3, 2, 2, 3), k=chance.choice((1, 2, 6)))
    return tuple(_draw(chance, chance.choice(few), chance.choice(hit)) for _ in range(count))


def _draw(chance: Random, name: str, service: str) -> Fault:
    kind = KINDS[name]
    call, moment = chance.choice(kind.calls)
    often = 30.0 if call == "produce" else 6.0
    nth = 1 if call in ("init", "abort") else 1 + int(chance.expovariate(1 / often))
    return Fault(name, service, call, moment, nth, float(chance.choice(kind.sizes)))
