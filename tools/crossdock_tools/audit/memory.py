"""Invariant 9: what recognises a repeated message outlives every way in which it can come again.

A message comes again while its topic or a dead letter of it is kept, while goods may come back, and while a bank may take
money back. The state of an entity ends with a tombstone in the changelog: not before all of these are over.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from itertools import pairwise

from crossdock_canonical.records import ChargedBack, ReturnAuthorized
from crossdock_eventing import names
from crossdock_eventing.clock import to_micros
from crossdock_tools.audit.books import Books
from crossdock_tools.audit.evidence import Evidence, Version, place
from crossdock_tools.audit.report import Check

#: Card schemes let a cardholder dispute a payment for 120 days.
_CHARGEBACK = timedelta(days=120)
_DAY_MS = 24 * 3600 * 1000


def remembered(evidence: Evidence, _books: Books) -> Check:
    """No state ends sooner than the longest window after the last message of its entity."""
    violations: list[str] = []
    windows = {service: window_ms(evidence, service) for service in evidence.services}
    ended, living = 0, 0
    for service, changelog in evidence.changelogs.items():
        # A tombstone after nothing deletes nothing: a message that was ignored, about an entity that is not known.
        ends = [
            version
            for versions in changelog.history.values()
            for before, version in pairwise(versions)
            if version.is_end and not before.is_end
        ]
        living += sum(not versions[-1].is_end for versions in changelog.history.values())
        ended += len(ends)
        if ends:
            seen = _last_seen(evidence, service)
            for version in ends:
                record = version.record
                until_ms, why = _needed_until(evidence, version, seen, windows[service])
                if record.timestamp_ms < until_ms:
                    early = (until_ms - record.timestamp_ms) / _DAY_MS
                    violations.append(
                        f"{service} forgets {version.key} ({place(record)}) {early:.1f} days before {why}"
                    )
    note = f"{ended} states ended, {living} live"
    return Check(9, "deduplication memory outlives the windows", ended + living, tuple(violations), note)


def window_ms(evidence: Evidence, service: str) -> int:
    """How long after a message another copy of it may reach the service."""
    topics = [*evidence.inputs[service], names.dead_letter_topic(service)]
    window = max(evidence.retention_ms.get(topic, 0) for topic in topics)
    if any(ChargedBack.SCHEMA in kinds for kinds in evidence.handled[service].values()):
        window = max(window, _CHARGEBACK // timedelta(milliseconds=1))
    return window


def _last_seen(evidence: Evidence, service: str) -> dict[tuple[int, str], list[int]]:
    """When messages came for each key of a partition, milliseconds, oldest first; a repeated one counts when it came first."""
    seen: dict[tuple[int, str], list[int]] = defaultdict(list)
    known: set[str] = set()
    for partition, entries in evidence.log.items():
        handled = evidence.handled[service].get(partition.topic, frozenset())
        for entry in entries:
            if entry.body.SCHEMA in handled and entry.meta.event_id not in known:
                known.add(entry.meta.event_id)
                key = (entry.record.key or b"").decode(errors="replace")
                seen[partition.partition, key].append(entry.record.timestamp_ms)
    for moments in seen.values():
        moments.sort()
    return seen


def _needed_until(
    evidence: Evidence, version: Version, seen: dict[tuple[int, str], list[int]], window: int
) -> tuple[int, str]:
    """Until when the state is needed, and why."""
    # A service that keeps several kinds of entity writes `<kind>:<key>`; a message carries the bare key.
    keys = (version.key, version.key.partition(":")[2])
    before = [
        moment
        for key in keys
        for moment in seen.get((version.record.partition, key), ())
        if moment <= version.record.timestamp_ms
    ]
    until_ms, why = (max(before) + window, "its last message cannot come again") if before else (0, "")
    for key in keys:
        for entry in evidence.of_order(key):
            if isinstance(entry.body, ReturnAuthorized):
                expires_ms = to_micros(entry.body.expires_at) // 1000
                if expires_ms > until_ms:
                    until_ms, why = expires_ms, f"return {entry.body.rma_id} expires"
    return until_ms, why
