"""What the detector takes over which topic."""

import base64
import json

import pytest

from facewire.domain.errors import IntakeError
from facewire.domain.messages import Frame, sha256
from facewire.domain.names import raw_frame_id
from facewire_detector.topics import SHARED_TOPICS, is_handed_over, read_frame, refusal

JPEG = b"\xff\xd8\xff\xe0 a picture"
UPLOAD = Frame.of(JPEG, request_id="r1", camera="door", filename="a.jpg")
ENROLMENT = Frame.of(JPEG, request_id="r1", enroll_as="Ada")


def refused(topic: str, payload: bytes) -> IntakeError:
    with pytest.raises(IntakeError) as caught:
        read_frame(topic, payload)
    return caught.value


def test_a_camera_is_named_by_its_topic() -> None:
    said = {"request_id": "r1", "content": base64.b64encode(JPEG).decode(), "camera": "other"}
    frame = read_frame("clients/door", json.dumps(said).encode())
    assert (frame.request_id, frame.camera, frame.content) == ("r1", "door", JPEG)


@pytest.mark.parametrize(("topic", "frame"), [("uploads/r1", UPLOAD), ("enroll/r1", ENROLMENT)])
def test_what_the_gateway_hands_over_comes_whole(topic: str, frame: Frame) -> None:
    assert read_frame(topic, frame.to_bytes()) == frame
    assert is_handed_over(topic)
    assert not is_handed_over(f"clients/{topic.partition('/')[0]}")


@pytest.mark.parametrize(
    ("topic", "frame", "code"),
    [
        ("uploads/r1", ENROLMENT, "enroll_refused"),
        ("enroll/r1", UPLOAD, "enroll_refused"),
        ("uploads/r2", UPLOAD, "bad_request"),
        ("enroll/r2", ENROLMENT, "bad_request"),
    ],
)
def test_a_frame_on_a_topic_that_is_not_its_own_is_refused(topic: str, frame: Frame, code: str) -> None:
    assert refused(topic, frame.to_bytes()).code == code


def test_nobody_enrols_over_a_cameras_topic() -> None:
    said = json.dumps({"request_id": "r1", "content": base64.b64encode(JPEG).decode(), "enroll_as": "Eve"})
    assert refused("clients/door", said.encode()).code == "enroll_refused"


@pytest.mark.parametrize("payload", [b"", b"nonsense", JPEG, b'{"request_id": "other"'])
@pytest.mark.parametrize("topic", ["uploads/r1", "enroll/r1"])
def test_what_cannot_be_read_is_answered_under_the_id_of_the_topic(topic: str, payload: bytes) -> None:
    error = refused(topic, payload)
    answer = refusal(topic, payload, error)
    assert (answer.request_id, answer.camera, answer.status) == ("r1", None, "failed")
    assert answer.error is not None
    assert answer.error.code == error.code == "bad_request"


def test_a_topic_that_holds_no_request_id_is_answered_all_the_same() -> None:
    topic = f"uploads/{'x' * 200}"
    answer = refusal(topic, b"?", IntakeError("bad_request", "no frame"))
    assert answer.request_id == raw_frame_id("x" * 200, sha256(b"?"))


def test_the_id_is_the_same_for_the_same_unreadable_payload() -> None:
    error = IntakeError("bad_request", "no frame")
    ids = [refusal(topic, b"?", error).request_id for topic in ("clients/door", "clients/door", "clients/gate")]
    assert ids[0] == ids[1] != ids[2]


def test_all_three_topics_are_shared_by_the_detectors() -> None:
    assert SHARED_TOPICS == (
        "$share/detectors/clients/+",
        "$share/detectors/uploads/+",
        "$share/detectors/enroll/+",
    )
