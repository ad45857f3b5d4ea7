"""Print what some extras of the project require, one a line.

The images install that before the project's own code is copied, so that a change of the code fetches nothing again.
"""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any


def requirements(pyproject: Path, extras: list[str]) -> list[str]:
    """Return what `extras` of the project in the file `pyproject` require; KeyError for an unknown extra."""
    project = tomllib.loads(pyproject.read_text())["project"]
    return sorted(set(_optional(project, extras)))


def _optional(project: dict[str, Any], extras: list[str]) -> list[str]:
    """Return what the extras require; extras that they name in turn, as in `facewire[detector]`, are looked up."""
    required: list[str] = []
    for line in (line for extra in extras for line in project["optional-dependencies"][extra]):
        own = re.fullmatch(rf"{project['name']}\[(.*)\]", line)
        required += [line] if own is None else _optional(project, own[1].split(","))
    return required


if __name__ == "__main__":
    print("\n".join(requirements(Path("pyproject.toml"), sys.argv[1:])))
