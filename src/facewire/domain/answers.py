"""What every result store does with an answer: who is in it, and how a person is taken out of it."""

from collections.abc import Mapping, Sequence

from facewire.domain.errors import kind_of
from facewire.domain.messages import UNKNOWN, Enrolled, RecognizedFace, RecognizedFaces, sha256


def is_retryable(answer: RecognizedFaces | None) -> bool:
    """Return whether the answer says that the request failed for a reason of the moment: it may be sent again."""
    return answer is not None and answer.error is not None and kind_of(answer.error.code).retry != "never"


def recognized_people(answer: RecognizedFaces) -> set[str]:
    """Return whom the history shows the answer under: everybody recognised, and who was enrolled."""
    people = {face.person for face in answer.faces if face.known and face.person is not None}
    if answer.enrolled is not None and answer.enrolled.face_id is not None:
        people.add(answer.enrolled.person)
    return people


def mentioned_people(answer: RecognizedFaces) -> set[str]:
    """Return every name the answer holds: also those nearest, runners-up and look-alikes."""
    people = {face.person for face in answer.faces if face.person is not None}
    people |= {other.person for face in answer.faces for other in (face.nearest, face.runner_up) if other is not None}
    if answer.enrolled is not None:
        people.add(answer.enrolled.person)
        if answer.enrolled.looks_like is not None:
            people.add(answer.enrolled.looks_like.person)
    return people


def without_person(answer: RecognizedFaces, person: str, *, keep_enrolment: bool = False) -> RecognizedFaces:
    """Return the answer with that name gone: faces of hers or his stay, `forgotten` and without a similarity.

    `result` becomes the known person with the largest of the remaining faces, else `Unknown`; that of an enrolment
    `Unknown`. With `keep_enrolment` an answer that enrols the person still says so.
    """
    faces = tuple(_face_without(face, person) for face in answer.faces)
    if keep_enrolment and answer.enrolled is not None and answer.enrolled.person == person:
        return answer.model_copy(update={"faces": faces})
    return answer.model_copy(
        update={
            "faces": faces,
            "result": _result_without(answer, faces) if answer.result == person else answer.result,
            "enrolled": _enrolled_without(answer.enrolled, person),
        }
    )


def without_forgotten(answer: RecognizedFaces, forgotten: Mapping[str, int]) -> RecognizedFaces:
    """Return the answer without the people who were deleted after its gallery; enrolling somebody anew stays.

    `forgotten` holds the version of the gallery that has no longer known a person, by the SHA-256 of the name.
    """
    if not forgotten or answer.gallery_version is None:
        return answer
    for person in mentioned_people(answer):
        if answer.gallery_version < forgotten.get(sha256(person.encode()), 0):
            answer = without_person(answer, person, keep_enrolment=True)
    return answer


def _result_without(answer: RecognizedFaces, faces: Sequence[RecognizedFace]) -> str:
    """Return what a simple device reads once the name in `result` is gone; faces come largest first."""
    if answer.enrolled is not None:
        return UNKNOWN
    return next((face.person for face in faces if face.known and face.person is not None), UNKNOWN)


def _face_without(face: RecognizedFace, person: str) -> RecognizedFace:
    if face.runner_up is not None and face.runner_up.person == person:
        face = face.model_copy(update={"runner_up": None})
    if face.nearest is not None and face.nearest.person == person:
        face = face.model_copy(update={"nearest": None, "similarity": None})
    if face.person == person:
        face = face.model_copy(update={"person": None, "known": False, "similarity": None, "reason": "forgotten"})
    return face


def _enrolled_without(enrolled: Enrolled | None, person: str) -> Enrolled | None:
    if enrolled is None or enrolled.person == person:
        return None
    if enrolled.looks_like is not None and enrolled.looks_like.person == person:
        return enrolled.model_copy(update={"looks_like": None})
    return enrolled
