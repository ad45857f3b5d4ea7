"""Resampling against a plain loop over windows."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from facewire.vision.area import AreaImage, windows


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def rows(area: AreaImage, height: int, width: int, first: int, last: int) -> NDArray[np.float32]:
    (whole,) = area.rows(height, width, first, last)
    return whole


def resampled(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float64]:
    """Return adaptive average pooling written down as its definition: (3, height, width)."""
    result = np.empty((3, height, width))
    rows, columns = image.shape[:2]
    for y in range(height):
        for x in range(width):
            part = image[
                y * rows // height : -(-(y + 1) * rows // height), x * columns // width : -(-(x + 1) * columns // width)
            ]
            result[:, y, x] = part.mean(axis=(0, 1))
    return result


sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))


@settings(max_examples=100, deadline=None)
@given(sizes, sizes)
def test_rows_are_means_over_windows(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    image = noise(*size)
    whole = rows(AreaImage(image), *wanted, 0, wanted[0])
    assert whole.shape == (1, 3, *wanted)
    assert whole.dtype == np.float32
    assert whole.flags.c_contiguous
    np.testing.assert_allclose(whole[0], resampled(image, *wanted), atol=1e-3)


@pytest.mark.parametrize("wanted", [(50, 60), (21, 33), (9, 12)])
def test_strips_join_to_the_whole(wanted: tuple[int, int]) -> None:
    image = AreaImage(noise(100, 130))
    whole = rows(image, *wanted, 0, wanted[0])
    parts = [rows(image, *wanted, first, min(first + 4, wanted[0])) for first in range(0, wanted[0], 4)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=2), whole)


@pytest.mark.parametrize("wanted", [(50, 60), (4, 6)])
def test_pieces_are_columns_of_the_rows(wanted: tuple[int, int]) -> None:
    image = AreaImage(noise(100, 130))
    whole = rows(image, *wanted, 1, 4)
    pieces = [slice(0, 3), slice(2, 5), slice(5, wanted[1])]
    found = list(image.rows(*wanted, 1, 4, pieces))
    assert all(piece.flags.c_contiguous for piece in found)
    for piece, columns in zip(found, pieces, strict=True):
        np.testing.assert_array_equal(piece, whole[..., columns])


def test_it_is_not_opencvs_area() -> None:
    image = noise(30, 30)
    ours = rows(AreaImage(image), 18, 18, 0, 18)[0].transpose(1, 2, 0)
    assert np.abs(ours - cv2.resize(image, (18, 18), interpolation=cv2.INTER_AREA)).max() > 5


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 9), st.integers(0, 9), st.sampled_from([24, 48]))
def test_crops_are_resampled_parts(width: int, height: int, left: int, top: int, size: int) -> None:
    image = noise(40, 40)
    boxes = np.array([[left, top, left + width, top + height], [0, 0, 40, 40]])
    crops = AreaImage(image).crops(boxes, size)
    assert crops.shape == (2, 3, size, size)
    expected = resampled(image[top : top + height, left : left + width], size, size)
    np.testing.assert_allclose(crops[0], expected, atol=1e-3)
    np.testing.assert_allclose(crops[1], resampled(image, size, size), atol=1e-3)


def test_sums_beyond_31_bits_are_right() -> None:
    image = np.full((3000, 3000, 3), 255, np.uint8)
    area = AreaImage(image)
    assert (rows(area, 300, 300, 290, 300) == 255).all()
    assert (area.crops(np.array([[2000, 2000, 3000, 3000]]), 24) == 255).all()


def test_windows_cover_everything_and_overlap_where_they_must() -> None:
    starts, ends = windows(10, 4)
    assert starts.tolist() == [0, 2, 5, 7]
    assert ends.tolist() == [3, 5, 8, 10]
