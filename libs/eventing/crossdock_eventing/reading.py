"""Reading partitions up to an end that was asked for beforehand: restores of tasks, broadcast tables, replays, audits, traces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from crossdock_eventing.broker.failure import BrokerUnavailable
from crossdock_eventing.broker.interface import Reader, Record, TopicPartition

_READ_MAX = 10_000
_POLL_S = 0.05
# A minute: several times the time-out of a transaction that may lie open before the end, until when nothing behind it can be read.
_IDLE_POLLS_MAX = 1_200


def batches_up_to(reader: Reader, ends: Mapping[TopicPartition, int]) -> Iterator[list[Record]]:
    """The records up to the ends, as they come; blocks for as long as that takes. A batch may be empty.

    The reader was assigned the partitions. Raises BrokerUnavailable when a minute of polls brought nothing.
    """
    idle = 0
    places = [reader.position(each) for each in ends]
    while any(place < end for place, end in zip(places, ends.values(), strict=True)):
        records = reader.poll(_READ_MAX, _POLL_S)
        yield records
        before, places = places, [reader.position(each) for each in ends]
        idle = 0 if records or places != before else idle + 1
        if idle == _IDLE_POLLS_MAX:
            behind = [each for each, place in zip(ends, places, strict=True) if place < ends[each]]
            raise BrokerUnavailable(
                "_TIMED_OUT", f"nothing to be read of {behind} before the ends {dict(ends)}"
            )
