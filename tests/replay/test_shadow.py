"""`crossdock replay shadow`: a candidate decides recorded traffic beside today's version; what it does otherwise is told."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from crossdock_canonical.decider import Rejected
from crossdock_canonical.records import ChannelOrderReceived
from crossdock_eventing import names
from crossdock_eventing.broker.interface import TopicPartition
from crossdock_eventing.broker.memory import MemoryBroker
from crossdock_eventing.journal import Turn
from crossdock_eventing.state import DueTimer
from crossdock_simulation.planting import an_order, id_of
from crossdock_tools.replaying.errors import ReplayError
from crossdock_tools.replaying.window import Bound, bound, split_at_moment, split_at_offset

REPOSITORY = Path(__file__).parents[2]
SERVICE = "order-orchestrator"
TOPIC = ChannelOrderReceived.TOPIC
JOURNAL = names.journal_topic(SERVICE)
Cli = Callable[..., Any]

DECIDERS = """
from dataclasses import replace

from crossdock_canonical.decider import Rejected
from crossdock_canonical.records import CapturePayment, ChannelOrderReceived
from crossdock_order_orchestrator.decide import decide as today


def same(command, state, **more):
    return today(command, state, **more)


def one_cent_more(command, state, **more):
    return tuple(
        replace(each, amount=replace(each.amount, minor=each.amount.minor + 1))
        if isinstance(each, CapturePayment)
        else each
        for each in today(command, state, **more)
    )


def stricter(command, state, **more):
    if isinstance(command, ChannelOrderReceived) and command.external_id == "4":
        raise Rejected("order.unknown_sku", "no fours")
    return today(command, state, **more)


def failing(command, state, *, now, items, policy):
    if getattr(command, "external_id", "") == "4":
        raise ValueError("no fours")
    return today(command, state, now=now, items=items, policy=policy)
"""


@pytest.fixture
def deciders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module `shadow_deciders` where the command is called."""
    (tmp_path / "shadow_deciders.py").write_text(DECIDERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("shadow_deciders", None)


@pytest.fixture
def shadow(replay_cli: Cli, deciders: None, monkeypatch: pytest.MonkeyPatch, recorded_day: Any) -> Cli:
    """Run the command; nothing may be produced meanwhile, and no group joined."""
    assert recorded_day

    def never(*_: object, **__: object) -> Any:
        raise AssertionError("a shadow run only reads")

    def invoke(*arguments: str) -> Any:
        with monkeypatch.context() as patched:
            patched.setattr(MemoryBroker, "producer", never)
            patched.setattr(MemoryBroker, "consumer", never)
            return replay_cli("shadow", "--service", SERVICE, *arguments)

    return invoke


def orders(said: Any) -> set[str]:
    """The threads that differ."""
    return {each["thread"] for each in said.json["differences"]}


def ids(*numbers: int) -> set[str]:
    return {id_of(number) for number in numbers}


def offset_of(day: Any, number: int) -> tuple[int, int]:
    """Partition and offset of the order's first message."""
    return next(
        (each.partition, each.offset) for each in day.records(TOPIC) if each.key == id_of(number).encode()
    )


def test_a_candidate_that_decides_the_same_differs_in_nothing(shadow: Cli) -> None:
    said = shadow("--candidate", "shadow_deciders:same")
    assert said.exit_code == 0, said.out
    assert said.out.rstrip().endswith(": 0 differences")
    said = shadow("--candidate", "shadow_deciders:same", "--json")
    assert said.json["differences"] == []
    assert said.json["unlike_record"] == 0
    assert said.json["window"]["released"] == 1
    assert said.json["window"]["keys"] >= 6


def test_a_changed_decider_shows_the_difference(shadow: Cli) -> None:
    said = shadow("--candidate", "shadow_deciders:one_cent_more")
    assert said.exit_code == 1
    assert f"{SERVICE} {id_of(4)}: CapturePayment (" in said.out
    assert "has changed\n    amount.minor: " in said.out
    said = shadow("--candidate", "shadow_deciders:one_cent_more", "--json")
    captures = [each for each in said.json["differences"] if "CapturePayment" in each["what"]]
    assert {each["thread"] for each in captures} == ids(1, 4, 5, 6)
    for each in captures:
        [change] = each["changes"]
        was, now = change.removeprefix("amount.minor: ").split(" -> ")
        assert int(now) == int(was) + 1
    assert orders(said) == ids(1, 4, 5, 6), "what did not change is not told"


def test_offsets_bound_the_window(recorded_day: Any, shadow: Cli) -> None:
    partition, offset = offset_of(recorded_day, 4)
    one_message = (
        "--topic",
        TOPIC,
        "--from",
        f"{partition}:{offset}",
        "--to",
        f"{partition}:{offset + 1}",
        "--json",
    )
    said = shadow("--candidate", "shadow_deciders:stricter", *one_message)
    assert said.exit_code == 1
    assert (said.json["partitions"], said.json["window"]["messages"]) == ([partition], 1)
    assert "parked message 0 is new" in [each["what"] for each in said.json["differences"]]
    before = shadow(
        "--candidate", "shadow_deciders:stricter", "--topic", TOPIC, "--to", f"{partition}:{offset}", "--json"
    )
    assert (before.exit_code, before.json["differences"]) == (0, [])
    said = shadow("--candidate", "shadow_deciders:one_cent_more", *one_message)
    assert said.exit_code == 0, "the order is captured on a later message of another topic"
    changed = ("--candidate", "shadow_deciders:one_cent_more", "--topic", TOPIC, "--json", "--from")
    assert id_of(4) in orders(shadow(*changed, f"{partition}:{offset}"))
    assert orders(shadow(*changed, "0")) == ids(1, 4, 5, 6)


@pytest.mark.parametrize("topic", [(), ("--topic", TOPIC)], ids=["transactions", "messages"])
def test_times_bound_the_window(recorded_day: Any, shadow: Cli, topic: tuple[str, ...]) -> None:
    at = recorded_day.later.isoformat()
    later = shadow("--candidate", "shadow_deciders:one_cent_more", *topic, "--from", at, "--json")
    assert orders(later) == ids(4, 5, 6)
    earlier = shadow("--candidate", "shadow_deciders:one_cent_more", *topic, "--to", at, "--json")
    assert orders(earlier) & ids(1, 4, 5, 6) == ids(1)
    whole, parts = (
        shadow("--candidate", "shadow_deciders:same", "--json").json["window"],
        [each.json["window"]["messages"] for each in (later, earlier)],
    )
    if not topic:
        assert sum(parts) == whole["messages"], "the two windows join"


def test_a_window_begins_with_the_state_that_was_then(recorded_day: Any, shadow: Cli) -> None:
    """From the release on: what is parked at that time is there, or nothing could be released."""
    [park] = recorded_day.records(names.retry_topic(SERVICE))
    at = datetime.fromtimestamp(park.timestamp_ms / 1000, UTC)
    said = shadow("--candidate", "shadow_deciders:one_cent_more", "--from", at.isoformat(), "--json")
    assert said.json["window"]["released"] == 1
    assert id_of(1) in orders(said)
    assert said.json["unlike_record"] == 0


def test_a_service_that_was_repaired_begins_with_what_was_parked(
    recorded_day: Any, shadow: Cli, replay_cli: Cli
) -> None:
    """Today's version would never have rejected it; at the window's beginning it was parked all the same."""
    run = recorded_day.backbone
    sound = run.services[SERVICE]

    def faulty(command: Any, state: Any, **more: Any) -> Any:
        if getattr(command, "external_id", "") == "9":
            raise Rejected("order.unknown_sku", "a bug")
        return sound.decide(command, state, **more)

    for decide in (faulty, sound.decide):
        run.workers[SERVICE].close()
        run.services[SERVICE] = replace(sound, decide=decide)
        run.workers[SERVICE] = run.worker(SERVICE)
        run.run()
        if decide is faulty:
            run.send(an_order(9, ("A", 1, 9000)))
            run.run()
            run.pass_time(hours=1)
    at = run.clock.now().isoformat()
    run.clock.advance(0.001)
    recorded_day.release(id_of(9))
    run.run()
    said = shadow("--candidate", "shadow_deciders:one_cent_more", "--from", at, "--json")
    assert said.json["unlike_record"] == 0
    assert said.json["window"]["released"] == 1
    assert orders(said) == ids(9)
    assert replay_cli("rebuild", "--service", SERVICE).exit_code == 0


def test_a_candidate_that_rejects_parks_and_what_follows_is_gone(shadow: Cli) -> None:
    said = shadow("--candidate", "shadow_deciders:stricter", "--json")
    assert said.exit_code == 1
    told = [each["what"] for each in said.json["differences"]]
    assert "is now rejected as order.unknown_sku" in told
    assert any(each.startswith("OrderReceived (") and "no longer published" in each for each in told)
    assert "the parked key is new" in told
    assert "parked message 0 is new" in told
    assert "the state is gone" in told


def test_a_candidate_that_fails_is_a_difference_and_no_failure(shadow: Cli) -> None:
    said = shadow("--candidate", "shadow_deciders:failing")
    assert said.exit_code == 1
    assert f"{id_of(4)}: ChannelOrderReceived fails with ValueError: no fours" in said.out


def test_another_setting_is_a_candidate(shadow: Cli) -> None:
    said = shadow("--candidate-setting", "CROSSDOCK_ORDER_ORCHESTRATOR_FRAUD_THRESHOLD_MAJOR=1", "--json")
    assert said.exit_code == 1
    assert any("OrderReleased" in each["what"] for each in said.json["differences"])
    said = shadow("--candidate-setting", "CROSSDOCK_ORDER_ORCHESTRATOR_FRAUD_TRESHOLD=1")
    assert (said.exit_code, "has no setting CROSSDOCK_ORDER_ORCHESTRATOR_FRAUD_TRESHOLD; " in said.err) == (
        1,
        True,
    )
    said = shadow("--candidate-setting", "CROSSDOCK_ORDER_ORCHESTRATOR_FRAUD_THRESHOLD_MAJOR=x")
    assert (said.exit_code, "the candidate cannot be composed: ValidationError" in said.err) == (1, True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Another checkout: the service and the canonical model as they are here."""
    place = tmp_path / "other"
    for each in (f"services/{SERVICE}", "libs/canonical"):
        shutil.copytree(
            REPOSITORY / each, place / each, ignore=shutil.ignore_patterns("tests", "__pycache__")
        )
    return place


def test_another_checkout_is_run_in_a_process_of_its_own(
    recorded_day: Any, shadow: Cli, checkout: Path
) -> None:
    arguments = ("--candidate-path", str(checkout), "--json", "--from", recorded_day.later.isoformat())
    said = shadow(*arguments)
    assert (said.exit_code, said.json["differences"]) == (0, [])
    assert said.json["window"]["outputs"] > 10
    model = checkout / f"services/{SERVICE}/crossdock_order_orchestrator/decide.py"
    model.write_text(
        model.read_text()
        + """

_today = decide


def decide(command: Any, state: Any, **more: Any) -> Any:
    from dataclasses import replace

    from crossdock_canonical.records import CapturePayment

    return tuple(
        replace(each, amount=replace(each.amount, minor=each.amount.minor + 1))
        if isinstance(each, CapturePayment)
        else each
        for each in _today(command, state, **more)
    )
"""
    )
    said = shadow(*arguments)
    assert said.exit_code == 1
    assert orders(said) == ids(4, 5, 6)
    changes = [
        change
        for each in said.json["differences"]
        if "CapturePayment" in each["what"]
        for change in each["changes"]
    ]
    assert len(changes) == 3
    assert all(each.startswith("amount.minor: ") for each in changes)
    assert "crossdock_order_orchestrator.decide" in sys.modules
    assert str(checkout) not in str(sys.modules["crossdock_order_orchestrator.decide"].__file__)


def test_records_of_another_version_are_told_in_their_own_fields(shadow: Cli, checkout: Path) -> None:
    """The candidate's types need not be these: what it publishes is compared field by field."""
    records = checkout / "libs/canonical/crossdock_canonical/records/order.py"
    text = records.read_text()
    assert "class OrderReceived:" in text
    head, tail = text.split("class OrderReceived:", 1)
    records.write_text(head + "class OrderReceived:\n    hurry: bool = True" + tail)
    said = shadow("--candidate-path", str(checkout), "--json")
    assert said.exit_code == 1, said.err
    told = {(each["what"].partition(" (")[0], *each["changes"]) for each in said.json["differences"]}
    assert told == {("OrderReceived", "hurry: (none) -> True")}


def test_a_checkout_that_cannot_be_run_is_one_line(shadow: Cli, checkout: Path, tmp_path: Path) -> None:
    said = shadow("--candidate-path", str(tmp_path))
    assert (said.exit_code, f"holds neither services/{SERVICE}/" in said.err) == (1, True)
    (checkout / f"services/{SERVICE}/crossdock_order_orchestrator/service.py").write_text(
        "import nothing_of_the_sort\n"
    )
    said = shadow("--candidate-path", str(checkout))
    assert said.exit_code == 1
    assert said.err.count("\n") == 1
    assert (
        "cannot be run: the candidate cannot be composed: " in said.err
        or "cannot be run: no service" in said.err
    )


def test_beyond_retention_is_refused_by_partition(recorded_day: Any, shadow: Cli) -> None:
    lost = recorded_day.partition_of(4)
    recorded_day.broker().admin().delete_records({TopicPartition(JOURNAL, lost): 1})
    said = shadow("--candidate", "shadow_deciders:same")
    assert (said.exit_code, said.out) == (1, "")
    assert "beyond retention" in said.err
    assert f"partition {lost} ({JOURNAL}/{lost} begins at 1)" in said.err
    assert said.err.count("partition ") == 1
    others = {recorded_day.partition_of(number) for number in (1, 5, 6)} - {lost}
    said = shadow(
        "--candidate",
        "shadow_deciders:same",
        *(each for other in sorted(others) for each in ("--partition", str(other))),
    )
    assert said.exit_code == 0, said.err


def test_inputs_that_retention_took_are_beyond_it_too(recorded_day: Any, shadow: Cli) -> None:
    partition, _ = offset_of(recorded_day, 1)
    recorded_day.broker().admin().delete_records({TopicPartition(TOPIC, partition): 1})
    said = shadow("--candidate", "shadow_deciders:same", "--topic", TOPIC, "--from", "0")
    assert said.exit_code == 1
    assert f"partition {partition} ({TOPIC}/{partition} begins at 1, the journal needs 0)" in said.err


def test_it_runs_as_one_line_with_flags(replay_cli: Cli, deciders: None) -> None:
    said = replay_cli(
        "--service",
        SERVICE,
        "--topic",
        TOPIC,
        "--from",
        "0",
        "--to",
        "999",
        "--shadow",
        "--candidate",
        "shadow_deciders:one_cent_more",
    )
    assert said.exit_code == 1
    assert "amount.minor" in said.out


def test_who_does_not_repeat_the_record_is_told_so(shadow: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSDOCK_ORDER_ORCHESTRATOR_FRAUD_THRESHOLD_MAJOR", "1")
    said = shadow("--candidate", "shadow_deciders:same")
    assert said.exit_code == 0
    assert f"note: today's {SERVICE} goes another way than the record in " in said.out
    assert said.out.rstrip().endswith(": 0 differences"), "both are wrong in the same way"


def test_what_cannot_be_run_is_refused_with_a_reason(shadow: Cli) -> None:
    same = ("--candidate", "shadow_deciders:same")
    mine = (*same, "--topic", TOPIC)
    for arguments, says in (
        ((), "name the candidate: --candidate module:function"),
        (("--candidate", "nothing_of_the_sort:decide"), "no module nothing_of_the_sort"),
        (("--candidate", "shadow_deciders:nobody"), "shadow_deciders has no nobody"),
        (("--candidate", "shadow_deciders"), "names no decider: write module:function"),
        (("--candidate-setting", "X"), "'X' is no setting: write NAME=VALUE"),
        ((*same, "--topic", "retail.nothing.v1"), f"{SERVICE} does not read retail.nothing.v1"),
        ((*same, "--from", "5"), "say which with --topic"),
        ((*same, "--from", "soon"), "'soon' is no bound"),
        ((*same, "--from", "2026-03-02T09:00:00"), "in which time zone"),
        ((*mine, "--from", "9", "--to", "3"), "lies before --from (9)"),
        (
            (*mine, "--from", "900"),
            f"nothing was taken in this window: {TOPIC} holds, by partition, offsets ",
        ),
        ((*same, "--from", "2036-03-02T09:00:00Z"), "nothing was taken in this window"),
        ((*same, "--partition", "99"), "there is no partition 99"),
        ((*mine, "--partition", "1", "--from", "0:1"), "no partition in common"),
    ):
        said = shadow(*arguments)
        assert (said.exit_code, said.out) == (1, ""), says
        assert says in said.err
        assert said.err.count("\n") == 1, said.err


def test_a_transaction_is_cut_within_a_run() -> None:
    timer = DueTimer(7, "k", "t")
    turn = Turn(
        5,
        answers=[("k", "c", "e", {})],
        released=[("p", 2)],
        runs=[("b", 0, 2), ("a", 3, 8), ("b", 2, 3)],
        timers=[timer],
        ignored=[("", 0, "answer"), ("a", 3, "early"), ("a", 6, "late"), ("", 7, "timer")],
        rejected=[("b", 1, "first"), ("b", 2, "last")],
    )
    earlier, after = Turn(4, runs=[("a", 0, 3)]), Turn(6, runs=[("a", 8, 9)])
    before, rest = split_at_offset([earlier, turn, after], "a", 6)
    assert before == [
        earlier,
        Turn(
            5,
            answers=turn.answers,
            released=turn.released,
            runs=[("b", 0, 2), ("a", 3, 6)],
            ignored=[("", 0, "answer"), ("a", 3, "early")],
            rejected=[("b", 1, "first")],
        ),
    ]
    assert rest == [
        Turn(
            5,
            runs=[("a", 6, 8), ("b", 2, 3)],
            timers=[timer],
            ignored=[("a", 6, "late"), ("", 7, "timer")],
            rejected=[("b", 2, "last")],
        ),
        after,
    ]
    assert split_at_offset([earlier, after], "a", 3) == ([earlier], [after]), (
        "between transactions nothing is cut"
    )
    assert split_at_offset([earlier], "a", 3) == ([earlier], [])
    assert split_at_moment([earlier, turn, after], 5) == ([earlier], [turn, after])


def test_bounds_are_offsets_or_times() -> None:
    now = datetime(2026, 3, 2, 12, tzinfo=UTC)
    assert bound("120", now) == Bound(offset=120)
    assert bound("0:120,3:88", now) == Bound(places=((0, 120), (3, 88)))
    assert bound("2h", now) == bound("2026-03-02T10:00:00Z", now)
    assert bound("90min", now).at_us == int((now - timedelta(minutes=90)).timestamp() * 1_000_000)
    with pytest.raises(ReplayError, match="is no bound"):
        bound("0:120,", now)
