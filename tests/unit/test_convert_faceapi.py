"""face-api's nets as ONNX, from a package of random weights, against the same nets written down in NumPy."""

import io
import itertools
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from facewire.conversion.faceapi import build_attributes, read_weights
from facewire.conversion.pull import PullError, pull, pull_spec
from facewire.domain.errors import ModelError
from facewire.vision.models import ATTRIBUTES, check_sha256, load_attributes
from facewire.vision.onnx_session import open_session

Array = NDArray[np.float64]
Shapes = dict[str, tuple[int, ...]]
PACKAGE = "vladmandic-face-api.tgz"


def separable(name: str, inputs: int, outputs: int) -> Shapes:
    depthwise, pointwise = (3, 3, inputs, 1), (1, 1, inputs, outputs)
    return {f"{name}/depthwise_filter": depthwise, f"{name}/pointwise_filter": pointwise, f"{name}/bias": (outputs,)}


def plain(name: str, kernel: int, inputs: int, outputs: int) -> Shapes:
    return {f"{name}/filters": (kernel, kernel, inputs, outputs), f"{name}/bias": (outputs,)}


def dense(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}/weights": (inputs, outputs), f"{name}/bias": (outputs,)}


def expression_shapes() -> Shapes:
    shapes = plain("dense0/conv0", 3, 3, 32)
    widths = (32, 32, 64, 128, 256)
    for block, (before, width) in enumerate(itertools.pairwise(widths)):
        if block:
            shapes |= separable(f"dense{block}/conv0", before, width)
        for conv in (1, 2, 3):
            shapes |= separable(f"dense{block}/conv{conv}", width, width)
    return shapes | dense("fc", 256, 7)


def age_and_gender_shapes() -> Shapes:
    shapes = plain("entry_flow/conv_in", 3, 3, 32)
    reductions = {
        "entry_flow/reduction_block_0": 32,
        "entry_flow/reduction_block_1": 64,
        "exit_flow/reduction_block": 128,
    }
    for block, width in reductions.items():
        shapes |= separable(f"{block}/separable_conv0", width, 2 * width)
        shapes |= separable(f"{block}/separable_conv1", 2 * width, 2 * width)
        shapes |= plain(f"{block}/expansion_conv", 1, width, 2 * width)
    for number in range(2):
        for conv in range(3):
            shapes |= separable(f"middle_flow/main_block_{number}/separable_conv{conv}", 128, 128)
    shapes |= separable("exit_flow/separable_conv", 256, 512)
    return shapes | dense("fc/age", 512, 1) | dense("fc/gender", 512, 2)


def model_files(name: str, shapes: Shapes, random: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """Yield the two files of a net: weights in 8 bits, biases in 32."""
    entries: list[dict[str, Any]] = []
    data = b""
    for tensor, shape in shapes.items():
        entry: dict[str, Any] = {"name": tensor, "shape": shape, "dtype": "float32"}
        if tensor.endswith("bias"):
            data += random.normal(0, 0.1, shape).astype("<f4").tobytes()
        else:
            inputs = np.prod(shape[:2] if "depthwise" in tensor else shape[:-1])
            spread = float(np.sqrt(6 / inputs)) * (0.005 if tensor.startswith("fc") else 1)
            entry["quantization"] = {"dtype": "uint8", "scale": spread / 127, "min": -spread}
            data += random.integers(0, 256, shape, np.uint8).tobytes()
        entries.append(entry)
    yield f"{name}-weights_manifest.json", json.dumps([{"paths": [f"{name}.bin"], "weights": entries}]).encode()
    yield f"{name}.bin", data


def write_package(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/model/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    random = np.random.default_rng(4)
    return {
        **dict(model_files("face_expression_model", expression_shapes(), random)),
        **dict(model_files("age_gender_model", age_and_gender_shapes(), random)),
    }


@pytest.fixture(scope="module")
def package(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_package(tmp_path_factory.mktemp("npm") / PACKAGE, files)


class Reference:
    """The nets as face-api computes them, on one picture, (height, width, channels)."""

    def __init__(self, weights: dict[str, NDArray[np.float32]]) -> None:
        self.weights = {name: values.astype(np.float64) for name, values in weights.items()}

    def __call__(self, picture: NDArray[np.uint8]) -> tuple[Array, Array, Array]:
        x = (picture - np.array([122.782, 117.001, 104.298])) / 255
        emotions = softmax(self.dense("fc", self.expression_features(x).mean((0, 1))))
        features = self.age_and_gender_features(x).mean((0, 1))
        return emotions, self.dense("fc/age", features), softmax(self.dense("fc/gender", features))

    def expression_features(self, x: Array) -> Array:
        for block in ("dense0", "dense1", "dense2", "dense3"):
            first = self.conv if block == "dense0" else self.separable
            one = relu(first(f"{block}/conv0", x, 2))
            two = self.separable(f"{block}/conv1", one)
            three = self.separable(f"{block}/conv2", relu(one + two))
            four = self.separable(f"{block}/conv3", relu(one + two + three))
            x = relu(one + two + three + four)
        return x

    def age_and_gender_features(self, x: Array) -> Array:
        x = relu(self.conv("entry_flow/conv_in", x, 2))
        x = self.reduced("entry_flow/reduction_block_0", x, x)
        x = self.reduced("entry_flow/reduction_block_1", x, relu(x))
        for block in range(2):
            y = x
            for conv in range(3):
                y = self.separable(f"middle_flow/main_block_{block}/separable_conv{conv}", relu(y))
            x = x + y
        x = self.reduced("exit_flow/reduction_block", x, relu(x))
        return relu(self.separable("exit_flow/separable_conv", x))

    def reduced(self, block: str, x: Array, y: Array) -> Array:
        y = self.separable(f"{block}/separable_conv0", y)
        y = self.separable(f"{block}/separable_conv1", relu(y))
        pooled: Array = windows(y, 3, 2, fill=-np.inf).max((-2, -1))
        return pooled + self.conv(f"{block}/expansion_conv", x, 2)

    def conv(self, name: str, x: Array, stride: int) -> Array:
        filters = self.weights[f"{name}/filters"]
        found: Array = np.einsum("hwcij,ijco->hwo", windows(x, len(filters), stride), filters, optimize=True)
        return found + self.weights[f"{name}/bias"]

    def separable(self, name: str, x: Array, stride: int = 1) -> Array:
        filters = self.weights[f"{name}/depthwise_filter"][..., 0]
        y: Array = np.einsum("hwcij,ijc->hwc", windows(x, 3, stride), filters, optimize=True)
        mixed: Array = y @ self.weights[f"{name}/pointwise_filter"][0, 0]
        return mixed + self.weights[f"{name}/bias"]

    def dense(self, name: str, x: Array) -> Array:
        result: Array = x @ self.weights[f"{name}/weights"] + self.weights[f"{name}/bias"]
        return result


def windows(x: Array, kernel: int, stride: int, *, fill: float = 0.0) -> Array:
    """Return what each output pixel sees, (h, w, channels, kernel, kernel), padded `same` as TensorFlow does."""
    total = max(0, kernel - stride)
    pads = (total // 2, total - total // 2)
    padded = np.pad(x, (pads, pads, (0, 0)), constant_values=fill)
    view: Array = sliding_window_view(padded, (kernel, kernel), (0, 1))[::stride, ::stride]
    return view


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max())
    result: Array = powers / powers.sum()
    return result


def test_the_graph_computes_what_face_api_does(package: Path, tmp_path: Path) -> None:
    weights = read_weights(package)
    build_attributes(weights, tmp_path / "model.onnx")
    pictures = np.random.default_rng(5).integers(0, 100, (2, 112, 112, 3), np.uint8)
    pictures[1, 60:, 30:] += 150
    pixels = pictures.transpose(0, 3, 1, 2).astype(np.float32)
    found = open_session(tmp_path / "model.onnx").run(None, {"input": pixels})
    for expected, got in zip(zip(*map(Reference(weights), pictures), strict=True), found, strict=True):
        np.testing.assert_allclose(got, np.stack(expected), rtol=1e-3, atol=1e-4)
    assert all(np.ptp(each, axis=0).max() > 0.01 for each in found)


def test_two_builds_are_the_same_bytes(package: Path, tmp_path: Path) -> None:
    for name in ("one.onnx", "two.onnx"):
        build_attributes(read_weights(package), tmp_path / name)
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


def test_a_package_at_hand_is_converted_and_put_into_place(package: Path, tmp_path: Path) -> None:
    spec = replace(ATTRIBUTES, source="http://127.0.0.1:1/", source_sha256=digest(package))
    path = pull_spec(spec, tmp_path / "models", source=package)
    assert [file.name for file in (tmp_path / "models").iterdir()] == ["face-api-attributes.onnx"]
    assert len(load_attributes(path.parent).guess(np.zeros((2, 112, 112, 3), np.uint8))) == 2


def test_another_package_than_the_registered_one_is_refused(package: Path, tmp_path: Path) -> None:
    with pytest.raises(PullError, match="has sha256") as caught:
        pull("face-api-attributes", tmp_path / "models", source=package)
    assert caught.value.code == "wrong_sha256"
    assert list((tmp_path / "models").iterdir()) == []


def digest(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        check_sha256(path, "")
    return caught.value.detail.split("sha256 ")[1][:64]


def without(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name != "age_gender_model.bin"}


def cut(files: dict[str, bytes]) -> dict[str, bytes]:
    return {**files, "age_gender_model.bin": files["age_gender_model.bin"][:-1]}


def huge(files: dict[str, bytes]) -> dict[str, bytes]:
    return {**files, "age_gender_model.bin": bytes(3_000_000)}


def strange(files: dict[str, bytes]) -> dict[str, bytes]:
    return {**files, "age_gender_model-weights_manifest.json": b'{"weights": 1}'}


@pytest.mark.parametrize("damage", [without, cut, huge, strange])
def test_a_damaged_package_is_named(
    damage: Callable[[dict[str, bytes]], dict[str, bytes]], files: dict[str, bytes], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=PACKAGE) as caught:
        read_weights(write_package(tmp_path / PACKAGE, damage(files)))
    assert caught.value.code == "broken_weights"


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b no gzip"])
def test_what_is_no_package_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / PACKAGE).write_bytes(content)
    with pytest.raises(ModelError, match=PACKAGE):
        read_weights(tmp_path / PACKAGE)


def test_a_missing_weight_is_named(package: Path, tmp_path: Path) -> None:
    weights = read_weights(package)
    del weights["fc/gender/bias"]
    with pytest.raises(ModelError, match="fc/gender/bias"):
        build_attributes(weights, tmp_path / "model.onnx")
