"""Parked keys of two tasks held against each other, in words: called for rebuilt and for shadowed ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from crossdock_eventing.parking.formats import INJECTED_PREFIX, REPLAYS_KEY, parked_key, queued_place
from crossdock_eventing.replay import Difference, changed_fields


@dataclass(frozen=True, slots=True)
class Words:
    """How to say that something is only on the second side, only on the first, or not the same on both."""

    new: str
    gone: str
    changed: str


def differences(
    service: str, was: Mapping[str, bytes], now: Mapping[str, bytes], words: Words
) -> Iterator[Difference]:
    """What differs in the own entries of one task, by name (ADR 13), read as JSON where they are."""
    for name in sorted(was.keys() | now.keys()):
        before, after = was.get(name), now.get(name)
        if before == after:
            continue
        thread, what = _subject(name)
        if before is not None and after is not None:
            yield Difference(
                service, thread, f"{what} {words.changed}", changed_fields(_content(before), _content(after))
            )
            continue
        content = _content(before or after or b"")
        shown = ", ".join(
            f"{each} {content[each]}" for each in ("code", "episode", "topic", "offset") if each in content
        )
        said = words.new if before is None else words.gone
        yield Difference(service, thread, f"{what} {said}", (shown,) if shown else ())


def _subject(name: str) -> tuple[str, str]:
    """Whom an entry is about, and what it is."""
    if (key := parked_key(name)) is not None:
        return key, "the parked key"
    if (place := queued_place(name)) is not None:
        return place[0], f"parked message {place[1]}"
    if name == REPLAYS_KEY:
        return "replays", "the chain's last link"
    if name.startswith(INJECTED_PREFIX):
        return name.removeprefix(INJECTED_PREFIX), "the note of an injected message"
    return name.lstrip("\0"), "the task's own entry"


def _content(value: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(value)
    except ValueError:
        return {"bytes": repr(value)}
    return found if isinstance(found, dict) else {"value": found}
