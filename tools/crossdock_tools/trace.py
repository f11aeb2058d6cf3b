"""`crossdock trace`: one order's whole life, told from the topics alone.

An order's events share its correlation id, the order id; the causation ids make them a tree. Told in causal order: a cause
stands before its effects, and among what is free to come, the earliest recorded comes first.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crossdock_eventing import names
from crossdock_eventing.broker.interface import Broker, Record
from crossdock_eventing.envelope import header
from crossdock_tools.cluster import Cluster, reachable_cluster
from crossdock_tools.schemas.commands import DemoOption, JsonOption, repository
from crossdock_tools.schemas.contracts import Repository
from crossdock_tools.topic_reader import Entry, TopicReader

if TYPE_CHECKING:
    from crossdock_eventing.registry import SchemaSource


class TraceError(Exception):
    """The order cannot be found; the text says what was looked at and what to try."""


@dataclass(frozen=True, slots=True)
class Step:
    """One event of a life.

    causation_id: as the record says it: an event, a timer, or a delivery from outside.
    cause: event id of its cause in this life, None where it came from outside on its own or from a timer.
    delay_ms: time since the cause was recorded.
    """

    event: str
    service: str
    topic: str
    partition: int
    offset: int
    recorded_at: str
    delay_ms: float | None
    event_id: str
    causation_id: str
    cause: str | None
    summary: str


def trace(
    ref: Annotated[str, typer.Option(help="The channel's id or number of the order, or our order id.")],
    channel: Annotated[str | None, typer.Option(help="Selling channel: shopify, amazon, pos.")] = None,
    demo: DemoOption = False,
    as_json: JsonOption = False,
) -> None:
    """Tell one order's whole life: every event in causal order, with service, topic, partition, offset and delay."""
    found = repository(None)
    with reachable_cluster(demo=demo) as cluster:
        order_id, steps, letters = follow(cluster, found, ref=ref, channel=channel)
    if as_json:
        print(
            json.dumps(
                {"order_id": order_id, "events": [_as_dict(s) for s in steps], "dead_letters": letters},
                indent=1,
            )
        )
        return
    _print(order_id, steps, letters)


def follow(
    cluster: Cluster, found: Repository, *, ref: str, channel: str | None
) -> tuple[str, list[Step], list[str]]:
    """The order's id, its events in causal order, and its dead letters. Raises TraceError."""
    from crossdock_canonical.records import ChannelOrderReceived

    broker, registry = cluster.broker(), cluster.registry()
    intake = TopicReader(broker, registry, [ChannelOrderReceived.TOPIC])
    try:
        order_id = find_order(intake.entries(), ref=ref, channel=channel)
    finally:
        intake.close()
    return order_id, *life(broker, registry, found, order_id)


def life(
    broker: Broker, registry: SchemaSource, found: Repository, thread: str
) -> tuple[list[Step], list[str]]:
    """The events of one thread (an order, a settlement) in causal order, and its dead letters."""
    services = {service for topic in found.topics.values() for service in topic.consumers}
    everything = TopicReader(broker, registry, [*found.topics])
    given_up = TopicReader(
        broker, registry, [names.dead_letter_topic(service) for service in sorted(services)]
    )
    try:
        steps = tell(everything.entries(correlation_id=thread))
        letters = [
            _letter(record)
            for record in given_up.records()
            if header(record.headers, "correlation_id") == thread.encode()
        ]
    finally:
        everything.close()
        given_up.close()
    return steps, letters


def find_order(intake: Iterable[Entry], *, ref: str, channel: str | None) -> str:
    """The order id behind a channel's reference. Raises TraceError when none or several match."""
    from crossdock_canonical.records import ChannelOrderReceived

    found: dict[str, str] = {}
    for entry in intake:
        match entry.body:
            case ChannelOrderReceived() as order if ref in (
                order.order_id,
                order.external_id,
                order.external_name,
            ):
                if channel in (None, order.channel):
                    found[order.order_id] = f"{order.channel} {order.shop} {order.external_id}"
            case _:
                pass
    if not found:
        where = f"of channel {channel}" if channel else "of any channel"
        raise TraceError(
            f"no order {ref!r} {where} is in {ChannelOrderReceived.TOPIC}; check both, or add --demo to look in the last demo run"
        )
    if len(found) > 1:
        raise TraceError(
            f"{ref!r} names {len(found)} orders: " + "; ".join(f"{i} ({n})" for i, n in found.items())
        )
    return next(iter(found))


def tell(entries: Iterable[Entry]) -> list[Step]:
    """The entries in causal order."""
    by_id = {entry.meta.event_id: entry for entry in entries}
    causes = _causes(by_id)
    children: dict[str, list[Entry]] = {}
    free: list[tuple[Any, str]] = []
    for entry in by_id.values():
        if entry.meta.event_id in causes:
            children.setdefault(causes[entry.meta.event_id], []).append(entry)
        else:
            free.append((entry.meta.recorded_at, entry.meta.event_id))
    heapq.heapify(free)
    steps = []
    while free:
        _, event_id = heapq.heappop(free)
        entry = by_id[event_id]
        steps.append(_step(entry, by_id.get(causes.get(event_id, ""))))
        for child in children.get(event_id, ()):
            heapq.heappush(free, (child.meta.recorded_at, child.meta.event_id))
    return steps


def _causes(by_id: Mapping[str, Entry]) -> dict[str, str]:
    """The cause of every event that has one here, by event id.

    A system outside knows nothing of event ids: what it reports is caused by the command that gave it the reference.
    """
    asked = {
        (type(entry.body).__name__, name, getattr(entry.body, name)): event_id
        for event_id, entry in by_id.items()
        for name in _REFERENCES.get(type(entry.body).__name__, ())
    }
    causes = {}
    for event_id, entry in by_id.items():
        if entry.meta.causation_id in by_id:
            causes[event_id] = entry.meta.causation_id
            continue
        command, name = _ANSWERS.get(type(entry.body).__name__, ("", ""))
        found = asked.get((command, name, getattr(entry.body, name, None)))
        if found is not None:
            causes[event_id] = found
    return causes


_FULFILLMENT = ("FulfillmentRequested", "fulfillment_order_id")
#: What a report from outside answers: the name of the command, and of the reference that both carry.
_ANSWERS = {
    "ShipmentConfirmed": _FULFILLMENT,
    "ShortPicked": _FULFILLMENT,
    "FulfillmentRejected": _FULFILLMENT,
    "PickupStaged": _FULFILLMENT,
    "PickupCollected": _FULFILLMENT,
    "CancelConfirmed": ("FulfillmentCancelRequested", "cancel_id"),
    "CancelDeclined": ("FulfillmentCancelRequested", "cancel_id"),
    "PaymentCaptured": ("CapturePayment", "capture_id"),
    "PaymentVoided": ("VoidPayment", "void_id"),
    "PaymentRefunded": ("RefundPayment", "refund_id"),
    "RefundFailed": ("RefundPayment", "refund_id"),
}
_REFERENCES: dict[str, set[str]] = {
    command: {name for other, name in _ANSWERS.values() if other == command}
    for command, _ in _ANSWERS.values()
}


def _step(entry: Entry, cause: Entry | None) -> Step:
    delay = None
    if cause is not None:
        delay = round((entry.meta.recorded_at - cause.meta.recorded_at).total_seconds() * 1000, 1)
    return Step(
        event=type(entry.body).__name__,
        service=entry.meta.source.rsplit("/", 1)[-1],
        topic=entry.record.topic,
        partition=entry.record.partition,
        offset=entry.record.offset,
        recorded_at=entry.meta.recorded_at.isoformat(timespec="microseconds"),
        delay_ms=delay,
        event_id=entry.meta.event_id,
        causation_id=entry.meta.causation_id,
        cause=None if cause is None else cause.meta.event_id,
        summary=_summary(entry.body),
    )


_TOLD = ("shipment_id", "fulfillment_order_id", "sku", "location", "units", "reason_code", "document_type", "external_ref",
         "tracking", "amount", "total", "verdict", "kind", "status")  # fmt: skip


def _letter(record: Record) -> str:
    code = header(record.headers, "crossdock-error-code") or b"?"
    return f"{record.topic}[{record.partition}]@{record.offset}: {code.decode(errors='replace')}"


def _summary(body: Any) -> str:
    said = [
        f"{name}={getattr(body, name)}" for name in _TOLD if getattr(body, name, None) not in (None, "", ())
    ]
    return " ".join(said[:4])


def _as_dict(step: Step) -> dict[str, Any]:
    return {name: getattr(step, name) for name in step.__slots__}


def _print(order_id: str, steps: list[Step], letters: list[str]) -> None:
    """One line an event: a terminal wraps a long line legibly, which it does not do for a table's cells."""
    print(f"order {order_id}; times in UTC, + is the delay in ms since the cause")
    for line in lines(steps):
        print(line)
    for letter in letters:
        print(f"dead letter: {letter}")
    print(f"{len(steps)} events, {len(letters)} dead letters")


def lines(steps: Iterable[Step]) -> Iterator[str]:
    """The steps for people."""
    for step in steps:
        delay = "" if step.delay_ms is None else f"{step.delay_ms:+.0f}"
        where = f"{step.topic}[{step.partition}]@{step.offset}"
        yield f"{step.recorded_at[11:23]} {delay:>7}  {step.service:<22} {step.event:<22} {where}  {step.summary}".rstrip()
