"""`crossdock replay rebuild`: states and parked queues follow from inputs and journal; whatever is live otherwise is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crossdock_canonical.decider import Rejected
from crossdock_eventing import names
from crossdock_eventing.broker.interface import TopicPartition
from crossdock_eventing.broker.memory.clients import MemoryReader
from crossdock_eventing.codec import Codec
from crossdock_eventing.parking.formats import Park, park_name, queue_name
from crossdock_simulation.planting import an_order, id_of
from crossdock_tools.replaying.rebuild import rebuild

SERVICE = "order-orchestrator"
JOURNAL, CHANGELOG = names.journal_topic(SERVICE), names.changelog_topic(SERVICE)
Cli = Callable[..., Any]


def latest(day: Any, name: str) -> bytes:
    """The live value of an entry of the changelog."""
    values = [each.value for each in day.records(CHANGELOG) if each.key == name.encode()]
    assert values[-1] is not None
    return bytes(values[-1])


def damage(day: Any, number: int, name: str, value: bytes | None) -> None:
    """Somebody writes to the changelog of the order of this number."""
    day.put(CHANGELOG, key=name, value=value, partition=day.partition_of(number))


def test_states_and_queues_follow_from_inputs_and_journal(
    recorded_day: Any, replay_cli: Cli, tmp_path: Path
) -> None:
    said = replay_cli("rebuild", "--service", SERVICE, "--out", str(tmp_path))
    assert said.exit_code == 0, said.out
    assert said.out.rstrip().endswith(": 0 differences")
    assert "2 parked keys" in said.out
    lines = [json.loads(each) for each in (tmp_path / f"{SERVICE}.states.jsonl").read_text().splitlines()]
    states = {each["key"]: each["is"] for each in lines if "key" in each}
    assert states.keys() == {id_of(number) for number in (1, 4, 5, 6)}
    entries = {each["entry"]: each["is"] for each in lines if "entry" in each}
    assert Park.from_json(entries[park_name(id_of(2))]).tail == 2
    assert {queue_name(id_of(2), seq) for seq in (0, 1)} <= entries.keys()
    assert park_name(id_of(1)) not in entries, "it was released"
    assert [each["is"]["n"] for each in lines if each.get("entry") == "\0replays"] == [1]


@pytest.mark.parametrize(
    "service",
    ["inventory-availability", "fulfillment-router", "returns", "settlement-reconciler", "erp-poster"],
)
def test_every_service_can_be_rebuilt(replay_cli: Cli, service: str) -> None:
    said = replay_cli("--service", service, "--rebuild", "--json")
    assert (said.exit_code, said.json["differences"], said.json["beyond_retention"]) == (0, [], {})


def test_a_state_that_was_damaged_is_found_field_by_field(recorded_day: Any, replay_cli: Cli) -> None:
    service = recorded_day.backbone.services[SERVICE]
    codec = Codec(
        recorded_day.registry(),
        written=[(kind, CHANGELOG) for kind in service.states],
        read=service.states,
    )
    state = codec.decode_state(latest(recorded_day, id_of(4)))
    damage(recorded_day, 4, id_of(4), codec.encode_state(replace(state, timers={})))
    damage(recorded_day, 5, id_of(5), None)
    damage(recorded_day, 6, id_of(6), b"no avro")
    damage(recorded_day, 1, "nobody", codec.encode_state(state))
    said = replay_cli("rebuild", "--service", SERVICE, "--json")
    assert said.exit_code == 1
    found = {each["thread"]: each for each in said.json["differences"]}
    assert found.keys() == {id_of(4), id_of(5), id_of(6), "nobody"}
    assert found[id_of(4)]["what"] == "the state differs (live -> rebuilt)"
    assert all(each.startswith("timers.") for each in found[id_of(4)]["changes"])
    assert found[id_of(5)]["what"] == "the state follows from inputs and journal, and is not there live"
    assert found[id_of(6)]["what"].startswith("the live state cannot be read: contract.bad_framing")
    assert found["nobody"]["what"] == "the state is there live, and does not follow from inputs and journal"
    said = replay_cli("rebuild", "--service", SERVICE)
    assert f"{SERVICE} {id_of(5)}: the state follows from" in said.out
    assert said.out.rstrip().endswith(": 4 differences")


def test_a_queue_that_was_damaged_is_found(recorded_day: Any, replay_cli: Cli) -> None:
    park = json.loads(latest(recorded_day, park_name(id_of(2))))
    damage(recorded_day, 2, park_name(id_of(2)), json.dumps({**park, "tail": 9}).encode())
    damage(recorded_day, 2, queue_name(id_of(2), 1), None)
    damage(recorded_day, 3, park_name(id_of(3)), b"no json")
    damage(recorded_day, 1, "\0replays", None)
    said = replay_cli("rebuild", "--service", SERVICE, "--json")
    assert said.exit_code == 1
    found = {(each["thread"], each["what"]): each["changes"] for each in said.json["differences"]}
    assert found[id_of(2), "the parked key differs (live -> rebuilt)"] == ["tail: 9 -> 2"]
    [shown] = found[id_of(2), "parked message 1 follows from inputs and journal, and is not there live"]
    assert "topic retail.order.intake.v1" in shown
    assert (id_of(3), "the parked key differs (live -> rebuilt)") in found
    assert (
        "replays",
        "the chain's last link follows from inputs and journal, and is not there live",
    ) in found
    assert len(found) == 4


def test_another_decider_makes_other_states(recorded_day: Any) -> None:
    """The deciders of today make the states: this is no comparison of the changelog with itself."""
    service = recorded_day.backbone.services[SERVICE]

    def strict(command: Any, state: Any, **more: Any) -> Any:
        if getattr(command, "external_id", "") == "4":
            raise Rejected("order.unknown_sku", "none of the sort")
        return service.decide(command, state, **more)

    found = rebuild(replace(service, decide=strict), recorded_day.broker(), recorded_day.registry())
    told = [str(each) for each in found.differences if each.thread == id_of(4)]
    assert any("the state is there live, and does not follow" in each for each in told)
    assert any("the parked key follows from inputs and journal" in each for each in told)


def test_what_retention_took_is_named_and_the_rest_is_rebuilt(recorded_day: Any, replay_cli: Cli) -> None:
    lost = recorded_day.partition_of(4)
    recorded_day.broker().admin().delete_records({TopicPartition(JOURNAL, lost): 1})
    damage(recorded_day, 4, id_of(4), None)
    said = replay_cli("rebuild", "--service", SERVICE)
    assert said.exit_code == 0
    assert (
        f"beyond retention, or never journaled, so not rebuilt: partition {lost} ({JOURNAL}/{lost} begins at 1"
        in said.out
    )
    told = replay_cli("rebuild", "--service", SERVICE, "--json").json
    assert lost not in told["rebuilt"]
    assert list(told["beyond_retention"]) == [str(lost)]


def test_nothing_to_rebuild_is_an_error(recorded_day: Any, replay_cli: Cli) -> None:
    admin = recorded_day.broker().admin()
    recorded_day.put(JOURNAL, key="k", value=b"{}", partition=0)
    for number in range(admin.partitions(JOURNAL)):
        recorded_day.put(JOURNAL, key="k", value=b"{}", partition=number)
        admin.delete_records({TopicPartition(JOURNAL, number): 1})
    said = replay_cli("rebuild", "--service", SERVICE)
    assert (said.exit_code, said.out) == (1, "")
    assert said.err.startswith(f"crossdock: {SERVICE}: beyond retention")


def test_a_service_that_went_on_without_a_journal_cannot_be_rebuilt(
    recorded_day: Any, replay_cli: Cli
) -> None:
    recorded_day.backbone.workers[SERVICE]._journal.on = False
    recorded_day.backbone.send(an_order(7, ("A", 1, 7000)))
    recorded_day.backbone.run()
    number = recorded_day.partition_of(7)
    told = replay_cli("rebuild", "--service", SERVICE, "--json").json
    assert f"{JOURNAL}/{number} ends at" in told["beyond_retention"][str(number)]
    assert told["differences"] == []


def test_a_partition_that_never_rests_is_not_compared(
    recorded_day: Any, replay_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = TopicPartition(CHANGELOG, recorded_day.partition_of(4))
    ends = MemoryReader.watermarks

    def moving(reader: MemoryReader, partition: TopicPartition) -> Any:
        if partition == busy:
            damage(recorded_day, 4, id_of(4), None)
        return ends(reader, partition)

    monkeypatch.setattr(MemoryReader, "watermarks", moving)
    said = replay_cli("rebuild", "--service", SERVICE)
    assert said.exit_code == 0
    assert f"written to all the while, so not compared: partitions {busy.partition};" in said.out


def test_what_cannot_be_done_is_refused_with_a_reason(replay_cli: Cli, tmp_path: Path) -> None:
    said = replay_cli("rebuild", "--service", "nobody")
    assert (said.exit_code, "no service nobody; there are " in said.err) == (1, True)
    said = replay_cli("rebuild", "--service", SERVICE, "--out", str(tmp_path / "gone"))
    assert (said.exit_code, "is not a folder" in said.err) == (1, True)
