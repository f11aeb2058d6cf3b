"""Whether a plan may be carried out here and now: on its own cluster, on the state that it was made on. Nothing is sent otherwise.

Asked by a run before it sends anything, and by a dry run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from crossdock_eventing.broker.interface import Broker
from crossdock_eventing.parking.formats import digest
from crossdock_tools.dead_letters.changelog import Changelog, ParkedKey, read_changelog
from crossdock_tools.dead_letters.errors import DeadLetterError
from crossdock_tools.dead_letters.plan import Item, Plan
from crossdock_tools.dead_letters.queues import readable_key
from crossdock_tools.dead_letters.services import parking, required_topics

_TOLD_MAX = 3


def require_place(broker: Broker, plan: Plan) -> None:
    """Raises DeadLetterError for a plan of another cluster or of a service that parks nothing, and for a missing topic."""
    parking(plan.service)
    admin = broker.admin()
    cluster = admin.cluster_id()
    admin.close()
    if cluster != plan.cluster:
        raise DeadLetterError(
            f"plan {plan.plan} was made on cluster {plan.cluster}, this one is {cluster}: nothing was sent; make a plan here"
        )
    required_topics(broker, plan.service)


def state_of(broker: Broker, plan: Plan) -> Changelog:
    """The parked keys that a plan is about, as they are now."""
    keys = plan.keys
    return read_changelog(
        broker,
        plan.service,
        partitions={each.partition for each in plan.items},
        wanted=keys.__contains__,
    )


def require_fresh(items: Iterable[Item], changelog: Changelog, taken: Mapping[str, set[int]]) -> None:
    """Raises DeadLetterError when one of the items was planned on a state that is no more.

    taken: sequence numbers that the same plan has already taken from the queue of each key.
    """
    problems = [
        problem
        for item in items
        if (problem := _problem(item, changelog.parked.get(item.key), taken.get(item.key, set())))
    ]
    if problems:
        told = "; ".join(problems[:_TOLD_MAX])
        more = f"; and {len(problems) - _TOLD_MAX} more" if len(problems) > _TOLD_MAX else ""
        raise DeadLetterError(
            f"the plan is older than the state: {told}{more}; nothing was sent: make a new plan"
        )


def _problem(item: Item, parked: ParkedKey | None, taken: set[int]) -> str:
    """Why the item cannot be carried out any more; "" when it can."""
    instruction = item.instruction
    if instruction.op == "inject":
        return ""
    key = readable_key(item.key)
    if parked is None:
        return f"{key} is not parked any more, its messages are gone"
    if parked.park.episode != instruction.episode:
        return f"{key} was let go and is parked anew by {parked.park.episode}"
    if parked.park.head != item.head and item.head not in taken:
        return f"{key} has moved on from message {item.head} to {parked.park.head}"
    if instruction.op == "release":
        return ""
    queued = parked.queued(instruction.seq)
    if queued is None:
        return f"{key}: message {instruction.seq} is not parked any more"
    if digest(queued.record.value) != instruction.before:
        return f"{key}: message {instruction.seq} was edited since"
    return ""
