"""Exact area resampling: the mean over windows of whole pixels, as torch's `interpolate(mode="area")` takes it.

Output cell i of n covers the input pixels floor(i * size / n) to ceil((i + 1) * size / n). OpenCV's INTER_AREA weighs
border pixels by their share instead, which moves MTCNN's boxes by up to 23 px and can lose a face.
"""

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Windows = tuple[Array, Array]

#: Summing taps is quicker than an integral image up to about this ratio of sizes; sums of its windows fit 16 bits.
_MAX_TAP_RATIO = 5.0


@lru_cache(256)
def windows(size: int, count: int) -> Windows:
    """Return starts and ends, int64 (count,), of the input windows of `count` output cells."""
    cells = np.arange(count)
    return cells * size // count, -(-(cells + 1) * size // count)


class AreaImage:
    """An image of uint8 (h, w, 3) from which parts of any smaller or larger picture of it are taken."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        self.height, self.width = image.shape[:2]
        self._lines = np.ascontiguousarray(image).reshape(self.height, -1)
        # int32 sums wrap around beyond 8.4 megapixels; differences over one window are right all the same.
        self._integral = cv2.integral(image)

    def rows(self, height: int, width: int, first: int, last: int) -> NDArray[np.float32]:
        """Return rows `first` to `last` of the image resampled to `height` x `width`: float32 (1, 3, rows, width)."""
        top, bottom = (side[first:last] for side in windows(self.height, height))
        left, right = windows(self.width, width)
        scale = (1 / np.outer(bottom - top, right - left)).astype(np.float32)
        if max(self.height / height, self.width / width) > _MAX_TAP_RATIO:
            sums = self._integral[bottom] - self._integral[top]
            sums = sums[:, right] - sums[:, left]
            result = np.ascontiguousarray(sums.transpose(2, 0, 1)[None], np.float32)
            result *= scale
            return result
        planes = self._sum_windows((top, bottom), (left, right))
        result = np.empty((1, *planes.shape), np.float32)
        for plane, target in zip(planes, result[0], strict=True):
            cv2.multiply(plane, scale, dst=target, dtype=cv2.CV_32F)
        return result

    def _sum_windows(self, y: Windows, x: Windows) -> NDArray[np.uint16]:
        """Return the sums over all windows, uint16 (3, rows, columns)."""
        start, end = y[0][0], y[1][-1]
        lines = _with_zero_line(end - start, 3 * self.width)
        lines[:-1] = self._lines[start:end]
        sums = _sum_taps(lines, y[0] - start, y[1] - start)
        # Transposed, a line holds one column of the image: all its red, then green, then blue.
        columns = _with_zero_line(self.width, 3 * len(sums))
        cv2.transpose(sums, dst=columns[:-1].reshape(-1, len(sums)))
        planes: NDArray[np.uint16] = cv2.transpose(_sum_taps(columns, *x)).reshape(3, len(sums), -1)
        return planes

    def crops(self, boxes: NDArray[np.int64], size: int) -> NDArray[np.float32]:
        """Return the parts within `boxes`, each resampled to `size` x `size`: float32 (n, 3, size, size).

        `boxes` is (n, 4): x1, y1, x2, y2, at least one pixel wide and high, all inside the image.
        """
        x1, y1, x2, y2 = (side[:, None] for side in boxes.T)
        cells = np.arange(size)
        top, bottom = y1 + cells * (y2 - y1) // size, y1 - (-(cells + 1) * (y2 - y1) // size)
        left, right = x1 + cells * (x2 - x1) // size, x1 - (-(cells + 1) * (x2 - x1) // size)
        sums = self._corners(bottom, right)
        sums -= self._corners(top, right)
        sums -= self._corners(bottom, left)
        sums += self._corners(top, left)
        areas = (bottom - top)[:, :, None] * (right - left)[:, None, :]
        result = np.ascontiguousarray(sums.transpose(0, 3, 1, 2), np.float32)
        result *= (1 / areas).astype(np.float32)[:, None]
        return result

    def _corners(self, y: Array, x: Array) -> NDArray[np.int32]:
        flat = y[:, :, None] * (self.width + 1) + x[:, None, :]
        sums: NDArray[np.int32] = self._integral.reshape(-1, 3).take(flat, axis=0)
        return sums


def _with_zero_line(count: int, length: int) -> NDArray[np.uint16]:
    lines = np.empty((count + 1, length), np.uint16)
    lines[-1] = 0
    return lines


def _sum_taps(lines: NDArray[np.uint16], starts: Array, ends: Array) -> NDArray[np.uint16]:
    """Return the sums of the lines from `starts` to `ends`; the last line is all zeros, for the shorter windows."""
    lengths = ends - starts
    shortest = lengths.min()
    sums = lines.take(starts, axis=0)
    for tap in range(1, lengths.max()):
        taken = starts + tap if tap < shortest else np.where(lengths > tap, starts + tap, len(lines) - 1)
        cv2.add(sums, lines.take(taken, axis=0), dst=sums)
    return sums
