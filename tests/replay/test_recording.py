"""A recording that is made of a run says what the run did, for the keys that it keeps; accepting takes what deciders do now."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from crossdock_canonical.identity import order_id
from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    CapturePayment,
    ChannelLine,
    ChannelOrderReceived,
    IntakeKind,
    ItemMapped,
    ItemReference,
    LocationKind,
    Tender,
    TenderState,
)
from crossdock_canonical.specification import T0
from crossdock_local import addresses
from crossdock_simulation.backbone import Backbone
from crossdock_tools import main
from crossdock_tools.replaying import command, recording
from crossdock_tools.replaying.command import ReplayError, write_recordings
from crossdock_tools.replaying.services import UnknownService, load, policies

SETTINGS = {"CROSSDOCK_ORDER_ORCHESTRATOR_BACKORDER_CHANNELS": '["shopify"]', "UNRELATED": "1"}


def order(number: int) -> ChannelOrderReceived:
    amounts = Amounts(currency="EUR", goods=1000, tax=190)
    total = Money(minor=amounts.due, currency="EUR")
    return ChannelOrderReceived(
        order_id=order_id(channel="shopify", shop="shop", external_id=str(number)),
        channel="shopify",
        shop="shop",
        external_id=str(number),
        kind=IntakeKind.SNAPSHOT,
        revision_at=T0,
        revision_id=f"r{number}",
        placed_at=T0,
        currency="EUR",
        total=total,
        lines=(
            ChannelLine(
                line_id="L1", items=(ItemReference(scheme="sku", value="A"),), units=1, amounts=amounts
            ),
        ),
        tenders=(Tender(reference=f"T{number}", state=TenderState.AUTHORIZED, amount=total),),
    )


@pytest.fixture
def run() -> Backbone:
    backbone = Backbone()
    backbone.send(ItemMapped(reference="sku:A", scheme="sku", value="A", sku="A"))
    backbone.location("WH", kind=LocationKind.WAREHOUSE)
    backbone.stock("A", WH=10)
    backbone.send(*(order(number) for number in range(6)))
    backbone.run()
    backbone.send(order(3))
    backbone.run()
    return backbone


def write(run: Backbone, folder: Path, *, keys: int = 8, service: str = "order-orchestrator") -> Path:
    write_recordings(run.broker, run.registry, SETTINGS, [service], out=folder, keys_max=keys)
    return folder / f"{service}.jsonl"


def test_few_keys_show_all_that_the_service_did(run: Backbone, tmp_path: Path) -> None:
    path = write(run, tmp_path)
    header = recording.read_header(path)
    assert header.settings == {key: value for key, value in SETTINGS.items() if key != "UNRELATED"}
    service = load(header.service, header.settings)
    found = recording.read(path, service)
    assert found.differences(service) == []
    assert len(found.states) < 6, "six orders went the same way, but for the one that came twice"
    assert [code for turn in found.turns for _, _, code in turn.turn.ignored] == ["order.duplicate"]


@pytest.mark.parametrize("service", ["erp-poster", "inventory-availability", "fulfillment-router"])
def test_answers_and_table_rows_are_kept(run: Backbone, tmp_path: Path, service: str) -> None:
    path = write(run, tmp_path, service=service)
    made = load(service, {})
    found = recording.read(path, made)
    assert found.differences(made) == []
    if service == "erp-poster":
        assert any(turn.turn.answers for turn in found.turns)
    else:
        assert any(turn.turn.tables for turn in found.turns)


def one_cent_more(service: Any) -> Any:
    def decide(*arguments: Any, **more: Any) -> Any:
        events = service.decide(*arguments, **more)
        return tuple(
            replace(each, amount=replace(each.amount, minor=each.amount.minor + 1))
            if isinstance(each, CapturePayment)
            else each
            for each in events
        )

    return replace(service, decide=decide)


def test_a_changed_decision_is_a_difference_until_it_is_accepted(run: Backbone, tmp_path: Path) -> None:
    path = write(run, tmp_path)
    before = path.read_text().splitlines()
    changed = one_cent_more(load("order-orchestrator", SETTINGS))
    found = recording.read(path, changed)
    [told] = {change for each in found.differences(changed) for change in each.changes}
    assert told == "amount.minor: 1190 -> 1191"
    recording.write(found.accepted(changed), changed, path)
    assert recording.read(path, changed).differences(changed) == []
    after = path.read_text().splitlines()
    different = [new for old, new in zip(before, after, strict=True) if old != new]
    assert different
    assert all(line.startswith('{"out": {"CapturePayment"') for line in different)


def test_accepting_what_has_not_changed_leaves_the_file_alone(run: Backbone, tmp_path: Path) -> None:
    path = write(run, tmp_path)
    before = path.read_text()
    service = load("order-orchestrator", SETTINGS)
    recording.write(recording.read(path, service).accepted(service), service, path)
    assert path.read_text() == before


def test_a_run_under_other_settings_is_not_recorded(run: Backbone, tmp_path: Path) -> None:
    other = {**SETTINGS, "CROSSDOCK_ORDER_ORCHESTRATOR_FRAUD_THRESHOLD_MAJOR": "1"}
    with pytest.raises(ReplayError, match="differs from its replay"):
        write_recordings(run.broker, run.registry, other, ["order-orchestrator"], out=tmp_path, keys_max=8)


@dataclass(frozen=True)
class FakeCluster:
    """`crossdock_tools.cluster.Cluster` over a backbone in memory."""

    run: Backbone
    bootstrap_servers: str = addresses.bootstrap_servers()

    def broker(self) -> object:
        return self.run.broker

    def registry(self) -> object:
        return self.run.registry


@pytest.fixture
def crossdock(
    run: Backbone, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run `crossdock replay ...` on the run; returns exit code and standard output."""

    @contextmanager
    def reachable(*, demo: bool) -> Iterator[FakeCluster]:
        yield FakeCluster(run)

    monkeypatch.setattr(command, "reachable_cluster", reachable)
    for key, value in SETTINGS.items():
        monkeypatch.setenv(key, value)

    def invoke(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["crossdock", "replay", *arguments])
        with pytest.raises(SystemExit) as ended:
            main.main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out + said.err  # type: ignore[return-value]

    return invoke


def test_the_command_says_what_it_replayed(crossdock: Callable[..., tuple[int, str]]) -> None:
    code, said = crossdock("check")
    assert code == 0
    assert "6 services" in said
    assert said.rstrip().endswith(": 0 differences")
    code, said = crossdock("check", "--service", "erp-poster", "--json")
    report = json.loads(said)
    assert (code, report["checked"]["services"], report["differences"]) == (0, 1, [])
    assert report["checked"]["answers"] > 0


def test_the_command_prints_differences_and_fails(
    crossdock: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSDOCK_ORDER_ORCHESTRATOR_FRAUD_THRESHOLD_MAJOR", "1")
    code, said = crossdock("check", "--service", "order-orchestrator")
    assert code == 1
    assert "OrderReleased" in said
    assert "is no longer published" in said
    assert not said.rstrip().endswith(": 0 differences")


def test_the_command_refuses_what_it_does_not_know(
    crossdock: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    code, said = crossdock("check", "--service", "nobody")
    assert (code, "no service nobody; there are " in said) == (1, True)
    code, said = crossdock("record", "--out", str(tmp_path / "gone"))
    assert (code, "is not a folder" in said) == (1, True)


def test_the_command_records(crossdock: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    code, said = crossdock("record", "--out", str(tmp_path), "--service", "fulfillment-router")
    assert (code, said.startswith("wrote ")) == (0, True)
    assert [path.name for path in tmp_path.iterdir()] == ["fulfillment-router.jsonl"]


def test_a_service_gets_exactly_the_settings_that_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSDOCK_RETURNS_RETENTION_S", "not a number")
    assert load("returns", {}).name == "returns"
    with pytest.raises(UnknownService, match="no service nobody"):
        load("nobody", {})


def test_addresses_are_no_policy() -> None:
    environment = {
        "CROSSDOCK_ERP_POSTER_ERPS": '{"cloud": "http://erp"}',
        "CROSSDOCK_ERP_POSTER_SETTLE_S": "4",
        "CROSSDOCK_RETURNS_RETENTION_S": "9",
    }
    assert policies("erp-poster", environment) == {"CROSSDOCK_ERP_POSTER_SETTLE_S": "4"}
