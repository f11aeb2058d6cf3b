"""Inputs that come before their order: turned into what the state keeps, and back once the order is there. Called by `decide`."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import assert_never

from crossdock_canonical.identity import LineId, OrderId, Sku
from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    CancelRequested,
    ChannelOrderReceived,
    ChannelRefundReceived,
    ChannelStatus,
    ChargedBack,
    CreditProposed,
    FraudDecided,
    FraudVerdict,
    IntakeKind,
    LineUnits,
    PaymentAuthorized,
    RefundLine,
    ReturnedLine,
)
from crossdock_order_orchestrator.state_records import EarlyInput, EarlyKind, EarlyLine

# What may speak of an order that its channel has not sent yet. An order is cancelled by its channel once: any
# `ChannelOrderReceived` here is its cancellation.
Early = (
    ChannelOrderReceived
    | CancelRequested
    | ChannelRefundReceived
    | CreditProposed
    | FraudDecided
    | PaymentAuthorized
    | ChargedBack
)
_NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)


def keep(command: Early) -> EarlyInput:
    """What of the command its handling will need."""
    match command:
        case ChannelOrderReceived():
            return EarlyInput(
                kind=EarlyKind.CHANNEL_CANCEL,
                input_id="channel",
                at=command.revision_at,
                channel=command.channel,
                shop=command.shop,
                external_id=command.external_id,
                reason=command.cancel_reason,
                reference=command.revision_id,
                currency=command.currency,
            )
        case CancelRequested():
            return EarlyInput(
                kind=EarlyKind.CANCEL_REQUEST,
                input_id=command.request_id,
                actor=command.actor,
                reason=command.reason,
                lines=tuple(_line(line.line_id, line.units) for line in command.lines),
            )
        case ChannelRefundReceived():
            return EarlyInput(
                kind=EarlyKind.REFUND,
                input_id=command.refund_id,
                at=command.refunded_at,
                channel=command.channel,
                shop=command.shop,
                external_id=command.external_id,
                refund_id=command.our_refund_id,
                lines=tuple(
                    replace(
                        _line(line.line_id, line.units, line.amounts),
                        disposition=line.disposition,
                    )
                    for line in command.lines
                ),
                adjustment_minor=command.adjustment_minor,
                amount=command.amount,
                restock=command.restock,
            )
        case CreditProposed():
            return EarlyInput(
                kind=EarlyKind.CREDIT,
                input_id=command.credit_id,
                rma_id=command.rma_id,
                refund_id=command.refund_id,
                lines=tuple(
                    _line(line.line_id, line.units, line.amounts, line.sku) for line in command.lines
                ),
                amount=command.store_refund,
                currency=command.currency,
            )
        case FraudDecided():
            return EarlyInput(
                kind=EarlyKind.FRAUD,
                input_id=command.decision_id,
                actor=command.actor,
                reason=command.reason,
                rejects=command.verdict is FraudVerdict.REJECT,
            )
        case PaymentAuthorized():
            return EarlyInput(
                kind=EarlyKind.AUTHORIZED,
                input_id=command.tender_reference,
                at=command.authorized_at,
                reference=command.psp_reference,
                amount=command.amount,
            )
        case ChargedBack():
            return EarlyInput(
                kind=EarlyKind.CHARGED_BACK,
                input_id=command.chargeback_id,
                at=command.charged_back_at,
                reason=command.reason,
                amount=command.amount,
            )
        case _:
            assert_never(command)


def recall(order_id: OrderId, kept: EarlyInput) -> Early:
    """The command again, as far as its handling needs it."""
    at = kept.at or _NO_TIME
    match kept.kind:
        case EarlyKind.CHANNEL_CANCEL:
            return ChannelOrderReceived(
                order_id=order_id,
                channel=kept.channel,
                shop=kept.shop,
                external_id=kept.external_id,
                kind=IntakeKind.CANCEL,
                revision_at=at,
                revision_id=kept.reference,
                placed_at=at,
                status=ChannelStatus.CANCELLED,
                currency=kept.currency,
                lines=(),
                cancel_reason=kept.reason,
            )
        case EarlyKind.CANCEL_REQUEST:
            return CancelRequested(
                order_id=order_id,
                request_id=kept.input_id,
                actor=kept.actor,
                reason=kept.reason,
                lines=tuple(LineUnits(line_id=line.line_id, units=line.units) for line in kept.lines),
            )
        case EarlyKind.REFUND:
            return ChannelRefundReceived(
                order_id=order_id,
                channel=kept.channel,
                shop=kept.shop,
                external_id=kept.external_id,
                refund_id=kept.input_id,
                our_refund_id=kept.refund_id,
                lines=tuple(
                    RefundLine(
                        line_id=line.line_id,
                        units=line.units,
                        amounts=_worth(line),
                        disposition=line.disposition,
                    )
                    for line in kept.lines
                ),
                adjustment_minor=kept.adjustment_minor,
                amount=_amount(kept),
                refunded_at=at,
                restock=kept.restock,
            )
        case EarlyKind.CREDIT:
            return CreditProposed(
                order_id=order_id,
                rma_id=kept.rma_id or "",
                credit_id=kept.input_id,
                lines=tuple(
                    ReturnedLine(line_id=line.line_id, sku=line.sku, units=line.units, amounts=_worth(line))
                    for line in kept.lines
                ),
                currency=kept.currency,
                store_refund=kept.amount,
                refund_id=kept.refund_id,
            )
        case EarlyKind.FRAUD:
            return FraudDecided(
                order_id=order_id,
                decision_id=kept.input_id,
                verdict=FraudVerdict.REJECT if kept.rejects else FraudVerdict.RELEASE,
                actor=kept.actor,
                reason=kept.reason,
            )
        case EarlyKind.AUTHORIZED:
            return PaymentAuthorized(
                order_id=order_id,
                tender_reference=kept.input_id,
                amount=_amount(kept),
                psp_reference=kept.reference,
                authorized_at=at,
            )
        case EarlyKind.CHARGED_BACK:
            return ChargedBack(
                order_id=order_id,
                chargeback_id=kept.input_id,
                amount=_amount(kept),
                reason=kept.reason,
                charged_back_at=at,
            )
        case _:
            assert_never(kept.kind)


def _line(line_id: LineId, units: int, amounts: Amounts | None = None, sku: Sku | None = None) -> EarlyLine:
    return EarlyLine(line_id=line_id, sku=sku or Sku(""), units=units, amounts=amounts)


def _worth(line: EarlyLine) -> Amounts:
    assert line.amounts is not None
    return line.amounts


def _amount(kept: EarlyInput) -> Money:
    assert kept.amount is not None
    return kept.amount
