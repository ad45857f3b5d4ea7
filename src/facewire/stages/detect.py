"""Frame -> DetectedFaces: decode, find the faces, cut a crop around each. No I/O; safe to call from several threads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facewire.domain.messages import (
    MAX_FACES,
    MAX_MESSAGE_BYTES,
    DetectedFace,
    DetectedFaces,
    FaceCrop,
    FaceQuality,
    Frame,
    FrameInfo,
    now,
)
from facewire.domain.timing import StepClock, milliseconds_between
from facewire.vision.facecrop import as_box, as_landmarks
from facewire.vision.imagecodec import MAX_PIXELS, decode, encode_jpeg
from facewire.vision.mtcnn import Detections
from facewire.vision.quality import assess

Picture = NDArray[np.uint8]
Coordinates = NDArray[np.float64]

#: Part of the box's width and height that a crop shows beyond each of its sides.
CROP_MARGIN = 0.4
#: Longest side of a crop in pixels and JPEG quality: as sent, then for messages that would grow too large.
CROP_FORMS = ((288, 92), (288, 80), (192, 80))
#: Bytes kept free in a message for what is not a crop: for each face (measured: about 700), and for the rest.
_FACE_BYTES, _MESSAGE_BYTES = 1_500, 20_000


@dataclass(frozen=True, slots=True)
class _Face:
    """One face of a frame, `picture` its crop at full size with the top left corner `origin`, in frame pixels."""

    box: Coordinates
    landmarks: Coordinates
    confidence: float
    quality: FaceQuality
    picture: Picture
    origin: Coordinates


class FaceDetector:
    """Finds the faces of frames with `find`, the MTCNN cascade or anything that takes RGB uint8 (h, w, 3) as it does.

    Frames of more than `max_pixels` are refused from their header.
    """

    def __init__(self, find: Callable[[Picture], Detections], *, max_pixels: int = MAX_PIXELS) -> None:
        self._find = find
        self._max_pixels = max_pixels

    def __call__(self, frame: Frame) -> DetectedFaces:
        """Return the faces of `frame`, largest first, each with its crop, landmarks and quality.

        Boxes are in pixels of the upright frame and may reach beyond it. The crop's margin of 40 % ends at the frame's
        edge. Timings are in milliseconds: `inbox` from receipt until now, `decode`, `detect`, `crop`. Raises
        DecodeError for a picture that cannot be decoded.
        """
        waited = milliseconds_between(frame.received_at, now())
        clock = StepClock()
        picture = decode(frame.content, max_pixels=self._max_pixels)
        clock.lap("decode")
        detections = self._find(picture)
        clock.lap("detect")
        faces = _encode([_cut(picture, detections, index) for index in range(min(len(detections), MAX_FACES))])
        clock.lap("crop")
        return DetectedFaces(
            **frame.model_dump(exclude={"content"}),
            frame=FrameInfo(width=picture.shape[1], height=picture.shape[0], bytes=len(frame.content)),
            faces_dropped=len(detections) - len(faces),
            faces=tuple(faces),
            timings_ms={"inbox": waited} | clock.timings_ms,
        )


def _cut(picture: Picture, detections: Detections, index: int) -> _Face:
    """Return the face `index` with its crop, which has at least one pixel even where the box lies beyond the frame."""
    box = detections.boxes[index].astype(np.float64)
    landmarks = detections.landmarks[index].astype(np.float64)
    size = np.array([picture.shape[1], picture.shape[0]])
    margin = CROP_MARGIN * (box[2:] - box[:2])
    left, top = np.clip(np.floor(box[:2] - margin), 0, size - 1).astype(int).tolist()
    right, bottom = np.clip(np.ceil(box[2:] + margin), (left + 1, top + 1), size).astype(int).tolist()
    return _Face(
        box=box,
        landmarks=landmarks,
        confidence=float(detections.confidences[index]),
        quality=assess(picture, box, landmarks),
        picture=picture[top:bottom, left:right],
        origin=np.array([left, top], np.float64),
    )


def _encode(faces: Sequence[_Face]) -> list[DetectedFace]:
    """Return the faces with the finest crops that fit into one message, without the smallest if none do."""
    detected: list[DetectedFace] = []
    for side, quality in CROP_FORMS:
        detected = [_encode_face(index, face, side, quality) for index, face in enumerate(faces)]
        if _fits(detected):
            return detected
    while not _fits(detected):
        detected.pop()
    return detected


def _fits(faces: Sequence[DetectedFace]) -> bool:
    in_base64 = sum(-(-len(face.crop.jpeg) // 3) * 4 for face in faces)
    return in_base64 + len(faces) * _FACE_BYTES + _MESSAGE_BYTES <= MAX_MESSAGE_BYTES


def _encode_face(index: int, face: _Face, side: int, quality: int) -> DetectedFace:
    picture = _shrink(face.picture, side)
    scale = np.array([picture.shape[1] / face.picture.shape[1], picture.shape[0] / face.picture.shape[0]])
    # The centre of the first pixel is at (0, 0), so its corner, which stays where it is, at (-0.5, -0.5).
    in_crop = (face.landmarks - face.origin + 0.5) * scale - 0.5
    return DetectedFace(
        index=index,
        box=as_box(face.box),
        landmarks=as_landmarks(face.landmarks),
        confidence=round(face.confidence, 6),
        crop=FaceCrop(jpeg=encode_jpeg(picture, quality), landmarks=as_landmarks(in_crop)),
        quality=face.quality,
    )


def _shrink(picture: Picture, side: int) -> Picture:
    """Return `picture` with a longest side of at most `side` pixels.

    Pillow's Hamming filter weighs every pixel, so nothing aliases, at a quarter of Lanczos' time.
    """
    height, width = picture.shape[:2]
    if max(height, width) <= side:
        return picture
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.HAMMING))
