"""Print what the project and some of its extras require, one a line.

The images install that before the project's own code is copied, so that a change of the code fetches nothing again.
"""

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path, extras: list[str]) -> list[str]:
    """Return the requirements of the project in the file `pyproject` with `extras`; KeyError for an unknown extra."""
    project = tomllib.loads(pyproject.read_text())["project"]
    optional = [line for extra in extras for line in project["optional-dependencies"][extra]]
    return sorted({*project["dependencies"], *optional})


if __name__ == "__main__":
    print("\n".join(requirements(Path("pyproject.toml"), sys.argv[1:])))
