"""A recording that is made of a run says what the run did, for the keys that it keeps; accepting takes what deciders do now."""

from __future__ import annotations

from dataclasses import replace
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
from crossdock_simulation.backbone import Backbone
from crossdock_tools.replaying import recording
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
