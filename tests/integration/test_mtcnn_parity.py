"""The detector against facenet-pytorch's MTCNN; its results are numbers made by tests/reference/mtcnn_goldens.py."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from facewire.vision.imagecodec import decode
from facewire.vision.mtcnn import Mtcnn

ROOT = Path(__file__).resolve().parents[2]
GOLDENS = ROOT / "tests" / "goldens" / "mtcnn.json"
PIXELS = 0.01
PROBABILITY = 1e-4
OUTLIERS = 0.005


def goldens() -> dict[str, NDArray[np.float64]]:
    pictures = json.loads(GOLDENS.read_text())["pictures"]
    return {name: np.array(rows, np.float64).reshape(-1, 15) for name, rows in pictures.items()}


@pytest.fixture(scope="module")
def mtcnn() -> Mtcnn:
    return Mtcnn.load(ROOT / "models")


def rows(mtcnn: Mtcnn, path: Path) -> NDArray[np.float64]:
    found = mtcnn(decode(path.read_bytes()))
    landmarks = found.landmarks.reshape(len(found), 10)
    return np.column_stack([found.boxes, found.confidences, landmarks]).astype(np.float64)


def difference(ours: NDArray[np.float64], golden: NDArray[np.float64]) -> str | None:
    """Return what differs beyond the tolerance, or None."""
    if len(ours) != len(golden):
        return f"{len(ours)} faces, not {len(golden)}"
    apart = np.abs(ours - golden)
    probability = apart[:, 4].max(initial=0)
    pixels = np.delete(apart, 4, axis=1).max(initial=0)
    return f"{pixels:.4f} px, {probability:.1e}" if pixels > PIXELS or probability > PROBABILITY else None


@pytest.mark.parametrize("name", [name for name in goldens() if name.startswith("samples/")])
def test_samples_are_found_alike(mtcnn: Mtcnn, name: str) -> None:
    assert difference(rows(mtcnn, ROOT / name), goldens()[name]) is None


def test_samples_show_one_face_each_and_the_cat_none(mtcnn: Mtcnn, samples: Path) -> None:
    counts = {path.stem: len(mtcnn(decode(path.read_bytes()))) for path in samples.glob("*.jpg")}
    assert counts == {"eileen_collins": 1, "grace_hopper": 1, "cat": 0}


def test_test_pictures_and_lfw_are_found_alike(mtcnn: Mtcnn, shared_data: Path) -> None:
    known = {name: golden for name, golden in goldens().items() if not name.startswith("samples/")}
    assert len(known) == 205
    differing = {name: difference(rows(mtcnn, shared_data / name), golden) for name, golden in known.items()}
    outliers = {name: text for name, text in differing.items() if text}
    assert not {text for text in outliers.values() if "faces" in text}
    assert len(outliers) <= OUTLIERS * len(known), outliers


def test_multiface_has_six_faces(mtcnn: Mtcnn, shared_data: Path) -> None:
    assert len(mtcnn(decode((shared_data / "multiface.jpg").read_bytes()))) == 6
