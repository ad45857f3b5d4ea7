"""Everybody who is known: those enrolled in the store and those of a gallery file, in one snapshot."""

import asyncio
import math
import time

import numpy as np
import structlog

from facewire.adapters.gallery_file import GalleryRows, read_gallery
from facewire.domain.errors import GalleryError, StoreError
from facewire.domain.gallery import Gallery, GalleryFace
from facewire.domain.ports import GalleryStore
from facewire.stages.recognize import Recognition
from facewire.vision.embedder import Embedder
from facewire.work.gallery_sync import GallerySync
from facewire_lambda.settings import LambdaSettings

#: Asking a store that is out of reach takes three attempts of 5 s to connect: not every event does it.
_OUTAGE_SECONDS = 10.0

_log = structlog.get_logger(__name__)


class People:
    """The gallery of one embedder, looked after whenever it is asked for and `poll_seconds` have passed.

    One that `reads_only` has no right to write to the store.
    """

    def __init__(
        self,
        embedder: Embedder,
        store: GalleryStore | None,
        rows: GalleryRows | None,
        *,
        poll_seconds: float,
        reads_only: bool = False,
    ) -> None:
        self._store = store
        self._sync = None if store is None else GallerySync(store, embedder)
        self._rows = _faces(rows)
        self._poll_seconds = poll_seconds
        self._reads_only = reads_only
        self._read = False
        self._due = -math.inf
        self._empty = Gallery.empty(embedder.spec.dimension)
        self._merged: Gallery | None = None

    async def gallery(self) -> Gallery:
        """Return the latest snapshot; StoreError where the store could not be read even once.

        Faces that only other embedders have seen are embedded first, or, where it may only read, left out.
        """
        if self._sync is not None and time.monotonic() >= self._due:
            read = await self._look(self._sync)
            self._due = time.monotonic() + (self._poll_seconds if read else _OUTAGE_SECONDS)
        enrolled = self._empty if self._sync is None else self._sync.gallery
        if self._merged is None or self._merged.version != enrolled.version:
            self._merged = await asyncio.to_thread(enrolled.with_faces, self._rows, version=enrolled.version)
        return self._merged

    async def enrol(self, recognition: Recognition) -> None:
        """Keep the face that the recognition enrols, if any; StoreError or GalleryError where that fails."""
        if recognition.enrolled is None:
            return
        if self._store is None:
            raise GalleryError("no_table", "nobody can be enrolled without a table: set FACEWIRE_GALLERY_TABLE")
        await self._store.add([recognition.enrolled])
        self._due = -math.inf

    async def _look(self, sync: GallerySync) -> bool:
        """Read what has changed; return False where that failed and an earlier snapshot serves on."""
        try:
            if not self._read:
                await self._prepare(sync)
            await sync.refresh()
        except StoreError as error:
            if not self._read:
                raise
            facts = {"error": error.code, "detail": error.detail, "again_in_seconds": _OUTAGE_SECONDS}
            _log.warning("the gallery could not be read anew", **facts)
            return False
        self._read = True
        return True

    async def _prepare(self, sync: GallerySync) -> None:
        if not self._reads_only:
            await sync.embed_again()
        elif left_out := await sync.not_embedded():
            advice = "the next picture under input/ or enroll/ has them embedded again"
            _log.warning("faces of other embedders only are left out", faces=len(left_out), advice=advice)


def open_people(
    settings: LambdaSettings, embedder: Embedder, store: GalleryStore | None, *, reads_only: bool = False
) -> People:
    """Return the people of the store and of the gallery file; GalleryError for a file that cannot be used."""
    rows = None if settings.gallery_file is None else read_gallery(settings.gallery_file)
    if rows is not None and rows.embedder != embedder.spec.id:
        detail = f"{settings.gallery_file} holds faces of {rows.embedder}, the embedder in use is {embedder.spec.id}"
        raise GalleryError("wrong_embedder", detail)
    return People(embedder, store, rows, poll_seconds=settings.gallery_poll_seconds, reads_only=reads_only)


def _faces(rows: GalleryRows | None) -> list[GalleryFace]:
    if rows is None:
        return []
    faces = zip(rows.names, rows.embeddings, strict=True)
    return [
        GalleryFace(f"file#{number}", person, np.asarray(embedding, np.float32))
        for number, (person, embedding) in enumerate(faces)
    ]
