"""Files of torch.save and torch.jit.save, put together byte by byte so that torch is not needed; and hostile ones."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facewire.conversion.torchfile import (
    TorchFileError,
    UnsafePickleError,
    is_torchscript,
    load,
    load_torchscript_state,
)

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL, STOP = b"\x80\x02", b"."
WEIGHTS = np.arange(6, dtype=np.float32).reshape(2, 3)


def push(value: object) -> bytes:
    """Return the opcodes that put a plain value on the stack."""
    return pickle.dumps(value, 2)[2:-1]


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def tensor(  # noqa: PLR0913 - the parts of a tensor's reference
    key: str,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *,
    count: int = 6,
    offset: int = 0,
    kind: str = "Float",
    legacy: bool = False,
) -> bytes:
    view = push(None) if legacy else b""
    reference = b"(" + push("storage") + name("torch", f"{kind}Storage") + push(key) + push("cpu") + push(count) + view
    hooks = call(name("collections", "OrderedDict"))
    arguments = reference + b"tQ", push(offset), push(shape), push(strides), push(False), hooks
    return call(name("torch._utils", "_rebuild_tensor_v2"), *arguments)


def dictionary(**values: bytes) -> bytes:
    return b"}(" + b"".join(push(key) + value for key, value in values.items()) + b"u"


def archive(
    body: bytes, storages: dict[str, bytes], extra: dict[str, bytes] | None = None, *, compressed: bool = False
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as file:
        file.writestr("archive/data.pkl", PROTOCOL + body + STOP)
        for key, content in storages.items():
            file.writestr(f"archive/data/{key}", content)
        for entry, content in (extra or {}).items():
            file.writestr(f"archive/{entry}", content)
    return buffer.getvalue()


def weights_archive(shape: tuple[int, ...] = (2, 3), strides: tuple[int, ...] = (3, 1), **options: Any) -> bytes:
    return archive(dictionary(w=tensor("0", shape, strides, **options)), {"0": WEIGHTS.tobytes()})


def legacy(body: bytes, keys: list[str], *contents: bytes, little_endian: bool = True) -> bytes:
    system = {"protocol_version": 1001, "little_endian": little_endian, "type_sizes": {}}
    head = b"".join(pickle.dumps(value, 2) for value in (MAGIC, 1001, system))
    return head + PROTOCOL + body + STOP + pickle.dumps(keys, 2) + b"".join(contents)


def test_a_state_dict() -> None:
    state = load(weights_archive())
    assert isinstance(state, dict)
    np.testing.assert_array_equal(state["w"], WEIGHTS)
    assert state["w"].dtype == np.float32
    assert not state["w"].flags.writeable


def test_an_older_state_dict() -> None:
    body = dictionary(w=tensor("77", (2, 3), (3, 1), legacy=True))
    state = load(legacy(body, ["77"], struct.pack("<q", 6), WEIGHTS.tobytes()))
    assert isinstance(state, dict)
    np.testing.assert_array_equal(state["w"], WEIGHTS)


@pytest.mark.parametrize("kind", ["Double", "Float", "Half", "Long", "Int", "Short", "Char", "Byte", "Bool"])
def test_all_kinds_of_numbers(kind: str) -> None:
    dtypes = {"Double": "f8", "Float": "f4", "Half": "f2", "Long": "i8", "Int": "i4", "Short": "i2", "Char": "i1"}
    values = np.array([0, 1, 1, 0, 1, 0]).astype(dtypes.get(kind, {"Byte": "u1", "Bool": "?"}.get(kind)))
    state = load(archive(tensor("0", (6,), (1,), kind=kind), {"0": values.tobytes()}))
    np.testing.assert_array_equal(state, values)
    assert isinstance(state, np.ndarray)
    assert state.dtype == values.dtype


def test_views_of_one_storage() -> None:
    transposed = load(weights_archive((3, 2), (1, 3)))
    row = load(weights_archive((3,), (1,), offset=3))
    empty = load(weights_archive((0, 3), (3, 1)))
    assert isinstance(transposed, dict)
    assert isinstance(row, dict)
    assert isinstance(empty, dict)
    np.testing.assert_array_equal(transposed["w"], WEIGHTS.T)
    np.testing.assert_array_equal(row["w"], WEIGHTS[1])
    assert empty["w"].shape == (0, 3)


def test_containers_numbers_and_strings() -> None:
    value = [{"a": (1, 2.5, None, True), "b": "Zürich"}, [1 << 70, -3], ("x", "y", "z", "w"), b"raw"[:0].decode()]
    assert load(archive(push(value), {})) == value


def test_parameters_and_metadata_of_layers() -> None:
    ordered = call(name("collections", "OrderedDict")) + b"(" + push("w")
    parameter = call(name("torch._utils", "_rebuild_parameter"), tensor("0", (6,), (1,)), push(True), b"}")
    state = load(
        archive(
            ordered + parameter + b"u" + dictionary(_metadata=push({"version": 1})) + b"b", {"0": WEIGHTS.tobytes()}
        )
    )
    assert isinstance(state, OrderedDict)
    assert state["w"].tolist() == WEIGHTS.ravel().tolist()


def script_module(class_name: str, attributes: bytes) -> bytes:
    return name("__torch__", class_name) + b")\x81" + attributes + b"b"


def test_the_tensors_of_a_torchscript_archive() -> None:
    stride = call(name("torch.jit._pickle", "build_intlist"), push([1, 1]))
    inner = script_module("Conv", dictionary(weight=tensor("0", (2, 3), (3, 1)), stride=stride, bias=push(None)))
    body = script_module("Net", dictionary(training=push(False), conv=inner, scale=tensor("0", (), ())))
    data = archive(body, {"0": WEIGHTS.tobytes()}, {"constants.pkl": b"\x80\x02)."})
    assert is_torchscript(data)
    state = load_torchscript_state(data)
    assert list(state) == ["scale", "conv.weight"]
    np.testing.assert_array_equal(state["conv.weight"], WEIGHTS)
    with pytest.raises(UnsafePickleError, match="__torch__"):
        load(data)


def test_a_state_dict_is_no_torchscript() -> None:
    assert not is_torchscript(weights_archive())
    assert not is_torchscript(b"nothing")
    with pytest.raises(TorchFileError, match="not a TorchScript module"):
        load_torchscript_state(weights_archive())
    with pytest.raises(TorchFileError, match="zip archive"):
        load_torchscript_state(b"nothing")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("this must never be printed",))


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_call_is_refused_by_name_and_not_made(protocol: int, capsys: pytest.CaptureFixture[str]) -> None:
    body = pickle.dumps([Evil()], protocol)
    with pytest.raises(UnsafePickleError, match="print"):
        load(archive(body[2:-1], {}))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "body",
    [
        call(name("os", "system"), push("true")),
        b"(" + push("true") + b"ios\nsystem\n",
        name("builtins", "object") + b")\x81",
        name("collections", "OrderedDict") + b")\x81",
        name("collections", "OrderedDict") + push({"__code__": 1}) + b"b",
        push([1]) + push({"x": 1}) + b"b",
        call(name("torch", "FloatStorage"), push(1 << 40)),
        call(push("system"), push("true")),
        b"\x82\x01",
    ],
)
def test_anything_but_data_is_unsafe(body: bytes) -> None:
    with pytest.raises(UnsafePickleError):
        load(archive(body, {}))
    with pytest.raises(UnsafePickleError):
        load(legacy(body, []))


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((2, 3), (3, -1), 0),
        ((2, 3), (3, 1), 1),
        ((7,), (1,), 0),
        ((1 << 40,), (0,), 0),
        ((2, 3), (3,), 0),
        ((1,), (1,), 1 << 70),
        ((1,), (1,), -1),
        ((1,) * 40, (1,) * 40, 0),
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> None:
    with pytest.raises(TorchFileError):
        load(weights_archive(shape, strides, offset=offset))


def test_storages_are_bounded_by_the_file() -> None:
    huge = dictionary(w=tensor("1", (1,), (1,), count=1 << 40, legacy=True))
    with pytest.raises(TorchFileError, match="larger than"):
        load(legacy(huge, ["1"], struct.pack("<q", 1 << 40)))
    with pytest.raises(TorchFileError):
        load(weights_archive(count=7))


def test_a_zip_bomb_is_refused() -> None:
    body = dictionary(w=tensor("0", (1,), (1,), count=1))
    with pytest.raises(TorchFileError, match="compressed"):
        load(archive(body, {"0": bytes(50_000_000)}, compressed=True))


def test_big_endian_is_refused() -> None:
    with pytest.raises(TorchFileError, match="big-endian"):
        load(archive(push({}), {}, {"byteorder": b"big"}))
    with pytest.raises(TorchFileError, match="big-endian"):
        load(legacy(push({}), [], little_endian=False))


def test_deep_nesting_does_no_harm() -> None:
    deep = load(archive(b"]" * 100_000 + b"a" * 99_999, {}))
    assert isinstance(deep, list)
    with pytest.raises(TorchFileError, match="key"):
        load(archive(b"}" + b")" + b"\x85" * 100_000 + push(1) + b"s", {}))


@pytest.mark.parametrize("data", [b"", b"hello", b"PK\x03\x04", pickle.dumps(5), pickle.dumps({"a": 1}), bytes(500)])
def test_other_files_are_named_as_such(data: bytes) -> None:
    with pytest.raises(TorchFileError):
        load(data)


def test_a_missing_or_short_storage_is_broken() -> None:
    with pytest.raises(TorchFileError, match="no entry"):
        load(archive(tensor("9", (1,), (1,)), {}))
    body = dictionary(w=tensor("0", (2, 3), (3, 1), legacy=True))
    with pytest.raises(TorchFileError):
        load(legacy(body, ["0"], struct.pack("<q", 6), WEIGHTS.tobytes()[:-1]))
    with pytest.raises(TorchFileError, match="list of storages"):
        load(legacy(body, ["other"], struct.pack("<q", 6), WEIGHTS.tobytes()))


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_ends_in_data_or_in_an_error_of_ours(data: st.DataObject) -> None:
    body = dictionary(w=tensor("0", (2, 3), (3, 1), legacy=True))
    older = legacy(body, ["0"], struct.pack("<q", 6), WEIGHTS.tobytes())
    damaged = bytearray(data.draw(st.sampled_from([weights_archive(), older])))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        load(bytes(damaged))
    except TorchFileError as error:
        outcome = error.detail
    else:
        outcome = "loaded"
    assert outcome
