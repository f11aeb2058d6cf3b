"""Decisions on orders and the steps of a return, as people, storefronts and docks send them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, RootModel, model_validator

from crossdock_canonical.identity import LineId, LocationId, OrderId, order_id
from crossdock_canonical.money import Money
from crossdock_canonical.records import (
    CancelRequested,
    FraudDecided,
    FraudVerdict,
    Grade,
    InspectedLine,
    LineUnits,
    ReturnInspected,
    ReturnLine,
    ReturnReceived,
    ReturnRequested,
)
from crossdock_channel_gateway.intake import Intake
from crossdock_channel_gateway.translate import ours
from crossdock_channel_gateway.translate.payments import MoneyText


class Fraud(ours.OwnModel):
    """Outcome of a risk review."""

    type: Literal["fraud"]
    decision_id: ours.Identifier
    verdict: FraudVerdict
    actor: ours.Identifier
    reason: ours.Text = ""


class LineQuantity(ours.OwnModel):
    line_id: ours.Identifier
    units: ours.Units


class Cancel(ours.OwnModel):
    """A wish to cancel; without lines: all that has not shipped."""

    type: Literal["cancel"]
    request_id: ours.Identifier
    actor: ours.Identifier
    reason: ours.Text = ""
    lines: list[LineQuantity] = Field([], max_length=1_000)


DecisionBody: TypeAlias = Annotated[Fraud | Cancel, Field(discriminator="type")]


class Decision(RootModel[DecisionBody]):
    """What is decided about one order."""


def decision(order: str, body: Any) -> Intake:
    """Raises Refused(422)."""
    given = ours.validated(Decision, body).root
    owner = OrderId(ours.validated(_OrderPath, {"order_id": order}).order_id)
    match given:
        case Fraud():
            return Intake(
                records=(
                    FraudDecided(
                        order_id=owner,
                        decision_id=given.decision_id,
                        verdict=given.verdict,
                        actor=given.actor,
                        reason=given.reason,
                    ),
                ),
                delivery=f"decision/{owner}/{given.decision_id}",
                occurred_at=None,
            )
        case Cancel():
            return Intake(
                records=(
                    CancelRequested(
                        order_id=owner,
                        request_id=given.request_id,
                        actor=given.actor,
                        reason=given.reason,
                        lines=tuple(
                            LineUnits(line_id=LineId(line.line_id), units=line.units) for line in given.lines
                        ),
                    ),
                ),
                delivery=f"decision/{owner}/{given.request_id}",
                occurred_at=None,
            )


class _OrderPath(ours.OwnModel):
    order_id: ours.OrderReference


class ChannelOrderName(ours.OwnModel):
    """An order by its channel's own name."""

    channel: ours.Identifier
    shop: ours.Identifier
    marketplace: ours.Text = ""
    external_id: ours.Identifier


class ReturningLine(ours.OwnModel):
    line_id: ours.Identifier
    units: ours.Units
    reason: ours.Text = ""


class ReturnRequest(ours.OwnModel):
    """A wish to return goods. The order is named by its id or by its channel's name of it."""

    rma_id: ours.Identifier = Field(description="Chosen by the caller; a repetition has the same.")
    order_id: ours.OrderReference | None = None
    order: ChannelOrderName | None = None
    channel: ours.Text = Field("", description="Where the return was asked for.")
    location: ours.Identifier | None = Field(None, description="Where the goods will arrive, if known.")
    lines: Annotated[list[ReturningLine], Field(min_length=1, max_length=1_000)]
    requested_at: ours.Moment

    @model_validator(mode="after")
    def _one_name(self) -> ReturnRequest:
        if (self.order_id is None) == (self.order is None):
            raise ValueError("exactly one of order_id and order is required")
        return self


def return_request(body: Any) -> Intake:
    """Raises Refused(422)."""
    given = ours.validated(ReturnRequest, body)
    if given.order is not None:
        owner = order_id(
            channel=given.order.channel,
            shop=given.order.shop,
            marketplace=given.order.marketplace,
            external_id=given.order.external_id,
        )
    else:
        owner = OrderId(given.order_id or "")
    record = ReturnRequested(
        order_id=owner,
        rma_id=given.rma_id,
        channel=given.channel,
        location=LocationId(given.location) if given.location else None,
        lines=_returning(given.lines),
        requested_at=given.requested_at,
    )
    return Intake(
        records=(record,), delivery=f"return/{given.rma_id}/requested", occurred_at=given.requested_at
    )


class Received(ours.OwnModel):
    """Goods arrived at some location."""

    type: Literal["received"]
    order_id: ours.OrderReference
    receipt_id: ours.Identifier
    location: ours.Identifier
    lines: Annotated[list[ReturningLine], Field(min_length=1, max_length=1_000)]
    received_at: ours.Moment


class GradedLine(ours.OwnModel):
    line_id: ours.Identifier
    units: ours.Units
    grade: Grade


class Inspected(ours.OwnModel):
    """Goods were inspected; `tender_refunded` is money that a store paid out of its drawer."""

    type: Literal["inspected"]
    order_id: ours.OrderReference
    inspection_id: ours.Identifier
    location: ours.Identifier
    lines: Annotated[list[GradedLine], Field(min_length=1, max_length=1_000)]
    tender_refunded: MoneyText | None = None
    inspected_at: ours.Moment


ReturnStep: TypeAlias = Annotated[Received | Inspected, Field(discriminator="type")]


class ReturnEvent(RootModel[ReturnStep]):
    """One step of a return."""


class _ReturnPath(ours.OwnModel):
    rma_id: ours.Identifier


def return_event(rma: str, body: Any) -> Intake:
    """Raises Refused(422)."""
    given = ours.validated(ReturnEvent, body).root
    rma_id = ours.validated(_ReturnPath, {"rma_id": rma}).rma_id
    match given:
        case Received():
            return Intake(
                records=(
                    ReturnReceived(
                        order_id=OrderId(given.order_id),
                        rma_id=rma_id,
                        receipt_id=given.receipt_id,
                        location=LocationId(given.location),
                        lines=_returning(given.lines),
                        received_at=given.received_at,
                    ),
                ),
                delivery=f"return/{rma_id}/received/{given.receipt_id}",
                occurred_at=given.received_at,
            )
        case Inspected():
            return Intake(
                records=(
                    ReturnInspected(
                        order_id=OrderId(given.order_id),
                        rma_id=rma_id,
                        inspection_id=given.inspection_id,
                        location=LocationId(given.location),
                        lines=tuple(
                            InspectedLine(line_id=LineId(line.line_id), units=line.units, grade=line.grade)
                            for line in given.lines
                        ),
                        tender_refunded=_money(given.tender_refunded),
                        inspected_at=given.inspected_at,
                    ),
                ),
                delivery=f"return/{rma_id}/inspected/{given.inspection_id}",
                occurred_at=given.inspected_at,
            )


def _returning(lines: list[ReturningLine]) -> tuple[ReturnLine, ...]:
    return tuple(
        ReturnLine(line_id=LineId(line.line_id), units=line.units, reason=line.reason) for line in lines
    )


def _money(given: MoneyText | None) -> Money | None:
    if given is None:
        return None
    reading = ours.Amounts(given.currency)
    minor = reading.minor(given.amount, "tender_refunded.amount")
    reading.finish()
    return Money(minor=minor, currency=given.currency)
