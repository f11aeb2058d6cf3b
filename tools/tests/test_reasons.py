"""`crossdock reasons`: what it prints. That the catalogue is whole and true is tests/architecture/test_reason_codes.py's to say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from crossdock_tools.main import main
from crossdock_tools.reasons import catalogue, reason, steps


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["crossdock", "reasons", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_one_code_in_full_with_the_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "order.total_mismatch") == 0
    told = capsys.readouterr().out
    found = reason("order.total_mismatch")
    assert found is not None
    assert " ".join(told.split()).count(found.meaning) == 1
    assert " ".join(told.split()).count(found.action) == 1
    for line in (
        "severity    error",
        "owner       channel-integration",
        "told by     a dead letter of order-orchestrator",
        "then        edit or discard",
    ):
        assert line in told.splitlines()
    assert "--service order-orchestrator --code order.total_mismatch --reason TEXT" in told
    assert "dlt run plan.json --dry-run" in told


def test_a_code_that_is_none_names_those_that_come_near(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "order.unknown_skus") == 1
    assert "did you mean order.unknown_sku" in capsys.readouterr().err
    assert run(monkeypatch, "java.lang.NullPointerException") == 1
    assert "`crossdock reasons` lists them all" in capsys.readouterr().err


def test_json_for_programs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [each["code"] for each in told] == list(catalogue())
    assert run(monkeypatch, "settlement.control_sum", "--json") == 0
    one = json.loads(capsys.readouterr().out)
    assert one == next(each for each in told if each["code"] == "settlement.control_sum")
    assert (one["told_by"], one["service"], one["remedy"]) == (
        "SettlementRefused",
        "settlement-reconciler",
        [],
    )


def test_the_table_has_every_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch) == 0
    lines = capsys.readouterr().out.splitlines()
    for code in catalogue():
        assert any(f" {code} " in line for line in lines), code


def test_the_page_is_written_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert run(monkeypatch, "--out", str(tmp_path / "codes.md")) == 0
    text = (tmp_path / "codes.md").read_text(encoding="utf-8")
    assert all(f"### `{code}`" in text for code in catalogue())


def test_the_commands_act_on_the_service_that_has_the_letter() -> None:
    undecodable = reason("contract.unknown_schema")
    assert undecodable is not None
    assert all(
        "--service SERVICE" in line for label, line in steps(undecodable) if label in ("retry", "discard")
    )
    told = dict(steps(undecodable, "returns"))
    assert told["retry"] == (
        "dlt plan --service returns --code contract.unknown_schema --reason TEXT --out plan.json"
    )
    behind = reason("parked.behind")
    assert behind is not None
    assert steps(behind, "returns") == []


def test_a_foreign_code_has_no_reason() -> None:
    assert reason("org.apache.kafka.common.errors.SerializationException") is None
