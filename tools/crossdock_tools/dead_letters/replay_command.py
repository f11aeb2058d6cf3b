"""`crossdock dlt run` and `certificate`: carry a plan out, and prove what it did. Mounted by `command`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crossdock_eventing.clock import SystemClock
from crossdock_tools.cluster import Cluster, reachable_cluster
from crossdock_tools.dead_letters import narration
from crossdock_tools.dead_letters.errors import DeadLetterError
from crossdock_tools.schemas.commands import DemoOption, JsonOption, repository

if TYPE_CHECKING:
    from crossdock_tools.dead_letters.plan import Plan

PlanArgument = Annotated[Path, typer.Argument(help="A plan file, as `crossdock dlt plan` writes it.")]


def run(
    file: PlanArgument,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Decide the messages with the real deciders on the current states, in memory, and tell the effects.",
        ),
    ] = False,
    rate: Annotated[
        float, typer.Option(min=0.0, help="Messages a second at most; 0: as fast as it goes.")
    ] = 0.0,
    keep_going: Annotated[
        bool,
        typer.Option("--keep-going", help="Go on with other keys when one does not come out as planned."),
    ] = False,
    wait: Annotated[
        float, typer.Option(min=0.1, help="Seconds without a sign of the service after which to give up.")
    ] = 60.0,
    demo: DemoOption = False,
    as_json: JsonOption = False,
) -> None:
    """Carry a plan out, and certify what it did. Exit 1 when something did not come out as planned.

    A run that was stopped or killed is gone on with by running the plan again; running a plan that is done adds nothing.
    """
    from crossdock_tools.dead_letters.plan import read_plan

    chosen = read_plan(file)
    with reachable_cluster(demo=demo) as cluster:
        if dry_run:
            _rehearse(chosen, cluster, demo=demo, as_json=as_json)
            return
        ended = _carry_out(chosen, cluster, rate=rate, keep_going=keep_going, wait_s=wait)
        made = _certify(chosen, cluster)
    path = _certificate_file(file)
    _write(path, made)
    if as_json:
        print(
            json.dumps(
                {
                    "sent": ended.sent,
                    "events": ended.events,
                    "unsent": ended.unsent,
                    "surprises": ended.surprises,
                    "certificate": made,
                },
                indent=1,
            )
        )
    else:
        narration.run(ended)
        narration.certificate(made, path)
    if not ended.ok or made["problems"]:
        raise typer.Exit(1)


def certificate(
    file: PlanArgument,
    verify: Annotated[
        Path | None, typer.Option(help="A certificate file: make it again from the topics and compare.")
    ] = None,
    demo: DemoOption = False,
    as_json: JsonOption = False,
) -> None:
    """Certify, from the topics alone, what became of a plan; exit 1 when something speaks against it."""
    from crossdock_tools.dead_letters.certificate import differences
    from crossdock_tools.dead_letters.plan import read_plan

    chosen = read_plan(file)
    given = None if verify is None else _given(verify, chosen.plan)
    with reachable_cluster(demo=demo) as cluster:
        made = _certify(chosen, cluster)
    if as_json:
        print(json.dumps(made, indent=1))
    else:
        narration.certificate(made, None)
    differing = [] if given is None else differences(given, made)
    if given is not None and not as_json:
        narration.comparison(verify, differing)
    if differing or made["problems"]:
        raise typer.Exit(1)


def _rehearse(chosen: Plan, cluster: Cluster, *, demo: bool, as_json: bool) -> None:
    import structlog

    from crossdock_tools.dead_letters.sandbox import rehearse
    from crossdock_tools.replaying.command import settings_of

    # The parts of a service that run here log; standard output is for what was asked for.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    found = rehearse(
        chosen,
        cluster.broker(),
        cluster.registry(),
        settings_of(cluster, demo=demo),
        now=SystemClock().now(),
    )
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        narration.rehearsal(chosen, found)


def _carry_out(chosen: Plan, cluster: Cluster, *, rate: float, keep_going: bool, wait_s: float) -> Any:
    from crossdock_tools.dead_letters.running import Pace, carry_out

    with _progress(chosen) as settled:
        return carry_out(
            chosen,
            cluster.broker(),
            cluster.registry(),
            pace=Pace(rate=rate, keep_going=keep_going, wait_s=wait_s),
            clock=SystemClock(),
            settled=settled,
        )


@contextmanager
def _progress(chosen: Plan) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, counted in messages."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    with bar:
        task = bar.add_task(f"replaying to {chosen.service}", total=chosen.messages)
        yield lambda messages: bar.advance(task, messages)


def _certify(chosen: Plan, cluster: Cluster) -> dict[str, Any]:
    from crossdock_tools.dead_letters.certificate import certify
    from crossdock_tools.dead_letters.freshness import require_place

    require_place(cluster.broker(), chosen)
    return certify(chosen, cluster.broker(), cluster.registry(), repository(None))


def _certificate_file(file: Path) -> Path:
    return file.with_name(f"{file.stem}.certificate.json")


def _write(path: Path, made: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(made, indent=1) + "\n")
    except OSError as error:
        raise DeadLetterError(
            f"the certificate cannot be written: {error}; crossdock dlt certificate makes it again"
        ) from None


def _given(path: Path, plan_id: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise DeadLetterError(f"the certificate cannot be read: {error}") from None
    except ValueError as error:
        raise DeadLetterError(f"{path} is no certificate: {error}") from None
    if not isinstance(found, dict) or "crossdock_certificate" not in found:
        raise DeadLetterError(f"{path} is no certificate")
    if found.get("plan") != plan_id:
        raise DeadLetterError(f"{path} is the certificate of plan {found.get('plan')}, not of {plan_id}")
    return found
