"""Which face of a picture is enrolled, or why none is."""

from collections.abc import Sequence

from facewire.domain.messages import Box, DetectedFace, FaceQuality
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
