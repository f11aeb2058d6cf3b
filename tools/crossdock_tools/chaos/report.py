"""What a chaos run did and what came of it: for people as a table, for programs as JSON. Written by `run`, printed by `command`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from crossdock_tools.audit.report import Report

#: Log events of a process that ended for a reason that nobody foresaw.
_CRASHES = frozenset({"service.crashed", "gateway.part_failed"})
#: Log events that tell of a fault met and mended.
_RECOVERIES = {
    "transaction.outcome_unknown": "transactions of unknown outcome, settled",
    "transaction.aborted": "transactions aborted, read again",
    "task.restored": "tasks restored from their changelogs",
    "producer.replaced": "gateway producers replaced",
}


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
    recoveries: dict[str, int] = field(default_factory=dict)
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
            **self.recoveries,
            "ended for a reason nobody foresaw": len(self.crashes),
            "load, s": round(self.load_s),
            "from the last fault to the last effect, s": round(self.drain_s),
            **{f"ERP outage: {name}": value for name, value in self.erp_outage.items()},
            "facts audited": self.audit.get("checked", 0),
            "violations": self.audit.get("violations", 0),
        }
        yield _table("What became of it", "figure", figures)


#: Orderly stops, reasons that the process logs, and our own SIGKILL. Any other end is a crash, such as one in native code.
FORESEEN_EXITS = frozenset({0, 1, -9})


def how_ended(exit_code: int) -> str:
    """An exit code in words."""
    return {0: "an orderly stop", -9: "kill -9"}.get(exit_code, f"exit code {exit_code}")


@dataclass
class LogBook:
    """What the processes' logs tell.

    ends: of services that ended by themselves, by the reason they knew. crashes: of these, the ones that nobody foresaw.
    recoveries: how often a fault was met in the middle of something, by what was done about it.
    """

    ends: Counter[str] = field(default_factory=Counter)
    crashes: list[str] = field(default_factory=list)
    recoveries: Counter[str] = field(default_factory=Counter)


def read_logs(logs: Path) -> LogBook:
    """Read every log of a directory; lines that are none of ours are skipped."""
    book = LogBook()
    for file in sorted(logs.glob("*.log")):
        with file.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                # Most lines by far are the clients' own: not worth decoding.
                if '"broker.client' not in line and line.startswith("{"):
                    _enter(book, file, line)
    return book


def _enter(book: LogBook, file: Path, line: str) -> None:
    try:
        entry = json.loads(line)
    except ValueError:
        return
    event = entry.get("event")
    if event == "service.failed":
        # The detail begins with the broker's own name of the failure.
        code = str(entry.get("detail", "")).split(":")[0][:60]
        book.ends[f"{entry.get('error')} {code}"] += 1
    elif event in _CRASHES:
        trace = str(entry.get("exception", "")).strip().splitlines()
        book.crashes.append(f"{file.stem}: {trace[-1] if trace else event} (see {file})")
    elif event in _RECOVERIES:
        book.recoveries[_RECOVERIES[event]] += 1


def unproven(verdict: Report) -> list[str]:
    """Checks that had nothing to look at: after a run under load each has, or its silence proves nothing."""
    return [
        f"invariant {check.invariant} {check.name}: nothing to check ({check.note or 'no such case'})"
        for check in verdict.unchecked
    ]


def _table(title: str, what: str, rows: Mapping[str, Any]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(what)
    table.add_column("value", justify="right")
    for name, value in rows.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) and name != "seed" else str(value))
    return table
