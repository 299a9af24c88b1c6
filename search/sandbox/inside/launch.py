"""The first thing that runs inside: takes what it may no longer have, and starts what nobody
vetted.

Started with the numbers of two descriptors. From the one it reads its order; into the other it
writes a byte once the limits hold, and its reply as JSON at the end.
"""

from __future__ import annotations

import os
import sys

from .messages import TYPE_CHECKING, json_of, leave, read_order

if TYPE_CHECKING:
    from typing import Any

OPEN_FILES = 256  #: descriptors of one process


def main(request: int, reply: int) -> None:
    for descriptor in (request, reply):
        os.set_inheritable(descriptor, False)
    order = read_order(request)
    _become(order["uid"])
    if not order["isolated"]:
        _die_with_parent()
    _limit(order)
    sys.path += order["path"]
    os.write(reply, b"+")
    if order["kind"] == "function":
        from . import function

        answer = function.answer(order)
    else:
        from . import judge

        answer = judge.verdict(order, request, reply)
    os.write(reply, json_of(answer))
    leave(0)


def _become(uid: int | None) -> None:
    """Root becomes a user that owns nothing, and loses every capability by that."""
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def _die_with_parent() -> None:
    """Without bubblewrap, which does it there: Linux kills this process with the thread that
    started it.
    """
    try:
        import ctypes

        ctypes.CDLL(None).prctl(1, 9)
    except (ImportError, OSError, AttributeError):
        return


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
