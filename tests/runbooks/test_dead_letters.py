"""docs/runbooks/dead-letters.md: each incident is set up with the real services, its commands are run, and print what it says.

`pytest tests/runbooks --accept` writes into the document what they print now; read the change before you commit it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from difflib import unified_diff
from pathlib import Path
from typing import Any

import pytest

from crossdock_canonical.money import Amounts
from crossdock_canonical.records import ChannelOrderReceived, ItemMapped, OrderCompleted
from crossdock_erp_poster.model import ErpAnswered, Refused
from crossdock_eventing.service import Answer
from crossdock_eventing.telemetry import METRIC_NAMES
from crossdock_simulation.planting import an_order
from crossdock_tools.dead_letters.changelog import read_changelog

PAGE = Path(__file__).resolve().parents[2] / "docs" / "runbooks" / "dead-letters.md"

#: What differs from run to run, or with any change of a contract: compared as if it were the same.
_VARIES = (
    (re.compile(r"\b\d{8}-\d{6}-[0-9a-f]{12}\b"), "PLAN"),
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "UUID"),
    (re.compile(r"\d\d:\d\d:\d\d(\.\d+)?( +[+-]\d+)?"), "TIME"),
    (re.compile(r"checked [\d,]+ facts"), "checked N facts"),
    (re.compile(r"\d+ subjects, \d+ versions"), "N subjects, N versions"),
    (re.compile(r"\d+ checks had nothing"), "N checks had nothing"),
)
#: How long it takes until somebody looks.
_NOTICED_S = 900.0


@dataclass(frozen=True)
class Step:
    """One command of the document with what it prints, or what happens meanwhile (`event`); `lines` are its place there."""

    command: str
    output: str
    event: str
    lines: tuple[int, int]


def incidents() -> dict[str, list[Step]]:
    """The steps below each second-level heading, in order."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    found: dict[str, list[Step]] = {}
    title, fenced, number = "", False, 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if line.startswith("## "):
            title = line.removeprefix("## ")
        elif line.startswith("```"):
            fenced = not fenced
        elif event := re.fullmatch(r"<!-- meanwhile: (.+) -->", line):
            found.setdefault(title, []).append(Step("", "", event[1], (number, number)))
        elif fenced and line.startswith("$ "):
            command = line.removeprefix("$ ")
            while command.endswith("\\"):
                command = command.removesuffix("\\") + lines[number].strip()
                number += 1
            start = number
            while not lines[number].startswith(("$ ", "```")):
                number += 1
            output = "".join(f"{each}\n" for each in lines[start:number])
            found.setdefault(title, []).append(Step(command, output, "", (start, number)))
    return found


def same(said: str) -> str:
    said = re.sub(r" +$", "", said, flags=re.MULTILINE)  # tables are padded
    for pattern, name in _VARIES:
        said = pattern.sub(name, said)
    return said


# What each incident begins with, and what is done in its course by others than the operator of Crossdock.


def bad_deploy(site: Any) -> dict[str, Callable[[], None]]:
    """A release of the orchestrator forgets the shipping of an order: none with shipping adds up any more."""
    sound = site.services["order-orchestrator"]

    def decide(command: Any, state: Any, **context: Any) -> Any:
        if isinstance(command, ChannelOrderReceived):
            command = replace(command, shipping=Amounts(currency=command.currency, goods=0))
        return sound.decide(command, state, **context)

    def deploy(service: Any) -> None:
        site.workers.pop("order-orchestrator").close()
        site.services["order-orchestrator"] = service
        site.workers["order-orchestrator"] = site.worker("order-orchestrator")

    def undo() -> str:
        deploy(sound)
        return "statefulset.apps/order-orchestrator rolled back\n"

    map_item(site, "LAMP-BLUE")
    deploy(replace(sound, decide=decide))
    site.run()
    for number in range(1, 411):
        site.order(number)
        if number % 50 == 0:
            site.run()
    assert site.workers["order-orchestrator"]._breaker.open
    site.kubectl["rollout undo statefulset/order-orchestrator"] = undo
    return {}


def bad_mapping(site: Any) -> dict[str, Callable[[], None]]:
    """A new item is on sale before it is in the product table; a customer changes her order meanwhile."""
    for number in (1, 2, 3):
        site.order(number, sku="LAMP-GREEN")
        site.run()
    site.send(an_order(2, ("LAMP-GREEN", 1, 1200), revision=1))
    site.stock("LAMP-GREEN", **{"WH-NORTH": 50})
    site.run()
    return {}


def tax_code(site: Any) -> dict[str, Callable[[], None]]:
    """The ERP does not know the tax code of an invoice, until finance sets it up."""
    map_item(site, "LAMP-BLUE")
    erp, known = site.erp, False
    collect = erp.collect

    def answer() -> list[Answer]:
        if known:
            return collect()
        refused = [each for each in erp._asked if each[1].reference.startswith("invoice/")]
        erp._asked[:] = [each for each in erp._asked if each not in refused]
        no = Refused("TAX_CODE_UNKNOWN", "tax code DE19R is not in company code 1000")
        return [
            *collect(),
            *(
                Answer(key, call.call_id, ErpAnswered(call_id=call.call_id, outcome=no))
                for key, call in refused
            ),
        ]

    erp.collect = answer
    for number in (1, 2):
        site.order(number)
        site.run()
    stopped: list[Any] = []

    def scale(replicas: int) -> str:
        if replicas:
            site.workers["erp-poster"] = site.worker("erp-poster")
        else:
            stopped.append(site.workers.pop("erp-poster"))
            stopped[-1].close()
        return "statefulset.apps/erp-poster scaled\n"

    def sell() -> None:
        site.order(3)
        site.run()

    def set_up() -> None:
        nonlocal known
        known = True

    site.kubectl["scale statefulset/erp-poster --replicas=0"] = lambda: scale(0)
    site.kubectl["scale statefulset/erp-poster --replicas=2"] = lambda: scale(2)
    return {"an order comes": sell, "finance sets the tax code up": set_up}


def poison(site: Any) -> dict[str, Callable[[], None]]:
    """Somebody writes JSON on the topic of orders, under the key of an order that comes next."""
    map_item(site, "LAMP-BLUE")
    key = an_order(1, ("LAMP-BLUE", 1, 1000)).order_id
    producer = site.broker.producer("script")
    producer.init_transactions()
    producer.begin()
    producer.produce(
        ChannelOrderReceived.TOPIC,
        key=key.encode(),
        value=b'{"order": 1, "paid": true}',
        headers=(("event_type", ChannelOrderReceived.SCHEMA.encode()),),
    )
    producer.commit()
    site.run()
    site.order(1)
    site.run()
    return {}


def schema_late(site: Any) -> dict[str, Callable[[], None]]:
    """Orders are written in a schema that this registry is told of afterwards."""
    map_item(site, "LAMP-BLUE")
    subject = f"{ChannelOrderReceived.TOPIC}-{ChannelOrderReceived.SCHEMA}"
    site.unregistered.add(site.registry.id_of(subject, ChannelOrderReceived.AVSC))
    for number in (1, 2):
        site.order(number)
        site.run()
    return {}


SETTINGS: dict[str, Callable[[Any], dict[str, Callable[[], None]]]] = {
    "1. A bad deploy": bad_deploy,
    "2. An item that is not mapped": bad_mapping,
    "3. The ERP refuses a tax code": tax_code,
    "4. A poison message": poison,
    "5. A schema that was not registered": schema_late,
}


def map_item(site: Any, sku: str) -> None:
    site.send(ItemMapped(reference=f"sku:{sku}", scheme="sku", value=sku, sku=sku))
    site.run()


def test_the_metrics_that_wake_somebody_exist() -> None:
    named = set(re.findall(r"\bcrossdock_\w+(?=[ {])", PAGE.read_text(encoding="utf-8")))
    assert named
    assert named <= set(METRIC_NAMES)


def test_every_incident_is_tried() -> None:
    assert [title for title, steps in incidents().items() if steps] == list(SETTINGS)


@pytest.mark.parametrize("title", SETTINGS)
def test_the_commands_print_what_the_document_says(
    title: str, site: Any, terminal: Any, accept: bool
) -> None:
    happenings = SETTINGS[title](site)
    site.clock.advance(_NOTICED_S)
    site.run()
    said: list[tuple[Step, str]] = []
    for step in incidents()[title]:
        if step.event:
            happenings.pop(step.event)()
        else:
            said.append((step, terminal.run(step.command)))
    if accept:
        rewrite(said)
    assert not happenings
    assert not list(parked(site)), "the runbook ends the incident"
    assert site.published(OrderCompleted)
    for step, printed in said:
        if same(printed) != same(step.output) and not accept:
            told = "\n".join(
                unified_diff(step.output.splitlines(), printed.splitlines(), "document", "now", lineterm="")
            )
            pytest.fail(
                f"$ {step.command}\n{told}\nif this is what you want: pytest tests/runbooks --accept",
                pytrace=False,
            )


def parked(site: Any) -> Iterator[str]:
    for name in site.services:
        yield from read_changelog(site.broker, name).parked


def rewrite(said: list[tuple[Step, str]]) -> None:
    """Put into the document what is printed now; what only varies stays as it is. From below, so that places hold."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    for step, printed in reversed(said):
        if same(printed) != same(step.output):
            start, end = step.lines
            lines[start:end] = [line.rstrip() for line in printed.splitlines()]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
