"""Invariant 11: whatever order a channel's messages come in, the order told is their merge; where it is not, that is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from crossdock_canonical.money import Amounts, Money
from crossdock_canonical.records import (
    CancelConfirmed,
    CancelDeclined,
    ChannelOrderReceived,
    ChannelRefundReceived,
    ChannelStatus,
    FulfillmentCancelRequested,
    FulfillmentRequested,
    IntakeKind,
    ItemMapped,
    LocationKind,
    OrderAmended,
    OrderCancelled,
    OrderHeld,
    OrderReceived,
    OrderShipped,
    PaymentRecorded,
    RefundRecorded,
    TenderState,
)
from crossdock_simulation.backbone import Backbone
from crossdock_simulation.planting import (
    CANCELLED,
    EDITED,
    KIT,
    SPLIT,
    UNPAID,
    a_busy_day,
    an_order,
    evidence_of,
    id_of,
    planted,
    when,
)
from crossdock_tools.audit.books import NO_BOOKS
from crossdock_tools.audit.convergence import convergence
from crossdock_tools.audit.evidence import Evidence
from crossdock_tools.audit.report import Check
from crossdock_tools.topic_reader import Entry

UNITS = "an order's units are those of the channel's latest revision"
WORTH = "an order's amounts are those of the channel's latest revision"
STALE = "a revision that is not newer changes no line"
TENDERS = "a payment that the channel reports is recorded once, at its largest"
REFUNDS = "a refund that the channel reports is recorded once, and our own echo not at all"


@pytest.fixture(scope="module")
def day() -> Evidence:
    backbone = Backbone()
    a_busy_day(backbone)
    return evidence_of(backbone)


def checks(evidence: Evidence) -> dict[str, Check]:
    return {check.name: check for check in convergence(evidence, NO_BOOKS)}


def found(evidence: Evidence, name: str) -> str:
    """What a check found, as one text; it must have found something."""
    violations = checks(evidence)[name].violations
    assert violations, f"{name}: nothing found"
    return "\n".join(violations)


def units(count: int) -> Callable[[Any], Any]:
    return lambda body: replace(body, lines=tuple(replace(line, units=count) for line in body.lines))


def test_a_busy_day_converges(day: Evidence) -> None:
    for check in checks(day).values():
        assert check.checked > 0, check
        assert not check.violations, check


def test_an_order_that_followed_an_older_revision_is_found(day: Evidence) -> None:
    for kind in (OrderReceived, OrderAmended):
        stale = planted(
            day,
            drop=lambda body: isinstance(body, OrderShipped) and body.order_id == id_of(EDITED),
            change=when(kind, units(3), order_id=id_of(EDITED)),
        )
        if any(body.body.order_id == id_of(EDITED) for body in day.of(kind)):
            assert f"order {id_of(EDITED)} line L0: 3 units" in found(stale, UNITS)


def test_an_older_revision_that_changed_an_order_is_found(day: Evidence) -> None:
    assert checks(day)[STALE].checked == 1, "the first revision of the edited order came last"
    [received] = [e for e in day.of(OrderReceived) if e.body.order_id == id_of(EDITED)]
    placed = next(
        e
        for e in day.of(ChannelOrderReceived)
        if e.body.order_id == id_of(EDITED) and e.meta.event_id != received.meta.causation_id
    )
    wrong = planted(day)
    wrong.add(
        Entry(
            received.record,
            replace(received.meta, causation_id=placed.meta.event_id),
            replace(received.body, version=2),
        )
    )
    assert f"order {id_of(EDITED)}: revision revision/{EDITED}/0 changed it" in found(wrong, STALE)


def test_units_that_an_edit_took_twice_are_found(day: Evidence) -> None:
    twice = planted(day, change=when(OrderReceived, units(1), order_id=id_of(SPLIT)))
    text = found(twice, UNITS)
    assert f"order {id_of(SPLIT)} line L0: 1 units, the channel's latest revision has 2" in text


def test_kits_count_in_their_components(day: Evidence) -> None:
    assert {
        each.line_id for e in day.of(OrderReceived) if e.body.order_id == id_of(KIT) for each in e.body.lines
    } == {
        "L0/1",
        "L0/2",
    }
    other = planted(
        day,
        change=when(
            ItemMapped,
            lambda item: replace(item, components=tuple(replace(c, units=5) for c in item.components)),
            sku="KIT",
        ),
    )
    assert f"order {id_of(KIT)} line L0/2: 2 units, the channel's latest revision has 5" in found(
        other, UNITS
    )


def test_what_was_cancelled_for_another_reason_may_be_missing(day: Evidence) -> None:
    unexplained = planted(
        day,
        drop=lambda body: isinstance(body, OrderCancelled) and body.order_id == id_of(CANCELLED),
        change=when(OrderReceived, units(0), order_id=id_of(CANCELLED)),
    )
    assert f"order {id_of(CANCELLED)} line L0: 0 units" in found(unexplained, UNITS)


def test_an_order_that_its_channel_cancelled_must_not_go_on(day: Evidence) -> None:
    [placed] = [e for e in day.of(ChannelOrderReceived) if e.body.order_id == id_of(SPLIT)]
    cancelled = planted(
        day,
        change=when(
            ChannelOrderReceived,
            lambda each: replace(each, status=ChannelStatus.CANCELLED),
            order_id=id_of(SPLIT),
        ),
        drop=lambda body: isinstance(body, OrderShipped) and body.order_id == placed.body.order_id,
    )
    assert f"order {id_of(SPLIT)}" in found(cancelled, UNITS)
    shipped = planted(
        day,
        change=when(
            ChannelOrderReceived,
            lambda each: replace(each, kind=IntakeKind.SNAPSHOT, status=ChannelStatus.CANCELLED),
            order_id=id_of(SPLIT),
        ),
    )
    assert not checks(shipped)[UNITS].violations, "what shipped stays shipped"


def test_amounts_of_another_revision_are_found(day: Evidence) -> None:
    def dearer(order: OrderReceived) -> OrderReceived:
        cent = Amounts(currency="EUR", goods=1)
        return replace(order, lines=tuple(replace(line, amounts=line.amounts + cent) for line in order.lines))

    text = found(planted(day, change=when(OrderReceived, dearer)), WORTH)
    assert f"order {id_of(SPLIT)} line L0" in text
    assert f"order {id_of(KIT)} line L0" in text
    free = planted(day, change=when(OrderReceived, lambda each: replace(each, shipping=None)))
    assert "charges (None, 0)" in found(free, WORTH)


def test_a_payment_that_counts_twice_is_found(day: Evidence) -> None:
    twice = planted(day, repeat=lambda body: isinstance(body, PaymentRecorded) and body.origin != "US")
    text = found(twice, TENDERS)
    assert "recorded as authorised" in text
    assert "recorded as captured" in text
    never = planted(day, drop=lambda body: isinstance(body, PaymentRecorded) and body.origin == "CHANNEL")
    assert f"order {id_of(CANCELLED)} payment T{CANCELLED}: 0 recorded as captured" in found(never, TENDERS)


def test_a_refund_that_counts_twice_or_not_is_found(day: Evidence) -> None:
    twice = planted(day, repeat=lambda body: isinstance(body, RefundRecorded))
    assert "the channel's refund 77 is recorded 2 times" in found(twice, REFUNDS)
    never = planted(day, drop=lambda body: isinstance(body, RefundRecorded) and body.origin == "CHANNEL")
    assert "the channel's refund 77 is recorded 0 times" in found(never, REFUNDS)


@pytest.mark.parametrize("at_once", [True, False])
def test_every_order_of_arrival_passes(*, at_once: bool) -> None:
    """Three revisions and a repetition, in every order, for an order that is released somewhere in between."""
    backbone = Backbone()
    backbone.send(ItemMapped(reference="sku:A", scheme="sku", value="A", sku="A"))
    backbone.location("WH", kind=LocationKind.WAREHOUSE)
    backbone.stock("A", WH=500)
    backbone.run()
    for number, arrival in enumerate(permutations(range(4)), start=1):
        placed = an_order(number, ("A", 3, 3000), state=TenderState.PENDING)
        paid = an_order(number, ("A", 3, 3000), revision=1)
        fewer = an_order(number, ("A", 2, 2000), revision=2)
        messages = (placed, paid, fewer, placed)
        for index in arrival:
            backbone.send(messages[index], cause=f"{number}/{index % 3}")
            if not at_once:
                backbone.run()
        backbone.run()
    made = checks(evidence_of(backbone))
    assert made[UNITS].checked == 24
    assert not any(check.violations for check in made.values()), made


@pytest.mark.parametrize("refuses", [True, False])
def test_an_edit_after_release_holds_whatever_fulfilment_answers(*, refuses: bool) -> None:
    backbone = Backbone()
    backbone.send(ItemMapped(reference="sku:A", scheme="sku", value="A", sku="A"))
    backbone.location("WH", kind=LocationKind.WAREHOUSE)
    backbone.stock("A", WH=500)
    ship = backbone.outside.warehouse
    later: list[Any] = []

    def warehouse(command: Any) -> list[Any]:
        if isinstance(command, FulfillmentRequested):
            later.append(command)
            return []
        if not refuses or not isinstance(command, FulfillmentCancelRequested):
            return ship(command)
        confirmed = ship(command)[0]
        assert isinstance(confirmed, CancelConfirmed)
        fields = {
            name: getattr(confirmed, name) for name in ("order_id", "fulfillment_order_id", "cancel_id")
        }
        return [CancelDeclined(**fields, location=confirmed.location, lines=confirmed.lines)]

    backbone.outside.warehouse = warehouse
    backbone.send(an_order(1, ("A", 3, 3000)))
    backbone.run()
    backbone.send(an_order(1, ("A", 2, 2000), revision=1))
    backbone.run()
    made = checks(evidence_of(backbone))
    assert made[UNITS].checked
    assert not any(check.violations for check in made.values()), made
    if not refuses:
        stale = planted(evidence_of(backbone), change=when(OrderAmended, units(3)))
        assert "line L0: 3 units" in found(stale, UNITS)


def test_messages_after_the_end_change_nothing_and_are_no_violation(day: Evidence) -> None:
    backbone = Backbone()
    a_busy_day(backbone)
    more = an_order(SPLIT, ("A", 9, 9000), ("B", 3, 1000), revision=9)
    backbone.send(more, an_order(UNPAID, ("C", 2, 2000), revision=9))
    backbone.run()
    late = evidence_of(backbone)
    assert len(late.of(ChannelOrderReceived)) == len(day.of(ChannelOrderReceived)) + 2
    assert not checks(late)[UNITS].violations


def test_what_came_before_an_order_that_never_came_is_not_missing() -> None:
    backbone = Backbone()
    backbone.send(
        ChannelRefundReceived(
            order_id=id_of(1),
            channel="shopify",
            shop="shop",
            external_id="1",
            refund_id="77",
            lines=(),
            amount=Money(minor=100, currency="EUR"),
            refunded_at=backbone.clock.now(),
        )
    )
    backbone.run()
    backbone.pass_time(days=4)
    waiting = evidence_of(backbone)
    assert [each.body.reason_code for each in waiting.of(OrderHeld)] == ["order.unknown"]
    assert not any(check.violations for check in checks(waiting).values())


def test_a_total_that_is_not_the_channels_is_found() -> None:
    backbone = Backbone()
    backbone.send(ItemMapped(reference="sku:A", scheme="sku", value="A", sku="A"))
    backbone.send(an_order(1, ("A", 1, 1000), state=TenderState.PENDING))
    backbone.run()
    open_order = evidence_of(backbone)
    assert not checks(open_order)[WORTH].violations
    wrong = when(OrderReceived, lambda each: replace(each, total=Money(minor=1, currency="EUR")))
    assert "total" in found(planted(open_order, change=wrong), WORTH)
