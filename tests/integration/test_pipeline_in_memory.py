"""Detector and recognizer with the models that ship, over queues in memory, on the pictures that ship."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from facewire.domain.messages import DetectedFaces, Frame, RecognizedFaces
from facewire.domain.names import face_id
from facewire.runtime.settings import DetectorSettings, RecognizerSettings
from facewire.stages.detect import FaceDetector
from facewire.stages.recognize import FaceRecognizer
from facewire.testing import MemoryGalleryStore
from facewire.vision.models import load_detector, load_embedder
from facewire_detector.worker import run_detector
from facewire_recognizer.worker import run_recognizer
from pipeline_fakes import ENROLL_KEY, NotedQueue, embed_as, eventually, proven


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector(load_detector())


@pytest.fixture(scope="module")
def recognizer() -> FaceRecognizer:
    return FaceRecognizer(load_embedder("dlib-resnet29"))


class Pipeline:
    """Both services over queues in memory."""

    def __init__(self, detector: FaceDetector, recognizer: FaceRecognizer) -> None:
        self.detector = detector
        self.recognizer = recognizer
        self.inbox, self.requests, self.responses = NotedQueue(), NotedQueue(), NotedQueue()
        self.gallery = MemoryGalleryStore()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(
                run_detector(
                    DetectorSettings(),
                    inbox=self.inbox,
                    requests=self.requests,
                    responses=self.responses,
                    detector=self.detector,
                    stop=stop,
                )
            )
            group.create_task(
                run_recognizer(
                    RecognizerSettings(),
                    requests=self.requests,
                    responses=self.responses,
                    recognizer=self.recognizer,
                    gallery_store=self.gallery,
                    enroll_key=ENROLL_KEY,
                    stop=stop,
                )
            )
            yield
            stop.set()

    async def ask(self, *frames: Frame | bytes) -> dict[str, RecognizedFaces]:
        """Send the frames and return the answers by request id once both queues are empty."""
        await self.inbox.send([frame.to_bytes() if isinstance(frame, Frame) else frame for frame in frames])
        await eventually(lambda: not self.inbox.bodies and not self.requests.bodies, within=30)
        answers = [RecognizedFaces.from_bytes(body) for body in self.responses.bodies]
        return {answer.request_id: answer for answer in answers}


@pytest.fixture
def pipeline(detector: FaceDetector, recognizer: FaceRecognizer) -> Pipeline:
    return Pipeline(detector, recognizer)


def frame(path: Path, request_id: str, *, mirrored: bool = False, enroll_as: str | None = None) -> Frame:
    content = path.read_bytes()
    if mirrored:
        buffer = io.BytesIO()
        ImageOps.mirror(Image.open(io.BytesIO(content))).save(buffer, "JPEG", quality=90)
        content = buffer.getvalue()
    made = Frame.of(content, request_id=request_id, camera="door", enroll_as=enroll_as)
    return made if enroll_as is None else proven(made)


async def test_an_enrolled_person_is_recognised_and_a_stranger_is_not(pipeline: Pipeline, samples: Path) -> None:
    eileen, grace = samples / "eileen_collins.jpg", samples / "grace_hopper.jpg"
    async with pipeline.running():
        before = (await pipeline.ask(frame(eileen, "before")))["before"]
        await pipeline.ask(frame(eileen, "enrol", enroll_as="Eileen Collins"))
        answers = await pipeline.ask(
            frame(eileen, "view", mirrored=True), frame(grace, "stranger"), frame(samples / "cat.jpg", "cat")
        )
    assert (before.result, before.faces[0].reason) == ("Unknown", "empty_gallery")
    assert answers["enrol"].result == "Eileen Collins"
    view = answers["view"]
    assert (view.status, view.result, view.camera, view.source) == ("done", "Eileen Collins", "door", "cloud")
    assert view.faces[0].known
    assert (view.embedder, view.gallery_version) == ("dlib-resnet29", 1)
    assert {"inbox", "decode", "detect", "crop", "queue", "align", "embed", "match", "total"} == set(view.timings_ms)
    stranger = answers["stranger"]
    assert (stranger.result, stranger.faces[0].person, stranger.faces[0].reason) == ("Unknown", None, "below_threshold")
    assert stranger.faces[0].nearest is not None
    assert stranger.faces[0].nearest.person == "Eileen Collins"
    assert (answers["cat"].result, answers["cat"].source) == ("No-Face", "edge")


async def test_two_enrolments_at_once_both_land_and_one_that_comes_twice_lands_once(
    pipeline: Pipeline, samples: Path
) -> None:
    eileen = frame(samples / "eileen_collins.jpg", "e1", enroll_as="Eileen Collins")
    grace = frame(samples / "grace_hopper.jpg", "g1", enroll_as="Grace Hopper")
    async with pipeline.running():
        answers = await pipeline.ask(eileen, grace, eileen, grace)
        later = await pipeline.ask(
            frame(samples / "eileen_collins.jpg", "e2", mirrored=True),
            frame(samples / "grace_hopper.jpg", "g2", mirrored=True),
        )
    assert sorted(face.person for face in pipeline.gallery.enrolled) == ["Eileen Collins", "Grace Hopper"]
    assert answers["e1"].enrolled is not None
    assert answers["e1"].enrolled.face_id == face_id("e1", eileen.content_sha256)
    assert (later["e2"].result, later["g2"].result) == ("Eileen Collins", "Grace Hopper")


async def test_what_is_no_picture_is_answered_and_the_next_frame_goes_on(pipeline: Pipeline, samples: Path) -> None:
    junk = Frame.of(b"no picture at all", request_id="junk", camera="door")
    unreadable = json.dumps({"request_id": "unreadable", "content": 5}).encode()
    async with pipeline.running():
        answers = await pipeline.ask(junk, unreadable, frame(samples / "cat.jpg", "cat"))
    assert answers["junk"].error is not None
    assert (answers["junk"].error.stage, answers["junk"].error.code) == ("decode", "not_an_image")
    assert answers["unreadable"].status == "failed"
    assert answers["cat"].result == "No-Face"


async def test_a_picture_of_nobody_refuses_the_enrolment(pipeline: Pipeline, samples: Path) -> None:
    async with pipeline.running():
        answers = await pipeline.ask(frame(samples / "cat.jpg", "cat", enroll_as="Tom"))
    assert answers["cat"].enrolled is not None
    assert answers["cat"].enrolled.refused == ("no_face",)
    assert not pipeline.gallery.enrolled


async def test_an_enrolment_that_no_gateway_made_is_refused(pipeline: Pipeline, samples: Path) -> None:
    """What a detector could make of a camera's frame."""
    forged = frame(samples / "grace_hopper.jpg", "g1").model_copy(update={"enroll_as": "Eve"})
    stolen = frame(samples / "eileen_collins.jpg", "e1", enroll_as="Eileen Collins").enroll_proof
    async with pipeline.running():
        answers = await pipeline.ask(forged, forged.model_copy(update={"request_id": "g2", "enroll_proof": stolen}))
    assert [answer.error and answer.error.code for answer in answers.values()] == ["enroll_refused"] * 2
    assert not pipeline.gallery.enrolled


async def test_the_message_between_the_services_is_the_wire_format(detector: FaceDetector, samples: Path) -> None:
    detected = await asyncio.to_thread(detector, frame(samples / "eileen_collins.jpg", "e1"))
    fields = json.loads(detected.to_bytes())
    assert fields["schema"] == 1
    assert fields["frame"].keys() == {"width", "height", "bytes"}
    (face,) = fields["faces"]
    assert {"index", "box", "landmarks", "confidence", "crop", "quality"} == face.keys()
    assert len(face["landmarks"]) == len(face["crop"]["landmarks"]) == 5
    assert DetectedFaces.from_bytes(detected.to_bytes()) == detected


async def test_a_gallery_of_another_embedder_is_embedded_again_at_the_start(pipeline: Pipeline, samples: Path) -> None:
    async with pipeline.running():
        await pipeline.ask(frame(samples / "eileen_collins.jpg", "e1", enroll_as="Eileen Collins"))
    await embed_as(pipeline.gallery, "older", bytes(2048))
    async with pipeline.running():
        answers = await pipeline.ask(frame(samples / "eileen_collins.jpg", "e2", mirrored=True))
    assert answers["e2"].result == "Eileen Collins"
    assert {face.embedder for face in pipeline.gallery.enrolled} == {"older", "dlib-resnet29"}
