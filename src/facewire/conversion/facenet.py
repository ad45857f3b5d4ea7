"""FaceNet's InceptionResnetV1 (512-D) as an ONNX graph, from the weights of facenet-pytorch, without torch.

The network is that of facenet-pytorch, `models/inception_resnet_v1.py` (MIT), after Szegedy et al., "Inception-v4,
Inception-ResNet and the Impact of Residual Connections on Learning" (2016), and Schroff et al., "FaceNet" (2015). The
graph takes RGB in 0..255, float32 (n, 3, 160, 160), and gives float32 (n, 512), not normalised to unit length. Batch
normalisation, the scale of the residuals and `(pixels - 127.5) / 128` are folded into the weights, in float64.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import checker, shape_inference

from facewire.conversion.graph import GraphBuilder
from facewire.conversion.torchfile import is_torchscript, load, load_torchscript_state
from facewire.domain.errors import ModelError

SIZE = 160
DIMENSION = 512
_MEAN, _DEVIATION = 127.5, 128.0
_EPSILON = 0.001

State = Mapping[str, NDArray[Any]]
Padding = tuple[int, int]


def read_state(path: Path) -> State:
    """Return the weights by name from a `.pt` file: a state dict, or a TorchScript archive of the network.

    Raises ModelError where the file holds something else, and the errors of `torchfile.load`.
    """
    state = load_torchscript_state(path) if is_torchscript(path) else load(path)
    if not isinstance(state, Mapping) or not all(isinstance(value, np.ndarray) for value in state.values()):
        raise ModelError("broken_weights", f"{path.name} does not hold tensors by name, as a state dict does")
    return state


def build_inception_resnet(state: State, path: Path) -> None:
    """Write the network to `path` as ONNX: input `input` (n, 3, 160, 160), output `embedding` (n, 512).

    Raises ModelError where weights are missing or do not fit together.
    """
    graph = GraphBuilder("facenet-inception-resnet-v1")
    x = graph.input("input", ["n", 3, SIZE, SIZE])
    try:
        graph.output(_Network(graph, state).all(x), ["n", DIMENSION])
        graph.save(path)
    except (ValueError, checker.ValidationError, shape_inference.InferenceError) as error:
        raise ModelError("broken_weights", f"the weights are not those of an InceptionResnetV1: {error}") from error


class _Network:
    """Adds the layers under the names they have in facenet-pytorch."""

    def __init__(self, graph: GraphBuilder, state: State) -> None:
        self._graph = graph
        self._state = state

    def all(self, x: str) -> str:
        """Add the whole network and return its output."""
        x = self._stem(x)
        for i in range(5):
            x = self._graph.relu(self._block35(x, f"repeat_1.{i}", 0.17))
        x = self._mixed_6a(x)
        for i in range(10):
            x = self._graph.relu(self._block17(x, f"repeat_2.{i}", 0.10))
        x = self._mixed_7a(x)
        for i in range(5):
            x = self._graph.relu(self._block8(x, f"repeat_3.{i}", 0.20))
        x = self._block8(x, "block8", 1.0)
        x = self._graph.node("Flatten", [self._graph.node("GlobalAveragePool", [x])], axis=1)
        return self._last(x)

    def _stem(self, x: str) -> str:
        x = self._conv(x, "conv2d_1a", stride=2, takes_pixels=True)
        x = self._conv(x, "conv2d_2a")
        x = self._pool(self._conv(x, "conv2d_2b", padding=(1, 1)))
        x = self._conv(x, "conv2d_3b")
        x = self._conv(x, "conv2d_4a")
        return self._conv(x, "conv2d_4b", stride=2)

    def _block35(self, x: str, name: str, scale: float) -> str:
        branches = [
            self._conv(x, f"{name}.branch0"),
            self._chain(x, f"{name}.branch1", [(0, 0), (1, 1)]),
            self._chain(x, f"{name}.branch2", [(0, 0), (1, 1), (1, 1)]),
        ]
        return self._residual(x, name, branches, scale)

    def _block17(self, x: str, name: str, scale: float) -> str:
        branches = [self._conv(x, f"{name}.branch0"), self._chain(x, f"{name}.branch1", [(0, 0), (0, 3), (3, 0)])]
        return self._residual(x, name, branches, scale)

    def _block8(self, x: str, name: str, scale: float) -> str:
        branches = [self._conv(x, f"{name}.branch0"), self._chain(x, f"{name}.branch1", [(0, 0), (0, 1), (1, 0)])]
        return self._residual(x, name, branches, scale)

    def _mixed_6a(self, x: str) -> str:
        branches = [
            self._conv(x, "mixed_6a.branch0", stride=2),
            self._chain(x, "mixed_6a.branch1", [(0, 0), (1, 1), (0, 0)], last_stride=2),
            self._pool(x),
        ]
        return self._graph.node("Concat", branches, axis=1)

    def _mixed_7a(self, x: str) -> str:
        branches = [
            self._chain(x, "mixed_7a.branch0", [(0, 0), (0, 0)], last_stride=2),
            self._chain(x, "mixed_7a.branch1", [(0, 0), (0, 0)], last_stride=2),
            self._chain(x, "mixed_7a.branch2", [(0, 0), (1, 1), (0, 0)], last_stride=2),
            self._pool(x),
        ]
        return self._graph.node("Concat", branches, axis=1)

    def _last(self, x: str) -> str:
        gain, offset = self._normalisation("last_bn")
        weights = self._weights("last_linear.weight") * gain[:, None]
        return self._graph.dense(x, weights, offset, name="embedding")

    def _residual(self, x: str, name: str, branches: Sequence[str], scale: float) -> str:
        joined = self._graph.node("Concat", branches, axis=1)
        weights, bias = self._weights(f"{name}.conv2d.weight"), self._weights(f"{name}.conv2d.bias")
        return self._graph.node("Add", [self._graph.conv(joined, weights * scale, bias * scale), x])

    def _chain(self, x: str, name: str, paddings: Sequence[Padding], *, last_stride: int = 1) -> str:
        for i, padding in enumerate(paddings):
            stride = last_stride if i == len(paddings) - 1 else 1
            x = self._conv(x, f"{name}.{i}", stride=stride, padding=padding)
        return x

    def _conv(
        self, x: str, name: str, *, stride: int = 1, padding: Padding = (0, 0), takes_pixels: bool = False
    ) -> str:
        gain, offset = self._normalisation(f"{name}.bn")
        weights = self._weights(f"{name}.conv.weight") * gain[:, None, None, None]
        if takes_pixels:  # exact, since this convolution pads nothing
            offset = offset - weights.sum((1, 2, 3)) * (_MEAN / _DEVIATION)
            weights = weights / _DEVIATION
        return self._graph.relu(self._graph.conv(x, weights, offset, strides=[stride] * 2, pads=[*padding, *padding]))

    def _normalisation(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return gain and offset of a batch normalisation as it is after training."""
        gain = self._weights(f"{name}.weight") / np.sqrt(self._weights(f"{name}.running_var") + _EPSILON)
        return gain, self._weights(f"{name}.bias") - self._weights(f"{name}.running_mean") * gain

    def _weights(self, name: str) -> NDArray[np.float64]:
        if name not in self._state:
            raise ModelError("broken_weights", f"the weights are not those of an InceptionResnetV1: no {name}")
        return np.asarray(self._state[name], np.float64)

    def _pool(self, x: str) -> str:
        return self._graph.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2])
