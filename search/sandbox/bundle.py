"""The code of the folder `inside`, sent along with each order: no program sees its files, and none
waits until they are compiled.
"""

from __future__ import annotations

import functools
import marshal
import struct
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).resolve().parent / "inside"
#: what each kind of order needs, in the order of their imports
_MODULES = {
    "function": ("messages", "function", "launch"),
    "program": ("messages", "link", "judge", "launch"),
}

#: Python's command line for all orders: reads modules from its first argument, which is a
#: descriptor, and starts the last of them
STUB = """
import marshal, os, sys
request, reply = map(int, sys.argv[1:])
del sys.argv[1:]
def read(length):
    data = b''
    while len(data) < length:
        data += os.read(request, length - len(data)) or exit()
    return data
new = type(sys)
sys.modules['inside'] = package = new('inside')
package.__path__ = []
for name, code in marshal.loads(read(int.from_bytes(read(4), sys.byteorder))):
    module = new('inside.' + name)
    module.__package__ = 'inside'
    sys.modules[module.__name__] = module
    setattr(package, name, module)
    exec(code, module.__dict__)
module.main(request, reply)
"""


def message(content: dict[str, Any]) -> bytes:
    """What the inside reads as one order: its length, then its content."""
    return _framed(marshal.dumps(content))


@functools.cache
def code(kind: str) -> bytes:
    """What `STUB` reads first, for a kind of order."""
    modules = []
    for name in _MODULES[kind]:
        path = _FOLDER / f"{name}.py"
        source = path.read_text(encoding="utf-8")
        modules.append((name, compile(source, f"inside/{name}.py", "exec", dont_inherit=True)))
    return _framed(marshal.dumps(modules))


def _framed(data: bytes) -> bytes:
    return struct.pack("=I", len(data)) + data
