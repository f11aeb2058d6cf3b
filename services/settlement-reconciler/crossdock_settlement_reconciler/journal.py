"""The journal of a proved settlement, for the ERP. `settlement_stage` calls this.

Debit is positive, credit negative, and a journal sums to zero: the money that arrives is a debit to clearing; every class is
posted with the opposite sign to its account. So the reserves account grows by what the channel holds back and falls by
what it releases, and its balance over all settlements is the reserve that the channel still holds.
"""

from __future__ import annotations

from collections.abc import Iterable

from crossdock_canonical.records import ClassTotal, JournalLine
from crossdock_settlement_reconciler.classes import LineClass

CLEARING = "clearing"
RESIDUAL = "residual"

# What customers paid, less what went back to them, clears the receivable that invoices and credit memos opened.
_ACCOUNTS = {
    LineClass.PRINCIPAL: "receivable",
    LineClass.TAX: "receivable",
    LineClass.SHIPPING: "receivable",
    LineClass.PROMOTION: "receivable",
    LineClass.REFUND: "receivable",
    LineClass.FEE: "fees",
    LineClass.FACILITATOR_TAX: "tax_withheld",
    LineClass.CHARGEBACK: "chargebacks",
    LineClass.RESERVE: "reserves",
    LineClass.ADJUSTMENT: "adjustments",
}


def journal(*, declared_minor: int, classes: Iterable[ClassTotal]) -> tuple[JournalLine, ...]:
    """Balanced lines, accounts without a movement left out. What no class explains goes to `residual`."""
    balances = {CLEARING: declared_minor, **dict.fromkeys(_ACCOUNTS.values(), 0)}
    for total in classes:
        balances[_ACCOUNTS[LineClass(total.line_class)]] -= total.amount_minor
    balances[RESIDUAL] = -sum(balances.values())
    return tuple(
        JournalLine(account=account, amount_minor=amount) for account, amount in balances.items() if amount
    )
