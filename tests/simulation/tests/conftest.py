"""What the simulator's tests change for the whole process is undone."""

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Simulated worlds are quiet; what other tests expect of the log must not be."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)
