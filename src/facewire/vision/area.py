"""Exact area resampling: the mean over windows of whole pixels, as torch's `interpolate(mode="area")` takes it.

Output cell i of n covers the input pixels floor(i * size / n) to ceil((i + 1) * size / n). OpenCV's INTER_AREA weighs
border pixels by their share instead, which moves MTCNN's boxes by up to 23 px and can lose a face.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Windows = tuple[Array, Array]

#: Up to this ratio of sizes a window has at most 15 x 15 pixels, so its sum fits 16 bits.
_MAX_SHORT_RATIO = 14.0
#: Stands for the 16 bytes of an entry of the integral image, four int32, so that `take` copies them in one piece.
_ENTRY = np.complex128


@lru_cache(256)
def windows(size: int, count: int) -> Windows:
    """Return starts and ends, int64 (count,), of the input windows of `count` output cells."""
    cells = np.arange(count)
    return cells * size // count, -(-(cells + 1) * size // count)


class AreaImage:
    """An image of uint8 (h, w, 3) from which parts of any smaller or larger picture of it are taken."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        self.height, self.width = image.shape[:2]
        self._lines = _running_sums(np.ascontiguousarray(image).reshape(self.height, -1))
        # int32 sums wrap around beyond 8.4 megapixels; differences over one window are right all the same. The fourth
        # channel makes an entry 16 bytes, which `take` fetches almost twice as fast as 12.
        self._integral = cv2.integral(cv2.cvtColor(image, cv2.COLOR_RGB2RGBA))

    def rows(
        self, height: int, width: int, first: int, last: int, pieces: Iterable[slice] = (slice(None),)
    ) -> Iterator[NDArray[np.float32]]:
        """Yield rows `first` to `last` of the image resampled to `height` x `width`, piece by piece.

        Each of the `pieces`, ranges of columns, is float32 (1, 3, rows, columns), contiguous.
        """
        top, bottom = windows(self.height, height)
        y, x = (top[first:last], bottom[first:last]), windows(self.width, width)
        scale = np.float32(1) / np.outer(_float32(y[1] - y[0]), _float32(x[1] - x[0]))
        short = max(self.height / height, self.width / width) <= _MAX_SHORT_RATIO
        sums = self._sum_short_windows(y, x) if short else self._sum_long_windows(y, x)
        for piece in pieces:
            part = sums[:, :, piece].astype(np.float32, order="C")
            part *= scale[:, piece]
            yield part[None]

    def _sum_long_windows(self, y: Windows, x: Windows) -> NDArray[np.int32]:
        """Return the sums over all windows, int32 (3, rows, columns)."""
        entries = (self._integral[y[1]] - self._integral[y[0]]).view(_ENTRY)[..., 0]
        sums = entries.take(x[1], axis=1).view(np.int32) - entries.take(x[0], axis=1).view(np.int32)
        planes: NDArray[np.int32] = sums.reshape(len(y[0]), -1, 4).transpose(2, 0, 1)[:3]
        return planes

    def _sum_short_windows(self, y: Windows, x: Windows) -> NDArray[np.uint16]:
        """Return the sums over all windows, uint16 (3, rows, columns)."""
        sums = self._lines.take(y[1], axis=0)
        sums -= self._lines.take(y[0], axis=0)
        # Transposed, a line holds one column of the image: all its red, then green, then blue.
        columns = np.empty((self.width + 1, 3 * len(sums)), np.uint16)
        cv2.transpose(sums, dst=columns[:-1].reshape(-1, len(sums)))
        columns[-1] = 0
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
        areas = _float32(bottom - top)[:, :, None] * _float32(right - left)[:, None, :]
        return _means(sums, np.float32(1) / areas[:, None])

    def _corners(self, y: Array, x: Array) -> NDArray[np.int32]:
        entries = self._integral.view(_ENTRY).reshape(-1)
        taken = entries.take((y * (self.width + 1))[:, :, None] + x[:, None, :])
        sums: NDArray[np.int32] = taken.view(np.int32).reshape(*taken.shape, 4)
        return sums


def _means(sums: NDArray[np.int32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return sums of (n, rows, columns, 4) times the scale as float32 (n, 3, rows, columns)."""
    planes = sums.transpose(0, 3, 1, 2)[:, :3]
    result = np.empty(planes.shape, np.float32)
    return np.multiply(planes, scale, out=result, dtype=np.float32, casting="same_kind")


def _float32(lengths: Array) -> NDArray[np.float32]:
    return lengths.astype(np.float32)


def _running_sums(lines: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Return the sums of the first 0, 1, 2... lines; they wrap around, which their differences over 257 lines undo."""
    sums = np.empty((len(lines) + 1, lines.shape[1]), np.uint16)
    sums[0], sums[1:] = 0, lines
    for above, line in pairwise(sums):  # np.cumsum walks down the columns, which takes five times as long
        np.add(above, line, out=line)
    return sums


def _sum_taps(lines: NDArray[np.uint16], starts: Array, ends: Array) -> NDArray[np.uint16]:
    """Return the sums of the lines from `starts` to `ends`; the last line is all zeros, for the shorter windows."""
    lengths = ends - starts
    shortest = lengths.min()
    sums = lines.take(starts, axis=0)
    for tap in range(1, lengths.max()):
        taken = starts + tap if tap < shortest else np.where(lengths > tap, starts + tap, len(lines) - 1)
        cv2.add(sums, lines.take(taken, axis=0), dst=sums)
    return sums
