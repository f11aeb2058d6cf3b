"""Pytest fixtures: a Kafka cluster and a schema registry for the session, however this machine can have them.

Named as a plugin by the top-level tests' conftest (`pytest_plugins = ["crossdock_local.fixtures"]`). The
same tests run against a cluster that the environment names, one in a container, or a broker from plain
jars.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from crossdock_local import addresses, broker, cluster, container, jars, processes
from crossdock_local.errors import LocalError


@pytest.fixture(scope="session")
def kafka_bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap servers of a cluster that this session may create topics in."""
    if addresses.kafka_is_external():
        yield addresses.bootstrap_servers()
        return
    with ExitStack() as stack:
        yield _own_kafka(stack, tmp_path_factory)


def _own_kafka(stack: ExitStack, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A broker that lives as long as the stack: in a container where an engine can run one, else from jars."""
    if container.docker_answers():
        with suppress(LocalError):  # an engine that cannot pull the image is no reason to go without a broker
            return stack.enter_context(container.container_kafka())
    library = addresses.local_directory() / "kafka" / "lib"
    try:
        jars.find_java()
        jars.ensure_jars(library)
    except LocalError as error:
        # In CI a missing broker must not pass for a green run.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no Kafka for this test: {error}")
    kafka = stack.enter_context(broker.LocalKafka(tmp_path_factory.mktemp("kafka"), library=library))
    return kafka.bootstrap_servers


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
