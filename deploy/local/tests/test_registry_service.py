"""The single writer: what is acknowledged, who may write, and what a lost or fenced write leaves behind."""

import asyncio
import json

import pytest

from crossdock_local.registry import commands, service
from crossdock_local.registry.commands import SchemaRequest
from crossdock_local.registry.records import StoredSchema

RECORD = json.dumps({"type": "record", "name": "R", "fields": []})


def post(registry, subject: str, schema: str = '"string"') -> tuple[int, dict]:
    return registry.call("POST", f"/subjects/{subject}/versions", {"schema": schema})


def test_the_newest_registry_writes_and_the_earlier_one_only_reads(start_registry) -> None:
    first = start_registry(name="first")
    first.register("a", '"string"')
    second = start_registry(first.topic, name="second")
    assert post(first, "b") == (500, {"error_code": 50004, "message": str(service.errors.no_leader())})
    status, answer = post(second, "b", RECORD)
    assert (status, answer["id"]) == (200, 2)
    assert post(first, "c")[0] == 500
    assert [record for record in first.topic.records if b'"c"' in record.key] == []
    assert first.ok("GET", "/readyz") == {"status": "ready", "writable": False}
    assert second.ok("GET", "/readyz") == {"status": "ready", "writable": True}


def test_a_registry_that_is_read_only_follows_the_writer(start_registry, monkeypatch) -> None:
    monkeypatch.setattr(service, "TAIL_INTERVAL_S", 0.001)
    first = start_registry(name="first")
    second = start_registry(first.topic, name="second")
    second.register("a", '"string"')
    first.run(asyncio.sleep(0.05))
    assert first.ok("GET", "/subjects") == ["a"]
    assert not first.registry.writable


def test_fenced_by_a_time_out_of_the_broker_it_claims_again_and_the_client_sees_nothing(
    start_registry,
) -> None:
    registry = start_registry()
    registry.topic.fail_next = "broker timed the transaction out"
    assert registry.register("a", '"string"') == 1
    assert registry.ok("GET", "/subjects/a/versions") == [1]


@pytest.mark.parametrize("failure", ["lost before", "lost after"])
def test_a_write_of_unknown_outcome_is_not_acknowledged_and_a_retry_gives_one_version(
    start_registry, failure: str
) -> None:
    registry = start_registry()
    registry.topic.fail_next = failure
    status, answer = post(registry, "a")
    assert (status, answer["error_code"]) == (500, 50001)
    assert registry.register("a", '"string"') == 1
    assert registry.ok("GET", "/subjects/a/versions") == [1]
    assert sum(b'"SCHEMA"' in record.key for record in registry.topic.records) == 1


def test_concurrent_registrations_get_different_ids(start_registry) -> None:
    registry = start_registry()

    def decide(number: int):
        request = SchemaRequest(f'{{"type":"record","name":"R{number}","fields":[]}}')
        return lambda state: commands.register(state, f"s{number}", request, normalize=False)

    async def all_at_once() -> list[StoredSchema]:
        return await asyncio.gather(*(registry.registry.change(decide(number)) for number in range(20)))

    assert sorted(schema.id for schema in registry.run(all_at_once())) == list(range(1, 21))


def test_two_registries_that_start_at_once_end_with_one_writer(start_registry) -> None:
    topic = start_registry(name="first").topic
    registries = [start_registry(topic, name=f"n{number}") for number in range(3)]
    answers = [post(registry, f"s{number}", RECORD)[0] for number, registry in enumerate(registries)]
    assert answers == [500, 500, 200]
