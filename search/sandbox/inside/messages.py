"""Inside: how orders are read, replies written, and plain things packed between two processes.

Nothing here, nor in the other modules of this folder, imports more than it must: a program should
begin at once, and `json` or `typing` take as long to import as Python takes to start.
"""

from __future__ import annotations

import marshal
import os
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


def read_order(descriptor: int) -> Any:
    """What the parent sends next. Raises EOFError where there is nothing."""
    length = int.from_bytes(_read(descriptor, 4), sys.byteorder)
    return marshal.loads(_read(descriptor, length))


def _read(descriptor: int, length: int) -> bytes:
    # never more than it must: what follows is for nobody who is forked meanwhile
    data = b""
    while len(data) < length:
        more = os.read(descriptor, length - len(data))
        if not more:
            raise EOFError("the other side is gone")
        data += more
    return data


def json_of(reply: dict[str, str]) -> bytes:
    """A reply as JSON, an object of texts."""
    items = [f"{_quoted(key)}: {_quoted(text)}" for key, text in reply.items()]
    return f"{{{', '.join(items)}}}".encode()


def _quoted(text: str) -> str:
    units = memoryview(text.encode("utf-16", "surrogatepass")).cast("H")[1:]
    plain = [
        chr(unit) if 31 < unit < 127 and unit not in b'"\\' else f"\\u{unit:04x}" for unit in units
    ]
    return f'"{"".join(plain)}"'


def leave(code: int) -> NoReturn:
    """End this process at once, but for what it has printed."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            continue
    os._exit(code)


def pack(thing: Any) -> bytes:
    """None, bools, ints of 64 bits, floats, texts, and lists and dicts of them, as bytes."""
    parts: list[bytes] = []
    _pack(thing, parts.append)
    return b"".join(parts)


def _pack(thing: Any, put: Any) -> None:
    kind = type(thing)
    if kind is str:
        data = thing.encode("utf-8", "surrogatepass")
        put(b"S" + struct.pack("<I", len(data)))
        put(data)
    elif kind is int:
        put(b"I" + struct.pack("<q", thing))
    elif kind is float:
        put(b"D" + struct.pack("<d", thing))
    elif kind is list:
        put(b"L" + struct.pack("<I", len(thing)))
        for one in thing:
            _pack(one, put)
    elif kind is dict:
        put(b"M" + struct.pack("<I", len(thing)))
        for key, one in thing.items():
            _pack(key, put)
            _pack(one, put)
    else:
        put({None: b"N", True: b"T", False: b"F"}[thing])


def unpack(data: bytes) -> Any:
    """What `pack` packed. Raises ValueError for all else."""
    try:
        thing, end = _unpack(data, 0)
    except (struct.error, IndexError, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if end != len(data):
        raise ValueError("more follows")
    return thing


def _unpack(data: bytes, start: int) -> tuple[Any, int]:
    kind = data[start]
    start += 1
    if kind in b"NTF":
        return {78: None, 84: True, 70: False}[kind], start
    if kind in b"ID":
        return struct.unpack_from("<q" if kind == 73 else "<d", data, start)[0], start + 8
    (count,) = struct.unpack_from("<I", data, start)
    start += 4
    if kind == 83:
        if start + count > len(data):
            raise ValueError("a text is cut off")
        return data[start : start + count].decode("utf-8", "surrogatepass"), start + count
    if kind == 76:
        things = []
        for _ in range(count):
            one, start = _unpack(data, start)
            things.append(one)
        return things, start
    if kind == 77:
        items = {}
        for _ in range(count):
            key, start = _unpack(data, start)
            items[key], start = _unpack(data, start)
        return items, start
    raise ValueError(f"{kind} is no kind")
