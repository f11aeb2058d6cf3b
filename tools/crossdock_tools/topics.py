"""`crossdock topics`: the catalogue as topics and consumer groups of a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from crossdock_eventing import names
from crossdock_eventing.broker.interface import RECORD_BYTES_MAX, Admin, TopicPartition, TopicSpec
from crossdock_tools.schemas.commands import JsonOption, SchemasOption, repository
from crossdock_tools.schemas.contracts import ContractError, Repository, Topic

app = typer.Typer(help="Create the catalogue's topics and consumer groups.", no_args_is_help=True)

_DAY_MS = 24 * 3600 * 1000
_RETENTION_DAYS = 14
_DEAD_LETTER_DAYS = 90
#: Compacted topics keep tombstones for a week: a store older than that is rebuilt rather than trusted.
_COMPACTED = {
    "cleanup.policy": "compact",
    "delete.retention.ms": str(7 * _DAY_MS),
    "min.cleanable.dirty.ratio": "0.1",
}
_LARGE = {"max.message.bytes": str(RECORD_BYTES_MAX)}


@app.command()
def apply(
    schemas: SchemasOption = None,
    as_json: JsonOption = False,
    replication: Annotated[int, typer.Option(help="Replication factor of new topics.")] = 1,
) -> None:
    """Create what is missing; what exists is compared and never changed. Groups that are new start at the beginning."""
    from crossdock_eventing.broker.confluent import ConfluentBroker
    from crossdock_local.addresses import bootstrap_servers

    found = repository(schemas)
    admin = ConfluentBroker(bootstrap_servers()).admin()
    try:
        report = apply_catalogue(found, admin, replication)
    finally:
        admin.close()
    if as_json:
        print(json.dumps(report, indent=1))
    else:
        print(
            f"{report['created']} topics created, {report['existing']} were there; {report['groups']} consumer groups are ready"
        )


@app.command(name="list")
def list_topics(schemas: SchemasOption = None, as_json: JsonOption = False) -> None:
    """Show the catalogue: topic, owner, key, producers and consumers."""
    topics = repository(schemas).topics.values()
    if as_json:
        rows = [
            {
                "topic": each.name,
                "owner": each.owner,
                "key": each.key,
                "records": each.records,
                "producers": each.producers,
                "consumers": each.consumers,
            }
            for each in topics
        ]
        print(json.dumps(rows, indent=1))
        return
    for each in topics:
        print(
            f"{each.name}  key {'|'.join(each.key)}  {', '.join(each.producers)} -> {', '.join(each.consumers) or 'nobody yet'}"
        )


@app.command()
def manifests(
    out: Annotated[Path, typer.Option(help="Folder to write topics.yaml and users.yaml to.")],
    schemas: SchemasOption = None,
    cluster: Annotated[str, typer.Option(help="Name of the Strimzi Kafka resource.")] = "crossdock",
    replication: Annotated[int, typer.Option(help="Replication factor of the topics.")] = 3,
) -> None:
    """Write the catalogue as Strimzi KafkaTopic and KafkaUser resources."""
    from crossdock_tools.manifests import manifests as texts

    if not out.is_dir():
        raise ContractError(f"{out} is not a folder; create it or name another with --out")
    for name, text in texts(repository(schemas), cluster=cluster, replication=replication).items():
        (out / name).write_text(text)
        print(f"wrote {out / name}")


def apply_catalogue(found: Repository, admin: Admin, replication: int = 1) -> dict[str, int]:
    """Bring a cluster up to the catalogue. Raises ContractError where a topic exists in another shape."""
    specs = topic_specs(found, replication)
    existing = admin.topics()
    for spec in specs:
        if spec.name in existing and admin.partitions(spec.name) != spec.partitions:
            raise ContractError(
                f"{spec.name} has {admin.partitions(spec.name)} partitions, the catalogue says {spec.partitions}; "
                "the count is fixed for life: write a new topic major"
            )
    created = admin.create_topics([spec for spec in specs if spec.name not in existing])
    groups = group_inputs(found)
    for service, topics in groups.items():
        read = {topic.name: topic.partitions for topic in topics}
        read[names.retry_topic(service)] = topics[0].partitions
        partitions = [
            TopicPartition(topic, number) for topic, count in read.items() for number in range(count)
        ]
        known = admin.group_offsets(names.group(service))
        # A topic made just now starts at 0; asking for the ends of a partition that is still electing its leader fails.
        fresh = {
            each: 0 if each.topic in created else admin.watermarks(each).low
            for each in partitions
            if each not in known
        }
        if fresh:
            admin.initialise_group(names.group(service), fresh)
    return {"created": len(created), "existing": len(specs) - len(created), "groups": len(groups)}


def topic_specs(found: Repository, replication: int) -> list[TopicSpec]:
    """Every topic of the catalogue, and the own topics of every service that consumes."""
    specs = []
    for topic in found.topics.values():
        configs = (
            _COMPACTED
            if topic.compacted
            else {"retention.ms": str((topic.retention_days or _RETENTION_DAYS) * _DAY_MS)}
        )
        specs.append(TopicSpec(topic.name, topic.partitions, replication, configs))
    for service, inputs in group_inputs(found).items():
        partitions = inputs[0].partitions
        long = {"retention.ms": str(_DEAD_LETTER_DAYS * _DAY_MS), **_LARGE}
        compacted = {**_COMPACTED, **_LARGE}
        specs.append(TopicSpec(names.changelog_topic(service), partitions, replication, compacted))
        specs.append(TopicSpec(names.dead_letter_topic(service), partitions, replication, long))
        specs.append(TopicSpec(names.retry_topic(service), partitions, replication, long))
        specs.append(TopicSpec(names.replays_topic(service), partitions, replication, long))
        # A journal is worth something for as long as the inputs that it orders are there.
        days = max(topic.retention_days or _RETENTION_DAYS for topic in inputs)
        replayable = {"retention.ms": str(days * _DAY_MS), **_LARGE}
        specs.append(TopicSpec(names.journal_topic(service), partitions, replication, replayable))
    return specs


def group_inputs(found: Repository) -> dict[str, list[Topic]]:
    """The topics that each service reads as a group; tables are read in full by every instance, without one."""
    groups: dict[str, list[Topic]] = {}
    for topic in found.topics.values():
        for service in topic.consumers:
            if not topic.compacted:
                groups.setdefault(service, []).append(topic)
    return groups
