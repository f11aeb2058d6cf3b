"""Which messages a plan is about: by code, topic, key, time and fields of the payload. Made from options, asked by `planning`
and `foreign`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from crossdock_eventing.broker.interface import Headers
from crossdock_eventing.clock import to_micros
from crossdock_tools.dead_letters.errors import DeadLetterError
from crossdock_tools.dead_letters.fields import Predicate

if TYPE_CHECKING:
    from crossdock_tools.dead_letters.payloads import Payloads

_AGO = re.compile(r"^(\d+)(s|min|h|d)$")
_SECONDS = {"s": 1, "min": 60, "h": 3_600, "d": 86_400}


@dataclass(frozen=True, slots=True, kw_only=True)
class Criteria:
    """All of them must hold; an empty one always does.

    codes: why it was rejected; one that ends in `.*` means all that begin so. topics: where it was first. keys: parked ones.
    since_ms, until_ms: of the message's own time stamp; until excludes. where: of the payload; what cannot be decoded fulfils none.
    """

    codes: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    since_ms: int | None = None
    until_ms: int | None = None
    where: tuple[Predicate, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What was asked for, for the plan file."""
        said = {
            "code": list(self.codes),
            "topic": list(self.topics),
            "key": list(self.keys),
            "since_ms": self.since_ms,
            "until_ms": self.until_ms,
            "where": [f"{each.path.text}{each.operator}{each.value}" for each in self.where],
        }
        return {name: value for name, value in said.items() if value not in ([], None)}

    def wants_key(self, key: str) -> bool:
        return not self.keys or key in self.keys

    def meets(
        self,
        *,
        code: str,
        topic: str,
        stamp_ms: int,
        value: bytes | None,
        headers: Headers,
        payloads: Payloads,
    ) -> bool:
        """Whether a message, but for its key, is one of those meant. The payload is decoded last, and only if it matters.

        Raises RegistryUnavailable, DeadLetterError.
        """
        if self.codes and not any(_same_code(each, code) for each in self.codes):
            return False
        if self.topics and topic not in self.topics:
            return False
        if self.since_ms is not None and stamp_ms < self.since_ms:
            return False
        if self.until_ms is not None and stamp_ms >= self.until_ms:
            return False
        return not self.where or self._fulfils(value, headers, payloads)

    def _fulfils(self, value: bytes | None, headers: Headers, payloads: Payloads) -> bool:
        from crossdock_eventing.codec import Undecodable

        try:
            fields = payloads.read(value, headers).fields
        except Undecodable:
            return False
        return all(each.holds(fields) for each in self.where)


def criteria(
    *,
    codes: Sequence[str],
    topics: Sequence[str],
    keys: Sequence[str],
    since: str | None,
    until: str | None,
    where: Sequence[str],
    now: datetime,
) -> Criteria:
    """The options as criteria. Raises DeadLetterError for a time or a condition that is none."""
    return Criteria(
        codes=tuple(codes),
        topics=tuple(topics),
        keys=tuple(keys),
        since_ms=None if since is None else _moment_ms(since, now),
        until_ms=None if until is None else _moment_ms(until, now),
        where=tuple(Predicate.parse(each) for each in where),
    )


def _moment_ms(text: str, now: datetime) -> int:
    ago = _AGO.match(text)
    if ago is not None:
        moment = now - timedelta(seconds=int(ago[1]) * _SECONDS[ago[2]])
    else:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise DeadLetterError(
                f"{text!r} is no time: write 2026-03-02T09:00:00Z, or how long ago, as 90min, 2h or 3d"
            ) from None
        if moment.tzinfo is None:
            raise DeadLetterError(f"{text!r} does not say in which time zone: add Z or an offset")
    return to_micros(moment) // 1000


def _same_code(wanted: str, code: str) -> bool:
    return code.startswith(wanted[:-1]) if wanted.endswith(".*") else code == wanted
