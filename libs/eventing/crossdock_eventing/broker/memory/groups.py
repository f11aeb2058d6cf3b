"""The group coordinator of the in-memory broker: KIP-848 groups with the range assignor and static members.

Used by `cluster` and by the consumer in `clients`. A rebalance is incremental: a member first gives up
what the new target takes from it, and only then does another get it; until it has, its epoch, and so its
right to commit, stays.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from crossdock_eventing.broker.failure import AbortRequired, Fenced
from crossdock_eventing.broker.interface import TopicPartition


class Membership(NamedTuple):
    """What `Consumer.group_metadata` returns here."""

    group: str
    member_id: str
    epoch: int


@dataclass(slots=True)
class Member:
    """One member as the coordinator knows it.

    `owned` is what it holds, `target` what it shall hold. `silent_since_ms` is set while it does not
    heartbeat: its process died, or it is static and has closed.
    """

    member_id: str
    instance_id: str | None
    topics: frozenset[str]
    last_poll_ms: int
    epoch: int = 0
    owned: set[TopicPartition] = field(default_factory=set)
    target: frozenset[TopicPartition] = frozenset()
    silent_since_ms: int | None = None
    has_closed: bool = False

    @property
    def order(self) -> str:
        return self.instance_id or self.member_id


class Group:
    """One consumer group: members, their partitions, committed offsets."""

    def __init__(self, name: str, *, session_timeout_ms: int, max_poll_interval_ms: int) -> None:
        self.name = name
        self.offsets: dict[TopicPartition, int] = {}
        self.members: dict[str, Member] = {}
        self._session_timeout_ms = session_timeout_ms
        self._max_poll_interval_ms = max_poll_interval_ms
        self._epoch = 0
        self._joined = 0

    def join(
        self, instance_id: str | None, topics: frozenset[str], counts: Mapping[str, int], now_ms: int
    ) -> Member:
        """A new member; a static one that closed gets its predecessor's partitions back without a rebalance.

        Raises Fenced while another live member holds the instance id, dead or not, until its session expires.
        """
        self._joined += 1
        member_id = f"{self.name}-{self._joined}"
        predecessor = next(
            (m for m in self.members.values() if instance_id is not None and m.instance_id == instance_id),
            None,
        )
        if predecessor is None:
            member = Member(member_id, instance_id, topics, now_ms)
            self.members[member_id] = member
            self.rebalance(counts)
            return member
        if not predecessor.has_closed:
            raise Fenced("UNRELEASED_INSTANCE_ID", f"{instance_id} is held by {predecessor.member_id}")
        del self.members[predecessor.member_id]
        member = Member(member_id, instance_id, topics, now_ms, predecessor.epoch, target=predecessor.target)
        self.members[member_id] = member
        if topics != predecessor.topics:
            self.rebalance(counts)
        return member

    def leave(self, member: Member, counts: Mapping[str, int], now_ms: int) -> None:
        """A member closes: a static one keeps its partitions until its session expires."""
        member.owned.clear()
        if member.instance_id is None:
            self.remove(member, counts)
        else:
            member.has_closed = True
            member.silent_since_ms = now_ms

    def remove(self, member: Member, counts: Mapping[str, int]) -> None:
        """Expel a member; what it owned is free at once, whatever the member believes."""
        if self.members.pop(member.member_id, None) is not None:
            self.rebalance(counts)

    def expire(self, counts: Mapping[str, int], now_ms: int) -> None:
        """Expel members whose session ran out, or that live but have stopped polling."""
        for member in list(self.members.values()):
            if member.silent_since_ms is not None:
                expired = now_ms - member.silent_since_ms >= self._session_timeout_ms
            else:
                expired = now_ms - member.last_poll_ms >= self._max_poll_interval_ms
            if expired:
                self.remove(member, counts)

    def rebalance(self, counts: Mapping[str, int]) -> None:
        """Compute new targets; members that need give up nothing move to the new epoch at once."""
        self._epoch += 1
        targets = range_assign({m.order: m.topics for m in self.members.values()}, counts)
        for member in self.members.values():
            member.target = targets[member.order]
            self.advance(member)

    def advance(self, member: Member) -> None:
        """Let the member into the current epoch once it owns nothing that is meant for another."""
        if member.owned <= member.target:
            member.epoch = self._epoch

    def available(self, member: Member) -> set[TopicPartition]:
        """What the member shall get and nobody owns any more."""
        taken = {p for other in self.members.values() if other is not member for p in other.owned}
        return set(member.target - member.owned - taken)

    def validate(self, membership: Membership) -> None:
        """Refuse a commit by anyone but a current member in its current epoch. Raises AbortRequired."""
        member = self.members.get(membership.member_id)
        if member is None or member.has_closed:
            raise AbortRequired("UNKNOWN_MEMBER_ID", membership.member_id)
        if membership.epoch != member.epoch:
            raise AbortRequired("ILLEGAL_GENERATION", f"epoch {membership.epoch}, current {member.epoch}")


def range_assign(
    subscriptions: Mapping[str, frozenset[str]], counts: Mapping[str, int]
) -> dict[str, frozenset[TopicPartition]]:
    """Contiguous ranges of each topic's partitions to its subscribers in name order.

    Topics of equal count with the same subscribers so land alike: partition n of all of them on one member.
    """
    assigned: dict[str, set[TopicPartition]] = {name: set() for name in subscriptions}
    for topic in sorted({topic for topics in subscriptions.values() for topic in topics}):
        subscribers = sorted(name for name, topics in subscriptions.items() if topic in topics)
        share, extra = divmod(counts.get(topic, 0), len(subscribers))
        start = 0
        for rank, name in enumerate(subscribers):
            end = start + share + (1 if rank < extra else 0)
            assigned[name].update(TopicPartition(topic, partition) for partition in range(start, end))
            start = end
    return {name: frozenset(partitions) for name, partitions in assigned.items()}
