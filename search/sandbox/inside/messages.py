"""Inside: how an order is read."""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def read_message(descriptor: int) -> dict[str, Any]:
    """The next message. Raises EOFError where there is none."""
    length = int.from_bytes(_read(descriptor, 4), sys.byteorder)
    return json.loads(_read(descriptor, length))


def _read(descriptor: int, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = os.read(descriptor, length - len(data))
        if not more:
            raise EOFError("the other side is gone")
        data += more
    return data
