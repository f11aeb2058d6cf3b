"""What the `crossdock dlt` commands print for people. Tables are as wide as the terminal; a pipe gets room for a long line."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossdock_tools.dead_letters.queues import readable_key
from crossdock_tools.invocation import command_name

if TYPE_CHECKING:
    from rich.console import Console

    from crossdock_tools.dead_letters.chain import Link
    from crossdock_tools.dead_letters.groups import Group
    from crossdock_tools.dead_letters.history import Past
    from crossdock_tools.dead_letters.plan import Plan
    from crossdock_tools.dead_letters.running import Run
    from crossdock_tools.dead_letters.sandbox import Rehearsal

_PIPE_WIDTH = 160
_SHOWN_MAX = 50
_COUNTS = ("letters", "behind", "parked", "settled", "orders")
_NUMBERS = frozenset({*_COUNTS, "at stake", "oldest", "instructions", "messages", "keys", "count", "money"})
_TITLES = {"service": "service", "code": "code", "topic": "original topic", "age": "age"}


def groups(found: Sequence[Group], by: Sequence[str], now: datetime) -> None:
    """The list."""
    from crossdock_tools.dead_letters.worth import add, money_text
    from crossdock_tools.reasons import reason

    stake: dict[str, int] = {}
    rows = []
    for group in found:
        names = dict(zip(by, group.by, strict=True))
        known = reason(names.get("code", ""))
        for currency, minor in group.stake.items():
            add(stake, currency, minor)
        rows.append(
            (
                *group.by,
                f"{group.letters:,}",
                f"{group.behind:,}",
                f"{len(group.parked):,}",
                f"{group.settled:,}",
                f"{len(group.orders):,}",
                money_text(group.stake),
                _age(now - datetime.fromtimestamp(group.oldest_ms / 1000, UTC)),
                known.owner if known else "",
            )
        )
    titles = [*(_TITLES[each] for each in by), *_COUNTS, "at stake", "oldest", "owner"]
    if rows:
        _table("Dead letters", titles, rows)
    parked = sum(len(group.parked) for group in found)
    loose = sum(group.loose for group in found)
    print(f"{sum(group.letters for group in found):,} dead letters in {len(found)} groups")
    if parked:
        keys = sum(len(group.keys) for group in found)
        worth = f", {money_text(stake)} at stake" if stake else ""
        print(
            f"{parked:,} messages of {keys:,} keys are parked still{worth}: {command_name()} dlt plan --help"
        )
    else:
        print("nothing is parked")
    if loose:
        print(f"{loose:,} letters are parked by nobody: {command_name()} dlt plan --inject takes them in")


def letter(told: Mapping[str, Any]) -> None:
    """One letter in full."""
    where, original = told["dead_letter"], told["original"]
    print(f"{where['topic']}[{where['partition']}]@{where['offset']}  {where['at']}")
    print(
        f"original     {original['topic']}[{original['partition']}]@{original['offset']}  {original['at'] or ''}".rstrip()
    )
    for label, name in (("key", "key"), ("code", "code"), ("given up by", "given_up_by"), ("attempt", "attempt"),
                        ("error", "error_class"), ("message", "message")):  # fmt: skip
        if told[name] is not None:
            print(f"{label:<13}{told[name]}")
    if told["reason"] is not None:
        print(f"{'meaning':<13}{told['reason']['meaning']}")
        print(f"{'what to do':<13}{told['reason']['action']}  ({told['reason']['owner']})")
    print("\nheaders")
    for name, value in told["headers"]:
        if value != told["stack_trace"]:
            print(f"  {name}: {value}")
    if told["payload"] is not None:
        print(f"\npayload ({told['record_type']})")
        print(json.dumps(told["payload"], indent=1, ensure_ascii=False, default=str))
    elif told["payload_hex"] is not None:
        print(f"\npayload cannot be decoded: {told['payload_problem']}\n{told['payload_hex']}")
    else:
        print("\npayload (a tombstone)")
    if told["stack_trace"]:
        print(f"\nstack trace\n{told['stack_trace'].rstrip()}")
    if told["parked"] is not None:
        _queue(told["parked"])
    if told["trace"]:
        print("\nlife of the order (times in UTC, + is the delay in ms since the cause)")
        for line in told["trace"]:
            print(line)


def plan(made: Plan, path: Path, unfit: Mapping[str, int]) -> None:
    """What was planned, and the next steps."""
    counts: Counter[tuple[str, str]] = Counter()
    messages: Counter[tuple[str, str]] = Counter()
    for item in made.items:
        counts[item.instruction.op, item.code] += 1
        messages[item.instruction.op, item.code] += item.messages
    rows = [
        (op, code, f"{count:,}", f"{messages[op, code]:,}") for (op, code), count in sorted(counts.items())
    ]
    _table(f"Plan {made.plan} for {made.service}", ["do", "code", "instructions", "messages"], rows)
    changes = [f"  {readable_key(item.key)}: {change}" for item in made.items for change in item.changes]
    _some(changes)
    for reason, count in unfit.items():
        print(f"left out {count:,} letters: {reason}")
    print(f"wrote {path}: {len(made.keys):,} keys, by {made.operator}: {made.reason}")
    print(f"next: {command_name()} dlt run {path} --dry-run, then {command_name()} dlt run {path}")


def rehearsal(chosen: Plan, found: Rehearsal) -> None:
    """What a run would do."""
    lines = []
    for trial in found.trials:
        why = ": ".join(part for part in (trial.code, trial.detail) if part)
        effects = "; ".join(map(str, trial.effects))
        lines.append(
            f"  {readable_key(trial.key)}  {trial.place}  {trial.outcome}  {why or effects}".rstrip()
        )
    _some(lines)
    said = found.to_json()
    _effects("Effects that a run would have", said["effects"])
    outcomes = ", ".join(f"{count:,} {name}" for name, count in said["messages"].items()) or "no message"
    print(f"dry run of {chosen.plan}: {outcomes}; nothing was sent")
    if said["left"]:
        print(f"{sum(said['left'].values()):,} messages of {len(said['left']):,} keys would stay parked")


def run(ended: Run) -> None:
    """How a run ended."""
    print(f"{ended.sent:,} instructions sent, {ended.events:,} new events")
    for surprise in ended.surprises[:_SHOWN_MAX]:
        print(f"surprise: {surprise}")
    if ended.unsent:
        print(
            f"{ended.unsent:,} instructions were not sent: look at the surprise first (crossdock dlt show --key), "
            "then make a new plan, or run this one with --keep-going"
        )


def certificate(made: Mapping[str, Any], path: Path | None) -> None:
    """The certificate in words."""
    messages, keys = made["messages"], made["keys"]
    print(f"\ncertificate of {made['plan']} ({made['service']}, by {made['operator']}: {made['reason']})")
    fates = ", ".join(f"{count:,} {name}" for name, count in messages.items() if name != "in" and count)
    print(f"  messages in      {messages['in']:,}{f': {fates}' if fates else ''}")
    print(f"  effects made     {made['effects']['events']:,} events")
    existed = sum(made["existed"].values())
    codes = ", ".join(f"{name} {count:,}" for name, count in made["existed"].items())
    print(f"  existed already  {existed:,}{f' ({codes})' if codes else ''}")
    print(
        f"  keys             {keys['unparked']:,} of {keys['planned']:,} un-parked, {len(keys['parked_still']):,} still parked"
    )
    print(f"  edits, discards  {len(made['edits']):,}, {len(made['discards']):,}")
    if made["instructions"]["open"]:
        print(f"  not done yet     {made['instructions']['open']:,} instructions")
    _effects("Events", made["effects"]["by_type"])
    _effects("Documents of the ERP so far", made["erp_documents"])
    for problem in made["problems"]:
        print(f"problem: {problem}")
    if not made["problems"]:
        print("nothing took effect twice; the replays are whole")
    if path is not None:
        print(f"wrote {path}")


def comparison(path: Path | None, differing: Sequence[str]) -> None:
    """Whether a certificate still says what the topics say."""
    for each in differing:
        print(f"differs: {each}")
    verdict = "is not what the topics say" if differing else "is what the topics say"
    print(f"{path} {verdict}")


def past(found: Iterable[Past]) -> None:
    """The history."""
    rows = [
        (
            each.plan or "(not understood)",
            each.service,
            each.operator,
            _stamp(each.first_us),
            _stamp(each.last_us),
            f"{len(each.keys):,}",
            ", ".join(f"{count:,} {name}" for name, count in sorted(each.messages.items())),
            each.reason,
        )
        for each in found
    ]
    if rows:
        titles = ["plan", "service", "operator", "first (UTC)", "last (UTC)", "keys", "outcomes", "reason"]
        _table("Replays", titles, rows)
    print(f"{len(rows)} plans")


def chains(links: Sequence[Link]) -> None:
    """What a walk of the chains found."""
    for link in links:
        if link.broken:
            print(f"broken: {link.broken}")
        elif link.first:
            print(f"{link.topic}[{link.partition}] begins at entry {link.first}: older ones have expired")
    entries = sum(link.entries for link in links)
    broken = sum(bool(link.broken) for link in links)
    print(
        f"walked {entries:,} entries in {len(links)} partitions: {f'{broken} broken' if broken else 'all whole'}"
    )


def _queue(parked: Mapping[str, Any]) -> None:
    print(f"\nparked since {parked['since']} by {parked['episode']}: {len(parked['queue']):,} messages")
    lines = [
        f"  {each['seq']:>4}  {each['original']}  {each['at']}  {each['type']}  {each['code']}"
        f"{', attempt ' + str(each['attempt']) if each['attempt'] else ''}{', edited' if each['edited'] else ''}"
        for each in parked["queue"]
    ]
    _some(lines)


def _effects(title: str, effects: Mapping[str, Mapping[str, Any]]) -> None:
    from crossdock_tools.dead_letters.worth import money_text

    if effects:
        rows = [
            (name, f"{each['count']:,}", money_text(each.get("money_minor", {})))
            for name, each in effects.items()
        ]
        _table(title, ["effect", "count", "money"], rows)


def _some(lines: Sequence[str]) -> None:
    for line in lines[:_SHOWN_MAX]:
        print(line)
    if len(lines) > _SHOWN_MAX:
        print(f"  ... and {len(lines) - _SHOWN_MAX:,} more; --json prints all")


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if column in _NUMBERS else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    _console().print(table)


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, markup=False)


def _age(age: timedelta) -> str:
    seconds = max(0, int(age.total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _stamp(at_us: int) -> str:
    return f"{datetime.fromtimestamp(at_us / 1e6, UTC):%Y-%m-%d %H:%M:%S}"
