"""Turns a payout file into records without holding it: checks and counts it, sends its lines by order, declares it last.

Lines lie inert downstream until the declaration's count and control sum add up (a file takes effect as a whole or not at
all). Every id follows from the file's digest and line numbers, so the same file again is the same records again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from crossdock_canonical.identity import OrderId, order_id, settlement_id
from crossdock_canonical.records import MatchLines, SettlementDeclared, SettlementLine
from crossdock_channel_gateway.body import Spooled
from crossdock_channel_gateway.intake import Intake
from crossdock_channel_gateway.publish import Publisher
from crossdock_channel_gateway.translate.settlement import Line, SettlementFile

WINDOW_LINES = 2_000  # Lines held at a time; lines of one order that lie further apart travel in two records.
BATCH_LINES = 200  # Lines in one record, at most some 200 KiB.


@dataclass(frozen=True, slots=True, kw_only=True)
class _Count:
    lines: int
    sum_minor: int


async def take(
    spooled: Spooled,
    *,
    channel: str,
    shop: str,
    read: Callable[[], SettlementFile],
    publisher: Publisher,
    traceparent: bytes | None,
) -> dict[str, Any]:
    """Publish the file's MatchLines and then its SettlementDeclared; the answer of the request. Raises Refused, Unavailable."""
    file, counted = await asyncio.to_thread(_check, read)
    identity = settlement_id(channel=channel, shop=shop, external_id=file.frame.external_id)
    delivery = f"settlement/{identity}/{spooled.sha256}"
    windows = _windows(file.lines())
    sent = 0
    while window := await asyncio.to_thread(next, windows, None):
        records = _match_lines(window, identity=identity, sha256=spooled.sha256, channel=channel, shop=shop)
        await publisher.publish(
            Intake(records=records, delivery=delivery, occurred_at=file.frame.deposited_at),
            traceparent=traceparent,
        )
        sent += len(records)
    declared = SettlementDeclared(
        settlement_id=identity,
        channel=channel,
        shop=shop,
        external_id=file.frame.external_id,
        sha256=spooled.sha256,
        line_count=counted.lines,
        control_sum_minor=counted.sum_minor,
        declared_total=file.frame.declared,
        period_start=file.frame.period_start,
        period_end=file.frame.period_end,
        deposited_at=file.frame.deposited_at,
    )
    await publisher.publish(
        Intake(records=(declared,), delivery=delivery, occurred_at=file.frame.deposited_at),
        traceparent=traceparent,
    )
    return {
        "correlation_id": identity,
        "settlement_id": identity,
        "sha256": spooled.sha256,
        "lines": counted.lines,
        "records": sent + 1,
        "declared_total": str(file.frame.declared),
        "control_sum_minor": counted.sum_minor,
    }


def _check(read: Callable[[], SettlementFile]) -> tuple[SettlementFile, _Count]:
    """Read the file through, so that nothing of an unreadable one is sent."""
    file = read()
    lines = sum_minor = 0
    for line, _ in file.lines():
        lines += 1
        sum_minor += line.amount_minor or 0
    return file, _Count(lines=lines, sum_minor=sum_minor)


def _windows(lines: Iterator[Line]) -> Iterator[list[Line]]:
    while window := list(islice(lines, WINDOW_LINES)):
        yield window


def _match_lines(
    window: list[Line], *, identity: str, sha256: str, channel: str, shop: str
) -> tuple[MatchLines, ...]:
    """The window's lines by order; those of no order go to the settlement itself."""
    groups: dict[OrderId | None, list[SettlementLine]] = {}
    for line, order in window:
        owner = (
            None
            if order is None
            else order_id(channel=channel, shop=shop, marketplace=order[0], external_id=order[1])
        )
        groups.setdefault(owner, []).append(line)
    return tuple(
        MatchLines(
            subject=owner or identity,
            settlement_id=identity,
            sha256=sha256,
            batch=lines[start].line_no,
            channel=channel,
            shop=shop,
            order_id=owner,
            lines=tuple(lines[start : start + BATCH_LINES]),
        )
        for owner, lines in groups.items()
        for start in range(0, len(lines), BATCH_LINES)
    )
