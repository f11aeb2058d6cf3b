"""Take released units back: at once while nobody holds them, else by asking the location. `decide` calls it.

A cancellation is answered once, when every part of it is known: FulfillmentCancelled for what was taken
back and CancelRefused for exactly the rest. An expired pickup is recalled the same way; the order hears of
it only when it succeeds.
"""

from __future__ import annotations

from datetime import datetime

from crossdock_canonical.decider import Ignored, Rejected
from crossdock_canonical.identity import LineId
from crossdock_canonical.records import (
    CancelConfirmed,
    CancelDeclined,
    CancelFulfillment,
    CancelRefused,
    FulfillmentCancelled,
    FulfillmentCancelRequested,
    FulfillmentLine,
    ReleaseScope,
    WarehouseLine,
)
from crossdock_fulfillment_router.decision import Decision
from crossdock_fulfillment_router.model import (
    AskRefused,
    AwaitedMatched,
    CancelAsked,
    CancellationAnswered,
    CancellationOpened,
    CancellationPostponed,
    HeldUnitsCancelled,
    Lines,
    PickupOpened,
    PickupRecalled,
    Policy,
    UnitsRefused,
    WaitingUnitsCancelled,
    common,
    find_cancellation,
    find_order,
    fulfillment_order_id,
    is_held,
    less,
    merged,
    parse_number,
    total,
    uncancelled,
    waiting,
)
from crossdock_fulfillment_router.state_records import CancelAsk, FulfillmentOrder, Release, RoutingState


def cancel(decision: Decision, command: CancelFulfillment, *, now: datetime, policy: Policy) -> None:
    """Take lines back for the order.

    Lines of a release that has not been seen are remembered until it comes.
    """
    if not command.lines or any(line.units <= 0 for line in command.lines):
        raise Rejected("fulfillment.invalid_quantity", "a cancellation needs lines of one unit or more")
    wanted = merged(command.lines)
    known = {line.line_id for release in decision.releases for line in release.lines}
    awaited = tuple(line for line in wanted if line.line_id not in known)
    decision.emit(
        CancellationOpened(
            order_id=command.order_id,
            cancel_id=command.cancel_id,
            reason=command.reason,
            recall=False,
            awaited=awaited,
            due=now + (policy.release_deadline if awaited else policy.cancel_deadline),
        )
    )
    _take_back(decision, command.cancel_id, less(wanted, awaited))


def apply_awaited(decision: Decision, release: Release) -> None:
    """Take back from a release that has come what was cancelled before it."""
    lines = {line.line_id for line in release.lines}
    for cancellation in decision.state.cancellations:
        matched = tuple(line for line in cancellation.awaited if line.line_id in lines)
        if matched:
            decision.emit(AwaitedMatched(cancel_id=cancellation.cancel_id, lines=matched))
            _take_back(decision, cancellation.cancel_id, matched)


def confirmed(decision: Decision, command: CancelConfirmed, *, now: datetime, policy: Policy) -> None:
    """A location stopped units: they are free. What it was asked to stop and does not name is refused."""
    stopped = merged(
        FulfillmentLine(line_id=line.line_id, sku=line.sku, units=line.units) for line in command.lines
    )
    if not stopped or any(line.units <= 0 for line in command.lines):
        raise Rejected(
            "fulfillment.invalid_quantity", "a confirmed cancellation needs lines of one unit or more"
        )
    found = _open_ask(decision, command)
    if found is None:
        return
    order, ask = found
    asked, held = total(ask.lines), total(order.lines)
    for line in stopped:
        if line.units > min(asked.get(line.line_id, 0), held.get(line.line_id, 0)):
            raise Rejected(
                "fulfillment.more_than_asked",
                f"{command.fulfillment_order_id} stopped {line.units} of line {line.line_id} for {ask.cancel_id}",
            )
    if ask.lapsed:
        # The order believes that these units ship, so another cancellation may have asked for them since.
        refuse_excess(decision, order, stopped, "already_cancelled")
    slip = f"{command.fulfillment_order_id}/cancelled/{ask.cancel_id}"
    decision.release_hard(order, stopped, slip=slip, scope=ReleaseScope.HARD_TO_FREE)
    decision.emit(HeldUnitsCancelled(cancel_id=ask.cancel_id, number=order.number, lines=stopped))
    if ask.lapsed:
        decision.emit(
            FulfillmentCancelled(
                order_id=decision.state.order_id,
                cancel_id=f"{ask.cancel_id}/late/{order.number}",
                lines=stopped,
                reason="late_confirmation",
            )
        )
    elif rest := less(ask.lines, stopped):
        _refuse(decision, order.number, ask, rest, "location_declined", now=now, policy=policy)


def declined(decision: Decision, command: CancelDeclined, *, now: datetime, policy: Policy) -> None:
    """A location does not stop units: they ship. No lines means everything that it was asked to stop."""
    found = _open_ask(decision, command)
    if found is None:
        return
    order, ask = found
    if ask.lapsed:
        decision.emit(Ignored("fulfillment.cancel_answered", f"the order knows that {ask.cancel_id} ships"))
        return
    named = (FulfillmentLine(line_id=line.line_id, sku=line.sku, units=line.units) for line in command.lines)
    refused = common(ask.lines, total(named)) if command.lines else ask.lines
    _refuse(
        decision, order.number, ask, refused, command.reason or "location_declined", now=now, policy=policy
    )


def overdue(decision: Decision, cancel_id: str, *, now: datetime, policy: Policy) -> None:
    """The deadline of a cancellation has come.

    Whoever did not answer ships, and a release not seen never comes.
    """
    cancellation = find_cancellation(decision.state, cancel_id)
    assert cancellation is not None, "the timer goes with the cancellation"
    orders = [
        (order, ask)
        for order in decision.state.fulfillment_orders
        for ask in order.asks
        if ask.cancel_id == cancel_id
    ]
    if cancellation.recall:
        decision.emit(CancellationPostponed(cancel_id=cancel_id, due=now + policy.recall_interval))
        for order, ask in orders:
            _request(decision, order, cancel_id, ask.lines)  # the same id: the store may have it already
        return
    if cancellation.awaited:
        lines = cancellation.awaited
        decision.emit(AwaitedMatched(cancel_id=cancel_id, lines=lines))
        decision.emit(UnitsRefused(cancel_id=cancel_id, lines=lines, refusal="not_released"))
        if orders:
            decision.emit(CancellationPostponed(cancel_id=cancel_id, due=now + policy.cancel_deadline))
        return
    if not all(is_held(order) for order, _ in orders):
        # Inventory always answers, and with its answer the units are taken back for certain.
        decision.emit(CancellationPostponed(cancel_id=cancel_id, due=now + policy.cancel_deadline))
        return
    for order, ask in orders:
        decision.emit(
            AskRefused(
                cancel_id=cancel_id, number=order.number, lines=ask.lines, refusal="no_answer", lapsed=True
            )
        )


def recall_pickup(decision: Decision, number: int, *, now: datetime, policy: Policy) -> None:
    """Nobody collected: ask the store to put the goods back."""
    order = find_order(decision.state, number)
    assert order is not None, "the timer goes with the fulfilment order"
    lines = uncancelled(order)
    if not lines:
        decision.emit(PickupOpened(number=number, expires_at=now + policy.recall_interval))
        return
    cancel_id = f"{_recalls_of(decision.state, number)}{order.recalls + 1}"
    decision.emit(
        CancellationOpened(
            order_id=decision.state.order_id,
            cancel_id=cancel_id,
            reason="pickup_expired",
            recall=True,
            awaited=(),
            due=now + policy.cancel_deadline,
        )
    )
    decision.emit(PickupRecalled(number=number))
    decision.emit(CancelAsked(cancel_id=cancel_id, number=number, lines=lines))
    _request(decision, order, cancel_id, lines)


def refuse_excess(decision: Decision, order: FulfillmentOrder, leaving: Lines, refusal: str) -> None:
    """Units leave a fulfilment order.

    What its open asks can no longer get is refused, the latest ask first.
    """
    for ask, lines in _excess(order, leaving):
        decision.emit(AskRefused(cancel_id=ask.cancel_id, number=order.number, lines=lines, refusal=refusal))


def take_excess(
    decision: Decision, order: FulfillmentOrder, leaving: Lines, *, slip: str, hold_location: bool
) -> Lines:
    """Units cannot ship from here: what open asks want back of them is taken back. Returns the others."""
    for ask, lines in _excess(order, leaving):
        decision.release_hard(
            order,
            lines,
            slip=f"{slip}/{ask.cancel_id}",
            scope=ReleaseScope.HARD_TO_FREE,
            hold_location=hold_location,
        )
        decision.emit(HeldUnitsCancelled(cancel_id=ask.cancel_id, number=order.number, lines=lines))
        leaving = less(leaving, lines)
    return leaving


def settle(decision: Decision) -> None:
    """Answer every cancellation of which nothing is open."""
    asked = {
        ask.cancel_id for order in decision.state.fulfillment_orders for ask in order.asks if not ask.lapsed
    }
    for cancellation in decision.state.cancellations:
        if cancellation.awaited or cancellation.cancel_id in asked:
            continue
        decision.emit(CancellationAnswered(cancel_id=cancellation.cancel_id))
        if cancellation.taken:
            decision.emit(
                FulfillmentCancelled(
                    order_id=decision.state.order_id,
                    cancel_id=cancellation.cancel_id,
                    lines=cancellation.taken,
                    reason=cancellation.reason,
                )
            )
        if cancellation.refused and not cancellation.recall:
            decision.emit(
                CancelRefused(
                    order_id=decision.state.order_id,
                    cancel_id=cancellation.cancel_id,
                    lines=cancellation.refused,
                    reason=cancellation.refusal,
                )
            )


def _take_back(decision: Decision, cancel_id: str, wanted: Lines) -> None:
    """Take from whoever is least far.

    Units that wait, stock that is only asked for, then the latest fulfilment order.
    """
    left = total(wanted)
    for release in decision.state.releases:
        if lines := common(waiting(release), left):
            decision.emit(WaitingUnitsCancelled(cancel_id=cancel_id, release=release.release, lines=lines))
            slip = f"{decision.state.order_id}/waiting/{cancel_id}/{release.release}"
            decision.release_soft(lines, slip=slip)
    for order in sorted(decision.state.fulfillment_orders, key=lambda order: (is_held(order), -order.number)):
        if lines := common(uncancelled(order), left):
            decision.emit(CancelAsked(cancel_id=cancel_id, number=order.number, lines=lines))
            if is_held(order):
                _request(decision, order, cancel_id, lines)
    refused = common(wanted, left)
    if refused:
        shipped = {
            line.line_id for release in decision.state.releases for line in release.lines if line.shipped
        }
        left_us = all(line.line_id in shipped for line in refused)
        refusal = "already_shipped" if left_us else "nothing_to_take_back"
        decision.emit(UnitsRefused(cancel_id=cancel_id, lines=refused, refusal=refusal))


def _request(decision: Decision, order: FulfillmentOrder, cancel_id: str, lines: Lines) -> None:
    decision.emit(
        FulfillmentCancelRequested(
            order_id=decision.state.order_id,
            fulfillment_order_id=fulfillment_order_id(decision.state.order_id, order.number),
            cancel_id=cancel_id,
            location=order.location,
            lines=tuple(
                WarehouseLine(line_id=line.line_id, sku=line.sku, units=line.units) for line in lines
            ),
        )
    )


def _open_ask(
    decision: Decision, command: CancelConfirmed | CancelDeclined
) -> tuple[FulfillmentOrder, CancelAsk] | None:
    """What the location answers.

    None when that is answered or overtaken. Raises Rejected when nobody asked.
    """
    number = parse_number(decision.state, command.fulfillment_order_id)
    order = find_order(decision.state, number)
    for ask in order.asks if order is not None else ():
        assert order is not None
        if ask.cancel_id == command.cancel_id:
            if not is_held(order):
                break
            if order.location != command.location:
                raise Rejected(
                    "fulfillment.wrong_location", f"{command.fulfillment_order_id} is at {order.location}"
                )
            return order, ask
    recalled = command.cancel_id.startswith(_recalls_of(decision.state, number))
    if recalled or command.cancel_id in decision.state.cancel_ids:
        decision.emit(Ignored("fulfillment.cancel_answered", command.cancel_id))
        return None
    raise Rejected("fulfillment.unknown_cancel", f"nobody asked for {command.cancel_id!r}")


def _refuse(
    decision: Decision,
    number: int,
    ask: CancelAsk,
    lines: Lines,
    refusal: str,
    *,
    now: datetime,
    policy: Policy,
) -> None:
    decision.emit(AskRefused(cancel_id=ask.cancel_id, number=number, lines=lines, refusal=refusal))
    cancellation = find_cancellation(decision.state, ask.cancel_id)
    if cancellation is not None and cancellation.recall:
        decision.emit(PickupOpened(number=number, expires_at=now + policy.recall_interval))


def _excess(order: FulfillmentOrder, leaving: Lines) -> list[tuple[CancelAsk, Lines]]:
    """Per open ask, what it can no longer get once `leaving` has left the fulfilment order."""
    stay = total(less(order.lines, leaving))
    over: dict[LineId, int] = {}
    for line in order.lines:
        wanted = sum(
            part.units
            for ask in order.asks
            if not ask.lapsed
            for part in ask.lines
            if part.line_id == line.line_id
        )
        over[line.line_id] = max(0, wanted - stay.get(line.line_id, 0))
    return [
        (ask, lines) for ask in reversed(order.asks) if not ask.lapsed and (lines := common(ask.lines, over))
    ]


def _recalls_of(state: RoutingState, number: int) -> str:
    """Start of the ids of the recalls of one fulfilment order."""
    return f"{fulfillment_order_id(state.order_id, number)}/expired/"
