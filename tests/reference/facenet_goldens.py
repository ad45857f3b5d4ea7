"""Write tests/goldens/facenet.json: what facenet-pytorch's InceptionResnetV1 makes of random weights and faces."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from facenet_pytorch import InceptionResnetV1, fixed_image_standardization

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from _random_weights import random_faces, random_state  # noqa: E402 - found through the line above

SEED = 20180402
COUNT = 4


def main() -> None:
    """Load the weights into torch's network and keep its embeddings."""
    network = InceptionResnetV1().eval()
    shapes = {
        name: list(values.shape)
        for name, values in network.state_dict().items()
        if values.is_floating_point() and not name.startswith("logits")
    }
    state = {name: torch.from_numpy(values) for name, values in random_state(shapes, SEED).items()}
    network.load_state_dict(state, strict=False)
    pixels = torch.from_numpy(random_faces(COUNT, SEED).transpose(0, 3, 1, 2).astype(np.float32))
    with torch.inference_mode():
        embeddings = network(fixed_image_standardization(pixels)).numpy()
    golden = {
        "seed": SEED,
        "shapes": shapes,
        "embeddings": [[round(float(value), 8) for value in row] for row in embeddings],
    }
    target = ROOT / "tests" / "goldens" / "facenet.json"
    target.write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
