"""The in-process backbone as a fixture."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the tests share `backbone`; nothing else imports it

from backbone import Backbone


@pytest.fixture
def backbone() -> Backbone:
    return Backbone()
