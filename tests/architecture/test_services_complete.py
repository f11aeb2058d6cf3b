"""A service is its folder, its image, its manifest, its lines in the catalogue and in the README: nothing may be missing.

For a new service the failure lists what is still to be done.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import yaml

from crossdock_tools.schemas.contracts import Repository

ROOT = Path(__file__).resolve().parents[2]
SERVICES = sorted(path.name for path in (ROOT / "services").iterdir() if path.is_dir())
EDGE = "channel-gateway"


def missing(root: Path, name: str) -> list[str]:
    """What the service `name` still needs in the repository at `root`, in words."""
    folder = root / "services" / name
    package = f"crossdock_{name.replace('-', '_')}"
    modules = ["__init__.py", "__main__.py", "settings.py", "py.typed"] + (
        [] if name == EDGE else ["service.py"]
    )
    wanted = {
        f"services/{name}/{package}/{module}": (folder / package / module).exists() for module in modules
    }
    wanted[f"services/{name}/tests/test_*.py"] = any(folder.glob("tests/**/test_*.py"))

    project = folder / "pyproject.toml"
    said = tomllib.loads(project.read_text())["project"]["name"] if project.exists() else None
    wanted[f"services/{name}/pyproject.toml, named crossdock-{name}"] = said == f"crossdock-{name}"

    compose = yaml.safe_load((root / "docker-compose.yml").read_text())["services"]
    wanted[f"an entry {name} in docker-compose.yml"] = name in compose
    kustomization = yaml.safe_load((root / "deploy/k8s/services/kustomization.yaml").read_text())
    wanted[f"deploy/k8s/services/{name}.yaml, listed in its kustomization.yaml"] = (
        f"{name}.yaml" in kustomization["resources"]
        and (root / "deploy/k8s/services" / f"{name}.yaml").exists()
    )
    wanted[f"a row | `{name}` | in the service table of README.md"] = (
        f"| `{name}` |" in (root / "README.md").read_text()
    )
    lint = (root / ".importlinter").read_text()
    wanted[f"{package} in the contracts of .importlinter"] = lint.count(package) >= 3
    mypy = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["mypy"]["mypy_path"]
    wanted[f"services/{name} in mypy_path of pyproject.toml"] = f"services/{name}" in mypy.split(":")

    catalogue = Repository(root / "schemas").topics.values()
    wanted["a consumer's lines in schemas/topics"] = any(name in topic.consumers for topic in catalogue)
    wanted["a producer's line in schemas/topics"] = any(name in topic.producers for topic in catalogue)
    return [what for what, is_there in wanted.items() if not is_there]


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_is_missing(name: str) -> None:
    gaps = missing(ROOT, name)
    assert not gaps, f"the service {name} still needs:\n  " + "\n  ".join(gaps)


def test_a_service_that_was_only_begun_is_told_all_of_it() -> None:
    gaps = missing(ROOT, "price-watcher")
    assert len(gaps) == 14
    assert "services/price-watcher/crossdock_price_watcher/service.py" in gaps
    assert "deploy/k8s/services/price-watcher.yaml, listed in its kustomization.yaml" in gaps
    assert "a consumer's lines in schemas/topics" in gaps


def test_nobody_in_the_catalogue_is_unknown() -> None:
    for topic in Repository(ROOT / "schemas").topics.values():
        strangers = ({*topic.producers} | {*topic.consumers}) - {*SERVICES}
        assert not strangers, (
            f"schemas/topics/{topic.name}.yaml names {sorted(strangers)}: no such folder in services/"
        )
