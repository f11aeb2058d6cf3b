"""The fault proxy as a client sees it: a delay, a cut, a stall, and the route as it was before."""

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossdock_local import processes, toxiproxy
from crossdock_local.addresses import LOOPBACK, local_directory
from crossdock_local.errors import LocalError


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while received := self.request.recv(1024):
            self.request.sendall(received)


class _EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True


@pytest.fixture
def echo() -> Iterator[int]:
    with _EchoServer((LOOPBACK, 0), _Echo) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture
def proxied(echo: int, tmp_path: Path) -> Iterator[tuple[toxiproxy.Toxiproxy, int]]:
    try:
        server = toxiproxy.ensure_server(local_directory() / "bin")
    except LocalError as error:
        pytest.skip(str(error))
    admin, port = processes.steady_ports(LOOPBACK, 2)
    route = toxiproxy.Route("echo", port, echo)
    with toxiproxy.Toxiproxy(server, (route,), port=admin, log_file=tmp_path / "proxy.log") as proxy:
        yield proxy, port


def _connect(port: int) -> socket.socket:
    return socket.create_connection((LOOPBACK, port), timeout=5.0)


def _answer(link: socket.socket, *, within_s: float) -> bytes | None:
    """What comes back for a ping; None when nothing does."""
    link.settimeout(within_s)
    try:
        link.sendall(b"ping")
        return link.recv(4)
    except TimeoutError:
        return None


def test_a_cut_route_refuses_and_drops_until_it_is_mended(
    proxied: tuple[toxiproxy.Toxiproxy, int],
) -> None:
    proxy, port = proxied
    with _connect(port) as link:
        assert _answer(link, within_s=5.0) == b"ping"
        proxy.cut("echo")
        with pytest.raises(OSError, match=r"refused|reset"):
            _connect(port).close()
        assert link.recv(4) == b""
    proxy.mend("echo")
    with _connect(port) as link:
        assert _answer(link, within_s=5.0) == b"ping"


def test_a_stalled_route_swallows_answers_and_drops_the_connection_when_mended(
    proxied: tuple[toxiproxy.Toxiproxy, int],
) -> None:
    proxy, port = proxied
    with _connect(port) as link:
        proxy.stall("echo", "downstream")
        assert _answer(link, within_s=0.5) is None
        proxy.mend("echo")
        link.settimeout(5.0)
        assert link.recv(4) == b"", "a connection that lost bytes must not go on"
    with _connect(port) as link:
        assert _answer(link, within_s=5.0) == b"ping"


def test_a_delayed_route_answers_later_and_its_connections_live_on(
    proxied: tuple[toxiproxy.Toxiproxy, int],
) -> None:
    proxy, port = proxied
    with _connect(port) as link:
        proxy.delay("echo", latency_ms=150, jitter_ms=0)
        asked = time.monotonic()
        assert _answer(link, within_s=5.0) == b"ping"
        assert time.monotonic() - asked >= 0.3
        proxy.mend("echo")
        asked = time.monotonic()
        assert _answer(link, within_s=5.0) == b"ping"
        assert time.monotonic() - asked < 0.15


def test_without_go_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LocalError, match="install Go"):
        toxiproxy.ensure_server(tmp_path / "bin")
