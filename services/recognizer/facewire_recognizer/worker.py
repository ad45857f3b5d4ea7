"""The recognizer's work: face crops of the request queue become names on the response queue."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import ClassVar

import structlog

from facewire.domain.enrolment import check_proof
from facewire.domain.errors import FacewireError, RecognizeError
from facewire.domain.gallery import Gallery
from facewire.domain.messages import DetectedFaces, RecognizedFaces, Source
from facewire.domain.ports import GalleryStore, Queue, ResultStore
from facewire.runtime import metrics
from facewire.runtime.settings import RecognizerSettings
from facewire.stages.recognize import FaceRecognizer, Recognition
from facewire.vision.models import load_attributes, load_embedder
from facewire.work.consumer import Policy, consume, worker_threads
from facewire.work.gallery_sync import GallerySync
from facewire.work.handler import Done, Message, Outcome, Stage
from facewire_recognizer.copies import is_answered

_STEPS = ("queue", "align", "embed", "match", "total")

_log = structlog.get_logger()


async def run_recognizer(  # noqa: PLR0913 - what the service stands on, all by keyword
    settings: RecognizerSettings,
    *,
    requests: Queue,
    responses: Queue,
    recognizer: FaceRecognizer,
    gallery_store: GalleryStore,
    enroll_key: bytes | None = None,
    results: ResultStore | None = None,
    stop: asyncio.Event,
    shared_threads: Executor | None = None,
) -> None:
    """Recognise the faces of the request queue, up to `recognizer_threads` batches at a time, until `stop`, then drain.

    It has as many threads of its own unless it is given some that it shares. Faces in the gallery that the embedder has
    not seen are embedded first. Enrolments are refused unless `enroll_key` has signed them. A message whose request
    `results` shows to be answered is a copy, and passed over.
    Raises StoreError where the gallery cannot be read at the start.
    """
    policy = Policy(
        concurrency=settings.recognizer_threads,
        batch_size=settings.batch_messages,
        batch_wait_seconds=settings.batch_wait_seconds,
        prefetch=settings.batch_messages,
        drain_seconds=settings.drain_seconds,
    )
    sync = GallerySync(gallery_store, recognizer.embedder)
    await sync.embed_again()
    await sync.refresh()
    async with (
        worker_threads(settings.recognizer_threads, "recognize", shared=shared_threads) as executor,
        asyncio.TaskGroup() as group,
    ):
        follow = sync.follow(stop, poll_seconds=settings.gallery_poll_seconds)
        group.create_task(follow, name="recognize: follow the gallery")
        stage = RecognizeStage(
            recognizer,
            executor,
            responses=responses,
            gallery_store=gallery_store,
            enroll_key=enroll_key,
            results=results,
            sync=sync,
        )
        await consume(requests, stage, policy, stop)


def load_face_recognizer(settings: RecognizerSettings) -> FaceRecognizer:
    """Load the models; ModelError where one is missing, broken, or not known."""
    embedder = load_embedder(settings.embedder, settings.models_dir)
    attributes = load_attributes(settings.models_dir) if settings.attributes else None
    return FaceRecognizer(embedder, threshold=settings.threshold, margin=settings.margin, attributes=attributes)


class RecognizeStage(Stage[DetectedFaces]):
    """DetectedFaces -> RecognizedFaces; an enrolled face is stored before its answer is sent."""

    error: ClassVar[type[FacewireError]] = RecognizeError
    source: ClassVar[Source] = "cloud"

    def __init__(  # noqa: PLR0913 - what the stage stands on, all but the first two named
        self,
        recognizer: FaceRecognizer,
        executor: Executor,
        *,
        responses: Queue,
        gallery_store: GalleryStore,
        enroll_key: bytes | None,
        results: ResultStore | None,
        sync: GallerySync,
    ) -> None:
        super().__init__(responses)
        self._recognizer = recognizer
        self._executor = executor
        self._gallery_store = gallery_store
        self._enroll_key = enroll_key
        self._results = results
        self._sync = sync

    def read(self, body: bytes) -> DetectedFaces:
        """Return the message in `body`; RecognizeError where there is none."""
        return DetectedFaces.from_bytes(body)

    async def handle(self, messages: Sequence[Message[DetectedFaces]]) -> Sequence[Outcome]:
        """Recognise the faces of all messages as one batch, then store who was enrolled."""
        loop = asyncio.get_running_loop()
        read = await loop.run_in_executor(self._executor, lambda: [self._checked(message) for message in messages])
        new = await asyncio.gather(*(self._unless_copy(message) for message in read))
        results = await loop.run_in_executor(self._executor, self._recognize, new, self._sync.gallery)
        outcomes = await asyncio.gather(*(self._keep(result) for result in results))
        if any(isinstance(result, Recognition) and result.enrolled for result in results):
            await self._sync.refresh_or_log()
        return outcomes

    async def _unless_copy(self, message: DetectedFaces | RecognizeError) -> DetectedFaces | RecognizeError | None:
        """Return the message, None where its request has been answered."""
        results = self._results
        if results is None or isinstance(message, RecognizeError) or not await is_answered(message, results):
            return message
        _log.info("a copy of an answered message is passed over", request_id=message.request_id)
        return None

    def _recognize(
        self, messages: Sequence[DetectedFaces | RecognizeError | None], gallery: Gallery
    ) -> list[Recognition | RecognizeError | None]:
        new = [message for message in messages if isinstance(message, DetectedFaces)]
        recognitions = iter(self._recognizer(new, gallery))
        return [next(recognitions) if isinstance(message, DetectedFaces) else message for message in messages]

    def _checked(self, message: Message[DetectedFaces]) -> DetectedFaces | RecognizeError:
        try:
            check_proof(self._enroll_key, message.content)
        except RecognizeError as error:
            return error
        return message.content

    async def _keep(self, result: Recognition | RecognizeError | None) -> Outcome:
        """Store the enrolled face if there is one; return the answer to send, or why there is none."""
        if result is None:
            return Done()
        if isinstance(result, RecognizeError):
            return result
        try:
            if result.enrolled is not None:
                await self._gallery_store.add([result.enrolled])
        except FacewireError as error:
            return error
        _note(result.answer)
        return Done(self.answer(result.answer))


def _note(answer: RecognizedFaces) -> None:
    metrics.observe_steps("recognize", answer.timings_ms, _STEPS)
    for face in answer.faces:
        metrics.FACES.labels(face.reason or "known").inc()
    known = sum(face.known for face in answer.faces)
    facts = {"faces": len(answer.faces), "known": known, "timings_ms": answer.timings_ms}
    _log.debug("faces recognised", request_id=answer.request_id, **facts)
    if answer.enrolled is not None:
        face_id, refused = answer.enrolled.face_id, answer.enrolled.refused
        _log.info("an enrolment", request_id=answer.request_id, face_id=face_id, refused=refused)
