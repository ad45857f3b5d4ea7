"""The two stages with their models loaded, as the settings say."""

from dataclasses import dataclass

from facewire.runtime.detector_loading import load_face_detector
from facewire.stages.detect import FaceDetector
from facewire.stages.recognize import FaceRecognizer
from facewire_recognizer.loading import load_face_recognizer
from facewire_standalone.settings import StandaloneSettings


@dataclass(frozen=True, slots=True)
class Stages:
    """Frame -> DetectedFaces -> RecognizedFaces, ready to be called."""

    detector: FaceDetector
    recognizer: FaceRecognizer


def load_stages(settings: StandaloneSettings) -> Stages:
    """Load the models; ModelError where one is missing or broken, SettingsError for an option out of its range."""
    return Stages(load_face_detector(settings), load_face_recognizer(settings))
