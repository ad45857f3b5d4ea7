"""Brings a face out of its crop into the square picture an embedder was trained on, with Pillow and NumPy alone.

Coordinates are pixels of the given picture, origin top left, x right, y down, the centre of the first pixel at (0, 0).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facewire.domain.errors import RecognizeError
from facewire.vision.embedder import ModelSpec

Array = NDArray[np.float64]

#: Mean places of both eyes' centres, the nose and the mouth corners in dlib's chips, as it crops its training pictures.
_DLIB = np.array(
    [[0.225492, 0.215990], [0.754761, 0.215990], [0.490127, 0.515625], [0.254149, 0.780233], [0.726104, 0.780233]]
)
#: Where the eyes, the nose and the mouth corners go in a chip. `dlib_chip` (160 px): dlib's chip of 150 px with padding
#: 0.25, which is 25 + 100 * place, 1.05 times as large, with room for the two views; both were chosen on LFW fold 1.
#: `face_api_chip` (112 px): dlib's chip with padding 0.25 as it is, which suits face-api's nets (docs/attributes.md).
#: `arcface_chip` (112 px): Deng et al., "ArcFace" (2019), as OpenCV's FaceRecognizerSF uses it for SFace.
_TEMPLATES = {
    "dlib_chip": np.array([27.5, 28.5]) + 105 * _DLIB,
    "face_api_chip": (0.25 + _DLIB) / 1.5 * 112 - 0.5,
    "arcface_chip": np.array(
        [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
    ),
}
#: FaceNet's margin in pixels of a 160 px input: facenet_pytorch.extract_face.
_BOX_MARGIN = 14
#: Landmarks whose spread (standard deviation, in pixels) is below this are no face.
_LEAST_SPREAD = 1.0


def align(image: NDArray[np.uint8], box: NDArray[Any], landmarks: NDArray[Any], spec: ModelSpec) -> NDArray[np.uint8]:
    """Return the face as RGB uint8 (spec.size, spec.size, 3), as the model of `spec` wants it.

    `image` is RGB uint8 (h, w, 3), usually a face crop; `box` is x1, y1, x2, y2 and `landmarks` (5, 2) are left eye,
    right eye, nose, left and right mouth corner, all in pixels of `image`.

    The chips are cut by the similarity that fits the template to the landmarks best. Beyond the edge of `image` they
    repeat its outermost pixels: cut faces with black or mirrored edges resemble each other (docs/embedders.md).
    `box_crop` uses the box alone, without rotation, as facenet_pytorch.extract_face does on Pillow images. Raises
    RecognizeError with code `bad_landmarks` or `bad_box`.
    """
    if spec.alignment == "box_crop":
        return _crop_box(image, np.asarray(box, np.float64), spec.size)
    to_image = similarity(_TEMPLATES[spec.alignment], np.asarray(landmarks, np.float64))
    return _cut_chip(image, to_image, spec.size)


def similarity(source: Array, target: Array) -> Array:
    """Return the rotation, scale and shift, float64 (2, 3), that bring `source` closest to `target`, both (n, 2).

    Least squares without mirroring: S. Umeyama, "Least-squares estimation of transformation parameters between two
    point patterns", 1991. Raises RecognizeError if `target`'s points are not finite or fall together.
    """
    if target.shape != source.shape or not np.isfinite(target).all() or target.std(0).max() < _LEAST_SPREAD:
        raise RecognizeError("bad_landmarks", "the landmarks must be five different points inside the face crop")
    a, b = source - source.mean(0), target - target.mean(0)
    left, stretch, right = np.linalg.svd(b.T @ a)
    signs = np.array([1.0, np.sign(np.linalg.det(left @ right))])
    rotation = (left * signs) @ right
    scale = (stretch * signs).sum() / (a**2).sum()
    return np.hstack([scale * rotation, (target.mean(0) - scale * rotation @ source.mean(0))[:, None]])


def _cut_chip(image: NDArray[np.uint8], to_image: Array, size: int) -> NDArray[np.uint8]:
    """Resample `image` at `to_image` of every pixel of the chip."""
    picture, shift = _extend(image, to_image, size)
    linear, offset = to_image[:, :2], to_image[:, 2] + shift
    shrink = max(1, int(np.hypot(*linear[:, 0])))
    if shrink > 1:  # bilinear sampling would skip pixels
        picture = picture.reduce(shrink)
        # Pixel i of the reduced picture is centred on pixel (i + 0.5) * shrink - 0.5 of the larger one.
        linear, offset = linear / shrink, (offset + 0.5) / shrink - 0.5
    # Pillow's coordinates have the first pixel's centre at (0.5, 0.5), in the chip as in the picture.
    offset = offset + 0.5 - linear @ np.array([0.5, 0.5])
    coefficients = np.hstack([linear, offset[:, None]]).ravel()
    chip = picture.transform((size, size), Image.Transform.AFFINE, coefficients.tolist(), Image.Resampling.BILINEAR)
    return np.asarray(chip)


def _extend(image: NDArray[np.uint8], to_image: Array, size: int) -> tuple[Image.Image, Array]:
    """Return the picture, extended as far as the chip reaches but at most by its own size, and by how much it moved."""
    height, width = image.shape[:2]
    corners = np.array([[0, 0], [size, 0], [0, size], [size, size]]) @ to_image[:, :2].T + to_image[:, 2]
    extent = np.array([width, height])
    before = np.clip(np.ceil(1 - corners.min(0)), 0, extent).astype(int)
    after = np.clip(np.ceil(corners.max(0) - extent + 1), 0, extent).astype(int)
    if before.any() or after.any():
        image = np.pad(image, ((before[1], after[1]), (before[0], after[0]), (0, 0)), mode="edge")
    return Image.fromarray(image), before.astype(np.float64)


def _crop_box(image: NDArray[np.uint8], box: Array, size: int) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    if not np.isfinite(box).all():
        raise RecognizeError("bad_box", f"the box {box.tolist()} is not finite")
    margin = _BOX_MARGIN * (box[2:] - box[:2]) / (size - _BOX_MARGIN) / 2
    left, top = np.maximum(box[:2] - margin, 0).astype(int).tolist()
    right, bottom = np.minimum(box[2:] + margin, (width, height)).astype(int).tolist()
    if right <= left or bottom <= top:
        raise RecognizeError("bad_box", f"the box {box.tolist()} has no part in the crop of {width}x{height} pixels")
    face = Image.fromarray(image).crop((left, top, right, bottom))
    return np.asarray(face.resize((size, size), Image.Resampling.BILINEAR))
