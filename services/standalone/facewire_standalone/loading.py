"""The two stages with their models loaded, as the settings say."""

from dataclasses import dataclass

from facewire.detect import FaceDetector
from facewire.errors import SettingsError
from facewire.recognize import FaceRecognizer
from facewire.vision.models import load_detector, load_embedder
from facewire_standalone.settings import StandaloneSettings


@dataclass(frozen=True, slots=True)
class Stages:
    """Frame -> DetectedFaces -> RecognizedFaces, ready to be called."""

    detector: FaceDetector
    recognizer: FaceRecognizer


def load_stages(settings: StandaloneSettings) -> Stages:
    """Load the models; ModelError where one is missing or broken, SettingsError for an option out of its range."""
    try:
        mtcnn = load_detector(
            settings.models_dir,
            min_face_size=settings.min_face_size,
            thresholds=settings.detector_thresholds,
            factor=settings.detector_factor,
        )
    except ValueError as error:
        raise SettingsError("detector", str(error)) from error
    embedder = load_embedder(settings.embedder, settings.models_dir)
    recognizer = FaceRecognizer(embedder, threshold=settings.threshold, margin=settings.margin)
    return Stages(FaceDetector(mtcnn, max_pixels=settings.max_pixels), recognizer)
