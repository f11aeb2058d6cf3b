"""deploy/k8s: every overlay renders, fits the Kubernetes and Strimzi types, and is in step with the workspace."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "deploy" / "k8s"
OVERLAYS = sorted(path.parent.name for path in K8S.glob("overlays/*/kustomization.yaml"))
SERVICES = sorted(path.parent.name for path in (ROOT / "services").glob("*/pyproject.toml"))
EDGE = "channel-gateway"
UID = 10001

# What Strimzi's custom resource definitions, version v1, say of the parts that we write; nothing else is allowed here.
_METADATA = {
    "type": "object",
    "required": ["name", "labels"],
    "properties": {"name": {"pattern": r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 253}},
}
_OPERATIONS = ["Read", "Write", "Create", "Delete", "Alter", "Describe", "ClusterAction", "AlterConfigs",
               "DescribeConfigs", "IdempotentWrite", "All"]  # fmt: skip
_ACL = {
    "type": "object",
    "required": ["resource", "operations"],
    "additionalProperties": False,
    "properties": {
        "type": {"enum": ["allow", "deny"]},
        "host": {"type": "string"},
        "operations": {"type": "array", "minItems": 1, "items": {"enum": _OPERATIONS}},
        "resource": {
            "type": "object",
            "required": ["type"],
            "additionalProperties": False,
            "properties": {
                "type": {"enum": ["topic", "group", "cluster", "transactionalId"]},
                "name": {"type": "string"},
                "patternType": {"enum": ["literal", "prefix"]},
            },
        },
    },
}
_STRIMZI = {
    "KafkaTopic": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "partitions": {"type": "integer", "minimum": 1},
            "replicas": {"type": "integer", "minimum": 1, "maximum": 32767},
            "config": {"type": "object"},
            "topicName": {"type": "string"},
        },
    },
    "KafkaUser": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "authentication": {
                "type": "object",
                "required": ["type"],
                "properties": {"type": {"enum": ["tls", "tls-external", "scram-sha-512"]}},
            },
            "authorization": {
                "type": "object",
                "required": ["type", "acls"],
                "additionalProperties": False,
                "properties": {"type": {"enum": ["simple"]}, "acls": {"type": "array", "items": _ACL}},
            },
        },
    },
}


def render(folder: Path) -> subprocess.CompletedProcess[str]:
    """Render with kustomize's own library and decode every object strictly into its API type."""
    return subprocess.run(
        ["go", "run", ".", str(folder)],
        cwd=Path(__file__).parent / "manifest_check",
        capture_output=True,
        text=True,
        check=False,
    )


needs_go = pytest.mark.skipif(
    shutil.which("go") is None, reason="rendering and the Kubernetes API types need Go on PATH"
)


@pytest.fixture(scope="module", params=OVERLAYS)
def objects(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """Every object of one overlay."""
    if shutil.which("go") is None:
        pytest.skip("rendering needs Go on PATH")
    answer = render(K8S / "overlays" / request.param)
    assert answer.returncode == 0, answer.stderr
    return [json.loads(line) for line in answer.stdout.splitlines()]


def of_kind(objects: list[dict[str, Any]], *kinds: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in objects if each["kind"] in kinds}


def pods(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Pod specs by workload name."""
    found = of_kind(objects, "StatefulSet", "Deployment", "Job")
    return {name: each["spec"]["template"]["spec"] for name, each in found.items()}


@needs_go
def test_a_misspelt_field_is_refused(tmp_path: Path) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    patch = tmp_path / "k8s" / "services" / "stateful-service.patch.yaml"
    patch.write_text(patch.read_text().replace("readOnlyRootFilesystem", "readOnlyRootFileSystem"))
    answer = render(tmp_path / "k8s" / "overlays" / "single")
    assert answer.returncode != 0
    assert "readOnlyRootFileSystem" in answer.stderr


@pytest.mark.parametrize("path", sorted(K8S.glob("**/kustomization.yaml")), ids=lambda p: p.parent.name)
def test_every_manifest_is_listed_and_every_listed_one_exists(path: Path) -> None:
    kustomization = yaml.safe_load(path.read_text())
    listed = {
        *kustomization["resources"],
        *(p["path"] for p in kustomization.get("patches", ()) if "path" in p),
    }
    missing = [name for name in listed if not (path.parent / name).exists()]
    forgotten = {p.name for p in path.parent.glob("*.yaml")} - listed - {"kustomization.yaml"}
    assert (missing, forgotten) == ([], set()), f"{path}: lists {missing} in vain and forgets {forgotten}"


def test_names_are_unique(objects: list[dict[str, Any]]) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(names) == len(set(names))


def test_every_service_runs_once(objects: list[dict[str, Any]]) -> None:
    assert sorted(of_kind(objects, "StatefulSet")) == [name for name in SERVICES if name != EDGE]
    assert sorted(of_kind(objects, "Deployment")) == [EDGE]
    for name in SERVICES:
        assert name in of_kind(objects, "Service"), f"{name} needs a Service"
        assert name in of_kind(objects, "PodDisruptionBudget"), f"{name} needs a PodDisruptionBudget"


def test_images_are_those_that_compose_builds(objects: list[dict[str, Any]]) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    built = {f"{compose['name']}-{name}" for name, each in compose["services"].items() if "build" in each}
    for name, pod in pods(objects).items():
        for container in pod["containers"]:
            assert container["image"].split(":")[0] in built, (
                f"{name}: {container['image']} is built by nobody"
            )


def test_selectors_find_their_pods(objects: list[dict[str, Any]]) -> None:
    workloads = of_kind(objects, "StatefulSet", "Deployment")
    labels = {name: each["spec"]["template"]["metadata"]["labels"] for name, each in workloads.items()}
    for each in objects:
        if each["kind"] == "Service":
            selector = each["spec"]["selector"]
        elif each["kind"] in ("StatefulSet", "Deployment", "PodDisruptionBudget"):
            selector = each["spec"]["selector"]["matchLabels"]
        else:
            continue
        found = [name for name, has in labels.items() if selector.items() <= has.items()]
        assert found == [each["metadata"]["name"]], (
            f"{each['kind']} {each['metadata']['name']} selects {found}"
        )


def test_ports_and_probes_meet(objects: list[dict[str, Any]]) -> None:
    services = of_kind(objects, "Service")
    for name in SERVICES:
        [container] = pods(objects)[name]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        environment = {each["name"]: each.get("value") for each in container["env"]}
        variable = "CROSSDOCK_GATEWAY_PORT" if name == EDGE else "CROSSDOCK_HTTP_PORT"
        assert environment[variable] == str(ports["http"]), f"{name} listens elsewhere than it says"
        for probe, path in (
            ("startupProbe", "/livez"),
            ("livenessProbe", "/livez"),
            ("readinessProbe", "/readyz"),
        ):
            assert container[probe]["httpGet"] == {"path": path, "port": "http"}, f"{name}: {probe}"
        assert [port["targetPort"] for port in services[name]["spec"]["ports"]] == ["http"]
        annotations = of_kind(objects, "StatefulSet", "Deployment")[name]["spec"]["template"]["metadata"][
            "annotations"
        ]
        assert annotations["prometheus.io/port"] == str(ports["http"])


def test_nothing_runs_as_root_or_writes_to_its_image(objects: list[dict[str, Any]]) -> None:
    image_user = re.search(r"useradd .*--uid (\d+)", (ROOT / "Dockerfile").read_text())
    assert image_user is not None
    assert int(image_user[1]) == UID
    for name, pod in pods(objects).items():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] == UID, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert {"requests", "limits"} <= container["resources"].keys(), name


def test_state_is_on_a_volume_of_the_instance(objects: list[dict[str, Any]]) -> None:
    for name, workload in of_kind(objects, "StatefulSet").items():
        pod = workload["spec"]["template"]["spec"]
        [container] = pod["containers"]
        [claim] = workload["spec"]["volumeClaimTemplates"]
        environment = {each["name"]: each for each in container["env"]}
        mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        assert mounts[claim["metadata"]["name"]] == environment["CROSSDOCK_STATE_DIR"]["value"], name
        assert pod["securityContext"]["fsGroup"] == UID, f"{name} could not write to its volume"
        ordinal = environment["CROSSDOCK_ORDINAL"]["valueFrom"]["fieldRef"]["fieldPath"]
        assert ordinal == "metadata.labels['apps.kubernetes.io/pod-index']", name
        assert pod["terminationGracePeriodSeconds"] >= 20, name


def test_config_maps_exist_and_carry_the_addresses(objects: list[dict[str, Any]]) -> None:
    maps = of_kind(objects, "ConfigMap")
    for name, pod in pods(objects).items():
        for container in pod["containers"]:
            referred = [
                each["configMapRef"]["name"] for each in container["envFrom"] if "configMapRef" in each
            ]
            data = {key: value for each in referred for key, value in maps[each]["data"].items()}
            assert {"KAFKA_BOOTSTRAP_SERVERS", "SCHEMA_REGISTRY_URL"} <= data.keys(), name
            assert isinstance(json.loads(data["CROSSDOCK_ERP_POSTER_ERPS"]), dict), name


def test_strimzi_resources_fit_their_definition(objects: list[dict[str, Any]]) -> None:
    for each in objects:
        if each["kind"] in _STRIMZI:
            jsonschema.validate(each["metadata"], _METADATA)
            jsonschema.validate(each["spec"], _STRIMZI[each["kind"]])
            assert each["metadata"]["labels"]["strimzi.io/cluster"] == "crossdock"


def test_topics_have_the_replicas_that_the_contracts_job_asks_for(objects: list[dict[str, Any]]) -> None:
    [settings] = of_kind(objects, "ConfigMap").values()
    replicas = {each["spec"]["replicas"] for each in of_kind(objects, "KafkaTopic").values()}
    assert replicas <= {int(settings["data"]["CROSSDOCK_REPLICATION"])}
