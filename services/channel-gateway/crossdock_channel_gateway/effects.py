"""What an outbound record asks of the outside: one call to one system, with its reference. Pure; used by `courier`.

The reference makes the call repeatable: the same record again is the same call, and whether it has happened already can be
looked up. A system that will never do it is answered for here, in the words of the intake that waits for the outcome.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

from crossdock_canonical.money import Money, decimal_text
from crossdock_canonical.records import (
    Address,
    CancelDeclined,
    CapturePayment,
    FulfillmentCancelRequested,
    FulfillmentRejected,
    FulfillmentRequested,
    LineUnits,
    OrderCancelled,
    OrderRejected,
    OrderShipped,
    Origin,
    PaymentDeclined,
    RefundFailed,
    RefundPayment,
    RefundRecorded,
    ReturnAuthorized,
    ReturnDeclined,
    ReturnExpected,
    ReturnLine,
    VoidPayment,
    WarehouseLine,
)
from crossdock_canonical.records.common import FulfilledBy
from crossdock_channel_gateway.intake import Intake
from crossdock_channel_gateway.translate import payments, pos
from crossdock_channel_gateway.translate.shopify import REFUND_NOTE_PREFIX

System = Literal["wms", "psp", "channels"]

#: Every record that is acted on; the outbound side reads these and skips all others by their header.
OUTBOUND: tuple[type[Any], ...] = (
    FulfillmentRequested,
    FulfillmentCancelRequested,
    ReturnExpected,
    CapturePayment,
    VoidPayment,
    RefundPayment,
    OrderShipped,
    OrderRejected,
    OrderCancelled,
    RefundRecorded,
    ReturnAuthorized,
    ReturnDeclined,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One call. `path` is where it is sent, `lookup` where it can be found by its reference afterwards.

    refused: what to report to the backbone when the system will never do it; None: nobody waits for that answer.
    """

    system: System
    method: Literal["PUT", "POST"]
    path: str
    lookup: str
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)
    refused: Callable[[str], Intake] | None = None


def effect_of(record: Any) -> Effect | None:
    """The call that the record asks for; None when its fact came from the outside itself."""
    match record:
        case FulfillmentRequested() | FulfillmentCancelRequested() | ReturnExpected():
            return _warehouse(record)
        case CapturePayment() | VoidPayment() | RefundPayment():
            return _payment(record)
        case OrderShipped() | OrderRejected() | OrderCancelled() | RefundRecorded():
            return _order_news(record)
        case ReturnAuthorized() | ReturnDeclined():
            return _return_news(record)
        case _:
            raise AssertionError(f"{type(record).__name__} is no outbound record")


def _warehouse(record: FulfillmentRequested | FulfillmentCancelRequested | ReturnExpected) -> Effect:
    match record:
        case FulfillmentRequested():
            body = {
                "order_id": record.order_id,
                "fulfillment_order_id": record.fulfillment_order_id,
                "location": record.location,
                "method": record.method,
                "lines": _warehouse_lines(record.lines),
                "ship_to": _address(record.ship_to),
                "promise_by": None if record.promise_by is None else record.promise_by.isoformat(),
                "channel": record.channel,
            }
            path = f"/fulfillment-orders/{_segment(record.fulfillment_order_id)}"
            return _put("wms", path, body, refused=lambda reason: _rejected(record, reason))
        case FulfillmentCancelRequested():
            body = {
                "order_id": record.order_id,
                "fulfillment_order_id": record.fulfillment_order_id,
                "cancel_id": record.cancel_id,
                "location": record.location,
                "lines": _warehouse_lines(record.lines),
            }
            owner, cancel = _segment(record.fulfillment_order_id), _segment(record.cancel_id)
            path = f"/fulfillment-orders/{owner}/cancellations/{cancel}"
            return _put("wms", path, body, refused=lambda reason: _not_stopped(record, reason))
        case ReturnExpected():
            body = {
                "order_id": record.order_id,
                "rma_id": record.rma_id,
                "location": record.location,
                "lines": _warehouse_lines(record.lines),
            }
            return _put("wms", f"/expected-returns/{_segment(record.rma_id)}", body)


def _rejected(record: FulfillmentRequested, reason: str) -> Intake:
    report = f"{record.fulfillment_order_id}/refused"
    rejected = FulfillmentRejected(
        order_id=record.order_id,
        fulfillment_order_id=record.fulfillment_order_id,
        event_id=report,
        location=record.location,
        reason=reason,
    )
    return Intake(records=(rejected,), delivery=f"warehouse/{record.location}/{report}", occurred_at=None)


def _not_stopped(record: FulfillmentCancelRequested, reason: str) -> Intake:
    declined = CancelDeclined(
        order_id=record.order_id,
        fulfillment_order_id=record.fulfillment_order_id,
        cancel_id=record.cancel_id,
        location=record.location,
        lines=record.lines,
        reason=reason,
    )
    delivery = f"warehouse/{record.location}/cancel_declined/{record.cancel_id}"
    return Intake(records=(declined,), delivery=delivery, occurred_at=None)


def _payment(record: CapturePayment | VoidPayment | RefundPayment) -> Effect:
    """The provider's event tells the outcome; only a refusal, after which no event comes, is reported here."""
    match record:
        case CapturePayment():
            kind, reference = "captures", record.capture_id
        case VoidPayment():
            kind, reference = "voids", record.void_id
        case RefundPayment():
            kind, reference = "refunds", record.refund_id

    def refused(reason: str) -> Intake:
        if isinstance(record, RefundPayment):
            return payments.intake(RefundFailed(order_id=record.order_id, refund_id=reference, reason=reason))
        return payments.intake(PaymentDeclined(order_id=record.order_id, reference=reference, reason=reason))

    return Effect(
        system="psp",
        method="POST",
        path=f"/{kind}",
        lookup=f"/{kind}/{_segment(reference)}",
        body={
            "id": reference,
            "order_id": record.order_id,
            "tender_reference": record.tender_reference,
            "amount": _money(record.amount),
        },
        headers={"Idempotency-Key": quote(reference, safe="/:-._~")},
        refused=refused,
    )


def _order_news(record: OrderShipped | OrderRejected | OrderCancelled | RefundRecorded) -> Effect | None:
    """News for the originating channel; what the channel itself did or told us is no news to it."""
    order: dict[str, Any] = {
        "order_id": record.order_id,
        "channel": record.channel,
        "shop": record.shop,
        "external_id": record.external_id,
    }
    channel = _segment(record.channel)
    match record:
        case OrderShipped():
            if record.release == 0 or record.fulfilled_by is FulfilledBy.MARKETPLACE:
                return None
            if not record.channel_lines:
                return None  # A part of a kit or case: told with the shipment that completes it.
            body = order | {
                "shipment_id": record.shipment_id,
                "lines": _line_units(record.channel_lines),
                "location": record.location,
                "carrier": record.carrier,
                "tracking": record.tracking,
                "shipped_at": record.shipped_at.isoformat(),
            }
            return _put("channels", f"/{channel}/fulfillments/{_segment(record.shipment_id)}", body)
        case OrderRejected():
            body = order | {"reason_code": record.reason_code, "detail": record.detail}
            return _put("channels", f"/{channel}/rejections/{_segment(record.order_id)}", body)
        case OrderCancelled():
            if record.origin is Origin.CHANNEL:
                return None
            if not record.channel_lines and not record.complete:
                return None  # More of a kit or case that is told to be cancelled already.
            body = order | {
                "cancel_id": record.cancel_id,
                "reason_code": record.reason_code,
                "lines": _line_units(record.channel_lines),
                "complete": record.complete,
            }
            return _put("channels", f"/{channel}/cancellations/{_segment(record.cancel_id)}", body)
        case RefundRecorded():
            # A drawer's refund of a till sale is the till's own; any other channel has yet to hear of it.
            by_the_till = record.origin is Origin.STORE and record.channel == pos.CHANNEL
            if record.origin is Origin.CHANNEL or by_the_till:
                return None
            body = order | {
                "refund_id": record.refund_id,
                "amount": _money(record.amount),
                # The channel's webhook of this refund carries the note back, by which it is known as ours.
                "note": f"{REFUND_NOTE_PREFIX}{record.refund_id}",
            }
            return _put("channels", f"/{channel}/refunds/{_segment(record.refund_id)}", body)


def _return_news(record: ReturnAuthorized | ReturnDeclined) -> Effect:
    match record:
        case ReturnAuthorized():
            body: dict[str, Any] = {
                "order_id": record.order_id,
                "rma_id": record.rma_id,
                "status": "authorized",
                "external_id": record.external_id,
                "lines": _line_units(record.channel_lines),
                "expires_at": record.expires_at.isoformat(),
            }
            return _put(
                "channels", f"/{_segment(record.channel or 'any')}/returns/{_segment(record.rma_id)}", body
            )
        case ReturnDeclined():
            body = {
                "order_id": record.order_id,
                "rma_id": record.rma_id,
                "status": "declined",
                "reason_code": record.reason_code,
            }
            return _put("channels", f"/any/returns/{_segment(record.rma_id)}", body)


def _put(
    system: System, path: str, body: dict[str, Any], *, refused: Callable[[str], Intake] | None = None
) -> Effect:
    return Effect(system=system, method="PUT", path=path, lookup=path, body=body, refused=refused)


def _segment(reference: str) -> str:
    """A reference as one path segment; our references contain slashes."""
    return quote(reference, safe="")


def _money(amount: Money) -> dict[str, str]:
    return {"amount": decimal_text(amount.minor, amount.currency), "currency": amount.currency}


def _warehouse_lines(lines: tuple[WarehouseLine, ...]) -> list[dict[str, Any]]:
    return [{"line_id": line.line_id, "sku": line.sku, "units": line.units} for line in lines]


def _line_units(lines: tuple[LineUnits | ReturnLine, ...]) -> list[dict[str, Any]]:
    return [{"line_id": line.line_id, "units": line.units} for line in lines]


def _address(address: Address | None) -> dict[str, Any] | None:
    return None if address is None else address.to_avro()
