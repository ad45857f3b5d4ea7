"""`recognize`: batches of the request queue, as AWS hands them over."""

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from structlog.testing import capture_logs

from facewire.adapters.gallery_file import GalleryRows
from facewire.domain.errors import GalleryError, QueueError, StoreError
from facewire.domain.messages import RecognizedFaces, now
from facewire.domain.ports import EnrolledFace, Lease
from facewire.stages.recognize import FaceRecognizer
from facewire_lambda.batch import Batches
from facewire_lambda.emf import Metrics
from facewire_lambda.people import People, open_people
from facewire_lambda.request_queue import Recognize
from facewire_lambda.settings import LambdaSettings
from lambda_events import COLOURS, enrolment, single_face, sqs
from pipeline_fakes import ChoosyQueue, ColourEmbedder, FaultyGallery, NotedQueue

POISON = "{not JSON"
NOBODY: dict[str, Any] = {"batchItemFailures": []}


class FragileEmbedder(ColourEmbedder):
    """Fails on batches that hold a blue face."""

    def embed(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        if any(face[..., 2].mean() > 150 for face in faces):
            message = "a bug that blue brings out"
            raise RuntimeError(message)
        return super().embed(faces)


class Killed(BaseException):
    """Ends the function."""


class DeadlyEmbedder(ColourEmbedder):
    """Ends the function when it sees a blue face, as want of memory does."""

    def embed(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        if any(face[..., 2].mean() > 150 for face in faces):
            raise Killed
        return super().embed(faces)


class NotingQueue(NotedQueue):
    """Notes what is given back, and for how long."""

    def __init__(self) -> None:
        super().__init__()
        self.delays: list[tuple[str, float]] = []

    async def release(self, leases: Sequence[Any], *, delay: float = 0, count_attempt: bool = True) -> None:
        await super().release(leases, delay=delay, count_attempt=count_attempt)
        self.delays += [(lease.receipt, delay) for lease in leases]


class MeetingQueue(NotingQueue):
    """Answers nobody before so many have given back."""

    def __init__(self, callers: int) -> None:
        super().__init__()
        self._barrier = asyncio.Barrier(callers)

    async def release(self, leases: Sequence[Any], *, delay: float = 0, count_attempt: bool = True) -> None:
        await self._barrier.wait()
        await super().release(leases, delay=delay, count_attempt=count_attempt)


class NoQueue(NotedQueue):
    """What SQS says of a queue that is not there."""

    async def send(self, bodies: Sequence[bytes]) -> None:
        assert bodies
        raise QueueError("no_such_queue", "there is no queue 'requests-dead'")


class Setting:
    def __init__(
        self,
        embedder: ColourEmbedder | None = None,
        store: FaultyGallery | None = None,
        dead: NotedQueue | None = None,
    ) -> None:
        self.requests: NotingQueue = NotingQueue()
        self.dead = dead or NotedQueue()
        self.responses = NotedQueue()
        self.lines: list[str] = []
        self.metrics = Metrics("recognize", write=self.lines.append)
        self.embedder = embedder or ColourEmbedder()
        self.store = store or FaultyGallery()
        self.recognize = self.with_people(self.people(poll_seconds=60))

    def people(self, *, poll_seconds: float, rows: GalleryRows | None = None) -> People:
        return People(self.embedder, self.store, rows, poll_seconds=poll_seconds, reads_only=True)

    async def enrol(self, *people: str) -> None:
        await self.store.add([face_of(person) for person in people])

    def with_people(self, people: People) -> Recognize:
        responses = [self.responses]
        return Recognize(
            FaceRecognizer(self.embedder),
            people,
            responses=responses,
            batches=Batches(self.requests, self.dead, self.metrics),
        )

    @property
    def answers(self) -> dict[str, RecognizedFaces]:
        answers = [RecognizedFaces.from_bytes(body) for body in self.responses.bodies]
        return {answer.request_id: answer for answer in answers}

    def counts(self) -> dict[str, Any]:
        self.metrics.flush()
        counts: dict[str, Any] = json.loads(self.lines[-1])
        return counts


def sqs_of(leases: Sequence[Lease]) -> dict[str, Any]:
    """Return the event with what was received."""
    event = sqs(*(lease.body.decode() for lease in leases))
    for record, lease in zip(event["Records"], leases, strict=True):
        record["receiptHandle"] = lease.receipt
        record["attributes"]["ApproximateReceiveCount"] = str(lease.receives)
    return event


def failed_ids(result: dict[str, Any]) -> list[str]:
    return [failure["itemIdentifier"] for failure in result["batchItemFailures"]]


async def test_ten_messages_are_one_batch_of_the_network() -> None:
    setting = Setting()
    await setting.enrol("Red", "Blue")
    bodies = [single_face(("Red", "Blue")[number % 2], f"r{number}") for number in range(10)]
    assert await setting.recognize(sqs(*bodies)) == NOBODY
    assert setting.embedder.batches == [10]
    assert [setting.answers[f"r{number}"].result for number in range(10)] == ["Red", "Blue"] * 5
    assert setting.counts()["KnownFaces"] == 10


async def test_of_ten_messages_exactly_the_poisoned_one_fails() -> None:
    setting = Setting()
    bodies = [single_face("Red", f"r{number}") for number in range(9)]
    result = await setting.recognize(sqs(*bodies[:4], POISON, *bodies[4:]))
    assert failed_ids(result) == ["m4"]
    assert set(setting.answers) == {f"r{number}" for number in range(9)}
    [(receipt, delay)] = setting.requests.delays
    assert receipt.endswith("-4")
    assert 0 < delay < 2


async def test_a_message_that_breaks_the_batch_is_tried_alone_and_comes_again_later() -> None:
    setting = Setting(FragileEmbedder())
    bodies = [single_face("Red", "r0"), single_face("Blue", "r1"), single_face("Red", "r2")]
    result = await setting.recognize(sqs(*bodies, receives=3))
    assert failed_ids(result) == ["m1"]
    assert set(setting.answers) == {"r0", "r2"}
    [(_, delay)] = setting.requests.delays
    assert 12 <= delay <= 20
    assert setting.counts()["Retried"] == 1


async def test_a_message_that_ends_the_function_takes_few_others_along() -> None:
    random.seed(5)
    setting = Setting(DeadlyEmbedder())
    bodies = [single_face("Red", f"r{number}").encode() for number in range(9)]
    setting.requests.put(*bodies[:4], single_face("Blue", "killer").encode(), *bodies[4:])
    for _ in range(5):
        leases = await setting.requests.receive(10, wait=0)
        with pytest.raises(Killed):
            await setting.recognize(sqs_of(leases))
        await NotedQueue.release(setting.requests, leases)
    assert len(setting.answers) >= 8
    assert len(setting.requests.bodies) == 10 - len(setting.answers)


async def test_messages_that_come_again_are_worked_on_after_the_others_and_one_by_one() -> None:
    setting = Setting()
    new, again = sqs(single_face("Red", "r0"), single_face("Red", "r1")), sqs(single_face("Red", "r2"), receives=2)
    again["Records"][0]["messageId"] = "m2"
    assert await setting.recognize({"Records": again["Records"] + new["Records"]}) == NOBODY
    assert setting.embedder.batches == [2, 1]
    assert [json.loads(body)["request_id"] for body in setting.responses.bodies] == ["r0", "r1", "r2"]
    assert setting.requests.calls == [("acknowledge", 2), ("acknowledge", 1)]


async def test_a_message_that_cannot_be_deleted_yet_is_deleted_by_the_functions_result() -> None:
    setting = Setting()
    setting.requests.failures["acknowledge"] = 2
    assert await setting.recognize(sqs(single_face("Red", "r0"), single_face("Red", "r1"), receives=2)) == NOBODY
    assert set(setting.answers) == {"r0", "r1"}


async def test_at_the_fifth_receive_the_answer_takes_the_messages_place_among_the_dead_letters() -> None:
    setting = Setting(FragileEmbedder())
    assert await setting.recognize(sqs(single_face("Blue", "r1"), receives=5)) == NOBODY
    answer = RecognizedFaces.from_bytes(setting.dead.bodies[0])
    assert (answer.request_id, answer.status, answer.result) == ("r1", "failed", "Failed")
    assert answer.error is not None
    assert (answer.error.stage, answer.error.code) == ("recognize", "internal")
    assert answer.error.detail == "5 attempts failed, the last with RuntimeError"
    assert setting.responses.bodies == []
    assert setting.counts()["GivenUp"] == 1


async def test_dead_letters_out_of_reach_leave_the_message_to_the_queues_own_policy() -> None:
    setting = Setting(FragileEmbedder())
    setting.dead.failures["send"] = 1
    assert failed_ids(await setting.recognize(sqs(single_face("Blue", "r1"), receives=5))) == ["m0"]


async def test_without_a_queue_of_dead_letters_whoever_asked_is_answered_all_the_same() -> None:
    setting = Setting(FragileEmbedder(), dead=NoQueue())
    assert await setting.recognize(sqs(single_face("Blue", "r1"), receives=5)) == NOBODY
    error = setting.answers["r1"].error
    assert error is not None
    assert (error.stage, error.code) == ("recognize", "internal")
    assert setting.counts()["GivenUp"] == 1


async def test_a_message_that_fails_is_logged_with_its_request() -> None:
    setting = Setting(FragileEmbedder())
    with capture_logs() as logs:
        await setting.recognize(sqs(single_face("Blue", "r1"), POISON))
    failed = [(line["request_id"], line["message_id"]) for line in logs if line["event"] == "a message failed"]
    assert sorted(failed, key=str) == [("r1", "m0"), (None, "m1")]


async def test_a_poisoned_message_without_an_id_is_left_to_the_queues_own_policy() -> None:
    setting = Setting()
    assert failed_ids(await setting.recognize(sqs(POISON, receives=5))) == ["m0"]
    assert setting.dead.bodies == []


@pytest.mark.parametrize(
    ("body", "stage", "code"),
    [
        ('{"request_id": "r1", "faces": "none"}', "recognize", "bad_message"),
        ('{"request_id": "r1", "face_image": "bm8gcGljdHVyZQ=="}', "decode", "not_an_image"),
    ],
)
async def test_what_is_the_messages_own_fault_is_answered_at_once(body: str, stage: str, code: str) -> None:
    setting = Setting()
    assert await setting.recognize(sqs(body, single_face("Red", "r2"))) == NOBODY
    error = setting.answers["r1"].error
    assert error is not None
    assert (error.stage, error.code) == (stage, code)
    assert setting.answers["r2"].status == "done"
    assert setting.counts()["Failed"] == 1


async def test_a_response_queue_out_of_reach_fails_all_that_was_answered() -> None:
    setting = Setting()
    setting.responses.failures["send"] = 1
    assert failed_ids(await setting.recognize(sqs(single_face("Red", "r1"), single_face("Red", "r2")))) == ["m0", "m1"]
    assert await setting.recognize(sqs(single_face("Red", "r1"), single_face("Red", "r2"))) == NOBODY


async def test_messages_that_failed_wait_for_a_slow_queue_together() -> None:
    setting = Setting()
    setting.requests = MeetingQueue(10)
    setting.responses.failures["send"] = 1
    recognize = setting.with_people(People(setting.embedder, None, None, poll_seconds=60))
    async with asyncio.timeout(5):
        result = await recognize(sqs(*(single_face("Red", f"r{number}") for number in range(10))))
    assert len(failed_ids(result)) == 10


async def test_of_a_batch_that_a_queue_took_in_part_the_rest_comes_again() -> None:
    setting = Setting()
    setting.responses = ChoosyQueue(never=b'"r2"', later=b'"r0"')
    setting.recognize = setting.with_people(People(setting.embedder, None, None, poll_seconds=60))
    bodies = [single_face("Red", f"r{number}") for number in range(4)]
    assert failed_ids(await setting.recognize(sqs(*bodies))) == ["m0", "m2"]
    assert set(setting.answers) == {"r1", "r3"}
    assert setting.counts()["Faces"] == 2


async def test_an_answer_goes_to_every_response_queue() -> None:
    setting = Setting()
    copies = NotedQueue()
    responses = [setting.responses, copies]
    recognize = Recognize(
        FaceRecognizer(setting.embedder),
        People(setting.embedder, None, None, poll_seconds=60),
        responses=responses,
        batches=Batches(setting.requests, setting.dead, setting.metrics),
    )
    await recognize(sqs(single_face("Red", "r1")))
    assert setting.responses.bodies == copies.bodies != []


async def test_while_the_gallery_was_never_read_all_messages_come_again_soon() -> None:
    store = FaultyGallery(StoreError("unreachable", "no answer"))
    setting = Setting(store=store)
    assert failed_ids(await setting.recognize(sqs(single_face("Red", "r1"), single_face("Red", "r2")))) == ["m0", "m1"]
    assert [0 < delay < 2 for _, delay in setting.requests.delays] == [True, True]
    store.failure = None
    assert await setting.recognize(sqs(single_face("Red", "r1"))) == NOBODY


async def test_a_gallery_that_was_read_serves_on_while_the_store_is_out_of_reach() -> None:
    setting = Setting()
    setting.recognize = setting.with_people(setting.people(poll_seconds=0))
    await setting.enrol("Red")
    await setting.recognize(sqs(single_face("Red", "r1")))
    setting.store.failure = StoreError("unreachable", "no answer")
    for request_id in ("r2", "r3", "r4"):
        await setting.recognize(sqs(single_face("Red", request_id)))
        assert setting.answers[request_id].result == "Red"
    assert setting.store.refusals == 1


async def test_the_gallery_is_asked_for_no_more_often_than_told() -> None:
    setting = Setting()
    await setting.recognize(sqs(single_face("Red", "r1")))
    await setting.enrol("Red")
    await setting.recognize(sqs(single_face("Red", "r2")))
    assert setting.answers["r2"].result == "Unknown"
    setting.recognize = setting.with_people(setting.people(poll_seconds=0))
    await setting.recognize(sqs(single_face("Red", "r3")))
    assert setting.answers["r3"].result == "Red"


async def test_faces_of_another_embedder_are_left_out_until_a_function_that_may_write_embeds_them() -> None:
    setting = Setting(ColourEmbedder("other"))
    setting.recognize = setting.with_people(setting.people(poll_seconds=0))
    await setting.enrol("Red")
    with capture_logs() as logs:
        await setting.recognize(sqs(single_face("Red", "r1")))
    (warning,) = [line for line in logs if line["event"] == "faces of other embedders only are left out"]
    assert warning["faces"] == 1
    assert setting.answers["r1"].faces[0].reason == "empty_gallery"
    assert {face.embedder for face in setting.store.enrolled} == {"colour"}
    await setting.store.add([replace(face, embedder="other") for face in setting.store.enrolled])
    await setting.recognize(sqs(single_face("Red", "r2")))
    assert setting.answers["r2"].result == "Red"


async def test_nobody_is_enrolled_from_the_queue() -> None:
    setting = Setting()
    assert await setting.recognize(sqs(enrolment("Red", "e1"), single_face("Red", "r1"))) == NOBODY
    assert not setting.store.enrolled
    error = setting.answers["e1"].error
    assert error is not None
    assert (error.stage, error.code) == ("recognize", "enroll_refused")
    assert "enroll/<person>/" in error.detail
    assert setting.answers["r1"].result == "Unknown"


async def test_people_of_a_gallery_file_are_known_beside_those_enrolled() -> None:
    setting = Setting()
    rows = GalleryRows("colour", ("Blue",), unit_vector(setting.embedder, "Blue")[None])
    setting.recognize = setting.with_people(setting.people(poll_seconds=60, rows=rows))
    await setting.enrol("Red")
    await setting.recognize(sqs(single_face("Blue", "r1")))
    await setting.recognize(sqs(single_face("Blue", "r2"), single_face("Red", "r3")))
    assert [setting.answers[name].result for name in ("r1", "r2", "r3")] == ["Blue", "Blue", "Red"]


async def test_an_answer_no_queue_takes_becomes_a_failure_that_one_takes() -> None:
    setting = Setting()
    message = json.loads(single_face("Red", "r1")) | {"filename": "x" * 1_000_000}
    result = await setting.recognize(sqs(json.dumps(message), single_face("Red", "r2")))
    assert failed_ids(result) == ["m0"]
    assert set(setting.answers) == {"r2"}


def test_a_gallery_file_of_another_embedder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gallery.npz"
    np.savez(path, embeddings=np.eye(128)[:2], names=np.array(["Ada", "Grace"]), embedder=np.array("dlib-resnet29"))
    with pytest.raises(GalleryError, match="holds faces of dlib-resnet29, the embedder in use is colour"):
        open_people(LambdaSettings(gallery_file=path), ColourEmbedder(), None)


def unit_vector(embedder: ColourEmbedder, person: str) -> NDArray[np.float32]:
    vector: NDArray[np.float32] = embedder.embed(np.full((1, 32, 32, 3), COLOURS[person], np.uint8))[0]
    return vector


def face_of(person: str) -> EnrolledFace:
    return EnrolledFace(person, person, "colour", unit_vector(ColourEmbedder(), person).tobytes(), now(), None)
