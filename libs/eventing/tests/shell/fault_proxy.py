"""A TCP proxy between one Kafka client and its broker that delays, cuts, and holds back what a test names.

It knows as much of the protocol as it must: frames have a length, requests say which API they call, responses which request
they answer. The addresses in the broker's answers are replaced by the proxy's own, so that a client that was given the proxy
as its bootstrap server never finds the way around it.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto

PRODUCE, METADATA, OFFSET_FETCH, FIND_COORDINATOR = 0, 3, 9, 10
INIT_PRODUCER_ID, END_TXN, TXN_OFFSET_COMMIT, DESCRIBE_CLUSTER = 22, 26, 28, 60
CONSUMER_GROUP_HEARTBEAT = 68
_ADDRESSED = frozenset({METADATA, FIND_COORDINATOR, DESCRIBE_CLUSTER})
_LOOPBACK = "127.0.0.1"
_LATE_ANSWER_S = 5.0


class Direction(Enum):
    REQUEST = auto()
    RESPONSE = auto()


class Hold:
    """Frames that are kept back, and with them all that follows on their connections, until `release` or `drop`.

    api: the calls it is about; empty for all. `caught` is set once it holds one, `answered` once the broker has answered a
    request that was held and released.
    """

    def __init__(self, direction: Direction, api: frozenset[int]) -> None:
        self._direction, self._api = direction, api
        self._over = threading.Event()
        self.dropped = False
        self.caught = threading.Event()
        self.answered = threading.Event()

    def applies(self, direction: Direction, api: int) -> bool:
        return (
            direction is self._direction and (not self._api or api in self._api) and not self._over.is_set()
        )

    def wait(self) -> None:
        self.caught.set()
        self._over.wait()

    def release(self) -> None:
        """Let them pass, late, and hold nothing any more."""
        self._over.set()

    def drop(self) -> None:
        """They never arrive; their connections end."""
        self.dropped = True
        self._over.set()


class FaultProxy:
    """Listens on a free port of the loopback; every connection goes to `upstream`, `host:port`.

    delay_s: how long each answer of the broker takes in addition.
    Raises ValueError for a host whose name has not the length of the loopback's: answers are rewritten in place.
    """

    def __init__(self, upstream: str) -> None:
        host, _, port = upstream.rpartition(":")
        if len(host) != len(_LOOPBACK):
            raise ValueError(f"addresses of {upstream} cannot be replaced by ones on {_LOOPBACK}")
        self._upstream = (host, int(port))
        self._listener = socket.create_server((_LOOPBACK, 0))
        self._port: int = self._listener.getsockname()[1]
        self._theirs = host.encode() + int(port).to_bytes(4, "big")
        self._ours = _LOOPBACK.encode() + self._port.to_bytes(4, "big")
        self._holds: list[Hold] = []
        self._calls: list[tuple[int, Callable[[], None]]] = []
        self._taps: list[tuple[int, list[bytes]]] = []
        self._sockets: set[socket.socket] = set()
        self._refusals = 0.0
        self.delay_s = 0.0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        """What to give a client as its bootstrap server."""
        return f"{_LOOPBACK}:{self._port}"

    def hold(self, direction: Direction, *api: int) -> Hold:
        """Keep back what is sent from now on; without `api` everything."""
        self._holds.append(Hold(direction, frozenset(api)))
        return self._holds[-1]

    def at_request(self, api: int, do: Callable[[], None]) -> None:
        """Run `do` when the next request of this kind comes by, before it goes on."""
        self._calls.append((api, do))

    def answers(self, api: int) -> list[bytes]:
        """A list that grows by each answer of this kind from now on, its header included."""
        self._taps.append((api, []))
        return self._taps[-1][1]

    def away(self, *, refusals: float = float("inf")) -> None:
        """Cut every connection and refuse the next `refusals`: the broker is away until then or until `back`."""
        self._refusals = refusals
        self.cut()

    def back(self) -> None:
        self._refusals = 0

    def cut(self) -> None:
        """End every connection."""
        for each in list(self._sockets):
            _end(each)

    def close(self) -> None:
        _end(self._listener)
        for hold in self._holds:
            hold.drop()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._refusals > 0:
                    self._refusals -= 1
                    _end(client)
                    continue
                try:
                    broker = socket.create_connection(self._upstream)
                except OSError:
                    _end(client)
                    continue
                self._sockets |= {client, broker}
                asked: dict[int, tuple[int, Hold | None]] = {}
                for pump in (self._requests, self._responses):
                    threading.Thread(target=pump, args=(client, broker, asked), daemon=True).start()

    def _requests(
        self, client: socket.socket, broker: socket.socket, asked: dict[int, tuple[int, Hold | None]]
    ) -> None:
        with suppress(OSError):
            while frame := _read(client):
                api, correlation = int.from_bytes(frame[4:6], "big"), int.from_bytes(frame[8:12], "big")
                for each in [each for each in self._calls if each[0] == api]:
                    self._calls.remove(each)
                    each[1]()
                held = self._held(Direction.REQUEST, api)
                if held is not None and held.dropped:
                    break
                asked[correlation] = (api, held)
                broker.sendall(frame)
                if held is not None:
                    held.answered.wait(
                        _LATE_ANSWER_S
                    )  # its client may be gone: then the connection ends next
        self._hang_up(client, broker)

    def _responses(
        self, client: socket.socket, broker: socket.socket, asked: dict[int, tuple[int, Hold | None]]
    ) -> None:
        with suppress(OSError):
            while frame := _read(broker):
                api, late = asked.pop(int.from_bytes(frame[4:8], "big"))
                if late is not None:
                    late.answered.set()
                for _, seen in [each for each in self._taps if each[0] == api]:
                    seen.append(frame)
                if self.delay_s:
                    time.sleep(self.delay_s)
                held = self._held(Direction.RESPONSE, api)
                if held is not None and held.dropped:
                    break
                if api in _ADDRESSED:
                    frame = frame.replace(self._theirs, self._ours)
                client.sendall(frame)
        self._hang_up(client, broker)

    def _held(self, direction: Direction, api: int) -> Hold | None:
        """Wait out the holds that are about this frame; the last of them."""
        found = None
        while hold := next((each for each in self._holds if each.applies(direction, api)), None):
            hold.wait()
            found = hold
        return found

    def _hang_up(self, *ends: socket.socket) -> None:
        for each in ends:
            self._sockets.discard(each)
            _end(each)


def _read(source: socket.socket) -> bytes:
    """One frame with its length, or nothing at the end of the stream."""
    length = _exactly(source, 4)
    return length + _exactly(source, int.from_bytes(length, "big")) if length else b""


def _exactly(source: socket.socket, count: int) -> bytes:
    parts = b""
    while len(parts) < count:
        part = source.recv(count - len(parts))
        if not part:
            return b""
        parts += part
    return parts


def _end(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
