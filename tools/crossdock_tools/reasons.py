"""`crossdock reasons`: what each reason code means, whose it is, and what to do next.

Two catalogues are read as one, that of the shell and that of the business, each beside the code whose reasons it has. `reason` is
the way in for the commands that show dead letters; docs/reason-codes.md is `page`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from textwrap import fill
from types import MappingProxyType
from typing import Annotated, Literal

import typer

from crossdock_tools.invocation import command_name
from crossdock_tools.schemas.commands import JsonOption

Severity = Literal["info", "warning", "error", "critical"]
Remedy = Literal["retry", "edit", "discard"]

DEAD_LETTER = "dead letter"
PAGE = "docs/reason-codes.md"
_PACKAGES = ("crossdock_eventing", "crossdock_canonical")
_PIPE_WIDTH = 160
_TEXT_WIDTH = 100
#: Discarding alone would leave what waits behind the message where it is.
_OPTIONS: Mapping[Remedy, str] = {
    "retry": "",
    "edit": " --key KEY --edit FIELD=VALUE",
    "discard": " --discard --retry",
}
_PREFACE = """\
Whatever Crossdock refuses for good has one of these codes. `crossdock reasons CODE` says the same on a terminal, and
`crossdock dlt list` shows which of them there are. An input that changes nothing (a duplicate, a stale revision) is no failure: its
codes are counted in the metrics and are not here. What the business decides against (an unpaid order, a return that comes too
late) is an event that names its own reason and is not here either.

Whole incidents, command by command: [the runbook](runbooks/dead-letters.md).
"""
_PLANS = """
Where a code says retry, edit or discard, its messages are parked, each with whatever came after it for its key (but for those of
the gateway, which parks nothing). A plan says what shall become of them, and nothing is sent before it is run:
"""


class ReasonError(Exception):
    """There is no such code; the text says which come near."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One code of the catalogue.

    service: the one that refuses; None: any. told_by: `dead letter`, or the event that tells of it.
    owner: team that resolves it. remedy: what is done with the parked message, the usual first; empty where none is parked for it.
    """

    code: str
    owner: str
    severity: Severity
    meaning: str
    action: str
    remedy: tuple[Remedy, ...]
    service: str | None = None
    told_by: str = DEAD_LETTER


@cache
def catalogue() -> Mapping[str, Reason]:
    """Every reason by its code: those of the shell, then those of the business."""
    import yaml

    found: dict[str, Reason] = {}
    for package in _PACKAGES:
        text = (files(package) / "reasons.yaml").read_text(encoding="utf-8")
        for code, fields in yaml.safe_load(text).items():
            assert code not in found, f"{code} stands in two catalogues"
            found[code] = Reason(code=code, **{**fields, "remedy": tuple(fields["remedy"])})
    return MappingProxyType(found)


def reason(code: str) -> Reason | None:
    """What the catalogue says of a code; None for a code of somebody else's, such as the error class of a foreign dead letter."""
    return catalogue().get(code)


def reasons(
    code: Annotated[str | None, typer.Argument(help="Tell this code in full.")] = None,
    out: Annotated[Path | None, typer.Option(help=f"Write them all as Markdown, as in {PAGE}.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what the reason codes mean: how bad it is, whose it is, what to do."""
    if out is not None:
        out.write_text(page(), encoding="utf-8")
    elif code is not None:
        found = _known(code)
        print(json.dumps(asdict(found), indent=1) if as_json else told(found))
    elif as_json:
        print(json.dumps([asdict(each) for each in catalogue().values()], indent=1))
    else:
        _print_table(catalogue().values())


def told(found: Reason) -> str:
    """One reason in full, for a terminal."""
    parts = (
        ("code", found.code),
        ("severity", found.severity),
        ("owner", found.owner),
        ("told by", _teller(found)),
        ("meaning", found.meaning),
        ("what to do", found.action),
        ("then", _then(found)),
    )
    lines = [
        fill(text, _TEXT_WIDTH, initial_indent=f"{label:<12}", subsequent_indent=" " * 12)
        for label, text in parts
    ]
    lines += [f"  {label:<10}{command_name()} {command}" for label, command in steps(found)]
    return "\n".join(lines)


def steps(found: Reason, service: str | None = None) -> list[tuple[str, str]]:
    """The commands that act on its parked messages, without the program's name, each with what it is for; words in capitals are
    for the operator to fill in. service: whose messages; default: the one that refuses. Empty where there is nothing to act on.
    """
    if not found.remedy:
        return []
    whose = service or found.service or "SERVICE"
    plan = f"dlt plan --service {whose} --code {found.code} --reason TEXT --out plan.json"
    return [
        ("look", f"dlt list --service {whose}"),
        *((remedy, f"{plan}{_OPTIONS[remedy]}") for remedy in found.remedy),
        ("try", "dlt run plan.json --dry-run"),
        ("run", "dlt run plan.json"),
    ]


def page() -> str:
    """The whole catalogue as Markdown."""
    return "\n".join(_lines_of_page()) + "\n"


def _lines_of_page() -> Iterator[str]:
    yield "# Reason codes"
    yield ""
    yield f"<!-- Written by `crossdock reasons --out {PAGE}` from the two reasons.yaml; change those. -->"
    yield ""
    yield _PREFACE
    yield "| severity | means |"
    yield "| --- | --- |"
    for severity, meaning in _SEVERITIES.items():
        yield f"| {severity} | {meaning} |"
    yield _PLANS
    yield from (f"    crossdock {command}  # {label}" for label, command in steps(_ANY))
    for title, found in groupby(catalogue().values(), key=lambda each: each.code.partition(".")[0]):
        yield ""
        yield f"## {title}"
        for each in found:
            yield ""
            yield f"### `{each.code}`"
            yield ""
            yield f"**{each.severity}** · {each.owner} · {_teller(each)}"
            yield ""
            yield each.meaning
            yield ""
            yield f"**What to do:** {each.action}"
            yield ""
            yield f"**Then:** {_then(each)}"


_ANY = Reason(
    code="CODE",
    owner="",
    severity="info",
    meaning="",
    action="",
    remedy=("retry", "edit", "discard"),
)
_SEVERITIES: Mapping[Severity, str] = {
    "info": "nothing to do: it follows from another",
    "warning": "one sender is wrong, and nothing is at stake yet",
    "error": "an order, a return or a settlement waits for somebody",
    "critical": "money is unaccounted for, or much more than one order waits: now",
}


def _teller(found: Reason) -> str:
    article = "an" if found.told_by[0] in "AEIOU" else "a"
    return f"{article} {found.told_by} of {found.service or 'any service'}"


def _then(found: Reason) -> str:
    return " or ".join(found.remedy) if found.remedy else "no parked message to act on"


def _known(code: str) -> Reason:
    from difflib import get_close_matches

    found = reason(code)
    if found is None:
        near = get_close_matches(code, catalogue(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "`crossdock reasons` lists them all"
        raise ReasonError(f"no reason has the code {code}; {hint}")
    return found


def _print_table(found: Iterable[Reason]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Reason codes", title_justify="left")
    table.add_column("code", no_wrap=True)
    for column in ("severity", "owner", "then", "meaning"):
        table.add_column(column, overflow="fold")
    for each in found:
        table.add_row(each.code, each.severity, each.owner, " or ".join(each.remedy), each.meaning)
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)
    print("one in full, with what to do: crossdock reasons CODE")
