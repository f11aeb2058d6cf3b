"""The files that the contracts and the catalogue are turned into are the ones checked in."""

from __future__ import annotations

import pytest

from crossdock_tools.manifests import TOOLS_USER, manifests, service_names, service_rights
from crossdock_tools.schemas.contracts import Repository, find_schemas
from crossdock_tools.schemas.generate import generated_files

REPOSITORY = Repository(find_schemas())
ROOT = REPOSITORY.root.parent
STRIMZI = ROOT / "deploy/k8s/overlays/strimzi"


@pytest.mark.parametrize(
    ("name", "text"), generated_files(REPOSITORY).items(), ids=lambda value: str(value)[:80]
)
def test_a_python_module_is_what_its_contracts_say(name: object, text: str) -> None:
    checked_in = (ROOT / str(name)).read_text()
    assert checked_in == text, f"{name} is not what the contracts say; run `crossdock schemas generate`"


def test_no_generated_module_is_left_over() -> None:
    written = {ROOT / name for name in generated_files(REPOSITORY)}
    there = {
        *ROOT.glob("libs/canonical/crossdock_canonical/records/*.py"),
        *ROOT.glob("services/*/*/state_records.py"),
    }
    assert there == written


@pytest.mark.parametrize("name", ["topics.yaml", "users.yaml"])
def test_strimzi_resources_are_what_the_catalogue_says(name: str) -> None:
    text = manifests(REPOSITORY, cluster="crossdock", replication=3)[name]
    assert (STRIMZI / name).read_text() == text, (
        f"run `crossdock topics manifests --out {STRIMZI.relative_to(ROOT)}`"
    )


def allowed(service: str, operation: str, kind: str = "topic") -> set[str]:
    return {
        each["resource"]["name"]
        for each in service_rights(REPOSITORY, service)
        if each["resource"]["type"] == kind and operation in each["operations"]
    }


@pytest.mark.parametrize("service", service_names(REPOSITORY))
def test_a_service_may_do_what_the_catalogue_says_and_no_more(service: str) -> None:
    topics = REPOSITORY.topics.values()
    own = {f"retail.{service}.{kind}" for kind in ("changelog", "dlt", "journal", "replays", "retry")}
    reads = {topic.name for topic in topics if service in topic.consumers}
    writes = {topic.name for topic in topics if service in topic.producers}
    assert allowed(service, "Read") - own == reads
    assert allowed(service, "Write") - own == writes
    assert f"retail.{service}.changelog" in allowed(service, "Read") & allowed(service, "Write")
    assert f"retail.{service}.dlt" in allowed(service, "Write")
    assert f"retail.{service}.retry" in allowed(service, "Read")
    assert {f"retail.{service}.journal", f"retail.{service}.replays"} <= allowed(service, "Write")
    assert allowed(service, "Read", "group") == {f"retail.{service}", "crossdock."}
    assert allowed(service, "Write", "transactionalId") == {f"retail.{service}."}


def test_no_service_may_create_or_delete() -> None:
    for service in service_names(REPOSITORY):
        operations = {each for right in service_rights(REPOSITORY, service) for each in right["operations"]}
        assert operations <= {"Read", "Write", "Describe", "DescribeConfigs"}
    assert TOOLS_USER not in service_names(REPOSITORY)
