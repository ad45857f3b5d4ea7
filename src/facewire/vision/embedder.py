"""Embedders: aligned faces in, unit-length vectors out; the cosine of two vectors says how alike two faces are."""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from facewire.domain.errors import ModelError, RecognizeError

#: How a face is brought into a network's input: see `vision/alignment.py`.
Alignment = Literal["dlib_chip", "arcface_chip", "face_api_chip", "box_crop"]

#: Pictures in one run of the network; bounds the memory of a large batch.
_CHUNK = 16
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class View:
    """A part of the chip that the network looks at: its top left corner in pixels, and whether it is mirrored."""

    left: int = 0
    top: int = 0
    mirrored: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """What must be known of a model of faces: where it comes from and what it takes.

    `size` is the side of the square chip it takes, in pixels. `sha256` is that of the ONNX file, None where the file is
    converted on this machine; `source_sha256` and `source_bytes` are those of the file that holds the weights.
    """

    id: str
    file: str
    sha256: str | None
    licence: str
    commercial_use: str
    source: str
    source_sha256: str
    source_bytes: int
    size: int
    alignment: Alignment
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderSpec(ModelSpec):
    """What must be known of an embedder beside, and when two faces count as one person.

    `input_size` is the side of the network's own input in pixels; the embedding is the mean over the `views` of the
    chip. `threshold` is the least cosine similarity of a match, `margin` the least lead over the best face of any other
    person. `lfw` is the accuracy on Labeled Faces in the Wild in per cent, as `lfw_source` says.
    """

    input_size: int
    views: tuple[View, ...]
    dimension: int
    threshold: float
    margin: float
    lfw: float
    lfw_source: str


class Embedder(Protocol):
    """Turns aligned faces into embeddings; may be called from several threads at once."""

    @property
    def spec(self) -> EmbedderSpec:
        """What this embedder is."""
        ...

    def embed(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32 (n, dimension), rows of unit length, for RGB faces, uint8 (n, size, size, 3); n may be 0."""
        ...


class OnnxEmbedder:
    """An embedder run by ONNX Runtime; the graph takes RGB in 0..255, float32 (n, 3, input_size, input_size).

    Raises ModelError where the graph's input or output does not fit the spec.
    """

    def __init__(self, session: onnxruntime.InferenceSession, spec: EmbedderSpec) -> None:
        batch, *shape = session.get_inputs()[0].shape
        found = (shape, session.get_outputs()[0].shape[-1])
        expected = ([3, spec.input_size, spec.input_size], spec.dimension)
        if found != expected:
            raise ModelError("broken", f"{spec.id} takes and gives {found}, must take and give {expected}")
        self._session = session
        self._input = session.get_inputs()[0].name
        self._chunk = batch if isinstance(batch, int) else _CHUNK
        self._spec = spec

    @property
    def spec(self) -> EmbedderSpec:
        """What this embedder is."""
        return self._spec

    def embed(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32 (n, dimension), rows of unit length, for RGB faces, uint8 (n, size, size, 3); n may be 0.

        Raises RecognizeError with code `not_finite` where the network gives something that is no finite number.
        """
        expected = (self._spec.size, self._spec.size, 3)
        if faces.shape != (len(faces), *expected) or faces.dtype != np.uint8:
            message = f"faces are {faces.dtype} {faces.shape}, must be uint8 (n, {', '.join(map(str, expected))})"
            raise ValueError(message)
        views = [look(faces, view, self._spec.input_size) for view in self._spec.views]
        embeddings = unit(self._run(np.concatenate(views)))
        return unit(embeddings.reshape(len(views), len(faces), self._spec.dimension).sum(0))

    def _run(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        embeddings = np.empty((len(faces), self._spec.dimension), np.float32)
        for start in range(0, len(faces), self._chunk):
            chunk = slice(start, start + self._chunk)
            pixels = np.ascontiguousarray(faces[chunk].transpose(0, 3, 1, 2), np.float32)
            (embeddings[chunk],) = self._session.run(None, {self._input: pixels})
        if not np.isfinite(embeddings).all():
            raise RecognizeError("not_finite", f"{self._spec.id} gives embeddings that are not finite numbers")
        return embeddings


def look(chips: NDArray[np.uint8], view: View, size: int) -> NDArray[np.uint8]:
    """Return what a network with an input of `size` pixels sees of `chips`, uint8 (n, h, w, 3): (n, size, size, 3)."""
    seen = chips[:, view.top : view.top + size, view.left : view.left + size]
    return seen[:, :, ::-1] if view.mirrored else seen


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return `vectors`, float32 (n, d), with every row scaled to length 1; a row of zeros stays as it is."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = (vectors / np.maximum(lengths, _TINY)).astype(np.float32)
    return scaled
