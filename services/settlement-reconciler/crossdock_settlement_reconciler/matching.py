"""Class every line of one batch, or name why it cannot be. Both stages call this; pure arithmetic over one batch.

Every line ends in exactly one class or in exactly one residual, so classes + residuals = lines, to the cent. The finding
`amount_differs` comes on top: its line is classed, the finding carries no amount and says what our books expected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crossdock_canonical.records import ClassTotal, LinesMatched, MatchLines, Residual, SettlementLine
from crossdock_settlement_reconciler.classes import ITEMISED, LineClass, class_of
from crossdock_settlement_reconciler.model import (
    AMBIGUOUS_ITEM,
    AMOUNT_DIFFERS,
    OWNERS,
    UNKNOWN_LABEL,
    UNKNOWN_ORDER,
    UNREPRESENTABLE_AMOUNT,
)
from crossdock_settlement_reconciler.state_records import OrderExpectation, SettledItem

# Classes whose lines pay for goods of the order: a line that names an item must name one of the order's.
_OF_ITEMS = frozenset(
    (LineClass.PRINCIPAL, LineClass.TAX, LineClass.SHIPPING, LineClass.PROMOTION, LineClass.REFUND)
)
# Classes whose lines, when they name no item, show one movement of the order's ledger.
_OF_MOVEMENTS = frozenset((LineClass.PRINCIPAL, LineClass.REFUND, LineClass.CHARGEBACK))
_PRICE = frozenset((LineClass.PRINCIPAL, LineClass.TAX))


@dataclass(frozen=True, slots=True)
class Matching:
    """The answer to one batch, and what it settles of the order."""

    matched: LinesMatched
    items: tuple[SettledItem, ...]
    movements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Classed:
    line: SettlementLine
    line_class: LineClass
    amount_minor: int
    item_id: str | None


def match_without_order(batch: MatchLines) -> LinesMatched:
    """Class lines that belong to no order: fees, reserves, adjustments of the account."""
    classed, residuals = _classify(batch, order=None)
    return _answer(batch, classed, residuals)


def match_unknown_order(batch: MatchLines) -> LinesMatched:
    """Every line of an order that never came is a residual with an owner."""
    residuals = [
        _residual(UNREPRESENTABLE_AMOUNT if line.amount_minor is None else UNKNOWN_ORDER, line)
        for line in batch.lines
    ]
    return _answer(batch, [], residuals)


def match_order(batch: MatchLines, order: OrderExpectation) -> Matching:
    """Class the lines of a known order and compare them with what it is worth and with its ledger."""
    classed, residuals = _classify(batch, order=order)
    items, item_findings = _compare_items(classed, order)
    movements, movement_findings = _compare_movements(classed, order)
    return Matching(
        matched=_answer(batch, classed, residuals + item_findings + movement_findings),
        items=items,
        movements=movements,
    )


def _classify(batch: MatchLines, *, order: OrderExpectation | None) -> tuple[list[_Classed], list[Residual]]:
    classed: list[_Classed] = []
    residuals: list[Residual] = []
    for line in batch.lines:
        line_class = class_of(
            batch.channel,
            transaction_type=line.transaction_type,
            amount_type=line.amount_type,
            description=line.description,
        )
        if line.amount_minor is None:
            residuals.append(_residual(UNREPRESENTABLE_AMOUNT, line))
        elif line_class is None:
            residuals.append(_residual(UNKNOWN_LABEL, line))
        elif order is not None and line_class in _OF_ITEMS and _names_item(batch.channel, line):
            item_id = _item_of(line, order)
            if item_id is None:
                residuals.append(_residual(AMBIGUOUS_ITEM, line))
            else:
                classed.append(_Classed(line, line_class, line.amount_minor, item_id))
        else:
            classed.append(_Classed(line, line_class, line.amount_minor, None))
    return classed, residuals


def _names_item(channel: str, line: SettlementLine) -> bool:
    return channel in ITEMISED and bool(line.item_ref or line.seller_sku)


def _item_of(line: SettlementLine, order: OrderExpectation) -> str | None:
    """The order's item that the line pays for: by item code, else by sku, else the only one; None when ambiguous.

    Item codes of the channel's finance files may differ from those of its orders, and an order may repeat a sku.
    """
    by_code = {
        expected.item_id
        for expected in order.lines
        if line.item_ref and line.item_ref in (expected.line_id, expected.item_id)
    }
    if by_code:
        return by_code.pop()
    by_sku = {
        expected.item_id for expected in order.lines if line.seller_sku and expected.sku == line.seller_sku
    }
    found = by_sku or {expected.item_id for expected in order.lines}
    return found.pop() if len(found) == 1 else None


def _compare_items(
    classed: Sequence[_Classed], order: OrderExpectation
) -> tuple[tuple[SettledItem, ...], list[Residual]]:
    """Principal and tax paid for each item so far, against goods and tax of its lines."""
    settled = {item.item_id: item.settled_minor for item in order.settled}
    last_principal: dict[str, SettlementLine] = {}
    for entry in classed:
        if entry.item_id is None or entry.line_class not in _PRICE or entry.line.currency != order.currency:
            continue
        settled[entry.item_id] = settled.get(entry.item_id, 0) + entry.amount_minor
        if entry.line_class is LineClass.PRINCIPAL:
            last_principal[entry.item_id] = entry.line
    findings = []
    if order.priced:
        for item_id, line in last_principal.items():
            expected = sum(part.expected_minor for part in order.lines if part.item_id == item_id)
            if settled[item_id] != expected:
                text = (
                    f"item {item_id}: settled {settled[item_id]} so far, expected {expected} {order.currency}"
                )
                findings.append(_finding(line, text))
    return tuple(SettledItem(item_id=key, settled_minor=total) for key, total in settled.items()), findings


def _compare_movements(
    classed: Sequence[_Classed], order: OrderExpectation
) -> tuple[tuple[str, ...], list[Residual]]:
    """Each line that names no item shows one capture, refund or chargeback of the ledger, of the same amount."""
    open_movements = [movement for movement in order.movements if not movement.settled]
    shown: list[str] = []
    findings: list[Residual] = []
    for entry in classed:
        if entry.item_id is not None or entry.line_class not in _OF_MOVEMENTS:
            continue
        if entry.line.currency != order.currency:
            continue
        movement = next((m for m in open_movements if m.amount_minor == entry.amount_minor), None)
        if movement is None:
            text = f"the order's ledger shows no open movement of {entry.amount_minor} {order.currency}"
            findings.append(_finding(entry.line, text))
        else:
            open_movements.remove(movement)
            shown.append(movement.movement_id)
    return tuple(shown), findings


def _answer(batch: MatchLines, classed: Sequence[_Classed], residuals: Sequence[Residual]) -> LinesMatched:
    totals = []
    for line_class in LineClass:
        amounts = [entry.amount_minor for entry in classed if entry.line_class is line_class]
        if amounts:
            totals.append(ClassTotal(line_class=line_class, amount_minor=sum(amounts), lines=len(amounts)))
    answer = LinesMatched(
        settlement_id=batch.settlement_id,
        subject=batch.subject,
        batch=batch.batch,
        sha256=batch.sha256,
        line_count=len(batch.lines),
        currency=",".join(sorted({line.currency for line in batch.lines if line.amount_minor is not None})),
        sum_minor=sum(line.amount_minor or 0 for line in batch.lines),
        classes=tuple(totals),
        residuals=tuple(sorted(residuals, key=residual_order)),
    )
    assert answer.sum_minor == sum(total.amount_minor for total in answer.classes) + sum(
        residual.amount_minor for residual in answer.residuals
    )
    return answer


def residual_order(residual: Residual) -> tuple[int, str, str]:
    """Residuals are listed by line of the file, whatever order they came in."""
    return (residual.line_no, residual.name, residual.detail)


def _residual(name: str, line: SettlementLine) -> Residual:
    parts = (line.transaction_type, line.amount_type, line.description, line.order_ref, line.item_ref)
    return Residual(
        name=name,
        line_no=line.line_no,
        amount_minor=line.amount_minor or 0,
        raw_amount=line.raw_amount,
        detail=" / ".join(part for part in parts if part),
        owner=OWNERS[name],
    )


def _finding(line: SettlementLine, text: str) -> Residual:
    return Residual(
        name=AMOUNT_DIFFERS,
        line_no=line.line_no,
        amount_minor=0,
        raw_amount=line.raw_amount,
        detail=text,
        owner=OWNERS[AMOUNT_DIFFERS],
    )
