"""Galleries as files: `[embeddings, names]` lists of torch.save and NumPy archives in, NumPy archives out.

Embeddings without pictures can only be used with the embedder that made them, so every file has one: what an archive
says itself, else what the caller says, else FaceNet, with which such lists are made.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facewire.conversion.restricted_pickle import TorchFileError, UnsafePickleError
from facewire.conversion.torchfile import load
from facewire.domain.errors import GalleryError
from facewire.domain.names import check_person
from facewire.vision.embedder import unit
from facewire.vision.models import find_spec

TORCH_EMBEDDER = "facenet-vggface2"
#: 100,000 faces of 512 dimensions are 205 MB.
_MAX_BYTES = 512 * 1024**2
_LEAST_LENGTH = 1e-6
#: Numbers in one embedding; those of the embedders here are 128 and 512.
_MAX_NUMBERS = 4_096
_LARGEST_INT = 2**63
# What zipfile and NumPy raise on damaged archives.
_DAMAGE = (
    zipfile.BadZipFile,
    EOFError,
    IndexError,
    MemoryError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
    struct.error,
    zlib.error,
)

_Embeddings = Sequence[object] | NDArray[Any]
#: The embedder if the file says it, the names, the embeddings.
_Content = tuple[str | None, Sequence[object], _Embeddings]


@dataclass(frozen=True, slots=True)
class GalleryRows:
    """Whose each embedding is: names in the order of the rows of `embeddings`, float32 (n, d) of unit length."""

    embedder: str
    names: tuple[str, ...]
    embeddings: NDArray[np.float32]


def read_gallery(path: Path, *, embedder: str | None = None) -> GalleryRows:
    """Return the faces in a `.pt` or `.npz` file; nothing in the file is ever executed.

    `.pt` holds `[embeddings, names]`: two lists of the same length, or a tensor (n, d) and a list. `.npz` holds
    `embeddings`, numbers (n, d), `names`, strings (n,), and perhaps `embedder`, a string. Raises GalleryError with code
    `unreadable`, `unsafe`, `bad_rows`, `bad_name`, `wrong_dimension` or `wrong_embedder`, and ModelError `unknown`.
    """
    data = _read(path)
    stored, names, embeddings = _parse(path, data)
    if stored is not None and embedder is not None and stored != embedder:
        raise GalleryError("wrong_embedder", f"{path.name} was made with {stored}, not with {embedder}")
    made_by = stored or embedder or TORCH_EMBEDDER
    rows = _rows(path, embeddings)
    if rows.shape[1] != find_spec(made_by).dimension:
        detail = f"{path.name} has {rows.shape[1]} numbers a face, {made_by} makes {find_spec(made_by).dimension}"
        raise GalleryError("wrong_dimension", detail)
    if len(names) != len(rows):
        raise GalleryError("bad_rows", f"{path.name} has {len(rows)} embeddings and {len(names)} names")
    return GalleryRows(made_by, tuple(_person(path, name) for name in names), rows)


def write_gallery(path: Path, gallery: GalleryRows) -> None:
    """Write `embeddings`, `names` and `embedder` to `path`, an `.npz` file; it appears whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            embeddings=gallery.embeddings,
            names=np.array(gallery.names, np.str_),
            embedder=np.array(gallery.embedder),
        )
    partial.replace(path)


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise GalleryError("unreadable", f"{path.name} is larger than {_MAX_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise GalleryError("unreadable", f"{path}: {error.strerror}") from error


def _parse(path: Path, data: bytes) -> _Content:
    try:
        is_archive = zipfile.is_zipfile(io.BytesIO(data)) and _holds_arrays(data)
        return _parse_archive(path, data) if is_archive else _parse_torch(path, data)
    except _DAMAGE as error:
        detail = f"{path.name} is not a list of torch.save or an archive of plain arrays: {error}"
        raise GalleryError("unreadable", detail) from error


def _holds_arrays(data: bytes) -> bool:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return any(name.endswith(".npy") for name in archive.namelist())


def _parse_archive(path: Path, data: bytes) -> _Content:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > _MAX_BYTES:
            raise GalleryError("unreadable", f"{path.name} unpacks to more than {_MAX_BYTES} bytes")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            embedder = str(arrays["embedder"]) if "embedder" in arrays else None
            return embedder, arrays["names"].ravel().tolist(), arrays["embeddings"]
    except KeyError as error:
        raise GalleryError("unreadable", f"{path.name} must hold embeddings and names: {error.args[0]}") from error


def _parse_torch(path: Path, data: bytes) -> _Content:
    try:
        content = load(data)
    except TorchFileError as error:
        code = "unsafe" if isinstance(error, UnsafePickleError) else "unreadable"
        raise GalleryError(code, f"{path.name}: {error.detail}") from error
    match content:
        case [list() | tuple() | np.ndarray() as embeddings, list() | tuple() as names]:
            return None, names, embeddings
    raise GalleryError("unreadable", f"{path.name} does not hold a list of embeddings and a list of names")


def _rows(path: Path, embeddings: _Embeddings) -> NDArray[np.float32]:
    """Return the embeddings as rows of unit length; one face is a tensor of d numbers, (d,) or (1, d), or a flat list.

    All is counted before anything is copied: what the file holds once may be referred to any number of times.
    """
    faces = [] if isinstance(embeddings, np.ndarray) and (not embeddings.ndim or not embeddings.size) else [*embeddings]
    sizes = {_count(face) for face in {id(face): face for face in faces}.values()}
    if len(sizes) != 1 or 0 in sizes:
        detail = f"must hold at least one embedding, all of them equally long, of 1 to {_MAX_NUMBERS:,} numbers"
        raise GalleryError("bad_rows", f"{path.name} {detail}")
    if len(faces) * max(sizes) * np.dtype(np.float32).itemsize > _MAX_BYTES:
        raise GalleryError("bad_rows", f"the embeddings of {path.name} have more than {_MAX_BYTES} bytes")
    rows = np.empty((len(faces), max(sizes)), np.float32)
    with np.errstate(over="ignore"):  # what is too large becomes infinite and is refused below
        for row, face in zip(rows, faces, strict=True):
            row[:] = np.asarray(face, np.float64).ravel()
        lengths = np.linalg.norm(rows, axis=1)
    broken = np.flatnonzero(~np.isfinite(lengths) | (lengths < _LEAST_LENGTH))
    if broken.size:
        raise GalleryError("bad_rows", f"embedding {broken[0]} of {path.name} is zero or not finite")
    return unit(rows)


def _count(face: object) -> int:
    """Return how many numbers the embedding has, 0 if it is none: lists of lists may hold any number of themselves."""
    if isinstance(face, np.ndarray):
        return face.size if face.dtype.kind in "fiu" and face.size <= _MAX_NUMBERS else 0
    if not isinstance(face, list | tuple) or len(face) > _MAX_NUMBERS:
        return 0
    return len(face) if all(map(_is_number, face)) else 0


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (type(value) is int and abs(value) <= _LARGEST_INT)


def _person(path: Path, name: object) -> str:
    if not isinstance(name, str):
        raise GalleryError("bad_name", f"a name in {path.name} is of type {type(name).__name__}, must be a string")
    try:
        return check_person(name)
    except ValueError as error:
        raise GalleryError("bad_name", f"a name in {path.name} {error}") from error
