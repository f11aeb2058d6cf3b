"""The toy service of `toy.py` as fixtures: `bench` in memory, `either_bench` in memory and on Kafka, `troubles` with faults."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the tests share `toy`; nothing else imports it

from toy import RECORDS, Bench, KafkaBench
from troubles import KafkaTroubles, MemoryTroubles, Troubled

from crossdock_eventing.broker.confluent import ConfluentBroker

BenchFactory = Callable[..., Bench]
TroubledFactory = Callable[..., Troubled]


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def own_topics(monkeypatch: pytest.MonkeyPatch) -> str:
    """A name that no other test uses; for the test's duration the toy's records go to topics under it."""
    name = f"toy-{os.getpid()}-{time.monotonic_ns()}"
    for kind in RECORDS:
        monkeypatch.setattr(kind, "TOPIC", f"{name}.{kind.TOPIC}")
    return name


@pytest.fixture
def new_kafka_bench(kafka_bootstrap: str, own_topics: str) -> Iterator[BenchFactory]:
    made: list[KafkaBench] = []

    def make(*, with_rates: bool = False) -> Bench:
        made.append(
            KafkaBench(with_rates=with_rates, name=own_topics, broker=ConfluentBroker(kafka_bootstrap))
        )
        return made[-1]

    yield make
    for bench in made:
        bench.close()


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def new_bench(request: pytest.FixtureRequest) -> BenchFactory:
    """Makes the bench of the test on either broker."""
    if request.param == "memory":
        return Bench
    factory: BenchFactory = request.getfixturevalue("new_kafka_bench")
    return factory


@pytest.fixture
def either_bench(new_bench: BenchFactory) -> Bench:
    return new_bench()


@pytest.fixture
def new_kafka_troubles(kafka_bootstrap: str, own_topics: str) -> Iterator[TroubledFactory]:
    made: list[KafkaTroubles] = []

    def make(**more: Any) -> Troubled:
        made.append(KafkaTroubles(kafka_bootstrap, own_topics, **more))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def new_troubles(request: pytest.FixtureRequest) -> TroubledFactory:
    """Makes the bench on which every trouble can be forced, on either broker."""
    if request.param == "memory":
        return MemoryTroubles
    factory: TroubledFactory = request.getfixturevalue("new_kafka_troubles")
    return factory


@pytest.fixture
def troubles(new_troubles: TroubledFactory) -> Troubled:
    return new_troubles()
