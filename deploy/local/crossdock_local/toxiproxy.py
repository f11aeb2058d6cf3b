"""A proxy between clients and the broker that delays, cuts and stalls: Shopify's toxiproxy, built once with Go.

The chaos run puts one route of it before every service instance. Source of the routes and of the toxics' attributes: the
README of github.com/Shopify/toxiproxy, version 2.12.
"""

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from crossdock_local import processes
from crossdock_local.addresses import LOOPBACK
from crossdock_local.errors import LocalError

VERSION = "v2.12.0"
MODULE = "github.com/Shopify/toxiproxy/v2/cmd/server"
READY_TIMEOUT_S = 10.0

Stream = Literal["upstream", "downstream"]


def ensure_server(directory: Path, announce: Callable[[str], None] = lambda _: None) -> Path:
    """Make `directory` hold the pinned proxy server, and return its path.

    Nothing is built when it is there. Safe to call from several processes at once. Raises LocalError when Go is missing or
    the build fails.
    """
    server = directory / f"toxiproxy-server-{VERSION}"
    if server.is_file():
        return server
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "toxiproxy.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if server.is_file():  # Another process built it while this one waited.
            return server
        go = shutil.which("go")
        if go is None:
            raise LocalError(
                f"Go was not found, and the network faults need toxiproxy, a Go program: install Go 1.23 or later, "
                f"or put a toxiproxy server {VERSION} at {server}"
            )
        announce(f"building toxiproxy {VERSION} with Go (once)")
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            answer = subprocess.run(  # noqa: S603
                [go, "install", f"{MODULE}@{VERSION}"],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "GOBIN": scratch, "CGO_ENABLED": "0"},
            )
            built = Path(scratch) / "server"
            if answer.returncode != 0 or not built.is_file():
                reason = answer.stderr.strip().splitlines()[-1:] or [f"exit code {answer.returncode}"]
                raise LocalError(
                    f"Go could not build toxiproxy ({reason[0]}): check its network and GOPROXY, then retry"
                )
            built.rename(server)
    return server


@dataclass(frozen=True)
class Route:
    """One proxied way: clients connect to `port`, which leads to `upstream_port`; both on loopback."""

    name: str
    port: int
    upstream_port: int


class Toxiproxy:
    """The proxy process with its routes, as long as a `with` block. It dies with the process that started it.

    Every method that disturbs a route raises LocalError when the proxy does not answer.
    """

    def __init__(self, server: Path, routes: tuple[Route, ...], *, port: int, log_file: Path) -> None:
        self._server = server
        self._routes = routes
        self._port = port
        self._log_file = log_file
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        command = [str(self._server), "-host", LOOPBACK, "-port", str(self._port)]
        # It would tell of every connection that it opens and loses.
        environment = {**os.environ, "LOG_LEVEL": "fatal"}
        self._process = processes.spawn(
            command, log_file=self._log_file, environment=environment, die_with_parent=True
        )
        try:
            self._wait_until_ready(self._process)
            for route in self._routes:
                self._ask("POST", "/proxies", self._described(route))
        except BaseException:
            processes.stop_children([self._process], grace_s=0.0)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        processes.stop_children([self._process], grace_s=2.0)

    def cut(self, route: str) -> None:
        """Close every connection of the route and refuse new ones."""
        self._ask("POST", f"/proxies/{route}", {"enabled": False})

    def delay(self, route: str, *, latency_ms: int, jitter_ms: int) -> None:
        """Hold back what flows either way by `latency_ms`, give or take `jitter_ms`."""
        for stream in ("upstream", "downstream"):
            self._poison(route, stream, "latency", {"latency": latency_ms, "jitter": jitter_ms})

    def stall(self, route: str, stream: Stream) -> None:
        """Swallow what flows that way while connections stay open: downstream, requests arrive and answers never do.

        What was swallowed stays lost.
        """
        self._poison(route, stream, "timeout", {"timeout": 0})

    def mend(self, route: str) -> None:
        """The route works again. Connections that lost bytes are closed: they must not go on as if they had not."""
        toxics = self._ask("GET", f"/proxies/{route}/toxics", None)
        if any(toxic["type"] == "timeout" for toxic in toxics):
            self.cut(route)
        for toxic in toxics:
            self._ask("DELETE", f"/proxies/{route}/toxics/{toxic['name']}", None)
        self._ask("POST", f"/proxies/{route}", {"enabled": True})

    def _poison(self, route: str, stream: Stream, kind: str, attributes: dict[str, int]) -> None:
        toxic = {"name": f"{kind}-{stream}", "type": kind, "stream": stream, "attributes": attributes}
        self._ask("POST", f"/proxies/{route}/toxics", toxic)

    def _described(self, route: Route) -> dict[str, Any]:
        return {
            "name": route.name,
            "listen": f"{LOOPBACK}:{route.port}",
            "upstream": f"{LOOPBACK}:{route.upstream_port}",
            "enabled": True,
        }

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            try:
                self._ask("GET", "/version", None)
            except LocalError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise LocalError(f"toxiproxy did not start: see {self._log_file}") from None
                time.sleep(0.05)
            else:
                return

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://{LOOPBACK}:{self._port}{path}",
            data=data,
            method=method,
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=5.0) as answer:  # noqa: S310
                text = answer.read()
                return json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            raise LocalError(
                f"toxiproxy refused {method} {path}: {error.read().decode(errors='replace')}"
            ) from None
        except OSError as error:
            raise LocalError(f"toxiproxy does not answer at {LOOPBACK}:{self._port}: {error}") from None
