"""Pytest fixtures: a Kafka cluster and a schema registry for the session, however this machine can have them.

Named as a plugin by the top-level tests' conftest (`pytest_plugins = ["crossdock_local.fixtures"]`). The
same tests run against a cluster that the environment names, one in a container, or a broker from plain
jars.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crossdock_local import addresses, broker, cluster, jars, processes
from crossdock_local.errors import LocalError

KAFKA_IMAGE = "apache/kafka:4.1.1"


@pytest.fixture(scope="session")
def kafka_bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap servers of a cluster that this session may create topics in."""
    if addresses.kafka_is_external():
        yield addresses.bootstrap_servers()
    elif docker_answers():
        with container_kafka() as bootstrap:
            yield bootstrap
    else:
        directory = tmp_path_factory.mktemp("kafka")
        library = addresses.local_directory() / "kafka" / "lib"
        try:
            jars.find_java()
            jars.ensure_jars(library)
        except LocalError as error:
            # In CI a missing broker must not pass for a green run.
            (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no Kafka for this test: {error}")
        with broker.LocalKafka(directory, library=library) as kafka:
            yield kafka.bootstrap_servers


@pytest.fixture(scope="session")
def schema_registry_url(kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a schema registry over that cluster, without a trailing slash."""
    if addresses.registry_is_external():
        yield addresses.schema_registry_url()
    else:
        with registry_process(kafka_bootstrap, tmp_path_factory.mktemp("registry")) as url:
            yield url


@contextmanager
def registry_process(bootstrap: str, directory: Path) -> Iterator[str]:
    """A registry on a free port, with its log in `directory`, that lives as long as the block."""
    [port] = processes.free_ports(addresses.LOOPBACK, 1)
    url, log_file = f"http://{addresses.LOOPBACK}:{port}", directory / "schema-registry.log"
    command = cluster.registry_command(port=port, bootstrap=bootstrap)
    process = processes.spawn(command, log_file=log_file, die_with_parent=True)
    try:
        cluster.wait_for_registry(url, process, log_file)
        yield url
    finally:
        processes.stop_children([process], grace_s=5.0)


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
    """Apache's own image, single node, with the same settings as the local broker."""
    from testcontainers.core.container import DockerContainer

    # The port is chosen beforehand: the broker must advertise the address that clients on this host use.
    [port] = processes.free_ports(addresses.LOOPBACK, 1)
    container = DockerContainer(KAFKA_IMAGE).with_bind_ports(port, port)
    for name, value in container_environment(port).items():
        container = container.with_env(name, value)
    with container:
        bootstrap = f"{addresses.LOOPBACK}:{port}"
        deadline = time.monotonic() + broker.READY_TIMEOUT_S
        while not broker.answers(bootstrap, timeout_s=1.0):
            if time.monotonic() > deadline:
                raise LocalError(f"the {KAFKA_IMAGE} container did not answer at {bootstrap}")
            time.sleep(0.2)
        yield bootstrap


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
