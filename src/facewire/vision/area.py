"""Exact area resampling: the mean over windows of whole pixels, as torch's `interpolate(mode="area")` takes it.

Output cell i of n covers the input pixels floor(i * size / n) to ceil((i + 1) * size / n). OpenCV's INTER_AREA weighs
border pixels by their share instead, which moves MTCNN's boxes by up to 23 px and can lose a face.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: Summing taps is quicker than an integral image up to about this ratio of sizes; sums of its windows fit 16 bits.
_MAX_TAP_RATIO = 5.0


def windows(size: int, count: int, first: int = 0, last: int | None = None) -> tuple[Array, Array]:
    """Return starts and ends, int64 (n,), of the input windows of output cells `first` to `last` of `count`."""
    cells = np.arange(first, count if last is None else last)
    return cells * size // count, -(-(cells + 1) * size // count)


class AreaImage:
    """An image of uint8 (h, w, 3) from which parts of any smaller or larger picture of it are taken."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        self.height, self.width = image.shape[:2]
        self._planes = cv2.split(image)
        # int32 sums wrap around beyond 8.4 megapixels; differences over one window are right all the same.
        self._integral = cv2.integral(image)

    def rows(self, height: int, width: int, first: int, last: int) -> NDArray[np.float32]:
        """Return rows `first` to `last` of the image resampled to `height` x `width`: float32 (1, 3, rows, width)."""
        y = windows(self.height, height, first, last)
        x = windows(self.width, width)
        areas = np.outer(y[1] - y[0], x[1] - x[0]).astype(np.float32)
        if max(self.height / height, self.width / width) > _MAX_TAP_RATIO:
            return self._rows_by_integral(y, x) / areas
        scale = 1 / areas
        result = np.empty((1, 3, last - first, width), np.float32)
        for channel, plane in enumerate(self._planes):
            sums = cv2.transpose(_sum_taps(cv2.transpose(_sum_taps(plane, *y)), *x))
            cv2.multiply(sums, scale, dst=result[0, channel], dtype=cv2.CV_32F)
        return result

    def _rows_by_integral(self, y: tuple[Array, Array], x: tuple[Array, Array]) -> NDArray[np.float32]:
        sums = self._integral[y[1]] - self._integral[y[0]]
        sums = sums[:, x[1]] - sums[:, x[0]]
        return np.ascontiguousarray(sums.transpose(2, 0, 1)[None], np.float32)

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


def _sum_taps(plane: Array, starts: Array, ends: Array) -> NDArray[np.uint16]:
    """Return the sums of the rows from `starts` to `ends`: uint16 (n, w) from uint8 or uint16 (h, w)."""
    lengths = ends - starts
    sums = plane[starts].astype(np.uint16, copy=False)
    for tap in range(1, int(lengths.max())):
        longer = np.flatnonzero(lengths > tap)
        if len(longer) == len(lengths):
            sums = cv2.add(sums, plane[starts + tap], dtype=cv2.CV_16U)
        else:
            sums[longer] = cv2.add(sums[longer], plane[starts[longer] + tap], dtype=cv2.CV_16U)
    return sums
