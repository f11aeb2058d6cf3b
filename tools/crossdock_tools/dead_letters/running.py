"""Carrying a plan out: instructions go to the service's retry topic, what they come to is read from its replays.

Nothing is kept but what lies on those topics, so a run that was killed is gone on with by running the plan again: an instruction
with an outcome is not sent again, nor is one that lies on the retry topic already. The transactional id is the plan's, so that
of two runs of one plan the older is stopped.

A key is released once every edit and discard of it came to what the plan expects. The first instruction goes alone; after it no
more messages are on their way than `_WINDOW`, so that a run that meets a surprise stops early.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from crossdock_eventing import names
from crossdock_eventing.broker.failure import AbortRequired, Fenced, TransactionOutcomeUnknown
from crossdock_eventing.broker.interface import Broker, Producer
from crossdock_eventing.clock import Clock
from crossdock_eventing.parking.formats import Operation, ReplayEntry, key_bytes
from crossdock_eventing.registry import SchemaSource
from crossdock_tools.dead_letters.errors import DeadLetterError
from crossdock_tools.dead_letters.freshness import require_fresh, require_place, state_of
from crossdock_tools.dead_letters.plan import TRANSACTIONAL_PREFIX, Item, Plan
from crossdock_tools.dead_letters.queues import readable_key
from crossdock_tools.dead_letters.replays import Ledger, ReplayReader, sent_items

_WINDOW: Final = 2_000
_BATCH_MAX: Final = 200
_POLL_S: Final = 0.05
_EXPECTED: Final[dict[Operation, frozenset[str]]] = {
    "release": frozenset({"released"}),
    "edit": frozenset({"edited"}),
    "discard": frozenset({"discarded"}),
    "inject": frozenset({"injected", "queued"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """rate: messages a second, 0 for no limit. keep_going: surprises do not stop the run. wait_s: how long to wait for a sign."""

    rate: float = 0.0
    keep_going: bool = False
    wait_s: float = 60.0


@dataclass(slots=True)
class Run:
    """How a run ended.

    sent: instructions that this run sent. events: how many followed while it ran. surprises: what did not come out as planned,
    this time or before. unsent: instructions that were not sent, since the run stopped or one before of the same key came to
    something else.
    """

    ledger: Ledger
    sent: int = 0
    events: int = 0
    surprises: list[str] = field(default_factory=list)
    unsent: int = 0

    @property
    def ok(self) -> bool:
        return not self.surprises and not self.unsent


def carry_out(
    plan: Plan,
    broker: Broker,
    registry: SchemaSource,
    *,
    pace: Pace,
    clock: Clock,
    settled: Callable[[int], None] = lambda _messages: None,
    pause: Callable[[float], None] = time.sleep,
) -> Run:
    """Send what was not sent, and wait for what it comes to. `settled` hears of messages as they are done with.

    Raises DeadLetterError when nothing may be sent, the service does not answer, or another run of the plan took over.
    """
    require_place(broker, plan)
    producer = broker.producer(f"{TRANSACTIONAL_PREFIX}{plan.plan}")
    reader = ReplayReader(broker, registry, [plan.service])
    try:
        producer.init_transactions()  # what an earlier run left open is settled from here on
        run = Run(Ledger(plan.plan))
        sent = sent_items(broker, registry, plan.service, plan.plan)
        for said in reader.entries():
            run.ledger.take(said)
        waiting = [
            each for each in plan.items if each.number not in sent and each.number not in run.ledger.outcomes
        ]
        require_fresh(waiting, state_of(broker, plan), run.ledger.taken)
        _Course(plan, run, producer, reader, sent, pace, clock, settled, pause).follow()
        return run
    except Fenced:
        raise DeadLetterError(
            f"another run of plan {plan.plan} took over, and goes on with it; this one sent nothing more"
        ) from None
    except (TransactionOutcomeUnknown, AbortRequired) as error:
        raise DeadLetterError(
            f"the broker did not confirm what was sent ({error.code}): run the plan again, nothing is sent twice"
        ) from None
    finally:
        reader.close()
        producer.close()


class _Course:
    """One run: what may go next, what is on its way."""

    def __init__(
        self,
        plan: Plan,
        run: Run,
        producer: Producer,
        reader: ReplayReader,
        sent: set[int],
        pace: Pace,
        clock: Clock,
        settled: Callable[[int], None],
        pause: Callable[[float], None],
    ) -> None:
        self._plan = plan
        self._run = run
        self._producer = producer
        self._reader = reader
        self._pace = pace
        self._clock = clock
        self._settled = settled
        self._pause = pause
        self._retry = names.retry_topic(plan.service)
        self._keys: dict[str, deque[Item]] = {}
        self._open: Counter[str] = Counter()  # of each key: what is ready or away
        self._failed: set[str] = set()
        self._ready: deque[Item] = deque()
        self._away: dict[int, Item] = {}
        self._answered = 0
        self._sent_before = sent
        self._refilled_s = clock.monotonic_s()
        self._allowance = 1.0
        for item in plan.items:
            self._keys.setdefault(item.key, deque()).append(item)

    def follow(self) -> None:
        """Send and listen until everything is done, or the run has to stop."""
        for key in self._keys:
            self._advance(key)
        news_s = self._clock.monotonic_s()
        while self._away or (self._ready and not self._stopped):
            if self._send():
                news_s = self._clock.monotonic_s()
            if self._listen():
                news_s = self._clock.monotonic_s()
                continue
            if self._away and self._clock.monotonic_s() - news_s > self._pace.wait_s:
                raise DeadLetterError(
                    f"{self._plan.service} has said nothing for {self._pace.wait_s:g} s to {len(self._away)} instructions on "
                    f"{self._retry}: is it running? Nothing is lost: run the plan again to go on with it"
                )
            self._pause(_POLL_S)
        self._run.unsent = len(self._ready) + sum(map(len, self._keys.values()))

    @property
    def _stopped(self) -> bool:
        return bool(self._run.surprises) and not self._pace.keep_going

    def _advance(self, key: str) -> None:
        """Make ready what may go next of the key: edits and discards together, a release when all before it came out well."""
        queue = self._keys[key]
        while queue and key not in self._failed:
            item = queue[0]
            if item.instruction.op == "release" and self._open[key]:
                return
            queue.popleft()
            outcome = self._run.ledger.outcomes.get(item.number)
            if outcome is not None:
                self._judge(item, outcome)
                continue
            self._open[key] += 1
            if item.number in self._sent_before:
                self._away[item.number] = item
            else:
                self._ready.append(item)

    def _judge(self, item: Item, outcome: ReplayEntry) -> None:
        """Hold what the instruction came to against what was planned."""
        if item.instruction.op != "edit":
            self._settled(item.messages)
        if outcome.outcome in _EXPECTED[item.instruction.op]:
            self._answered += 1
            return
        why = f": {outcome.detail}" if outcome.detail else ""
        self._run.surprises.append(
            f"{readable_key(item.key)}: {item.instruction.op} (item {item.number}) came to {outcome.outcome}{why}; "
            f"{outcome.left} messages are parked still"
        )
        self._failed.add(item.key)

    def _send(self) -> int:
        """Send what may go now, in one transaction; returns how many instructions."""
        batch: list[Item] = []
        on_way = sum(each.messages for each in self._away.values())
        self._refill()
        while self._ready and not self._stopped and len(batch) < _BATCH_MAX:
            item = self._ready[0]
            alone = not self._answered and (batch or self._away)
            if alone or self._allowance <= 0 or (on_way and on_way + item.messages > _WINDOW):
                break
            self._ready.popleft()
            self._allowance -= item.messages if self._pace.rate else 0
            on_way += item.messages
            batch.append(item)
        if not batch:
            return 0
        self._producer.begin()
        for item in batch:
            self._producer.produce(
                self._retry,
                partition=item.partition,
                key=key_bytes(item.key),
                value=item.instruction.to_bytes(),
            )
        self._producer.commit()
        self._away.update((item.number, item) for item in batch)
        self._run.sent += len(batch)
        return len(batch)

    def _listen(self) -> bool:
        """Take the news; returns whether there was any of this plan."""
        news = False
        for said in self._reader.entries():
            if not self._run.ledger.take(said):
                continue
            news = True
            self._run.events += sum(len(message.events) for message in said.entry.messages)
            outcome = self._run.ledger.outcomes.get(said.entry.item)
            item = None if outcome is None else self._away.pop(said.entry.item, None)
            if item is not None and outcome is not None:
                self._open[item.key] -= 1
                self._judge(item, outcome)
                self._advance(item.key)
        return news

    def _refill(self) -> None:
        """The rate: so many messages a second, and never more than a second's worth at once."""
        now_s = self._clock.monotonic_s()
        if self._pace.rate:
            earned = (now_s - self._refilled_s) * self._pace.rate
            self._allowance = min(self._pace.rate, self._allowance + earned)
        self._refilled_s = now_s
