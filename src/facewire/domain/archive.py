"""The archive under `processed/`: each answer as one line of JSON in an object of its own, for Athena and the like.

Objects lie in folders by the day in UTC when the frame was received, `processed/day=2026-11-22/101500-<image id>.json`.
deploy/aws/athena holds the table over them and queries. Boxes are in pixels of the frame, origin top left.
"""

import re
import uuid
from datetime import UTC, datetime
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from facewire.domain.messages import Emotions, Failure, RecognizedFace, RecognizedFaces, sha256

PREFIX = "processed/"
CONTENT_TYPE = "application/json"

_FACES = uuid.UUID("0b7f4c0e-55a5-5f1e-9a3f-6f5d8f0f4d1b")
#: Image ids that are file names everywhere; of others the object's name has the SHA-256.
_PLAIN = re.compile(r"[A-Za-z0-9._-]+")


class BoundingBox(BaseModel):
    """The corners of a face's box: left and top, right and bottom."""

    x1: float
    y1: float
    x2: float
    y2: float


def _is_absent(value: object) -> bool:
    return value is None


class ProcessedFace(BaseModel):
    """One face of an archived frame; of an unknown one there is no person but a reason.

    `face_id` is the same whenever the same picture is answered again. `emotions`, `age` and `gender` are there only if
    the recognizer was told to guess them.
    """

    model_config = ConfigDict(frozen=True)

    image_id: str
    face_id: str
    timestamp: str
    index: int
    bounding_box: BoundingBox
    confidence: float
    person: str | None
    similarity: float | None
    reason: str | None
    emotions: Emotions | None = Field(default=None, exclude_if=_is_absent)
    age: float | None = Field(default=None, exclude_if=_is_absent)
    gender: str | None = Field(default=None, exclude_if=_is_absent)
    gender_confidence: float | None = Field(default=None, exclude_if=_is_absent)


class ProcessedFrame(BaseModel):
    """One archived answer: `image_id` is the request id, `timestamp` when the frame was received, in UTC."""

    model_config = ConfigDict(frozen=True)

    image_id: str
    timestamp: str
    captured_at: str | None
    camera: str | None
    filename: str
    status: str
    result: str
    source: str
    embedder: str | None
    content_sha256: str
    width: int | None
    height: int | None
    total_ms: float | None
    faces_dropped: int
    error: Failure | None
    faces: tuple[ProcessedFace, ...]

    @classmethod
    def of(cls, answer: RecognizedFaces) -> Self:
        """Return the answer as it is archived."""
        return cls(
            image_id=answer.request_id,
            timestamp=_utc(answer.received_at),
            captured_at=None if answer.captured_at is None else _utc(answer.captured_at),
            camera=answer.camera,
            filename=answer.filename,
            status=answer.status,
            result=answer.result,
            source=answer.source,
            embedder=answer.embedder,
            content_sha256=answer.content_sha256,
            width=answer.frame and answer.frame.width,
            height=answer.frame and answer.frame.height,
            total_ms=answer.timings_ms.get("total"),
            faces_dropped=answer.faces_dropped,
            error=answer.error,
            faces=tuple(_face(answer, face) for face in answer.faces),
        )

    @property
    def key(self) -> str:
        """The object's key: the same for the same request, so that writing it again replaces it.

        The name starts with the time, for query engines pass over names that start with a point or an underscore.
        """
        day, time = self.timestamp[:10], self.timestamp[11:19].replace(":", "")
        name = self.image_id if _PLAIN.fullmatch(self.image_id) else sha256(self.image_id.encode())
        return f"{PREFIX}day={day}/{time}-{name}.json"

    def to_line(self) -> bytes:
        """Return the object's content: JSON in UTF-8, one line with its end."""
        return self.model_dump_json().encode() + b"\n"


def _face(answer: RecognizedFaces, face: RecognizedFace) -> ProcessedFace:
    x1, y1, x2, y2 = face.box
    guessed = {} if face.attributes is None else dict(face.attributes)
    return ProcessedFace(
        image_id=answer.request_id,
        face_id=str(uuid.uuid5(_FACES, f"{answer.request_id}\n{answer.content_sha256}\n{face.index}")),
        timestamp=_utc(answer.received_at),
        index=face.index,
        bounding_box=BoundingBox(x1=x1, y1=y1, x2=x2, y2=y2),
        confidence=face.confidence,
        person=face.person,
        similarity=face.similarity,
        reason=face.reason,
        **guessed,
    )


def _utc(moment: datetime) -> str:
    """Return the moment in UTC as ISO 8601 with milliseconds, which `from_iso8601_timestamp` of Athena reads."""
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:  # the first or last hours of the calendar, in another time zone
        moment = moment.replace(tzinfo=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
