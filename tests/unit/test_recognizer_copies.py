"""What comes more than once, from a queue or a hand-over, is recognised once."""

import asyncio
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from facewire.domain.messages import DetectedFaces, RecognizedFaces
from facewire.runtime.settings import RecognizerSettings
from facewire.stages.recognize import FaceRecognizer
from facewire.testing import MemoryGalleryStore
from facewire.vision.imagecodec import encode_jpeg
from facewire_recognizer import copies
from facewire_recognizer.worker import run_recognizer
from gateway_fakes import FaultyResults
from pipeline_fakes import ENROLL_KEY, ColourEmbedder, NotedQueue, eventually, proven


def enrolment(request_id: str) -> DetectedFaces:
    noise = np.random.default_rng(7).normal((200, 20, 20), 25, (120, 120, 3))
    picture = encode_jpeg(np.clip(noise, 0, 255).astype(np.uint8))
    said = {"request_id": request_id, "face_image": picture, "enroll_as": "Red", "content_sha256": "red"}
    return proven(DetectedFaces.model_validate(said))


def answer_to(message: DetectedFaces, **fields: Any) -> RecognizedFaces:
    known = message.model_dump(include={"request_id", "received_at", "content_sha256"})
    return RecognizedFaces.model_validate({**known, "result": "Red", **fields})


async def answered(results: FaultyResults, gallery: MemoryGalleryStore, *messages: DetectedFaces) -> list[str]:
    """Return the ids of the messages that a recognizer answers; all are taken off the queue."""
    requests, responses, stop = (
        NotedQueue(*(message.to_bytes() for message in messages)),
        NotedQueue(),
        asyncio.Event(),
    )
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        work = run_recognizer(
            RecognizerSettings(),
            requests=requests,
            responses=responses,
            recognizer=FaceRecognizer(ColourEmbedder()),
            gallery_store=gallery,
            enroll_key=ENROLL_KEY,
            results=results,
            stop=stop,
        )
        group.create_task(work)
        await eventually(lambda: not requests.bodies)
        stop.set()
    return [RecognizedFaces.from_bytes(body).request_id for body in responses.bodies]


async def test_a_copy_of_an_answered_message_is_passed_over_and_its_neighbours_are_not() -> None:
    results, gallery, copy = FaultyResults(), MemoryGalleryStore(), enrolment("copy")
    await results.keep([answer_to(copy)])
    assert sorted(await answered(results, gallery, enrolment("a"), copy, enrolment("b"))) == ["a", "b"]
    assert len(gallery.enrolled) == 2


@pytest.mark.parametrize(
    "fields",
    [{"status": "failed", "result": "Failed"}, {"source": "edge"}, {"content_sha256": "other"}],
    ids=["failed", "answered at the edge", "another picture"],
)
async def test_what_has_no_answer_of_a_recognizer_is_recognised(fields: dict[str, Any]) -> None:
    results, message = FaultyResults(), enrolment("r1")
    await results.keep([answer_to(message, **fields)])
    assert await answered(results, MemoryGalleryStore(), message) == ["r1"]


async def test_a_later_frame_under_the_same_id_is_a_new_request() -> None:
    """A camera that sends the same picture again an hour later."""
    results, message = FaultyResults(), enrolment("r1")
    await results.keep([answer_to(message, received_at=message.received_at - timedelta(hours=1))])
    assert await answered(results, MemoryGalleryStore(), message) == ["r1"]


async def test_a_store_that_cannot_tell_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(FaultyResults):
        async def get(self, request_id: str) -> None:
            assert request_id
            await asyncio.Event().wait()

    monkeypatch.setattr(copies, "_LOOK_UP_SECONDS", 0.01)
    for results in (Slow(), FaultyResults(unreadable={"r1"})):
        assert await answered(results, MemoryGalleryStore(), enrolment("r1")) == ["r1"]
