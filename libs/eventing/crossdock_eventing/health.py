"""`/livez`, `/readyz` and `/metrics` of a service process, on a thread of its own that only reads.

Alive is the loop's heartbeat, not the process: a loop that hangs is restarted. Ready is assigned, restored, schemas cached.
"""

from __future__ import annotations

import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from crossdock_eventing.clock import Clock
from crossdock_eventing.telemetry import Telemetry

HEARTBEAT_MAX = timedelta(seconds=60)


class HealthServer:
    """Serves on `host:port` until closed. Raises OSError when the port is taken."""

    def __init__(self, telemetry: Telemetry, clock: Clock, *, host: str, port: int) -> None:
        def answer(path: str) -> tuple[int, str, bytes]:
            if path == "/metrics":
                return 200, CONTENT_TYPE_LATEST, generate_latest(telemetry.registry)
            if path == "/livez":
                beat = telemetry.last_beat
                alive = beat is not None and clock.now() - beat < HEARTBEAT_MAX
                return (
                    (200, "text/plain", b"ok\n")
                    if alive
                    else (503, "text/plain", b"the loop is not turning\n")
                )
            if path == "/readyz":
                if telemetry.ready:
                    return 200, "text/plain", b"ok\n"
                return 503, "text/plain", b"no partition is assigned and restored yet\n"
            return 404, "text/plain", b"try /livez, /readyz or /metrics\n"

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, kind, body = answer(self.path)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the framework's name
                """Probes are not worth a line."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
