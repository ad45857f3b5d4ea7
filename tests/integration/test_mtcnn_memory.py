"""Memory of the detector over pictures of many sizes."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from facewire.vision.mtcnn import Mtcnn

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def test_memory_stays_flat_over_two_hundred_sizes(samples: Path) -> None:
    mtcnn = Mtcnn.load(ROOT / "models")
    random = np.random.default_rng(0)
    with Image.open(samples / "eileen_collins.jpg") as portrait:
        portrait.load()
    sizes = [(400, 400), *random.integers(30, 400, (200, 2)).tolist()]
    resident = []
    for width, height in sizes:
        mtcnn(np.asarray(portrait.resize((width, height))))
        resident.append(resident_mib())
    assert resident[-1] - resident[60] < 12, f"MiB, every tenth picture: {[round(mib) for mib in resident[::10]]}"
