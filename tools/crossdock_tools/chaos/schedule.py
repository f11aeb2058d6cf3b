"""Which faults happen when, to whom and for how long: drawn from one seed before the run. Pure; `faults` carries them out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

#: An ERP outage lasts this long.
ERP_OUTAGE_S = 60.0


class Kind(StrEnum):
    """What can go wrong; the value is its name in the report."""

    KILL = "service killed (SIGKILL)"
    KILL_GATEWAY = "gateway killed (SIGKILL)"
    FREEZE = "service frozen past its session (SIGSTOP, SIGCONT)"
    FREEZE_GATEWAY = "gateway frozen past its session (SIGSTOP, SIGCONT)"
    WIPE = "service killed, local store deleted"
    ROLL = "rolling restart of a service's instances (SIGTERM)"
    BROKER_RESTART = "broker restarted (SIGTERM)"
    BROKER_KILL = "broker killed (SIGKILL)"
    NETWORK_DELAY = "network delay to the broker"
    NETWORK_CUT = "network cut to the broker"
    NETWORK_STALL = "network stall: bytes to or from the broker swallowed"
    ERP_OUTAGE = "ERP outage of 60 s"
    SLOW = "slow answers of ERP, payment provider or warehouse"
    LOST = "lost answers of ERP, payment provider, warehouse or channels"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. Two of one `target` never overlap: the later one waits.

    at_s: earliest begin, seconds after the load began. lasts_s: how long, where it lasts.
    targets: instance, service, gateway, simulated system, "broker", or what is disturbed on the network.
    detail: stream of a stall; milliseconds of a delay or a slow answer; number of answers lost.
    """

    number: int
    at_s: float
    kind: Kind
    targets: tuple[str, ...]
    lasts_s: float = 0.0
    detail: str = ""

    def __str__(self) -> str:
        lasting = f" for {self.lasts_s:.0f} s" if self.lasts_s else ""
        detail = f" [{self.detail}]" if self.detail else ""
        return f"{self.kind}: {', '.join(self.targets)}{lasting}{detail}"


@dataclass(frozen=True, slots=True)
class Targets:
    """Whom faults may hit. `services` maps a service to its instances; `session_s` is how long the broker waits for one."""

    services: dict[str, tuple[str, ...]]
    gateways: tuple[str, ...]
    session_s: float

    @property
    def instances(self) -> tuple[str, ...]:
        return tuple(each for instances in self.services.values() for each in instances)


#: How often a kind is drawn beyond the once that every kind gets. The ERP has its one outage.
_WEIGHTS = {
    Kind.KILL: 6,
    Kind.KILL_GATEWAY: 2,
    Kind.FREEZE: 4,
    Kind.FREEZE_GATEWAY: 1,
    Kind.WIPE: 2,
    Kind.ROLL: 1,
    Kind.BROKER_RESTART: 1,
    Kind.BROKER_KILL: 1,
    Kind.NETWORK_DELAY: 3,
    Kind.NETWORK_CUT: 3,
    Kind.NETWORK_STALL: 3,
    Kind.SLOW: 2,
    Kind.LOST: 3,
}


def plan(
    seed: int,
    targets: Targets,
    *,
    count: int,
    within_s: float,
    only: Collection[Kind] = tuple(Kind),
    erp_away: bool = False,
) -> tuple[Fault, ...]:
    """`count` faults that begin within `within_s` seconds, in order of time; every kind at least once where `count` allows.

    only: the kinds to draw from. erp_away: the ERP is away all the time, so that it has no faults of its own.
    """
    random = Random(seed)  # noqa: S311 - a schedule, not a secret
    kinds = [kind for kind in Kind if kind in only and not (erp_away and kind is Kind.ERP_OUTAGE)]
    weights = {kind: weight for kind, weight in _WEIGHTS.items() if kind in only} or dict.fromkeys(kinds, 1)
    random.shuffle(kinds)
    more = random.choices(list(weights), list(weights.values()), k=max(0, count - len(kinds)))
    kinds = [*kinds, *more][:count]
    # One in each of `count` equal spans: spread out, and yet by chance.
    span_s = within_s / count
    times = [(number + random.random()) * span_s for number in range(count)]
    order = list(range(count))
    random.shuffle(order)
    # What lasts as long as the outage must begin early enough to end with the load.
    order.sort(key=lambda number: kinds[number] is not Kind.ERP_OUTAGE)
    slots = list(range(count))
    placed: list[tuple[float, Kind]] = []
    for number in order:
        outage = kinds[number] is Kind.ERP_OUTAGE
        early = [slot for slot in slots if times[slot] <= within_s - ERP_OUTAGE_S]
        slot = random.choice(early if outage and early else slots)
        slots.remove(slot)
        placed.append((times[slot], kinds[number]))
    placed.sort()
    return tuple(
        _drawn(random, targets, number, at_s, kind, erp_away=erp_away)
        for number, (at_s, kind) in enumerate(placed, start=1)
    )


def _drawn(
    random: Random, targets: Targets, number: int, at_s: float, kind: Kind, *, erp_away: bool
) -> Fault:
    """The fault of this kind with its victim."""

    def fault(who: Sequence[str], lasts_s: float = 0.0, detail: str = "") -> Fault:
        return Fault(number, at_s, kind, tuple(who), round(lasts_s, 1), detail)

    def one(of: Sequence[str]) -> tuple[str, ...]:
        return (random.choice(of),)

    def way() -> tuple[str, ...]:
        """The network of one process, or, one time in four, of a whole service."""
        if random.random() < 0.25:
            return random.choice(list(targets.services.values()))
        return one((*targets.instances, *targets.gateways))

    systems = ("wms", "psp") if erp_away else ("erp", "wms", "psp")
    match kind:
        case Kind.KILL | Kind.WIPE:
            return fault(one(targets.instances))
        case Kind.KILL_GATEWAY:
            return fault(one(targets.gateways))
        case Kind.FREEZE:
            return fault(one(targets.instances), targets.session_s + random.uniform(1.0, 10.0))
        case Kind.FREEZE_GATEWAY:
            return fault(one(targets.gateways), 10.0 + random.uniform(2.0, 6.0))
        case Kind.ROLL:
            return fault(random.choice(list(targets.services.values())))
        case Kind.BROKER_RESTART | Kind.BROKER_KILL:
            return fault(("broker",), random.uniform(0.0, 4.0))
        case Kind.NETWORK_DELAY:
            return fault(way(), random.uniform(8.0, 20.0), f"{random.randrange(50, 600)} ms")
        case Kind.NETWORK_CUT:
            return fault(way(), random.uniform(2.0, 15.0))
        case Kind.NETWORK_STALL:
            return fault(way(), random.uniform(4.0, 16.0), random.choice(("upstream", "downstream")))
        case Kind.ERP_OUTAGE:
            return fault(("erp",), ERP_OUTAGE_S)
        case Kind.SLOW:
            return fault(one(systems), random.uniform(8.0, 20.0), f"{random.randrange(500, 5_000)} ms")
        case Kind.LOST:
            return fault(one((*systems, "channels")), random.uniform(8.0, 20.0), f"{random.randrange(5, 40)}")
