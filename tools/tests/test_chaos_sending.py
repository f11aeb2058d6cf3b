"""The senders of a chaos run against gateways that fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from crossdock_tools.chaos import sending
from crossdock_tools.chaos.load import Step, Story
from crossdock_tools.chaos.sending import Sender
from crossdock_tools.demo.scenario import Request


@dataclass
class Gateway:
    """Answers each path with the statuses that are listed for it, then with 202."""

    answers: dict[str, list[int]] = field(default_factory=dict)
    seen: list[tuple[str, bytes]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    made = Gateway()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.seen.append((self.path, body))
            waiting = made.answers.get(self.path)
            self.send_response(waiting.pop(0) if waiting else 202)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield made
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_RETRY_S", 0.01)


def story(*paths: str, order: bool = True) -> Story:
    steps = tuple(Step(0.0, Request(path, path.encode(), {})) for path in paths)
    return Story("told by a test", steps, order)


def told(sender: Sender, *stories: Story) -> None:
    sender.feed(iter(stories), orders=sum(each.order for each in stories))
    deadline = time.monotonic() + 10.0
    while sender.waiting:
        assert time.monotonic() < deadline, "not told"
        time.sleep(0.01)


def test_what_is_not_answered_for_good_is_sent_again_and_counted_once(gateway: Gateway) -> None:
    gateway.answers = {"/a": [503, 429, 500]}
    sender = Sender([gateway.url], senders=2)
    told(sender, story("/a"))
    sender.close()
    assert gateway.seen == [("/a", b"/a")] * 4
    assert (sender.orders, sender.requests, sender.retried) == (1, 1, 3)
    assert sender.unexpected == []


def test_a_gateway_that_is_away_is_no_gateway(gateway: Gateway) -> None:
    sender = Sender(["http://127.0.0.1:1", gateway.url], senders=2)
    told(sender, *(story(f"/{number}") for number in range(6)))
    sender.close()
    assert sorted(path for path, _ in gateway.seen) == [f"/{number}" for number in range(6)]


def test_a_story_is_told_in_its_order_and_a_file_is_no_order(gateway: Gateway) -> None:
    gateway.answers = {"/1": [503]}
    sender = Sender([gateway.url], senders=3)
    told(sender, story("/file", order=False), story("/1", "/2", "/3"))
    sender.close()
    assert [path for path, _ in gateway.seen if path != "/file"] == ["/1", "/1", "/2", "/3"]
    assert (sender.orders, sender.requests) == (1, 4)


def test_an_answer_that_nobody_expected_is_kept(gateway: Gateway) -> None:
    gateway.answers = {"/a": [422]}
    sender = Sender([gateway.url])
    told(sender, story("/a"))
    sender.close()
    assert [each.split()[:2] for each in sender.unexpected] == [["/a:", "422"]]
