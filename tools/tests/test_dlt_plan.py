"""Plans: what they choose, how they are written, and everything for which one is refused with a reason and nothing is sent."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from crossdock_canonical.specification import T0
from crossdock_eventing import names
from crossdock_eventing.broker.interface import Record
from crossdock_eventing.deadletter import dead_letter_headers
from crossdock_eventing.parking.formats import ReplayedMessage, ReplayEntry
from crossdock_simulation.planting import id_of
from crossdock_tools.dead_letters.criteria import Criteria
from crossdock_tools.dead_letters.plan import new_plan, read_plan, write_plan
from crossdock_tools.dead_letters.replays import Ledger, Said
from crossdock_tools.schemas.commands import repository

SERVICE = "order-orchestrator"
PLAN = ("plan", "--service", SERVICE, "--reason", "why", "--out", "p.json")


def planned(dlt: Callable, *options: str) -> list[dict[str, Any]]:
    Path("p.json").unlink(missing_ok=True)
    answer = dlt(*PLAN, *options, "--json")
    assert answer.exit_code == 0, answer.err
    items: list[dict[str, Any]] = answer.json["items"]
    return items


@pytest.fixture
def parked(shop: Any) -> Any:
    """Three orders of unknown items, a minute apart; the first with a second message behind it."""
    for number, sku in ((1, "A"), (2, "B"), (3, "B")):
        shop.order(number, sku=sku)
        shop.backbone.clock.advance(60)
        shop.backbone.run()
    shop.order(1, revision=1)
    return shop


@pytest.mark.parametrize(
    ("options", "orders"),
    [
        (("--all",), [1, 2, 3]),
        (("--code", "order.unknown_sku"), [1, 2, 3]),
        (("--code", "order.*"), [1, 2, 3]),
        (("--code", "parked.behind"), [1]),
        (("--key", id_of(2)), [2]),
        (("--key", id_of(2), "--key", id_of(3)), [2, 3]),
        (("--topic", "retail.order.intake.v1", "--where", "lines[*].items[*].value==B"), [2, 3]),
        (("--where", "total.minor>2700"), [3]),
        (("--where", "total.minor>2700", "--where", "external_id==1"), None),
        (("--since", "150s"), [2, 3, 1]),
        (
            (
                "--since",
                (T0 + timedelta(seconds=50)).isoformat(),
                "--until",
                (T0 + timedelta(seconds=110)).isoformat(),
            ),
            [2],
        ),
        (("--until", "150s"), [1]),
        (("--code", "contract.*"), None),
        (("--topic", "retail.payment.intake.v1"), None),
    ],
)
def test_what_meets_all_conditions_is_chosen(
    parked: Any, dlt: Callable, options: tuple[str, ...], orders: list[int] | None
) -> None:
    if orders is None:
        answer = dlt(*PLAN, *options)
        assert answer.exit_code == 1
        assert "no message that meets all conditions; their codes are order.unknown_sku" in answer.err
        assert not Path("p.json").exists()
        return
    items = planned(dlt, *options)
    assert {each["key"] for each in items} == {id_of(number) for number in orders}
    assert {each["op"] for each in items} == {"release"}


@pytest.mark.parametrize(("stamp_ms", "meant"), [(999, False), (1000, True), (1999, True), (2000, False)])
def test_a_period_begins_with_its_first_moment_and_ends_before_its_last(stamp_ms: int, meant: bool) -> None:
    period = Criteria(since_ms=1000, until_ms=2000)
    payloads: Any = None  # nobody looks at the payload
    found = period.meets(code="c", topic="t", stamp_ms=stamp_ms, value=None, headers=(), payloads=payloads)
    assert found is meant


def test_a_plan_says_on_what_state_it_was_made(parked: Any, dlt: Callable) -> None:
    first = planned(dlt, "--all")[0]
    assert (first["key"], first["episode"], first["upto"]) == (id_of(1), first["made_on"]["original"], None)
    assert first["made_on"]["original"].startswith("retail.order.intake.v1[")
    assert (first["made_on"]["head"], first["made_on"]["tail"], first["made_on"]["messages"]) == (0, 2, 2)
    assert first["made_on"]["before"] == first["made_on"]["after"]
    assert len(first["made_on"]["before"]) == 64
    plan = json.loads(Path("p.json").read_text())
    assert {"plan", "service", "cluster", "operator", "reason", "created_at", "asked_for"} < plan.keys()
    assert plan["cluster"] == "memory"
    read = read_plan(Path("p.json"))
    assert read.to_json() == plan
    assert {each.instruction.plan for each in read.items} == {plan["plan"]}
    assert (read.messages, len(read.keys)) == (4, 3)


def test_without_a_file_name_the_plan_is_named_after_its_id(parked: Any, dlt: Callable) -> None:
    answer = dlt("plan", "--service", SERVICE, "--reason", "r", "--all", "--json").json
    assert answer["file"] == f"dlt-{answer['plan']}.json"
    assert read_plan(Path(answer["file"])).plan == answer["plan"]


def test_a_plan_for_people_names_the_next_step(parked: Any, dlt: Callable) -> None:
    said = dlt(*PLAN, "--all").out
    assert "wrote p.json: 3 keys" in said
    assert "next: crossdock dlt run p.json --dry-run" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "say which messages"),
        (("--all", "--discard", "--migrate"), "--migrate and --discard cannot go together"),
        (("--all", "--edit", "currency=USD", "--inject"), "--edit and --inject cannot go together"),
        (("--all", "--no-retry"), "nothing would be done"),
        (("--all", "--skip-unfit"), "are for --inject"),
        (("--since", "yesterday"), "'yesterday' is no time"),
        (("--since", "2026-03-02T09:00:00"), "time zone"),
        (("--where", "total.minor"), "is no condition"),
        (("--where", "total.minor<abc"), "cannot be compared"),
        (("--all", "--edit", "nonsense"), "is no edit"),
        (("--all", "--edit", "total.minor=abc"), "total.minor is long, which 'abc' is not; no plan was made"),
        (("--all", "--edit", "nothing=1"), "the record has no nothing"),
        (("--all", "--edit", "order_id=x"), "the key that the message is parked under"),
        (("--key", "nobody"), "has nothing parked under nobody: what was there is gone"),
        (("--all", "--out", "/nowhere/p.json"), "cannot be written"),
        (("--all", "--service", "channel-gateway"), "channel-gateway parks nothing"),
        (("--all", "--service", "nobody"), "no service 'nobody' consumes anything"),
        (("--all", "--reason", " "), "a plan needs a reason"),
    ],
)
def test_what_cannot_be_planned_is_one_line_with_the_reason(
    parked: Any, dlt: Callable, options: tuple[str, ...], words: str
) -> None:
    answer = dlt(*PLAN, *options)
    assert answer.exit_code == 1
    assert words in answer.err
    assert answer.err.count("\n") == 1
    assert not Path("p.json").exists()
    assert parked.instructions() == []


def test_a_plan_is_not_overwritten(parked: Any, dlt: Callable) -> None:
    assert dlt(*PLAN, "--all").exit_code == 0
    text = Path("p.json").read_text()
    answer = dlt(*PLAN, "--key", id_of(1))
    assert (answer.exit_code, "p.json is there already" in answer.err) == (1, True)
    assert Path("p.json").read_text() == text


def move_head(shop: Any, dlt: Callable) -> None:
    dlt(
        "plan",
        "--service",
        SERVICE,
        "--reason",
        "r",
        "--code",
        "order.*",
        "--discard",
        "--key",
        id_of(1),
        "--out",
        "o.json",
    )
    assert dlt("run", "o.json").exit_code == 0


def let_go(shop: Any, dlt: Callable) -> None:
    shop.map()
    shop.map("B")
    dlt("plan", "--service", SERVICE, "--reason", "r", "--all", "--out", "o.json")
    assert dlt("run", "o.json").exit_code == 0


def park_anew(shop: Any, dlt: Callable) -> None:
    dlt("plan", "--service", SERVICE, "--reason", "r", "--key", id_of(1), "--code", "order.*", "--code", "parked.behind",
        "--discard", "--out", "o.json")  # fmt: skip
    assert dlt("run", "o.json").exit_code == 0
    shop.order(1, revision=2)


def edit_otherwise(shop: Any, dlt: Callable) -> None:
    dlt("plan", "--service", SERVICE, "--reason", "r", "--key", id_of(1), "--code", "order.*", "--no-retry",
        "--edit", "external_name=other", "--out", "o.json")  # fmt: skip
    assert dlt("run", "o.json").exit_code == 0


@pytest.mark.parametrize(
    ("meanwhile", "words"),
    [
        (move_head, "has moved on from message 0 to 1"),
        (let_go, "is not parked any more, its messages are gone"),
        (park_anew, "was let go and is parked anew by retail.order.intake.v1"),
        (edit_otherwise, "message 0 was edited since"),
    ],
)
@pytest.mark.parametrize("option", ["", "--dry-run"])
def test_a_plan_older_than_the_state_is_refused(
    parked: Any, dlt: Callable, meanwhile: Callable, words: str, option: str
) -> None:
    dlt(*PLAN, "--key", id_of(1), "--code", "order.*", "--edit", "external_name=mine")
    meanwhile(parked, dlt)
    before = parked.instructions()
    answer = dlt("run", "p.json", *([option] if option else []))
    assert answer.exit_code == 1
    assert "the plan is older than the state" in answer.err
    assert words in answer.err
    assert answer.err.splitlines()[-1].endswith("nothing was sent: make a new plan")
    assert parked.instructions() == before


def test_only_what_left_the_queue_by_the_plan_itself_may_have_moved_its_head() -> None:
    def message(seq: int, outcome: Any) -> ReplayedMessage:
        return ReplayedMessage(seq, "t", 0, seq, 1, "", "", outcome)

    entry = ReplayEntry(
        number=0,
        previous="",
        at_us=0,
        plan="mine",
        item=0,
        operator="",
        reason="",
        key="k",
        episode="e",
        op="release",
        outcome="rejected_again",
        messages=(message(0, "applied"), message(1, "ignored"), message(2, "rejected")),
    )
    ledger = Ledger("mine")
    assert ledger.take(Said(SERVICE, 0, entry))
    assert not ledger.take(Said(SERVICE, 0, replace(entry, plan="another", key="l")))
    assert ledger.taken == {"k": {0, 1}}


def test_of_many_stale_keys_a_few_are_named(parked: Any, dlt: Callable) -> None:
    for number in (4, 5, 6):
        parked.order(number)
    dlt(*PLAN, "--all")
    let_go(parked, dlt)
    assert "; and 3 more; nothing was sent" in dlt("run", "p.json").err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "the plan cannot be read"),
        ("", "p.json is no plan: it is not JSON"),
        ("[]", "p.json is no plan"),
        ("{}", "p.json is no plan"),
        ('{"crossdock_plan": 2}', "of version 2"),
        ('{"crossdock_plan": 1}', "p.json is no plan: KeyError: 'plan'"),
        ('{"crossdock_plan": 1, "plan": "x", "operator": "o", "reason": "r", "items": [1]}', "is no plan"),
    ],
)
def test_a_file_that_is_no_plan_is_refused(dlt: Callable, text: str | None, words: str) -> None:
    if text is not None:
        Path("p.json").write_text(text)
    for command in (("run",), ("run", "--dry-run"), ("certificate",)):
        answer = dlt(*command, "p.json")
        assert (answer.exit_code, answer.err.count("\n")) == (1, 1)
        assert words in answer.err


@pytest.mark.parametrize(
    "lie",
    [
        lambda plan: plan.update(operator="somebody else"),
        lambda plan: plan["items"].pop(),
        lambda plan: plan["items"][0].update(upto=5),
        lambda plan: plan["items"][0]["made_on"].update(head=1),
        lambda plan: plan.update(cluster="other"),
    ],
)
def test_a_plan_that_was_altered_is_refused(parked: Any, dlt: Callable, lie: Callable) -> None:
    dlt(*PLAN, "--all")
    plan = json.loads(Path("p.json").read_text())
    lie(plan)
    Path("p.json").write_text(json.dumps(plan))
    answer = dlt("run", "p.json")
    assert (answer.exit_code, "was altered after it was made" in answer.err) == (1, True)
    assert parked.instructions() == []


def remade(**changes: Any) -> None:
    """The plan file again with other contents, as if it had been made so."""
    plan = read_plan(Path("p.json"))
    Path("p.json").unlink()
    write_plan(
        replace(
            new_plan(
                service=changes.get("service", plan.service),
                cluster=changes.get("cluster", plan.cluster),
                operator=plan.operator,
                reason=plan.reason,
                now=plan.created_at,
                asked_for=plan.asked_for,
                items=plan.items,
            )
        ),
        Path("p.json"),
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cluster": "production"}, "was made on cluster production, this one is memory: nothing was sent"),
        ({"service": "channel-gateway"}, "channel-gateway parks nothing"),
    ],
)
@pytest.mark.parametrize("command", [("run",), ("run", "--dry-run"), ("certificate",)])
def test_a_plan_of_elsewhere_is_refused(
    parked: Any, dlt: Callable, changes: dict[str, str], words: str, command: tuple[str, ...]
) -> None:
    dlt(*PLAN, "--all")
    remade(**changes)
    answer = dlt(*command, "p.json")
    assert (answer.exit_code, words in answer.err) == (1, True), answer
    assert parked.instructions() == []


@pytest.mark.parametrize("topic", [names.retry_topic, names.replays_topic, names.dead_letter_topic])
def test_a_missing_topic_is_named_with_the_command_that_makes_it(
    parked: Any, dlt: Callable, topic: Callable[[str], str]
) -> None:
    dlt(*PLAN, "--all")
    parked.at_work = False
    parked.broker().admin().delete_topics([topic(SERVICE)])
    for command in (("run", "p.json"), (*PLAN, "--all", "--out", "q.json"), ("verify", "--service", SERVICE)):
        answer = dlt(*command)
        assert answer.exit_code == 1
        assert f"this cluster has no topic {topic(SERVICE)}: crossdock topics apply" in answer.err


def test_a_migration_that_changes_no_bytes_is_a_retry(parked: Any, dlt: Callable) -> None:
    assert [each["op"] for each in planned(dlt, "--migrate", "--all")] == ["release"] * 3


def test_a_discard_and_a_release_of_what_is_left(parked: Any, dlt: Callable) -> None:
    items = planned(dlt, "--key", id_of(1), "--code", "order.*", "--discard", "--retry")
    assert [(each["op"], each["made_on"]["messages"]) for each in items] == [("discard", 1), ("release", 1)]
    assert (items[0]["seq"], items[0]["made_on"]["after"]) == (0, "")
    items = planned(dlt, "--key", id_of(2), "--discard", "--retry")
    assert [each["op"] for each in items] == ["discard"], "nothing is left to be released"


def test_the_list_of_many_letters_is_quick(cluster: Any, crossdock: Callable) -> None:
    """A hundred thousand in ten seconds; here a tenth of that, in processor time, as others use the machine too."""
    count = 10_000
    topic = names.dead_letter_topic(SERVICE)
    try:
        raise ValueError("as long as a stack trace is " * 80)
    except ValueError as caught:
        error = caught
    producer = cluster.broker().producer("many")
    producer.init_transactions()
    producer.begin()
    for number in range(count):
        key = b"order-%d" % (number % (count // 5))
        inherited = (("event_type", b"retail.order.ChannelOrderReceived"), ("correlation_id", key))
        original = Record("retail.order.intake.v1", number % 4, number, 0, key, b"", inherited)
        headers = dead_letter_headers(
            original, code="order.unknown_sku", detail="why", error=error, group=names.group(SERVICE)
        )
        producer.produce(topic, key=key, value=b"x" * 1_000, headers=headers, partition=number % 4)
    producer.commit()
    repository(None)
    crossdock("dlt", "list", "--json", "--service", "returns")
    started_s = time.process_time()
    [group] = crossdock("dlt", "list", "--json").json
    took_s = time.process_time() - started_s
    assert (group["letters"], group["parked"], group["keys"]) == (count, count, count // 5)
    assert took_s < 1.0
