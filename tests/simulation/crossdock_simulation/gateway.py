"""The channel-gateway of the simulated world: publishes what comes in, carries out what goes out.

It translates with the gateway's own `effect_of` and keeps its promises, no better and no worse: the same delivery has the same
event ids, may be published twice, the first time by half, and is never lost once accepted; an outbound record is carried out at
least once, in order per key, and everything not yet settled is carried out again after a crash. Its HTTP and its consumer are
not simulated.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from crossdock_channel_gateway.effects import OUTBOUND, Effect, effect_of
from crossdock_eventing.broker.interface import Producer, TopicPartition
from crossdock_eventing.broker.memory import MemoryBroker
from crossdock_eventing.clock import Clock, to_micros
from crossdock_eventing.codec import Codec
from crossdock_eventing.envelope import header, headers, record_key, wrap
from crossdock_eventing.registry import SchemaSource
from crossdock_simulation.outside import Declined, System
from crossdock_simulation.workload import RawRecord

_TOPICS = tuple(sorted({kind.TOPIC for kind in OUTBOUND}))
_WANTED = frozenset(kind.SCHEMA.encode() for kind in OUTBOUND)
_RETRY_FIRST_S, _RETRY_MAX_S = 0.5, 30.0
_REDELIVERED_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What reaches the gateway at once. `raw` are bytes that somebody put on a topic past it."""

    id: str
    label: str
    records: tuple[Any, ...]
    occurred_at: datetime | None = None
    raw: tuple[RawRecord, ...] = ()


@dataclass(slots=True)
class _Errand:
    """One effect on its way. `settled` records may be repeated after a crash until their offset was committed."""

    command: Any
    effect: Effect
    settled: bool = False


class Edge:
    """Writes intake records as the gateway does. One per registry: encoders are made once."""

    def __init__(self, registry: SchemaSource) -> None:
        self._registry = registry
        self._codecs: dict[type[Any], Codec] = {}

    def write(self, producer: Producer, delivery: Delivery, clock: Clock) -> None:
        """Publish one delivery in one transaction."""
        now = clock.now()
        now_ms = to_micros(now) // 1000
        producer.begin()
        for raw in delivery.raw:
            producer.produce(
                raw.topic,
                key=raw.key,
                value=raw.value,
                headers=(("event_type", raw.event_type.encode()),),
                timestamp_ms=now_ms,
            )
        for record in delivery.records:
            kind = type(record)
            codec = self._codecs.get(kind)
            if codec is None:
                codec = self._codecs[kind] = Codec(self._registry, written=[(kind, kind.TOPIC)], read=())
            meta = wrap(
                record,
                causation_id=delivery.id,
                correlation_id=delivery.id,
                now=now,
                source="/crossdock/channel-gateway",
                attributes={},
                occurred_at=delivery.occurred_at,
            )
            producer.produce(
                kind.TOPIC,
                key=record_key(record).encode(),
                value=codec.encode(record, meta),
                headers=headers(meta, kind.SCHEMA, None),
                timestamp_ms=now_ms,
            )
        producer.commit()


class Gateway:
    """Both directions. `step` moves whatever is due; times are simulated seconds since the start."""

    def __init__(
        self, broker: MemoryBroker, edge: Edge, decoder: Codec, clock: Clock, say: Callable[[str], None]
    ) -> None:
        self._edge = edge
        self._faults = broker.faults
        self._decoder = decoder
        self._clock = clock
        self._say = say
        self.systems: dict[str, System] = {}
        self._producer = broker.producer("channel-gateway")
        self._producer.init_transactions()
        self._reader = broker.reader()
        admin = broker.admin()
        self._reader.assign(
            {TopicPartition(topic, n): 0 for topic in _TOPICS for n in range(admin.partitions(topic))}
        )
        self._arriving: list[tuple[float, int, Delivery]] = []
        self._arrived = 0
        self._queues: dict[tuple[str, str], deque[_Errand]] = {}
        self._retries: dict[tuple[str, str], tuple[float, float]] = {}  # queue: not before, next wait
        self._uncommitted: list[_Errand] = []
        self.away_until_s: dict[str, float] = {}
        self.lost_answers: dict[str, int] = {}
        self.lost_requests: dict[str, int] = {}
        self.repeats = 0
        self.delay_s = 0.0

    # ---- in

    def arrive(self, at_s: float, delivery: Delivery) -> None:
        """A delivery will reach the gateway at this time."""
        self._arrived += 1
        heapq.heappush(self._arriving, (at_s, self._arrived, delivery))

    def report(self, delivery: str, record: Any) -> None:
        """An event of a system of the outside, posted now."""
        at_s = self._clock.monotonic_s() + self.delay_s
        self.arrive(at_s, Delivery(id=delivery, label=_label(record), records=(record,)))

    def delay_no_more(self) -> None:
        """Events arrive at once again."""
        self.delay_s = 0.0

    # ---- both

    def next_s(self) -> float | None:
        """When something is due next."""
        due = [self._arriving[0][0]] if self._arriving else []
        due += [self._retries.get(name, (0.0, 0.0))[0] for name, queue in self._queues.items() if queue]
        return min(due, default=None)

    def step(self) -> bool:
        """Publish what has arrived, read commands, try every queue's head once; whether anything moved."""
        if self._faults.away:
            return False  # it waits for the broker, and answers 503 meanwhile
        now_s = self._clock.monotonic_s()
        moved = self._publish(now_s)
        moved |= self._read()
        for name, queue in list(self._queues.items()):
            if queue and self._retries.get(name, (0.0, 0.0))[0] <= now_s:
                self._attempt(name, queue, now_s)
                moved = True
            if not queue:
                del self._queues[name]
        return moved

    def crash(self) -> None:
        """The process died and is back: whatever was not committed is carried out again, in the same order."""
        self._say("gateway died; carries out again what it had not committed")
        again, self._uncommitted = self._uncommitted, []
        self._queues.clear()
        self._retries.clear()
        for errand in again:
            errand.settled = False
            self._enqueue(errand)

    def commit(self) -> None:
        """Offsets of what is settled are committed: a crash repeats it no more."""
        while self._uncommitted and self._uncommitted[0].settled:
            self._uncommitted.pop(0)

    def _publish(self, now_s: float) -> bool:
        moved = False
        while self._arriving and self._arriving[0][0] <= now_s:
            _, _, delivery = heapq.heappop(self._arriving)
            moved = True
            if self.repeats:
                self.repeats -= 1
                self.arrive(now_s + _REDELIVERED_S, delivery)
                if len(delivery.records) > 1:
                    # Records are sent one by one: what was written before the gateway gave up stays, and comes again.
                    half = replace(delivery, records=delivery.records[: len(delivery.records) // 2])
                    self._say(f"in   {delivery.label} (half of it; its sender is told to come again)")
                    self._edge.write(self._producer, half, self._clock)
                    continue
            self._say(f"in   {delivery.label}")
            self._edge.write(self._producer, delivery, self._clock)
        return moved

    def _read(self) -> bool:
        records = self._reader.poll(1000, 0.0)
        for record in records:
            if header(record.headers, "event_type") in _WANTED:
                _, command = self._decoder.decode(record.value, record.headers)
                effect = effect_of(command)
                if effect is not None:
                    self._enqueue(_Errand(command, effect))
        return bool(records)

    def _enqueue(self, errand: _Errand) -> None:
        self._uncommitted.append(errand)
        name = (errand.effect.system, errand.command.order_id)
        self._queues.setdefault(name, deque()).append(errand)

    def _attempt(self, name: tuple[str, str], queue: deque[_Errand], now_s: float) -> None:
        errand, system = queue[0], name[0]
        if now_s < self.away_until_s.get(system, 0.0) or self._take(self.lost_requests, system):
            self._later(name, now_s)
            return
        label = f"{errand.effect.method} {errand.effect.path[:70]}"
        try:
            self.systems[system].carry_out(errand.command, errand.effect)
        except Declined as declined:
            if self._take(self.lost_answers, system):
                self._later(name, now_s)
                return
            self._say(f"out  {system} declined {label}: {declined}")
            if errand.effect.refused is not None:
                told = errand.effect.refused(str(declined))
                report = Delivery(id=told.delivery, label=f"{system} refused", records=told.records)
                self.arrive(now_s, report)
        else:
            if self._take(self.lost_answers, system):
                self._say(f"out  {system} {label}: done, the answer was lost")
                self._later(name, now_s)
                return
            self._say(f"out  {system} {label}")
        self._retries.pop(name, None)
        queue.popleft()
        errand.settled = True

    def _later(self, name: tuple[str, str], now_s: float) -> None:
        _, wait_s = self._retries.get(name, (0.0, _RETRY_FIRST_S))
        self._retries[name] = (now_s + wait_s, min(wait_s * 2, _RETRY_MAX_S))

    def _take(self, faults: dict[str, int], system: str) -> bool:
        if not faults.get(system):
            return False
        faults[system] -= 1
        return True


def _label(record: Any) -> str:
    """The event and what it is about."""
    about = next((getattr(record, name) for name in record.IDENTITY), "")
    return f"{type(record).__name__} {about}"
