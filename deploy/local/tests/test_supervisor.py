"""The supervisor, on tiny real processes: restart with back-off, health, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossdock_local import processes
from crossdock_local.addresses import LOOPBACK
from crossdock_local.errors import LocalError
from crossdock_local.supervisor import Backoff, Child, Supervisor

SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")
HEALTHY = (
    "import sys; from http.server import *;"
    "H = type('H', (BaseHTTPRequestHandler,), {'do_GET': lambda s: (s.send_response(200), s.end_headers())});"
    "HTTPServer(('127.0.0.1', int(sys.argv[1])), H).serve_forever()"
)


class ManualTime:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def bench(tmp_path: Path) -> Iterator["Bench"]:
    bench = Bench(tmp_path)
    yield bench
    for supervisor in bench.supervisors:
        supervisor.stop()


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.time = ManualTime()
        self.supervisors: list[Supervisor] = []

    def supervise(self, *children: Child, grace_s: float = 5.0, real_time: bool = False) -> Supervisor:
        self.supervisors.append(
            Supervisor(
                children,
                run_directory=self.folder / "run",
                log_directory=self.folder / "logs",
                backoff=Backoff(initial_s=1.0, max_s=4.0, stable_s=30.0),
                grace_s=grace_s,
                monotonic=time.monotonic if real_time else self.time,
            )
        )
        return self.supervisors[-1]


def end(supervisor: Supervisor, name: str) -> None:
    """kill -9 a child, and wait until that shows."""
    pid = supervisor.pid(name)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: supervisor.pid(name) is None)


def wait_for(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition never held"
        time.sleep(0.01)


def test_a_killed_child_is_restarted_after_its_back_off_and_the_others_are_left_alone(bench: Bench) -> None:
    supervisor = bench.supervise(Child("a", SLEEP), Child("b", SLEEP))
    supervisor.start()
    first, other = supervisor.pid("a"), supervisor.pid("b")
    assert supervisor.poll() == []
    end(supervisor, "a")
    assert supervisor.poll() == []
    bench.time.now += 0.9
    assert supervisor.poll() == []
    bench.time.now += 0.2
    [restarted] = supervisor.poll()
    assert (restarted.name, restarted.exit_code) == ("a", -signal.SIGKILL)
    assert restarted.pid == supervisor.pid("a") != first
    assert supervisor.pid("b") == other
    record = processes.read_live(bench.folder / "run" / "a.pid")
    assert record is not None
    assert record.pid == restarted.pid


def test_the_back_off_doubles_to_its_limit_and_starts_over_after_a_stable_life(bench: Bench) -> None:
    supervisor = bench.supervise(Child("a", SLEEP))
    supervisor.start()
    waits = []
    for life_s in (0, 0, 0, 0, 31):
        bench.time.now += life_s
        end(supervisor, "a")
        died = bench.time.now
        while not supervisor.poll():
            bench.time.now += 0.5
        waits.append(bench.time.now - died)
    assert waits == [1.0, 2.0, 4.0, 4.0, 1.0]


def test_stop_ends_all_by_term_and_the_stubborn_by_kill_and_removes_the_pid_files(bench: Bench) -> None:
    tidy = "import signal, sys, time; signal.signal(15, lambda *_: (print('tidy', flush=True), sys.exit(0)));"
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN);"
    rest = "print('up', flush=True); time.sleep(60)"
    supervisor = bench.supervise(
        Child("tidy", (sys.executable, "-c", tidy + rest)),
        Child("deaf", (sys.executable, "-c", deaf + rest)),
        grace_s=0.5,
    )
    supervisor.start()
    wait_for(lambda: all(b"up" in supervisor.log_file(name).read_bytes() for name in ("tidy", "deaf")))
    pids = [supervisor.pid(name) for name in ("tidy", "deaf")]
    supervisor.stop()
    assert b"tidy" in supervisor.log_file("tidy").read_bytes()
    assert all(pid is not None and processes.start_mark(pid) is None for pid in pids)
    assert list((bench.folder / "run").iterdir()) == []


def test_what_a_child_started_itself_ends_with_it(bench: Bench) -> None:
    script = (
        "import subprocess, sys, time;"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "print(p.pid, flush=True); time.sleep(60)"
    )
    supervisor = bench.supervise(Child("a", (sys.executable, "-c", script)))
    supervisor.start()
    wait_for(lambda: supervisor.log_file("a").read_bytes().endswith(b"\n"))
    grandchild = int(supervisor.log_file("a").read_text(encoding="utf-8"))
    supervisor.stop()
    wait_for(lambda: processes.start_mark(grandchild) is None)


def test_health_is_the_answer_of_the_health_url(bench: Bench) -> None:
    [port] = processes.free_ports(LOOPBACK, 1)
    child = Child("web", (sys.executable, "-c", HEALTHY, str(port)), health_url=f"http://{LOOPBACK}:{port}/")
    supervisor = bench.supervise(child, Child("plain", SLEEP), real_time=True)
    supervisor.start()
    supervisor.wait_healthy(10.0)
    assert supervisor.healthy("web")
    end(supervisor, "web")
    assert not supervisor.healthy("web")
    supervisor.wait_healthy(10.0)  # It polls, so the dead one comes back.


def test_waiting_for_health_names_who_has_none(bench: Bench) -> None:
    [port] = processes.free_ports(LOOPBACK, 1)
    silent = Child("silent", SLEEP, health_url=f"http://{LOOPBACK}:{port}/")
    supervisor = bench.supervise(Child("plain", SLEEP), silent, real_time=True)
    supervisor.start()
    with pytest.raises(LocalError, match=r"not healthy after 0 s: silent"):
        supervisor.wait_healthy(0.2)


def test_a_child_that_cannot_be_started_leaves_none_running(bench: Bench) -> None:
    supervisor = bench.supervise(Child("a", SLEEP), Child("b", ("/no/such/program",)))
    with pytest.raises(LocalError, match="b cannot be started"):
        supervisor.start()
    assert supervisor.pid("a") is None
    assert list((bench.folder / "run").iterdir()) == []


def test_a_child_that_another_supervisor_runs_is_not_started_twice(bench: Bench) -> None:
    bench.supervise(Child("a", SLEEP)).start()
    with pytest.raises(LocalError, match="a is already running"):
        bench.supervise(Child("a", SLEEP)).start()
    assert bench.supervisors[0].pid("a") is not None


def test_the_environment_reaches_the_child(bench: Bench) -> None:
    script = "import os; print(sorted(k for k in os.environ if k.startswith('X_')), flush=True)"
    supervisor = bench.supervise(Child("a", (sys.executable, "-c", script), environment={"X_1": "y"}))
    supervisor.start()
    wait_for(lambda: supervisor.pid("a") is None)
    assert supervisor.log_file("a").read_text(encoding="utf-8") == "['X_1']\n"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_supervisor_leaves_no_process_behind(tmp_path: Path, number: signal.Signals) -> None:
    script = (
        "import sys, time; from pathlib import Path; from crossdock_local.supervisor import *;"
        "c = Child('a', (sys.executable, '-c', 'import time; time.sleep(60)'));"
        "s = Supervisor([c], run_directory=Path(sys.argv[1]), log_directory=Path(sys.argv[1]));"
        "s.start(); print(s.pid('a'), flush=True); time.sleep(60)"
    )
    supervising = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert supervising.stdout is not None
    child = int(supervising.stdout.readline())
    supervising.send_signal(number)
    supervising.wait()
    supervising.stdout.close()
    wait_for(lambda: processes.start_mark(child) is None)
