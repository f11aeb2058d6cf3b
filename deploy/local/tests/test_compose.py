"""docker-compose.yml and the Dockerfile: valid by the specification, and in step with the workspace."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
COMPOSE = ROOT / "docker-compose.yml"
SERVICES = sorted(folder.parent.name for folder in (ROOT / "services").glob("*/pyproject.toml"))
SIMULATORS = ("wms", "psp", "erp", "channels")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))


def validate(file: Path) -> subprocess.CompletedProcess[str]:
    """Load a compose file as Docker does, with the specification's own Go library."""
    return subprocess.run(
        ["go", "run", ".", str(file)],
        cwd=Path(__file__).parent / "compose_check",
        capture_output=True,
        text=True,
        check=False,
    )


needs_go = pytest.mark.skipif(
    shutil.which("go") is None, reason="the Compose specification's validator needs Go on PATH"
)


@needs_go
def test_the_file_is_valid_by_the_compose_specification() -> None:
    answer = validate(COMPOSE)
    assert answer.returncode == 0, answer.stderr
    resolved = json.loads(answer.stdout)["services"]
    assert resolved["returns"]["environment"]["KAFKA_BOOTSTRAP_SERVERS"] == "kafka:9092"
    assert resolved["returns"]["build"]["args"] == {"SERVICE": "returns"}


@needs_go
def test_the_validator_refuses_what_the_specification_does_not_know(tmp_path: Path) -> None:
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(COMPOSE.read_text(encoding="utf-8").replace("stop_grace_period:", "stop_grace_time:"))
    answer = validate(wrong)
    assert answer.returncode != 0
    assert "stop_grace_time" in answer.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_of_the_workspace_is_there(project: dict[str, Any], service: str) -> None:
    entry = project["services"][service]
    assert entry["build"] == {"context": ".", "args": {"SERVICE": service}}
    environment = entry["environment"]
    assert {"KAFKA_BOOTSTRAP_SERVERS", "SCHEMA_REGISTRY_URL", "CROSSDOCK_HTTP_PORT"} <= environment.keys()
    assert any(volume.endswith(f":{environment['CROSSDOCK_STATE_DIR']}") for volume in entry["volumes"])
    assert "/readyz" in " ".join(entry["healthcheck"]["test"])
    assert f":{environment['CROSSDOCK_HTTP_PORT']}/readyz" in " ".join(entry["healthcheck"]["test"])
    assert entry["depends_on"]["contracts"] == {"condition": "service_completed_successfully"}


def test_nothing_is_built_that_the_workspace_does_not_have(project: dict[str, Any]) -> None:
    built = {
        name: entry["build"]["args"]["SERVICE"]
        for name, entry in project["services"].items()
        if "build" in entry
    }
    assert {name for name, source in built.items() if source == "simulators"} == set(SIMULATORS)
    assert sorted(set(built.values()) - {"simulators", "tools"}) == SERVICES


def test_addresses_of_simulators_are_where_they_listen(project: dict[str, Any]) -> None:
    listening = {
        f"http://{name}:{project['services'][name]['command'][-1]}"
        for name in SIMULATORS
        if project["services"][name]["command"][3:5] == ["--host", "0.0.0.0"]
    }
    named = {
        address
        for entry in project["services"].values()
        for value in entry.get("environment", {}).values()
        for address in re.findall(r"http://[a-z]+:91\d\d", value)
    }
    assert named == listening


def test_what_is_referred_to_exists(project: dict[str, Any]) -> None:
    for name, entry in project["services"].items():
        assert set(entry.get("depends_on", ())) <= project["services"].keys(), name
        for volume in entry.get("volumes", ()):
            assert volume.split(":")[0] in project["volumes"], name
        for config in entry.get("configs", ()):
            assert config["source"] in project["configs"], name
    for config in project["configs"].values():
        assert (ROOT / config["file"]).is_file()
    used = {v.split(":")[0] for entry in project["services"].values() for v in entry.get("volumes", ())}
    assert used == project["volumes"].keys()


def test_who_is_waited_for_as_healthy_has_a_health_check(project: dict[str, Any]) -> None:
    for name, entry in project["services"].items():
        dependencies = entry.get("depends_on", {})
        for target, rule in dependencies.items() if isinstance(dependencies, dict) else ():
            if rule["condition"] == "service_healthy":
                assert "healthcheck" in project["services"][target], f"{name} waits for {target}"


def test_host_ports_are_on_loopback_and_differ(project: dict[str, Any]) -> None:
    ports = [port for entry in project["services"].values() for port in entry.get("ports", ())]
    published = [re.fullmatch(r"127\.0\.0\.1:\$\{\w+:-(\d+)\}:\d+", port) for port in ports]
    assert all(published), ports
    assert len({match[1] for match in published if match}) == len(ports)


def test_images_are_pinned_to_a_version(project: dict[str, Any]) -> None:
    for name, entry in project["services"].items():
        if "image" in entry:
            assert re.search(r":v?\d+\.\d+\.\d+$", entry["image"]), name


def test_prometheus_watches_every_service() -> None:
    settings = yaml.safe_load((ROOT / "deploy/compose/prometheus.yml").read_text(encoding="utf-8"))
    [job] = settings["scrape_configs"]
    assert sorted(job["static_configs"][0]["targets"]) == [f"{service}:8080" for service in SERVICES]


def test_the_image_installs_only_hashed_requirements_and_runs_as_a_user() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for line in re.findall(r"pip install [^\n]*requirements|pip install [^\n]*runtime\.txt", text):
        assert "--require-hashes" in line
    final = text.rpartition("\nFROM ")[2]
    assert "dev.txt" not in final
    assert re.search(r"^USER (?!root)\w+$", final, re.MULTILINE)
    assert final.index("USER ") > final.rindex("pip install")
