"""A plan's items for dead letters that nobody parked: those of Spring's recoverer, Kafka Connect and Kafka Streams, and ours that
came without a key. A service takes them in as if they had come on one of its topics, once for each place of origin.

Called by `crossdock dlt plan --inject`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crossdock_canonical.records import BY_NAME
from crossdock_eventing.broker.interface import Record
from crossdock_eventing.broker.partitioner import partition_for
from crossdock_eventing.codec import Undecodable
from crossdock_eventing.deadletter import is_ours, original_headers, read_dead_letter
from crossdock_eventing.envelope import record_key
from crossdock_eventing.parking.formats import Instruction, Origin, digest, key_text
from crossdock_tools.dead_letters.criteria import Criteria
from crossdock_tools.dead_letters.errors import DeadLetterError
from crossdock_tools.dead_letters.payloads import Payloads
from crossdock_tools.dead_letters.plan import Item

if TYPE_CHECKING:
    from crossdock_tools.schemas.contracts import Topic

_TOLD_MAX = 3


class _Unfit(Exception):
    """The letter cannot be taken in; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reception:
    """The service that takes letters in.

    cluster: id of the cluster on which the letters lie. inputs: its input topics by name. partitions: of each of them.
    skip_unfit: leave out what cannot be taken in, instead of making no plan.
    """

    service: str
    cluster: str
    inputs: dict[str, Topic]
    partitions: int
    skip_unfit: bool = False


def injections(
    letters: Iterable[Record], criteria: Criteria, reception: Reception, payloads: Payloads
) -> tuple[list[Item], Counter[str]]:
    """The items in the order of the letters, and why others were left out with how many.

    Raises DeadLetterError when there is none, or one that is meant cannot be taken in; RegistryUnavailable.
    """
    items: list[Item] = []
    unfit: Counter[str] = Counter()
    seen: set[Origin] = set()
    parked = 0
    for record in letters:
        if record.key and is_ours(record.headers):
            parked += 1
            continue
        letter = read_dead_letter(record.headers)
        stamp_ms = letter.timestamp_ms if letter.timestamp_ms is not None else record.timestamp_ms
        if not criteria.meets(
            code=letter.code or "",
            topic=letter.topic or record.topic,
            stamp_ms=stamp_ms,
            value=record.value,
            headers=record.headers,
            payloads=payloads,
        ):
            continue
        try:
            item = _item(record, stamp_ms, reception, payloads)
        except _Unfit as reason:
            unfit[str(reason)] += 1
            continue
        origin = item.instruction.origin
        assert origin is not None
        if criteria.wants_key(item.key) and origin not in seen:
            seen.add(origin)
            items.append(item)
    if unfit and not reception.skip_unfit:
        told = "; ".join(f"{count} letters: {reason}" for reason, count in unfit.most_common(_TOLD_MAX))
        raise DeadLetterError(
            f"{told}; no plan was made: select less, or add --skip-unfit to leave these out"
        )
    if not items:
        aside = (
            f"; {parked} letters are of ours and parked: leave out --inject to replay those" if parked else ""
        )
        raise DeadLetterError(f"no letter that can be taken in meets all conditions{aside}")
    return items, unfit


def _item(record: Record, stamp_ms: int, reception: Reception, payloads: Payloads) -> Item:
    letter = read_dead_letter(record.headers)
    try:
        payload = payloads.read(record.value, record.headers)
    except Undecodable as error:
        raise _Unfit(f"{reception.service} could not read the payload ({error.code})") from None
    topic = _topic(payload.kind, letter.topic, reception)
    # Whatever key the letter has, the service knows the message by that of the contract.
    key = record_key(payload.body).encode()
    headers = original_headers(record.headers)
    return Item(
        instruction=Instruction(
            plan="",
            item=0,
            operator="",
            reason="",
            key=key_text(key),
            op="inject",
            origin=Origin(
                reception.cluster,
                letter.topic or record.topic,
                record.partition if letter.partition is None else letter.partition,
                record.offset if letter.offset is None else letter.offset,
            ),
            topic=topic,
            timestamp_ms=stamp_ms,
            headers=headers,
            value=record.value,
        ),
        partition=partition_for(key, reception.partitions),
        original=f"{record.topic}[{record.partition}]@{record.offset}",
        code=letter.code or "",
        before=digest(record.value),
        after=digest(record.value),
    )


def _topic(kind: str, original: str | None, reception: Reception) -> str:
    """The input topic that such a record comes on."""
    taking = [topic.name for topic in reception.inputs.values() if kind in topic.consumers[reception.service]]
    if not taking:
        raise _Unfit(f"{reception.service} does not handle {kind}")
    if original in taking:
        return str(original)
    own = BY_NAME[kind].TOPIC
    return own if own in taking else taking[0]
