"""The schedule of a chaos run: what a seed draws."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from crossdock_tools.chaos.schedule import ERP_OUTAGE_S, Fault, Kind, Targets, plan

TARGETS = Targets(
    services={"returns": ("returns-0", "returns-1"), "erp-poster": ("erp-poster-0", "erp-poster-1")},
    gateways=("channel-gateway-0", "channel-gateway-1"),
    session_s=6.0,
)


def drawn(seed: int, *, count: int = 34, **options: object) -> tuple[Fault, ...]:
    return plan(seed, TARGETS, count=count, within_s=240.0, **options)  # type: ignore[arg-type]


def test_a_seed_draws_the_same_schedule_and_another_seed_another() -> None:
    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)


@pytest.mark.parametrize("seed", range(20))
def test_every_kind_strikes_in_order_of_time_and_in_time(seed: int) -> None:
    faults = drawn(seed)
    assert len(faults) == 34
    assert {fault.kind for fault in faults} == set(Kind)
    assert [fault.number for fault in faults] == list(range(1, 35))
    assert all(one.at_s < other.at_s for one, other in pairwise(faults))
    assert faults[-1].at_s <= 240.0
    (outage,) = [fault for fault in faults if fault.kind is Kind.ERP_OUTAGE]
    assert outage.lasts_s == ERP_OUTAGE_S
    assert outage.at_s + ERP_OUTAGE_S <= 240.0, "it is over before the load is"


@pytest.mark.parametrize("seed", range(20))
def test_a_frozen_instance_stays_so_beyond_its_session(seed: int) -> None:
    frozen = [fault for fault in drawn(seed) if fault.kind in (Kind.FREEZE, Kind.FREEZE_GATEWAY)]
    assert frozen
    assert all(fault.lasts_s > TARGETS.session_s for fault in frozen)


def test_an_erp_that_is_away_all_the_time_has_no_faults_of_its_own() -> None:
    for seed in range(20):
        faults = drawn(seed, erp_away=True)
        assert len(faults) == 34
        assert not any("erp" in fault.targets for fault in faults)


def test_only_the_kinds_that_were_asked_for() -> None:
    assert Counter(fault.kind for fault in drawn(3, count=5, only=(Kind.ERP_OUTAGE,))) == {Kind.ERP_OUTAGE: 5}
    some = {fault.kind for fault in drawn(3, only=(Kind.KILL, Kind.ROLL))}
    assert some == {Kind.KILL, Kind.ROLL}
    assert len(drawn(3, count=2)) == 2
