"""One instance of a service in the simulated world: a place for a process, its disks, and a supervisor that starts it again.

The worker in it is the production one. `world` steps instances and tells them when to die, stand still or stop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from math import inf
from typing import Protocol

from crossdock_eventing import names
from crossdock_eventing.broker.failure import BrokerUnavailable, Fenced
from crossdock_eventing.broker.memory import MemoryBroker
from crossdock_eventing.clock import Clock
from crossdock_eventing.keyvalue import KeyValue
from crossdock_eventing.limits import Limits
from crossdock_eventing.pace import Pace
from crossdock_eventing.registry import SchemaSource
from crossdock_eventing.service import Port, Service
from crossdock_eventing.worker import Worker
from crossdock_simulation.disk import Disk, SimulatedStore
from crossdock_simulation.gate import Died, Gate, GatedBroker

_BACKOFF_S = 2.0
#: What ends a process in production, to be started again by its supervisor; anything else is a defect.
_EXITS = (Fenced, BrokerUnavailable)


class SimulatedPort(Port, Protocol):
    """A service's way to the outside, as a process has it."""

    def next_s(self) -> float | None:
        """When it goes on by itself."""

    def crash(self) -> None:
        """The process died: nobody waits for its answers, and what it sent may still arrive."""


class InstanceClock:
    """The clock of one machine: the world's, off by `skew_s`."""

    def __init__(self, world: Clock) -> None:
        self._world = world
        self.skew_s = 0.0

    def now(self) -> datetime:
        return self._world.now() + timedelta(seconds=self.skew_s) if self.skew_s else self._world.now()

    def monotonic_s(self) -> float:
        return self._world.monotonic_s()


class Instance:
    """`name` is for traces: service, ordinal, and whether it is a twin of another process with the same identity.

    wanted: the supervisor keeps it running. frozen: how many calls of its process block or were stopped, one inside another.
    restart_at_s: when a process starts again.
    """

    def __init__(
        self,
        service: Service,
        ordinal: int,
        *,
        broker: MemoryBroker,
        registry: SchemaSource,
        clock: Clock,
        gate: Gate,
        pace: Pace,
        open_port: Callable[[], SimulatedPort] | None,
        say: Callable[[str], None],
        is_twin: bool = False,
        limits: Limits | None = None,
    ) -> None:
        self.service = service
        self.ordinal = ordinal
        self.name = f"{service.name}-{ordinal}{' twin' if is_twin else ''}"
        self.clock = InstanceClock(clock)
        self.wanted = True
        self._is_twin = is_twin
        self.frozen = 0
        self.stopping = False
        self.restart_at_s = 0.0
        self.restarts = 0
        self.worker: Worker | None = None
        self._broker, self._registry, self._gate, self._pace = broker, registry, gate, pace
        self._open_port = open_port
        self._limits = limits
        self._port: SimulatedPort | None = None
        self._gated: GatedBroker | None = None
        self._disks: dict[int, Disk] = {}
        self._say = say
        self._readable = broker.readable(
            {kind.TOPIC for kind in (*service.inputs, *service.tables.values())}
            | {names.retry_topic(service.name)}
        )
        self._awake = True
        self._wakes_s = 0.0
        self._seen = 0

    @property
    def partitions(self) -> frozenset[int]:
        """Partitions that its process works on."""
        return frozenset() if self.worker is None else self.worker.partitions

    def step(self) -> bool:
        """Start the process if it is time, or step it; whether anything moved.

        Raises whatever is no anticipated end of a process.
        """
        if self._sleeps():
            return False
        self._gate.stirred = False
        moved = bool(self._step()) or self._gate.stirred
        # While no broker answers, nothing found means nothing.
        self._awake = moved or self.worker is None or self._broker.faults.away
        if not self._awake:
            self._lie_down()
        return moved

    def wake(self) -> None:
        """Something about it changed that it cannot see: step it again."""
        self._awake = True

    def _lie_down(self) -> None:
        """Its step found nothing to do: until its inputs grow or time brings something, neither will another."""
        assert self.worker is not None
        due_s = self.worker.due_in_s()
        moments = [None if due_s is None else self.clock.monotonic_s() + due_s, self.port_next_s()]
        self._wakes_s = min((at_s for at_s in moments if at_s is not None), default=inf)
        self._seen = self._readable()

    def _sleeps(self) -> bool:
        if self._awake or self.stopping or self.clock.monotonic_s() >= self._wakes_s:
            return False
        assert self._gated is not None
        return self._readable() == self._seen and all(each.at_rest for each in self._gated.consumers)

    def _step(self) -> int:
        try:
            if self.worker is None:
                if not self.wanted or self.clock.monotonic_s() < self.restart_at_s:
                    return 0
                self._start()
                return 1
            if self.stopping:
                self._say(f"{self.name} stops")
                self.stopping = False
                self._close()
                return 1
            return self.worker.step(wait=False)
        except Died:
            self._kill()
            return 1
        except _EXITS as ended:
            self._say(f"{self.name} exits: {type(ended).__name__} {ended}")
            self._close()
            self.restart_at_s = self.clock.monotonic_s() + _BACKOFF_S
            return 1

    def port_next_s(self) -> float | None:
        """When its port goes on by itself."""
        return None if self._port is None else self._port.next_s()

    def stop(self, *, for_good: bool) -> None:
        """SIGTERM: it ends at its next step; unless for good it is started again."""
        self.stopping = self.worker is not None
        self.wanted = not for_good

    def die(self, *, restart_in_s: float) -> Died:
        """What to raise in the midst of its step to end the process there."""
        self.restart_at_s = self.clock.monotonic_s() + restart_in_s
        return Died()

    def die_at_the_answer(self, *, restart_in_s: float) -> None:
        """The process ends while it waits for the answer to its commit."""
        self._gate.doom = self.die(restart_in_s=restart_in_s)

    def fall_silent(self) -> None:
        """Its heartbeats end: it stands still, or is no more."""
        self.wake()
        for consumer in self._gated.consumers if self._gated is not None else ():
            consumer.vanish()

    def expel(self) -> None:
        """The coordinator drops it from the group, and it does not know yet."""
        for consumer in self._gated.consumers if self._gated is not None else ():
            consumer.expel()

    def lose_disks(self, batches: int | None) -> None:
        """Lose the last batches of every store; None: all of them."""
        for disk in self._disks.values():
            disk.delete() if batches is None else disk.lose(batches)

    def contents(self) -> dict[int, SimulatedStore]:
        """Its stores as they lie on disk, of the partitions it works on."""
        silent = Gate(lambda _call, _moment: None, lambda _seconds: None)
        return {number: SimulatedStore(self._disks[number], silent) for number in self.partitions}

    def _start(self) -> None:
        self._say(f"{self.name} starts")
        self.wanted = not self._is_twin  # two twins that are kept alive would fence each other for ever
        self.restarts += 1
        self._gated = GatedBroker(self._broker, self._gate)
        service = self.service
        if self._open_port is not None:
            self._port = self._open_port()
            service = replace(service, port=self._port)
        self.worker = Worker(
            service,
            broker=self._gated,
            registry=self._registry,
            clock=self.clock,
            open_store=self._open_store,
            ordinal=self.ordinal,
            pace=self._pace,
            limits=self._limits,
        )

    def _open_store(self, partition: int) -> KeyValue:
        return SimulatedStore(self._disks.setdefault(partition, Disk()), self._gate)

    def _close(self) -> None:
        """The process ends by itself, which closes its clients; the order in `process.run`."""
        worker, self.worker = self.worker, None
        self._port = None
        if worker is not None:
            try:
                worker.close()
            except (*_EXITS, Died):
                self.fall_silent()

    def _kill(self) -> None:
        self._say(f"{self.name} dies")
        self._gate.doom = None
        self.fall_silent()
        self.worker = None
        if self._port is not None:
            self._port.crash()
            self._port = None
