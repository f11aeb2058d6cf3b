"""`crossdock dlt plan`: choose parked messages and what shall be done with them. Mounted by `command`; nothing is sent."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crossdock_eventing import names
from crossdock_eventing.clock import SystemClock
from crossdock_tools.cluster import Cluster, reachable_cluster
from crossdock_tools.dead_letters import narration
from crossdock_tools.dead_letters.errors import DeadLetterError
from crossdock_tools.schemas.commands import DemoOption, JsonOption, repository

if TYPE_CHECKING:
    from crossdock_tools.dead_letters.criteria import Criteria
    from crossdock_tools.dead_letters.plan import Item
    from crossdock_tools.dead_letters.planning import Wish

OPERATOR_VARIABLE = "CROSSDOCK_OPERATOR"


def plan(
    service: Annotated[str, typer.Option(help="The service whose parked messages are meant.")],
    reason: Annotated[str, typer.Option(help="Why: it stands in the replays and in the certificate.")],
    code: Annotated[
        list[str] | None, typer.Option(help="Rejected with this code; `order.*` for all that begin so.")
    ] = None,
    topic: Annotated[list[str] | None, typer.Option(help="Came on this topic.")] = None,
    key: Annotated[list[str] | None, typer.Option(help="Parked under this key.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Stamped then or later: 2026-03-02T09:00:00Z, or 90min, 2h, 3d ago.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Stamped before then.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="A field of the payload: lines[*].sku==SKU-1; also !=, ~ (pattern), <, >."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Without any condition: all that is parked.")
    ] = False,
    edit: Annotated[
        list[str] | None,
        typer.Option(help="Set a field first: lines[0].sku=SKU-2; checked against the schema."),
    ] = None,
    migrate: Annotated[
        bool, typer.Option("--migrate", help="Write the messages in the newest schema of their type first.")
    ] = False,
    discard: Annotated[
        bool, typer.Option("--discard", help="Drop the messages, for the reason given.")
    ] = False,
    retry: Annotated[
        bool | None,
        typer.Option(
            "--retry/--no-retry",
            help="Let the queues of their keys go, in order. The default; after --discard only if asked for.",
        ),
    ] = None,
    only_selected: Annotated[
        bool, typer.Option("--only-selected", help="Release no further than the last message that is meant.")
    ] = False,
    inject: Annotated[
        bool,
        typer.Option(
            "--inject", help="Take in dead letters that nobody parked, of Spring, Connect, Streams."
        ),
    ] = False,
    from_topic: Annotated[
        list[str] | None,
        typer.Option("--from", help="With --inject: the dead-letter topic; default: the service's own."),
    ] = None,
    skip_unfit: Annotated[
        bool, typer.Option("--skip-unfit", help="With --inject: leave out what cannot be taken in.")
    ] = False,
    operator: Annotated[
        str | None, typer.Option(envvar=OPERATOR_VARIABLE, help="Who asks; default: the user.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; default: dlt-<plan id>.json here.")] = None,
    demo: DemoOption = False,
    as_json: JsonOption = False,
) -> None:
    """Choose parked messages and what shall be done with them, and write it down as a plan. Nothing is sent.

    All conditions must hold. A key is released as a whole, in order: what waits behind a rejected message goes with it.
    """
    from crossdock_tools.dead_letters.criteria import criteria
    from crossdock_tools.dead_letters.plan import new_plan, write_plan
    from crossdock_tools.dead_letters.services import parking, required_topics

    [known] = parking(service)
    if not reason.strip():
        raise DeadLetterError("a plan needs a reason: say in --reason why")
    wish = _wish(
        edit, migrate=migrate, discard=discard, inject=inject, retry=retry, only_selected=only_selected
    )
    if (from_topic or skip_unfit) and not inject:
        raise DeadLetterError("--from and --skip-unfit are for --inject")
    now = SystemClock().now()
    meant = criteria(
        codes=code or (),
        topics=topic or (),
        keys=key or (),
        since=since,
        until=until,
        where=where or (),
        now=now,
    )
    if not meant.to_json() and not everything:
        raise DeadLetterError(
            "say which messages: --code, --topic, --key, --since, --where, or --all for all of them"
        )
    with reachable_cluster(demo=demo) as cluster:
        broker = cluster.broker()
        required_topics(broker, known)
        admin = broker.admin()
        cluster_id = admin.cluster_id()
        admin.close()
        if inject:
            items, unfit = _injections(cluster, known, cluster_id, meant, from_topic, skip_unfit=skip_unfit)
        else:
            items, unfit = _parked(cluster, known, meant, wish), {}
    made = new_plan(
        service=known,
        cluster=cluster_id,
        operator=operator or getpass.getuser(),
        reason=reason,
        now=now,
        asked_for={
            "do": "inject" if inject else wish.choice,
            **meant.to_json(),
            **({"edit": edit} if edit else {}),
            **({"from": from_topic} if from_topic else {}),
        },
        items=items,
    )
    path = out or Path(f"dlt-{made.plan}.json")
    write_plan(made, path)
    if as_json:
        print(json.dumps({"file": str(path), **made.to_json()}, indent=1))
    else:
        narration.plan(made, path, unfit)


def _wish(
    edit: list[str] | None,
    *,
    migrate: bool,
    discard: bool,
    inject: bool,
    retry: bool | None,
    only_selected: bool,
) -> Wish:
    from crossdock_tools.dead_letters.edits import Assignment
    from crossdock_tools.dead_letters.planning import Wish

    chosen = [
        name
        for name, on in (("edit", bool(edit)), ("migrate", migrate), ("discard", discard), ("inject", inject))
        if on
    ]
    if len(chosen) > 1:
        raise DeadLetterError(f"--{' and --'.join(chosen)} cannot go together: make a plan for each")
    release = retry if retry is not None else not discard
    if not chosen and not release:
        raise DeadLetterError("nothing would be done: --no-retry needs --edit or --migrate")
    choice: Any = chosen[0] if chosen and not inject else "retry"
    return Wish(
        choice=choice,
        assignments=tuple(Assignment.parse(each) for each in edit or ()),
        release=release,
        only_selected=only_selected,
    )


def _parked(cluster: Cluster, service: str, meant: Criteria, wish: Wish) -> list[Item]:
    from crossdock_tools.dead_letters.changelog import read_changelog
    from crossdock_tools.dead_letters.payloads import Payloads
    from crossdock_tools.dead_letters.planning import items_for

    changelog = read_changelog(cluster.broker(), service, wanted=meant.wants_key)
    return items_for(changelog, meant, wish, Payloads(cluster.registry()))


def _injections(
    cluster: Cluster,
    service: str,
    cluster_id: str,
    meant: Criteria,
    from_topic: list[str] | None,
    *,
    skip_unfit: bool,
) -> tuple[list[Item], dict[str, int]]:
    from crossdock_tools.dead_letters.foreign import Reception, injections
    from crossdock_tools.dead_letters.letters import require_topics
    from crossdock_tools.dead_letters.payloads import Payloads
    from crossdock_tools.topic_reader import TopicReader
    from crossdock_tools.topics import group_inputs

    inputs = group_inputs(repository(None))[service]
    topics = from_topic or [names.dead_letter_topic(service)]
    require_topics(cluster.broker(), topics)
    reception = Reception(
        service=service,
        cluster=cluster_id,
        inputs={each.name: each for each in inputs},
        partitions=inputs[0].partitions,
        skip_unfit=skip_unfit,
    )
    reader = TopicReader(cluster.broker(), cluster.registry(), topics)
    try:
        items, unfit = injections(reader.records(), meant, reception, Payloads(cluster.registry()))
        return items, dict(unfit)
    finally:
        reader.close()
