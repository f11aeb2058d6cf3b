"""A dry run: the real deciders on the states as they are now, in memory. Nothing is written anywhere.

Instructions go through the service's own desk (`crossdock_eventing.parking.desk`), so what is shown is what the service would do.
Facts that the ERP poster reads are given to its decider as well, on its own current states, so that documents are named even when
another service is released. What happens further on, in the warehouse or at the bank, is not played.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Self

from crossdock_eventing import names
from crossdock_eventing.broker.interface import Broker, Record
from crossdock_eventing.clock import to_micros
from crossdock_eventing.decision import Cause, Decision
from crossdock_eventing.limits import Limits
from crossdock_eventing.parking.desk import Desk
from crossdock_eventing.parking.formats import ReplayedMessage, ReplayEntry, key_bytes
from crossdock_eventing.parking.lot import OwnEntries, ParkingLot
from crossdock_eventing.registry import SchemaSource
from crossdock_eventing.replay_check import compacted_topics
from crossdock_eventing.service import Service
from crossdock_tools.dead_letters.changelog import Changelog, read_changelog
from crossdock_tools.dead_letters.deciding import Books, Deciding, record_key_of
from crossdock_tools.dead_letters.effects import Effect, effects_of, tally
from crossdock_tools.dead_letters.freshness import require_fresh, require_place
from crossdock_tools.dead_letters.plan import Item, Plan
from crossdock_tools.replaying.services import load

_POSTER: Final = "erp-poster"
#: What a message comes to that the protocol has no word for: it asks for time, or its decider fails in a way that ends a process.
WAITS: Final = "waits"
CRASHES: Final = "crashes"


@dataclass(frozen=True, slots=True)
class Trial:
    """What would become of one message.

    outcome: as in the replays, or WAITS, CRASHES. code: of a rejection, or of what is ignored.
    """

    item: int
    key: str
    place: str
    outcome: str
    code: str = ""
    detail: str = ""
    effects: tuple[Effect, ...] = ()


@dataclass(slots=True)
class Rehearsal:
    """A dry run. outcomes: what each instruction would come to. left: messages that each key would still hold."""

    trials: list[Trial] = field(default_factory=list)
    left: dict[str, int] = field(default_factory=dict)
    outcomes: dict[int, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "outcomes": dict(sorted(Counter(self.outcomes.values()).items())),
            "messages": dict(sorted(Counter(trial.outcome for trial in self.trials).items())),
            "effects": tally(effect for trial in self.trials for effect in trial.effects),
            "left": {key: left for key, left in self.left.items() if left},
            "trials": [
                {
                    "item": trial.item,
                    "key": trial.key,
                    "original": trial.place,
                    "outcome": trial.outcome,
                    "code": trial.code,
                    "detail": trial.detail,
                    "effects": [
                        {
                            "name": effect.name,
                            "about": effect.about,
                            "money_minor": None if effect.money is None else dict([effect.money]),
                        }
                        for effect in trial.effects
                    ],
                }
                for trial in self.trials
            ],
        }


def rehearse(
    plan: Plan, broker: Broker, registry: SchemaSource, settings: Mapping[str, str], *, now: datetime
) -> Rehearsal:
    """Carry the plan out in memory. Raises DeadLetterError for one that does not fit the cluster or its state.

    settings: those that the services run under (`CROSSDOCK_...`).
    """
    require_place(broker, plan)
    service = load(plan.service, settings)
    keys = plan.keys
    changelog = read_changelog(
        broker,
        plan.service,
        partitions={each.partition for each in plan.items},
        states=lambda name: record_key_of(service, name) in keys,
    )
    require_fresh(plan.items, changelog, {})
    poster = load(_POSTER, settings) if plan.service != _POSTER else None
    with (
        Books(poster, broker, registry, now) as books,
        _Stage(service, changelog, broker, registry, now) as stage,
    ):
        found = Rehearsal()
        for item in plan.items:
            for trial, decision in stage.play(item):
                further = books.documents(decision) if decision is not None else []
                found.trials.append(replace(trial, effects=(*trial.effects, *further)))
            found.outcomes[item.number] = stage.outcome(item)
            found.left[item.key] = stage.left(item)
        return found


@dataclass(slots=True)
class _Task:
    """A task's parked keys, as `desk.Parking` wants them."""

    partition: int
    parking: ParkingLot


class _Post:
    """`desk.Letters` that keeps the entries, and sends nothing."""

    def __init__(self, now: datetime, compacted: frozenset[str]) -> None:
        self.now_us = to_micros(now)
        self.compacted = compacted
        self.entries: list[ReplayEntry] = []

    def dead_letter(
        self,
        record: Record,
        partition: int,
        *,
        code: str,
        detail: str,
        error: BaseException | None,
        attempt: int = 1,
    ) -> None: ...

    def replayed(self, partition: int, entry: ReplayEntry) -> None:  # noqa: ARG002 - as the protocol has it
        self.entries.append(entry)


class _Stage:
    """The service that is released, in memory."""

    def __init__(
        self,
        service: Service,
        changelog: Changelog,
        broker: Broker,
        registry: SchemaSource,
        now: datetime,
    ) -> None:
        self._deciding = Deciding(service, changelog.states, changelog.partitions, broker, registry, now)
        self._post = _Post(now, compacted_topics(broker, [service]))
        self._desk = Desk(service, decider=self._deciding.decider, letters=self._post, limits=Limits())
        self._changelog = changelog
        self._tasks: dict[int, _Task] = {}
        self._now_ms = to_micros(now) // 1000
        self._decisions: dict[tuple[str, int, int, str], Decision] = {}
        self._stuck: Trial | None = None
        self._outcomes: dict[int, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._deciding.close()

    def play(self, item: Item) -> Iterator[tuple[Trial, Decision | None]]:
        """Carry out one instruction to its end."""
        task = self._task(item.partition)
        first = len(self._post.entries)
        self._stuck = None
        instruction = Record(
            topic=names.retry_topic(self._deciding.service.name),
            partition=item.partition,
            offset=0,
            timestamp_ms=self._now_ms,
            key=key_bytes(item.key),
            value=item.instruction.to_bytes(),
            headers=(),
        )
        decide = self._decide_for(item)
        self._desk.instruct(task, instruction, decide)
        while self._stuck is None and item.key in task.parking.releasing:
            self._desk.release(task, item.key, decide, Limits().released_max)
        for entry in self._post.entries[first:]:
            self._outcomes[entry.item] = entry.outcome
            for message in entry.messages:
                decision = self._decisions.get((message.topic, message.partition, message.offset, entry.key))
                yield _trial(entry, message, decision, self._post.compacted), decision
        if self._stuck is not None:
            self._outcomes[item.number] = self._stuck.outcome
            yield self._stuck, None

    def outcome(self, item: Item) -> str:
        return self._outcomes.get(item.number, "")

    def left(self, item: Item) -> int:
        return self._task(item.partition).parking.left(item.key)

    def _decide_for(self, item: Item) -> Callable[[Record, str, Any, Cause], Decision | None]:
        service = self._deciding.service

        def decide(record: Record, key: str, command: Any, cause: Cause) -> Decision | None:
            place = f"{record.topic}[{record.partition}]@{record.offset}"
            try:
                decision = self._deciding.decide(key, command, cause)
            except service.rejected:
                raise
            except service.retryable as error:
                self._stuck = Trial(item.number, item.key, place, WAITS, detail=str(error))
                return None
            except Exception as error:  # noqa: BLE001 - whatever a decider fails with ends a service, and is what is asked for here
                said = f"{type(error).__name__}: {error}"
                self._stuck = Trial(item.number, item.key, place, CRASHES, detail=said)
                return None
            self._decisions[record.topic, record.partition, record.offset, item.key] = decision
            return decision

        return decide

    def _task(self, partition: int) -> _Task:
        task = self._tasks.get(partition)
        if task is None:
            own = OwnEntries()
            own.entries.update(self._changelog.own.get(partition, {}))
            task = self._tasks[partition] = _Task(partition, ParkingLot(own))
        return task


def _trial(
    entry: ReplayEntry, message: ReplayedMessage, decision: Decision | None, compacted: frozenset[str]
) -> Trial:
    applied = decision is not None and message.outcome == "applied"
    return Trial(
        entry.item,
        entry.key,
        f"{message.topic}[{message.partition}]@{message.offset}",
        message.outcome,
        message.code,
        entry.detail if message.outcome == "rejected" else "",
        tuple(effects_of(decision, compacted)) if applied and decision is not None else (),
    )
