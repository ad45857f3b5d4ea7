"""Remove from an image's folder of packages what no service ever opens: `slim_image.py FOLDER`.

What is listed here and no longer there is an error, so that the list stays true when a package changes.
"""

import shutil
import sys
from pathlib import Path

#: Of AWS's some 400 services these are called; `sts` and the two `sso` find credentials. Files beside them are shared.
_AWS_SERVICES = {"dynamodb", "s3", "sqs", "sso", "sso-oidc", "sts"}

#: Package -> what goes, each a folder or a file pattern below it.
_UNUSED = {
    # Haar cascades; MTCNN is the detector
    "cv2": ("data",),
    # tests, and what compilers and type checkers read
    "numpy": ("**/tests", "f2py", "_core/include", "**/*.pyi", "**/*.a"),
    # tools that make models, not run them; the library for C programs, which the Python module has in itself
    "onnxruntime": ("transformers", "quantization", "tools", "datasets", "capi/libonnxruntime.so.*"),
    # the AVIF decoder, which is loaded on demand only; JPEG, PNG and WebP are what is accepted
    "PIL": ("_avif.*.so",),
    "pillow.libs": ("libavif-*",),
}


def slim(packages: Path) -> None:
    """Remove what is unused below the folder `packages`."""
    for package, patterns in _UNUSED.items():
        if (packages / package).is_dir():
            for pattern in patterns:
                _remove(packages / package, pattern)
    for folder in _folders(packages / "botocore" / "data", but=_AWS_SERVICES):
        shutil.rmtree(folder)


def _remove(package: Path, pattern: str) -> None:
    found = list(package.glob(pattern))
    if not found:
        sys.exit(f"slim_image.py: {package} has no {pattern}")
    for path in found:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _folders(parent: Path, *, but: set[str]) -> list[Path]:
    folders = [path for path in parent.iterdir() if path.is_dir()]
    missing = but - {path.name for path in folders}
    if missing:
        sys.exit(f"slim_image.py: {parent} has no {', '.join(sorted(missing))}")
    return [path for path in folders if path.name not in but]


if __name__ == "__main__":
    slim(Path(sys.argv[1]))
