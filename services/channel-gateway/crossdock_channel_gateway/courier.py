"""Carries out one effect, however long it takes: retries with back-off, and looks up before it repeats. Called by `outbound`.

An answer that was lost says nothing of whether the system acted, so the next attempt asks for the reference first. A record
that an earlier owner of the partition may have carried out is treated the same way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp
import structlog
from yarl import URL

from crossdock_channel_gateway.effects import Effect, System
from crossdock_channel_gateway.metrics import Metrics
from crossdock_channel_gateway.problem import Unavailable
from crossdock_channel_gateway.publish import Publisher

log = structlog.get_logger()

# Statuses that judge the request itself: "never". Every other refusal is about the way there.
_FINAL = frozenset({400, 402, 409, 410, 422})
# Statuses that pass by themselves. What else is refused (an expired token, a proxy's 404) waits for somebody to act.
_LATER = frozenset({408, 423, 425, 429})
_REASON_MAX = 300


@dataclass(frozen=True, slots=True)
class Done:
    """The system has acted, now or earlier."""


@dataclass(frozen=True, slots=True)
class Never:
    """The system will not act, whatever is repeated."""

    reason: str


@dataclass(frozen=True, slots=True)
class Away:
    """The system did not answer usefully; `acted` is None when nobody can tell whether it acted.

    blocked: True when only a person can end it, who must hear of it: credentials, an address, a proxy.
    """

    reason: str
    acted: bool | None
    blocked: bool = False


Outcome = Done | Never | Away


class Caller(Protocol):
    """One attempt at a system."""

    async def send(self, effect: Effect) -> Outcome: ...

    async def find(self, effect: Effect) -> Outcome | None:
        """What became of the effect by its reference; None when the system does not know it."""


class HttpCaller:
    """Caller over a pooled HTTP session. `systems` are base URLs."""

    def __init__(self, session: aiohttp.ClientSession, systems: Mapping[System, str]) -> None:
        self._session = session
        # The client would repeat a PUT by itself when its connection breaks, without asking what became of the first.
        # There is no public switch; the test of lost answers holds it.
        self._session._retry_connection = False  # noqa: SLF001
        self._systems = systems

    async def send(self, effect: Effect) -> Outcome:
        outcome = await self._attempt(effect, effect.method, effect.path, body=effect.body)
        return outcome or Away("HTTP 404", acted=False, blocked=True)

    async def find(self, effect: Effect) -> Outcome | None:
        return await self._attempt(effect, "GET", effect.lookup, body=None)

    async def _attempt(
        self, effect: Effect, method: str, path: str, *, body: dict[str, Any] | None
    ) -> Outcome | None:
        url = URL(self._systems[effect.system].rstrip("/") + path, encoded=True)
        headers = effect.headers if method != "GET" else {}
        try:
            # A redirect would turn a POST into a GET, and the page it leads to is no answer.
            async with self._session.request(
                method, url, json=body, headers=headers, allow_redirects=False
            ) as response:
                text = await response.text(errors="replace")
                if response.status == 404:
                    return None
                return _outcome(response.status, text, await _json(response))
        except aiohttp.ClientConnectorError as error:
            return Away(type(error).__name__, acted=False)  # Nothing was sent.
        except (aiohttp.ClientError, TimeoutError) as error:
            return Away(type(error).__name__, acted=None)


async def _json(response: aiohttp.ClientResponse) -> dict[str, Any]:
    try:
        found = await response.json(content_type=None)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _outcome(status: int, text: str, answer: dict[str, Any]) -> Outcome:
    if status < 300:
        if answer.get("status") == "declined":
            return Never(str(answer.get("reason", "declined"))[:_REASON_MAX])
        return Done()
    if status in _FINAL:
        reason = answer.get("reason") or answer.get("detail") or text
        return Never(f"HTTP {status}: {reason}"[:_REASON_MAX])
    if status >= 500:
        return Away(f"HTTP {status}", acted=None)
    return Away(f"HTTP {status}", acted=False, blocked=status not in _LATER)


class Courier:
    """Carries effects out. Waits as long as the system is away; the caller keeps order and gives up by cancelling."""

    def __init__(
        self,
        caller: Caller,
        publisher: Publisher,
        metrics: Metrics,
        *,
        backoff_initial_s: float,
        backoff_max_s: float,
    ) -> None:
        self._caller = caller
        self._publisher = publisher
        self._metrics = metrics
        self._initial_s = backoff_initial_s
        self._max_s = backoff_max_s

    async def carry_out(self, kind: str, effect: Effect, *, fresh: bool) -> Never | None:
        """Until done (None), or refused for good with nobody to tell (Never: the caller's dead letter).

        fresh: False when an earlier process may have carried it out already.
        """
        uncertain = not fresh
        wait_s = self._initial_s
        while True:
            outcome = await self._caller.find(effect) if uncertain else None
            if outcome is None:
                outcome = await self._caller.send(effect)
            match outcome:
                case Done():
                    return None
                case Never() if effect.refused is None:
                    return outcome
                case Never():
                    await self._report(effect, outcome.reason)
                    return None
                case Away():
                    uncertain = uncertain or outcome.acted is None
                    self._metrics.retries.labels(kind).inc()
                    if outcome.blocked:
                        self._metrics.blocked.labels(effect.system, outcome.reason).inc()
                    (log.error if outcome.blocked else log.warning)(
                        "outbound.blocked" if outcome.blocked else "outbound.away",
                        system=effect.system,
                        path=effect.path,
                        reason=outcome.reason,
                        wait_s=wait_s,
                    )
                    await asyncio.sleep(wait_s)
                    wait_s = min(wait_s * 2, self._max_s)

    async def _report(self, effect: Effect, reason: str) -> None:
        assert effect.refused is not None
        while True:
            try:
                await self._publisher.publish(effect.refused(reason))
            except Unavailable as away:
                await asyncio.sleep(away.retry_after_s)
            else:
                return
