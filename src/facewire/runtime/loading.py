"""The detector with its models loaded, as the settings say."""

from facewire.domain.errors import SettingsError
from facewire.runtime.settings import DetectorSettings
from facewire.stages.detect import FaceDetector
from facewire.vision.models import load_detector


def load_face_detector(settings: DetectorSettings, *, threads: int = 1) -> FaceDetector:
    """Load the models, each with so many threads for one frame.

    ModelError where one is missing or broken, SettingsError for an option out of its range.
    """
    try:
        mtcnn = load_detector(
            settings.models_dir,
            threads=threads,
            min_face_size=settings.min_face_size,
            thresholds=settings.detector_thresholds,
            factor=settings.detector_factor,
        )
    except ValueError as error:
        raise SettingsError("detector", str(error)) from error
    return FaceDetector(mtcnn, max_pixels=settings.max_pixels)
