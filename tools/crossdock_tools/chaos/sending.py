"""Tells the stories of `load` to the gateways, at a pace, as channels do: what is not answered for good is sent again.

Started and stopped by `run`; works in threads of its own, so that a gateway that is away holds up one story and not the run.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Iterator, Sequence

import httpx

from crossdock_tools.chaos.load import Story
from crossdock_tools.demo.scenario import Request

_RETRY_S = 0.3
_TIMEOUT_S = 10.0
_BUSY = 429


class Sender:
    """Sends from `senders` threads. The counts may be read at any time.

    orders: stories that begin an order, of which at least one request was taken. requests: answered for good; retried: tries
    that were not. unexpected: answers that no request of the stories should have got.
    """

    def __init__(self, gateways: Sequence[str], *, senders: int = 6) -> None:
        self.orders = 0
        self.requests = 0
        self.retried = 0
        self.unexpected: list[str] = []
        self._gateways = gateways
        self._lock = threading.Condition()
        self._due: list[tuple[float, int, Story, int]] = []
        self._numbered = 0
        self._under_way = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, args=(number,), name=f"sender-{number}", daemon=True)
            for number in range(senders)
        ]
        for thread in self._threads:
            thread.start()

    def send(self, request: Request) -> None:
        """One request, in the caller's thread, until it is answered for good."""
        with self._client() as client:
            self._deliver(client, request, 0)

    def feed(self, stories: Iterator[Story], *, orders: int) -> None:
        """Begin the stories of the next `orders` orders, and what the script has between them."""
        while orders > 0:
            story = next(stories)
            orders -= story.order
            self._put(story, 0)

    @property
    def waiting(self) -> int:
        """Stories that have not been told to their end."""
        with self._lock:
            return len(self._due) + self._under_way

    def close(self) -> None:
        """Stop, whatever is left to tell."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        for thread in self._threads:
            thread.join(_TIMEOUT_S)

    def _put(self, story: Story, step: int) -> None:
        with self._lock:
            self._numbered += 1
            due = time.monotonic() + story.steps[step].after_s
            heapq.heappush(self._due, (due, self._numbered, story, step))
            self._lock.notify()

    def _work(self, number: int) -> None:
        with self._client() as client:
            while (taken := self._take()) is not None:
                story, step = taken
                answered = self._deliver(client, story.steps[step].request, number)
                if answered and step + 1 < len(story.steps):
                    self._put(story, step + 1)
                with self._lock:
                    self.orders += answered and story.order and step == 0
                    self._under_way -= 1

    def _take(self) -> tuple[Story, int] | None:
        """The next step that is due; None when all is over."""
        with self._lock:
            while not self._closed:
                wait_s = self._due[0][0] - time.monotonic() if self._due else None
                if wait_s is not None and wait_s <= 0:
                    _, _, story, step = heapq.heappop(self._due)
                    self._under_way += 1
                    return story, step
                self._lock.wait(wait_s)
        return None

    def _deliver(self, client: httpx.Client, request: Request, turn: int) -> bool:
        """Whether the request was answered for good; False when the sender was closed first."""
        while not self._closed:
            # As behind a load balancer: the next try goes to the next gateway.
            url = self._gateways[turn % len(self._gateways)] + request.path
            turn += 1
            try:
                response = client.post(url, content=request.body, headers=request.headers)
            except httpx.TransportError:
                response = None
            if response is not None and response.status_code < 500 and response.status_code != _BUSY:
                with self._lock:
                    self.requests += 1
                    if response.status_code != (request.refused or 202):
                        self.unexpected.append(
                            f"{request.path}: {response.status_code} {response.text[:300]}"
                        )
                return True
            with self._lock:
                self.retried += 1
            time.sleep(_RETRY_S)
        return False

    def _client(self) -> httpx.Client:
        return httpx.Client(timeout=_TIMEOUT_S)
