"""The registry as a process on a real broker: Confluent's client, restarts, kill -9, and two at once."""

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext

from crossdock_local import addresses, cluster, processes
from crossdock_local.broker import LocalKafka

pytestmark = [
    pytest.mark.kafka,
    # Confluent's client imports a module of authlib that warns about its own dependency.
    pytest.mark.filterwarnings("ignore:.*httpx.*:DeprecationWarning"),
]


def schema_text(name: str, *fields: tuple[str, str]) -> str:
    rendered = [{"name": field, "type": kind} for field, kind in fields]
    return json.dumps({"type": "record", "name": name, "namespace": "retail.test", "fields": rendered})


class RegistryProcess:
    """One registry process, and Confluent's client for it."""

    def __init__(self, bootstrap: str, log_file: Path) -> None:
        [port] = processes.free_ports(addresses.LOOPBACK, 1)
        self.url = f"http://{addresses.LOOPBACK}:{port}"
        command = cluster.registry_command(port=port, bootstrap=bootstrap)
        self.process = processes.spawn(command, log_file=log_file, die_with_parent=True)
        cluster.wait_for_registry(self.url, self.process, log_file)
        self.client = SchemaRegistryClient({"url": self.url, "max.retries": 0})

    def post(self, subject: str, text: str) -> tuple[int, Any]:
        request = urllib.request.Request(
            f"{self.url}/subjects/{subject}/versions",
            data=json.dumps({"schema": text}).encode(),
            method="POST",
        )
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        os.killpg(self.process.pid, number)
        self.process.wait(10)


@pytest.fixture(scope="module")
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """A cluster of this module's own: several registries fight over its schemas topic."""
    library = addresses.local_directory() / "kafka" / "lib"
    with LocalKafka(tmp_path_factory.mktemp("kafka"), library=library, heap_mb=256) as kafka:
        yield kafka


@pytest.fixture
def start(own_kafka: LocalKafka, tmp_path: Path) -> Iterator[Callable[[], RegistryProcess]]:
    started: list[RegistryProcess] = []

    def start_one() -> RegistryProcess:
        started.append(RegistryProcess(own_kafka.bootstrap_servers, tmp_path / f"{len(started)}.log"))
        return started[-1]

    yield start_one
    processes.stop_children([registry.process for registry in started], grace_s=5.0)


def test_confluents_serializers_work_unchanged(schema_registry_url: str, kafka_bootstrap: str) -> None:
    """Over the shared fixtures, as every other test uses them."""
    client = SchemaRegistryClient({"url": schema_registry_url})
    text = schema_text("Greeting", ("word", "string"))
    context = SerializationContext("greetings", MessageField.VALUE)
    serialize = AvroSerializer(client, text)
    payload = serialize({"word": "hello"}, context)
    registered = client.get_latest_version("greetings-value")
    assert payload[:5] == b"\x00" + registered.schema_id.to_bytes(4, "big")
    fresh = SchemaRegistryClient({"url": schema_registry_url})
    assert AvroDeserializer(fresh)(payload, context) == {"word": "hello"}
    assert AdminClient({"bootstrap.servers": kafka_bootstrap}).list_topics(timeout=10).topics["_schemas"]


def test_confluents_client_finds_every_call_it_makes(start: Callable[[], RegistryProcess]) -> None:
    client = start().client
    line = Schema(schema_text("Line", ("sku", "string")), "AVRO")
    line_id = client.register_schema("client-line", line)
    assert client.register_schema("client-line", line, normalize_schemas=True) == line_id
    assert client.lookup_schema("client-line", line).version == 1
    text = schema_text("Order", ("line", "retail.test.Line"))
    references = [SchemaReference("retail.test.Line", "client-line", 1)]
    order_id = client.register_schema("client-order", Schema(text, "AVRO", references))
    assert client.get_schema(order_id).references[0].subject == "client-line"
    assert client.get_referenced_by("client-line", 1) == [order_id]
    assert client.get_subjects_by_schema_id(order_id) == ["client-order"]
    assert client.get_schema_versions(order_id)[0].version == 1
    assert {"client-line", "client-order"} <= set(client.get_subjects())
    assert client.get_versions("client-line") == [1]
    assert client.get_version("client-line", 1).schema_id == line_id
    assert client.get_schema_types() == ["AVRO"]
    assert client.get_contexts() == ["."]
    assert client.set_compatibility("client-line", "FULL_TRANSITIVE")["compatibility"] == "FULL_TRANSITIVE"
    assert client.get_compatibility("client-line") == "FULL_TRANSITIVE"
    wrong = Schema(schema_text("Line", ("sku", "long")), "AVRO")
    assert not client.test_compatibility("client-line", wrong)
    assert not client.test_compatibility_all_versions("client-line", wrong)
    with pytest.raises(SchemaRegistryError, match=r"'sku' breaks TYPE_MISMATCH") as refused:
        client.register_schema("client-line", wrong)
    assert (refused.value.http_status_code, refused.value.error_code) == (409, 409)
    assert client.get_config("client-line").compatibility_level == "FULL_TRANSITIVE"
    client.delete_config("client-line")
    assert client.update_mode("client-line", "READONLY") == "READONLY"
    assert client.get_mode("client-line") == "READONLY"
    client.delete_mode("client-line")
    assert client.get_global_mode() == "READWRITE"
    assert client.delete_version("client-order", 1) == 1
    assert client.delete_version("client-order", 1, permanent=True) == 1
    assert client.delete_subject("client-line") == [1]
    assert client.delete_subject("client-line", permanent=True) == [1]
    with pytest.raises(SchemaRegistryError) as gone:
        client.get_latest_version("client-line")
    assert (gone.value.http_status_code, gone.value.error_code) == (404, 40401)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ids_survive_a_restart_however_the_process_ended(
    start: Callable[[], RegistryProcess], number: signal.Signals
) -> None:
    before = start()
    texts = {f"restart-{number}-{i}": schema_text(f"R{number}x{i}") for i in range(5)}
    ids = {
        subject: before.client.register_schema(subject, Schema(text, "AVRO"))
        for subject, text in texts.items()
    }
    guids = {subject: before.client.get_latest_version(subject).guid for subject in texts}
    before.stop(number)
    after = start()
    assert {subject: after.client.get_latest_version(subject).schema_id for subject in texts} == ids
    assert {subject: after.client.get_latest_version(subject).guid for subject in texts} == guids
    assert after.client.get_schema_by_guid(guids[f"restart-{number}-0"]).schema_str
    again = {
        subject: after.client.register_schema(subject, Schema(text, "AVRO"))
        for subject, text in texts.items()
    }
    assert again == ids
    assert after.client.register_schema(
        f"restart-{number}-new", Schema(schema_text(f"N{number}"), "AVRO")
    ) > max(ids.values())


def test_of_two_registries_the_newer_one_writes(start: Callable[[], RegistryProcess]) -> None:
    first = start()
    assert first.post("two-a", schema_text("TwoA"))[0] == 200
    second = start()
    status, answer = first.post("two-b", schema_text("TwoB"))
    assert (status, answer["error_code"]) == (500, 50004)
    status, answer = second.post("two-b", schema_text("TwoB"))
    assert status == 200
    second.stop()
    third = start()
    assert third.client.get_latest_version("two-b").schema_id == answer["id"]


def test_a_transaction_left_open_by_a_dead_writer_holds_nobody_up(
    own_kafka: LocalKafka, start: Callable[[], RegistryProcess]
) -> None:
    start().stop()
    dead = Producer(
        {
            "bootstrap.servers": own_kafka.bootstrap_servers,
            "transactional.id": "crossdock-schema-registry",
            "transaction.timeout.ms": 60_000,
        }
    )
    dead.init_transactions(10)
    dead.begin_transaction()
    key = b'{"keytype":"SCHEMA","subject":"never","version":1,"magic":1}'
    value = b'{"subject":"never","version":1,"id":999,"schema":"\\"int\\"","deleted":false}'
    dead.produce("_schemas", key=key, value=value)
    dead.flush(10)
    registry = start()
    assert registry.post("after-the-dead", schema_text("After"))[0] == 200
    assert "never" not in registry.client.get_subjects()


def test_the_topic_is_compacted_and_holds_what_was_acknowledged(
    own_kafka: LocalKafka, start: Callable[[], RegistryProcess]
) -> None:
    registry = start()
    schema_id = registry.client.register_schema("topic", Schema('"string"', "AVRO"))
    registry.stop(signal.SIGKILL)
    admin = AdminClient({"bootstrap.servers": own_kafka.bootstrap_servers})
    resource = ConfigResource(ResourceType.TOPIC, "_schemas")
    assert admin.describe_configs([resource])[resource].result(10)["cleanup.policy"].value == "compact"
    reader = Consumer(
        {
            "bootstrap.servers": own_kafka.bootstrap_servers,
            "group.id": "look",
            "isolation.level": "read_committed",
        }
    )
    reader.assign([TopicPartition("_schemas", 0, 0)])
    found = {}
    while b'{"keytype":"SCHEMA","subject":"topic","version":1,"magic":1}' not in found:
        message = reader.poll(10)
        assert message is not None
        found[message.key()] = message.value()
    reader.close()
    assert json.loads(found[message.key()])["id"] == schema_id


def test_a_topic_that_would_lose_schemas_is_refused(tmp_path: Path) -> None:
    library = addresses.local_directory() / "kafka" / "lib"
    with LocalKafka(tmp_path / "kafka", library=library, heap_mb=256) as kafka:
        from confluent_kafka.admin import NewTopic

        admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
        admin.create_topics([NewTopic("_schemas", 1, 1)])["_schemas"].result(10)
        command = cluster.registry_command(port=1, bootstrap=kafka.bootstrap_servers)
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert "topic _schemas has cleanup.policy=delete" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_broker_that_goes_and_comes_back_costs_only_the_writes_in_between(tmp_path: Path) -> None:
    library = addresses.local_directory() / "kafka" / "lib"
    kafka = LocalKafka(tmp_path / "kafka", library=library, heap_mb=256)
    kafka.start()
    registry = RegistryProcess(kafka.bootstrap_servers, tmp_path / "registry.log")
    try:
        status, answer = registry.post("before", schema_text("Before"))
        assert (status, answer["id"]) == (200, 1)
        kafka.stop(grace_s=0.0)
        status, answer = registry.post("during", schema_text("During"))
        assert (status, answer["error_code"]) == (500, 50001)
        assert registry.client.get_latest_version("before").schema_id == 1
        kafka.start()
        deadline = time.monotonic() + 60
        while (answer := registry.post("after", schema_text("After")))[0] != 200:
            assert answer[1]["error_code"] == 50001
            assert time.monotonic() < deadline
        assert registry.client.get_subjects() == ["after", "before"]
    finally:
        processes.stop_children([registry.process], grace_s=5.0)
        kafka.stop()
