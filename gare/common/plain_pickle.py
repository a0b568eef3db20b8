"""Run pickle's stack machine without the power to import, call or build anything but data.

It handles numbers, strings, lists, tuples and mappings, as Python 2 and 3 write them, in every protocol.
``pickletools`` knows the steps of the language and splits the program into them; the ``pickle`` module is not used. A
subclass decides what else a program may name (``allowed``, ``make``, ``special``); here it is only an empty or listed
``OrderedDict``.
"""

from __future__ import annotations

import codecs
import io
import pickletools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAX_STEPS = 10_000_000
MAX_NAME = 1_000

_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_MARK = object()
_DAMAGE = (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, struct.error)


class RefusedError(Exception):
    """A pickle that asks for something other than data."""


@dataclass(frozen=True)
class Global:
    """A name that the program may use. ``kind``: what it makes."""

    kind: str


class Machine:
    """A machine that runs one program, of at most ``max_steps``."""

    max_steps = MAX_STEPS

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._pairs = 0

    def run(self, program: bytes) -> Any:
        """Return the value that a pickle describes; RefusedError if it is not plain data or not a pickle."""
        try:
            for count, (name, argument) in enumerate(_steps(program)):
                if count > self.max_steps:
                    raise RefusedError("its pickle has too many steps")
                if name == "STOP":
                    return self._stack.pop()
                self._step(name, argument)
        except _DAMAGE as error:
            raise RefusedError(f"its pickle is damaged ({type(error).__name__})") from None
        raise RefusedError("its pickle has no end")

    def allowed(self, module: str, name: str) -> Global:
        """Look up a global name; RefusedError if it is not data."""
        if (module, name) == ("collections", "OrderedDict"):
            return Global("mapping")
        shown = " ".join(f"{module}.{name}".split())[:100]
        raise RefusedError(f"it asks for {shown}, which is not data, and nothing was run")

    def make(self, function: Global, arguments: tuple[Any, ...]) -> Any:
        """Build the result of calling an allowed name; RefusedError if the arguments do not fit it."""
        match function.kind, arguments:
            case "mapping", ():
                return {}
            case "mapping", (list() as pairs,):
                built: dict[Any, Any] = {}
                self._pairs += len(pairs)  # one list may be made into a mapping many times over
                if self._pairs > self.max_steps:
                    raise RefusedError("its pickle has too many steps")
                _set_items(built, [part for pair in pairs for part in (pair if len(pair) == 2 else ())])
                return built
        raise RefusedError(f"it builds a {function.kind} from something else than that takes")

    def special(self, name: str) -> None:
        """Handle any other step; RefusedError for those that plain data does not need."""
        raise RefusedError(f"its pickle uses {name}, which plain data does not need")

    def _step(self, name: str, argument: Any) -> None:
        """Handle numbers, strings and the memo."""
        stack = self._stack
        match name:
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8" | "UNICODE":
                stack.append(argument)
            case "BINSTRING" | "SHORT_BINSTRING":
                stack.append(_text(argument.encode("latin-1")))
            case "STRING":
                stack.append(_text(argument))
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(self._memo[argument])
            case "MARK":
                stack.append(_MARK)
            case "PROTO" | "FRAME":
                pass
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "INT" | "LONG" | "FLOAT":
                stack.append(argument)
            case "NEWTRUE" | "NEWFALSE" | "NONE":
                stack.append({"NEWTRUE": True, "NEWFALSE": False, "NONE": None}[name])
            case "GLOBAL" | "STACK_GLOBAL" | "REDUCE":
                self._named(name, argument)
            case _:
                self._container(name)

    def _named(self, name: str, argument: Any) -> None:
        """Handle steps that name something outside the pickle, or build it."""
        stack = self._stack
        match name:
            case "GLOBAL":
                module, attribute = argument.split(" ", 1)
                stack.append(self.allowed(module, attribute))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                if not isinstance(module, str) or not isinstance(attribute, str):
                    raise RefusedError("it names something by something that is not a string")
                stack.append(self.allowed(module, attribute))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                if not isinstance(function, Global) or not isinstance(arguments, tuple):
                    raise RefusedError("it calls something that is not the building of data")
                stack.append(self.make(function, arguments))

    def _container(self, name: str) -> None:
        """Handle tuples, lists and mappings."""
        stack = self._stack
        match name:
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                stack.append({"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}[name]())
            case "TUPLE" | "LIST":
                items = self._since_mark()
                stack.append(tuple(items) if name == "TUPLE" else items)
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(name[-1])
                if len(stack) < size:
                    raise RefusedError("its pickle is damaged (an empty stack)")
                stack[-size:] = [tuple(stack[-size:])]
            case "APPEND" | "APPENDS":
                items = [stack.pop()] if name == "APPEND" else self._since_mark()
                if not isinstance(stack[-1], list):
                    raise RefusedError("it appends to something that is not a list")
                stack[-1].extend(items)
            case "DICT":
                items = self._since_mark()
                stack.append({})
                _set_items(stack[-1], items)
            case "SETITEM" | "SETITEMS":
                items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else self._since_mark()
                _set_items(stack[-1], items)
            case _:
                self.special(name)

    def _since_mark(self) -> list[Any]:
        for at in range(len(self._stack) - 1, -1, -1):
            if self._stack[at] is _MARK:
                items = self._stack[at + 1 :]
                del self._stack[at:]
                return items
        raise RefusedError("its pickle is damaged (no mark)")


def _steps(program: bytes) -> Iterator[tuple[str, Any]]:
    """Yield each step's name and argument."""
    stream = io.BytesIO(program)
    while code := stream.read(1):
        opcode = _OPCODES[code]
        if opcode.name == "STRING":  # Python 2 wrote other bytes here, but pickletools accepts only ASCII
            yield opcode.name, _unquoted(stream.readline())
        else:
            yield opcode.name, opcode.arg.reader(stream) if opcode.arg else None


def _unquoted(line: bytes) -> bytes:
    """Return the bytes of a string in Python 2's notation."""
    text = line.rstrip(b"\n")
    if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in {b"'", b'"'}:
        raise ValueError("no quoted string")
    return bytes(codecs.escape_decode(text[1:-1])[0])


def _text(content: bytes) -> str:
    """Decode a byte string of Python 2: UTF-8, or else Latin-1."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _set_items(target: Any, items: list[Any]) -> None:
    if type(target) is not dict or len(items) % 2:
        raise RefusedError("it sets items of something that is not a mapping")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str | int | float):
            raise RefusedError(f"it has a mapping with a key that is a {type(key).__name__}")
        if isinstance(key, str) and len(key) > MAX_NAME:
            raise RefusedError(f"a name in it has {len(key)} characters")
        target[key] = value
