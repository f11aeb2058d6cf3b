"""Which keys of a long run a recording keeps: few and short ones that show everything the service did.

What a key shows is, for each kind of input that it saw, what was decided on it: types of events, codes of what was ignored or
rejected. Keys are taken greedily by how much new they show for their length; orders that another service's recording keeps are
preferred, so that the files tell the same stories.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from crossdock_eventing.broker.interface import Record
from crossdock_eventing.replay import Step
from crossdock_eventing.state import DueTimer

_FAMILIAR = 3  # A known story is worth a key three times as long.


def chosen_keys(steps: Iterable[Step], *, limit: int, familiar: Collection[str]) -> set[str]:
    """At most `limit` keys that show what all of them show, or as much of it as fits.

    familiar: parts of keys, such as order ids, that are preferred.
    """
    shown: dict[str, set[str]] = {}
    length: dict[str, int] = {}
    for step in steps:
        shown.setdefault(step.key, set()).update(_features(step))
        length[step.key] = length.get(step.key, 0) + 1
    known = {key for key in shown if any(part in key for part in familiar)}
    chosen: set[str] = set()
    seen: set[str] = set()
    while len(chosen) < limit and shown.keys() - chosen:
        # By name where worth is equal, so that the same run gives the same choice.
        worth = {
            key: len(shown[key] - seen) / length[key] * (_FAMILIAR if key in known else 1)
            for key in sorted(shown.keys() - chosen)
        }
        best = max(worth, key=worth.__getitem__)
        if not worth[best]:
            break
        chosen.add(best)
        seen |= shown[best]
    return chosen


def _features(step: Step) -> set[str]:
    match step.origin:
        case Record() as record:
            origin = dict(record.headers).get("event_type", b"undecodable").decode()
        case DueTimer() as timer:
            origin = f"timer {timer.name.split('/')[0].split(':')[0]}"
        case _:
            origin = "answer"
    if isinstance(step.outcome, str):
        return {f"{origin}: {step.outcome}"}
    if step.outcome.ignored is not None:
        return {f"{origin}: {step.outcome.ignored}"}
    return {f"{origin}: {type(event).__name__}" for event in step.outcome.events} or {origin}
