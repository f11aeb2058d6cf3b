"""Reads the backbone's commands and news, and has them carried out: one consumer group, one window of work a partition.

Order is kept per key: a key's next record starts when the one before is settled. Different keys of a partition run beside
each other, partitions are independent, and a partition whose system is away is paused while the others go on. An offset is
committed only when it and everything before it is settled, so a crash repeats work and never skips it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from crossdock_channel_gateway.courier import Courier, Never
from crossdock_channel_gateway.effects import OUTBOUND, effect_of
from crossdock_channel_gateway.metrics import Metrics
from crossdock_eventing.broker.interface import Headers, Record, TopicPartition
from crossdock_eventing.codec import Undecodable
from crossdock_eventing.deadletter import dead_letter_headers
from crossdock_eventing.envelope import Meta, header
from crossdock_eventing.names import dead_letter_topic, group

SERVICE = "channel-gateway"
TOPICS: tuple[str, ...] = tuple(sorted({kind.TOPIC for kind in OUTBOUND}))
_WANTED = frozenset(kind.SCHEMA.encode() for kind in OUTBOUND)
_REVOKE_GRACE_S = 2.0
_UNCOMMITTED_MAX = 10_000  # Records behind an unsettled one: bounds memory, and what a crash repeats.


class Decoder(Protocol):
    """The part of the shell's codec that is used."""

    def decode(self, value: bytes | None, found: Headers = ()) -> tuple[Meta, Any]: ...


class DeadLetters(Protocol):
    """Where records go that can never be carried out."""

    async def write(self, topic: str, record: Record, headers: Headers) -> None:
        """Returns once the broker has acknowledged; waits as long as it is away."""


class Handler:
    """Settles one record: skips, carries out, or dead-letters it."""

    def __init__(
        self, decoder: Decoder, courier: Courier, dead_letters: DeadLetters, metrics: Metrics
    ) -> None:
        self._decoder = decoder
        self._courier = courier
        self._dead_letters = dead_letters
        self._metrics = metrics

    async def settle(self, record: Record, *, fresh: bool) -> None:
        kind = (header(record.headers, "event_type") or b"").decode(errors="replace")
        try:
            _, found = self._decoder.decode(record.value, record.headers)
        except Undecodable as error:
            await self._give_up(record, kind, code=error.code, detail=error.detail, error=error)
            return
        effect = effect_of(found)
        if effect is None:
            self._metrics.outbound.labels(kind, "no_news").inc()
            return
        refused = await self._courier.carry_out(kind, effect, fresh=fresh)
        if isinstance(refused, Never):
            await self._give_up(record, kind, code="outbound.refused", detail=refused.reason, error=None)
            return
        self._metrics.outbound.labels(kind, "settled").inc()

    async def _give_up(
        self, record: Record, kind: str, *, code: str, detail: str, error: BaseException | None
    ) -> None:
        headers = dead_letter_headers(record, code=code, detail=detail, error=error, group=group(SERVICE))
        await self._dead_letters.write(dead_letter_topic(SERVICE), record, headers)
        self._metrics.outbound.labels(kind, "dead_lettered").inc()


class _Entry(NamedTuple):
    offset: int
    work: asyncio.Task[None] | None  # None: skipped by its header.


class Window:
    """Records of one partition in work. `known_before` is the offset below which an earlier owner may have acted."""

    def __init__(
        self,
        settle: Callable[..., Awaitable[None]],
        *,
        lanes: int,
        known_before: int,
        capacity: int | None = None,
    ) -> None:
        self._settle = settle
        self._lanes = asyncio.Semaphore(lanes)
        self._capacity = capacity or lanes * 4
        self._known_before = known_before
        self._entries: deque[_Entry] = deque()
        self._last_of_key: dict[bytes, asyncio.Task[None]] = {}
        self._waiting = 0

    @property
    def full(self) -> bool:
        return self._waiting >= self._capacity or len(self._entries) >= _UNCOMMITTED_MAX

    @property
    def waiting(self) -> int:
        return self._waiting

    def offer(self, records: Iterable[Record]) -> None:
        """Take records in offset order."""
        for record in records:
            if header(record.headers, "event_type") not in _WANTED:
                self._entries.append(_Entry(record.offset, None))
                continue
            key = record.key or b""
            work = asyncio.create_task(self._work(record, self._last_of_key.get(key)))
            self._last_of_key[key] = work
            self._waiting += 1
            work.add_done_callback(partial(self._settled, key))
            self._entries.append(_Entry(record.offset, work))

    def settled_before(self) -> int | None:
        """Offset to commit: the next after the settled head of the window; None when the head is unsettled."""
        found = None
        while self._entries and _is_settled(self._entries[0]):
            found = self._entries.popleft().offset + 1
        return found

    async def close(self) -> None:
        """Let what runs finish shortly, then stop; what is unsettled is done by the next owner."""
        running = [entry.work for entry in self._entries if entry.work is not None and not entry.work.done()]
        if not running:
            return
        _, late = await asyncio.wait(running, timeout=_REVOKE_GRACE_S)
        for work in late:
            work.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _work(self, record: Record, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        async with self._lanes:
            await self._settle(record, fresh=record.offset >= self._known_before)

    def _settled(self, key: bytes, work: asyncio.Task[None]) -> None:
        self._waiting -= 1
        if self._last_of_key.get(key) is work:
            del self._last_of_key[key]


def _is_settled(entry: _Entry) -> bool:
    if entry.work is None:
        return True
    if not entry.work.done() or entry.work.cancelled():
        return False
    fault = entry.work.exception()
    if fault is not None:
        raise fault  # Unforeseen: the process must fail rather than skip the record.
    return True


class Source(Protocol):
    """The consumer as the loop uses it; `kafka` adapts aiokafka to it."""

    async def poll(self) -> Mapping[TopicPartition, Sequence[Record]]:
        """Records that arrived; waits shortly when there are none."""

    async def end_offset(self, partition: TopicPartition) -> int: ...

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None: ...

    def pause(self, partition: TopicPartition) -> None: ...

    def resume(self, partition: TopicPartition) -> None: ...


class Outbound:
    """The loop: poll, hand to windows, commit what is settled. `revoke` is called before partitions move away."""

    def __init__(self, source: Source, handler: Handler, metrics: Metrics, *, lanes: int) -> None:
        self._source = source
        self._handler = handler
        self._metrics = metrics
        self._lanes = lanes
        self._windows: dict[TopicPartition, Window] = {}
        self._paused: set[TopicPartition] = set()

    async def run(self) -> None:
        """Until cancelled. Raises what no one anticipated."""
        try:
            while True:
                await self.step()
        finally:
            await self.revoke(list(self._windows))

    async def step(self) -> None:
        for partition, records in (await self._source.poll()).items():
            window = self._windows.get(partition)
            if window is None:
                known_before = await self._source.end_offset(partition)
                window = Window(self._handler.settle, lanes=self._lanes, known_before=known_before)
                self._windows[partition] = window
            window.offer(records)
        self._regulate()
        await self._commit(self._windows)
        self._metrics.waiting.set(sum(window.waiting for window in self._windows.values()))

    def _regulate(self) -> None:
        """Pause what has enough work; resume what has room again."""
        for partition, window in self._windows.items():
            if window.full and partition not in self._paused:
                self._source.pause(partition)
                self._paused.add(partition)
            elif not window.full and partition in self._paused:
                self._source.resume(partition)
                self._paused.discard(partition)

    async def _commit(self, windows: Mapping[TopicPartition, Window]) -> None:
        settled = {partition: window.settled_before() for partition, window in windows.items()}
        offsets = {partition: offset for partition, offset in settled.items() if offset is not None}
        if offsets:
            await self._source.commit(offsets)

    async def revoke(self, partitions: Iterable[TopicPartition]) -> None:
        """Finish, commit and forget these partitions."""
        leaving = {
            partition: self._windows[partition] for partition in partitions if partition in self._windows
        }
        await asyncio.gather(*(window.close() for window in leaving.values()))
        await self._commit(leaving)
        for partition in leaving:
            del self._windows[partition]
            self._paused.discard(partition)
