"""`crossdock replay`: decide a cluster's recorded run again, with today's version of a service or another; rebuild its states;
keep a small part of a run as text. Mounted by `main`.

The services are composed here with the settings that they ran under: those of this environment, and for a cluster of the demo
the demo's own.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from crossdock_local import addresses
from crossdock_tools.cluster import Cluster, reachable_cluster
from crossdock_tools.replaying.errors import ReplayError as ReplayError
from crossdock_tools.schemas.commands import DemoOption, JsonOption

if TYPE_CHECKING:
    from crossdock_eventing.broker.interface import Broker
    from crossdock_eventing.registry import SchemaSource
    from crossdock_eventing.replay import Difference
    from crossdock_tools.replaying.rebuild import Rebuilt


class _Flags(TyperGroup):
    """Takes `crossdock replay --service ... --shadow` for `crossdock replay shadow --service ...`; the same of --rebuild."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for name in ("shadow", "rebuild"):
            if f"--{name}" in args and args[0].startswith("-"):
                args = [name, *(each for each in args if each != f"--{name}")]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Flags,
    help="Decide a recorded run again: with today's deciders, with a candidate, or for the states that it leads to.",
    no_args_is_help=True,
)

_SHOWN_MAX = 50

ServiceOption = Annotated[
    list[str] | None, typer.Option("--service", help="Only this service; may be repeated.")
]


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
        _print_differences(found.differences)
        said = ", ".join(f"{count:,} {name}" for name, count in sorted(found.checked.items()))
        print(f"replayed {said}: {len(found.differences)} differences")
    if found.differences or not found.checked["turns"]:
        raise typer.Exit(1)


@app.command()
def shadow(
    service: Annotated[str, typer.Option(help="The service.")],
    topic: Annotated[
        str | None, typer.Option(help="The input topic that --from and --to are about; not needed for times.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="First of the window: an offset (120), offsets of partitions (0:120,3:88), a time (2026-03-02T09:00:00Z), "
            "or how long ago (2h). Default: the beginning.",
        ),
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", help="Where the window ends, itself excluded. Default: now.")
    ] = None,
    candidate: Annotated[
        str | None, typer.Option(metavar="MODULE:FUNCTION", help="The candidate: another decider.")
    ] = None,
    candidate_path: Annotated[
        Path | None,
        typer.Option(help="The candidate: the service in this other checkout, in its own process."),
    ] = None,
    candidate_setting: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="The candidate: another setting; may be repeated."),
    ] = None,
    partition: Annotated[
        list[int] | None, typer.Option(min=0, help="Only this partition; may be repeated.")
    ] = None,
    demo: DemoOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run recorded traffic through a candidate version of a service too, and tell what it does otherwise. Exit 1 if anything.

    Today's version replays the journal up to the window, which gives the state that both begin with, and then the window; all
    that the service took in the window counts, of every topic. Nothing is produced, no group is joined. Needs the settings that
    the service ran under, and journal and inputs back to their beginning. Timers that only the candidate sets do not fire.
    """
    from crossdock_eventing.clock import SystemClock
    from crossdock_tools.replaying.candidate import Choice
    from crossdock_tools.replaying.progress import bars
    from crossdock_tools.replaying.services import load
    from crossdock_tools.replaying.shadow import Window
    from crossdock_tools.replaying.shadow import shadow as run_shadow
    from crossdock_tools.replaying.window import bound

    [name] = _names([service])
    if not (candidate or candidate_path or candidate_setting):
        raise ReplayError(
            "name the candidate: --candidate module:function, --candidate-path DIR or --candidate-setting NAME=VALUE; "
            f"what is installed here against what was published: crossdock replay check --service {name}"
        )
    now = SystemClock().now()
    window = Window(
        topic=topic,
        start=None if start is None else bound(start, now),
        end=None if end is None else bound(end, now),
        partitions=frozenset(partition or ()),
    )
    choice = Choice(
        settings=_changed_settings(candidate_setting or ()), decider=candidate, checkout=candidate_path
    )
    if candidate is not None and candidate_path is None and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    with reachable_cluster(demo=demo) as cluster, bars() as progress:
        settings = settings_of(cluster, demo=demo)
        found = run_shadow(
            load(name, settings),
            settings,
            choice,
            cluster.broker(),
            cluster.registry(),
            window,
            progress=progress,
        )
    if as_json:
        report = {
            "service": name,
            "partitions": found.partitions,
            "window": dict(sorted(found.counts.items())),
            "unlike_record": found.unlike,
            "differences": _plain(found.differences),
        }
        print(json.dumps(report, indent=1))
    else:
        _print_differences(found.differences)
        if found.unlike:
            print(
                f"note: today's {name} goes another way than the record in {found.unlike} steps, so the state at the window's "
                f"beginning may not be the one that was: crossdock replay check --service {name}"
            )
        counts = found.counts
        print(
            f"{name}: {counts['messages']:,} messages, {counts['answers']:,} answers and {counts['timers']:,} timers of "
            f"{counts['keys']:,} keys through both: {len(found.differences)} differences"
        )
    if found.differences:
        raise typer.Exit(1)


@app.command()
def rebuild(
    service: Annotated[str, typer.Option(help="The service.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the rebuilt states, as <service>.states.jsonl.")
    ] = None,
    demo: DemoOption = False,
    as_json: JsonOption = False,
) -> None:
    """Build a service's states and parked queues again from inputs and journal; do they equal the live ones? Exit 1 if not.

    Reads only. Partitions whose journal or inputs retention has cut are named and left out, as are those that were written to
    all the while. Needs the settings that the service ran under. Reads whole topics into memory.
    """
    from crossdock_tools.replaying.progress import bars
    from crossdock_tools.replaying.rebuild import rebuild as run_rebuild
    from crossdock_tools.replaying.rebuild import write_states
    from crossdock_tools.replaying.services import load

    [name] = _names([service])
    if out is not None and not out.is_dir():
        raise ReplayError(f"{out} is not a folder; create it or name another with --out")
    with reachable_cluster(demo=demo) as cluster, bars() as progress:
        made = load(name, settings_of(cluster, demo=demo))
        found = run_rebuild(made, cluster.broker(), cluster.registry(), progress=progress)
    if not found.tasks:
        raise ReplayError(_not_rebuilt(found))
    written = None if out is None else write_states(found, out)
    if as_json:
        report = {
            "service": name,
            "rebuilt": sorted(found.tasks),
            "beyond_retention": {str(number): reason for number, reason in found.beyond.items()},
            "written_to_meanwhile": found.moving,
            "checked": dict(sorted(found.counts.items())),
            "differences": _plain(found.differences),
        }
        print(json.dumps(report, indent=1))
    else:
        _print_differences(found.differences)
        if found.beyond or found.moving:
            print(_not_rebuilt(found))
        if written is not None:
            print(f"wrote {written}")
        print(
            f"{name}: {found.counts['states']:,} states and {found.counts['parked']:,} parked keys in {len(found.tasks)} of "
            f"{len(found.tasks) + len(found.beyond) + len(found.moving)} partitions rebuilt from "
            f"{found.counts['messages']:,} messages: {len(found.differences)} differences"
        )
    if found.differences:
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


def _changed_settings(said: Iterable[str]) -> dict[str, str]:
    pairs = [each.partition("=") for each in said]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise ReplayError(f"{wrong[0]!r} is no setting: write NAME=VALUE")
    return {name: value for name, _, value in pairs}


def _not_rebuilt(found: Rebuilt) -> str:
    said = []
    if found.beyond:
        reasons = "; ".join(
            f"partition {number} ({reason})" for number, reason in sorted(found.beyond.items())
        )
        said.append(f"beyond retention, or never journaled, so not rebuilt: {reasons}")
    if found.moving:
        partitions = ", ".join(map(str, found.moving))
        said.append(
            f"written to all the while, so not compared: partitions {partitions}; again, or with {found.service} at rest"
        )
    return "\n".join(f"{found.service}: {each}" for each in said)


def _print_differences(found: list[Difference]) -> None:
    for difference in found[:_SHOWN_MAX]:
        print(difference)
    if len(found) > _SHOWN_MAX:
        print(f"... and {len(found) - _SHOWN_MAX} more; --json prints all")


def _plain(found: list[Difference]) -> list[dict[str, object]]:
    return [{"thread": each.thread, "what": each.what, "changes": each.changes} for each in found]
