"""Defects of the order orchestrator: channels' messages, money, cancellations, memory. Listed in `catalogue`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import count
from typing import Any

from crossdock_canonical.records import ReserveStock
from crossdock_order_orchestrator import (
    cancelling,
    decide,
    evolve,
    intake,
    payments,
    progress,
    stock,
)
from crossdock_order_orchestrator.ledger import captured_minor, shipped_minor
from crossdock_order_orchestrator.model import OrderClosed, live_minor, open_units
from crossdock_order_orchestrator.state_records import OrderState, TenderBooks
from crossdock_simulation.mutations.mutation import Mutation, replaced, together, wrapped

_SERVICE = "order-orchestrator"
Original = Callable[..., Any]


# ---- money


def _pending_ignored(order: OrderState) -> int:
    return max(0, shipped_minor(order) - captured_minor(order))


def _capturable_ignoring_pending(_order: OrderState, tender: TenderBooks) -> int:
    return live_minor(tender)


def _rounded_down(original: Original) -> Original:
    """Worth of open units by the worth of one, the cents of the remainder left out."""

    def worth(line: Any, units: int) -> Any:
        of = open_units(line)
        whole = line.open_amounts
        return replace(
            whole,
            goods=whole.goods // of * units,
            discount=whole.discount // of * units,
            tax=whole.tax // of * units,
            facilitator_tax=whole.facilitator_tax // of * units,
        )

    return worth


def _charges_again(original: Original) -> Original:
    def ship(order: OrderState, event: Any) -> Any:
        return replace(original(order, event), charges_billed=order.charges_billed)

    return ship


def _refund_uncovered(order: OrderState, *_tender: Any) -> int:
    return 10**9


def _whole_capture(original: Original) -> Original:
    def record(decision: Any, reference: str, kind: Any, minor: int, before: int) -> None:
        original(decision, reference, kind, minor + before, before)

    return record


def _cancelled_uncounted(original: Original) -> Original:
    def cancel(order: OrderState, event: Any) -> Any:
        done = original(order, event)
        counted = {line.line_id: line.cancelled for line in order.lines}
        return replace(
            done, lines=tuple(replace(line, cancelled=counted[line.line_id]) for line in done.lines)
        )

    return cancel


def _base_id(_order: OrderState, base_id: str) -> str:
    return base_id


# ---- messages of channels


def _arrival_is_revision(original: Original) -> Original:
    def merge(decision: Any, snapshot: Any, items: Any) -> None:
        original(decision, replace(snapshot, revision_at=decision.now), items)

    return merge


def _to_the_second(original: Original) -> Original:
    def merge(decision: Any, snapshot: Any, items: Any) -> None:
        original(decision, replace(snapshot, revision_id=""), items)

    return merge


def _shipping_left_out(original: Original) -> Original:
    def check(snapshot: Any) -> None:
        original(replace(snapshot, shipping=None))

    return check


def _echo_is_refund(original: Original) -> Original:
    def refund(decision: Any, event: Any) -> None:
        original(decision, replace(event, our_refund_id=None))

    return refund


def _cases_as_pieces(original: Original) -> Original:
    def resolve(given: Any, items: Any) -> Any:
        return replace(original(given, items), units_per=1)

    return resolve


def _forgets_soon(after: timedelta, closing: timedelta = timedelta(days=180)) -> Callable[..., OrderClosed]:
    def closed(*, stage: Any, forget_at: Any) -> OrderClosed:
        return OrderClosed(stage=stage, forget_at=forget_at - closing + after)

    return closed


# ---- next steps


def _holds_untimed(original: Original) -> Original:
    def with_timer(order: OrderState, name: str, due: Any) -> Any:
        return original(
            order, name, None if name.startswith("hold:") and name != "hold:order.overdue" else due
        )

    return with_timer


def _from_a_counter(_original: Any) -> Callable[..., ReserveStock]:
    numbers = count(1)

    def reserve(**fields: Any) -> ReserveStock:
        return ReserveStock(**{**fields, "slip_id": f"{fields['order_id']}/reserve/{next(numbers)}"})

    return reserve


MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        name="shipping-left-out",
        invariant=1,
        where=_SERVICE,
        about="an order with a charge for shipping is refused, since its lines do not sum to its total",
        apply=wrapped(intake, "_check", _shipping_left_out),
    ),
    Mutation(
        name="capture-twice",
        invariant=7,
        where=_SERVICE,
        about="a capture under way does not count as taken, so that the next step captures again",
        apply=together(
            replaced(payments, "uncaptured_minor", _pending_ignored),
            replaced(payments, "capturable_minor", _capturable_ignoring_pending),
        ),
    ),
    Mutation(
        name="remainder-dropped",
        invariant=3,
        where=_SERVICE,
        about="what ships of a line is its units at the rounded worth of one: the remainder is dropped",
        apply=wrapped(progress, "_worth", _rounded_down),
    ),
    Mutation(
        name="charges-with-each-parcel",
        invariant=3,
        where=_SERVICE,
        about="shipping is charged with every parcel",
        apply=wrapped(evolve, "_ship", _charges_again),
    ),
    Mutation(
        name="refund-uncovered",
        invariant=7,
        where=_SERVICE,
        about="a refund is not held against what was captured",
        apply=together(
            replaced(payments, "refundable_minor", _refund_uncovered),
            replaced(payments, "refundable_total_minor", _refund_uncovered),
        ),
    ),
    Mutation(
        name="cancelled-uncounted",
        invariant=7,
        where=_SERVICE,
        about="cancelled units are taken off a line and not counted as cancelled",
        apply=wrapped(evolve, "_cancel_units", _cancelled_uncounted),
    ),
    Mutation(
        name="payment-in-parts-added-up",
        invariant=11,
        where=_SERVICE,
        about="a payment that grew is recorded in full on top of what was recorded of it",
        apply=wrapped(payments, "_record_from_channel", _whole_capture),
    ),
    Mutation(
        name="revision-by-arrival",
        invariant=11,
        where=_SERVICE,
        about="of two snapshots of an order the one that arrives last wins",
        apply=wrapped(decide, "merge", _arrival_is_revision),
    ),
    Mutation(
        name="revision-by-second",
        invariant=11,
        where=_SERVICE,
        about="of two snapshots of an order that were made within a second the first one wins",
        apply=wrapped(decide, "merge", _to_the_second),
    ),
    Mutation(
        name="echo-recorded",
        invariant=11,
        where=_SERVICE,
        about="a refund of ours that the shop reports back is recorded as the shop's own",
        apply=wrapped(decide, "on_channel_refund", _echo_is_refund),
    ),
    Mutation(
        name="cases-as-pieces",
        invariant=11,
        where=_SERVICE,
        about="a case of six is ordered as one piece",
        apply=wrapped(intake, "_resolve", _cases_as_pieces),
    ),
    Mutation(
        name="seen-one-only",
        invariant=11,
        where=_SERVICE,
        about="an order remembers only the last thing that it has seen",
        apply=replaced(evolve, "SEEN_MAX", 1),
    ),
    Mutation(
        name="order-forgotten-early",
        invariant=9,
        where=_SERVICE,
        about="a closed order is forgotten after 30 days",
        apply=together(
            replaced(progress, "OrderClosed", _forgets_soon(timedelta(days=30))),
            replaced(cancelling, "OrderClosed", _forgets_soon(timedelta(days=30))),
        ),
    ),
    Mutation(
        name="cancellation-keeps-stock",
        invariant=10,
        where=_SERVICE,
        about="a cancelled order keeps its reservations",
        apply=replaced(cancelling, "_free_stock", lambda *_args: None),
    ),
    Mutation(
        name="hold-without-deadline",
        invariant=10,
        where=_SERVICE,
        about="an order is held for somebody's decision without a deadline for it",
        apply=wrapped(evolve, "_with_timer", _holds_untimed),
    ),
    Mutation(
        name="slips-from-a-counter",
        invariant=6,
        where=_SERVICE,
        about="slips are numbered by a counter in memory",
        apply=wrapped(stock, "ReserveStock", _from_a_counter),
    ),
    Mutation(
        name="movement-ids-reused",
        invariant=12,
        where=_SERVICE,
        about="a second movement of money goes under the id of the first",
        apply=replaced(payments, "_free_id", _base_id),
    ),
)
