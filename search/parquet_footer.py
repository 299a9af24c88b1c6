"""The sizes that a Parquet file says its columns have, read without the library that reads the
file: that one ends the process on some footers that are damaged.

A footer is a structure of Thrift's compact protocol: fields with a number and a type, integers as
zigzag varints (https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_DEEPEST = 16  # structures in structures
_MARK = b"PAR1"
# the numbers of fields
_ROW_GROUPS = 4
_COLUMNS = 1
_META_DATA = 3
_PATH = 3
_VALUES = 5
_BYTES = 6


@dataclass(frozen=True)
class Column:
    """A column of one group of rows: its first name, how many values it has, and the bytes of its
    pages, uncompressed.
    """

    name: str
    values: int
    size: int


def columns(path: Path) -> Iterator[Column]:
    """The columns of all groups of rows. Raises ValueError for what is no Parquet file."""
    try:
        groups = _footer(path).get(_ROW_GROUPS, [])
        for group in groups:
            for chunk in group[_COLUMNS]:
                about = chunk[_META_DATA]
                name = about[_PATH][0].decode()
                yield Column(name, _size(about[_VALUES]), _size(about[_BYTES]))
    except (KeyError, IndexError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f"its footer is damaged ({error!r})") from None


def _footer(path: Path) -> dict[int, Any]:
    with open(path, "rb") as file:
        length = file.seek(0, 2)
        if length < 12:
            raise ValueError("it is too short for a Parquet file")
        file.seek(length - 8)
        end = file.read()
        size = int.from_bytes(end[:4], "little")
        if end[4:] != _MARK or size > length - 12:
            raise ValueError("it is no whole Parquet file")
        file.seek(length - 8 - size)
        return _Reader(file.read(size)).structure(0)


def _size(number: Any) -> int:
    if not isinstance(number, int) or number < 0:
        raise TypeError(f"{number} is no size")
    return number


class _Reader:
    def __init__(self, data: bytes):
        self._data = data
        self._at = 0

    def structure(self, depth: int) -> dict[int, Any]:
        """The fields of a structure by their numbers."""
        if depth > _DEEPEST:
            raise ValueError("its footer is nested too deeply")
        found: dict[int, Any] = {}
        number = 0
        while header := self._byte():
            number = number + (header >> 4) if header >> 4 else self._integer()
            found[number] = self._value(header & 15, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2):  # a boolean is its type
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._integer()
        if kind == 7:
            return self._bytes(8)
        if kind == 8:
            return self._bytes(self._varint())
        if kind in (9, 10):
            return self._list(depth)
        if kind == 12:
            return self.structure(depth + 1)
        raise TypeError(f"there is no type {kind}")

    def _list(self, depth: int) -> list[Any]:
        header = self._byte()
        count = header >> 4
        if count == 15:
            count = self._varint()
        kind = header & 15
        if kind in (1, 2):
            return list(self._bytes(count))
        return [self._value(kind, depth) for _ in range(count)]

    def _byte(self) -> int:
        return self._bytes(1)[0]

    def _bytes(self, count: int) -> bytes:
        self._at += count
        if self._at > len(self._data):
            raise IndexError("it ends too early")
        return self._data[self._at - count : self._at]

    def _integer(self) -> int:
        number = self._varint()
        return (number >> 1) ^ -(number & 1)

    def _varint(self) -> int:
        number = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
        raise ValueError("its footer has a number that is too long")
