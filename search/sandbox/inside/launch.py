"""The first thing that runs inside: takes what it may no longer have, and starts what nobody
vetted.

Started with the numbers of two descriptors. From the one it reads its order, JSON behind its
length; into the other it writes a byte once the limits hold, and its reply as JSON at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any, NoReturn

from .messages import read_message

OPEN_FILES = 256  #: descriptors of one process


def main() -> None:
    request, reply = map(int, sys.argv[1:3])
    del sys.argv[1:]
    for descriptor in (request, reply):
        os.set_inheritable(descriptor, False)
    order = read_message(request)
    _become(order["uid"])
    if not order["isolated"]:
        die_with_parent()
    _limit(order)
    sys.path += order["path"]
    os.write(reply, b"+")
    if order["kind"] == "function":
        from . import function

        answer = function.answer(order)
    else:
        from . import judge

        answer = judge.verdict(order, request, reply)
    os.write(reply, json.dumps(answer).encode())
    leave(0)


def leave(code: int) -> NoReturn:
    """End this process at once, but for what it has printed."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def _become(uid: int | None) -> None:
    """Root becomes a user that owns nothing, and loses every capability by that."""
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def die_with_parent() -> None:
    """Without bubblewrap, which does it there: Linux kills this process with the thread that
    started it.
    """
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(1, 9)


def _limit(order: dict[str, Any]) -> None:
    import resource

    limits = {
        "AS": order["memory"], "FSIZE": order["files"], "NPROC": order["processes"],
        "CPU": order["cpu"], "NOFILE": OPEN_FILES, "CORE": 0, "MEMLOCK": 0, "MSGQUEUE": 0,
    }  # fmt: skip
    for name, most in limits.items():
        number = getattr(resource, f"RLIMIT_{name}", None)
        if number is None or most is None:
            continue
        hard = resource.getrlimit(number)[1]
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        try:
            resource.setrlimit(number, (most, most))
        except (ValueError, OSError):
            if order["isolated"]:  # elsewhere some systems have limits that cannot be set
                raise
