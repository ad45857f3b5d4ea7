"""`detect`: requests to the Function URL, as AWS hands them over."""

import base64
import json
from typing import Any

import numpy as np
import pytest

from facewire.detect import FaceDetector
from facewire.messages import DetectedFaces, RecognizedFaces
from facewire.vision.mtcnn import Detections
from facewire_lambda.emf import Metrics
from facewire_lambda.function_url import MAX_BODY_BYTES, Detect
from facewire_lambda.responses import Responses
from lambda_events import function_url, portrait, text
from pipeline_fakes import MemoryQueue

LANDMARKS = np.array([[[40, 50], [80, 50], [60, 70], [45, 90], [75, 90]]], np.float32)


def found(faces: int) -> Detections:
    boxes = np.tile(np.array([[20, 20, 100, 110]], np.float32), (faces, 1))
    return Detections(boxes, np.full(faces, 0.999, np.float32), np.repeat(LANDMARKS, faces, axis=0))


class Setting:
    def __init__(self, faces: int = 1) -> None:
        self.requests, self.responses, self.copies = MemoryQueue(), MemoryQueue(), MemoryQueue()
        self.lines: list[str] = []
        self.metrics = Metrics("detect", write=self.lines.append)
        self.detect = Detect(
            FaceDetector(lambda _: found(faces)),
            requests=self.requests,
            responses=Responses([self.responses, self.copies]),
            metrics=self.metrics,
        )

    async def post(self, body: str | None, **event: Any) -> tuple[int, dict[str, Any]]:
        result = await self.detect(function_url(body, **event))
        assert result["isBase64Encoded"] is False
        return result["statusCode"], json.loads(result["body"])


def body(**fields: Any) -> str:
    return json.dumps({"request_id": "r1", "filename": "frame1.jpg", "content": text(portrait("Red")), **fields})


@pytest.mark.parametrize("encoded", [False, True])
async def test_a_posted_frame_becomes_one_message_with_its_faces(encoded: bool) -> None:
    setting = Setting(faces=2)
    sent = base64.b64encode(body().encode()).decode() if encoded else body()
    assert await setting.post(sent, encoded=encoded) == (200, {"request_id": "r1", "faces": 2, "status": "pending"})
    [message] = setting.requests.bodies
    detected = DetectedFaces.from_bytes(message)
    assert (detected.request_id, detected.filename, len(detected.faces)) == ("r1", "frame1.jpg", 2)
    assert setting.responses.bodies == []
    setting.metrics.flush()
    assert json.loads(setting.lines[0])["Faces"] == 2


async def test_encoded_is_taken_for_content_and_further_fields_are_ignored() -> None:
    setting = Setting()
    picture = text(portrait("Red"))
    sent = json.dumps({"request_id": "r1", "encoded": picture, "sequence": 7, "captured_at": "2026-11-21T10:00:00Z"})
    status, _ = await setting.post(sent)
    assert status == 200
    captured_at = DetectedFaces.from_bytes(setting.requests.bodies[0]).captured_at
    assert captured_at is not None
    assert captured_at.isoformat() == "2026-11-21T10:00:00+00:00"


async def test_a_frame_without_a_face_is_answered_on_every_response_queue() -> None:
    setting = Setting(faces=0)
    said = {"request_id": "r1", "faces": 0, "status": "done", "result": "No-Face"}
    assert await setting.post(body()) == (200, said)
    assert setting.requests.bodies == []
    for queue in (setting.responses, setting.copies):
        answer = RecognizedFaces.from_bytes(queue.bodies[0])
        assert (answer.request_id, answer.result, answer.status) == ("r1", "No-Face", "done")
        assert answer.timings_ms["total"] >= 0


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (None, "empty_body"),
        ("", "empty_body"),
        ("no JSON", "bad_request"),
        ("[1, 2]", "bad_request"),
        (json.dumps({"filename": "a.jpg", "content": "AAAA"}), "bad_request"),
        (json.dumps({"request_id": "a/b", "content": "AAAA"}), "bad_request"),
        (json.dumps({"request_id": "r1", "content": "not base64!"}), "bad_request"),
        (json.dumps({"request_id": "r1", "content": ""}), "empty_body"),
        (json.dumps({"request_id": "r1", "content": text(b"no picture")}), "not_an_image"),
        (json.dumps({"request_id": "r1", "content": text(portrait("Red")[:300])}), "truncated_image"),
        (body(enroll_as="Ada"), "enroll_refused"),
    ],
)
async def test_what_cannot_be_read_is_refused_and_sent_nowhere(sent: str | None, code: str) -> None:
    setting = Setting()
    status, said = await setting.post(sent)
    assert (status, said["status"], said["code"]) == (400, 400, code)
    assert said["title"] == "Bad Request"
    assert setting.requests.bodies == setting.responses.bodies == []
    setting.metrics.flush()
    assert json.loads(setting.lines[0])["Refused"] == 1


async def test_a_broken_picture_is_named_by_its_request() -> None:
    _, said = await Setting().post(json.dumps({"request_id": "r1", "content": text(b"no picture")}))
    assert said["request_id"] == "r1"


async def test_a_body_that_is_marked_as_base64_and_is_none() -> None:
    status, said = await Setting().post("{}", encoded=True)
    assert (status, said["code"]) == (400, "bad_request")
    assert "base64" in said["detail"]


async def test_a_body_over_lambdas_limit_is_refused_with_the_limit() -> None:
    status, said = await Setting().post("x" * (MAX_BODY_BYTES + 1))
    assert (status, said["code"]) == (413, "too_large")
    assert "6,291,456" in said["detail"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_only_posts_are_taken(method: str) -> None:
    setting = Setting()
    result = await setting.detect(function_url(None, method=method))
    assert (result["statusCode"], result["headers"]["allow"]) == (405, "POST")
    assert method in json.loads(result["body"])["detail"]


async def test_a_queue_out_of_reach_asks_for_the_frame_again() -> None:
    setting = Setting()
    setting.requests.failures["send"] = 1
    result = await setting.detect(function_url(body()))
    assert result["statusCode"] == 503
    assert result["headers"]["retry-after"] == "2"
    said = json.loads(result["body"])
    assert (said["code"], said["request_id"], said["stage"]) == ("out_of_reach", "r1", "queue")
    assert said["detail"] == "the queue is out of reach: send the frame again"
    assert (await setting.post(body()))[0] == 200


async def test_a_fault_of_our_own_is_raised_for_aws_to_count() -> None:
    def broken(_: object) -> Detections:
        message = "a bug"
        raise RuntimeError(message)

    detect = Detect(FaceDetector(broken), requests=MemoryQueue(), responses=Responses([]), metrics=Metrics("detect"))
    with pytest.raises(RuntimeError, match="a bug"):
        await detect(function_url(body()))
