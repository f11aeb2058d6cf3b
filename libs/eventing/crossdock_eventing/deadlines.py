"""Which timers may fire: their time has come, their key is not parked, every input has shown what is older. Used by the worker."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime

from crossdock_eventing.broker.interface import Consumer, TopicPartition
from crossdock_eventing.clock import to_micros
from crossdock_eventing.state import DueTimer
from crossdock_eventing.task import Task


class Deadlines:
    """Looks at the tasks of an instance, and keeps in mind how far their inputs reached when it last asked.

    topics: every input. waits: which states' timers wait, by task. limit: timers that one transaction fires.
    """

    def __init__(
        self,
        topics: Sequence[str],
        waits: Callable[[Task], Callable[[str], bool] | None],
        limit: int,
    ) -> None:
        self._topics = topics
        self._waits = waits
        self._limit = limit
        self._ends: dict[TopicPartition, tuple[int, int]] = {}

    def due(
        self,
        tasks: Iterable[Task],
        now: datetime,
        consumer: Consumer,
        buffered: Callable[[], Collection[TopicPartition]],
    ) -> list[tuple[Task, DueTimer]]:
        """Timers to fire now. buffered: inputs of which messages were polled and not yet decided."""
        waiting: Collection[TopicPartition] | None = None
        found: list[tuple[Task, DueTimer]] = []
        for task in tasks:
            if task.held_until_s is not None or task.crowded is not None:
                continue  # what it is held for may be older than the timer
            for timer in task.state.timers_until(now, self._limit - len(found), self._waits(task)):
                if waiting is None:
                    waiting = buffered()
                if not self._inputs_reached(task, timer.due_us, now, consumer, waiting):
                    break
                found.append((task, timer))
            if len(found) >= self._limit:
                break
        return found

    def forget(self, partition: TopicPartition) -> None:
        """The partition came back from elsewhere: ask anew."""
        self._ends.pop(partition, None)

    def _inputs_reached(
        self,
        task: Task,
        due_us: int,
        now: datetime,
        consumer: Consumer,
        buffered: Collection[TopicPartition],
    ) -> bool:
        """Whether no unread input of the task can be older than `due_us`.

        Else a payment waiting in the backlog would lose to its own deadline.
        """
        for topic in self._topics:
            if task.shown_ms.get(topic, 0) * 1000 >= due_us:
                continue
            each = TopicPartition(topic, task.partition)
            if each in buffered:
                return False
            asked_us, end = self._ends.get(each, (0, 0))
            if asked_us < due_us:
                end = consumer.watermarks(each).high
                self._ends[each] = (to_micros(now), end)
            if max(task.next_offsets.get(topic, 0), consumer.position(each) or 0) < end:
                return False
        return True
