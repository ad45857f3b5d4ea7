"""Every code that is raised is registered once, and docs/errors.md shows the registry."""

import ast
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from facewire.domain import errors
from facewire.domain.errors import (
    REGISTRY,
    DecodeError,
    DetectError,
    GalleryError,
    IntakeError,
    QueueError,
    RecognizeError,
    StoreError,
)

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for root in ("src", "services", "deploy") for path in (ROOT / root).rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in SOURCES}
CODE = re.compile(r"[a-z][a-z0-9_]*")
#: What errors are made by, beside their classes: `stage.error(code, detail)`, a class handed in, a problem, a failure.
MAKERS = {"error": 0, "kind": 0, "problem": 2, "Failure": 0}
#: Calls whose code is no literal, and the codes that it may be; those that hand on another error's need no entry.
COMPUTED = {
    "kind(*explain_error(error))": {"no_credentials", "unreachable", "refused", "unavailable", "no_such_bucket"},
    "StoreError(*explain_error(error))": {"no_such_table"},
    "StoreError(code)": {"unavailable", "refused"},
    "StoreError(name)": {"disk_full", "busy", "unwritable", "not_a_database", "corrupt", "io_error", "sqlite"},
    "GalleryError(code)": {"unsafe", "unreadable"},
    "DecodeError(code)": {"truncated_image", "broken_image"},
    # What Starlette, a server, or a state machine says.
    "problem(code)": set(),
    "ClientError(code)": set(),
    "Failure(code)": set(),
    "Failure(name)": set(),
}


def subclasses(kind: str) -> Iterator[tuple[str, str]]:
    """Yield the name and base of each class below `kind`, as the sources define them."""
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and kind in [ast.unparse(base) for base in node.bases]:
                yield node.name, kind
                yield from subclasses(node.name)


BASES = dict(subclasses("FacewireError"))


def code_of(call: ast.Call) -> tuple[str, ast.expr] | None:
    """Return who makes an error in this call, and the expression of its code; None where none is made."""
    maker = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    args = call.args
    if maker == "partial" and args and ast.unparse(args[0]) in BASES:
        return ast.unparse(args[0]), args[1]
    named = [keyword.value for keyword in call.keywords if keyword.arg == "code"]
    if named and maker in {"Failure", *BASES}:
        return maker, named[0]
    if maker in BASES and args:
        return maker, args[0]
    if maker in {"error", "kind"} and (len(args) > 1 or any(isinstance(arg, ast.Starred) for arg in args)):
        return maker, args[0]
    return (maker, args[MAKERS[maker]]) if maker == "problem" and len(args) > MAKERS[maker] else None


def literals(code: ast.expr) -> set[str] | None:
    match code:
        case ast.Constant(value=str(value)):
            return {value}
        case ast.IfExp(body=body, orelse=orelse):
            sides = literals(body), literals(orelse)
            return None if None in sides else {value for side in sides for value in side or ()}
    return None


def raised() -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Return the makers of each literal code, and the files of the calls whose code is computed."""
    makers: dict[str, set[str]] = defaultdict(set)
    computed: dict[str, set[str]] = defaultdict(set)
    for path, tree in TREES.items():
        for found in filter(None, (code_of(node) for node in ast.walk(tree) if isinstance(node, ast.Call))):
            maker, code = found
            codes = literals(code)
            if codes is None and not (isinstance(code, ast.Attribute) and code.attr == "code"):
                computed[f"{maker}({ast.unparse(code)})"].add(path.name)
            for name in filter(CODE.fullmatch, codes or ()):
                makers[name].add(f"{maker} in {path.name}")
    return makers, computed


MADE, COMPUTED_CALLS = raised()


def test_every_code_that_is_raised_is_registered() -> None:
    assert {code: sorted(by) for code, by in MADE.items() if code not in REGISTRY} == {}
    assert {code for codes in COMPUTED.values() for code in codes} <= set(REGISTRY)


def test_every_call_with_a_computed_code_is_known() -> None:
    assert set(COMPUTED_CALLS) == set(COMPUTED)


def test_every_code_that_is_registered_is_raised() -> None:
    computed = {code for codes in COMPUTED.values() for code in codes}
    assert set(REGISTRY) - set(MADE) - computed == set()
    said = {
        node.value
        for path, tree in TREES.items()
        if path.name != "errors.py" or "aws" in path.parts
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert computed <= said


def test_the_tree_is_drawn_as_it_is() -> None:
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"([│ ]*[├└]── |)(\w+Error) ", line):
            depth = len(found[1]) // 4
            path[depth:] = [found[2]]
            if depth:
                drawn[found[2]] = path[depth - 1]
    assert drawn == BASES


def test_status_and_retry_agree() -> None:
    assert {kind.retry for kind in REGISTRY.values() if kind.status == 503} <= {"later", "outage"}
    assert {kind.status for kind in REGISTRY.values() if kind.retry == "outage"} == {503}
    assert {kind.retry for kind in REGISTRY.values() if 400 <= kind.status < 500} <= {"never", "later"}


def test_the_state_machine_gives_up_at_once_what_the_workers_do() -> None:
    """It tells errors by their class alone; what an inbox drops or keeps too long is not on its way."""
    inbox = {"lost", "overloaded", "skipped"}
    stages = (IntakeError, DecodeError, DetectError, RecognizeError, GalleryError, QueueError, StoreError)
    retries = {
        kind.__name__: {
            REGISTRY[code].retry
            for code, makers in MADE.items()
            if code not in inbox and any(maker.startswith(f"{kind.__name__} ") for maker in makers)
        }
        for kind in stages
    }
    states = json.loads((ROOT / "deploy" / "aws" / "statemachine.asl.json").read_text())["States"]
    final, *_ = states["Recognise faces"]["Retry"]
    assert final["MaxAttempts"] == 0
    assert set(final["ErrorEquals"]) == {name for name, found in retries.items() if found == {"never"}}


def test_the_page_shows_the_registry() -> None:
    lines = (ROOT / "docs" / "errors.md").read_text().splitlines()
    shown = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    registered = [
        [f"`{code}`", kind.meaning, kind.fault, kind.retry, str(kind.status)] for code, kind in sorted(REGISTRY.items())
    ]
    assert shown == registered
