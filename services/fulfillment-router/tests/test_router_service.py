"""The composition agrees with the catalogue, and the environment reaches the policy."""

from datetime import timedelta

from crossdock_fulfillment_router.service import service
from crossdock_fulfillment_router.settings import Settings
from crossdock_tools.schemas.contracts import Repository, find_schemas

NAME = "fulfillment-router"


def test_inputs_outputs_and_tables_are_those_of_the_catalogue():
    composed = service(Settings())
    topics = Repository(find_schemas()).topics.values()
    consumed = {record for topic in topics for record in topic.consumers.get(NAME, ())}
    assert {record.SCHEMA for record in composed.inputs} | {
        record.SCHEMA for record in composed.tables.values()
    } == consumed
    produced_topics = {topic.name for topic in topics if NAME in topic.producers}
    assert {record.TOPIC for record in composed.outputs} == produced_topics
    assert all(record.KEY == ("order_id",) for record in composed.inputs)


def test_the_environment_sets_the_policy(monkeypatch):
    monkeypatch.setenv("CROSSDOCK_FULFILLMENT_ROUTER_SOURCING_DEADLINE_S", "30")
    monkeypatch.setenv("CROSSDOCK_FULFILLMENT_ROUTER_PARCELS_MAX", "2")
    policy = Settings().policy()
    assert policy.sourcing_deadline == timedelta(seconds=30)
    assert policy.parcels_max == 2
    assert service(Settings()).decide.keywords["policy"] == policy
