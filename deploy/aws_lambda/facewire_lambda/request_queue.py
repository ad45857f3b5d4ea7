"""`recognize`: face crops of the request queue become names on the response queues.

It enrols nobody, as every core and detector may send to that queue: the gallery is read, not written. SQS deletes what
the result does not name as failed. A failed message comes again after growing pauses; at the fifth
receive its `failed` answer goes to the dead letters in its place, where `dead_letters` records and sends it. What ends
the function itself gets there by the queue's own redrive policy (maxReceiveCount 5).
"""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from facewire.adapters.aws.sqs.queue import SqsQueues
from facewire.domain.errors import RecognizeError, StoreError, is_final
from facewire.domain.failures import error_name
from facewire.domain.gallery import Gallery
from facewire.domain.messages import DetectedFaces, RecognizedFaces
from facewire.stages.recognize import FaceRecognizer, Recognition
from facewire_lambda.batch import Record, batch_result
from facewire_lambda.emf import Metrics
from facewire_lambda.people import People, open_people
from facewire_lambda.recognition import load_face_recognizer
from facewire_lambda.responses import Responses, answer_body
from facewire_lambda.retries import Retries, failed_answer
from facewire_lambda.runtime import Event, Function, Handler
from facewire_lambda.settings import LambdaSettings
from facewire_lambda.stores import open_gallery_if_any

_STEPS = {
    "queue": "QueueMs",
    "align": "AlignMs",
    "embed": "EmbedMs",
    "match": "MatchMs",
    "attributes": "AttributesMs",
    "total": "TotalMs",
}

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Answered:
    """A message and its answer."""

    record: Record
    answer: RecognizedFaces


@dataclass(frozen=True, slots=True)
class Failed:
    """A message and why it has no answer yet."""

    record: Record
    error: Exception


class Recognize:
    """Recognises the faces of all messages of an event as one batch; a message that spoils it is tried alone.

    So is one that comes again, after the others and done with before the next: it may have ended the function, which
    takes everything along that is in hand.
    """

    def __init__(
        self, recognizer: FaceRecognizer, people: People, *, responses: Responses, retries: Retries, metrics: Metrics
    ) -> None:
        self._recognizer = recognizer
        self._people = people
        self._responses = responses
        self._retries = retries
        self._metrics = metrics

    async def __call__(self, event: Event) -> dict[str, Any]:
        """Return the messages that come again."""
        records = Record.all_of(event)
        self._metrics.count("Messages", len(records))
        parts = _parts(records)
        left: list[Record] = []
        for part in parts:
            again = await self._work(part)
            if len(parts) > 1:
                await self._retries.forget([record for record in part if record not in again])
            left += again
        return batch_result(left)

    async def _work(self, records: Sequence[Record]) -> list[Record]:
        """Answer the messages; return those that come again."""
        failures = await self._answer(records)
        # All at once: with a queue out of reach each takes long, and without a result the answered come again as well.
        settled = await asyncio.gather(*(self._retries.settles(work.record, work.error) for work in failures))
        return [work.record for work, done in zip(failures, settled, strict=True) if not done]

    async def _answer(self, records: Sequence[Record]) -> list[Failed]:
        """Answer the messages; return those that failed, which are all of them where the gallery cannot be read."""
        try:
            gallery = await self._people.gallery()
        except StoreError as error:
            return [Failed(record, error) for record in records]
        outcomes = await asyncio.to_thread(self._recognize, [record.lease.body for record in records], gallery)
        works = [await self._finish(record, outcome) for record, outcome in zip(records, outcomes, strict=True)]
        failures = [work for work in works if isinstance(work, Failed)]
        return failures + await self._send([work for work in works if isinstance(work, Answered)])

    def _recognize(self, bodies: Sequence[bytes], gallery: Gallery) -> list[Recognition | Exception]:
        messages = [_read(body) for body in bodies]
        readable = [message for message in messages if isinstance(message, DetectedFaces)]
        recognitions = iter(self._together_or_alone(readable, gallery))
        return [next(recognitions) if isinstance(message, DetectedFaces) else message for message in messages]

    def _together_or_alone(
        self, messages: Sequence[DetectedFaces], gallery: Gallery
    ) -> Sequence[Recognition | Exception]:
        try:
            return self._recognizer(messages, gallery)
        except Exception as error:  # noqa: BLE001 - whatever a message's content may cause; Retries logs it
            if len(messages) == 1:
                return [error]
            _log.warning("a batch failed, trying each message alone", messages=len(messages), error=error_name(error))
        return [outcome for message in messages for outcome in self._together_or_alone([message], gallery)]

    async def _finish(self, record: Record, outcome: Recognition | Exception) -> Answered | Failed:
        """Check that the answer fits; answer `failed` where further attempts would fail as well."""
        try:
            if not isinstance(outcome, Exception):
                await asyncio.to_thread(answer_body, outcome.answer)
                return Answered(record, outcome.answer)
            error = outcome
        except Exception as caught:  # noqa: BLE001 - of this message alone; Retries logs it
            error = caught
        if is_final(error):
            answer = await asyncio.to_thread(failed_answer, record.lease.body, error)
            return Answered(record, answer) if answer else Failed(record, error)
        return Failed(record, error)

    async def _send(self, works: Sequence[Answered]) -> list[Failed]:
        """Send the answers; return the messages whose answer a queue did not take."""
        errors = await self._responses.send_all([work.answer.to_bytes() for work in works])
        for position, work in enumerate(works):
            if position not in errors:
                self._note(work.answer)
        return [Failed(works[position].record, error) for position, error in errors.items()]

    def _note(self, answer: RecognizedFaces) -> None:
        known = sum(face.known for face in answer.faces)
        self._metrics.count("Faces", len(answer.faces))
        self._metrics.count("KnownFaces", known)
        self._metrics.time_steps(answer.timings_ms, _STEPS)
        facts: dict[str, Any] = {"request_id": answer.request_id, "faces": len(answer.faces), "known": known}
        if answer.error is not None:
            self._metrics.count("Failed")
            facts |= {"stage": answer.error.stage, "code": answer.error.code, "detail": answer.error.detail}
        _log.info("answered", status=answer.status, timings_ms=answer.timings_ms, **facts)


def _parts(records: Sequence[Record]) -> list[list[Record]]:
    """Return what may be worked on together: the messages that come first, then each other one, in any order."""
    new = [record for record in records if record.lease.receives == 1]
    others = [[record] for record in records if record.lease.receives > 1]
    return ([new] if new else []) + random.sample(others, len(others))


def _read(body: bytes) -> DetectedFaces | RecognizeError:
    try:
        message = DetectedFaces.from_bytes(body)
    except RecognizeError as error:
        return error
    if message.enroll_as is not None:
        detail = "nobody is enrolled from the queue: put a picture under enroll/<person>/ in the bucket"
        return RecognizeError("enroll_refused", detail)
    return message


@Handler
@asynccontextmanager
async def recognize(settings: LambdaSettings, metrics: Metrics) -> AsyncIterator[Function]:
    """Open `recognize`: the embedder, the gallery and the queues."""
    recognizer = load_face_recognizer(settings)
    async with open_gallery_if_any(settings) as gallery, SqsQueues.open(settings) as queues:
        requests = queues.queue(settings.request_queue)
        responses = Responses([queues.queue(name) for name in settings.response_queues])
        yield Recognize(
            recognizer,
            open_people(settings, recognizer.embedder, gallery, reads_only=True),
            responses=responses,
            retries=Retries(requests, requests.dead_letters(), responses=responses, metrics=metrics),
            metrics=metrics,
        )
