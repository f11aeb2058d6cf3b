"""The `crossdock schemas` command group."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from crossdock_tools.schemas.contracts import ContractError, Repository, find_schemas

app = typer.Typer(help="Check, generate, release and register the event contracts.", no_args_is_help=True)

SchemasOption = Annotated[
    Path | None, typer.Option("--schemas", help="The schemas folder; default: that of the repository.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
DemoOption = Annotated[bool, typer.Option("--demo", help="Read the topics of the last demo run.")]


def repository(schemas: Path | None) -> Repository:
    """The contracts at the given or the default place. Raises ContractError."""
    return Repository(find_schemas() if schemas is None else schemas.resolve())


@app.command()
def check(schemas: SchemasOption = None, as_json: JsonOption = False) -> None:
    """Hold the contracts to every rule, offline; exit 1 when one is broken."""
    from crossdock_tools.schemas.check import RULES
    from crossdock_tools.schemas.check import check as run_check

    found = repository(schemas)
    findings = run_check(found)
    if as_json:
        print(
            json.dumps(
                {"contracts": len(found.contracts), "findings": [asdict(each) for each in findings]}, indent=1
            )
        )
    else:
        for each in findings:
            print(f"{each.where}: {each.rule}: {each.detail}")
        verdict = f"{len(findings)} findings" if findings else "all rules hold"
        print(f"{len(found.contracts)} contracts, {len(found.topics)} topics, {len(RULES)} rules: {verdict}")
    if findings:
        raise typer.Exit(1)


@app.command()
def generate(schemas: SchemasOption = None) -> None:
    """Write the Python types of the latest version of every contract."""
    from crossdock_tools.schemas.check import shape
    from crossdock_tools.schemas.generate import generated_files

    found = repository(schemas)
    for breach in shape(found):
        raise ContractError(f"{breach.where}: {breach.rule}: {breach.detail}")
    changed = 0
    for name, text in generated_files(found).items():
        path = found.root.parent / name
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(f"wrote {name}")
            changed += 1
    print(f"{changed} files changed")


@app.command()
def release(schemas: SchemasOption = None) -> None:
    """Enter every new contract into the book of released ones: from then on its file may not change."""
    from crossdock_tools.schemas.check import check as run_check
    from crossdock_tools.schemas.check import release as run_release

    found = repository(schemas)
    if run_check(found):
        raise ContractError("the contracts break a rule; see `crossdock schemas check`")
    added = run_release(found)
    for name in added:
        print(f"released {name}")
    print(f"{len(added)} contracts released")


@app.command()
def register(schemas: SchemasOption = None, as_json: JsonOption = False) -> None:
    """Register every contract version, in order, with its compatibility level; what is there already is left alone."""
    from crossdock_local.addresses import schema_registry_url
    from crossdock_tools.schemas.register import register_all

    report = register_all(repository(schemas), schema_registry_url())
    if as_json:
        print(json.dumps(report, indent=1))
    else:
        print(
            f"{report['subjects']} subjects, {report['versions']} versions are registered at {schema_registry_url()}"
        )
