"""Both stages in one place: a frame becomes its answer, and no crop leaves the function."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from facewire.domain.gallery import Gallery
from facewire.domain.messages import Frame
from facewire.runtime.loading import load_face_detector
from facewire.stages.detect import FaceDetector
from facewire.stages.recognize import FaceRecognizer, Recognition
from facewire_lambda.emf import Metrics
from facewire_lambda.people import People, open_people
from facewire_lambda.recognition import load_face_recognizer
from facewire_lambda.settings import LambdaSettings
from facewire_lambda.stores import open_gallery_if_any

_STEPS = {
    "decode": "DecodeMs",
    "detect": "DetectMs",
    "align": "AlignMs",
    "embed": "EmbedMs",
    "match": "MatchMs",
    "attributes": "AttributesMs",
    "total": "TotalMs",
}

_log = structlog.get_logger(__name__)


class FrameRecognizer:
    """Detects and recognises the faces of a frame; who is enrolled is kept before the answer is returned."""

    def __init__(self, detector: FaceDetector, recognizer: FaceRecognizer, people: People, metrics: Metrics) -> None:
        self._detector = detector
        self._recognizer = recognizer
        self._people = people
        self._metrics = metrics

    async def __call__(self, frame: Frame) -> Recognition:
        """Return the recognition; errors of all stages are raised."""
        gallery = await self._people.gallery()
        recognition = await asyncio.to_thread(self._recognize, frame, gallery)
        await self._people.enrol(recognition)
        answer = recognition.answer
        known = sum(face.known for face in answer.faces)
        self._metrics.count("Frames")
        self._metrics.count("Faces", len(answer.faces))
        self._metrics.count("KnownFaces", known)
        self._metrics.time_steps(answer.timings_ms, _STEPS)
        _log.info("faces recognised", faces=len(answer.faces), known=known, timings_ms=answer.timings_ms)
        return recognition

    def _recognize(self, frame: Frame, gallery: Gallery) -> Recognition:
        [recognition] = self._recognizer([self._detector(frame)], gallery)
        return recognition


@asynccontextmanager
async def open_frame_recognizer(settings: LambdaSettings, metrics: Metrics) -> AsyncIterator[FrameRecognizer]:
    """Load both models and open the gallery."""
    detector, recognizer = load_face_detector(settings, threads=settings.threads), load_face_recognizer(settings)
    async with open_gallery_if_any(settings) as gallery:
        people = open_people(settings, recognizer.embedder, gallery)
        yield FrameRecognizer(detector, recognizer, people, metrics)
