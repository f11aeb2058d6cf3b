"""The house rules that no linter knows. Each failure says what to do."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICES = sorted(path.parent for path in (ROOT / "services").glob("*/pyproject.toml"))
EDGE = "channel-gateway"
LINES_MAX, TEST_LINES_MAX = 700, 1_200  # a test module is a list of cases, read one at a time
GENERATED = re.compile(r"libs/canonical/crossdock_canonical/records/|/state_records\.py$")

# Modules of a service that may know the shell, the settings library or a client. The gateway is an edge and has no core.
_SHELLS = {"__main__.py", "service.py", "settings.py", "port.py", "lanes.py", "erp_api.py"}
_CLIENT_USERS = {  # a folder ends in a slash
    "libs/eventing/crossdock_eventing/broker/confluent/",
    "libs/eventing/crossdock_eventing/registry.py",
    "deploy/local/crossdock_local/broker.py",
    "deploy/local/crossdock_local/registry/log.py",
}


def tracked_files() -> list[Path]:
    """Every file of the repository: git's word, so that caches and virtual environments do not count."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def files() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    return tracked_files()


def core_modules() -> list[Path]:
    """Every module of a service that decides and evolves: what is pure."""
    return [
        path
        for folder in SERVICES
        if folder.name != EDGE
        for path in sorted(package_of(folder).glob("**/*.py"))
        if path.name not in _SHELLS
    ]


def package_of(folder: Path) -> Path:
    return folder / f"crossdock_{folder.name.replace('-', '_')}"


def imported(tree: ast.AST) -> Iterator[str]:
    """Top-level name of everything that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def impurities(tree: ast.AST) -> list[str]:
    """Calls of a clock or a source of chance, with their line."""
    clocks = {
        "now",
        "utcnow",
        "today",
        "time",
        "monotonic",
        "perf_counter",
        "time_ns",
        "uuid1",
        "uuid4",
        "urandom",
    }
    owners = {"datetime", "date", "time", "uuid", "os"}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in clocks and isinstance(node.value, ast.Name):
            if node.value.id in owners:
                found.append(f"line {node.lineno}: {node.value.id}.{node.attr}")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", "") or ""}
            chance = names & {"random", "secrets", "uuid1", "uuid4", "monotonic", "perf_counter"}
            found += [f"line {node.lineno}: {name}" for name in sorted(chance)]
    return found


def floats(tree: ast.AST) -> list[str]:
    """Float literals and annotations, with their line; a name that ends in `_s` is seconds and may be one."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, float):
            found.append(f"line {node.lineno}: {node.value}")
        name, annotation = "", None
        if isinstance(node, ast.arg):
            name, annotation = node.arg, node.annotation
        elif isinstance(node, ast.AnnAssign):
            name, annotation = ast.unparse(node.target), node.annotation
        elif isinstance(node, ast.FunctionDef):
            name, annotation = node.name, node.returns
        if (
            annotation is not None
            and not name.endswith("_s")
            and re.search(r"\bfloat\b", ast.unparse(annotation))
        ):
            found.append(f"line {getattr(node, 'lineno', 0)}: {name}: {ast.unparse(annotation)}")
    return found


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", core_modules(), ids=relative)
def test_a_core_knows_only_itself_and_the_canonical_model(path: Path) -> None:
    allowed = sys.stdlib_module_names | {"crossdock_canonical", path.relative_to(ROOT).parts[2]}
    foreign = set(imported(parsed(path))) - allowed
    assert not foreign, (
        f"{relative(path)} is core and imports {sorted(foreign)}; move that to service.py or a port"
    )


@pytest.mark.parametrize("path", core_modules(), ids=relative)
def test_a_core_has_no_clock_and_no_chance(path: Path) -> None:
    found = impurities(parsed(path))
    assert not found, (
        f"{relative(path)}: {found}; time is the argument `now`, ids are computed from their cause"
    )


@pytest.mark.parametrize(
    "path", sorted((ROOT / "libs/canonical/crossdock_canonical").glob("**/*.py")), ids=relative
)
def test_the_canonical_model_has_no_float(path: Path) -> None:
    found = floats(parsed(path))
    assert not found, f"{relative(path)}: {found}; money and quantities are integers of minor or base units"


def test_no_contract_has_a_float() -> None:
    found = [
        relative(path)
        for path in sorted((ROOT / "schemas/avro").glob("**/*.avsc"))
        if re.search(r'"(double|float)"', path.read_text(encoding="utf-8"))
    ]
    assert not found, f"{found}: use long minor units with a currency, or long base units"


def test_only_the_broker_and_the_registry_import_the_kafka_client(files: list[Path]) -> None:
    users = {
        relative(path)
        for path in files
        if path.suffix == ".py" and "tests" not in path.relative_to(ROOT).parts
        if "confluent_kafka" in imported(parsed(path))
    }
    strangers = {user for user in users if not user.startswith(tuple(_CLIENT_USERS))}
    assert not strangers, (
        f"{sorted(strangers)}: use crossdock_eventing.broker.interface instead of the client"
    )


def test_no_module_is_long(files: list[Path]) -> None:
    long = {}
    for path in files:
        if path.suffix == ".py" and not GENERATED.search(relative(path)):
            lines = len(path.read_text(encoding="utf-8").splitlines())
            if lines > (TEST_LINES_MAX if "tests" in path.parts else LINES_MAX):
                long[relative(path)] = lines
    assert not long, f"{long}: more lines than one reads; split by concern"


def test_no_package_is_a_drawer(files: list[Path]) -> None:
    drawers = {"utils", "util", "common", "helpers", "misc", "shared"}
    found = [
        relative(path)
        for path in files
        if path.suffix == ".py" and not GENERATED.search(relative(path))
        if drawers & {part.removesuffix(".py") for part in path.relative_to(ROOT).parts}
    ]
    assert not found, f"{found}: name a module after what it does"


def test_no_file_names_an_index_or_a_package_registry(files: list[Path]) -> None:
    """Pinned by hash, fetched from wherever this machine is set up to fetch: addresses would bind the repository to one."""
    hosts = re.compile("|".join(map(re.escape, ("pypi" + ".org", "python" + "hosted.org", "npm" + "js.org", "proxy." + "golang.org",
                                                "repo1." + "maven", "repo." + "maven", "crates" + ".io"))))  # fmt: skip
    options = re.compile(r"^\s*(--index-url|--extra-index-url|--find-links|-i|-f)\b", re.MULTILINE)
    found = []
    for path in files:
        text = path.read_bytes().decode(errors="ignore")
        is_requirements = path.parent.name == "requirements"
        if hosts.search(text) or (is_requirements and (options.search(text) or "://" in text)):
            found.append(relative(path))
    assert not found, f"{found}: remove the address"


def test_every_requirement_is_pinned_with_a_hash() -> None:
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        entries = re.split(r"\n(?=[A-Za-z0-9])", path.read_text(encoding="utf-8"))
        loose = [
            entry.splitlines()[0]
            for entry in entries
            if re.match(r"[A-Za-z0-9]", entry) and not ("==" in entry and "--hash=sha256:" in entry)
        ]
        assert not loose, f"{relative(path)}: {loose}; run `make lock`"


# The rules can see: each finds what it is for.


def test_the_rules_find_what_they_are_for() -> None:
    source = "import random\nfrom uuid import uuid4\nimport datetime\nx = datetime.now()\nimport crossdock_eventing.clock"
    tree = ast.parse(source)
    assert set(imported(tree)) == {"random", "uuid", "datetime", "crossdock_eventing"}
    assert len(impurities(tree)) == 3
    assert floats(ast.parse("price: float\nwait_s: float\ndef total(x: float) -> int: return 1.5 * x"))[:1]
    assert not floats(ast.parse("wait_s: float\nminor: int = 3"))
