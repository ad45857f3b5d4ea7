"""The fast forms of the three networks against the plain ones, on weights drawn at random."""

from collections.abc import Callable

import numpy as np
import pytest
from convert_mtcnn import State, build_onet, build_pnet, build_rnet
from numpy.typing import NDArray

from facewire.conversion.graph import GraphBuilder
from facewire.vision.onnx_session import open_session

Array = NDArray[np.float32]
Shape = tuple[int, ...]
PNET: dict[str, Shape] = {
    "conv1": (10, 3, 3, 3),
    "conv2": (16, 10, 3, 3),
    "conv3": (32, 16, 3, 3),
    "conv4_1": (2, 32, 1, 1),
    "conv4_2": (4, 32, 1, 1),
}
RNET: dict[str, Shape] = {
    "conv1": (28, 3, 3, 3),
    "conv2": (48, 28, 3, 3),
    "conv3": (64, 48, 2, 2),
    "dense4": (128, 576),
    "dense5_1": (2, 128),
    "dense5_2": (4, 128),
}
ONET: dict[str, Shape] = {
    "conv1": (32, 3, 3, 3),
    "conv2": (64, 32, 3, 3),
    "conv3": (64, 64, 3, 3),
    "conv4": (128, 64, 2, 2),
    "dense5": (256, 1152),
    "dense6_1": (2, 256),
    "dense6_2": (4, 256),
    "dense6_3": (10, 256),
}
LAYERS = {"pnet": PNET, "rnet": RNET, "onet": ONET}
HEADS = {"pnet": ["conv4_1", "conv4_2"], "rnet": ["dense5_1", "dense5_2"], "onet": ["dense6_1", "dense6_2", "dense6_3"]}


def random_state(net: str) -> dict[str, Array]:
    """Return weights of a sane size, with slopes of every kind: falling, flat, rising, steeper than one."""
    random = np.random.default_rng(7)
    state = {}
    for layer, shape in LAYERS[net].items():
        spread = 1.5 / np.sqrt(np.prod(shape[1:]))
        state[f"{layer}.weight"] = random.normal(0, spread, shape).astype(np.float32)
        state[f"{layer}.bias"] = random.normal(0, 0.3, shape[0]).astype(np.float32)
        if layer in HEADS[net]:
            continue
        slopes = random.uniform(-1.3, 0.9, shape[0])
        slopes[:2] = (1.4, 0.0) if layer == "conv1" else (1.0, 0.0)
        state[f"prelu{layer[-1]}.weight"] = slopes.astype(np.float32)
    return state


def plain(net: str, state: State, pools: dict[str, int]) -> GraphBuilder:
    """Return the network as its authors drew it, for input in -1 to 1."""
    graph = GraphBuilder(net)
    x = graph.input("input", ["n", 3, "h", "w"])
    for layer in LAYERS[net]:
        weight, bias = state[f"{layer}.weight"], state[f"{layer}.bias"]
        if layer in HEADS[net]:
            head = graph.conv if net == "pnet" else graph.dense
            graph.output(
                head(x, weight, bias, name=layer), ["n", len(weight), "a", "b"] if net == "pnet" else ["n", len(weight)]
            )
            continue
        slope = state[f"prelu{layer[-1]}.weight"]
        if layer.startswith("dense"):
            x = graph.node("Flatten", [graph.node("Transpose", [x], perm=[0, 3, 2, 1])])
            x = graph.node("PRelu", [graph.dense(x, weight, bias), graph.initializer(f"{layer}.slope", slope)])
            continue
        slope = slope.reshape(-1, 1, 1)
        x = graph.node("PRelu", [graph.conv(x, weight, bias), graph.initializer(f"{layer}.slope", slope)])
        if size := pools.get(layer):
            x = graph.node("MaxPool", [x], kernel_shape=[size, size], strides=[2, 2], ceil_mode=1)
    return graph


@pytest.mark.parametrize(
    ("net", "build", "pools", "size"),
    [
        ("pnet", build_pnet, {"conv1": 2}, (37, 52)),
        ("rnet", build_rnet, {"conv1": 3, "conv2": 3}, (24, 24)),
        ("onet", build_onet, {"conv1": 3, "conv2": 3, "conv3": 2}, (48, 48)),
    ],
)
def test_the_fast_form_computes_the_same(
    net: str, build: Callable[[State], GraphBuilder], pools: dict[str, int], size: tuple[int, int]
) -> None:
    state = random_state(net)
    pixels = np.random.default_rng(3).integers(0, 256, (3, 3, *size)).astype(np.float32)
    (fast,) = open_session(build(state).model().SerializeToString()).run(None, {"input": pixels})
    model = plain(net, state, pools).model().SerializeToString()
    logits, *others = open_session(model).run(None, {"input": (pixels - 127.5) / 128})
    face = logits[:, 1:] - logits[:, :1]
    np.testing.assert_allclose(fast, np.concatenate([face, *others], axis=1), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("net", "build"), [("pnet", build_pnet), ("rnet", build_rnet), ("onet", build_onet)])
def test_a_slope_above_one_behind_a_later_layer_is_refused(net: str, build: Callable[[State], GraphBuilder]) -> None:
    state = random_state(net)
    state["prelu3.weight"][0] = 1.1
    with pytest.raises(ValueError, match="slope"):
        build(state)
