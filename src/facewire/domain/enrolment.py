"""Which face of a picture is enrolled, or why none is."""

import hashlib
import hmac
import json
from collections.abc import Sequence
from datetime import UTC

from facewire.domain.errors import RecognizeError
from facewire.domain.messages import Box, DetectedFace, DetectedFaces, FaceQuality, Frame
from facewire.domain.quality_gate import ENROLMENT, refusals

#: A face this many times as large in area as the next one is the one that is meant.
CLEARLY_LARGER = 2.0


def choose_face(faces: Sequence[tuple[DetectedFace, FaceQuality]]) -> int | tuple[str, ...]:
    """Return the place of the face to enrol, or reason codes: `no_face`, `several_faces`, or those of its quality.

    Exactly one face must pass the strict gate, or one that is at least twice as large as the next that does. Where none
    passes, the reasons are those of the largest.
    """
    if not faces:
        return ("no_face",)
    places = sorted(range(len(faces)), key=lambda place: _area(faces[place][0].box), reverse=True)
    refused = [refusals(quality, face.confidence, ENROLMENT) for face, quality in faces]
    passing = [place for place in places if not refused[place]]
    if not passing:
        return refused[places[0]]
    areas = [_area(faces[place][0].box) for place in passing]
    if len(passing) > 1 and areas[0] < CLEARLY_LARGER * areas[1]:
        return ("several_faces",)
    return passing[0]


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def proof_of(key: bytes, request: Frame | DetectedFaces) -> str:
    """Return the HMAC-SHA256, 64 hexadecimal digits, over request id, person, content hash and time of receipt.

    The time is signed because a deletion counts against what was received before it: with another time, a proof that
    was overheard would bring a deleted person back.
    """
    received_at = request.received_at.astimezone(UTC).isoformat()
    # JSON keeps the fields apart, whatever is in them.
    signed = json.dumps([request.request_id, request.enroll_as, request.content_sha256, received_at])
    return hmac.new(key, signed.encode(), hashlib.sha256).hexdigest()


def check_proof(key: bytes | None, message: DetectedFaces) -> None:
    """Raise RecognizeError `enroll_refused` for an enrolment without the proof of `key`; without a key, for any."""
    if message.enroll_as is None:
        return
    if key is None:
        detail = "nobody can be enrolled here, for want of a key: set FACEWIRE_ENROLL_KEY, the same as the gateway's"
        raise RecognizeError("enroll_refused", detail)
    if message.enroll_proof is None:
        detail = "the enrolment has no proof that a gateway made it: enrol over POST /v1/people/{person}/faces"
        raise RecognizeError("enroll_refused", detail)
    if not hmac.compare_digest(message.enroll_proof.encode(), proof_of(key, message).encode()):
        detail = (
            "the enrolment's proof is not that of this request, person and picture, or of another key: "
            "gateway and recognizer need the same data folder, or the same FACEWIRE_ENROLL_KEY"
        )
        raise RecognizeError("enroll_refused", detail)
