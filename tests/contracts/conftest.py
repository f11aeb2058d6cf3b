"""Copies of the contracts that a test may break."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from crossdock_tools.schemas.contracts import Repository

ROOT = Path(__file__).resolve().parents[2]


class Workspace:
    """A copy of `schemas/` beside the real services: `edit` changes one file, `repository` reads it anew."""

    def __init__(self, folder: Path) -> None:
        self.schemas = folder / "schemas"
        shutil.copytree(ROOT / "schemas", self.schemas)
        (folder / "services").symlink_to(ROOT / "services")

    @property
    def repository(self) -> Repository:
        return Repository(self.schemas)

    def path(self, name: str) -> Path:
        """The file behind a short name: `order/OrderHeld.v1.avsc`, `order/OrderHeld.v1.json`, `retail.x.events.v1.yaml`."""
        folder = {".avsc": "avro", ".json": "examples", ".yaml": "topics"}[Path(name).suffix]
        return self.schemas / folder / name

    def edit(self, name: str, change: Callable[[Any], object], *, save_as: str | None = None) -> None:
        """Change a file in place, or write the changed content beside it."""
        path = self.path(name)
        content = yaml.safe_load(path.read_text()) if path.suffix == ".yaml" else json.loads(path.read_text())
        change(content)
        text = yaml.safe_dump(content) if path.suffix == ".yaml" else json.dumps(content)
        self.path(save_as or name).write_text(text)

    def next_version(self, name: str, change: Callable[[Any], object], **example: Any) -> None:
        """Write `<name>.v2.avsc` as a changed v1, and v1's example with these fields on top as its own."""
        self.edit(f"{name}.v1.avsc", change, save_as=f"{name}.v2.avsc")
        self.edit(f"{name}.v1.json", lambda value: value.update(example), save_as=f"{name}.v2.json")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


_META = json.loads((ROOT / "schemas/avro/order/OrderHeld.v1.avsc").read_text())["fields"][0]


class SmallCatalogue:
    """Two topics and two records of a context that nothing else uses: safe on a cluster that others share.

    The service `<label>-reader` reads the first topic in a group, and the second, a table, in full.
    """

    def __init__(self, folder: Path, label: str) -> None:
        self.label = label
        self.reader = f"{label}-reader"
        self.events, self.table = f"retail.{label}.events.v1", f"retail.{label}.table.v1"
        self._schemas = folder / "schemas"
        self.write_record("PriceSet", {"name": "price", "type": "long", "doc": "Minor units."})
        self.write_record("PriceRow", {"name": "price", "type": "long", "doc": "Minor units."})
        self.write_topic(self.events, "PriceSet")
        self.write_topic(self.table, "PriceRow", compacted=True)

    @property
    def repository(self) -> Repository:
        return Repository(self._schemas)

    def write_record(self, name: str, *fields: Any, version: int = 1) -> None:
        path = self._schemas / "avro" / self.label / f"{name}.v{version}.avsc"
        path.parent.mkdir(parents=True, exist_ok=True)
        own = [{"name": "sku", "type": "string", "doc": "Whose price."}, *fields]
        schema = {
            "type": "record",
            "name": name,
            "namespace": f"retail.{self.label}",
            "doc": "A price.",
            "identity": ["sku"],
            "fields": [_META, *own],
        }
        path.write_text(json.dumps(schema))

    def write_topic(self, name: str, record: str, *, partitions: int = 2, compacted: bool = False) -> None:
        full_name = f"retail.{self.label}.{record}"
        topic = {
            "topic": name,
            "owner": "pricing",
            "description": "Prices.",
            "key": ["sku"],
            "partitions": partitions,
            "cleanup": "compact" if compacted else "delete",
            "records": [full_name],
            "producers": [f"{self.label}-writer"],
            "consumers": {self.reader: [full_name]},
            "personal_data": [],
        }
        path = self._schemas / "topics" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(topic))


@pytest.fixture
def small_catalogue(tmp_path: Path, request: pytest.FixtureRequest) -> SmallCatalogue:
    # Letters only, as a topic's name demands; the test's own, as the cluster may be shared.
    label = "".join(letter for letter in request.node.name.lower() if "a" <= letter <= "z")[-40:]
    return SmallCatalogue(tmp_path, label)
