"""The registry process: `python -m crossdock_local.registry --port 8081 --bootstrap 127.0.0.1:9092`."""

import argparse
import logging
import os
import secrets
import socket
import sys

import uvicorn

from crossdock_local import addresses
from crossdock_local.errors import LocalError
from crossdock_local.registry.http import build_app
from crossdock_local.registry.log import KafkaLog, LogUnavailableError
from crossdock_local.registry.service import Registry


def main() -> int:
    """Serve until SIGTERM or SIGINT; 1 when the log cannot be had."""
    try:
        arguments = _arguments()
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
        schema_log = KafkaLog(arguments.bootstrap)
    except (LocalError, LogUnavailableError) as error:
        print(f"schema registry: {error}", file=sys.stderr)  # noqa: T201 (the process's last words)
        return 1
    # Another life of this process must not pass for this one: see service.
    name = f"{socket.gethostname()}:{arguments.port}:{os.getpid()}:{secrets.token_hex(4)}"
    app = build_app(Registry(schema_log, name=name), on_close=schema_log.close)
    uvicorn.run(app, host=arguments.host, port=arguments.port, log_level="warning", access_log=False)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="crossdock_local.registry", description=__doc__)
    parser.add_argument("--host", default=addresses.LOOPBACK, help="interface to listen on")
    parser.add_argument("--port", type=int, default=addresses.registry_port(), help="HTTP port")
    parser.add_argument("--bootstrap", default=addresses.bootstrap_servers(), help="Kafka's host:port list")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
