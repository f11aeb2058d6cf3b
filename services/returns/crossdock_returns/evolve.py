"""Fold the events of one order's returns into its state. The shell calls `evolve`; so does `decide`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import TypeVar, assert_never

from crossdock_canonical.decider import Ignored
from crossdock_canonical.identity import LineId, OrderId
from crossdock_canonical.records import (
    CreditProposed,
    OrderShipped,
    RestockReturn,
    ReturnAuthorized,
    ReturnClosed,
    ReturnDeclined,
    ReturnExpected,
    ReturnInspected,
    ReturnReceived,
    ReturnRequested,
    ShippedLine,
)
from crossdock_returns.model import (
    BlindReturnOpened,
    ChannelCredited,
    ChannelRefunded,
    DeadlineSet,
    GoodsInspected,
    GoodsReceived,
    InputDeferred,
    InputResumed,
    OrderForgotten,
    ShipmentLearned,
    WaitingInput,
    expiry_name,
    find_rma,
    shipped_units,
    waiting_name,
)
from crossdock_returns.state_records import (
    ChannelCredit,
    OrderReturns,
    PrepaidUnits,
    ReturnableLine,
    Rma,
    RmaLine,
    RmaStatus,
    ShippedLot,
    WaitingInspection,
    WaitingReceipt,
    WaitingRequest,
)

PrivateEvent = (
    ShipmentLearned
    | ChannelCredited
    | ChannelRefunded
    | InputDeferred
    | InputResumed
    | BlindReturnOpened
    | GoodsReceived
    | GoodsInspected
    | DeadlineSet
    | OrderForgotten
)
PublicEvent = (
    ReturnAuthorized | ReturnDeclined | ReturnClosed | CreditProposed | ReturnExpected | RestockReturn
)
Event = PrivateEvent | PublicEvent | Ignored

T = TypeVar("T")

# Ids of documents that one return remembers: a return has a handful, and redelivery repeats the latest ones.
_IDS_MAX = 200
# Declined requests that one order remembers; a customer may ask again and again.
_DECLINED_MAX = 50


def initial_state(order_id: OrderId) -> OrderReturns:
    """An order of which nothing is known."""
    return OrderReturns(order_id=order_id)


def evolve(state: OrderReturns | None, event: Event) -> OrderReturns | None:
    """Apply one event. None: the order is forgotten, or was never remembered."""
    match event:
        case Ignored():
            return state
        case OrderForgotten():
            return None
        case ShipmentLearned(shipment):
            return _ship(state or initial_state(shipment.order_id), shipment)
        case ChannelCredited(credit):
            state = state or initial_state(credit.order_id)
            prepaid = tuple(
                PrepaidUnits(line_id=line.line_id, units=line.units)
                for line in credit.lines
                if line.units > 0
            )
            return _with_channel_credit(state, credit.credit_id, lines=prepaid)
        case ChannelRefunded():
            state = state or initial_state(event.order_id)
            return _with_channel_credit(state, event.credit_id, refund_id=event.refund_id)
        case InputDeferred():
            state = state or initial_state(event.waiting.order_id)
            return _defer(state, event.waiting, event.deadline)
    assert state is not None, f"{type(event).__name__} needs an order"
    match event:
        case InputResumed(name):
            return _resume(state, name)
        case ReturnAuthorized():
            units = {line.line_id: line.units for line in event.lines}
            timers = {**state.timers, expiry_name(event.rma_id): event.expires_at}
            return replace(_with_rma(state, event.rma_id, authorized=units), timers=timers)
        case BlindReturnOpened(rma_id):
            return _with_rma(state, rma_id)
        case ReturnDeclined():
            return _decline(state, event)
        case GoodsReceived():
            return _receive(state, event)
        case GoodsInspected():
            return _inspect(state, event)
        case CreditProposed():
            return _credit(state, event)
        case ReturnClosed():
            rma = _rma(state, event.rma_id)
            status = RmaStatus.EXPIRED if event.outcome == "expired" else RmaStatus.COMPLETED
            return replace(
                _put_rma(state, replace(rma, status=status)),
                timers=_without(state.timers, expiry_name(event.rma_id)),
            )
        case DeadlineSet():
            return replace(state, timers={**state.timers, event.name: event.due})
        case ReturnExpected() | RestockReturn():
            return state
        case _:
            assert_never(event)


def _ship(state: OrderReturns, shipment: OrderShipped) -> OrderReturns:
    lines = {line.line_id: line for line in state.lines}
    for shipped in shipment.lines:
        known = lines.get(shipped.line_id) or ReturnableLine(
            line_id=shipped.line_id,
            sku=shipped.sku,
            lots=(),
            parent_line_id=shipped.parent_line_id,
            per_unit=shipped.per_unit,
        )
        lines[shipped.line_id] = replace(known, lots=(*known.lots, _lot(shipment, shipped)))
    return replace(
        state,
        channel=shipment.channel,
        external_id=shipment.external_id,
        currency=shipment.currency,
        lines=tuple(lines.values()),
    )


def _lot(shipment: OrderShipped, line: ShippedLine) -> ShippedLot:
    return ShippedLot(
        shipment_id=shipment.shipment_id,
        units=line.units,
        amounts=line.amounts,
        shipped_at=shipment.shipped_at,
    )


def _with_channel_credit(
    state: OrderReturns,
    credit_id: str,
    *,
    lines: tuple[PrepaidUnits, ...] | None = None,
    refund_id: str | None = None,
) -> OrderReturns:
    """Whichever of credit and refund comes second completes the entry of the first."""
    known = next((entry for entry in state.channel_credits if entry.credit_id == credit_id), None)
    entry = known or ChannelCredit(credit_id=credit_id)
    entry = replace(
        entry,
        lines=entry.lines if lines is None else lines,
        refund_id=entry.refund_id if refund_id is None else refund_id,
    )
    return replace(state, channel_credits=_replaced(state.channel_credits, known, entry))


def _defer(state: OrderReturns, waiting: WaitingInput, deadline: datetime) -> OrderReturns:
    state = replace(state, timers={**state.timers, waiting_name(waiting): deadline})
    match waiting:
        case ReturnRequested():
            request = WaitingRequest(
                rma_id=waiting.rma_id,
                channel=waiting.channel,
                location=waiting.location,
                lines=waiting.lines,
                requested_at=waiting.requested_at,
            )
            return replace(state, waiting_requests=(*state.waiting_requests, request))
        case ReturnReceived():
            receipt = WaitingReceipt(
                rma_id=waiting.rma_id,
                receipt_id=waiting.receipt_id,
                location=waiting.location,
                lines=waiting.lines,
                received_at=waiting.received_at,
            )
            return replace(state, waiting_receipts=(*state.waiting_receipts, receipt))
        case ReturnInspected():
            inspection = WaitingInspection(
                rma_id=waiting.rma_id,
                inspection_id=waiting.inspection_id,
                location=waiting.location,
                lines=waiting.lines,
                tender_refunded=waiting.tender_refunded,
                inspected_at=waiting.inspected_at,
            )
            return replace(state, waiting_inspections=(*state.waiting_inspections, inspection))


def waiting_inputs(state: OrderReturns) -> tuple[WaitingInput, ...]:
    """Deferred inputs as they came: requests, then receipts, then inspections, each oldest first."""
    requests = (
        ReturnRequested(
            order_id=state.order_id,
            rma_id=waiting.rma_id,
            channel=waiting.channel,
            location=waiting.location,
            lines=waiting.lines,
            requested_at=waiting.requested_at,
        )
        for waiting in state.waiting_requests
    )
    receipts = (
        ReturnReceived(
            order_id=state.order_id,
            rma_id=waiting.rma_id,
            receipt_id=waiting.receipt_id,
            location=waiting.location,
            lines=waiting.lines,
            received_at=waiting.received_at,
        )
        for waiting in state.waiting_receipts
    )
    inspections = (
        ReturnInspected(
            order_id=state.order_id,
            rma_id=waiting.rma_id,
            inspection_id=waiting.inspection_id,
            location=waiting.location,
            lines=waiting.lines,
            tender_refunded=waiting.tender_refunded,
            inspected_at=waiting.inspected_at,
        )
        for waiting in state.waiting_inspections
    )
    return (*requests, *receipts, *inspections)


def _resume(state: OrderReturns, name: str) -> OrderReturns:
    return replace(
        state,
        waiting_requests=tuple(w for w in state.waiting_requests if f"request/{w.rma_id}" != name),
        waiting_receipts=tuple(
            w for w in state.waiting_receipts if f"receipt/{w.rma_id}/{w.receipt_id}" != name
        ),
        waiting_inspections=tuple(
            w for w in state.waiting_inspections if f"inspection/{w.rma_id}/{w.inspection_id}" != name
        ),
        timers=_without(state.timers, name),
    )


def _with_rma(
    state: OrderReturns, rma_id: str, *, authorized: Mapping[LineId, int] | None = None
) -> OrderReturns:
    """Open the return, or open a declined one again because its goods came."""
    known = find_rma(state, rma_id)
    rma = replace(known or Rma(rma_id=rma_id), status=RmaStatus.OPEN, reason_code="")
    for line_id, units in (authorized or {}).items():
        line = _rma_line(rma, line_id)
        rma = _put_line(rma, replace(line, authorized=units))
    return replace(state, rmas=_replaced(state.rmas, known, rma))


def _decline(state: OrderReturns, event: ReturnDeclined) -> OrderReturns:
    if find_rma(state, event.rma_id) is not None:
        return state  # some of its lines were taken: the return itself goes on
    declined = Rma(rma_id=event.rma_id, status=RmaStatus.DECLINED, reason_code=event.reason_code)
    refusals = [rma.rma_id for rma in state.rmas if rma.status is RmaStatus.DECLINED and not rma.lines]
    dropped = refusals[: max(0, len(refusals) + 1 - _DECLINED_MAX)]
    return replace(state, rmas=(*(rma for rma in state.rmas if rma.rma_id not in dropped), declined))


def _receive(state: OrderReturns, event: GoodsReceived) -> OrderReturns:
    rma = _rma(state, event.rma_id)
    for received in event.lines:
        line = _rma_line(rma, received.line_id)
        rma = _put_line(rma, replace(line, received=line.received + received.units))
    waits = any(line.received > line.inspected for line in rma.lines)
    if waits and rma.status in (RmaStatus.COMPLETED, RmaStatus.EXPIRED):
        rma = replace(rma, status=RmaStatus.OPEN)
    return _put_rma(state, replace(rma, receipt_ids=(*rma.receipt_ids, event.receipt_id)[-_IDS_MAX:]))


def _inspect(state: OrderReturns, event: GoodsInspected) -> OrderReturns:
    rma = _rma(state, event.rma_id)
    for line_id, units in event.units:
        line = _rma_line(rma, LineId(line_id))
        owed = line.owed + (units if event.creditable else 0)
        rma = _put_line(rma, replace(line, inspected=line.inspected + units, owed=owed))
    return _put_rma(
        state, replace(rma, inspection_ids=(*rma.inspection_ids, event.inspection_id)[-_IDS_MAX:])
    )


def _credit(state: OrderReturns, event: CreditProposed) -> OrderReturns:
    rma = _rma(state, event.rma_id)
    lines = {line.line_id: line for line in state.lines}
    for credited in event.lines:
        line = lines[credited.line_id]
        lines[credited.line_id] = replace(line, credited_units=line.credited_units + credited.units)
        assert lines[credited.line_id].credited_units <= shipped_units(line), "returned ≤ shipped"
        claimed = _rma_line(rma, credited.line_id)
        rma = _put_line(rma, replace(claimed, owed=claimed.owed - credited.units))
    state = replace(_put_rma(state, rma), lines=tuple(lines.values()))
    if event.refund_id is None:
        return state
    used = {credited.line_id: credited.units for credited in event.lines}
    entry = next(e for e in state.channel_credits if event.refund_id in (e.refund_id, e.credit_id))
    left = tuple(replace(line, units=line.units - used.get(line.line_id, 0)) for line in entry.lines)
    assert all(line.units >= 0 for line in left)
    return replace(state, channel_credits=_replaced(state.channel_credits, entry, replace(entry, lines=left)))


def _rma(state: OrderReturns, rma_id: str) -> Rma:
    rma = find_rma(state, rma_id)
    assert rma is not None, f"return {rma_id} is not open"
    return rma


def _put_rma(state: OrderReturns, rma: Rma) -> OrderReturns:
    return replace(state, rmas=_replaced(state.rmas, _rma(state, rma.rma_id), rma))


def _rma_line(rma: Rma, line_id: LineId) -> RmaLine:
    return next((line for line in rma.lines if line.line_id == line_id), RmaLine(line_id=line_id))


def _put_line(rma: Rma, line: RmaLine) -> Rma:
    known = next((old for old in rma.lines if old.line_id == line.line_id), None)
    return replace(rma, lines=_replaced(rma.lines, known, line))


def _replaced(items: Iterable[T], old: T | None, new: T) -> tuple[T, ...]:
    """The same items with `old` replaced in place; `new` at the end when there was no old one."""
    if old is None:
        return (*items, new)
    return tuple(new if item is old else item for item in items)


def _without(timers: Mapping[str, datetime], name: str) -> dict[str, datetime]:
    return {key: due for key, due in timers.items() if key != name}
