"""What became of instructions: the entries of services' replays, and which instructions of a plan were sent.

Read by everything that asks what was settled: the list, a running plan, certificates, the history.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from crossdock_eventing import names
from crossdock_eventing.broker.interface import Broker
from crossdock_eventing.parking.formats import Instruction, Malformed, ReplayEntry
from crossdock_tools.topic_reader import TopicReader

if TYPE_CHECKING:
    from crossdock_eventing.registry import SchemaSource

#: Outcomes after which a message is parked no more.
GONE: Final = frozenset({"applied", "ignored", "discarded"})
#: Outcome of an instruction that is still being worked off.
UNDER_WAY: Final = "continuing"
#: Outcome of an instruction that came twice, or whose messages had gone: what it asked for was settled otherwise.
ALREADY: Final = "already"

#: Original topic, partition, offset, and parked key.
Place = tuple[str, int, int, str]


@dataclass(frozen=True, slots=True)
class Said:
    """One entry of the replays, and whose it is."""

    service: str
    partition: int
    entry: ReplayEntry


class ReplayReader:
    """Reads replays forward. Topics that do not exist have no entries."""

    def __init__(self, broker: Broker, registry: SchemaSource, services: Iterable[str]) -> None:
        admin = broker.admin()
        there = admin.topics()
        admin.close()
        self._services = {
            names.replays_topic(each): each for each in services if names.replays_topic(each) in there
        }
        self._reader = TopicReader(broker, registry, list(self._services))

    def entries(self) -> Iterator[Said]:
        """Every entry since the last call, up to the ends as they are now; what is no entry is left to `chain`."""
        for record in self._reader.records():
            try:
                entry = ReplayEntry.from_bytes(record.value)
            except Malformed:
                continue
            yield Said(self._services[record.topic], record.partition, entry)

    def close(self) -> None:
        self._reader.close()


class Ledger:
    """What the instructions of one plan have come to, item by item.

    outcomes: the last word on each item; one that merely came again does not replace it. said: every entry of the plan, in order
    of each partition. taken: sequence numbers that this plan took from the queue of each key.
    """

    def __init__(self, plan: str) -> None:
        self._plan = plan
        self.outcomes: dict[int, ReplayEntry] = {}
        self.said: list[Said] = []
        self.taken: dict[str, set[int]] = {}

    def take(self, said: Said) -> bool:
        """Whether the entry is of this plan; then it counts."""
        entry = said.entry
        if entry.plan != self._plan:
            return False
        self.said.append(said)
        gone = {message.seq for message in entry.messages if message.outcome in GONE}
        if entry.op != "inject":
            self.taken.setdefault(entry.key, set()).update(gone)
        if entry.outcome == UNDER_WAY or (entry.outcome == ALREADY and entry.item in self.outcomes):
            return True
        self.outcomes[entry.item] = entry
        return True


def settled(said: Iterable[Said]) -> dict[str, set[Place]]:
    """The messages that left the queues of each service."""
    found: dict[str, set[Place]] = {}
    for each in said:
        gone = found.setdefault(each.service, set())
        for message in each.entry.messages:
            if message.outcome in GONE:
                gone.add((message.topic, message.partition, message.offset, each.entry.key))
    return found


def sent_items(broker: Broker, registry: SchemaSource, service: str, plan: str) -> set[int]:
    """The items of a plan whose instructions lie on the service's retry topic."""
    marker = plan.encode()
    reader = TopicReader(broker, registry, [names.retry_topic(service)])
    found = set()
    try:
        for record in reader.records():
            if record.value is None or marker not in record.value:
                continue
            try:
                instruction = Instruction.from_bytes(record.value)
            except Malformed:
                continue
            if instruction.plan == plan:
                found.add(instruction.item)
    finally:
        reader.close()
    return found
