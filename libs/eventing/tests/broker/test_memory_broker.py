"""What only the in-memory broker does: faults on order, time by a given clock, compaction."""

from typing import Any

import pytest

from crossdock_eventing.broker.failure import (
    AbortRequired,
    BrokerRefused,
    BrokerUnavailable,
    Fenced,
    TransactionOutcomeUnknown,
)
from crossdock_eventing.broker.interface import TopicPartition
from crossdock_eventing.broker.memory.groups import range_assign


@pytest.fixture
def bench(memory_bench: Any) -> Any:
    return memory_bench


@pytest.fixture
def faults(memory_broker: Any) -> Any:
    return memory_broker.faults


def at(topic: str, partition: int = 0) -> TopicPartition:
    return TopicPartition(topic, partition)


def readable(bench: Any, topic: str) -> list[bytes | None]:
    reader = bench.broker.reader()
    reader.assign({at(topic): bench.admin.watermarks(at(topic)).low})
    return [record.value for record in reader.poll(1000, 0)]


def commit_one(bench: Any, producer: Any, topic: str, value: bytes, key: bytes = b"k") -> None:
    producer.begin()
    producer.produce(topic, key=key, value=value, partition=0)
    producer.commit()


# ---- uncertain commits ----


def test_a_slow_commit_that_landed_is_visible_although_it_failed(bench: Any, faults: Any) -> None:
    topic = bench.topic()
    producer = bench.producer("p")
    faults.slow_commit("p", landed=True)
    with pytest.raises(TransactionOutcomeUnknown):
        commit_one(bench, producer, topic, b"v")
    assert readable(bench, topic) == [b"v"]


def test_after_an_unknown_outcome_every_call_conflicts_and_a_new_producer_goes_on(
    bench: Any, faults: Any
) -> None:
    topic = bench.topic()
    producer = bench.producer("p")
    faults.slow_commit("p", landed=True)
    with pytest.raises(TransactionOutcomeUnknown):
        commit_one(bench, producer, topic, b"1")
    for call in (producer.abort, producer.begin, producer.commit):
        with pytest.raises(TransactionOutcomeUnknown, match="_CONFLICT"):
            call()
    producer.close()
    commit_one(bench, bench.producer("p"), topic, b"2")
    assert readable(bench, topic) == [b"1", b"2"]


def test_an_abort_without_an_answer_leaves_its_producer_useless_and_nothing_visible(
    bench: Any, faults: Any
) -> None:
    topic = bench.topic()
    producer = bench.producer("p")
    faults.slow_abort("p")
    producer.begin()
    producer.produce(topic, key=b"k", value=b"v", partition=0)
    with pytest.raises(TransactionOutcomeUnknown, match="_TIMED_OUT"):
        producer.abort()
    with pytest.raises(TransactionOutcomeUnknown, match="_CONFLICT"):
        producer.begin()
    commit_one(bench, bench.producer("p"), topic, b"after")
    assert readable(bench, topic) == [b"after"]


def test_a_commit_under_way_lands_after_its_producer_was_closed(bench: Any, faults: Any) -> None:
    source, topic = bench.topic(), bench.topic()
    member = bench.member(bench.group(source), source)
    bench.settle(member, owned=1)
    producer = bench.producer("p")
    faults.slow_commit("p", landed=False)
    producer.begin()
    producer.produce(topic, key=b"k", value=b"v", partition=0)
    producer.send_offsets({at(source): 1}, member.consumer.group_metadata())
    with pytest.raises(TransactionOutcomeUnknown):
        producer.commit()
    producer.close()
    assert readable(bench, topic) == []
    with pytest.raises(BrokerUnavailable, match="UNSTABLE_OFFSET_COMMIT"):
        member.consumer.committed([at(source)])
    faults.land_commits()
    assert readable(bench, topic) == [b"v"]
    assert member.consumer.committed([at(source)]) == {at(source): 1}


def test_claiming_the_id_settles_a_commit_under_way_for_good(bench: Any, faults: Any) -> None:
    topic = bench.topic()
    producer = bench.producer("p")
    faults.slow_commit("p", landed=False)
    with pytest.raises(TransactionOutcomeUnknown):
        commit_one(bench, producer, topic, b"v")
    bench.producer("p")
    faults.land_commits()
    assert readable(bench, topic) == []


def test_a_fault_hits_the_named_producer_once(bench: Any, faults: Any) -> None:
    topic = bench.topic()
    faults.slow_commit("p", landed=True)
    commit_one(bench, bench.producer("other"), topic, b"1")
    with pytest.raises(TransactionOutcomeUnknown):
        commit_one(bench, bench.producer("p"), topic, b"2")
    commit_one(bench, bench.producer("p"), topic, b"3")
    assert readable(bench, topic) == [b"1", b"2", b"3"]


# ---- markers, deliveries, outages ----


def test_held_markers_leave_the_stable_end_behind_an_acknowledged_commit(bench: Any, faults: Any) -> None:
    source, topic = bench.topic(), bench.topic()
    member = bench.member(bench.group(source), source)
    bench.settle(member, owned=1)
    producer = bench.producer()
    faults.hold_markers()
    producer.begin()
    producer.produce(topic, key=b"k", value=b"v", partition=0)
    producer.send_offsets({at(source): 1}, member.consumer.group_metadata())
    producer.commit()
    assert member.consumer.committed([at(source)]) == {at(source): 1}
    assert readable(bench, topic) == []
    assert bench.admin.watermarks(at(topic)).high == 1
    faults.release_markers()
    assert readable(bench, topic) == [b"v"]


def test_held_markers_are_written_before_the_producers_next_record(bench: Any, faults: Any) -> None:
    topic = bench.topic()
    producer = bench.producer()
    faults.hold_markers()
    commit_one(bench, producer, topic, b"1")
    commit_one(bench, producer, topic, b"2")
    assert readable(bench, topic) == [b"1"]


def test_a_lost_delivery_fails_its_transaction_and_only_that(bench: Any, faults: Any) -> None:
    topic = bench.topic()
    producer = bench.producer("p")
    reported = []
    faults.lose_delivery("p")
    producer.begin()
    producer.produce(topic, key=b"k", value=b"lost", partition=0, on_delivery=lambda *at: reported.append(at))
    with pytest.raises(AbortRequired):
        producer.produce(topic, key=b"k", value=b"next", partition=0)
    with pytest.raises(AbortRequired):
        producer.commit()
    producer.abort()
    commit_one(bench, producer, topic, b"kept")
    assert reported == []
    assert readable(bench, topic) == [b"kept"]


def test_an_outage_leaves_commits_unknown_and_queries_unanswered(bench: Any, faults: Any) -> None:
    topic = bench.topic()
    member = bench.member(bench.group(topic), topic)
    bench.settle(member, owned=1)
    producer = bench.producer("p")
    producer.begin()
    producer.produce(topic, key=b"k", value=b"v", partition=0)
    faults.set_away(True)
    with pytest.raises(TransactionOutcomeUnknown):
        producer.commit()
    with pytest.raises(BrokerUnavailable):
        bench.broker.producer("p").init_transactions()
    with pytest.raises(BrokerUnavailable):
        member.consumer.committed([at(topic)])
    assert member.consumer.poll(10, 0) == []
    faults.set_away(False)
    commit_one(bench, bench.producer("p"), topic, b"after")
    assert readable(bench, topic) == [b"after"]


def test_calls_out_of_order_are_refused(bench: Any) -> None:
    topic = bench.topic()
    unclaimed = bench.broker.producer("p")
    with pytest.raises(BrokerRefused):
        unclaimed.begin()
    producer = bench.producer("q")
    with pytest.raises(BrokerRefused):
        producer.produce(topic, key=b"k", value=b"v")
    with pytest.raises(BrokerRefused):
        producer.commit()
    producer.begin()
    with pytest.raises(BrokerRefused):
        producer.begin()


# ---- members and sessions ----


def test_an_expelled_member_is_a_zombie_until_its_next_poll(bench: Any, faults: Any) -> None:
    topic, sink = bench.topic(2), bench.topic()
    group = bench.group(topic)
    zombie = bench.member(group, topic, instance_id="zombie")
    bench.settle(zombie, owned=2)
    faults.expel(group, "zombie")
    heir = bench.member(group, topic, instance_id="heir")
    bench.settle(heir, owned=2)
    assert len(zombie.owned()) == 2
    producer = bench.producer()
    producer.begin()
    producer.produce(sink, key=b"k", value=b"v", partition=0)
    with pytest.raises(AbortRequired, match="UNKNOWN_MEMBER_ID"):
        producer.send_offsets({at(topic): 1}, zombie.consumer.group_metadata())
    producer.abort()
    zombie.poll()
    assert ("lost", [at(topic, 0), at(topic, 1)]) in zombie.events
    bench.settle(zombie, heir, owned=1)


def test_a_dead_members_partitions_move_when_its_session_expires(
    bench: Any, faults: Any, manual_clock: Any
) -> None:
    topic = bench.topic(2)
    group = bench.group(topic)
    dead, heir = (bench.member(group, topic, instance_id=name) for name in ("dead", "heir"))
    bench.settle(dead, heir, owned=1)
    faults.silence(group, "dead")
    manual_clock.ms += 44_999
    heir.poll()
    assert len(heir.owned()) == 1
    manual_clock.ms += 1
    heir.poll()
    assert len(heir.owned()) == 2


def test_a_killed_static_member_can_return_only_after_its_session(
    bench: Any, faults: Any, manual_clock: Any
) -> None:
    topic = bench.topic()
    group = bench.group(topic)
    bench.settle(bench.member(group, topic, instance_id="it"), owned=1)
    faults.silence(group, "it")
    restarted = bench.member(group, topic, instance_id="it")
    with pytest.raises(Fenced, match="UNRELEASED_INSTANCE_ID"):
        restarted.poll()
    manual_clock.ms += 45_000
    bench.settle(restarted, owned=1)


def test_a_closed_static_member_keeps_its_partitions_until_its_session_expires(
    bench: Any, manual_clock: Any
) -> None:
    topic = bench.topic(2)
    group = bench.group(topic)
    gone, stays = (bench.member(group, topic, instance_id=name) for name in ("gone", "stays"))
    bench.settle(gone, stays, owned=1)
    gone.close()
    bench._open.remove(gone)
    manual_clock.ms += 44_999
    stays.poll()
    assert len(stays.owned()) == 1
    manual_clock.ms += 1
    stays.poll()
    assert len(stays.owned()) == 2


def test_a_static_member_that_closes_during_an_outage_is_taken_for_dead(
    bench: Any, faults: Any, manual_clock: Any
) -> None:
    topic = bench.topic()
    group = bench.group(topic)
    gone = bench.member(group, topic, instance_id="it")
    bench.settle(gone, owned=1)
    faults.set_away(True)
    gone.close()
    bench._open.remove(gone)
    faults.set_away(False)
    restarted = bench.member(group, topic, instance_id="it")
    with pytest.raises(Fenced, match="UNRELEASED_INSTANCE_ID"):
        restarted.poll()
    manual_clock.ms += 45_000
    bench.settle(restarted, owned=1)


def test_a_member_that_stops_polling_is_expelled(bench: Any, manual_clock: Any) -> None:
    topic = bench.topic(2)
    group = bench.group(topic)
    stuck, other = bench.member(group, topic), bench.member(group, topic)
    bench.settle(stuck, other, owned=1)
    for _ in range(10):
        manual_clock.ms += 30_000
        other.poll()
    assert len(other.owned()) == 2
    stuck.poll()
    assert stuck.events[-1][0] == "lost"


def test_partitions_move_only_once_their_owner_gave_them_up(bench: Any) -> None:
    topic = bench.topic(2)
    group = bench.group(topic)
    first = bench.member(group, topic)
    bench.settle(first, owned=2)
    second = bench.member(group, topic)
    second.poll()
    assert second.owned() == set()
    first.poll()
    second.poll()
    assert first.owned() | second.owned() == {at(topic, 0), at(topic, 1)}
    assert first.owned().isdisjoint(second.owned())


def test_a_transaction_times_out_by_the_given_clock(bench: Any, manual_clock: Any) -> None:
    topic = bench.topic()
    producer = bench.producer()
    producer.begin()
    producer.produce(topic, key=b"k", value=b"slow", partition=0)
    commit_one(bench, bench.producer(), topic, b"quick")
    manual_clock.ms += 1_999
    assert readable(bench, topic) == []
    manual_clock.ms += 1
    assert readable(bench, topic) == [b"quick"]
    with pytest.raises(Fenced):
        producer.commit()


@pytest.mark.parametrize("members", [1, 2, 3, 5, 8])
def test_range_assignment_gives_each_partition_to_one_member_and_equal_numbers_to_the_same(
    members: int,
) -> None:
    subscriptions = {f"m{n}": frozenset({"a", "b"}) for n in range(members)}
    assigned = range_assign(subscriptions, {"a": 6, "b": 6})
    everything = [partition for partitions in assigned.values() for partition in partitions]
    assert sorted(everything) == [at(topic, n) for topic in "ab" for n in range(6)]
    for partitions in assigned.values():
        numbers = {partition.partition for partition in partitions}
        assert partitions == {at(topic, n) for topic in "ab" for n in numbers}


# ---- compaction ----


def test_compaction_keeps_the_last_of_each_key_at_its_offset(bench: Any, memory_broker: Any) -> None:
    topic = bench.topic()
    producer = bench.producer()
    for key, value in ((b"a", b"1"), (b"b", b"2"), (b"a", b"3")):
        commit_one(bench, producer, topic, value, key)
    producer.begin()
    producer.produce(topic, key=b"b", value=b"aborted", partition=0)
    producer.abort()
    high = bench.admin.watermarks(at(topic)).high
    memory_broker.compact(topic)
    records = bench.read(topic, count=2)
    assert [(r.offset, r.key, r.value) for r in records] == [(2, b"b", b"2"), (4, b"a", b"3")]
    assert bench.admin.watermarks(at(topic)) == (0, high)
    reader = bench.broker.reader()
    reader.assign({at(topic): 0})
    reader.poll(10, 0)
    assert reader.position(at(topic)) == high


def test_a_tombstone_outlives_compaction_until_it_is_old_enough(
    bench: Any, memory_broker: Any, manual_clock: Any
) -> None:
    topic = bench.topic()
    bench.publish(topic, b"v", None)
    stamped = manual_clock.ms
    memory_broker.compact(topic, tombstones_before_ms=stamped)
    assert readable(bench, topic) == [None]
    memory_broker.compact(topic, tombstones_before_ms=stamped + 1)
    assert readable(bench, topic) == []


def test_compaction_spares_what_is_not_yet_decided(bench: Any, memory_broker: Any) -> None:
    topic = bench.topic()
    bench.publish(topic, b"1")
    producer = bench.producer()
    producer.begin()
    producer.produce(topic, key=b"k", value=b"2", partition=0)
    memory_broker.compact(topic)
    assert readable(bench, topic) == [b"1"]
    producer.commit()
    assert readable(bench, topic) == [b"1", b"2"]
    memory_broker.compact(topic)
    assert readable(bench, topic) == [b"2"]
