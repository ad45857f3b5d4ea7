"""The three networks of MTCNN as ONNX graphs, from the weights of facenet-pytorch, in the form that runs fastest.

Networks: Zhang et al., "Joint Face Detection and Alignment using Multitask Cascaded Convolutional Networks", 2016;
weights: `facenet_pytorch/data/{p,r,o}net.pt` (MIT). Each network has one output, the face's logit (the softmax over no
face, face is the logistic function of their difference) and behind it the regressions. Rewrites keep the numbers (to
float32 rounding) and save time:

- The input is RGB in 0..255; the normalisation (x - 127.5) / 128 is folded into the first convolution.
- PReLU becomes depthwise 1x1 convolutions and Relu: ONNX Runtime's PRelu kernel leaves the blocked channel layout and
  took half of P-Net's time. Channels are padded to a multiple of 16 for the same layout; fewer than 16 go into a
  convolution as they are, which then reads the plain layout and does not multiply by padding.
- PReLU with a slope a > 1 before a pooling: the channel is there twice, as y and as Relu(y), since
  PReLU(y) = a * y + (1 - a) * Relu(y), and the next layer adds the two.
- P-Net's first PReLU comes after the pooling behind it, on a quarter of the cells: the largest PReLU in a window is
  that of its maximum where the slope a >= 0, and the larger of its maximum and -a times the maximum of -y where a < 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facewire.conversion.graph import GraphBuilder

Array = NDArray[Any]
State = Mapping[str, Array]

_CHANNEL_BLOCK = 16
_MEAN = 127.5
_SCALE = 0.0078125


def build_pnet(state: State) -> GraphBuilder:
    """Return P-Net: `input` (n, 3, h, w) to `map` (n, 5, h', w'), the face's logit and four box regressions a cell."""
    graph = GraphBuilder("pnet")
    x = graph.input("input", ["n", 3, "h", "w"])
    x, signs = _pooled_first_layer(graph, x, state)
    x = _layer(graph, x, state, 2, signs)
    x = _layer(graph, x, state, 3)
    face, bias = _face_logit(state["conv4_1.weight"], state["conv4_1.bias"])
    weight = np.concatenate([face, state["conv4_2.weight"]])
    graph.conv(x, weight, np.concatenate([bias, state["conv4_2.bias"]]), name="map")
    graph.output("map", ["n", 5, "map_h", "map_w"])
    return graph


def build_rnet(state: State) -> GraphBuilder:
    """Return R-Net: `input` (n, 3, 24, 24) to `faces` (n, 5), the face's logit and four box regressions."""
    graph = GraphBuilder("rnet")
    x = graph.input("input", ["n", 3, 24, 24])
    state = _without_steep_slopes(state)
    x = _pool(graph, _first_layer(graph, x, state), 3)
    x = _pool(graph, _layer(graph, x, state, 2), 3)
    x = _layer(graph, x, state, 3)
    x = _dense_layer(graph, x, state, 4, channels=64)
    _heads(graph, x, state, ["5_1", "5_2"])
    return graph


def build_onet(state: State) -> GraphBuilder:
    """Return O-Net: `input` (n, 3, 48, 48) to `faces` (n, 15), logit, four box regressions, landmarks.

    The landmarks are five x, then five y, as fractions of the box.
    """
    graph = GraphBuilder("onet")
    x = graph.input("input", ["n", 3, 48, 48])
    state = _without_steep_slopes(state)
    x = _pool(graph, _first_layer(graph, x, state), 3)
    x = _pool(graph, _layer(graph, x, state, 2), 3)
    x = _pool(graph, _layer(graph, x, state, 3), 2)
    x = _layer(graph, x, state, 4)
    x = _dense_layer(graph, x, state, 5, channels=128)
    _heads(graph, x, state, ["6_1", "6_2", "6_3"])
    return graph


def _without_steep_slopes(state: State) -> State:
    """Return the network with every channel of slope > 1 behind the first convolution made two that have none."""
    slope = state["prelu1.weight"]
    steep = np.flatnonzero(slope > 1)
    following = state["conv2.weight"].astype(np.float64)
    from_rectified = following[:, steep] * (1 - slope[steep])[:, None, None]
    following[:, steep] *= slope[steep][:, None, None]
    return {
        **state,
        "conv1.weight": np.concatenate([state["conv1.weight"], state["conv1.weight"][steep]]),
        "conv1.bias": np.concatenate([state["conv1.bias"], state["conv1.bias"][steep]]),
        "prelu1.weight": np.concatenate([np.minimum(slope, 1), np.zeros(len(steep))]),
        "conv2.weight": np.concatenate([following, from_rectified], axis=1),
    }


def _first_layer(graph: GraphBuilder, x: str, state: State) -> str:
    weight, bias = _normalising(state)
    return _conv_prelu(graph, x, _padded(weight, weight.shape[1]), bias, state["prelu1.weight"])


def _normalising(state: State) -> tuple[Array, Array]:
    """Return the first convolution for RGB in 0..255, in float64."""
    weight = state["conv1.weight"].astype(np.float64)
    return weight * _SCALE, state["conv1.bias"] - _MEAN * _SCALE * weight.sum((1, 2, 3))


def _pooled_first_layer(graph: GraphBuilder, x: str, state: State) -> tuple[str, Array]:
    """Add convolution, pooling and PReLU in this order; return the output and the sign of each of its channels."""
    slope = state["prelu1.weight"].astype(np.float64)
    weight, bias = _normalising(state)
    falling = np.flatnonzero(slope < 0)
    weight = _padded(np.concatenate([weight, -weight[falling]]), weight.shape[1])
    x = _pool(graph, _conv(graph, x, weight, np.concatenate([bias, -bias[falling]])), 2)
    signs = np.where(slope > 1, -1.0, 1.0)
    base, rest = _pooled_prelu(slope, signs, len(weight))
    return graph.node("Add", [_conv(graph, x, base), graph.relu(_conv(graph, x, rest))]), signs


def _pooled_prelu(slope: Array, signs: Array, inputs: int) -> tuple[Array, Array]:
    """Return 1x1 convolutions whose `base(x) + Relu(rest(x))` is the PReLU after pooling, times `signs`.

    Their input is the maxima of all channels, then those of the negated channels with a falling slope.
    """
    count = len(slope)
    base = np.zeros((count, inputs, 1, 1))
    rest = np.zeros_like(base)
    channel, falling = np.arange(count), np.flatnonzero(slope < 0)
    rising = channel[slope >= 0]
    base[rising, rising, 0, 0] = slope[rising] * signs[rising]
    rest[rising, rising, 0, 0] = np.abs(1 - slope[rising])
    negated = count + np.arange(len(falling))
    base[falling, negated, 0, 0] = -slope[falling]
    rest[falling, falling, 0, 0] = 1
    rest[falling, negated, 0, 0] = slope[falling]
    return base, rest


def _layer(graph: GraphBuilder, x: str, state: State, number: int, signs: Array | float = 1.0) -> str:
    weight = state[f"conv{number}.weight"]
    weight = weight * np.broadcast_to(signs, weight.shape[1])[:, None, None]
    inputs = weight.shape[1]
    weight = _padded(weight, inputs if inputs < _CHANNEL_BLOCK else _block_multiple(inputs))
    return _conv_prelu(graph, x, weight, state[f"conv{number}.bias"], state[f"prelu{number}.weight"])


def _conv_prelu(graph: GraphBuilder, x: str, weight: Array, bias: Array, slope: Array) -> str:
    if (slope > 1).any():
        message = f"a slope is {slope.max()}, must be at most 1 in all layers but the first"
        raise ValueError(message)
    channels = len(weight)
    slope = np.pad(slope, (0, channels - len(slope))).reshape(-1, 1, 1, 1)
    y = _conv(graph, x, weight, bias)
    rectified = graph.relu(_conv(graph, y, 1 - slope, group=channels))  # PReLU(y) = a * y + Relu((1 - a) * y)
    return graph.node("Add", [_conv(graph, y, slope, group=channels), rectified])


def _conv(graph: GraphBuilder, x: str, weight: Array, bias: Array | None = None, *, group: int = 1) -> str:
    bias = np.zeros(0) if bias is None else bias
    return graph.conv(x, weight, np.pad(bias, (0, len(weight) - len(bias))), group=group)


def _padded(weight: Array, inputs: int) -> Array:
    outputs = _block_multiple(len(weight))
    padded = np.zeros((outputs, inputs, *weight.shape[2:]), weight.dtype)
    padded[: len(weight), : weight.shape[1]] = weight
    return padded


def _block_multiple(channels: int) -> int:
    return -(-channels // _CHANNEL_BLOCK) * _CHANNEL_BLOCK


def _pool(graph: GraphBuilder, x: str, size: int) -> str:
    return graph.node("MaxPool", [x], kernel_shape=[size, size], strides=[2, 2], ceil_mode=1)


def _dense_layer(graph: GraphBuilder, x: str, state: State, number: int, *, channels: int) -> str:
    weight, bias = state[f"dense{number}.weight"], state[f"dense{number}.bias"]
    size = round((weight.shape[1] / channels) ** 0.5)
    # facenet-pytorch flattens as (width, height, channel); a plain Flatten gives (channel, height, width).
    weight = weight.reshape(-1, size, size, channels).transpose(0, 3, 2, 1).reshape(len(weight), -1)
    x = graph.dense(graph.node("Flatten", [x], axis=1), weight, bias)
    return graph.node("PRelu", [x, graph.initializer("slope", state[f"prelu{number}.weight"])])


def _heads(graph: GraphBuilder, x: str, state: State, layers: Sequence[str]) -> None:
    face, *others = ((state[f"dense{layer}.weight"], state[f"dense{layer}.bias"]) for layer in layers)
    weights, biases = zip(_face_logit(*face), *others, strict=True)
    graph.dense(x, np.concatenate(weights), np.concatenate(biases), name="faces")
    graph.output("faces", ["n", sum(map(len, biases))])


def _face_logit(weight: Array, bias: Array) -> tuple[Array, Array]:
    return weight[1:] - weight[:1], bias[1:] - bias[:1]
