"""Keeping a set of named child processes alive, and leaving none behind.

Used by the demo, the end-to-end tests and the chaos runs: they call `start`, then `poll` now and then, and
`stop`. There is no thread: a child that died is restarted by the next `poll` that finds its back-off over.
"""

import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from types import TracebackType
from typing import Self

from crossdock_local import processes
from crossdock_local.errors import LocalError


@dataclass(frozen=True)
class Child:
    """A process to keep alive. `health_url`, when given, answers 200 once the child does its work."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] | None = None
    log_file: Path | None = None
    health_url: str | None = None


@dataclass(frozen=True)
class Backoff:
    """Seconds before a restart: `initial_s`, doubling up to `max_s`; afresh after `stable_s` of life."""

    initial_s: float = 0.5
    max_s: float = 30.0
    stable_s: float = 30.0


@dataclass(frozen=True)
class Restarted:
    """What `poll` did: the child that had ended with `exit_code` (-9 for `kill -9`) runs again as `pid`."""

    name: str
    exit_code: int
    pid: int


@dataclass
class _Running:
    process: Popen[bytes]
    started_at: float
    backoff_s: float
    restart_at: float | None = field(default=None)


class Supervisor:
    """Start, watch and stop child processes. Not for use from several threads.

    Each child has a session of its own, `run_directory/<name>.pid`, and dies with the supervising process
    however that ends (on Linux; elsewhere after a tidy `stop` only).
    """

    def __init__(
        self,
        children: Sequence[Child],
        *,
        run_directory: Path,
        log_directory: Path,
        backoff: Backoff | None = None,
        grace_s: float = 10.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        names = [child.name for child in children]
        if len(set(names)) != len(names):
            raise ValueError(f"two children with one name: {sorted(names)}")
        self._children = {child.name: child for child in children}
        self._run_directory = run_directory
        self._log_directory = log_directory
        self._backoff = backoff or Backoff()
        self._grace_s = grace_s
        self._monotonic = monotonic
        self._running: dict[str, _Running] = {}

    def start(self) -> None:
        """Start every child, in order, without waiting for health.

        Raises LocalError when one still runs from an earlier supervisor, or its program cannot be run; then
        none is left running.
        """
        try:
            for name in self._children:
                record = processes.read_live(self._pid_file(name))
                if record is not None:
                    raise LocalError(f"{name} is already running (pid {record.pid}): stop it first")
                self._running[name] = self._spawn(name, self._backoff.initial_s)
        except BaseException:
            self.stop()
            raise

    def poll(self) -> list[Restarted]:
        """Restart the children that have ended and whose back-off is over. Never blocks."""
        restarted = []
        now = self._monotonic()
        for name, running in list(self._running.items()):
            exit_code = running.process.poll()
            if exit_code is None:
                continue
            if running.restart_at is None:
                if now - running.started_at >= self._backoff.stable_s:
                    running.backoff_s = self._backoff.initial_s
                running.restart_at = now + running.backoff_s
            if now >= running.restart_at:
                following_s = min(running.backoff_s * 2, self._backoff.max_s)
                # What the dead child had started itself must not meet its successor.
                processes.stop_children([running.process], grace_s=0.0)
                self._running[name] = self._spawn(name, following_s)
                restarted.append(Restarted(name, exit_code, self._running[name].process.pid))
        return restarted

    def wait_healthy(self, timeout_s: float) -> None:
        """Poll until every child runs and its health URL answers.

        Raises LocalError naming the ones that do not once `timeout_s` seconds have passed.
        """
        deadline = self._monotonic() + timeout_s
        while True:
            self.poll()
            missing = [name for name in self._children if not self.healthy(name)]
            if not missing:
                return
            if self._monotonic() > deadline:
                logs = ", ".join(str(self.log_file(name)) for name in missing)
                raise LocalError(f"not healthy after {timeout_s:.0f} s: {', '.join(missing)} (see {logs})")
            time.sleep(0.1)

    def healthy(self, name: str) -> bool:
        """Whether a child runs and, if it has a health URL, that answers 200."""
        if self.pid(name) is None:
            return False
        url = self._children[name].health_url
        return url is None or _answers(url)

    def pid(self, name: str) -> int | None:
        """A child's process id; None while it does not run."""
        running = self._running.get(name)
        return None if running is None or running.process.poll() is not None else running.process.pid

    def log_file(self, name: str) -> Path:
        """Where a child's output goes."""
        return self._children[name].log_file or self._log_directory / f"{name}.log"

    def stop(self) -> None:
        """End every child: SIGTERM to all at once, SIGKILL after the grace. Their pid files go."""
        processes.stop_children(
            [running.process for running in self._running.values()], grace_s=self._grace_s
        )
        for name in self._running:
            self._pid_file(name).unlink(missing_ok=True)
        self._running.clear()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _spawn(self, name: str, backoff_s: float) -> _Running:
        child = self._children[name]
        try:
            process = processes.spawn(
                child.command,
                log_file=self.log_file(name),
                environment=child.environment,
                die_with_parent=True,
            )
        except OSError as error:
            raise LocalError(f"{name} cannot be started: {error}") from error
        processes.write_record(self._pid_file(name), pid=process.pid, address=child.health_url or "")
        return _Running(process, self._monotonic(), backoff_s)

    def _pid_file(self, name: str) -> Path:
        return self._run_directory / f"{name}.pid"


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1.0) as answer:  # noqa: S310 (the caller's own address)
            return bool(answer.status == 200)
    except OSError:
        return False
