"""What leaves when: pace, batches, pauses, doubt. Time is an argument; nothing is sent."""

from math import inf

from crossdock_canonical.identity import OrderId
from crossdock_canonical.records import DocumentType
from crossdock_canonical.specification import T0
from crossdock_erp_poster.erp_api import NotFound, Throttled
from crossdock_erp_poster.lanes import Lanes, LookUp, Posting
from crossdock_erp_poster.model import PostDocument, Posted, Unavailable, UnknownOutcome, call_id
from crossdock_erp_poster.settings import Settings
from crossdock_erp_poster.state_records import PendingDocument

SETTLE_S = 10.0
POST_WITHIN_S = 5.0
BOOKED = Posted("ERP-1", existed=False)
FOUND = Posted("ERP-1", existed=True)


def lanes(**changes: object) -> Lanes:
    erps = {"cloud": "http://c", "legacy": "http://l"}
    times = {"answer_timeout_s": 3, "settle_s": SETTLE_S, "post_within_s": POST_WITHIN_S}
    return Lanes(Settings(**{"erps": erps, "requests_per_s": inf, **times, **changes}))


def invoice(number: int = 1, *, attempt: int = 1, erp: str = "cloud") -> PostDocument:
    document = PendingDocument(
        document_type=DocumentType.INVOICE, business_key=f"invoice/o-{number}/s1", wait_until=T0
    )
    return PostDocument(
        call_id=call_id(document, attempt),
        erp=erp,
        order_id=OrderId(f"o-{number}"),
        document=document,
        predecessor="",
        attempt=attempt,
    )


def start(made: Lanes, call: PostDocument, now_s: float, *, fresh: bool = True) -> None:
    """As the shell does at the end of a step."""
    assert made.collect(now_s) == []
    made.start(f"order:{call.order_id}", call, fresh=fresh, now_s=now_s)


def outcomes(made: Lanes, now_s: float) -> list[object]:
    return [answer.command.outcome for answer in made.collect(now_s)]


def orders(request: LookUp | Posting) -> list[str]:
    jobs = request.jobs if isinstance(request, Posting) else (request.job,)
    return [job.call.order_id for job in jobs]


def test_a_first_attempt_is_posted_and_a_later_one_looked_up_before():
    made = lanes()
    start(made, invoice(), 0.0)
    [posting] = made.leave(0.0)
    made.posted(posting, [Unavailable("503")], 0.1)
    assert outcomes(made, 0.1) == [Unavailable("503")]
    start(made, invoice(attempt=2), 1.0)
    [look_up] = made.leave(1.0)
    assert isinstance(look_up, LookUp)
    made.looked_up(look_up, NotFound(), 1.1)
    [posting] = made.leave(1.1)
    made.posted(posting, [BOOKED], 1.2)
    assert outcomes(made, 1.2) == [BOOKED]
    assert made.idle


def test_a_lost_answer_is_looked_up_at_once_and_not_found_is_no_proof():
    for result, expected in ((FOUND, FOUND), (NotFound(), UnknownOutcome("reset"))):
        made = lanes()
        start(made, invoice(), 0.0)
        [posting] = made.leave(0.0)
        made.posted(posting, [UnknownOutcome("reset")], 0.5)
        [look_up] = made.leave(0.5)
        made.looked_up(look_up, result, 0.6)
        assert outcomes(made, 0.6) == [expected]
        assert made.leave(0.6) == []


def test_the_next_attempt_waits_until_the_lost_one_has_settled_whatever_the_core_thinks():
    made = lanes()
    start(made, invoice(), 2.0)
    [posting] = made.leave(2.0)
    made.posted(posting, [UnknownOutcome("reset")], 2.5)
    [look_up] = made.leave(2.5)
    made.looked_up(look_up, NotFound(), 2.5)
    made.collect(2.5)
    start(made, invoice(attempt=2), 3.0)
    assert made.leave(11.9) == []
    assert made.due_s() == 2.0 + SETTLE_S
    assert [type(request) for request in made.leave(12.0)] == [LookUp]


def test_a_restored_call_is_looked_up_and_never_posted():
    made = lanes()
    start(made, invoice(), 0.0)  # a commit just now
    made.start("order:o-2", invoice(2), fresh=False, now_s=0.0)
    posting, look_up = sorted(made.leave(0.0), key=lambda request: isinstance(request, LookUp))
    assert (orders(posting), orders(look_up)) == (["o-1"], ["o-2"])
    made.looked_up(look_up, Unavailable("503"), 0.1)
    assert [type(outcome) for outcome in outcomes(made, 0.1)] == [UnknownOutcome]
    assert made.leave(0.1) == []


def test_an_attempt_that_follows_another_instances_is_in_doubt_until_that_has_settled():
    made = lanes()
    start(made, invoice(attempt=4), 0.0)
    [look_up] = made.leave(0.0)
    made.looked_up(look_up, NotFound(), 0.1)
    assert [type(outcome) for outcome in outcomes(made, 0.1)] == [UnknownOutcome]
    start(made, invoice(attempt=5), 0.1)
    assert made.leave(SETTLE_S - 0.1) == []
    [look_up] = made.leave(SETTLE_S)
    made.looked_up(look_up, NotFound(), SETTLE_S)
    made.start("order:o-9", invoice(9), fresh=True, now_s=SETTLE_S)
    assert made.leave(SETTLE_S) == []  # the last collect, and so the last sign of membership, is too old
    assert {type(outcome) for outcome in outcomes(made, SETTLE_S)} == {Unavailable}
    start(made, invoice(attempt=6), SETTLE_S)
    [look_up] = made.leave(SETTLE_S)
    made.looked_up(look_up, NotFound(), SETTLE_S)
    assert [type(request) for request in made.leave(SETTLE_S)] == [Posting]


def test_attempts_long_past_are_forgotten_which_costs_a_look_up():
    made = lanes()
    for number in range(3):
        start(made, invoice(number), 0.0)
        [posting] = made.leave(0.0)
        made.posted(posting, [Unavailable("503")], float(number))
        made.collect(float(number))
    start(made, invoice(9), 3601.5)  # whatever is remembered later clears what is older than an hour
    made.leave(3601.5)
    for number, doubtful in ((1, True), (2, False)):
        made.collect(3601.5)
        made.start(f"order:o-{number}", invoice(number, attempt=2), fresh=True, now_s=3601.5)
        [look_up] = made.leave(3601.5)
        assert (look_up.job.doubt is not None) is doubtful


def test_nothing_is_posted_long_after_the_last_commit_and_commits_for_others_count():
    made = lanes(requests_in_flight=1)
    start(made, invoice(1), 0.0)
    made.start("order:o-2", invoice(2), fresh=True, now_s=0.0)
    made.start("order:o-3", invoice(3), fresh=True, now_s=0.0)
    [first] = made.leave(0.0)
    made.posted(first, [Throttled(4.0)], 0.5)
    made.collect(4.0)
    made.start("order:o-4", invoice(4), fresh=True, now_s=4.0)
    [first] = made.leave(4.0 + POST_WITHIN_S)
    assert orders(first) == ["o-1"]
    made.posted(first, [BOOKED], 9.1)
    assert made.leave(9.1) == []
    assert [type(outcome) for outcome in outcomes(made, 9.1)] == [Posted] + 3 * [Unavailable]


def test_requests_are_evenly_paced_and_a_late_alarm_does_not_slow_them_down():
    made = lanes(requests_per_s=8, requests_in_flight=100)
    for number in range(4):
        start(made, invoice(number), 0.0)
    assert [orders(request) for request in made.leave(0.0)] == [["o-0"]]
    assert made.due_s() == 0.125
    assert made.leave(0.0625) == []
    assert [orders(request) for request in made.leave(0.15)] == [["o-1"]]
    assert made.due_s() == 0.25
    assert [orders(request) for request in made.leave(0.5)] == [["o-2"]]  # too late to be made up for
    assert made.due_s() == 0.625


def test_requests_in_flight_are_limited_and_erps_do_not_wait_for_one_another():
    made = lanes(requests_in_flight=2)
    for number in range(4):
        start(made, invoice(number, erp="legacy" if number == 3 else "cloud"), 0.0)
    requests = made.leave(0.0)
    assert sorted(map(orders, requests)) == [["o-0"], ["o-1"], ["o-3"]]
    assert made.due_s() == inf
    made.posted(requests[0], [BOOKED], 0.1)
    assert [orders(request) for request in made.leave(0.1)] == [["o-2"]]


def test_a_batch_takes_what_is_ready_and_the_older_call_goes_first():
    made = lanes(batch_max=3, requests_in_flight=1)
    made.start("order:o-0", invoice(0), fresh=False, now_s=0.0)
    for number in range(1, 6):
        start(made, invoice(number), 0.1)
    [look_up] = made.leave(0.1)
    assert orders(look_up) == ["o-0"]
    made.looked_up(look_up, FOUND, 0.2)
    made.forget(frozenset({"order:o-2"}))
    [batch] = made.leave(0.2)
    assert orders(batch) == ["o-1", "o-3", "o-4"]
    made.posted(batch, [Throttled(1.0), BOOKED, Throttled(1.0)], 0.3)
    assert made.due_s() == 1.3
    [batch] = made.leave(1.3)
    assert orders(batch) == ["o-1", "o-4", "o-5"]


def test_a_pause_beyond_the_back_off_is_the_cores_to_keep():
    made = lanes(back_off_max_s=20)
    start(made, invoice(), 0.0)
    [posting] = made.leave(0.0)
    made.posted(posting, [Throttled(21.0)], 0.1)
    assert outcomes(made, 0.1) == [Unavailable("throttled", 21.0)]


def test_the_same_call_again_changes_nothing_and_another_replaces_it():
    made = lanes()
    start(made, invoice(), 0.0)
    start(made, invoice(), 0.0)
    [posting] = made.leave(0.0)
    start(made, invoice(attempt=2), 0.0)
    made.posted(posting, [BOOKED], 0.1)
    assert outcomes(made, 0.1) == []
