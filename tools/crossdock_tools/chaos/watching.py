"""Follows the topics of a chaos run from a thread of its own: what has ended, what is still open, whether anything moves.

The broker is restarted under it; then it waits, and goes on. `run` only looks at what it found.
"""

from __future__ import annotations

import threading
import time

from crossdock_eventing.broker.failure import BrokerError
from crossdock_tools.cluster import Cluster
from crossdock_tools.demo.figures import Outcome, OutcomeReader
from crossdock_tools.demo.stack import SERVICES

_PAUSE_S = 0.5


class Watcher:
    """The outcome so far. `failure` is what ended the watching, if anything did."""

    def __init__(self, cluster: Cluster) -> None:
        self.failure: BaseException | None = None
        self._reader = OutcomeReader(cluster, (*SERVICES, "channel-gateway"))
        self._moved_at = time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)
        self._thread.start()

    @property
    def outcome(self) -> Outcome:
        """Folded by the other thread meanwhile: to be looked at, not walked through."""
        return self._reader.outcome

    @property
    def quiet_s(self) -> float:
        """How long nothing new has been written."""
        return time.monotonic() - self._moved_at

    def close(self) -> None:
        self._closed.set()
        self._thread.join(30.0)
        if not self._thread.is_alive():
            self._reader.close()

    def _watch(self) -> None:
        while not self._closed.is_set():
            try:
                if self._reader.read():
                    self._moved_at = time.monotonic()
            except BrokerError:
                self._moved_at = time.monotonic()  # Nobody knows.
            except BaseException as error:  # noqa: BLE001 - the run must end on it, not this thread
                self.failure = error
                return
            self._closed.wait(_PAUSE_S)
