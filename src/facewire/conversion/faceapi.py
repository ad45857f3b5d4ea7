"""face-api's nets for expression, age and gender as one ONNX graph, from the npm package @vladmandic/face-api.

The nets are those of Vincent Mühler's face-api.js: densely connected separable convolutions for the expression, a small
Xception for age and gender; the package holds their weights in 8 bits. The graph takes RGB in 0..255, float32
(n, 3, 112, 112), and gives float32 `emotions` (n, 7), probabilities in the order of the fields of `messages.Emotions`,
`age` (n, 1) in years and `gender` (n, 2), the probabilities of male and female.
"""

import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facewire.conversion.graph import GraphBuilder
from facewire.domain.errors import ModelError

SIZE = 112
_EXPRESSIONS = 7

_MODELS = ("face_expression_model", "age_gender_model")
_MEAN = np.array([122.782, 117.001, 104.298]).reshape(1, 3, 1, 1)
_DIVISOR = np.array(255.0)
_LARGEST_FILE = 2_000_000

Weights = Mapping[str, NDArray[np.float32]]


def read_weights(package: Path) -> dict[str, NDArray[np.float32]]:
    """Return the weights of both nets by their names, as TensorFlow shapes them; ModelError for another file."""
    try:
        with tarfile.open(package) as archive:
            files = {name: _read(archive, f"package/model/{name}") for name in _file_names()}
        return {name: values for model in _MODELS for name, values in _tensors(files, model).items()}
    except (tarfile.TarError, EOFError, KeyError, TypeError, ValueError) as error:
        message = f"{package.name} does not hold the weights of face-api: {type(error).__name__}: {error}"
        raise ModelError("broken_weights", message) from error


def _file_names() -> list[str]:
    return [f"{model}{ending}" for model in _MODELS for ending in ("-weights_manifest.json", ".bin")]


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    content = b"" if file is None else file.read(_LARGEST_FILE + 1)
    if not 0 < len(content) <= _LARGEST_FILE:
        message = f"{name} has {len(content)} bytes or more, must have 1 to {_LARGEST_FILE}"
        raise ValueError(message)
    return content


def _tensors(files: Mapping[str, bytes], model: str) -> dict[str, NDArray[np.float32]]:
    """Return the tensors of a TensorFlow.js manifest: float32, or bytes with a scale and a least value."""
    data, position, tensors = files[f"{model}.bin"], 0, {}
    for entry in json.loads(files[f"{model}-weights_manifest.json"])[0]["weights"]:
        stored = np.dtype(entry["quantization"]["dtype"] if "quantization" in entry else "<f4")
        count = int(np.prod(entry["shape"]))
        values = np.frombuffer(data, stored, count, position).astype(np.float32)
        position += count * stored.itemsize
        if "quantization" in entry:
            values = values * np.float32(entry["quantization"]["scale"]) + np.float32(entry["quantization"]["min"])
        tensors[entry["name"]] = values.reshape(entry["shape"])
    return tensors


def build_attributes(weights: Weights, path: Path) -> None:
    """Write both nets to `path` as one ONNX graph; ModelError where a weight is missing."""
    graph = GraphBuilder("face-api-attributes")
    pixels = graph.input("input", ["n", 3, SIZE, SIZE])
    centred = graph.node("Sub", [pixels, graph.initializer("mean", _MEAN)])
    # Not folded into the first convolutions: what they pad with is the mean colour, not black.
    x = graph.node("Div", [centred, graph.initializer("divisor", _DIVISOR)])
    try:
        _Nets(graph, weights).add(x)
    except KeyError as error:
        raise ModelError("broken_weights", f"face-api's weights lack {error}") from error
    graph.save(path)


class _Nets:
    """Adds the nets to a graph, layer by layer."""

    def __init__(self, graph: GraphBuilder, weights: Weights) -> None:
        self._graph = graph
        self._weights = weights

    def add(self, x: str) -> None:
        """Add both nets and the graph's outputs."""
        logits = self._dense("fc", self._pooled(self._expression_features(x)))
        self._graph.output(self._graph.node("Softmax", [logits], name="emotions", axis=1), ["n", _EXPRESSIONS])
        features = self._pooled(self._age_and_gender_features(x))
        self._graph.output(self._dense("fc/age", features, output="age"), ["n", 1])
        logits = self._dense("fc/gender", features)
        self._graph.output(self._graph.node("Softmax", [logits], name="gender", axis=1), ["n", 2])

    def _expression_features(self, x: str) -> str:
        for number in range(4):
            block = f"dense{number}"
            first = self._conv(f"{block}/conv0", x, 2) if number == 0 else self._separable(f"{block}/conv0", x, 2)
            layers = [self._graph.relu(first)]
            for conv in ("conv1", "conv2", "conv3"):
                layers.append(self._separable(f"{block}/{conv}", self._sum_of(layers)))
            x = self._sum_of(layers)
        return x

    def _sum_of(self, layers: list[str]) -> str:
        """Return the rectified sum; the first layer alone is rectified already."""
        if len(layers) == 1:
            return layers[0]
        total = layers[0]
        for layer in layers[1:]:
            total = self._graph.node("Add", [total, layer])
        return self._graph.relu(total)

    def _age_and_gender_features(self, x: str) -> str:
        x = self._graph.relu(self._conv("entry_flow/conv_in", x, 2))
        x = self._reduction("entry_flow/reduction_block_0", x, x)
        x = self._reduction("entry_flow/reduction_block_1", x, self._graph.relu(x))
        for number in range(2):
            y = x
            for layer in range(3):
                y = self._separable(f"middle_flow/main_block_{number}/separable_conv{layer}", self._graph.relu(y))
            x = self._graph.node("Add", [y, x])
        x = self._reduction("exit_flow/reduction_block", x, self._graph.relu(x))
        return self._graph.relu(self._separable("exit_flow/separable_conv", x))

    def _reduction(self, block: str, x: str, rectified: str) -> str:
        y = self._separable(f"{block}/separable_conv0", rectified)
        y = self._separable(f"{block}/separable_conv1", self._graph.relu(y))
        pooled = self._graph.node("MaxPool", [y], kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")
        return self._graph.node("Add", [pooled, self._conv(f"{block}/expansion_conv", x, 2)])

    def _conv(self, name: str, x: str, stride: int) -> str:
        filters, bias = self._weights[f"{name}/filters"], self._weights[f"{name}/bias"]
        return self._graph.conv(x, filters.transpose(3, 2, 0, 1), bias, **_same(stride))

    def _separable(self, name: str, x: str, stride: int = 1) -> str:
        depthwise = self._weights[f"{name}/depthwise_filter"].transpose(2, 3, 0, 1)
        pointwise = self._weights[f"{name}/pointwise_filter"].transpose(3, 2, 0, 1)
        x = self._graph.conv(x, depthwise, group=len(depthwise), **_same(stride))
        return self._graph.conv(x, pointwise, self._weights[f"{name}/bias"])

    def _pooled(self, x: str) -> str:
        return self._graph.node("Flatten", [self._graph.node("GlobalAveragePool", [x])], axis=1)

    def _dense(self, name: str, x: str, *, output: str | None = None) -> str:
        weights, bias = self._weights[f"{name}/weights"], self._weights[f"{name}/bias"]
        return self._graph.dense(x, weights.T, bias, name=output)


def _same(stride: int) -> dict[str, Any]:
    """Return the attributes of a convolution that TensorFlow pads `same`."""
    return {"strides": [stride, stride], "auto_pad": "SAME_UPPER"}
