"""Tasks that take no input for now: a message asked for time, or the queue of a parked key is full. Used by the worker.

Only the partition concerned waits; the worker pauses and seeks by what is said here.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from crossdock_eventing.broker.interface import Record, TopicPartition
from crossdock_eventing.clock import Clock
from crossdock_eventing.limits import Limits
from crossdock_eventing.parking.desk import Desk
from crossdock_eventing.parking.formats import key_text
from crossdock_eventing.retry import next_wait_s
from crossdock_eventing.task import Task
from crossdock_eventing.telemetry import Telemetry

log = structlog.get_logger(__name__)

#: Code of a message that was tried too often or for too long.
EXHAUSTED: Final = "retry.exhausted"


class Holding:
    """Says which inputs of a task wait, and until when. `instructions`: the topic that is read even while a queue is full."""

    def __init__(
        self, desk: Desk, clock: Clock, limits: Limits, telemetry: Telemetry, instructions: str
    ) -> None:
        self._desk = desk
        self._clock = clock
        self._limits = limits
        self._telemetry = telemetry
        self._instructions = instructions

    def inputs(self, task: Task, every: frozenset[TopicPartition]) -> frozenset[TopicPartition]:
        """All, while a message asked for time; all but the instructions, while a parked key's queue is full."""
        if task.held_until_s is not None:
            return every
        if task.crowded is not None:
            return every - {TopicPartition(self._instructions, task.partition)}
        return frozenset()

    def freed(self, task: Task, every: frozenset[TopicPartition]) -> frozenset[TopicPartition]:
        """Inputs that need wait no more: their time is over, or the full queue has shrunk."""
        before = self.inputs(task, every)
        if task.held_until_s is not None and task.held_until_s <= self._clock.monotonic_s():
            task.held_until_s = None
        if task.crowded is not None and self._desk.has_room(task, task.crowded):
            task.crowded = None
        return before - self.inputs(task, every)

    def ask_for_time(self, task: Task, record: Record, error: Any, now: datetime) -> bool:
        """A message asked for time: hold its task, and no other; False when it was tried enough."""
        now_s = self._clock.monotonic_s()
        task.retry, wait_s = next_wait_s(task.retry, record, error.after_s, now_s=now_s, limits=self._limits)
        if wait_s is None:
            self.settled(task, record)
            return False
        task.held_until_s = now_s + wait_s
        self._telemetry.retrying(task.partition, task.retry.attempts, now + timedelta(seconds=wait_s))
        log.warning(
            "message.retry_later",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            attempt=task.retry.attempts,
            wait_s=round(wait_s, 3),
            detail=str(error),
        )
        return True

    def settled(self, task: Task, record: Record) -> None:
        """This message was taken: if it is the one that was waited for, that is over."""
        if task.retry is not None and (task.retry.topic, task.retry.offset) == (record.topic, record.offset):
            task.retry = None
            self._telemetry.retried(task.partition)

    def crowd(self, task: Task, record: Record) -> None:
        """The queue of this message's key is full: the task takes no more input, as nothing may overtake or be lost."""
        task.crowded = key_text(record.key or b"")
        log.error(
            "parking.full",
            key=task.crowded,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            next_step="this partition stands still until an operator releases or discards: crossdock dlt plan",
        )
