"""Every code with which something is refused stands in a catalogue of reasons, and every reason there is told by the code.

A code is followed back from where it is told (a rejection, a dead letter, an event of refusal), through the parameters and values
that carry it, to the text that it is. One that is put together at run time cannot be looked up by anybody, and fails here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, get_args

import pytest
import yaml
from typer.main import get_command

from crossdock_tools.main import app
from crossdock_tools.reasons import DEAD_LETTER, PAGE, Reason, Remedy, Severity, catalogue, page
from crossdock_tools.schemas.contracts import Repository, find_schemas

ROOT = Path(__file__).resolve().parents[2]
SHELL = ROOT / "libs/eventing/crossdock_eventing"
CANONICAL = ROOT / "libs/canonical/crossdock_canonical"
SERVICES = {
    path.parent.name: path.parent / f"crossdock_{path.parent.name.replace('-', '_')}"
    for path in sorted((ROOT / "services").glob("*/pyproject.toml"))
}
TEAMS = {topic.owner for topic in Repository(find_schemas()).topics.values()} | {"event-platform"}


class Sink(NamedTuple):
    """A call that tells a code: which of its arguments it is, and what tells of it."""

    position: int | None
    keyword: str
    told_by: str


#: Where codes come to light, by the module that a name is imported from.
SINKS: Mapping[tuple[str, str], Sink] = {
    ("crossdock_canonical.decider", "Rejected"): Sink(0, "code", DEAD_LETTER),
    ("crossdock_eventing.codec", "Undecodable"): Sink(0, "code", DEAD_LETTER),
    ("crossdock_eventing.deadletter", "dead_letter_headers"): Sink(None, "code", DEAD_LETTER),
    ("crossdock_canonical.records", "SettlementRefused"): Sink(None, "reason_code", "SettlementRefused"),
    ("crossdock_canonical.records", "ErpDocumentFailed"): Sink(None, "code", "ErpDocumentFailed"),
}


@dataclass(frozen=True)
class Told:
    """A code in the source, and what tells of it."""

    code: str
    told_by: str


Function = ast.FunctionDef | ast.AsyncFunctionDef


class Scan:
    """The codes of one package: `told`; and what hides a code from this scan: `hidden`, with place and reason."""

    def __init__(self, modules: Mapping[str, str]) -> None:
        """`modules`: source text by dotted name."""
        self.told: set[Told] = set()
        self.hidden: set[str] = set()
        self._trees = {name: ast.parse(text) for name, text in modules.items()}
        self._constants: dict[str, set[str]] = {}
        for tree in self._trees.values():
            for name, text in constants(tree):
                self._constants.setdefault(name, set()).add(text)
        self._classes = {
            node.name: [field.target.id for field in node.body if isinstance(field, ast.AnnAssign)]
            for tree in self._trees.values()
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
        }
        self._carriers: dict[str, Sink] = {}  # our own functions and values that a code passes through
        self._grew = True
        while self._grew:
            self._grew = False
            for name, tree in self._trees.items():
                self._scan(name, tree)

    def _scan(self, module: str, tree: ast.Module) -> None:
        sinks = {name: sink for (home, name), sink in SINKS.items() if home == module}
        for node in ast.walk(tree):
            for alias in node.names if isinstance(node, ast.ImportFrom) else ():
                sink = SINKS.get((node.module or "", alias.name))
                if sink is not None:
                    sinks[alias.name] = sink
                    if alias.asname is not None:
                        self.hidden.add(f"{module}:{node.lineno}: {alias.name} goes by another name")
        # An event is data and goes many ways; only what stops a message is told by calling it.
        self._find_values(module, tree, {name for name, sink in sinks.items() if sink.told_by == DEAD_LETTER})
        for function, call in calls(tree):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            sink = sinks.get(name) or self._carriers.get(name)
            if sink is not None:
                self._follow(module, function, argument(call, sink), sink, call.lineno)

    def _follow(
        self, module: str, function: Function | None, given: ast.expr | None, sink: Sink, line: int
    ) -> None:
        match given:
            case ast.Constant(value=str(code)):
                self.told.add(Told(code, sink.told_by))
            case ast.IfExp():
                self._follow(module, function, given.body, sink, line)
                self._follow(module, function, given.orelse, sink, line)
            case ast.Name(id=name) if function is not None and name in {*parameters(function)} - assigned(
                function
            ):
                names = [each for each in parameters(function) if each not in ("self", "cls")]
                self._carry(function.name, Sink(names.index(name), name, sink.told_by))
            case ast.Name(id=name) if len(self._constants.get(name, ())) == 1:
                self.told |= {Told(code, sink.told_by) for code in self._constants[name]}
            case ast.Attribute(value=ast.Name(id=name), attr="code") if function is not None:
                if name in caught(function):
                    return  # a code that was followed where it was raised
                named = classes_of(name, function)
                if named & {each for _, each in SINKS}:
                    return  # likewise
                kinds = [kind for kind in named if "code" in self._classes.get(kind, ())]
                for kind in kinds:
                    self._carry(kind, Sink(self._classes[kind].index("code"), "code", sink.told_by))
                if not kinds:
                    self.hidden.add(f"{module}:{line}: nothing says what {name} is")
            case _:
                text = ast.unparse(given) if given is not None else "nothing"
                self.hidden.add(f"{module}:{line}: the code is {text}: write it out where it is told")

    def _carry(self, name: str, sink: Sink) -> None:
        self._grew = self._grew or name not in self._carriers
        self._carriers[name] = sink

    def _find_values(self, module: str, tree: ast.Module, sinks: set[str]) -> None:
        """A sink that is handed around, or has subclasses, would be called where this scan does not see it."""
        seen = {id(call.func) for _, call in calls(tree)}
        for node in ast.walk(tree):
            plain: list[ast.AST | None] = []
            if isinstance(node, ast.ExceptHandler):
                plain = [node.type]
            elif isinstance(node, Function):
                plain = [node.returns]
            elif isinstance(node, ast.arg | ast.AnnAssign):
                plain = [node.annotation]
            elif isinstance(node, ast.keyword) and node.arg == "rejected":
                plain = [node.value]  # composition: the shell is told which type it is
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
                plain = [node.args[1]]
            elif isinstance(node, ast.MatchClass):
                plain = [node.cls]
            seen |= {id(part) for each in plain if each is not None for part in ast.walk(each)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and node.id in sinks and id(node) not in seen:
                self.hidden.add(f"{module}:{node.lineno}: {node.id} is handed on instead of called")


def calls(tree: ast.AST, function: Function | None = None) -> Iterator[tuple[Function | None, ast.Call]]:
    """Every call, with the innermost function that it stands in."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Call):
            yield function, node
        yield from calls(node, node if isinstance(node, Function) else function)


def constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Names of the module that stand for a text."""
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            match node.value:
                case ast.Constant(value=str(text)):
                    yield from ((each.id, text) for each in targets if isinstance(each, ast.Name))


def parameters(function: Function) -> list[str]:
    given = function.args
    return [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]


def assigned(function: Function) -> set[str]:
    return {
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def argument(call: ast.Call, sink: Sink) -> ast.expr | None:
    for keyword in call.keywords:
        if keyword.arg == sink.keyword:
            return keyword.value
    if sink.position is not None and len(call.args) > sink.position:
        return call.args[sink.position]
    return None


def caught(function: Function) -> set[str | None]:
    return {node.name for node in ast.walk(function) if isinstance(node, ast.ExceptHandler)}


def classes_of(name: str, function: Function) -> set[str]:
    """What the function itself says that `name` may be: by annotation, or by asking."""
    said: list[ast.AST | None] = []
    for node in ast.walk(function):
        named = node.arg if isinstance(node, ast.arg) else None
        if isinstance(node, ast.AnnAssign):
            named = ast.unparse(node.target)
        if named == name:
            said.append(node.annotation)
        elif (
            isinstance(node, ast.Call)
            and node.args
            and ast.unparse(node.func) == "isinstance"
            and ast.unparse(node.args[0]) == name
        ):
            said.append(node.args[1])
    return {part.id for each in said if each for part in ast.walk(each) if isinstance(part, ast.Name)}


#: A replay tells again what stands in a journal: every code in it was told when it was written.
_RETELLS = SHELL / "replay.py"


def scan(package: Path) -> Scan:
    sources = {
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(package.glob("**/*.py"))
        if "records" not in path.relative_to(package).parts
        and path.name != "state_records.py"
        and path != _RETELLS
    }
    return Scan({name: path.read_text(encoding="utf-8") for name, path in sources.items()})


def business() -> dict[str, Reason]:
    return {code: each for code, each in catalogue().items() if each.service is not None}


def shell() -> dict[str, Reason]:
    return {code: each for code, each in catalogue().items() if each.service is None}


@pytest.mark.parametrize("service", SERVICES)
def test_what_a_service_refuses_has_its_reasons(service: str) -> None:
    found = scan(SERVICES[service])
    assert not found.hidden, found.hidden
    known = {Told(code, each.told_by) for code, each in business().items() if each.service == service}
    assert found.told <= known, f"not in {CANONICAL.name}/reasons.yaml under {service}: {found.told - known}"
    assert known <= found.told, f"nothing in {service} tells {known - found.told}"


def test_what_the_shell_refuses_has_its_reasons() -> None:
    found = scan(SHELL)
    assert not found.hidden, found.hidden
    known = {Told(code, each.told_by) for code, each in shell().items()}
    assert found.told <= known, f"not in {SHELL.name}/reasons.yaml: {found.told - known}"
    assert known <= found.told, f"nothing in the shell tells {known - found.told}"


def test_each_catalogue_is_beside_its_code() -> None:
    assert set(yaml.safe_load((SHELL / "reasons.yaml").read_text())) == set(shell())
    assert set(yaml.safe_load((CANONICAL / "reasons.yaml").read_text())) == set(business())
    assert {each.service for each in business().values()} <= set(SERVICES)
    assert not scan(CANONICAL).told, "the canonical model decides nothing"


@pytest.mark.parametrize("found", catalogue().values(), ids=lambda each: each.code)
def test_a_reason_is_whole(found: Reason) -> None:
    assert re.fullmatch(r"[a-z]+\.[a-z]+(_[a-z]+)*", found.code)
    assert found.owner in TEAMS, f"no topic belongs to {found.owner}"
    assert found.severity in get_args(Severity)
    assert set(found.remedy) <= set(get_args(Remedy))
    assert len(set(found.remedy)) == len(found.remedy)
    for text in (found.meaning, found.action):
        assert re.fullmatch(r"[A-Z`].{39,}\.", text), text
    parked = found.told_by == DEAD_LETTER and found.service != "channel-gateway"
    assert parked or not found.remedy, "only a parked message can be retried, edited or discarded"


def test_every_command_exists_with_its_options() -> None:
    text = page()
    used = set(re.findall(r"(?:`|^    )crossdock ([^`#\n]+)", text, re.MULTILINE))
    assert len(used) > 10
    for line in used:
        found = get_command(app)
        for word in line.split():
            if word.startswith("--"):
                assert any(word in each.opts for each in found.params), f"crossdock {line}: no {word}"
            elif hasattr(found, "commands"):
                assert word in found.commands, f"crossdock {line}: no {word}"
                found = found.commands[word]
    for route in re.findall(r"`(?:GET|POST|PUT) (/[a-z]+)", text):
        app_source = (SERVICES["channel-gateway"] / "app.py").read_text()
        assert f'"{route}' in app_source, f"the gateway has no {route}"


def test_the_page_is_the_catalogue() -> None:
    assert (ROOT / PAGE).read_text(encoding="utf-8") == page(), f"run `crossdock reasons --out {PAGE}`"


# The scan sees what it is for.

_IMPORT = "from crossdock_canonical.decider import Rejected\n"


@pytest.mark.parametrize(
    "source",
    [
        'def f(): raise Rejected("a.b", "")',
        'def f(): raise Rejected(detail="", code="a.b")',
        'CODE = "a.b"\ndef f(): raise Rejected(CODE, "")',
        'CODE: Final = "a.b"\ndef f(): raise Rejected(CODE, "")',
        'def f(x, code): raise Rejected(code, "")\ndef g(): f(1, "a.b")',
        'def f(x, *, why): raise Rejected(why, "")\ndef g(z): f(1, why=z)\ndef h(): g("a.b")',
        'class C:\n def f(self, why): raise Rejected(why, "")\n def g(self): self.f("a.b")',
        'class V:\n x: int\n code: str\ndef f(v: V): raise Rejected(v.code, "")\ndef g(): return V(1, "a.b")',
        'class V:\n code: str\ndef f(v):\n if isinstance(v, V): raise Rejected(v.code, "")\ndef g(): V(code="a.b")',
    ],
)
def test_the_scan_follows_a_code_to_its_text(source: str) -> None:
    found = Scan({"m": _IMPORT + source})
    assert found.told == {Told("a.b", DEAD_LETTER)}
    assert not found.hidden


@pytest.mark.parametrize(
    "source",
    [
        'def f(x): raise Rejected(f"a.{x}", "")',
        'def f(x):\n code = "a." + x\n raise Rejected(code, "")',
        'def f(code):\n code += "x"\n raise Rejected(code, "")\ndef g(): f("a.b")',
        'def f(x): raise Rejected(CODES[x], "")',
        "def f(*all): raise Rejected(*all)",
        'def f(x): raise Rejected(x.code, "")',
        'def f(x, code): raise Rejected(code, "")\ndef g(y): f(1, y.lower())',
        "class Own(Rejected): ...",
        'from functools import partial\nown = partial(Rejected, "a.b")',
        "from crossdock_canonical.decider import Rejected as R",
    ],
)
def test_the_scan_tells_of_a_code_that_it_cannot_follow(source: str) -> None:
    assert Scan({"m": _IMPORT + source}).hidden


def test_the_scan_tells_codes_of_letters_from_codes_of_events() -> None:
    source = (
        "from crossdock_canonical.records import ErpDocumentFailed\n"
        "def failed(x, code): return ErpDocumentFailed(chain=x, code=code)\n"
        'def f(): return failed(1, "a.b")\n'
        "def g():\n try: pass\n except Rejected as error: dead_letter_headers(code=error.code)\n"
        'def h(): raise Rejected("c.d", "")\n'
    )
    found = Scan({"m": _IMPORT + source})
    assert found.told == {Told("a.b", "ErpDocumentFailed"), Told("c.d", DEAD_LETTER)}
