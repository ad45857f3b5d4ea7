"""The registry of models: only this file knows which files there are, where they lie and how they are run."""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facewire.domain.errors import ModelError
from facewire.vision.attributes import AttributeModel, OnnxAttributeModel
from facewire.vision.embedder import Embedder, EmbedderSpec, ModelSpec, OnnxEmbedder, View
from facewire.vision.onnx_session import open_session

if TYPE_CHECKING:
    from facewire.vision.mtcnn import Mtcnn

DEFAULT_EMBEDDER = "dlib-resnet29"

_SPECS = (
    EmbedderSpec(
        id="dlib-resnet29",
        file="dlib-resnet29.onnx",
        sha256="3c186ee76bcbe0b71cae3b633de91bf71e000877831058a3f9a51be5b79fa20c",
        licence="CC0-1.0",
        commercial_use="yes: the weights are in the public domain",
        source="the package face_recognition_models 0.3.0 on PyPI",
        source_sha256="55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
        source_bytes=22_466_066,
        size=160,
        input_size=150,
        views=(View(left=5, top=0), View(left=5, top=9, mirrored=True)),
        alignment="dlib_chip",
        dimension=128,
        threshold=0.94,
        margin=0.01,
        lfw=99.0,
        lfw_source="measured on fold 0, threshold from fold 1",
        note="Ships with the package, 8-bit. Threshold and margin are calibrated on LFW fold 1: docs/embedders.md.",
    ),
    EmbedderSpec(
        id="facenet-vggface2",
        file="facenet-vggface2.onnx",
        sha256=None,
        licence="MIT",
        commercial_use="look at VGGFace2's terms: the training pictures were released for research",
        source="https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/20180402-114759-vggface2.pt",
        source_sha256="281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b",
        source_bytes=111_898_327,
        size=160,
        input_size=160,
        views=(View(),),
        alignment="box_crop",
        dimension=512,
        threshold=0.73,
        margin=0.05,
        lfw=99.37,
        lfw_source="published by facenet-pytorch",
        note=(
            "The threshold comes from published embeddings, not from a calibration: one of 1,000 comparisons of "
            "strangers reaches a cosine of 0.73: docs/embedders.md."
        ),
    ),
    EmbedderSpec(
        id="sface",
        file="sface.onnx",
        sha256="0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79",
        licence="Apache-2.0",
        commercial_use="yes, as far as the weights' licence says",
        source=(
            "https://media.githubusercontent.com/media/opencv/opencv_zoo/main/models/face_recognition_sface/"
            "face_recognition_sface_2021dec.onnx"
        ),
        source_sha256="0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79",
        source_bytes=38_696_353,
        size=112,
        input_size=112,
        views=(View(),),
        alignment="arcface_chip",
        dimension=128,
        threshold=0.45,
        margin=0.05,
        lfw=99.40,
        lfw_source="published by OpenCV Zoo",
        note=(
            "The threshold is stricter than the published 0.363, which balances both errors on pairs and would name "
            "too many strangers against a gallery of many faces."
        ),
    ),
)

#: What guesses expression, age and gender where that is asked for.
ATTRIBUTES = ModelSpec(
    id="face-api-attributes",
    file="face-api-attributes.onnx",
    sha256=None,
    licence="MIT",
    commercial_use="yes, as far as the weights' licence says; laws may forbid what it is used for",
    source="the npm package @vladmandic/face-api 1.7.15 (npm pack @vladmandic/face-api@1.7.15)",
    source_sha256="0d77fffeef362ef9c0939cf6c567f3a2e8e177f114fa257a3270cbd2e509b031",
    source_bytes=12_677_476,
    size=112,
    alignment="face_api_chip",
    note="Guesses expression, age and gender where FACEWIRE_ATTRIBUTES is true; how often it errs: docs/attributes.md.",
)


def specs() -> tuple[EmbedderSpec, ...]:
    """Return every embedder there is, the default first."""
    return _SPECS


def find_spec(embedder: str) -> EmbedderSpec:
    """Return the embedder of that id; raise ModelError with code `unknown` where there is none."""
    for spec in _SPECS:
        if spec.id == embedder:
            return spec
    known = ", ".join(spec.id for spec in _SPECS)
    raise ModelError("unknown", f"there is no embedder {embedder!r}; there are {known}")


def find_model(model: str) -> ModelSpec:
    """Return the embedder or other model of that id; raise ModelError with code `unknown` where there is none."""
    return ATTRIBUTES if model == ATTRIBUTES.id else find_spec(model)


def shipped_models_dir() -> Path:
    """Return the folder of the models that ship: inside the installed package, or `models` of the source tree."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "_models"
    return packaged if packaged.is_dir() else package.parents[1] / "models"


def pulled_models_dir(models_dir: Path | None = None) -> Path:
    """Return the folder of the models that were fetched: the given one, else `facewire/models` of the user's data."""
    if models_dir is not None:
        return models_dir
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "facewire" / "models"


def find(model: str, models_dir: Path | None = None) -> Path:
    """Return the ONNX file of a model: first in `models_dir`, then among those that ship.

    Raises ModelError with code `unknown` for an id that is not registered and `missing` where the file is not here.
    """
    spec = find_model(model)
    folders = (pulled_models_dir(models_dir), shipped_models_dir())
    for folder in folders:
        if (folder / spec.file).is_file():
            return folder / spec.file
    searched = " and ".join(str(folder) for folder in folders)
    raise ModelError("missing", f"{spec.file} is not in {searched}; run: facewire models pull {spec.id}")


def load_embedder(embedder: str, models_dir: Path | None = None, *, threads: int = 1) -> Embedder:
    """Return the embedder of that id, run by ONNX Runtime on `threads` threads of the CPU.

    Raises ModelError: `unknown`, `missing`, `broken`, or `wrong_sha256` where the file is not the registered one.
    """
    spec, path = find_spec(embedder), find(embedder, models_dir)
    if spec.sha256 is not None:
        check_sha256(path, spec.sha256)
    return OnnxEmbedder(open_session(path, threads=threads), spec)


def load_attributes(models_dir: Path | None = None, *, threads: int = 1) -> AttributeModel:
    """Return the model that guesses expression, age and gender; ModelError `missing` or `broken`."""
    return OnnxAttributeModel(open_session(find(ATTRIBUTES.id, models_dir), threads=threads), ATTRIBUTES)


def load_detector(models_dir: Path | None = None, *, threads: int = 1, **options: Any) -> "Mtcnn":
    """Return the face detector, with the nets of `models_dir` if they are there, else with those that ship.

    `options` are those of `facewire.vision.mtcnn.Options`. Raises ModelError as `open_session`, ValueError for an
    option out of its range.
    """
    # Here, not above: it needs OpenCV, which the recogniser goes without.
    from facewire.vision.mtcnn import Mtcnn  # noqa: PLC0415

    pulled = pulled_models_dir(models_dir)
    folder = pulled if (pulled / "pnet.onnx").is_file() else shipped_models_dir()
    return Mtcnn.load(folder, threads=threads, **options)


def check_sha256(path: Path, expected: str) -> None:
    """Raise ModelError with code `wrong_sha256` unless the file's SHA-256 is `expected`."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ModelError("wrong_sha256", f"{path} has sha256 {found}, must have {expected}")
