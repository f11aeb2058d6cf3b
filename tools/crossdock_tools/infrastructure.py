"""`crossdock up`, `down` and `status`: the local broker and schema registry.

Mounted by `main`. Everything is done by `crossdock_local.cluster`; this module prints.
"""

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from crossdock_tools.invocation import command_name

if TYPE_CHECKING:
    from crossdock_local.cluster import ComponentStatus

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document; progress goes to standard error.")
]
Wipe = Annotated[
    bool, typer.Option("--wipe", help="Also delete the local broker's data: topics, offsets, schemas.")
]


def up(as_json: AsJson = False) -> None:
    """Start Kafka and the schema registry on this machine, without Docker, and wait until they answer.

    What runs already is left alone. A part whose address is in the environment (KAFKA_BOOTSTRAP_SERVERS,
    SCHEMA_REGISTRY_URL) is used as it is and not started. Ports: CROSSDOCK_KAFKA_PORT (9092),
    CROSSDOCK_KAFKA_CONTROLLER_PORT (9093), CROSSDOCK_REGISTRY_PORT (8081).
    """
    from crossdock_local import cluster

    components = cluster.up(_announce)
    if as_json:
        _print_json({"components": components})
        return
    print()
    _print_table(components)
    name = command_name()
    print(f"\nNext: {name} schemas register, then {name} topics apply")


def down(wipe: Wipe = False, as_json: AsJson = False) -> None:
    """Stop what 'crossdock up' started. The data stays, unless --wipe is given."""
    from crossdock_local import cluster

    stopped = cluster.down(_announce, wipe=wipe)
    if as_json:
        _print_json({"stopped": stopped, "wiped": wipe})


def status(as_json: AsJson = False) -> None:
    """Show each component's address, process and health. Exit code 1 when one does not answer."""
    from crossdock_local import cluster

    components = cluster.status()
    if as_json:
        _print_json({"components": components})
    else:
        _print_table(components)
    if not all(component.healthy for component in components):
        raise typer.Exit(1)


def _announce(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print_json(document: dict[str, object]) -> None:
    print(json.dumps(document, indent=2, default=dataclasses.asdict))


def _print_table(components: "tuple[ComponentStatus, ...]") -> None:
    rows = [("COMPONENT", "ADDRESS", "PID", "HEALTHY")]
    for component in components:
        pid = str(component.pid) if component.pid else "-" if component.managed else "external"
        rows.append((component.component, component.address, pid, "yes" if component.healthy else "no"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
