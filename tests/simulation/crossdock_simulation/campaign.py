"""Many schedules: a range of seeds over all cores, with progress, resumed where it was stopped. `crossdock simulate` runs it."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from crossdock_simulation.schedule import Schedule
from crossdock_simulation.shrink import shrink, signature
from crossdock_simulation.world import World, stock

_CHUNK = 10
_COLLECT_EVERY = 5
_PROGRESS_S = 2.0
_SHOWS_EVERYTHING = 1_000
_ROOT = Path(__file__).parents[3]


@dataclass
class Tally:
    """Sums over schedules. `failures` are (seed, text).

    checks: by statement of the auditor, how many things it was held against; 0 for one that never found any.
    """

    schedules: int = 0
    orders: int = 0
    checks: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str]] = field(default_factory=list)

    @property
    def unchecked(self) -> list[str]:
        """Statements that nothing was held against in as many schedules as should have shown everything."""
        if self.schedules < _SHOWS_EVERYTHING:
            return []
        return sorted(name for name, count in self.checks.items() if not count)

    def add(self, other: Tally) -> None:
        """Take in another's sums."""
        self.schedules += other.schedules
        self.orders += other.orders
        self.checks.update(other.checks)
        self.faults.update(other.faults)
        self.failures += other.failures


@dataclass(frozen=True, slots=True)
class Failure:
    """A failing seed, brought down to its core. `trace` is the history of the shrunk schedule."""

    seed: int
    text: str
    schedule: Schedule
    trace: list[str]


def play(seeds: Iterable[int]) -> Tally:
    """Run these seeds in this process."""
    quiet()
    tally = Tally()
    for number, seed in enumerate(seeds):
        if number % _COLLECT_EVERY == 0:
            gc.collect()  # a world is one knot of references; see `_prepare`
        outcome = World(Schedule.of_seed(seed)).run()
        tally.schedules += 1
        tally.orders += outcome.orders
        for check in outcome.report.checks if outcome.report is not None else ():
            tally.checks[check.name] += check.checked
        tally.faults.update(outcome.faults)
        if outcome.failure is not None:
            tally.failures.append((seed, outcome.failure))
    return tally


def explain(schedule: Schedule) -> Failure | None:
    """Run one schedule; when it fails, shrink it and tell its history."""
    quiet()
    outcome = World(schedule).run()
    if outcome.failure is None:
        return None
    kind = signature(outcome.failure)

    def fails(candidate: Schedule) -> bool:
        found = World(candidate).run().failure
        return found is not None and signature(found) == kind

    smallest = shrink(schedule, fails)
    told = World(smallest, trace=True).run()
    return Failure(schedule.seed, told.failure or outcome.failure, smallest, told.trace)


class Campaign:
    """A range of seeds. Progress is kept in a file, valid as long as the code is the same."""

    def __init__(self, first: int, last: int, directory: Path, *, fresh: bool, processes: int | None) -> None:
        self._first, self._last = first, last
        self._file = directory / f"seeds-{first}-{last}.json"
        self._processes = processes or os.cpu_count() or 1
        self._code = fingerprint()
        self.tally = Tally()
        self.next_seed = first
        self.resumed_at: int | None = None
        self.wall_s = 0.0
        self._done: dict[int, Tally] = {}
        if not fresh:
            self._load()

    def run(self, say: Callable[[str], None], *, keep_going: bool) -> Tally:
        """Play what is left. Stops after the first failure unless told to keep going.

        Ctrl-C ends it within seconds; what is done is kept.
        """
        started = said = time.monotonic()
        begun_at, before_s = self.tally.schedules, self.wall_s
        chunks = self._chunks()
        with ProcessPoolExecutor(self._processes, initializer=_prepare) as pool:
            running: dict[Future[Tally], int] = {}
            try:
                while True:
                    while len(running) < self._processes * 2 and (chunk := next(chunks, None)) is not None:
                        running[pool.submit(play, chunk)] = chunk.start
                    if not running:
                        break
                    finished, _ = wait(running, timeout=_PROGRESS_S, return_when=FIRST_COMPLETED)
                    for future in finished:
                        self._done[running.pop(future)] = future.result()
                    self._advance()
                    self.wall_s = before_s + time.monotonic() - started
                    if time.monotonic() - said >= _PROGRESS_S:
                        said = time.monotonic()
                        rate = (self.tally.schedules - begun_at) / (said - started)
                        say(f"seed {self.next_seed - 1} of {self._last}, {rate:.1f} schedules/s")
                        self._save()
                    if self.tally.failures and not keep_going:
                        break
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                self._save()
        return self.tally

    def _chunks(self) -> Iterator[range]:
        for start in range(self.next_seed, self._last + 1, _CHUNK):
            yield range(start, min(start + _CHUNK, self._last + 1))

    def _advance(self) -> None:
        """Count finished chunks in the order of their seeds, so that one number says how far it got."""
        while (chunk := self._done.pop(self.next_seed, None)) is not None:
            self.tally.add(chunk)
            self.next_seed += chunk.schedules

    def _load(self) -> None:
        try:
            found = json.loads(self._file.read_text())
            if found.pop("code") != self._code:
                return
            self.next_seed, self.wall_s = found.pop("next_seed"), found.pop("wall_s")
            found["failures"] = [(seed, text) for seed, text in found["failures"]]
            found |= {name: Counter(found[name]) for name in ("faults", "checks")}
            self.tally = Tally(**found)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return
        self.resumed_at = self.next_seed

    def _save(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        kept: dict[str, Any] = dict(vars(self.tally))
        kept |= {"code": self._code, "next_seed": self.next_seed, "wall_s": self.wall_s}
        part = self._file.with_suffix(".part")
        part.write_text(json.dumps(kept))
        part.replace(self._file)


def fingerprint() -> str:
    """A digest of everything that decides how a schedule runs."""
    digest = hashlib.sha256()
    for folder in ("libs", "services", "schemas", "tests/simulation", "tools/crossdock_tools/audit"):
        for path in sorted((_ROOT / folder).rglob("*")):
            if (
                path.suffix in (".py", ".avsc", ".yaml")
                and "tests" not in path.relative_to(_ROOT / folder).parts
            ):
                digest.update(str(path.relative_to(_ROOT)).encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def quiet() -> None:
    """Services log what they would in production; thousands of worlds of it help nobody."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=False
    )


def _prepare() -> None:
    """What all worlds share is built once and never collected; between worlds there is a better time than within one."""
    # Ctrl-C is the parent's to handle; it waits for the seeds under way.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    quiet()
    stock()
    gc.collect()
    gc.freeze()
    gc.disable()
