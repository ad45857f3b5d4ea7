"""The enrolled faces of one embedder in memory: who is nearest to a face, who is second, and is it a match."""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from facewire.domain.errors import GalleryError

Reason = Literal["below_threshold", "ambiguous", "empty_gallery"]


@dataclass(frozen=True, slots=True)
class GalleryFace:
    """One enrolled face: its id, whose it is, and its embedding, float32 (d,), of unit length."""

    face_id: str
    person: str
    embedding: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A person and the cosine similarity to the nearest of her or his faces."""

    person: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Match:
    """Who a face is nearest to. `reason` says why that is not enough, and is None exactly if the person is known."""

    nearest: Candidate | None
    runner_up: Candidate | None
    reason: Reason | None

    @property
    def known(self) -> bool:
        """Whether the face is that of `nearest`."""
        return self.reason is None


@dataclass(frozen=True)
class Gallery:
    """A snapshot that never changes: faces sorted by person, their embeddings as rows, float32 (n, d).

    `version` is the gallery store's. Make one by `empty` and `with_faces`.
    """

    faces: tuple[tuple[str, str], ...]
    embeddings: NDArray[np.float32] = field(repr=False)
    version: int

    @classmethod
    def empty(cls, dimension: int, *, version: int = 0) -> Self:
        """Return a gallery without faces for embeddings of that dimension."""
        return cls((), np.empty((0, dimension), np.float32), version)

    def __len__(self) -> int:
        return len(self.faces)

    @cached_property
    def people(self) -> tuple[str, ...]:
        """Everybody enrolled, by name."""
        return tuple(dict.fromkeys(person for person, _ in self.faces))

    @cached_property
    def _starts(self) -> NDArray[np.intp]:
        """The first row of each person."""
        first: dict[str, int] = {}
        for row, (person, _) in enumerate(self.faces):
            first.setdefault(person, row)
        return np.fromiter(first.values(), np.intp, len(first))

    def with_faces(self, faces: Iterable[GalleryFace], *, version: int) -> Self:
        """Return a snapshot with these faces as well; a face id that is there already is left as it is.

        Raises GalleryError with code `wrong_dimension` where an embedding is of another embedder's dimension.
        """
        known = {face_id for _, face_id in self.faces}
        new = {face.face_id: face for face in faces if face.face_id not in known}
        added = sorted(new.values(), key=lambda face: (face.person, face.face_id))
        rows = np.array([self._checked(face) for face in added], np.float32).reshape(-1, self.embeddings.shape[1])
        places = [bisect_right(self.faces, (face.person, face.face_id)) for face in added]
        merged = sorted([*self.faces, *((face.person, face.face_id) for face in added)])
        return type(self)(tuple(merged), np.insert(self.embeddings, places, rows, axis=0), version)

    def without(self, face_ids: Iterable[str], *, version: int) -> Self:
        """Return a snapshot without these faces; ids that are not there are passed over."""
        gone = set(face_ids)
        kept = [row for row, (_, face_id) in enumerate(self.faces) if face_id not in gone]
        return type(self)(tuple(self.faces[row] for row in kept), self.embeddings[kept], version)

    def match(self, embeddings: NDArray[np.float32], *, threshold: float, margin: float) -> list[Match]:
        """Return for each row of `embeddings`, float32 (m, d) of unit length, who it is.

        A person is as similar as the nearest of her or his faces. The nearest person is known if that cosine is at
        least `threshold` and leads the runner-up, the nearest of the other people, by at least `margin`.
        """
        if not self.faces:
            return [Match(None, None, "empty_gallery") for _ in embeddings]
        similarities = np.maximum.reduceat(embeddings @ self.embeddings.T, self._starts, axis=1)
        return [self._judge(row, threshold, margin) for row in similarities]

    def _judge(self, similarities: NDArray[np.float32], threshold: float, margin: float) -> Match:
        nearest = self._candidate(similarities, int(similarities.argmax()))
        runner_up = None
        if len(similarities) > 1:
            others = similarities.copy()
            others[similarities.argmax()] = -np.inf
            runner_up = self._candidate(others, int(others.argmax()))
        reason: Reason | None = None
        # "not at least" rather than "less": a similarity that is not a number must name nobody.
        if not nearest.similarity >= threshold:
            reason = "below_threshold"
        elif runner_up is not None and not nearest.similarity - runner_up.similarity >= margin:
            reason = "ambiguous"
        return Match(nearest, runner_up, reason)

    def _candidate(self, similarities: NDArray[np.float32], person: int) -> Candidate:
        return Candidate(self.people[person], float(similarities[person]))

    def _checked(self, face: GalleryFace) -> NDArray[Any]:
        if face.embedding.shape != self.embeddings.shape[1:]:
            found, wanted = face.embedding.shape, self.embeddings.shape[1:]
            detail = f"face {face.face_id} has an embedding of shape {found}, this gallery's have {wanted}"
            raise GalleryError("wrong_dimension", detail)
        return face.embedding
