from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from facewire.conversion.graph import GraphBuilder
from facewire.domain.errors import ModelError, RecognizeError
from facewire.vision.embedder import EmbedderSpec, OnnxEmbedder, View, look, unit
from facewire.vision.models import find_spec
from facewire.vision.onnx_session import open_session

SPEC = replace(find_spec("sface"), size=8, input_size=8, dimension=3, views=(View(),))


def embedder(folder: Path, spec: EmbedderSpec = SPEC, batch: int | str = "n") -> OnnxEmbedder:
    """Return an embedder whose network gives the mean of each channel."""
    graph = GraphBuilder("means")
    x = graph.input("pixels", [batch, 3, 8, 8])
    graph.output(graph.node("Flatten", [graph.node("GlobalAveragePool", [x])], name="means"), [batch, 3])
    graph.save(folder / "means.onnx")
    return OnnxEmbedder(open_session(folder / "means.onnx"), spec)


def faces(count: int, size: int = 8) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(1, 256, (count, size, size, 3), np.uint8)


def means(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    return unit(pictures.mean((1, 2)).astype(np.float32))


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 40])
@pytest.mark.parametrize("batch", ["n", 1])
def test_a_batch_of_any_size_is_embedded_in_order(tmp_path: Path, count: int, batch: int | str) -> None:
    found = embedder(tmp_path, batch=batch).embed(faces(count))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, means(faces(count)), atol=1e-6)


def test_rows_have_unit_length_and_a_black_face_is_no_error(tmp_path: Path) -> None:
    pictures = faces(3)
    pictures[1] = 0
    found = embedder(tmp_path).embed(pictures)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1, 0, 1], atol=1e-6)


def test_embeddings_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    graph = GraphBuilder("logarithms")
    means = graph.node("GlobalAveragePool", [graph.input("pixels", ["n", 3, 8, 8])])
    logarithms = graph.node("Log", [graph.node("Flatten", [means])], name="logarithms")
    graph.output(logarithms, ["n", 3])
    graph.save(tmp_path / "logarithms.onnx")
    pictures = faces(3)
    pictures[1] = 0
    with pytest.raises(RecognizeError, match="not_finite"):
        OnnxEmbedder(open_session(tmp_path / "logarithms.onnx"), SPEC).embed(pictures)


def test_views_are_averaged(tmp_path: Path) -> None:
    spec = replace(SPEC, size=10, views=(View(), View(left=2, top=1, mirrored=True)))
    pictures = faces(20, size=10)
    found = embedder(tmp_path, spec).embed(pictures)
    expected = unit(means(pictures[:, :8, :8].copy()) + means(pictures[:, 1:9, 2:].copy()))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_mirrored_view_is_mirrored() -> None:
    pictures = faces(2)
    assert np.array_equal(look(pictures, View(mirrored=True), 8), pictures[:, :, ::-1])


@pytest.mark.parametrize(
    "pictures",
    [faces(1).astype(np.float32), faces(1)[0], faces(1, size=9), faces(1)[..., :1]],
)
def test_what_is_no_batch_of_faces_is_refused(tmp_path: Path, pictures: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"must be uint8 \(n, 8, 8, 3\)"):
        embedder(tmp_path).embed(pictures)


@pytest.mark.parametrize("spec", [replace(SPEC, dimension=4), replace(SPEC, input_size=9)])
def test_a_model_that_does_not_fit_its_spec_is_refused(tmp_path: Path, spec: EmbedderSpec) -> None:
    with pytest.raises(ModelError) as caught:
        embedder(tmp_path, spec)
    assert caught.value.code == "broken"
