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
from typing import Any, ClassVar

import structlog

from facewire.adapters.aws.sqs.queue import SqsQueues
from facewire.domain.errors import FacewireError, RecognizeError, StoreError
from facewire.domain.gallery import Gallery
from facewire.domain.messages import DetectedFaces, RecognizedFaces, Source
from facewire.domain.ports import Sender
from facewire.stages.recognize import FaceRecognizer
from facewire.work.handler import Done, Message, Outcome, Outgoing, Stage
from facewire_lambda.batch import Batches, Record, batch_result
from facewire_lambda.emf import Metrics
from facewire_lambda.people import People, open_people
from facewire_lambda.recognition import load_face_recognizer
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


class Recognize(Stage[DetectedFaces]):
    """Recognises the faces of all messages of an event as one batch; a message that spoils it is tried alone.

    So is one that comes again, after the others and done with before the next: it may have ended the function, which
    takes everything along that is in flight.
    """

    error: ClassVar[type[FacewireError]] = RecognizeError
    source: ClassVar[Source] = "cloud"

    def __init__(
        self, recognizer: FaceRecognizer, people: People, *, responses: Sequence[Sender], batches: Batches
    ) -> None:
        super().__init__(*responses)
        self._recognizer = recognizer
        self._people = people
        self._batches = batches
        self._metrics = batches.metrics
        #: By the receipt of its message, until that is done with.
        self._answers: dict[str, RecognizedFaces] = {}

    async def __call__(self, event: Event) -> dict[str, Any]:
        """Return the messages that come again."""
        records = Record.all_of(event)
        self._metrics.count("Messages", len(records))
        parts = _parts(records)
        left: list[Record] = []
        for part in parts:
            again = await self._batches.work(self, part)
            done = [record for record in part if record not in again]
            if len(parts) > 1:
                await self._batches.forget(done)
            for record in done:
                self._note(self._answers.pop(record.lease.receipt, None))
            self._answers.clear()
            left += again
        return batch_result(left)

    def read(self, body: bytes) -> DetectedFaces:
        """Return the message in `body`; RecognizeError where there is none."""
        return DetectedFaces.from_bytes(body)

    async def handle(self, messages: Sequence[Message[DetectedFaces]]) -> Sequence[Outcome]:
        """Recognise the faces of all messages; each fails where the gallery cannot be read."""
        try:
            gallery = await self._people.gallery()
        except StoreError as error:
            return [error] * len(messages)
        return await asyncio.to_thread(self._recognize, messages, gallery)

    def failure(self, message: Message[DetectedFaces], error: FacewireError) -> Sequence[Outgoing]:
        """Return the answer `failed`; nothing where the message names no request."""
        outgoing = super().failure(message, error)
        if outgoing:
            self._answers[message.lease.receipt] = RecognizedFaces.from_bytes(outgoing[0].body)
        return outgoing

    def _recognize(self, messages: Sequence[Message[DetectedFaces]], gallery: Gallery) -> list[Outcome]:
        read = [_content(message) for message in messages]
        recognitions = iter(self._recognizer([found for found in read if isinstance(found, DetectedFaces)], gallery))
        return [
            self._done(message, next(recognitions).answer) if isinstance(found, DetectedFaces) else found
            for message, found in zip(messages, read, strict=True)
        ]

    def _done(self, message: Message[DetectedFaces], answer: RecognizedFaces) -> Done:
        self._answers[message.lease.receipt] = answer
        return Done(self.answer(answer))

    def _note(self, answer: RecognizedFaces | None) -> None:
        if answer is None:
            return
        known = sum(face.known for face in answer.faces)
        self._metrics.count("Faces", len(answer.faces))
        self._metrics.count("KnownFaces", known)
        self._metrics.time_steps(answer.timings_ms, _STEPS)
        facts: dict[str, Any] = {"request_id": answer.request_id, "faces": len(answer.faces), "known": known}
        if answer.error is not None:
            self._metrics.count("Failed")
            facts |= {"stage": answer.error.stage, "code": answer.error.code}
        _log.info("answered", status=answer.status, timings_ms=answer.timings_ms, **facts)


def _parts(records: Sequence[Record]) -> list[list[Record]]:
    """Return what may be worked on together: the messages that come first, then each other one, in any order."""
    new = [record for record in records if record.lease.receives == 1]
    others = [[record] for record in records if record.lease.receives > 1]
    return ([new] if new else []) + random.sample(others, len(others))


def _content(message: Message[DetectedFaces]) -> DetectedFaces | RecognizeError:
    try:
        content = message.content
    except RecognizeError as error:
        return error
    if content.enroll_as is not None:
        detail = "nobody is enrolled from the queue: put a picture under enroll/<person>/ in the bucket"
        return RecognizeError("enroll_refused", detail)
    return content


@Handler
@asynccontextmanager
async def recognize(settings: LambdaSettings, metrics: Metrics) -> AsyncIterator[Function]:
    """Open `recognize`: the embedder, the gallery and the queues."""
    recognizer = load_face_recognizer(settings)
    async with open_gallery_if_any(settings) as gallery, SqsQueues.open(settings) as queues:
        requests = queues.queue(settings.request_queue)
        yield Recognize(
            recognizer,
            open_people(settings, recognizer.embedder, gallery, reads_only=True),
            responses=[queues.queue(name) for name in settings.response_queues],
            batches=Batches(requests, requests.dead_letters(), metrics),
        )
