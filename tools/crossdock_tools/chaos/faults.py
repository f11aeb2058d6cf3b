"""Carries out the faults of a schedule, several at a time, and heals them when their time is over or the run ends.

Each fault is a generator that yields the seconds until it wants to go on; `Faults.tick`, called from the run's loop, resumes what
is due. Nothing here blocks for long, and nothing sleeps: the supervisor has to be polled meanwhile.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass

from crossdock_local import broker, processes
from crossdock_tools.chaos.schedule import Fault, Kind
from crossdock_tools.chaos.stack import Stack
from crossdock_tools.demo.client import write_json

Course = Generator[float, None, None]

_LOOK_S = 0.1
_ROLLED_WITHIN_S = 45.0
_BROKER_STOPS_WITHIN_S = 30.0
_GONE_WITHIN_S = 5.0


@dataclass
class _Running:
    fault: Fault
    course: Course
    resume_at: float


class Faults:
    """The faults of one run. Call `tick` often; `heal` at the end, however the run ends.

    done: how many were carried out, by kind.
    """

    def __init__(self, stack: Stack, schedule: Iterable[Fault], say: Callable[[str], None]) -> None:
        self.done: Counter[Kind] = Counter()
        self._stack = stack
        self._waiting = deque(schedule)
        self._planned = len(self._waiting)
        self._running: list[_Running] = []
        self._say = say
        self._started = time.monotonic()

    @property
    def over(self) -> bool:
        """Nothing is planned or under way any more."""
        return not self._waiting and not self._running

    def tick(self) -> None:
        """Begin what is due and whose victims no other fault holds; go on with what is under way."""
        now = time.monotonic()
        held = {victim for each in self._running for victim in _held(each.fault)}
        for fault in list(self._waiting):
            if fault.at_s > now - self._started:
                break
            victims = set(_held(fault))
            if held & victims:
                continue
            held |= victims
            self._waiting.remove(fault)
            self._say(f"fault {fault.number}/{self._planned}  {fault}")
            self._running.append(_Running(fault, self._course(fault), now))
        for each in list(self._running):
            if each.resume_at > now:
                continue
            try:
                each.resume_at = time.monotonic() + next(each.course)
            except StopIteration:
                self._running.remove(each)
                self.done[each.fault.kind] += 1

    def heal(self) -> None:
        """End what is under way and undo it."""
        for each in self._running:
            each.course.close()
        self._running.clear()

    def _course(self, fault: Fault) -> Course:
        match fault.kind:
            case Kind.KILL | Kind.KILL_GATEWAY:
                yield from self._kill(fault.targets[0])
            case Kind.WIPE:
                yield from self._wipe(fault.targets[0])
            case Kind.FREEZE | Kind.FREEZE_GATEWAY:
                yield from self._freeze(fault.targets[0], fault.lasts_s)
            case Kind.ROLL:
                yield from self._roll(fault.targets)
            case Kind.BROKER_RESTART:
                yield from self._restart_broker(signal.SIGTERM, fault.lasts_s)
            case Kind.BROKER_KILL:
                yield from self._restart_broker(signal.SIGKILL, fault.lasts_s)
            case Kind.NETWORK_DELAY | Kind.NETWORK_CUT | Kind.NETWORK_STALL:
                yield from self._disturb(fault)
            case Kind.ERP_OUTAGE | Kind.SLOW | Kind.LOST:
                yield from self._hinder(fault)

    def _kill(self, name: str) -> Course:
        pid = yield from self._running_pid(name)
        os.kill(pid, signal.SIGKILL)
        yield from self._until_gone(name, pid)

    def _wipe(self, name: str) -> Course:
        pid = yield from self._running_pid(name)
        os.kill(pid, signal.SIGKILL)
        # Not given back to the loop, whose supervisor would start the successor on the old store.
        deadline = time.monotonic() + _GONE_WITHIN_S
        while self._stack.supervisor.pid(name) == pid and time.monotonic() < deadline:
            time.sleep(0.01)
        shutil.rmtree(self._stack.store(name))

    def _freeze(self, name: str, lasts_s: float) -> Course:
        pid = yield from self._running_pid(name)
        mark = processes.start_mark(pid)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield lasts_s
        finally:
            # Another fault may have ended it meanwhile, and the system given the number to somebody else.
            if mark is not None and processes.start_mark(pid) == mark:
                os.kill(pid, signal.SIGCONT)

    def _roll(self, instances: tuple[str, ...]) -> Course:
        supervisor = self._stack.supervisor
        for name in instances:
            pid = yield from self._running_pid(name)
            os.kill(pid, signal.SIGTERM)
            yield from self._until_gone(name, pid)
            deadline = time.monotonic() + _ROLLED_WITHIN_S
            while not supervisor.healthy(name) and time.monotonic() < deadline:
                yield _LOOK_S

    def _restart_broker(self, number: signal.Signals, away_s: float) -> Course:
        kafka = self._stack.kafka
        kafka.signal(number)
        deadline = time.monotonic() + _BROKER_STOPS_WITHIN_S
        while not kafka.ended():
            if time.monotonic() > deadline:
                kafka.signal(signal.SIGKILL)
            yield _LOOK_S
        yield away_s
        kafka.launch()
        while not broker.answers(kafka.bootstrap_servers, timeout_s=0.5):
            yield _LOOK_S

    def _disturb(self, fault: Fault) -> Course:
        proxy = self._stack.proxy
        try:
            for route in fault.targets:
                if fault.kind is Kind.NETWORK_DELAY:
                    latency_ms = int(fault.detail.split()[0])
                    proxy.delay(route, latency_ms=latency_ms, jitter_ms=latency_ms // 2)
                elif fault.kind is Kind.NETWORK_CUT:
                    proxy.cut(route)
                else:
                    proxy.stall(route, "upstream" if fault.detail == "upstream" else "downstream")
            yield fault.lasts_s
        finally:
            for route in fault.targets:
                proxy.mend(route)

    def _hinder(self, fault: Fault) -> Course:
        """A simulated system is away, slow, or loses its answers."""
        [system] = fault.targets
        url = f"{self._stack.simulator_urls[system]}/faults"
        harm, remedy = _harm(fault)
        write_json(url, harm)
        try:
            yield fault.lasts_s
        finally:
            write_json(url, remedy)

    def _running_pid(self, name: str) -> Generator[float, None, int]:
        """The process, once it runs."""
        while (pid := self._stack.supervisor.pid(name)) is None:
            yield _LOOK_S
        return pid

    def _until_gone(self, name: str, pid: int) -> Course:
        """Until the process has ended and its successor runs."""
        while self._stack.supervisor.pid(name) in (None, pid):
            yield _LOOK_S


def _held(fault: Fault) -> tuple[str, ...]:
    """What nobody else may touch meanwhile. A network path and the process at its end are different things."""
    network = fault.kind in (Kind.NETWORK_DELAY, Kind.NETWORK_CUT, Kind.NETWORK_STALL)
    return tuple(f"network of {each}" for each in fault.targets) if network else fault.targets


def _harm(fault: Fault) -> tuple[dict[str, object], dict[str, object]]:
    """What a simulated system is told to do, and how it is told to stop."""
    erp = fault.targets == ("erp",)
    match fault.kind:
        case Kind.ERP_OUTAGE:
            return {"outage_s": fault.lasts_s}, {}
        case Kind.SLOW:
            slow_ms = int(fault.detail.split()[0])
            return ({"latency_ms": slow_ms}, {}) if erp else ({"slow_s": slow_ms / 1000}, {"slow_s": 0})
        case _:
            return (
                ({"lose_answer_every": 3}, {})
                if erp
                else ({"lose_answer": int(fault.detail)}, {"lose_answer": 0})
            )
