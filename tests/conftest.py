"""`--accept`: take what the code does today as what a recording, or a document, shall say."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--accept", action="store_true", help="rewrite recorded runs and runbooks to what the code does now"
    )


@pytest.fixture
def accept(request: pytest.FixtureRequest) -> bool:
    """Whether to rewrite instead of compare. The option exists where `tests` or a folder in it was named on the command line."""
    return bool(request.config.getoption("--accept", default=False))
