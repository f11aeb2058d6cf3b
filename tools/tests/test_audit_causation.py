"""Invariant 8: planted effects without a cause, repeated and forged events are found; a clean chain passes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from crossdock_canonical.money import Money
from crossdock_canonical.records import CapturePayment, PaymentAuthorized, PaymentCaptured, RefundFailed
from crossdock_canonical.specification import T0
from crossdock_eventing.clock import to_micros
from crossdock_eventing.envelope import wrap

ORDER = "6f1f2f6e-3f0b-5a57-9c2e-1f5c53f0a001"
EUR = Money(minor=1999, currency="EUR")
AUTHORIZED = PaymentAuthorized(order_id=ORDER, tender_reference="T1", amount=EUR, authorized_at=T0)
CAPTURE = CapturePayment(order_id=ORDER, capture_id="C1", tender_reference="T1", amount=EUR)
OO = "order-orchestrator"


def test_a_chain_from_the_outside_to_an_effect_passes(world: Any) -> None:
    cause = world.deliver(AUTHORIZED)
    world.emit(OO, CAPTURE, cause)
    world.commit_all()
    report = world.audit()
    assert report.ok, report.violations
    assert world.check("every event has its cause").checked == 2
    assert world.check("causes were taken in by who acted on them").checked == 1
    assert world.check("causes precede effects").checked == 2
    assert world.check("event ids follow from cause and identity").checked == 2


def test_an_effect_of_nothing_is_found(world: Any) -> None:
    world.emit(OO, CAPTURE, "4ff6-nobody-published-this")
    world.commit_all()
    [found] = world.check("every event has its cause").violations
    assert "CapturePayment retail.payment.commands.v1" in found
    assert "nobody published" in found


def test_an_effect_of_a_message_that_is_still_to_be_taken_is_found(world: Any) -> None:
    world.emit(OO, CAPTURE, world.deliver(AUTHORIZED))
    world.commit_all()
    assert not world.check("causes were taken in by who acted on them").violations
    world.commit(OO, payment_intake=0)
    [found] = world.check("causes were taken in by who acted on them").violations
    assert "which order-orchestrator has not taken in" in found


def test_an_effect_of_a_message_for_somebody_else_is_found(world: Any) -> None:
    command = world.emit(OO, CAPTURE, world.deliver(AUTHORIZED))
    world.emit(OO, replace(CAPTURE, capture_id="C2"), command)
    world.commit_all()
    [found] = world.check("causes were taken in by who acted on them").violations
    assert "CapturePayment" in found


def timer(due: Any) -> str:
    return f"timer/{ORDER}/settle/later/{to_micros(due)}"


def test_a_timer_must_have_stood_in_the_state(world: Any) -> None:
    due = T0 + timedelta(hours=1)
    world.emit(OO, CAPTURE, timer(due))
    world.commit_all()
    [found] = world.check("every event has its cause").violations
    assert "never set" in found
    world.state(OO, ORDER, partition=world.partition(CAPTURE), **{"settle/later": due})
    check = world.check("every event has its cause")
    assert not check.violations
    assert "1 from timers" in check.note


def test_with_a_journal_a_timer_must_have_fired(world: Any) -> None:
    due = T0 + timedelta(hours=1)
    world.state(OO, ORDER, partition=world.partition(CAPTURE), **{"settle/later": due})
    world.emit(OO, CAPTURE, timer(due))
    world.journal(OO, world.partition(CAPTURE))
    world.commit_all()
    assert world.check("every event has its cause").violations
    world.journal(OO, world.partition(CAPTURE), timers=[[to_micros(due), ORDER, "settle/later"]])
    assert not world.check("every event has its cause").violations


def test_an_event_published_twice_is_found(world: Any) -> None:
    cause = world.deliver(AUTHORIZED)
    world.emit(OO, CAPTURE, cause)
    world.emit(OO, CAPTURE, cause)
    world.commit_all()
    [found] = world.check("no event is published twice").violations
    assert "2 times" in found


def test_a_repeated_delivery_is_no_violation_unless_it_says_something_else(world: Any) -> None:
    world.deliver(AUTHORIZED, delivery="psp/1")
    world.deliver(AUTHORIZED, delivery="psp/1")
    world.commit_all()
    check = world.check("no event is published twice")
    assert not check.violations
    assert check.note == "1 deliveries repeated by the outside"
    world.deliver(replace(AUTHORIZED, amount=Money(minor=1, currency="EUR")), delivery="psp/1")
    [found] = world.check("no event is published twice").violations
    assert "says different things" in found


def test_an_event_id_that_does_not_follow_from_its_cause_is_found(world: Any) -> None:
    meta = wrap(
        AUTHORIZED, causation_id="d", correlation_id="", now=T0, source="channel-gateway", attributes={}
    )
    world.publish(AUTHORIZED, replace(meta, event_id="0000"))
    [found] = world.check("event ids follow from cause and identity").violations
    assert "should be" in found


@pytest.mark.parametrize("length", [1, 2])
def test_a_circle_of_causes_is_found(world: Any, length: int) -> None:
    ids = [f"id-{number}" for number in range(length)]
    for number in range(length):
        record = replace(CAPTURE, capture_id=f"C{number}")
        meta = wrap(
            record, causation_id="", correlation_id="", now=T0, source=f"/crossdock/{OO}", attributes={}
        )
        cause = ids[(number + 1) % length]
        world.publish(record, replace(meta, event_id=ids[number], causation_id=cause))
    found = world.check("causes precede effects").violations
    assert any(f"causes itself over {length} events" in each for each in found)


def test_an_effect_before_its_cause_in_one_log_is_found(world: Any) -> None:
    failed = RefundFailed(order_id=ORDER, refund_id="R1", reason="closed account")
    cause = wrap(failed, causation_id="d", correlation_id="", now=T0, source="channel-gateway", attributes={})
    captured = PaymentCaptured(order_id=ORDER, capture_id="C1", amount=EUR, captured_at=T0)
    world.deliver(captured, delivery=cause.event_id)
    world.publish(failed, cause)
    [found] = world.check("causes precede effects").violations
    assert "lies before its cause RefundFailed" in found


def test_a_topic_written_by_another_than_its_producer_is_found(world: Any) -> None:
    world.emit("returns", CAPTURE, world.deliver(AUTHORIZED))
    [found] = world.check("topics are written by their producers").violations
    assert "was written by returns" in found
