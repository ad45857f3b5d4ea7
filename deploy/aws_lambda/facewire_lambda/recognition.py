"""The recognizer with its models loaded, as the settings of the functions say."""

from pathlib import Path

from facewire.domain.errors import ModelError
from facewire.stages.recognize import FaceRecognizer
from facewire.vision.embedder import Embedder, OnnxEmbedder
from facewire.vision.models import find_spec, load_attributes, load_embedder, specs
from facewire.vision.onnx_session import open_session
from facewire_lambda.settings import LambdaSettings

#: What a model file is unless its name is that of another embedder.
_FACENET = "facenet-vggface2"


def load_face_recognizer(settings: LambdaSettings) -> FaceRecognizer:
    """Load the models; ModelError where one is missing, broken, or not known."""
    embedder = _load_embedder(settings)
    attributes = load_attributes(settings.models_dir) if settings.attributes else None
    return FaceRecognizer(embedder, threshold=settings.threshold, margin=settings.margin, attributes=attributes)


def _load_embedder(settings: LambdaSettings) -> Embedder:
    if settings.model_file is None:
        return load_embedder(settings.embedder, settings.models_dir, threads=settings.threads)
    embedder = _embedder_of(settings.model_file)
    if settings.model_file.suffix == ".onnx":
        return OnnxEmbedder(open_session(settings.model_file, threads=settings.threads), find_spec(embedder))
    try:
        return load_embedder(embedder, settings.models_dir, threads=settings.threads)
    except ModelError as error:
        if error.code != "missing":
            raise
        detail = f"{settings.model_file} was not converted: build the image with --build-arg MODEL_FILE=…"
        raise ModelError("not_converted", f"{detail} ({error.detail})") from error


def _embedder_of(file: Path) -> str:
    return file.stem if file.stem in {spec.id for spec in specs()} else _FACENET
