"""Invariant 9: a state that is forgotten while its messages may come again is found."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from crossdock_canonical.money import Money
from crossdock_canonical.records import OrderShipped, PaymentAuthorized, ReturnAuthorized, ReturnRequested
from crossdock_canonical.specification import T0

EUR = Money(minor=1999, currency="EUR")
MESSAGE = PaymentAuthorized(order_id="O-1", tender_reference="T1", amount=EUR, authorized_at=T0)
NAME = "deduplication memory outlives the windows"
OO, PARTITION = "order-orchestrator", 3
#: The orchestrator hears of charge-backs, for which banks have 120 days; the others wait for their dead letters, 90 days.
CHARGEBACK_DAYS, DEAD_LETTER_DAYS = 120, 90


def test_a_state_that_outlives_its_last_message_by_the_window_passes(world: Any) -> None:
    world.deliver(MESSAGE, day=1)
    world.state(OO, "O-1", partition=PARTITION, day=1)
    world.forget(OO, "O-1", partition=PARTITION, day=1 + CHARGEBACK_DAYS)
    check = world.check(NAME)
    assert (check.checked, check.violations) == (1, ())
    assert check.note == "1 states ended, 0 live"


def test_a_state_that_is_forgotten_too_soon_is_found(world: Any) -> None:
    world.deliver(MESSAGE, day=1)
    world.state(OO, "O-1", partition=PARTITION, day=1)
    world.forget(OO, "O-1", partition=PARTITION, day=1 + CHARGEBACK_DAYS - 0.5)
    [found] = world.check(NAME).violations
    assert f"{OO} forgets O-1" in found
    assert "0.5 days before its last message cannot come again" in found


def test_the_dead_letters_retention_counts_where_no_bank_has_a_say(world: Any) -> None:
    requested = ReturnRequested(order_id="O-1", rma_id="R-1", channel="shopify", lines=(), requested_at=T0)
    world.deliver(requested)
    for day in (DEAD_LETTER_DAYS - 1, DEAD_LETTER_DAYS):
        world.state("returns", "O-1", partition=PARTITION)
        world.forget("returns", "O-1", partition=PARTITION, day=day)
    [found] = world.check(NAME).violations
    assert "1.0 days" in found


def test_a_return_that_may_still_come_keeps_the_state(world: Any) -> None:
    expires = T0 + timedelta(days=CHARGEBACK_DAYS + 10)
    authorized = ReturnAuthorized(
        order_id="O-1", rma_id="R-1", channel="shopify", external_id="1", lines=(), expires_at=expires
    )
    world.deliver(MESSAGE)
    world.emit("returns", authorized, "cause")
    world.state(OO, "O-1", partition=PARTITION)
    world.forget(OO, "O-1", partition=PARTITION, day=CHARGEBACK_DAYS + 1)
    [found] = world.check(NAME).violations
    assert "9.0 days before return R-1 expires" in found


def test_a_repetition_does_not_count_and_a_later_message_does(world: Any) -> None:
    world.deliver(MESSAGE, delivery="psp/1")
    world.deliver(MESSAGE, delivery="psp/1", day=13)
    world.state(OO, "O-1", partition=PARTITION)
    world.forget(OO, "O-1", partition=PARTITION, day=CHARGEBACK_DAYS)
    assert not world.check(NAME).violations
    world.deliver(MESSAGE, delivery="psp/2", day=13)
    assert len(world.check(NAME).violations) == 1


def shipped() -> Any:
    return OrderShipped(
        order_id="O-1",
        shipment_id="S1",
        release=1,
        channel="shopify",
        shop="shop",
        external_id="1",
        lines=(),
        currency="EUR",
        shipped_at=T0,
    )


def test_the_kind_before_the_key_of_a_state_is_not_part_of_it(world: Any) -> None:
    world.emit(OO, shipped(), "cause", day=1)
    world.state("erp-poster", "order:O-1", partition=PARTITION, day=1)
    world.forget("erp-poster", "order:O-1", partition=PARTITION, day=DEAD_LETTER_DAYS)
    [found] = world.check(NAME).violations
    assert "erp-poster forgets order:O-1" in found


def test_a_tombstone_after_nothing_deletes_nothing(world: Any) -> None:
    world.deliver(MESSAGE)
    world.forget(OO, "O-1", partition=PARTITION, day=0)
    assert world.check(NAME).checked == 0
