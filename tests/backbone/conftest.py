"""The in-process backbone as a fixture."""

import sys
from pathlib import Path

import pytest

from crossdock_simulation.backbone import Backbone

sys.path.insert(0, str(Path(__file__).parent))  # the refund tests start from the orders of the path tests


@pytest.fixture
def backbone() -> Backbone:
    return Backbone()
