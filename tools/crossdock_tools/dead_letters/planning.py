"""A plan's items for parked messages: release, edit, migrate or discard those that are meant. Called by `crossdock dlt plan`.

A release lets a key's whole queue go, in order: what waits behind a rejected message is never of its code, and is stuck with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from crossdock_eventing.parking.formats import Instruction, Operation, Queued, digest
from crossdock_tools.dead_letters.changelog import Changelog, ParkedKey
from crossdock_tools.dead_letters.criteria import Criteria
from crossdock_tools.dead_letters.edits import Assignment, Invalid
from crossdock_tools.dead_letters.errors import DeadLetterError
from crossdock_tools.dead_letters.groups import BEHIND
from crossdock_tools.dead_letters.payloads import Payloads
from crossdock_tools.dead_letters.plan import Item
from crossdock_tools.dead_letters.queues import readable_key

Choice = Literal["retry", "edit", "migrate", "discard"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What shall be done with the messages that are meant.

    release: let the queues go afterwards. only_selected: no further than the last of them.
    """

    choice: Choice
    assignments: tuple[Assignment, ...] = ()
    release: bool = True
    only_selected: bool = False


def items_for(changelog: Changelog, criteria: Criteria, wish: Wish, payloads: Payloads) -> list[Item]:
    """The items, key by key, those that are parked longest first.

    Raises DeadLetterError when nothing is meant or an edit is not valid; RegistryUnavailable, UnknownSchema.
    """
    keys = sorted(changelog.parked.values(), key=lambda each: (each.park.since_us, each.key))
    items: list[Item] = []
    for parked in keys:
        if criteria.wants_key(parked.key):
            meant = [(seq, queued) for seq, queued in parked.queue() if _means(criteria, queued, payloads)]
            if meant:
                items += _items_of(parked, meant, wish, payloads)
    if not items:
        raise DeadLetterError(_nothing(changelog, criteria))
    return items


def _items_of(
    parked: ParkedKey, meant: Sequence[tuple[int, Queued]], wish: Wish, payloads: Payloads
) -> Iterator[Item]:
    discarded: set[int] = set()
    for seq, queued in meant:
        match wish.choice:
            case "discard":
                discarded.add(seq)
                yield _item(parked, "discard", seq=seq, queued=queued)
            case "edit":
                value, changes = _rewritten(
                    parked,
                    queued,
                    lambda q: payloads.edit(q.record.value, q.record.headers, wish.assignments),
                )
                if changes:
                    yield _item(parked, "edit", seq=seq, queued=queued, value=value, changes=changes)
            case "migrate":
                value, _ = _rewritten(
                    parked, queued, lambda q: (payloads.migrate(q.record.value, q.record.headers), [])
                )
                if value != queued.record.value:
                    yield _item(
                        parked, "edit", seq=seq, queued=queued, value=value, changes=["schema: the newest"]
                    )
            case "retry":
                pass
    left = [seq for seq in parked.numbers if seq not in discarded]
    if wish.release and left:
        upto = max(seq for seq, _ in meant) if wish.only_selected else None
        going = [seq for seq in left if upto is None or seq <= upto]
        if going:
            head = parked.queued(going[0])
            assert head is not None
            yield _item(parked, "release", upto=upto, queued=head, messages=len(going))


def _rewritten(
    parked: ParkedKey, queued: Queued, rewrite: Callable[[Queued], tuple[bytes, list[str]]]
) -> tuple[bytes, list[str]]:
    try:
        return rewrite(queued)
    except Invalid as reason:
        raise DeadLetterError(
            f"{readable_key(parked.key)}: {_place(queued)} cannot be written so: {reason}; no plan was made"
        ) from None


def _item(
    parked: ParkedKey,
    op: Operation,
    *,
    queued: Queued,
    seq: int = -1,
    upto: int | None = None,
    value: bytes | None = None,
    changes: Sequence[str] = (),
    messages: int = 1,
) -> Item:
    before = digest(queued.record.value)
    return Item(
        instruction=Instruction(
            plan="",
            item=0,
            operator="",
            reason="",
            key=parked.key,
            op=op,
            episode=parked.park.episode,
            seq=seq,
            upto=upto,
            before="" if op == "release" else before,
            value=value,
        ),
        partition=parked.partition,
        head=parked.park.head,
        tail=parked.park.tail,
        messages=messages,
        original=_place(queued),
        code=queued.code or BEHIND,
        before=before,
        after={"edit": digest(value), "discard": ""}.get(op, before),
        changes=tuple(changes),
    )


def _means(criteria: Criteria, queued: Queued, payloads: Payloads) -> bool:
    record = queued.record
    return criteria.meets(
        code=queued.code or BEHIND,
        topic=record.topic,
        stamp_ms=record.timestamp_ms,
        value=record.value,
        headers=record.headers,
        payloads=payloads,
    )


def _place(queued: Queued) -> str:
    record = queued.record
    return f"{record.topic}[{record.partition}]@{record.offset}"


def _nothing(changelog: Changelog, criteria: Criteria) -> str:
    if not changelog.parked:
        which = f" under {', '.join(criteria.keys)}" if criteria.keys else ""
        return f"{changelog.service} has nothing parked{which}: what was there is gone; crossdock dlt history tells by whose plan"
    codes = sorted({each.park.code for each in changelog.parked.values()})
    return (
        f"{changelog.service} has {len(changelog.parked)} keys parked, and no message that meets all conditions; "
        f"their codes are {', '.join(codes)}"
    )
