"""One step of the loop: what becomes visible together, in which order, under which identity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import islice

import pytest
from toy import (
    PARTITIONS,
    START,
    Add,
    Added,
    Balance,
    Bench,
    CounterState,
    Later,
    Payment,
    Rate,
    Told,
    partition_of,
)

from crossdock_eventing import names
from crossdock_eventing.broker.interface import TopicPartition, TopicSpec
from crossdock_eventing.envelope import header
from crossdock_eventing.service import Answer
from crossdock_eventing.worker import UnequalPartitions

BenchFactory = Callable[..., Bench]


def add(account: str, amount: int, reference: str = "r1") -> Add:
    return Add(account=account, reference=reference, amount=amount)


def test_outputs_state_and_offsets_commit_together(either_bench: Bench) -> None:
    bench = either_bench
    worker = bench.worker()
    bench.send(add("a", 5, "r1"), add("a", 7, "r2"))
    bench.settle(worker)
    assert bench.published(Added) == [
        Added(account="a", reference="r1", total=5),
        Added(account="a", reference="r2", total=12),
    ]
    assert worker.state("a") == CounterState(total=12)
    offsets = bench.admin.group_offsets(names.group(bench.name))
    assert offsets[TopicPartition(Add.TOPIC, partition_of("a"))] == 2


def test_a_table_gets_the_last_value_of_a_key_once_in_a_transaction(either_bench: Bench) -> None:
    bench = either_bench
    worker = bench.worker()
    bench.settle(worker)
    bench.send(add("a", 5, "r1"), add("a", 7, "r2"))
    bench.settle(worker)
    assert bench.published(Balance) == [Balance(account="a", total=12)]


def test_outputs_carry_cause_correlation_and_attributes(either_bench: Bench) -> None:
    bench = either_bench
    worker = bench.worker()
    bench.send(add("a", 5))
    bench.settle(worker)
    (cause,) = bench.records(Add.TOPIC)
    (effect,) = bench.records(Added.TOPIC)
    incoming, _ = bench.codec.decode(cause.value)
    outgoing, _ = bench.codec.decode(effect.value)
    assert outgoing.causation_id == incoming.event_id
    assert outgoing.correlation_id == "thread-a"
    assert outgoing.attributes == {"channel.note": "gift"}
    assert header(effect.headers, "event_type") == b"toy.Added"
    assert header(effect.headers, "ce_id") == outgoing.event_id.encode()


def test_messages_answers_and_timers_are_counted_once_each(bench: Bench) -> None:
    worker = bench.worker()
    bench.settle(worker)
    bench.send(add("a", 5), add("b", -1), add("c", 7, "ask"), add("d", 0, "deadline"))
    assert bench.settle(worker) == 4
    bench.port.answers.append(Answer("c", "c/7", Told(7)))
    assert bench.settle(worker) == 1
    bench.clock.advance(61)
    assert bench.settle(worker) == 1
    assert worker._telemetry.registry.get_sample_value("crossdock_messages_total") == 6


def test_the_same_input_gives_the_same_event_ids(bench: Bench) -> None:
    def ids() -> list[str]:
        other = Bench()
        worker = other.worker()
        other.send(add("a", 5), add("b", 6))
        other.settle(worker)
        return [other.codec.decode(record.value)[0].event_id for record in other.records(Added.TOPIC)]

    assert ids() == ids()
    assert len(set(ids())) == 2


def test_a_type_that_is_not_handled_is_skipped_by_its_header_without_decoding(bench: Bench) -> None:
    producer = bench.broker.producer("edge")
    producer.init_transactions()
    producer.begin()
    producer.produce(Add.TOPIC, key=b"a", value=b"no avro at all", headers=(("event_type", b"toy.Other"),))
    producer.commit()
    worker = bench.worker()
    bench.settle(worker)
    assert bench.records(names.dead_letter_topic(bench.name)) == []
    assert (
        bench.admin.group_offsets(names.group(bench.name))[TopicPartition(Add.TOPIC, partition_of("a"))] == 1
    )


def neighbours(account: str, count: int) -> list[str]:
    """Other accounts in its partition."""
    others = (f"n{number}" for number in range(1_000))
    return list(islice((each for each in others if partition_of(each) == partition_of(account)), count))


def test_a_rejected_message_goes_to_the_dead_letters_untouched_and_the_rest_goes_on(
    either_bench: Bench,
) -> None:
    bench = either_bench
    worker = bench.worker()
    other = neighbours("a", 1)[0]
    bench.send(add("a", -1, "bad"), add(other, 3, "good"))
    bench.settle(worker)
    (letter,) = bench.records(names.dead_letter_topic(bench.name))
    original = bench.records(Add.TOPIC)[0]
    assert (letter.key, letter.value, letter.partition) == (original.key, original.value, original.partition)
    found = dict(letter.headers)
    assert found["kafka_dlt-original-topic"] == Add.TOPIC.encode()
    assert found["kafka_dlt-original-partition"] == original.partition.to_bytes(4, "big")
    assert found["kafka_dlt-original-offset"] == original.offset.to_bytes(8, "big")
    assert found["kafka_dlt-original-timestamp"] == original.timestamp_ms.to_bytes(8, "big")
    assert found["kafka_dlt-original-consumer-group"] == names.group(bench.name).encode()
    assert found["crossdock-error-code"] == b"toy.negative"
    assert b"negative" in found["kafka_dlt-exception-message"]
    assert b"Traceback" in found["kafka_dlt-exception-stacktrace"]
    assert found["correlation_id"] == b"thread-a"
    assert bench.published(Added) == [Added(account=other, reference="good", total=3)]


def test_bytes_that_are_no_record_are_dead_lettered_with_a_reason_and_stop_nothing(
    either_bench: Bench,
) -> None:
    bench = either_bench
    worker = bench.worker()
    raws = (b"", b"\x01\x00\x00\x00\x01x", b"\x00\x00\x00\x00\x63x", b"\x00\x00\x00\x00\x01\x02")
    for account, raw in zip(neighbours("a", 4), raws, strict=True):
        bench.send(add(account, 1, raw.hex()), raw=raw)
    bench.send(add("a", 9, "good"))
    bench.settle(worker)
    codes = [
        header(each.headers, "crossdock-error-code")
        for each in bench.records(names.dead_letter_topic(bench.name))
    ]
    assert codes == [
        b"contract.bad_framing",
        b"contract.bad_framing",
        b"contract.unknown_schema",
        b"contract.corrupt_body",
    ]
    assert bench.published(Added) == [Added(account="a", reference="good", total=9)]


@pytest.mark.parametrize("account", ["\0offsets", "a\0b"])
def test_a_key_with_a_nul_is_dead_lettered(bench: Bench, account: str) -> None:
    """It would be taken for the book of offsets in the changelog, or split a timer's entry at the wrong place."""
    worker = bench.worker()
    bench.send(add(account, 0, "deadline"))
    bench.settle(worker)
    (letter,) = bench.records(names.dead_letter_topic(bench.name))
    assert header(letter.headers, "crossdock-error-code") == b"contract.bad_key"
    assert worker.states() == {}
    worker.close()
    bench.disks.clear()
    again = bench.worker()
    bench.settle(again)
    assert again.ready


def test_a_key_that_is_no_text_is_dead_lettered(bench: Bench) -> None:
    worker = bench.worker()
    bench.send(add("a", 1), key=b"\xff\xfe")
    bench.settle(worker)
    (letter,) = bench.records(names.dead_letter_topic(bench.name))
    assert header(letter.headers, "crossdock-error-code") == b"contract.bad_key"


def test_a_record_in_the_wrong_partition_is_dead_lettered(bench: Bench) -> None:
    producer = bench.broker.producer("edge")
    producer.init_transactions()
    producer.begin()
    producer.produce(Add.TOPIC, key=b"a", value=b"", partition=1 - partition_of("a"))
    producer.commit()
    worker = bench.worker()
    bench.settle(worker)
    (letter,) = bench.records(names.dead_letter_topic(bench.name))
    assert header(letter.headers, "crossdock-error-code") == b"contract.misrouted_key"


def test_a_message_that_asks_for_time_holds_its_partition_and_no_other(bench: Bench) -> None:
    slow, quick = "a", next(name for name in "bcdefgh" if partition_of(name) != partition_of("a"))
    worker = bench.worker()
    bench.send(add(slow, 1, "later"), add(slow, 2, "behind"), add(quick, 3, "free"))
    bench.settle(worker)
    assert bench.published(Added) == [Added(account=quick, reference="free", total=3)]
    offsets = bench.admin.group_offsets(names.group(bench.name))
    assert offsets[TopicPartition(Add.TOPIC, partition_of(slow))] == 0


def test_a_held_partition_goes_on_in_order_at_the_message_that_asked(
    either_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = either_bench
    worker = bench.worker()
    bench.send(add("a", 1, "before"), add("a", 1, "later"), add("a", 1, "behind"))
    bench.settle(worker)
    assert [added.reference for added in bench.published(Added)] == ["before"]
    decide = bench.service.decide

    def patient(command: object, state: object, **more: object) -> object:
        if isinstance(command, Add) and command.reference == "later":
            command = replace(command, reference="now")
        return decide(command, state, **more)

    monkeypatch.setattr(worker._decider, "_service", replace(bench.service, decide=patient))
    bench.settle(worker)
    assert len(bench.published(Added)) == 1, "not before its time"
    bench.clock.advance(Later.after_s * 1.25)
    bench.settle(worker)
    assert [(added.reference, added.total) for added in bench.published(Added)] == [
        ("before", 1),
        ("now", 2),
        ("behind", 3),
    ]


def test_a_held_partition_neither_fills_the_buffer_nor_turns_the_loop(bench: Bench) -> None:
    slow, quick = "a", next(name for name in "bcdefgh" if partition_of(name) != partition_of("a"))
    worker = bench.worker(batch_max=10)
    bench.settle(worker)
    bench.send(add(slow, 1, "later"), *(add(slow, 1, f"behind-{number}") for number in range(50)))
    bench.settle(worker)
    bench.send(add(quick, 3, "free"))
    bench.settle(worker)
    assert bench.published(Added) == [Added(account=quick, reference="free", total=3)]
    begun: list[bool] = []
    begin = worker._producer.begin
    worker._producer.begin = lambda: begun.append(True) or begin()
    bench.settle(worker)
    assert begun == []
    assert 0.05 < worker._wait_s() <= 0.1


def test_a_timer_waits_while_its_partition_is_held(bench: Bench) -> None:
    """The message that asked for time, or one behind it, may be what the timer waits for."""
    worker = bench.worker()
    bench.send(add("a", 0, "deadline"))
    bench.settle(worker)
    bench.clock.advance(58)
    bench.send(add("a", 1, "later"), Payment(account="a"))
    bench.settle(worker)
    bench.clock.advance(4)
    bench.settle(worker)
    assert bench.published(Added) == []


def test_a_rewind_asks_the_held_message_again(bench: Bench) -> None:
    worker = bench.worker()
    bench.send(add("a", 1, "later"))
    bench.settle(worker)
    other = next(name for name in "bcdefgh" if partition_of(name) != partition_of("a"))
    bench.broker.faults.lose_delivery(names.transactional_id(bench.name, 0))
    bench.send(add(other, 1))
    bench.settle(worker)
    assert bench.published(Added) == [Added(account=other, reference="r1", total=1)]
    held = [task.held_until_s for task in worker._tasks.values() if task.partition == partition_of("a")]
    assert held[0] is not None


def test_no_consumer_call_between_begin_and_commit(bench: Bench) -> None:
    """A zombie that polls inside its transaction gets fresh metadata and commits a partition that it lost."""
    worker = bench.worker()
    calls: list[str] = []

    def spy(target: object, label: str, allowed: set[str]) -> object:
        class Spy:
            def __getattr__(self, name: str) -> object:
                found = getattr(target, name)
                if not callable(found):
                    return found

                def called(*args: object, **kwargs: object) -> object:
                    calls.append(f"{label}.{name}")
                    return found(*args, **kwargs)

                return called

        return Spy()

    bench.send(add("a", 1), add("b", -2), add("c", 3))
    bench.settle(worker, steps=2)
    bench.send(add("a", 1), add("b", -2), add("c", 3))
    worker._consumer = spy(worker._consumer, "consumer", set())
    worker._producer = spy(worker._producer, "producer", set())
    bench.settle(worker)
    while "producer.begin" in calls:
        begin, end = calls.index("producer.begin"), calls.index("producer.commit")
        inside = [call for call in calls[begin:end] if call.startswith("consumer.")]
        assert inside == ["consumer.group_metadata"]
        assert calls[begin + 1] == "consumer.group_metadata", "taken after begin, before anything is produced"
        del calls[: end + 1]


def test_a_call_is_started_after_the_commit_and_its_answer_is_a_command(either_bench: Bench) -> None:
    bench = either_bench
    worker = bench.worker()
    bench.send(add("a", 7, "ask"))
    bench.settle(worker)
    assert bench.port.started == [("a", "a/7", True)]
    bench.port.answers.append(Answer("a", "a/7", Told(7)))
    bench.settle(worker)
    assert bench.published(Added) == [Added(account="told", reference="0", total=7)]
    (asked,), (told,) = bench.records(Add.TOPIC), bench.records(Added.TOPIC)
    assert bench.codec.decode(told.value)[0].causation_id == bench.codec.decode(asked.value)[0].event_id
    assert worker.state("a").asking == ""
    bench.settle(worker)
    assert len(bench.port.started) == 1


def test_an_answer_nobody_waits_for_is_dropped(bench: Bench) -> None:
    worker = bench.worker()
    bench.port.answers.append(Answer("a", "unknown", Told(7)))
    bench.settle(worker)
    assert bench.published(Added) == []


def test_a_missing_table_row_is_waited_for_only_until_the_table_is_read_to_its_end(
    new_bench: BenchFactory,
) -> None:
    bench = new_bench(with_rates=True)
    worker = bench.worker()
    bench.settle(worker)
    bench.send(Rate(account="a", factor=10))
    bench.send(add("a", 1))
    # As if the table's reader were slow: it brings nothing until it is asked to read up to the end.
    drained = worker._tables.drain
    worker._tables.drain = lambda: None
    bench.settle(worker)
    worker._tables.drain = drained
    assert bench.published(Added) == [Added(account="a", reference="r1", total=10)]
    bench.send(add("unknown", 1))
    bench.settle(worker)
    (letter,) = bench.records(names.dead_letter_topic(bench.name))
    assert header(letter.headers, "crossdock-error-code") == b"toy.no_rate"


def test_a_timer_fires_once_when_due(either_bench: Bench) -> None:
    bench = either_bench
    worker = bench.worker()
    bench.send(add("a", 0, "deadline"))
    bench.settle(worker)
    bench.clock.advance(59)
    bench.settle(worker)
    assert bench.published(Added) == []
    bench.clock.advance(2)
    bench.settle(worker)
    assert bench.published(Added) == [Added(account="deadline", reference="deadline", total=-1)]
    assert worker.state("a") is None
    bench.clock.advance(120)
    bench.settle(worker)
    assert len(bench.published(Added)) == 1


def test_a_payment_waiting_in_the_backlog_beats_its_own_deadline(either_bench: Bench) -> None:
    bench = either_bench
    worker = bench.worker()
    bench.send(add("a", 0, "deadline"))
    bench.settle(worker)
    bench.send(Payment(account="a"))  # in time; the worker is away while the deadline passes
    bench.clock.advance(300)
    bench.settle(worker)
    assert bench.published(Added) == []
    assert worker.state("a").timers == {}


def test_the_time_to_a_timer_runs_down_also_while_the_instance_is_not_stepped(bench: Bench) -> None:
    worker = bench.worker()
    bench.send(add("a", 0, "deadline"))
    bench.settle(worker)
    asked_s = worker.due_in_s()
    bench.clock.advance(20)
    left_s = worker.due_in_s()
    assert asked_s is not None
    assert left_s == pytest.approx(asked_s - 20, abs=0.001)


def test_a_timer_survives_a_restart_and_now_never_goes_back(bench: Bench) -> None:
    worker = bench.worker()
    bench.send(add("a", 0, "deadline"))
    bench.settle(worker)
    worker.close()
    bench.clock.advance(100)
    again = bench.worker()
    bench.settle(again)
    assert bench.published(Added) == [Added(account="deadline", reference="deadline", total=-1)]
    before = again._now
    bench.clock._now = START - timedelta(days=1)
    again.step(wait=False)
    assert again._now == before


def test_small_batches_wait_for_company_but_not_for_long(bench: Bench) -> None:
    """Dry input commits 20 ms after the last commit, steady input after 100 ms, a full batch at once."""
    worker = bench.worker(commit_interval_s=0.020, commit_interval_s_max=0.100, batch_max=5)
    bench.settle(worker)
    bench.clock.advance(1)
    worker.step(wait=False)
    worker._last_commit_s = bench.clock.monotonic_s()
    bench.send(add("a", 1, "r1"))
    assert [worker.step(wait=False), worker.step(wait=False)] == [0, 0], (
        "dry, but too soon after the last commit"
    )
    bench.clock.advance(0.021)
    assert worker.step(wait=False) == 1
    for number in range(4):
        bench.send(add("a", 1, f"steady-{number}"))
        bench.clock.advance(0.035)
        settled = worker.step(wait=False)
        assert settled == (0 if number < 3 else 4), "there is always more to take: the longest wait decides"
        worker._last_commit_s = bench.clock.monotonic_s() if settled else worker._last_commit_s
    bench.send(*(add("a", 1, f"full-{number}") for number in range(5)))
    assert worker.step(wait=False) == 5


def test_a_step_fires_a_bounded_number_of_timers(bench: Bench) -> None:
    worker = bench.worker(timers_max=2)
    bench.send(*(add(f"k{number}", 0, "deadline") for number in range(5)))
    bench.settle(worker)
    bench.clock.advance(61)
    fired = [worker.step(wait=False) for _ in range(10)]
    assert sum(fired) == 5
    assert max(fired) <= 2


def test_a_service_whose_topics_differ_in_partitions_does_not_start(bench: Bench) -> None:
    bench.admin.delete_topics([Payment.TOPIC])
    bench.admin.create_topics([TopicSpec(Payment.TOPIC, PARTITIONS + 1)])
    with pytest.raises(UnequalPartitions, match=Payment.TOPIC):
        bench.worker()


def test_a_task_starts_when_the_last_of_its_inputs_is_here(bench: Bench) -> None:
    worker = bench.worker()
    whole = worker._consumer.assignment
    worker._consumer.assignment = lambda: frozenset(
        each for each in whole() if each != TopicPartition(Payment.TOPIC, 0)
    )
    bench.send(add("a", 1), add("b", 1), add("c", 1), add("d", 1))
    bench.settle(worker)
    assert worker.partitions == {1}
    worker._consumer.assignment = whole
    worker._on_assign([TopicPartition(Payment.TOPIC, 0)])
    bench.settle(worker)
    assert worker.partitions == {0, 1}
    assert len(bench.published(Added)) == 4
