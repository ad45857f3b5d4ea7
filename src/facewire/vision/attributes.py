"""Guesses of expression, age and gender from aligned faces; off unless asked for, docs/attributes.md says how good."""

from typing import Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from facewire.domain.errors import ModelError, RecognizeError
from facewire.domain.messages import Emotions, FaceAttributes
from facewire.vision.embedder import ModelSpec

#: Pictures in one run of the network; bounds the memory of a large batch.
_CHUNK = 16
_DIGITS = 4


class AttributeModel(Protocol):
    """Guesses the attributes of aligned faces; may be called from several threads at once."""

    @property
    def spec(self) -> ModelSpec:
        """What this model is."""
        ...

    def guess(self, faces: NDArray[np.uint8]) -> list[FaceAttributes]:
        """Return a guess for each of the RGB faces, uint8 (n, size, size, 3); n may be 0."""
        ...


class OnnxAttributeModel:
    """A model run by ONNX Runtime, its graph that of `convert/faceapi.py`.

    Raises ModelError where the graph's input or outputs are others.
    """

    def __init__(self, session: onnxruntime.InferenceSession, spec: ModelSpec) -> None:
        found = [tensor.shape[1:] for tensor in (*session.get_inputs(), *session.get_outputs())]
        expected = [[3, spec.size, spec.size], [len(Emotions.model_fields)], [1], [2]]
        if found != expected:
            raise ModelError("broken", f"{spec.id} takes and gives {found}, must take and give {expected}")
        self._session = session
        self._input = session.get_inputs()[0].name
        self._spec = spec

    @property
    def spec(self) -> ModelSpec:
        """What this model is."""
        return self._spec

    def guess(self, faces: NDArray[np.uint8]) -> list[FaceAttributes]:
        """Return a guess for each of the RGB faces, uint8 (n, size, size, 3); n may be 0.

        Raises RecognizeError with code `not_finite` where the network gives something that is no finite number.
        """
        guesses: list[FaceAttributes] = []
        for start in range(0, len(faces), _CHUNK):
            pixels = np.ascontiguousarray(faces[start : start + _CHUNK].transpose(0, 3, 1, 2), np.float32)
            outputs = self._session.run(None, {self._input: pixels})
            if not all(np.isfinite(output).all() for output in outputs):
                raise RecognizeError("not_finite", f"{self._spec.id} gives attributes that are not finite numbers")
            guesses.extend(map(_attributes, *outputs))
        return guesses


def _attributes(emotions: NDArray[np.float32], age: NDArray[np.float32], gender: NDArray[np.float32]) -> FaceAttributes:
    """Return what the network says of one face: 7 probabilities, years, and the probabilities of male and female."""
    male, female = gender.tolist()
    named = zip(Emotions.model_fields, emotions.tolist(), strict=True)
    return FaceAttributes(
        emotions=Emotions(**{name: round(value, _DIGITS) for name, value in named}),
        age=round(max(0.0, age.item()), 1),
        gender="male" if male > female else "female",
        gender_confidence=round(max(male, female), _DIGITS),
    )
