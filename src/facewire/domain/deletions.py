"""What stays deleted: an enrolment that was asked for before a deletion does not bring back what was deleted.

An enrolment can come late, out of the outbox, or twice, as SQS delivers. So every gallery store keeps for a day a guard
for each deletion: of whom or of which face, and when. It tells nobody's name.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime

from facewire.domain.errors import GalleryError
from facewire.domain.messages import sha256
from facewire.domain.ports import EnrolledFace


def person_guard(person: str) -> str:
    """Return what the guard against enrolments of a deleted person is named."""
    return f"person#{sha256(person.encode())}"


def face_guard(face_id: str) -> str:
    """Return what the guard against a further enrolment of one deleted face is named."""
    return f"face#{face_id}"


def guards_of(faces: Iterable[EnrolledFace]) -> set[str]:
    """Return the names of all guards that may stand against the faces."""
    return {guard for face in faces for guard in (person_guard(face.person), face_guard(face.face_id))}


def check_not_deleted(faces: Iterable[EnrolledFace], deleted_at: Mapping[str, datetime]) -> None:
    """Raise GalleryError `deleted` where one of the faces was asked for before its guard's moment of deletion."""
    for face in faces:
        for guard in guards_of([face]):
            if guard in deleted_at and face.enrolled_at < deleted_at[guard]:
                detail = f"face {face.face_id} or its person was deleted since: enrol it under a new request id"
                raise GalleryError("deleted", detail)
