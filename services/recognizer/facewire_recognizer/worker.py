"""The recognizer's work: face crops of the request queue become names on the response queue."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor

import structlog

from facewire import metrics
from facewire.delivery import Outgoing
from facewire.errors import FacewireError, RecognizeError
from facewire.gallery import Gallery
from facewire.gallerysync import GallerySync
from facewire.messages import DetectedFaces, RecognizedFaces, Source
from facewire.queues import Queue
from facewire.recognize import FaceRecognizer, Recognition
from facewire.settings import RecognizerSettings
from facewire.stores import GalleryStore
from facewire.worker import Limits, Outcome, Worker, worker_threads

_STEPS = ("queue", "align", "embed", "match", "total")

_log = structlog.get_logger()


async def run_recognizer(  # noqa: PLR0913 - what the service stands on, all by keyword
    settings: RecognizerSettings,
    *,
    requests: Queue,
    responses: Queue,
    recognizer: FaceRecognizer,
    gallery_store: GalleryStore,
    stop: asyncio.Event,
) -> None:
    """Recognise the faces of the request queue in `recognizer_threads` threads until `stop` is set, then drain.

    Faces in the gallery that the embedder has not seen are embedded first. Raises StoreError where the gallery cannot
    be read at the start.
    """
    limits = Limits(
        concurrency=settings.recognizer_threads,
        batch_size=settings.batch_messages,
        batch_wait_seconds=settings.batch_wait_seconds,
        prefetch=settings.batch_messages,
        drain_seconds=settings.drain_seconds,
    )
    sync = GallerySync(gallery_store, recognizer.embedder)
    await sync.embed_again()
    await sync.refresh()
    async with worker_threads(settings.recognizer_threads, "recognize") as executor, asyncio.TaskGroup() as group:
        follow = sync.follow(stop, poll_seconds=settings.gallery_poll_seconds)
        group.create_task(follow, name="recognize: follow the gallery")
        stage = RecognizeStage(recognizer, executor, responses=responses, gallery_store=gallery_store, sync=sync)
        await Worker(stage, requests, responses=responses, limits=limits).run(stop)


class RecognizeStage:
    """DetectedFaces -> RecognizedFaces; an enrolled face is stored before its answer is sent."""

    error: type[FacewireError] = RecognizeError
    source: Source = "cloud"

    def __init__(
        self,
        recognizer: FaceRecognizer,
        executor: Executor,
        *,
        responses: Queue,
        gallery_store: GalleryStore,
        sync: GallerySync,
    ) -> None:
        self._recognizer = recognizer
        self._executor = executor
        self._responses = responses
        self._gallery_store = gallery_store
        self._sync = sync

    def read(self, body: bytes) -> DetectedFaces:
        """Return the message in `body`; RecognizeError where there is none."""
        return DetectedFaces.from_bytes(body)

    async def process(self, bodies: Sequence[bytes]) -> Sequence[Outcome]:
        """Recognise the faces of all messages as one batch, then store who was enrolled."""
        loop = asyncio.get_running_loop()
        results = await loop.run_in_executor(self._executor, self._recognize, bodies, self._sync.gallery)
        outcomes = await asyncio.gather(*(self._keep(result) for result in results))
        if any(isinstance(result, Recognition) and result.enrolled for result in results):
            await self._sync.refresh_or_log()
        return outcomes

    def _recognize(self, bodies: Sequence[bytes], gallery: Gallery) -> list[Recognition | RecognizeError]:
        messages = [self._read_or_error(body) for body in bodies]
        readable = [message for message in messages if isinstance(message, DetectedFaces)]
        recognitions = iter(self._recognizer(readable, gallery))
        return [message if isinstance(message, RecognizeError) else next(recognitions) for message in messages]

    def _read_or_error(self, body: bytes) -> DetectedFaces | RecognizeError:
        try:
            return self.read(body)
        except RecognizeError as error:
            return error

    async def _keep(self, result: Recognition | RecognizeError) -> Outcome:
        """Store the enrolled face if there is one; return the answer to send, or why there is none."""
        if isinstance(result, RecognizeError):
            return result
        try:
            if result.enrolled is not None:
                await self._gallery_store.add([result.enrolled])
        except FacewireError as error:
            return error
        _note(result.answer)
        return [Outgoing(self._responses, result.answer.to_bytes())]


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
