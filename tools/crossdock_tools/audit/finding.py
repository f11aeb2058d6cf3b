"""A check in the making, for the modules whose checks are many comparisons of one kind each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from crossdock_tools.audit.report import Check


@dataclass(slots=True)
class Finding:
    """Counts what was held against the statement, and collects what contradicts it."""

    invariant: int
    name: str
    checked: int = 0
    violations: list[str] = field(default_factory=list)

    def expect(self, holds: bool, otherwise: str) -> None:
        """One comparison."""
        self.checked += 1
        if not holds:
            self.violations.append(otherwise)

    def same(self, what: str, ours: object, said: object) -> None:
        """What we reckon against what is said."""
        self.checked += 1
        if ours != said:
            self.violations.append(f"{what}: {said} is said, it is {ours}")

    def check(self, note: str = "") -> Check:
        return Check(self.invariant, self.name, self.checked, tuple(self.violations), note)


def closed(findings: Iterable[Finding], note: str = "") -> tuple[Check, ...]:
    """The checks of a subject, with one note for all."""
    return tuple(finding.check(note) for finding in findings)
