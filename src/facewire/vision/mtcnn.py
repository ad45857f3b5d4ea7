"""Face detection by MTCNN, with the results of `facenet_pytorch.MTCNN(keep_all=True)`.

Zhang et al., "Joint Face Detection and Alignment using Multitask Cascaded Convolutional Networks", 2016. P-Net looks
for candidates at every scale, R-Net refuses most, O-Net decides and places the landmarks. Work is cut into pieces that
stay in a core's cache: strips of a scale for P-Net, small batches of crops for the other two.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from facewire.vision.area import AreaImage
from facewire.vision.boxes import pixel_boxes, ratios_below, regressed, squared, suppress, suppress_nested
from facewire.vision.onnx_session import open_session

Array = NDArray[np.float32]
Net = Callable[[Array], Array]
Task = TypeVar("Task")
Result = TypeVar("Result")

#: Side in pixels of what one P-Net cell sees, and the step from cell to cell.
CELL = 12
STRIDE = 2
#: P-Net's maps are made in pieces of about so many cells, whose inner layers stay in a core's cache.
_PIECE_ROWS, _PIECE_COLUMNS = 64, 112
_PIECE_OVERLAP = CELL - STRIDE
_RNET_SIZE, _RNET_BATCH = 24, 16
_ONET_SIZE, _ONET_BATCH = 48, 4
#: Crops are cut for so many batches at a time: cutting gains from numbers, the networks from what fits the cache.
_BATCHES_CUT = 2
#: Candidates are judged by bands of so many lines, from left to right in a band: those of a batch share cache lines.
_NEIGHBOURHOOD = 128
_OVERLAP_WITHIN_SCALE = 0.5
_OVERLAP = 0.7


@dataclass(frozen=True, slots=True)
class Detections:
    """The faces of one image, largest first; n is their number, coordinates are pixels from the top left.

    `boxes` float32 (n, 4) is x1, y1, x2, y2 and may reach beyond the image; `confidences` float32 (n,) is 0 to 1;
    `landmarks` float32 (n, 5, 2) is x, y of left eye, right eye, nose, left and right mouth corner as the image shows.
    """

    boxes: Array
    confidences: Array
    landmarks: Array

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def none(cls) -> Self:
        """Return the detections of an image without a face."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 5, 2), np.float32))


@dataclass(frozen=True, slots=True)
class Options:
    """Smallest face in pixels (at least 12), the thresholds of the three nets, and the factor from scale to scale.

    Of what P-Net finds at one scale, no more than the best `most_candidates` go on: suppression takes time by their
    square. A crowd of 770 faces in 40 megapixels has 27,000; only a picture made of faces alone has more than 30,000.
    """

    min_face_size: int = 20
    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7)
    factor: float = 0.709
    most_candidates: int = 30_000

    def __post_init__(self) -> None:
        if self.min_face_size < CELL:
            message = f"min_face_size is {self.min_face_size}, must be at least {CELL} pixels"
            raise ValueError(message)
        if len(self.thresholds) != 3 or not all(0 < threshold < 1 for threshold in self.thresholds):  # noqa: PLR2004
            message = f"thresholds is {self.thresholds}, must be three numbers between 0 and 1"
            raise ValueError(message)
        if not 0 < self.factor < 1:
            message = f"factor is {self.factor}, must be between 0 and 1"
            raise ValueError(message)
        if self.most_candidates < 1:
            message = f"most_candidates is {self.most_candidates}, must be at least 1"
            raise ValueError(message)


class Nets(NamedTuple):
    """The three networks: float32 pictures (n, 3, h, w) of 0..255 in, the output of `convert_mtcnn` out."""

    pnet: Net
    rnet: Net
    onet: Net


class _Candidates(NamedTuple):
    boxes: Array
    scores: Array
    offsets: Array

    def take(self, indices: Any) -> "_Candidates":
        return _Candidates(*(part[indices] for part in self))

    def best(self, most: int) -> "_Candidates":
        if len(self.scores) <= most:
            return self
        return self.take(np.sort(np.argpartition(-self.scores, most)[:most]))


class _Strip(NamedTuple):
    """Rows `first` to `last` of P-Net's map of the image at `height` x `width`."""

    height: int
    width: int
    first: int
    last: int


class Mtcnn:
    """The cascade; one instance may be called from several threads at once."""

    def __init__(self, nets: Nets, options: Options | None = None, *, threads: int = 1) -> None:
        if threads < 1:
            message = f"threads is {threads}, must be at least 1"
            raise ValueError(message)
        self._nets = nets
        self._options = options or Options()
        self._pool = ThreadPoolExecutor(threads, "mtcnn") if threads > 1 else None

    @classmethod
    def load(cls, folder: Path, *, threads: int = 1, **options: Any) -> Self:
        """Return the cascade over `pnet.onnx`, `rnet.onnx` and `onet.onnx` of the folder.

        `threads` work on one image together; for several images at a time, call one instance from several threads
        instead. `options` are those of `Options`. Raises ModelError for a missing or broken file, ValueError for an
        option out of its range.
        """
        cv2.setNumThreads(1)  # OpenCV's own threads would fight with the callers' for the cores
        nets = (_OnnxNet(folder / f"{name}.onnx") for name in ("pnet", "rnet", "onet"))
        return cls(Nets(*nets), Options(**options), threads=threads)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the threads, if there are any of its own."""
        if self._pool:
            self._pool.shutdown()

    def __call__(self, image: NDArray[np.uint8]) -> Detections:
        """Return the faces of an RGB image, uint8 (h, w, 3), of any size.

        Raises ValueError if the array is of another kind.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:  # noqa: PLR2004
            message = f"the image is {image.dtype} {image.shape}, must be uint8 (height, width, 3)"
            raise ValueError(message)
        scales = list(self._scales(min(image.shape[:2])))
        if not scales:
            return Detections.none()
        area = AreaImage(image)
        boxes = self._propose(area, scales)
        if len(boxes):
            boxes = self._refine(area, boxes)
        return self._decide(area, boxes) if len(boxes) else Detections.none()

    def _scales(self, short_side: int) -> Iterator[float]:
        scale = CELL / self._options.min_face_size
        side = short_side * scale
        while side >= CELL:
            yield scale
            scale *= self._options.factor
            side *= self._options.factor

    def _propose(self, area: AreaImage, scales: list[float]) -> Array:
        strips = [list(_strips(area, scale)) for scale in scales]
        found = iter(self._map(partial(self._look, area), [strip for level in strips for strip in level]))
        levels = []
        for scale, level in zip(scales, strips, strict=True):
            cells = np.concatenate([next(found) for _ in level])
            candidates = _candidates(cells, scale).best(self._options.most_candidates)
            levels.append(candidates.take(suppress(candidates.boxes, candidates.scores, _OVERLAP_WITHIN_SCALE)))
        boxes, _, offsets = _suppressed_across(levels)
        return _with_pixels(squared(regressed(boxes, offsets, extra=0)), area)

    def _look(self, area: AreaImage, strip: _Strip) -> Array:
        """Return the cells that pass, (n, 7): column and row in the map of the scale, P-Net's five numbers."""
        end = min(strip.height, STRIDE * strip.last + _PIECE_OVERLAP)
        pieces = area.rows(strip.height, strip.width, STRIDE * strip.first, end, _pieces(strip.width))
        cells = np.concatenate([self._nets.pnet(x)[0] for x in pieces], axis=2)
        # Through flat indices, since `nonzero` is slow on more than one dimension.
        passed = np.flatnonzero(cells[0] >= _logit(self._options.thresholds[0]))
        row, column = np.divmod(passed, cells.shape[2])
        found = cells.reshape(len(cells), -1).take(passed, axis=1)
        return np.concatenate([[column, row + strip.first], found]).T.astype(np.float32)

    def _refine(self, area: AreaImage, boxes: Array) -> Array:
        judged = self._judge(self._nets.rnet, area, boxes, _RNET_SIZE, _RNET_BATCH)
        scores = _probabilities(judged[:, 0])
        passed = np.flatnonzero(scores > self._options.thresholds[1])
        picked = passed[suppress(boxes[passed], scores[passed], _OVERLAP)]
        return _with_pixels(squared(regressed(boxes[picked], judged[picked, 1:])), area)

    def _decide(self, area: AreaImage, boxes: Array) -> Detections:
        judged = self._judge(self._nets.onet, area, boxes, _ONET_SIZE, _ONET_BATCH)
        scores = _probabilities(judged[:, 0])
        passed = scores > self._options.thresholds[2]
        boxes, scores, judged = boxes[passed], scores[passed], judged[passed]
        points = _in_pixels(judged[:, 5:], boxes)
        boxes = regressed(boxes, judged[:, 1:5])
        kept = suppress_nested(boxes, scores, _OVERLAP)
        sizes = (boxes[kept, 2] - boxes[kept, 0]) * (boxes[kept, 3] - boxes[kept, 1])
        order = kept[np.argsort(sizes, kind="stable")[::-1]]
        return Detections(boxes[order], scores[order], points[order])

    def _judge(self, net: Net, area: AreaImage, boxes: Array, size: int, batch: int) -> Array:
        def judge(part: NDArray[np.int64]) -> Array:
            crops = area.crops(part, size)
            return np.concatenate([net(crops[start : start + batch]) for start in range(0, len(crops), batch)])

        whole = pixel_boxes(boxes, area.width, area.height)
        order = np.lexsort((whole[:, 0], whole[:, 1] // _NEIGHBOURHOOD))
        cut = _BATCHES_CUT * batch
        judged = self._map(judge, [whole[order[start : start + cut]] for start in range(0, len(order), cut)])
        return np.concatenate(judged)[np.argsort(order)]

    def _map(self, work: Callable[[Task], Result], tasks: Iterable[Task]) -> list[Result]:
        return list(self._pool.map(work, tasks) if self._pool else map(work, tasks))


class _OnnxNet:
    """A network from a file: one array in, one out."""

    def __init__(self, path: Path) -> None:
        self._session = open_session(path)

    def __call__(self, x: Array) -> Array:
        output: Array = self._session.run(None, {"input": x})[0]
        return output


def _strips(area: AreaImage, scale: float) -> Iterator[_Strip]:
    height, width = int(area.height * scale + 1), int(area.width * scale + 1)
    for first, last in _evenly(_cells(height), _PIECE_ROWS):
        yield _Strip(height, width, first, last)


def _pieces(width: int) -> Iterator[slice]:
    """Yield the columns of a strip that give one piece of its map each."""
    for first, last in _evenly(_cells(width), _PIECE_COLUMNS):
        yield slice(STRIDE * first, min(width, STRIDE * last + _PIECE_OVERLAP))


def _cells(side: int) -> int:
    """Return the side of P-Net's map: 3x3, then a pooling that rounds up, then 3x3 twice."""
    return -(-(side - 2) // STRIDE) - 4


def _evenly(count: int, most: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of the fewest equal parts of at most `most`."""
    parts = -(-count // most)
    yield from pairwise(count * part // parts for part in range(parts + 1))


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def _probabilities(logits: Array) -> Array:
    floor = np.float32(-80)  # exp(80) is still a float32
    probabilities: Array = np.reciprocal(1 + np.exp(-np.maximum(logits, floor)))
    return probabilities


def _candidates(found: Array, scale: float) -> _Candidates:
    corners = found[:, :2] * STRIDE
    boxes = np.floor(np.concatenate([corners + 1, corners + CELL], axis=1) / np.float32(scale))
    return _Candidates(boxes, _probabilities(found[:, 2]), found[:, 3:])


def _suppressed_across(levels: Sequence[_Candidates]) -> _Candidates:
    """Return the candidates of all levels, small ones first, that suppression leaves, highest score first.

    The levels are free of overlaps already, and two boxes cannot overlap more than their areas' ratio.
    """
    candidates = _Candidates(*(np.concatenate(arrays) for arrays in zip(*levels, strict=True)))
    if ratios_below(_OVERLAP, [level.boxes for level in levels]):
        return candidates.take(np.argsort(-candidates.scores, kind="stable"))
    return candidates.take(suppress(candidates.boxes, candidates.scores, _OVERLAP))


def _with_pixels(boxes: Array, area: AreaImage) -> Array:
    whole = pixel_boxes(boxes, area.width, area.height)
    return boxes[(whole[:, 2:] > whole[:, :2]).all(axis=1)]


def _in_pixels(landmarks: Array, boxes: Array) -> Array:
    corner, size = boxes[:, None, :2], (boxes[:, None, 2:] - boxes[:, None, :2]) + 1
    return landmarks.reshape(-1, 2, 5).transpose(0, 2, 1) * size + corner - 1
