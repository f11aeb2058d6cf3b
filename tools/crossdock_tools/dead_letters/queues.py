"""A parked key's queue for people and programs, as `crossdock dlt show` tells it."""

from __future__ import annotations

from typing import Any

from crossdock_eventing.envelope import header
from crossdock_eventing.parking.formats import digest, key_bytes
from crossdock_tools.dead_letters.changelog import ParkedKey
from crossdock_tools.dead_letters.groups import BEHIND, iso


def readable_key(key: str) -> str:
    """A parked key for people: bytes that are no text as `\\xff`."""
    return key_bytes(key).decode(errors="backslashreplace")


def queue_as_json(parked: ParkedKey) -> dict[str, Any]:
    """Everything about the queue but the payloads."""
    park = parked.park
    return {
        "key": readable_key(parked.key),
        "partition": parked.partition,
        "episode": park.episode,
        "since": iso(park.since_us // 1000),
        "head": park.head,
        "tail": park.tail,
        "bytes": park.bytes,
        "releasing": [release.plan for release in park.releases],
        "queue": [
            {
                "seq": seq,
                "original": f"{queued.record.topic}[{queued.record.partition}]@{queued.record.offset}",
                "at": iso(queued.record.timestamp_ms),
                "type": (header(queued.record.headers, "event_type") or b"").decode(errors="replace"),
                "code": queued.code or BEHIND,
                "attempt": queued.attempt,
                "sha256": digest(queued.record.value),
                "edited": queued.original is not None,
            }
            for seq, queued in parked.queue()
        ],
    }
