"""README.md and the pages beside it: the commands are those there are, and what is linked to is there."""

import re
from pathlib import Path

import pytest
import typer

from facewire_standalone.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "deploy").rglob("README.md")),
]


def commands() -> set[str]:
    top = typer.main.get_command(app)
    assert isinstance(top, typer.core.TyperGroup)
    found: set[str] = set()
    for name, command in top.commands.items():
        below = command.commands if isinstance(command, typer.core.TyperGroup) else {"": command}
        found |= {f"{name} {under}".rstrip() for under in below}
    return found


def test_the_readme_lists_every_command() -> None:
    _, _, table = (ROOT / "README.md").read_text().partition("| `facewire …` | does |\n|---|---|\n")
    listed: set[str] = set()
    for row in table.partition("\n\n")[0].splitlines():
        first, *others = re.findall(r"`([a-z ]+?)(?: [A-Z]+…?)?`", row.split("|")[1])
        listed |= {first, *(f"{first.split()[0]} {other}" for other in others)}
    assert listed == commands()


def anchors(page: Path) -> set[str]:
    """Return what links into the page may name: its headings as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        target = target / "README.md" if target.is_dir() else target
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_are_there(page: Path) -> None:
    folders = "src|services|deploy|tests|tools|benchmarks|docs|examples|samples"
    named = re.findall(rf"`((?:{folders})/[\w./-]+\.\w+)`", page.read_text())
    assert not [name for name in named if not (ROOT / name).exists()]
