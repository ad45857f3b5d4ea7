"""What may name a request, a camera or a person; each check returns the value or raises ValueError with the limit."""

import re
import unicodedata
import uuid
from pathlib import Path

from facewire.domain.errors import SettingsError

MAX_REQUEST_ID = 128
MAX_CAMERA = 128
MAX_PERSON = 128

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")
#: What `result` says in place of a person: UNKNOWN, NO_FACE and FAILED of `messages`.
_RESULTS = frozenset({"unknown", "no-face", "failed"})
_RAW_FRAMES = uuid.UUID("6ea2f4d5-6f2b-5b0a-9c5e-6f0a5f2ad1c3")
_FACES = uuid.UUID("c1b52b1e-8a86-5e0c-8a4a-0f2c3d1e7b55")


def check_request_id(value: str) -> str:
    """Return `value` if it can name a request: 1 to 128 printable characters without `/`, `+` and `#`."""
    return _check_topic_part(value, MAX_REQUEST_ID)


def check_camera(value: str) -> str:
    """Return `value` if it can name a camera, the last part of an MQTT topic."""
    return _check_topic_part(value, MAX_CAMERA)


def check_person(value: str) -> str:
    r"""Return `value` without outer blanks if it can name a person: 1 to 128 characters, none of them for control.

    It is brought into Unicode's composed form (NFC), so that one spelling is one person. A name is never used as a
    path; `/`, `\`, `.` and `..` are refused all the same, since exports and URLs hold it. So are `Unknown`, `No-Face`
    and `Failed` in any case: an answer's `result` could not be told from a person of that name.
    """
    value = unicodedata.normalize("NFC", value.strip())
    _check_length(value, MAX_PERSON)
    if _CONTROL.search(value):
        message = "must not hold control characters"
        raise ValueError(message)
    if "/" in value or "\\" in value or value in {".", ".."}:
        message = r"must not hold '/' or '\' and must not be '.' or '..'"
        raise ValueError(message)
    if value.casefold() in _RESULTS:
        message = f"must not be {value!r}, which an answer's result says of faces without a name"
        raise ValueError(message)
    return value


def raw_frame_id(camera: str, content_sha256: str) -> str:
    """Return the request id of a frame that came without one: the UUID5 of its camera and content."""
    return str(uuid.uuid5(_RAW_FRAMES, f"{camera}\n{content_sha256}"))


def face_id(request_id: str, content_sha256: str) -> str:
    """Return the id of the face that a request enrols from a picture: the UUID5 of both.

    A redelivery enrols once, since it has the same content. A request id used anew with another picture, as it may be
    after its time window, enrols another face; from the request id alone that face would pass for the known one.
    """
    return str(uuid.uuid5(_FACES, f"{request_id}\n{content_sha256}"))


def _check_topic_part(value: str, longest: int) -> str:
    _check_length(value, longest)
    if not value.isprintable() or any(character in value for character in "/+#"):
        message = "must be printable characters without '/', '+' and '#'"
        raise ValueError(message)
    return value


def _check_length(value: str, longest: int) -> None:
    if not 1 <= len(value) <= longest:
        message = f"has {len(value)} characters, must have 1 to {longest}"
        raise ValueError(message)


#: Before the first PEM block, where RFC 7468 (section 2) allows text that readers skip.
DEVICE_LINE = "Facewire device: "


def read_device_name(bundle: Path) -> str:
    """Return the device that a bundle of `facewire certs device` is for.

    SettingsError `bundle` where the file cannot be read or does not say.
    """
    try:
        with bundle.open(encoding="utf-8", errors="replace") as file:
            line = file.readline(1024)
    except OSError as error:
        raise SettingsError("bundle", f"{bundle}: cannot be read: {error.strerror}") from error
    if not line.startswith(DEVICE_LINE):
        detail = f"{bundle}: does not begin with {DEVICE_LINE!r}: give the certificate's name as --camera"
        raise SettingsError("bundle", detail)
    return line.removeprefix(DEVICE_LINE).rstrip("\n")
