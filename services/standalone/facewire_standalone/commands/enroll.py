"""Enrol a folder of people: one folder per person, pictures in it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from facewire.domain.errors import SettingsError
from facewire_standalone.commands.client import Client, ClientError, Picture, readable

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
#: Uploads under way at once: enough to keep a detector of a few threads busy.
_CONCURRENCY = 4


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of one picture: enrolled, or the reasons why not; `note` warns of a person who looks alike."""

    person: str
    picture: str
    reasons: tuple[str, ...] = ()
    note: str = ""


async def enroll_folder(folder: Path, *, url: str, key: str | None, console: Console) -> bool:
    """Enrol every picture of every folder in `folder` under the folder's name; False if somebody has no face at all.

    Raises SettingsError if there is nothing to enrol, ClientError if the API cannot be reached or refuses the key.
    """
    pictures = find_pictures(folder)
    async with Client.open(url, key) as client:
        with _progress(console) as progress:
            attempts = await _enroll_all(client, pictures, progress)
    return report(attempts, console)


def find_pictures(folder: Path) -> list[tuple[str, Path]]:
    """Return person and file of each picture below `folder`, in order of their names."""
    if not folder.is_dir():
        raise SettingsError("no_such_folder", f"{folder} is not a folder")
    found = [
        (person.name, file)
        for person in sorted(folder.iterdir())
        if person.is_dir()
        for file in sorted(person.iterdir())
        if file.suffix.lower() in PICTURE_SUFFIXES
    ]
    if not found:
        detail = f"{folder} holds no pictures to enrol: make a folder per person and put JPEG, PNG or WebP files in it"
        raise SettingsError("nothing_to_enroll", detail)
    for person, file in found:
        if readable(Path(person)) != person:
            detail = f"{readable(file.parent)}: a folder is named as the person, in UTF-8: rename it"
            raise SettingsError("folder_name", detail)
    return found


async def _enroll_all(client: Client, pictures: Sequence[tuple[str, Path]], progress: Progress) -> list[Attempt]:
    bar = progress.add_task("Enrolling", total=len(pictures))
    slots = asyncio.Semaphore(_CONCURRENCY)

    async def attempt(person: str, file: Path) -> Attempt:
        async with slots:
            outcome = await _enroll_one(client, person, file)
        progress.advance(bar)
        return outcome

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(attempt(*picture), name=f"enroll {picture[1].name}") for picture in pictures]
    return [task.result() for task in tasks]


async def _enroll_one(client: Client, person: str, file: Path) -> Attempt:
    name = readable(Path(file.name))
    try:
        outcome = await client.enroll(person, Picture.read(file))
    except ClientError as error:
        if error.concerns_every_call:
            raise
        return Attempt(person, name, (f"{error.code}: {error.detail}",))
    if outcome is None:
        return Attempt(person, name, ("no answer within 30 s",))
    alike = outcome.looks_like
    note = "" if alike is None else f"looks like {alike.person} (similarity {alike.similarity:.3f})"
    return Attempt(person, name, outcome.refused, note)


def report(attempts: Sequence[Attempt], console: Console) -> bool:
    """Print what was refused and what needs a second look; return whether everybody has at least one face."""
    refused = [attempt for attempt in attempts if attempt.reasons]
    _print_table("Refused", "why", [(one.person, one.picture, ", ".join(one.reasons)) for one in refused], console)
    noted = [(one.person, one.picture, one.note) for one in attempts if one.note]
    _print_table("Enrolled, but look twice", "warning", noted, console)
    people = {attempt.person for attempt in attempts}
    enrolled = {attempt.person for attempt in attempts if not attempt.reasons}
    console.print(
        f"{len(attempts) - len(refused)} of {len(attempts)} pictures enrolled, {len(enrolled)} of {len(people)} people",
        highlight=False,
    )
    if missing := sorted(people - enrolled):
        console.print(f"nobody enrolled as: {', '.join(missing)}", highlight=False, markup=False)
    return not missing


def _print_table(title: str, why: str, rows: Sequence[tuple[str, str, str]], console: Console) -> None:
    if not rows:
        return
    table = Table(title=title, title_justify="left")
    for heading in ("person", "picture", why):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table, markup=False)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)
