"""The toy service of `toy.py` as fixtures."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the tests share `toy`; nothing else imports it

from toy import Bench


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def bench_with_rates() -> Bench:
    return Bench(with_rates=True)
