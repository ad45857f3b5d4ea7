"""Arithmetic on face boxes as MTCNN does it: suppression, squaring, regression. Boxes are float32 x1, y1, x2, y2."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32]
Indices = NDArray[np.intp]


def suppress(boxes: Boxes, scores: NDArray[np.float32], overlap: float) -> Indices:
    """Return the indices of the boxes that stay, highest score first.

    A box goes if its intersection over union with a better one that stays is above `overlap`.
    """
    if not len(boxes):
        return np.zeros(0, np.intp)
    corners_and_sizes = boxes[:, :4].astype(np.float64)
    corners_and_sizes[:, 2:] -= corners_and_sizes[:, :2]
    kept: Any = cv2.dnn.NMSBoxes(corners_and_sizes, scores, 0.0, overlap)  # type: ignore[arg-type]
    return np.asarray(kept, np.intp).reshape(-1)


def suppress_nested(boxes: Boxes, scores: NDArray[np.float32], overlap: float) -> Indices:
    """Return what `suppress` would with the intersection over the smaller box, sizes counted in whole pixels."""
    x1, y1, x2, y2 = boxes.T
    areas = (x2 - x1 + 1) * (y2 - y1 + 1)
    pending = np.argsort(scores)
    kept = []
    while pending.size:
        best, pending = pending[-1], pending[:-1]
        kept.append(best)
        width = np.minimum(x2[best], x2[pending]) - np.maximum(x1[best], x1[pending]) + 1
        height = np.minimum(y2[best], y2[pending]) - np.maximum(y1[best], y1[pending]) + 1
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        pending = pending[shared / np.minimum(areas[best], areas[pending]) <= overlap]
    return np.array(kept, np.intp)


def ratios_below(limit: float, groups: Iterable[Boxes]) -> bool:
    """Return whether all areas in each group are below `limit` times those in the groups after it."""
    areas = [(group[:, 2] - group[:, 0]) * (group[:, 3] - group[:, 1]) for group in groups if len(group)]
    return all(small.max() < limit * large.min() for small, large in pairwise(areas))


def squared(boxes: Boxes) -> Boxes:
    """Return the boxes grown around their centres to squares of the longer side."""
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    side = np.maximum(width, height)
    half = np.float32(0.5)
    x1 = boxes[:, 0] + width * half - side * half
    y1 = boxes[:, 1] + height * half - side * half
    return np.stack([x1, y1, x1 + side, y1 + side], axis=1)


def regressed(boxes: Boxes, offsets: NDArray[np.float32], extra: int = 1) -> Boxes:
    """Return the boxes with each side moved by its offset times width or height (counted with `extra` pixels)."""
    width = boxes[:, 2] - boxes[:, 0] + extra
    height = boxes[:, 3] - boxes[:, 1] + extra
    return boxes + offsets * np.stack([width, height, width, height], axis=1)


def pixel_boxes(boxes: Boxes, width: int, height: int) -> NDArray[Any]:
    """Return the boxes as int64 pixel ranges within the image; one with nothing in it has no width or height."""
    whole = boxes.astype(np.int64)
    low = np.maximum(whole[:, :2], 1) - 1
    high = np.minimum(whole[:, 2:], [width, height])
    return np.concatenate([low, high], axis=1)
