"""The composition: what a deployment sets reaches the core."""

from __future__ import annotations

from datetime import timedelta

import pytest

from crossdock_settlement_reconciler.service import service
from crossdock_settlement_reconciler.settings import Settings


def test_a_deployment_shortens_deadlines_by_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CROSSDOCK_SETTLEMENT_RECONCILER_UNKNOWN_ORDER_DEADLINE_S", "60")

    assert Settings().policy().unknown_order == timedelta(minutes=1)


def test_a_file_must_be_given_longer_than_its_lines_may_wait():
    with pytest.raises(AssertionError):
        Settings(incomplete_deadline_s=60).policy()


def test_every_input_has_a_state_of_one_of_the_stages():
    settlement = service(Settings())

    assert settlement.state_key is not None
    assert {state.__name__ for state in settlement.states} == {"OrderExpectation", "SettlementProgress"}
