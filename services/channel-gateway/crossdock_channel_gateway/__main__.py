"""`python -m crossdock_channel_gateway`: serves until SIGTERM; exits 1 when a part failed for a reason no one anticipated."""

from __future__ import annotations

import asyncio
import socket
import sys

import structlog
import uvicorn

from crossdock_channel_gateway.outbound import SERVICE
from crossdock_channel_gateway.runtime import Runtime
from crossdock_channel_gateway.settings import Settings
from crossdock_eventing.clock import SystemClock
from crossdock_eventing.telemetry import configure_logging, configure_tracing

log = structlog.get_logger()


async def serve(settings: Settings, listening: socket.socket) -> bool:
    """Serve on a bound socket until told to stop. True when nothing failed."""
    runtime = Runtime(settings, SystemClock())
    server = uvicorn.Server(
        uvicorn.Config(
            runtime.app,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=10,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    failing = asyncio.create_task(runtime.failed.wait())
    await asyncio.wait([serving, failing], return_when=asyncio.FIRST_COMPLETED)
    failing.cancel()
    server.should_exit = True
    await serving
    return not runtime.failed.is_set()


def listen(settings: Settings) -> socket.socket:
    """The socket to serve on. Raises OSError when the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    return socket.create_server((settings.host, settings.port), family=family)


def main() -> None:
    """Entry point."""
    configure_logging(SERVICE)
    settings = Settings()
    try:
        listening = listen(settings)
    except OSError as error:
        log.error(
            "gateway.cannot_listen",
            detail=f"{settings.host}:{settings.port}: {error.strerror or error}; "
            "set CROSSDOCK_GATEWAY_HOST, CROSSDOCK_GATEWAY_PORT to a free address",
        )
        sys.exit(1)
    configure_tracing(SERVICE)
    if not asyncio.run(serve(settings, listening)):
        sys.exit(1)


if __name__ == "__main__":
    main()
