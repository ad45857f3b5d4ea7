"""Reads what `torch.save` and `torch.jit.save` wrote, with NumPy alone and without running anything from the file.

Formats: the zip archive of torch 1.6 and later, the older stream of pickles, and TorchScript archives
(https://docs.pytorch.org/docs/stable/notes/serialization.html). Tensors become read-only NumPy arrays.
"""

import io
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from facewire.conversion.restricted_pickle import (
    Builder,
    Record,
    RecordClass,
    TorchFileError,
    UnsafePickleError,
    load_pickle,
)
from facewire.conversion.torch_tensors import (
    STORAGE_DTYPES,
    Array,
    Storage,
    StorageType,
    parse_reference,
    rebuild_tensor,
)

__all__ = ["TorchFileError", "UnsafePickleError", "is_torchscript", "load", "load_torchscript_state"]

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_ZIP_SIGNATURE = b"PK\x03\x04"
# What zipfile raises on damaged archives, seen in fuzzing.
_ZIP_DAMAGE = (
    zipfile.BadZipFile,
    EOFError,
    IndexError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
    struct.error,
)
_SCRIPT_PREFIX = "__torch__."


def load(source: Path | bytes) -> object:
    """Return the object that `torch.save` wrote: containers, numbers and strings, with tensors as NumPy arrays.

    The arrays are read-only views with the tensor's shape and dtype (float16/32/64, int8/16/32/64, uint8, bool).
    Raises `UnsafePickleError` if the file asks for anything but data, `TorchFileError` if it is not such a file or is
    broken, and `OSError` if it cannot be read.
    """
    data = source if isinstance(source, bytes) else source.read_bytes()
    if data.startswith(_ZIP_SIGNATURE):
        return _load_archive(data, _find_global)
    return _load_legacy(data)


def is_torchscript(source: Path | bytes) -> bool:
    """Tell whether the file is a zip archive with TorchScript's constants, thus for `load_torchscript_state`.

    Raises `TorchFileError` for a broken archive, and `OSError` if the file cannot be read.
    """
    data = source if isinstance(source, bytes) else source.read_bytes()
    if not data.startswith(_ZIP_SIGNATURE):
        return False
    with _open_archive(data) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def load_torchscript_state(source: Path | bytes) -> dict[str, Array]:
    """Return the parameters and buffers of a TorchScript archive under their state-dict names, as `load` does.

    The program in the archive is not looked at. A module that occurs under several names appears under the first.
    Raises what `load` raises, and `TorchFileError` if the archive holds no module.
    """
    data = source if isinstance(source, bytes) else source.read_bytes()
    if not data.startswith(_ZIP_SIGNATURE):
        raise TorchFileError("not_a_torch_file", "a TorchScript file is a zip archive; this is not one")
    root = _load_archive(data, _find_script_global)
    if not isinstance(root, Record):
        raise TorchFileError("not_torchscript", "the archive holds data, not a TorchScript module")
    return _collect_state(root)


def _collect_state(root: Record) -> dict[str, Array]:
    state: dict[str, Array] = {}
    seen: set[int] = set()
    pending = [("", root)]
    while pending:
        prefix, module = pending.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        children = []
        for name, value in module.attributes.items():
            if isinstance(value, np.ndarray):
                state[prefix + name] = value
            elif isinstance(value, Record):
                children.append((f"{prefix}{name}.", value))
        pending.extend(reversed(children))
    return state


class _Budget:
    """Bounds what the storages of one file may take to the size of that file."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    def take(self, count: int, dtype: np.dtype[Any]) -> int:
        """Return the size in bytes of `count` items, or raise if the file cannot hold them."""
        if count * dtype.itemsize > self._left:
            raise TorchFileError("broken_torch_file", f"a storage of {dtype} is larger than what is left of the file")
        self._left -= count * dtype.itemsize
        return count * dtype.itemsize


@contextmanager
def _open_archive(data: bytes) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            yield archive
    except _ZIP_DAMAGE as error:
        raise TorchFileError("broken_torch_file", f"the archive is broken: {error}") from error


def _load_archive(data: bytes, find_global: Callable[[str], object]) -> object:
    with _open_archive(data) as archive:
        names = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(names) != 1:
            raise TorchFileError("not_a_torch_file", f"the archive has {len(names)} entries data.pkl, not one")
        reader = _ArchiveReader(archive, names[0].removesuffix("data.pkl"), _Budget(len(data)))
        pickle = io.BytesIO(reader.member("data.pkl"))
        return load_pickle(pickle, find_global, reader.storage)


class _ArchiveReader:
    """The storages of a zip archive, each read once."""

    def __init__(self, archive: zipfile.ZipFile, prefix: str, budget: _Budget) -> None:
        self._archive = archive
        self._prefix = prefix
        self._budget = budget
        self._storages: dict[str, Storage] = {}
        if f"{prefix}byteorder" in archive.namelist() and self.member("byteorder") != b"little":
            raise TorchFileError("unsupported_torch_file", "the tensors are big-endian; save them again as little")

    def member(self, name: str) -> bytes:
        """Return the bytes of one entry; a compressed one is refused, since torch stores data as it is."""
        try:
            info = self._archive.getinfo(self._prefix + name)
        except KeyError:
            raise TorchFileError("broken_torch_file", f"the archive has no entry {name}") from None
        if info.compress_type != zipfile.ZIP_STORED:
            raise TorchFileError("broken_torch_file", f"the entry {name} is compressed; torch never does that")
        self._budget.take(info.file_size, np.dtype(np.uint8))
        return self._archive.read(info)

    def storage(self, reference: object) -> Storage:
        """Return the storage that a persistent id names."""
        dtype, key, count = parse_reference(reference)
        if key not in self._storages:
            buffer = self.member(f"data/{key}")
            self._storages[key] = Storage(dtype, len(buffer) // dtype.itemsize, buffer)
        storage = self._storages[key]
        if storage.dtype != dtype or storage.count < count:
            raise TorchFileError("broken_torch_file", f"storage {key} does not hold what its tensor needs")
        return storage


class _LegacyReader:
    """The storages of the older format, which come behind the pickle that refers to them."""

    def __init__(self, budget: _Budget) -> None:
        self._budget = budget
        self._storages: dict[str, Storage] = {}

    def storage(self, reference: object) -> Storage:
        """Return the storage that a persistent id names, to be filled by `fill`."""
        dtype, key, count = parse_reference(reference)
        if key not in self._storages:
            self._storages[key] = Storage(dtype, count, bytearray(self._budget.take(count, dtype)))
        return self._storages[key]

    def fill(self, stream: io.BytesIO, keys: object) -> None:
        """Read the contents of all storages in the order of `keys`."""
        if not isinstance(keys, list) or {str(key) for key in keys} != set(self._storages):
            raise TorchFileError("broken_torch_file", "the list of storages does not fit the tensors")
        for key in keys:
            storage = self._storages[str(key)]
            count = int.from_bytes(stream.read(8), "little")
            content = stream.read(len(storage.buffer))
            if count != storage.count or len(content) != len(storage.buffer):
                raise TorchFileError("broken_torch_file", f"storage {key} is cut short")
            memoryview(storage.buffer)[:] = content


def _load_legacy(data: bytes) -> object:
    stream = io.BytesIO(data)
    reader = _LegacyReader(_Budget(len(data)))
    try:
        magic = load_pickle(stream, _find_global, _no_storage)
    except UnsafePickleError:
        raise
    except TorchFileError as error:
        raise TorchFileError("not_a_torch_file", "this is neither a torch archive nor the older format") from error
    if magic != _LEGACY_MAGIC:
        raise TorchFileError("not_a_torch_file", "a pickle, but not one that torch.save wrote")
    load_pickle(stream, _find_global, _no_storage)  # the version of the protocol
    system = load_pickle(stream, _find_global, _no_storage)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise TorchFileError("unsupported_torch_file", "the tensors are big-endian; save them again as little")
    result = load_pickle(stream, _find_global, reader.storage)
    reader.fill(stream, load_pickle(stream, _find_global, _no_storage))
    return result


def _no_storage(_: object) -> object:
    raise TorchFileError("broken_torch_file", "a storage is named where there can be none")


def _rebuild_parameter(data: object, *_: object) -> object:
    return data


def _ordered_dict(*pairs: object) -> OrderedDict[object, object]:
    if pairs:
        raise TorchFileError("broken_torch_file", "an OrderedDict with arguments")
    return OrderedDict()


def _build_set(items: object = ()) -> set[object]:
    if not isinstance(items, list | tuple) or any(isinstance(item, tuple) for item in items):
        raise TorchFileError("broken_torch_file", "a set of something that is not a list of scalars")
    return set(items)


_GLOBALS: Mapping[str, object] = {
    "collections.OrderedDict": Builder("collections.OrderedDict", _ordered_dict),
    "torch._utils._rebuild_tensor": Builder("torch._utils._rebuild_tensor", rebuild_tensor),
    "torch._utils._rebuild_tensor_v2": Builder("torch._utils._rebuild_tensor_v2", rebuild_tensor),
    "torch._utils._rebuild_parameter": Builder("torch._utils._rebuild_parameter", _rebuild_parameter),
    "builtins.set": Builder("builtins.set", _build_set),
    "__builtin__.set": Builder("builtins.set", _build_set),
    **{f"torch.{name}Storage": StorageType(np.dtype(code)) for name, code in STORAGE_DTYPES.items()},
}
_SCRIPT_GLOBALS: Mapping[str, object] = {
    f"torch.jit._pickle.{name}": Builder(f"torch.jit._pickle.{name}", _rebuild_parameter)
    for name in ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")
}


def _find_global(name: str) -> object:
    if name not in _GLOBALS:
        raise UnsafePickleError("unsafe_pickle", f"the file asks for {name}, which is not plain data; it was not run")
    return _GLOBALS[name]


def _find_script_global(name: str) -> object:
    if name.startswith(_SCRIPT_PREFIX) or name == _SCRIPT_PREFIX.rstrip("."):
        return RecordClass(name)
    return _SCRIPT_GLOBALS[name] if name in _SCRIPT_GLOBALS else _find_global(name)
