"""The names that follow from a service's name: group, topics, transactional id. One rule, used by shell, deploy and tools."""

from __future__ import annotations


def group(service: str) -> str:
    """Consumer group of a service, and prefix of its own topics."""
    return f"retail.{service}"


def changelog_topic(service: str) -> str:
    """Compacted topic that is the truth of the service's state."""
    return f"retail.{service}.changelog"


def dead_letter_topic(service: str) -> str:
    """Visible copy of every message that the service gave up on."""
    return f"retail.{service}.dlt"


def retry_topic(service: str) -> str:
    """Instructions of an operator to the service."""
    return f"retail.{service}.retry"


def replays_topic(service: str) -> str:
    """What became of each instruction, hash-chained by partition."""
    return f"retail.{service}.replays"


def journal_topic(service: str) -> str:
    """What a service's transactions were decided from, beyond their inputs."""
    return f"retail.{service}.journal"


def transactional_id(service: str, ordinal: int) -> str:
    return f"retail.{service}.{ordinal}"


def instance_id(service: str, ordinal: int) -> str:
    """Static membership: a restart under the same ordinal gets its partitions back without a rebalance."""
    return f"{service}-{ordinal}"
