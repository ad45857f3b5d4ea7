"""`facewire models`: which models there are, and fetching those that do not ship."""

from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from facewire.conversion.pull import pull
from facewire.domain.errors import ModelError
from facewire.runtime.settings import Settings
from facewire.vision.embedder import ModelSpec
from facewire.vision.models import ATTRIBUTES, find, find_model, specs

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
    here = "is here" if _path(ATTRIBUTES, settings) else "is not here"
    facts = f"{here}, {ATTRIBUTES.licence}. commercial use: {ATTRIBUTES.commercial_use}. {ATTRIBUTES.note}"
    console.print(f"{ATTRIBUTES.id}, no embedder: {facts}")


def pull_model(model: str, settings: Settings, source: Path | None, console: Console) -> None:
    """Fetch a model's weights, or take them from the file `source`, and convert them; ModelError if that fails."""
    find_model(model)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task(model, total=None)
        path = pull(
            model,
            settings.models_dir,
            source=source,
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    console.print(f"{model} is ready: {path}", highlight=False)


def _path(spec: ModelSpec, settings: Settings) -> Path | None:
    try:
        return find(spec.id, settings.models_dir)
    except ModelError as error:
        if error.code != "missing":
            raise
        return None
