"""Invariant 3 for payouts: declared = Σ lines + residual, and every line in exactly one class. One of the audit's subjects.

Lines are summed from the batches that the gateway published, never taken from the service's answers. A file may have been
published more than once; a batch is known by its file, its subject and its first line.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

from crossdock_canonical.records import (
    LinesMatched,
    MatchLines,
    SettlementDeclared,
    SettlementLine,
    SettlementProved,
    SettlementRefused,
)
from crossdock_tools.audit.books import Books
from crossdock_tools.audit.evidence import Evidence
from crossdock_tools.audit.finding import Finding, closed
from crossdock_tools.audit.report import Check
from crossdock_tools.audit.taken import accepted, why_not

RECONCILER = "settlement-reconciler"
#: A finding on a line that has its class, not a residual of its own.
_FINDING = "amount_differs"

Batch = tuple[str, str, str, int]


def settlements(evidence: Evidence, _books: Books) -> tuple[Check, ...]:
    """Every answered batch and every proof against the lines themselves."""
    classed = Finding(3, "every line of a payout is in one class or one named residual")
    proved = Finding(3, "a payout's declared total is its lines and its residuals")
    journals = Finding(3, "a payout's journal balances, and holds back what the payout does")
    note = why_not(evidence, MatchLines, SettlementProved)
    if note:
        return closed((classed, proved, journals), note)
    batches = {
        (each.body.settlement_id, each.body.sha256, each.body.subject, each.body.batch): each.body
        for each in evidence.of(MatchLines)
    }
    answered: set[Batch] = set()
    classes: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for entry in evidence.of(LinesMatched):
        answer = entry.body
        key = answer.settlement_id, answer.sha256, answer.subject, answer.batch
        what = f"settlement {answer.settlement_id} batch {answer.batch} of {answer.subject}"
        classed.expect(key not in answered, f"{what} is answered twice")
        answered.add(key)
        _check_answer(what, batches.get(key), answer, classed)
        for total in answer.classes:
            classes[key[:2]][total.line_class] += total.amount_minor
    lines: dict[tuple[str, str], list[SettlementLine]] = defaultdict(list)
    for batch in batches.values():
        lines[batch.settlement_id, batch.sha256].extend(batch.lines)
    declared = {
        (each.body.settlement_id, each.body.sha256): each.body for each in evidence.of(SettlementDeclared)
    }
    seen: set[str] = set()
    for entry in evidence.of(SettlementProved):
        proof = entry.body
        file = proof.settlement_id, proof.sha256
        proved.expect(proof.settlement_id not in seen, f"settlement {proof.settlement_id} is proved twice")
        seen.add(proof.settlement_id)
        _check_proof(proof, declared.get(file), lines[file], classes[file], proved)
        _check_journal(proof, journals)
    return closed((classed, proved, journals))


def _check_answer(what: str, batch: MatchLines | None, answer: LinesMatched, finding: Finding) -> None:
    asked = () if batch is None else batch.lines
    amount = sum(line.amount_minor or 0 for line in asked)
    finding.same(f"{what}: lines, sum", (len(asked), amount), (answer.line_count, answer.sum_minor))
    residuals = [each for each in answer.residuals if each.name != _FINDING]
    finding.same(
        f"{what}: lines in classes and residuals",
        len(asked),
        sum(each.lines for each in answer.classes) + len(residuals),
    )
    finding.same(
        f"{what}: classes and residuals",
        amount,
        sum(each.amount_minor for each in answer.classes)
        + sum(each.amount_minor for each in answer.residuals),
    )
    numbers = Counter(each.line_no for each in residuals)
    known = {line.line_no for line in asked}
    finding.expect(
        max(numbers.values(), default=1) == 1 and numbers.keys() <= known,
        f"{what}: residuals of lines {sorted(numbers)}, the batch has {sorted(known)}",
    )


def _check_proof(
    proof: SettlementProved,
    declared: SettlementDeclared | None,
    lines: list[SettlementLine],
    classes: Mapping[str, int],
    finding: Finding,
) -> None:
    what = f"settlement {proof.settlement_id}"
    total = sum(line.amount_minor or 0 for line in lines)
    finding.same(
        f"{what}: declared", None if declared is None else declared.declared_total.minor, proof.declared_minor
    )
    finding.same(f"{what}: lines, sum", (len(lines), total), (proof.line_count, proof.lines_minor))
    finding.expect(
        len({line.line_no for line in lines}) == len(lines), f"{what}: a line of the file came in two batches"
    )
    finding.same(f"{what}: residual", proof.declared_minor - total, proof.residual_minor)
    said = {each.line_class: each.amount_minor for each in proof.classes}
    finding.same(f"{what}: classes", dict(classes), said)
    explained = sum(said.values()) + sum(each.amount_minor for each in proof.residuals)
    finding.same(f"{what}: classes and residuals", proof.declared_minor, explained)
    for residual in proof.residuals:
        finding.expect(bool(residual.name and residual.owner), f"{what}: {residual} has no name or no owner")


def _check_journal(proof: SettlementProved, finding: Finding) -> None:
    """Debits are positive. What the channel holds back grows the reserves by what it takes from the payout."""
    what = f"settlement {proof.settlement_id}"
    accounts: Counter[str] = Counter()
    for line in proof.journal:
        accounts[line.account] += line.amount_minor
    finding.same(f"{what}: journal", 0, accounts.total())
    finding.same(f"{what}: money in", proof.declared_minor, accounts["clearing"])
    held = -sum(each.amount_minor for each in proof.classes if each.line_class == "reserve")
    finding.same(f"{what}: held in reserve", held, accounts["reserves"])


def settlements_end(evidence: Evidence, _books: Books) -> Check:
    """Every declared payout is proved or refused, or waits for its lines until a deadline."""
    finding = Finding(10, "every payout is proved, refused, or waits for its lines with a deadline")
    note = why_not(evidence, MatchLines, SettlementProved)
    ended = {each.body.settlement_id for each in evidence.of(SettlementProved, SettlementRefused)}
    changelog = evidence.changelogs.get(RECONCILER)
    waiting = (
        set()
        if changelog is None
        else {
            state["settlement_id"]
            for _, state in changelog.latest()
            if "settlement_id" in state and any(name.startswith("complete/") for name in state["timers"])
        }
    )
    for entry in () if note else accepted(evidence, RECONCILER, SettlementDeclared):
        name = entry.body.settlement_id
        finding.expect(
            name in ended or name in waiting, f"settlement {name} has neither ended nor a deadline"
        )
    return finding.check(note)


CHECKS = (settlements, settlements_end)
