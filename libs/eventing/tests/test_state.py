"""The state of one task, on disk and in memory: what a transaction sees, what a flush leaves, what a crash leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossdock_eventing import state as state_module
from crossdock_eventing.clock import to_micros
from crossdock_eventing.keyvalue import KeyValue, MemoryKeyValue, RocksKeyValue
from crossdock_eventing.state import Checkpoint, DueTimer, TaskState

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
CHECKPOINT = Checkpoint(cluster_id="c", topic_id="t", next_offset=1, written_at_ms=1, inputs={"in": 1})


@dataclass(frozen=True)
class Held:
    """A state with what the shell looks at."""

    total: int
    timers: Mapping[str, datetime] = field(default_factory=dict)
    calls: tuple[str, ...] = ()


class TextCodec:
    """Stands in for Avro, and counts."""

    def __init__(self) -> None:
        self.decoded = 0

    def encode_state(self, held: Held) -> bytes:
        timers = ";".join(f"{name}={to_micros(due)}" for name, due in sorted(held.timers.items()))
        return f"{held.total}|{timers}|{','.join(held.calls)}".encode()

    def decode_state(self, value: bytes) -> Held:
        self.decoded += 1
        total, timers, calls = value.decode().split("|")
        pairs = [each.split("=") for each in timers.split(";") if each]
        due = {name: datetime.fromtimestamp(0, UTC) + timedelta(microseconds=int(us)) for name, us in pairs}
        return Held(int(total), due, tuple(call for call in calls.split(",") if call))


class Disk:
    """A store that can be closed and opened again, as by the next process."""

    def __init__(self, open_store: Callable[[], KeyValue]) -> None:
        self._open_store = open_store
        self.store = open_store()
        self.codec = TextCodec()

    def state(self) -> TaskState:
        codec: Any = self.codec
        return TaskState(self.store, codec, lambda held: held.calls)

    def reopened(self) -> TaskState:
        self.store.close()
        self.store = self._open_store()
        return self.state()


@pytest.fixture(params=["memory", "rocksdb"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    memory = MemoryKeyValue()
    disk = Disk((lambda: RocksKeyValue(tmp_path / "p0")) if request.param == "rocksdb" else lambda: memory)
    yield disk
    disk.store.close()


def commit(state: TaskState, checkpoint: Checkpoint = CHECKPOINT, **changes: Held | None) -> None:
    """One committed transaction."""
    for key, held in changes.items():
        state.set(key, held)
    list(state.changes())
    state.flush(checkpoint)


def contents(store: KeyValue) -> dict[bytes, bytes]:
    return dict(store.scan(b"", b"\xff"))


# --- the running transaction


def test_a_transaction_sees_its_own_changes_and_the_store_does_not(disk: Disk) -> None:
    state = disk.state()
    commit(state, a=Held(1))
    before = contents(disk.store)
    state.set("a", Held(2))
    state.set("b", Held(3))
    state.set("b", None)
    assert (state.get("a"), state.get("b")) == (Held(2), None)
    assert state.changed() == {"a": Held(2), "b": None}
    assert contents(disk.store) == before


def test_a_dropped_transaction_leaves_no_trace(disk: Disk) -> None:
    state = disk.state()
    commit(state, a=Held(1, {"t": NOW}))
    before = contents(disk.store)
    state.set("a", None)
    state.set("b", Held(9, {"t": NOW}))
    list(state.changes())
    state.drop()
    assert (state.get("a"), state.get("b")) == (Held(1, {"t": NOW}), None)
    assert not state.changed()
    commit(state)
    assert contents(disk.store) == before


def test_every_change_is_encoded_once_and_the_last_one_counts(disk: Disk) -> None:
    state = disk.state()
    for total in (1, 2, 3):
        state.set("a", Held(total))
    state.set("gone", None)
    assert list(state.changes()) == [("a", b"3||"), ("gone", None)]


def test_what_is_flushed_survives_closing(disk: Disk) -> None:
    checkpoint = replace(CHECKPOINT, next_offset=77, inputs={"in": 5, "other": 6})
    commit(disk.state(), checkpoint, a=Held(1, {"t": NOW}, ("c1",)), b=Held(2))
    state = disk.reopened()
    assert state.get("a") == Held(1, {"t": NOW}, ("c1",))
    assert list(state.entities()) == ["a", "b"]
    assert state.checkpoint() == checkpoint
    assert state.next_timer_us() == to_micros(NOW)
    assert state.keys_with_calls() == ["a"]


def test_a_new_store_has_no_checkpoint_and_a_wiped_one_neither(disk: Disk) -> None:
    state = disk.state()
    assert state.checkpoint() is None
    commit(state, a=Held(1, {"t": NOW}, ("c",)))
    state.set("b", Held(2))
    state.wipe()
    assert contents(disk.store) == {}
    assert (state.get("a"), state.get("b"), state.checkpoint()) == (None, None, None)


# --- indexes


def test_timers_come_in_order_of_due_key_and_name(disk: Disk) -> None:
    state = disk.state()
    later = NOW + timedelta(microseconds=1)
    commit(state, b=Held(1, {"y": NOW, "x": NOW, "z": later}), a=Held(1, {"x": NOW}))
    now_us = to_micros(NOW)
    due = [DueTimer(now_us, "a", "x"), DueTimer(now_us, "b", "x"), DueTimer(now_us, "b", "y")]
    assert state.timers_until(NOW - timedelta(microseconds=1), 10) == []
    assert state.timers_until(NOW, 10) == due
    assert state.timers_until(NOW, 2) == due[:2]
    assert state.timers_until(later, 10) == [*due, DueTimer(now_us + 1, "b", "z")]


def test_a_timer_moved_removed_or_kept_leaves_one_entry_or_none(disk: Disk) -> None:
    state = disk.state()
    later = NOW + timedelta(hours=1)
    commit(state, a=Held(1, {"keep": NOW, "move": NOW, "drop": NOW}))
    commit(state, a=Held(2, {"keep": NOW, "move": later, "new": later}))
    late_us = to_micros(later)
    assert state.timers_until(later, 10) == [
        DueTimer(to_micros(NOW), "a", "keep"),
        DueTimer(late_us, "a", "move"),
        DueTimer(late_us, "a", "new"),
    ]
    commit(state, a=None)
    assert state.next_timer_us() is None
    assert [key for key in contents(disk.store) if key[:1] == b"t"] == []


def test_calls_are_indexed_while_outstanding(disk: Disk) -> None:
    state = disk.state()
    commit(state, a=Held(1, calls=("c1",)), b=Held(1), c=Held(1, calls=("c1", "c2")))
    assert state.keys_with_calls() == ["a", "c"]
    commit(state, a=Held(2), b=Held(2, calls=("c3",)), c=None)
    assert state.keys_with_calls() == ["b"]


def test_loading_from_the_changelog_builds_the_same_store_as_flushing(disk: Disk) -> None:
    state = disk.state()
    first = {"a": Held(1, {"t": NOW}, ("c",)), "b": Held(2, {"t": NOW})}
    second: dict[str, Held | None] = {"a": None, "b": Held(3, {"u": NOW}, ("d",))}
    commit(state, **first)
    commit(state, **second)
    flushed = contents(disk.store)
    state.wipe()
    codec = disk.codec
    state.load({key: codec.encode_state(held) for key, held in first.items()}, CHECKPOINT)
    encoded = {key: None if held is None else codec.encode_state(held) for key, held in second.items()}
    state.load(encoded, CHECKPOINT)
    assert contents(disk.store) == flushed
    assert state.get("b") == second["b"]


_KEYS, _MOMENTS = st.sampled_from(["a", "b", "ä", "a|1"]), st.integers(0, 3)
_HELD = st.builds(
    Held,
    total=st.integers(0, 9),
    timers=st.dictionaries(
        st.sampled_from("xyz"), _MOMENTS.map(lambda hours: NOW + timedelta(hours=hours)), max_size=3
    ),
    calls=st.lists(st.sampled_from(["c1", "c2"]), unique=True).map(tuple),
)
_STEPS = st.lists(
    st.tuples(
        st.dictionaries(_KEYS, st.none() | _HELD, max_size=3), st.sampled_from(["flush", "drop", "reopen"])
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_STEPS)
def test_indexes_always_say_what_the_states_say(disk: Disk, steps: list[Any]) -> None:
    state = disk.state()
    state.wipe()
    model: dict[str, Held] = {}
    for changes, end in steps:
        for key, held in changes.items():
            state.set(key, held)
        if end == "drop":
            state.drop()
        else:
            list(state.changes())
            state.flush(CHECKPOINT)
            model = {k: v for k, v in {**model, **changes}.items() if v is not None}
        if end == "reopen":
            state = disk.reopened()
        assert {key: state.get(key) for key in state.entities()} == model
        timers = [
            DueTimer(to_micros(due), k, name) for k, v in model.items() for name, due in v.timers.items()
        ]
        in_order = sorted(timers, key=lambda timer: (timer.due_us, timer.key.encode(), timer.name))
        assert state.timers_until(NOW + timedelta(days=1), 100) == in_order
        assert set(state.keys_with_calls()) == {key for key, held in model.items() if held.calls}


# --- the cache


def test_the_cache_spares_decoding_and_forgets_the_oldest(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = disk.state()
    held = Held(7)
    cost = len(disk.codec.encode_state(held)) * 6 + 200
    monkeypatch.setattr(state_module, "_CACHE_BYTES_MAX", 3 * cost)
    for number in range(10):
        commit(state, **{f"k{number}": held})
    assert state._cached_bytes <= 3 * cost
    assert list(state._cache) == ["k7", "k8", "k9"]
    assert state.get("k7") == held
    assert disk.codec.decoded == 0
    assert state.get("k0") == held
    assert disk.codec.decoded == 1
    assert list(state._cache) == ["k9", "k7", "k0"]
    commit(state, k0=None, k7=None, k9=None)
    assert (state._cached_bytes, list(state._cache)) == (0, [])


def test_a_state_too_large_for_the_cache_is_read_from_the_store(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_module, "_CACHE_BYTES_MAX", 100)
    state = disk.state()
    commit(state, a=Held(1))
    assert (state.get("a"), state._cached_bytes) == (Held(1), 0)


def test_a_dropped_change_does_not_stay_in_the_cache(disk: Disk) -> None:
    state = disk.state()
    commit(state, a=Held(1))
    state.set("a", Held(2))
    state.drop()
    assert state.get("a") == Held(1)


# --- crashes

_WRITER = """
import sys
from pathlib import Path
from crossdock_eventing.keyvalue import RocksKeyValue
store = RocksKeyValue(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    text = str(number).encode()
    gone = b"s" + str(number - 1).encode()
    store.write({b"s" + text: text * 100, gone: None, b"t" + text: b"", b"m": text})
    print(number, flush=True)
"""


@pytest.mark.parametrize("kill_after", [1, 250])
def test_a_killed_process_leaves_whole_batches_and_all_that_it_acknowledged(
    tmp_path: Path, kill_after: int
) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    acknowledged = 0
    while acknowledged < kill_after:
        acknowledged = int(writer.stdout.readline())
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    acknowledged = max([acknowledged, *(int(line) for line in writer.stdout if line.endswith("\n"))])
    writer.stdout.close()
    store = RocksKeyValue(tmp_path)
    last = int(store.get(b"m") or b"0")
    assert last in (acknowledged, acknowledged + 1), "a batch was lost, or one got through unfinished"
    text = str(last).encode()
    assert dict(store.scan(b"s", b"t")) == {b"s" + text: text * 100}
    assert [key for key, _ in store.scan(b"t", b"u")] == sorted(
        b"t" + str(number).encode() for number in range(1, last + 1)
    )
    store.close()


# --- the two stores are one


_CHANGES = st.dictionaries(st.binary(min_size=1, max_size=3), st.none() | st.binary(max_size=3), max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batches=st.lists(_CHANGES, max_size=6),
    bounds=st.tuples(st.binary(max_size=2), st.binary(max_size=3)).map(sorted),
)
def test_disk_and_memory_answer_alike(tmp_path: Path, batches: list[Any], bounds: list[bytes]) -> None:
    disk, memory = RocksKeyValue(tmp_path / "both"), MemoryKeyValue()
    disk.wipe()
    for changes in batches:
        disk.write(changes)
        memory.write(changes)
    assert list(disk.scan(*bounds)) == list(memory.scan(*bounds))
    assert all(disk.get(key) == memory.get(key) for changes in batches for key in changes)
    disk.close()


def test_timers_that_were_removed_are_not_passed_again(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk keeps a mark of each removed entry for a while: a scan from the start would pass every one of them."""
    state = disk.state()
    for number in range(100):
        commit(state, **{f"k{number}": Held(1, {"t": NOW + timedelta(seconds=number)})})
    for number in range(99):
        commit(state, **{f"k{number}": Held(2)})
    last_us = to_micros(NOW + timedelta(seconds=99))
    assert state.next_timer_us() == last_us
    starts: list[bytes] = []
    scan = type(disk.store).scan

    def watched(store: KeyValue, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        starts.append(start)
        return scan(store, start, end)

    monkeypatch.setattr(type(disk.store), "scan", watched)
    assert state.timers_until(NOW + timedelta(days=1), 10) == [DueTimer(last_us, "k99", "t")]
    assert state.next_timer_us() == last_us
    assert starts == [b"t" + last_us.to_bytes(8, "big") + b"k99\0t"]
    early = NOW - timedelta(days=1)
    commit(state, early=Held(1, {"t": early}))
    assert state.next_timer_us() == to_micros(early)
    assert [timer.key for timer in state.timers_until(NOW + timedelta(days=1), 10)] == ["early", "k99"]
    assert disk.reopened().next_timer_us() == to_micros(early)
