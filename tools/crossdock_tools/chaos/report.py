"""What a chaos run did and what came of it: for people as a table, for programs as JSON. Written by `run`, printed by `command`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

#: Log events of a process that ended for a reason that nobody foresaw.
_CRASHES = frozenset({"service.crashed", "gateway.part_failed"})


@dataclass
class ChaosReport:
    """One run. Times in seconds.

    faults: carried out, by kind. restarts: processes that the supervisor started again, by how they had ended. ends: services
    that ended by themselves, by their own reason. crashes: of these, the ones that nobody foresaw. audit: the auditor's report,
    as JSON. problems: everything that makes the run a failure.
    """

    seed: int
    faults_asked: int
    faults: dict[str, int] = field(default_factory=dict)
    orders: int = 0
    requests: int = 0
    requests_repeated: int = 0
    messages: int = 0
    dead_letters: int = 0
    orders_ended: int = 0
    erp_documents: int = 0
    restarts: dict[str, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    crashes: list[str] = field(default_factory=list)
    load_s: float = 0.0
    drain_s: float = 0.0
    erp_outage: dict[str, Any] = field(default_factory=dict)
    audit: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        return {"ok": self.ok, **self.__dict__}

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_json(), indent=1) + "\n")

    def tables(self) -> Iterator[Table]:
        """Faults, then figures."""
        yield _table("Faults", "kind", {**self.faults, "all": sum(self.faults.values())})
        figures: dict[str, Any] = {
            "seed": self.seed,
            "orders": self.orders,
            "orders ended": self.orders_ended,
            "requests answered": self.requests,
            "requests repeated": self.requests_repeated,
            "messages on the topics": self.messages,
            "dead letters": self.dead_letters,
            "ERP documents": self.erp_documents,
            **{f"processes started again after {how}": count for how, count in self.restarts.items()},
            **{f"ended by itself: {why}": count for why, count in self.ends.items()},
            "ended for a reason nobody foresaw": len(self.crashes),
            "load, s": round(self.load_s),
            "from the last fault to the last effect, s": round(self.drain_s),
            **{f"ERP outage: {name}": value for name, value in self.erp_outage.items()},
            "facts audited": self.audit.get("checked", 0),
            "violations": self.audit.get("violations", 0),
        }
        yield _table("What became of it", "figure", figures)


def how_ended(exit_code: int) -> str:
    """An exit code in words."""
    return {0: "an orderly stop", -9: "kill -9"}.get(exit_code, f"exit code {exit_code}")


def last_words(logs: Path) -> tuple[Counter[str], list[str]]:
    """Why services ended by themselves, from their logs: known reasons with counts, and the reasons that nobody foresaw."""
    known: Counter[str] = Counter()
    unforeseen: list[str] = []
    for file in sorted(logs.glob("*.log")):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            if '"service.failed"' not in line and not any(f'"{event}"' in line for event in _CRASHES):
                continue
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if entry.get("event") == "service.failed":
                # The detail begins with the broker's own name of the failure.
                code = str(entry.get("detail", "")).split(":")[0][:60]
                known[f"{entry.get('error')} {code}"] += 1
            elif entry.get("event") in _CRASHES:
                trace = str(entry.get("exception", "")).strip().splitlines()
                unforeseen.append(f"{file.stem}: {trace[-1] if trace else entry['event']} (see {file})")
    return known, unforeseen


def _table(title: str, what: str, rows: Mapping[str, Any]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(what)
    table.add_column("value", justify="right")
    for name, value in rows.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) and name != "seed" else str(value))
    return table
