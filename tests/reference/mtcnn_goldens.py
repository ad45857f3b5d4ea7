"""Writes what facenet-pytorch's MTCNN finds, as numbers: tests/goldens/mtcnn.json. Runs in the reference environment.

Pictures: the samples, the test pictures of facenet-pytorch and 200 of Labeled Faces in the Wild, drawn with a fixed
seed. A face is a row of x1, y1, x2, y2, probability and five landmarks x, y, all in pixels of the decoded picture.
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch
from facenet_pytorch import MTCNN
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
LFW_COUNT = 200
SEED = 20261122


def pictures(data: Path) -> dict[str, Path]:
    """Return the pictures under the names that they have in the file."""
    lfw = random.Random(SEED).sample(sorted((data / "lfw").glob("*.jpg")), LFW_COUNT)
    chosen = [data / "multiface.jpg", *sorted((data / "actors").glob("*/*.jpg")), *sorted(lfw)]
    samples = {f"samples/{path.name}": path for path in sorted((ROOT / "samples").glob("*.jpg"))}
    return samples | {str(path.relative_to(data)): path for path in chosen}


def faces(mtcnn: MTCNN, path: Path) -> list[list[float]]:
    """Return the rows of one picture, largest face first."""
    with Image.open(path) as image:
        boxes, probabilities, landmarks = mtcnn.detect(np.array(image.convert("RGB")), landmarks=True)
    if boxes is None:
        return []
    rows = np.column_stack([boxes, probabilities, landmarks.reshape(len(boxes), 10)]).astype(np.float64)
    return [[round(number, 7 if column == 4 else 4) for column, number in enumerate(row)] for row in rows.tolist()]


def main() -> None:
    """Detect in all pictures and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=ROOT / "tests" / "goldens" / "mtcnn.json")
    arguments = parser.parse_args()
    mtcnn = MTCNN(keep_all=True)
    found = {name: faces(mtcnn, path) for name, path in pictures(arguments.data).items()}
    rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(rows, separators=(',', ':'))}" for name, rows in found.items())
    made_by = json.dumps({"torch": torch.__version__, "facenet-pytorch": "2.6.0", "seed": SEED})
    arguments.out.write_text(f'{{"made_by": {made_by},\n"pictures": {{\n{rows}\n}}}}\n')
    print(f"{arguments.out}: {len(found)} pictures, {sum(map(len, found.values()))} faces")  # noqa: T201 - a program's output


if __name__ == "__main__":
    main()
