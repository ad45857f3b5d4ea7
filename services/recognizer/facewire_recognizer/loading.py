"""The recognizer with its model loaded, as the settings say."""

from facewire.recognize import FaceRecognizer
from facewire.settings import RecognizerSettings
from facewire.vision.models import load_embedder


def load_face_recognizer(settings: RecognizerSettings) -> FaceRecognizer:
    """Load the model; ModelError where it is missing, broken, or one that is not known."""
    embedder = load_embedder(settings.embedder, settings.models_dir)
    return FaceRecognizer(embedder, threshold=settings.threshold, margin=settings.margin)
