"""`detect`: requests to the Function URL, as AWS hands them over."""

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from facewire.domain.errors import QueueError
from facewire.domain.messages import DetectedFaces, RecognizedFaces
from facewire.domain.ports import Sender
from facewire.stages.detect import FaceDetector
from facewire.vision.mtcnn import Detections
from facewire_lambda.emf import Metrics
from facewire_lambda.function_url import MAX_BODY_BYTES, Detect, response_queues
from facewire_lambda.settings import LambdaSettings
from lambda_events import function_url, portrait, text
from pipeline_fakes import ChoosyQueue, NotedQueue

#: What AWS Lambda takes of an event in a synchronous call.
LAMBDAS_LIMIT = 6 * 1024 * 1024
LANDMARKS = np.array([[[40, 50], [80, 50], [60, 70], [45, 90], [75, 90]]], np.float32)


def found(faces: int) -> Detections:
    boxes = np.tile(np.array([[20, 20, 100, 110]], np.float32), (faces, 1))
    return Detections(boxes, np.full(faces, 0.999, np.float32), np.repeat(LANDMARKS, faces, axis=0))


class BrokenQueue:
    """Fails to take messages, as SQS does, with the code `failure` until that is None."""

    def __init__(self, failure: str) -> None:
        self.failure: str | None = failure

    async def send(self, bodies: Sequence[bytes]) -> None:
        if self.failure is not None:
            detail = f"User: arn:aws:sts::123456789012:assumed-role/detect may not send {len(bodies)} messages"
            raise QueueError(self.failure, detail)


class Setting:
    def __init__(self, faces: int = 1, requests: Sender | None = None) -> None:
        self.requests, self.responses, self.copies = NotedQueue(), NotedQueue(), NotedQueue()
        self.lines: list[str] = []
        self.metrics = Metrics("detect", write=self.lines.append)
        self.detect = Detect(
            FaceDetector(lambda _: found(faces)),
            requests=requests or self.requests,
            responses=[self.responses, self.copies],
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
    ("told", "queues"),
    [
        ({}, ("facewire-responses",)),
        ({"SQS_REQUEST_QUEUE_URL": "https://sqs/1/req"}, ()),
        ({"SQS_REQUEST_QUEUE_URL": "https://sqs/1/req", "SQS_RESPONSE_QUEUE_URL": "a,b"}, ("a", "b")),
    ],
)
def test_where_only_the_request_queue_is_named_no_other_is_sent_to(
    monkeypatch: pytest.MonkeyPatch, told: dict[str, str], queues: tuple[str, ...]
) -> None:
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert response_queues(LambdaSettings.read()) == queues


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
    assert "6,000,000" in said["detail"]
    longest = json.dumps(function_url("x" * MAX_BODY_BYTES))
    assert len(longest) < LAMBDAS_LIMIT - 50_000, "AWS itself refuses what is larger, before we can name the limit"


async def test_a_body_that_is_no_text_is_refused() -> None:
    status, said = await Setting().post(body(filename="a.jpg") + "\ud800")
    assert (status, said["code"]) == (400, "bad_request")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_only_posts_are_taken(method: str) -> None:
    setting = Setting()
    result = await setting.detect(function_url(None, method=method))
    assert (result["statusCode"], result["headers"]["allow"]) == (405, "POST")
    assert method in json.loads(result["body"])["detail"]


async def test_a_queue_out_of_reach_asks_for_the_frame_again() -> None:
    queue = BrokenQueue("unreachable")
    setting = Setting(requests=queue)
    result = await setting.detect(function_url(body()))
    assert result["statusCode"] == 503
    assert result["headers"]["retry-after"] == "2"
    said = json.loads(result["body"])
    assert (said["code"], said["request_id"], said["stage"]) == ("unreachable", "r1", "queue")
    assert said["detail"] == "a queue or store is out of reach: try again in a moment"
    queue.failure = None
    assert (await setting.post(body()))[0] == 200


@pytest.mark.parametrize("failure", ["no_such_queue", "refused", "no_credentials"])
async def test_what_no_repetition_mends_does_not_ask_for_one(failure: str) -> None:
    result = await Setting(requests=BrokenQueue(failure)).detect(function_url(body()))
    assert result["statusCode"] == 500
    assert "retry-after" not in result["headers"]
    said = json.loads(result["body"])
    assert (said["code"], said["request_id"]) == (failure, "r1")
    assert "123456789012" not in result["body"]


async def test_a_message_over_the_queues_own_limit_is_refused_with_its_size() -> None:
    status, said = await Setting(requests=ChoosyQueue(never=b'"r1"')).post(body())
    assert (status, said["code"], said["request_id"]) == (413, "message_refused", "r1")
    assert "MaximumMessageSize" in said["detail"]


async def test_a_fault_of_our_own_is_raised_for_aws_to_count() -> None:
    def broken(_: object) -> Detections:
        message = "a bug"
        raise RuntimeError(message)

    detect = Detect(FaceDetector(broken), requests=NotedQueue(), responses=[], metrics=Metrics("detect"))
    with pytest.raises(RuntimeError, match="a bug"):
        await detect(function_url(body()))
