"""`crossdock dlt` from end to end: a service parks, an operator plans, tries out, runs and proves it. On the in-memory broker."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crossdock_canonical.records import (
    ChannelOrderReceived,
    ErpDocumentPosted,
    OrderCompleted,
    OrderReceived,
    PaymentRecorded,
)
from crossdock_eventing import names
from crossdock_eventing.broker.failure import TransactionOutcomeUnknown
from crossdock_eventing.broker.interface import TopicPartition
from crossdock_eventing.broker.memory.clients import MemoryProducer
from crossdock_eventing.parking.formats import Park, digest, park_name
from crossdock_eventing.registry import UnknownSchema
from crossdock_simulation.planting import id_of
from crossdock_tools.dead_letters import running

SERVICE = "order-orchestrator"
CHOICE = ("plan", "--service", SERVICE, "--reason", "item A is mapped now", "--out", "p.json")


def certificate() -> Any:
    return json.loads(Path("p.certificate.json").read_text())


def test_plan_dry_run_run_and_run_again(shop: Any, dlt: Callable) -> None:
    for number in (1, 2, 3):
        shop.order(number)
    shop.order(1, revision=1)
    assert sorted(shop.parked().values()) == [1, 1, 2]

    planned = dlt(*CHOICE, "--code", "order.unknown_sku", "--operator", "mira", "--json").json
    assert [each["made_on"]["messages"] for each in planned["items"]] == [2, 1, 1]
    assert (planned["operator"], planned["asked_for"]) == (
        "mira",
        {"do": "retry", "code": ["order.unknown_sku"]},
    )

    tried = dlt("run", "p.json", "--dry-run", "--json").json
    assert (tried["messages"], tried["effects"]) == ({"rejected": 3}, {})
    assert (sum(tried["left"].values()), tried["trials"][0]["code"]) == (4, "order.unknown_sku")
    shop.map()
    tried = dlt("run", "p.json", "--dry-run", "--json").json
    assert tried["messages"] == {"applied": 4}
    assert shop.instructions() == []
    assert shop.entries() == []

    ran = dlt("run", "p.json", "--json")
    assert (ran.exit_code, ran.json["sent"], ran.json["surprises"]) == (0, 3, [])
    assert shop.parked() == {}
    made = ran.json["certificate"]
    assert made == certificate()
    assert made["problems"] == []
    assert made["messages"] == {"in": 4, "applied": 4}
    # What the dry run said is what came of it; documents are the ERP's to tell of.
    documents = tried["effects"].pop("ERP document")
    assert made["effects"]["by_type"] == tried["effects"]
    assert made["erp_documents"] == {"ErpDocumentPosted": documents}
    assert documents == {"count": 3, "money_minor": {"EUR": 1600 + 2700 + 3800}}
    assert made["keys"] == {"planned": 3, "unparked": 3, "parked_still": {}}
    assert len(shop.backbone.published(OrderCompleted)) == 3
    assert {each.operator for each in shop.entries()} == {"mira"}

    again = dlt("run", "p.json", "--json")
    assert (again.exit_code, again.json["sent"], again.json["events"]) == (0, 0, 0)
    assert again.json["certificate"] == made
    assert "0 instructions sent, 0 new events" in dlt("run", "p.json").out
    assert dlt("certificate", "p.json", "--verify", "p.certificate.json").exit_code == 0


def test_events_carry_the_plan_that_released_their_cause(shop: Any, dlt: Callable) -> None:
    shop.order(1)
    shop.map()
    plan = dlt(*CHOICE, "--all", "--json").json["plan"]
    dlt("run", "p.json")
    [received] = shop.backbone.entries(OrderReceived)
    assert received.meta.attributes == {"replay": plan}


def test_an_edit_is_made_checked_and_certified(shop: Any, dlt: Callable) -> None:
    shop.map()
    before = shop.order(1, sku="AA")
    shop.order(2, sku="BB")
    wrong = "lines[*].items[*].value==AA"
    planned = dlt(*CHOICE, "--where", wrong, "--edit", "lines[0].items[0].value=A", "--json").json
    [edit, release] = planned["items"]
    assert (edit["op"], release["op"], edit["key"]) == ("edit", "release", before.order_id)
    assert edit["made_on"]["changes"] == ["lines[0].items[0].value: AA -> A"]
    ran = dlt("run", "p.json", "--json")
    assert ran.exit_code == 0
    made = ran.json["certificate"]
    assert made["messages"] == {"in": 1, "applied": 1}
    [altered] = made["edits"]
    assert (altered["before"], altered["after"]) == (edit["made_on"]["before"], edit["made_on"]["after"])
    assert altered["before"] != altered["after"]
    [applied] = [m for e in shop.entries() for m in e.messages if m.outcome == "applied"]
    assert (applied.before, applied.after) == (altered["before"], altered["after"])
    assert list(shop.parked()) == [id_of(2)], "the other one is not touched"
    [received] = shop.backbone.published(OrderReceived)
    assert received.lines[0].sku == "A"


def test_a_discard_drops_the_message_and_keeps_what_is_behind(shop: Any, dlt: Callable) -> None:
    shop.order(1, sku="AA")
    shop.order(1, sku="A", revision=1)
    shop.map()
    dlt(*CHOICE, "--code", "order.*", "--discard")
    made = dlt("run", "p.json", "--json").json["certificate"]
    assert made["messages"] == {"in": 1, "discarded": 1}
    assert [each["after"] for each in made["discards"]] == [""]
    assert made["keys"] == {"planned": 1, "unparked": 0, "parked_still": {id_of(1): 1}}
    assert shop.parked() == {id_of(1): 1}


def test_a_discard_may_let_the_rest_go(shop: Any, dlt: Callable) -> None:
    shop.order(1, sku="AA")
    shop.order(1, sku="A", revision=1)
    shop.map()
    dlt(*CHOICE, "--code", "order.*", "--discard", "--retry")
    made = dlt("run", "p.json", "--json").json["certificate"]
    assert made["messages"] == {"in": 2, "discarded": 1, "applied": 1}
    assert shop.parked() == {}


def test_only_selected_goes_no_further(shop: Any, dlt: Callable) -> None:
    shop.order(1)
    shop.order(1, revision=1)
    shop.map()
    dlt(*CHOICE, "--code", "order.unknown_sku", "--only-selected")
    ran = dlt("run", "p.json")
    assert ran.exit_code == 0
    [entry] = shop.entries()
    assert (entry.outcome, [each.seq for each in entry.messages], entry.left) == ("released", [0], 1)
    queue = dlt("show", "--service", SERVICE, "--key", id_of(1), "--json").json["parked"]["queue"]
    assert queue[0]["seq"] == 1
    # The key is parked still, so the answer to what was released waits as well.
    assert [each["type"] for each in queue] == [
        "retail.order.ChannelOrderReceived",
        "retail.stock.StockReserved",
    ]


def test_what_changes_one_key_goes_together_and_its_release_after_it(
    shop: Any, dlt: Callable, monkeypatch: Any
) -> None:
    for revision in range(6):
        shop.order(1, sku="AA", revision=revision)
    shop.map()
    sizes: list[int] = []
    send = running._Course._send

    def counted(course: Any) -> int:
        sizes.append(send(course))
        return sizes[-1]

    monkeypatch.setattr(running._Course, "_send", counted)
    dlt(*CHOICE, "--all", "--edit", "lines[0].items[0].value=A")
    made = dlt("run", "p.json", "--json").json["certificate"]
    assert [each for each in sizes if each] == [1, 5, 1]
    assert made["messages"] == {"in": 6, "applied": 6}
    assert len(made["edits"]) == 6
    assert shop.parked() == {}


def test_a_run_stops_at_the_first_surprise(shop: Any, dlt: Callable) -> None:
    for number, sku in ((1, "AA"), (2, "A"), (3, "A")):
        shop.order(number, sku=sku)
    shop.map()
    dlt(*CHOICE, "--all")
    ran = dlt("run", "p.json", "--json")
    assert (ran.exit_code, ran.json["sent"], ran.json["unsent"]) == (1, 1, 2)
    [surprise] = ran.json["surprises"]
    assert surprise.startswith(
        f"{id_of(1)}: release (item 0) came to rejected_again: line L0: sku:AA; 1 messages"
    )
    assert set(shop.parked()) == {id_of(1), id_of(2), id_of(3)}
    said = dlt("run", "p.json")
    assert (said.exit_code, "2 instructions were not sent" in said.out) == (1, True)
    assert len(shop.instructions()) == 1, "what surprised before stops it again"

    ran = dlt("run", "p.json", "--keep-going", "--json")
    assert (ran.exit_code, ran.json["sent"], ran.json["unsent"]) == (1, 2, 0)
    assert ran.json["certificate"]["messages"] == {"in": 3, "rejected": 1, "applied": 2}
    assert shop.parked() == {id_of(1): 1}


def test_after_a_stale_edit_the_message_is_not_released(shop: Any, dlt: Callable, monkeypatch: Any) -> None:
    shop.order(1, sku="AA")
    shop.map()
    shop.map("C")
    edit = ("--edit", "lines[0].items[0].value=A")
    dlt(*CHOICE, "--all", *edit)
    dlt("plan", "--service", SERVICE, "--reason", "r", "--all", "--no-retry", "--edit", "lines[0].items[0].value=C",
        "--out", "other.json")  # fmt: skip
    # Both were sound when they were sent: the other one comes first.
    assert dlt("run", "other.json").exit_code == 0
    monkeypatch.setattr(running, "require_fresh", lambda *_: None)
    ran = dlt("run", "p.json", "--keep-going", "--json")
    assert (ran.exit_code, ran.json["sent"], ran.json["unsent"]) == (1, 1, 1)
    assert "came to stale" in ran.json["surprises"][0]
    ran = dlt("run", "p.json", "--keep-going", "--json")
    assert (ran.json["sent"], ran.json["unsent"]) == (0, 1), "nor by a second run"
    assert shop.parked() == {id_of(1): 1}


class Killed(BaseException):
    """kill -9: nothing of the process runs any more."""


def parked_orders(shop: Any, count: int) -> None:
    for number in range(1, count + 1):
        shop.order(number)
        shop.order(number, revision=1)
    shop.map()


@pytest.mark.parametrize("inside", ["before the commit", "after the commit", "reading outcomes"])
def test_a_run_killed_again_and_again_ends_as_one_that_was_not(
    shop: Any, dlt: Callable, monkeypatch: Any, inside: str
) -> None:
    parked_orders(shop, 6)
    dlt(*CHOICE, "--all")
    countdown = [1]

    def strike() -> None:
        countdown[0] -= 1
        if countdown[0] == 0:
            raise Killed

    commit, listen = MemoryProducer.commit, running._Course._listen

    def commit_or_die(producer: Any) -> None:
        if producer._id.startswith("crossdock-dlt-") and inside == "before the commit":
            strike()
        commit(producer)
        if producer._id.startswith("crossdock-dlt-") and inside == "after the commit":
            strike()

    def listen_or_die(course: Any) -> bool:
        if inside == "reading outcomes":
            strike()
        return listen(course)

    monkeypatch.setattr(MemoryProducer, "commit", commit_or_die)
    monkeypatch.setattr(running._Course, "_listen", listen_or_die)
    monkeypatch.setattr(running, "_BATCH_MAX", 1)
    killed = 0
    while True:
        # Before its commit a run must once get through, or it would never come to an end.
        countdown[0] = 2 if inside == "before the commit" and killed % 2 else 1
        try:
            ran = dlt("run", "p.json", "--json")
            break
        except Killed:
            killed += 1
            assert killed < 40
    assert killed >= 5
    assert ran.exit_code == 0
    assert ran.json["certificate"]["messages"] == {"in": 12, "applied": 12}
    assert ran.json["certificate"]["problems"] == []
    assert shop.parked() == {}
    sent = Counter(each.item for each in shop.instructions())
    assert sorted(sent) == [0, 1, 2, 3, 4, 5]
    assert set(sent.values()) == {1}, "nothing is sent twice"
    assert {each.outcome for each in shop.entries()} == {"released"}
    assert len(shop.backbone.published(OrderReceived)) == 6
    documents = Counter(each.business_key for each in shop.backbone.published(ErpDocumentPosted))
    assert set(documents.values()) == {1}
    assert set(shop.backbone.erp.documents.values()) == {1}


def test_a_head_that_the_plan_itself_moved_is_no_stranger_to_it(
    shop: Any, dlt: Callable, monkeypatch: Any
) -> None:
    shop.order(1, sku="AA")
    shop.order(1, sku="A", revision=1)
    shop.map()
    dlt(*CHOICE, "--code", "order.*", "--discard", "--retry")
    commit, commits = MemoryProducer.commit, [0]

    def commit_or_die(producer: Any) -> None:
        commits[0] += producer._id.startswith("crossdock-dlt-")
        if commits[0] == 2:
            raise Killed
        commit(producer)

    monkeypatch.setattr(MemoryProducer, "commit", commit_or_die)
    with pytest.raises(Killed):
        dlt("run", "p.json")
    monkeypatch.setattr(MemoryProducer, "commit", commit)
    assert shop.parked() == {id_of(1): 1}, "discarded, and the rest not released"
    ran = dlt("run", "p.json", "--json")
    assert (ran.exit_code, ran.json["sent"]) == (0, 1)
    assert ran.json["certificate"]["messages"] == {"in": 2, "discarded": 1, "applied": 1}


def test_the_older_of_two_runs_of_one_plan_is_stopped(shop: Any, dlt: Callable, monkeypatch: Any) -> None:
    parked_orders(shop, 2)
    dlt(*CHOICE, "--all")
    begin = MemoryProducer.begin

    def taken_over(producer: Any) -> None:
        if producer._id.startswith("crossdock-dlt-"):
            monkeypatch.setattr(MemoryProducer, "begin", begin)
            twin = shop.broker().producer(producer._id)
            twin.init_transactions()
        begin(producer)

    monkeypatch.setattr(MemoryProducer, "begin", taken_over)
    answer = dlt("run", "p.json")
    assert answer.exit_code == 1
    assert "another run of plan" in answer.err
    assert shop.instructions() == []


def test_a_commit_without_an_answer_says_to_run_again(shop: Any, dlt: Callable, monkeypatch: Any) -> None:
    parked_orders(shop, 1)
    dlt(*CHOICE, "--all")
    commit = MemoryProducer.commit

    def unanswered(producer: Any) -> None:
        commit(producer)
        if producer._id.startswith("crossdock-dlt-"):
            raise TransactionOutcomeUnknown("_TIMED_OUT")

    monkeypatch.setattr(MemoryProducer, "commit", unanswered)
    answer = dlt("run", "p.json")
    assert (answer.exit_code, "run the plan again" in answer.err, answer.err.count("\n")) == (1, True, 2)
    monkeypatch.setattr(MemoryProducer, "commit", commit)
    assert dlt("run", "p.json", "--json").json["sent"] == 0
    assert len(shop.instructions()) == 1


def test_a_service_that_stands_still_is_waited_for_so_long_and_lost_is_nothing(
    shop: Any, dlt: Callable
) -> None:
    parked_orders(shop, 1)
    dlt(*CHOICE, "--all")
    shop.at_work = False
    answer = dlt("run", "p.json", "--wait", "5")
    assert answer.exit_code == 1
    assert (
        f"{SERVICE} has said nothing for 5 s to 1 instructions on {names.retry_topic(SERVICE)}" in answer.err
    )
    assert dlt("run", "p.json", "--wait", "5").exit_code == 1
    assert len(shop.instructions()) == 1, "what lies there is not sent again"
    shop.at_work = True
    ran = dlt("run", "p.json", "--json")
    assert (ran.exit_code, ran.json["sent"]) == (0, 0)
    assert ran.json["certificate"]["messages"] == {"in": 2, "applied": 2}


def test_an_instruction_that_comes_twice_changes_nothing(shop: Any, dlt: Callable) -> None:
    parked_orders(shop, 2)
    dlt(*CHOICE, "--all")
    made = dlt("run", "p.json", "--json").json["certificate"]
    producer = shop.broker().producer("stutter")
    producer.init_transactions()
    producer.begin()
    for each in shop.instructions():
        producer.produce(names.retry_topic(SERVICE), key=each.key.encode(), value=each.to_bytes())
    producer.commit()
    ran = dlt("run", "p.json", "--json")
    assert [each.outcome for each in shop.entries()].count("already") == 2
    assert (ran.exit_code, ran.json["sent"], ran.json["surprises"]) == (0, 0, [])
    assert {**ran.json["certificate"], "chain": None} == {**made, "chain": None}
    Path("old.json").write_text(json.dumps(made))
    assert dlt("certificate", "p.json", "--verify", "old.json").exit_code == 0


def test_a_long_queue_that_goes_in_several_transactions_is_waited_for(shop: Any, dlt: Callable) -> None:
    for revision in range(5):
        shop.order(1, revision=revision)
    shop.map()
    worker = shop.backbone.workers[SERVICE]
    worker._limits = replace(worker._limits, released_max=2)
    dlt(*CHOICE, "--all")
    ran = dlt("run", "p.json", "--json")
    assert (ran.exit_code, ran.json["sent"]) == (0, 1)
    assert [each.outcome for each in shop.entries()] == ["continuing", "continuing", "released"]
    assert ran.json["certificate"]["messages"] == {"in": 5, "applied": 5}
    assert ran.json["certificate"]["instructions"] == {"planned": 1, "open": 0, "released": 1}
    [past] = dlt("history", "--json").json
    assert (past["outcomes"], past["messages"]) == ({"continuing": 2, "released": 1}, {"applied": 5})


def test_the_rate_is_kept(shop: Any, dlt: Callable, monkeypatch: Any) -> None:
    parked_orders(shop, 8)
    dlt(*CHOICE, "--all")
    clock = shop.backbone.clock
    sent_at: list[float] = []
    commit = MemoryProducer.commit

    def noted(producer: Any) -> None:
        if producer._id.startswith("crossdock-dlt-"):
            sent_at.append(clock.monotonic_s())
        commit(producer)

    monkeypatch.setattr(MemoryProducer, "commit", noted)
    started = clock.monotonic_s()
    assert dlt("run", "p.json", "--rate", "20").exit_code == 0
    # 16 messages; the last instruction waits until all before it, but for one second's worth, have been earned.
    assert sent_at[-1] - started >= (16 - 2 - 2) / 20
    assert len(sent_at) >= 4


def test_the_first_key_goes_alone(shop: Any, dlt: Callable, monkeypatch: Any) -> None:
    parked_orders(shop, 4)
    dlt(*CHOICE, "--all")
    sizes: list[int] = []
    send = running._Course._send

    def counted(course: Any) -> int:
        sizes.append(send(course))
        return sizes[-1]

    monkeypatch.setattr(running._Course, "_send", counted)
    dlt("run", "p.json")
    assert [each for each in sizes if each] == [1, 3]


def test_documents_of_the_poster_itself_are_named(shop: Any, dlt: Callable) -> None:
    """A fact that the ERP poster could not read is parked there; the dry run names the document that follows."""
    shop.map()
    backbone = shop.backbone
    original = backbone.registry.by_id
    payment_id = backbone.registry.id_of("x", PaymentRecorded.AVSC)

    def unknown(schema_id: int) -> str:
        if schema_id == payment_id:
            raise UnknownSchema(f"schema id {schema_id} is not registered")
        return original(schema_id)

    backbone.registry.by_id = unknown  # type: ignore[method-assign]
    shop.order(1)
    backbone.registry.by_id = original  # type: ignore[method-assign]
    dlt(
        "plan",
        "--service",
        "erp-poster",
        "--reason",
        "registered",
        "--code",
        "contract.unknown_schema",
        "--out",
        "p.json",
    )
    tried = dlt("run", "p.json", "--dry-run", "--json").json
    assert tried["effects"]["ERP document"]["money_minor"] == {"EUR": 1600 * 3}
    made = dlt("run", "p.json", "--json").json["certificate"]
    assert made["erp_documents"]["ErpDocumentPosted"]["count"] >= 1
    assert made["problems"] == []


def test_a_fact_that_will_wait_at_the_poster_is_no_document_yet(shop: Any, dlt: Callable) -> None:
    parked_orders(shop, 2)
    dlt(*CHOICE, "--all")
    assert dlt("run", "p.json", "--dry-run", "--json").json["effects"]["ERP document"]["count"] == 2
    park = Park(episode="e", since_us=0, code="contract.unknown_schema", tail=1)
    producer = shop.broker().producer("poster")
    producer.init_transactions()
    producer.begin()
    key, value = park_name(id_of(1)).encode(), json.dumps(park.to_json()).encode()
    producer.produce(names.changelog_topic("erp-poster"), key=key, value=value, partition=0)
    producer.commit()
    assert dlt("run", "p.json", "--dry-run", "--json").json["effects"]["ERP document"]["count"] == 1


def test_what_ends_a_decider_is_told_by_the_dry_run(shop: Any, dlt: Callable, monkeypatch: Any) -> None:
    from crossdock_order_orchestrator import service as composition

    shop.order(1)
    dlt(*CHOICE, "--all")

    def broken(*_: Any, **__: Any) -> Any:
        raise KeyError("lines")

    monkeypatch.setattr(composition, "decide", broken)
    [trial] = dlt("run", "p.json", "--dry-run", "--json").json["trials"]
    assert (trial["outcome"], trial["detail"]) == ("crashes", "KeyError: 'lines'")


def test_a_key_that_is_no_text_is_parked_told_and_discarded(shop: Any, dlt: Callable) -> None:
    producer = shop.broker().producer("elsewhere")
    producer.init_transactions()
    producer.begin()
    producer.produce(ChannelOrderReceived.TOPIC, key=b"\xff|1", value=b"\x00\x00\x00\x00\x01", partition=2)
    producer.commit()
    shop.backbone.run()
    [group] = dlt("list", "--json").json
    assert group["code"].startswith("contract.")
    told = dlt("show", "--service", SERVICE, "--json").json
    assert (told["key"], told["parked"]["key"]) == ("\\xff|1", "\\xff|1")
    assert dlt("show", "--service", SERVICE, "--key", "\udcff|1").exit_code == 0
    dlt(*CHOICE, "--key", "\udcff|1")
    assert "\\xff|1  " in dlt("run", "p.json", "--dry-run").out
    ran = dlt("run", "p.json")
    assert (ran.exit_code, "\\xff|1: release (item 0) came to rejected_again" in ran.out) == (1, True)
    dlt("plan", "--service", SERVICE, "--reason", "not ours", "--all", "--discard", "--out", "d.json")
    ran = dlt("run", "d.json", "--json")
    assert (ran.exit_code, ran.json["certificate"]["messages"]) == (0, {"in": 1, "discarded": 1})
    assert dlt("run", "p.json").exit_code == 1
    assert dlt("history").exit_code == 0


def test_the_history_tells_every_plan(shop: Any, dlt: Callable) -> None:
    parked_orders(shop, 2)
    dlt(
        "plan",
        "--service",
        SERVICE,
        "--reason",
        "first",
        "--key",
        id_of(1),
        "--operator",
        "mira",
        "--out",
        "1.json",
    )
    dlt(
        "plan",
        "--service",
        SERVICE,
        "--reason",
        "second",
        "--key",
        id_of(2),
        "--operator",
        "ben",
        "--out",
        "2.json",
    )
    dlt("run", "1.json")
    dlt("run", "2.json")
    past = dlt("history", "--json").json
    assert [(each["reason"], each["operator"], each["messages"], each["outcomes"]) for each in past] == [
        ("first", "mira", {"applied": 2}, {"released": 1}),
        ("second", "ben", {"applied": 2}, {"released": 1}),
    ]
    assert "2 plans" in dlt("history", "--service", SERVICE).out
    assert dlt("history", "--service", "returns", "--json").json == []


def test_the_list_tells_parked_from_settled(shop: Any, dlt: Callable) -> None:
    parked_orders(shop, 3)
    [group] = dlt("list", "--json").json
    assert (group["letters"], group["behind"], group["parked"], group["settled"]) == (6, 3, 6, 0)
    assert (group["keys"], group["orders"], group["stake_minor"]) == (3, 3, {"EUR": 1600 + 2700 + 3800})
    assert group["owner"]
    dlt(*CHOICE, "--key", id_of(2))
    dlt("run", "p.json")
    [group] = dlt("list", "--json").json
    assert (group["letters"], group["parked"], group["settled"]) == (6, 4, 2)
    assert (group["orders"], group["stake_minor"]) == (2, {"EUR": 1600 + 3800})
    said = dlt("list").out
    assert "4 messages of 2 keys are parked still, 54.00 EUR at stake" in said


def test_show_tells_the_queue_and_the_life_of_the_order(shop: Any, dlt: Callable) -> None:
    shop.order(1)
    shop.order(1, revision=1)
    told = dlt("show", "--service", SERVICE, "--key", id_of(1), "--json").json
    assert told["code"] == "order.unknown_sku"
    assert [(each["seq"], each["code"], each["attempt"]) for each in told["parked"]["queue"]] == [
        (0, "order.unknown_sku", 1),
        (1, "parked.behind", 0),
    ]
    assert len(told["trace"]) == 2
    assert told["reason"]["action"]
    said = dlt("show", "--service", SERVICE, "--key", id_of(1)).out
    assert "parked since" in said
    assert "life of the order" in said
    assert dlt("show", "--service", SERVICE, "--key", id_of(1), "--no-trace", "--json").json["trace"] is None
    missing = dlt("show", "--service", SERVICE, "--key", "nobody")
    assert (missing.exit_code, "has no letter under the key 'nobody'" in missing.err) == (1, True)


def test_a_certificate_that_was_altered_is_found_out(shop: Any, dlt: Callable) -> None:
    parked_orders(shop, 1)
    dlt(*CHOICE, "--all")
    dlt("run", "p.json")
    path = Path("p.certificate.json")
    true = json.loads(path.read_text())
    for part, lie in (
        ("messages", {"in": 2, "applied": 1, "ignored": 1}),
        ("operator", "nobody"),
        ("effects", {**true["effects"], "digest": digest(b"")}),
        ("erp_documents", {"ErpDocumentPosted": {"count": 9}}),
        (
            "chain",
            {**true["chain"], **{p: {**link, "hash": "0"} for p, link in true["chain"].items() if link}},
        ),
    ):
        path.write_text(json.dumps({**true, part: lie}))
        answer = dlt("certificate", "p.json", "--verify", str(path))
        assert answer.exit_code == 1, part
        assert f"differs: {part}" in answer.out
    path.write_text(json.dumps(true))
    assert dlt("certificate", "p.json", "--verify", str(path)).exit_code == 0


def test_an_effect_that_lies_on_its_topic_twice_is_a_problem(shop: Any, dlt: Callable) -> None:
    parked_orders(shop, 1)
    dlt(*CHOICE, "--all")
    assert dlt("run", "p.json").exit_code == 0
    [received] = shop.backbone.entries(OrderReceived)
    producer = shop.broker().producer("careless")
    producer.init_transactions()
    producer.begin()
    again = received.record
    producer.produce(again.topic, key=again.key, value=again.value, headers=again.headers)
    producer.commit()
    answer = dlt("certificate", "p.json")
    assert answer.exit_code == 1
    assert f"problem: event {received.meta.event_id} lies on its topic 2 times" in answer.out


def test_an_effect_that_is_on_no_topic_is_a_problem_unless_it_may_have_expired(
    shop: Any, dlt: Callable
) -> None:
    parked_orders(shop, 1)
    dlt(*CHOICE, "--all")
    assert dlt("run", "p.json").exit_code == 0
    [received] = shop.backbone.entries(OrderReceived)
    shop.at_work = False
    shop.backbone.broker.compact(OrderReceived.TOPIC)  # of an order only its last event is left
    answer = dlt("certificate", "p.json")
    assert answer.exit_code == 1
    assert f"event {received.meta.event_id} is on no topic" in answer.out
    place = TopicPartition(received.record.topic, received.record.partition)
    shop.broker().admin().delete_records({place: received.record.offset + 1})
    assert dlt("certificate", "p.json").exit_code == 0


def test_a_message_that_left_its_queue_twice_is_a_problem(shop: Any, dlt: Callable) -> None:
    parked_orders(shop, 1)
    dlt(*CHOICE, "--all")
    assert dlt("run", "p.json").exit_code == 0
    shop.at_work = False
    [entry] = shop.entries()
    second = replace(
        entry, number=1, previous=digest(entry.to_bytes()), plan="another", messages=entry.messages[:1]
    )
    producer = shop.broker().producer("faulty")
    producer.init_transactions()
    producer.begin()
    producer.produce(names.replays_topic(SERVICE), key=entry.key.encode(), value=second.to_bytes())
    producer.commit()
    problems = dlt("certificate", "p.json", "--json").json["problems"]
    [twice] = [each for each in problems if "left its queue 2 times" in each]
    assert entry.key in twice
