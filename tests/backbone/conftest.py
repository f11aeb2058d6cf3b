"""The in-process backbone as a fixture. What a test made it do is replayed from the journal when the test is over."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossdock_eventing.replay_check import replay_identity
from crossdock_simulation.backbone import Backbone

sys.path.insert(0, str(Path(__file__).parent))  # the refund tests start from the orders of the path tests


@pytest.fixture
def backbone() -> Iterator[Backbone]:
    made = Backbone()
    yield made
    checked, differences = replay_identity(made.broker, made.registry, made.services.values())
    assert not differences, "\n".join(map(str, differences))
    assert checked["messages"]
    assert checked["outputs"]
