"""`facewire models`: the embedders, and what guesses attributes."""
# ruff: noqa: PLC0415 - as in cli.py

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="List the models, fetch those that do not ship.", no_args_is_help=True)


@app.command("list")
def show() -> None:
    """Show every embedder: whether it is here, its licence, size, dimension, threshold and accuracy on LFW."""
    from rich.console import Console

    from facewire.runtime.settings import Settings
    from facewire_standalone.commands.models import list_models

    list_models(Settings.read(), Console())


@app.command()
def pull(
    model: Annotated[str, typer.Argument(help="An id that `facewire models list` shows.")],
    source: Annotated[
        Path | None, typer.Option("--from", help="Take the weights from this file instead of the network.")
    ] = None,
) -> None:
    """Fetch a model and convert it; an interrupted download goes on where it stopped."""
    from rich.console import Console

    from facewire.runtime.settings import Settings
    from facewire_standalone.commands.models import pull_model

    pull_model(model, Settings.read(), source, Console())
