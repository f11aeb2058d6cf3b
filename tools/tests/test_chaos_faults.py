"""How faults are carried out: several at a time, none on a victim that another holds, all healed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crossdock_local.supervisor import Backoff, Child, Supervisor
from crossdock_tools.chaos import faults as carrying
from crossdock_tools.chaos.faults import Faults
from crossdock_tools.chaos.schedule import Fault, Kind

SLEEP = [sys.executable, "-c", "import time; time.sleep(120)"]


class Proxy:
    """Notes what is done to the network."""

    def __init__(self) -> None:
        self.done: list[tuple[object, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *given, **named: self.done.append((name, *given, *named.values()))


class Clock:
    """Time as the faults read it."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(carrying, "time", made)
    return made


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[SimpleNamespace]:
    children = [Child(name, SLEEP) for name in ("returns-0", "returns-1")]
    backoff = Backoff(initial_s=0.0)
    with Supervisor(children, run_directory=tmp_path, log_directory=tmp_path, backoff=backoff) as supervisor:
        yield SimpleNamespace(
            supervisor=supervisor,
            proxy=Proxy(),
            simulator_urls={"erp": "http://erp", "wms": "http://wms"},
            store=lambda name: tmp_path / "state" / name,
        )


def fault(
    number: int, kind: Kind, *targets: str, at_s: float = 0.0, lasts_s: float = 0.0, detail: str = ""
) -> Fault:
    return Fault(number, at_s, kind, targets, lasts_s, detail)


def tick(
    faults: Faults, clock: Clock, stack: SimpleNamespace, *, for_s: float, until_over: bool = False
) -> None:
    end = clock.now + for_s
    while clock.now < end and not (until_over and faults.over):
        faults.tick()
        stack.supervisor.poll()
        clock.now += 0.1


def frozen(pid: int, *, soon: bool) -> bool:
    """Whether the process stands still; a signal takes a moment to tell, so `soon` is waited for."""
    for _ in range(500):
        stands = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        if stands is soon:
            break
        subprocess.run(["true"], check=True)
    return stands


def test_a_killed_instance_comes_back_and_the_fault_is_counted(clock: Clock, stack: SimpleNamespace) -> None:
    before = stack.supervisor.pid("returns-0")
    faults = Faults(stack, [fault(1, Kind.KILL, "returns-0")], print)
    for _ in range(200):
        tick(faults, clock, stack, for_s=0.2)
        if faults.over:
            break
        subprocess.run(["true"], check=True)  # real time passes for the process to end
    assert faults.over
    assert stack.supervisor.pid("returns-0") not in (None, before)
    assert faults.done == {Kind.KILL: 1}


def test_a_wiped_store_is_gone_before_the_successor_starts(clock: Clock, stack: SimpleNamespace) -> None:
    store = stack.store("returns-1")
    (store / "p0").mkdir(parents=True)
    faults = Faults(stack, [fault(1, Kind.WIPE, "returns-1")], print)
    before = stack.supervisor.pid("returns-1")
    clock.sleep = lambda _: subprocess.run(["true"], check=True)  # type: ignore[assignment]
    faults.tick()
    assert not store.exists()
    assert stack.supervisor.pid("returns-1") is None
    stack.supervisor.poll()
    stack.supervisor.poll()
    assert stack.supervisor.pid("returns-1") not in (None, before)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_frozen_instance_goes_on_after_its_time_and_when_the_run_is_healed(
    clock: Clock, stack: SimpleNamespace
) -> None:
    pid = stack.supervisor.pid("returns-0")
    faults = Faults(stack, [fault(1, Kind.FREEZE, "returns-0", lasts_s=5.0)], print)
    tick(faults, clock, stack, for_s=1.0)
    assert frozen(pid, soon=True)
    tick(faults, clock, stack, for_s=5.0)
    assert not frozen(pid, soon=False)
    assert faults.done == {Kind.FREEZE: 1}
    cut_short = Faults(stack, [fault(1, Kind.FREEZE, "returns-0", lasts_s=500.0)], print)
    tick(cut_short, clock, stack, for_s=1.0)
    cut_short.heal()
    assert not frozen(pid, soon=False)
    assert not cut_short.done, "what was cut short was not carried out"


def test_a_victim_is_never_shared_but_its_network_is_another_thing(
    clock: Clock, stack: SimpleNamespace
) -> None:
    said: list[str] = []
    schedule = [
        fault(1, Kind.FREEZE, "returns-0", lasts_s=5.0),
        fault(2, Kind.KILL, "returns-0"),
        fault(3, Kind.NETWORK_CUT, "returns-0", lasts_s=2.0),
        fault(4, Kind.NETWORK_DELAY, "returns-0", "returns-1", lasts_s=2.0, detail="70 ms"),
    ]
    faults = Faults(stack, schedule, said.append)
    tick(faults, clock, stack, for_s=1.0)
    assert [line.split()[1] for line in said] == ["1/4", "3/4"]
    tick(faults, clock, stack, for_s=3.0)
    assert [line.split()[1] for line in said] == ["1/4", "3/4", "4/4"]
    assert stack.proxy.done == [
        ("cut", "returns-0"),
        ("mend", "returns-0"),
        ("delay", "returns-0", 70, 35),
        ("delay", "returns-1", 70, 35),
    ]
    faults.heal()
    assert stack.proxy.done[-2:] == [("mend", "returns-0"), ("mend", "returns-1")]


def test_the_outside_is_hindered_and_relieved(
    clock: Clock, stack: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr(carrying, "write_json", lambda url, body: told.append((url, body)))
    schedule = [
        fault(1, Kind.ERP_OUTAGE, "erp", lasts_s=60.0),
        fault(2, Kind.SLOW, "wms", lasts_s=5.0, detail="1500 ms"),
        fault(3, Kind.LOST, "wms", at_s=6.0, lasts_s=5.0, detail="7"),
    ]
    tick(Faults(stack, schedule, print), clock, stack, for_s=70.0)
    assert told == [
        ("http://erp/faults", {"outage_s": 60.0}),
        ("http://wms/faults", {"slow_s": 1.5}),
        ("http://wms/faults", {"slow_s": 0}),
        ("http://wms/faults", {"lose_answer": 7}),
        ("http://wms/faults", {"lose_answer": 0}),
        ("http://erp/faults", {}),
    ]


class Kafka:
    """A broker that ends some looks after it was told to."""

    bootstrap_servers = "127.0.0.1:1"

    def __init__(self, *, stubborn: bool = False) -> None:
        self.signals: list[signal.Signals] = []
        self.launched = False
        self._stubborn = stubborn

    def signal(self, number: signal.Signals) -> None:
        self.signals.append(number)

    def ended(self) -> bool:
        return bool(self.signals) and not (self._stubborn and self.signals[-1] is signal.SIGTERM)

    def launch(self) -> None:
        self.launched = True


@pytest.mark.parametrize(
    ("kind", "stubborn", "signals"),
    [
        (Kind.BROKER_RESTART, False, [signal.SIGTERM]),
        (Kind.BROKER_KILL, False, [signal.SIGKILL]),
        (Kind.BROKER_RESTART, True, [signal.SIGTERM, signal.SIGKILL]),
    ],
)
def test_a_broker_is_stopped_and_started_and_the_fault_lasts_until_it_answers(
    clock: Clock,
    stack: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
    stubborn: bool,
    signals: list[signal.Signals],
) -> None:
    answering: list[bool] = []
    monkeypatch.setattr(carrying.broker, "answers", lambda *_, **__: bool(answering))
    stack.kafka = Kafka(stubborn=stubborn)
    faults = Faults(stack, [fault(1, kind, "broker", lasts_s=2.0)], print)
    tick(faults, clock, stack, for_s=40.0)
    assert stack.kafka.signals == signals
    assert stack.kafka.launched
    assert not faults.over
    answering.append(True)
    tick(faults, clock, stack, for_s=1.0)
    assert faults.done == {kind: 1}
