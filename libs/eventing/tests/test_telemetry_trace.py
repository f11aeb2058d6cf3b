"""A trace begins at the edge: the caller's context goes on, else the delivery names one."""

from crossdock_eventing.telemetry import begin_trace

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_the_callers_trace_goes_on() -> None:
    assert begin_trace("POST /x", seed="delivery", parent=PARENT).traceparent == PARENT


def test_a_redelivery_belongs_to_the_trace_of_the_first() -> None:
    first = begin_trace("POST /x", seed="delivery", parent=None).traceparent
    assert first == begin_trace("POST /x", seed="delivery", parent=None).traceparent
    assert first != begin_trace("POST /x", seed="another", parent=None).traceparent
    assert first.endswith(b"-00"), "nothing is recorded where no endpoint is configured"


def test_a_broken_context_is_replaced() -> None:
    broken = b"00-" + b"z" * 32 + b"-b7ad6b7169203331-01"
    assert begin_trace("POST /x", seed="delivery", parent=broken).traceparent != broken
