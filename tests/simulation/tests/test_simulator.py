"""The simulator itself: it repeats itself exactly, its faults strike, and a failure comes down to what causes it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from crossdock_eventing.task import Task
from crossdock_simulation.campaign import Campaign, Tally, explain, play, quiet
from crossdock_simulation.disk import Disk, SimulatedStore
from crossdock_simulation.faults import KINDS, Fault, draw_faults
from crossdock_simulation.gate import Gate
from crossdock_simulation.schedule import Schedule
from crossdock_simulation.shrink import shrink
from crossdock_simulation.workload import workload
from crossdock_simulation.world import World

_SILENT = Gate(lambda _call, _moment: None, lambda _seconds: None)


@pytest.fixture(autouse=True)
def no_logs() -> None:
    quiet()


def history(seed: int) -> str:
    outcome = World(Schedule.of_seed(seed), trace=True).run()
    return hashlib.sha256("\n".join([*outcome.trace, str(outcome.failure)]).encode()).hexdigest()


def test_a_seed_has_one_history() -> None:
    assert history(11) == history(11)
    assert history(11) != history(12)


def test_the_history_does_not_depend_on_how_a_process_hashes() -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_simulator as t; t.quiet();"
        "print([t.history(seed) for seed in (5, 11, 32, 113)])"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", script, str(Path(__file__).parent)],
            env={**os.environ, "PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for salt in ("1", "2")
    }
    assert len(answers) == 1


def test_every_kind_of_fault_strikes() -> None:
    struck: Counter[str] = Counter()
    for number, (name, kind) in enumerate(KINDS.items()):
        fault = Fault(name, "order-orchestrator", *kind.calls[-1], nth=1, size=kind.sizes[0])
        calls = {call for call, _ in kind.calls}
        if "commit" in calls:
            fault = replace(
                fault, call="commit", moment="after" if ("commit", "after") in kind.calls else "before", nth=2
            )
        outcome = World(Schedule(seed=number + 1, faults=(fault,), horizon_days=3.0)).run()
        struck += outcome.faults
    assert set(struck) == set(KINDS)


def test_a_schedule_survives_json() -> None:
    for seed in range(50):
        schedule = Schedule.of_seed(seed).without(items=frozenset({2, 5}))
        assert Schedule.from_json(json.loads(json.dumps(schedule.to_json()))) == schedule


def test_plans_differ_in_number_and_kind() -> None:
    from random import Random

    plans = [draw_faults(Random(seed)) for seed in range(400)]
    assert {len(plan) for plan in plans} >= {0, 1, 2, 3, 5, 8, 13}
    assert {fault.kind for plan in plans for fault in plan} == set(KINDS)


def test_a_process_that_dies_inside_its_commit_is_survived_at_every_call() -> None:
    """Before and after each call of one transaction: the same outside, the same verdict."""
    for call in ("begin", "produce", "send_offsets", "commit", "write"):
        for moment in ("before", "after"):
            for nth in (1, 2, 4):
                fault = Fault("kill", "order-orchestrator", call, moment, nth, 0.5)  # type: ignore[arg-type]
                outcome = World(Schedule(seed=4, faults=(fault,), horizon_days=30.0)).run()
                assert outcome.failure is None, f"{fault}: {outcome.failure}"


def test_a_disk_loses_its_last_batches_and_no_more() -> None:
    disk = Disk()
    store = SimulatedStore(disk, _SILENT)
    for number in range(4):
        store.write({b"a": str(number).encode(), b"k%d" % number: b"x"})
    disk.lose(2)
    found = SimulatedStore(disk, _SILENT)
    assert found.get(b"a") == b"1"
    assert [key for key, _ in found.scan(b"k", b"l")] == [b"k0", b"k1"]


def test_a_schedule_is_shrunk_to_what_it_takes_to_fail() -> None:
    schedule = next(s for s in map(Schedule.of_seed, range(1, 500)) if len(s.faults) == 8)
    needed = schedule.faults[5]
    said = [item.number for item in workload(schedule.seed).items]

    def fails(candidate: Schedule) -> bool:
        return needed in candidate.faults and said[-1] not in candidate.left_out

    smallest = shrink(schedule, fails)
    assert smallest.faults == (needed,)
    assert smallest.left_out == frozenset(said[:-1])
    assert (smallest.instances, smallest.partitions) == (1, 1)


def test_a_defect_is_found_shrunk_and_told() -> None:
    """Offsets that are committed one too far lose a message."""
    right = Task.offsets

    def one_too_far(task: Task) -> dict[object, int]:
        return {
            each: offset + (each.topic.endswith("order.intake.v1")) for each, offset in right(task).items()
        }

    with patch.object(Task, "offsets", one_too_far):
        failing = next(seed for seed in range(1, 60) if play([seed]).failures)
        failure = explain(Schedule.of_seed(failing))
    assert failure is not None
    assert len(failure.schedule.faults) <= 1
    assert failure.trace
    assert play([failing]).failures == []


def test_a_campaign_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    stopped = Campaign(1, 75, tmp_path, fresh=False, processes=1)
    stopped.tally = Tally(schedules=50, orders=7, checks=Counter(a=9), faults=Counter(kill=3))
    stopped.next_seed = 51
    stopped._save()
    lines: list[str] = []

    resumed = Campaign(1, 75, tmp_path, fresh=False, processes=2)
    assert resumed.resumed_at == 51
    tally = resumed.run(lines.append, keep_going=True)
    assert (tally.schedules, tally.failures) == (75, [])
    assert tally.orders > 7
    assert tally.faults["kill"] >= 3
    assert tally.checks["a"] == 9
    assert len(tally.checks) > 30

    assert Campaign(1, 75, tmp_path, fresh=True, processes=1).resumed_at is None
    with patch("crossdock_simulation.campaign.fingerprint", lambda: "other code"):
        assert Campaign(1, 75, tmp_path, fresh=False, processes=1).resumed_at is None


def test_a_statement_that_nothing_was_held_against_is_named() -> None:
    tally = Tally(schedules=2_000, checks=Counter({"seen": 3, "never": 0}))
    assert tally.unchecked == ["never"]
    assert Tally(schedules=10, checks=Counter({"never": 0})).unchecked == []
