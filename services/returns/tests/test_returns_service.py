"""The composition: what a deployment sets reaches the core."""

from __future__ import annotations

from datetime import timedelta

import pytest

from crossdock_canonical.specification import T0
from crossdock_returns.service import service
from crossdock_returns.settings import Settings


def test_a_deployment_shortens_deadlines_by_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CROSSDOCK_RETURNS_RETURN_WINDOW_S", "60")

    assert Settings().policy().window == timedelta(minutes=1)


def test_retention_must_outlive_every_open_return():
    with pytest.raises(AssertionError):
        Settings(retention_s=1).policy()


def test_the_service_decides_and_evolves_by_its_settings():
    returns = service(Settings())
    request = next(record for record in returns.inputs if record.__name__ == "ReturnRequested")

    with pytest.raises(returns.rejected):
        returns.decide(request(order_id="o", rma_id="r", lines=(), requested_at=T0), None, now=T0)
