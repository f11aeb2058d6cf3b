"""Dead letters in groups: how many, how old, what of it is parked still, and the orders and money at stake.

`crossdock dlt list` shows them. Read from the dead-letter topics and the replays alone: a letter is parked until the replays say
that its message left the queue. Little is decoded: of the messages that are parked still, one of each type and order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from crossdock_eventing.broker.interface import Headers, Record
from crossdock_eventing.clock import to_micros
from crossdock_eventing.deadletter import Outline, outline
from crossdock_eventing.parking.formats import key_text
from crossdock_tools.dead_letters.replays import Place

if TYPE_CHECKING:
    from crossdock_tools.dead_letters.payloads import Payloads

BEHIND: Final = "parked.behind"
COLUMNS: Final = ("service", "code", "topic", "age")
_AGES = ((3_600_000, "< 1 h"), (86_400_000, "< 1 d"), (7 * 86_400_000, "< 7 d"))
_OLDER = "7 d or more"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Group:
    """Letters that share what they are grouped by; messages that wait behind a rejected one count to its group.

    letters: copies on the topic; one message has several when it was rejected several times. behind: of them, those that only
    wait. parked, settled: messages. loose: letters that nobody parks: without a key, or of a writer that keeps no queues. keys,
    orders: distinct ones that are parked.
    stake: minor units by currency, of each parked order the largest amount that the first message of each type names.
    Times are when letters were written, ms since the epoch.
    """

    by: tuple[str, ...]
    oldest_ms: int
    newest_ms: int
    letters: int = 0
    behind: int = 0
    loose: int = 0
    parked: set[Place] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    stake: dict[str, int] = field(default_factory=dict)
    orders: set[str] = field(default_factory=set)
    _settled: set[Place] = field(default_factory=set)
    _samples: dict[tuple[str, bytes], tuple[bytes, Headers]] = field(default_factory=dict)

    def count(self, record: Record, found: Outline, place: Place, *, gone: bool, parks: bool) -> None:
        """Take one letter in."""
        self.letters += 1
        stamp_ms = record.timestamp_ms
        if stamp_ms < self.oldest_ms:
            self.oldest_ms = stamp_ms
        elif stamp_ms > self.newest_ms:
            self.newest_ms = stamp_ms
        if found.code == BEHIND:
            self.behind += 1
        if not parks:
            self.loose += 1
        elif gone:
            self._settled.add(place)
        else:
            self.parked.add(place)
            self.keys.add(place[3])
            order = found.correlation_id or place[3]
            self.orders.add(order)
            sample = order, found.kind
            if sample not in self._samples and record.value is not None:
                self._samples[sample] = record.value, record.headers

    @property
    def settled(self) -> int:
        return len(self._settled)

    def weigh(self, payloads: Payloads) -> None:
        """Work out what is at stake. Raises RegistryUnavailable."""
        from crossdock_eventing.codec import Undecodable
        from crossdock_tools.dead_letters.worth import add, may_name_money, worth

        largest: dict[str, tuple[str, int]] = {}
        worthless: set[bytes] = set()
        for (order, kind), (value, headers) in self._samples.items():
            if kind in worthless:
                continue
            try:
                body = payloads.read(value, headers).body
            except Undecodable:
                continue
            found = worth(body)
            if found is not None and found[1] > largest.get(order, ("", -1))[1]:
                largest[order] = found
            elif kind and not may_name_money(type(body)):
                worthless.add(kind)
        for currency, minor in largest.values():
            add(self.stake, currency, minor)


def grouped(
    letters: Iterable[Record],
    *,
    services: Mapping[str, str],
    parking: frozenset[str],
    gone: Mapping[str, set[Place]],
    by: Sequence[str],
    now: datetime,
) -> list[Group]:
    """The letters in groups, oldest first.

    services: dead-letter topic -> service, for a foreign topic whatever names its writer. parking: those of them that park.
    gone: messages that left the queues, by service. by: of COLUMNS. now: what ages are taken at.
    """
    now_ms = to_micros(now) // 1000
    found: dict[tuple[str, ...], Group] = {}
    opened: dict[tuple[str, bytes | None], tuple[str, str]] = {}
    nothing: set[Place] = set()
    for record in letters:
        letter = outline(record.headers)
        service = services[record.topic]
        code, topic = letter.code or "?", letter.topic or "?"
        if code == BEHIND:
            code, topic = opened.get((record.topic, record.key), (code, topic))
        else:
            opened[record.topic, record.key] = code, topic
        values = {"service": service, "code": code, "topic": topic}
        if "age" in by:
            values["age"] = _age(now_ms - record.timestamp_ms)
        names = tuple(values[each] for each in by)
        group = found.get(names)
        if group is None:
            stamp = record.timestamp_ms
            group = found[names] = Group(names, oldest_ms=stamp, newest_ms=stamp)
        place = (letter.topic or "", letter.partition or 0, letter.offset or 0, key_text(record.key or b""))
        group.count(
            record,
            letter,
            place,
            gone=place in gone.get(service, nothing),
            parks=bool(record.key) and service in parking,
        )
    return sorted(found.values(), key=lambda group: (group.oldest_ms, group.by))


def as_json(group: Group, by: Sequence[str]) -> dict[str, Any]:
    """One group for programs."""
    from crossdock_tools.reasons import reason

    known = reason(dict(zip(by, group.by, strict=True)).get("code", ""))
    return {
        **dict(zip(by, group.by, strict=True)),
        "letters": group.letters,
        "behind": group.behind,
        "parked": len(group.parked),
        "settled": group.settled,
        "loose": group.loose,
        "keys": len(group.keys),
        "orders": len(group.orders),
        "stake_minor": dict(sorted(group.stake.items())),
        "oldest": iso(group.oldest_ms),
        "newest": iso(group.newest_ms),
        "owner": None if known is None else known.owner,
        "severity": None if known is None else known.severity,
    }


def iso(stamp_ms: int) -> str:
    """A time stamp for programs: ISO 8601, UTC, milliseconds."""
    return (_EPOCH + timedelta(milliseconds=stamp_ms)).isoformat(timespec="milliseconds")


def _age(age_ms: int) -> str:
    return next((name for limit, name in _AGES if age_ms < limit), _OLDER)
