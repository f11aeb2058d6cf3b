"""Sourcing against a search of every choice, and at the size of a chain of stores."""

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from crossdock_canonical.records import FulfillmentLine
from crossdock_fulfillment_router import source as module
from crossdock_fulfillment_router.source import Site, source


def line(name, sku, units):
    return FulfillmentLine(line_id=name, sku=sku, units=units)


def site(location, cost=0, **free):
    return Site(location=location, cost_minor=cost, free=free)


def placed(parcels):
    units = {}
    for parcel in parcels:
        for part in parcel.lines:
            units[part.line_id] = units.get(part.line_id, 0) + part.units
    return units


def test_the_cheapest_of_those_that_have_everything():
    sites = [site("C", 5, A=9), site("B", 3, A=9), site("A", 3, A=9), site("D", 1, A=1)]
    (parcel,) = source([line("L1", "A", 2)], sites)
    assert parcel.location == "A"
    assert parcel.lines == (line("L1", "A", 2),)


def test_two_parcels_where_the_greedy_choice_needs_three():
    # The site with most of it is no part of the smallest choice.
    sites = [site("MOST", A=2, B=2, C=1), site("LEFT", A=3, B=1), site("RIGHT", B=2, C=3)]
    wanted = [line("L1", "A", 3), line("L2", "B", 3), line("L3", "C", 3)]
    assert [parcel.location for parcel in source(wanted, sites)] == ["LEFT", "RIGHT"]


def test_a_sku_stays_together_when_one_chosen_site_has_it():
    sites = [site("X", A=1, B=1), site("Y", A=2)]
    parcels = source([line("L1", "A", 2), line("L2", "B", 1)], sites)
    assert [(parcel.location, parcel.lines) for parcel in parcels] == [
        ("X", (line("L2", "B", 1),)),
        ("Y", (line("L1", "A", 2),)),
    ]


def test_units_that_nobody_has_are_left_out():
    parcels = source([line("L1", "A", 5), line("L2", "B", 1)], [site("X", A=2), site("Y", A=1)])
    assert placed(parcels) == {"L1": 3}
    assert source([line("L1", "A", 5)], []) == ()


def test_lines_of_one_sku_share_its_stock():
    parcels = source([line("L2", "A", 2), line("L1", "A", 2)], [site("X", A=3), site("Y", A=1)])
    assert placed(parcels) == {"L1": 2, "L2": 2}
    assert {parcel.location: sum(part.units for part in parcel.lines) for parcel in parcels} == {
        "X": 3,
        "Y": 1,
    }


SITES = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), max_size=7
)


@settings(max_examples=300, deadline=None)
@given(rows=SITES, needs=st.tuples(*[st.integers(0, 4)] * 3))
def test_the_plan_is_the_smallest_then_the_cheapest(rows, needs):
    sites = [site(f"S{n}", cost, A=a, B=b, C=c) for n, (cost, a, b, c) in enumerate(rows)]
    wanted = [line(f"L{sku}", sku, units) for sku, units in zip("ABC", needs, strict=True) if units]
    parcels = source(wanted, sites)
    assert parcels == source(wanted, sites[::-1])
    by_name = {each.location: each for each in sites}
    for parcel in parcels:
        for part in parcel.lines:
            assert part.units <= by_name[parcel.location].free[part.sku]
    coverable = {
        sku: min(units, sum(each.free[sku] for each in sites))
        for sku, units in zip("ABC", needs, strict=True)
    }
    assert placed(parcels) == {f"L{sku}": units for sku, units in coverable.items() if units}
    best = min(
        (len(choice), sum(each.cost_minor for each in choice))
        for count in range(len(sites) + 1)
        for choice in combinations(sites, count)
        if all(sum(each.free[sku] for each in choice) >= units for sku, units in coverable.items())
    )
    assert (len(parcels), sum(by_name[parcel.location].cost_minor for parcel in parcels)) == best


def test_a_chain_of_stores_is_searched_within_the_bound():
    sites = [
        site(f"STORE-{n:03}", n % 17, A=n % 3, B=n % 2, C=(n // 3) % 2, D=n % 5 // 4, E=(n // 7) % 2)
        for n in range(250)
    ]
    wanted = [line(f"L{sku}", sku, 2) for sku in "ABCDE"]
    search_nodes = 0

    class Counting(module._Search):
        def explore(self, *arguments):
            nonlocal search_nodes
            search_nodes += 1
            super().explore(*arguments)

    original, module._Search = module._Search, Counting
    try:
        parcels = source(wanted, sites)
    finally:
        module._Search = original
    assert placed(parcels) == {f"L{sku}": 2 for sku in "ABCDE"}
    assert len(parcels) == 2
    assert search_nodes < module.NODES_MAX / 10


def test_a_search_that_exhausts_its_bound_still_covers(monkeypatch):
    monkeypatch.setattr(module, "NODES_MAX", 1)
    sites = [site("MOST", A=2, B=2, C=1), site("LEFT", A=3, B=1), site("RIGHT", B=2, C=3)]
    wanted = [line("L1", "A", 3), line("L2", "B", 3), line("L3", "C", 3)]
    assert placed(source(wanted, sites)) == {"L1": 3, "L2": 3, "L3": 3}
