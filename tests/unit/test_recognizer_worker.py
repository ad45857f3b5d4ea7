import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import numpy as np
from prometheus_client import REGISTRY

from facewire.domain.errors import FacewireError, GalleryError, StoreError
from facewire.domain.messages import DetectedFaces, RecognizedFaces
from facewire.domain.ports import EnrolledFace, Lease
from facewire.runtime.settings import RecognizerSettings
from facewire.stages.recognize import FaceRecognizer
from facewire.testing import MemoryGalleryStore
from facewire.vision.imagecodec import encode_jpeg
from facewire_recognizer.worker import run_recognizer
from pipeline_fakes import ENROLL_KEY, ColourEmbedder, NotedQueue, eventually, proven

COLOURS = {"Red": (200, 20, 20), "Blue": (20, 20, 200)}


def enrolment(person: str, request_id: str) -> bytes:
    """An enrolment as a gateway makes it."""
    return proven(unproven(person, request_id)).to_bytes()


def unproven(person: str, request_id: str) -> DetectedFaces:
    """A single face of noise around one colour, which passes every gate."""
    noise = np.random.default_rng(7).normal(COLOURS[person], 25, (120, 120, 3))
    picture = encode_jpeg(np.clip(noise, 0, 255).astype(np.uint8))
    body = {"request_id": request_id, "filename": "a.jpg", "face_image": picture, "enroll_as": person}
    return DetectedFaces.model_validate(body)


class RefusingStore(MemoryGalleryStore):
    """Fails the next additions, each with one of `errors`."""

    errors: Sequence[FacewireError] = ()

    async def add(self, faces: Sequence[EnrolledFace]) -> int:
        if self.errors:
            error, *self.errors = self.errors
            raise error
        return await super().add(faces)


class Setting:
    def __init__(self, enroll_key: bytes | None = ENROLL_KEY) -> None:
        self.enroll_key = enroll_key
        self.requests, self.responses = NotedQueue(), NotedQueue()
        self.store = RefusingStore()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            group.create_task(
                run_recognizer(
                    RecognizerSettings(gallery_poll_seconds=0.05),
                    requests=self.requests,
                    responses=self.responses,
                    recognizer=FaceRecognizer(ColourEmbedder()),
                    gallery_store=self.store,
                    enroll_key=self.enroll_key,
                    stop=stop,
                )
            )
            yield
            stop.set()

    async def run_until_empty(self) -> dict[str, RecognizedFaces]:
        async with self.running():
            await eventually(lambda: not self.requests.bodies)
        answers = [RecognizedFaces.from_bytes(body) for body in self.responses.bodies]
        return {answer.request_id: answer for answer in answers}


async def test_an_idle_recognizer_waits_as_long_as_a_queue_lets_it() -> None:
    setting = Setting()
    waits: list[float] = []
    receive = setting.requests.receive

    async def note_and_receive(limit: int, *, wait: float) -> list[Lease]:
        waits.append(wait)
        return await receive(limit, wait=wait)

    setting.requests.receive = note_and_receive  # type: ignore[method-assign]
    async with setting.running():
        await eventually(lambda: waits)
    assert waits == [20.0]


async def test_the_face_is_stored_before_the_answer_is_sent() -> None:
    setting = Setting()
    stored_when_sent: list[int] = []
    send = setting.responses.send

    async def note_and_send(bodies: Sequence[bytes]) -> None:
        stored_when_sent.append(len(setting.store.enrolled))
        await send(bodies)

    setting.responses.send = note_and_send  # type: ignore[method-assign]
    setting.requests.put(enrolment("Red", "r1"))
    answers = await setting.run_until_empty()
    assert stored_when_sent == [1]
    assert answers["r1"].result == "Red"


async def test_a_store_out_of_reach_is_tried_again_and_neighbours_go_on() -> None:
    setting = Setting()
    setting.store.errors = [StoreError("locked", "the database is locked")]
    setting.requests.put(enrolment("Red", "r1"), enrolment("Blue", "r2"))
    answers = await setting.run_until_empty()
    assert len(setting.requests.returned) == 1
    assert {answers["r1"].result, answers["r2"].result} == {"Red", "Blue"}
    assert sorted(face.person for face in setting.store.enrolled) == ["Blue", "Red"]


async def test_an_enrolment_that_the_gallery_refuses_fails_at_once() -> None:
    setting = Setting()
    setting.store.errors = [GalleryError("face_id_taken", "another person's")]
    setting.requests.put(enrolment("Red", "r1"))
    answers = await setting.run_until_empty()
    assert answers["r1"].error is not None
    assert (answers["r1"].error.stage, answers["r1"].error.code) == ("gallery", "face_id_taken")
    assert not setting.requests.returned


async def test_who_may_only_send_to_the_request_queue_enrols_nobody() -> None:
    """What a Greengrass core or a detector may do."""
    setting = Setting()
    forged = unproven("Red", "r2").model_copy(update={"enroll_proof": "0" * 64})
    setting.requests.put(unproven("Red", "r1").to_bytes(), forged.to_bytes(), enrolment("Blue", "r3"))
    answers = await setting.run_until_empty()
    assert [face.person for face in setting.store.enrolled] == ["Blue"]
    for error in (answers["r1"].error, answers["r2"].error):
        assert error is not None
        assert (error.stage, error.code) == ("recognize", "enroll_refused")
    assert answers["r3"].result == "Blue"
    assert not setting.requests.returned
    assert not setting.requests.dead


async def test_without_a_key_nobody_is_enrolled_and_faces_are_named() -> None:
    setting = Setting(enroll_key=None)
    plain = unproven("Red", "r2").model_copy(update={"enroll_as": None})
    setting.requests.put(enrolment("Red", "r1"), plain.to_bytes())
    answers = await setting.run_until_empty()
    assert not setting.store.enrolled
    assert answers["r1"].error is not None
    assert "FACEWIRE_ENROLL_KEY" in answers["r1"].error.detail
    assert answers["r2"].status == "done"


async def test_a_proven_message_that_is_sent_again_enrols_once() -> None:
    setting = Setting()
    setting.requests.put(*[enrolment("Red", "r1")] * 3)
    await setting.run_until_empty()
    assert len(setting.store.enrolled) == 1


async def test_who_was_enrolled_is_known_to_the_very_next_message() -> None:
    setting = Setting()
    async with setting.running():
        await setting.requests.send([enrolment("Red", "r1")])
        await eventually(lambda: setting.responses.bodies)
        await setting.requests.send([unproven("Red", "r2").model_copy(update={"enroll_as": None}).to_bytes()])
        await eventually(lambda: len(setting.responses.bodies) == 2)
    assert RecognizedFaces.from_bytes(setting.responses.bodies[1]).result == "Red"


async def test_a_body_that_is_no_message_does_not_disturb_its_neighbours() -> None:
    setting = Setting()
    setting.requests.put(b'{"request_id": "bad", "faces": 3}', enrolment("Red", "r1"), b"junk")
    answers = await setting.run_until_empty()
    assert (answers["bad"].status, answers["r1"].status) == ("failed", "done")
    assert [body for body, _ in setting.requests.dead] == [b"junk"]


async def test_outcomes_are_counted() -> None:
    def done() -> float:
        return REGISTRY.get_sample_value("facewire_messages_total", {"stage": "recognize", "outcome": "done"}) or 0

    before = done()
    setting = Setting()
    setting.requests.put(enrolment("Red", "r1"), enrolment("Blue", "r2"))
    await setting.run_until_empty()
    assert done() == before + 2
    assert REGISTRY.get_sample_value("facewire_messages_in_flight", {"stage": "recognize"}) == 0
    assert REGISTRY.get_sample_value("facewire_gallery_faces") == 2


def test_the_recognizer_does_without_opencv() -> None:
    program = "import sys, facewire_recognizer.worker, facewire.vision.models; sys.exit('cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
