"""What warehouses report of many skus, and the bug that stops it: the same for the proofs in memory and on Kafka."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from random import Random
from typing import Any

from crossdock_canonical.decider import Rejected
from crossdock_canonical.identity import LocationId, Sku
from crossdock_canonical.records import Bucket, StockMovement, StockSnapshot
from crossdock_canonical.specification import T0
from crossdock_eventing.broker.interface import Broker
from crossdock_eventing.clock import Clock, to_micros
from crossdock_eventing.codec import Codec
from crossdock_eventing.envelope import headers, record_key, wrap
from crossdock_eventing.registry import SchemaSource
from crossdock_eventing.service import Service

#: The service with the bug, and the code under which it rejects.
STRUCK = "inventory-availability"
CODE = "stock.units_not_positive"

_LOCATION = LocationId("WH")


def transfers(command: Any) -> bool:
    """The bug: goods that come from another location are taken for movements of nothing."""
    return isinstance(command, StockMovement) and command.reason == "transfer"


def everything(command: Any) -> bool:
    """A worse one: so is whatever a feed reports."""
    return isinstance(command, StockMovement | StockSnapshot)


def faulty(service: Service, refuses: Callable[[Any], bool]) -> Service:
    """The service as a release with a bug has it: it rejects what the bug refuses."""

    def decide(command: Any, state: Any, **context: Any) -> Any:
        if refuses(command):
            raise Rejected(CODE, f"{command.ref}: 0 units")
        return service.decide(command, state, **context)

    return replace(service, decide=decide)


class Feed:
    """Publishes as the gateway does. Event ids follow from how many records were sent before: the same traffic has the same ids."""

    def __init__(self, broker: Broker, registry: SchemaSource, clock: Clock) -> None:
        self._broker = broker
        self._registry = registry
        self._clock = clock
        self._sent = 0
        self._codecs: dict[type, Codec] = {}

    def send(self, records: Iterable[Any]) -> None:
        """All of them in one transaction."""
        producer = self._broker.producer("proof-gateway")
        producer.init_transactions()
        producer.begin()
        now = self._clock.now()
        for record in records:
            kind = type(record)
            codec = self._codecs.get(kind)
            if codec is None:
                codec = self._codecs[kind] = Codec(self._registry, written=[(kind, kind.TOPIC)], read=())
            self._sent += 1
            meta = wrap(
                record,
                causation_id=f"delivery/{self._sent}",
                correlation_id="",
                now=now,
                source="/crossdock/channel-gateway",
                attributes={},
            )
            producer.produce(
                kind.TOPIC,
                key=record_key(record).encode(),
                value=codec.encode(record, meta),
                headers=headers(meta, kind.SCHEMA, None),
                timestamp_ms=to_micros(now) // 1000,
            )
        producer.commit()
        producer.close()


@dataclass(frozen=True, slots=True)
class Traffic:
    """What warehouses report of some skus: receipts, sales, transfers, and counts that differ from the books.

    `before` comes first, `after` while what was parked of it is being replayed. Of each sku exactly `parked` messages come from
    its first transfer on, which is where the bug strikes.
    """

    before: tuple[Any, ...]
    after: tuple[Any, ...]
    parked: int

    @property
    def order(self) -> dict[str, list[str]]:
        """The references of each sku, in the order in which they come."""
        found: dict[str, list[str]] = {}
        for record in (*self.before, *self.after):
            found.setdefault(record.sku, []).append(record.ref)
        return found


def traffic(seed: int, *, keys: int, each: int, prefix: str = "SKU") -> Traffic:
    """So many skus, of each of which `each` messages will be parked; one more comes afterwards."""
    chance = Random(seed)
    before: list[tuple[float, int, Any]] = []
    after: list[Any] = []
    for number in range(keys):
        sku = Sku(f"{prefix}-{number:05}")
        healthy = chance.randint(1, 3)
        came = sorted(chance.random() for _ in range(healthy + each))
        for place in range(healthy + each + 1):
            if place == healthy:
                reason = "transfer"
            elif not place:
                reason = "count"
            else:
                reason = chance.choice(
                    ("receipt", "sale", "count", *(["transfer"] if place > healthy else []))
                )
            record = _report(sku, place, reason, chance.randint(1, 9))
            if place < len(came):
                before.append((came[place], number, record))
            else:
                after.append(record)
    before.sort(key=lambda found: found[:2])
    return Traffic(tuple(record for _, _, record in before), tuple(after), keys * each)


def _report(sku: Sku, place: int, reason: str, units: int) -> StockSnapshot | StockMovement:
    ref, at = f"{sku}/{place}", T0 + timedelta(seconds=place)
    if reason == "count":
        return StockSnapshot(
            sku=sku, location=_LOCATION, units=100 + units, as_of=at, feed="wms", sequence=place, ref=ref
        )
    return StockMovement(
        sku=sku,
        location=_LOCATION,
        bucket=Bucket.ON_HAND,
        delta=-units if reason == "sale" else units,
        moved_at=at,
        feed="wms",
        sequence=place,
        reason=reason,
        ref=ref,
    )
