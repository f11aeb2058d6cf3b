"""Invariant 6 as a line of an audit: replaying the journals gives the events and states that are there, and nothing more.

The auditor shares no decision code with the services, so this check is made here, with the services' own deciders, and handed to
it. Called by `crossdock audit`, the demo, chaos runs and the simulator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from crossdock_tools.audit.report import Check
from crossdock_tools.replaying.services import load

if TYPE_CHECKING:
    from crossdock_eventing.replay_check import Identity
    from crossdock_tools.cluster import Cluster


def replays_alike(cluster: Cluster, settings: Mapping[str, str], *, whole: bool) -> Check:
    """Replay all six services under these settings (`CROSSDOCK_...` variables), which must be those they ran under.

    A rejection stands: whoever has repaired a service, and released what it had parked, has done no wrong.
    whole: as `verdict`. Reads whole topics into memory. Raises BrokerRefused, BrokerUnavailable.
    """
    from crossdock_eventing.replay_check import ReplayCheck
    from crossdock_tools.demo.stack import SERVICES

    services = [load(name, settings) for name in SERVICES]
    check = ReplayCheck(cluster.registry(), services, rejections_stand=True)
    return verdict(check.check(cluster.broker()), whole=whole)


def verdict(found: Identity, *, whole: bool) -> Check:
    """A replay as a check: turns that were replayed, and what came out otherwise.

    whole: nothing can have expired yet, so that a task whose journal does not begin at its beginning is a violation; else such
    a task is named in the note.
    """
    beyond = tuple(found.beyond)
    differences = tuple(str(each) for each in found.differences)
    notes = [] if found.quiet else ["the topics were written to meanwhile"]
    if beyond and not whole:
        notes.append(f"{len(beyond)} tasks cannot be replayed: {beyond[0]}")
    return Check(
        6,
        "replaying the journal gives the same events and states",
        found.checked["turns"] if found.quiet else 0,
        (*differences, *(beyond if whole else ())) if found.quiet else (),
        "; ".join(notes),
    )
