"""Which services there are, and which of them park: those that keep state in the shell. Used by every `crossdock dlt` command."""

from __future__ import annotations

from crossdock_eventing import names
from crossdock_eventing.broker.interface import Broker
from crossdock_tools.dead_letters.errors import DeadLetterError
from crossdock_tools.schemas.commands import repository
from crossdock_tools.topics import group_inputs


def consuming(wanted: str | None) -> list[str]:
    """Every service that reads a topic and so may give up on a message, or the one that is wanted. Raises DeadLetterError."""
    known = sorted(group_inputs(repository(None)))
    if wanted is None:
        return known
    if wanted not in known:
        raise DeadLetterError(f"no service {wanted!r} consumes anything; known are {', '.join(known)}")
    return [wanted]


def parking(wanted: str | None) -> list[str]:
    """Every service that parks what it rejects, or the one that is wanted. Raises DeadLetterError for one that parks nothing."""
    from crossdock_tools.demo.stack import SERVICES

    [*found] = [each for each in consuming(wanted) if each in SERVICES]
    if not found:
        raise DeadLetterError(
            f"{wanted} parks nothing, so nothing of it can be released: it keeps no state, and goes on after what it gives up on. "
            f"crossdock dlt show --service {wanted} has the payload; those that park are {', '.join(sorted(SERVICES))}"
        )
    return found


def required_topics(broker: Broker, service: str) -> None:
    """Raises DeadLetterError when a topic of the service that a replay needs does not exist."""
    admin = broker.admin()
    try:
        there = admin.topics()
    finally:
        admin.close()
    needed = (names.changelog_topic, names.dead_letter_topic, names.retry_topic, names.replays_topic)
    missing = [topic(service) for topic in needed if topic(service) not in there]
    if missing:
        raise DeadLetterError(
            f"this cluster has no topic {', '.join(missing)}: crossdock topics apply, then start {service} again"
        )
