"""Random but sane weights of an InceptionResnetV1, the same wherever NumPy makes them: the real ones are 112 MB."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def random_state(shapes: Mapping[str, Sequence[int]], seed: int) -> dict[str, NDArray[np.float32]]:
    """Return float32 weights by name that keep activations near 1 from layer to layer."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in sorted(shapes.items()):
        values: NDArray[Any] = rng.standard_normal(tuple(shape), np.float32)
        if name.endswith("running_var"):
            values = 1 + 0.2 * np.tanh(values)
        elif len(shape) > 1:
            values *= np.float32(np.sqrt(2 / np.prod(shape[1:])))
        elif name.endswith("weight"):
            values = 1 + np.float32(0.1) * values
        else:
            values *= np.float32(0.1)
        state[name] = values.astype(np.float32)
    return state


def random_faces(count: int, seed: int) -> NDArray[np.uint8]:
    """Return RGB pictures, uint8 (count, 160, 160, 3), smooth enough to differ in more than noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 10, 10, 3), np.uint8)
    return coarse.repeat(16, axis=1).repeat(16, axis=2)
