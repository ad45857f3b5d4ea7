"""Runs facenet-pytorch's MTCNN for benchmarks/detection.py, in the reference environment, over stdin and stdout.

First a line of JSON on stdin, {"threads", "min_face_size", "images": [paths of .npy]}; then one line with an image's
number per call. Each is answered by a line: {"ready"} first, then {"seconds", "faces"}.
"""

import json
import sys
import time
from typing import Any

import numpy as np
import torch
from facenet_pytorch import MTCNN


def answer(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def main() -> None:
    job = json.loads(sys.stdin.readline())
    torch.set_num_threads(job["threads"])
    mtcnn = MTCNN(keep_all=True, min_face_size=job["min_face_size"])
    images = [np.load(path) for path in job["images"]]
    answer({"ready": f"torch {torch.__version__}, facenet-pytorch 2.6.0"})
    for line in sys.stdin:
        start = time.perf_counter()
        boxes, _, _ = mtcnn.detect(images[int(line)], landmarks=True)
        answer({"seconds": time.perf_counter() - start, "faces": 0 if boxes is None else len(boxes)})


if __name__ == "__main__":
    main()
