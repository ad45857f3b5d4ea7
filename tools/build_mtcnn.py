"""Makes models/{pnet,rnet,onet}.onnx from the weights in the facenet-pytorch wheel, without torch.

pip download --no-deps facenet-pytorch==2.6.0
python tools/build_mtcnn.py facenet_pytorch-2.6.0-py3-none-any.whl
"""

import argparse
import zipfile
from collections.abc import Callable
from pathlib import Path

import convert_mtcnn as mtcnn

from facewire.conversion import torchfile
from facewire.conversion.graph import GraphBuilder

MODELS = Path(__file__).resolve().parents[1] / "models"
BUILDERS: dict[str, Callable[[mtcnn.State], GraphBuilder]] = {
    "pnet": mtcnn.build_pnet,
    "rnet": mtcnn.build_rnet,
    "onet": mtcnn.build_onet,
}


def read_weights(wheel: Path, net: str) -> mtcnn.State:
    """Return the state dict of one network."""
    with zipfile.ZipFile(wheel) as archive:
        state = torchfile.load(archive.read(f"facenet_pytorch/data/{net}.pt"))
    if not isinstance(state, dict):
        message = f"{net}.pt in {wheel} is no state dict"
        raise SystemExit(message)
    return state


def main() -> None:
    """Build the three files and say how large each is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="facenet_pytorch-2.6.0-py3-none-any.whl")
    parser.add_argument("--out", type=Path, default=MODELS)
    arguments = parser.parse_args()
    for net, build in BUILDERS.items():
        path = arguments.out / f"{net}.onnx"
        build(read_weights(arguments.wheel, net)).save(path)
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
