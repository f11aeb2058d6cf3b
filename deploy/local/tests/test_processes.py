"""Pid files and signals: only what was started here is ever signalled."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crossdock_local import processes
from crossdock_local.addresses import LOOPBACK

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
STUBBORN = [
    *(sys.executable, "-u", "-c"),
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); time.sleep(60)",
]


def wait_for(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition never held"
        time.sleep(0.01)


@pytest.fixture
def spawn(tmp_path: Path):
    started: list[subprocess.Popen[bytes]] = []

    def start(command: list[str], *, die_with_parent: bool = True) -> subprocess.Popen[bytes]:
        log = tmp_path / f"{len(started)}.log"
        started.append(processes.spawn(command, log_file=log, die_with_parent=die_with_parent))
        return started[-1]

    yield start
    processes.stop_children(started, grace_s=0.0)


def test_a_record_is_live_only_while_its_process_is(tmp_path: Path, spawn) -> None:
    file = tmp_path / "run" / "x.pid"
    assert processes.read_live(file) is None
    child = spawn(SLEEP)
    processes.write_record(file, pid=child.pid, address="here")
    record = processes.read_live(file)
    assert record is not None
    assert (record.pid, record.address) == (child.pid, "here")
    child.kill()
    wait_for(lambda: processes.start_mark(child.pid) is None)  # A zombie does not run any more.
    assert processes.read_live(file) is None
    assert not file.exists()


def test_a_pid_that_another_program_has_now_is_not_ours(tmp_path: Path, spawn) -> None:
    child = spawn(SLEEP)
    file = tmp_path / "x.pid"
    processes.write_record(file, pid=child.pid, address="")
    fields = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**fields, "started": "1"}), encoding="utf-8")
    assert processes.read_live(file) is None
    processes.stop(processes.ProcessRecord(child.pid, "1", ""), grace_s=0.0)
    assert child.poll() is None


@pytest.mark.parametrize("text", ["", "12", "{}", '{"pid": "x", "started": "1", "address": ""}', "[1]"])
def test_a_damaged_record_counts_as_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.pid"
    file.write_text(text, encoding="utf-8")
    assert processes.read_live(file) is None


def test_stopping_a_recorded_process_escalates(tmp_path: Path, spawn) -> None:
    child = spawn(STUBBORN)
    wait_for(lambda: b"up" in (tmp_path / "0.log").read_bytes())
    file = tmp_path / "x.pid"
    processes.write_record(file, pid=child.pid, address="")
    record = processes.read_live(file)
    assert record is not None
    processes.stop(record, grace_s=0.2)
    assert child.wait(5) == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_a_child_dies_with_its_parent_however_that_ends(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from crossdock_local import processes;"
        "c = processes.spawn([sys.executable, '-c', 'import time; time.sleep(60)'],"
        " log_file=Path(sys.argv[1]), die_with_parent=True); print(c.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert processes.start_mark(child) is not None
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_for(lambda: processes.start_mark(child) is None)


def test_ports() -> None:
    import socket

    first, second = processes.free_ports("127.0.0.1", 2)
    assert first != second
    assert not processes.port_is_taken("127.0.0.1", first)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", first))
        listener.listen()
        assert processes.port_is_taken("127.0.0.1", first)


def test_steady_ports_are_free_and_no_client_is_given_one() -> None:
    ports = processes.steady_ports(LOOPBACK, 5)
    assert len(set(ports)) == 5
    assert not any(processes.port_is_taken(LOOPBACK, port) for port in ports)
    if sys.platform == "linux":
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        assert max(ports) < first
