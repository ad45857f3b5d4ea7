"""The graph builder and the sessions over what it builds."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from facewire.conversion.graph import GraphBuilder
from facewire.domain.errors import ModelError
from facewire.vision.onnx_session import open_session


def small_graph() -> GraphBuilder:
    graph = GraphBuilder("small")
    x = graph.input("input", ["n", 2, "h", "w"])
    x = graph.relu(graph.conv(x, np.ones((1, 2, 1, 1)), np.array([-1.0])))
    x = graph.node("Flatten", [graph.node("GlobalAveragePool", [x])], axis=1)
    graph.dense(x, np.array([[2.0], [3.0]]), np.zeros(2), name="result")
    graph.output("result", ["n", 2])
    return graph


def test_a_graph_computes_what_was_built(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    small_graph().save(path)
    (result,) = open_session(path).run(None, {"input": np.full((1, 2, 4, 4), 2, np.float32)})
    assert result.tolist() == [[6.0, 9.0]]
    (again,) = open_session(path.read_bytes(), threads=2).run(None, {"input": np.zeros((3, 2, 1, 9), np.float32)})
    assert again.tolist() == [[0.0, 0.0]] * 3


def test_two_builds_are_the_same_bytes(tmp_path: Path) -> None:
    small_graph().save(tmp_path / "one.onnx")
    small_graph().save(tmp_path / "two.onnx")
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


def test_integers_stay_integers() -> None:
    graph = GraphBuilder("quantised")
    graph.initializer("scale", np.array(0.5))
    graph.initializer("weights", np.array([[1, -2]], np.int8))
    graph.input("input", [1])
    graph.node("DequantizeLinear", ["weights", "scale"], name="result")
    graph.output("result", [1, 2])
    kinds = {weight.name: (weight.data_type, list(weight.dims)) for weight in graph.model().graph.initializer}
    assert kinds == {"scale": (onnx.TensorProto.FLOAT, []), "weights": (onnx.TensorProto.INT8, [1, 2])}


def test_a_graph_that_does_not_fit_is_not_written(tmp_path: Path) -> None:
    graph = GraphBuilder("broken")
    graph.input("input", [1, 2])
    graph.node("Relu", ["nowhere"], name="result")
    graph.output("result", [1, 2])
    with pytest.raises(onnx.checker.ValidationError):
        graph.save(tmp_path / "broken.onnx")
    assert not (tmp_path / "broken.onnx").exists()


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent\.onnx") as caught:
        open_session(tmp_path / "absent.onnx")
    assert caught.value.code == "missing"


@pytest.mark.parametrize("content", [b"", b"no model", bytes(1000)])
def test_a_broken_model_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    for model in (path, content):
        with pytest.raises(ModelError) as caught:
            open_session(model)
        assert caught.value.code == "broken"


def test_a_session_needs_a_thread() -> None:
    with pytest.raises(ValueError, match="threads"):
        open_session(b"", threads=0)
