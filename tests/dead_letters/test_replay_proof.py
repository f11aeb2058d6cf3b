"""The proof: what a bug dead-lettered comes, after its repair and a replay, to what would have been without the bug.

In memory, with processes killed at every kind of call; `test_replay_on_kafka` has the same with real processes.
"""

from __future__ import annotations

from collections import Counter

import pytest
from feeds import CODE, STRUCK, everything, traffic, transfers
from incident import SERVICE_GATES, TOOL_GATES, Incident

from crossdock_canonical.records import StockMoved
from crossdock_eventing.limits import Limits
from crossdock_simulation.backbone import REPOSITORY
from crossdock_tools.dead_letters.certificate import certify
from crossdock_tools.dead_letters.chain import walk
from crossdock_tools.dead_letters.sandbox import rehearse

SEED = 20260302
BEHIND = "parked.behind"


def without_the_bug(keys: int, each: int) -> Incident:
    """A world that took the same traffic and never had the bug."""
    incident = Incident()
    came = traffic(SEED, keys=keys, each=each)
    incident.send(came.before)
    incident.send(came.after)
    incident.run()
    return incident


def struck(keys: int, each: int) -> Incident:
    """A world whose bug has parked `keys * each` messages, and is repaired."""
    incident = Incident()
    incident.deploy(bug=transfers)
    incident.send(traffic(SEED, keys=keys, each=each).before)
    incident.run()
    incident.deploy(bug=None)
    return incident


def require_same(incident: Incident, reference: Incident) -> None:
    """Nobody can tell from states, events or the ERP's books that there was a bug."""
    assert incident.parked() == {}
    for service in (STRUCK, "erp-poster"):
        assert incident.states(service).keys() == reference.states(service).keys()
    assert incident.states(STRUCK) == reference.states(STRUCK)
    # By key, the same events in the same order: same ids, same contents, each once.
    assert incident.events(StockMoved.TOPIC) == reference.events(StockMoved.TOPIC)
    assert incident.booked() == reference.booked()
    assert set(incident.booked().values()) == {1}


@pytest.mark.timeout(240)
def test_ten_thousand_dead_letters_end_as_if_there_had_been_no_bug() -> None:
    keys, each = 1_000, 10
    came = traffic(SEED, keys=keys, each=each)
    assert came.parked == 10_000

    incident = Incident()
    incident.deploy(bug=transfers)
    incident.trap.set((gate, 2) for gate in SERVICE_GATES)
    incident.send(came.before)
    incident.run()
    assert incident.trap.left == 0, "the service was killed at every gate while it parked"
    letters = incident.letters()
    assert Counter(code for code, _ in letters) == {CODE: keys, BEHIND: keys * (each - 1)}
    assert len({place for _, place in letters}) == len(letters) == 10_000
    assert set(incident.parked().values()) == {each}
    assert len(incident.parked()) == keys

    incident.deploy(bug=None)
    plan = incident.plan()
    assert (plan.messages, len(plan.items)) == (10_000, keys)
    incident.trap.set((gate, 1 + number % 3) for number, gate in enumerate(SERVICE_GATES))
    incident.tool_trap.set((gate, 1) for gate in TOOL_GATES * 3)
    left_at_death = []

    def death(nth: int) -> None:
        left_at_death.append(sum(incident.parked().values()))
        if nth == 2 * len(TOOL_GATES):
            incident.send(came.after)  # new messages of every key, while some are parked and some are not

    ran = incident.replay_to_the_end(plan, death=death)
    incident.run()
    assert (incident.trap.left, incident.tool_trap.left) == (0, 0)
    assert incident.trap.struck == 2 * len(SERVICE_GATES)
    assert incident.tool_trap.struck == 3 * len(TOOL_GATES)
    assert any(0 < left < 10_000 for left in left_at_death), left_at_death
    assert (ran.surprises, ran.unsent) == ([], 0)

    for key, refs in incident.moves().items():
        assert refs == [ref for ref in came.order[key] if ref in set(refs)], "in the order in which they came"
    require_same(incident, without_the_bug(keys, each))
    again = incident.replay(plan)
    incident.run()
    assert (again.sent, again.events, again.surprises) == (0, 0, [])
    assert not [link.broken for link in walk(incident.broker, incident.registry, STRUCK) if link.broken]
    assert incident.audit(replays=False).violations == ()


def test_a_retry_before_the_repair_stops_at_the_first_message_and_is_no_loss() -> None:
    incident = Incident()
    incident.deploy(bug=transfers)
    incident.send(traffic(SEED, keys=20, each=4).before)
    incident.run()
    early = incident.replay(incident.plan("is it over?"))
    assert (early.sent, early.events, early.unsent) == (1, 0, 19)
    [surprise] = early.surprises
    assert "rejected_again" in surprise
    assert sum(incident.parked().values()) == 80

    incident.deploy(bug=None)
    late = incident.replay(incident.plan())
    incident.send(traffic(SEED, keys=20, each=4).after)
    incident.run()
    assert (late.sent, late.surprises) == (20, [])
    require_same(incident, without_the_bug(20, 4))
    assert incident.audit().violations == ()


def test_the_dry_run_says_what_the_run_does_and_a_second_run_does_nothing() -> None:
    incident = struck(50, 4)
    plan = incident.plan()
    before = incident.events(StockMoved.TOPIC)
    tried = rehearse(plan, incident.broker, incident.registry, {}, now=incident.clock.now()).to_json()
    assert tried["messages"] == {"applied": 200}
    assert tried["left"] == {}
    assert incident.events(StockMoved.TOPIC) == before, "a dry run publishes nothing"
    assert sum(incident.parked().values()) == 200, "and releases nothing"

    ran = incident.replay(plan)
    incident.run()
    assert (ran.sent, ran.surprises) == (50, [])
    made = certify(plan, incident.broker, incident.registry, REPOSITORY)
    assert made["problems"] == []
    assert made["messages"] == {"in": 200, "applied": 200}
    documents = tried["effects"].pop("ERP document")
    assert documents["count"] > 20
    assert made["effects"]["by_type"] == tried["effects"]
    assert made["erp_documents"] == {"ErpDocumentPosted": documents}
    booked = incident.booked()

    again = incident.replay(plan)
    incident.run()
    assert (again.sent, again.events, again.surprises) == (0, 0, [])
    assert certify(plan, incident.broker, incident.registry, REPOSITORY) == made
    assert incident.booked() == booked
    report = incident.audit()
    assert report.violations == ()
    held = {check.name for check in report.checks if check.checked}
    assert "what was rejected or waits behind it is parked, applied or discarded, once" in held


def test_when_nearly_everything_is_rejected_the_service_stops_instead_of_dead_lettering_a_topic() -> None:
    came = traffic(SEED, keys=500, each=1)
    incident = Incident()
    incident.deploy(bug=everything)
    incident.send(came.before)
    incident.run()
    worker = incident.struck.worker
    assert worker is not None
    assert not worker.ready
    rejected = sum(code == CODE for code, _ in incident.letters())
    assert rejected < Limits().breaker_messages, "each of 500 keys would have been parked"
    incident.run()
    assert len(incident.parked()) == rejected, "it stays as it is"

    incident.deploy(bug=None)
    incident.replay(incident.plan())
    incident.send(came.after)
    incident.run()
    require_same(incident, without_the_bug(500, 1))
