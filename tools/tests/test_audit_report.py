"""The auditor's verdict: nothing checked is no proof, and everything found is shown."""

from __future__ import annotations

from io import StringIO
from typing import Any

from rich.console import Console

from crossdock_tools.audit.report import Check, Report

SOUND = Check(1, "a sound one", 1_200)
BROKEN = Check(8, "a broken one", 3, tuple(f"thing {number}" for number in range(25)))
IDLE = Check(12, "an idle one", 0, note="no books given")


def shown(report: Report) -> str:
    console = Console(file=StringIO(), width=120)
    console.print(report.table())
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_sums_and_verdict() -> None:
    report = Report((SOUND, BROKEN, IDLE))
    assert (report.ok, report.checked, len(report.violations)) == (False, 1_203, 25)
    assert report.violations[0] == "8 a broken one: thing 0"
    assert report.unchecked == (IDLE,)
    assert Report((SOUND, IDLE)).ok


def test_a_violation_among_nothing_counted_is_not_idle() -> None:
    check = Check(1, "x", 0, ("found",))
    assert Report((check,)).unchecked == ()
    assert "nothing to check" not in shown(Report((check,)))


def test_the_table_says_where_there_was_nothing_to_check() -> None:
    text = shown(Report((SOUND, BROKEN, IDLE)))
    assert "1,200" in text
    [line] = [line for line in text.splitlines() if "an idle one" in line]
    assert "nothing to check" in line
    assert "no books given" in line


def test_findings_are_cut_short_and_say_so() -> None:
    lines = Report((BROKEN,)).findings(20)
    assert len(lines) == 21
    assert lines[-1] == "8 a broken one: and 5 more"
    assert len(Report((BROKEN,)).findings(25)) == 25


def test_json_for_programs() -> None:
    found = Report((SOUND, BROKEN, IDLE)).to_json()
    assert {name: found[name] for name in ("ok", "checked", "violations", "unchecked")} == {
        "ok": False,
        "checked": 1_203,
        "violations": 25,
        "unchecked": ["an idle one"],
    }
    assert found["checks"][1]["violations"][0] == "thing 0"


def test_a_check_from_outside_takes_its_place_among_the_others(world: Any) -> None:
    report = world.audit(supplied=[Check(6, "replay says the same", 7)])
    numbers = [check.invariant for check in report.checks]
    assert numbers == sorted(numbers)
    assert "replay says the same" in {check.name for check in report.checks}


def test_an_empty_cluster_proves_nothing(world: Any) -> None:
    report = world.audit(drained=True)
    assert report.ok
    idle = {check.name for check in report.unchecked}
    asks_for_offsets = {"group, journal and changelog stand at one offset"}
    assert {check.name for check in report.checks} - idle == asks_for_offsets


def test_names_of_checks_are_unique(world: Any) -> None:
    names = [check.name for check in world.audit(drained=True).checks]
    assert len(names) == len(set(names))
