"""The steps that the images share, each one layer: `image_build.py packages|tools|code [EXTRA …]`.

`packages` installs what the extras require, without what no service opens; `tools` the same, whole, for a stage that is
left behind; `code` the project itself, its models apart. All but the tools is compiled once, the standard library too:
an image's root is read-only, and the base image brings none compiled.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from image_requirements import requirements
from slim_image import slim

PACKAGES = Path("/opt/facewire/packages")
CODE = Path("/opt/facewire/code")
BYTECODE = Path("/opt/facewire/pycache")
TOOLS = Path("/opt/tools")
MODELS = Path("/opt/models")

#: Folders of the standard library that no service imports.
_NOT_COMPILED = "distutils|ensurepip|idlelib|lib2to3|pydoc|site-packages|tkinter|turtledemo|unittest"


def packages(extras: list[str]) -> None:
    """Install what `extras` require."""
    _install(PACKAGES, "--constraint", "constraints.txt", *requirements(Path("pyproject.toml"), extras))
    slim(PACKAGES)
    _compile("-x", _NOT_COMPILED, sysconfig.get_path("stdlib"), str(PACKAGES))


def tools(extras: list[str]) -> None:
    """Install what `extras` require for a stage that is left behind."""
    _install(TOOLS, "--constraint", "constraints.txt", *requirements(Path("pyproject.toml"), extras))


def code() -> None:
    """Install the project."""
    _install(CODE, "--no-deps", ".")
    (CODE / "facewire" / "_models").rename(MODELS)
    _compile(str(CODE))


def _install(target: Path, *what: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--no-cache-dir", "--no-compile", "--target", str(target)]
    subprocess.run([*command, *what], check=True)


def _compile(*what: str) -> None:
    command = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", *what]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPYCACHEPREFIX": str(BYTECODE)})


if __name__ == "__main__":
    step, *extras = sys.argv[1:]
    if step == "code":
        code()
    else:
        {"packages": packages, "tools": tools}[step](extras)
