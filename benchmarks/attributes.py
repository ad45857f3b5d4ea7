"""Prints how often the model of attributes errs, on public figures in Labeled Faces in the Wild, and what it costs.

Usage: python benchmarks/attributes.py [--data FOLDER]; needs the model: docs/attributes.md

attributes.csv holds people whose year of birth is public knowledge. The pictures were taken from 2002 to 2004, some
earlier: the age is reckoned for 2003 and may be wrong by a year or more. Each person counts once, whatever the number
of her or his pictures. Expressions have no labels there: printed is how often each is the most probable.
"""

import argparse
import csv
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from _faces import LFW_CENTRE
from _machine import describe
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from facewire.domain.messages import DetectedFace, FaceAttributes, Frame
from facewire.runtime.settings import Settings
from facewire.stages.detect import FaceDetector
from facewire.vision.alignment import align
from facewire.vision.facecrop import FaceInCrop
from facewire.vision.models import ATTRIBUTES, DEFAULT_EMBEDDER, load_attributes, load_detector, load_embedder

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
LABELS = Path(__file__).with_suffix(".csv")
TAKEN = 2003
BATCH = 8
ROUNDS = 40
BANDS = ((0, 30), (30, 45), (45, 60), (60, 90))


@dataclass(frozen=True)
class Guessed:
    """A picture of a person whose age and gender are known, and what the model says."""

    name: str
    age: int
    gender: str
    guess: FaceAttributes

    @property
    def error(self) -> float:
        """By how many years the person was taken for older."""
        return self.guess.age - self.age

    @property
    def right(self) -> bool:
        """Whether the gender is that of the person."""
        return self.guess.gender == self.gender


def guess_all(lfw: Path, models_dir: Path | None) -> list[Guessed]:
    """Return what the model says of every picture of a labelled person."""
    detector, model = FaceDetector(load_detector()), load_attributes(models_dir, threads=2)
    guessed = []
    with LABELS.open(newline="") as lines:
        for row in csv.DictReader(lines):
            for path in sorted(lfw.glob(f"{row['name']}_[0-9][0-9][0-9][0-9].jpg")):
                faces = detector(Frame.of(path.read_bytes(), request_id=path.stem)).faces
                if faces:
                    (guess,) = model.guess(chip(min(faces, key=off_centre))[None])
                    guessed.append(Guessed(row["name"], TAKEN - int(row["born"]), row["gender"], guess))
    return guessed


def off_centre(face: DetectedFace) -> float:
    """Return how far the face is from the middle of the picture, in pixels."""
    x1, y1, x2, y2 = face.box
    return float(np.hypot((x1 + x2) / 2 - LFW_CENTRE, (y1 + y2) / 2 - LFW_CENTRE))


def chip(face: DetectedFace) -> NDArray[np.uint8]:
    """Return the face as the model sees it."""
    in_crop = FaceInCrop.of_detected(face)
    return align(in_crop.picture, in_crop.box, in_crop.landmarks, ATTRIBUTES)


def mean_of_people(guessed: Iterable[Guessed], value: Callable[[Guessed], float]) -> float:
    """Return the mean over people of the mean over their pictures."""
    people: dict[str, list[float]] = defaultdict(list)
    for each in guessed:
        people[each.name].append(value(each))
    return float(np.mean([np.mean(values) for values in people.values()]))


def accuracy(guessed: list[Guessed]) -> Table:
    """Return the table of errors by group."""
    table = Table("group", "people", "pictures", "gender right %", "age off by, years", "taken for older by, years")
    groups = {"all": guessed} | {sex: [each for each in guessed if each.gender == sex] for sex in ("female", "male")}
    for low, high in BANDS:
        groups[f"{low} to {high - 1} years old"] = [each for each in guessed if low <= each.age < high]
    for name, group in groups.items():
        right = 100 * mean_of_people(group, lambda each: each.right)
        off, older = mean_of_people(group, lambda each: abs(each.error)), mean_of_people(group, lambda each: each.error)
        people = len({each.name for each in group})
        table.add_row(name, str(people), str(len(group)), f"{right:.1f}", f"{off:.1f}", f"{older:+.1f}")
    return table


def milliseconds_per_face(run: Callable[[NDArray[np.uint8]], object], size: int) -> float:
    """Return the median time for one of a batch of 8 faces."""
    faces = np.random.default_rng(0).integers(0, 256, (BATCH, size, size, 3), np.uint8)
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run(faces)
        times.append(time.perf_counter() - start)
    return median(times) / BATCH * 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    arguments = parser.parse_args()
    models_dir = Settings.read().models_dir
    console = Console(width=120)
    console.print(describe(["onnxruntime", "numpy"]))
    guessed = guess_all(arguments.data / "lfw", models_dir)
    console.print(accuracy(guessed))
    emotions = [dict(each.guess.emotions) for each in guessed]
    first = Counter(max(each, key=lambda name: each[name]) for each in emotions)
    shares = ", ".join(f"{name} {100 * count / len(emotions):.0f} %" for name, count in first.most_common())
    console.print(f"most probable expression: {shares}")
    sure = 100 * float(np.mean([max(each.values()) >= 0.8 for each in emotions]))
    console.print(f"its probability is 0.8 or more for {sure:.0f} % of the faces")
    embedder = load_embedder(DEFAULT_EMBEDDER)
    cost = milliseconds_per_face(load_attributes(models_dir).guess, ATTRIBUTES.size)
    beside = milliseconds_per_face(embedder.embed, embedder.spec.size)
    console.print(f"ms a face, batch {BATCH}, one thread: attributes {cost:.2f}, {DEFAULT_EMBEDDER} {beside:.2f}")


if __name__ == "__main__":
    main()
