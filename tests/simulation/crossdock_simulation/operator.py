"""The operator of a simulated world: sees dead letters and deals with every parked key, clumsily. Stepped by `world`.

It tries again what cannot succeed, discards it, lets the rest go, sends instructions twice and plans twice; in the end it leaves
no key parked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from random import Random

from crossdock_eventing import names
from crossdock_eventing.broker.failure import BrokerError
from crossdock_eventing.broker.interface import TopicPartition
from crossdock_eventing.broker.memory import MemoryBroker
from crossdock_eventing.clock import ManualClock
from crossdock_eventing.parking.formats import (
    Instruction,
    Park,
    Queued,
    digest,
    key_bytes,
    key_text,
    parked_key,
    queue_name,
)

_DELAYS_S = (0.0, 0.5, 60.0, 7200.0, 259_200.0)
_AGAIN_S = 5.0


class Operator:
    """Looks at the dead letters in every round, and acts on a service's parked keys when their time comes."""

    def __init__(
        self,
        seed: int,
        broker: MemoryBroker,
        services: Iterable[str],
        clock: ManualClock,
        say: Callable[[str], None],
        *,
        delays_s: Sequence[float] = _DELAYS_S,
    ) -> None:
        """delays_s: how long it may take to act."""
        self._delays_s = delays_s
        self._chance = Random(f"{seed}/operator")
        self._broker = broker
        self._clock = clock
        self._say = say
        self._due: dict[str, float] = {}
        self._plans = 0
        self._letters = {service: broker.readable([names.dead_letter_topic(service)]) for service in services}
        self._seen = {service: letters() for service, letters in self._letters.items()}

    def step(self) -> bool:
        """Notice new letters, act where it is time; whether anything was sent."""
        if self._broker.faults.away:
            return False
        for service, letters in self._letters.items():
            if (found := letters()) != self._seen[service]:
                self._seen[service] = found
                self._due.setdefault(service, self._clock.monotonic_s() + self._chance.choice(self._delays_s))
        now_s = self._clock.monotonic_s()
        acting = [service for service, at_s in self._due.items() if at_s <= now_s]
        acted = [self._act(service) for service in acting]
        return any(acted)

    def next_s(self) -> float | None:
        """When it acts next."""
        return min(self._due.values(), default=None)

    def _act(self, service: str) -> bool:
        try:
            parked, entries = self._parked(service)
            if not parked:
                del self._due[service]
                return False
            self._due[service] = self._clock.monotonic_s() + _AGAIN_S
            for key, park in parked.items():
                self._send(service, self._instructions(key, park, entries))
        except BrokerError:
            self._due[service] = self._clock.monotonic_s() + _AGAIN_S
        return True

    def _instructions(self, key: str, park: Park, entries: dict[str, bytes]) -> list[Instruction]:
        """What it makes of one parked key: now and then only a vain try, else away with the head and on with the rest."""
        self._plans += 1
        release = Instruction(
            plan=f"plan-{self._plans}",
            item=1,
            operator="simulated",
            reason="its sender was told",
            key=key,
            op="release",
            episode=park.episode,
        )
        if self._chance.random() < 0.2:
            sent = [release]
        else:
            head = Queued.from_json(key, json.loads(entries[queue_name(key, park.head)]))
            discard = replace(release, item=0, op="discard", seq=park.head, before=digest(head.record.value))
            # Between the look and the act the head may have gone: what was never decided must not be thrown away.
            sent = [discard, release] if head.attempt else [release]
        if self._chance.random() < 0.2:
            sent += sent
        return sent

    def _parked(self, service: str) -> tuple[dict[str, Park], dict[str, bytes]]:
        """The service's parked keys, and its own entries by name, as the changelog has them."""
        entries: dict[str, bytes] = {}
        partitions = self._partitions(names.changelog_topic(service))
        reader = self._broker.reader()
        reader.assign({each: reader.watermarks(each).low for each in partitions})
        for record in reader.poll(1_000_000, 0.0):
            name = key_text(record.key or b"")
            if record.value is None:
                entries.pop(name, None)
            else:
                entries[name] = record.value
        reader.close()
        parks = {
            key: Park.from_json(json.loads(value))
            for name, value in entries.items()
            if (key := parked_key(name)) is not None
        }
        return parks, entries

    def _send(self, service: str, instructions: list[Instruction]) -> None:
        producer = self._broker.producer("operator")
        producer.init_transactions()
        producer.begin()
        for each in instructions:
            self._say(f"operator: {service} {each.op} {each.key} ({each.plan}/{each.item})")
            producer.produce(names.retry_topic(service), key=key_bytes(each.key), value=each.to_bytes())
        producer.commit()
        producer.close()

    def _partitions(self, topic: str) -> list[TopicPartition]:
        return [TopicPartition(topic, number) for number in range(self._broker.admin().partitions(topic))]
