"""dlib's face recognition ResNet (29 convolutions, 128-D) as an ONNX graph, from dlib's own `.dat` file.

The network is the one of Davis King, "High Quality Face Recognition with Deep Metric Learning" (blog.dlib.net, 2017),
file `dlib_face_recognition_resnet_model_v1.dat` (CC0). The graph takes RGB in 0..255, float32 (n, 3, 150, 150), and
gives float32 (n, 128), not normalised to unit length. The channel means, the division by 256 and every affine layer
are folded into the convolutions, in float64.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facewire.conversion.graph import GraphBuilder
from facewire.domain.errors import ModelError

SIZE = 150
DIMENSION = 128
_MEAN = np.array([122.782, 117.001, 104.298])
_DIVISOR = 256.0
#: Residual blocks from input to output; a `True` halves the picture.
_BLOCKS = (False,) * 3 + (True,) + (False,) * 3 + (True,) + (False,) * 2 + (True,) + (False,) * 2 + (True,)
_CONVOLUTIONS = 1 + 2 * len(_BLOCKS)
#: Rows and columns after the first convolution (7x7, stride 2) and the 3x3 pooling with stride 2.
_POOLED = 35
_TENSOR_VERSION = 2
_SIGNATURE = b"\x01\x01\x01\x0dloss_metric_2"


@dataclass(frozen=True, slots=True)
class Convolution:
    """One convolution with its affine layer folded in: float64 weights (out, in, k, k) and bias (out,)."""

    weights: NDArray[np.float64]
    bias: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ResNet29:
    """The network's numbers: 29 convolutions from input to output and the last matrix, float32 (256, 128)."""

    convolutions: tuple[Convolution, ...]
    projection: NDArray[np.float32]


class _Reader:
    """dlib's serialisation: integers as a length byte and little-endian digits, tensors as raw float32."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def integer(self, position: int) -> tuple[int, int]:
        """Return the integer at `position` and the position after it."""
        head = self._data[position]
        end = position + 1 + (head & 0x0F)
        magnitude = int.from_bytes(self._data[position + 1 : end], "little")
        return (-magnitude if head & 0x80 else magnitude), end

    def tensor(self, position: int) -> NDArray[np.float32]:
        """Return the tensor at `position` with its four dimensions."""
        version, position = self.integer(position)
        shape = []
        for _ in range(4):
            extent, position = self.integer(position)
            shape.append(extent)
        count = int(np.prod(shape))
        if version != _TENSOR_VERSION or not 0 < count * 4 <= len(self._data) - position:
            raise ModelError("broken_weights", f"no tensor where one is expected, at byte {position} of the dlib file")
        return np.frombuffer(self._data, "<f4", count, position).reshape(shape)

    def after(self, tag: bytes) -> Iterator[int]:
        """Yield the position behind each record that starts with the layer name `tag`."""
        mark = bytes([1, len(tag)]) + tag
        position = self._data.find(mark)
        while position >= 0:
            yield position + len(mark)
            position = self._data.find(mark, position + len(mark))


def read_resnet29(path: Path) -> ResNet29:
    """Return the network in a `.dat` file; raise ModelError where it is another one or damaged."""
    data = path.read_bytes()
    if not data.startswith(_SIGNATURE):
        raise ModelError("broken_weights", f"{path.name} is not a dlib metric learning network")
    reader = _Reader(data)
    raw = [reader.tensor(position).ravel() for position in reader.after(b"con_4")]
    affine = [reader.tensor(position).ravel() for position in reader.after(b"affine_")]
    if len(raw) != _CONVOLUTIONS or len(affine) != _CONVOLUTIONS:
        found = f"{len(raw)} convolutions and {len(affine)} affine layers"
        raise ModelError("broken_weights", f"{path.name} holds {found}, must hold {_CONVOLUTIONS} of each")
    convolutions = [_fold(a, g, 7 if i == 0 else 3) for i, (a, g) in enumerate(zip(raw, affine, strict=True))]
    convolutions[0] = _take_pixels(convolutions[0])
    return ResNet29(tuple(convolutions), _projection(reader))


def _fold(raw: NDArray[np.float32], affine: NDArray[np.float32], kernel: int) -> Convolution:
    gain, offset = np.split(affine.astype(np.float64), 2)
    out = len(gain)
    weights = raw[:-out].astype(np.float64).reshape(out, -1, kernel, kernel)
    return Convolution(weights * gain[:, None, None, None], raw[-out:] * gain + offset)


def _take_pixels(first: Convolution) -> Convolution:
    """Fold `(pixels - mean) / 256` in; exact, since the first convolution pads nothing."""
    shift = (first.weights * _MEAN[None, :, None, None]).sum((1, 2, 3)) / _DIVISOR
    return Convolution(first.weights / _DIVISOR, first.bias - shift)


def _projection(reader: _Reader) -> NDArray[np.float32]:
    position = next(reader.after(b"fc_2"))
    for _ in range(2):  # outputs, inputs
        _, position = reader.integer(position)
    return reader.tensor(position).reshape(-1, DIMENSION)


def build_resnet29(network: ResNet29, path: Path) -> None:
    """Write `network` to `path` as ONNX: input `input` (n, 3, 150, 150), output `embedding` (n, 128)."""
    graph = GraphBuilder("dlib-resnet29")
    layers = iter(network.convolutions)
    x = graph.input("input", ["n", 3, SIZE, SIZE])
    x = graph.relu(_convolve(graph, x, next(layers), stride=2))
    x = graph.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2])
    extent = _POOLED
    for halves in _BLOCKS:
        pair = (next(layers), next(layers))
        x = _halving_block(graph, x, pair, extent) if halves else _block(graph, x, pair)
        extent //= 2 if halves else 1
    x = graph.node("Flatten", [graph.node("GlobalAveragePool", [x])], axis=1)
    x = graph.node("MatMul", [x, graph.initializer("projection", network.projection)], name="embedding")
    graph.output(x, ["n", DIMENSION])
    graph.save(path)


def _convolve(graph: GraphBuilder, x: str, layer: Convolution, *, stride: int = 1, padding: int = 0) -> str:
    return graph.conv(x, layer.weights, layer.bias, strides=[stride] * 2, pads=[padding] * 4)


def _block(graph: GraphBuilder, x: str, layers: tuple[Convolution, Convolution]) -> str:
    y = graph.relu(_convolve(graph, x, layers[0], padding=1))
    y = _convolve(graph, y, layers[1], padding=1)
    return graph.relu(graph.node("Add", [y, x]))


def _halving_block(graph: GraphBuilder, x: str, layers: tuple[Convolution, Convolution], extent: int) -> str:
    """Add a block whose shortcut is pooled; dlib pads the smaller side, in space and in channels, with zeros."""
    y = graph.relu(_convolve(graph, x, layers[0], stride=2))
    y = _convolve(graph, y, layers[1], padding=1)
    missing = extent // 2 - ((extent - 3) // 2 + 1)
    if missing:
        y = _pad(graph, y, [0, 0, 0, 0, 0, 0, missing, missing])
    shortcut = graph.node("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2])
    out, channels = layers[0].weights.shape[:2]
    if out != channels:
        shortcut = _pad(graph, shortcut, [0, 0, 0, 0, 0, out - channels, 0, 0])
    return graph.relu(graph.node("Add", [shortcut, y]))


def _pad(graph: GraphBuilder, x: str, pads: list[int]) -> str:
    return graph.node("Pad", [x, graph.initializer(f"pads_{x}", np.array(pads, np.int64))])
