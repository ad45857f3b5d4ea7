"""Keeps the gallery in memory in step with the store: a new snapshot for every version, built off the event loop."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import structlog

from facewire.domain.errors import FacewireError
from facewire.domain.gallery import Gallery, GalleryFace
from facewire.domain.ports import EnrolledFace, GalleryStore
from facewire.runtime import metrics
from facewire.runtime.backoff import wait_event
from facewire.vision.alignment import align
from facewire.vision.embedder import Embedder
from facewire.vision.facecrop import FaceInCrop

#: Faces embedded again and stored at a time.
_CHUNK = 32
#: Float32 rounding leaves about 1e-7; a cosine is off by no more than this.
_LENGTH_TOLERANCE = 1e-3

_log = structlog.get_logger()


class GallerySync:
    """Holds the current snapshot of one embedder's faces in `store`."""

    def __init__(self, store: GalleryStore, embedder: Embedder) -> None:
        self._store = store
        self._embedder = embedder
        self._gallery = Gallery.empty(embedder.spec.dimension)
        self._version: int | None = None
        self._refreshing = asyncio.Lock()

    @property
    def gallery(self) -> Gallery:
        """The latest snapshot; empty before the first `refresh`."""
        return self._gallery

    async def refresh(self) -> None:
        """Take a new snapshot if the store has changed. Raises StoreError."""
        async with self._refreshing:
            if await self._store.version() == self._version:
                return
            version, faces = await self._store.faces(self._embedder.spec.id)
            self._gallery = await asyncio.to_thread(_snapshot, faces, self._embedder.spec.dimension, version)
            self._version = version
            metrics.GALLERY_FACES.set(len(self._gallery))

    async def refresh_or_log(self) -> None:
        """Take a new snapshot if the store has changed; where it cannot be read, keep the one there is."""
        try:
            await self.refresh()
        except FacewireError as error:
            metrics.GALLERY_ERRORS.inc()
            _log.warning("the gallery could not be read anew", error=error.code, detail=error.detail)

    async def follow(self, stop: asyncio.Event, *, poll_seconds: float) -> None:
        """Refresh every `poll_seconds` until `stop` is set."""
        while not await wait_event(stop, poll_seconds):
            await self.refresh_or_log()

    async def embed_again(self) -> int:
        """Embed from their crops the faces that only other embedders have seen; return how many that were.

        Their other embeddings stay. Faces without a crop, imported ones, cannot be embedded again; faces deleted
        meanwhile stay deleted.
        """
        missing = await self.not_embedded()
        if not missing:
            return 0
        crops = [face for face in await self._store.crops() if face.face_id in missing]
        embedded = kept = 0
        for start in range(0, len(crops), _CHUNK):
            faces = await asyncio.to_thread(_embed_again, crops[start : start + _CHUNK], self._embedder)
            kept += await self._store.add_embeddings(faces)
            embedded += len(faces)
        without = len(missing) - len(crops)
        facts = {"faces": kept, "without_crop": without, "failed": len(crops) - embedded, "gone": embedded - kept}
        _log.info("the gallery was embedded again", embedder=self._embedder.spec.id, **facts)
        return kept

    async def not_embedded(self) -> set[str]:
        """Return the ids of the faces that only other embedders have seen. Raises StoreError."""
        _, faces = await self._store.faces()
        embedder = self._embedder.spec.id
        return {face.face_id for face in faces} - {face.face_id for face in faces if face.embedder == embedder}


def _snapshot(faces: Sequence[EnrolledFace], dimension: int, version: int) -> Gallery:
    whole = [face for face in faces if len(face.embedding) == np.dtype("<f4").itemsize * dimension]
    if len(whole) < len(faces):
        _log.warning("embeddings of a wrong length are left out", faces=len(faces) - len(whole), dimension=dimension)
    rows = [GalleryFace(face.face_id, face.person, np.frombuffer(face.embedding, "<f4")) for face in whole]
    usable = [row for row in rows if abs(np.linalg.norm(row.embedding.astype(np.float64)) - 1) <= _LENGTH_TOLERANCE]
    if len(usable) < len(rows):
        facts = {"faces": len(rows) - len(usable), "dimension": dimension}
        _log.warning("embeddings that are not finite or not of unit length are left out", **facts)
    return Gallery.empty(dimension).with_faces(usable, version=version)


def _embed_again(faces: Sequence[EnrolledFace], embedder: Embedder) -> list[EnrolledFace]:
    aligned = []
    for face in faces:
        if face.crop is None:
            continue
        try:
            crop = FaceInCrop.of_enrolled(face.crop)
            aligned.append((face, align(crop.picture, crop.box, crop.landmarks, embedder.spec)))
        except FacewireError as error:
            _log.warning("a face cannot be embedded again", face_id=face.face_id, error=error.code)
    size = embedder.spec.size
    embeddings = embedder.embed(np.array([chip for _, chip in aligned], np.uint8).reshape(-1, size, size, 3))
    return [
        replace(face, embedder=embedder.spec.id, embedding=np.asarray(embedding, "<f4").tobytes())
        for (face, _), embedding in zip(aligned, embeddings, strict=True)
    ]
