"""Times embedding against torch: FaceNet with the same random weights on both sides, call by call in turns, one thread.

Needs the reference environment (make reference): FACEWIRE_REFERENCE_PYTHON names its interpreter, else
.venv-reference/bin/python is used; without it only Facewire is timed. Start time is from launching the process to the
first embedding, memory the most that the process had in use by then. dlib-resnet29 is the embedder that ships, which
looks at each face twice.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _machine import describe
from _random_weights import random_state
from rich.console import Console
from rich.progress import track
from rich.table import Table

from facewire.conversion.facenet import build_inception_resnet
from facewire.vision.models import DEFAULT_EMBEDDER, find

ROOT = Path(__file__).resolve().parents[1]
WORKER = Path(__file__).with_name("_embedding_worker.py")
SHAPES = ROOT / "tests" / "goldens" / "facenet.json"
BATCHES = (1, 8)
STARTS = 3


@dataclass
class Side:
    """One process: seconds to its first embedding, MiB it used, and a way to ask for more."""

    process: subprocess.Popen[str]
    start: float
    rss: float

    def embed(self, batch: int) -> float:
        """Return the seconds that one batch takes."""
        return self.ask(batch)["seconds"]

    def ask(self, batch: int) -> dict[str, float]:
        """Return the worker's answer to one batch."""
        assert self.process.stdin
        assert self.process.stdout
        print(batch, file=self.process.stdin, flush=True)
        answer: dict[str, float] = json.loads(self.process.stdout.readline())
        return answer


@contextmanager
def launch(python: Path, side: str, model: Path) -> Iterator[Side]:
    """Run one side until the first embedding is made, and end it afterwards."""
    command = [str(python), str(WORKER), side, str(model)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin
        assert process.stdout
        line = process.stdout.readline()
        if not line:
            sys.exit(f"the {side} process ended; see its messages above")
        yield Side(process, time.perf_counter() - started, json.loads(line)["rss"])
        process.stdin.close()


def build(folder: Path) -> tuple[Path, Path]:
    """Write the same random weights for torch and, converted, for ONNX Runtime."""
    golden = json.loads(SHAPES.read_text())
    state = random_state(golden["shapes"], golden["seed"])
    np.savez(folder / "weights.npz", allow_pickle=False, **state)
    build_inception_resnet(state, folder / "facenet-vggface2.onnx")
    return folder / "weights.npz", folder / "facenet-vggface2.onnx"


def sides(folder: Path) -> dict[str, tuple[Path, str, Path]]:
    """Return what to launch for each column: interpreter, side and model."""
    weights, model = build(folder)
    here = {
        "FaceNet, facewire": (Path(sys.executable), "facewire", model),
        f"{DEFAULT_EMBEDDER}, facewire": (Path(sys.executable), "facewire", find(DEFAULT_EMBEDDER)),
    }
    reference = Path(os.environ.get("FACEWIRE_REFERENCE_PYTHON", ROOT / ".venv-reference" / "bin" / "python"))
    return {"FaceNet, torch": (reference, "torch", weights)} | here if reference.is_file() else here


def measure(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Return for each column: seconds to start, MiB, then milliseconds a face at each batch size; medians."""
    columns = sides(folder)
    starts: dict[str, list[Side]] = {name: [] for name in columns}
    for _ in track(range(STARTS - 1), "starts", transient=True):
        for name, column in columns.items():
            with launch(*column) as side:
                starts[name].append(side)
    with ExitStack() as stack:
        running = {name: stack.enter_context(launch(*column)) for name, column in columns.items()}
        check_equal(running)
        times = {name: {batch: [side.embed(batch)] for batch in BATCHES} for name, side in running.items()}
        for _ in track(range(rounds), "embedding", transient=True):
            for batch in BATCHES:
                for name, side in running.items():
                    times[name][batch].append(side.embed(batch))
    return {
        name: [
            statistics.median(side.start for side in [*starts[name], running[name]]),
            statistics.median(side.rss for side in [*starts[name], running[name]]),
            *(statistics.median(times[name][batch][1:]) * 1e3 / batch for batch in BATCHES),
        ]
        for name in columns
    }


def check_equal(running: dict[str, Side]) -> None:
    """See that FaceNet gives the same on both sides."""
    found = [side.ask(8)["similarity"] for name, side in running.items() if name.startswith("FaceNet")]
    if max(found) - min(found) > 1e-5:
        sys.exit(f"the two sides differ: {found}")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        columns = measure(Path(folder), rounds)
    table = Table("", *columns, "torch / facewire", title=describe(["onnxruntime", "numpy"]))
    table.caption = f"medians of {rounds} calls in turns and {STARTS} starts, one thread"
    labels = ["start, s", "memory, MiB", *(f"ms a face, batch {batch}" for batch in BATCHES)]
    for row, label in enumerate(labels):
        values = [column[row] for column in columns.values()]
        ratio = f"{values[0] / values[1]:.2f}" if "FaceNet, torch" in columns else ""
        table.add_row(label, *(f"{value:.2f}" for value in values), ratio)
    Console().print(table)


if __name__ == "__main__":
    main()
