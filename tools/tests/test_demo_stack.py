"""What the demo promises about the place it runs in."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossdock_local.errors import LocalError
from crossdock_tools.demo import stack


def test_a_second_demo_in_the_same_place_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    with (
        stack.only_one(tmp_path),
        pytest.raises(LocalError, match="a demo already runs in"),
        stack.only_one(tmp_path),
    ):
        pass
    with stack.only_one(tmp_path):
        pass
