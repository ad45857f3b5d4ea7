"""Times face detection against facenet-pytorch's MTCNN: call by call in turns, medians, one and two threads.

Needs the reference environment (make reference) for the comparison: FACEWIRE_REFERENCE_PYTHON names its interpreter,
else .venv-reference/bin/python is used; without it only Facewire is timed.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from _machine import describe
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from facewire.vision.imagecodec import decode
from facewire.vision.mtcnn import Mtcnn

ROOT = Path(__file__).resolve().parents[1]
PICTURES = (ROOT.parent / "shared" / "data" / "multiface.jpg", ROOT / "samples" / "eileen_collins.jpg")
SIZES = ((640, 480), (1280, 720), (1920, 1080))
WORKER = Path(__file__).with_name("_facenet_worker.py")
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Call:
    """One timed call: how long, and how many faces."""

    seconds: float
    faces: int


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    size: str
    threads: int
    ours: list[Call]
    theirs: list[Call]

    def cells(self) -> list[str]:
        counts = {call.faces for call in self.ours + self.theirs}
        assert len(counts) == 1, f"the numbers of faces differ: {counts}"
        ours = statistics.median(call.seconds for call in self.ours)
        cells = [self.size, str(self.threads), str(counts.pop()), "", f"{ours * 1e3:.1f}", ""]
        if self.theirs:
            theirs = statistics.median(call.seconds for call in self.theirs)
            cells[3], cells[5] = f"{theirs * 1e3:.1f}", f"{theirs / ours:.2f}"
        return cells


class Reference:
    """facenet-pytorch in its own process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, line: str) -> dict[str, float]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        reply = self._process.stdout.readline()
        if not reply:
            message = "the reference process ended; see its messages above"
            raise SystemExit(message)
        answer: dict[str, float] = json.loads(reply)
        return answer

    def detect(self, number: int) -> Call:
        answer = self.ask(str(number))
        return Call(answer["seconds"], int(answer["faces"]))


@contextmanager
def open_reference(python: Path, paths: list[str], threads: int, min_face_size: int) -> Iterator[Reference]:
    command = [str(python), str(WORKER)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        reference = Reference(process)
        reference.ask(json.dumps({"threads": threads, "min_face_size": min_face_size, "images": paths}))
        yield reference
        assert process.stdin
        process.stdin.close()


def reference_python() -> Path | None:
    python = Path(os.environ.get("FACEWIRE_REFERENCE_PYTHON", ROOT / ".venv-reference" / "bin" / "python"))
    return python if python.is_file() else None


def images() -> list[Pixels]:
    picture = Image.fromarray(decode(next(path for path in PICTURES if path.is_file()).read_bytes()))
    return [np.array(picture.resize(size, Image.Resampling.LANCZOS)) for size in SIZES]


def timed(mtcnn: Mtcnn, image: Pixels) -> Call:
    start = time.perf_counter()
    found = mtcnn(image)
    return Call(time.perf_counter() - start, len(found))


def compare(ours: Callable[[], Call], theirs: Callable[[], Call] | None, rounds: int) -> tuple[list[Call], list[Call]]:
    mine, reference = [], []
    for turn in range(rounds + 2):
        mine.append(ours())
        if theirs:
            reference.append(theirs())
        if turn == 1:  # two calls to warm up
            mine.clear()
            reference.clear()
    return mine, reference


def measure(options: argparse.Namespace, python: Path | None, pictures: list[Pixels], threads: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"{number}.npy") for number in range(len(pictures))]
        for path, picture in zip(paths, pictures, strict=True):
            np.save(path, picture)
        if python is None:
            return rows(options, None, pictures, threads)
        with open_reference(python, paths, threads, options.min_face_size) as reference:
            return rows(options, reference, pictures, threads)


def rows(options: argparse.Namespace, reference: Reference | None, pictures: list[Pixels], threads: int) -> list[Row]:
    result = []
    with Mtcnn.load(ROOT / "models", threads=threads, min_face_size=options.min_face_size) as mtcnn:
        for number, image in enumerate(track(pictures, f"{threads} thread(s)", transient=True)):
            theirs = partial(reference.detect, number) if reference else None
            calls = compare(partial(timed, mtcnn, image), theirs, options.rounds)
            result.append(Row(f"{image.shape[1]}x{image.shape[0]}", threads, *calls))
    return result


def throughput(image: Pixels, calls: int) -> float:
    """Return how many times the images a second two threads do on one instance of what one thread does."""
    mtcnn = Mtcnn.load(ROOT / "models")
    timed(mtcnn, image)
    rates = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(calls):
            mtcnn(image)
        one = time.perf_counter() - start
        with ThreadPoolExecutor(2) as pool:
            start = time.perf_counter()
            list(pool.map(mtcnn, [image] * 2 * calls))
            two = time.perf_counter() - start
        rates.append(2 * one / two)
    return statistics.median(rates)


def show(console: Console, results: list[Row], min_face_size: int) -> None:
    machine = describe(["onnxruntime", "opencv-python-headless", "numpy"])
    table = Table("image", "threads", "faces", "facenet-pytorch ms", "facewire ms", "times as fast", title=machine)
    table.caption = f"medians of {len(results[0].ours)} calls in turns, min_face_size {min_face_size}"
    for row in results:
        table.add_row(*row.cells())
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--min-face-size", type=int, default=20)
    options = parser.parse_args()
    console, python, pictures = Console(), reference_python(), images()
    if python is None:
        console.print("no reference environment (make reference): timing Facewire alone")
    results = [row for threads in (1, 2) for row in measure(options, python, pictures, threads)]
    show(console, results, options.min_face_size)
    console.print(f"two threads, an image each, against one thread: {throughput(pictures[1], 10):.2f} times the images")


if __name__ == "__main__":
    main()
