"""`--accept`: take what today's deciders do as the recorded run."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--accept", action="store_true", help="rewrite the recorded runs to what deciders do now"
    )


@pytest.fixture
def accept(request: pytest.FixtureRequest) -> bool:
    """Whether to rewrite instead of compare. The option exists only where this folder was named on the command line."""
    return bool(request.config.getoption("--accept", default=False))
