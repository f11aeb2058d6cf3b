"""The calls that the states of an instance have outstanding at its port, and the answers they brought. Used by the worker.

Calls are derived from states: nothing here needs to survive a crash.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Any

from crossdock_eventing.service import Answer, Service
from crossdock_eventing.task import Task


class Calls:
    """What was started and not yet answered. Without a port everything here does nothing.

    answers: arrived, in order, of calls that are still outstanding.
    """

    def __init__(self, service: Service) -> None:
        self._of = service.calls
        self._port = service.port
        self._partition_of: dict[tuple[str, str], int] = {}
        self._cause_of: dict[tuple[str, str], str] = {}
        self.answers: deque[Answer] = deque()

    def __bool__(self) -> bool:
        """Whether any call is outstanding."""
        return bool(self._partition_of)

    def collect(self) -> None:
        """Take what has arrived; an answer that nobody waits for any more is dropped."""
        if self._port is not None:
            self.answers.extend(
                answer for answer in self._port.collect() if _name(answer) in self._partition_of
            )

    def partition_of(self, answer: Answer) -> int:
        """The partition whose state asked."""
        return self._partition_of[_name(answer)]

    def cause_of(self, answer: Answer) -> str:
        """The event id behind the call that was answered."""
        return self._cause_of[_name(answer)]

    def settle(self, answer: Answer) -> None:
        """The first of the answers was worked off."""
        assert self.answers[0] is answer
        self.answers.popleft()
        self._partition_of.pop(_name(answer), None)
        self._cause_of.pop(_name(answer), None)

    def start(self, task: Task, key: str, state: Any | None, *, fresh: bool) -> None:
        """Start what the committed state of `key` says is outstanding and was not started yet."""
        if self._of is None or self._port is None or state is None:
            return
        for call in self._of(state):
            if (key, call.call_id) not in self._partition_of:
                self._partition_of[key, call.call_id] = task.partition
                self._cause_of[key, call.call_id] = call.caused_by
                self._port.start(key, call, fresh=fresh)

    def start_again(self, task: Task) -> None:
        """Start what is outstanding in a restored task: an earlier process may have made these calls."""
        if self._of is not None:
            for key in task.state.keys_with_calls():
                self.start(task, key, task.state.get(key), fresh=False)

    def keep(self, partitions: Collection[int]) -> None:
        """Other partitions left: drop their calls and answers."""
        gone = [name for name, partition in self._partition_of.items() if partition not in partitions]
        for name in gone:
            del self._partition_of[name], self._cause_of[name]
        self.answers = deque(answer for answer in self.answers if _name(answer) in self._partition_of)
        if gone and self._port is not None:
            self._port.forget(frozenset(key for key, _ in gone))

    def close(self) -> None:
        if self._port is not None:
            self._port.close()


def _name(answer: Answer) -> tuple[str, str]:
    return answer.state_key, answer.call_id
