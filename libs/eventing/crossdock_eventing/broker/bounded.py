"""A native call that may not keep its own time-out, made so that it can be left behind. Used by `confluent.producer`.

librdkafka's `send_offsets_to_transaction` never looks at its time-out while the group's coordinator is away
(github.com/confluentinc/librdkafka/issues/5456), nor is it always woken when one is back (5511): after a restart of
the broker it hung for good. A call inside the native library cannot be interrupted, only no longer waited for.
"""

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any


class Bounded:
    """Makes calls one at a time in a thread of its own. Once a call has been left behind the object is of no more use."""

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        # A daemon: a call that never returns must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def run(self, call: Callable[[], Any], *, within_s: float) -> Any:
        """The call's result, or its exception. Raises TimeoutError when it has not returned `within_s` seconds."""
        self._calls.put(call)
        try:
            result, error = self._answers.get(timeout=within_s)
        except Empty:
            raise TimeoutError(f"a native call did not return within {within_s:.0f} s") from None
        if error is not None:
            raise error
        return result

    def close(self) -> None:
        """Let the thread end, now or when the call that was left behind returns."""
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                self._answers.put((call(), None))
            except BaseException as error:  # noqa: BLE001  it is the caller's
                self._answers.put((None, error))
            del call  # it holds the client, which must go with its last user
