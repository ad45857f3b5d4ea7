"""The pages of docs/ say what the code does: metrics, calls, fields, reasons; and the site stands on its own."""

import ast
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import typer
from fastapi.routing import APIRoute
from pydantic import BaseModel

from facewire.domain import messages
from facewire.domain.quality_gate import Refusal
from facewire.vision.models import ATTRIBUTES, specs
from facewire_gateway.api import events, frames, health, people, results
from facewire_standalone.cli import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
DECISIONS = sorted((DOCS / "decisions").glob("0*.md"))
LONGEST_GLOSSARY = 45


def rows(page: str) -> list[list[str]]:
    """Return the cells of each table row of a page, without those of headings' lines."""
    lines = (DOCS / page).read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return [row for row in cells if not set("".join(row)) <= set("-")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, env={"PATH": ""}, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def test_every_page_is_on_the_site(site: Path) -> None:
    for page in ("index", "deploy/aws/index", "deploy/greengrass/index", "PRIVACY", "decisions/index"):
        assert (site / f"{page}.html").is_file(), page


def test_the_site_loads_nothing_from_foreign_hosts(site: Path) -> None:
    pages = [path.read_text() for path in site.rglob("*.html")]
    loaded = [tag for page in pages for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page)]
    assert loaded
    assert not [tag for tag in loaded if re.search(r"(?:src|href)=[\"']?(?:https?:)?//", tag)]
    # The theme fetches this one from a CDN where a page has a diagram in it.
    assert not [page for page in pages if re.search(r"""class=["']?mermaid""", page)]
    styles = [path.read_text() for path in site.rglob("*.css")]
    assert not [found for style in styles for found in re.findall(r"(?:@import|url\()[\"' ]*(?:https?:)?//\S+", style)]


def metrics_in_code() -> Iterator[tuple[str, str, list[str]]]:
    """Yield the name, type and labels of each metric that the source makes."""
    for folder in ("src", "services"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"Counter", "Gauge", "Histogram"}:
                    found = [argument for argument in node.args if isinstance(argument, ast.Constant | ast.List)]
                    if found and str(getattr(found[0], "value", "")).startswith("facewire_"):
                        labels = ast.literal_eval(found[2]) if len(found) > len(("name", "help")) else []
                        yield ast.literal_eval(found[0]), node.func.id.lower(), labels  # type: ignore[attr-defined]


def test_the_page_of_metrics_has_each_with_its_labels() -> None:
    listed = {
        row[0].strip("`"): (row[1], re.findall(r"`(\w+)`", row[2]))
        for row in rows("metrics.md")
        if row[0].startswith("`facewire_") and len(row) == len(("metric", "type", "labels", "counts"))
    }
    assert listed == {name: (kind, labels) for name, kind, labels in metrics_in_code()}


def test_the_page_of_the_api_has_each_call() -> None:
    listed = {
        re.sub(r"`", "", row[0]) for row in rows("http-api.md") if re.match(r"`(?:GET|POST|DELETE|PATCH|PUT) ", row[0])
    }
    routes = [route for part in (events, frames, health, people, results) for route in part.router.routes]
    calls = [route for route in routes if isinstance(route, APIRoute) and route.include_in_schema]
    assert listed == {f"{method} {route.path}" for route in calls for method in route.methods or ()}


def test_the_page_of_messages_names_each_field() -> None:
    named = set(re.findall(r"[`\"](\w+)[`\"]", (DOCS / "messages.md").read_text()))
    models = [found for found in vars(messages).values() if isinstance(found, type) and issubclass(found, BaseModel)]
    fields = {field.alias or name for model in models for name, field in model.model_fields.items()}
    assert len(fields) > len(models)
    assert sorted(fields - named) == []


def commands_in(page: Path) -> list[list[str]]:
    """Return the words of each `facewire` command in the blocks of a page, without what stands before them."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    found = [
        re.match(r"(?:KEY=\$\()?(?:[A-Z_]+=\S+ )*(?:\S*/)?facewire (.+)|.*\binit ((?:keys|certs) .+)", line)
        for line in lines
    ]
    return [shlex.split((match[1] or match[2]).rstrip(")"), comments=True) for match in found if match]


@pytest.mark.parametrize("page", [*sorted(DOCS.glob("*.md")), ROOT / "README.md"], ids=lambda page: page.stem)
def test_every_command_in_a_page_exists_with_its_options(page: Path) -> None:
    for words in commands_in(page):
        command = typer.main.get_command(app)
        rest = iter(words)
        while isinstance(command, typer.core.TyperGroup):
            command = command.commands[next(rest)]
        options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in rest if word.startswith("--")} <= options, words


def test_every_reason_is_explained() -> None:
    enrolment, answers = (DOCS / "enrolment.md").read_text(), (DOCS / "messages.md").read_text()
    assert not [reason for reason in get_args(Refusal) if f"`{reason}`" not in enrolment]
    assert not [reason for reason in get_args(messages.Reason) if f"`{reason}`" not in answers]


def test_the_glossary_is_short_and_in_order() -> None:
    words = [row[0] for row in rows("glossary.md")[1:]]
    assert len(words) <= LONGEST_GLOSSARY
    assert words == sorted(set(words), key=lambda word: word.replace("-", " "))


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_has_its_four_parts_and_is_listed(page: Path) -> None:
    headings = re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE)
    assert headings == ["Context", "Decision", "Measurements", "Consequences"]
    assert f"({page.name})" in (DOCS / "decisions" / "index.md").read_text()


def test_the_newest_changes_are_those_of_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0] == project["version"]


def test_every_model_has_a_notice_and_it_ships() -> None:
    notices = (ROOT / "THIRD_PARTY_NOTICES.md").read_text()
    shipped = json.loads((ROOT / "models" / "manifest.json").read_text())
    named = [model["file"] for model in shipped] + [spec.id for spec in (*specs(), ATTRIBUTES)]
    assert not [name for name in named if f"`{name}`" not in notices and f"`{name}.onnx`" not in notices]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "THIRD_PARTY_NOTICES.md" in project["license-files"]
    # What the images are not built from is missing in their wheel, and hatchling says nothing.
    assert {f"!{name}" for name in project["license-files"]} <= set((ROOT / ".dockerignore").read_text().splitlines())
