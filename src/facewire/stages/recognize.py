"""DetectedFaces -> RecognizedFaces: align, embed and match the faces of several messages as one batch. No I/O."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facewire.domain.enrolment import choose_face
from facewire.domain.errors import FacewireError
from facewire.domain.gallery import Candidate, Gallery, Match
from facewire.domain.messages import (
    NO_FACE,
    UNKNOWN,
    DetectedFace,
    DetectedFaces,
    Enrolled,
    FaceAttributes,
    FaceQuality,
    RecognizedFace,
    RecognizedFaces,
    RunnerUp,
    failed,
    now,
)
from facewire.domain.names import face_id
from facewire.domain.ports import EnrolledFace
from facewire.domain.quality_gate import RECOGNITION, refusals
from facewire.domain.timing import StepClock, milliseconds_between
from facewire.vision.alignment import align
from facewire.vision.attributes import AttributeModel
from facewire.vision.embedder import Embedder, ModelSpec
from facewire.vision.facecrop import FaceInCrop
from facewire.vision.quality import assess

_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Recognition:
    """The answer to a message and, for an enrolment that was not refused, the face to keep before it is sent."""

    answer: RecognizedFaces
    enrolled: EnrolledFace | None = None


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A face in its crop; `chip` is its aligned picture, `fit` whether its quality is good enough to name it.

    `attribute_chip` is the picture that its attributes are guessed from, if they are.
    """

    face: DetectedFace
    in_crop: FaceInCrop
    quality: FaceQuality
    fit: bool
    chip: NDArray[np.uint8]
    attribute_chip: NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True)
class _Compared:
    """A prepared face with its embedding and match, and with its attributes if they were guessed."""

    prepared: _Prepared
    embedding: NDArray[np.float32]
    match: Match
    attributes: FaceAttributes | None


class FaceRecognizer:
    """Names faces with one embedder; `threshold` and `margin` are the embedder's own unless given.

    With a model of `attributes` it also guesses those of each face. May be called from several threads at once.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        threshold: float | None = None,
        margin: float | None = None,
        attributes: AttributeModel | None = None,
    ) -> None:
        self._embedder = embedder
        self._attributes = attributes
        self._threshold = embedder.spec.threshold if threshold is None else threshold
        self._margin = embedder.spec.margin if margin is None else margin

    @property
    def embedder(self) -> Embedder:
        """The embedder that the gallery's faces must be of."""
        return self._embedder

    def __call__(self, messages: Sequence[DetectedFaces], gallery: Gallery) -> list[Recognition]:
        """Return the recognition of each message, compared with `gallery`, faces of this embedder.

        A known face has `person`, the `similarity` to that person and the `runner_up`. An unknown one has no person;
        `reason` says why, and unless the gallery is empty, `similarity` and `nearest` say whom it came closest to and
        `runner_up` who came second; a face of low quality is never known, whomever it is close to. `result` is the
        known person with the largest face. A message with a crop that cannot be decoded or aligned is answered
        `failed`; the others go on.

        An enrolment's faces are compared with the gallery as it was before; its `result` is the person enrolled.
        Attributes are guessed where the quality is good enough to name a face. Timings in milliseconds: `queue` since
        the detector sent the message, `align`, `embed`, `match` and, if they are guessed, `attributes` of the whole
        batch, `total` since the frame was received.
        """
        started = now()
        clock = StepClock()
        prepared = [self._prepare(message) for message in messages]
        clock.lap("align")
        readable = [face for faces in prepared if not isinstance(faces, FacewireError) for face in faces]
        compared = iter(self._compare(readable, gallery, clock))
        recognitions = []
        for message, faces in zip(messages, prepared, strict=True):
            if isinstance(faces, FacewireError):
                recognitions.append(Recognition(failed(message, faces, source="cloud")))
                continue
            together = [next(compared) for _ in faces]
            queued = clock.timings_ms | {"queue": milliseconds_between(message.sent_at, started)}
            recognitions.append(self._recognition(message, together, gallery.version, queued))
        return recognitions

    def _prepare(self, message: DetectedFaces) -> list[_Prepared] | FacewireError:
        try:
            return [self._prepare_face(face) for face in message.faces]
        except FacewireError as error:
            return error

    def _prepare_face(self, face: DetectedFace) -> _Prepared:
        in_crop = FaceInCrop.of_detected(face)
        quality = face.quality or assess(in_crop.picture, in_crop.box, in_crop.landmarks)
        fit = not refusals(quality, face.confidence, RECOGNITION)
        chip = _cut(in_crop, self._embedder.spec)
        attribute_chip = _cut(in_crop, self._attributes.spec) if self._attributes is not None and fit else None
        return _Prepared(face, in_crop, quality, fit, chip, attribute_chip)

    def _compare(self, faces: Sequence[_Prepared], gallery: Gallery, clock: StepClock) -> list[_Compared]:
        embeddings = self._embedder.embed(_stack([face.chip for face in faces], self._embedder.spec))
        clock.lap("embed")
        matches = gallery.match(embeddings, threshold=self._threshold, margin=self._margin)
        clock.lap("match")
        attributes: Sequence[FaceAttributes | None] = [None] * len(faces)
        if self._attributes is not None:
            attributes = _guess(self._attributes, faces)
            clock.lap("attributes")
        return list(map(_Compared, faces, embeddings, matches, attributes))

    def _recognition(
        self, message: DetectedFaces, compared: Sequence[_Compared], gallery_version: int, timings: dict[str, float]
    ) -> Recognition:
        faces = tuple(_recognized(face) for face in compared)
        enrolment, enrolled = self._enrol(message, compared)
        answer = RecognizedFaces(
            request_id=message.request_id,
            filename=message.filename,
            result=_result(faces, enrolment),
            camera=message.camera,
            captured_at=message.captured_at,
            received_at=message.received_at,
            embedder=self._embedder.spec.id,
            gallery_version=gallery_version,
            content_sha256=message.content_sha256,
            frame=message.frame,
            faces_dropped=message.faces_dropped,
            faces=faces,
            enrolled=enrolment,
            timings_ms=message.timings_ms | timings | {"total": milliseconds_between(message.received_at, now())},
        )
        return Recognition(answer, enrolled)

    def _enrol(
        self, message: DetectedFaces, compared: Sequence[_Compared]
    ) -> tuple[Enrolled | None, EnrolledFace | None]:
        if (person := message.enroll_as) is None:
            return None, None
        chosen = choose_face([(face.prepared.face, face.prepared.quality) for face in compared])
        if not isinstance(chosen, int):
            return Enrolled(person=person, refused=chosen), None
        face = compared[chosen]
        enrolled = EnrolledFace(
            face_id=face_id(message.request_id, message.content_sha256),
            person=person,
            embedder=self._embedder.spec.id,
            embedding=np.asarray(face.embedding, "<f4").tobytes(),
            enrolled_at=message.received_at,
            crop=face.prepared.in_crop.to_crop(face.prepared.face.crop.jpeg),
        )
        looks_like = self._looks_like(face.match, person)
        return Enrolled(person=person, face_id=enrolled.face_id, looks_like=looks_like), enrolled

    def _looks_like(self, match: Match, person: str) -> RunnerUp | None:
        """Return the nearest person other than `person` if she or he is at or above the threshold."""
        for candidate in (match.nearest, match.runner_up):
            if candidate is not None and candidate.person != person and candidate.similarity >= self._threshold:
                return _runner_up(candidate)
        return None


def _recognized(compared: _Compared) -> RecognizedFace:
    prepared, match = compared.prepared, compared.match
    face, nearest = prepared.face, match.nearest
    known = match.known and prepared.fit
    return RecognizedFace(
        index=face.index,
        person=nearest.person if nearest and known else None,
        known=known,
        similarity=round(nearest.similarity, _DIGITS) if nearest else None,
        runner_up=_runner_up(match.runner_up),
        nearest=None if known else _runner_up(nearest),
        reason=match.reason if prepared.fit or nearest is None else "low_quality",
        box=face.box,
        landmarks=face.landmarks,
        confidence=face.confidence,
        quality=prepared.quality,
        attributes=compared.attributes,
    )


def _cut(face: FaceInCrop, spec: ModelSpec) -> NDArray[np.uint8]:
    return align(face.picture, face.box, face.landmarks, spec)


def _stack(chips: Sequence[NDArray[np.uint8]], spec: ModelSpec) -> NDArray[np.uint8]:
    return np.array(chips, np.uint8).reshape(-1, spec.size, spec.size, 3)


def _guess(model: AttributeModel, faces: Sequence[_Prepared]) -> list[FaceAttributes | None]:
    chips = [face.attribute_chip for face in faces if face.attribute_chip is not None]
    guesses = iter(model.guess(_stack(chips, model.spec)))
    return [None if face.attribute_chip is None else next(guesses) for face in faces]


def _runner_up(candidate: Candidate | None) -> RunnerUp | None:
    if candidate is None:
        return None
    return RunnerUp(person=candidate.person, similarity=round(candidate.similarity, _DIGITS))


def _result(faces: Sequence[RecognizedFace], enrolment: Enrolled | None) -> str:
    """Return what a simple device reads; faces come largest first."""
    if not faces:
        return NO_FACE
    if enrolment is not None:
        return enrolment.person if enrolment.face_id else UNKNOWN
    return next((face.person for face in faces if face.person is not None), UNKNOWN)
