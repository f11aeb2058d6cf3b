"""What the loop does when a transaction fails, a process dies, a disk is lost, or partitions move. Each row has a name."""

from __future__ import annotations

import pytest
from toy import Add, Added, Balance, Bench, CounterState, Told, partition_of

from crossdock_eventing import names
from crossdock_eventing.broker.failure import Fenced, OffsetMissing
from crossdock_eventing.broker.interface import TopicPartition
from crossdock_eventing.envelope import wrap
from crossdock_eventing.keyvalue import MemoryKeyValue
from crossdock_eventing.outbox import Outbox
from crossdock_eventing.service import Answer
from crossdock_eventing.state import Checkpoint, TaskState
from crossdock_eventing.telemetry import Telemetry

ID = names.transactional_id("toy", 0)


def add(account: str, amount: int, reference: str = "r1") -> Add:
    return Add(account=account, reference=reference, amount=amount)


def totals(bench: Bench) -> list[int]:
    return [added.total for added in bench.published(Added)]


@pytest.mark.parametrize("landed", [True, False])
def test_a_commit_of_unknown_outcome_is_fenced_and_the_changelog_read_again(
    bench: Bench, landed: bool
) -> None:
    worker = bench.worker()
    bench.send(add("a", 5, "r1"))
    bench.settle(worker)
    bench.send(add("a", 7, "r2"))
    bench.broker.faults.slow_commit(ID, landed=landed)
    bench.settle(worker)
    bench.send(add("a", 1, "r3"))
    bench.settle(worker)
    assert totals(bench) == [5, 12, 13]
    assert worker.state("a") == CounterState(total=13)


def test_a_late_commit_of_a_closed_producer_lands_nothing_twice(bench: Bench) -> None:
    worker = bench.worker()
    bench.settle(worker)
    bench.send(add("a", 7))
    bench.broker.faults.slow_commit(ID, landed=False)
    bench.settle(worker)
    bench.broker.faults.land_commits()
    bench.settle(worker)
    assert totals(bench) == [7]


def test_an_undelivered_record_aborts_and_the_input_is_processed_again(bench: Bench) -> None:
    worker = bench.worker()
    bench.settle(worker)
    bench.broker.faults.lose_delivery(ID)
    bench.send(add("a", 5, "r1"), add("a", 7, "r2"))
    bench.settle(worker)
    assert totals(bench) == [5, 12]


def test_an_expelled_member_is_refused_its_offsets_and_goes_on_after_its_next_poll(bench: Bench) -> None:
    worker = bench.worker()
    bench.settle(worker)
    bench.send(add("a", 5))
    worker._poll(0.0)
    bench.broker.faults.expel(names.group(bench.name), names.instance_id(bench.name, 0))
    bench.settle(worker)
    assert totals(bench) == [5]


def test_a_twin_with_the_same_identity_fences_the_first_which_never_starts_again_by_itself(
    bench: Bench,
) -> None:
    first = bench.worker()
    bench.settle(first)
    second = bench.broker.producer(ID)
    second.init_transactions()
    bench.send(add("a", 5))
    with pytest.raises(Fenced):
        bench.settle(first)


def test_a_crash_before_the_commit_leaves_nothing(either_bench: Bench) -> None:
    bench = either_bench
    worker = bench.worker()
    bench.settle(worker)
    bench.send(add("a", 5))

    def die() -> None:
        raise KeyboardInterrupt

    worker._producer.commit = die
    with pytest.raises(KeyboardInterrupt):
        bench.settle(worker)
    bench.bury(ordinal=0)
    again = bench.worker()
    bench.settle(again)
    assert totals(bench) == [5]


def test_a_crash_between_commit_and_flush_is_made_good_from_the_changelog(either_bench: Bench) -> None:
    bench = either_bench
    worker = bench.worker()
    bench.send(add("a", 5, "r1"))
    bench.settle(worker)
    bench.send(add("a", 7, "r2"))

    def die(_batch: object) -> None:
        raise KeyboardInterrupt

    worker._settle = die
    with pytest.raises(KeyboardInterrupt):
        bench.settle(worker)
    bench.bury(ordinal=0)
    again = bench.worker()
    bench.send(add("a", 1, "r3"))
    bench.settle(again)
    assert totals(bench) == [5, 12, 13]


def test_a_lost_disk_is_restored_in_full(either_bench: Bench) -> None:
    bench = either_bench
    worker = bench.worker()
    bench.send(*(add(f"k{number}", number) for number in range(30)))
    bench.settle(worker)
    expected = worker.states()
    worker.close()
    bench.disks.clear()
    again = bench.worker()
    bench.settle(again)
    assert again.states() == expected
    assert len(expected) == 30


def test_a_restart_reads_only_the_tail_of_the_changelog(either_bench: Bench) -> None:
    bench = either_bench
    worker = bench.worker()
    bench.send(*(add(f"k{number}", number) for number in range(30)))
    bench.settle(worker)
    worker.close()
    taken: list[int] = []
    original = TaskState.load

    def counted(self: TaskState, changes: dict[str, bytes | None], checkpoint: Checkpoint) -> None:
        taken.append(len(changes))
        original(self, changes, checkpoint)

    TaskState.load = counted
    try:
        again = bench.worker()
        bench.settle(again)
    finally:
        TaskState.load = original
    assert sum(taken) == 0
    assert len(again.states()) == 30


@pytest.mark.parametrize("change", ["topic_id", "cluster_id", "next_offset", "written_at_ms"])
def test_a_store_that_cannot_be_trusted_is_wiped_and_restored(bench: Bench, change: str) -> None:
    worker = bench.worker()
    bench.send(add("a", 5))
    bench.settle(worker)
    worker.close()
    disk = bench.disks[0, partition_of("a")]
    state = TaskState(disk, bench.codec, None)
    checkpoint = state.checkpoint()
    assert checkpoint is not None
    wrong: dict[str, object] = {
        "topic_id": "other",
        "cluster_id": "other",
        "next_offset": 999,
        "written_at_ms": 0,
    }
    disk.write({b"sghost": disk.get(b"sa")})
    state.flush(
        Checkpoint(**{**{n: getattr(checkpoint, n) for n in checkpoint.__slots__}, change: wrong[change]})
    )
    again = bench.worker()
    bench.settle(again)
    assert set(again.states()) == {"a"}


def test_a_deleted_state_stays_deleted_after_compaction_and_restore(bench: Bench) -> None:
    worker = bench.worker()
    bench.send(add("a", 0, "deadline"))
    bench.settle(worker)
    bench.clock.advance(61)
    bench.settle(worker)
    assert worker.state("a") is None
    bench.broker.compact(names.changelog_topic(bench.name))
    worker.close()
    bench.disks.clear()
    again = bench.worker()
    bench.settle(again)
    assert again.state("a") is None


def test_an_expired_group_offset_reprocesses_nothing(bench: Bench) -> None:
    worker = bench.worker()
    bench.send(add("a", 5, "r1"))
    bench.settle(worker)
    worker.close()
    group = bench.broker._cluster.group(names.group(bench.name))
    group.offsets.clear()
    again = bench.worker()
    bench.send(add("a", 7, "r2"))
    bench.settle(again)
    assert totals(bench) == [5, 12]


def test_a_group_that_was_never_initialised_stops_with_the_command_to_run(bench: Bench) -> None:
    bench.broker._cluster.group(names.group(bench.name)).offsets.clear()
    worker = bench.worker()
    with pytest.raises(OffsetMissing, match="crossdock topics apply"):
        bench.settle(worker)


def test_partitions_and_their_states_move_to_a_new_instance_and_nothing_is_lost(either_bench: Bench) -> None:
    bench = either_bench
    first = bench.worker(ordinal=0)
    bench.send(*(add(f"k{number}", 1, "r1") for number in range(20)))
    bench.settle(first)
    second = bench.worker(ordinal=1)
    bench.settle(first, second)
    assert first.partitions | second.partitions == {0, 1}
    assert len(first.partitions) == len(second.partitions) == 1
    bench.send(*(add(f"k{number}", 1, "r2") for number in range(20)))
    bench.settle(first, second)
    assert sorted(totals(bench)) == [1] * 20 + [2] * 20
    assert {**first.states(), **second.states()} == {
        f"k{number}": CounterState(total=2) for number in range(20)
    }


def test_a_zombie_past_its_session_writes_nothing_after_its_successor_took_over(bench: Bench) -> None:
    zombie = bench.worker(ordinal=0)
    bench.settle(zombie)
    bench.send(add("a", 5, "r1"))
    zombie._poll(0.0)
    bench.broker.faults.silence(names.group(bench.name), names.instance_id(bench.name, 0))
    bench.clock.advance(100)
    successor = bench.worker(ordinal=1)
    bench.settle(successor)
    assert totals(bench) == [5]
    bench.settle(zombie, successor)
    assert totals(bench) == [5]


def test_a_transaction_without_input_still_sends_an_offset_of_its_task(bench: Bench) -> None:
    """Without it, the transaction of a zombie's timer would not be fenced."""
    worker = bench.worker()
    bench.send(add("a", 0, "deadline"))
    bench.settle(worker)
    bench.clock.advance(61)
    sent: list[dict[TopicPartition, int]] = []
    send_offsets = worker._producer.send_offsets

    def recorded(offsets: dict[TopicPartition, int], group: object) -> None:
        sent.append(dict(offsets))
        send_offsets(offsets, group)

    worker._producer.send_offsets = recorded
    bench.settle(worker)
    assert len(sent) == 1
    assert sent[0][TopicPartition(Add.TOPIC, partition_of("a"))] == 1


def test_a_call_outstanding_at_a_crash_is_started_again_as_not_fresh(bench: Bench) -> None:
    worker = bench.worker()
    bench.send(add("a", 7, "ask"))
    bench.settle(worker)
    worker.close()
    again = bench.worker()
    bench.settle(again)
    assert bench.port.started == [("a", "a/7", True), ("a", "a/7", False)]


def test_a_call_of_a_partition_that_left_is_forgotten_and_its_answer_dropped(bench: Bench) -> None:
    first = bench.worker(ordinal=0)
    accounts = [f"k{number}" for number in range(6)]
    bench.send(*(add(account, 7, "ask") for account in accounts))
    bench.settle(first)
    second = bench.worker(ordinal=1)
    bench.settle(first, second)
    moved = {account for account in accounts if partition_of(account) not in first.partitions}
    assert bench.port.forgotten == moved
    assert 0 < len(moved) < len(accounts)
    answer = next(iter(moved))
    bench.port.answers.append(Answer(answer, f"{answer}/7", Told(7)))
    assert bench.settle(first) == 0


def test_a_table_row_of_a_transaction_that_failed_is_not_written_by_the_next(bench: Bench) -> None:
    outbox = Outbox(bench.name, bench.codec, Telemetry(bench.name), compacted=frozenset([Balance.TOPIC]))
    producer = bench.broker.producer("p")
    producer.init_transactions()
    row = Balance(account="a", total=1)
    meta = wrap(row, causation_id="c", correlation_id="c", now=bench.clock.now(), source="s", attributes={})
    for fails in (True, False):
        producer.begin()
        outbox.begin(producer, bench.clock.now())
        if fails:
            outbox.publish(row, meta, None)
            producer.abort()
            continue
        outbox.finish([])
        producer.commit()
    assert bench.records(Balance.TOPIC) == []


def test_an_answer_whose_transaction_failed_is_asked_for_again(bench: Bench) -> None:
    worker = bench.worker()
    bench.send(add("a", 7, "ask"))
    bench.settle(worker)
    bench.port.answers.append(Answer("a", "a/7", Told(7)))
    bench.broker.faults.lose_delivery(ID)
    bench.settle(worker)
    assert bench.published(Added) == []
    assert bench.port.started[-1] == ("a", "a/7", False)


def test_a_store_never_gets_ahead_of_the_log(bench: Bench) -> None:
    """Nothing of a transaction reaches the disk before it committed."""
    worker = bench.worker()
    bench.settle(worker)
    bench.send(add("a", 5))
    disk = bench.disks[0, partition_of("a")]
    seen: list[bytes | None] = []
    commit = worker._producer.commit

    def looked() -> None:
        seen.append(disk.get(b"sa"))
        commit()

    worker._producer.commit = looked
    bench.settle(worker)
    assert seen == [None]
    assert disk.get(b"sa") is not None
    assert isinstance(disk, MemoryKeyValue)
