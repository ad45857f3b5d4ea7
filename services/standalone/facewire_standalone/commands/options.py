"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        envvar="FACEWIRE_DATA_DIR",
        show_default="$XDG_STATE_HOME/facewire or ~/.local/state/facewire",
        help="Folder of the database with queues, results and gallery.",
    ),
]
Embedder = Annotated[
    str | None,
    typer.Option(
        envvar="FACEWIRE_EMBEDDER",
        show_default="dlib-resnet29",
        help="Which embedder names the faces: see `facewire models list`.",
    ),
]
Key = Annotated[str | None, typer.Option(envvar="FACEWIRE_KEY", help="Key of the HTTP API, where it asks for one.")]
Pictures = Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="JPEG, PNG or WebP files.")]
Url = Annotated[str, typer.Option(envvar="FACEWIRE_URL", help="Where the HTTP API is.")]
