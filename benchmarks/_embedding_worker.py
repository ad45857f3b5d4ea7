"""One side of benchmarks/embedding.py in its own process: `torch WEIGHTS.npz` or `facewire EMBEDDER.onnx`, one thread.

Loads the network, embeds one face and prints a line of JSON, {"rss"} in MiB. Then every line on stdin is a batch size,
answered by {"seconds", "similarity"}, the cosine of its first and last face.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _random_weights import random_faces

Embed = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]
FACES = random_faces(8, 1)


def torch_embedder(weights: str) -> Embed:
    import torch  # noqa: PLC0415 - only in the reference environment
    from facenet_pytorch import InceptionResnetV1  # noqa: PLC0415

    torch.set_num_threads(1)
    network = InceptionResnetV1().eval()
    network.load_state_dict({name: torch.from_numpy(values) for name, values in np.load(weights).items()}, strict=False)

    def embed(faces: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        pixels = torch.from_numpy(faces.transpose(0, 3, 1, 2).astype(np.float32))
        with torch.inference_mode():
            embeddings: np.ndarray[Any, Any] = network((pixels - 127.5) / 128).numpy()
        return embeddings

    return embed


def facewire_embedder(model: str) -> Embed:
    from facewire.vision.embedder import OnnxEmbedder  # noqa: PLC0415 - only in the project's environment
    from facewire.vision.models import find_spec  # noqa: PLC0415
    from facewire.vision.onnx_session import open_session  # noqa: PLC0415

    path = Path(model)
    return OnnxEmbedder(open_session(path), find_spec(path.stem)).embed


def peak_memory() -> float:
    """Return the most this program had in memory, in MiB; getrusage would count what the launching process had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def main() -> None:
    side, path = sys.argv[1:]
    embed = torch_embedder(path) if side == "torch" else facewire_embedder(path)
    embed(FACES[:1])
    print(json.dumps({"rss": peak_memory()}), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        embeddings = embed(np.resize(FACES, (int(line), *FACES.shape[1:])))
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "similarity": float(embeddings[0] @ embeddings[-1])}), flush=True)


if __name__ == "__main__":
    main()
