"""The auditor is tested: every deliberate defect is caught by a check of the invariant that it breaks."""

from __future__ import annotations

from collections import Counter

import pytest

from crossdock_simulation.mutations.catalogue import MUTATIONS
from crossdock_simulation.mutations.hunt import PAGE, caught_by, passes, recorded, section
from crossdock_simulation.mutations.mutation import SHELL, Mutation
from crossdock_simulation.world import stock

_AGAIN = "run `crossdock simulate --mutations --record`, and look at what it changes"
_INVARIANTS = range(1, 13)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_defect_is_caught(mutation: Mutation) -> None:
    catch = recorded().get(mutation.name)
    assert catch is not None, f"nobody has hunted it: {_AGAIN}"
    assert caught_by(mutation, catch.seed) == catch.check, _AGAIN


def test_seeds_pass_without_their_defects() -> None:
    seeds = {catch.seed for catch in recorded().values()}
    assert [seed for seed in sorted(seeds) if not passes(seed)] == []


def test_every_invariant_has_two_defects() -> None:
    listed = Counter(mutation.invariant for mutation in MUTATIONS)
    assert [number for number in _INVARIANTS if listed[number] < 2] == []
    assert set(listed) <= set(_INVARIANTS)


def test_every_service_and_the_shell_have_defects() -> None:
    assert {mutation.where for mutation in MUTATIONS} == {SHELL, *stock().services}


def test_names_are_unique() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)


def test_page_lists_every_defect() -> None:
    assert section(recorded()) in PAGE.read_text(), _AGAIN
