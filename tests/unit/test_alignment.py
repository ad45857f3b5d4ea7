from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from facewire.domain.errors import RecognizeError
from facewire.vision.alignment import align, similarity
from facewire.vision.models import find_spec

DLIB, FACENET, SFACE = (find_spec(name) for name in ("dlib-resnet29", "facenet-vggface2", "sface"))
#: Where dlib's chip has the landmarks: template of 150 px as published, then 1.05 times as large in 160 px.
CHIP = np.array([27.5, 28.5]) + 105 * np.array(
    [[0.225492, 0.215990], [0.754761, 0.215990], [0.490127, 0.515625], [0.254149, 0.780233], [0.726104, 0.780233]]
)
BOX = np.array([0, 0, 160, 160])


def gradient(height: int, width: int) -> NDArray[np.uint8]:
    """Return a picture whose red tells the column and whose green tells the row."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows, np.zeros_like(rows)], 2).astype(np.uint8)


def difference(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> int:
    """Return the largest difference; Pillow's bilinear sampling may be one off."""
    return int(np.abs(first.astype(int) - second.astype(int)).max())


def turned(points: NDArray[np.float64], degrees: float, scale: float) -> NDArray[np.float64]:
    angle = np.radians(degrees)
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (points - 80) @ rotation.T + 120


def test_landmarks_already_in_place_leave_the_picture_as_it_is() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (160, 160, 3), np.uint8)
    assert difference(align(picture, BOX, CHIP, DLIB), picture) <= 1


def test_a_shift_of_whole_pixels_takes_those_pixels() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (200, 190, 3), np.uint8)
    assert difference(align(picture, BOX, CHIP + np.array([7, 20]), DLIB), picture[20:180, 7:167]) <= 1


@pytest.mark.parametrize("degrees", [-90, -30, 0, 45, 180])
@pytest.mark.parametrize("scale", [0.7, 1.0, 1.4])
def test_every_chip_pixel_is_taken_from_its_place(degrees: float, scale: float) -> None:
    chip = align(gradient(250, 250), BOX, turned(CHIP, degrees, scale), DLIB)
    chosen = np.array([[80, 80], [60, 100], [100, 70]])
    expected = turned(chosen.astype(float), degrees, scale)
    found = chip[chosen[:, 1], chosen[:, 0], :2]
    np.testing.assert_allclose(found, expected, atol=1.1)


def test_a_face_larger_than_the_chip_does_not_alias() -> None:
    board = (np.indices((640, 640)).sum(0) % 2 * 255).astype(np.uint8)
    chip = align(np.dstack([board] * 3), BOX, CHIP * 4, DLIB)
    assert np.abs(chip[20:-20, 20:-20].astype(int) - 127).max() <= 2


def test_a_reduced_face_stays_in_its_place() -> None:
    chip = align(gradient(250, 250), BOX, (CHIP - 80) * 0.5 + 60, DLIB)
    large = np.asarray(Image.fromarray(gradient(250, 250)).resize((1000, 1000), Image.Resampling.BILINEAR))
    same = align(large, BOX, ((CHIP - 80) * 0.5 + 60.5) * 4 - 0.5, DLIB)
    np.testing.assert_allclose(chip[30:130, 30:130].astype(int), same[30:130, 30:130].astype(int), atol=1)


def test_beyond_the_edge_the_outermost_pixels_are_repeated() -> None:
    picture = np.full((100, 100, 3), 50, np.uint8)
    picture[:, 0] = 200
    chip = align(picture, BOX, CHIP - np.array([60, 30]), DLIB)
    assert (chip[:, :60] == 200).all()
    assert (chip[:, 61:] == 50).all()


def test_sface_gets_its_own_size_and_template() -> None:
    points = np.array(
        [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
    )
    picture = np.random.default_rng(1).integers(0, 256, (112, 112, 3), np.uint8)
    assert difference(align(picture, BOX, points, SFACE), picture) <= 1


def test_the_box_crop_is_facenet_pytorchs() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (300, 280, 3), np.uint8)
    box = np.array([50.7, 60.2, 150.3, 190.9])
    margin = 14 * (box[2:] - box[:2]) / (160 - 14) / 2
    corners = (int(box[0] - margin[0]), int(box[1] - margin[1]), int(box[2] + margin[0]), int(box[3] + margin[1]))
    expected = Image.fromarray(picture).crop(corners).resize((160, 160), Image.Resampling.BILINEAR)
    assert np.array_equal(align(picture, box, CHIP, FACENET), np.asarray(expected))


def test_the_box_crop_ends_at_the_pictures_edge() -> None:
    picture = gradient(100, 100)
    chip = align(picture, np.array([-30.0, -20.0, 99.0, 140.0]), CHIP, FACENET)
    expected = Image.fromarray(picture).resize((160, 160), Image.Resampling.BILINEAR)
    assert np.array_equal(chip, np.asarray(expected))


@pytest.mark.parametrize(
    "landmarks",
    [
        np.zeros((5, 2)),
        np.full((5, 2), 80.0),
        np.full((5, 2), np.nan),
        np.array([[np.inf, 0], *[[i, i] for i in range(4)]]),
        CHIP[:4],
    ],
)
def test_landmarks_that_are_no_face_are_refused(landmarks: NDArray[np.float64]) -> None:
    with pytest.raises(RecognizeError) as caught:
        align(gradient(100, 100), BOX, landmarks, DLIB)
    assert caught.value.code == "bad_landmarks"


@pytest.mark.parametrize("box", [(200, 0, 300, 50), (50, 50, 40, 60), (np.nan, 0, 10, 10), (-50, -50, -20, -20)])
def test_boxes_beyond_the_picture_are_refused(box: tuple[float, ...]) -> None:
    with pytest.raises(RecognizeError) as caught:
        align(gradient(100, 100), np.array(box), CHIP, FACENET)
    assert caught.value.code == "bad_box"


@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=5, max_size=5),
    st.integers(1, 40),
    st.integers(1, 40),
)
def test_any_landmarks_give_a_chip_or_a_refusal(points: list[tuple[float, float]], height: int, width: int) -> None:
    with suppress(RecognizeError):
        chip = align(gradient(height, width), BOX, np.array(points), DLIB)
        assert chip.shape == (160, 160, 3)
        assert chip.dtype == np.uint8


def test_the_similarity_does_not_mirror() -> None:
    mirrored = CHIP * [-1, 1]
    linear = similarity(CHIP, mirrored)[:, :2]
    assert np.linalg.det(linear) > 0
