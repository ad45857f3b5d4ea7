"""What comes over which topic: frames of cameras, and those that the gateway hands over.

Over `clients/<camera>` comes what a camera says, JSON or a picture. `uploads/<request id>` and `enroll/<request id>`
are the gateway's alone (the broker's ACL sees to it); over them come whole frames as `Frame.to_bytes()` writes them,
handed over again until their answer is there.
"""

from pydantic_core import from_json

from facewire.domain.errors import IntakeError
from facewire.domain.messages import FAILED, Failure, Frame, RecognizedFaces, parse_frame, sha256
from facewire.domain.names import check_request_id, raw_frame_id

#: The topic filter of cameras' frames. Results (`clients/<camera>/results`) do not match it.
FRAMES_TOPIC = "clients/+"
#: Over it each detector says every second that it is there; the gateways hand nothing over while they hear of none.
DETECTORS_TOPIC = "detectors"
_UPLOADS = "uploads"
_ENROLMENTS = "enroll"
#: What the detectors on one broker share: each message goes to one of them, under its plain topic.
SHARED_TOPICS = tuple(f"$share/detectors/{topic}" for topic in (FRAMES_TOPIC, f"{_UPLOADS}/+", f"{_ENROLMENTS}/+"))


def is_handed_over(topic: str) -> bool:
    """Tell whether a message of `topic` is a frame that the gateway hands over."""
    return topic.partition("/")[0] in {_UPLOADS, _ENROLMENTS}


def read_frame(topic: str, payload: bytes) -> Frame:
    """Return the frame in a message; IntakeError says what is wrong.

    `enroll_as` is taken over `enroll/…`, where it must be, and refused anywhere else.
    """
    kind, _, name = topic.partition("/")
    if not is_handed_over(topic):
        return parse_frame(payload, camera=name)
    frame = Frame.from_bytes(payload)
    if frame.request_id != name:
        raise IntakeError("bad_request", f"request_id: is {frame.request_id!r}, but the topic is {topic!r}")
    if (frame.enroll_as is not None) != (kind == _ENROLMENTS):
        raise IntakeError("enroll_refused", f"enroll_as belongs to {_ENROLMENTS}/<request id>, the topic is {topic!r}")
    return frame


def refusal(topic: str, payload: bytes, error: IntakeError) -> RecognizedFaces:
    """Return the `failed` answer to a payload that is no frame.

    Its request id is the topic's where the gateway handed it over; else the payload's own where one can be read, even
    from JSON that breaks off later; else the one that a raw frame of these bytes would have. `content_sha256` stays
    empty: the content is not known.
    """
    name = topic.partition("/")[2]
    handed_over = is_handed_over(topic)
    named = _checked(name) if handed_over else _named_id(payload)
    return RecognizedFaces(
        request_id=named or raw_frame_id(name, sha256(payload)),
        status="failed",
        result=FAILED,
        camera=None if handed_over else name,
        source="edge",
        error=Failure.of(error),
    )


def _named_id(payload: bytes) -> str | None:
    try:
        said = from_json(payload, allow_partial=True)
    except ValueError:
        return None
    return _checked(said.get("request_id")) if isinstance(said, dict) else None


def _checked(named: object) -> str | None:
    try:
        return check_request_id(named) if isinstance(named, str) else None
    except ValueError:
        return None
