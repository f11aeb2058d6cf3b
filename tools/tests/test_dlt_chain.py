"""The hash chain of the replays: whole after real replays; an entry that was altered, left out, put in or cut off is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from crossdock_eventing import names
from crossdock_eventing.broker.interface import TopicPartition, TopicSpec
from crossdock_eventing.parking.formats import NO_ENTRY, ReplayEntry, digest
from crossdock_simulation.planting import id_of
from crossdock_tools.dead_letters.chain import walk

SERVICE = "order-orchestrator"
TOPIC = names.replays_topic(SERVICE)


def entries(count: int) -> list[bytes]:
    """A sound chain."""
    made: list[bytes] = []
    for number in range(count):
        entry = ReplayEntry(
            number=number,
            previous=digest(made[-1]) if made else NO_ENTRY,
            at_us=number,
            plan="p",
            item=number,
            operator="mira",
            reason="r",
            key="k",
            episode="e",
            op="release",
            outcome="released",
        )
        made.append(entry.to_bytes())
    return made


def write(cluster: Any, values: Sequence[bytes | None], *, partition: int = 0) -> None:
    for value in values:
        cluster.put(TOPIC, key=b"k", value=value, partition=partition)


def remember(cluster: Any, number: int, last: str, *, partition: int = 0) -> None:
    """The chain's end as the service keeps it."""
    cluster.put(
        names.changelog_topic(SERVICE),
        key=b"\x00replays",
        value=json.dumps({"n": number, "hash": last}).encode(),
        partition=partition,
    )


def broken(cluster: Any) -> str:
    """How the chain of partition 0 is broken first."""
    return walk(cluster.broker(), cluster.registry(), SERVICE)[0].broken


def altered(value: bytes, **changes: Any) -> bytes:
    return json.dumps({**json.loads(value), **changes}, separators=(",", ":")).encode()


def test_a_whole_chain_is_whole(cluster: Any, crossdock: Callable) -> None:
    made = entries(3)
    write(cluster, made)
    write(cluster, entries(1), partition=2)
    remember(cluster, 3, digest(made[-1]))
    links = walk(cluster.broker(), cluster.registry(), SERVICE)
    assert [(each.entries, each.broken) for each in links] == [(3, ""), (0, ""), (1, ""), (0, "")]
    assert links[0].last == (2, digest(made[-1]))
    answer = crossdock("dlt", "verify")
    assert answer.exit_code == 0
    assert "walked 4 entries in 24 partitions: all whole" in answer.out


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda v: [v[0], altered(v[1], operator="nobody"), v[2]],
            "entry 2, does not follow from the entry before",
        ),
        (lambda v: [altered(v[0], at=9), *v[1:]], "entry 1, does not follow from the entry before"),
        (lambda v: [v[0], v[2]], "is entry 2, where 1 is due: entry 1 is missing"),
        (lambda v: v[1:], "is entry 1, where 0 is due: entry 0 is missing"),
        (lambda v: [v[0], v[1], v[1], v[2]], "is entry 1, where 2 is due: an entry was put in"),
        (
            lambda v: [v[0], altered(v[1], n=5), v[2]],
            "is entry 5, where 1 is due: entries 1 to 4 are missing",
        ),
        (lambda v: [v[0], b"rubbish", v[2]], "is no entry"),
        (lambda v: [v[0], None, v[2]], "is no entry"),
        (lambda v: v[:2], "ends before entry 2: entry 2 is missing"),
        (lambda v: [], "ends before entry 2: entries 0 to 2 are missing"),
        (lambda v: [*v[:2], altered(v[2], reason="better")], "entry 2, is not as the service wrote it"),
    ],
)
def test_the_first_altered_or_missing_entry_is_named(
    cluster: Any, crossdock: Callable, damage: Callable, words: str
) -> None:
    made = entries(3)
    write(cluster, damage(made))
    remember(cluster, 3, digest(made[-1]))
    assert words in broken(cluster)
    answer = crossdock("dlt", "verify", "--service", SERVICE)
    assert answer.exit_code == 1
    assert f"broken: {TOPIC}[0]" in answer.out
    assert "1 broken" in answer.out
    assert crossdock("dlt", "verify", "--service", "returns").exit_code == 0
    [wrong] = [each for each in crossdock("dlt", "verify", "--json").json if each["broken"]]
    assert (wrong["topic"], wrong["partition"]) == (TOPIC, 0)


def test_what_retention_took_is_no_damage_and_the_rest_is_walked(cluster: Any) -> None:
    made = entries(4)
    write(cluster, made)
    cluster.broker().admin().delete_records({TopicPartition(TOPIC, 0): 4})  # two entries and their markers
    link = walk(cluster.broker(), cluster.registry(), SERVICE)[0]
    assert (link.first, link.entries, link.broken) == (2, 2, "")


def test_what_commits_while_the_chain_is_walked_is_no_damage(cluster: Any) -> None:
    made = entries(3)
    write(cluster, made)
    remember(cluster, 2, digest(made[1]))
    assert broken(cluster) == ""


def test_real_replays_make_whole_chains_and_a_copy_without_one_entry_does_not(
    shop: Any, dlt: Callable
) -> None:
    for number in (1, 2, 3, 4, 5):
        shop.order(number)
    shop.map()
    for number in (1, 2, 3, 4, 5):
        file = f"{number}.json"
        dlt("plan", "--service", SERVICE, "--reason", "r", "--key", id_of(number), "--out", file)
        assert dlt("run", file).exit_code == 0
    links = walk(shop.broker(), shop.registry(), SERVICE)
    assert sum(link.entries for link in links) == 5
    assert not any(link.broken for link in links)
    assert dlt("verify").exit_code == 0

    # Somebody who may write to the cluster puts the topic there again, without its first entry.
    shop.at_work = False
    values = [(each.key, each.to_bytes()) for each in shop.entries()]
    admin = shop.broker().admin()
    counts = admin.partitions(TOPIC)
    admin.delete_topics([TOPIC])
    admin.create_topics([TopicSpec(TOPIC, counts)])
    producer = shop.broker().producer("forger")
    producer.init_transactions()
    producer.begin()
    for key, value in values[1:]:
        producer.produce(TOPIC, key=key.encode(), value=value)
    producer.commit()
    answer = dlt("verify", "--service", SERVICE)
    assert (answer.exit_code, "missing" in answer.out) == (1, True)
    [problem] = dlt("certificate", "2.json", "--json").json["problems"]
    assert "missing" in problem
