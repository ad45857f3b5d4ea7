"""`facewire models`: which embedders there are, and fetching those that do not ship."""

from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from facewire.convert.pull import pull
from facewire.errors import ModelError
from facewire.settings import Settings
from facewire.vision.embedder import EmbedderSpec
from facewire.vision.models import find, find_spec, specs

_MEGABYTE = 1e6


def list_models(settings: Settings, console: Console) -> None:
    """Print every embedder: whether it is here, its licence, size, dimension, threshold and accuracy on LFW."""
    headings = ("embedder", "here", "licence", "MB", "dim.", "threshold", "margin", "LFW %")
    table = Table(*headings, box=box.SIMPLE_HEAD, pad_edge=False)
    for spec in specs():
        path = _path(spec, settings)
        size = "-" if path is None else f"{path.stat().st_size / _MEGABYTE:.1f}"
        numbers = (str(spec.dimension), f"{spec.threshold:g}", f"{spec.margin:g}", f"{spec.lfw:g}")
        table.add_row(spec.id, "no" if path is None else "yes", spec.licence, size, *numbers)
    console.print(table)
    for spec in specs():
        console.print(f"{spec.id}: commercial use: {spec.commercial_use}. LFW {spec.lfw_source}. {spec.note}")


def pull_model(embedder: str, settings: Settings, source: Path | None, console: Console) -> None:
    """Fetch an embedder's weights, or take them from the file `source`, and convert them; ModelError if that fails."""
    find_spec(embedder)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task(embedder, total=None)
        path = pull(
            embedder,
            settings.models_dir,
            source=source,
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    console.print(f"{embedder} is ready: {path}", highlight=False)


def _path(spec: EmbedderSpec, settings: Settings) -> Path | None:
    try:
        return find(spec.id, settings.models_dir)
    except ModelError as error:
        if error.code != "missing":
            raise
        return None
