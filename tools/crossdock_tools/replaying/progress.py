"""How far a long replay is: bars on standard error, on a terminal only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

#: Hears of (what is done, how much of it was done, how much there is; 0: nobody knows).
Progress = Callable[[str, int, int], None]

_EVERY: Final = 200


def silent(_what: str, _done: int, _total: int) -> None:
    """For who needs no bar."""


class Steps:
    """Counts decisions for a bar; told of each, it moves the bar now and then."""

    def __init__(self, progress: Progress, what: str, total: int) -> None:
        self._progress, self._what, self._total = progress, what, total
        self._done = 0

    def __call__(self, _step: object) -> None:
        self._done += 1
        if self._done % _EVERY == 0:
            self._progress(self._what, min(self._done, self._total), self._total)

    def end(self) -> None:
        """All were decided."""
        self._progress(self._what, max(self._total, 1), max(self._total, 1))


@contextmanager
def bars() -> Iterator[Progress]:
    """One bar for each thing that is done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    shown = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    tasks: dict[str, TaskID] = {}

    def progress(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = shown.add_task(what, total=total or None)
        shown.update(tasks[what], completed=done, total=total or None)

    with shown:
        yield progress
