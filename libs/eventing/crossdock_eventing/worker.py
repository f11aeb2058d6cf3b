"""The loop of one service instance, one step at a time:

    poll -> keep owned -> begin -> decide, evolve, produce -> send offsets -> commit -> flush -> start calls

`process.run` calls `step` until it is told to stop; tests and the simulator interleave the steps of many workers. The worker
owns no thread, no clock and no random source. It makes no consumer call between begin and commit, so a rebalance never meets
an open transaction. Any exception that leaves `step` ends the process; a supervisor restarts it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog

from crossdock_eventing import names
from crossdock_eventing.breaker import Breaker, BreakerOpen
from crossdock_eventing.broker.failure import AbortRequired, OffsetMissing, TransactionOutcomeUnknown
from crossdock_eventing.broker.interface import Broker, Consumer, Producer, Record, TopicPartition
from crossdock_eventing.broker.partitioner import partition_for
from crossdock_eventing.calls import Calls
from crossdock_eventing.clock import Clock, to_micros
from crossdock_eventing.codec import Codec, Undecodable
from crossdock_eventing.deadlines import Deadlines
from crossdock_eventing.decision import Cause, Decider, Decision, Message
from crossdock_eventing.holding import EXHAUSTED, Holding
from crossdock_eventing.journal import Journal
from crossdock_eventing.keyvalue import KeyValue
from crossdock_eventing.limits import Limits
from crossdock_eventing.outbox import Outbox
from crossdock_eventing.pace import Pace
from crossdock_eventing.parking.desk import Decide, Desk
from crossdock_eventing.registry import SchemaSource
from crossdock_eventing.service import Service
from crossdock_eventing.state import DueTimer, TaskState
from crossdock_eventing.tables import Tables
from crossdock_eventing.task import Task
from crossdock_eventing.telemetry import Telemetry, Trace

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Polled:
    """A record, and the number of the poll that brought it."""

    record: Record
    poll: int


@dataclass(slots=True)
class _Batch:
    """What one transaction has done so far."""

    now: datetime
    touched: dict[int, Task] = field(default_factory=dict)
    done: int = 0


class UnequalPartitions(Exception):
    """Topics that a task joins by partition number have different counts; the text names them."""


class Worker:
    """One instance of a service. `step` until done, then `close`.

    open_store: the local store of a partition number; it is closed when the partition leaves.
    journal: write what the inputs alone do not tell of every transaction, so that it can be replayed.
    Raises, from the constructor or `step`: Fenced (a twin took over: exit), UnknownSchema, RegistryUnavailable, OffsetMissing,
    BrokerRefused, UnequalPartitions.
    """

    def __init__(
        self,
        service: Service,
        *,
        broker: Broker,
        registry: SchemaSource,
        clock: Clock,
        open_store: Callable[[int], KeyValue],
        ordinal: int = 0,
        pace: Pace | None = None,
        telemetry: Telemetry | None = None,
        partition_of: Callable[[bytes, int], int] = partition_for,
        journal: bool = True,
        limits: Limits | None = None,
    ) -> None:
        self._service = service
        self._broker = broker
        self._clock = clock
        self._open_store = open_store
        self._pace = pace or Pace()
        self._telemetry = telemetry or Telemetry(service.name)
        self._group = names.group(service.name)
        self._transactional_id = names.transactional_id(service.name, ordinal)
        self._changelog = names.changelog_topic(service.name)
        self._instructions = names.retry_topic(service.name)
        self._topics = sorted({self._instructions, *(kind.TOPIC for kind in service.inputs)})
        self._limits = limits or Limits()
        self._breaker = Breaker(self._limits)
        self._journal = Journal(service.answers, on=journal)

        admin = broker.admin()
        self._partitions = _partition_count(
            admin,
            [
                *self._topics,
                self._changelog,
                names.dead_letter_topic(service.name),
                names.replays_topic(service.name),
                *([names.journal_topic(service.name)] if journal else ()),
            ],
        )
        compacted = {
            kind.TOPIC
            for kind in service.outputs
            if "compact" in admin.describe(kind.TOPIC).configs.get("cleanup.policy", "")
        }
        self._cluster_id, self._changelog_id = admin.cluster_id(), admin.topic_id(self._changelog)
        admin.close()
        self._codec = Codec(
            registry,
            written=[
                *((kind, kind.TOPIC) for kind in service.outputs),
                *((kind, self._changelog) for kind in service.states),
            ],
            read=[*service.inputs, *service.states, *service.tables.values()],
        )
        self._decider = Decider(service, self._codec, partitions=self._partitions, partition_of=partition_of)
        self._outbox = Outbox(service.name, self._codec, self._telemetry, compacted=frozenset(compacted))
        self._desk = Desk(
            service,
            decider=self._decider,
            letters=self._outbox,
            limits=self._limits,
            refused=self._journal.refused,
        )
        self._holding = Holding(self._desk, clock, self._limits, self._telemetry, self._instructions)
        self._tables = Tables(broker, self._codec, service.tables, self._telemetry.row_unreadable)
        self._tables.catch_up()
        self._tables_read_at_poll, self._tables_behind = 0, False

        self._inputs = [
            frozenset(TopicPartition(topic, number) for topic in self._topics)
            for number in range(self._partitions)
        ]
        self._tasks: dict[int, Task] = {}
        self._buffer: deque[_Polled] = deque()
        self._polls = 0
        self._dry = True
        self._now = clock.now()
        self._last_commit_s = clock.monotonic_s()
        self._buffer_since_s = 0.0
        self._deadlines = Deadlines(self._topics, self._desk.waits, self._pace.timers_max)
        self._calls = Calls(service)
        self._assignment_changed = False

        self._producer: Producer = broker.producer(self._transactional_id)
        self._producer.init_transactions()
        self._consumer: Consumer = broker.consumer(
            self._group, instance_id=names.instance_id(service.name, ordinal)
        )
        self._consumer.subscribe(
            self._topics, on_assign=self._on_assign, on_revoke=self._on_gone, on_lost=self._on_gone
        )

    # ---- one step

    def step(self, *, wait: bool = True) -> int:
        """Poll once and, when it is time, run one transaction; returns how many messages and timers it settled.

        wait: False never waits for input (the simulator).
        """
        self._now = max(self._now, self._clock.now())
        self._go_on()
        self._poll(self._wait_s() if wait else 0.0)
        self._settle_assignment()
        self._calls.collect()
        self._tables.drain()
        timers = self._deadlines.due(self._tasks.values(), self._now, self._consumer, self._buffered)
        self._telemetry.beat(
            self._now,
            ready=self.ready,
            tasks=len(self._tasks),
            buffered=len(self._buffer),
            parked=sum(len(task.parking.keys) for task in self._tasks.values()),
            crowded=sum(task.crowded is not None for task in self._tasks.values()),
        )
        unbooked = any(not task.booked for task in self._tasks.values())
        if self._breaker.open or not (
            timers or self._calls.answers or unbooked or self._releasing() or self._buffer_is_due()
        ):
            return 0
        done = self._transact(timers)
        self._hold()
        return done

    @property
    def ready(self) -> bool:
        """Partitions are assigned and restored, schemas and tables are cached, and the breaker is closed."""
        return bool(self._tasks) and not self._assignment_changed and not self._breaker.open

    def due_in_s(self) -> float | None:
        """Seconds until what was read is committed, a timer is due or a held partition may go on, by this instance's clock.

        A timer that is due and waits for older input is looked at again after `calls_wait_s`. None: nothing waits for time.
        """
        due: list[float] = []
        # By the clock and not by the last step: whoever asks may have let this instance sleep for long.
        now_us = to_micros(max(self._now, self._clock.now()))
        if self._breaker.open:
            return None
        if self._releasing():
            return 0.0
        if self._buffer:
            since_commit_s = self._clock.monotonic_s() - self._last_commit_s
            due.append(max(0.0, self._pace.commit_interval_s - since_commit_s))
        for task in self._tasks.values():
            if task.held_until_s is not None:
                due.append(max(0.0, task.held_until_s - self._clock.monotonic_s()))
            if task.held_until_s is not None or task.crowded is not None:
                continue
            timer_us = task.state.next_timer_us(self._desk.waits(task))
            if timer_us is not None:
                due.append(max(self._pace.calls_wait_s, (timer_us - now_us) / 1e6))
        return min(due, default=None)

    @property
    def partitions(self) -> frozenset[int]:
        """Partition numbers that this instance works on."""
        return frozenset(self._tasks)

    def state(self, key: str) -> Any | None:
        """The committed state of an entity, if it lives on this instance."""
        for task in self._tasks.values():
            found = task.state.get(key)
            if found is not None:
                return found
        return None

    def states(self) -> dict[str, Any]:
        """Every committed state on this instance, for the auditor and tests."""
        return {key: task.state.get(key) for task in self._tasks.values() for key in task.state.entities()}

    def close(self) -> None:
        """Commit nothing more and stop; a static member's partitions wait for its return."""
        self._consumer.close()
        self._forget_tasks(list(self._tasks))
        self._calls.close()
        self._tables.close()
        self._producer.close()

    # ---- input

    def _poll(self, wait_s: float) -> None:
        room = self._pace.batch_max - len(self._buffer)
        if room <= 0:
            return
        self._polls += 1
        records = self._consumer.poll(room, wait_s)
        self._dry = not records
        if records and not self._buffer:
            self._buffer_since_s = self._clock.monotonic_s()
        self._buffer.extend(_Polled(record, self._polls) for record in records)

    def _wait_s(self) -> float:
        wait = self._pace.calls_wait_s if self._calls else self._pace.idle_wait_s
        due = self.due_in_s()
        return wait if due is None else min(wait, due)

    def _buffer_is_due(self) -> bool:
        if not self._buffer:
            return False
        now_s = self._clock.monotonic_s()
        return (
            len(self._buffer) >= self._pace.batch_max
            or (self._dry and now_s - self._last_commit_s >= self._pace.commit_interval_s)
            or now_s - self._buffer_since_s >= self._pace.commit_interval_s_max
        )

    def _buffered(self) -> set[TopicPartition]:
        return {TopicPartition(each.record.topic, each.record.partition) for each in self._buffer}

    # ---- partitions that take nothing for now

    def _hold(self) -> None:
        """Read nothing of a partition that waits and forget what was read: others must not wait behind a full buffer."""
        held = {
            each
            for task in self._tasks.values()
            for each in self._holding.inputs(task, self._inputs_of(task.partition))
        }
        if held and held & self._buffered():
            self._consumer.pause(list(held))
            self._buffer = deque(
                each
                for each in self._buffer
                if TopicPartition(each.record.topic, each.record.partition) not in held
            )

    def _go_on(self) -> None:
        """Read on where partitions wait no more, at the message that was left."""
        if self._breaker.open:
            return
        for task in self._tasks.values():
            for each in self._holding.freed(task, self._inputs_of(task.partition)):
                self._consumer.seek(each, task.next_offsets[each.topic])
                self._consumer.resume([each])

    def _releasing(self) -> bool:
        """Whether an instruction waits for parked messages to be decided."""
        return any(task.held_until_s is None and task.parking.releasing for task in self._tasks.values())

    # ---- the transaction

    def _transact(self, timers: list[tuple[Task, DueTimer]]) -> int:
        if self._tables_behind:
            self._tables.catch_up()
            self._tables_behind = False
            self._tables_read_at_poll = self._polls
        started_s = self._clock.monotonic_s()
        batch = _Batch(now=self._now)
        try:
            self._producer.begin()
            group = self._consumer.group_metadata()
            self._outbox.begin(self._producer, batch.now)
            self._journal.begin(batch.now)
            self._work_off(batch, timers)
            batch.touched.update((task.partition, task) for task in self._tasks.values() if not task.booked)
            if not batch.touched:
                self._producer.abort()
                return 0
            self._outbox.finish(batch.touched.values())
            offsets: dict[TopicPartition, int] = {}
            for task in batch.touched.values():
                offsets.update(task.offsets())
                if self._journal.on:
                    self._outbox.journal(task, self._journal.record(task.partition))
            # Offsets of every touched task, with or without new input: this is what stops a zombie.
            self._producer.send_offsets(offsets, group)
            self._producer.commit()
        except TransactionOutcomeUnknown as unknown:
            log.warning("transaction.outcome_unknown", code=unknown.code)
            self._recover()
            return 0
        except AbortRequired as refused:
            log.warning("transaction.aborted", code=refused.code)
            self._abandon()
            return 0
        except BreakerOpen:
            self._telemetry.stopped()
            self._abandon()
            return 0
        self._settle(batch)
        self._telemetry.committed(batch.done, self._clock.monotonic_s() - started_s)
        return batch.done

    def _work_off(self, batch: _Batch, timers: list[tuple[Task, DueTimer]]) -> None:
        """Decide answers, then what is released, messages, timers, until one of them has to wait for a table."""
        while self._calls.answers:
            answer = self._calls.answers[0]
            task = self._tasks[self._calls.partition_of(answer)]
            cause = self._decider.answer_cause(answer.state_key, self._calls.cause_of(answer))
            decision = self._decide(batch, task, answer.state_key, answer.command, cause, self._polls)
            if decision is None:
                return
            self._journal.answered(task.partition, answer, cause.causation_id, decision.ignored)
            self._calls.settle(answer)
            batch.done += 1
        if not self._release_parked(batch):
            return
        waiting: deque[_Polled] = deque()
        while self._buffer:
            polled = self._buffer[0]
            outcome = self._process(batch, polled)
            if outcome is _STOP:
                break
            self._buffer.popleft()
            if outcome is _WAIT:
                waiting.append(polled)
        if waiting:
            waiting.extend(self._buffer)
            self._buffer = waiting
            return
        if self._buffer:
            return
        for task, timer in timers:
            waits = self._desk.waits(task)
            due = self._decider.timer(timer, task.state.get(timer.key))
            if due is None or (waits is not None and waits(timer.key)):
                continue  # a message of this transaction moved or removed it, or parked its key
            command, cause = due
            decision = self._decide(batch, task, timer.key, command, cause, self._polls)
            if decision is None:
                return
            self._journal.fired(task.partition, timer, decision.ignored)
            batch.done += 1

    def _process(self, batch: _Batch, polled: _Polled) -> object:
        record = polled.record
        task = self._tasks.get(record.partition)
        if task is None:
            return _DONE
        if task.held_until_s is not None:
            return _WAIT
        if record.topic == self._instructions:
            return self._instruct(batch, task, polled)
        if task.crowded is not None:
            return _WAIT
        message: Message | Undecodable | None
        try:
            message = self._decider.message(record)
        except Undecodable as error:
            message = error
        if message is None:
            self._enter(batch, task, record)
            return _DONE
        if self._desk.is_parked(task, record):
            if not self._desk.join(task, record):
                self._holding.crowd(task, record)
                return _WAIT
            self._enter(batch, task, record)
            return _DONE
        if isinstance(message, Undecodable):
            self._reject(batch, task, record, code=message.code, detail=message.detail, error=message)
            return _DONE
        trace = self._telemetry.continue_trace(record, self._group)
        try:
            decision = self._decide(
                batch, task, message.key, message.command, message.cause, polled.poll, trace
            )
        except self._service.retryable as error:
            if self._holding.ask_for_time(task, record, error, self._now):
                return _WAIT
            detail = f"still after {self._limits.retry_attempts_max} tries or {self._limits.retry_s_max:g} s: {error}"
            self._reject(batch, task, record, code=EXHAUSTED, detail=detail, error=error)
            return _DONE
        except self._service.rejected as error:
            self._reject(batch, task, record, code=error.code, detail=error.detail, error=error)  # type: ignore[attr-defined]
            return _DONE
        finally:
            if trace is not None:
                trace.end()
        if decision is None:
            return _STOP
        if decision.ignored is not None:
            self._journal.ignored(task.partition, record.topic, record.offset, decision.ignored)
        self._breaker.saw(rejected=False)
        self._enter(batch, task, record)
        return _DONE

    def _instruct(self, batch: _Batch, task: Task, polled: _Polled) -> object:
        """What an operator asks for; a release is only marked, and worked off by the transactions that follow."""
        if not self._desk.instruct(task, polled.record, self._decide_for(batch, task, polled.poll)):
            return _WAIT if task.held_until_s is not None else _STOP
        self._enter(batch, task, polled.record)
        return _DONE

    def _release_parked(self, batch: _Batch) -> bool:
        """Decide released messages, before any new input; False when one has to wait for a table."""
        for task in self._tasks.values():
            for key in task.parking.releasing:
                if task.held_until_s is not None or batch.done >= self._limits.released_max:
                    break
                room = self._limits.released_max - batch.done
                decide = self._decide_for(batch, task, self._polls)
                done, waits = self._desk.release(task, key, decide, room)
                if done:
                    batch.touched[task.partition] = task
                    batch.done += done
                    self._journal.released(task.partition, key, done)
                if waits and task.held_until_s is None:
                    return False
        return True

    def _decide_for(self, batch: _Batch, task: Task, poll: int) -> Decide:
        """`_decide` for parked and injected messages: who asks for time holds the task, like any message."""

        def decide(record: Record, key: str, command: Any, cause: Cause) -> Decision | None:
            try:
                return self._decide(batch, task, key, command, cause, poll)
            except self._service.retryable as error:
                if not self._holding.ask_for_time(task, record, error, self._now):
                    raise self._service.rejected(EXHAUSTED, str(error)) from error
                return None

        return decide

    def _decide(
        self,
        batch: _Batch,
        task: Task,
        key: str,
        command: Any,
        cause: Cause,
        poll: int,
        trace: Trace | None = None,
    ) -> Decision | None:
        """Decide one command and apply what follows; None when it must wait for a broadcast table."""
        self._tables.begin_decision()
        try:
            decision = self._decider.decide(
                command, task.state.get(key), cause=cause, now=batch.now, tables=self._tables.views
            )
        except (self._service.rejected, self._service.retryable):
            if self._row_may_be_late(poll):
                return None
            self._journal.looked_up(task.partition, self._tables.read())
            raise
        if self._row_may_be_late(poll):
            return None
        self._journal.looked_up(task.partition, self._tables.read())
        for event in decision.events:
            self._telemetry.decided(event)
        task.state.set(key, decision.state)
        batch.touched[task.partition] = task
        for record, meta in decision.outputs:
            self._outbox.publish(record, meta, trace)
        return decision

    def _row_may_be_late(self, poll: int) -> bool:
        """Whether the decision missed a table row that the tables, last read up to an end before `poll`, may yet bring."""
        late = self._tables.missed() and self._tables_read_at_poll < poll
        if late:
            self._tables_behind = True
        return late

    def _reject(
        self, batch: _Batch, task: Task, record: Record, *, code: str, detail: str, error: BaseException
    ) -> None:
        self._breaker.saw(rejected=True)
        self._desk.reject(task, record, code=code, detail=detail, error=error)
        self._journal.rejected(task.partition, record.topic, record.offset, code)
        self._enter(batch, task, record)

    def _enter(self, batch: _Batch, task: Task, record: Record) -> None:
        self._holding.settled(task, record)
        before = task.next_offsets[record.topic]
        task.processed(record)
        self._journal.entered(task.partition, record.topic, before, record.offset + 1)
        batch.touched[task.partition] = task
        batch.done += 1

    def _settle(self, batch: _Batch) -> None:
        """The transaction committed: make it durable here, then start what the new states ask of the outside."""
        now_ms = to_micros(self._now) // 1000
        for task in batch.touched.values():
            changed = dict(task.state.changed())
            task.flush(now_ms)
            for key, state in changed.items():
                self._calls.start(task, key, state, fresh=True)
        self._last_commit_s = self._clock.monotonic_s()
        if self._buffer:
            self._buffer_since_s = self._last_commit_s

    # ---- when a transaction fails

    def _abandon(self) -> None:
        """The transaction cannot commit: drop what it changed and read its input again."""
        try:
            self._producer.abort()
        except TransactionOutcomeUnknown:
            self._recover()
            return
        self._rewind()

    def _recover(self) -> None:
        """Nobody knows whether the transaction landed: fence it, then take from the log what is true.

        The order matters. Closing the producer does not stop a commit that is on its way; init_transactions does. The
        changelog must be read again because the commit that looked lost has usually landed.
        """
        self._producer.close()
        self._producer = self._broker.producer(self._transactional_id)
        self._producer.init_transactions()
        self._rewind()

    def _rewind(self) -> None:
        self._telemetry.rewound()
        self._breaker.forget()
        for task in self._tasks.values():
            task.drop()
        owned = list(self._tasks.values())
        # Membership may have changed: only what is still assigned can be sought; the rest goes with the next poll.
        assigned = self._consumer.assignment()
        self._place([task for task in owned if self._inputs_of(task.partition) <= assigned])

    # ---- partitions come and go

    def _on_assign(self, _partitions: list[TopicPartition]) -> None:
        self._assignment_changed = True

    def _on_gone(self, partitions: list[TopicPartition]) -> None:
        self._assignment_changed = True
        self._forget_tasks(
            [number for number in {each.partition for each in partitions} if number in self._tasks]
        )

    def _forget_tasks(self, numbers: list[int]) -> None:
        for number in numbers:
            task = self._tasks.pop(number)
            task.drop()
            task.state.close()
        self._buffer = deque(each for each in self._buffer if each.record.partition in self._tasks)
        self._calls.keep(self._tasks)

    def _inputs_of(self, partition: int) -> frozenset[TopicPartition]:
        return self._inputs[partition]

    def _settle_assignment(self) -> None:
        """Start a task once every one of its inputs is here."""
        if not self._assignment_changed:
            return
        assigned = self._consumer.assignment()
        arrived = [
            number
            for number in range(self._partitions)
            if number not in self._tasks and self._inputs_of(number) <= assigned
        ]
        self._assignment_changed = False
        for number in arrived:
            self._tasks[number] = Task(
                partition=number,
                state=TaskState(self._open_store(number), self._codec, self._service.calls),
                changelog=TopicPartition(self._changelog, number),
                cluster_id=self._cluster_id,
                topic_id=self._changelog_id,
            )
        self._place([self._tasks[number] for number in arrived])

    def _place(self, tasks: list[Task]) -> None:
        """committed() -> restore -> seek -> resume, and forget what was polled before."""
        if not tasks:
            return
        inputs = [each for task in tasks for each in self._inputs_of(task.partition)]
        self._consumer.pause(inputs)
        committed = self._consumer.committed(inputs)
        placed = {task.partition for task in tasks}
        self._buffer = deque(each for each in self._buffer if each.record.partition not in placed)
        reader = self._broker.reader()
        try:
            for task in tasks:
                started_s = self._clock.monotonic_s()
                task.held_until_s = task.crowded = None
                taken = task.restore(reader, to_micros(self._now) // 1000)
                starts = task.start_from({each: committed[each] for each in self._inputs_of(task.partition)})
                for each, offset in starts.items():
                    if offset is None:
                        raise OffsetMissing(
                            "_NO_OFFSET",
                            f"group {self._group} has no offset for {each}; run `crossdock topics apply`",
                        )
                    self._consumer.seek(each, offset)
                    self._deadlines.forget(each)
                log.info(
                    "task.restored",
                    partition=task.partition,
                    records=taken,
                    seconds=round(self._clock.monotonic_s() - started_s, 3),
                )
        finally:
            reader.close()
        if not self._breaker.open:
            self._consumer.resume(inputs)
        for task in tasks:
            self._calls.start_again(task)


_DONE, _WAIT, _STOP = object(), object(), object()


def _partition_count(admin: Any, topics: list[str]) -> int:
    """The one partition count of a service's topics."""
    counts = {topic: admin.partitions(topic) for topic in topics}
    if len(set(counts.values())) != 1:
        raise UnequalPartitions(f"topics of one service must have one partition count, found {counts}")
    return int(next(iter(counts.values())))
