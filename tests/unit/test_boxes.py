"""Suppression, squaring and regression of boxes."""

import numpy as np
import pytest

from facewire.vision.boxes import Boxes, pixel_boxes, ratios_below, regressed, squared, suppress, suppress_nested


def boxes(*rows: tuple[float, float, float, float]) -> Boxes:
    return np.array(rows, np.float32).reshape(-1, 4)


def scores(*values: float) -> Boxes:
    return np.array(values, np.float32)


def test_the_better_of_two_overlapping_boxes_stays() -> None:
    pair = boxes((0, 0, 10, 10), (1, 0, 11, 10), (50, 50, 60, 60))
    assert suppress(pair, scores(0.7, 0.9, 0.8), 0.5).tolist() == [1, 2]
    assert suppress(pair, scores(0.7, 0.9, 0.8), 0.9).tolist() == [1, 2, 0]


def test_equal_scores_keep_their_order() -> None:
    assert suppress(boxes((0, 0, 9, 9), (0, 0, 9, 9), (20, 20, 29, 29)), scores(0.9, 0.9, 0.9), 0.5).tolist() == [0, 2]


def test_nothing_to_suppress() -> None:
    assert suppress(boxes(), scores(), 0.5).tolist() == []
    assert suppress_nested(boxes(), scores(), 0.5).tolist() == []


def test_a_box_within_a_better_one_goes() -> None:
    nested = boxes((0, 0, 100, 100), (40, 40, 60, 60), (200, 200, 220, 220))
    assert suppress_nested(nested, scores(0.9, 0.8, 0.7), 0.7).tolist() == [0, 2]
    assert suppress(nested, scores(0.9, 0.8, 0.7), 0.7).tolist() == [0, 1, 2]


def test_areas_of_groups_are_compared_in_their_order() -> None:
    small, middle, large = boxes((0, 0, 10, 10), (5, 0, 17, 12)), boxes((0, 0, 15, 15)), boxes((0, 0, 40, 40))
    assert ratios_below(0.7, [small, boxes(), middle, large])
    assert not ratios_below(0.6, [small, boxes(), middle, large])
    assert not ratios_below(0.7, [middle, small])
    assert ratios_below(0.7, [])


@pytest.mark.parametrize("box", [(0, 0, 10, 20), (5, 5, 25, 9), (-3, -3, 3, 3)])
def test_squares_keep_centre_and_longer_side(box: tuple[float, float, float, float]) -> None:
    (x1, y1, x2, y2), (a1, b1, a2, b2) = squared(boxes(box))[0], box
    assert x2 - x1 == y2 - y1 == max(a2 - a1, b2 - b1)
    assert (x1 + x2, y1 + y2) == (a1 + a2, b1 + b2)


def test_regression_moves_sides_by_parts_of_the_size() -> None:
    offsets = np.array([[0.1, -0.1, 0.2, 0.0]], np.float32)
    np.testing.assert_allclose(regressed(boxes((0, 0, 9, 19)), offsets), [[1, -2, 11, 19]], atol=1e-5)
    np.testing.assert_allclose(regressed(boxes((0, 0, 10, 20)), offsets, extra=0), [[1, -2, 12, 20]], atol=1e-5)


def test_pixel_ranges_end_at_the_border() -> None:
    found = pixel_boxes(boxes((-5.5, 2.9, 30.2, 8.1), (25, 0, 40, 9), (1, 1, 5, 5)), 20, 10)
    assert found.tolist() == [[0, 1, 20, 8], [24, 0, 20, 9], [0, 0, 5, 5]]
