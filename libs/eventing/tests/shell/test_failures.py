"""What may befall a transaction, a member or a restore, forced one by one: in memory and on Kafka the shell does the same.

After each, inputs, outputs, changelog, stores and offsets must tell one story (`Troubled.expect_exactly_once`).
"""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fault_proxy import INIT_PRODUCER_ID
from toy import PARTITIONS, Added, Rate, partition_of
from troubles import ACCOUNTS, PATIENT, Died, Fate, MemoryTroubles, Troubled, before_next, is_unreleased

from crossdock_eventing import names, reading
from crossdock_eventing.broker.confluent import ClientSettings
from crossdock_eventing.broker.failure import BrokerUnavailable, Fenced, TransactionOutcomeUnknown
from crossdock_eventing.broker.interface import TopicPartition, TopicSpec
from crossdock_eventing.state import Checkpoint, TaskState
from crossdock_eventing.task import Task
from crossdock_eventing.worker import Worker

TroubledFactory = Callable[..., Troubled]


# ---- a transaction without an answer


@pytest.mark.parametrize("fate", list(Fate), ids=lambda fate: fate.name.lower())
def test_a_commit_past_its_time_out_is_recovered_whatever_became_of_it(
    troubles: Troubled, fate: Fate
) -> None:
    worker = troubles.started()
    troubles.slow_commit(fate)
    with troubles.failures() as seen:
        troubles.add(10)
        troubles.work_off(worker)
    assert seen == ["outcome_unknown _TIMED_OUT"]
    assert troubles.broker_of(0).producers == 2
    troubles.expect_exactly_once(worker)


def test_a_recovery_that_does_not_read_the_changelog_again_is_found_out(
    troubles: Troubled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check of these tests can fail: what looked lost had landed."""
    worker = troubles.started()
    troubles.slow_commit(Fate.LANDED)
    troubles.add(10)
    with monkeypatch.context() as patch:
        patch.setattr(Task, "restore", lambda self, reader, now_ms: 0)
        troubles.drive(worker, until=lambda: troubles.broker_of(0).producers == 2)
    troubles.add(12)
    troubles.drive(worker, until=lambda: len(troubles.records(Added.TOPIC)) == len(troubles.sent))
    with pytest.raises(AssertionError, match="account-0"):
        troubles.expect_one_story(worker)


def test_a_second_commit_goes_unanswered_straight_after_the_first(troubles: Troubled) -> None:
    worker = troubles.started()
    troubles.slow_commit(Fate.LOST)
    troubles.broker_of(0).after_claim.append(lambda: troubles.slow_commit(Fate.LANDED))
    with troubles.failures() as seen:
        troubles.add(10)
        troubles.work_off(worker)
    assert seen == ["outcome_unknown _TIMED_OUT"] * 2
    troubles.expect_exactly_once(worker)


def test_after_a_commit_without_an_answer_the_producer_is_of_no_use_and_a_new_one_is(
    troubles: Troubled,
) -> None:
    broker = troubles.broker_of(0)
    producer = broker.producer("it")
    producer.init_transactions()
    producer.begin()
    producer.produce(Added.TOPIC, key=b"k", value=b"landed")
    troubles.slow_commit(Fate.LANDED, producer_id="it")
    with pytest.raises(TransactionOutcomeUnknown, match="_TIMED_OUT"):
        producer.commit()
    for call in (producer.abort, producer.begin):
        with pytest.raises(TransactionOutcomeUnknown, match="_CONFLICT"):
            call()
    producer.close()
    again = broker.producer("it")
    again.init_transactions()
    again.begin()
    again.produce(Added.TOPIC, key=b"k", value=b"after")
    again.commit()
    again.close()
    assert [record.value for record in troubles.records(Added.TOPIC)] == [b"landed", b"after"]


def test_a_record_that_is_not_delivered_in_time_is_aborted_and_done_again(
    new_troubles: TroubledFactory,
) -> None:
    troubles = new_troubles(**quick_to_abort(new_troubles))
    worker = troubles.started()
    troubles.lose_delivery()
    with troubles.failures() as seen:
        troubles.add(10)
        troubles.work_off(worker)
    assert len(seen) == 1
    assert seen[0].startswith("aborted")
    assert troubles.broker_of(0).producers == 1
    troubles.expect_exactly_once(worker)


def quick_to_abort(factory: TroubledFactory) -> dict[str, ClientSettings]:
    if factory is MemoryTroubles:
        return {}
    return {"settings": replace(PATIENT, answer_timeout_ms=3_000)}


def test_an_abort_without_an_answer_is_recovered(new_troubles: TroubledFactory) -> None:
    troubles = new_troubles(**quick_to_abort(new_troubles))
    worker = troubles.started()
    troubles.lose_delivery()
    troubles.slow_abort()
    with troubles.failures() as seen:
        troubles.add(10)
        troubles.work_off(worker)
    assert len(seen) == 1
    assert seen[0].startswith("aborted")
    assert troubles.broker_of(0).producers == 2
    troubles.expect_exactly_once(worker)


def test_a_recovery_claims_then_asks_for_the_offsets_then_reads_the_changelog_then_seeks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Asked before the claim, the offsets could be those from before a commit that lands in between."""
    troubles = MemoryTroubles()
    worker = troubles.started()
    troubles.slow_commit(Fate.LANDS_BEFORE_THE_CLAIM)
    done: list[str] = []
    before_next(worker._producer, "close", lambda: done.append("close"))
    troubles.broker_of(0).before_claim.append(lambda: done.append("claim"))
    before_next(worker._consumer, "committed", lambda: done.append("committed"))
    before_next(worker._consumer, "seek", lambda: done.append("seek"))
    restore = Task.restore

    def watched(self: Task, *args: object) -> int:
        done.append("restore")
        return restore(self, *args)

    monkeypatch.setattr(Task, "restore", watched)
    troubles.add(10)
    troubles.work_off(worker)
    assert done[:5] == ["close", "claim", "committed", "restore", "seek"]


def test_a_recovery_forgets_what_was_polled_and_not_yet_decided(new_troubles: TroubledFactory) -> None:
    """It will be read again: a message that waited for a table while the commit failed must not be decided twice."""
    troubles = new_troubles(with_rates=True)
    worker = troubles.worker()
    known, late = [each for each in ACCOUNTS if partition_of(each) == 0][:2]  # polled together
    troubles.send(Rate(account=known, factor=1))
    troubles.drive(worker, until=lambda: worker.ready and bool(worker._tables.views["rates"]._rows))
    troubles.slow_commit(Fate.LANDED)
    waiting: list[int] = []

    def look() -> None:
        waiting.append(len(worker._buffer))
        troubles.send(Rate(account=late, factor=1))

    troubles.broker_of(0).before_claim.append(look)
    troubles.add(10, (known, late))
    troubles.work_off(worker)
    assert waiting[0] > 0
    troubles.expect_exactly_once(worker)


def test_a_broker_that_goes_away_during_a_recovery_for_too_long_ends_the_process(
    new_troubles: TroubledFactory,
) -> None:
    troubles = new_troubles(**quick_to_give_up(new_troubles))
    worker = troubles.started()
    troubles.slow_commit(Fate.LANDED)
    troubles.broker_of(0).before_claim.append(troubles.go_away)
    troubles.add(10)
    with pytest.raises(BrokerUnavailable):
        troubles.work_off(worker)
    worker.close()
    troubles.come_back()
    again = troubles.restarted()
    troubles.work_off(again)
    troubles.expect_exactly_once(again)


def quick_to_give_up(factory: TroubledFactory) -> dict[str, ClientSettings]:
    if factory is MemoryTroubles:
        return {}
    return {"settings": replace(PATIENT, answer_timeout_ms=2_000, query_timeout_s=3.0, init_timeout_s=1.0)}


@pytest.mark.kafka
def test_a_broker_that_comes_back_during_a_recovery_is_waited_for(
    new_kafka_troubles: TroubledFactory,
) -> None:
    troubles = new_kafka_troubles()
    worker = troubles.started()
    troubles.slow_commit(Fate.LANDED)
    troubles.broker_of(0).before_claim.append(lambda: troubles.proxies[0].away(refusals=8))
    troubles.add(10)
    troubles.work_off(worker)
    assert troubles.proxies[0]._refusals == 0
    assert troubles.broker_of(0).producers == 2
    troubles.expect_exactly_once(worker)


@pytest.mark.kafka
def test_connections_cut_in_the_middle_of_a_transaction_are_made_again_and_nobody_notices(
    new_kafka_troubles: TroubledFactory,
) -> None:
    troubles = new_kafka_troubles()
    worker = troubles.started()
    proxy = troubles.proxies[0]
    proxy.delay_s = 0.02
    before_next(worker._producer, "send_offsets", proxy.cut)
    before_next(worker._producer, "commit", proxy.cut)
    with troubles.failures() as seen:
        troubles.add(10)
        troubles.work_off(worker)
    assert seen == []
    troubles.expect_exactly_once(worker)


# ---- a member that lost its partitions, a twin


CLASSIC = replace(PATIENT, group_protocol="classic")


def take_over_a_zombies_work(troubles: Troubled, stall: Callable[[Callable[[], None]], None]) -> list[str]:
    """A worker stops in a transaction until its successor has done the work; then it goes on. What it was refused for."""
    zombie = troubles.started()

    def meanwhile() -> None:
        troubles.work_off(troubles.worker(1))

    stall(meanwhile)
    with troubles.failures() as seen:
        troubles.add(10)
        troubles.drive(zombie, until=lambda: 1 in troubles.workers and not zombie.partitions)
        pair = [zombie, troubles.workers[1]]
        troubles.drive(*pair, until=lambda: all(len(each.partitions) == 1 for each in pair))
    troubles.expect_exactly_once(*pair)
    return seen


STALE = {
    "aborted UNKNOWN_MEMBER_ID",
    "aborted ILLEGAL_GENERATION",
    "aborted STALE_MEMBER_EPOCH",
    "aborted FENCED_MEMBER_EPOCH",
}


def test_a_zombie_past_its_session_is_refused_its_offsets_and_goes_on_after_its_next_poll(
    troubles: Troubled,
) -> None:
    seen = take_over_a_zombies_work(troubles, troubles.stall)
    assert seen
    assert set(seen) <= STALE


@pytest.mark.kafka
def test_a_zombie_of_the_classic_protocol_is_refused_alike(new_kafka_troubles: TroubledFactory) -> None:
    troubles = new_kafka_troubles(settings=CLASSIC)
    seen = take_over_a_zombies_work(troubles, troubles.stall)
    assert seen
    assert set(seen) <= STALE


def test_a_zombie_that_stopped_between_poll_and_begin_is_refused_alike(troubles: Troubled) -> None:
    """Its client may learn in the background of what happened, but gives no new membership before the next poll."""
    seen = take_over_a_zombies_work(troubles, troubles.stall_before_begin)
    assert seen
    assert set(seen) <= STALE


def test_a_transaction_open_beyond_its_time_out_fences_its_producer_and_ends_the_process(
    new_troubles: TroubledFactory,
) -> None:
    troubles = new_troubles(**soon_timed_out(new_troubles))
    worker = troubles.started()
    before_next(worker._producer, "send_offsets", troubles.outlast_transaction)
    troubles.add(10)
    with pytest.raises(Fenced):
        troubles.work_off(worker)
    assert troubles.broker_of(0).producers == 1
    worker.close()
    again = troubles.restarted()
    troubles.work_off(again)
    troubles.expect_exactly_once(again)


def soon_timed_out(factory: TroubledFactory) -> dict[str, ClientSettings]:
    if factory is MemoryTroubles:
        return {}
    return {"settings": replace(PATIENT, transaction_timeout_ms=5_000, answer_timeout_ms=4_000)}


def test_of_twins_the_older_is_fenced_and_never_claims_its_identity_back(troubles: Troubled) -> None:
    older = troubles.started()
    troubles.disks = {}  # the younger one runs on another host
    younger = troubles.worker()
    troubles.add(10)
    with pytest.raises(Fenced):
        troubles.work_off(older)
    assert troubles.broker_of(0).producers == 2
    with pytest.raises(Fenced) as refused:
        troubles.work_off(younger)
    assert is_unreleased(refused.value)
    for each in (younger, older):
        each.close()
    again = troubles.restarted()
    troubles.work_off(again)
    troubles.expect_exactly_once(again)


@pytest.mark.kafka
def test_of_twins_of_the_classic_protocol_the_older_is_fenced_by_the_group_too(
    new_kafka_troubles: TroubledFactory,
) -> None:
    troubles = new_kafka_troubles(settings=CLASSIC)
    older = troubles.started()
    troubles.disks = {}
    younger = troubles.worker()
    with pytest.raises(Fenced, match="Static consumer fenced"):
        troubles.drive(younger, older, until=lambda: False)
    older.close()
    troubles.add(10)
    troubles.work_off(younger)
    troubles.expect_exactly_once(younger)


# ---- what a successor finds


@pytest.mark.kafka
def test_a_claim_waits_while_the_coordinator_settles_what_a_dead_owner_left_open(
    new_kafka_troubles: TroubledFactory,
) -> None:
    """It is told CONCURRENT_TRANSACTIONS until then, and asks again."""
    troubles = new_kafka_troubles()
    worker = troubles.started()
    die_before_commit(worker)
    troubles.add(10)
    with pytest.raises(Died):
        troubles.work_off(worker)
    troubles.bury(0)
    answers = troubles.proxies[0].answers(INIT_PRODUCER_ID)
    again = troubles.worker()
    troubles.work_off(again)
    errors = [
        int.from_bytes(answer[13:15], "big") for answer in answers
    ]  # after length, correlation, tags, throttle time
    assert set(errors[:-1]) == {51}
    assert errors[-1] == 0
    troubles.expect_exactly_once(again)


def test_a_dead_owners_commit_that_lands_while_its_successor_asks_is_seen_whole(
    troubles: Troubled,
) -> None:
    worker = troubles.started()
    successor = troubles.succeed_while_the_commit_is_under_way(worker)
    troubles.work_off(successor)
    assert len(troubles.records(Added.TOPIC)) == len(troubles.sent)
    troubles.expect_exactly_once(successor)


def test_a_restore_reads_to_the_end_of_the_log_not_to_where_it_is_stable(troubles: Troubled) -> None:
    """Committed states lie behind a transaction that is still open when the restore begins."""
    worker = troubles.started()
    open_transaction(troubles)
    troubles.add(10)
    troubles.work_off(worker)
    worker.close()
    troubles.disks.clear()
    again = troubles.restarted()
    troubles.expect_exactly_once(again)


def open_transaction(troubles: Troubled) -> None:
    """Somebody who died wrote to the changelog and neither committed nor aborted; the coordinator will, in time."""
    dead = troubles.patient_broker().producer("somebody")
    dead.init_transactions()
    dead.begin()
    changelog, there = names.changelog_topic(troubles.name), []
    for number in range(PARTITIONS):
        dead.produce(
            changelog,
            partition=number,
            key=ACCOUNTS[0].encode(),
            value=b"?",
            on_delivery=lambda *at: there.append(at),
        )
    deadline = time.monotonic() + 20
    while len(there) < PARTITIONS:
        assert time.monotonic() < deadline
        dead.poll()
    dead.close()


def test_a_crash_in_the_middle_of_a_restore_costs_nothing(
    troubles: Troubled, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = troubles.started()
    for _ in range(3):
        troubles.add(12)
        troubles.work_off(worker)
    worker.close()
    troubles.disks.clear()
    load, loads = TaskState.load, []

    def dying(self: TaskState, changes: dict[str, bytes | None], checkpoint: Checkpoint) -> None:
        loads.append(checkpoint.next_offset)
        if len(loads) == 3:
            raise Died
        load(self, changes, checkpoint)

    with monkeypatch.context() as patch:
        patch.setattr(reading, "_READ_MAX", 4)
        patch.setattr(TaskState, "load", dying)
        again = troubles.worker()
        with pytest.raises(Died):
            troubles.drive(again, until=lambda: False)
    again.close()
    half = troubles.disks[0, 0].get(b"m")
    assert half is not None
    assert json.loads(half)["next_offset"] == loads[1]
    last = troubles.restarted()
    troubles.expect_exactly_once(last)


def test_a_changelog_compacted_since_the_last_restore_restores_old_stores_and_lost_ones(
    troubles: Troubled,
) -> None:
    troubles.compact_readily()
    worker = troubles.started()
    worker.close()
    old = copy.deepcopy(troubles.disks)
    worker = troubles.restarted()
    for _ in range(8):
        troubles.add(6)
        troubles.work_off(worker)
    worker.close()
    troubles.compact_changelog()
    for disks in (old, {}):
        troubles.disks = disks
        worker = troubles.restarted()
        troubles.expect_exactly_once(worker)
        worker.close()


def test_a_store_deleted_on_disk_is_made_again_from_the_changelog(
    new_troubles: TroubledFactory, tmp_path: Path
) -> None:
    troubles = new_troubles(directory=tmp_path)
    worker = troubles.started()
    worker.close()
    shutil.rmtree(tmp_path / "0" / "1")
    again = troubles.restarted()
    troubles.expect_exactly_once(again)


def test_a_store_of_a_changelog_that_was_made_anew_is_wiped(troubles: Troubled) -> None:
    """Even where its place would lie within the new one."""
    worker = troubles.started()
    worker.close()
    changelog = names.changelog_topic(troubles.name)
    before = troubles.admin.topic_id(changelog)
    kept = next(each for each in troubles.records(changelog) if each.key == ACCOUNTS[0].encode())
    length = troubles.admin.watermarks(TopicPartition(changelog, kept.partition)).high
    troubles.admin.delete_topics([changelog])
    troubles.admin.create_topics([TopicSpec(changelog, PARTITIONS, configs={"cleanup.policy": "compact"})])
    assert troubles.admin.topic_id(changelog) != before
    producer = troubles.patient_broker().producer("restorer")
    producer.init_transactions()
    producer.begin()
    for _ in range(length):
        producer.produce(changelog, partition=kept.partition, key=kept.key, value=kept.value)
    producer.commit()
    producer.close()
    again = troubles.restarted()
    assert set(again.states()) == {ACCOUNTS[0]}


def die_before_commit(worker: Worker) -> None:
    """Its records are with the broker, the transaction is open, and it ends."""

    def die() -> None:
        raise Died

    before_next(worker._producer, "commit", die)
