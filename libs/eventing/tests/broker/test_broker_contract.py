"""What the shell relies on, one rule a test, on the in-memory broker and on Kafka."""

import time
from typing import Any

import pytest
from aiokafka.partitioner import DefaultPartitioner

from crossdock_eventing.broker.failure import (
    AbortRequired,
    BrokerRefused,
    Fenced,
    OffsetMissing,
)
from crossdock_eventing.broker.interface import TopicPartition, TopicSpec
from crossdock_eventing.broker.partitioner import partition_for


def at(topic: str, partition: int = 0) -> TopicPartition:
    return TopicPartition(topic, partition)


# ---- records ----


def test_a_record_comes_back_as_it_was_written(bench: Any) -> None:
    topic = bench.topic()
    headers = (("trace", b"\x00\x01"), ("seen", b"a"), ("seen", b"b"))
    producer = bench.producer()
    producer.begin()
    producer.produce(
        topic, key=b"k", value=b"v", partition=0, headers=headers, timestamp_ms=1_700_000_000_123
    )
    producer.commit()
    (record,) = bench.read(topic, count=1)
    assert record == (topic, 0, 0, 1_700_000_000_123, b"k", b"v", headers)


def test_a_tombstone_a_null_key_and_no_headers_come_back(bench: Any) -> None:
    topic = bench.topic()
    producer = bench.producer()
    producer.begin()
    producer.produce(topic, key=b"k", value=None, partition=0)
    producer.produce(topic, key=None, value=b"", partition=0)
    producer.commit()
    tombstone, keyless = bench.read(topic, count=2)
    assert (tombstone.key, tombstone.value, tombstone.headers) == (b"k", None, ())
    assert (keyless.key, keyless.value) == (None, b"")


def test_a_record_without_a_timestamp_gets_one(bench: Any) -> None:
    topic = bench.topic()
    bench.publish(topic, b"v")
    (record,) = bench.read(topic, count=1)
    assert record.timestamp_ms > 0


def test_the_producer_partitions_as_we_java_and_aiokafka_do(bench: Any) -> None:
    partitions = 7
    topic = bench.topic(partitions)
    keys = [f"order-{n}".encode() for n in range(200)]
    placed: dict[bytes, int] = {}
    producer = bench.producer()
    producer.begin()
    for key in keys:
        producer.produce(
            topic,
            key=key,
            value=b"",
            on_delivery=lambda where, _, key=key: placed.__setitem__(key, where.partition),
        )
    producer.commit()
    everywhere = list(range(partitions))
    assert placed == {key: partition_for(key, partitions) for key in keys}
    assert placed == {key: DefaultPartitioner()(key, everywhere, everywhere) for key in keys}


# ---- transactions ----


def test_nothing_is_visible_before_the_commit_and_all_of_it_after(bench: Any) -> None:
    one, two = bench.topic(), bench.topic()
    producer = bench.producer()
    producer.begin()
    delivered = []
    for topic in (one, two):
        producer.produce(
            topic, key=b"k", value=b"v", partition=0, on_delivery=lambda *at: delivered.append(at)
        )
    bench.until(lambda: len(delivered) == 2, producer.poll)
    reader = bench.broker.reader()
    reader.assign({at(one): 0, at(two): 0})
    assert reader.poll(10, 0.3) == []
    producer.commit()
    records = []
    bench.until(lambda: len(records) == 2, lambda: records.extend(reader.poll(10, 0.05)))
    assert {record.topic for record in records} == {one, two}
    reader.close()


def test_an_aborted_transaction_stays_invisible(bench: Any) -> None:
    topic = bench.topic()
    producer = bench.producer()
    producer.begin()
    producer.produce(topic, key=b"k", value=b"aborted", partition=0)
    producer.abort()
    producer.begin()
    producer.produce(topic, key=b"k", value=b"kept", partition=0)
    producer.commit()
    assert [record.value for record in bench.read(topic, count=1)] == [b"kept"]


def test_an_open_transaction_hides_what_others_commit_behind_it_but_not_the_end_of_the_log(
    bench: Any,
) -> None:
    topic = bench.topic()
    slow, quick = bench.producer(), bench.producer()
    delivered = []
    slow.begin()
    slow.produce(topic, key=b"k", value=b"slow", partition=0, on_delivery=lambda *at: delivered.append(at))
    bench.until(lambda: delivered, slow.poll)
    quick.begin()
    quick.produce(topic, key=b"k", value=b"quick", partition=0)
    quick.commit()
    reader = bench.broker.reader()
    reader.assign({at(topic): 0})
    assert reader.poll(10, 0.3) == []
    assert reader.position(at(topic)) == 0
    assert reader.watermarks(at(topic)) == (0, 3)
    slow.abort()
    records = []
    bench.until(lambda: records, lambda: records.extend(reader.poll(10, 0.05)))
    assert [record.value for record in records] == [b"quick"]
    reader.close()


def test_the_position_passes_markers_and_aborted_records_up_to_the_end(bench: Any) -> None:
    topic = bench.topic()
    bench.publish(topic, b"1", b"2")
    producer = bench.producer()
    delivered = []
    producer.begin()
    producer.produce(
        topic, key=b"k", value=b"aborted", partition=0, on_delivery=lambda *at: delivered.append(at)
    )
    bench.until(lambda: delivered, producer.poll)
    producer.abort()
    reader = bench.broker.reader()
    reader.assign({at(topic): 0})
    bench.until(lambda: reader.watermarks(at(topic)).high == 5)  # two records and a marker, then one of each
    target = reader.watermarks(at(topic)).high
    records = []
    bench.until(lambda: reader.position(at(topic)) >= target, lambda: records.extend(reader.poll(10, 0.05)))
    assert [record.value for record in records] == [b"1", b"2"]
    reader.close()


def test_a_reader_starts_at_the_given_offset_and_skips_markers(bench: Any) -> None:
    topic = bench.topic()
    bench.publish(topic, b"1", b"2")
    bench.publish(topic, b"3")
    assert [(r.offset, r.value) for r in bench.read(topic, start=1, count=2)] == [(1, b"2"), (3, b"3")]


def test_a_reader_sees_at_most_what_it_asked_for_and_misses_nothing(bench: Any) -> None:
    topic = bench.topic()
    bench.publish(topic, *(str(n).encode() for n in range(10)))
    reader = bench.broker.reader()
    reader.assign({at(topic): 0})
    batches = []
    bench.until(lambda: sum(map(len, batches)) >= 10, lambda: batches.append(reader.poll(3, 0.05)))
    assert max(map(len, batches)) <= 3
    assert [r.value for batch in batches for r in batch] == [str(n).encode() for n in range(10)]
    reader.close()


def test_a_reader_outside_the_log_fails_instead_of_jumping(bench: Any) -> None:
    topic = bench.topic(cleanup_policy="delete")
    bench.publish(topic, b"1", b"2")
    bench.admin.delete_records({at(topic): 2})
    assert bench.admin.watermarks(at(topic)).low == 2
    reader = bench.broker.reader()
    reader.assign({at(topic): 0})
    with pytest.raises(OffsetMissing):
        bench.until(lambda: False, lambda: reader.poll(10, 0.05))
    reader.close()


def test_delivery_reports_give_the_offset_before_commit_returns(bench: Any) -> None:
    topic = bench.topic(2)
    reported = []
    producer = bench.producer()
    for _ in range(2):
        producer.begin()
        for partition in (0, 1, 1):
            producer.produce(
                topic,
                key=b"k",
                value=b"v",
                partition=partition,
                on_delivery=lambda where, offset: reported.append((where, offset)),
            )
        producer.commit()
        reported.append("committed")
    first, second = reported[: reported.index("committed")], reported[reported.index("committed") + 1 : -1]
    assert sorted(first) == [(at(topic, 0), 0), (at(topic, 1), 0), (at(topic, 1), 1)]
    # Each marker took an offset.
    assert sorted(second) == [(at(topic, 0), 2), (at(topic, 1), 3), (at(topic, 1), 4)]


def test_a_second_producer_of_the_same_id_fences_the_first_and_settles_its_transaction(bench: Any) -> None:
    topic = bench.topic()
    old = bench.producer("twin" + topic)
    delivered = []
    old.begin()
    old.produce(topic, key=b"k", value=b"old", partition=0, on_delivery=lambda *at: delivered.append(at))
    bench.until(lambda: delivered, old.poll)
    new = bench.producer("twin" + topic)
    with pytest.raises(Fenced):
        old.commit()
    new.begin()
    new.produce(topic, key=b"k", value=b"new", partition=0)
    new.commit()
    assert [record.value for record in bench.read(topic, count=1)] == [b"new"]


def test_a_transaction_beyond_its_time_out_is_aborted_and_looks_like_fencing(bench: Any) -> None:
    topic = bench.topic()
    producer = bench.producer()
    producer.begin()
    producer.produce(topic, key=b"k", value=b"slow", partition=0)
    reader = bench.broker.reader()
    reader.assign({at(topic): 0})
    # The end of the abort shows as the reader passing the record and its marker without seeing either.
    seen = []

    def step() -> None:
        producer.poll()
        seen.extend(reader.poll(10, 0.05))

    bench.until(lambda: reader.position(at(topic)) >= 2, step)
    assert seen == []
    with pytest.raises(Fenced):
        producer.commit()
    reader.close()


def test_closing_a_producer_does_not_settle_its_transaction_but_claiming_its_id_does(bench: Any) -> None:
    topic, twin = bench.topic(), bench.name("twin")
    dead = bench.broker.producer(twin)
    dead.init_transactions()
    delivered = []
    dead.begin()
    dead.produce(topic, key=b"k", value=b"dead", partition=0, on_delivery=lambda *at: delivered.append(at))
    bench.until(lambda: delivered, dead.poll)
    dead.close()
    bench.publish(topic, b"other")
    reader = bench.broker.reader()
    reader.assign({at(topic): 0})
    assert reader.poll(10, 0.2) == []
    bench.producer(twin)
    assert [record.value for record in bench.read(topic, count=1)] == [b"other"]
    reader.close()


# ---- transactions and the group ----


def test_offsets_commit_with_the_outputs(bench: Any) -> None:
    source, sink = bench.topic(), bench.topic()
    bench.publish(source, b"1", b"2")
    member = bench.member(bench.group(source), source)
    bench.until(lambda: len(member.records) == 2, member.poll)
    producer = bench.producer()
    producer.begin()
    producer.produce(sink, key=b"k", value=b"out", partition=0)
    producer.send_offsets({at(source): 2}, member.consumer.group_metadata())
    producer.commit()
    assert member.consumer.committed([at(source)]) == {at(source): 2}
    assert [record.value for record in bench.read(sink, count=1)] == [b"out"]


def test_an_aborted_transaction_commits_no_offset(bench: Any) -> None:
    source = bench.topic()
    member = bench.member(bench.group(source), source)
    bench.settle(member, owned=1)
    producer = bench.producer()
    producer.begin()
    producer.send_offsets({at(source): 7}, member.consumer.group_metadata())
    producer.abort()
    assert member.consumer.committed([at(source)]) == {at(source): 0}


def test_the_position_stays_ahead_after_an_abort_until_sought_back(bench: Any) -> None:
    source = bench.topic()
    bench.publish(source, b"1", b"2")
    member = bench.member(bench.group(source), source)
    bench.until(lambda: len(member.records) == 2, member.poll)
    producer = bench.producer()
    producer.begin()
    producer.send_offsets({at(source): 2}, member.consumer.group_metadata())
    producer.abort()
    assert member.consumer.position(at(source)) >= 2
    member.consumer.seek(at(source), member.consumer.committed([at(source)])[at(source)])
    bench.until(lambda: len(member.records) == 4, member.poll)
    assert member.values() == [b"1", b"2", b"1", b"2"]


def test_a_zombie_cannot_commit_offsets_with_membership_from_before_a_rebalance(bench: Any) -> None:
    source, sink = bench.topic(2), bench.topic()
    group = bench.group(source)
    first = bench.member(group, source)
    bench.settle(first, owned=2)
    stale = first.consumer.group_metadata()
    second = bench.member(group, source)
    bench.settle(first, second, owned=1)
    zombie = bench.producer()
    zombie.begin()
    zombie.produce(sink, key=b"k", value=b"zombie", partition=0)
    with pytest.raises(AbortRequired):
        zombie.send_offsets({at(source): 1}, stale)
    with pytest.raises(AbortRequired):
        zombie.commit()
    zombie.abort()
    # After the abort the same producer goes on, with fresh membership.
    zombie.begin()
    zombie.produce(sink, key=b"k", value=b"fresh", partition=0)
    zombie.send_offsets({at(source): 1}, first.consumer.group_metadata())
    zombie.commit()
    assert [record.value for record in bench.read(sink, count=1)] == [b"fresh"]


def test_a_member_that_left_cannot_commit_offsets(bench: Any) -> None:
    source = bench.topic()
    group = bench.group(source)
    left = bench.member(group, source)
    bench.settle(left, owned=1)
    metadata = left.consumer.group_metadata()
    left.close()
    bench._open.remove(left)
    producer = bench.producer()
    producer.begin()
    with pytest.raises(AbortRequired):
        producer.send_offsets({at(source): 1}, metadata)
    producer.abort()


@pytest.mark.parametrize("sends_none", [False, True])
def test_a_transaction_without_offsets_is_not_fenced_by_the_group(bench: Any, *, sends_none: bool) -> None:
    """The reason why every transaction sends offsets: this zombie's output lands. The client does not even ask for none of them."""
    source, sink = bench.topic(2), bench.topic()
    group = bench.group(source)
    first = bench.member(group, source)
    bench.settle(first, owned=2)
    zombie = bench.producer()
    zombie.begin()
    zombie.produce(sink, key=b"k", value=b"zombie", partition=0)
    stale = first.consumer.group_metadata()
    second = bench.member(group, source)
    bench.settle(first, second, owned=1)
    if sends_none:
        zombie.send_offsets({}, stale)
    zombie.commit()
    assert [record.value for record in bench.read(sink, count=1)] == [b"zombie"]


# ---- groups ----


def test_an_assigned_partition_is_paused_and_has_no_start_until_sought(bench: Any) -> None:
    source = bench.topic()
    bench.publish(source, b"1", b"2")
    member = bench.member(bench.name("group"), source)  # no offset was initialised: nothing is sought
    bench.settle(member, owned=1)
    assert member.consumer.committed([at(source)]) == {at(source): None}
    with pytest.raises(OffsetMissing):
        member.consumer.resume([at(source)])
    member.poll()
    assert member.records == []
    member.consumer.seek(at(source), 1)
    member.consumer.resume([at(source)])
    bench.until(lambda: member.records, member.poll)
    assert member.values() == [b"2"]


def test_a_seek_during_the_assignment_is_obeyed(bench: Any) -> None:
    source = bench.topic(24)
    producer = bench.producer()
    producer.begin()
    for partition in range(24):
        for value in (b"0", b"1", b"2"):
            producer.produce(source, key=b"k", value=value, partition=partition)
    producer.commit()
    group = bench.name("group")
    bench.admin.initialise_group(group, {at(source, partition): 1 for partition in range(24)})
    member = bench.member(group, source)
    bench.until(lambda: len(member.records) >= 48, member.poll)
    for partition in range(24):
        assert [r.value for r in member.records if r.partition == partition] == [b"1", b"2"]


def test_a_consumer_outside_the_log_fails_instead_of_jumping(bench: Any) -> None:
    source = bench.topic(cleanup_policy="delete")
    bench.publish(source, b"1", b"2")
    bench.admin.delete_records({at(source): 2})
    member = bench.member(bench.group(source), source)  # committed: 0
    with pytest.raises(OffsetMissing):
        bench.until(lambda: False, member.poll)


def test_callbacks_run_in_poll_only_and_a_rebalance_names_only_what_moves(bench: Any) -> None:
    source = bench.topic(4)
    group = bench.group(source)
    first = bench.member(group, source)
    bench.settle(first, owned=4)
    second = bench.member(group, source)
    for _ in range(10):
        second.poll()  # first is not polled: nothing may change for it
    assert len(first.owned()) == 4
    assert [event for event, _ in first.events] == ["assign"]
    bench.settle(first, second, owned=2)
    assert [(event, len(partitions)) for event, partitions in first.events] == [("assign", 4), ("revoke", 2)]
    moved = first.events[-1][1]
    assert second.owned() == set(moved)
    assert [event for event, _ in second.events] == ["assign"]


def test_partitions_of_the_same_number_stay_on_one_member(bench: Any) -> None:
    topics = [bench.topic(6) for _ in range(3)]
    group = bench.group(*topics)
    members = [bench.member(group, *topics) for _ in range(3)]
    bench.settle(*members, owned=6)
    for member in members:
        numbers = {partition.partition for partition in member.owned()}
        assert member.owned() == {at(topic, number) for topic in topics for number in numbers}
    members.pop().close()
    bench._open.pop()
    bench.settle(*members, owned=9)
    for member in members:
        numbers = {partition.partition for partition in member.owned()}
        assert member.owned() == {at(topic, number) for topic in topics for number in numbers}


def test_a_static_member_that_returns_gets_its_partitions_back_and_disturbs_nobody(bench: Any) -> None:
    source = bench.topic(4)
    group = bench.group(source)
    stays = bench.member(group, source, instance_id="stays")
    returns = bench.member(group, source, instance_id="returns")
    bench.settle(stays, returns, owned=2)
    before, events = returns.owned(), len(stays.events)
    returns.close()
    bench._open.remove(returns)
    again = bench.member(group, source, instance_id="returns")
    bench.settle(stays, again, owned=2)
    assert again.owned() == before
    assert len(stays.events) == events


def test_a_twin_of_a_live_static_member_is_refused_and_the_member_goes_on(bench: Any) -> None:
    """So a killed process cannot rejoin before its session expires: it exits, and is restarted."""
    source = bench.topic(2)
    group = bench.group(source)
    alive = bench.member(group, source, instance_id="twin")
    bench.settle(alive, owned=2)
    twin = bench.member(group, source, instance_id="twin")
    with pytest.raises(Fenced):
        bench.until(lambda: False, lambda: (alive.poll(), twin.poll()))
    bench.publish(source, b"v")
    bench.until(lambda: alive.records, alive.poll)
    assert len(alive.owned()) == 2


def test_a_paused_partition_gives_no_records_until_resumed_and_loses_none(bench: Any) -> None:
    source = bench.topic(2)
    member = bench.member(bench.group(source), source)
    bench.settle(member, owned=2)
    member.consumer.pause([at(source, 0)])
    bench.publish(source, b"paused", partition=0)
    bench.publish(source, b"flowing", partition=1)
    bench.until(lambda: member.records, member.poll)
    member.poll()
    assert member.values() == [b"flowing"]
    member.consumer.resume([at(source, 0)])
    bench.until(lambda: len(member.records) == 2, member.poll)
    assert member.values() == [b"flowing", b"paused"]


@pytest.mark.kafka
def test_a_resumed_partition_gives_its_records_at_once(kafka_bench: Any) -> None:
    """Not after the second that the client would otherwise take to look for something to fetch."""
    bench = kafka_bench
    source = bench.topic()
    bench.publish(source, b"v")
    member = bench.member(bench.group(source), source)
    bench.until(lambda: len(member.records) == 1, member.poll)
    waits = []
    for count in (2, 3, 4):
        member.consumer.pause([at(source)])
        idle_until = time.monotonic() + 0.5
        bench.until(lambda idle_until=idle_until: time.monotonic() > idle_until, member.poll)
        started = time.monotonic()
        member.consumer.seek(at(source), 0)
        member.consumer.resume([at(source)])
        bench.until(lambda count=count: len(member.records) == count, member.poll)
        waits.append(time.monotonic() - started)
    assert min(waits) < 0.4


# ---- admin ----


def test_a_recreated_topic_has_another_id(bench: Any) -> None:
    topic = bench.topic()
    before = bench.admin.topic_id(topic)
    assert bench.admin.topic_id(topic) == before
    bench.admin.delete_topics([topic, "no-such-topic"])
    assert topic not in bench.admin.topics()
    with pytest.raises(BrokerRefused):
        bench.admin.topic_id(topic)
    assert bench.admin.create_topics([TopicSpec(topic, 3)]) == {topic}
    assert bench.admin.topic_id(topic) != before
    assert bench.admin.partitions(topic) == 3


def test_creating_topics_leaves_existing_ones_alone(bench: Any) -> None:
    topic = bench.topic(2, cleanup_policy="compact")
    fresh = bench.name("fresh")
    created = bench.admin.create_topics([TopicSpec(topic, 5), TopicSpec(fresh, 1)])
    assert created == {fresh}
    described = bench.admin.describe(topic)
    assert (described.name, described.partitions, described.replication_factor) == (topic, 2, 1)
    assert described.configs["cleanup.policy"] == "compact"
    assert {topic, fresh} <= bench.admin.topics()


def test_a_group_is_initialised_once(bench: Any) -> None:
    topic, group = bench.topic(2), bench.name("group")
    assert bench.admin.group_offsets(group) == {}
    bench.admin.initialise_group(group, {at(topic, 0): 3})
    bench.admin.initialise_group(group, {at(topic, 0): 99, at(topic, 1): 4})
    assert bench.admin.group_offsets(group) == {at(topic, 0): 3, at(topic, 1): 4}


def test_a_group_with_members_is_not_initialised_behind_their_back(bench: Any) -> None:
    topic = bench.topic()
    group = bench.name("group")
    member = bench.member(group, topic)
    bench.settle(member, owned=1)
    with pytest.raises(BrokerRefused):
        bench.admin.initialise_group(group, {at(topic): 0})


def test_the_cluster_and_its_topics_are_identified(bench: Any) -> None:
    assert bench.admin.cluster_id()
    assert bench.admin.cluster_id() == bench.broker.admin().cluster_id()
    with pytest.raises(BrokerRefused):
        bench.admin.partitions("no-such-topic")


def test_a_reader_that_starts_at_a_trailing_marker_still_reaches_the_end(bench: Any) -> None:
    """Else a restore from a checkpoint at the end of the log would never finish."""
    topic = bench.topic()
    bench.publish(topic, b"1")
    reader = bench.broker.reader()
    bench.until(lambda: reader.watermarks(at(topic)).high == 2)
    reader.assign({at(topic): 1})
    bench.until(lambda: reader.position(at(topic)) >= 2, lambda: reader.poll(10, 0.05))
    reader.close()


def test_a_consumer_that_starts_at_a_trailing_marker_still_reaches_the_end(bench: Any) -> None:
    """Else a timer of an idle partition would wait for ever for input that cannot come."""
    topic = bench.topic()
    bench.publish(topic, b"1")
    member = bench.member(bench.group(topic), topic)
    bench.until(lambda: len(member.records) == 1, member.poll)
    member.consumer.seek(at(topic), 1)
    bench.until(lambda: (member.consumer.position(at(topic)) or 0) >= 2, member.poll)
    member.consumer.seek(at(topic), 0)
    assert (member.consumer.position(at(topic)) or 0) < 2
