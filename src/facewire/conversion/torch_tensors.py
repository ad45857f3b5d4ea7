"""Tensors and storages as the pickles of torch describe them, turned into NumPy arrays; every bound is checked."""

import math
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facewire.conversion.restricted_pickle import TorchFileError

_MAX_DIMENSIONS = 32

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class StorageType:
    """One of torch's storage classes, for example `torch.FloatStorage`: little-endian numbers of one dtype."""

    dtype: np.dtype[Any]


@dataclass(frozen=True, slots=True)
class Storage:
    """The numbers behind one or more tensors."""

    dtype: np.dtype[Any]
    count: int
    buffer: bytes | bytearray


STORAGE_DTYPES = {
    "Double": "<f8",
    "Float": "<f4",
    "Half": "<f2",
    "Long": "<i8",
    "Int": "<i4",
    "Short": "<i2",
    "Char": "|i1",
    "Byte": "|u1",
    "Bool": "|b1",
}


def parse_reference(reference: object) -> tuple[np.dtype[Any], str, int]:
    """Return dtype, key and count of numbers from a persistent id; the older format has a sixth part, always None."""
    match reference:
        case ("storage", StorageType(dtype), str(key), _, int(count)) if count >= 0:
            return dtype, key, count
        case ("storage", StorageType(dtype), str(key), _, int(count), None) if count >= 0:
            return dtype, key, count
    raise TorchFileError("broken_torch_file", "a tensor refers to something that is not a storage")


def rebuild_tensor(storage: object, offset: object, shape: object, strides: object, *_: object) -> Array:
    """Return the tensor as a read-only view of its storage; raise TorchFileError if any of it lies outside."""
    if not isinstance(storage, Storage):
        raise TorchFileError("broken_torch_file", "a tensor has no storage")
    sizes, steps = _naturals(shape), _naturals(strides)
    (start,) = _naturals((offset,))
    if len(sizes) != len(steps) or len(sizes) > _MAX_DIMENSIONS or math.prod(sizes) > storage.count:
        raise TorchFileError("broken_torch_file", f"a tensor of shape {sizes} in a storage of {storage.count} items")
    last = start + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True))
    if 0 not in sizes and last >= storage.count:
        raise TorchFileError("broken_torch_file", f"a tensor of shape {sizes} reaches beyond its storage")
    if 0 in sizes:
        return np.zeros(sizes, storage.dtype)
    array = np.ndarray(
        sizes,
        storage.dtype,
        storage.buffer,
        start * storage.dtype.itemsize,
        [n * storage.dtype.itemsize for n in steps],
    )
    array.flags.writeable = False
    return array


def _naturals(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or not all(isinstance(n, int) and 0 <= n < sys.maxsize for n in values):
        raise TorchFileError("broken_torch_file", "a tensor's shape, strides or offset is no list of natural numbers")
    return tuple(values)
