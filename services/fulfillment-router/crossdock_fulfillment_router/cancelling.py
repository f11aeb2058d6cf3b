"""Take released units back: at once while nobody holds them, else by asking the location. `decide` calls it.

A cancellation is answered once, when every part of it is known: FulfillmentCancelled for what was taken
back and CancelRefused for exactly the rest. An expired pickup is recalled the same way; the order hears of
it only when it succeeds.
"""

from __future__ import annotations

from datetime import datetime

from crossdock_canonical.decider import Ignored, Rejected
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
from crossdock_fulfillment_router.events import (
    AskAnswered,
    AskRefused,
    AwaitedMatched,
    CancelAsked,
    CancellationAnswered,
    CancellationOpened,
    CancellationPostponed,
    HeldUnitsCancelled,
    PickupOpened,
    PickupRecalled,
    UnitsRefused,
    WaitingUnitsCancelled,
)
from crossdock_fulfillment_router.model import (
    Lines,
    Policy,
    asked_back,
    common,
    find_cancellation,
    find_order,
    fulfillment_order_id,
    is_held,
    less,
    merged,
    parse_number,
    pickup_timer,
    total,
    uncancelled,
    waiting,
)
from crossdock_fulfillment_router.state_records import (
    CancelAsk,
    FulfillmentOrder,
    FulfillmentStatus,
    Release,
    RoutingState,
)


def cancel(decision: Decision, command: CancelFulfillment, *, now: datetime, policy: Policy) -> None:
    """Take lines back for the order; those of a release not yet seen are remembered until it comes."""
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


def confirmed(decision: Decision, command: CancelConfirmed) -> None:
    """A location stopped units: they are free. What it was asked to stop and does not name is refused.

    Units that the cancellation waits for no longer (it was told that they ship, or had missing ones instead)
    serve another cancellation, else they are cancelled on their own: they will not ship in any case.
    """
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
    order_id = command.fulfillment_order_id
    asked, held = total(ask.asked), total(order.lines)
    for line in stopped:
        if line.units > asked.get(line.line_id, 0):
            raise Rejected(
                "fulfillment.more_than_asked", f"{order_id} stopped {line.units} of line {line.line_id}"
            )
        if line.units > held.get(line.line_id, 0):
            raise Rejected(
                "fulfillment.more_than_held", f"{order_id} stopped {line.units} of line {line.line_id}"
            )
    slip = f"{order_id}/cancelled/{ask.cancel_id}"
    decision.release_hard(order, stopped, slip=slip, scope=ReleaseScope.HARD_TO_FREE)
    left = total(stopped)
    own = common(ask.lines, left)
    if rest := less(ask.lines, own):
        _refuse(decision, order, ask, rest, "location_declined")
    shares = [(ask.cancel_id, own)]
    shares += [(other.cancel_id, common(other.lines, left)) for other in order.asks if other is not ask]
    late = common(stopped, left)
    shares.append((late_id := f"{ask.cancel_id}/late/{order.number}", late))
    for cancel_id, lines in shares:
        if lines:
            decision.emit(HeldUnitsCancelled(cancel_id=cancel_id, number=order.number, lines=lines))
    if late:
        decision.emit(
            FulfillmentCancelled(
                order_id=decision.state.order_id, cancel_id=late_id, lines=late, reason="late_confirmation"
            )
        )
    _close_ask(decision, order, ask.cancel_id)


def declined(decision: Decision, command: CancelDeclined) -> None:
    """A location does not stop units: they ship. No lines means everything that it was asked to stop."""
    found = _open_ask(decision, command)
    if found is None:
        return
    order, ask = found
    named = (FulfillmentLine(line_id=line.line_id, sku=line.sku, units=line.units) for line in command.lines)
    refused = common(ask.lines, total(named)) if command.lines else ask.lines
    if ask.declined or (ask.lines and not refused):
        decision.emit(Ignored("fulfillment.cancel_answered", command.cancel_id))
        return
    if refused:
        _refuse(decision, order, ask, refused, command.reason or "location_declined", declined=True)
    if refused == ask.lines:
        _close_ask(decision, order, ask.cancel_id)


def settle_ask(decision: Decision, order: FulfillmentOrder, ask: CancelAsk) -> None:
    """Take back all that a cancellation wants of a fulfilment order; the caller lets go of its stock."""
    decision.emit(HeldUnitsCancelled(cancel_id=ask.cancel_id, number=order.number, lines=ask.lines))
    _close_ask(decision, order, ask.cancel_id)


def overdue(decision: Decision, cancel_id: str, *, now: datetime, policy: Policy) -> None:
    """A deadline has come: who did not answer ships, and a release that was not seen never comes."""
    cancellation = find_cancellation(decision.state, cancel_id)
    assert cancellation is not None, "the timer goes with the cancellation"
    orders = [
        (order, ask)
        for order in decision.state.fulfillment_orders
        for ask in order.asks
        if ask.cancel_id == cancel_id and ask.lines
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
        _refuse(decision, order, ask, ask.lines, "no_answer")


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


def refuse_shipped(decision: Decision, order: FulfillmentOrder, leaving: Lines) -> None:
    """Units are about to ship: what open asks can no longer get is refused, the latest ask first."""
    for ask, lines in _excess(order, leaving):
        _refuse(decision, order, ask, lines, "already_shipped")


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


def settle(decision: Decision, *, now: datetime, policy: Policy) -> None:
    """Answer every cancellation of which nothing is open. Goods at a counter have a timer or are recalled."""
    asked = {ask.cancel_id for order in decision.state.fulfillment_orders for ask in order.asks if ask.lines}
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

    for order in decision.state.fulfillment_orders:
        recalls = _recalls_of(decision.state, order.number)
        if (
            order.status is FulfillmentStatus.STAGED
            and pickup_timer(order.number) not in decision.state.timers
            and not any(ask.lines and ask.cancel_id.startswith(recalls) for ask in order.asks)
        ):
            decision.emit(PickupOpened(number=order.number, expires_at=now + policy.recall_interval))


def _take_back(decision: Decision, cancel_id: str, wanted: Lines) -> None:
    """Take the units from whoever is least far: what waits, what is only asked for, the latest location."""
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
    """The ask that a location answers, None when it was answered before. Raises Rejected when nobody asked."""
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
    order: FulfillmentOrder,
    ask: CancelAsk,
    lines: Lines,
    refusal: str,
    *,
    declined: bool = False,
) -> None:
    decision.emit(
        AskRefused(
            cancel_id=ask.cancel_id, number=order.number, lines=lines, refusal=refusal, declined=declined
        )
    )


def _close_ask(decision: Decision, order: FulfillmentOrder, cancel_id: str) -> None:
    if find_order(decision.state, order.number) is not None:
        decision.emit(AskAnswered(cancel_id=cancel_id, number=order.number))


def _excess(order: FulfillmentOrder, leaving: Lines) -> list[tuple[CancelAsk, Lines]]:
    """Per open ask, what it can no longer get once `leaving` has left the fulfilment order."""
    stay = total(less(order.lines, leaving))
    over = total(asked_back(order))
    for line_id, units in over.items():
        over[line_id] = max(0, units - stay.get(line_id, 0))
    return [(ask, lines) for ask in reversed(order.asks) if (lines := common(ask.lines, over))]


def _recalls_of(state: RoutingState, number: int) -> str:
    """Start of the ids of the recalls of one fulfilment order."""
    return f"{fulfillment_order_id(state.order_id, number)}/expired/"
