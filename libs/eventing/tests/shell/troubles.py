"""The toy service where every row of the failure table can be forced: in memory by the broker's own faults, on Kafka by a proxy
in front of each worker. `Troubled` is the one; `MemoryTroubles` and `KafkaTroubles` say how each trouble is made.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import Enum, auto
from itertools import islice
from pathlib import Path
from typing import Any

from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from fault_proxy import CONSUMER_GROUP_HEARTBEAT, END_TXN, OFFSET_FETCH, PRODUCE, Direction, FaultProxy, Hold
from structlog.testing import capture_logs
from toy import PARTITIONS, Add, Added, Bench, CounterState, KafkaBench, Payment

from crossdock_eventing import names
from crossdock_eventing.broker.confluent import ClientSettings, ConfluentBroker
from crossdock_eventing.broker.failure import BrokerUnavailable, Fenced
from crossdock_eventing.broker.interface import TopicPartition
from crossdock_eventing.keyvalue import KeyValue, RocksKeyValue
from crossdock_eventing.task import OFFSETS_KEY
from crossdock_eventing.worker import Worker

ACCOUNTS = tuple(f"account-{number}" for number in range(6))  # on both partitions
SESSION_TIMEOUT_MS = 3_000
# Nothing runs out by itself: a test says what does.
PATIENT = ClientSettings(
    transaction_timeout_ms=45_000,
    answer_timeout_ms=30_000,
    session_timeout_ms=SESSION_TIMEOUT_MS,
    query_timeout_s=30.0,
)
_BEATS_WITHIN_S = 8.0
_LIMIT_S = 60.0
_LIMIT_STEPS = 2_000


class Fate(Enum):
    """What becomes of a commit whose answer did not come in time."""

    LANDED = auto()
    LOST = auto()
    LANDS_BEFORE_THE_CLAIM = auto()
    ARRIVES_AFTER_THE_CLAIM = auto()


class Watched:
    """A broker that tells of the producers it makes: a worker makes one when it starts, and one in each recovery."""

    def __init__(self, broker: Any) -> None:
        self._broker = broker
        self.producers = 0
        self.latest: Any = None
        self.before_claim: list[Callable[[], object]] = []
        self.after_claim: list[Callable[[], object]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    def producer(self, transactional_id: str) -> Any:
        producer = self._broker.producer(transactional_id)
        self.producers += 1
        self.latest = producer
        claim = producer.init_transactions

        def watched_claim() -> None:
            _run_once(self.before_claim)
            claim()
            _run_once(self.after_claim)

        producer.init_transactions = watched_claim
        return producer


def _run_once(actions: list[Callable[[], object]]) -> None:
    due, actions[:] = list(actions), []
    for action in due:
        action()


class Troubled(Bench):
    """Remembers what it sent, drives workers until something holds, and checks that every message had its effect once."""

    def __init__(self, *, directory: Path | None = None, **more: Any) -> None:
        super().__init__(**more)
        self._directory = directory
        self.sent: list[Add] = []
        self._watched: dict[int, Watched] = {}

    def open_store(self, ordinal: int, partition: int) -> KeyValue:
        """On disk in `directory`, if there is one."""
        if self._directory is None:
            return super().open_store(ordinal, partition)
        return RocksKeyValue(self._directory / str(ordinal) / str(partition))

    def broker_of(self, ordinal: int) -> Watched:
        if ordinal not in self._watched:
            self._watched[ordinal] = Watched(self._own_broker(ordinal))
        return self._watched[ordinal]

    def add(self, count: int, accounts: Sequence[str] = ACCOUNTS) -> None:
        """Send this many messages, in turn over these accounts."""
        first = len(self.sent)
        new = [
            Add(account=accounts[number % len(accounts)], reference=str(number), amount=1)
            for number in range(first, first + count)
        ]
        self.send(*new)
        self.sent += new

    def settled(self, *workers: Worker) -> bool:
        """Whether these workers' states hold every message that was sent."""
        return sum(state.total for each in workers for state in each.states().values()) == len(self.sent)

    def work_off(self, *workers: Worker) -> None:
        self.drive(*workers, until=lambda: self.settled(*workers))

    def started(self, ordinal: int = 0, **pace: Any) -> Worker:
        """A worker that has all partitions, and whose first commits are behind it."""
        worker = self.worker(ordinal, **pace)
        self.add(12)
        self.work_off(worker)
        return worker

    def expect_exactly_once(self, *workers: Worker) -> None:
        """As `expect_one_story`, after another message of each account: what may still be under way comes before it."""
        accounts = sorted({each.account for each in self.sent})
        self.add(len(accounts), accounts)
        self.work_off(*workers)
        self.expect_one_story(*workers)

    def expect_one_story(self, *workers: Worker) -> None:
        """Inputs, outputs, changelog, stores and offsets agree that every message happened once and in order."""
        outputs: dict[str, list[tuple[str, int]]] = {account: [] for account in ACCOUNTS}
        for added in self.published(Added):
            outputs[added.account].append((added.reference, added.total))
        for account in ACCOUNTS:
            references = [each.reference for each in self.sent if each.account == account]
            assert outputs[account] == [(each, n) for n, each in enumerate(references, 1)], account
        kept: list[dict[str, bytes]] = [{} for _ in range(PARTITIONS)]
        for record in self.records(names.changelog_topic(self.name)):
            if record.value is None:
                kept[record.partition].pop(record.key.decode(), None)
            else:
                kept[record.partition][record.key.decode()] = record.value
        books = [each.pop(OFFSETS_KEY) for each in kept]
        folded = {key: self.codec.decode_state(value) for each in kept for key, value in each.items()}
        effects = Counter(each.account for each in self.sent)
        assert folded == {account: CounterState(total=count) for account, count in effects.items()}
        assert {key: state for each in workers for key, state in each.states().items()} == folded
        assert sorted(number for each in workers for number in each.partitions) == list(range(PARTITIONS))
        for worker in workers:
            for number, task in worker._tasks.items():
                stored = {key[1:].decode(): value for key, value in task.state._store.scan(b"s", b"t")}
                assert stored == kept[number], f"store of partition {number}"
                assert task.book() == books[number]
        offsets = self.admin.group_offsets(names.group(self.name))
        inputs = (Add.TOPIC, Payment.TOPIC, names.retry_topic(self.name))
        ends = {TopicPartition(topic, n): 0 for topic in inputs for n in range(PARTITIONS)}
        for record in self.records(Add.TOPIC):
            ends[TopicPartition(record.topic, record.partition)] = record.offset + 1
        assert offsets == ends

    def restarted(self, ordinal: int = 0) -> Worker:
        """As a supervisor does: start it again until its identity is free and its changelog can be read."""
        while (worker := self._started_if_free(ordinal)) is None:
            self.wait_a_little()
        return worker

    def _started_if_free(self, ordinal: int) -> Worker | None:
        worker = self.worker(ordinal)
        try:
            self.drive(worker, until=lambda: len(worker.partitions) == PARTITIONS)
        except (Fenced, BrokerUnavailable) as failure:
            worker.close()
            if isinstance(failure, Fenced) and not is_unreleased(failure):
                raise
            return None
        return worker

    @contextmanager
    def failures(self) -> Iterator[list[str]]:
        """Codes of the transactions that failed meanwhile, after what was done about each."""
        codes: list[str] = []
        with capture_logs() as lines:
            yield codes
            codes += [
                f"{line['event'].removeprefix('transaction.')} {line['code']}"
                for line in lines
                if line["event"] in {"transaction.aborted", "transaction.outcome_unknown"}
            ]

    @abstractmethod
    def _own_broker(self, ordinal: int) -> Any: ...

    @abstractmethod
    def drive(self, *workers: Worker, until: Callable[[], bool]) -> None:
        """Step the workers in turn until something holds, or fail."""

    @abstractmethod
    def wait_a_little(self) -> None: ...

    @abstractmethod
    def slow_commit(self, fate: Fate, ordinal: int = 0, producer_id: str = "") -> None:
        """The next commit of the worker, or of another producer at its place, gets no answer in time."""

    @abstractmethod
    def slow_abort(self, ordinal: int = 0) -> None:
        """The worker's next abort gets no answer in time."""

    @abstractmethod
    def lose_delivery(self, ordinal: int = 0) -> None:
        """A record of the worker's next transaction is not delivered."""

    @abstractmethod
    def go_away(self, ordinal: int = 0) -> None:
        """Nobody answers this worker until `come_back`."""

    @abstractmethod
    def come_back(self, ordinal: int = 0) -> None: ...

    @abstractmethod
    def stall(self, during: Callable[[], None], ordinal: int = 0) -> None:
        """The worker's next transaction stops before the broker heard of it, for longer than its session; `during` runs then."""

    @abstractmethod
    def stall_before_begin(self, during: Callable[[], None], ordinal: int = 0) -> None:
        """The worker stops for longer than its session, with messages polled and no transaction yet; `during` runs then."""

    @abstractmethod
    def outlast_transaction(self, ordinal: int = 0) -> None:
        """The broker has heard of the worker's open transaction; wait until it has aborted it."""

    @abstractmethod
    def succeed_while_the_commit_is_under_way(self, owner: Worker) -> Worker:
        """Worker 0 dies in a commit of 10 messages, which lands when worker 1 asks for the offsets it shall start from."""

    @abstractmethod
    def patient_broker(self) -> Any:
        """One whose transactions stay open for some seconds after their producer died."""

    @abstractmethod
    def compact_readily(self) -> None:
        """From now on the changelog's older part can be compacted at any time."""

    @abstractmethod
    def compact_changelog(self) -> None:
        """Compact its older part, or wait until that was done."""


class MemoryTroubles(Troubled):
    """By `MemoryBroker.faults` and the test's clock."""

    def _own_broker(self, ordinal: int) -> Any:
        return self.broker

    def drive(self, *workers: Worker, until: Callable[[], bool]) -> None:
        for _ in islice(iter(until, True), _LIMIT_STEPS):
            for worker in workers:
                worker.step(wait=False)
            self.clock.advance(0.005)
        assert until(), "it never held"

    def wait_a_little(self) -> None:
        self.clock.advance(1)

    def slow_commit(self, fate: Fate, ordinal: int = 0, producer_id: str = "") -> None:
        self.broker.faults.slow_commit(producer_id or self._id(ordinal), landed=fate is Fate.LANDED)
        watched = self.broker_of(ordinal)
        if fate is Fate.LANDS_BEFORE_THE_CLAIM:
            watched.before_claim.append(self.broker.faults.land_commits)
        elif fate is Fate.ARRIVES_AFTER_THE_CLAIM:
            watched.after_claim.append(self.broker.faults.land_commits)

    def slow_abort(self, ordinal: int = 0) -> None:
        self.broker.faults.slow_abort(self._id(ordinal))

    def lose_delivery(self, ordinal: int = 0) -> None:
        self.broker.faults.lose_delivery(self._id(ordinal))

    def go_away(self, ordinal: int = 0) -> None:
        self.broker.faults.set_away(True)

    def come_back(self, ordinal: int = 0) -> None:
        self.broker.faults.set_away(False)

    def stall(self, during: Callable[[], None], ordinal: int = 0) -> None:
        def stalled() -> None:
            self._end_session(ordinal)
            during()

        after_next(self.workers[ordinal]._outbox, "begin", stalled)

    def stall_before_begin(self, during: Callable[[], None], ordinal: int = 0) -> None:
        def stalled() -> None:
            self._end_session(ordinal)
            during()

        before_next(self.workers[ordinal]._producer, "begin", stalled)

    def outlast_transaction(self, ordinal: int = 0) -> None:
        self.clock.advance(11)

    def succeed_while_the_commit_is_under_way(self, owner: Worker) -> Worker:
        self.slow_commit(Fate.LOST)
        self.broker_of(0).before_claim.append(_die)
        self.add(10)
        with suppress(Died):
            self.work_off(owner)
        self.broker.faults.expel(names.group(self.name), names.instance_id(self.name, 0))
        # No time passes inside a call here, so the answer is that it is not settled; a supervisor starts it again.
        successor = self.worker(1)
        with suppress(BrokerUnavailable):
            self.drive(successor, until=lambda: False)
        successor.close()
        self.broker.faults.land_commits()
        return self.worker(1)

    def patient_broker(self) -> Any:
        return self.broker

    def compact_readily(self) -> None: ...

    def compact_changelog(self) -> None:
        self.broker.compact(names.changelog_topic(self.name))

    def _end_session(self, ordinal: int) -> None:
        self.broker.faults.silence(names.group(self.name), names.instance_id(self.name, ordinal))
        self.clock.advance(46)

    def _id(self, ordinal: int) -> str:
        return names.transactional_id(self.name, ordinal)


class KafkaTroubles(Troubled, KafkaBench):
    """By a proxy of its own in front of each worker; sessions run out within seconds."""

    def __init__(
        self, bootstrap: str, name: str, settings: ClientSettings | None = None, **more: Any
    ) -> None:
        super().__init__(name=name, broker=ConfluentBroker(bootstrap), **more)
        self._bootstrap = bootstrap
        self._settings = settings or PATIENT
        self.proxies: dict[int, FaultProxy] = {}
        quick = {"consumer.session.timeout.ms": SESSION_TIMEOUT_MS, "consumer.heartbeat.interval.ms": 500}
        _set(bootstrap, ResourceType.GROUP, names.group(name), quick)

    def _own_broker(self, ordinal: int) -> Any:
        self.proxies[ordinal] = FaultProxy(self._bootstrap)
        return ConfluentBroker(self.proxies[ordinal].address, self._settings)

    def drive(self, *workers: Worker, until: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _LIMIT_S
        while not until():
            assert time.monotonic() < deadline, "it never held"
            for worker in workers:
                worker.step()
            self.clock.advance(0.005)

    def wait_a_little(self) -> None:
        time.sleep(0.1)

    def slow_commit(self, fate: Fate, ordinal: int = 0, producer_id: str = "") -> None:
        self._hold_end(fate, ordinal)
        _lose_patience(self.broker_of(ordinal).latest, "commit")

    def slow_abort(self, ordinal: int = 0) -> None:
        self._hold_end(Fate.LANDED, ordinal)
        _lose_patience(self.workers[ordinal]._producer, "abort")

    def _hold_end(self, fate: Fate, ordinal: int) -> None:
        kind = Direction.RESPONSE if fate is Fate.LANDED else Direction.REQUEST
        hold, watched = self.proxies[ordinal].hold(kind, END_TXN), self.broker_of(ordinal)

        def end() -> None:
            assert hold.caught.is_set()
            if fate in {Fate.LANDED, Fate.LOST}:
                hold.drop()
            else:
                _let_arrive(hold)

        (watched.after_claim if fate is Fate.ARRIVES_AFTER_THE_CLAIM else watched.before_claim).append(end)

    def lose_delivery(self, ordinal: int = 0) -> None:
        producer = self.workers[ordinal]._producer
        hold = self.proxies[ordinal].hold(Direction.REQUEST, PRODUCE)
        before_next(producer, "send_offsets", lambda: producer._client.flush(10))  # until it gives them up
        before_next(producer, "abort", hold.drop)

    def go_away(self, ordinal: int = 0) -> None:
        self.proxies[ordinal].away()

    def come_back(self, ordinal: int = 0) -> None:
        self.proxies[ordinal].back()

    def stall(self, during: Callable[[], None], ordinal: int = 0) -> None:
        worker = self.workers[ordinal]

        def stalled() -> None:
            hold = self.proxies[ordinal].hold(Direction.REQUEST)

            def go_on() -> None:
                during()
                hold.release()

            before_next(worker._producer, "send_offsets", go_on)

        after_next(worker._outbox, "begin", stalled)

    def stall_before_begin(self, during: Callable[[], None], ordinal: int = 0) -> None:
        worker, proxy = self.workers[ordinal], self.proxies[ordinal]

        def stalled() -> None:
            hold = proxy.hold(Direction.REQUEST)
            during()
            beats = proxy.answers(CONSUMER_GROUP_HEARTBEAT)
            hold.release()
            # The refusal of the heartbeat that was held back, and of the next: whatever its client does by itself, it does now.
            # A client that gave the connection up meanwhile may wait for the next poll to ask again: that must do no harm either.
            deadline = time.monotonic() + _BEATS_WITHIN_S
            while len(beats) < 2 and time.monotonic() < deadline:
                time.sleep(0.02)

        before_next(worker._producer, "begin", stalled)

    def outlast_transaction(self, ordinal: int = 0) -> None:
        """Its records reach the changelog; then the reader gets past them, and there is nothing to be seen."""
        topic = names.changelog_topic(self.name)
        self.workers[ordinal]._producer._client.flush(10)
        reader = self.broker.reader()
        ends = {
            each: reader.watermarks(each).high
            for each in (TopicPartition(topic, n) for n in range(PARTITIONS))
        }
        reader.assign(dict.fromkeys(ends, 0))
        deadline = time.monotonic() + _LIMIT_S
        while any(reader.position(each) < end for each, end in ends.items()):
            assert time.monotonic() < deadline
            reader.poll(1_000, 0.05)
        reader.close()

    def succeed_while_the_commit_is_under_way(self, owner: Worker) -> Worker:
        hold = self.proxies[0].hold(Direction.REQUEST, END_TXN)
        _lose_patience(owner._producer, "commit")
        self.broker_of(0).before_claim.append(_die)
        self.add(10)
        with suppress(Died):
            self.work_off(owner)
        self.bury(0)
        successor = self.worker(1)
        proxy = self.proxies[1]
        # The first time it is told that the offsets are not settled; they are when it asks again.
        proxy.at_request(OFFSET_FETCH, lambda: proxy.at_request(OFFSET_FETCH, lambda: _let_arrive(hold)))
        return successor

    def patient_broker(self) -> Any:
        return ConfluentBroker(
            self._bootstrap, ClientSettings(transaction_timeout_ms=6_000, answer_timeout_ms=5_000)
        )

    def compact_readily(self) -> None:
        changelog = names.changelog_topic(self.name)
        _set(
            self._bootstrap,
            ResourceType.TOPIC,
            changelog,
            {"segment.ms": 1, "min.cleanable.dirty.ratio": 0.001},
        )

    def compact_changelog(self) -> None:
        changelog = names.changelog_topic(self.name)
        length, deadline = len(self.records(changelog)), time.monotonic() + _LIMIT_S
        while len(self.records(changelog)) > length / 2:
            assert time.monotonic() < deadline, "never compacted"
            time.sleep(0.2)

    def close(self) -> None:
        for proxy in self.proxies.values():
            proxy.close()
        super().close()


def before_next(target: Any, name: str, do: Callable[[], None]) -> None:
    """Run `do` once, when `target` is next asked to `name`, before it does."""
    original = getattr(target, name)

    def hooked(*args: Any, **kwargs: Any) -> Any:
        setattr(target, name, original)
        do()
        return original(*args, **kwargs)

    setattr(target, name, hooked)


def after_next(target: Any, name: str, do: Callable[[], None]) -> None:
    """Run `do` once, when `target` is next asked to `name`, after it did."""
    original = getattr(target, name)

    def hooked(*args: Any, **kwargs: Any) -> Any:
        setattr(target, name, original)
        answer = original(*args, **kwargs)
        do()
        return answer

    setattr(target, name, hooked)


def is_unreleased(failure: Fenced) -> bool:
    """Whether its group instance id is still another's: Kafka's client gives its words for the name of the error."""
    return "UNRELEASED_INSTANCE_ID" in str(failure) or "instance ID is still used" in str(failure)


def _lose_patience(producer: Any, call: str) -> None:
    """Wait but briefly for the answer to this call, the next time: what comes before it has all the time it needs."""

    def hurry() -> None:
        if call == "commit":
            producer._client.flush(_LIMIT_S)
        producer._timeout_s = 1.0

    before_next(producer, call, hurry)


def _let_arrive(hold: Hold) -> None:
    hold.release()
    assert hold.answered.wait(_LIMIT_S), "the broker never answered"


def _set(bootstrap: str, kind: ResourceType, name: str, configs: Mapping[str, float]) -> None:
    entries = [
        ConfigEntry(key, str(value), incremental_operation=AlterConfigOpType.SET)
        for key, value in configs.items()
    ]
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.incremental_alter_configs(
        [ConfigResource(kind, name, incremental_configs=entries)]
    ).values():
        future.result(10)


class Died(BaseException):
    """The process ended here."""


def _die() -> None:
    raise Died
