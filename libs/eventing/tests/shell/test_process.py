"""A service as a process on Kafka: what signals, twins, missing registrations and kill -9 do to it and to its results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from toy import PARTITIONS, RECORDS, Add, Added, CounterState, KafkaBench

from crossdock_eventing import names
from crossdock_eventing.broker.confluent import ConfluentBroker
from crossdock_eventing.broker.interface import TopicPartition, TopicSpec
from crossdock_eventing.codec import Codec
from crossdock_eventing.registry import ConfluentRegistry, RegistryWriter

pytestmark = [
    pytest.mark.kafka,
    # Confluent's client imports a module of authlib that warns about its own dependency.
    pytest.mark.filterwarnings("ignore:.*httpx.*:DeprecationWarning"),
]

PROGRAM = Path(__file__).with_name("toy_process.py")
ACCOUNTS = [f"account-{number}" for number in range(7)]


class Process:
    """One process of the toy service, and what it has logged."""

    def __init__(self, name: str, log_file: Path, environment: dict[str, str]) -> None:
        self._log_file = log_file
        with log_file.open("wb") as output:
            self._child = subprocess.Popen(
                [sys.executable, str(PROGRAM), name],
                env={**os.environ, **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Every line so far; a line that is no JSON fails the test."""
        return [json.loads(line) for line in self._log_file.read_text().splitlines()]

    def events(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]

    def is_up(self) -> bool:
        """Wait until every partition is restored; False when it ended before."""
        until(lambda: len(self.events("task.restored")) == PARTITIONS or self._child.poll() is not None)
        return self._child.poll() is None

    def send_signal(self, number: signal.Signals) -> int:
        """Signal it and return the exit code."""
        self._child.send_signal(number)
        return self.exit_code()

    def exit_code(self) -> int:
        return self._child.wait(60)

    def get(self, path: str) -> tuple[int, str]:
        port = self.events("service.started")[0]["http_port"]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def kill(self) -> None:
        if self._child.poll() is None:
            self._child.kill()
            self._child.wait()


class ProcessBench(KafkaBench):
    """A bench whose workers are processes and whose registry is a real one."""

    def __init__(self, bootstrap: str, registry_url: str, name: str, directory: Path) -> None:
        super().__init__(name=name, broker=ConfluentBroker(bootstrap))
        self._directory = directory
        self._environment = {
            "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
            "SCHEMA_REGISTRY_URL": registry_url,
            "CROSSDOCK_STATE_DIR": str(directory / "state"),
        }
        self.registry_url = registry_url
        self.processes: list[Process] = []

    def register(self) -> None:
        """What deploy does before a service starts."""
        writer = RegistryWriter(self.registry_url)
        for kind in RECORDS:
            writer.register(f"{kind.TOPIC}-{kind.SCHEMA}", kind.AVSC)
        changelog = names.changelog_topic(self.name)
        writer.register(f"{changelog}-{CounterState.SCHEMA}", CounterState.AVSC)
        self.codec = Codec(
            ConfluentRegistry(self.registry_url),
            written=[(kind, kind.TOPIC) for kind in RECORDS],
            read=[*RECORDS, CounterState],
        )

    def start(self, **environment: str) -> Process:
        log_file = self._directory / f"{len(self.processes)}.log"
        self.processes.append(Process(self.name, log_file, {**self._environment, **environment}))
        return self.processes[-1]

    def start_when_free(self) -> Process:
        """As a supervisor does: after a kill -9 the identity is taken until the dead process's session has run out."""
        deadline = time.monotonic() + 60
        while not (process := self.start()).is_up():
            [failed] = process.events("service.failed")
            assert failed["error"] == "Fenced", failed
            assert time.monotonic() < deadline
            time.sleep(0.5)
        return process

    def send_many(self, start: int, count: int) -> None:
        numbers = range(start, start + count)
        self.send(*(Add(account=ACCOUNTS[n % 7], reference=str(n), amount=1) for n in numbers))

    def outcome(self) -> list[Added]:
        return self.published(Added)

    def wait_for_outputs(self, count: int) -> None:
        until(lambda: len(self.outcome()) >= count)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
        super().close()


def until(holds: Callable[[], bool], limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, "condition never held"
        time.sleep(0.02)


def expect_exactly_once(outcome: list[Added], count: int) -> None:
    """Every message had its effect once, and the totals ran through without a gap or a repetition."""
    assert Counter(added.reference for added in outcome) == Counter(str(number) for number in range(count))
    for account in ACCOUNTS:
        totals = [added.total for added in outcome if added.account == account]
        assert totals == list(range(1, len(totals) + 1))


@pytest.fixture
def bench(
    kafka_bootstrap: str, schema_registry_url: str, own_topics: str, tmp_path: Path
) -> Iterator[ProcessBench]:
    bench = ProcessBench(kafka_bootstrap, schema_registry_url, own_topics, tmp_path)
    yield bench
    bench.close()


def test_sigterm_ends_with_0_and_a_restart_goes_on_at_once_without_losing_or_repeating(
    bench: ProcessBench,
) -> None:
    bench.register()
    process = bench.start()
    assert process.is_up()
    bench.send_many(0, 2_000)
    bench.wait_for_outputs(1)
    assert process.send_signal(signal.SIGTERM) == 0
    assert [line["event"] for line in process.lines][-1] == "service.stopped"
    assert not process.events("service.failed")
    settled = bench.outcome()
    bench.send_many(2_000, 500)
    again = bench.start()
    assert again.is_up()
    assert sum(line["records"] for line in again.events("task.restored")) == 0, "the disk was good"
    bench.wait_for_outputs(2_500)
    assert again.send_signal(signal.SIGINT) == 0
    expect_exactly_once(bench.outcome(), 2_500)
    assert {added.reference for added in settled} <= {str(number) for number in range(2_000)}


def test_kill_9_and_a_restart_process_nothing_twice(bench: ProcessBench) -> None:
    bench.register()
    process = bench.start()
    assert process.is_up()
    sent = 0
    for _ in range(2):
        bench.send_many(sent, 3_000)
        sent += 3_000
        bench.wait_for_outputs(sent - 2_999)  # somewhere in the middle of these
        assert process.send_signal(signal.SIGKILL) == -signal.SIGKILL
        process = bench.start_when_free()
    bench.wait_for_outputs(sent)
    assert process.send_signal(signal.SIGTERM) == 0
    expect_exactly_once(bench.outcome(), sent)
    offsets = bench.admin.group_offsets(names.group(bench.name))
    partitions = [TopicPartition(Add.TOPIC, number) for number in range(PARTITIONS)]
    last = {
        each: max(r.offset for r in bench.records(each.topic) if r.partition == each.partition)
        for each in partitions
    }
    assert {each: offsets[each] for each in partitions} == {each: end + 1 for each, end in last.items()}


def test_a_second_process_of_the_same_identity_on_this_host_is_refused(bench: ProcessBench) -> None:
    bench.register()
    first = bench.start()
    assert first.is_up()
    second = bench.start()
    assert second.exit_code() == 1
    [line] = second.lines
    assert (line["event"], line["level"], line["service"]) == ("service.failed", "error", bench.name)
    assert "is in use by another process" in line["detail"]
    assert "CROSSDOCK_ORDINAL" in line["detail"]
    bench.send_many(0, 10)
    bench.wait_for_outputs(10)
    assert first.send_signal(signal.SIGTERM) == 0


def test_two_processes_of_the_same_identity_on_two_hosts_both_end_and_one_started_again_goes_on(
    bench: ProcessBench, tmp_path: Path
) -> None:
    """The lock cannot keep the twin out: Kafka does. The younger finds the membership taken, the older its producer fenced."""
    bench.register()
    older = bench.start()
    assert older.is_up()
    bench.send_many(0, 10)
    bench.wait_for_outputs(10)
    younger = bench.start(CROSSDOCK_STATE_DIR=str(tmp_path / "other host"))
    assert younger.exit_code() == 1
    bench.send_many(10, 10)
    assert older.exit_code() == 1
    for process in (younger, older):
        [line] = process.events("service.failed")
        assert line["error"] == "Fenced"
    again = bench.start_when_free()
    bench.wait_for_outputs(20)
    assert again.send_signal(signal.SIGTERM) == 0
    expect_exactly_once(bench.outcome(), 20)


def test_a_schema_that_is_not_registered_is_one_line_with_the_command_that_mends_it(
    bench: ProcessBench,
) -> None:
    process = bench.start()
    assert process.exit_code() == 1
    [line] = process.lines
    assert (line["event"], line["error"]) == ("service.failed", "UnknownSchema")
    assert "crossdock schemas register" in line["detail"]


@pytest.mark.parametrize(
    ("environment", "error", "words"),
    [
        ({"SCHEMA_REGISTRY_URL": "http://127.0.0.1:9"}, "RegistryUnavailable", "http://127.0.0.1:9"),
        ({"CROSSDOCK_ORDINAL": "first"}, "wrong setting", "CROSSDOCK_ORDINAL"),
        ({"CROSSDOCK_LOG_LEVEL": "LOUD"}, "wrong setting", "CROSSDOCK_LOG_LEVEL"),
        ({"CROSSDOCK_STATE_DIR": "/proc/nowhere"}, "FileNotFoundError", "/proc/nowhere"),
    ],
)
def test_what_an_operator_can_put_right_is_one_line(
    bench: ProcessBench, environment: dict[str, str], error: str, words: str
) -> None:
    process = bench.start(**environment)
    assert process.exit_code() == 1
    [line] = process.events("service.failed")
    assert line["error"] == error
    assert words in line["detail"]
    assert all("Traceback" not in str(each) for each in process.lines)


def test_topics_that_cannot_be_joined_are_one_line(bench: ProcessBench) -> None:
    bench.register()
    bench.admin.delete_topics([names.dead_letter_topic(bench.name)])
    bench.admin.create_topics([TopicSpec(names.dead_letter_topic(bench.name), PARTITIONS + 1)])
    process = bench.start()
    assert process.exit_code() == 1
    [line] = process.events("service.failed")
    assert line["error"] == "UnequalPartitions"
    assert names.dead_letter_topic(bench.name) in line["detail"]


def test_a_process_says_that_it_is_alive_and_ready_and_what_it_did(bench: ProcessBench) -> None:
    bench.register()
    process = bench.start()
    assert process.is_up()
    until(lambda: process.get("/readyz")[0] == 200)
    assert process.get("/livez")[0] == 200
    bench.send_many(0, 10)
    bench.wait_for_outputs(10)
    until(lambda: "crossdock_messages_total 10.0" in process.get("/metrics")[1])
    assert f"crossdock_tasks {float(PARTITIONS)}" in process.get("/metrics")[1]
