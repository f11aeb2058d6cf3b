"""Stage two: classed lines of one settlement gather, inert, until its declaration adds up. Called by `decide` and `evolve`.

The state holds totals, never lines: a file of a hundred thousand lines costs a bit a batch, its class totals and its first
residuals. Lines may come before or after the declaration and in any order; the proof is the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import assert_never

from crossdock_canonical.decider import Ignored, Rejected, TimerFired
from crossdock_canonical.records import (
    ClassTotal,
    LinesMatched,
    MatchLines,
    Residual,
    SettlementDeclared,
    SettlementProved,
    SettlementRefused,
)
from crossdock_settlement_reconciler.classes import LineClass
from crossdock_settlement_reconciler.journal import journal
from crossdock_settlement_reconciler.matching import match_without_order, residual_order
from crossdock_settlement_reconciler.model import (
    CONTRADICTION,
    CONTROL_SUM,
    DECLARED_DIFFERS,
    FILES_MAX,
    INCOMPLETE,
    LINES_MAX,
    OWNERS,
    RESIDUALS_LISTED_MAX,
    RETIRE,
    DeadlineSet,
    DeclarationTaken,
    FileDropped,
    Forgotten,
    LinesGathered,
    Policy,
    completion_name,
)
from crossdock_settlement_reconciler.state_records import (
    Declaration,
    FileProgress,
    ResidualTotal,
    SettlementProgress,
    Stage,
)

SettlementCommand = SettlementDeclared | LinesMatched | MatchLines | TimerFired
SettlementEvent = (
    LinesGathered
    | DeclarationTaken
    | FileDropped
    | LinesMatched
    | SettlementProved
    | SettlementRefused
    | DeadlineSet
    | Forgotten
    | Ignored
)


@dataclass
class _Decision:
    """The events decided so far and the state after them; lives for one call of `decide_settlement`."""

    state: SettlementProgress
    now: datetime
    policy: Policy
    events: list[SettlementEvent] = field(default_factory=list)

    def add(self, event: SettlementEvent) -> None:
        self.events.append(event)
        after = evolve_settlement(self.state, event)
        assert after is not None
        self.state = after


def decide_settlement(
    command: SettlementCommand, state: SettlementProgress | None, *, now: datetime, policy: Policy
) -> tuple[SettlementEvent, ...]:
    """Answer one message or timer of one settlement.

    Raises Rejected: `settlement.line_out_of_range` when a batch lies beyond the largest file.
    """
    if isinstance(command, TimerFired):
        assert state is not None, "a timer belongs to a state"
        return _expire(_Decision(state, now, policy), command.name)
    decision = _Decision(state or SettlementProgress(settlement_id=command.settlement_id), now, policy)
    match command:
        case MatchLines():
            _match(decision, command)
        case LinesMatched():
            _gather(decision, command)
        case SettlementDeclared():
            _declare(decision, command)
        case _:
            assert_never(command)
    if RETIRE not in decision.state.timers and not isinstance(decision.events[0], Ignored):
        decision.add(DeadlineSet(name=RETIRE, due=now + policy.retention))
    return tuple(decision.events)


def _match(decision: _Decision, batch: MatchLines) -> None:
    """Lines of no order are classed where they gather; the answer is published like every other."""
    reason = _not_gathered(decision.state, batch.sha256, batch.batch)
    if reason is not None:
        decision.add(reason)
        return
    matched = match_without_order(batch)
    decision.add(matched)
    _gather(decision, matched)


def _not_gathered(state: SettlementProgress, sha256: str, batch: int) -> Ignored | None:
    """Why a batch changes nothing, None when it is news."""
    if not 1 <= batch <= LINES_MAX:
        raise Rejected("settlement.line_out_of_range", f"batch {batch} is not within 1..{LINES_MAX}")
    if state.stage is Stage.PROVED:
        return Ignored("settlement.already_proved", f"batch {batch} of {sha256}")
    file = find_file(state, sha256)
    if file is not None and _has_bit(file.batches, batch):
        return Ignored("settlement.duplicate", f"batch {batch} of {sha256} is gathered")
    return None


def _gather(decision: _Decision, matched: LinesMatched) -> None:
    reason = _not_gathered(decision.state, matched.sha256, matched.batch)
    if reason is not None:
        decision.add(reason)
        return
    is_new = find_file(decision.state, matched.sha256) is None
    decision.add(LinesGathered(matched))
    if is_new and completion_name(matched.sha256) not in decision.state.timers:
        _await_completion(decision, matched.sha256)
    if decision.state.declaration is not None and decision.state.declaration.sha256 == matched.sha256:
        _settle(decision, decision.state.declaration)


def _await_completion(decision: _Decision, sha256: str) -> None:
    name = completion_name(sha256)
    decision.add(DeadlineSet(name=name, due=decision.now + decision.policy.incomplete))


def _declare(decision: _Decision, declared: SettlementDeclared) -> None:
    state = decision.state
    declaration = declaration_of(declared)
    match state.stage:
        case Stage.DECLARED | Stage.PROVED:
            assert state.declaration is not None
            if declaration == state.declaration:
                decision.add(Ignored("settlement.duplicate", f"{declared.sha256} is declared"))
            elif declared.sha256 in state.contradicted:
                decision.add(Ignored("settlement.duplicate", f"{declared.sha256} is refused"))
            else:
                text = f"{state.declaration.sha256} is {state.stage.lower()}; discard one of the two"
                decision.add(_refused(state, declared.sha256, CONTRADICTION, text))
        case Stage.REFUSED if declaration == state.declaration and state.reason_code == CONTROL_SUM:
            decision.add(Ignored("settlement.duplicate", f"{declared.sha256} is refused"))
        case Stage.OPEN | Stage.REFUSED:
            decision.add(DeclarationTaken(declared))
            _await_completion(decision, declared.sha256)
            _settle(decision, declaration)
        case _:
            assert_never(state.stage)


def _settle(decision: _Decision, declaration: Declaration) -> None:
    """Prove the settlement when the declared lines are all here; refuse it when what is here cannot add up."""
    state = decision.state
    file = find_file(state, declaration.sha256) or _empty_file(declaration.sha256)
    if file.line_count < declaration.line_count:
        return
    difference = _difference(file, declaration)
    if difference is None:
        decision.add(_proved(state, file, declaration))
        decision.add(DeadlineSet(name=RETIRE, due=decision.now + decision.policy.retention))
    elif state.reason_code != CONTROL_SUM:
        decision.add(_refused(state, declaration.sha256, CONTROL_SUM, difference))


def _difference(file: FileProgress, declaration: Declaration) -> str | None:
    """In what the lines contradict their declaration."""
    if file.line_count != declaration.line_count:
        return f"{file.line_count} lines arrived, {declaration.line_count} are declared"
    if file.sum_minor != declaration.control_sum_minor:
        return f"the lines sum to {file.sum_minor}, the control sum is {declaration.control_sum_minor}"
    if file.currency not in ("", declaration.declared_total.currency):
        return f"the lines are in {file.currency}, the total in {declaration.declared_total.currency}"
    return None


def _proved(state: SettlementProgress, file: FileProgress, declaration: Declaration) -> SettlementProved:
    declared_minor = declaration.declared_total.minor
    residual_minor = declared_minor - file.sum_minor
    residuals = [*file.residuals, *_beyond_list(file)]
    if residual_minor != 0:
        residuals.append(
            Residual(
                name=DECLARED_DIFFERS,
                line_no=0,
                amount_minor=residual_minor,
                detail=f"declared {declared_minor}, the lines sum to {file.sum_minor}",
                owner=OWNERS[DECLARED_DIFFERS],
            )
        )
    entries = journal(declared_minor=declared_minor, classes=file.classes)
    unexplained = residual_minor + sum(total.amount_minor for total in file.residual_totals)
    assert sum(entry.amount_minor for entry in entries) == 0
    assert sum(total.amount_minor for total in file.classes) + unexplained == declared_minor
    return SettlementProved(
        settlement_id=state.settlement_id,
        channel=declaration.channel,
        shop=declaration.shop,
        external_id=declaration.external_id,
        currency=declaration.declared_total.currency,
        line_count=file.line_count,
        declared_minor=declared_minor,
        lines_minor=file.sum_minor,
        residual_minor=residual_minor,
        classes=file.classes,
        residuals=tuple(residuals),
        journal=entries,
        sha256=file.sha256,
    )


def _beyond_list(file: FileProgress) -> list[Residual]:
    """One residual a name for those that the list had no room for, so that the sum stays exact."""
    found = []
    for total in file.residual_totals:
        listed = [residual for residual in file.residuals if residual.name == total.name]
        unlisted = total.lines - len(listed)
        if unlisted:
            found.append(
                Residual(
                    name=total.name,
                    line_no=0,
                    amount_minor=total.amount_minor - sum(residual.amount_minor for residual in listed),
                    detail=f"{unlisted} more lines",
                    owner=OWNERS[total.name],
                )
            )
    return found


def _expire(decision: _Decision, name: str) -> tuple[SettlementEvent, ...]:
    state = decision.state
    if name == RETIRE:
        if any(other != RETIRE for other in state.timers):
            return (DeadlineSet(name=RETIRE, due=decision.now + decision.policy.retention),)
        return (Forgotten(),)
    sha256 = name.removeprefix("complete/")
    file = find_file(state, sha256) or _empty_file(sha256)
    declaration = state.declaration
    if declaration is not None and declaration.sha256 == sha256:
        text = f"{file.line_count} of {declaration.line_count} lines arrived"
        return (_refused(state, sha256, INCOMPLETE, text),)
    if state.stage is Stage.DECLARED:
        return (FileDropped(sha256),)
    return (_refused(state, sha256, INCOMPLETE, f"{file.line_count} lines arrived without a declaration"),)


def _refused(state: SettlementProgress, sha256: str, reason_code: str, detail: str) -> SettlementRefused:
    return SettlementRefused(
        settlement_id=state.settlement_id, sha256=sha256, reason_code=reason_code, detail=detail
    )


def evolve_settlement(state: SettlementProgress | None, event: SettlementEvent) -> SettlementProgress | None:
    """Apply one event of stage two."""
    match event:
        case Ignored():
            return state
        case Forgotten():
            return None
        case LinesMatched():
            return state or SettlementProgress(settlement_id=event.settlement_id)
        case LinesGathered(matched):
            return _gathered(state or SettlementProgress(settlement_id=matched.settlement_id), matched)
        case DeclarationTaken(declared):
            state = state or SettlementProgress(settlement_id=declared.settlement_id)
            declaration = declaration_of(declared)
            return replace(state, stage=Stage.DECLARED, reason_code="", declaration=declaration)
        case DeadlineSet():
            assert state is not None, "a deadline belongs to a settlement"
            return replace(state, timers={**state.timers, event.name: event.due})
    assert state is not None, f"{type(event).__name__} needs a settlement"
    match event:
        case SettlementProved():
            kept = {name: due for name, due in state.timers.items() if name == RETIRE}
            return replace(state, stage=Stage.PROVED, files=(), timers=kept)
        case SettlementRefused():
            return _with_refusal(state, event)
        case FileDropped(sha256):
            files = tuple(file for file in state.files if file.sha256 != sha256)
            return replace(state, files=files, timers=_without_completion(state, sha256))
        case _:
            assert_never(event)


def _with_refusal(state: SettlementProgress, event: SettlementRefused) -> SettlementProgress:
    if event.reason_code == CONTRADICTION:  # the declaration in force stands
        return replace(state, contradicted=(*state.contradicted, event.sha256)[-FILES_MAX:])
    timers = _without_completion(state, event.sha256)
    if state.declaration is None or state.declaration.sha256 != event.sha256:
        return replace(state, timers=timers)
    return replace(state, stage=Stage.REFUSED, reason_code=event.reason_code, timers=timers)


def _without_completion(state: SettlementProgress, sha256: str) -> dict[str, datetime]:
    return {name: due for name, due in state.timers.items() if name != completion_name(sha256)}


def _gathered(state: SettlementProgress, matched: LinesMatched) -> SettlementProgress:
    known = find_file(state, matched.sha256)
    file = known or _empty_file(matched.sha256)
    assert not _has_bit(file.batches, matched.batch), "a batch gathers once"
    currencies = {code for code in (*file.currency.split(","), *matched.currency.split(",")) if code}
    residuals = sorted((*file.residuals, *matched.residuals), key=residual_order)
    file = replace(
        file,
        currency=",".join(sorted(currencies)),
        line_count=file.line_count + matched.line_count,
        sum_minor=file.sum_minor + matched.sum_minor,
        classes=_class_totals((*file.classes, *matched.classes)),
        residual_totals=_residual_totals(file.residual_totals, matched.residuals),
        residuals=tuple(residuals[:RESIDUALS_LISTED_MAX]),
        batches=_with_bit(file.batches, matched.batch),
    )
    if known is not None:
        return replace(state, files=tuple(file if old is known else old for old in state.files))
    return _bounded(replace(state, files=(*state.files, file)))


def _bounded(state: SettlementProgress) -> SettlementProgress:
    """Forget the oldest file that is not the declared one when there are too many."""
    if len(state.files) <= FILES_MAX:
        return state
    in_force = None if state.declaration is None else state.declaration.sha256
    oldest = next(file for file in state.files if file.sha256 != in_force)
    return replace(
        state,
        files=tuple(file for file in state.files if file is not oldest),
        timers=_without_completion(state, oldest.sha256),
    )


def _class_totals(totals: Iterable[ClassTotal]) -> tuple[ClassTotal, ...]:
    """One total a class, in the order of the classes."""
    amounts: dict[str, int] = {}
    lines: dict[str, int] = {}
    for total in totals:
        amounts[total.line_class] = amounts.get(total.line_class, 0) + total.amount_minor
        lines[total.line_class] = lines.get(total.line_class, 0) + total.lines
    return tuple(
        ClassTotal(line_class=name, amount_minor=amounts[name], lines=lines[name])
        for name in LineClass
        if name in lines
    )


def _residual_totals(
    totals: tuple[ResidualTotal, ...], residuals: tuple[Residual, ...]
) -> tuple[ResidualTotal, ...]:
    if not residuals:
        return totals
    by_name = {total.name: total for total in totals}
    for residual in residuals:
        total = by_name.get(residual.name, ResidualTotal(name=residual.name, amount_minor=0, lines=0))
        by_name[residual.name] = replace(
            total, amount_minor=total.amount_minor + residual.amount_minor, lines=total.lines + 1
        )
    return tuple(by_name[name] for name in sorted(by_name))


def find_file(state: SettlementProgress, sha256: str) -> FileProgress | None:
    """What arrived of one file, None when nothing did."""
    return next((file for file in state.files if file.sha256 == sha256), None)


def _empty_file(sha256: str) -> FileProgress:
    return FileProgress(sha256=sha256, batches=b"")


def declaration_of(declared: SettlementDeclared) -> Declaration:
    """What the state keeps of a declaration."""
    return Declaration(
        channel=declared.channel,
        shop=declared.shop,
        external_id=declared.external_id,
        sha256=declared.sha256,
        line_count=declared.line_count,
        control_sum_minor=declared.control_sum_minor,
        declared_total=declared.declared_total,
    )


def _has_bit(bits: bytes, number: int) -> bool:
    byte, bit = divmod(number, 8)
    return byte < len(bits) and bool(bits[byte] & (1 << bit))


def _with_bit(bits: bytes, number: int) -> bytes:
    byte, bit = divmod(number, 8)
    grown = bytearray(bits)
    grown.extend(bytes(max(0, byte + 1 - len(bits))))
    grown[byte] |= 1 << bit
    return bytes(grown)
