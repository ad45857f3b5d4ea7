"""`facewire gallery`: the enrolled people of a data folder; safe while Facewire runs, it sees changes within 2 s."""

import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from facewire.adapters.gallery_file import GalleryRows, read_gallery, write_gallery
from facewire.adapters.sqlite.database import Database
from facewire.adapters.sqlite.gallery import SqliteGalleryStore
from facewire.domain.errors import SettingsError
from facewire.domain.messages import now
from facewire.domain.names import face_id
from facewire.domain.ports import EnrolledFace, GalleryStore
from facewire_standalone.settings import StandaloneSettings


async def import_gallery(file: Path, settings: StandaloneSettings, embedder: str | None, console: Console) -> None:
    """Add the faces of a `.pt` or `.npz` file, made by `embedder` if the file does not say; GalleryError if it is bad.

    The same file twice adds nothing: face ids come from person and embedding.
    """
    rows = read_gallery(file, embedder=embedder)
    faces = enrolled_faces(rows)
    async with Database.open(settings.database_file) as database:
        await SqliteGalleryStore(database).add(faces)
    people = len(set(rows.names))
    console.print(f"{len(faces)} faces of {people} people imported, embedder {rows.embedder}", highlight=False)
    if rows.embedder != settings.embedder:
        console.print(
            f"They are compared only where Facewire runs with --embedder {rows.embedder}; the default is "
            f"{settings.embedder}.",
            highlight=False,
        )


def enrolled_faces(rows: GalleryRows) -> list[EnrolledFace]:
    """Return the rows as faces of the gallery; equal rows of one person count as separate faces."""
    seen = Counter[str]()
    faces = []
    moment = now()
    for person, embedding in zip(rows.names, rows.embeddings, strict=True):
        data = embedding.astype("<f4").tobytes()
        content = hashlib.sha256(data).hexdigest()
        row = f"import\n{rows.embedder}\n{person}\n{content}"
        seen[row] += 1
        identifier = face_id(row, str(seen[row]))
        faces.append(EnrolledFace(identifier, person, rows.embedder, data, moment, None))
    return faces


async def export_gallery(file: Path, settings: StandaloneSettings, console: Console) -> None:
    """Write the embeddings of one embedder and their names to an `.npz` file; no pictures."""
    async with _existing_gallery(settings) as gallery:
        _, faces = await gallery.faces(settings.embedder)
    if not faces:
        detail = f"{settings.data_dir} has no faces of embedder {settings.embedder}: choose another with --embedder"
        raise SettingsError("empty_gallery", detail)
    embeddings = np.stack([np.frombuffer(face.embedding, "<f4") for face in faces]).astype(np.float32)
    names = tuple(face.person for face in faces)
    try:
        write_gallery(file, GalleryRows(settings.embedder, names, embeddings))
    except OSError as error:
        raise SettingsError("unwritable_file", f"{file}: {error.strerror}") from error
    console.print(f"{len(faces)} faces of {len(set(names))} people exported, embedder {settings.embedder}")


async def list_people(settings: StandaloneSettings, console: Console) -> None:
    """Print everybody enrolled, with the number of faces by embedder."""
    async with _existing_gallery(settings) as gallery:
        people = await gallery.people()
        _, faces = await gallery.faces()
    table = Table("person", "faces", "embedders", "since")
    for one in people:
        embedders = Counter(face.embedder for face in faces if face.person == one.person)
        counts = ", ".join(f"{embedder}: {count}" for embedder, count in sorted(embedders.items()))
        since = f"{one.enrolled_at:%Y-%m-%d %H:%M} UTC"
        table.add_row(Text(one.person), str(len(one.face_ids)), counts, since)
    console.print(table)


@asynccontextmanager
async def _existing_gallery(settings: StandaloneSettings) -> AsyncIterator[GalleryStore]:
    if not settings.database_file.is_file():
        detail = f"{settings.data_dir} holds no gallery: enrol or import people first, or name another folder by --data"
        raise SettingsError("no_gallery", detail)
    async with Database.open(settings.database_file) as database:
        yield SqliteGalleryStore(database)
