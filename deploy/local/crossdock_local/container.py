"""Kafka in a container: for machines with a Docker engine. Used by the fixtures, and by the demo where Java is missing."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crossdock_local import addresses, broker, processes
from crossdock_local.errors import LocalError

KAFKA_IMAGE = "apache/kafka:4.1.1"


def docker_answers() -> bool:
    """Whether a Docker engine can be talked to from here."""
    try:
        import docker  # type: ignore[import-untyped]
        from docker.errors import DockerException  # type: ignore[import-untyped]
    except ImportError:
        return False
    try:
        client = docker.from_env(timeout=2)
        try:
            return bool(client.ping())
        finally:
            client.close()
    except DockerException:
        return False


@contextmanager
def container_kafka() -> Iterator[str]:
    """Apache's own image, single node, with the same settings as the local broker; yields its bootstrap servers.

    Raises LocalError when the engine has no such image and cannot pull it, or the broker does not answer.
    """
    from docker.errors import DockerException
    from testcontainers.core.container import DockerContainer

    # The port is chosen beforehand: the broker must advertise the address that clients on this host use.
    [port] = processes.free_ports(addresses.LOOPBACK, 1)
    container = DockerContainer(KAFKA_IMAGE).with_bind_ports(port, port)
    for name, value in container_environment(port).items():
        container = container.with_env(name, value)
    try:
        container.start()
    except DockerException as error:
        raise LocalError(f"the Docker engine cannot run {KAFKA_IMAGE}: {error}") from None
    try:
        bootstrap = f"{addresses.LOOPBACK}:{port}"
        deadline = time.monotonic() + broker.READY_TIMEOUT_S
        while not broker.answers(bootstrap, timeout_s=1.0):
            if time.monotonic() > deadline:
                raise LocalError(f"the {KAFKA_IMAGE} container did not answer at {bootstrap}")
            time.sleep(0.2)
        yield bootstrap
    finally:
        container.stop()


def container_environment(port: int) -> dict[str, str]:
    """The image's settings: `server.properties` names in upper case, dots as underscores, `KAFKA_` before."""
    settings = broker.BrokerSettings(
        directory=Path("/"),
        library=Path("/"),
        port=port,
        controller_port=port + 1 if port < 65535 else port - 1,
    )
    properties = broker.server_properties(settings) | {
        "listeners": f"PLAINTEXT://:{port},CONTROLLER://{addresses.LOOPBACK}:{settings.controller_port}",
        "log.dirs": "/tmp/kafka-logs",  # noqa: S108 (inside the container)
    }
    return {f"KAFKA_{name.upper().replace('.', '_')}": value for name, value in properties.items()}
