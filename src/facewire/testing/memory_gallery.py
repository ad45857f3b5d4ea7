"""The gallery in memory: faces, their embeddings and enrolment crops."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from facewire.domain.deletions import check_not_deleted, face_guard, person_guard
from facewire.domain.errors import GalleryError
from facewire.domain.lifecycle import FORGOTTEN_FOR
from facewire.domain.messages import now
from facewire.domain.ports import EnrolledFace, GalleryStore, PersonSummary


class MemoryGalleryStore(GalleryStore):
    """Enrolled faces. Names are compared as they are, code point by code point. `clock` says when one was deleted."""

    def __init__(self, *, clock: Callable[[], datetime] = now) -> None:
        self._clock = clock
        self._version = 0
        #: Each face as it was added first, by face id; and the embedding of each embedder.
        self._faces: dict[str, EnrolledFace] = {}
        self._embeddings: dict[tuple[str, str], bytes] = {}
        self._deleted: dict[str, datetime] = {}

    @property
    def enrolled(self) -> list[EnrolledFace]:
        """All faces, once for each embedder, oldest first, crops left out."""
        return [
            replace(face, embedder=embedder, embedding=embedding, crop=None)
            for face in self._oldest_first()
            for (face_id, embedder), embedding in self._embeddings.items()
            if face_id == face.face_id
        ]

    async def version(self) -> int:
        """Return the number of the latest change."""
        return self._version

    async def add(self, faces: Sequence[EnrolledFace]) -> int:
        """Keep the faces and return the version.

        A known face gets the embedding of a further embedder; all else of it stays. GalleryError `face_id_taken`
        where it is another person's, `deleted` where it or its person was deleted after it was asked for; then none of
        `faces` is kept.
        """
        check_not_deleted(faces, self._deletions())
        kept = dict(self._faces)
        for face in faces:
            if kept.setdefault(face.face_id, face).person != face.person:
                detail = f"face {face.face_id} is enrolled for another person: enrol it under a new request id"
                raise GalleryError("face_id_taken", detail)
        self._faces = kept
        await self.add_embeddings(faces)
        return self._version

    async def add_embeddings(self, faces: Sequence[EnrolledFace]) -> int:
        """Keep the embeddings of those faces that are there and of that person; return how many were new."""
        before = len(self._embeddings)
        for face in faces:
            if face.face_id in self._faces and self._faces[face.face_id].person == face.person:
                self._embeddings.setdefault((face.face_id, face.embedder), face.embedding)
        added = len(self._embeddings) - before
        self._version += added > 0
        return added

    async def faces(self, embedder: str | None = None) -> tuple[int, list[EnrolledFace]]:
        """Return the version and all faces, or those of one embedder, oldest first, crops left out."""
        return self._version, [face for face in self.enrolled if embedder in (None, face.embedder)]

    async def crops(self) -> list[EnrolledFace]:
        """Return each face that has a crop once, with it and its first embedding, oldest first."""
        return [face for face in self._oldest_first() if face.crop is not None]

    async def people(self) -> list[PersonSummary]:
        """Return everybody enrolled, by name; `enrolled_at` is that of the first face."""
        names = sorted({face.person for face in self._faces.values()})
        return [summary for name in names if (summary := await self.person(name)) is not None]

    async def person(self, person: str) -> PersonSummary | None:
        """Return one person, None where no face of hers or his is enrolled."""
        faces = [face for face in self._oldest_first() if face.person == person]
        if not faces:
            return None
        return PersonSummary(person, tuple(face.face_id for face in faces), faces[0].enrolled_at)

    async def delete_face(self, person: str, face_id: str) -> bool:
        """Delete one face and everything kept of it; False if there was none."""
        face = self._faces.get(face_id)
        if face is None or face.person != person:
            return False
        self._note_deletion(face_guard(face_id))
        self._delete([face_id])
        return True

    async def delete_person(self, person: str) -> int:
        """Delete everything kept of a person; return how many faces that were."""
        self._note_deletion(person_guard(person))
        return self._delete([face.face_id for face in self._faces.values() if face.person == person])

    def _oldest_first(self) -> list[EnrolledFace]:
        return sorted(self._faces.values(), key=lambda face: face.enrolled_at)

    def _delete(self, face_ids: Sequence[str]) -> int:
        self._faces = {face_id: face for face_id, face in self._faces.items() if face_id not in face_ids}
        self._embeddings = {key: value for key, value in self._embeddings.items() if key[0] not in face_ids}
        self._version += bool(face_ids)
        return len(face_ids)

    def _note_deletion(self, guard: str) -> None:
        self._deleted = {**self._deletions(), guard: self._clock()}

    def _deletions(self) -> dict[str, datetime]:
        """Return when what each guard stands for was deleted, as far as that still counts."""
        since = self._clock() - FORGOTTEN_FOR
        return {guard: moment for guard, moment in self._deleted.items() if moment >= since}
