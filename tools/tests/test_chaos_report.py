"""What a chaos run reads out of its processes' logs."""

from __future__ import annotations

import json
from pathlib import Path

from crossdock_tools.audit.report import Check, Report
from crossdock_tools.chaos.report import ChaosReport, how_ended, read_logs, unproven
from crossdock_tools.chaos.stack import keep_evidence


def test_known_ends_are_counted_and_crashes_are_named(tmp_path: Path) -> None:
    lines = [
        {"event": "service.failed", "error": "Fenced", "detail": "_FENCED: by a newer instance"},
        {"event": "service.failed", "error": "Fenced", "detail": "_FENCED: again"},
        {"event": "task.restored"},
        {"event": "service.crashed", "exception": "Traceback ...\nKeyError: 'x'"},
    ]
    (tmp_path / "returns-0.log").write_text("not JSON\n" + "\n".join(map(json.dumps, lines)) + "\n")
    (tmp_path / "channel-gateway-0.log").write_text(json.dumps({"event": "gateway.part_failed"}) + "\n")
    told = read_logs(tmp_path)
    assert told.ends == {"Fenced _FENCED": 2}
    assert told.recoveries == {"tasks restored from their changelogs": 1}
    assert [each.split(" (see")[0] for each in told.crashes] == [
        "channel-gateway-0: gateway.part_failed",
        "returns-0: KeyError: 'x'",
    ]


def test_a_report_says_whether_the_run_passed(tmp_path: Path) -> None:
    report = ChaosReport(7, 30, faults={"service killed (SIGKILL)": 30})
    report.write(tmp_path / "report.json")
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["ok"] is True
    assert (written["seed"], written["faults_asked"]) == (7, 30)
    report.problems.append("anything")
    assert not report.ok
    assert len(list(report.tables())) == 2
    assert how_ended(-9) == "kill -9"
    assert how_ended(1) == "exit code 1"


def test_a_check_that_had_nothing_to_look_at_fails_the_run() -> None:
    """As most have when the topics were written to all the while."""
    idle = Check(3, "an idle one", 0, note="the cluster was written to while it was read")
    assert unproven(Report((Check(1, "a sound one", 9), Check(2, "a broken one", 0, ("x",)), idle))) == [
        "invariant 3 an idle one: nothing to check (the cluster was written to while it was read)"
    ]


def test_what_a_failed_run_left_outlives_the_next_one(tmp_path: Path) -> None:
    directory = tmp_path / "chaos"
    (directory / "kafka").mkdir(parents=True)
    (directory / "lock").touch()
    keep_evidence(directory)
    assert (directory / "kafka").exists()  # no report: that run is still under way, or was stopped

    (directory / "report.json").write_text('{"ok": true, "seed": 4}')
    keep_evidence(directory)
    assert (directory / "kafka").exists()

    (directory / "report.json").write_text('{"ok": false, "seed": 5}')
    keep_evidence(directory)
    assert [part.name for part in directory.iterdir()] == ["lock"]
    assert (tmp_path / "chaos-failed-5" / "kafka").exists()
