"""`facewire keys`: who may use the HTTP API, and for what."""
# ruff: noqa: PLC0415 - as in cli.py

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from facewire_standalone.commands.options import Data

app = typer.Typer(help="Make, list and remove keys of the HTTP API.", no_args_is_help=True)


class KeyRole(StrEnum):
    """What a key is good for."""

    ingest = "ingest"
    read = "read"
    admin = "admin"


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Who or what the key is for.")],
    role: Annotated[
        KeyRole,
        typer.Option(help="ingest posts frames, read reads results and people, admin does everything."),
    ],
    data: Data = None,
) -> None:
    """Make a key and print it: it is kept as a hash only, so this is the one time it can be read."""
    from facewire_gateway.api.auth import create_key

    path = _keys_path(data)
    first = not path.exists()
    typer.echo(create_key(path, name, role.value))
    if first:
        typer.echo(f"{path} is new: a Facewire that is running asks for keys after its next start.", err=True)


@app.command("list")
def show(data: Data = None) -> None:
    """Show names, roles and dates of the keys."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from facewire_gateway.api.auth import list_keys

    path = _keys_path(data)
    table = Table("name", "role", "made")
    for key in list_keys(path) if path.exists() else ():
        table.add_row(Text(key.name), key.role, f"{key.created_at:%Y-%m-%d %H:%M} UTC")
    Console().print(table)


@app.command()
def remove(name: Annotated[str, typer.Argument(help="The name it was made with.")], data: Data = None) -> None:
    """Remove a key; a Facewire that is running refuses it from then on."""
    from facewire.domain.errors import SettingsError
    from facewire_gateway.api.auth import remove_key

    if not remove_key(_keys_path(data), name):
        raise SettingsError("no_such_key", f"there is no key called {name!r}: `facewire keys list` shows them")
    typer.echo(f"{name} removed")


def _keys_path(data: Path | None) -> Path:
    from facewire_standalone.settings import StandaloneSettings

    return StandaloneSettings.read(data_dir=data).keys_path
