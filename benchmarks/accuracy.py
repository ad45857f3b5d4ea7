"""Prints how good each embedder is that is here: LFW's pairs, and people enrolled among strangers.

Usage: python benchmarks/accuracy.py [--data FOLDER] [--model FILE]

--model measures another graph in the place of dlib-resnet29's, for instance build/dlib-resnet29-fp32.onnx. The
threshold is calibrated on LFW fold 1 alone and printed beside the one that is registered; the open sets use the
registered one. FaceNet's and SFace's registered thresholds were not calibrated on these pictures.
"""

import argparse
from pathlib import Path

from _labelled import CALIBRATION_FOLD, TEST_FOLD, Labelled
from _machine import describe
from _protocol import FALSE_ACCEPTS, OpenSet, calibrate, leads, of_fold, verify
from rich.console import Console
from rich.table import Table

from facewire.domain.errors import ModelError
from facewire.vision.embedder import Embedder, OnnxEmbedder
from facewire.vision.models import DEFAULT_EMBEDDER, find_spec, load_embedder, specs
from facewire.vision.onnx_session import open_session

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def embedders(model: Path | None) -> dict[str, Embedder]:
    """Return the embedders to measure, by what to call them."""
    if model is not None:
        return {model.name: OnnxEmbedder(open_session(model, threads=2), find_spec(DEFAULT_EMBEDDER))}
    here: dict[str, Embedder] = {}
    for spec in specs():
        try:
            here[spec.id] = load_embedder(spec.id, threads=2)
        except ModelError as error:
            if error.code != "missing":
                raise
    return here


def rows(data: Path, embedder: Embedder) -> dict[str, str]:
    """Return the lines of one embedder's column."""
    spec = embedder.spec
    labelled = Labelled.read(data, embedder)
    calibration, test = (of_fold(labelled.pairs, fold) for fold in (CALIBRATION_FOLD, TEST_FOLD))
    forth, back = verify(labelled.pictures, calibration, test), verify(labelled.pictures, test, calibration)
    right, wrong = leads(labelled.pictures, calibration, spec.threshold)
    kept, slipped = ((names >= spec.margin).sum() for names in (right, wrong))
    return {
        "LFW fold 0, threshold of fold 1: accuracy": f"{forth.accuracy:.2%}",
        "LFW fold 0: true accepts at 1 % false": f"{forth.true_accepts:.2%}",
        "LFW fold 1, threshold of fold 0: accuracy": f"{back.accuracy:.2%}",
        "LFW fold 1: true accepts at 1 % false": f"{back.true_accepts:.2%}",
        f"threshold at {FALSE_ACCEPTS:.2%} false accepts on fold 1": f"{calibrate(labelled.pictures, calibration):.4f}",
        "registered threshold, margin": f"{spec.threshold:g}, {spec.margin:g}",
        "fold 1, one against all others: right names the margin keeps": f"{kept} of {len(right)}",
        "fold 1, one against all others: wrong names it lets through": f"{slipped} of {len(wrong)}",
        "frames: 8 enrolled once, 16 probes, 4 strangers": outcome(labelled.of_frames(spec.threshold, spec.margin)),
        "bbt: 8 enrolled twice, 24 probes, LFW fold 0 strangers": outcome(
            labelled.of_series(TEST_FOLD, spec.threshold, spec.margin)
        ),
        "bbt: the same, LFW fold 1 strangers": outcome(
            labelled.of_series(CALIBRATION_FOLD, spec.threshold, spec.margin)
        ),
    }


def outcome(result: OpenSet) -> str:
    """Return the counts in words."""
    strangers = f"{result.strangers_named} of {result.strangers} strangers named"
    return f"{result.right} right, {result.wrong} wrong, {result.missed} missed; {strangers}"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--model", type=Path)
    arguments = parser.parse_args()
    columns = {name: rows(arguments.data, embedder) for name, embedder in embedders(arguments.model).items()}
    table = Table("", *columns, title="Recognition", caption=describe(["onnxruntime", "numpy", "pillow"]))
    for label in next(iter(columns.values())):
        table.add_row(label, *(column[label] for column in columns.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
