"""`crossdock dlt`, the commands that look and change nothing: list, show, history, verify. Mounted by `main`.

Those that plan and replay are in `plan_command` and `replay_command`, and mounted here beside them.
"""

from __future__ import annotations

import gc
import json
import sys
from typing import Annotated, Any

import typer

from crossdock_eventing import names
from crossdock_eventing.clock import SystemClock
from crossdock_tools.cluster import Cluster, reachable_cluster
from crossdock_tools.dead_letters import narration, plan_command, replay_command
from crossdock_tools.dead_letters.errors import DeadLetterError
from crossdock_tools.schemas.commands import DemoOption, JsonOption, repository

app = typer.Typer(
    help=(
        "Look at what the services gave up on, and replay it under proof. "
        "In this order: list, show, plan, run --dry-run, run, certificate."
    ),
    no_args_is_help=True,
)
app.command()(plan_command.plan)
app.command()(replay_command.run)
app.command()(replay_command.certificate)

ServiceOption = Annotated[str | None, typer.Option(help="Only what this service gave up on.")]
TopicOption = Annotated[
    list[str] | None,
    typer.Option(
        "--topic", help="A dead-letter topic of another writer (Spring, Connect, Streams); may be repeated."
    ),
]


@app.command(name="list")
def list_letters(
    service: ServiceOption = None,
    topic: TopicOption = None,
    by: Annotated[
        str, typer.Option(help="What to group by, comma-separated: service, code, topic, age.")
    ] = "service,code,topic",
    demo: DemoOption = False,
    as_json: JsonOption = False,
) -> None:
    """Group the dead letters: how many, since when, what of it is parked still, orders and money at stake.

    What waits behind a rejected message of its key is counted with it. The money at stake is, of each order, the largest amount
    that its parked messages name.
    """
    from crossdock_eventing.registry import RegistryUnavailable
    from crossdock_tools.dead_letters.groups import COLUMNS, grouped
    from crossdock_tools.dead_letters.groups import as_json as group_as_json
    from crossdock_tools.dead_letters.letters import require_topics
    from crossdock_tools.dead_letters.payloads import Payloads
    from crossdock_tools.dead_letters.replays import ReplayReader, settled
    from crossdock_tools.dead_letters.services import consuming, parking
    from crossdock_tools.topic_reader import TopicReader

    columns = by.split(",")
    if wrong := [each for each in columns if each not in COLUMNS]:
        raise DeadLetterError(f"there is no grouping by {', '.join(wrong)}: choose of {', '.join(COLUMNS)}")
    services = consuming(service) if service is not None or not topic else []
    owners = {names.dead_letter_topic(each): each for each in services} | {each: each for each in topic or ()}
    parks = frozenset(parking(None)) & {*services}
    with reachable_cluster(demo=demo) as cluster:
        broker, registry = cluster.broker(), cluster.registry()
        require_topics(broker, owners)
        replays = ReplayReader(broker, registry, parks)
        letters = TopicReader(broker, registry, list(owners))
        # Millions of small tuples and no cycle among them: looking for one takes a quarter of a long list's time.
        gc.disable()
        try:
            gone = settled(replays.entries())
            found = grouped(
                letters.records(),
                services=owners,
                parking=parks,
                gone=gone,
                by=columns,
                now=SystemClock().now(),
            )
            payloads = Payloads(registry)
            for group in found:
                group.weigh(payloads)
        except RegistryUnavailable as error:
            print(f"nobody can say what is at stake: {error}", file=sys.stderr)
        finally:
            gc.enable()
            letters.close()
            replays.close()
    if as_json:
        print(json.dumps([group_as_json(each, columns) for each in found], indent=1))
    else:
        narration.groups(found, columns, SystemClock().now())


@app.command()
def show(
    service: Annotated[str | None, typer.Option(help="The service that gave up.")] = None,
    topic: Annotated[str | None, typer.Option(help="Or the dead-letter topic of another writer.")] = None,
    key: Annotated[str | None, typer.Option(help="The letter of this key.")] = None,
    partition: Annotated[int | None, typer.Option(help="Partition of the dead-letter topic.")] = None,
    offset: Annotated[
        int | None, typer.Option(help="Offset there; default: the newest that was rejected.")
    ] = None,
    trace: Annotated[
        bool, typer.Option(help="Tell the life of the order that it belongs to; reads all topics.")
    ] = True,
    demo: DemoOption = False,
    as_json: JsonOption = False,
) -> None:
    """Tell one dead letter in full: payload, where it was, error and stack, the key's parked queue, the order's life."""
    from crossdock_tools.dead_letters.letters import find, find_key, tell
    from crossdock_tools.dead_letters.services import consuming

    if (service is None) == (topic is None):
        raise DeadLetterError("say whose letter: either --service or --topic")
    if key is not None and (partition is not None or offset is not None):
        raise DeadLetterError("--key finds the letter by itself: leave out --partition and --offset")
    known = None if service is None else consuming(service)[0]
    source = topic or names.dead_letter_topic(known or "")
    with reachable_cluster(demo=demo) as cluster:
        broker, registry = cluster.broker(), cluster.registry()
        if key is not None:
            record = find_key(broker, registry, source, key)
        else:
            record = find(broker, source, partition=partition, offset=offset)
        told = tell(record, registry)
        told["reason"] = _reason(told["code"])
        told["parked"] = _queue(cluster, known, record.partition, record.key)
        told["trace"] = _life(cluster, told) if trace else None
    if as_json:
        print(json.dumps(told, indent=1, ensure_ascii=False, default=str))
    else:
        narration.letter(told)


@app.command()
def history(
    service: Annotated[str | None, typer.Option(help="Only replays of this service.")] = None,
    demo: DemoOption = False,
    as_json: JsonOption = False,
) -> None:
    """Tell every replay, plan by plan: operator, reason, when, and what became of the messages."""
    from crossdock_tools.dead_letters.history import told
    from crossdock_tools.dead_letters.replays import ReplayReader
    from crossdock_tools.dead_letters.services import parking

    with reachable_cluster(demo=demo) as cluster:
        reader = ReplayReader(cluster.broker(), cluster.registry(), parking(service))
        try:
            past = told(reader.entries())
        finally:
            reader.close()
    if as_json:
        print(json.dumps([each.to_json() for each in past], indent=1))
    else:
        narration.past(past)


@app.command()
def verify(
    service: Annotated[str | None, typer.Option(help="Only the replays of this service.")] = None,
    demo: DemoOption = False,
    as_json: JsonOption = False,
) -> None:
    """Walk the hash chain of every partition of the replays; exit 1 and name the first altered or missing entry."""
    from crossdock_tools.dead_letters.chain import walk
    from crossdock_tools.dead_letters.services import parking, required_topics

    links = []
    with reachable_cluster(demo=demo) as cluster:
        broker = cluster.broker()
        for each in parking(service):
            required_topics(broker, each)
            links += walk(broker, cluster.registry(), each)
    if as_json:
        print(json.dumps([each.to_json() for each in links], indent=1))
    else:
        narration.chains(links)
    if any(link.broken for link in links):
        raise typer.Exit(1)


def _reason(code: str | None) -> dict[str, Any] | None:
    """What the catalogue of reasons says of a code."""
    from crossdock_tools.reasons import reason

    found = None if code is None else reason(code)
    if found is None:
        return None
    return {
        "owner": found.owner,
        "severity": found.severity,
        "meaning": found.meaning,
        "action": found.action,
    }


def _queue(cluster: Cluster, service: str | None, partition: int, key: bytes | None) -> dict[str, Any] | None:
    """The parked queue of the letter's key; None when nothing is parked under it."""
    from crossdock_eventing.parking.formats import key_text
    from crossdock_tools.dead_letters.changelog import read_changelog
    from crossdock_tools.dead_letters.queues import queue_as_json
    from crossdock_tools.dead_letters.services import parking

    if service is None or not key or service not in parking(None):
        return None
    wanted = key_text(key)
    found = read_changelog(cluster.broker(), service, partitions=[partition], wanted=wanted.__eq__)
    parked = found.parked.get(wanted)
    return None if parked is None else queue_as_json(parked)


def _life(cluster: Cluster, told: dict[str, Any]) -> list[str] | None:
    """The events of the thread that the letter belongs to; None when it names none."""
    from crossdock_tools import trace as tracing

    meta = (told["payload"] or {}).get("meta", {})
    thread = dict(told["headers"]).get("correlation_id") or meta.get("correlation_id")
    if not thread:
        return None
    steps, _ = tracing.life(cluster.broker(), cluster.registry(), repository(None), str(thread))
    return list(tracing.lines(steps))
