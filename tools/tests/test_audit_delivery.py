"""Invariant 1: messages left out, taken twice, lost between two accounts or given up in silence are found."""

from __future__ import annotations

from typing import Any

from crossdock_canonical.money import Money
from crossdock_canonical.records import PaymentAuthorized, ReturnDeclined
from crossdock_canonical.specification import T0
from crossdock_tools.audit.report import Check

EUR = Money(minor=1999, currency="EUR")
TOPIC = PaymentAuthorized.TOPIC
OO = "order-orchestrator"


def authorized(number: int) -> PaymentAuthorized:
    return PaymentAuthorized(order_id="O-1", tender_reference=f"T{number}", amount=EUR, authorized_at=T0)


PARTITION = 3  # of the key O-1


def three_messages(world: Any) -> None:
    """Offsets 0, 2 and 4 of one partition: each message is a transaction with a marker after it."""
    for number in range(3):
        world.deliver(authorized(number))
    assert world.partition(authorized(0)) == PARTITION


def runs(world: Any) -> Check:
    found: Check = world.check("runs join without gap or overlap")
    return found


def fates(world: Any) -> Check:
    found: Check = world.check("each message has one fate per service")
    return found


def offsets(world: Any) -> Check:
    found: Check = world.check("group, journal and changelog stand at one offset")
    return found


def letters(world: Any) -> Check:
    found: Check = world.check("dead letters are the rejected messages")
    return found


def test_a_world_in_which_everything_was_taken_once_passes(world: Any) -> None:
    three_messages(world)
    world.journal(OO, PARTITION, runs=[[TOPIC, 0, 2]])
    world.journal(
        OO,
        PARTITION,
        runs=[[TOPIC, 2, 6]],
        ignored=[[TOPIC, 2, "payment.duplicate"]],
        rejected=[[TOPIC, 4, "order.unknown"]],
    )
    world.dead_letter(OO, TOPIC, PARTITION, 4, code="order.unknown")
    world.book(OO, PARTITION, payment_intake=6)
    world.commit_all()
    report = world.audit(drained=True)
    assert report.ok, report.violations
    assert runs(world).checked == 2
    assert fates(world).note == "1 applied, 1 dead-lettered, 1 ignored"
    assert letters(world).checked == 2
    assert world.check("nothing is pending", drained=True).checked == 3


def test_a_message_that_no_run_covers_is_found(world: Any) -> None:
    three_messages(world)
    world.journal(OO, PARTITION, runs=[[TOPIC, 0, 2]])
    world.journal(OO, PARTITION, runs=[[TOPIC, 4, 6]])
    [found] = runs(world).violations
    assert "leaves out 2..4" in found


def test_a_message_before_the_first_run_is_found(world: Any) -> None:
    three_messages(world)
    world.journal(OO, PARTITION, runs=[[TOPIC, 2, 6]])
    [found] = runs(world).violations
    assert "starts after 1 messages that nobody took" in found


def test_a_message_that_was_taken_twice_is_found(world: Any) -> None:
    three_messages(world)
    world.journal(OO, PARTITION, runs=[[TOPIC, 0, 4]])
    world.journal(OO, PARTITION, runs=[[TOPIC, 2, 6]])
    [found] = runs(world).violations
    assert "takes 2..4 again" in found


def test_a_run_that_goes_backwards_is_found(world: Any) -> None:
    world.journal(OO, PARTITION, runs=[[TOPIC, 4, 4]])
    [found] = runs(world).violations
    assert "goes backwards" in found


def test_without_a_journal_it_says_so(world: Any) -> None:
    three_messages(world)
    assert (runs(world).checked, fates(world).checked) == (0, 0)
    assert OO in runs(world).note


def test_two_fates_of_one_message_are_found(world: Any) -> None:
    three_messages(world)
    world.journal(
        OO, PARTITION, runs=[[TOPIC, 0, 6]], ignored=[[TOPIC, 2, "a.b"]], rejected=[[TOPIC, 2, "a.b"]]
    )
    [found] = fates(world).violations
    assert "dead-lettered as a.b, and ignored besides" in found


def test_a_fate_without_a_reason_or_outside_its_run_is_found(world: Any) -> None:
    three_messages(world)
    world.journal(OO, PARTITION, runs=[[TOPIC, 0, 2]], ignored=[[TOPIC, 0, ""], [TOPIC, 4, "a.b"]])
    reasonless, elsewhere = fates(world).violations
    assert "a reason is owed" in reasonless
    assert "by a transaction that did not take it" in elsewhere


def test_an_ignored_timer_is_no_message(world: Any) -> None:
    three_messages(world)
    world.journal(OO, PARTITION, runs=[[TOPIC, 0, 6]], ignored=[["", 1699999999000000, "a.b"]])
    world.commit_all()
    assert not fates(world).violations
    assert fates(world).note == "3 applied"


def test_messages_for_others_are_skipped_not_applied(world: Any) -> None:
    declined = ReturnDeclined(order_id="O-1", rma_id="R-1", reason_code="returns.too_late")
    three_messages(world)
    world.emit("returns", declined, "x")
    world.journal(OO, PARTITION, runs=[[declined.TOPIC, 0, 2], [TOPIC, 0, 6]])
    world.commit_all()
    assert fates(world).note == "3 applied, 1 skipped"


def test_an_offset_that_ran_ahead_of_the_journal_is_found(world: Any) -> None:
    three_messages(world)
    world.journal(OO, PARTITION, runs=[[TOPIC, 0, 4]])
    world.commit_all()
    [found] = offsets(world).violations
    assert "the group stands at 6, the journal at 4" in found


def test_messages_that_went_past_the_journal_are_found(world: Any) -> None:
    three_messages(world)
    world.journal(OO, PARTITION)
    world.commit_all()
    [found] = offsets(world).violations
    assert "the group stands at 6, the journal knows nothing of it" in found


def test_a_changelog_that_stands_elsewhere_than_the_group_is_found(world: Any) -> None:
    three_messages(world)
    world.book(OO, PARTITION, payment_intake=4)
    world.commit_all()
    [found] = offsets(world).violations
    assert "the group stands at 6, the changelog's book at 4" in found


def test_pending_messages_are_counted_and_a_violation_once_all_is_done(world: Any) -> None:
    three_messages(world)
    world.journal(OO, PARTITION, runs=[[TOPIC, 0, 2]])
    world.commit_all()
    world.commit(OO, payment_intake=2)
    assert world.audit().ok
    assert fates(world).note == "1 applied, 2 pending"
    [found] = world.check("nothing is pending", drained=True).violations
    assert "2 messages" in found


def test_markers_after_the_last_message_are_not_pending(world: Any) -> None:
    three_messages(world)
    world.commit_all()
    world.commit(OO, payment_intake=5)
    assert not world.check("nothing is pending", drained=True).violations


def test_a_rejected_message_without_a_dead_letter_is_found(world: Any) -> None:
    three_messages(world)
    world.journal(OO, PARTITION, runs=[[TOPIC, 0, 6]], rejected=[[TOPIC, 2, "a.b"]])
    world.commit_all()
    [found] = letters(world).violations
    assert "was rejected as a.b and has no dead letter" in found


def test_a_dead_letter_that_nobody_rejected_is_found(world: Any) -> None:
    three_messages(world)
    world.journal(OO, PARTITION, runs=[[TOPIC, 0, 6]])
    world.dead_letter(OO, TOPIC, PARTITION, 2)
    world.commit_all()
    [found] = letters(world).violations
    assert "has no rejected message" in found


def test_a_dead_letter_with_another_reason_or_a_twin_is_found(world: Any) -> None:
    three_messages(world)
    world.journal(OO, PARTITION, runs=[[TOPIC, 0, 6]], rejected=[[TOPIC, 2, "a.b"]])
    world.dead_letter(OO, TOPIC, PARTITION, 2, code="c.d")
    world.dead_letter(OO, TOPIC, PARTITION, 2, code="c.d")
    world.commit_all()
    twin, reason = letters(world).violations
    assert "has 2 dead letters" in twin
    assert "its dead letter says c.d" in reason


def test_a_dead_letter_of_a_message_that_is_still_to_be_taken_is_found(world: Any) -> None:
    three_messages(world)
    world.dead_letter(OO, TOPIC, PARTITION, 2)
    world.commit_all()
    world.commit(OO, payment_intake=0)
    [found] = letters(world).violations
    assert "still to be taken" in found


def test_bytes_that_nobody_can_read_must_be_dead_lettered(world: Any) -> None:
    world.cluster.put(TOPIC, value=b"\x00\x00\x00\x00\x00not avro", partition=PARTITION)
    world.commit_all()
    name = "what cannot be read is dead-lettered"
    [found] = world.check(name).violations
    assert f"has no dead letter of {OO}" in found
    world.dead_letter(OO, TOPIC, PARTITION, 0)
    assert (world.check(name).checked, world.check(name).violations) == (1, ())
    world.journal(OO, PARTITION, runs=[[TOPIC, 0, 2]], rejected=[[TOPIC, 0, "contract.corrupt_body"]])
    assert fates(world).note == "1 dead-lettered"


def test_bytes_that_are_marked_as_for_others_may_be_skipped(world: Any) -> None:
    marked = (("event_type", b"retail.payment.Unheard"),)
    world.cluster.put(TOPIC, value=b"\x00\x00\x00\x00\x00not avro", partition=PARTITION, headers=marked)
    world.commit_all()
    assert not world.check("what cannot be read is dead-lettered").violations
