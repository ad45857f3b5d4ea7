"""A pickle interpreter that builds plain data and calls nothing but the builders it is given.

Python's own unpickler runs whatever a file names; even with `find_class` restricted it calls `__setstate__` and sets
attributes on what it finds. This one knows only the opcodes that data needs, and a global that is not in its table ends
the reading. Opcodes: https://github.com/python/cpython/blob/3.11/Lib/pickletools.py.
"""

import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from facewire.domain.errors import FacewireError


class TorchFileError(FacewireError):
    """A file written by `torch.save` or `torch.jit.save` cannot be read."""

    stage = "torchfile"


class UnsafePickleError(TorchFileError):
    """A pickle asks for more than data: a global that is not allowed, or an object to be constructed."""


@dataclass(frozen=True, slots=True)
class Builder:
    """What a pickle's REDUCE may call."""

    name: str
    build: Callable[..., object]


@dataclass(slots=True)
class Record:
    """An object of a class that is unknown here, kept as its name and attributes; nothing of it is run."""

    class_name: str
    attributes: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RecordClass:
    """A class whose instances are read as `Record`."""

    name: str


Globals = Callable[[str], object]
PersistentLoad = Callable[[object], object]

_SCALARS = (str, bytes, int, float, bool, type(None))
_PUSH_ARGUMENT = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
)
_CONSTANTS: Mapping[str, object] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: Mapping[str, type] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple, "EMPTY_SET": set}
_PUT = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GET = frozenset({"GET", "BINGET", "LONG_BINGET"})
_SHORT_TUPLES: Mapping[str, int] = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_IGNORED = frozenset({"PROTO", "FRAME"})


def load_pickle(stream: IO[bytes], find_global: Globals, persistent_load: PersistentLoad) -> object:
    """Read one pickle from the stream, which is left just behind it.

    `find_global` gets "module.name" and returns a `Builder`, a `RecordClass` or a plain value, or raises
    `UnsafePickleError`. Raises `UnsafePickleError` for everything that is not data, `TorchFileError` for a pickle that
    is broken.
    """
    machine = _Machine(find_global, persistent_load)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.step(opcode.name, argument)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise TorchFileError("broken_pickle", f"the pickle in the file is broken: {error}") from error
    raise TorchFileError("broken_pickle", "the pickle in the file has no end")


class _Machine:
    """The stack, the marks and the memo of one pickle."""

    def __init__(self, find_global: Globals, persistent_load: PersistentLoad) -> None:
        self.stack: list[Any] = []
        self._outer: list[list[Any]] = []
        self._memo: dict[int, object] = {}
        self._find_global = find_global
        self._persistent_load = persistent_load

    def step(self, name: str, argument: Any) -> None:
        """Do what one opcode says."""
        if name in _PUSH_ARGUMENT:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _PUT:
            self._memo[int(argument)] = self.stack[-1]
        elif name in _GET:
            self.stack.append(self._memo[int(argument)])
        elif name in _SHORT_TUPLES:
            self._short_tuple(_SHORT_TUPLES[name])
        elif name not in _IGNORED:
            self._operate(name, argument)

    def _operate(self, name: str, argument: Any) -> None:
        operation = _OPERATIONS.get(name)
        if operation is None:
            raise UnsafePickleError("unsafe_pickle", f"the pickle uses {name}, which plain data has no need of")
        operation(self, argument)

    def _short_tuple(self, size: int) -> None:
        if len(self.stack) < size:
            message = f"a tuple of {size} on a stack of {len(self.stack)}"
            raise ValueError(message)
        self.stack[-size:] = [tuple(self.stack[-size:])]

    def do_mark(self, _: object) -> None:
        self._outer.append(self.stack)
        self.stack = []

    def _pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self._outer.pop()
        return items

    def do_memoize(self, _: object) -> None:
        self._memo[len(self._memo)] = self.stack[-1]

    def do_tuple(self, _: object) -> None:
        items = self._pop_mark()
        self.stack.append(tuple(items))

    def do_list(self, _: object) -> None:
        items = self._pop_mark()
        self.stack.append(items)

    def do_dict(self, _: object) -> None:
        items = self._pop_mark()
        self.stack.append({})
        self._set_pairs(items)

    def do_append(self, _: object) -> None:
        item = self.stack.pop()
        self._top(list).append(item)

    def do_appends(self, _: object) -> None:
        items = self._pop_mark()
        self._top(list).extend(items)

    def do_add_items(self, _: object) -> None:
        items = self._pop_mark()
        self._top(set).update(map(_key, items))

    def do_set_item(self, _: object) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_pairs([key, value])

    def do_set_items(self, _: object) -> None:
        self._set_pairs(self._pop_mark())

    def _set_pairs(self, items: list[Any]) -> None:
        target = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def _top(self, expected: type) -> Any:
        if not isinstance(self.stack[-1], expected):
            message = f"items for a {expected.__name__} are put into a {type(self.stack[-1]).__name__}"
            raise TypeError(message)
        return self.stack[-1]

    def do_global(self, argument: str) -> None:
        self.stack.append(self._find_global(argument.replace(" ", ".", 1)))

    def do_stack_global(self, _: object) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            message = "a global whose name is no string"
            raise TypeError(message)
        self.stack.append(self._find_global(f"{module}.{name}"))

    def do_reduce(self, _: object) -> None:
        arguments, builder = self.stack.pop(), self.stack.pop()
        if not isinstance(builder, Builder) or not isinstance(arguments, tuple):
            raise UnsafePickleError("unsafe_pickle", f"the pickle calls {_describe(builder)}")
        self.stack.append(builder.build(*arguments))

    def do_new_object(self, _: object) -> None:
        _arguments, record_class = self.stack.pop(), self.stack.pop()
        if not isinstance(record_class, RecordClass):
            raise UnsafePickleError("unsafe_pickle", f"the pickle constructs {_describe(record_class)}")
        self.stack.append(Record(record_class.name))

    def do_build(self, _: object) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Record) and isinstance(state, dict):
            target.attributes = {str(key): value for key, value in state.items()}
        elif not isinstance(target, OrderedDict):  # a state dict's `_metadata`: version numbers of layers, not needed
            raise UnsafePickleError("unsafe_pickle", f"the pickle sets the state of {_describe(target)}")

    def do_persistent(self, _: object) -> None:
        self.stack.append(self._persistent_load(self.stack.pop()))


def _key(value: object) -> object:
    # Hashing a deeply nested tuple recurses in C without a limit.
    if not isinstance(value, _SCALARS):
        message = f"a {type(value).__name__} as a key"
        raise TypeError(message)
    return value


def _describe(value: object) -> str:
    return value.name if isinstance(value, Builder | RecordClass) else f"a {type(value).__name__}"


_OPERATIONS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.do_mark,
    "MEMOIZE": _Machine.do_memoize,
    "TUPLE": _Machine.do_tuple,
    "LIST": _Machine.do_list,
    "DICT": _Machine.do_dict,
    "APPEND": _Machine.do_append,
    "APPENDS": _Machine.do_appends,
    "ADDITEMS": _Machine.do_add_items,
    "SETITEM": _Machine.do_set_item,
    "SETITEMS": _Machine.do_set_items,
    "GLOBAL": _Machine.do_global,
    "STACK_GLOBAL": _Machine.do_stack_global,
    "REDUCE": _Machine.do_reduce,
    "NEWOBJ": _Machine.do_new_object,
    "BUILD": _Machine.do_build,
    "BINPERSID": _Machine.do_persistent,
}
