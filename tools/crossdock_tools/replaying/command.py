"""`crossdock replay`: decide a cluster's recorded run again, and keep a small part of one as text. Mounted by `main`.

The services are composed here with the settings that they ran under: those of this environment, and for a cluster of the demo
the demo's own.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crossdock_local import addresses
from crossdock_tools.cluster import Cluster, reachable_cluster
from crossdock_tools.schemas.commands import DemoOption, JsonOption

if TYPE_CHECKING:
    from crossdock_eventing.broker.interface import Broker
    from crossdock_eventing.registry import SchemaSource

app = typer.Typer(help="Decide a recorded run again with the deciders of today.", no_args_is_help=True)

_SHOWN_MAX = 50

ServiceOption = Annotated[
    list[str] | None, typer.Option("--service", help="Only this service; may be repeated.")
]


class ReplayError(Exception):
    """The run cannot be replayed; the text says why."""


@app.command()
def check(service: ServiceOption = None, demo: DemoOption = False, as_json: JsonOption = False) -> None:
    """Replay the journals of a cluster: do the same events and states come out? Exit 1 when they do not.

    Needs a cluster at rest, and the settings that the services ran under. Reads whole topics into memory.
    """
    from crossdock_eventing.replay_check import ReplayCheck
    from crossdock_tools.replaying.services import load

    with reachable_cluster(demo=demo) as cluster:
        settings = settings_of(cluster, demo=demo)
        services = [load(name, settings) for name in _names(service)]
        found = ReplayCheck(cluster.registry(), services).check(cluster.broker())
    if not found.quiet:
        raise ReplayError("the topics were written to all the while: replay when the services are at rest")
    if as_json:
        report = {
            "checked": dict(sorted(found.checked.items())),
            "differences": [str(each) for each in found.differences],
            "not_replayable": found.beyond,
        }
        print(json.dumps(report, indent=1))
    else:
        for reason in found.beyond:
            print(f"not replayable: {reason}")
        for difference in found.differences[:_SHOWN_MAX]:
            print(difference)
        if len(found.differences) > _SHOWN_MAX:
            print(f"... and {len(found.differences) - _SHOWN_MAX} more; --json prints all")
        said = ", ".join(f"{count:,} {name}" for name, count in sorted(found.checked.items()))
        print(f"replayed {said}: {len(found.differences)} differences")
    if found.differences or not found.checked["turns"]:
        raise typer.Exit(1)


@app.command()
def record(
    out: Annotated[Path, typer.Option(help="Folder for one file a service.")],
    keys: Annotated[int, typer.Option(min=1, help="At most so many keys of each service.")] = 16,
    service: ServiceOption = None,
    demo: DemoOption = False,
) -> None:
    """Keep a small part of a cluster's run as text: keys that together show whatever the services did."""
    if not out.is_dir():
        raise ReplayError(f"{out} is not a folder; create it or name another with --out")
    with reachable_cluster(demo=demo) as cluster:
        settings = settings_of(cluster, demo=demo)
        write_recordings(
            cluster.broker(), cluster.registry(), settings, _names(service), out=out, keys_max=keys
        )


def write_recordings(
    broker: Broker,
    registry: SchemaSource,
    settings: dict[str, str],
    services: Iterable[str],
    *,
    out: Path,
    keys_max: int,
) -> None:
    """Write `<service>.jsonl` for each. Raises ReplayError when a run is not what today's deciders make of it: a recording
    of it would be wrong from the start.
    """
    from crossdock_eventing.replay import Step
    from crossdock_eventing.replay_check import ReplayCheck
    from crossdock_tools.replaying.recording import Recording, read, recorded, write
    from crossdock_tools.replaying.selection import chosen_keys
    from crossdock_tools.replaying.services import load, policies

    threads: set[str] = set()
    for name in services:
        service = load(name, settings)
        steps: list[Step] = []
        check = ReplayCheck(registry, [service])
        found = check.check(broker, steps.append)
        if found.differences or found.beyond or not found.quiet:
            raise ReplayError(
                f"{name}: the run differs from its replay or was not at rest; see crossdock replay check"
            )
        chosen = chosen_keys(steps, limit=keys_max, familiar=threads)
        [replay] = found.replays
        header = Recording(
            name, replay.partitions, replay.compacted, policies(name, settings), turns=[], states={}
        )
        kept = recorded(
            header,
            [step for step in steps if step.key in chosen],
            replay.outputs,
            {key: state for key, state in replay.states.items() if key in chosen},
        )
        path = out / f"{name}.jsonl"
        write(kept, service, path, registry=registry)
        if differences := read(path, service).differences(service):
            raise ReplayError(f"{path} does not say what the run did: {differences[0]}")
        threads |= {key.rpartition(":")[2] for key in chosen if key}
        print(f"wrote {path}: {len(chosen)} keys, {len(kept.turns)} turns, {path.stat().st_size:,} bytes")


def _names(chosen: list[str] | None) -> list[str]:
    from crossdock_tools.demo.stack import SERVICES

    unknown = set(chosen or ()) - set(SERVICES)
    if unknown:
        raise ReplayError(f"no service {', '.join(sorted(unknown))}; there are {', '.join(SERVICES)}")
    return list(chosen or SERVICES)


def settings_of(cluster: Cluster, *, demo: bool) -> dict[str, str]:
    """What the services of this cluster run under: this environment, with the demo's own policies where it is the demo's."""
    from crossdock_tools.demo.stack import DEMO_POLICIES

    if demo or cluster.bootstrap_servers != addresses.bootstrap_servers():
        print("the demo's settings apply", file=sys.stderr)
        return {**os.environ, **DEMO_POLICIES}
    return dict(os.environ)
