"""The auditor's verdict: what was checked, how often, and what was found. Used by every check, the command and the simulator.

A check that found nothing to look at says so: no violation among nothing is no proof.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.table import Table

_SHOWN_MAX = 20


@dataclass(frozen=True, slots=True)
class Check:
    """One statement, held against all that it is about.

    invariant: number on the list of invariants, which the report is sorted by.
    name: the statement in a few words, unique in a report.
    checked: how many things it was held against.
    violations: one text each, naming the thing so that it can be looked up: topic[partition]@offset, order, reference.
    note: why there was nothing to check (no books given, no journal), or what was left out.
    """

    invariant: int
    name: str
    checked: int
    violations: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """Every check of one audit, in order of invariant."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Nothing was violated. Whether anything was checked: `unchecked`."""
        return not any(check.violations for check in self.checks)

    @property
    def checked(self) -> int:
        """Things checked, over all checks."""
        return sum(check.checked for check in self.checks)

    @property
    def violations(self) -> tuple[str, ...]:
        """Every violation, with the invariant and the check that found it."""
        return tuple(
            f"{check.invariant} {check.name}: {text}" for check in self.checks for text in check.violations
        )

    @property
    def unchecked(self) -> tuple[Check, ...]:
        """Checks that had nothing to look at."""
        return tuple(check for check in self.checks if not check.checked and not check.violations)

    def to_json(self) -> dict[str, Any]:
        """For other programs; `checked` and `violations` are sums."""
        return {
            "ok": self.ok,
            "checked": self.checked,
            "violations": len(self.violations),
            "unchecked": [check.name for check in self.unchecked],
            "checks": [
                {
                    "invariant": check.invariant,
                    "name": check.name,
                    "checked": check.checked,
                    "violations": list(check.violations),
                    "note": check.note,
                }
                for check in self.checks
            ],
        }

    def table(self) -> Table:
        """For people: a row a check."""
        table = Table(title="Invariants", title_justify="left")
        table.add_column("#", justify="right")
        table.add_column("Check")
        table.add_column("Checked", justify="right")
        table.add_column("Violations", justify="right")
        table.add_column("Note")
        for check in self.checks:
            empty = not check.checked and not check.violations
            table.add_row(
                str(check.invariant),
                check.name,
                "nothing to check" if empty else f"{check.checked:,}",
                "" if empty else str(len(check.violations)),
                check.note,
                style="red" if check.violations else "dim" if empty else "",
            )
        return table

    def findings(self, shown_max: int = _SHOWN_MAX) -> list[str]:
        """The violations as text, at most `shown_max` of a check, and how many more there are."""
        lines: list[str] = []
        for check in self.checks:
            lines += [f"{check.invariant} {check.name}: {text}" for text in check.violations[:shown_max]]
            if len(check.violations) > shown_max:
                lines.append(f"{check.invariant} {check.name}: and {len(check.violations) - shown_max} more")
        return lines
