"""Which address wins, and that a wrong setting is one clear line."""

from pathlib import Path

import pytest

from crossdock_local import addresses
from crossdock_local.errors import LocalError


def test_without_settings_everything_is_on_loopback() -> None:
    assert addresses.bootstrap_servers({}) == "127.0.0.1:9092"
    assert addresses.schema_registry_url({}) == "http://127.0.0.1:8081"
    assert not addresses.kafka_is_external({})
    assert not addresses.registry_is_external({})


def test_a_port_moves_the_local_address() -> None:
    environ = {"CROSSDOCK_KAFKA_PORT": "19092", "CROSSDOCK_REGISTRY_PORT": "18081"}
    assert addresses.bootstrap_servers(environ) == "127.0.0.1:19092"
    assert addresses.schema_registry_url(environ) == "http://127.0.0.1:18081"


def test_an_address_of_its_own_wins_over_the_port() -> None:
    environ = {
        "KAFKA_BOOTSTRAP_SERVERS": "kafka-1:9092,kafka-2:9092",
        "SCHEMA_REGISTRY_URL": "http://registry:8081/",
        "CROSSDOCK_KAFKA_PORT": "1",
    }
    assert addresses.bootstrap_servers(environ) == "kafka-1:9092,kafka-2:9092"
    assert addresses.schema_registry_url(environ) == "http://registry:8081"
    assert addresses.kafka_is_external(environ)
    assert addresses.registry_is_external(environ)


@pytest.mark.parametrize("text", ["0", "65536", "-1", "kafka", "90 92", "٣"])
def test_a_port_that_is_none_names_its_variable(text: str) -> None:
    with pytest.raises(LocalError, match="CROSSDOCK_KAFKA_PORT"):
        addresses.bootstrap_servers({"CROSSDOCK_KAFKA_PORT": text})


def test_the_local_directory_is_in_the_checkout_unless_named(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[3]
    assert addresses.local_directory({}) == root / ".local"
    assert addresses.local_directory({"CROSSDOCK_LOCAL_DIR": str(tmp_path)}) == tmp_path
