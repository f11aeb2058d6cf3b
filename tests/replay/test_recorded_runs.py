"""The deciders of today decide a recorded run as those of then did: same published events, same states, field by field.

`pytest tests/replay --accept` rewrites the recordings to what today's deciders do; read the change before you commit it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from crossdock_tools.demo.stack import SERVICES
from crossdock_tools.replaying import recording
from crossdock_tools.replaying.services import load

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize("name", SERVICES)
def test_todays_deciders_decide_a_recorded_run_alike(name: str, accept: bool) -> None:
    path = FIXTURES / f"{name}.jsonl"
    header = recording.read_header(path)
    service = load(header.service, header.settings)
    found = recording.read(path, service)
    differences = found.differences(service)
    if accept:
        recording.write(found.accepted(service), service, path)
        differences = recording.read(path, service).differences(service)
    assert found.turns
    if differences:
        pytest.fail(
            "\n".join(
                [
                    f"{len(differences)} differences to the recorded run of {name} (was -> is):",
                    *map(str, differences),
                    "if this is what you want: pytest tests/replay --accept, and commit the recordings",
                ]
            ),
            pytrace=False,
        )


@pytest.mark.parametrize("name", SERVICES)
def test_a_recording_shows_its_service_at_work(name: str) -> None:
    path = FIXTURES / f"{name}.jsonl"
    header = recording.read_header(path)
    found = recording.read(path, load(header.service, header.settings))
    assert sum(len(turn.inputs) for turn in found.turns) >= 10
    assert any(turn.outputs for turn in found.turns)
    assert found.states
