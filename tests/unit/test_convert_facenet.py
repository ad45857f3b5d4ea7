import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from facewire.conversion.facenet import build_inception_resnet, read_state
from facewire.conversion.torchfile import TorchFileError
from facewire.domain.errors import ModelError
from facewire.vision.embedder import OnnxEmbedder
from facewire.vision.models import find_spec
from facewire.vision.onnx_session import open_session

ROOT = Path(__file__).resolve().parents[2]
State = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / "tests" / "goldens" / "facenet.json").read_text())
    return content


@pytest.fixture(scope="module")
def random_weights() -> ModuleType:
    spec = importlib.util.spec_from_file_location("random_weights", ROOT / "benchmarks" / "_random_weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def state(golden: dict[str, Any], random_weights: ModuleType) -> State:
    made: State = random_weights.random_state(golden["shapes"], golden["seed"])
    return made


def test_the_graph_gives_what_torch_gives(
    golden: dict[str, Any], random_weights: ModuleType, state: State, tmp_path: Path
) -> None:
    build_inception_resnet(state, tmp_path / "facenet.onnx")
    embedder = OnnxEmbedder(open_session(tmp_path / "facenet.onnx", threads=2), find_spec("facenet-vggface2"))
    expected = np.array(golden["embeddings"], np.float32)
    found = embedder.embed(random_weights.random_faces(len(expected), golden["seed"]))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert expected.std(0).max() > 1e-3, "the golden must tell faces apart"


def test_missing_weights_are_named(state: State, tmp_path: Path) -> None:
    without = {name: values for name, values in state.items() if name != "block8.conv2d.bias"}
    with pytest.raises(ModelError, match=r"no block8\.conv2d\.bias"):
        build_inception_resnet(without, tmp_path / "facenet.onnx")


@pytest.mark.parametrize("name", ["conv2d_3b.conv.weight", "conv2d_3b.bn.weight"])
def test_weights_of_another_shape_are_refused(state: State, tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="not those of an InceptionResnetV1"):
        build_inception_resnet({**state, name: state[name][:-1]}, tmp_path / "facenet.onnx")
    assert not (tmp_path / "facenet.onnx").exists()


def test_a_file_that_holds_no_state_is_refused(shared_data: Path) -> None:
    with pytest.raises(ModelError, match="does not hold tensors by name"):
        read_state(shared_data / "galleries" / "five_actors.pt")


def test_a_file_that_is_not_torchs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"not found")
    with pytest.raises(TorchFileError):
        read_state(tmp_path / "weights.pt")
