"""Run a defective world until the auditor notices, and write down which check did and after how many schedules.

A defect counts as caught when a check of its own invariant is violated under a seed that passes without the defect. That other
checks may have noticed it sooner, or an assertion stopped a service, does not count: it is the auditor that is tested.
`crossdock simulate --mutations` calls this; the tests run each defect once, under the seed that is written down.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

from crossdock_simulation.campaign import quiet
from crossdock_simulation.mutations.catalogue import MUTATIONS
from crossdock_simulation.mutations.mutation import Mutation
from crossdock_simulation.schedule import Schedule
from crossdock_simulation.world import World

#: Where `--record` writes what was found, and the tests read it.
CAUGHT = Path(__file__).with_name("caught.json")
PAGE = Path(__file__).parents[4] / "docs" / "reliability.md"
_BEGIN, _END = "<!-- deliberate defects: begin -->", "<!-- deliberate defects: end -->"


@dataclass(frozen=True, slots=True)
class Catch:
    """The seed that showed a defect, and the check of its invariant that told: the first in the order of the report."""

    seed: int
    check: str


def caught_by(mutation: Mutation, seed: int) -> str | None:
    """The check that catches the defect under this seed; None when none does, whatever else becomes of the world."""
    quiet()
    with mutation.apply():
        report = World(Schedule.of_seed(seed)).run().report
    if report is None:
        return None
    return next(
        (check.name for check in report.checks if check.invariant == mutation.invariant and check.violations),
        None,
    )


def passes(seed: int) -> bool:
    """Whether every check holds under this seed without any defect."""
    quiet()
    return World(Schedule.of_seed(seed)).run().failure is None


def hunt(mutation: Mutation, seeds: Iterable[int]) -> Catch | None:
    """The first of these seeds that shows the defect; None when none does."""
    for seed in seeds:
        check = caught_by(mutation, seed)
        if check is not None and passes(seed):
            return Catch(seed, check)
    return None


def hunt_all(names: Iterable[str], seeds: range, processes: int) -> Iterator[tuple[Mutation, Catch | None]]:
    """Hunt these defects, several at a time; each as soon as it is caught or the seeds have run out."""
    by_name = {mutation.name: mutation for mutation in MUTATIONS}
    with ProcessPoolExecutor(processes) as pool:
        hunts = {pool.submit(_hunt_named, name, seeds): by_name[name] for name in names}
        for done in as_completed(hunts):
            yield hunts[done], done.result()


def _hunt_named(name: str, seeds: range) -> Catch | None:
    return hunt(next(mutation for mutation in MUTATIONS if mutation.name == name), seeds)


def recorded() -> dict[str, Catch]:
    """What was written down, by the defect's name."""
    found = json.loads(CAUGHT.read_text()) if CAUGHT.exists() else {}
    return {name: Catch(**catch) for name, catch in found.items()}


def record(caught: Mapping[str, Catch]) -> None:
    """Write down what was caught, here and in the table of the page. Defects that are no longer listed go."""
    kept = {each.name: caught[each.name] for each in MUTATIONS if each.name in caught}
    CAUGHT.write_text(json.dumps({name: asdict(catch) for name, catch in kept.items()}, indent=1) + "\n")
    before, _, rest = PAGE.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    PAGE.write_text(f"{before}{section(kept)}{after}")


def section(caught: Mapping[str, Catch]) -> str:
    """The part of the page that lists every defect, its markers included."""
    lines = [
        _BEGIN,
        "| Invariant | Where | Defect | Caught by the check | After schedules |",
        "| ---: | --- | --- | --- | ---: |",
    ]
    for each in MUTATIONS:
        catch = caught.get(each.name)
        found = ("not yet", "") if catch is None else (catch.check, str(catch.seed))
        lines.append(f"| {each.invariant} | {each.where} | {each.about} | {found[0]} | {found[1]} |")
    return "\n".join([*lines, _END])
