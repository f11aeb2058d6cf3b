"""`crossdock chaos`: load, random faults, healing, audit; mounted by `main`. `run` is the run itself."""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer

from crossdock_tools.chaos.schedule import Kind
from crossdock_tools.invocation import command_name
from crossdock_tools.schemas.commands import JsonOption, repository

_KINDS = {kind.name.lower().replace("_", "-"): kind for kind in Kind}
_PIPE_WIDTH = 160


class ErpOutage(StrEnum):
    """How long the ERP is away."""

    MINUTE = "minute"
    WHOLE = "whole"


def chaos(
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of load and faults; drawn and printed if not given.")
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.5, help="How long orders come in.")] = 4.0,
    faults: Annotated[int, typer.Option(min=1, help="How many faults fall within that time.")] = 34,
    orders_per_s: Annotated[float, typer.Option(min=0.1, help="New orders a second.")] = 8.0,
    drain_limit_s: Annotated[
        float,
        typer.Option(
            min=10.0, help="Give up when the last effect has not come so long after the last fault."
        ),
    ] = 180.0,
    only: Annotated[
        list[str] | None,
        typer.Option(help=f"Only faults of this kind; may be repeated. Kinds: {', '.join(_KINDS)}."),
    ] = None,
    erp_outage: Annotated[
        ErpOutage, typer.Option(help="One minute, or the whole time until every order has ended.")
    ] = ErpOutage.MINUTE,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep topics, stores and books also of a run that passed.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Kill, freeze, cut off and restart the backbone's parts at random while orders come in; then drain, and audit.

    Everything is real but the outside: a broker, a registry, two instances of each of the six services and of the gateway, each
    with a network path of its own. Fails on any violation, and when fewer faults were carried out than asked for. Writes
    .local/chaos/report.json; of a run that failed, topics, stores, books and logs stay in .local/chaos.
    """
    from crossdock_tools.auditing import show
    from crossdock_tools.chaos.run import ChaosError, Run, Settings
    from crossdock_tools.chaos.stack import chaos_directory, clear, keep_evidence, running

    unknown = set(only or ()) - set(_KINDS)
    if unknown:
        raise typer.BadParameter(f"no such kind: {', '.join(sorted(unknown))}", param_hint="--only")
    say = _say_to(sys.stderr if as_json else sys.stdout)
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    settings = Settings(
        seed=seed,
        faults=faults,
        load_s=minutes * 60,
        orders_per_s=orders_per_s,
        drain_limit_s=drain_limit_s,
        only=tuple(_KINDS[each] for each in only) if only else tuple(Kind),
        erp_away=erp_outage is ErpOutage.WHOLE,
    )
    say(f"seed {seed}; again with: {command_name()} chaos --seed {seed}")
    found = repository(None)
    directory = chaos_directory()
    key, retiring_key = secrets.token_hex(16), secrets.token_hex(16)
    keep_evidence(directory)
    _log_to_file(directory)
    try:
        with running(found, say, shopify_secrets=(key, retiring_key)) as stack:
            report, verdict = Run(stack, found, settings, key, say).play()
    except KeyboardInterrupt:
        say("stopped; nothing is left running")
        raise typer.Exit(130) from None
    path = directory / "report.json"
    report.write(path)
    if report.ok and not keep:
        clear(directory)
    if as_json:
        print(json.dumps(report.to_json(), indent=1))
    else:
        show(verdict)
        _print(report)
        print(f"\nwritten to {path}")
    if not report.ok:
        raise ChaosError(
            "the run failed:\n  "
            + "\n  ".join(report.problems)
            + f"\nevidence is in {directory}; the next run moves it to chaos-failed-{settings.seed}"
        )


def _say_to(stream: Any) -> Callable[[str], None]:
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:6.1f} s] {text}", file=stream, flush=True)

    return say


def _log_to_file(directory: Any) -> None:
    """The clients of this process complain while the broker is away: into a file, not between the lines of the story."""
    import structlog

    directory.mkdir(parents=True, exist_ok=True)
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(file=(directory / "chaos.log").open("w")))


def _print(report: Any) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    for table in report.tables():
        console.print(table)
