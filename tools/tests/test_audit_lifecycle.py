"""Invariant 10: a busy day's orders and returns end or wait with a deadline; what waits for nothing, or is outlived, is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from crossdock_canonical.records import (
    ChannelOrderReceived,
    OrderCancelled,
    OrderCompleted,
    OrderHeld,
    OrderReceived,
    OrderRejected,
    ReturnClosed,
)
from crossdock_canonical.specification import T0
from crossdock_simulation.backbone import Backbone
from crossdock_simulation.planting import (
    HELD_BACK,
    QUEUED,
    RETURNED,
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
from crossdock_tools.audit.evidence import Evidence
from crossdock_tools.audit.lifecycle import RETURNS, all_ended, nothing_outlives, orders_end, returns_end
from crossdock_tools.audit.money import ORCHESTRATOR
from crossdock_tools.audit.quantities import ROUTER
from crossdock_tools.audit.report import Check
from crossdock_tools.audit.stock_replay import INVENTORY

TOLD = "every accepted order is told of, or its state has a deadline"
WAITS = "every order that has not ended has a deadline"
HELD = "every hold names an owner and a deadline"
RETURNED_ENDS = "every return ends, or has a deadline"
PROMISES = "no reservation outlives its order"
ROUTING = "no fulfilment order outlives its order"
ORDERS_ENDED = "every order has ended, or waits for a person"
RETURNS_ENDED = "every return has ended"
ANSWERED = "every movement of money was answered"
NOTICED = "no deadline has passed unnoticed"

State = dict[str, Any]
FAR = T0 + timedelta(days=999)


@pytest.fixture(scope="module")
def day() -> Evidence:
    backbone = Backbone()
    a_busy_day(backbone)
    return evidence_of(backbone)


def checks(evidence: Evidence) -> dict[str, Check]:
    made = (
        *orders_end(evidence, NO_BOOKS),
        returns_end(evidence, NO_BOOKS),
        *nothing_outlives(evidence, NO_BOOKS),
        *all_ended(evidence, NO_BOOKS),
    )
    return {check.name: check for check in made}


def found(evidence: Evidence, name: str) -> str:
    """What a check found, as one text; it must have found something."""
    violations = checks(evidence)[name].violations
    assert violations, f"{name}: nothing found"
    return "\n".join(violations)


def state_of(meant: str, **fields: Any) -> Callable[[str, State], State]:
    """All states of a service that have these fields, with other values."""

    def changed(service: str, state: State) -> State:
        return {**state, **fields} if service == meant and fields.keys() <= state.keys() else state

    return changed


def test_a_busy_day_ends_but_for_the_unit_that_the_warehouse_keeps(day: Evidence) -> None:
    for name, check in checks(day).items():
        assert check.checked > 0, check
        if name == ORDERS_ENDED:
            assert [id_of(HELD_BACK) in text for text in check.violations] == [True]
        else:
            assert not check.violations, check


def test_an_accepted_order_that_nobody_knows_is_found(day: Evidence) -> None:
    def is_of_it(body: Any) -> bool:
        return not isinstance(body, ChannelOrderReceived) and getattr(body, "order_id", "") == id_of(SPLIT)

    gone = planted(day, drop=is_of_it, state=state_of(ORCHESTRATOR, timers={}))
    assert f"order {id_of(SPLIT)} was accepted and is gone" in found(gone, TOLD)


def test_an_open_order_without_a_deadline_is_found(day: Evidence) -> None:
    still = planted(day, state=state_of(ORCHESTRATOR, timers={}))
    assert found(still, WAITS) == f"order {id_of(HELD_BACK)} has neither ended nor a deadline"


def test_a_hold_without_owner_or_deadline_is_found(day: Evidence) -> None:
    unowned = planted(day, change=when(OrderHeld, lambda each: replace(each, owner="")))
    assert "has no owner" in found(unowned, HELD)
    ago = planted(
        day, change=when(OrderHeld, lambda each: replace(each, deadline=each.deadline - timedelta(days=99)))
    )
    assert found(ago, HELD)


def test_a_return_without_end_or_deadline_is_found(day: Evidence) -> None:
    open_still = planted(day, drop=lambda body: isinstance(body, ReturnClosed))
    assert found(open_still, RETURNED_ENDS) == f"return RMA of order {id_of(RETURNED)} has no deadline"
    waits = planted(open_still, state=state_of(RETURNS, timers={"expire/RMA": None}))
    assert not returns_end(waits, NO_BOOKS).violations


def test_a_promise_that_outlives_its_order_is_found(day: Evidence) -> None:
    promised = state_of(INVENTORY, soft={f"{id_of(SPLIT)}/L0": 1})
    assert f"1 soft of {id_of(SPLIT)}/L0" in found(planted(day, state=promised), PROMISES)
    held = state_of(INVENTORY, hard={f"{id_of(SPLIT)}/L0@WH": 2})
    assert "2 hard" in found(planted(day, state=held), PROMISES)
    queued = state_of(INVENTORY, waiting={f"{id_of(QUEUED)}/L0": 2})
    assert "2 waiting" in found(planted(day, state=queued), PROMISES)
    # The same promise of an order that is open is nobody's fault.
    open_order = state_of(INVENTORY, hard={f"{id_of(HELD_BACK)}/L0@WH": 1})
    assert not checks(planted(day, state=open_order))[PROMISES].violations


def test_fulfilment_that_outlives_its_order_is_found(day: Evidence) -> None:
    completed = planted(
        day,
        state=state_of(ROUTER, fulfillment_orders=[{"number": 3}]),
    )
    assert "its fulfilment orders [3] are open" in found(completed, ROUTING)
    waiting = state_of(ROUTER, releases=[{"lines": [{"waiting": 2}]}])
    assert "2 of its units wait for a location" in found(planted(day, state=waiting), ROUTING)


def test_what_is_under_way_may_still_free_its_promises(day: Evidence) -> None:
    behind = {
        service: dict.fromkeys(offsets, 0) if service == INVENTORY else offsets
        for service, offsets in day.committed.items()
    }
    for check in nothing_outlives(replace(day, committed=behind), NO_BOOKS):
        assert check.checked == 0
        assert "messages are still to take" in check.note


def test_when_all_time_has_passed_everything_has_ended(day: Evidence) -> None:
    for kind in (OrderCompleted, OrderCancelled, OrderRejected):
        open_still = planted(day, drop=lambda body, kind=kind: isinstance(body, kind))
        assert found(open_still, ORDERS_ENDED).count("has not ended") > 1, kind
    asked = planted(
        day,
        state=state_of(ORCHESTRATOR, timers={"hold:order.overdue": FAR, "hold:order.payment_short": FAR}),
    )
    assert not checks_of_orders(asked), "somebody is asked to decide"
    rma = {"rma_id": "RMA", "status": "OPEN"}
    assert "return RMA" in found(planted(day, state=state_of(RETURNS, rmas=[rma])), RETURNS_ENDED)
    waiting = state_of(RETURNS, waiting_receipts=[rma])
    assert "waiting_receipts" in found(planted(day, state=waiting), RETURNS_ENDED)
    moving = state_of(ORCHESTRATOR, movements=[{"movement_id": "M1", "status": "PENDING"}])
    assert "M1 not answered" in found(planted(day, state=moving), ANSWERED)


def checks_of_orders(evidence: Evidence) -> tuple[str, ...]:
    [orders] = [check for check in all_ended(evidence, NO_BOOKS) if check.name == ORDERS_ENDED]
    return orders.violations


def test_a_timer_that_never_fired_is_found(day: Evidence) -> None:
    later = replace(day, now_ms=day.now_ms + 365 * 86_400_000)
    assert "hold:order.overdue was due" in found(later, NOTICED)


def test_an_early_input_waits_for_its_order_with_a_deadline() -> None:
    backbone = Backbone()
    unknown = an_order(77, ("A", 1, 1000))
    backbone.send(unknown)
    backbone.run()
    assert backbone.dead_letters(), "nobody mapped the item"
    told = checks(evidence_of(backbone))[TOLD]
    assert (told.checked, told.violations) == (0, ()), "what was given up is not accepted"


def test_an_unpaid_order_ends_by_itself(day: Evidence) -> None:
    [rejected] = [each.body for each in day.of(OrderRejected)]
    assert rejected.order_id == id_of(UNPAID)
    assert any(each.body.order_id == id_of(UNPAID) for each in day.of(OrderReceived))
