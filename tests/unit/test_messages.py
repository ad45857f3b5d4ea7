"""The wire format, as the documents of the project and devices in the field write it."""

import base64
import json
import tracemalloc
from datetime import UTC, datetime
from typing import Any

import pytest

from facewire.domain.errors import DetectError, IntakeError, RecognizeError
from facewire.domain.messages import (
    MAX_FRAME_BYTES,
    DetectedFaces,
    Frame,
    RecognizedFaces,
    failed,
    no_face,
    parse_frame,
    sha256,
)

JPEG = b"\xff\xd8\xff\xe0 not really a picture"


def payload(**fields: Any) -> bytes:
    body = {"request_id": "r1", "filename": "frame1.jpg", "content": base64.b64encode(JPEG).decode()}
    return json.dumps({**body, **fields}).encode()


def test_a_frame_in_json() -> None:
    frame = parse_frame(payload(captured_at="2026-11-21T10:00:00Z", sequence=7), camera="door")
    assert (frame.request_id, frame.filename, frame.camera) == ("r1", "frame1.jpg", "door")
    assert frame.content == JPEG
    assert frame.content_sha256 == sha256(JPEG)
    assert frame.captured_at == datetime(2026, 11, 21, 10, tzinfo=UTC)


def test_encoded_is_taken_for_content() -> None:
    body = json.dumps({"request_id": "r1", "encoded": base64.encodebytes(JPEG * 9).decode()}).encode()
    assert parse_frame(body, camera="door").content == JPEG * 9


@pytest.mark.parametrize("signature", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF"])
def test_a_raw_image_is_a_frame_with_an_id_of_its_own(signature: bytes) -> None:
    frame = parse_frame(signature + b"rest", camera="door")
    assert frame.content == signature + b"rest"
    assert frame.request_id == parse_frame(signature + b"rest", camera="door").request_id
    assert frame.request_id != parse_frame(signature + b"rest", camera="yard").request_id


@pytest.mark.parametrize(
    ("body", "code", "part"),
    [
        (b"", "empty_body", "empty"),
        (b"hello", "bad_request", "JSON"),
        (b"[1]", "bad_request", "object"),
        (b"{}", "bad_request", "request_id"),
        (payload(content="%%%"), "bad_request", "content: is not valid base64"),
        (payload(content="QUI"), "bad_request", "content: is not valid base64"),
        (payload(content=""), "empty_body", "empty"),
        (payload(request_id="a/b"), "bad_request", "request_id: must be printable"),
        (payload(request_id="x" * 129), "bad_request", "has 129 characters"),
        (payload(captured_at="2026-11-21T10:00:00"), "bad_request", "captured_at"),
        (payload(enroll_as="Ada"), "enroll_refused", "enroll_as"),
    ],
)
def test_what_is_wrong_with_a_frame_is_said(body: bytes, code: str, part: str) -> None:
    with pytest.raises(IntakeError) as caught:
        parse_frame(body, camera="door")
    assert caught.value.code == code
    assert part in caught.value.detail


def test_an_oversized_image_is_refused_with_both_numbers() -> None:
    with pytest.raises(IntakeError, match=r"10,485,761 bytes, at most 10,485,760") as caught:
        Frame.of(b"\xff" * (MAX_FRAME_BYTES + 1), request_id="r1")
    assert caught.value.code == "too_large"


def test_an_error_never_repeats_the_picture() -> None:
    with pytest.raises(IntakeError) as caught:
        parse_frame(payload(content="secret!!"), camera="door")
    assert "secret" not in str(caught.value)


def test_enrolment_is_taken_where_it_is_allowed() -> None:
    assert parse_frame(payload(enroll_as=" Ada "), camera="door", enrolling=True).enroll_as == "Ada"


def test_a_frame_survives_the_inbox() -> None:
    frame = parse_frame(payload(), camera="door")
    assert Frame.from_bytes(frame.to_bytes()) == frame


def test_a_kept_frame_ends_with_its_picture() -> None:
    frame = parse_frame(payload(), camera="door")
    fields, _, content = frame.to_bytes().partition(b"\0")
    assert content == frame.content
    assert json.loads(fields)["request_id"] == frame.request_id


def test_the_size_of_a_kept_frame_is_told_without_a_copy() -> None:
    frame = Frame.of(bytes(4 * 1024 * 1024), request_id="r1", filename="á.jpg", camera="door")
    tracemalloc.start()
    try:
        size = frame.size
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size == len(frame.to_bytes())
    assert peak < 64 * 1024


def test_a_kept_frame_may_hold_any_bytes() -> None:
    frame = Frame.of(b"\n{}\n\x00\xff", request_id="r1", camera="door")
    assert Frame.from_bytes(frame.to_bytes()) == frame


def test_a_frame_of_json_alone_is_read() -> None:
    frame = parse_frame(payload(), camera="door")
    fields = json.loads(frame.to_bytes().partition(b"\0")[0])
    body = json.dumps({**fields, "content": base64.b64encode(frame.content).decode()}, indent=2)
    assert Frame.from_bytes(body.encode()) == frame


@pytest.mark.parametrize("fields", [b"", b"[]", b"{", b"{}", b'{"request_id": "a/b", "content_sha256": ""}', b"\xff"])
def test_a_frame_whose_fields_are_broken_is_refused(fields: bytes) -> None:
    with pytest.raises(IntakeError) as caught:
        Frame.from_bytes(fields + b"\0secret")
    assert caught.value.code == "bad_request"
    assert "secret" not in str(caught.value)


def test_the_message_of_earlier_deployments_is_read() -> None:
    body = json.dumps({"request_id": "r1", "filename": "f.jpg", "face_image": base64.b64encode(JPEG).decode()})
    message = DetectedFaces.from_bytes(body.encode())
    assert message.faces[0].crop.jpeg == JPEG
    assert message.faces[0].crop.landmarks is None


def test_schema_is_the_name_on_the_wire() -> None:
    message = DetectedFaces(request_id="r1")
    assert json.loads(message.to_bytes())["schema"] == 1
    assert DetectedFaces.from_bytes(message.to_bytes()) == message


def test_a_message_that_is_none_is_refused() -> None:
    with pytest.raises(RecognizeError, match="bad_message"):
        DetectedFaces.from_bytes(b"{}")


def test_the_answer_to_a_faceless_frame_comes_from_the_edge() -> None:
    answer = no_face(DetectedFaces(request_id="r1", camera="door", content_sha256="00"))
    assert (answer.result, answer.status, answer.source, answer.faces) == ("No-Face", "done", "edge", ())
    assert answer.enrolled is None


def test_enrolling_a_faceless_frame_is_refused() -> None:
    enrolled = no_face(DetectedFaces(request_id="r1", enroll_as="Ada")).enrolled
    assert enrolled is not None
    assert (enrolled.person, enrolled.refused, enrolled.face_id) == ("Ada", ("no_face",), None)


def test_a_failure_names_stage_code_and_detail() -> None:
    frame = parse_frame(payload(), camera="door")
    answer = failed(frame, DetectError("message_too_large", "1,200,000 bytes"), source="edge")
    assert json.loads(answer.to_bytes())["error"] == {
        "stage": "detect",
        "code": "message_too_large",
        "detail": "1,200,000 bytes",
    }
    assert (answer.result, answer.camera) == ("Failed", "door")


def test_a_better_answer_outranks_a_worse_one() -> None:
    cloud = RecognizedFaces(request_id="r1", result="Ada")
    edge = RecognizedFaces(request_id="r1", result="Ada", source="edge")
    failure = RecognizedFaces(request_id="r1", result="Failed", status="failed")
    assert cloud.rank > edge.rank > failure.rank > 0
