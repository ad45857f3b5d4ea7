"""Where the face is in a crop: its box and landmarks in the crop's own pixels."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from facewire.domain.errors import RecognizeError
from facewire.domain.messages import Box, DetectedFace, FaceCrop, Landmarks
from facewire.vision.imagecodec import decode

Coordinates = NDArray[np.float64]

#: A crop has at most 288 px a side; earlier deployments send the face alone, as large as they like up to this.
MAX_CROP_PIXELS = 4_000_000
#: The mean landmarks of 500 MTCNN faces of Labeled Faces in the Wild, made symmetric, in units of the box.
_MEAN_LANDMARKS = np.array([[0.276, 0.385], [0.724, 0.385], [0.5, 0.58], [0.303, 0.755], [0.697, 0.755]])
#: Landmarks whose spread (standard deviation, in pixels) is below this are no face.
_LEAST_SPREAD = 1.0


@dataclass(frozen=True, slots=True)
class FaceInCrop:
    """A decoded crop, RGB uint8 (h, w, 3), with the face's box (4,) and landmarks (5, 2) in its pixels."""

    picture: NDArray[np.uint8]
    box: Coordinates
    landmarks: Coordinates

    @classmethod
    def of_detected(cls, face: DetectedFace) -> Self:
        """Return the face in its crop. DecodeError for a picture, RecognizeError for landmarks that are not usable.

        A crop without landmarks, as earlier deployments send it, is taken for the box of a face that looks ahead.
        """
        picture = decode(face.crop.jpeg, max_pixels=MAX_CROP_PIXELS)
        if face.crop.landmarks is None:
            return cls._filled_by_face(picture)
        in_crop = np.array(face.crop.landmarks)
        if face.landmarks is None:
            raise RecognizeError("bad_message", f"faces.{face.index}: the crop has landmarks, the face has none")
        box = _moved(np.array(face.box).reshape(2, 2), np.array(face.landmarks), in_crop)
        return cls(picture, box.ravel(), in_crop)

    @classmethod
    def of_enrolled(cls, crop: FaceCrop) -> Self:
        """Return the face in a crop that was kept at enrolment by `to_crop`; errors as in `of_detected`."""
        picture = decode(crop.jpeg, max_pixels=MAX_CROP_PIXELS)
        if crop.landmarks is None or crop.box is None:
            raise RecognizeError("bad_message", "the enrolled crop has no landmarks or no box")
        return cls(picture, np.array(crop.box), np.array(crop.landmarks))

    @classmethod
    def _filled_by_face(cls, picture: NDArray[np.uint8]) -> Self:
        size = np.array([picture.shape[1], picture.shape[0]], np.float64)
        return cls(picture, np.concatenate([np.zeros(2), size]), _MEAN_LANDMARKS * size - 0.5)

    def to_crop(self, jpeg: bytes) -> FaceCrop:
        """Return the crop as it is kept at enrolment, `jpeg` its encoded picture."""
        return FaceCrop(jpeg=jpeg, landmarks=as_landmarks(self.landmarks), box=as_box(self.box))


def _moved(points: Coordinates, source: Coordinates, target: Coordinates) -> Coordinates:
    """Return `points` moved and scaled as `source` has to be to fall on `target` (least squares), all (n, 2)."""
    spread = source - source.mean(0)
    if not np.isfinite([source, target]).all() or spread.std() < _LEAST_SPREAD:
        raise RecognizeError("bad_landmarks", "the landmarks must be five different points inside the frame")
    scale = (spread * (target - target.mean(0))).sum() / (spread**2).sum()
    moved: Coordinates = (points - source.mean(0)) * scale + target.mean(0)
    return moved


def as_box(corners: Coordinates) -> Box:
    """Return x1, y1, x2, y2, rounded to hundredths of a pixel, as messages have it."""
    x1, y1, x2, y2 = corners.round(2).tolist()
    return x1, y1, x2, y2


def as_landmarks(points: Coordinates) -> Landmarks:
    """Return the five points (5, 2), rounded to hundredths of a pixel, as messages have them."""
    left_eye, right_eye, nose, left_mouth, right_mouth = ((x, y) for x, y in points.round(2).tolist())
    return left_eye, right_eye, nose, left_mouth, right_mouth
