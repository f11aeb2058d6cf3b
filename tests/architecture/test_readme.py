"""README.md says what is so: its picture, its commands, its variables, its example."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.main import get_command

from crossdock_canonical.records import StockSnapshot
from crossdock_eventing.broker.confluent import ConfluentBroker
from crossdock_eventing.broker.failure import BrokerUnavailable
from crossdock_eventing.registry import ConfluentRegistry
from crossdock_tools.main import app
from crossdock_tools.schemas.contracts import Repository, find_schemas
from crossdock_tools.schemas.register import register_all
from crossdock_tools.topic_reader import TopicReader
from crossdock_tools.topics import apply_catalogue

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = TEXT + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_picture_is_the_catalogue() -> None:
    drawn = {
        (producer, consumer, f"retail.{name}.v1")
        for producer, names, consumer in re.findall(r'^  (\S+) -->\|"(.+)"\| (\S+)$', TEXT, re.MULTILINE)
        for name in names.split(", ")
    }
    catalogued = {
        (producer, consumer, topic.name)
        for topic in Repository(find_schemas()).topics.values()
        for producer in topic.producers
        for consumer in topic.consumers
    }
    assert drawn == catalogued, f"not drawn: {catalogued - drawn}; drawn in vain: {drawn - catalogued}"


def test_every_command_exists_with_its_options() -> None:
    used = {match.strip() for match in re.findall(r"\bcrossdock ((?:[a-z-]+ ?)+(?:--[a-z-]+)*)", GUIDE)}
    assert len(used) > 8
    for words in used:
        found = get_command(app)
        for word in words.split():
            if word.startswith("--"):
                assert any(word in option.opts for option in found.params), f"crossdock {words}: no {word}"
            elif hasattr(found, "commands"):
                assert word in found.commands, f"README.md names `crossdock {words}`, which does not exist"
                found = found.commands[word]


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", GUIDE, re.MULTILINE))
    assert named
    assert named <= targets, f"no such target: {named - targets}"


def test_every_variable_is_read_somewhere() -> None:
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("libs", "services", "deploy/local/crossdock_local", "tools")
        for path in (ROOT / folder).glob("**/*.py")
    )
    named = set(re.findall(r"`((?:CROSSDOCK|KAFKA|SCHEMA|OTEL)_[A-Z_]+[A-Z])`", TEXT))
    assert len(named) > 10
    prefix = re.compile(
        r"^CROSSDOCK_GATEWAY_"
    )  # its settings carry the prefix once, and the names in lower case
    unread = {
        name
        for name in named
        if name not in code and not (prefix.match(name) and f" {prefix.sub('', name).lower()}:" in code)
    }
    assert not unread, f"nothing reads {unread}"


def test_every_path_exists() -> None:
    for name in re.findall(r"`((?:schemas|deploy|services|docs|tests)/[\w./-]+)`", GUIDE):
        assert (ROOT / name).exists() or "<" in name, name
    for name in re.findall(r"\]\(([\w./-]+)\)", TEXT):
        assert (ROOT / name).exists(), name


@pytest.mark.kafka
def test_the_example_publishes_an_event_that_the_backbone_reads(
    kafka_bootstrap: str, schema_registry_url: str
) -> None:
    found, broker = Repository(find_schemas()), ConfluentBroker(kafka_bootstrap)
    register_all(found, schema_registry_url)
    admin = broker.admin()
    apply_catalogue(found, admin)
    admin.close()
    reader = reader_of(broker, schema_registry_url)
    reader.skip_to_end()

    [script] = re.findall(r"```python\n(.+?)```", TEXT, re.DOTALL)
    answer = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ
        | {"KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap, "SCHEMA_REGISTRY_URL": schema_registry_url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    [entry] = reader.entries()
    reader.close()
    assert isinstance(entry.body, StockSnapshot)
    assert (entry.body.sku, entry.body.units) == ("LAMP-RED", 40)
    assert answer.stdout.split() == ["published", entry.meta.event_id]


def reader_of(broker: ConfluentBroker, registry_url: str) -> TopicReader:
    """A reader of the example's topic, as soon as every partition of it has a leader."""
    for _ in range(100):
        try:
            return TopicReader(broker, ConfluentRegistry(registry_url), [StockSnapshot.TOPIC])
        except BrokerUnavailable:
            time.sleep(0.1)
    raise AssertionError(f"{StockSnapshot.TOPIC} did not get its leaders")
