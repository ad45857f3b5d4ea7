"""The cascade: options, odd sizes, threads; and its steps over networks made up for the purpose."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from facewire.domain.errors import ModelError
from facewire.vision.imagecodec import decode
from facewire.vision.mtcnn import Detections, Mtcnn, Net, Nets, Options

ROOT = Path(__file__).resolve().parents[2]
Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def mtcnn() -> Mtcnn:
    return Mtcnn.load(ROOT / "models")


@pytest.fixture(scope="module")
def two_threads() -> Iterator[Mtcnn]:
    with Mtcnn.load(ROOT / "models", threads=2) as mtcnn:
        yield mtcnn


@pytest.fixture(scope="module")
def portrait() -> NDArray[np.uint8]:
    return decode((ROOT / "samples" / "eileen_collins.jpg").read_bytes())


def same(one: Detections, other: Detections) -> bool:
    pairs = [(one.boxes, other.boxes), (one.confidences, other.confidences), (one.landmarks, other.landmarks)]
    return all(np.array_equal(a, b) for a, b in pairs)


def silent_pnet(x: Array) -> Array:
    """Give the map that P-Net would, without a candidate."""
    rows, columns = (-(-(side - 2) // 2) - 4 for side in x.shape[2:])
    return np.full((1, 5, rows, columns), -9, np.float32)


def one_cell_pnet(x: Array) -> Array:
    """Give one candidate, in the first cell of every piece."""
    found = silent_pnet(x)
    found[0, 0, 0, 0] = 9
    found[0, 1:, 0, 0] = 0
    return found


def refuse(_: Array) -> Array:
    message = "this network has nothing to do here"
    raise AssertionError(message)


def rnet(probability: float) -> Net:
    face = [math.log(probability / (1 - probability)), 0, 0, 0, 0]
    return lambda x: np.tile(np.array(face, np.float32), (len(x), 1))


def onet(probability: float) -> Net:
    landmarks = np.array([0.3, 0.7, 0.5, 0.4, 0.6, 0.4, 0.4, 0.6, 0.8, 0.8], np.float32)
    return lambda x: np.concatenate([rnet(probability)(x), np.tile(landmarks, (len(x), 1))], axis=1)


@pytest.mark.parametrize(
    "options",
    [
        {"min_face_size": 11},
        {"thresholds": (0.6, 0.7)},
        {"thresholds": (0.6, 0.7, 1.0)},
        {"thresholds": (0.0, 0.7, 0.7)},
        {"factor": 1.0},
        {"factor": 0.0},
        {"most_candidates": 0},
        {"threads": 0},
    ],
)
def test_an_option_out_of_range_is_named(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Mtcnn.load(ROOT / "models", **options)


def test_a_folder_without_models_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"pnet\.onnx"):
        Mtcnn.load(tmp_path)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((40, 40), np.uint8),
        np.zeros((40, 40, 4), np.uint8),
        np.zeros((40, 40, 3), np.float32),
        np.zeros((1, 40, 40, 3), np.uint8),
    ],
)
def test_another_kind_of_array_is_refused(mtcnn: Mtcnn, image: Any) -> None:
    with pytest.raises(ValueError, match="uint8"):
        mtcnn(image)


@pytest.mark.parametrize(
    ("height", "width"), [(0, 0), (0, 9), (1, 1), (1, 500), (500, 1), (19, 400), (400, 19), (20, 20), (21, 3000)]
)
def test_images_without_room_for_a_face_have_none(mtcnn: Mtcnn, height: int, width: int) -> None:
    found = mtcnn(np.full((height, width, 3), 128, np.uint8))
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)
    assert found.landmarks.shape == (0, 5, 2)
    assert found.confidences.dtype == found.boxes.dtype == found.landmarks.dtype == np.float32


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**32 - 1))
def test_any_size_of_noise_ends_in_detections(height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    found = Mtcnn.load(ROOT / "models", thresholds=(0.05, 0.05, 0.05))(image)
    assert np.isfinite(found.boxes).all()
    assert len(found.boxes) == len(found.confidences) == len(found.landmarks)


def test_landmarks_lie_where_a_face_has_them(mtcnn: Mtcnn, portrait: NDArray[np.uint8]) -> None:
    found = mtcnn(portrait)
    assert len(found) == 1
    (x1, y1, x2, y2), (left, right, nose, mouth_left, mouth_right) = found.boxes[0], found.landmarks[0]
    assert x1 < left[0] < nose[0] < right[0] < x2
    assert y1 < left[1] < nose[1] < mouth_left[1] < y2
    assert mouth_left[0] < mouth_right[0]
    assert found.confidences[0] > 0.99


def test_largest_face_comes_first(mtcnn: Mtcnn, portrait: NDArray[np.uint8]) -> None:
    canvas = np.full((512, 800, 3), 90, np.uint8)
    canvas[100:356, :256], canvas[:512, 288:] = portrait[::2, ::2], portrait
    found = mtcnn(canvas)
    sizes = np.prod(found.boxes[:, 2:] - found.boxes[:, :2], axis=1)
    assert len(found) == 2
    assert sizes[0] > 2 * sizes[1]
    assert found.boxes[0, 0] > 288


def test_faces_cut_by_the_border_are_found_without_error(mtcnn: Mtcnn, portrait: NDArray[np.uint8]) -> None:
    found = mtcnn(np.ascontiguousarray(portrait[70:200, 190:260]))
    assert np.isfinite(found.boxes).all()


def test_read_only_and_sliced_images_are_fine(mtcnn: Mtcnn, portrait: NDArray[np.uint8]) -> None:
    fixed = portrait.copy()
    fixed.flags.writeable = False
    assert same(mtcnn(fixed), mtcnn(portrait))
    flipped = portrait[:, ::-1]
    assert same(mtcnn(flipped), mtcnn(np.ascontiguousarray(flipped)))


def test_threads_change_nothing(mtcnn: Mtcnn, two_threads: Mtcnn, portrait: NDArray[np.uint8]) -> None:
    assert same(mtcnn(portrait), two_threads(portrait))


@pytest.mark.parametrize("pool_threads", [1, 2])
def test_many_callers_at_once_get_their_own_faces(pool_threads: int, portrait: NDArray[np.uint8]) -> None:
    images = [np.ascontiguousarray(portrait[:, shift : shift + 400]) for shift in range(0, 80, 10)]
    with Mtcnn.load(ROOT / "models", threads=pool_threads) as mtcnn, ThreadPoolExecutor(4) as callers:
        expected = [mtcnn(image) for image in images]
        found = list(callers.map(mtcnn, images))
    assert all(map(same, found, expected))
    assert len({one.boxes.tobytes() for one in found}) == len(images)


def test_min_face_size_leaves_small_faces_out(portrait: NDArray[np.uint8]) -> None:
    assert len(Mtcnn.load(ROOT / "models", min_face_size=60)(portrait)) == 1
    assert len(Mtcnn.load(ROOT / "models", min_face_size=400)(portrait)) == 0


def test_no_candidate_asks_no_further_network() -> None:
    assert len(Mtcnn(Nets(silent_pnet, refuse, refuse))(np.zeros((60, 80, 3), np.uint8))) == 0


def test_what_rnet_refuses_never_reaches_onet() -> None:
    assert len(Mtcnn(Nets(one_cell_pnet, rnet(0.6), refuse))(np.zeros((60, 80, 3), np.uint8))) == 0


def test_what_onet_refuses_is_no_face() -> None:
    assert len(Mtcnn(Nets(one_cell_pnet, rnet(0.9), onet(0.6)))(np.zeros((60, 80, 3), np.uint8))) == 0


def test_only_the_best_candidates_of_a_scale_go_on() -> None:
    def two_cells_pnet(x: Array) -> Array:
        found = one_cell_pnet(x)
        found[0, :, -1, -1] = 8, 0, 0, 0, 0
        return found

    crops: list[int] = []

    def counting_rnet(x: Array) -> Array:
        crops.append(len(x))
        return rnet(0.6)(x)

    image = np.zeros((60, 60, 3), np.uint8)
    for most in (3, 2, 1):
        Mtcnn(Nets(two_cells_pnet, counting_rnet, refuse), Options(min_face_size=48, most_candidates=most))(image)
    assert crops == [2, 2, 1]


def test_coordinates_of_one_candidate() -> None:
    nets = Nets(one_cell_pnet, rnet(0.9), onet(0.9))
    found = Mtcnn(nets, Options(min_face_size=48))(np.zeros((60, 60, 3), np.uint8))
    np.testing.assert_allclose(found.boxes, [[4, 4, 48, 48]], atol=1e-4)
    np.testing.assert_allclose(found.landmarks[0, 0], [4 - 1 + 0.3 * 45, 4 - 1 + 0.4 * 45], atol=1e-4)
    np.testing.assert_allclose(found.confidences, [0.9])
