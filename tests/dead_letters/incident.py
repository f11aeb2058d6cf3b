"""Six services in memory, one of them with a bug that an operator recovers from: what the proof of replay is played on.

Deciders, shells, the ERP's lanes and the operator's tool are the production ones. Processes are killed where a test says, by the
call to broker or disk at which they die; so is the tool. Time is simulated.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from feeds import CODE, STRUCK, Feed, faulty

from crossdock_canonical.records import LocationDefined, LocationKind, StockMoved
from crossdock_canonical.specification import T0
from crossdock_erp_poster.settings import Settings as ErpSettings
from crossdock_eventing import names
from crossdock_eventing.broker.interface import Broker
from crossdock_eventing.broker.memory import MemoryBroker, Timeouts
from crossdock_eventing.clock import ManualClock
from crossdock_eventing.deadletter import outline
from crossdock_eventing.limits import Limits
from crossdock_eventing.pace import Pace
from crossdock_eventing.registry import MemoryRegistry
from crossdock_eventing.replay_check import ReplayCheck, reading_codec, stored_states
from crossdock_simulation.backbone import REPOSITORY
from crossdock_simulation.erp import SimulatedErpPort, SimulatedErps
from crossdock_simulation.gate import Call, Died, Gate, GatedBroker, Moment
from crossdock_simulation.instance import Instance
from crossdock_tools.audit.auditor import Auditor
from crossdock_tools.audit.books import Books
from crossdock_tools.audit.report import Report
from crossdock_tools.dead_letters.changelog import read_changelog
from crossdock_tools.dead_letters.criteria import Criteria
from crossdock_tools.dead_letters.payloads import Payloads
from crossdock_tools.dead_letters.plan import Plan, new_plan
from crossdock_tools.dead_letters.planning import Wish, items_for
from crossdock_tools.dead_letters.running import Pace as RunPace
from crossdock_tools.dead_letters.running import Run, carry_out
from crossdock_tools.demo.stack import SERVICES
from crossdock_tools.replaying.identity import verdict
from crossdock_tools.replaying.services import load
from crossdock_tools.topic_reader import TopicReader
from crossdock_tools.topics import apply_catalogue

#: Where a process dies: a call to broker or disk, before or after it is made.
Place = tuple[Call, Moment]

SERVICE_GATES: tuple[Place, ...] = (
    ("poll", "after"),
    ("begin", "after"),
    ("produce", "after"),
    ("send_offsets", "before"),
    ("send_offsets", "after"),
    ("commit", "before"),
    ("commit", "after"),
    ("write", "before"),
    ("write", "after"),
)
TOOL_GATES: tuple[Place, ...] = (
    ("init", "after"),
    ("read", "after"),
    ("begin", "after"),
    ("produce", "after"),
    ("commit", "before"),
    ("commit", "after"),
)

#: A session lasts 12 s: nothing may be posted so long after a commit that another owner may have begun.
_ERP_SETTINGS = ErpSettings(answer_timeout_s=3, post_within_s=5, requests_per_s=1000, batch_max=50)
_TIMEOUTS = Timeouts(session_timeout_ms=12_000, max_poll_interval_ms=600_000)
_RESTART_S = 0.5
_QUIET_S = 30


class Trap:
    """Kills a process again and again: each time at a call, the n-th time that it is made from the last death on."""

    def __init__(self) -> None:
        self._deaths: deque[tuple[Place, int]] = deque()
        self._calls = 0
        self.struck = 0

    def set(self, deaths: Iterable[tuple[Place, int]]) -> None:
        self._deaths = deque(deaths)
        self._calls = 0

    @property
    def left(self) -> int:
        """Deaths that have not come."""
        return len(self._deaths)

    def springs(self, call: Call, moment: Moment) -> bool:
        if not self._deaths or self._deaths[0][0] != (call, moment):
            return False
        self._calls += 1
        if self._calls < self._deaths[0][1]:
            return False
        self._deaths.popleft()
        self._calls = 0
        self.struck += 1
        return True


class Incident:
    """The services at work. spent_s: processor time that each of them took.

    bug: what the release in production refuses. trap: kills the service that has it. tool_trap: kills the operator's tool.
    """

    def __init__(self, *, limits: Limits | None = None) -> None:
        self.clock = ManualClock(T0)
        self.broker = MemoryBroker(self.clock.now_ms, timeouts=_TIMEOUTS)
        self.registry = MemoryRegistry()
        self.bug: Callable[[Any], bool] | None = None
        self.trap = Trap()
        self.tool_trap = Trap()
        apply_catalogue(REPOSITORY, self.broker.admin())
        self.spent_s: defaultdict[str, float] = defaultdict(float)
        self.erps = SimulatedErps(self.clock.monotonic_s)
        self.services = {name: load(name, {}) for name in SERVICES}
        self._instances = [self._instance(name, limits) for name in SERVICES]
        self.send = Feed(self.broker, self.registry, self.clock).send
        self.send([LocationDefined(location="WH", kind=LocationKind.WAREHOUSE)])
        self.run()

    # ---- the world

    def run(self) -> None:
        """Go on until nothing has moved for a while, long enough for a dead process's session to end."""
        quiet_s = 0
        while quiet_s < _QUIET_S:
            if self.step():
                quiet_s = 0
                continue
            quiet_s += 1
            self.clock.advance(1.0)
            self.broker.faults.keep_alive()

    def step(self) -> bool:
        """Step every part once; whether anything moved."""
        moved = False
        for each in self._instances:
            started_s = time.process_time()
            moved = each.step() or moved
            self.spent_s[each.service.name] += time.process_time() - started_s
        moved = self.erps.work() or moved
        self.clock.advance(0.001)
        return moved

    def deploy(self, *, bug: Callable[[Any], bool] | None) -> None:
        """Another version of the service, with this bug or none: it is stopped and started."""
        self.bug = bug
        self.struck.stop(for_good=False)
        self.run()

    @property
    def struck(self) -> Instance:
        return next(each for each in self._instances if each.service.name == STRUCK)

    def _instance(self, name: str, limits: Limits | None) -> Instance:
        made: Instance | None = None

        def watch(call: Call, moment: Moment) -> None:
            if name == STRUCK and self.trap.springs(call, moment):
                assert made is not None
                raise made.die(restart_in_s=_RESTART_S)

        service = self.services[name]
        made = Instance(
            faulty(service, self._refuses) if name == STRUCK else service,
            0,
            broker=self.broker,
            registry=self.registry,
            clock=self.clock,
            gate=Gate(watch, lambda _seconds: None),
            pace=Pace(batch_max=500, commit_interval_s=0.0),
            open_port=self._open_erp_port if name == "erp-poster" else None,
            say=lambda _text: None,
            limits=limits,
        )
        return made

    def _refuses(self, command: Any) -> bool:
        return self.bug is not None and self.bug(command)

    def _open_erp_port(self) -> SimulatedErpPort:
        return SimulatedErpPort(self.erps, _ERP_SETTINGS)

    # ---- the operator

    def plan(self, reason: str = "transfers are understood again", *, keys: Sequence[str] = ()) -> Plan:
        """Release everything that the bug has parked, or some keys of it."""
        meant = Criteria(codes=(CODE,), keys=tuple(keys))
        changelog = read_changelog(self.broker, STRUCK, wanted=meant.wants_key)
        items = items_for(changelog, meant, Wish(choice="retry"), Payloads(self.registry))
        admin = self.broker.admin()
        return new_plan(
            service=STRUCK,
            cluster=admin.cluster_id(),
            operator="mira",
            reason=reason,
            now=self.clock.now(),
            asked_for=meant.to_json(),
            items=items,
        )

    def replay(self, plan: Plan, *, keep_going: bool = False) -> Run:
        """One run of the tool, in a process of its own that `tool_trap` may kill. Raises Died."""

        def watch(call: Call, moment: Moment) -> None:
            if self.tool_trap.springs(call, moment):
                raise Died

        def pause(_seconds: float) -> None:
            if not self.step():
                self.clock.advance(1.0)
                self.broker.faults.keep_alive()

        broker: Broker = GatedBroker(self.broker, Gate(watch, pause))
        return carry_out(
            plan,
            broker,
            self.registry,
            pace=RunPace(keep_going=keep_going),
            clock=self.clock,
            pause=pause,
        )

    def replay_to_the_end(self, plan: Plan, *, death: Callable[[int], None] = lambda _nth: None) -> Run:
        """Run the tool, and again whenever it was killed. `death` hears of each, while nobody runs it."""
        while True:
            try:
                return self.replay(plan)
            except Died:
                death(self.tool_trap.struck)

    # ---- what there is to see

    def letters(self) -> list[tuple[str, str]]:
        """Code and original place of every dead letter of the service with the bug."""
        reader = TopicReader(self.broker, self.registry, [names.dead_letter_topic(STRUCK)])
        found = []
        for record in reader.records():
            letter = outline(record.headers)
            found.append((letter.code or "", f"{letter.topic}[{letter.partition}]@{letter.offset}"))
        return found

    def parked(self) -> dict[str, int]:
        """Parked keys of the service with the bug, and how many messages each holds."""
        return {key: len(each) for key, each in read_changelog(self.broker, STRUCK).parked.items()}

    def states(self, service: str) -> dict[str, Any]:
        """The last state of every key in a service's changelog."""
        reader = TopicReader(self.broker, self.registry, [names.changelog_topic(service)])
        return dict(stored_states(reader.records(), reading_codec(self.registry, self.services[service])))

    def events(self, topic: str) -> dict[str, list[tuple[str, Any]]]:
        """What was published on a topic, by key: event ids and bodies, in order."""
        reader = TopicReader(self.broker, self.registry, [topic])
        found: dict[str, list[tuple[str, Any]]] = {}
        for entry in reader.entries():
            key = (entry.record.key or b"").decode()
            found.setdefault(key, []).append((entry.meta.event_id, entry.body))
        return found

    def moves(self) -> dict[str, list[str]]:
        """By sku the references whose movements the service tells of, in order."""
        return {
            key: [body.ref for _, body in told if isinstance(body, StockMoved)]
            for key, told in self.events(StockMoved.TOPIC).items()
        }

    def booked(self) -> Counter[tuple[Any, ...]]:
        """What the ERP holds, but for its own numbers, with how often."""
        return Counter(
            (each.document_type, each.business_key, each.version, each.reference, each.order_id, each.amount)
            for each in self.erps.books().documents
        )

    def audit(self, *, replays: bool = True) -> Report:
        """The verdict on topics, journals and the ERP's books, as `crossdock audit` reaches it.

        replays: the journals are replayed as well, which takes as long as all else.
        """
        supplied = []
        if replays:
            check = ReplayCheck(self.registry, self.services.values(), rejections_stand=True)
            supplied.append(verdict(check.check(self.broker), whole=True))
        auditor = Auditor(REPOSITORY, self.registry)
        books = Books(erps=self.erps.books())
        return auditor.audit(self.broker, books, expect_drained=True, supplied=supplied)
