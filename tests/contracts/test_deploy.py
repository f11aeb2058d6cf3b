"""What deploy does with the contracts: registers them, creates topics, gives groups their start. Safe to repeat."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any, Protocol

import pytest

from crossdock_eventing import names
from crossdock_eventing.broker.confluent import ConfluentBroker
from crossdock_eventing.broker.interface import RECORD_BYTES_MAX, Admin, Broker, TopicPartition
from crossdock_eventing.broker.memory import MemoryBroker
from crossdock_tools.schemas.contracts import ContractError, Repository, find_schemas
from crossdock_tools.schemas.register import register_all, subject_of
from crossdock_tools.topics import apply_catalogue, topic_specs

SEVERITY = {"name": "severity", "type": "string", "doc": "How urgent."}


class Small(Protocol):
    label: str
    reader: str
    events: str
    table: str

    @property
    def repository(self) -> Repository: ...
    def write_record(self, name: str, *fields: Any, version: int = 1) -> None: ...
    def write_topic(
        self, name: str, record: str, *, partitions: int = 2, compacted: bool = False
    ) -> None: ...


# ---- topics and groups


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def broker(request: pytest.FixtureRequest) -> Broker:
    if request.param == "memory":
        return MemoryBroker(lambda: 1_000_000)
    return ConfluentBroker(request.getfixturevalue("kafka_bootstrap"))


@pytest.fixture
def admin(broker: Broker) -> Iterator[Admin]:
    admin = broker.admin()
    yield admin
    admin.close()


def test_topics_are_created_as_the_catalogue_says(small_catalogue: Small, admin: Admin) -> None:
    report = apply_catalogue(small_catalogue.repository, admin)
    assert report == {"created": 7, "existing": 0, "groups": 1}
    reader = small_catalogue.reader
    kept = {
        small_catalogue.events: "delete",
        names.dead_letter_topic(reader): "delete",
        names.retry_topic(reader): "delete",
        names.replays_topic(reader): "delete",
        names.journal_topic(reader): "delete",
        small_catalogue.table: "compact",
        names.changelog_topic(reader): "compact",
    }
    for topic, policy in kept.items():
        found = admin.describe(topic)
        assert (found.partitions, found.configs.get("cleanup.policy", "delete")) == (2, policy), topic
        # A service's own topics take the copy of whatever its inputs take.
        own = topic not in (small_catalogue.events, small_catalogue.table)
        assert (found.configs.get("max.message.bytes") == str(RECORD_BYTES_MAX)) == own, topic


def test_applying_twice_changes_nothing(small_catalogue: Small, admin: Admin) -> None:
    apply_catalogue(small_catalogue.repository, admin)
    before = {topic: admin.topic_id(topic) for topic in admin.topics()}
    offsets = admin.group_offsets(names.group(small_catalogue.reader))
    assert apply_catalogue(small_catalogue.repository, admin) == {"created": 0, "existing": 7, "groups": 1}
    assert before.items() <= {topic: admin.topic_id(topic) for topic in admin.topics()}.items()
    assert admin.group_offsets(names.group(small_catalogue.reader)) == offsets


def test_another_partition_count_is_refused_before_anything_is_created(
    small_catalogue: Small, admin: Admin
) -> None:
    apply_catalogue(small_catalogue.repository, admin)
    small_catalogue.write_topic(small_catalogue.events, "PriceSet", partitions=4)
    added = f"retail.{small_catalogue.label}.feeds.v1"
    small_catalogue.write_topic(added, "PriceSet")
    with pytest.raises(ContractError, match=r"has 2 partitions, the catalogue says 4.*new topic major"):
        apply_catalogue(small_catalogue.repository, admin)
    assert added not in admin.topics()


def test_a_new_group_starts_at_the_beginning_of_what_is_kept(
    small_catalogue: Small, broker: Broker, admin: Admin
) -> None:
    admin.create_topics(topic_specs(small_catalogue.repository, 1))
    produce(broker, small_catalogue.events, count=3)
    [start] = (p for p in partitions(small_catalogue.events) if admin.watermarks(p).high > 0)
    admin.delete_records({start: 2})
    apply_catalogue(small_catalogue.repository, admin)
    found = admin.group_offsets(names.group(small_catalogue.reader))
    read = (*partitions(small_catalogue.events), *partitions(names.retry_topic(small_catalogue.reader)))
    assert found == {each: 2 if each == start else 0 for each in read}


def test_a_group_that_has_worked_keeps_its_place_and_gets_only_what_is_new(
    small_catalogue: Small, admin: Admin
) -> None:
    admin.create_topics(topic_specs(small_catalogue.repository, 1))
    group = names.group(small_catalogue.reader)
    read = (*partitions(small_catalogue.events), *partitions(names.retry_topic(small_catalogue.reader)))
    place = dict.fromkeys(read, 7)
    admin.initialise_group(group, place)
    added = f"retail.{small_catalogue.label}.feeds.v1"
    small_catalogue.write_topic(added, "PriceSet")
    apply_catalogue(small_catalogue.repository, admin)
    assert admin.group_offsets(group) == place | dict.fromkeys(partitions(added), 0)


def test_the_whole_catalogue_can_be_applied() -> None:
    found = Repository(find_schemas())
    admin = MemoryBroker(lambda: 1_000_000).admin()
    report = apply_catalogue(found, admin)
    services = {service for topic in found.topics.values() for service in topic.consumers}
    assert report == {
        "created": len(found.topics) + 5 * len(services),
        "existing": 0,
        "groups": len(services),
    }


def partitions(topic: str) -> list[TopicPartition]:
    return [TopicPartition(topic, number) for number in range(2)]


def produce(broker: Broker, topic: str, *, count: int) -> None:
    producer = broker.producer(f"{topic}-writer")
    producer.init_transactions()
    producer.begin()
    for _ in range(count):
        producer.produce(topic, key=b"k", value=b"v")
    producer.commit()
    producer.close()


# ---- registration


def ask(url: str, *path: str) -> Any:
    quoted = "/".join(urllib.parse.quote(part, safe="") for part in path)
    with urllib.request.urlopen(f"{url}/{quoted}") as answer:
        return json.load(answer)


@pytest.mark.kafka
def test_every_contract_is_registered_with_its_level(schema_registry_url: str) -> None:
    found = Repository(find_schemas())
    report = register_all(found, schema_registry_url)
    assert report == {"subjects": len(found.latest), "versions": len(found.contracts)}
    versions = {
        subject: ask(schema_registry_url, "subjects", subject, "versions")
        for subject in ask(schema_registry_url, "subjects")
    }
    assert register_all(found, schema_registry_url) == report
    for contract in found.latest.values():
        subject = subject_of(found, contract)
        assert ask(schema_registry_url, "subjects", subject, "versions") == versions[subject], (
            "a second version"
        )
        level = ask(schema_registry_url, "config", subject)["compatibilityLevel"]
        assert level == ("BACKWARD_TRANSITIVE" if contract.is_state else "FULL_TRANSITIVE"), subject


@pytest.mark.kafka
def test_a_compatible_version_is_the_subjects_second(
    small_catalogue: Small, schema_registry_url: str
) -> None:
    register_all(small_catalogue.repository, schema_registry_url)
    price = {"name": "price", "type": "long", "doc": "Minor units."}
    small_catalogue.write_record("PriceSet", price, {**SEVERITY, "default": "normal"}, version=2)
    assert register_all(small_catalogue.repository, schema_registry_url) == {"subjects": 2, "versions": 3}
    subject = f"{small_catalogue.events}-retail.{small_catalogue.label}.PriceSet"
    assert ask(schema_registry_url, "subjects", subject, "versions") == [1, 2]


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ([{"name": "price", "type": "string", "doc": "Text."}], "field 'price' breaks TYPE_MISMATCH"),
        ([], "field 'price' breaks READER_FIELD_MISSING_DEFAULT_VALUE"),
    ],
)
def test_an_incompatible_version_is_refused_with_file_field_and_rule(
    small_catalogue: Small, schema_registry_url: str, fields: list[Any], words: str
) -> None:
    register_all(small_catalogue.repository, schema_registry_url)
    small_catalogue.write_record("PriceSet", *fields, version=2)
    with pytest.raises(ContractError, match=r"PriceSet\.v2\.avsc: the registry refused it") as refused:
        register_all(small_catalogue.repository, schema_registry_url)
    assert words in str(refused.value)
    subject = f"{small_catalogue.events}-retail.{small_catalogue.label}.PriceSet"
    assert ask(schema_registry_url, "subjects", subject, "versions") == [1]
