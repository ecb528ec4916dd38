"""A reader of pickles as data: it interprets the opcodes of lists, dictionaries, tuples and plain values itself.

Nothing is imported or executed: a name in the pickle is looked up in a table of replacements, which the caller gives.
Python's own unpickler is not used, since a hostile file can make it take any amount of memory (by memo indices) or end
the interpreter (by keys nested too deeply to be hashed, by attributes set on objects that do not expect it).
"""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Callable, Mapping
from typing import Any

from stylegan_ray.untrusted import COPY_AGAIN, BadFileError, format_bytes, printable

OPCODES = 500_000
"""Most opcodes of a file, those of the pickles in it included.

A snapshot of StyleGAN2-ADA has some thousands for each resolution of each network.
"""
LONGEST_INTEGER = 256
"""Bits of the largest integer."""
LONGEST_KEY = 60
"""Bits of the largest integer that is a key: Python's hash of it is the integer itself, so that few keys collide."""
SLACK = 64 << 20
"""Bytes that calls may make beyond a multiple of the file's size."""
ITEM = 128
"""Bytes that an item may take where a call copies it, as into a dictionary."""
COLLECTIONS = (list, tuple, dict, set)


class UnsafePickleError(BadFileError):
    """A pickle that asks for something that a file of networks does not need."""


class Name:
    """A name in the pickle, with its replacement here."""

    def __init__(self, module: str, name: str, made: Callable[..., Any]):
        self.full, self.name, self.made = f"{module}.{name}", name, made


class Built:
    """Base of the replacements whose state a pickle may set."""

    def build(self, state: Any) -> None:
        raise NotImplementedError


class Dict(dict, Built):
    """A dictionary class of another program: empty, since its items follow, but for pickles of the first protocols."""

    def __init__(self, items: Any = (), *more: Any) -> None:
        super().__init__()
        pairs = list(items.items()) if isinstance(items, dict) else items
        if more or not isinstance(pairs, list | tuple):
            raise UnsafePickleError("the file cannot be read: a dictionary of something other than pairs")
        for pair in pairs:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise UnsafePickleError("the file cannot be read: a dictionary of something other than pairs")
            self[checked_key(pair[0])] = pair[1]

    def build(self, state: Any) -> None:
        """Attributes of the dictionary, such as torch's versions of modules, are not needed."""


class Budget:
    """What reading a file may cost, with all pickles in it: opcodes, and bytes that calls make or copy."""

    def __init__(self, content: bytes):
        self.left, self.opcodes = 4 * len(content) + SLACK, OPCODES

    def take_opcode(self) -> None:
        """Raises UnsafePickleError where a file has more opcodes than networks need."""
        self.opcodes -= 1
        if self.opcodes < 0:
            raise UnsafePickleError(f"the pickle cannot be read: it has more than {OPCODES:,} opcodes")

    def take(self, size: int) -> None:
        """Raises UnsafePickleError where a file makes much more than it holds."""
        self.left -= size
        if self.left < 0:
            raise UnsafePickleError("the file cannot be read: it asks for much more memory than it holds data")


class PickleReader:
    """Reads one pickle from an open file; `names` maps (module, name) to what is called in their place.

    A callable that has an attribute `takes_budget` gets the budget first, one that has `takes_name` the name.
    `persistent` maps a persistent id to an object.
    """

    def __init__(
        self, names: Mapping[tuple[str, str], Callable[..., Any]], budget: Budget,
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:  # fmt: skip
        self.names, self.budget, self.persistent = names, budget, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def read(self, file: io.BytesIO) -> Any:
        """The object; the file then stands behind it. Raises UnsafePickleError."""
        try:
            for opcode, argument, _ in pickletools.genops(file):
                self.budget.take_opcode()
                if opcode.name == "STOP":
                    return self._pop()
                self._run(opcode.name, argument)
        except UnsafePickleError:
            raise
        except Exception as error:  # a damaged or hostile file can fail anywhere
            raise UnsafePickleError(f"the pickle cannot be read: {printable(error)}; {COPY_AGAIN}") from error
        raise UnsafePickleError(f"the pickle cannot be read: it has no end; {COPY_AGAIN}")

    def _run(self, name: str, argument: Any) -> None:
        if name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in PLAIN:
            self.stack.append(_plain(argument))
        elif name in EMPTY:
            self.stack.append(EMPTY[name]())
        elif name not in ACTIONS:
            if name not in ("PROTO", "FRAME"):
                raise UnsafePickleError(f"the file uses the opcode {name}, which networks do not need")
        else:
            ACTIONS[name](self, argument)

    def _pop(self) -> Any:
        """The top of the stack, above the last mark."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise UnsafePickleError(f"the pickle cannot be read: its stack is empty; {COPY_AGAIN}")
        return self.stack.pop()

    def _pop_mark(self) -> list[Any]:
        """What lies above the last mark."""
        begin = self.marks.pop()
        above = self.stack[begin:]
        del self.stack[begin:]
        return above

    def _top(self, *kinds: type) -> Any:
        """The top of the stack, which is of one of these kinds."""
        if not self.stack or not isinstance(self.stack[-1], kinds):
            raise UnsafePickleError(f"the pickle cannot be read: values for no list or dictionary; {COPY_AGAIN}")
        return self.stack[-1]

    def _mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def _put(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self._pop_and_push()

    def _pop_and_push(self) -> Any:
        value = self._pop()
        self.stack.append(value)
        return value

    def _get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def _tuple(self, count: int | None) -> None:
        values = self._pop_mark() if count is None else [self._pop() for _ in range(count)][::-1]
        self.stack.append(tuple(values))

    def _list(self, _: Any) -> None:
        self.stack.append(self._pop_mark())

    def _append(self, values: list[Any]) -> None:
        self._top(list).extend(values)

    def _dict(self, values: list[Any]) -> None:
        self.stack.append({})
        self._set_items(values)

    def _set_items(self, values: list[Any]) -> None:
        if len(values) % 2:
            raise UnsafePickleError(f"the pickle cannot be read: a key without a value; {COPY_AGAIN}")
        self._top(dict).update((checked_key(key), value) for key, value in zip(values[::2], values[1::2], strict=True))

    def _add(self, values: list[Any]) -> None:
        self._top(set).update(map(checked_key, values))

    def _name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise UnsafePickleError("the pickle cannot be read: a name that is no text")
        if (module, name) not in self.names:
            raise UnsafePickleError(
                f"the file asks for {printable(module, 60)}.{printable(name, 60)}, which networks do not need; nothing "
                "of it was executed"
            )
        self.stack.append(Name(module, name, self.names[module, name]))

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._name(module, name)

    def _stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        self._name(module, name)

    def _call(self, argument: Any = None, is_class: bool = False) -> None:
        arguments, named = self._pop(), self._pop()
        if not isinstance(named, Name) or not isinstance(arguments, tuple):
            raise UnsafePickleError("the pickle cannot be read: a call of something that is no name")
        if is_class and not isinstance(named.made, type):
            raise UnsafePickleError(f"the pickle cannot be read: {named.full} is no class of networks")
        num_items = len(arguments) + sum(len(argument) for argument in arguments if isinstance(argument, COLLECTIONS))
        take(self.budget, num_items * ITEM, "items of a call")
        first: list[Any] = [self.budget] if hasattr(named.made, "takes_budget") else []
        made = named.made(*first, *arguments)
        if isinstance(made, Built):
            made.class_name = named.name  # type: ignore[attr-defined]
        self.stack.append(made)

    def _new_object(self, _: Any) -> None:
        self._call(is_class=True)

    def _new_object_ex(self, _: Any) -> None:
        if self._pop() != {}:
            raise UnsafePickleError("the pickle cannot be read: a call with keywords")
        self._call(is_class=True)

    def _build(self, _: Any) -> None:
        state = self._pop()
        target = self._pop_and_push()
        if not isinstance(target, Built):
            raise UnsafePickleError(f"the pickle cannot be read: attributes of a {type(target).__name__}")
        target.build(state)

    def _persistent(self, _: Any) -> None:
        if self.persistent is None:
            raise UnsafePickleError("the pickle cannot be read: it refers to another file")
        self.stack.append(self.persistent(self._pop()))


def checked_key(key: Any) -> str | int:
    """A key of a dictionary or a member of a set: text or an integer; raises UnsafePickleError for all else."""
    if not isinstance(key, str | int):
        raise UnsafePickleError(
            f"the pickle cannot be read: a key of type {type(key).__name__}, not text or an integer"
        )
    if isinstance(key, int) and key.bit_length() > LONGEST_KEY:
        raise UnsafePickleError(f"the pickle cannot be read: an integer of {key.bit_length()} bits as a key")
    return key


def checked_sizes(values: Any, most: int = 8) -> tuple[int, ...]:
    """A shape, stride or the like: at most `most` integers that are not negative; raises UnsafePickleError."""
    if not isinstance(values, tuple | list) or len(values) > most:
        raise UnsafePickleError(f"the pickle cannot be read: {printable(values, 60)} is no shape")
    if not all(type(value) is int and 0 <= value < 2**62 for value in values):
        raise UnsafePickleError(f"the pickle cannot be read: {printable(values, 60)} is no shape")
    return tuple(values)


def _plain(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > LONGEST_INTEGER:
        raise UnsafePickleError(f"the pickle cannot be read: an integer of {value.bit_length()} bits")
    return value


def take(budget: Budget, size: int, what: str) -> None:
    """Takes bytes from a budget; the error names what asks for them."""
    try:
        budget.take(size)
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{error} ({what} of {format_bytes(size)})") from None


def take_tensor(copies: Budget, name: str, size: int) -> None:
    """Takes the bytes of a tensor that a network copies: a file may hold one tensor under many names."""
    take(copies, size, f"tensor {printable(name, 60)}")


def num_elements(shape: tuple[int, ...]) -> int:
    """The number of elements of a shape."""
    return math.prod(shape)


CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
PLAIN = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 STRING "
    "BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)
"""Opcodes that put their argument on the stack."""
Action = Callable[[PickleReader, Any], Any]
ACTIONS: dict[str, Action] = {
    "MARK": PickleReader._mark,
    "POP": lambda reader, _: reader._pop_mark() if _ends_with_mark(reader) else reader._pop(),
    "POP_MARK": lambda reader, _: reader._pop_mark(),
    "DUP": lambda reader, _: reader.stack.append(reader._pop_and_push()),
    "PUT": PickleReader._put,
    "BINPUT": PickleReader._put,
    "LONG_BINPUT": PickleReader._put,
    "MEMOIZE": lambda reader, _: reader._put(None),
    "GET": PickleReader._get,
    "BINGET": PickleReader._get,
    "LONG_BINGET": PickleReader._get,
    "TUPLE": lambda reader, _: reader._tuple(None),
    "TUPLE1": lambda reader, _: reader._tuple(1),
    "TUPLE2": lambda reader, _: reader._tuple(2),
    "TUPLE3": lambda reader, _: reader._tuple(3),
    "LIST": PickleReader._list,
    "APPEND": lambda reader, _: reader._append([reader._pop()]),
    "APPENDS": lambda reader, _: reader._append(reader._pop_mark()),
    "DICT": lambda reader, _: reader._dict(reader._pop_mark()),
    "SETITEM": lambda reader, _: reader._set_items([reader._pop(), reader._pop()][::-1]),
    "SETITEMS": lambda reader, _: reader._set_items(reader._pop_mark()),
    "ADDITEMS": lambda reader, _: reader._add(reader._pop_mark()),
    "GLOBAL": PickleReader._global,
    "STACK_GLOBAL": PickleReader._stack_global,
    "REDUCE": PickleReader._call,
    "NEWOBJ": PickleReader._new_object,
    "NEWOBJ_EX": PickleReader._new_object_ex,
    "BUILD": PickleReader._build,
    "BINPERSID": PickleReader._persistent,
}
"""What the other opcodes do."""


def _ends_with_mark(reader: PickleReader) -> bool:
    return bool(reader.marks) and reader.marks[-1] == len(reader.stack)
