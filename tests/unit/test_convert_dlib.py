"""A file in dlib's format with random numbers stands in for the 22 MB of the real one."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from convert_dlib import build_resnet29, read_resnet29
from numpy.typing import NDArray

from facewire.domain.errors import ModelError
from facewire.vision.onnx_session import open_session

#: Output channels of the 29 convolutions and whether each halves its picture.
CHANNELS = [32] + [32] * 6 + [64] * 8 + [128] * 6 + [256] * 8
HALVING = {0, 7, 15, 21, 27}
MEAN = np.array([122.782, 117.001, 104.298], np.float32)


def integer(value: int) -> bytes:
    digits = value.to_bytes(max(1, (value.bit_length() + 7) // 8), "little")
    return bytes([len(digits)]) + digits


def tensor(values: NDArray[np.float32]) -> bytes:
    shape = values.shape + (1,) * (4 - values.ndim)
    return b"".join([integer(2), *map(integer, shape), values.astype("<f4").tobytes()])


def record(tag: bytes, content: bytes) -> bytes:
    return integer(len(tag)) + tag + content


@cache
def weights() -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Return for each convolution weights and bias (k,), gain and offset (k,) of its affine layer."""
    rng = np.random.default_rng(3)
    layers, before = [], 3
    for index, channels in enumerate(CHANNELS):
        kernel = 7 if index == 0 else 3
        shape = (channels, before, kernel, kernel)
        spread = np.sqrt(1 / np.prod(shape[1:])) * (4 if index == 0 else 1)
        raw = np.concatenate([rng.standard_normal(shape).ravel() * spread, rng.standard_normal(channels) * 0.1])
        affine = np.concatenate([1 + 0.1 * rng.standard_normal(channels), 0.1 * rng.standard_normal(channels)])
        layers.append((raw.astype(np.float32), affine.astype(np.float32)))
        before = channels
    return layers


PROJECTION = np.random.default_rng(4).standard_normal((256, 128)).astype(np.float32)


def write(path: Path, count: int = 29) -> Path:
    parts = [b"\x01\x01", record(b"loss_metric_2", integer(3))]
    for raw, affine in weights()[:count]:
        parts += [record(b"con_4", tensor(raw)), record(b"affine_", tensor(affine))]
    parts.append(record(b"fc_2", integer(128) + integer(256) + tensor(PROJECTION)))
    path.write_bytes(b"".join(parts))
    return path


def convolve(x: NDArray[Any], index: int, *, stride: int, padding: int) -> NDArray[np.float32]:
    raw, affine = weights()[index]
    channels = CHANNELS[index]
    kernel = raw[:-channels].reshape(channels, x.shape[0], *((7, 7) if index == 0 else (3, 3)))
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2:], (1, 2))[:, ::stride, ::stride]
    y = np.einsum("cyxij,ocij->oyx", windows, kernel, optimize=True) + raw[-channels:, None, None]
    return np.asarray(y * affine[:channels, None, None] + affine[channels:, None, None], np.float32)


def reference(face: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what dlib's layers, written out plainly, make of one face, uint8 (150, 150, 3)."""
    x: NDArray[Any] = ((face.astype(np.float32) - MEAN) / 256).transpose(2, 0, 1)
    x = np.maximum(convolve(x, 0, stride=2, padding=0), 0)
    x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))[:, ::2, ::2].max((3, 4))
    for index in range(1, 29, 2):
        halves = index in HALVING
        y = np.maximum(convolve(x, index, stride=2 if halves else 1, padding=0 if halves else 1), 0)
        y = convolve(y, index + 1, stride=1, padding=1)
        if halves:
            rows, columns = x.shape[1] // 2, x.shape[2] // 2
            x = x[:, : rows * 2, : columns * 2].reshape(len(x), rows, 2, columns, 2).mean((2, 4))
        total = np.zeros((max(len(x), len(y)), max(x.shape[1], y.shape[1]), max(x.shape[2], y.shape[2])), np.float32)
        for part in (x, y):
            total[: part.shape[0], : part.shape[1], : part.shape[2]] += part
        x = np.maximum(total, 0)
    return np.asarray(x.mean((1, 2)) @ PROJECTION, np.float32)


def test_the_graph_gives_what_dlibs_layers_give(tmp_path: Path) -> None:
    build_resnet29(read_resnet29(write(tmp_path / "net.dat")), tmp_path / "net.onnx")
    faces = np.random.default_rng(5).integers(0, 256, (2, 150, 150, 3), np.uint8)
    pixels = faces.transpose(0, 3, 1, 2).astype(np.float32)
    (found,) = open_session(tmp_path / "net.onnx").run(None, {"input": pixels})
    expected = np.stack([reference(face) for face in faces])
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.dat").write_bytes(b"something else")
    with pytest.raises(ModelError, match="not a dlib metric learning network"):
        read_resnet29(tmp_path / "net.dat")


def test_missing_layers_are_counted(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds 28 convolutions and 28 affine layers, must hold 29"):
        read_resnet29(write(tmp_path / "net.dat", count=28))


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "net.dat")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="no tensor where one is expected"):
        read_resnet29(path)
