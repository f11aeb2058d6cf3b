"""Where Kafka and the schema registry are: the environment's word, else the local defaults.

Everything that needs an address imports it from here: command line, fixtures, broker, registry.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from crossdock_local.errors import LocalError

BOOTSTRAP_VARIABLE = "KAFKA_BOOTSTRAP_SERVERS"
REGISTRY_URL_VARIABLE = "SCHEMA_REGISTRY_URL"
KAFKA_PORT_VARIABLE = "CROSSDOCK_KAFKA_PORT"
CONTROLLER_PORT_VARIABLE = "CROSSDOCK_KAFKA_CONTROLLER_PORT"
REGISTRY_PORT_VARIABLE = "CROSSDOCK_REGISTRY_PORT"
DIRECTORY_VARIABLE = "CROSSDOCK_LOCAL_DIR"

LOOPBACK = "127.0.0.1"


def bootstrap_servers(environ: Mapping[str, str] = os.environ) -> str:
    """Kafka's bootstrap servers, `host:port[,host:port]`."""
    return environ.get(BOOTSTRAP_VARIABLE) or f"{LOOPBACK}:{kafka_port(environ)}"


def schema_registry_url(environ: Mapping[str, str] = os.environ) -> str:
    """The registry's base URL, without a trailing slash."""
    return (environ.get(REGISTRY_URL_VARIABLE) or f"http://{LOOPBACK}:{registry_port(environ)}").rstrip("/")


def kafka_is_external(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment names a cluster of its own, so that none is started here."""
    return bool(environ.get(BOOTSTRAP_VARIABLE))


def registry_is_external(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment names a registry of its own, so that none is started here."""
    return bool(environ.get(REGISTRY_URL_VARIABLE))


def kafka_port(environ: Mapping[str, str] = os.environ) -> int:
    """The local broker's client port."""
    return _port(environ, KAFKA_PORT_VARIABLE, 9092)


def controller_port(environ: Mapping[str, str] = os.environ) -> int:
    """The local broker's KRaft controller port."""
    return _port(environ, CONTROLLER_PORT_VARIABLE, 9093)


def registry_port(environ: Mapping[str, str] = os.environ) -> int:
    """The local registry's HTTP port."""
    return _port(environ, REGISTRY_PORT_VARIABLE, 8081)


def local_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Where everything local lives: jars, data, logs, pid files.

    `.local` at the root of the checkout this package is run from, else under the working directory.
    """
    named = environ.get(DIRECTORY_VARIABLE)
    if named:
        return Path(named).expanduser().resolve()
    checkout = Path(__file__).resolve().parents[3]
    root = checkout if (checkout / "docker-compose.yml").is_file() else Path.cwd()
    return root / ".local"


def _port(environ: Mapping[str, str], variable: str, default: int) -> int:
    text = environ.get(variable)
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise LocalError(f"{variable}={text!r} is not a port: set it to a number from 1 to 65535")
    return int(text)
