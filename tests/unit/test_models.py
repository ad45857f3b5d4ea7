import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from facewire.domain.errors import ModelError
from facewire.vision.models import (
    DEFAULT_EMBEDDER,
    find,
    find_spec,
    load_detector,
    load_embedder,
    pulled_models_dir,
    shipped_models_dir,
    specs,
)

MANIFEST = json.loads((shipped_models_dir() / "manifest.json").read_text())


@pytest.mark.parametrize("entry", MANIFEST, ids=lambda entry: entry["file"])
def test_what_ships_is_what_the_manifest_says(entry: dict[str, str | int]) -> None:
    content = (shipped_models_dir() / str(entry["file"])).read_bytes()
    assert len(content) == entry["bytes"]
    assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    assert entry["licence"] in {"MIT", "CC0-1.0"}
    assert "http" in str(entry["source"])


def test_every_file_that_ships_is_in_the_manifest() -> None:
    assert {path.name for path in shipped_models_dir().glob("*.onnx")} == {entry["file"] for entry in MANIFEST}


def test_the_embedder_that_ships_is_small_and_registered_under_its_sha256() -> None:
    path = shipped_models_dir() / find_spec(DEFAULT_EMBEDDER).file
    assert path.stat().st_size < 8 * 1024**2
    assert hashlib.sha256(path.read_bytes()).hexdigest() == find_spec(DEFAULT_EMBEDDER).sha256


def test_the_weights_that_ship_cannot_saturate_on_processors_without_vnni() -> None:
    model = onnx.load(str(shipped_models_dir() / find_spec(DEFAULT_EMBEDDER).file))
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    quantised = [values for values in weights if values.dtype == np.int8 and values.ndim == 4]
    assert len(quantised) == 29
    assert 2 * 255 * max(int(np.abs(values.astype(int)).max()) for values in quantised) <= np.iinfo(np.int16).max


def test_the_default_comes_first_and_ids_are_different() -> None:
    assert specs()[0].id == DEFAULT_EMBEDDER
    assert len({spec.id for spec in specs()}) == len({spec.file for spec in specs()}) == 3


def test_the_embedder_that_ships_runs() -> None:
    embedder = load_embedder(DEFAULT_EMBEDDER)
    pictures = np.random.default_rng(0).integers(0, 256, (3, 160, 160, 3), np.uint8)
    embeddings = embedder.embed(pictures)
    assert embeddings.shape == (3, 128)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(embedder.embed(pictures[1:2]), embeddings[1:2], atol=1e-5)


def test_the_detector_that_ships_runs_and_takes_options() -> None:
    assert len(load_detector(min_face_size=40)(np.zeros((90, 120, 3), np.uint8))) == 0
    with pytest.raises(ValueError, match="factor"):
        load_detector(factor=2.0)


def test_a_model_in_the_given_folder_goes_before_the_one_that_ships(tmp_path: Path) -> None:
    (tmp_path / "dlib-resnet29.onnx").touch()
    assert find(DEFAULT_EMBEDDER, tmp_path) == tmp_path / "dlib-resnet29.onnx"
    assert find(DEFAULT_EMBEDDER, tmp_path / "none") == shipped_models_dir() / "dlib-resnet29.onnx"


def test_a_changed_model_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "dlib-resnet29.onnx").write_bytes(b"something else")
    with pytest.raises(ModelError) as caught:
        load_embedder(DEFAULT_EMBEDDER, tmp_path)
    assert caught.value.code == "wrong_sha256"


def test_a_model_that_is_not_here_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="run: facewire models pull sface") as caught:
        find("sface", tmp_path)
    assert caught.value.code == "missing"


def test_an_unknown_embedder_is_answered_with_those_there_are() -> None:
    with pytest.raises(ModelError, match="dlib-resnet29, facenet-vggface2, sface") as caught:
        load_embedder("vgg")
    assert caught.value.code == "unknown"


def test_pulled_models_go_to_the_users_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert pulled_models_dir(tmp_path) == tmp_path
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert pulled_models_dir() == tmp_path / "data" / "facewire" / "models"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert pulled_models_dir() == tmp_path / ".local" / "share" / "facewire" / "models"
