"""Reading a cluster for the audit: it ends, whatever state the cluster is in."""

from __future__ import annotations

from typing import Any

import pytest

from crossdock_canonical.records import PaymentAuthorized
from crossdock_eventing.broker.failure import BrokerUnavailable


def test_a_transaction_that_nobody_ends_is_not_waited_for_without_end(world: Any) -> None:
    stuck = world.broker.producer("stuck")
    stuck.init_transactions()
    stuck.begin()
    stuck.produce(PaymentAuthorized.TOPIC, key=b"k", value=b"v", partition=0)
    with pytest.raises(BrokerUnavailable, match="partition=0"):
        world.audit()
    stuck.abort()
    assert world.audit().ok
