"""`facewire gallery`: faces in and out of the gallery of a data folder."""
# ruff: noqa: PLC0415 - as in cli.py

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from facewire_standalone.commands.options import Data, Embedder

app = typer.Typer(
    help="Import, export and list the people of a data folder; safe while Facewire runs.", no_args_is_help=True
)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="[embeddings, names] saved by torch.save (.pt), or a NumPy archive.")],
    data: Data = None,
    embedder: Annotated[
        str | None,
        typer.Option(show_default="the file's own, else facenet-vggface2", help="Which embedder made them."),
    ] = None,
) -> None:
    """Add the faces of a .pt or .npz file; nothing in the file is executed."""
    from rich.console import Console

    from facewire_standalone.commands.gallery import import_gallery
    from facewire_standalone.settings import StandaloneSettings

    asyncio.run(import_gallery(file, StandaloneSettings.read(data_dir=data), embedder, Console()))


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="The .npz file to write.")],
    data: Data = None,
    embedder: Embedder = None,
) -> None:
    """Write the embeddings of one embedder and their names to a NumPy archive."""
    from rich.console import Console

    from facewire_standalone.commands.gallery import export_gallery
    from facewire_standalone.settings import StandaloneSettings

    settings = StandaloneSettings.read(data_dir=data, embedder=embedder)
    asyncio.run(export_gallery(file, settings, Console()))


@app.command("list")
def show(data: Data = None) -> None:
    """Show everybody enrolled."""
    from rich.console import Console

    from facewire_standalone.commands.gallery import list_people
    from facewire_standalone.settings import StandaloneSettings

    asyncio.run(list_people(StandaloneSettings.read(data_dir=data), Console()))
