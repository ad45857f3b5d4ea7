"""How fit a face is to be recognised, measured where the frame is: simple measures, comparable between cameras.

`domain/quality_gate.py` judges them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facewire.domain.messages import FaceQuality

#: Side in pixels to which the box is brought before sharpness and brightness are measured.
_MEASURED_SIZE = 112
#: A face in units of the distance between the eyes' centres: x right, y down, z towards the camera. The first two
#: are dlib's mean face, the depth is the common model of a head (nose tip 0.42 in front of the eyes).
_HEAD = np.array([[-0.5, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, 0.566, 0.42], [-0.446, 1.066, 0.03], [0.446, 1.066, 0.03]])
_HEAD_INVERSE = np.linalg.pinv(_HEAD - _HEAD.mean(0))


def assess(image: NDArray[np.uint8], box: NDArray[Any], landmarks: NDArray[Any]) -> FaceQuality:
    """Return the measures of one face in `image`, RGB uint8 (h, w, 3): the frame, or a crop of it at full size.

    `box` (x1, y1, x2, y2) and `landmarks` (5, 2) are in pixels of `image`. `size` is the box's short side in pixels;
    `sharpness` the variance of the Laplacian of its grey picture at 112 px (Pech-Pacheco et al. 2000); `brightness`
    its mean grey, 0 to 255; `yaw` (positive: nose towards the right of the image), `pitch` (positive: nose down) and
    `roll` (positive: clockwise) are degrees, good to about 10, from the landmarks.
    """
    corners = np.asarray(box, np.float64)
    grey = _grey_face(image, corners)
    yaw, pitch, roll = _pose(np.asarray(landmarks, np.float64))
    return FaceQuality(
        size=round(max(0.0, float((corners[2:] - corners[:2]).min())), 1),
        sharpness=round(_laplacian(grey).var().item(), 1),
        brightness=round(grey.mean().item(), 1),
        yaw=round(yaw, 1),
        pitch=round(pitch, 1),
        roll=round(roll, 1),
    )


def _grey_face(image: NDArray[np.uint8], box: NDArray[np.float64]) -> NDArray[np.float32]:
    height, width = image.shape[:2]
    left, top = np.clip(box[:2], 0, (width - 1, height - 1)).astype(int).tolist()
    right, bottom = np.clip(np.ceil(box[2:]), (left + 1, top + 1), (width, height)).astype(int).tolist()
    grey = Image.fromarray(np.ascontiguousarray(image[top:bottom, left:right])).convert("L")
    measured = grey.resize((_MEASURED_SIZE, _MEASURED_SIZE), Image.Resampling.BILINEAR)
    return np.asarray(measured, np.float32)


def _laplacian(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    inner = -4 * grey[1:-1, 1:-1]
    return inner + grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]


def _pose(landmarks: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return yaw, pitch and roll in degrees: the mean head seen from far away, turned so that it fits the landmarks.

    Pose from orthography and scaling: D. DeMenthon and L. Davis, "Model-based object pose in 25 lines of code", 1995.
    """
    right, down = (_HEAD_INVERSE @ (landmarks - landmarks.mean(0))).T
    roll = np.arctan2(down[0], right[0])
    sine, cosine = np.sin(roll), np.cos(roll)
    right, down = cosine * right + sine * down, cosine * down - sine * right
    yaw, pitch = np.arctan2(right[2], right[0]), np.arctan2(down[2], down[1])
    return float(np.degrees(yaw)), float(np.degrees(pitch)), float(np.degrees(roll))
