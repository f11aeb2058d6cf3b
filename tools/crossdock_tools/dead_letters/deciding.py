"""Deciders on states in memory: one service's, and the ERP poster's for what follows from facts. Used by the dry run.

Tables are read as they are now. Nothing is written and no call is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Self

from crossdock_eventing.broker.interface import Broker
from crossdock_eventing.broker.partitioner import partition_for
from crossdock_eventing.decision import Cause, Decider, Decision
from crossdock_eventing.envelope import Meta
from crossdock_eventing.registry import SchemaSource
from crossdock_eventing.replay_check import reading_codec
from crossdock_eventing.service import Service
from crossdock_eventing.tables import Tables
from crossdock_tools.dead_letters.changelog import read_changelog
from crossdock_tools.dead_letters.effects import Effect, effects_of


class Deciding:
    """A service's decider on states in memory."""

    def __init__(
        self,
        service: Service,
        states: Mapping[str, bytes],
        partitions: int,
        broker: Broker,
        registry: SchemaSource,
        now: datetime,
    ) -> None:
        self.service = service
        self._codec = reading_codec(registry, service)
        self._encoded = states
        self._states: dict[str, Any | None] = {}
        self._now = now
        self._tables = Tables(broker, self._codec, service.tables, lambda _topic: None)
        self._tables.catch_up()
        self.decider = Decider(service, self._codec, partitions=partitions, partition_of=partition_for)

    def decide(self, key: str, command: Any, cause: Cause) -> Decision:
        """Decide and apply. Raises whatever the decider does."""
        self._tables.begin_decision()
        decision = self.decider.decide(
            command, self._state(key), cause=cause, now=self._now, tables=self._tables.views
        )
        self._states[key] = decision.state
        return decision

    def _state(self, key: str) -> Any | None:
        if key not in self._states:
            encoded = self._encoded.get(key)
            self._states[key] = None if encoded is None else self._codec.decode_state(encoded)
        return self._states[key]

    def close(self) -> None:
        self._tables.close()
        if self.service.port is not None:
            self.service.port.close()


class Books:
    """What the ERP poster would make of facts: its decider on its own states. Without a poster nothing."""

    def __init__(self, poster: Service | None, broker: Broker, registry: SchemaSource, now: datetime) -> None:
        self._poster = poster
        self._make = broker, registry, now
        self._deciding: Deciding | None = None
        self._parked: frozenset[str] = frozenset()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._deciding is not None:
            self._deciding.close()

    def documents(self, decision: Decision) -> list[Effect]:
        """The documents that follow from what a decision publishes."""
        if self._poster is None:
            return []
        found: list[Effect] = []
        for body, meta in decision.outputs:
            if type(body) in self._poster.inputs:
                found += self._book(self._poster, body, meta)
        return found

    def _book(self, poster: Service, body: Any, meta: Meta) -> list[Effect]:
        deciding = self._opened(poster)
        assert poster.state_key is not None
        key = poster.state_key(body)
        if record_key_of(poster, key) in self._parked:
            return []  # it will wait there behind what is parked
        try:
            decided = deciding.decide(key, body, Cause(meta.event_id, meta.correlation_id, meta.attributes))
        except poster.rejected:
            return []
        return effects_of(decided)

    def _opened(self, poster: Service) -> Deciding:
        if self._deciding is None:
            broker, registry, now = self._make
            changelog = read_changelog(broker, poster.name, states=lambda _name: True)
            self._parked = frozenset(changelog.parked)
            self._deciding = Deciding(poster, changelog.states, changelog.partitions, broker, registry, now)
        return self._deciding


def record_key_of(service: Service, state_key: str) -> str:
    return state_key if service.record_key is None else service.record_key(state_key)
