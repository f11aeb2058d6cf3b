"""Invariant 2: a busy day passes; promises beyond supply, silent shortages, and figures that nobody's facts add up to are found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from crossdock_canonical.records import (
    AllocateStock,
    ConsumeStock,
    FulfillmentRequested,
    OversellDetected,
    ReserveStock,
    SalableStock,
    ShortPicked,
    StockMoved,
    StockMovement,
    StockPosition,
    StockReserved,
    StockSnapshot,
)
from crossdock_simulation.backbone import Backbone
from crossdock_simulation.planting import QUEUED, a_busy_day, an_order, evidence_of, id_of, planted, when
from crossdock_tools.audit.books import NO_BOOKS
from crossdock_tools.audit.evidence import Evidence
from crossdock_tools.audit.report import Check
from crossdock_tools.audit.stock import stock, stock_versions
from crossdock_tools.audit.stock_replay import INVENTORY

MOVES = "on hand is the last count and every movement since, once"
PROMISES = "no promise exceeds what is there, in the network and at its location"
SHORTAGES = "a fact that takes what was promised is told at once, with cause, owner and deadline"
UNITS = "requested = soft + hard + queued + consumed + released + expired + failed"
TABLES = "published positions and available-to-sell are what the books say"
STATES = "inventory's own books are what its inputs make of them"


@pytest.fixture(scope="module")
def day() -> Evidence:
    backbone = Backbone()
    a_busy_day(backbone)
    return evidence_of(backbone)


def checks(evidence: Evidence) -> dict[str, Check]:
    return {check.name: check for check in stock(evidence, NO_BOOKS)}


def found(evidence: Evidence, name: str) -> str:
    """What a check found, as one text; it must have found something."""
    violations = checks(evidence)[name].violations
    assert violations, f"{name}: nothing found"
    return "\n".join(violations)


def test_a_busy_day_keeps_its_promises(day: Evidence) -> None:
    for check in stock(day, NO_BOOKS):
        assert check.checked > 10, check
        assert not check.violations, check


def test_a_busy_day_is_clean_without_its_journal(day: Evidence) -> None:
    for check in stock(replace(day, journals={}), NO_BOOKS):
        assert check.checked > 10, check
        assert not check.violations, check


def test_units_that_were_never_there_are_promised_beyond_supply(day: Evidence) -> None:
    fewer = planted(day, change=when(StockSnapshot, lambda each: replace(each, units=1), sku="A"))
    assert "beyond supply" in found(fewer, PROMISES)
    assert "beyond what WH has" in found(fewer, PROMISES)


def test_a_promise_from_the_queue_counts_as_one(day: Evidence) -> None:
    count = when(StockSnapshot, lambda each: replace(each, units=min(each.units, 1)), sku="D")
    assert "queue of D: units promised beyond supply: 2 is said, it is 0" not in found(
        planted(day, change=count), PROMISES
    )
    assert "queue of D: units promised beyond supply: 1 is said, it is 0" in found(
        planted(day, change=count), PROMISES
    )


def test_a_promise_larger_than_was_asked_for_is_found(day: Evidence) -> None:
    def more(told: StockReserved) -> StockReserved:
        return replace(told, lines=tuple(replace(line, reserved=line.reserved + 1) for line in told.lines))

    assert "promised and queued: 3 is said, it is 2" in found(
        planted(day, change=when(StockReserved, more, order_id=id_of(QUEUED), backfill=False)), UNITS
    )
    served = planted(day, change=when(StockReserved, more, backfill=True))
    assert "that did not wait: 1 is said, it is 0" in found(served, UNITS)


def test_a_slip_that_nobody_answers_is_found(day: Evidence) -> None:
    silent = planted(
        day, drop=lambda body: isinstance(body, StockReserved) and body.order_id == id_of(QUEUED)
    )
    assert "answers: 0 is said, it is 1" in found(silent, UNITS)


def test_a_shortage_that_nobody_tells_is_found(day: Evidence) -> None:
    silent = planted(day, drop=lambda body: isinstance(body, OversellDetected))
    assert "short: {} is said" in found(silent, SHORTAGES)
    assert not checks(silent)[PROMISES].violations, "the till's sale is a fact, not a promise"


def test_a_shortage_needs_cause_and_owner(day: Evidence) -> None:
    for field in ({"owner": ""}, {"cause": "another"}):
        unowned = planted(day, change=when(OversellDetected, lambda each, f=field: replace(each, **f)))
        assert "no cause, owner or deadline" in found(unowned, SHORTAGES)


def test_a_movement_that_was_booked_otherwise_is_found(day: Evidence) -> None:
    assert "PO-1" in found(
        planted(day, change=when(StockMovement, lambda each: replace(each, delta=6), ref="PO-1")), MOVES
    )
    assert "on hand" in found(
        planted(day, change=when(StockMoved, lambda each: replace(each, on_hand=each.on_hand + 1))), MOVES
    )
    # The same reference with another meaning is another movement, and moves stock again.
    second = planted(day, repeat=lambda body: isinstance(body, StockMovement))
    assert not checks(second)[MOVES].violations


def test_goods_that_left_without_a_promise_are_found(day: Evidence) -> None:
    more = planted(
        day,
        change=when(ConsumeStock, lambda each: replace(each, units=each.units + 1), sku="B", allocated=True),
    )
    assert "were promised to nobody" in found(more, UNITS)


def test_tables_that_say_something_else_are_found(day: Evidence) -> None:
    assert "on hand, allocated, held" in found(
        planted(day, change=when(StockPosition, lambda each: replace(each, on_hand=99), sku="B")), TABLES
    )
    assert "free" in found(
        planted(day, change=when(StockPosition, lambda each: replace(each, free=each.free + 1), sku="A")),
        TABLES,
    )
    assert "B for amazon" in found(
        planted(
            day, change=when(SalableStock, lambda each: replace(each, units=1), sku="B", channel="amazon")
        ),
        TABLES,
    )
    silent = planted(day, drop=lambda body: isinstance(body, StockPosition) and body.location == "SOUTH")
    assert "B at SOUTH: no position is published" in found(silent, TABLES)


def test_one_buffer_for_all_skus_of_a_channel_is_a_setting(day: Evidence) -> None:
    buffered = planted(
        day, change=when(SalableStock, lambda each: replace(each, units=max(0, each.units - 2)))
    )
    assert not checks(buffered)[TABLES].violations


def test_a_column_that_is_no_sum_of_facts_is_found(day: Evidence) -> None:
    def more(service: str, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "consumed_total": state["consumed_total"] + 1} if service == INVENTORY else state

    assert "consumed" in found(planted(day, state=more), STATES)
    twice = planted(day, drop=lambda body: isinstance(body, ReserveStock) and body.order_id == id_of(QUEUED))
    assert "D: requested" in found(twice, STATES)


def test_an_allocation_beyond_its_reservation_is_found(day: Evidence) -> None:
    def more(slip: AllocateStock) -> AllocateStock:
        return replace(slip, lines=tuple(replace(line, units=line.units + 1) for line in slip.lines))

    assert "were not reserved" in found(planted(day, change=when(AllocateStock, more)), PROMISES)


def test_a_version_that_goes_back_is_found(day: Evidence) -> None:
    assert stock_versions(day, NO_BOOKS).checked > 50
    assert not stock_versions(day, NO_BOOKS).violations
    again = planted(day, repeat=lambda body: isinstance(body, SalableStock) and body.sku == "A")
    assert "SalableStock A|" in "\n".join(stock_versions(again, NO_BOOKS).violations)
    back = planted(day, change=when(StockPosition, lambda each: replace(each, version=1), sku="A"))
    assert stock_versions(back, NO_BOOKS).violations


def test_a_cluster_that_moves_or_has_lost_its_beginning_proves_nothing(day: Evidence) -> None:
    for evidence, note in (
        (replace(day, quiet=False), "written to"),
        (
            replace(day, ends={place: ends._replace(low=1) for place, ends in day.ends.items()}),
            "beginning of the log",
        ),
    ):
        for check in stock(evidence, NO_BOOKS):
            assert check.checked == 0
            assert note in check.note


def test_a_short_pick_holds_its_location_until_the_next_count() -> None:
    """The hold is nobody's figure: it follows from the report, and ends with a count made after it."""
    backbone = Backbone()
    a_busy_day(backbone)
    ship = backbone.outside.warehouse

    def missing(command: Any) -> list[Any]:
        if not isinstance(command, FulfillmentRequested):
            return ship(command)
        return [
            ShortPicked(
                order_id=command.order_id,
                fulfillment_order_id=command.fulfillment_order_id,
                event_id="short",
                location=command.location,
                lines=command.lines,
            )
        ]

    backbone.outside.warehouse = missing
    backbone.send(an_order(30, ("B", 2, 2000)))
    backbone.run()
    held = evidence_of(backbone)
    assert [each.body.held for each in held.of(StockPosition) if each.body.sku == "B"][-1]
    assert not checks(held)[TABLES].violations
    free = planted(held, change=when(StockPosition, lambda each: replace(each, held=False), sku="B"))
    assert "held" in found(free, TABLES)
    backbone.clock.advance(60)
    backbone.stock("B", SOUTH=40)
    backbone.run()
    counted = evidence_of(backbone)
    assert not any(check.violations for check in stock(counted, NO_BOOKS))
