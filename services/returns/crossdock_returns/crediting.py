"""What returned units are worth, and who has paid for them already. `decide` asks this.

A credit takes the shipped lots of its line first in, first out, each by `Amounts.share`: so the credits of a
line sum to what its shipments were worth, to the cent, whatever the sizes of the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import CreditProposed, ReturnedLine
from crossdock_returns.model import find_line, find_rma, shipped_units
from crossdock_returns.state_records import ChannelCredit, OrderReturns, ReturnableLine


def worth(line: ReturnableLine, units: int) -> Amounts:
    """Worth of the next `units` that are credited. At most what shipped and is not credited."""
    total = Amounts.zero(line.lots[0].amounts.currency)
    before, left = line.credited_units, units
    for lot in line.lots:
        taken = min(left, max(0, lot.units - before))
        if taken:
            total += lot.amounts.share(units=taken, before=before, of=lot.units)
        before, left = max(0, before - lot.units), left - taken
    assert left == 0, "credited more than shipped"
    return total


def propose_credits(
    state: OrderReturns,
    rma_id: str,
    *,
    step: str,
    store_refund: Money | None,
    apply: Callable[[CreditProposed], OrderReturns],
) -> None:
    """Propose every credit that the return is owed and that shipped units cover.

    step: what caused it (an inspection, a late shipment); `<rma_id>/<step>` is the id of our own credit.
    apply: takes each proposal in turn and answers with the state after it.

    Units that a refund of the channel already paid become a proposal of their own that names that refund, so
    that the ledger links it and pays nothing. Money out of a store's drawer is a fact: it is passed on even
    when no unit is owed.
    """
    credit_id = f"{rma_id}/{step}"
    for entry in state.channel_credits:
        lines = _lines(state, rma_id, limits={line.line_id: line.units for line in entry.lines})
        if lines:
            reference = entry.refund_id or entry.credit_id
            state = apply(
                CreditProposed(
                    order_id=state.order_id,
                    rma_id=rma_id,
                    credit_id=f"{credit_id}/{reference}",
                    lines=lines,
                    currency=state.currency,
                    refund_id=reference,
                )
            )
    lines = _lines(state, rma_id, limits=None)
    if lines or store_refund is not None:
        apply(
            CreditProposed(
                order_id=state.order_id,
                rma_id=rma_id,
                credit_id=credit_id,
                lines=lines,
                currency=state.currency,
                store_refund=store_refund,
            )
        )


def channel_credit(state: OrderReturns, credit_id: str) -> ChannelCredit | None:
    """What is known of one credit of the channel."""
    return next((entry for entry in state.channel_credits if entry.credit_id == credit_id), None)


def _lines(state: OrderReturns, rma_id: str, *, limits: Mapping[str, int] | None) -> tuple[ReturnedLine, ...]:
    rma = find_rma(state, rma_id)
    assert rma is not None
    found = []
    for claimed in rma.lines:
        line = find_line(state, claimed.line_id)
        if line is None:
            continue
        units = min(claimed.owed, shipped_units(line) - line.credited_units)
        if limits is not None:
            units = min(units, limits.get(line.line_id, 0))
        if units > 0:
            found.append(
                ReturnedLine(line_id=line.line_id, sku=line.sku, units=units, amounts=worth(line, units))
            )
    return tuple(found)
