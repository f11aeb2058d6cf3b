"""What the payment provider reports. One JSON form, told apart by `type`; our own ids come back as we sent them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, RootModel

from crossdock_canonical.identity import OrderId
from crossdock_canonical.money import Money
from crossdock_canonical.records import (
    ChargedBack,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentDeclined,
    PaymentRefunded,
    PaymentVoided,
    RefundFailed,
)
from crossdock_channel_gateway.intake import Intake
from crossdock_channel_gateway.translate import ours


class MoneyText(ours.OwnModel):
    """An exact amount."""

    amount: ours.Amount
    currency: ours.Currency


class _Report(ours.OwnModel):
    order_id: ours.OrderReference


class Authorized(_Report):
    """The provider guarantees an amount."""

    type: Literal["authorized"]
    tender_reference: ours.Identifier
    amount: MoneyText
    psp_reference: ours.Text = ""
    occurred_at: ours.Moment


class Captured(_Report):
    """The provider took the money."""

    type: Literal["captured"]
    capture_id: ours.Identifier
    amount: MoneyText
    psp_reference: ours.Text = ""
    occurred_at: ours.Moment


class Voided(_Report):
    """The provider let go of an authorisation."""

    type: Literal["voided"]
    void_id: ours.Identifier
    amount: MoneyText
    psp_reference: ours.Text = ""
    occurred_at: ours.Moment


class Refunded(_Report):
    """The provider sent money back."""

    type: Literal["refunded"]
    refund_id: ours.Identifier
    amount: MoneyText
    psp_reference: ours.Text = ""
    occurred_at: ours.Moment


class Declined(_Report):
    """The provider refused an authorisation, a capture or a void."""

    type: Literal["declined"]
    reference: ours.Identifier = Field(
        description="Our capture or void id, or the tender of an authorisation."
    )
    reason: ours.Text = ""


class RefundRefused(_Report):
    """The provider could not send money back."""

    type: Literal["refund_failed"]
    refund_id: ours.Identifier
    reason: ours.Text = ""


class TakenBack(_Report):
    """The customer's bank took money back."""

    type: Literal["charged_back"]
    chargeback_id: ours.Identifier
    amount: MoneyText
    reason: ours.Text = ""
    occurred_at: ours.Moment


Report: TypeAlias = Annotated[
    Authorized | Captured | Voided | Refunded | Declined | RefundRefused | TakenBack,
    Field(discriminator="type"),
]


class PaymentEvent(RootModel[Report]):
    """One report of the payment provider."""


def translate(body: Any) -> Intake:
    """One report. Raises Refused(422)."""
    report = ours.validated(PaymentEvent, body).root
    order = OrderId(report.order_id)
    match report:
        case Declined():
            return intake(PaymentDeclined(order_id=order, reference=report.reference, reason=report.reason))
        case RefundRefused():
            return intake(RefundFailed(order_id=order, refund_id=report.refund_id, reason=report.reason))
        case Authorized() | Captured() | Voided() | Refunded() | TakenBack():
            return intake(_money_record(report, order), report.occurred_at)


def _money_record(report: Authorized | Captured | Voided | Refunded | TakenBack, order: OrderId) -> Any:
    reading = ours.Amounts(report.amount.currency)
    amount = Money(
        minor=reading.minor(report.amount.amount, "amount.amount"), currency=report.amount.currency
    )
    reading.finish()
    match report:
        case Authorized():
            return PaymentAuthorized(
                order_id=order,
                tender_reference=report.tender_reference,
                amount=amount,
                psp_reference=report.psp_reference,
                authorized_at=report.occurred_at,
            )
        case Captured():
            return PaymentCaptured(
                order_id=order,
                capture_id=report.capture_id,
                amount=amount,
                psp_reference=report.psp_reference,
                captured_at=report.occurred_at,
            )
        case Voided():
            return PaymentVoided(
                order_id=order,
                void_id=report.void_id,
                amount=amount,
                psp_reference=report.psp_reference,
                voided_at=report.occurred_at,
            )
        case Refunded():
            return PaymentRefunded(
                order_id=order,
                refund_id=report.refund_id,
                amount=amount,
                psp_reference=report.psp_reference,
                refunded_at=report.occurred_at,
            )
        case TakenBack():
            return ChargedBack(
                order_id=order,
                chargeback_id=report.chargeback_id,
                amount=amount,
                reason=report.reason,
                charged_back_at=report.occurred_at,
            )


def intake(record: Any, occurred_at: datetime | None = None) -> Intake:
    """The same delivery id whether the provider's event or its answer to our call told us, so both give one event id."""
    reference = "/".join(str(getattr(record, name)) for name in record.IDENTITY)
    return Intake(records=(record,), delivery=f"payment/{reference}", occurred_at=occurred_at)
