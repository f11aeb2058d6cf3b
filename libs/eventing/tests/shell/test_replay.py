"""Replay identity: the journal of what a worker did gives the same events and states, and whatever differs is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from toy import (
    Add,
    Added,
    Armed,
    Balance,
    Bench,
    CounterState,
    Fired,
    Payment,
    Rate,
    Refused,
    Told,
    decide,
    partition_of,
)

from crossdock_eventing import names
from crossdock_eventing.broker.interface import TopicPartition
from crossdock_eventing.envelope import header
from crossdock_eventing.replay_check import Identity, ReplayCheck, replay_identity
from crossdock_eventing.service import Answer

BenchFactory = Callable[..., Bench]


def add(account: str, amount: int, reference: str = "r1") -> Add:
    return Add(account=account, reference=reference, amount=amount)


def a_full_day(bench: Bench) -> None:
    """Messages of both topics, an answer, a timer, a dead letter, an ignored message, undecodable bytes, a second instance."""
    worker = bench.worker()
    bench.settle(worker)
    bench.send(add("a", 5), add("b", 6), add("bad", -1, "bad"), add("b", 0, "nothing"))
    bench.settle(worker)
    bench.send(add("broken", 1), raw=b"no avro at all")
    bench.send(add("c", 7, "ask"), add("d", 0, "deadline"), add("e", 0, "deadline"))
    bench.settle(worker)
    bench.port.answers.append(Answer("c", "c/7", Told(7)))
    bench.settle(worker)
    bench.clock.advance(61)
    bench.send(Payment(account="e"), add("a", 9, "r9"))
    bench.settle(worker)
    other = bench.worker(1)
    bench.settle(worker, other)
    bench.send(*(add(account, 2, "late") for account in "abcdefgh"))
    bench.settle(worker, other)


def check(bench: Bench, decider: Callable[..., Any] | None = None) -> Identity:
    service = bench.service if decider is None else replace(bench.service, decide=decider)
    return ReplayCheck(bench.registry, [service]).check(bench.broker)


def test_a_replay_gives_the_same_events_and_states(either_bench: Bench) -> None:
    a_full_day(either_bench)
    found = check(either_bench)
    assert found.differences == []
    assert found.beyond == []
    assert found.quiet
    assert found.checked["services"] == 1
    assert found.checked["messages"] == 18
    assert (found.checked["answers"], found.checked["timers"]) == (1, 1)
    assert found.checked["outputs"] == len(either_bench.records(Added.TOPIC)) + len(
        either_bench.records(Balance.TOPIC)
    )
    assert found.checked["states"] == 8


def test_table_rows_come_from_the_journal_not_from_the_table_of_today(new_bench: BenchFactory) -> None:
    bench = new_bench(with_rates=True)
    worker = bench.worker()
    bench.settle(worker)
    for factor in (3, 4):
        bench.send(Rate(account="a", factor=factor))
        bench.settle(worker)
        bench.send(add("a", 10, f"r{factor}"), add("b", 1, f"r{factor}"))
        bench.settle(worker)
    assert [added.total for added in bench.published(Added)] == [30, 70]
    assert check(bench).differences == []


def test_a_replay_survives_lost_commits_rewinds_and_a_lost_disk(bench: Bench) -> None:
    worker = bench.worker()
    bench.settle(worker)
    for number, landed in enumerate((True, False)):
        bench.broker.faults.slow_commit(names.transactional_id(bench.name, 0), landed=landed)
        bench.send(add("a", 5, f"r{number}"), add("b", -1, f"r{number}"))
        bench.settle(worker)
    worker.close()
    bench.disks.clear()
    worker = bench.worker()
    bench.send(add("a", 7, "after"))
    bench.settle(worker)
    found = check(bench)
    assert found.differences == []
    assert found.checked["messages"] == 5


def changed_amount(command: object, state: object, **more: Any) -> tuple[Any, ...]:
    events = decide(command, state, **more)  # type: ignore[arg-type]
    return tuple(
        replace(event, total=event.total + 1) if getattr(command, "reference", "") == "r9" else event
        for event in events
    )


def test_a_changed_decision_is_told_by_thread_event_and_field(bench: Bench) -> None:
    a_full_day(bench)
    found = [str(each) for each in check(bench, changed_amount).differences]
    assert "toy thread-a: Added (reference r9) has changed\n    total: 14 -> 15" in found
    assert any(each.startswith("toy a: the state has changed\n    total: ") for each in found)
    assert not any("thread-b" in each for each in found), "what did not change is not told"


def renamed(command: object, state: object, **more: Any) -> tuple[Any, ...]:
    return tuple(
        replace(event, reference="r9/2") if getattr(event, "reference", "") == "r9" else event
        for event in decide(command, state, **more)  # type: ignore[arg-type]
    )


def silent(command: object, state: object, **more: Any) -> tuple[Any, ...]:
    return tuple(each for each in decide(command, state, **more) if type(each) is not Balance)  # type: ignore[arg-type]


def talkative(command: object, state: object, **more: Any) -> tuple[Any, ...]:
    events = decide(command, state, **more)  # type: ignore[arg-type]
    if getattr(command, "reference", "") != "r9":
        return events
    return (*events, Added(account="a", reference="more", total=0))


def stricter(command: object, state: object, **more: Any) -> tuple[Any, ...]:
    if getattr(command, "reference", "") == "r9":
        raise Refused("toy.new_rule", "no nines")
    return decide(command, state, **more)  # type: ignore[arg-type]


def laxer(command: object, state: object, **more: Any) -> tuple[Any, ...]:
    if getattr(command, "reference", "") == "bad":
        return ()
    return decide(command, state, **more)  # type: ignore[arg-type]


def failing(command: object, state: object, **more: Any) -> tuple[Any, ...]:
    if getattr(command, "reference", "") == "r9":
        raise AssertionError("cannot be")
    return decide(command, state, **more)  # type: ignore[arg-type]


def later(command: object, state: object, *, now: datetime, **more: Any) -> tuple[Any, ...]:
    events = decide(command, state, now=now, **more)  # type: ignore[arg-type]
    return tuple(Armed(each.due.replace(year=2030)) if isinstance(each, Armed) else each for each in events)


@pytest.mark.parametrize(
    ("decider", "says"),
    [
        (renamed, "toy thread-a: Added (reference r9/2) is another one\n    reference: 'r9' -> 'r9/2'"),
        (silent, "toy thread-b: Balance (total 8) is no longer published"),
        (talkative, "toy thread-a: Added (reference more) is new"),
        (stricter, "is now rejected as toy.new_rule"),
        (laxer, "is no longer rejected as toy.negative"),
        (failing, "toy a: Add fails with AssertionError: cannot be"),
        (later, "toy d: the timer deadline fired, and is not set"),
    ],
    ids=["identity", "fewer", "more", "stricter", "laxer", "failing", "timers"],
)
def test_every_kind_of_difference_is_named(bench: Bench, decider: Callable[..., Any], says: str) -> None:
    a_full_day(bench)
    found = "\n".join(map(str, check(bench, decider).differences))
    assert says in found


def test_a_rejection_may_stand_where_a_repaired_decider_would_not_reject(bench: Bench) -> None:
    a_full_day(bench)
    service = replace(bench.service, decide=laxer)
    found = ReplayCheck(bench.registry, [service], rejections_stand=True).check(bench.broker)
    assert found.differences == []
    stricter_now = replace(bench.service, decide=stricter)
    found = ReplayCheck(bench.registry, [stricter_now], rejections_stand=True).check(bench.broker)
    assert "is now rejected as toy.new_rule" in "\n".join(map(str, found.differences))


def test_a_decider_that_reads_another_table_group_is_told() -> None:
    bench = Bench(with_rates=True)
    worker = bench.worker()
    bench.settle(worker)
    bench.send(Rate(account="a", factor=3))
    bench.send(add("a", 1))
    bench.settle(worker)

    def curious(command: object, state: object, *, rates: Any, **more: Any) -> tuple[Any, ...]:
        rates("other")
        return decide(command, state, rates=rates, **more)  # type: ignore[arg-type]

    found = [str(each) for each in check(bench, curious).differences]
    assert found == ["toy a: Add reads rates(other), which it did not then"]


def test_what_the_service_published_twice_or_from_nowhere_is_told(bench: Bench) -> None:
    a_full_day(bench)
    first, second, *_ = bench.records(Added.TOPIC)
    producer = bench.broker.producer("smuggler")
    producer.init_transactions()
    producer.begin()
    producer.produce(Added.TOPIC, key=first.key, value=first.value, headers=first.headers)
    strange = bench.codec.decode(second.value)
    meta = replace(strange[0], event_id="from-nowhere")
    producer.produce(
        Added.TOPIC, key=second.key, value=bench.codec.encode(strange[1], meta), headers=second.headers
    )
    producer.commit()
    found = "\n".join(map(str, check(bench).differences))
    assert "was published twice" in found
    assert "is no longer published" in found
    assert header(first.headers, "ce_source") == b"/crossdock/toy"


def test_a_state_that_nobody_decided_is_told(bench: Bench) -> None:
    a_full_day(bench)
    changelog = TopicPartition(names.changelog_topic(bench.name), partition_of("a"))
    stored = [
        record
        for record in bench.records(changelog.topic)
        if record.key == b"a" and record.partition == changelog.partition
    ]
    forged = replace(bench.codec.decode_state(stored[-1].value or b""), total=1_000)
    producer = bench.broker.producer("smuggler")
    producer.init_transactions()
    producer.begin()
    value = _state_bytes(bench, forged)
    producer.produce(changelog.topic, partition=changelog.partition, key=b"a", value=value)
    producer.commit()
    [found] = check(bench).differences
    assert str(found).startswith("toy a: the state has changed\n    total: 1000 -> ")


def _state_bytes(bench: Bench, state: CounterState) -> bytes:
    from crossdock_eventing.codec import Codec

    changelog = names.changelog_topic(bench.name)
    return Codec(bench.registry, written=[(CounterState, changelog)], read=()).encode_state(state)


def test_compacted_tables_and_changelogs_are_no_difference(bench: Bench) -> None:
    worker = bench.worker()
    for number in range(3):
        bench.send(add("a", 1, f"r{number}"))
        bench.settle(worker)
    bench.broker.compact(Balance.TOPIC)
    bench.broker.compact(names.changelog_topic(bench.name))
    assert len(bench.published(Balance)) == 1
    assert check(bench).differences == []


def test_a_task_whose_journal_does_not_reach_back_is_left_out_and_named(bench: Bench) -> None:
    a_full_day(bench)
    journal = TopicPartition(names.journal_topic(bench.name), partition_of("a"))
    bench.admin.delete_records({journal: 2})
    found = check(bench)
    assert found.differences == []
    assert found.beyond == [f"{journal.topic}/{journal.partition} begins at 2"]
    assert found.checked["tasks"] == 1
    _, told = replay_identity(bench.broker, bench.registry, [bench.service])
    assert len(told) == 1, "who needs the whole run hears of it"


def test_inputs_that_retention_took_are_named(bench: Bench) -> None:
    a_full_day(bench)
    place = TopicPartition(Add.TOPIC, partition_of("a"))
    bench.admin.delete_records({place: 1})
    found = check(bench)
    assert found.differences == []
    assert found.beyond == [f"{Add.TOPIC}/{place.partition} begins at 1, the journal needs 0"]


def test_a_journal_that_was_switched_off_for_a_while_is_named(bench: Bench) -> None:
    worker = bench.worker()
    bench.send(add("a", 1, "r1"))
    bench.settle(worker)
    worker._journal.on = False
    bench.send(add("a", 1, "r2"))
    bench.settle(worker)
    worker._journal.on = True
    bench.send(add("a", 1, "r3"))
    bench.settle(worker)
    found = check(bench)
    [reason] = found.beyond
    assert f"{Add.TOPIC} goes on at " in reason
    assert found.differences == []


def test_a_timer_command_is_built_as_the_shell_builds_it(bench: Bench) -> None:
    seen: list[object] = []

    def watching(command: object, state: object, **more: Any) -> tuple[Any, ...]:
        seen.append(command)
        return decide(command, state, **more)  # type: ignore[arg-type]

    a_full_day(bench)
    assert check(bench, watching).differences == []
    [fired] = [command for command in seen if isinstance(command, Fired)]
    assert fired.name == "deadline"
