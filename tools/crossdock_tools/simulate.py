"""`crossdock simulate`: play seeds of the deterministic simulator, and explain the one that fails. Mounted by `main`."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crossdock_tools.invocation import command_name
from crossdock_tools.schemas.commands import JsonOption

if TYPE_CHECKING:
    from crossdock_simulation.campaign import Campaign, Failure


class SimulationError(Exception):
    """The seeds or the schedule that were asked for are none; the text says what to write instead."""


def simulate(
    seeds: Annotated[
        str | None,
        typer.Option(
            help="One seed, or a range: 1..2000. Default: 1..200, with --mutations 1..10000.",
            show_default=False,
        ),
    ] = None,
    schedule: Annotated[
        Path | None,
        typer.Option(help="Play this schedule instead, as a failure wrote it, and tell its history."),
    ] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Do not stop at the first failure.")
    ] = False,
    mutations: Annotated[
        bool,
        typer.Option(
            "--mutations", help="Plant every deliberate defect in turn, and see the auditor catch it."
        ),
    ] = False,
    record: Annotated[
        bool,
        typer.Option(
            "--record", help="With --mutations: write down what caught each, for tests and the page."
        ),
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Do not resume an earlier run of these seeds.")
    ] = False,
    processes: Annotated[int | None, typer.Option(min=1, help="Default: one for each core.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run six services through thousands of histories full of faults, each under one seed, and audit every one.

    A range of seeds that was stopped goes on where it was, as long as the code is the same. A failure is brought down to the
    shortest schedule that still shows it, and told step by step.
    """
    from crossdock_local.addresses import local_directory
    from crossdock_simulation.campaign import Campaign, explain
    from crossdock_simulation.schedule import Schedule

    directory = local_directory() / "simulation"
    if schedule is not None:
        _tell_one(_read(schedule), as_json=as_json)
        return
    if mutations:
        _hunt(seeds or "1..10000", record=record, processes=processes, as_json=as_json)
        return
    if record:
        raise SimulationError("--record writes down what --mutations finds: give both")
    first, last = _range(seeds or "1..200")
    campaign = Campaign(first, last, directory, fresh=fresh, processes=processes)
    if campaign.resumed_at is not None and campaign.resumed_at > first:
        _say(f"going on at seed {campaign.resumed_at}; --fresh starts again")
    try:
        tally = campaign.run(_say, keep_going=keep_going)
    except KeyboardInterrupt:
        _say(f"stopped before seed {campaign.next_seed}; the same command goes on there")
        raise typer.Exit(130) from None
    figures = _figures(campaign)
    if as_json:
        print(json.dumps(figures, indent=1))
    else:
        _print(figures)
    if not tally.failures:
        if tally.unchecked:
            _say(
                f"proves nothing of: {', '.join(tally.unchecked)}, which no schedule had anything to show for"
            )
            raise typer.Exit(1)
        return
    seed, text = tally.failures[0]
    _say(f"seed {seed} fails: {text}")
    _say("looking for the shortest schedule that fails alike")
    failure = explain(Schedule.of_seed(seed))
    if failure is None:
        _say("it does not fail here: the code changed meanwhile, or the run is not deterministic")
    else:
        _explain(failure, directory)
    raise typer.Exit(1)


def _hunt(seeds: str, *, record: bool, processes: int | None, as_json: bool) -> None:
    """Each defect until it is caught, as they come; then all of them, by invariant."""
    from crossdock_simulation.mutations import hunt
    from crossdock_simulation.mutations.catalogue import MUTATIONS

    first, last = _range(seeds)
    caught: dict[str, hunt.Catch] = {}
    everywhere = [mutation.name for mutation in MUTATIONS]
    for mutation, catch in hunt.hunt_all(
        everywhere, range(first, last + 1), processes or os.cpu_count() or 1
    ):
        if catch is None:
            _say(f"{mutation.name}: not caught under seeds {first}..{last}")
        else:
            caught[mutation.name] = catch
            _say(f"{mutation.name}: seed {catch.seed}, {mutation.invariant} {catch.check}")
    if record:
        hunt.record(caught)
    missed = [name for name in everywhere if name not in caught]
    if as_json:
        found = {name: asdict(catch) for name, catch in caught.items()}
        print(json.dumps({"caught": found, "missed": missed}, indent=1))
    else:
        print(f"{len(caught)} of {len(everywhere)} deliberate defects caught")
    if missed:
        _say(f"not caught: {', '.join(missed)}")
        raise typer.Exit(1)


def _range(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", text.strip())
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if last < first:
        raise SimulationError(f"{text!r} is no range of seeds: write 7, or 1..2000")
    return first, last


def _read(path: Path) -> Any:
    from crossdock_simulation.schedule import Schedule

    try:
        return Schedule.from_json(json.loads(path.read_text()))
    except OSError as error:
        raise SimulationError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise SimulationError(f"{path} is no schedule: {error}") from None


def _tell_one(schedule: Any, *, as_json: bool) -> None:
    from crossdock_simulation.campaign import quiet
    from crossdock_simulation.world import World

    quiet()
    outcome = World(schedule, trace=True).run()
    if as_json:
        print(json.dumps({"failure": outcome.failure, "trace": outcome.trace}, indent=1))
    else:
        print("\n".join(outcome.trace))
        print(outcome.failure or "every check held")
    if outcome.failure:
        raise typer.Exit(1)


def _figures(campaign: Campaign) -> dict[str, Any]:
    tally = campaign.tally
    struck = sum(tally.faults.values())
    count = max(1, tally.schedules)
    return {
        "schedules": tally.schedules,
        "schedules_per_s": round(tally.schedules / max(campaign.wall_s, 0.001), 1),
        "wall_s": round(campaign.wall_s, 1),
        "orders": tally.orders,
        "orders_per_schedule": round(tally.orders / count, 2),
        "faults": struck,
        "faults_per_schedule": round(struck / count, 2),
        "checked": sum(tally.checks.values()),
        "failures": len(tally.failures),
        "faults_by_kind": dict(sorted(tally.faults.items())),
        "checked_by_statement": dict(sorted(tally.checks.items())),
    }


def _print(figures: dict[str, Any]) -> None:
    for name, value in figures.items():
        if not isinstance(value, dict):
            print(f"{name:>20}  {value}")
    for by in ("faults_by_kind", "checked_by_statement"):
        print(f"\n{by.replace('_', ' '):>20}")
        for name, count in figures[by].items():
            print(f"{count:>20,}  {name}")


def _explain(failure: Failure, directory: Path) -> None:
    path = directory / f"failure-{failure.seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(failure.schedule.to_json(), indent=1) + "\n")
    _say("")
    for line in failure.trace:
        _say(line)
    _say("")
    _say(f"{failure.text}")
    _say(
        f"{len(failure.schedule.faults)} faults: {', '.join(str(fault) for fault in failure.schedule.faults)}"
    )
    _say(f"again: {command_name()} simulate --schedule {path}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
