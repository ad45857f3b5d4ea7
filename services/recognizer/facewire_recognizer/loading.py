"""The recognizer with its model loaded, as the settings say."""

from facewire.runtime.settings import RecognizerSettings
from facewire.stages.recognize import FaceRecognizer
from facewire.vision.models import load_attributes, load_embedder


def load_face_recognizer(settings: RecognizerSettings) -> FaceRecognizer:
    """Load the models; ModelError where one is missing, broken, or not known."""
    embedder = load_embedder(settings.embedder, settings.models_dir)
    attributes = load_attributes(settings.models_dir) if settings.attributes else None
    return FaceRecognizer(embedder, threshold=settings.threshold, margin=settings.margin, attributes=attributes)
