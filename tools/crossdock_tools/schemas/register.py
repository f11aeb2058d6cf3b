"""Register the contracts: `crossdock schemas register`, at deploy time; services never do."""

from __future__ import annotations

import json

from crossdock_eventing import names
from crossdock_eventing.registry import RegistryWriter
from crossdock_tools.schemas.contracts import Contract, ContractError, Repository

EVENTS = "FULL_TRANSITIVE"
STATES = "BACKWARD_TRANSITIVE"


def subject_of(repository: Repository, contract: Contract) -> str:
    """TopicRecordNameStrategy: `<topic>-<full name>`; a state's topic is the changelog of its service."""
    if contract.is_state:
        return f"{names.changelog_topic(contract.context)}-{contract.full_name}"
    topic = repository.topic_of.get(contract.full_name)
    if topic is None:
        raise ContractError(f"{contract.full_name} is on no topic; add it to a file in schemas/topics")
    return f"{topic.name}-{contract.full_name}"


def register_all(repository: Repository, url: str) -> dict[str, int]:
    """Register every version of every contract, oldest first. Raises ContractError naming what the registry refused."""
    try:
        writer = RegistryWriter(url)
    except ValueError as error:
        raise ContractError(
            f"{url} is no address of a schema registry ({error}); check SCHEMA_REGISTRY_URL"
        ) from None
    subjects: set[str] = set()
    for contract in repository.contracts:
        subject = subject_of(repository, contract)
        try:
            if subject not in subjects:
                writer.require_compatibility(subject, STATES if contract.is_state else EVENTS)
                subjects.add(subject)
            writer.register(subject, json.dumps(contract.schema))
        except ValueError as refused:
            raise ContractError(f"{contract.path.name}: the registry refused it: {refused}") from None
    return {"subjects": len(subjects), "versions": len(repository.contracts)}
