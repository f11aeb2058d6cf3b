"""The registry proper: the only writer of the log, and the state that answers reads.

`http` calls `change` for what writes and looks at `state` for the rest. One event loop owns the state;
blocking log calls run on a worker thread under one lock, and what they read is applied on the loop. So a
change is acknowledged only after the broker has acknowledged it *and* the state has folded it.

Two registries on one cluster: each claims the same transactional id when it starts, which fences the
earlier one, so the newest writes. Its first record names it. A fenced registry reads on: if the last name
is another's, it stays read-only and refuses writes with 50004; if it is still its own, the broker had
merely timed its transaction out, and it claims the right again. No election is needed, and at no moment can
both write.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from crossdock_local.registry import errors
from crossdock_local.registry.commands import Decision
from crossdock_local.registry.log import FencedError, LogUnavailableError, SchemaLog
from crossdock_local.registry.records import Record, writer_record
from crossdock_local.registry.state import State

TAIL_INTERVAL_S = 0.5
log = logging.getLogger("crossdock.registry")


class Registry:
    """One instance. `name` must differ from every other instance's, also from its own earlier lives."""

    def __init__(self, schema_log: SchemaLog, *, name: str) -> None:
        self.state = State()
        self.name = name
        self.writable = False
        self._log = schema_log
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Take over writing and fold the whole log. Raises LogUnavailableError."""
        async with self._lock:
            await self._claim()

    async def change(self, decide: Callable[[State], Decision]) -> Any:
        """Decide on the newest state, write, apply, and only then return the decision's answer.

        Raises RegistryError: the decision's own, 50004 when another registry writes, 50001 when the log
        fails.
        """
        async with self._lock:
            for _ in range(2):
                if not self.writable:
                    raise errors.no_leader()
                decision = decide(self.state)
                if not decision.records:
                    return decision.answer
                try:
                    self._apply(await asyncio.to_thread(self._log.append, decision.records))
                except FencedError:
                    await self._yield_or_reclaim()
                except LogUnavailableError as error:
                    # The write may have landed. Claiming settles it, and reading shows which.
                    await self._claim_again()
                    raise errors.store_error(str(error)) from error
                else:
                    return decision.answer
            raise errors.store_error("the right to write was lost twice in a row; try again")

    async def tail(self) -> None:
        """Follow the log for ever: a read-only registry keeps up, and a writer learns of a successor."""
        while True:
            await asyncio.sleep(TAIL_INTERVAL_S)
            async with self._lock:
                self._apply(await asyncio.to_thread(self._log.read_available))

    async def _claim(self) -> None:
        # Claim first: it ends what a crashed writer left open, which would hide the log's end. Then read,
        # since what that writer committed last must be known before the first decision.
        await asyncio.to_thread(self._log.claim)
        self._apply(await asyncio.to_thread(self._log.read_to_end))
        self.writable = True
        try:
            mine = writer_record(self.name, self.state.highest_id)
            self._apply(await asyncio.to_thread(self._log.append, [mine]))
        except FencedError:
            self.writable = False
            log.warning("another registry started at the same time and writes: this one is read-only")

    async def _claim_again(self) -> None:
        try:
            # Not when a successor has shown itself: claiming would fence it. Only what is there at once: the
            # log's end may lie behind our own open transaction, which only the claim settles.
            self._apply(await asyncio.to_thread(self._log.read_available))
            if self.writable:
                await self._claim()
        except LogUnavailableError as error:
            log.warning("the log is still unavailable: %s", error)

    async def _yield_or_reclaim(self) -> None:
        with suppress(LogUnavailableError):
            self._apply(await asyncio.to_thread(self._log.read_to_end))
            if self.writable:
                await self._claim()

    def _apply(self, records: Iterable[Record]) -> None:
        for record in records:
            try:
                self.state.apply(record)
            except (ValueError, KeyError, TypeError) as error:
                # As Confluent's does: one unreadable record must not take every schema away.
                log.error("record of the schemas topic not understood (%r): key %r", error, record.key)
        if self.writable and self.state.writer not in (None, self.name):
            self.writable = False
            log.warning("another registry has taken over writing: this one is read-only now")
