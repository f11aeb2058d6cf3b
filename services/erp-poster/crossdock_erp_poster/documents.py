"""Domain facts become business documents: which document, under which key, after which predecessor.

Called by `decide`. Pure. The keys are a function of the fact alone, so one fact always means the same
document.

Amounts are what the seller may claim or owes (goods - discount + seller's tax). Facilitator tax is carried on
the lines as information and is part of no amount, on invoices and credit memos alike: it is never our
liability.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import assert_never

from crossdock_canonical.identity import Sku
from crossdock_canonical.money import Amounts
from crossdock_canonical.records import (
    CreditGranted,
    DocumentType,
    OrderAmended,
    OrderCancelled,
    OrderReleased,
    OrderShipped,
    PaymentRecorded,
    RefundRecorded,
    SettlementProved,
    StockAdjusted,
)
from crossdock_erp_poster.model import Policy
from crossdock_erp_poster.state_records import DocumentLine, PendingDocument

Fact = (
    OrderReleased
    | OrderAmended
    | OrderShipped
    | PaymentRecorded
    | CreditGranted
    | RefundRecorded
    | OrderCancelled
    | SettlementProved
    | StockAdjusted
)


def chain_of(fact: Fact) -> str:
    """The state key: the chain whose documents depend on one another."""
    if isinstance(fact, StockAdjusted):
        return f"stock:{fact.sku}"
    if isinstance(fact, SettlementProved):
        return f"settlement:{fact.settlement_id}"
    return f"order:{fact.order_id}"


def record_key_of(chain: str) -> str:
    """The record key of every fact of a chain."""
    return chain.partition(":")[2]


def documents_of(
    fact: Fact, *, known: Iterable[str], now: datetime, policy: Policy
) -> tuple[PendingDocument, ...]:
    """Every document that the fact calls for, predecessor first. The fact is known to call for one.

    known: business keys of the documents that the chain has already.
    """
    wait_until = now + policy.predecessor_deadline
    match fact:
        case OrderReleased():
            return (
                PendingDocument(
                    document_type=DocumentType.SALES_ORDER,
                    business_key=sales_order_key(fact.order_id, fact.release),
                    wait_until=wait_until,
                    amount_minor=sum(line.amounts.receivable for line in fact.lines) + _charges(fact),
                    currency=fact.currency,
                    lines=(
                        *(
                            _line(line.line_id, line.amounts, sku=line.sku, units=line.units)
                            for line in fact.lines
                        ),
                        *_charge_lines(fact),
                    ),
                ),
            )
        case OrderShipped():
            delivery = PendingDocument(
                document_type=DocumentType.DELIVERY,
                business_key=f"delivery/{fact.order_id}/{fact.shipment_id}",
                # Release 0 was never released (till, marketplace-fulfilled): it has no sales order.
                after=sales_order_key(fact.order_id, fact.release) if fact.release else "",
                wait_until=wait_until,
                lines=tuple(
                    DocumentLine(
                        position=line.line_id,
                        sku=line.sku,
                        units=line.units,
                        stock_location=fact.location or "",
                    )
                    for line in fact.lines
                ),
            )
            invoice = PendingDocument(
                document_type=DocumentType.INVOICE,
                business_key=f"{_invoices(fact.order_id)}{fact.shipment_id}",
                after=delivery.business_key,
                wait_until=wait_until,
                amount_minor=sum(line.amounts.receivable for line in fact.lines) + _charges(fact),
                currency=fact.currency,
                lines=(
                    *(
                        _line(line.line_id, line.amounts, sku=line.sku, units=line.units)
                        for line in fact.lines
                    ),
                    *_charge_lines(fact),
                ),
            )
            return delivery, invoice
        case OrderAmended():
            # A change states what remains of its lines, so that repeating it changes nothing. Units that are back from
            # fulfilment are not part of it: the sales order of their next release brings them.
            remaining = tuple(
                (line, line.amounts - line.unreleased if line.unreleased is not None else line.amounts)
                for line in fact.lines
            )
            return (
                PendingDocument(
                    document_type=DocumentType.SALES_ORDER_CHANGE,
                    business_key=_change_key(fact.order_id, fact.amendment_id),
                    after=_sales_orders(fact.order_id),
                    wait_until=wait_until,
                    amount_minor=sum(amounts.receivable for _, amounts in remaining),
                    currency=fact.lines[0].amounts.currency if fact.lines else "",
                    lines=tuple(
                        _line(line.line_id, amounts, sku=line.sku, units=line.units - line.unreleased_units)
                        for line, amounts in remaining
                    ),
                ),
            )
        case OrderCancelled():
            return (
                PendingDocument(
                    document_type=DocumentType.SALES_ORDER_CHANGE,
                    business_key=_change_key(fact.order_id, fact.cancel_id),
                    after=_sales_orders(fact.order_id),
                    wait_until=wait_until,
                    lines=tuple(
                        DocumentLine(position=line.line_id, sku=Sku(""), units=0) for line in fact.lines
                    ),
                ),
            )
        case PaymentRecorded():
            return (
                PendingDocument(
                    document_type=DocumentType.PAYMENT,
                    business_key=f"payment/{fact.order_id}/{fact.payment_id}",
                    after=_paid_invoice(fact, known),
                    optional_predecessor=True,
                    wait_until=now + policy.on_account_after,
                    amount_minor=fact.amount.minor,
                    currency=fact.amount.currency,
                ),
            )
        case RefundRecorded():
            return (
                PendingDocument(
                    document_type=DocumentType.PAYMENT,
                    business_key=f"refund/{fact.order_id}/{fact.refund_id}",
                    after=_invoices(fact.order_id),
                    optional_predecessor=True,
                    wait_until=now + policy.on_account_after,
                    amount_minor=-fact.amount.minor,
                    currency=fact.amount.currency,
                ),
            )
        case CreditGranted():
            adjustment = Amounts(currency=fact.currency, goods=fact.adjustment_minor)
            return (
                PendingDocument(
                    document_type=DocumentType.CREDIT_MEMO,
                    business_key=f"credit_memo/{fact.order_id}/{fact.credit_id}",
                    after=_invoices(fact.order_id),
                    wait_until=wait_until,
                    amount_minor=sum(line.amounts.receivable for line in fact.lines) + fact.adjustment_minor,
                    currency=fact.currency,
                    lines=(
                        *(
                            _line(line.line_id, line.amounts, sku=line.sku, units=line.units)
                            for line in fact.lines
                        ),
                        *([_line("other", adjustment)] if fact.adjustment_minor else []),
                    ),
                ),
            )
        case SettlementProved():
            return (
                PendingDocument(
                    document_type=DocumentType.SETTLEMENT_JOURNAL,
                    # The digest tells a corrected file's journal from a repeated one.
                    business_key=f"settlement_journal/{fact.settlement_id}/{fact.sha256}",
                    wait_until=wait_until,
                    amount_minor=fact.declared_minor,
                    currency=fact.currency,
                    lines=tuple(
                        DocumentLine(position=line.account, sku=Sku(""), net_minor=line.amount_minor)
                        for line in fact.journal
                    ),
                ),
            )
        case StockAdjusted():
            # Deliveries and credit memos explain sales and returns, the ERP's own purchasing books receipts.
            return (
                PendingDocument(
                    document_type=DocumentType.STOCK_ADJUSTMENT,
                    business_key=f"stock_adjustment/{fact.sku}/{fact.location}/{fact.bucket}/{fact.ref}",
                    wait_until=wait_until,
                    lines=(
                        DocumentLine(
                            position=fact.bucket,
                            sku=fact.sku,
                            units=fact.delta,
                            stock_location=fact.location,
                        ),
                    ),
                    book_version=fact.version,
                ),
            )
        case _:
            assert_never(fact)


def sales_order_key(order_id: str, release: int) -> str:
    """Business key of the sales order of one release."""
    return f"{_sales_orders(order_id)}{release}"


def _sales_orders(order_id: str) -> str:
    return f"sales_order/{order_id}/"


def _invoices(order_id: str) -> str:
    return f"invoice/{order_id}/"


def _paid_invoice(fact: PaymentRecorded, known: Iterable[str]) -> str:
    """What the money waits for: the invoice of the shipment that a capture of ours names, else any of the order.

    A capture's id is `<order id>/capture/<shipment id>`, and a further one for the same shipment adds a number.
    """
    invoices = _invoices(fact.order_id)
    own = invoices + fact.payment_id.removeprefix(f"{fact.order_id}/capture/") + "/"
    candidates = [key for key in known if key.startswith(invoices) and own.startswith(f"{key}/")]
    return max(candidates, key=len, default=invoices)


def _change_key(order_id: str, change_id: str) -> str:
    return f"sales_order_change/{order_id}/{change_id}"


def _line(position: str, amounts: Amounts, *, sku: str = "", units: int = 0) -> DocumentLine:
    return DocumentLine(
        position=position,
        sku=Sku(sku),
        units=units,
        net_minor=amounts.net,
        tax_minor=amounts.tax,
        facilitator_tax_minor=amounts.facilitator_tax,
    )


def _charges(fact: OrderReleased | OrderShipped) -> int:
    return (0 if fact.shipping is None else fact.shipping.receivable) + fact.other_minor


def _charge_lines(fact: OrderReleased | OrderShipped) -> Iterable[DocumentLine]:
    if fact.shipping is not None:
        yield _line("shipping", fact.shipping)
    if fact.other_minor:
        yield _line("other", Amounts(currency=fact.currency, goods=fact.other_minor))
