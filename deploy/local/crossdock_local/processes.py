"""Starting child processes, remembering them in pid files, and stopping exactly those.

Used by the broker, by `cluster` (detached processes of `crossdock up`) and by the supervisor. A pid file
holds the pid *and* the process's start mark, so that a pid the system has since given to another program is
never signalled.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from crossdock_local.errors import LocalError

PR_SET_PDEATHSIG = 1  # prctl(2)
_STEADY_PORTS = 8_000  # how far below the ephemeral range to look


@dataclass(frozen=True)
class ProcessRecord:
    """A process that this package started: `started` tells it from a later one with the same pid."""

    pid: int
    started: str
    address: str


def spawn(
    command: Sequence[str],
    *,
    log_file: Path,
    environment: Mapping[str, str] | None = None,
    die_with_parent: bool,
) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own, its output appended to `log_file`.

    With `die_with_parent` (Linux) the kernel kills the child when the starting thread ends, however it ends.
    Raises OSError when the program cannot be run.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as log:
        return subprocess.Popen(  # noqa: S603 (a fixed argument list, no shell)
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=None if environment is None else dict(environment),
            start_new_session=True,
            preexec_fn=_parent_death_hook() if die_with_parent else None,
        )


def write_record(path: Path, *, pid: int, address: str) -> None:
    """Remember a process that was just started. Written whole or not at all."""
    mark = start_mark(pid)
    if mark is None:
        return  # Already gone: there is nothing to remember, and whoever waits for it will see it exit.
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.new")
    draft.write_text(json.dumps({"pid": pid, "started": mark, "address": address}), encoding="utf-8")
    draft.replace(path)


def read_live(path: Path) -> ProcessRecord | None:
    """The recorded process if it still runs and is the very one that was started; a stale file is removed."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        record = ProcessRecord(int(fields["pid"]), str(fields["started"]), str(fields["address"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        path.unlink(missing_ok=True)
        return None
    if start_mark(record.pid) != record.started:
        path.unlink(missing_ok=True)
        return None
    return record


def start_mark(pid: int) -> str | None:
    """When process `pid` started, in an opaque stable form; None when it does not run (a zombie does not)."""
    if sys.platform == "linux":
        try:
            # The command in field 2 may hold spaces and brackets: the fields proper follow the last bracket.
            state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if state in ("Z", "X") else fields[18]
    answer = subprocess.run(  # noqa: S603
        ["ps", "-o", "state=,lstart=", "-p", str(pid)],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    state, _, started = answer.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else started.strip()


def stop(record: ProcessRecord, *, grace_s: float) -> None:
    """End the recorded process group: SIGTERM, then SIGKILL once `grace_s` seconds have passed."""
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
        if start_mark(record.pid) != record.started:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(record.pid, number)
        deadline = time.monotonic() + wait_s
        while start_mark(record.pid) == record.started and time.monotonic() < deadline:
            time.sleep(0.05)


def stop_children(children: Sequence[subprocess.Popen[bytes]], *, grace_s: float) -> None:
    """End our own child processes and their groups, all at once, and reap them."""
    for child in children:
        _signal_group(child, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=max(0.0, deadline - time.monotonic()))
    for child in children:
        # Also after a tidy exit: what the child itself had started is in its group.
        _signal_group(child, signal.SIGKILL)
        child.wait()


def port_is_taken(host: str, port: int) -> bool:
    """Whether something already listens there."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def free_ports(host: str, count: int) -> list[int]:
    """`count` different ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((host, 0))
        return [probe.getsockname()[1] for probe in probes]


def steady_ports(host: str, count: int) -> list[int]:
    """`count` different free ports for servers that will be restarted on them.

    They lie below the range that the system takes the ports of outgoing connections from: while its server is away, no
    client of this machine is given one of them. Raises LocalError when so many are not to be had.
    """
    below = 32_768
    with contextlib.suppress(OSError, ValueError):
        below = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="utf-8").split()[0])
    found: list[int] = []
    port = max(1_024, below - _STEADY_PORTS) + os.getpid() % (_STEADY_PORTS // 2)
    while len(found) < count and port < below:
        if not port_is_taken(host, port):
            found.append(port)
        port += 1
    if len(found) < count:
        raise LocalError(f"fewer than {count} ports are free below {below} on {host}")
    return found


def _signal_group(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


def _parent_death_hook() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    # Loaded here, not in the child: between fork and exec only async-signal-safe work is allowed.
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def hook() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # The parent died before prctl took hold.
            os._exit(1)

    return hook
