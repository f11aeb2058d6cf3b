"""`python -m crossdock_channel_gateway`: serves until SIGTERM; exits 1 when a part failed for a reason no one anticipated."""

from __future__ import annotations

import asyncio
import sys

import uvicorn

from crossdock_channel_gateway.outbound import SERVICE
from crossdock_channel_gateway.runtime import Runtime
from crossdock_channel_gateway.settings import Settings
from crossdock_eventing.clock import SystemClock
from crossdock_eventing.telemetry import configure_logging, configure_tracing


async def serve(settings: Settings) -> bool:
    """Serve until told to stop. True when nothing failed."""
    runtime = Runtime(settings, SystemClock())
    server = uvicorn.Server(
        uvicorn.Config(
            runtime.app,
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=10,
        )
    )
    serving = asyncio.create_task(server.serve())
    failing = asyncio.create_task(runtime.failed.wait())
    await asyncio.wait([serving, failing], return_when=asyncio.FIRST_COMPLETED)
    failing.cancel()
    server.should_exit = True
    await serving
    return not runtime.failed.is_set()


def main() -> None:
    """Entry point."""
    configure_logging(SERVICE)
    configure_tracing(SERVICE)
    if not asyncio.run(serve(Settings())):
        sys.exit(1)


if __name__ == "__main__":
    main()
