"""The journal: one record a transaction and task, saying what the inputs alone do not, and nothing of what was aborted."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from toy import (
    DEADLINE,
    PARTITIONS,
    START,
    Add,
    Added,
    Bench,
    Payment,
    Rate,
    Told,
    partition_of,
)

from crossdock_eventing import names
from crossdock_eventing.broker.failure import BrokerRefused
from crossdock_eventing.clock import to_micros
from crossdock_eventing.journal import Turn, UnknownVersion, plain_turn, read_turn
from crossdock_eventing.keyvalue import MemoryKeyValue
from crossdock_eventing.service import Answer
from crossdock_eventing.worker import Worker

BenchFactory = Callable[..., Bench]


def add(account: str, amount: int, reference: str = "r1") -> Add:
    return Add(account=account, reference=reference, amount=amount)


def journal(bench: Bench, account: str = "a") -> list[dict[str, Any]]:
    """What the task of an account journaled, but for the moment and the version."""
    partition = partition_of(account)
    found = []
    for record in bench.records(names.journal_topic(bench.name)):
        assert record.key == str(record.partition).encode()
        said = json.loads(record.value or b"")
        assert said.pop("v") == 1
        assert said.pop("now") > 0
        if record.partition == partition:
            found.append(said)
    return found


def turns_of(bench: Bench) -> list[Turn]:
    return [read_turn(record.value or b"") for record in bench.records(names.journal_topic(bench.name))]


def test_a_new_task_journals_the_transaction_of_its_first_book(either_bench: Bench) -> None:
    bench = either_bench
    bench.settle(bench.worker())
    assert journal(bench, "a") == [{}]


def test_runs_say_what_was_taken_in_which_order_and_join(either_bench: Bench) -> None:
    bench = either_bench
    worker = bench.worker()
    bench.settle(worker)
    bench.send(add("a", 1), add("a", 2, "r2"))
    bench.settle(worker)
    bench.send(Payment(account="a"))
    bench.settle(worker)
    bench.send(add("a", 3, "r3"))
    bench.settle(worker)
    runs = [run for turn in journal(bench) for run in turn.get("runs", [])]
    assert [run[0] for run in runs] == [Add.TOPIC, Payment.TOPIC, Add.TOPIC]
    taken = [run for run in runs if run[0] == Add.TOPIC]
    assert taken[0][1] == 0
    assert taken[0][2] == taken[1][1], "a marker between them lies inside a run"
    offsets = [record.offset for record in bench.records(Add.TOPIC)]
    assert taken[1][2] == offsets[-1] + 1


def test_what_was_ignored_and_rejected_is_named_by_its_code(either_bench: Bench) -> None:
    bench = either_bench
    worker = bench.worker()
    bench.settle(worker)
    bench.send(add("a", 0, "nothing"), add("a", -1, "bad"), add("a", 5, "good"))
    bench.settle(worker)
    [turn] = journal(bench)[1:]
    first, second, _ = bench.records(Add.TOPIC)
    assert turn["ignored"] == [[Add.TOPIC, first.offset, "toy.nothing"]]
    assert turn["rejected"] == [[Add.TOPIC, second.offset, "toy.negative"]]


def test_what_cannot_be_decoded_is_rejected_in_the_journal(bench: Bench) -> None:
    worker = bench.worker()
    bench.settle(worker)
    bench.send(add("a", 1), raw=b"no avro at all")
    bench.settle(worker)
    assert journal(bench)[1]["rejected"] == [[Add.TOPIC, 0, "contract.bad_framing"]]


def test_an_answer_is_journaled_in_full_with_its_cause(either_bench: Bench) -> None:
    bench = either_bench
    worker = bench.worker()
    bench.send(add("a", 7, "ask"))
    bench.settle(worker)
    bench.port.answers.append(Answer("a", "a/7", Told(7)))
    bench.settle(worker)
    (asked,) = bench.records(Add.TOPIC)
    cause = bench.codec.decode(asked.value)[0].event_id
    assert journal(bench)[-1] == {"answers": [["a", "a/7", cause, {"Told": {"amount": 7}}]]}


def test_a_timer_that_fired_is_journaled_and_one_that_a_message_removed_is_not(bench: Bench) -> None:
    worker = bench.worker()
    bench.send(add("a", 0, "deadline"))
    bench.settle(worker)
    [armed] = [turn for turn in turns_of(bench) if turn.runs]
    due_us = armed.now_us + DEADLINE // timedelta(microseconds=1)
    bench.clock.advance(61)
    bench.settle(worker)
    assert journal(bench)[-1] == {"timers": [[due_us, "a", "deadline"]]}
    bench.send(add("a", 0, "deadline"))
    bench.settle(worker)
    bench.clock.advance(61)
    bench.send(Payment(account="a"))
    bench.settle(worker)
    assert [turn for turn in journal(bench) if "timers" in turn] == [{"timers": [[due_us, "a", "deadline"]]}]


def test_table_rows_are_journaled_once_a_transaction_as_they_were_read(new_bench: BenchFactory) -> None:
    bench = new_bench(with_rates=True)
    worker = bench.worker()
    bench.settle(worker)
    bench.send(Rate(account="a", factor=3))
    bench.send(add("a", 5, "r1"), add("a", 5, "r2"), add("b", 1))
    bench.settle(worker)
    assert journal(bench, "a")[1]["tables"]["rates"]["a"] == [{"account": "a", "factor": 3}]
    missing = journal(bench, "b")[-1]
    assert missing["tables"]["rates"]["b"] == [], "read, and there was none"
    assert [code for _, _, code in missing["rejected"]] == ["toy.no_rate"]
    bench.send(Rate(account="a", factor=4))
    bench.settle(worker)
    bench.send(add("a", 5, "r3"))
    bench.settle(worker)
    assert journal(bench, "a")[-1]["tables"] == {"rates": {"a": [{"account": "a", "factor": 4}]}}


def test_now_is_the_moment_of_the_transaction(bench: Bench) -> None:
    worker = bench.worker()
    bench.send(add("a", 1))
    bench.settle(worker)
    (added,) = bench.records(Added.TOPIC)
    [taken] = [turn for turn in turns_of(bench) if turn.runs]
    assert taken.now_us == to_micros(bench.codec.decode(added.value)[0].recorded_at)
    assert taken.now_us >= to_micros(START)


def test_an_aborted_transaction_leaves_no_journal_and_the_next_says_it_once(bench: Bench) -> None:
    worker = bench.worker()
    bench.settle(worker)
    bench.broker.faults.lose_delivery(names.transactional_id(bench.name, 0))
    bench.send(add("a", 5), add("a", -1, "bad"))
    bench.settle(worker)
    assert bench.published(Added) == [Added(account="a", reference="r1", total=5)]
    assert journal(bench)[1:] == [{"runs": [[Add.TOPIC, 0, 2]], "rejected": [[Add.TOPIC, 1, "toy.negative"]]}]


def test_switched_off_it_writes_nothing_and_needs_no_topic(bench: Bench) -> None:
    bench.admin.delete_topics([names.journal_topic(bench.name)])

    def worker(*, journal: bool) -> Worker:
        return Worker(
            bench.service,
            broker=bench.broker,
            registry=bench.registry,
            clock=bench.clock,
            open_store=lambda _partition: MemoryKeyValue(),
            journal=journal,
        )

    silent = worker(journal=False)
    bench.send(add("a", 5))
    bench.settle(silent)
    bench.clock.advance(1)
    bench.settle(silent)
    assert bench.published(Added) == [Added(account="a", reference="r1", total=5)]
    with pytest.raises(BrokerRefused):
        worker(journal=True)


def test_a_journal_of_another_version_is_refused() -> None:
    turn = read_turn(b'{"v":1,"now":7,"runs":[["t",0,2]],"timers":[[9,"k","n"]]}')
    assert read_turn(json.dumps(plain_turn(turn))) == turn
    with pytest.raises(UnknownVersion):
        read_turn(b'{"v":2,"now":7}')


def test_every_task_has_its_own_journal(bench: Bench) -> None:
    worker = bench.worker()
    bench.settle(worker)
    bench.send(*(add(account, 1) for account in "abcdefgh"))
    bench.settle(worker)
    found = bench.records(names.journal_topic(bench.name))
    taken = {record.partition: read_turn(record.value or b"").runs for record in found}
    assert set(taken) == set(range(PARTITIONS))
    assert sum(end - start for runs in taken.values() for _, start, end in runs) == 8
