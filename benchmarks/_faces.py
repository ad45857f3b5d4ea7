"""Labelled pictures read the way of a frame: MTCNN, crop as JPEG, alignment, embedding. Shared with the tests."""

import csv
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facewire.domain.messages import DetectedFace, Frame
from facewire.domain.quality_gate import ENROLMENT, RECOGNITION, Gate, refusals
from facewire.stages.detect import FaceDetector
from facewire.vision.alignment import align
from facewire.vision.embedder import Embedder
from facewire.vision.facecrop import FaceInCrop
from facewire.vision.models import load_detector

BATCH = 64
#: LFW pictures are 250 px wide and show their person in the middle.
LFW_CENTRE = 125


@dataclass(frozen=True)
class Pair:
    """Two pictures of one fold of Labeled Faces in the Wild; `same` if they show one person."""

    fold: int
    first: Path
    second: Path
    same: bool


@dataclass(frozen=True)
class Face:
    """A detected face with its embedding."""

    detected: DetectedFace
    embedding: NDArray[np.float32]

    def passes(self, gate: Gate) -> bool:
        """Whether the face's quality is good enough."""
        assert self.detected.quality is not None
        return not refusals(self.detected.quality, self.detected.confidence, gate)


Pictures = dict[Path, list[Face]]


def read_pictures(paths: Iterable[Path], embedder: Embedder, *, threads: int = 2) -> Pictures:
    """Return the faces of each picture, largest first."""
    unique = sorted(set(paths))
    detector = FaceDetector(load_detector())
    with ThreadPoolExecutor(threads) as pool:
        detected = list(
            pool.map(lambda path: detector(Frame.of(path.read_bytes(), request_id=path.stem)).faces, unique)
        )
    flat = [face for faces in detected for face in faces]
    embedded = iter(zip(flat, embed(flat, embedder), strict=True))
    return {path: [Face(*next(embedded)) for _ in faces] for path, faces in zip(unique, detected, strict=True)}


def embed(faces: Sequence[DetectedFace], embedder: Embedder) -> NDArray[np.float32]:
    """Return the embeddings of detected faces, from their crops."""
    parts = [np.empty((0, embedder.spec.dimension), np.float32)]
    for start in range(0, len(faces), BATCH):
        in_crops = [FaceInCrop.of_detected(face) for face in faces[start : start + BATCH]]
        chips = [align(face.picture, face.box, face.landmarks, embedder.spec) for face in in_crops]
        parts.append(embedder.embed(np.stack(chips)))
    return np.concatenate(parts)


def to_enrol(faces: Sequence[Face]) -> Face:
    """Return the one face that may be enrolled: the largest that passes the gate."""
    return next(face for face in faces if face.passes(ENROLMENT))


def to_recognise(faces: Sequence[Face]) -> list[Face]:
    """Return the faces that are compared at all."""
    return [face for face in faces if face.passes(RECOGNITION)]


def central(faces: Sequence[Face]) -> Face:
    """Return the person an LFW picture is named after: large and near the middle."""

    def rank(face: Face) -> float:
        x1, y1, x2, y2 = face.detected.box
        off_centre = ((x1 + x2) / 2 - LFW_CENTRE) ** 2 + ((y1 + y2) / 2 - LFW_CENTRE) ** 2
        return (x2 - x1) * (y2 - y1) - 2 * off_centre

    return max(faces, key=rank)


def lfw_pairs(lfw: Path) -> list[Pair]:
    """Return the pairs of all folds in `pairs.csv`."""
    with (lfw / "pairs.csv").open(newline="") as lines:
        return [
            Pair(int(row["fold"]), lfw / row["file_a"], lfw / row["file_b"], row["same"] == "1")
            for row in csv.DictReader(lines)
        ]


def lfw_name(path: Path) -> str:
    """Return the person's name out of a file name such as `Tony_Blair_0086.jpg`."""
    return path.stem.rpartition("_")[0]
