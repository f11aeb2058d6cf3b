"""A simulated world: six services with their instances, a broker, the outside and time, run by one schedule.

Nothing in it has a thread or a clock of its own. One round steps every part once, in an order drawn from the seed; when nothing
moves, time leaps to the next moment at which something will. A fault inside a step either ends the process there or holds it
while the world goes on, in rounds of its own, without it.
"""

from __future__ import annotations

import traceback
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from crossdock_canonical.specification import T0
from crossdock_channel_gateway.effects import OUTBOUND
from crossdock_erp_poster.service import service as erp_poster
from crossdock_erp_poster.settings import Settings as ErpSettings
from crossdock_eventing import names
from crossdock_eventing.broker.interface import TopicPartition, TopicSpec
from crossdock_eventing.broker.memory import MemoryBroker, Timeouts
from crossdock_eventing.clock import ManualClock
from crossdock_eventing.codec import Codec
from crossdock_eventing.envelope import record_key
from crossdock_eventing.limits import Limits
from crossdock_eventing.pace import Pace
from crossdock_eventing.registry import MemoryRegistry
from crossdock_eventing.replay_check import ReplayCheck
from crossdock_eventing.service import Service
from crossdock_eventing.task import OFFSETS_KEY
from crossdock_fulfillment_router.service import service as fulfillment_router
from crossdock_fulfillment_router.settings import Settings as RouterSettings
from crossdock_inventory_availability.service import service as inventory_availability
from crossdock_inventory_availability.settings import Settings as InventorySettings
from crossdock_order_orchestrator.service import service as order_orchestrator
from crossdock_order_orchestrator.settings import Settings as OrchestratorSettings
from crossdock_returns.service import service as returns
from crossdock_returns.settings import Settings as ReturnsSettings
from crossdock_settlement_reconciler.service import service as settlement_reconciler
from crossdock_settlement_reconciler.settings import Settings as SettlementSettings
from crossdock_simulation.erp import Fate, Mishap, Sent, SimulatedErpPort, SimulatedErps
from crossdock_simulation.faults import SERVICES, Fault
from crossdock_simulation.gate import Call, Gate, Moment
from crossdock_simulation.gateway import Delivery, Edge, Gateway
from crossdock_simulation.instance import Instance
from crossdock_simulation.operator import Operator
from crossdock_simulation.outside import Channels, Provider, Warehouse
from crossdock_simulation.sabotage import strike
from crossdock_simulation.schedule import Schedule
from crossdock_simulation.workload import workload
from crossdock_tools.audit.auditor import Auditor
from crossdock_tools.audit.books import Books
from crossdock_tools.audit.evidence import BEHIND, Evidence
from crossdock_tools.audit.parking import unparked
from crossdock_tools.audit.report import Check, Report
from crossdock_tools.replaying.identity import verdict
from crossdock_tools.schemas.contracts import Repository
from crossdock_tools.topics import group_inputs, topic_specs

_CATALOGUE = Path(__file__).parents[3] / "schemas"
_TIMEOUTS = Timeouts(session_timeout_ms=12_000, max_poll_interval_ms=60_000, transaction_timeout_ms=10_000)
_DAY_S = 86_400.0
#: Rounds in which nothing moves before time leaps: one in which a rebalance ends, one in which its tasks are read.
_QUIET_ROUNDS = 2
_ROUNDS_MAX = 20_000


class Unsettled(Exception):
    """The world does not come to rest: somebody works without end, or waits for what never comes."""


@dataclass(slots=True)
class Outcome:
    """What became of a schedule. `failure` is None when every check held.

    faults: those that struck, by kind. records: committed records on all topics of the catalogue, changelogs and journals.
    """

    failure: str | None
    faults: Counter[str]
    orders: int
    rounds: int
    report: Report | None = None
    trace: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Stock:
    """What all worlds of a process share: contracts, parsed schemas, services. Nothing in it changes with a run."""

    catalogue: Repository
    registry: MemoryRegistry
    edge: Edge
    decoder: Codec
    auditor: Auditor
    replay: ReplayCheck
    services: Mapping[str, Service]
    erp_settings: ErpSettings
    topics: tuple[TopicSpec, ...]
    inputs: Mapping[str, tuple[str, ...]]


@cache
def stock() -> Stock:
    """The one of this process."""
    catalogue = Repository(_CATALOGUE)
    registry = MemoryRegistry()
    # The session is 12 s: nothing may be posted so long after a commit that another owner may have begun.
    erp_settings = ErpSettings(answer_timeout_s=3, post_within_s=5)
    services = (
        order_orchestrator(OrchestratorSettings(backorder_channels=frozenset({"shopify"}))),
        inventory_availability(InventorySettings()),
        # Every ten minutes for three days would be most of what happens in a world short of stock.
        fulfillment_router(RouterSettings(retry_max_s=6 * 3600)),
        returns(ReturnsSettings()),
        settlement_reconciler(SettlementSettings()),
        erp_poster(erp_settings),
    )
    return Stock(
        catalogue=catalogue,
        registry=registry,
        edge=Edge(registry),
        decoder=Codec(registry, written=(), read=OUTBOUND),
        auditor=Auditor(catalogue, registry),
        replay=ReplayCheck(registry, services),
        services={each.name: each for each in services},
        erp_settings=erp_settings,
        topics=tuple(topic_specs(catalogue, 1)),
        inputs={
            service: tuple(topic.name for topic in topics)
            for service, topics in group_inputs(catalogue).items()
        },
    )


class World:
    """One run of one schedule: `World(schedule).run()`.

    services: other deciders than production's, by name, for the tests of the tests. trace: keep a readable history.
    """

    def __init__(
        self, schedule: Schedule, *, services: Mapping[str, Service] | None = None, trace: bool = False
    ) -> None:
        self._schedule = schedule
        self._shared = stock()
        self._chance = Random(f"{schedule.seed}/interleaving")
        self.trace: list[str] | None = [] if trace else None
        self.faults: Counter[str] = Counter()
        self.rounds = 0
        self.clock = ManualClock(T0)
        self.broker = MemoryBroker(self.clock.now_ms, timeouts=_TIMEOUTS)
        self._provision()
        self._traps: dict[tuple[str, Call, Moment], dict[int, list[Fault]]] = {}
        for fault in schedule.faults:
            place = (fault.service, fault.call, fault.moment)
            self._traps.setdefault(place, {}).setdefault(fault.nth, []).append(fault)
        self._calls: Counter[tuple[str, Call, Moment]] = Counter()
        self._endings: list[tuple[float, Callable[[], None]]] = []
        self._leap_s = 0.0

        self._make_outside()
        self._services = {**self._shared.services, **(services or {})}
        self.instances: list[Instance] = []
        for name in SERVICES:
            for _ in range(schedule.instances):
                self.add_instance(name)

    # ---- the run

    def run(self) -> Outcome:
        """Play the schedule to its end and judge it. A defect is an outcome, not an exception."""
        try:
            self._play()
            report = self._judge()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the schedule found
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno} {where.name}"
            return self._outcome(f"{type(error).__name__} at {place}: {error}", None)
        return self._outcome("; ".join(report.violations[:5]) or None, report)

    def _outcome(self, failure: str | None, report: Report | None) -> Outcome:
        return Outcome(failure, self.faults, len(self.work.orders), self.rounds, report, self.trace or [])

    def _play(self) -> None:
        self._settle(until_s=0.0)
        last_s = max((item.at_s for item in self.work.items), default=0.0)
        for item in self.work.items:
            if item.number in self._schedule.left_out:
                continue
            delivery = Delivery(
                id=item.delivery,
                label=item.label,
                records=item.records,
                occurred_at=item.occurred_at,
                raw=item.raw,
            )
            self.gateway.arrive(item.at_s, delivery)
        self._settle(until_s=last_s + self._schedule.horizon_days * _DAY_S)

    def _settle(self, *, until_s: float) -> None:
        """Go on until nothing moves, nothing is under way and no timer is due before `until_s`."""
        quiet = 0
        while True:
            quiet = 0 if self._round() else quiet + 1
            if quiet < _QUIET_ROUNDS:
                continue
            quiet = 0
            work_s, timer_s = self._work_s(), self._timer_s()
            if work_s is None and (timer_s is None or timer_s > until_s):
                return
            self._leap(min(at_s for at_s in (work_s, timer_s) if at_s is not None))

    def meanwhile(self, held: Instance, seconds: float) -> None:
        """One process is in the midst of a step while the world goes on for so long without it."""
        end_s = self.clock.monotonic_s() + seconds
        held.frozen += 1
        quiet = 0
        while self.clock.monotonic_s() < end_s:
            quiet = 0 if self._round() else quiet + 1
            if quiet >= _QUIET_ROUNDS:
                moments = (end_s, self._work_s(), self._timer_s())
                self._leap(min(at_s for at_s in moments if at_s is not None))
        held.frozen -= 1

    def _round(self) -> bool:
        """Step every part once, in any order; whether anything moved."""
        self.rounds += 1
        if self.rounds > _ROUNDS_MAX:
            raise Unsettled(f"still moving after {_ROUNDS_MAX} rounds")
        parts: list[Callable[[], Any]] = [each.step for each in self.instances if not each.frozen]
        parts += [self.gateway.step, self.warehouse.work, self.erps.work, self.operator.step]
        self._chance.shuffle(parts)
        moved = self._end_faults()
        for part in parts:
            if part():
                moved = True
                self.clock.advance(0.001)
        self.clock.advance(0.001)
        if self._chance.random() < 0.3:
            self.gateway.commit()
        if self._leap_s:
            leap_s, self._leap_s = self._leap_s, 0.0
            self.clock.advance(leap_s)
        return moved

    def _work_s(self) -> float | None:
        """When something that is under way goes on by itself."""
        now_s = self.clock.monotonic_s()
        moments = [self.warehouse.next_s(), self.erps.next_s(), *(at_s for at_s, _ in self._endings)]
        if not self.broker.faults.away:
            moments.append(self.gateway.next_s())
            moments.append(self.operator.next_s())
        owned: Counter[str] = Counter()
        held, waiting = set(), set()
        for each in self.instances:
            if each.frozen:
                held.add(each.service.name)
                continue
            owned[each.service.name] += len(each.partitions)
            if each.worker is not None:
                waiting.add(each.service.name)
            moments.append(each.port_next_s())
            if each.worker is None and each.wanted:
                moments.append(each.restart_at_s)
        # Somebody's session has to run out first, unless nobody is there to take over from who stands still.
        if any(
            owned[name] < self._schedule.partitions
            for name in SERVICES
            if name in waiting or name not in held
        ):
            moments.append(now_s + 1.0)
        return min((max(at_s, now_s + 0.001) for at_s in moments if at_s is not None), default=None)

    def _timer_s(self) -> float | None:
        """When the next timer is due, a held partition goes on, or what was read is committed."""
        due = (
            each.worker.due_in_s() for each in self.instances if each.worker is not None and not each.frozen
        )
        soonest = min((seconds for seconds in due if seconds is not None), default=None)
        return None if soonest is None else self.clock.monotonic_s() + max(soonest, 0.001)

    def _leap(self, to_s: float) -> None:
        """Nothing happens until then; the living poll and heartbeat all the while."""
        self.clock.advance(max(0.0, to_s - self.clock.monotonic_s()))
        self.broker.faults.keep_alive()

    # ---- what it is made of

    def _provision(self) -> None:
        admin = self.broker.admin()
        admin.create_topics(
            [replace(spec, partitions=self._schedule.partitions) for spec in self._shared.topics]
        )
        for service, topics in self._shared.inputs.items():
            starts = {
                TopicPartition(topic, n): 0
                for topic in (*topics, names.retry_topic(service))
                for n in range(self._schedule.partitions)
            }
            admin.initialise_group(names.group(service), starts)

    def _make_outside(self) -> None:
        seed = self._schedule.seed
        self.work = workload(seed)
        self.gateway = Gateway(self.broker, self._shared.edge, self._shared.decoder, self.clock, self.say)
        self.warehouse = Warehouse(seed, self.clock.now, self.clock.monotonic_s, self.gateway.report)
        self.provider = Provider(seed, self.clock.now, self.gateway.report)
        self.erps = SimulatedErps(self.clock.monotonic_s, fate=self._fate)
        self.erp_mishaps: deque[Mishap] = deque()
        self.erp_slow_s = 0.0
        self.channels = Channels(self.clock.now, self.gateway.report)
        self.operator = Operator(seed, self.broker, SERVICES, self.clock, self.say)
        self.gateway.systems = {"wms": self.warehouse, "psp": self.provider, "channels": self.channels}
        self.gateway.arrive(0.0, Delivery(id="setup", label="master data", records=self.work.setup))

    def instances_of(self, service: str) -> list[Instance]:
        """Those that its supervisor keeps running."""
        return [each for each in self.instances if each.service.name == service and each.wanted]

    def remove_instance(self, service: str) -> None:
        """Scale in, unless only one is left."""
        running = self.instances_of(service)
        if len(running) > 1:
            running[-1].stop(for_good=True)

    def add_instance(self, name: str, *, twin_of: Instance | None = None) -> Instance:
        """Scale out, or start a second process with the identity of another."""
        known = [each.ordinal for each in self.instances if each.service.name == name]
        ordinal = max(known, default=-1) + 1 if twin_of is None else twin_of.ordinal
        made: Instance | None = None

        def watch(call: Call, moment: Moment) -> None:
            assert made is not None
            self._watch(made, call, moment)

        def wait(seconds: float) -> None:
            assert made is not None
            self.meanwhile(made, seconds)

        made = Instance(
            self._services[name],
            ordinal,
            broker=self.broker,
            registry=self._shared.registry,
            clock=self.clock,
            gate=Gate(watch, wait),
            pace=Pace(batch_max=self._schedule.batch_max, commit_interval_s=self._schedule.commit_interval_s),
            limits=Limits(
                parked_messages_max=self._schedule.parked_max, released_max=self._schedule.released_max
            ),
            open_port=self._open_erp_port if name == "erp-poster" else None,
            say=self.say,
            is_twin=twin_of is not None,
        )
        self.instances.append(made)
        return made

    def _open_erp_port(self) -> SimulatedErpPort:
        return SimulatedErpPort(self.erps, self._shared.erp_settings)

    def _fate(self, sent: Sent) -> Fate:
        """What becomes of a request to the ERP: the next mishap that a fault has ordered."""
        mishap = self.erp_mishaps.popleft() if self.erp_mishaps else None
        return Fate(mishap, work_after_s=self.erp_slow_s, retry_after_s=2.0)

    def say(self, text: str) -> None:
        """A line of the history."""
        if self.trace is not None:
            self.trace.append(f"{self.clock.monotonic_s():12.3f} {text}")

    # ---- faults

    def _watch(self, instance: Instance, call: Call, moment: Moment) -> None:
        """A process makes a call: strike if a fault waits for this one."""
        place = (instance.service.name, call, moment)
        traps = self._traps.get(place)
        if traps is None:
            return
        self._calls[place] += 1
        for fault in traps.pop(self._calls[place], ()):
            self.say(f"FAULT {fault} ({instance.name})")
            self.faults[fault.kind] += 1
            strike(self, instance, fault)

    def later(self, seconds: float, end: Callable[[], None]) -> None:
        """Do something when so much time has passed."""
        self._endings.append((self.clock.monotonic_s() + seconds, end))

    def leap_after_round(self, seconds: float) -> None:
        """All clocks leap, once nobody is in the midst of anything."""
        self._leap_s += seconds

    def erp_slow_no_more(self) -> None:
        """The ERP answers at once again."""
        self.erp_slow_s = 0.0

    def _end_faults(self) -> bool:
        now_s = self.clock.monotonic_s()
        due = [end for at_s, end in self._endings if at_s <= now_s]
        if due:
            self._endings = [each for each in self._endings if each[0] > now_s]
        for end in due:
            end()
        return bool(due)

    # ---- the verdict

    def _judge(self) -> Report:
        """Audit topics and books; the stores on disk must be what the changelogs say."""
        books = Books(
            warehouse=self.warehouse.books(),
            payments=self.provider.books(),
            erps=self.erps.books(),
            channels=self.channels.books(),
        )
        auditor = self._shared.auditor
        evidence = auditor.read(self.broker)
        supplied = [
            self._stores_match(),
            self._only_mistakes_given_up(evidence),
            unparked(evidence, books),
        ]
        if self._schedule.replays:
            supplied.append(self._replays_alike())
        return auditor.judge(evidence, books, expect_drained=True, supplied=supplied)

    def _only_mistakes_given_up(self, evidence: Evidence) -> Check:
        """What a service dead-lettered is what the workload says may be, under the code that it says."""
        mistakes = {
            (key.decode(), item.rejected_as)
            for item in self.work.items
            for key in (
                *(record_key(record).encode() for record in item.records),
                *(raw.key for raw in item.raw),
            )
            if item.rejected_as
        }
        violations = [
            f"{letter.service} gave up {letter.original} as {letter.letter.code}: {letter.letter.message}"
            for letter in evidence.letters
            if letter.letter.code != BEHIND
            and ((letter.record.key or b"").decode(), letter.letter.code) not in mistakes
        ]
        name = "only what its sender got wrong is given up"
        return Check(1, name, len(evidence.letters), tuple(violations))

    def _replays_alike(self) -> Check:
        """Replaying the journals gives the events on the topics and the states in the changelogs, and nothing more."""
        check = self._shared.replay
        if self._services != self._shared.services:
            check = ReplayCheck(self._shared.registry, self._services.values())
        return verdict(check.check(self.broker), whole=True)

    def _stores_match(self) -> Check:
        """A store holds exactly the last value of every key of its changelog partition."""
        checked, violations = 0, []
        for instance in self.instances:
            for number, store in instance.contents().items():
                partition = TopicPartition(names.changelog_topic(instance.service.name), number)
                reader = self.broker.reader()
                reader.assign({partition: reader.watermarks(partition).low})
                logged: dict[bytes, bytes] = {}
                for record in reader.poll(1_000_000, 0.0):
                    if record.key is None or record.key == OFFSETS_KEY.encode():
                        continue
                    if record.value is None:
                        logged.pop(record.key, None)
                    else:
                        logged[record.key] = record.value
                stored = {
                    key[1:]: value
                    for first, last in ((b"s", b"t"), (b"o", b"p"))
                    for key, value in store.scan(first, last)
                }
                checked += len(logged)
                differing = sorted(
                    key for key in logged.keys() | stored.keys() if logged.get(key) != stored.get(key)
                )
                violations += [f"{instance.name} partition {number}: {key.decode()}" for key in differing]
        return Check(6, "local stores equal their changelogs", checked, tuple(violations))
