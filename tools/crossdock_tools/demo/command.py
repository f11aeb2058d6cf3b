"""`crossdock demo`: start everything, send 300 orders, wait for the last effect, print what became of them.

Mounted by `main`; `run` is the demo itself.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from crossdock_local.addresses import kafka_is_external
from crossdock_tools.cluster import demo_directory
from crossdock_tools.invocation import command_name
from crossdock_tools.schemas.commands import JsonOption, repository


def demo(
    as_json: JsonOption = False,
    limit_s: Annotated[
        float,
        typer.Option(
            min=1.0, help="Give up when the last effect has not come so many seconds after the start."
        ),
    ] = 170.0,
) -> None:
    """Run the whole backbone on 300 orders of three channels and print what became of them.

    Everything is real but the outside: a Kafka broker, a schema registry, six services, the gateway; the warehouse, the
    payment provider, the ERP and the channels are simulated HTTP systems with books of their own. Kill any service while it
    runs: it is restarted, and the figures are the same. Writes .local/demo/summary.json.
    """
    from crossdock_tools.demo.run import DemoError, Run
    from crossdock_tools.demo.stack import running

    say = _say_to(sys.stderr if as_json else sys.stdout)
    started = time.monotonic()
    # As during a rotation: the shop signs with one key, what it echoes later with the other; both are valid.
    key, retiring_key = secrets.token_hex(16), secrets.token_hex(16)
    try:
        with running(repository(None), say, shopify_secrets=(key, retiring_key)) as stack:
            result, problems = Run(stack, key, say, started, limit_s).play()
    except KeyboardInterrupt:
        say("stopped; nothing is left running")
        raise typer.Exit(130) from None
    path = demo_directory() / "summary.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    if as_json:
        print(json.dumps({"summary": result, "disagreements": problems}, indent=1))
    else:
        _print(result)
        print(f"\nwritten to {path}; follow one order with:")
        where = "" if kafka_is_external() else " --demo"
        print(f"  {command_name()} trace{where} --channel shopify --ref '#901'")
    if problems:
        raise DemoError("the books disagree:\n  " + "\n  ".join(problems))


def _say_to(stream: Any) -> Callable[[str], None]:
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:6.1f} s] {text}", file=stream, flush=True)

    return say


def _print(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="What became of it", title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in result.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
    Console().print(table)
