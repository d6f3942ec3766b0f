"""Arrays, lists, dicts, text and numbers out of a pickle, and nothing else: DCRNN's adj_mx.pkl.

Enters: the path of a pickle. Leaves: plain Python objects and numpy arrays of numbers or text. A pickle is a
program; three locks keep it from being one here. (1) The whole file is scanned before a single instruction
runs: only instructions that build plain objects pass, and only the names below. (2) The names stand for the
classes of this file, not for numpy: what an array is made of is checked before numpy sees it. (3) The Python
implementation runs it, whose memo is a dict: the C one allocates what the file claims.
"""

from __future__ import annotations

import io
import math
import pickle  # noqa: TID251 - the one place that reads pickles, behind the three locks above
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from headway.errors import InputError

MAX_BYTES = 2**31  # the adjacency of 11,160 sensors has 5e8
MAX_INSTRUCTIONS = 5_000_000
OTHER = "only arrays, lists, dicts, text and numbers are admitted, and nothing of the file was run"
PLAIN = {
    *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "NONE", "NEWTRUE", "NEWFALSE"),
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "EMPTY_LIST", "LIST", "APPEND", "APPENDS"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
    *("GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"),
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
}

INSTRUCTIONS = {op.code.encode("latin1"): (op.name, op.arg) for op in pickletools.opcodes}


class _Refused(ValueError):
    """Something in the pickle is not plain; the message says what."""


class _Marker:
    """Stands for the class numpy.ndarray, which is named and never made."""

    def __init__(self, *_: object) -> None:
        raise _Refused("an array is made in an unknown way")


class _Dtype:
    """Stands for numpy.dtype: numbers and text of fixed width."""

    def __init__(self, code: object, *_: object) -> None:
        text = code.decode("ascii", "replace") if isinstance(code, bytes) else str(code)
        if text[:1] not in tuple("biufSU") or not text[1:].isdigit():
            raise _Refused(f"an array of type {text!r}")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else str(state[1])
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stands for numpy's _reconstruct; its state becomes an array once its parts fit each other."""

    def __init__(self, *_: object) -> None:
        self.array = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, raw = state
        self.array = _array(kind, shape, raw, "F" if fortran else "C")


class _Buffer(_Array):
    """Stands for numpy's _frombuffer (protocol 5)."""

    def __init__(self, raw: object, kind: object, shape: object, order: object) -> None:
        self.array = _array(kind, shape, raw, str(order))


class _Number(_Array):
    """Stands for numpy's scalar."""

    def __init__(self, kind: object, raw: object) -> None:
        self.array = _array(kind, (), raw, "C")


class _Bytes:
    """Stands for _codecs.encode, by which Python 3 writes bytes for Python 2."""

    def __init__(self, text: object, encoding: object) -> None:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise _Refused("bytes in an unknown encoding")
        self.raw = text.encode("latin1")


def _array(kind: object, shape: object, raw: object, order: str) -> np.ndarray:
    raw = raw.raw if isinstance(raw, _Bytes) else raw
    raw = raw.encode("latin1") if isinstance(raw, str) else raw  # a text of Python 2
    raw = bytes(raw) if isinstance(raw, bytearray) else raw
    if not isinstance(kind, _Dtype) or not isinstance(raw, bytes) or order not in ("C", "F"):
        raise _Refused("an array that does not hold plain numbers")
    sizes: tuple[int, ...] = shape if isinstance(shape, tuple) else (shape,)  # type: ignore[assignment]
    if not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise _Refused(f"an array of shape {shape!r}")
    items = math.prod(sizes)
    if items * kind.dtype.itemsize != len(raw):
        raise _Refused(f"an array of shape {shape} with {len(raw)} bytes")
    flat = np.frombuffer(raw, dtype=kind.dtype)
    return flat.reshape(sizes, order="F") if order == "F" else flat.reshape(sizes)


NAMES: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy", "ndarray"): _Marker,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): _Number,
    ("numpy._core.multiarray", "scalar"): _Number,
    ("numpy.core.numeric", "_frombuffer"): _Buffer,
    ("numpy._core.numeric", "_frombuffer"): _Buffer,
    ("_codecs", "encode"): _Bytes,
}


class _Reader(pickle._Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        return _admitted(module, name)


def read_plain_pickle(path: Path) -> Any:
    """The object in a pickle of plain data.

    Raises: InputError for a file that is no pickle, is cut short, or holds anything else than plain data.
    """
    if not path.is_file():
        raise InputError(f"{path} not found")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path} has {path.stat().st_size} bytes; at most {MAX_BYTES} are read")
    content = path.read_bytes()
    try:
        _scan(content)
        return _plain(_Reader(io.BytesIO(content), encoding="latin1").load(), {})
    except _Refused as error:
        raise InputError(f"{path} holds {error}; {OTHER}") from None
    except Exception as error:  # what a broken pickle raises is anything, MemoryError too
        raise InputError(f"{path} is no readable pickle, perhaps truncated: {error}") from None


def _scan(content: bytes) -> None:
    """Walk the instructions without running them."""
    stream = io.BytesIO(content)
    for _ in range(MAX_INSTRUCTIONS):
        place, code = stream.tell(), stream.read(1)
        if not code or code not in INSTRUCTIONS:
            raise ValueError(f"no instruction at byte {place}")
        name, argument = INSTRUCTIONS[code]
        if name not in PLAIN:
            raise _Refused(f"the instruction {name} at byte {place}")
        if name == "STOP":
            return
        if name == "STRING":  # pickletools takes these for ASCII; Python 2 wrote arrays as such
            stream.readline()
        elif argument is not None:
            read = argument.reader(stream)
            if name == "GLOBAL":
                _admitted(*str(read).split(" ", 1))
    raise _Refused(f"more than {MAX_INSTRUCTIONS} instructions")


def _admitted(module: str, name: str) -> Callable[..., object]:
    if (module, name) not in NAMES:
        raise _Refused(f"the object {module}.{name}")
    return NAMES[module, name]


def _plain(found: Any, done: dict[int, Any]) -> Any:
    """The same with arrays in the place of their stand-ins; a part that is shared is converted once."""
    if id(found) in done:
        return done[id(found)]
    match found:
        case _Array():
            plain: Any = found.array[()] if isinstance(found, _Number) else found.array
        case _Bytes():
            plain = found.raw
        case list() | tuple():
            plain = [_plain(item, done) for item in found]
        case dict():
            plain = {_plain(key, done): _plain(value, done) for key, value in found.items()}
        case None | bool() | int() | float() | str() | bytes():
            return found
        case _:
            raise _Refused(f"an object of type {type(found).__name__}")
    done[id(found)] = plain
    return plain
