"""`ingest_detect`, `ingest_store` and `enroll` on an S3 of dictionaries, with events as AWS sends them."""

import hashlib
import io
import json
from datetime import UTC, datetime
from typing import Any, Self

import numpy as np
import pytest
from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from facewire.domain.archive import ProcessedFrame
from facewire.domain.errors import DecodeError, GalleryError, IntakeError, StoreError
from facewire.domain.messages import MAX_FRAME_BYTES, RecognizedFaces
from facewire.stages.detect import FaceDetector
from facewire.stages.recognize import FaceRecognizer
from facewire.vision.mtcnn import Detections
from facewire_lambda.emf import Metrics
from facewire_lambda.enroll import Enroll
from facewire_lambda.frames import FrameRecognizer
from facewire_lambda.ingest import IngestDetect, IngestStore, failure_of
from facewire_lambda.people import People
from facewire_lambda.pictures import Pictures, Place
from gateway_fakes import FaultyResults
from lambda_events import notification, object_created, portrait
from pipeline_fakes import ColourEmbedder, FaultyGallery, embed_as

PUT_AT = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
LANDMARKS = np.array([[[40, 50], [80, 50], [60, 70], [45, 90], [75, 90]]], np.float32)
FACE = Detections(np.array([[20, 20, 100, 110]], np.float32), np.array([0.999], np.float32), LANDMARKS)
NO_FACES = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty((0, 5, 2), np.float32))


class Body(io.BytesIO):
    """The stream of an object, as aiobotocore gives it."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def read(self) -> bytes:  # type: ignore[override]
        return super().read()


class FakeS3:
    """Objects by bucket and key; `refusal`, while set, is the code that reading is refused with."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], bytes] = {}
        self.refusal: str | None = None

    async def put_object(self, *, Bucket: str, Key: str, Body: bytes, ContentType: str) -> None:  # noqa: N803 - S3's
        assert ContentType == "application/json"
        self.objects[Bucket, Key] = Body

    async def head_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        content = self._content(Bucket, Key, "HeadObject", missing="404")
        return {"ETag": f'"{hashlib.md5(content).hexdigest()}"', "LastModified": PUT_AT}  # noqa: S324

    async def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        content = self._content(Bucket, Key, "GetObject", missing="NoSuchKey")
        head = await self.head_object(Bucket=Bucket, Key=Key)
        return {**head, "ContentLength": len(content), "Body": Body(content)}

    def _content(self, bucket: str, key: str, operation: str, *, missing: str) -> bytes:
        code = self.refusal or (None if (bucket, key) in self.objects else missing)
        if code:
            raise ClientError({"Error": {"Code": code, "Message": code}}, operation)
        return self.objects[bucket, key]


class Setting:
    def __init__(self, found: Detections = FACE, gallery: FaultyGallery | None = None) -> None:
        self.s3, self.results, self.gallery = FakeS3(), FaultyResults(), gallery or FaultyGallery()
        self.lines: list[str] = []
        self.metrics = Metrics("ingest", write=self.lines.append)
        embedder = ColourEmbedder()
        people = People(embedder, self.gallery, None, poll_seconds=0)
        pictures = Pictures(self.s3)  # type: ignore[arg-type]
        frames = FrameRecognizer(FaceDetector(lambda _: found), FaceRecognizer(embedder), people, self.metrics)
        self.ingest_detect = IngestDetect(pictures, frames)
        self.ingest_store = IngestStore(pictures, self.results, self.metrics)
        self.enroll = Enroll(pictures, frames, self.metrics)

    def put(self, key: str, content: bytes) -> dict[str, str]:
        self.s3.objects["photos", key] = content
        return {"bucket": "photos", "key": key}


@pytest.mark.parametrize(
    "event",
    [
        {"bucket": "photos", "key": "enroll/Ada Lovelace/été 1+1.jpg"},
        object_created("photos", "enroll/Ada Lovelace/été 1+1.jpg"),
        notification("photos", "enroll/Ada+Lovelace/%C3%A9t%C3%A9+1%2B1.jpg"),
    ],
    ids=["state machine", "EventBridge", "notification"],
)
def test_all_three_kinds_of_event_name_the_same_object(event: dict[str, Any]) -> None:
    [place] = Place.all_of(event)
    assert place == Place("photos", "enroll/Ada Lovelace/été 1+1.jpg")
    assert place.person == "Ada Lovelace"


@pytest.mark.parametrize("event", [{}, {"key": "a"}, {"detail": {}}, {"Records": [{"body": "of SQS"}]}])
def test_an_event_about_no_object_is_refused(event: dict[str, Any]) -> None:
    with pytest.raises(IntakeError, match="bad_event"):
        Place.all_of(event)


@pytest.mark.parametrize(
    ("key", "camera"),
    [("input/a.jpg", None), ("input/door/a.jpg", "door"), ("input/door/2026/a.jpg", "door"), ("input/#/a.jpg", None)],
)
def test_a_folder_under_input_is_the_camera(key: str, camera: str | None) -> None:
    assert Place("photos", key).camera == camera


async def test_a_picture_goes_through_both_steps() -> None:
    setting = Setting()
    await setting.enroll(setting.put("enroll/Red/1.jpg", portrait("Red")))
    event = setting.put("input/door/frame 1.jpg", portrait("Red"))
    answer = await setting.ingest_detect(event)
    assert (answer["result"], answer["status"], answer["camera"]) == ("Red", "done", "door")
    assert (answer["filename"], answer["received_at"]) == ("frame 1.jpg", "2026-11-22T10:15:00Z")
    stored = await setting.ingest_store({**event, "answer": answer})
    assert stored["status"] == "done"
    line = setting.s3.objects["photos", stored["processed"]]
    assert stored["processed"].startswith("processed/day=2026-11-22/")
    assert line == ProcessedFrame.of(RecognizedFaces.model_validate(answer)).to_line()
    assert setting.results.known[answer["request_id"]].status == "done"


async def test_the_state_between_the_steps_holds_no_crop_and_no_embedding() -> None:
    setting = Setting()
    answer = await setting.ingest_detect(setting.put("input/a.jpg", portrait("Red")))
    [face] = answer["faces"]
    assert not {"crop", "embedding", "jpeg"} & face.keys()
    assert len(json.dumps(answer)) < 2_000


async def test_a_repeated_event_is_one_request_and_an_object_put_anew_another() -> None:
    setting = Setting()
    ids = []
    for person in ("Red", "Red", "Blue"):
        answer = await setting.ingest_detect(setting.put("input/a.jpg", portrait(person)))
        ids.append(answer["request_id"])
        await setting.ingest_store({"bucket": "photos", "key": "input/a.jpg", "answer": answer})
    assert ids[0] == ids[1] != ids[2]
    assert len(setting.results.known) == 2
    assert len([key for _, key in setting.s3.objects if key.startswith("processed/")]) == 2


async def test_a_picture_without_a_face() -> None:
    setting = Setting(found=NO_FACES)
    answer = await setting.ingest_detect(setting.put("input/a.jpg", portrait("Red")))
    assert (answer["result"], answer["status"], answer["source"]) == ("No-Face", "done", "cloud")


async def test_what_is_wrong_with_a_picture_is_raised_by_its_name() -> None:
    setting = Setting()
    with pytest.raises(DecodeError, match="not_an_image"):
        await setting.ingest_detect(setting.put("input/a.jpg", b"no picture"))
    with pytest.raises(IntakeError, match="empty_body"):
        await setting.ingest_detect(setting.put("input/a.jpg", b""))
    with pytest.raises(IntakeError, match="at most 10,485,760 are taken"):
        await setting.ingest_detect(setting.put("input/a.jpg", b"\xff" * (MAX_FRAME_BYTES + 1)))
    with pytest.raises(IntakeError, match="no_such_object"):
        await setting.ingest_detect({"bucket": "photos", "key": "input/gone.jpg"})
    setting.s3.refusal = "SlowDown"
    with pytest.raises(StoreError, match="unavailable"):
        await setting.ingest_detect({"bucket": "photos", "key": "input/a.jpg"})


async def test_a_failure_that_the_state_machine_caught_is_recorded_under_the_same_request() -> None:
    setting = Setting()
    event = setting.put("input/door/a.jpg", portrait("Red"))
    request_id = (await setting.ingest_detect(event))["request_id"]
    cause = json.dumps({"errorMessage": "decode: not_an_image: no picture", "errorType": "DecodeError"})
    stored = await setting.ingest_store({**event, "error": {"Error": "DecodeError", "Cause": cause}})
    assert (stored["request_id"], stored["status"]) == (request_id, "failed")
    known = setting.results.known[request_id]
    assert known.camera == "door"
    assert known.answer is not None
    assert known.answer.error is not None
    assert (known.answer.error.stage, known.answer.error.code) == ("decode", "not_an_image")
    assert json.loads(setting.s3.objects["photos", stored["processed"]])["status"] == "failed"


async def test_a_repeated_event_that_fails_takes_no_answer_from_the_archive() -> None:
    setting = Setting()
    event = setting.put("input/door/a.jpg", portrait("Red"))
    stored = await setting.ingest_store({**event, "answer": await setting.ingest_detect(event)})
    archived = setting.s3.objects["photos", stored["processed"]]
    again = await setting.ingest_store({**event, "error": {"Error": "States.Timeout"}})
    assert again == stored
    assert setting.s3.objects["photos", stored["processed"]] == archived
    assert setting.results.known[stored["request_id"]].status == "done"


async def test_the_archive_waits_for_the_table() -> None:
    setting = Setting()
    event = setting.put("input/door/a.jpg", portrait("Red"))
    setting.results.faults = 1
    answer = await setting.ingest_detect(event)
    with pytest.raises(StoreError):
        await setting.ingest_store({**event, "answer": answer})
    assert set(setting.s3.objects) == {("photos", event["key"])}
    await setting.ingest_store({**event, "answer": answer})
    assert len(setting.s3.objects) == 2


async def test_the_failure_of_an_object_that_has_gone_is_recorded_as_well() -> None:
    setting = Setting()
    event = {"bucket": "photos", "key": "input/gone.jpg"}
    cause = json.dumps({"errorMessage": "intake: no_such_object: there is no 'input/gone.jpg' in photos"})
    stored = await setting.ingest_store({**event, "error": {"Error": "IntakeError", "Cause": cause}})
    assert setting.results.known[stored["request_id"]].status == "failed"


@pytest.mark.parametrize("code", ["AccessDenied", "403"])
async def test_an_object_that_has_gone_looks_forbidden_to_functions_that_may_not_list_the_bucket(code: str) -> None:
    setting = Setting()
    setting.s3.refusal = code
    event = {"bucket": "photos", "key": "input/gone.jpg"}
    with pytest.raises(IntakeError, match="no_such_object: S3 gives no 'input/gone"):
        await setting.ingest_detect(event)
    stored = await setting.ingest_store({**event, "error": {"Error": "IntakeError"}})
    assert setting.results.known[stored["request_id"]].status == "failed"


async def test_a_failure_is_recorded_under_its_own_request_or_tried_again_while_s3_does_not_say_which() -> None:
    setting = Setting()
    event = setting.put("input/a.jpg", portrait("Red"))
    setting.s3.refusal = "SlowDown"
    with pytest.raises(StoreError, match="unavailable"):
        await setting.ingest_store({**event, "error": {"Error": "States.Timeout"}})
    assert setting.results.known == {}
    setting.s3.refusal = None
    request_id = (await setting.ingest_detect(event))["request_id"]
    await setting.ingest_store({**event, "error": {"Error": "States.Timeout"}})
    assert set(setting.results.known) == {request_id}


async def test_an_event_that_tries_out_a_notification_is_about_no_object() -> None:
    event = {"Service": "Amazon S3", "Event": "s3:TestEvent", "Time": "2026-11-22T10:15:00.000Z", "Bucket": "photos"}
    assert await Setting().enroll(event) == []


@pytest.mark.parametrize(
    ("caught", "expected"),
    [
        (
            {"Error": "StoreError", "Cause": '{"errorMessage": "store: unreachable: a: b", "errorType": "StoreError"}'},
            ("store", "unreachable", "a queue or store is out of reach: try again in a moment"),
        ),
        (
            {"Error": "DecodeError", "Cause": "decode: not_an_image: no picture"},
            ("decode", "not_an_image", "no picture"),
        ),
        ({"Error": "States.Timeout", "Cause": ""}, ("ingest", "States.Timeout", None)),
        ({"Error": "States.Timeout"}, ("ingest", "States.Timeout", None)),
        (
            {"Error": "RuntimeError", "Cause": '{"errorMessage": "a: b: picture data"}'},
            ("ingest", "RuntimeError", None),
        ),
        ({"Error": "Lambda.Unknown", "Cause": "[1]"}, ("ingest", "Lambda.Unknown", None)),
    ],
)
def test_what_a_state_machine_catches_becomes_a_failure(
    caught: dict[str, Any], expected: tuple[str, str, str | None]
) -> None:
    failure = failure_of(caught)
    assert (failure.stage, failure.code) == expected[:2]
    assert failure.detail == (expected[2] or "the state machine gave up: its history says more")


async def test_a_picture_under_enroll_enrols_once_however_often_it_comes() -> None:
    setting = Setting()
    setting.put("enroll/Ada Lovelace/1.jpg", portrait("Red"))
    first = await setting.enroll(object_created("photos", "enroll/Ada Lovelace/1.jpg"))
    again = await setting.enroll(notification("photos", "enroll/Ada+Lovelace/1.jpg"))
    assert first == again
    assert first[0]["person"] == "Ada Lovelace"
    assert first[0]["face_id"]
    assert {face.person for face in setting.gallery.enrolled} == {"Ada Lovelace"}
    assert len(setting.gallery.enrolled) == 1


async def test_an_enrolment_that_cannot_be_kept_now_is_raised_for_aws_to_try_again() -> None:
    setting = Setting()
    setting.gallery.failure = StoreError("unreachable", "no answer")
    with pytest.raises(StoreError, match="unreachable"):
        await setting.enroll(setting.put("enroll/Ada/1.jpg", portrait("Red")))


async def test_faces_of_another_embedder_are_embedded_again_first() -> None:
    setting = Setting()
    await setting.enroll(setting.put("enroll/Red/1.jpg", portrait("Red")))
    await embed_as(setting.gallery, "older", bytes(12))
    other = Setting(gallery=setting.gallery)
    answer = await other.ingest_detect(other.put("input/door/1.jpg", portrait("Red")))
    assert (answer["result"], answer["embedder"]) == ("Red", "colour")


async def test_a_refused_enrolment_says_why() -> None:
    setting = Setting(found=NO_FACES)
    [outcome] = await setting.enroll(setting.put("enroll/Ada/1.jpg", portrait("Red")))
    assert (outcome["face_id"], outcome["refused"]) == (None, ["no_face"])
    assert setting.gallery.enrolled == []
    setting.metrics.flush()
    assert json.loads(setting.lines[0])["Refused"] == 1


@pytest.mark.parametrize("key", ["enroll/a.jpg", "enroll/Unknown/a.jpg", "enroll/../a.jpg", "other/Ada/a.jpg"])
async def test_a_key_that_names_nobody_is_refused(key: str) -> None:
    setting = Setting()
    with pytest.raises(GalleryError, match="bad_name"):
        await setting.enroll(setting.put(key, portrait("Red")))


async def test_a_folder_is_passed_over() -> None:
    setting = Setting()
    assert await setting.enroll(setting.put("enroll/Ada/", b"")) == []
