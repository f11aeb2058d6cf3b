"""Parked keys: strict order of a key across topics, restarts and instructions; every sentence of the protocol, on either broker."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from itertools import islice
from typing import Any

import pytest
from toy import PARTITIONS, Add, Added, Bench, Later, Payment, Refused, partition_of

from crossdock_eventing import names
from crossdock_eventing.envelope import header, wrap
from crossdock_eventing.limits import Limits
from crossdock_eventing.parking.formats import (
    NO_ENTRY,
    Instruction,
    Origin,
    Park,
    ReplayEntry,
    digest,
    key_bytes,
    key_text,
    park_name,
    queue_name,
)
from crossdock_eventing.replay_check import ReplayCheck
from crossdock_eventing.state import OWN
from crossdock_eventing.task import OFFSETS_KEY
from crossdock_eventing.worker import Worker

BenchFactory = Callable[..., Bench]
MENDED: list[datetime] = []
REPAIRED: list[Callable[..., Any]] = []


def add(account: str, amount: int, reference: str) -> Add:
    return Add(account=account, reference=reference, amount=amount)


@pytest.fixture
def bench(new_bench: BenchFactory) -> Bench:
    return with_a_bug(new_bench())


def with_a_bug(bench: Bench) -> Bench:
    """Its service refuses what is called "bad…" until the moment when `mend` was called."""
    decide = bench.service.decide
    MENDED.clear()
    REPAIRED[:] = [decide]

    def faulty(command: Any, state: Any, *, now: datetime, **more: Any) -> Any:
        mended = bool(MENDED) and now >= MENDED[0]
        if isinstance(command, Add) and command.reference.startswith("bad") and not mended:
            raise Refused("toy.bad", f"{command.reference} is bad")
        return decide(command, state, now=now, **more)

    bench.service = replace(bench.service, decide=faulty)
    return bench


def mend(bench: Bench) -> None:
    bench.clock.advance(1)
    MENDED.append(bench.clock.now())


def totals(bench: Bench, account: str) -> list[tuple[str, int]]:
    return [(added.reference, added.total) for added in bench.published(Added) if added.account == account]


def park_of(bench: Bench, account: str) -> Park | None:
    """The state of the parked key as the changelog has it."""
    found = None
    for record in bench.records(names.changelog_topic(bench.name)):
        if record.key == park_name(account).encode():
            found = None if record.value is None else Park.from_json(json.loads(record.value))
    return found


def queued_bytes(bench: Bench, account: str, seq: int) -> bytes:
    wanted = queue_name(account, seq).encode()
    values = [each.value for each in bench.records(names.changelog_topic(bench.name)) if each.key == wanted]
    assert values[-1] is not None
    return b64decode(json.loads(values[-1])["value"])


def instruct(bench: Bench, *instructions: Instruction) -> None:
    producer = bench.broker.producer(f"{bench.name}-operator-{len(entries(bench))}-{instructions[0].item}")
    producer.init_transactions()
    producer.begin()
    for each in instructions:
        producer.produce(names.retry_topic(bench.name), key=key_bytes(each.key), value=each.to_bytes())
    producer.commit()
    producer.close()


def release(
    bench: Bench, account: str, *, plan: str = "p1", item: int = 0, upto: int | None = None
) -> Instruction:
    park = park_of(bench, account)
    assert park is not None
    return Instruction(
        plan=plan,
        item=item,
        operator="ada",
        reason="mended",
        key=account,
        op="release",
        episode=park.episode,
        upto=upto,
    )


def entries(bench: Bench) -> list[ReplayEntry]:
    return [ReplayEntry.from_bytes(each.value) for each in bench.records(names.replays_topic(bench.name))]


def outcomes(bench: Bench) -> list[str]:
    return [each.outcome for each in entries(bench)]


def codes(bench: Bench) -> list[str]:
    return [
        (header(each.headers, "crossdock-error-code") or b"").decode()
        for each in bench.records(names.dead_letter_topic(bench.name))
    ]


def expect_identity(bench: Bench) -> None:
    """The journal tells of parking and releasing too, down to every queue and the last link of the chain.

    So it does to a release without the bug, if it lets rejections stand.
    """
    own: dict[int, dict[str, bytes]] = {number: {} for number in range(PARTITIONS)}
    for record in bench.records(names.changelog_topic(bench.name)):
        name = key_text(record.key or b"")
        if name.startswith(OWN) and name != OFFSETS_KEY:
            own[record.partition].pop(name, None)
            if record.value is not None:
                own[record.partition][name] = record.value
    repaired = replace(bench.service, decide=REPAIRED[-1])
    for service, rejections_stand in ((bench.service, False), (bench.service, True), (repaired, True)):
        check = ReplayCheck(bench.registry, [service], rejections_stand=rejections_stand)
        found = check.check(bench.broker)
        assert (found.differences, found.beyond) == ([], [])
        [replay] = found.replays
        assert {number: dict(replay.own(number)) for number in range(PARTITIONS)} == own


def neighbour(account: str) -> str:
    return next(
        islice(
            (each for each in (f"n{n}" for n in range(99)) if partition_of(each) == partition_of(account)), 1
        )
    )


def test_later_messages_of_any_topic_wait_behind_and_other_keys_go_on(bench: Bench) -> None:
    worker, other = bench.worker(), neighbour("a")
    bench.send(add("a", 1, "first"), add("a", 2, "bad"), Payment(account="a"), add("a", 3, "behind"))
    bench.send(add(other, 5, "free"))
    bench.settle(worker)
    assert totals(bench, "a") == [("first", 1)]
    assert totals(bench, other) == [("free", 5)]
    assert codes(bench) == ["toy.bad", "parked.behind", "parked.behind"]
    park = park_of(bench, "a")
    assert park is not None
    assert (park.head, park.tail, park.code) == (0, 3, "toy.bad")
    mend(bench)
    instruct(bench, release(bench, "a"))
    bench.settle(worker)
    assert totals(bench, "a")[:2] == [("first", 1), ("bad", 3)]
    assert totals(bench, "a")[-1][0] == "behind"
    assert park_of(bench, "a") is None
    assert outcomes(bench) == ["released"]
    (entry,) = entries(bench)
    assert (entry.operator, entry.reason, entry.left) == ("ada", "mended", 0)
    assert [(each.seq, each.outcome, each.attempt) for each in entry.messages] == [
        (0, "applied", 1),
        (1, entry.messages[1].outcome, 0),
        (2, "applied", 0),
    ]
    assert {each.topic for each in entry.messages} == {Add.TOPIC, Payment.TOPIC}
    bench.send(add("a", 1, "live"))
    bench.settle(worker)
    assert totals(bench, "a")[-1][0] == "live"
    expect_identity(bench)


def test_what_follows_from_a_released_message_names_the_plan(bench: Bench) -> None:
    worker = bench.worker()
    bench.send(add("a", 2, "bad"))
    bench.settle(worker)
    mend(bench)
    instruct(bench, release(bench, "a", plan="plan-7"))
    bench.settle(worker)
    (record,) = bench.records(Added.TOPIC)
    meta, _ = bench.codec.decode(record.value)
    assert meta.attributes["replay"] == "plan-7"
    (entry,) = entries(bench)
    assert entry.messages[0].events == (meta.event_id,)


def test_a_queue_survives_restarts_and_a_lost_disk(bench: Bench) -> None:
    worker = bench.worker()
    bench.send(add("a", 2, "bad"), add("a", 3, "behind"))
    bench.settle(worker)
    for lost in (False, True):
        worker.close()
        if lost:
            bench.disks.clear()
        worker = bench.worker()
        bench.send(add("a", 1, f"after {lost}"))
        bench.settle(worker)
        assert totals(bench, "a") == []
    mend(bench)
    instruct(bench, release(bench, "a"))
    bench.settle(worker)
    assert totals(bench, "a") == [("bad", 2), ("behind", 5), ("after False", 6), ("after True", 7)]
    expect_identity(bench)


def test_a_message_that_arrives_while_its_replay_runs_comes_after_it(
    bench: Bench,
) -> None:
    worker = bench.worker(limits=Limits(released_max=1))
    bench.send(add("a", 1, "bad"), add("a", 2, "second"), add("a", 3, "third"))
    bench.settle(worker)
    mend(bench)
    instruct(bench, release(bench, "a"))
    for number in range(6):
        bench.send(add("a", 1, f"new {number}"))
        worker.step()
    bench.settle(worker)
    found = [reference for reference, _ in totals(bench, "a")]
    assert found == ["bad", "second", "third", *(f"new {number}" for number in range(6))]
    assert outcomes(bench)[-1] == "released"
    assert set(outcomes(bench)[:-1]) == {"continuing"}
    messages = [each.seq for entry in entries(bench) for each in entry.messages]
    assert messages == list(range(len(messages)))
    expect_identity(bench)


def test_a_release_goes_on_after_a_crash_in_the_middle(bench: Bench) -> None:
    worker = bench.worker(limits=Limits(released_max=2))
    bench.send(*(add("a", 1, f"bad {number}") for number in range(7)))
    bench.settle(worker)
    mend(bench)
    instruct(bench, release(bench, "a"))
    while not totals(bench, "a"):
        worker.step(wait=False)
        bench.clock.advance(0.001)
    assert len(totals(bench, "a")) < 7
    bench.bury(0)
    again = bench.worker(1, limits=Limits(released_max=2))
    bench.settle(again)
    assert totals(bench, "a") == [(f"bad {number}", number + 1) for number in range(7)]
    assert sum(len(entry.messages) for entry in entries(bench)) == 7
    expect_identity(bench)


def test_what_is_rejected_again_stays_at_the_head_with_one_more_attempt(bench: Bench) -> None:
    worker = bench.worker()
    bench.send(add("a", 2, "bad"), add("a", 3, "behind"))
    bench.settle(worker)
    instruct(bench, release(bench, "a"))
    bench.settle(worker)
    assert outcomes(bench) == ["rejected_again"]
    (entry,) = entries(bench)
    assert entry.left == 2
    assert [(each.outcome, each.code, each.attempt) for each in entry.messages] == [
        ("rejected", "toy.bad", 2)
    ]
    letters = bench.records(names.dead_letter_topic(bench.name))
    assert [header(each.headers, "crossdock-attempt") for each in letters] == [b"1", b"0", b"2"]
    mend(bench)
    instruct(bench, release(bench, "a", item=1))
    bench.settle(worker)
    assert [reference for reference, _ in totals(bench, "a")] == ["bad", "behind"]
    expect_identity(bench)


def test_an_instruction_sent_twice_and_a_second_plan_do_nothing_more(bench: Bench) -> None:
    worker = bench.worker()
    bench.send(add("a", 2, "bad"), add("a", 3, "behind"))
    bench.settle(worker)
    first, second = release(bench, "a"), release(bench, "a", plan="p2")
    instruct(bench, first)
    bench.settle(worker)
    instruct(bench, replace(first, item=0))
    bench.settle(worker)
    assert outcomes(bench) == ["rejected_again", "already"], "the same instruction is no second try"
    mend(bench)
    instruct(bench, second, second)
    bench.settle(worker)
    instruct(bench, first, second)
    bench.settle(worker)
    assert outcomes(bench)[2:].count("released") == 1
    assert set(outcomes(bench)[2:]) == {"released", "already"}
    assert [reference for reference, _ in totals(bench, "a")] == ["bad", "behind"]
    expect_identity(bench)


def test_two_plans_release_one_key_by_parts(bench: Bench) -> None:
    worker = bench.worker()
    bench.send(*(add("a", 1, f"bad {number}") for number in range(4)))
    bench.settle(worker)
    mend(bench)
    instruct(bench, release(bench, "a", plan="p1", upto=1), release(bench, "a", plan="p2"))
    bench.settle(worker)
    assert [
        (entry.plan, entry.outcome, [each.seq for each in entry.messages]) for entry in entries(bench)
    ] == [
        ("p1", "released", [0, 1]),
        ("p2", "released", [2, 3]),
    ]
    assert park_of(bench, "a") is None


def test_an_edit_needs_the_bytes_that_it_was_made_on(bench: Bench) -> None:
    worker = bench.worker()
    bench.send(add("a", 2, "bad"), add("a", 3, "behind"))
    bench.settle(worker)
    before = queued_bytes(bench, "a", 0)
    bench.send(add("z", 2, "good"))
    mended = bench.records(Add.TOPIC)
    value = next(each.value for each in mended if each.key == b"z") or b""
    edit = replace(
        release(bench, "a"), op="edit", seq=0, value=value, before=digest(before), item=1, upto=None
    )
    instruct(bench, replace(edit, before=digest(b"other"), item=0), edit)
    bench.settle(worker)
    assert outcomes(bench) == ["stale", "edited"]
    assert [(each.before, each.after) for each in entries(bench)[1].messages] == [
        (digest(before), digest(value))
    ]
    instruct(bench, release(bench, "a", item=2))
    bench.settle(worker)
    assert entries(bench)[2].messages[0].before == digest(before)
    assert [reference for reference, _ in totals(bench, "a")][-1:] == ["behind"]
    assert park_of(bench, "a") is None


def test_a_discard_takes_out_one_message_with_a_reason(bench: Bench) -> None:
    worker = bench.worker()
    bench.send(add("a", 2, "bad"), add("a", 3, "behind"), add("a", 4, "last"))
    bench.settle(worker)
    hashes = [digest(queued_bytes(bench, "a", seq)) for seq in range(3)]
    common = release(bench, "a")
    instruct(bench, replace(common, op="discard", seq=1, before=hashes[1]))
    instruct(bench, replace(common, op="discard", seq=0, before=hashes[0], item=1))
    instruct(bench, replace(common, op="discard", seq=0, before=hashes[0], item=2))
    bench.settle(worker)
    assert outcomes(bench) == ["discarded", "discarded", "already"]
    assert [entry.left for entry in entries(bench)] == [2, 1, 1]
    instruct(bench, replace(common, item=3))
    bench.settle(worker)
    assert totals(bench, "a") == [("last", 4)]
    expect_identity(bench)


def test_discarding_the_last_one_frees_the_key(bench: Bench) -> None:
    worker = bench.worker()
    bench.send(add("a", 2, "bad"))
    bench.settle(worker)
    instruct(
        bench, replace(release(bench, "a"), op="discard", seq=0, before=digest(queued_bytes(bench, "a", 0)))
    )
    bench.settle(worker)
    bench.send(add("a", 3, "live"))
    bench.settle(worker)
    assert totals(bench, "a") == [("live", 3)]


def test_timers_of_a_parked_key_wait_and_others_do_not(bench: Bench) -> None:
    worker, other = bench.worker(), neighbour("a")
    bench.send(add("a", 0, "deadline"), add(other, 0, "deadline"))
    bench.settle(worker)
    bench.send(add("a", 2, "bad"))
    bench.settle(worker)
    bench.clock.advance(61)
    bench.settle(worker)
    assert len(totals(bench, "deadline")) == 1, "the other's has fired"
    assert (worker.due_in_s() or 1.0) > 0.5, "a timer that waits for a person does not turn the loop"
    mend(bench)
    instruct(bench, release(bench, "a"))
    bench.settle(worker)
    assert totals(bench, "a") == [("bad", 2)]
    assert len(totals(bench, "deadline")) == 2
    expect_identity(bench)


def test_a_full_queue_stops_its_partition_but_not_its_instructions(bench: Bench) -> None:
    worker, other = bench.worker(limits=Limits(parked_messages_max=2)), neighbour("a")
    elsewhere = next(each for each in "bcdefgh" if partition_of(each) != partition_of("a"))
    bench.send(*(add("a", 1, f"bad {number}") for number in range(4)))
    bench.settle(worker)
    bench.send(add(other, 1, "same partition"), add(elsewhere, 1, "free"))
    bench.settle(worker)
    assert totals(bench, other) == []
    assert totals(bench, elsewhere) == [("free", 1)]
    assert len(codes(bench)) == 2, "nothing overtakes, nothing is lost"
    mend(bench)
    instruct(bench, release(bench, "a"))
    bench.settle(worker, steps=60)
    assert [reference for reference, _ in totals(bench, "a")] == [f"bad {number}" for number in range(4)]
    assert totals(bench, other) == [("same partition", 1)]
    expect_identity(bench)


def test_a_timer_that_waits_for_a_full_queue_does_not_turn_the_loop(bench: Bench) -> None:
    worker, other = bench.worker(limits=Limits(parked_messages_max=1)), neighbour("a")
    bench.send(add(other, 0, "deadline"))
    bench.settle(worker)
    bench.send(*(add("a", 1, f"bad {number}") for number in range(2)))
    bench.settle(worker)
    bench.clock.advance(61)
    bench.settle(worker)
    assert totals(bench, "deadline") == [], "what is not read yet may be older"
    assert (worker.due_in_s() or 1.0) > 0.5
    mend(bench)
    instruct(bench, release(bench, "a"))
    bench.settle(worker, steps=60)
    assert len(totals(bench, "deadline")) == 1


def test_undecodable_bytes_park_their_key_and_no_key_parks_nothing(bench: Bench) -> None:
    worker = bench.worker()
    bench.send(add("a", 1, "x"), raw=b"no avro")
    bench.send(add("a", 2, "behind"))
    bench.settle(worker)
    assert totals(bench, "a") == []
    assert codes(bench) == ["contract.bad_framing", "parked.behind"]
    common = release(bench, "a")
    instruct(bench, replace(common, op="discard", seq=0, before=digest(b"no avro")), replace(common, item=1))
    bench.settle(worker)
    assert totals(bench, "a") == [("behind", 2)]


def test_a_foreign_dead_letter_is_taken_in_once(bench: Bench) -> None:
    worker = bench.worker()
    foreign = add("z", 4, "foreign")
    meta = wrap(
        foreign,
        causation_id="theirs",
        correlation_id="thread-z",
        now=bench.clock.now(),
        source="/theirs",
        attributes={},
    )
    inject = Instruction(
        plan="p",
        item=0,
        operator="ada",
        reason="from spring",
        key="z",
        op="inject",
        origin=Origin("their-cluster", "orders", 3, 17),
        topic=Add.TOPIC,
        value=bench.codec.encode(foreign, meta),
    )
    instruct(bench, inject, replace(inject, item=1))
    bench.settle(worker)
    assert outcomes(bench) == ["injected", "already"]
    assert totals(bench, "z") == [("foreign", 4)]
    bench.send(add("z", 1, "bad"))
    bench.settle(worker)
    instruct(bench, replace(inject, item=2, origin=Origin("their-cluster", "orders", 3, 18)))
    bench.settle(worker)
    assert outcomes(bench)[2:] == ["queued"]
    expect_identity(bench)


def test_what_is_no_instruction_is_refused_and_stops_nothing(bench: Bench) -> None:
    worker = bench.worker()
    producer = bench.broker.producer(f"{bench.name}-operator")
    producer.init_transactions()
    producer.begin()
    for value in (b"", b"{", b'{"v": 9}', b'{"v": 1, "op": "sell"}'):
        producer.produce(names.retry_topic(bench.name), key=b"a", value=value)
    producer.commit()
    bench.settle(worker)
    bench.send(add("a", 1, "live"))
    bench.settle(worker)
    assert outcomes(bench) == ["refused"] * 4
    assert totals(bench, "a") == [("live", 1)]


def test_the_replays_of_a_partition_are_a_chain(bench: Bench) -> None:
    worker = bench.worker()
    bench.send(add("a", 2, "bad"))
    bench.settle(worker)
    for number in range(3):
        instruct(bench, release(bench, "a", item=number))
        bench.settle(worker)
        worker.close()
        worker = bench.worker()
        bench.settle(worker)
    found = bench.records(names.replays_topic(bench.name))
    assert [ReplayEntry.from_bytes(each.value).number for each in found] == [0, 1, 2]
    hashes = [NO_ENTRY, *(sha256(each.value or b"").hexdigest() for each in found)]
    assert [ReplayEntry.from_bytes(each.value).previous for each in found] == hashes[:-1]


@pytest.mark.parametrize("landed", [True, False])
def test_a_release_whose_commit_has_no_answer_happens_once(landed: bool) -> None:
    bench = with_a_bug(Bench())
    worker = bench.worker()
    bench.send(add("a", 1, "bad"), add("a", 2, "behind"))
    bench.settle(worker)
    mend(bench)
    instruct(bench, release(bench, "a"))
    worker.step(wait=False)
    bench.broker.faults.slow_commit(names.transactional_id(bench.name, 0), landed=landed)
    bench.settle(worker)
    assert totals(bench, "a") == [("bad", 1), ("behind", 3)]
    assert sum(len(entry.messages) for entry in entries(bench)) == 2
    expect_identity(bench)


def test_a_released_message_that_asks_for_time_too_often_is_rejected_again(
    bench: Bench,
) -> None:
    worker = bench.worker(limits=Limits(retry_attempts_max=1))
    bench.send(add("a", 1, "later"), add("a", 2, "behind"))
    bench.settle(worker)
    assert codes(bench) == ["retry.exhausted", "parked.behind"]
    instruct(bench, release(bench, "a"))
    bench.settle(worker)
    assert outcomes(bench) == ["rejected_again"]
    park = park_of(bench, "a")
    assert park is not None
    assert (park.code, park.tail - park.head) == ("retry.exhausted", 2)
    expect_identity(bench)


def test_a_message_that_asks_for_time_too_often_is_rejected(bench: Bench) -> None:
    worker = bench.worker(limits=Limits(retry_attempts_max=3))
    bench.send(add("a", 1, "later"), add("a", 2, "behind"))
    for _ in range(12):
        bench.settle(worker, steps=3)
        bench.clock.advance(Later.after_s)
    assert codes(bench) == ["retry.exhausted", "parked.behind"]
    expect_identity(bench)


def expect_metric(worker: Worker, name: str, value: float, **labels: str) -> None:
    assert worker._telemetry.registry.get_sample_value(name, labels) == value


def test_waits_grow_and_are_told(bench: Bench) -> None:
    worker = bench.worker()
    bench.send(add("a", 1, "later"))
    bench.settle(worker)
    waits: list[float] = []
    for number in range(1, 5):
        partition = str(partition_of("a"))
        expect_metric(worker, "crossdock_retry_attempts", number, partition=partition)
        (task,) = [each for each in worker._tasks.values() if each.held_until_s is not None]
        waits.append((task.held_until_s or 0.0) - bench.clock.monotonic_s())
        bench.clock.advance(waits[-1] + 0.001)
        bench.settle(worker, steps=4)
    for number, wait in enumerate(waits):
        assert Later.after_s * 2**number * 0.9 < wait < Later.after_s * 2**number * 1.25


def test_parked_keys_are_counted(bench: Bench) -> None:
    worker = bench.worker()
    bench.send(add("a", 2, "bad"), add("b", 2, "bad"), add("b", 2, "behind"))
    bench.settle(worker)
    expect_metric(worker, "crossdock_parked_keys", 2)


def test_when_nearly_all_is_rejected_the_service_stops_and_parks_no_more(bench: Bench) -> None:
    worker = bench.worker(limits=Limits(breaker_messages=20))
    bench.send(*(add(f"good {number}", 1, "good") for number in range(20)))
    bench.settle(worker)
    bench.send(*(add(f"key {number}", 1, "bad") for number in range(200)))
    for _ in range(100):
        worker.step()
        bench.clock.advance(0.001)
    assert not worker.ready
    assert len(codes(bench)) < 20
    expect_metric(worker, "crossdock_breaker_open", 1)
    worker.close()
    mend(bench)
    again = bench.worker(limits=Limits(breaker_messages=20))
    bench.settle(again)
    assert (
        len([each for each in bench.published(Added) if each.reference == "bad"]) + len(codes(bench)) == 200
    )
