"""Invariant 12: every effect on the outside at most once per reference, and the outside's books say what ours do.

What the outside holds must have been asked for or told, always; what was asked for or told must be there once all work is done
(`carried_out`), unless somebody refused it. What is news for a channel is written down here from the business rule: shipments,
cancellations, rejections, refunds and returns that are not the channel's own doing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from crossdock_canonical.records import (
    CancelDeclined,
    CapturePayment,
    FulfilledBy,
    FulfillmentCancelRequested,
    FulfillmentRejected,
    FulfillmentRequested,
    OrderCancelled,
    OrderRejected,
    OrderShipped,
    Origin,
    PaymentCaptured,
    PaymentDeclined,
    PaymentRefunded,
    PaymentVoided,
    PickupCollected,
    RefundFailed,
    RefundPayment,
    RefundRecorded,
    RestockReturn,
    ReturnAuthorized,
    ReturnDeclined,
    ReturnExpected,
    ShipmentConfirmed,
    ShipmentDispatched,
    VoidPayment,
)
from crossdock_tools.audit.books import Books, ChannelBooks, MoneyBook, PaymentBooks, WarehouseBooks
from crossdock_tools.audit.evidence import GATEWAY, Evidence, place
from crossdock_tools.audit.report import Check
from crossdock_tools.topic_reader import Entry

_NO_BOOKS = "no books given"
#: A till tells the customer itself.
_TILL = "pos"

News = tuple[str, str, str]


def references(evidence: Evidence, _books: Books) -> tuple[Check, ...]:
    """A reference stands for one request, however often it is asked for, and for one fact, which is told once."""
    return _differing(evidence), _told_twice(evidence)


def _differing(evidence: Evidence) -> Check:
    violations: list[str] = []
    checked, again = 0, 0
    for kind, names in _REQUESTS:
        seen: dict[tuple[str, ...], Entry] = {}
        for entry in evidence.of(kind):
            checked += 1
            reference = tuple(getattr(entry.body, name) for name in names)
            before = seen.setdefault(reference, entry)
            again += before is not entry
            if before.body != entry.body:
                violations.append(
                    f"{kind.__name__} {' '.join(reference)} asks for one thing at {place(before.record)} "
                    f"and for another at {place(entry.record)}"
                )
    note = f"{again} asked for again" if again else ""
    return Check(12, "a reference stands for one request", checked, tuple(violations), note)


def _told_twice(evidence: Evidence) -> Check:
    violations: list[str] = []
    checked = 0
    for kind, names in _FACTS:
        seen: dict[tuple[str, ...], Entry] = {}
        for entry in evidence.of(kind):
            checked += 1
            reference = tuple(getattr(entry.body, name) for name in names)
            before = seen.setdefault(reference, entry)
            if before is not entry:
                violations.append(
                    f"{kind.__name__} {' '.join(reference)} is told at {place(before.record)} and {place(entry.record)}"
                )
    return Check(12, "a fact is told once per reference", checked, tuple(violations))


#: What is asked of the outside and of stock, with the fields that are its reference. Without an answer it is asked for again.
_REQUESTS: tuple[tuple[type[Any], tuple[str, ...]], ...] = (
    (FulfillmentRequested, ("fulfillment_order_id",)),
    (FulfillmentCancelRequested, ("fulfillment_order_id", "cancel_id")),
    (ReturnExpected, ("rma_id",)),
    (CapturePayment, ("capture_id",)),
    (VoidPayment, ("void_id",)),
    (RefundPayment, ("refund_id",)),
    (RestockReturn, ("order_id", "ref")),
)
#: What was done, and the fields that are its reference.
_FACTS: tuple[tuple[type[Any], tuple[str, ...]], ...] = (
    (ShipmentDispatched, ("order_id", "shipment_id")),
    (OrderShipped, ("order_id", "shipment_id")),
    (OrderCancelled, ("order_id", "cancel_id")),
    (OrderRejected, ("order_id",)),
    (RefundRecorded, ("order_id", "refund_id")),
    (ReturnAuthorized, ("rma_id",)),
)


def outside(evidence: Evidence, books: Books) -> tuple[Check, ...]:
    """What the outside did, it was asked for once, and in this way."""
    return (
        *_warehouse(evidence, books.warehouse),
        *_payments(evidence, books.payments),
        _told(evidence, books.channels),
        _objections(books),
    )


def carried_out(evidence: Evidence, books: Books) -> tuple[Check, ...]:
    """What was asked for is done or refused, what was done is known, and channels have heard all their news."""
    return (
        *_warehouse_complete(evidence, books.warehouse),
        *_payments_complete(evidence, books.payments),
        _told_all(evidence, books.channels),
    )


# --- Warehouse


def _warehouse(evidence: Evidence, books: WarehouseBooks | None) -> tuple[Check, ...]:
    orders, shipments, others = (
        "warehouse orders were requested",
        "shipments are as the warehouse shipped",
        "cancellations and returns were announced",
    )
    if books is None:
        return tuple(Check(12, name, 0, note=_NO_BOOKS) for name in (orders, shipments, others))
    requested = {entry.body.fulfillment_order_id: entry.body for entry in evidence.of(FulfillmentRequested)}
    wrong: list[str] = []
    for number, order in books.fulfillment_orders.items():
        asked = requested.get(number)
        if order.accepted_times != 1:
            wrong.append(f"{number} was taken on {order.accepted_times} times")
        if asked is None:
            wrong.append(f"{number} was taken on and never requested")
        elif (asked.order_id, asked.location, _units(asked.lines)) != (
            order.order_id,
            order.location,
            _units(order.requested),
        ):
            wrong.append(f"{number} was requested as {asked} and taken on as {order}")
    taken = Check(12, orders, len(books.fulfillment_orders), tuple(wrong))

    left = {shipment.shipment_id: shipment for shipment in books.shipments}
    wrong = [
        f"{shipment} left {count} times"
        for shipment, count in _repeated(each.shipment_id for each in books.shipments)
    ]
    reported = evidence.of(ShipmentConfirmed, PickupCollected)
    for entry in reported:
        body = entry.body
        if body.fulfillment_order_id not in requested:
            continue  # A warehouse's word on what nobody here asked for; its consumer gives it up.
        shipment = left.get(body.shipment_id)
        if shipment is None:
            wrong.append(f"{body.shipment_id} ({place(entry.record)}) never left the warehouse")
        elif (body.fulfillment_order_id, _units(body.lines)) != (shipment.number, _units(shipment.lines)):
            wrong.append(f"{body.shipment_id} is reported as {body} and left as {shipment}")
    known = {entry.body.shipment_id: entry.body for entry in reported}
    dispatched = evidence.of(ShipmentDispatched)
    for entry in dispatched:
        body = entry.body
        report = known.get(body.shipment_id)
        if report is None:
            wrong.append(
                f"{body.shipment_id} ({place(entry.record)}) is dispatched and no warehouse reported it"
            )
        elif _units(body.lines) != _units(report.lines):
            wrong.append(f"{body.shipment_id} is reported as {report.lines} and dispatched as {body.lines}")
    shipped = Check(12, shipments, len(books.shipments) + len(reported) + len(dispatched), tuple(wrong))

    cancels = {
        (each.body.fulfillment_order_id, each.body.cancel_id)
        for each in evidence.of(FulfillmentCancelRequested)
    }
    returns = {each.body.rma_id for each in evidence.of(ReturnExpected)}
    wrong = [
        f"cancellation {each.cancel_id} of {each.number} was never requested"
        for each in books.cancellations
        if (each.number, each.cancel_id) not in cancels
    ]
    wrong += [
        f"return {each.rma_id} is expected and was never announced"
        for each in books.expected_returns
        if each.rma_id not in returns
    ]
    wrong += [
        f"cancellation {'/'.join(key)} was taken {count} times"
        for key, count in _repeated((each.number, each.cancel_id) for each in books.cancellations)
    ]
    wrong += [
        f"return {rma} is expected {count} times"
        for rma, count in _repeated(each.rma_id for each in books.expected_returns)
    ]
    count = len(books.cancellations) + len(books.expected_returns)
    return taken, shipped, Check(12, others, count, tuple(wrong))


def _warehouse_complete(evidence: Evidence, books: WarehouseBooks | None) -> tuple[Check, ...]:
    asked_for, reported = "warehouse requests are carried out", "shipments reached the order"
    if books is None:
        return tuple(Check(12, name, 0, note=_NO_BOOKS) for name in (asked_for, reported))
    given_up = _given_up(evidence)
    rejected = {entry.body.fulfillment_order_id for entry in evidence.of(FulfillmentRejected)}
    declined = {
        (entry.body.fulfillment_order_id, entry.body.cancel_id) for entry in evidence.of(CancelDeclined)
    }
    orders = books.fulfillment_orders
    cancels = {(each.number, each.cancel_id) for each in books.cancellations} | declined
    returns = {each.rma_id for each in books.expected_returns}
    wrong: list[str] = []
    requests = evidence.of(FulfillmentRequested, FulfillmentCancelRequested, ReturnExpected)
    for entry in requests:
        match entry.body:
            case FulfillmentRequested(fulfillment_order_id=number):
                done = number in orders or number in rejected
            case FulfillmentCancelRequested(fulfillment_order_id=number, cancel_id=cancel):
                done = (number, cancel) in cancels
            case ReturnExpected(rma_id=rma):
                done = rma in returns
            case other:
                raise AssertionError(other)
        if not done and _coordinates(entry) not in given_up:
            wrong.append(
                f"{type(entry.body).__name__} {place(entry.record)} never reached the warehouse: {entry.body}"
            )
    done_check = Check(12, asked_for, len(requests), tuple(wrong))

    told = {entry.body.shipment_id for entry in evidence.of(ShipmentConfirmed, PickupCollected)}
    requested = {entry.body.fulfillment_order_id for entry in evidence.of(FulfillmentRequested)}
    dispatched = {entry.body.shipment_id for entry in evidence.of(ShipmentDispatched)}
    narrated = {entry.body.shipment_id for entry in evidence.of(OrderShipped)}
    wrong = []
    for shipment in books.shipments:
        if shipment.shipment_id not in told:
            wrong.append(f"{shipment.shipment_id} left and was never reported")
        elif shipment.number in requested and shipment.shipment_id not in dispatched:
            wrong.append(f"{shipment.shipment_id} left and was never dispatched to its order")
        elif shipment.number in requested and shipment.shipment_id not in narrated:
            wrong.append(f"{shipment.shipment_id} left and its order never said so")
    return done_check, Check(12, reported, len(books.shipments), tuple(wrong))


# --- Payment provider


def _payments(evidence: Evidence, books: PaymentBooks | None) -> tuple[Check, ...]:
    if books is None:
        return tuple(Check(12, f"{name} are as commanded", 0, note=_NO_BOOKS) for name, *_ in _MONEY)
    checks = []
    for name, command, command_reference, report, report_reference in _MONEY:
        booked: Mapping[str, MoneyBook] = getattr(books, name)
        commanded = {getattr(entry.body, command_reference): entry.body for entry in evidence.of(command)}
        wrong = []
        for reference, money in booked.items():
            asked = commanded.get(reference)
            if money.times != 1:
                wrong.append(f"{reference} happened {money.times} times")
            if asked is None:
                wrong.append(f"{reference} over {money.amount} happened and was never commanded")
            elif (asked.amount, asked.order_id) != (money.amount, money.order_id):
                wrong.append(
                    f"{reference} is {asked.amount} of {asked.order_id} here, {money.amount} of {money.order_id} there"
                )
        reports = [
            entry for entry in evidence.of(report) if getattr(entry.body, report_reference) in commanded
        ]
        for entry in reports:
            reference = getattr(entry.body, report_reference)
            happened = booked.get(reference)
            if happened is None:
                wrong.append(f"{reference} ({place(entry.record)}) is reported and never happened")
            elif happened.amount != entry.body.amount:
                wrong.append(f"{reference} is reported as {entry.body.amount}, it was {happened.amount}")
        checks.append(Check(12, f"{name} are as commanded", len(booked) + len(reports), tuple(wrong)))
    return tuple(checks)


#: Books, the command with its reference, and the report with its reference.
_MONEY: tuple[tuple[str, type[Any], str, type[Any], str], ...] = (
    ("captures", CapturePayment, "capture_id", PaymentCaptured, "capture_id"),
    ("voids", VoidPayment, "void_id", PaymentVoided, "void_id"),
    ("refunds", RefundPayment, "refund_id", PaymentRefunded, "refund_id"),
)


def _payments_complete(evidence: Evidence, books: PaymentBooks | None) -> tuple[Check, ...]:
    name = "payment commands are carried out and reported"
    if books is None:
        return (Check(12, name, 0, note=_NO_BOOKS),)
    given_up = _given_up(evidence)
    declined = {entry.body.reference for entry in evidence.of(PaymentDeclined)} | {
        entry.body.refund_id for entry in evidence.of(RefundFailed)
    }
    wrong = []
    checked = 0
    for kind, command, command_reference, report, report_reference in _MONEY:
        booked: Mapping[str, MoneyBook] = getattr(books, kind)
        reported = {getattr(entry.body, report_reference) for entry in evidence.of(report)}
        for entry in evidence.of(command):
            checked += 1
            reference = getattr(entry.body, command_reference)
            if reference in booked and reference not in reported:
                wrong.append(f"{reference} over {entry.body.amount} happened and was never reported")
            elif (
                reference not in booked and reference not in declined and _coordinates(entry) not in given_up
            ):
                wrong.append(
                    f"{reference} over {entry.body.amount} ({place(entry.record)}) neither happened nor was refused"
                )
    return (Check(12, name, checked, tuple(wrong)),)


# --- Channels


def news(evidence: Evidence) -> dict[News, Entry]:
    """What channels are to be told: channel, kind and reference, with the fact."""
    found: dict[News, Entry] = {}
    facts = (OrderShipped, OrderRejected, OrderCancelled, RefundRecorded, ReturnAuthorized, ReturnDeclined)
    for entry in evidence.of(*facts):
        each = news_of(entry.body)
        if each is not None:
            found.setdefault(each, entry)
    return found


def news_of(fact: Any) -> News | None:
    """What its channel is to be told of a fact; None when it is the channel's own doing, or told with another fact."""
    match fact:
        case OrderShipped(channel=channel, shipment_id=shipment):
            # Release 0 is what was sold and handed over elsewhere: at a till, by a marketplace. Without lines of the channel it
            # is a part of a kit or case, told with the shipment that completes it.
            ours = fact.release > 0 and fact.fulfilled_by is FulfilledBy.SELLER
            return (channel, "fulfillments", shipment) if ours and fact.channel_lines else None
        case OrderRejected(channel=channel, order_id=order):
            return channel, "rejections", order
        case OrderCancelled(channel=channel, cancel_id=cancel):
            ours = fact.origin is not Origin.CHANNEL and bool(fact.channel_lines or fact.complete)
            return (channel, "cancellations", cancel) if ours else None
        case RefundRecorded(channel=channel, refund_id=refund):
            ours = fact.origin is Origin.US or (fact.origin is Origin.STORE and channel != _TILL)
            return (channel, "refunds", refund) if ours else None
        case ReturnAuthorized(channel=channel, rma_id=rma):
            return channel or "any", "returns", rma
        case ReturnDeclined(rma_id=rma):
            return "any", "returns", rma
        case _:
            return None


def _told(evidence: Evidence, books: ChannelBooks | None) -> Check:
    name = "channels are told what happened, once"
    if books is None:
        return Check(12, name, 0, note=_NO_BOOKS)
    known = news(evidence)
    wrong = []
    for each in books.told:
        fact = known.get((each.channel, each.kind, each.reference))
        where = f"{each.channel}/{each.kind}/{each.reference}"
        if each.times != 1:
            wrong.append(f"{where} was told {each.times} times")
        if fact is None:
            wrong.append(f"{where} was told and is no news")
        elif each.order_id != fact.body.order_id:
            wrong.append(f"{where} was told of order {each.order_id}, it is of {fact.body.order_id}")
    wrong += [
        f"{'/'.join(key)} was told {count} times"
        for key, count in _repeated((each.channel, each.kind, each.reference) for each in books.told)
    ]
    return Check(12, name, len(books.told), tuple(wrong))


def _told_all(evidence: Evidence, books: ChannelBooks | None) -> Check:
    name = "channels have heard all their news"
    if books is None:
        return Check(12, name, 0, note=_NO_BOOKS)
    given_up = _given_up(evidence)
    told = {(each.channel, each.kind, each.reference) for each in books.told}
    known = news(evidence)
    wrong = tuple(
        f"{'/'.join(each)} ({place(fact.record)}) was never told"
        for each, fact in known.items()
        if each not in told and _coordinates(fact) not in given_up
    )
    return Check(12, name, len(known), wrong)


# --- All of them


def _objections(books: Books) -> Check:
    """What the systems themselves hold against us."""
    name = "no system outside objects"
    given = [each for each in (books.warehouse, books.payments, books.channels) if each is not None]
    if not given:
        return Check(12, name, 0, note=_NO_BOOKS)
    return Check(12, name, len(given), tuple(text for each in given for text in each.objections))


def _given_up(evidence: Evidence) -> frozenset[tuple[str, int, int] | None]:
    """What the gateway could not carry out and dead-lettered."""
    return frozenset(letter.original for letter in evidence.letters if letter.service == GATEWAY)


def _coordinates(entry: Entry) -> tuple[str, int, int]:
    return entry.record.topic, entry.record.partition, entry.record.offset


def _units(lines: Iterable[Any]) -> dict[str, int]:
    """Units by line; lines of nothing are no lines."""
    found: dict[str, int] = {}
    for line in lines:
        found[line.line_id] = found.get(line.line_id, 0) + line.units
    return {line_id: units for line_id, units in found.items() if units}


def _repeated(keys: Iterable[Any]) -> list[tuple[Any, int]]:
    return [(key, count) for key, count in Counter(keys).items() if count > 1]
