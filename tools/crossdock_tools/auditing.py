"""`crossdock audit`: hold the topics of a cluster, and the outside's own books, against every invariant.

Mounted by `main`; `audit` (the package) is the auditor itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crossdock_tools.cluster import demo_books, reachable_cluster
from crossdock_tools.schemas.commands import DemoOption, JsonOption, SchemasOption, repository

if TYPE_CHECKING:
    from crossdock_tools.audit.books import Books
    from crossdock_tools.audit.report import Report


_PIPE_WIDTH = 160


class AuditError(Exception):
    """What was given to the audit cannot be used; the text says what and why."""


def audit(
    books: Annotated[
        Path | None,
        typer.Option(
            help="File with the outside's books, as `--save-books` writes it; with --demo, those of the demo's end."
        ),
    ] = None,
    simulators: Annotated[
        str,
        typer.Option(
            help="Addresses of the simulated systems: wms=URL,psp=URL,erp=URL,channels=URL; a further ERP is erp:NAME=URL."
        ),
    ] = "",
    save_books: Annotated[
        Path | None, typer.Option(help="Write the books that the simulated systems gave to a file.")
    ] = None,
    expect_drained: Annotated[
        bool, typer.Option("--expect-drained", help="All work is done: what is pending is a violation.")
    ] = False,
    require_all: Annotated[
        bool, typer.Option("--require-all", help="A check that found nothing to look at is a failure.")
    ] = False,
    demo: DemoOption = False,
    schemas: SchemasOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every invariant against a cluster's topics and the outside's books; exit 1 when one is broken."""
    from crossdock_tools.audit.auditor import Auditor
    from crossdock_tools.replaying.command import settings_of
    from crossdock_tools.replaying.identity import replays_alike

    if demo and books is None and not simulators and demo_books().exists():
        books = demo_books()
    given = _books(books, simulators)
    if save_books is not None:
        save_books.write_text(json.dumps(given.to_json(), indent=1) + "\n")
    with reachable_cluster(demo=demo) as cluster:
        auditor = Auditor(repository(schemas), cluster.registry())
        evidence = auditor.read(cluster.broker())
        if not evidence.entries and not evidence.letters:
            raise AuditError(
                "there is nothing to audit: no topic holds an event; is this the right cluster? (`crossdock status`)"
            )
        # Within the block: states are decoded when a check looks at them, by schemas of the registry.
        replayed = replays_alike(cluster, settings_of(cluster, demo=demo), whole=False)
        report = auditor.judge(evidence, given, expect_drained=expect_drained, supplied=[replayed])
    if not evidence.quiet:
        print(
            "the topics were written to while they were read: what is under way may show as broken",
            file=sys.stderr,
        )
    if as_json:
        print(json.dumps(report.to_json(), indent=1))
    else:
        show(report)
    if not report.ok or (require_all and report.unchecked):
        raise typer.Exit(1)


def show(report: Report) -> None:
    """Print a report for people: the table, what was found, and the sum."""
    from rich.console import Console

    # A pipe has no width of its own, and a table folded to 80 columns is hard to read or search.
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(report.table())
    for line in report.findings():
        print(f"  {line}")
    unchecked = f", {len(report.unchecked)} checks had nothing to look at" if report.unchecked else ""
    print(f"checked {report.checked:,} facts, {len(report.violations)} violations{unchecked}")


def _books(path: Path | None, simulators: str) -> Books:
    from crossdock_tools.audit.books import NO_BOOKS, Books
    from crossdock_tools.audit.ledgers import read_ledgers

    if path is not None and simulators:
        raise AuditError("--books and --simulators both give the books: use one")
    if simulators:
        return read_ledgers(_addresses(simulators))
    if path is None:
        return NO_BOOKS
    try:
        return Books.from_json(json.loads(path.read_text()))
    except OSError as error:
        raise AuditError(f"cannot read the books: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AuditError(f"{path} holds no books: {type(error).__name__}: {error}") from None


def _addresses(text: str) -> dict[str, str]:
    """`name=URL` pairs, comma-separated."""
    found = {}
    for pair in text.split(","):
        name, equals, url = pair.strip().partition("=")
        if not (name and equals and url):
            raise AuditError(
                f"{pair.strip()!r} is no address: write name=URL, as in wms=http://127.0.0.1:9101"
            )
        found[name] = url
    return found
