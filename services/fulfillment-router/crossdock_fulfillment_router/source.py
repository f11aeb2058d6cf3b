"""Which locations ship which units: the fewest parcels, then the cheapest.

`routing` calls it; it knows nothing of orders.

Choosing the fewest locations that cover several skus is a set cover with quantities. It is solved exactly:
first one location, then two, and so on, each depth by branching on the sku that the fewest locations can
supply. A location that enough better ones outdo is left out, which keeps a chain of hundreds of stores
small. The search is bounded by `NODES_MAX` steps; an order that exhausts them gets a greedy plan, which may
be larger but covers as much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crossdock_canonical.identity import LocationId, Sku
from crossdock_canonical.records import FulfillmentLine

NODES_MAX = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A location that may ship: the cost of one parcel from it and what it has free of each wanted sku."""

    location: LocationId
    cost_minor: int
    free: Mapping[Sku, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """What one location is to ship."""

    location: LocationId
    lines: tuple[FulfillmentLine, ...]


def source(wanted: Sequence[FulfillmentLine], sites: Sequence[Site]) -> tuple[Parcel, ...]:
    """Plan as many of the wanted units as the sites have: the fewest parcels, among these the lowest cost.

    Units that no site has are left out of the plan. The same input gives the same plan, whatever the order
    of `sites`.
    """
    need: dict[Sku, int] = {}
    for line in wanted:
        need[line.sku] = need.get(line.sku, 0) + line.units
    if not need:
        return ()
    if (one := _cheapest_with_all(need, sites)) is not None:
        ordered = sorted(wanted, key=lambda line: (line.sku, line.line_id))
        return (Parcel(location=one.location, lines=tuple(ordered)),)
    for sku in need:
        need[sku] = min(need[sku], sum(max(0, site.free.get(sku, 0)) for site in sites))
    skus = tuple(sku for sku in sorted(need) if need[sku])
    if not skus:
        return ()
    target = tuple(need[sku] for sku in skus)
    candidates = []
    for site in sorted(sites, key=lambda site: (site.cost_minor, site.location)):
        units = tuple(
            [min(max(0, site.free.get(sku, 0)), most) for sku, most in zip(skus, target, strict=True)]
        )
        if any(units):
            candidates.append(_Candidate(site.cost_minor, units, site.location))
    chosen = _fewest(target, candidates)
    return _distribute(wanted, dict(zip(skus, target, strict=True)), skus, chosen)


def _cheapest_with_all(need: Mapping[Sku, int], sites: Sequence[Site]) -> Site | None:
    """The usual case, before anything else is computed: one location has everything."""
    best: Site | None = None
    for site in sites:
        free = site.free
        for sku, units in need.items():
            if free.get(sku, 0) < units:
                break
        else:
            if best is None or (site.cost_minor, site.location) < (best.cost_minor, best.location):
                best = site
    return best


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A site as numbers: units of each needed sku, none above the need."""

    cost: int
    units: tuple[int, ...]
    location: LocationId

    def outdoes(self, other: _Candidate) -> bool:
        """True when this one serves wherever the other does, and is preferred. No two outdo each other."""
        return (
            all(mine >= theirs for mine, theirs in zip(self.units, other.units, strict=True))
            and self.cost <= other.cost
            and (self.units != other.units or (self.cost, self.location) < (other.cost, other.location))
        )


def _fewest(need: tuple[int, ...], candidates: list[_Candidate]) -> tuple[_Candidate, ...]:
    """The smallest, then cheapest choice that covers the need, which all candidates together can."""
    for each in candidates:
        if each.units == need:
            return (each,)
    budget = NODES_MAX
    for count in range(2, len(candidates) + 1):
        search = _Search(budget)
        search.explore(need, _useful(candidates, count), count, (), 0)
        if search.best is not None:
            return search.best
        budget = search.budget
        if budget <= 0:
            break
    return _greedy(need, candidates)


def _useful(candidates: list[_Candidate], count: int) -> list[_Candidate]:
    """Leave out who is outdone by `count` others: one of them is not chosen, and could take its place."""
    alike: dict[tuple[int, ...], int] = {}
    few = []
    for each in candidates:  # those with the same units first, which is quick and mostly enough
        alike[each.units] = alike.get(each.units, 0) + 1
        if alike[each.units] <= count:
            few.append(each)
    return [each for each in few if sum(other.outdoes(each) for other in few) < count]


class _Search:
    """Depth-first search for the cheapest choice of at most a given number of candidates."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.best: tuple[_Candidate, ...] | None = None
        self._best_cost = 0

    def explore(
        self,
        need: tuple[int, ...],
        candidates: list[_Candidate],
        left: int,
        chosen: tuple[_Candidate, ...],
        cost: int,
    ) -> None:
        """Try every way to cover `need` with `left` more of the candidates.

        Sets `best`; stops when the budget is spent.
        """
        self.budget -= 1
        if not any(need):
            self.best, self._best_cost = (
                chosen,
                cost,
            )  # cheaper than the last: dearer branches are cut off below
            return
        if left == 0 or self.budget <= 0:
            return
        scarcest: list[_Candidate] | None = None
        for index, units in enumerate(need):
            if not units:
                continue
            suppliers = [each for each in candidates if each.units[index]]
            if sum(sorted((each.units[index] for each in suppliers), reverse=True)[:left]) < units:
                return
            if scarcest is None or len(suppliers) < len(scarcest):
                scarcest = suppliers
        assert scarcest is not None
        remaining = list(candidates)
        for each in scarcest:
            # Every choice with `each` is explored below it, so later branches do without.
            remaining.remove(each)
            if self.best is not None and cost + each.cost >= self._best_cost:
                continue
            rest = tuple(max(0, units - got) for units, got in zip(need, each.units, strict=True))
            self.explore(rest, remaining, left - 1, (*chosen, each), cost + each.cost)


def _greedy(need: tuple[int, ...], candidates: list[_Candidate]) -> tuple[_Candidate, ...]:
    """Whoever has most of what is missing, until nothing is."""
    chosen: list[_Candidate] = []
    while any(need):
        best = max(
            (each for each in candidates if each not in chosen),
            key=lambda each: sum(min(units, got) for units, got in zip(need, each.units, strict=True)),
        )
        chosen.append(best)
        need = tuple(max(0, units - got) for units, got in zip(need, best.units, strict=True))
    return tuple(chosen)


def _distribute(
    wanted: Sequence[FulfillmentLine],
    need: dict[Sku, int],
    skus: tuple[Sku, ...],
    chosen: tuple[_Candidate, ...],
) -> tuple[Parcel, ...]:
    """Spread the units over the chosen locations so that a sku is split only when no chosen one has all of it."""
    share: dict[LocationId, dict[Sku, int]] = {each.location: {} for each in chosen}
    for index, sku in enumerate(skus):
        left = need[sku]
        for each in sorted(chosen, key=lambda each: (-each.units[index], each.cost, each.location)):
            units = min(left, each.units[index])
            if units:
                share[each.location][sku] = units
                left -= units
    lines: dict[LocationId, list[FulfillmentLine]] = {location: [] for location in share}
    for line in sorted(wanted, key=lambda line: (line.sku, line.line_id)):
        left = line.units
        for location, units_of in share.items():
            units = min(left, units_of.get(line.sku, 0))
            if units:
                units_of[line.sku] -= units
                left -= units
                lines[location].append(FulfillmentLine(line_id=line.line_id, sku=line.sku, units=units))
    return tuple(
        Parcel(location=location, lines=tuple(packed)) for location, packed in sorted(lines.items()) if packed
    )
